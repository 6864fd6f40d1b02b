"""Add up what releases cost: an accountant of Rényi divergences.

The orders are integers, because the bounds on integer noise and on sampling hold at integer orders.

**Sampling.** Sampling amplifies privacy only against parties that do not know who was sampled. A server that
samples the cohort knows it. Therefore each figure exists both with amplification and without.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from dp._checks import check_delta
from dp._curves import Curve, Orders, clamped, curve
from dp._gaussian import NOTHING, Loss, added, delta_at, epsilon_at, loss
from dp._locks import Turn
from dp._numbers import real, whole
from dp._saved import decode_state, encode_state, fields_of
from dp.errors import DPError
from dp.events import (
    MAX_COUNT,
    MAX_EVENTS,
    Event,
    check_name,
    from_plain,
    to_plain,
    unamplified,
)

Neighbours = Literal["zero-out", "replace-one"]
"""Which two inputs must be hard to tell apart.

- ``"zero-out"``: one update, and zero in its place. If a server adds the noise, this is the same as adding or
  removing the update. A client that adds a share of the noise takes the share along when it stays away, so who
  takes part is public instead.
- ``"replace-one"``: one update, and any other update in its place. Sensitivities are twice those of zero-out.
"""

#: The values of ``Neighbours``.
NEIGHBOURS: tuple[str, ...] = get_args(Neighbours)
#: The orders of Rényi divergence over which ε is minimised.
DEFAULT_ORDERS: Orders = (*range(2, 129), 256, 512, 1024)

_MAX_ORDER = 1 << 12
_FORMAT = "secagg/v1/dp-accountant"
_SETTLED = 1e-12


def epsilon_of(orders: Orders, rdp: Curve, delta: float) -> float:
    """The least ε at ``delta`` that follows from the Rényi divergences ``rdp`` at ``orders``.

    Canonne, Kamath and Steinke (2020), Proposition 12. The result is zero if the Kullback-Leibler divergence,
    which is at most the divergence of any order, already keeps the total variation below ``delta`` (Bretagnolle
    and Huber).
    """
    check_delta(delta)
    if np.any(delta**2 + np.expm1(-rdp) > 0):
        return 0.0
    alpha = np.array(orders, np.float64)
    epsilons = rdp + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(0.0, float(epsilons.min()))


def delta_of(orders: Orders, rdp: Curve, epsilon: float) -> float:
    """The least δ at ``epsilon`` (0 or more) that follows from ``rdp``: the inverse of :func:`epsilon_of`."""
    if not epsilon >= 0:
        raise DPError(f"got epsilon={epsilon!r}; expected 0 or more")
    alpha = np.array(orders, np.float64)
    logs = (alpha - 1) * (rdp - epsilon + np.log1p(-1 / alpha)) - np.log(alpha)
    with np.errstate(divide="ignore"):
        variation = np.log(-np.expm1(-rdp)) / 2
    return float(np.exp(min(0.0, logs.min(), variation.min())))


class _Total(NamedTuple):
    """The composed events and their cost. It is replaced as a whole, so that no thread reads half of a change."""

    events: tuple[tuple[Event, int], ...]
    rdp: Curve
    unamplified: Curve
    clamped: float
    loss: Loss | None  # without sampling, which costs at least as much; None if an event is not nearly Gaussian

    def curve(self, amplified: bool) -> Curve:
        return self.rdp if amplified else self.unamplified


class RDPAccountant:
    """Adds up the Rényi divergences of events, and converts the sum to (ε, δ).

    If all events are Gaussian, discrete Gaussian or sums of discrete Gaussians, ε also follows directly from their
    privacy loss (:mod:`dp._gaussian`), and is usually smaller. The accountant returns the smaller figure.

    - ``delta``: the δ in (0, 1) for calls of :meth:`get_epsilon`, :meth:`epsilon_after` and :meth:`would_exceed`
      that state none. Without it, every such call has to state its own.
    - ``neighbours``: ``"zero-out"`` or ``"replace-one"``.
    - ``orders``: ascending integers from 2 to 4096.

    Raises :class:`DPError` if a field is out of range.
    """

    def __init__(
        self,
        delta: float | None = None,
        *,
        neighbours: Neighbours = "zero-out",
        orders: Iterable[int] = DEFAULT_ORDERS,
    ) -> None:
        check_name("neighbours", neighbours, NEIGHBOURS)
        self._delta = None if delta is None else check_delta(delta)
        self._neighbours: Neighbours = neighbours
        self._orders = tuple(whole(order) or 0 for order in orders)
        if not self._orders or any(not 2 <= order <= _MAX_ORDER for order in self._orders):
            raise DPError(f"got no orders, or some that are not integers; expected integers from 2 to {_MAX_ORDER}")
        if list(self._orders) != sorted(set(self._orders)):
            raise DPError("got orders that repeat or are not ascending; expected each once, the smallest first")
        zeros = np.zeros(len(self._orders))
        self._total = _Total((), zeros, zeros, 0.0, NOTHING)
        self._turn = Turn()

    @property
    def delta(self) -> float | None:
        """The δ for calls that state none; None if every call has to state its own."""
        return self._delta

    @property
    def neighbours(self) -> Neighbours:
        """The neighbouring relation."""
        return self._neighbours

    @property
    def orders(self) -> Orders:
        """The orders at which :attr:`rdp` states divergences."""
        return self._orders

    @property
    def rdp(self) -> Curve:
        """The divergence so far at each order, with amplification by sampling; a copy."""
        return self._total.rdp.copy()

    @property
    def events(self) -> tuple[tuple[Event, int], ...]:
        """The composed events in order, each with its count. Equal events in a row are one entry."""
        return self._total.events

    @property
    def num_releases(self) -> int:
        """The number of composed events, counts included."""
        return sum(count for _, count in self._total.events)

    def compose(self, event: Event, count: int = 1) -> Self:
        """Add ``event``, ``count`` (1 or more) times. An error changes nothing.

        Threads may share an accountant: each event is added as a whole, and none is lost. Raises
        :class:`DPError` for an event whose cost has no known bound under these neighbours.
        """
        count = _count(count)
        cost = self._cost(event, count)
        with self._turn:
            events = self._total.events
            if events and events[-1][0] == event:
                if events[-1][1] + count > MAX_COUNT:
                    raise DPError(f"got one event more than {MAX_COUNT} times; start a new accountant")
                events = (*events[:-1], (event, events[-1][1] + count))
            elif len(events) == MAX_EVENTS:
                raise DPError(f"got more than {MAX_EVENTS} entries of events; start a new accountant")
            else:
                events = (*events, (event, count))
            self._total = _sum(self._total, cost)._replace(events=events)
        return self

    def copy(self) -> Self:
        """An independent accountant that has composed the same events."""
        copied = type(self)(self._delta, neighbours=self._neighbours, orders=self._orders)
        copied._total = self._total
        return copied

    def get_epsilon(self, delta: float | None = None, *, amplified: bool = True) -> float:
        """ε at ``delta``, or ``inf`` if no finite ε is known.

        ``amplified=False`` returns ε against a party that knows who was sampled.
        """
        return self._epsilon(self._total, amplified, delta)

    def get_delta(self, epsilon: float, *, amplified: bool = True) -> float:
        """δ at ``epsilon`` (0 or more), at most 1."""
        total = self._total
        delta = delta_of(self._orders, total.curve(amplified), epsilon)
        return min(1.0, min(delta, delta_at(total.loss, epsilon)) + _both_ways(epsilon, total.clamped))

    def epsilon_after(
        self, event: Event, count: int = 1, *, delta: float | None = None, amplified: bool = True
    ) -> float:
        """The ε that :meth:`get_epsilon` would return after :meth:`compose`; nothing changes."""
        return self._epsilon(_sum(self._total, self._cost(event, count)), amplified, delta)

    def would_exceed(
        self,
        event: Event,
        max_epsilon: float,
        count: int = 1,
        *,
        delta: float | None = None,
        amplified: bool = True,
    ) -> bool:
        """Whether ε would be above ``max_epsilon`` after composing ``event``, ``count`` times; nothing changes."""
        check_epsilon("max_epsilon", max_epsilon)
        return not self.epsilon_after(event, count, delta=delta, amplified=amplified) <= max_epsilon

    def state_dict(self) -> dict[str, Any]:
        """The state, in types that JSON can hold. :meth:`from_state_dict` reads it."""
        return {
            "format": _FORMAT,
            "delta": self._delta,
            "neighbours": self._neighbours,
            "orders": list(self._orders),
            "events": [[to_plain(event), count] for event, count in self._total.events],
        }

    @classmethod
    def from_state_dict(cls, state: object) -> Self:
        """The accountant whose :meth:`state_dict` is ``state``: each event is checked and composed again.

        Raises :class:`DPError` for any other object.
        """
        fields = fields_of(state, _FORMAT, {"delta", "neighbours", "orders", "events"})
        events = fields["events"]
        if not isinstance(fields["orders"], list) or not isinstance(events, list) or len(events) > MAX_EVENTS:
            raise DPError(f"the orders or events are not lists, or there are more than {MAX_EVENTS} events")
        accountant = cls(fields["delta"], neighbours=fields["neighbours"], orders=fields["orders"])
        for entry in events:
            if not isinstance(entry, list) or len(entry) != 2:
                raise DPError("a composed event is not a pair of an event and its count")
            accountant.compose(from_plain(entry[0]), entry[1])
        return accountant

    def to_bytes(self) -> bytes:
        """The state as JSON, after its SHA-256.

        The hash reveals accidents only: anyone who can write these bytes can lower what was spent.
        """
        return encode_state(self.state_dict())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The accountant that :meth:`to_bytes` wrote as ``data``; :class:`DPError` for any other bytes."""
        return cls.from_state_dict(decode_state(data))

    def _cost(self, event: Event, count: int) -> _Total:
        if not isinstance(event, Event):
            raise DPError(f"got a {type(event).__name__}; expected an event of dp.events")
        count = _count(count)
        to_plain(event)  # refuses an event that could not be saved
        plain = unamplified(event)
        return _Total(
            (),
            count * curve(event, self._orders, self._neighbours),
            count * curve(plain, self._orders, self._neighbours),
            count * clamped(event),
            added(NOTHING, loss(plain, self._neighbours), count),
        )

    def _epsilon(self, total: _Total, amplified: bool, delta: float | None) -> float:
        if delta is None and self._delta is None:
            raise DPError("got no delta, here or for the accountant; expected one, such as get_epsilon(1e-5)")
        wanted = check_delta(self._delta if delta is None else delta)
        rdp, slack = total.curve(amplified), total.clamped

        def at(delta: float) -> float:
            renyi = epsilon_of(self._orders, rdp, delta)
            if math.isfinite(renyi) and delta_at(total.loss, renyi) > delta:  # the ε of the loss would be larger
                return renyi
            return min(renyi, epsilon_at(total.loss, delta))

        epsilon = at(wanted)
        # Clamping moves each of the two distributions by at most ``slack`` in total variation. ε only rises here.
        while slack and math.isfinite(epsilon):
            left = wanted - _both_ways(epsilon, slack)
            if left <= 0:
                return math.inf
            after = at(left)
            if after <= epsilon * (1 + _SETTLED):
                return after * (1 + _SETTLED)
            epsilon = after
        return epsilon


def _sum(one: _Total, other: _Total) -> _Total:
    """The cost of both together, with the events of ``one``."""
    return _Total(
        one.events,
        one.rdp + other.rdp,
        one.unamplified + other.unamplified,
        one.clamped + other.clamped,
        added(one.loss, other.loss),
    )


def _both_ways(epsilon: float, variation: float) -> float:
    """How much δ grows if each of the two distributions moves by ``variation``."""
    return (1 + math.exp(min(epsilon, 700.0))) * variation if variation else 0.0


def _count(count: object) -> int:
    checked = whole(count)
    if checked is None or not 1 <= checked <= MAX_COUNT:
        raise DPError(f"got count={count!r}; expected an int from 1 to {MAX_COUNT}")
    return checked


def check_epsilon(name: str, epsilon: object) -> None:
    """:class:`DPError` unless ``epsilon`` is a finite number above 0; ``name`` names it in the error."""
    if not 0 < real(epsilon) < math.inf:
        raise DPError(f"got {name}={epsilon!r}; expected a finite number above 0")

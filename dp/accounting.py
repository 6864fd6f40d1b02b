"""What releases have cost: an accountant of Rényi divergences, and a ledger that refuses to overspend.

Whoever is bound by the budget runs this: a client for what leaves it, a server for what it publishes.
The orders are integers, since that is where the bounds on integer noise and on sampling hold.

**Sampling.** Amplification by sampling counts only against those who don't know who was drawn. A server
that draws the cohort gets none against itself: every figure exists with it and without.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from dp._curves import Curve, Orders, clamped, curve
from dp.errors import DPError
from dp.events import (
    MAX_COUNT,
    MAX_EVENTS,
    TRUSTS,
    UNITS,
    Event,
    Release,
    Trust,
    Unit,
    check_name,
    from_plain,
    to_plain,
    unamplified,
)

Neighbours = Literal["zero-out", "replace-one"]
"""Which two inputs must be hard to tell apart.

- ``"zero-out"``: one update against zero in its place (for sums the same as adding or removing it).
- ``"replace-one"``: one update against any other; sensitivities are twice those of zero-out.
"""

NEIGHBOURS: tuple[str, ...] = get_args(Neighbours)
DEFAULT_ORDERS: Orders = (*range(2, 129), 256, 512, 1024)

_MAX_ORDER = 1 << 12
_MAX_BYTES = 1 << 22
_FORMAT = "secagg/v1/dp-accountant"
_LEDGER_FORMAT = "secagg/v1/dp-ledger"
_SETTLED = 1e-12


class BudgetExceeded(DPError):  # noqa: N818 - what happened, as in Aborted
    """The round would cost more than is left of the budget; nothing was charged."""


def epsilon_of(orders: Orders, rdp: Curve, delta: float) -> float:
    """The least ε at ``delta`` that Rényi divergences ``rdp`` at ``orders`` allow.

    Canonne, Kamath and Steinke (2020), Proposition 12; zero where the Kullback-Leibler divergence, which
    is at most that of any order, already keeps the total variation below ``delta`` (Bretagnolle and Huber).
    """
    _check_delta(delta)
    if np.any(delta**2 + np.expm1(-rdp) > 0):
        return 0.0
    alpha = np.array(orders, np.float64)
    found = rdp + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(0.0, float(found.min()))


def delta_of(orders: Orders, rdp: Curve, epsilon: float) -> float:
    """The least δ at ``epsilon`` (0 or more) that ``rdp`` at ``orders`` allows: :func:`epsilon_of` turned round."""
    if not epsilon >= 0:
        raise DPError(f"got epsilon={epsilon!r}; expected 0 or more")
    alpha = np.array(orders, np.float64)
    logs = (alpha - 1) * (rdp - epsilon + np.log1p(-1 / alpha)) - np.log(alpha)
    with np.errstate(divide="ignore"):
        variation = np.log(-np.expm1(-rdp)) / 2
    return float(np.exp(min(0.0, logs.min(), variation.min())))


class RDPAccountant:
    """Adds up the Rényi divergences of events, and says which (ε, δ) follow.

    - ``delta``: the δ in (0, 1) that :meth:`get_epsilon` and :meth:`would_exceed` take if none is given.
    - ``neighbours``: ``"zero-out"`` or ``"replace-one"``.
    - ``orders``: ascending integers from 2 to 4096.

    Raises :class:`DPError` if a field is out of range.
    """

    def __init__(
        self, delta: float, *, neighbours: Neighbours = "zero-out", orders: Iterable[int] = DEFAULT_ORDERS
    ) -> None:
        _check_delta(delta)
        check_name("neighbours", neighbours, NEIGHBOURS)
        self._delta = float(delta)
        self._neighbours: Neighbours = neighbours
        self._orders = tuple(orders)
        if not self._orders or any(
            type(order) is not int or not 2 <= order <= _MAX_ORDER for order in self._orders
        ):
            raise DPError(f"got orders that are not integers from 2 to {_MAX_ORDER}")
        if list(self._orders) != sorted(set(self._orders)):
            raise DPError("got orders that repeat or don't ascend")
        self._events: list[tuple[Event, int]] = []
        self._rdp = np.zeros(len(self._orders))
        self._unamplified = np.zeros(len(self._orders))
        self._clamped = 0.0

    @property
    def delta(self) -> float:
        """The δ that figures are given at by default."""
        return self._delta

    @property
    def neighbours(self) -> Neighbours:
        """The neighbouring relation."""
        return self._neighbours

    @property
    def orders(self) -> Orders:
        """The orders of :attr:`rdp`."""
        return self._orders

    @property
    def rdp(self) -> Curve:
        """The divergence so far at each order, sampling amplified; a copy."""
        return self._rdp.copy()

    @property
    def events(self) -> tuple[tuple[Event, int], ...]:
        """What was composed, each with its count, in order; equal neighbours are one."""
        return tuple(self._events)

    @property
    def num_releases(self) -> int:
        """How many events were composed, counts included."""
        return sum(count for _, count in self._events)

    def compose(self, event: Event, count: int = 1) -> Self:
        """Add ``event``, ``count`` (1 or more) times. Checked as a whole first: an error changes nothing.

        Raises :class:`DPError` for an event without a known bound under these neighbours.
        """
        rdp, plain, slack = self._cost(event, count)
        if self._events and self._events[-1][0] == event:
            if self._events[-1][1] + count > MAX_COUNT:
                raise DPError(f"got more than {MAX_COUNT} of one event")
            self._events[-1] = (event, self._events[-1][1] + count)
        elif len(self._events) == MAX_EVENTS:
            raise DPError(f"got more than {MAX_EVENTS} changes of event; start a new accountant")
        else:
            self._events.append((event, count))
        self._rdp, self._unamplified = self._rdp + rdp, self._unamplified + plain
        self._clamped += slack
        return self

    def get_epsilon(self, delta: float | None = None, *, amplified: bool = True) -> float:
        """ε at ``delta``; ``amplified=False`` against whoever drew the samples. ``inf`` if there is none."""
        rdp = self._rdp if amplified else self._unamplified
        return self._epsilon(rdp, self._clamped, self._delta if delta is None else delta)

    def get_delta(self, epsilon: float, *, amplified: bool = True) -> float:
        """δ at ``epsilon`` (0 or more), at most 1."""
        delta = delta_of(self._orders, self._rdp if amplified else self._unamplified, epsilon)
        return min(1.0, delta + _both_ways(epsilon, self._clamped))

    def epsilon_after(
        self, event: Event, count: int = 1, *, delta: float | None = None, amplified: bool = True
    ) -> float:
        """What :meth:`get_epsilon` would be after :meth:`compose`; nothing changes."""
        rdp, plain, slack = self._cost(event, count)
        total = self._rdp + rdp if amplified else self._unamplified + plain
        return self._epsilon(total, self._clamped + slack, self._delta if delta is None else delta)

    def would_exceed(
        self,
        event: Event,
        max_epsilon: float,
        count: int = 1,
        *,
        delta: float | None = None,
        amplified: bool = True,
    ) -> bool:
        """Whether composing ``event`` would take ε beyond ``max_epsilon``; nothing changes."""
        _check_epsilon("max_epsilon", max_epsilon)
        return not self.epsilon_after(event, count, delta=delta, amplified=amplified) <= max_epsilon

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`from_state_dict` needs, as JSON can hold it."""
        return {
            "format": _FORMAT,
            "delta": self._delta,
            "neighbours": self._neighbours,
            "orders": list(self._orders),
            "events": [[to_plain(event), count] for event, count in self._events],
        }

    @classmethod
    def from_state_dict(cls, state: object) -> Self:
        """The accountant that :meth:`state_dict` described: every event is checked and composed again."""
        fields = _fields(state, _FORMAT, {"delta", "neighbours", "orders", "events"})
        events = fields["events"]
        if not isinstance(fields["orders"], list) or not isinstance(events, list) or len(events) > MAX_EVENTS:
            raise DPError(f"got orders or events that are no lists, or more than {MAX_EVENTS} events")
        accountant = cls(fields["delta"], neighbours=fields["neighbours"], orders=fields["orders"])
        for entry in events:
            if not isinstance(entry, list) or len(entry) != 2:
                raise DPError("got a composed event that is no pair of event and count")
            accountant.compose(from_plain(entry[0]), entry[1])
        return accountant

    def to_bytes(self) -> bytes:
        """The state as JSON, with a SHA-256 against accident (whoever can write it can lower it)."""
        return _sealed(self.state_dict())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` wrote; :class:`DPError` on any other bytes."""
        return cls.from_state_dict(_unsealed(data))

    def _cost(self, event: Event, count: int) -> tuple[Curve, Curve, float]:
        if not isinstance(event, Event):
            raise DPError(f"got a {type(event).__name__}; expected an event of dp.events")
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise DPError(f"got count={count!r}; expected an int from 1 to {MAX_COUNT}")
        to_plain(event)  # or it could not be saved
        rdp = count * curve(event, self._orders, self._neighbours)
        plain = count * curve(unamplified(event), self._orders, self._neighbours)
        return rdp, plain, count * clamped(event)

    def _epsilon(self, rdp: Curve, slack: float, delta: float) -> float:
        _check_delta(delta)
        epsilon = epsilon_of(self._orders, rdp, delta)
        # Clamping moves each of two neighbours by at most ``slack`` in total variation. ε only rises here.
        while slack and math.isfinite(epsilon):
            left = delta - _both_ways(epsilon, slack)
            if left <= 0:
                return math.inf
            after = epsilon_of(self._orders, rdp, left)
            if after <= epsilon * (1 + _SETTLED):
                return after * (1 + _SETTLED)
            epsilon = after
        return epsilon


@dataclass(frozen=True, slots=True)
class Spent:
    """ε at ``delta`` after ``releases`` releases: ``epsilon`` and, against whoever drew the samples, the other."""

    epsilon: float
    epsilon_against_sampler: float
    delta: float
    releases: int


class PrivacyLedger:
    """A budget of (``epsilon``, ``delta``) for one unit under one trust model; it refuses what would exceed it.

    - ``unit``: ``"record"`` or ``"client"``; ``trust``: ``"local"``, ``"distributed"`` or ``"central"``
      (:data:`dp.events.Trust`). A release of another unit or trust is refused: such figures don't add up.
    - Under ``"central"`` trust the server draws the samples and is trusted, so that ε is the amplified one.
      Under the others it is the adversary, and what is charged is ε against the sampler.

    Charge a release when the masked input leaves, and again for a retry. Raises :class:`DPError` if a
    field is out of range.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        *,
        unit: Unit,
        trust: Trust,
        neighbours: Neighbours = "zero-out",
        orders: Iterable[int] = DEFAULT_ORDERS,
    ) -> None:
        _check_epsilon("epsilon", epsilon)
        check_name("unit", unit, UNITS)
        check_name("trust", trust, TRUSTS)
        self.epsilon = float(epsilon)
        self.unit: Unit = unit
        self.trust: Trust = trust
        self._accountant = RDPAccountant(delta, neighbours=neighbours, orders=orders)

    @property
    def delta(self) -> float:
        """The budget's δ."""
        return self._accountant.delta

    @property
    def neighbours(self) -> Neighbours:
        """The neighbouring relation."""
        return self._accountant.neighbours

    @property
    def spent(self) -> float:
        """The ε charged so far."""
        return self._accountant.get_epsilon(amplified=self._amplified)

    @property
    def left(self) -> float:
        """What is left of ε."""
        return max(0.0, self.epsilon - self.spent)

    def report(self) -> Spent:
        """Both figures, with sampling and without."""
        return Spent(
            self._accountant.get_epsilon(),
            self._accountant.get_epsilon(amplified=False),
            self.delta,
            self._accountant.num_releases,
        )

    def would_exceed(self, release: Release, count: int = 1) -> bool:
        """Whether :meth:`charge` would refuse ``release`` for its cost; nothing changes."""
        return not self._after(release, count) <= self.epsilon

    def charge(self, release: Release, count: int = 1) -> float:
        """Charge ``release``, ``count`` times, and return the ε spent in all.

        Raises :class:`BudgetExceeded` where that would be more than the budget, and :class:`DPError` for
        a release of another unit or trust; nothing is charged then.
        """
        after = self._after(release, count)
        if not after <= self.epsilon:
            spent = self.spent
            raise BudgetExceeded(
                f"got a release that would take epsilon from {spent:.4g} to {after:.4g} (it costs "
                f"{after - spent:.4g}) at delta {self.delta:g}; the budget is {self.epsilon:.4g}, of which "
                f"{self.left:.4g} is left: stop here, or agree on a larger budget"
            )
        self._accountant.compose(release.event, count)
        return after

    def to_bytes(self) -> bytes:
        """The state as JSON, with a SHA-256 against accident."""
        state = {
            "format": _LEDGER_FORMAT,
            "epsilon": self.epsilon,
            "unit": self.unit,
            "trust": self.trust,
            "accountant": self._accountant.state_dict(),
        }
        return _sealed(state)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` wrote; :class:`DPError` on any other bytes."""
        fields = _fields(_unsealed(data), _LEDGER_FORMAT, {"epsilon", "unit", "trust", "accountant"})
        accountant = RDPAccountant.from_state_dict(fields["accountant"])
        ledger = cls(fields["epsilon"], accountant.delta, unit=fields["unit"], trust=fields["trust"])
        ledger._accountant = accountant
        return ledger

    @property
    def _amplified(self) -> bool:
        return self.trust == "central"

    def _after(self, release: Release, count: int) -> float:
        if not isinstance(release, Release):
            raise DPError(f"got a {type(release).__name__}; expected a Release: an event with its unit and trust")
        for what, got, expected in (("unit", release.unit, self.unit), ("trust", release.trust, self.trust)):
            if got != expected:
                raise DPError(
                    f"got a release with {what} {got!r} in a ledger with {what} {expected!r}; such figures don't "
                    "add up: keep a ledger for each"
                )
        return self._accountant.epsilon_after(release.event, count, amplified=self._amplified)


def _both_ways(epsilon: float, variation: float) -> float:
    """What δ grows by when each of two neighbours moves by ``variation``."""
    return (1 + math.exp(min(epsilon, 700.0))) * variation if variation else 0.0


def _check_delta(delta: object) -> None:
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise DPError(f"got delta={delta!r}; expected a number above 0 and below 1, such as 1e-5")


def _check_epsilon(name: str, epsilon: object) -> None:
    number = float(epsilon) if isinstance(epsilon, int | float) and not isinstance(epsilon, bool) else math.nan
    if not 0 < number < math.inf:
        raise DPError(f"got {name}={epsilon!r}; expected a finite number above 0")


def _fields(state: object, label: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(state, Mapping) or state.get("format") != label or set(state) != names | {"format"}:
        raise DPError(f"got a state that is not of the format {label!r} with exactly its fields")
    return state


def _sealed(state: dict[str, Any]) -> bytes:
    body = json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unsealed(data: bytes) -> object:
    if not isinstance(data, bytes) or len(data) > _MAX_BYTES:
        raise DPError(f"got a state that is no bytes, or more than {_MAX_BYTES} of them")
    digest, _, body = data.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise DPError("got a state whose SHA-256 doesn't match: it was cut short or changed")
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DPError("got a state that is no JSON") from error
    return found

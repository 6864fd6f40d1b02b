"""Events: immutable descriptions of what was released, which an accountant can count.

An event describes one use of a mechanism and nothing else; :mod:`dp.accounting` interprets it. An accountant
refuses an event that it does not know, and never guesses. No event is ever removed, and the meaning of an event
never changes, because saved ledgers hold events by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from dp._numbers import real, whole
from dp.errors import DPError

Unit = Literal["record", "client"]
"""What one unit of privacy protects: one record inside a silo, or all data of one client."""

Trust = Literal["local", "distributed", "central"]
"""Who adds the noise, and so who must be trusted with what.

- ``"local"``: each client adds enough noise for itself; it trusts nobody.
- ``"distributed"``: each client adds a share of the noise, and only the sum is private. This needs a number of
  clients that honestly add their shares, and secure aggregation, so that nobody sees less than the sum.
- ``"central"``: the server adds the noise, and is trusted with every update.
"""

#: The values of ``Unit``.
UNITS: tuple[str, ...] = get_args(Unit)
#: The values of ``Trust``.
TRUSTS: tuple[str, ...] = get_args(Trust)

#: How deep events may be nested.
MAX_DEPTH = 8
#: The most events in one event.
MAX_EVENTS = 1 << 12
#: The most repetitions of an event.
MAX_COUNT = 1 << 40
MIN_NORM, MAX_NORM = 1e-75, 1e75  # float64 holds the squares of their ratios


@dataclass(frozen=True, slots=True)
class Event:
    """The base class of all events. Accountants support only the classes in :data:`EVENTS`."""


@dataclass(frozen=True, slots=True)
class GaussianEvent(Event):
    """Continuous Gaussian noise of ``noise_multiplier`` times the l2 sensitivity (zero-out), above 0."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, slots=True)
class PureEvent(Event):
    """Any release that is (``epsilon``, 0)-differentially private (zero-out), such as Laplace noise; above 0."""

    epsilon: float

    def __post_init__(self) -> None:
        _positive(self, "epsilon")


@dataclass(frozen=True, slots=True)
class DiscreteGaussianEvent(Event):
    """Discrete Gaussian noise of parameter ``sigma`` on integers with l2 sensitivity ``l2`` (zero-out).

    One party adds the noise once. A sum of several such noises is a :class:`DistributedGaussianEvent`.
    """

    sigma: float
    l2: float

    def __post_init__(self) -> None:
        _positive(self, "sigma", "l2")


@dataclass(frozen=True, slots=True)
class DistributedGaussianEvent(Event):
    """The sum of ``honest`` discrete Gaussians of parameter ``sigma`` each, on ``dimension`` integers.

    ``l2`` and ``l1`` are the sensitivities (zero-out) of the same integers. ``clamped`` is the probability that
    any term of the round was clamped, and so deviates from the analysis. If ``sigma`` is below 1/2, no bound on a
    sum of several terms is known, and the cost is infinite.
    """

    honest: int
    sigma: float
    l2: float
    l1: float
    dimension: int
    clamped: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "sigma", "l2", "l1")
        _count(self, "honest", "dimension")
        _probability(self, "clamped", zero=True)


@dataclass(frozen=True, slots=True)
class SkellamEvent(Event):
    """Skellam noise of the total ``variance`` on integers. A sum of Skellam noises is Skellam noise.

    ``l2``, ``l1`` and ``clamped`` are as in :class:`DistributedGaussianEvent`.
    """

    variance: float
    l2: float
    l1: float
    clamped: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "variance", "l2", "l1")
        _probability(self, "clamped", zero=True)


@dataclass(frozen=True, slots=True)
class PoissonSampled(Event):
    """``event`` over a secret cohort that includes each client independently with probability ``rate``."""

    rate: float
    event: Event

    def __post_init__(self) -> None:
        _probability(self, "rate", one=True)
        _events(self, (self.event,))


@dataclass(frozen=True, slots=True)
class FixedSizeSampled(Event):
    """``event`` over a secret, uniformly random subset of ``size`` clients out of ``population``."""

    population: int
    size: int
    event: Event

    def __post_init__(self) -> None:
        _count(self, "population", "size")
        if self.size > self.population:
            raise DPError(
                f"got a sample of {self.size} out of {self.population}; expected at most {self.population}"
            )
        _events(self, (self.event,))


@dataclass(frozen=True, slots=True)
class SelfComposed(Event):
    """``event``, ``count`` times."""

    event: Event
    count: int

    def __post_init__(self) -> None:
        _count(self, "count")
        _events(self, (self.event,))


@dataclass(frozen=True, slots=True)
class Composed(Event):
    """All of ``events``, in any order. Each may depend on what the others released."""

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        if type(self.events) is not tuple or len(self.events) > MAX_EVENTS:
            raise DPError(f"the composed events are not a tuple of at most {MAX_EVENTS}")
        _events(self, self.events)


@dataclass(frozen=True, slots=True)
class Release:
    """An ``event``, with the ``unit`` that it protects and the ``trust`` under which it was released.

    The unit is ``"record"`` or ``"client"``; the trust is one of :data:`Trust`.
    """

    event: Event
    unit: Unit
    trust: Trust

    def __post_init__(self) -> None:
        _events(self, (self.event,))
        check_name("unit", self.unit, UNITS)
        check_name("trust", self.trust, TRUSTS)


#: The kinds of events by the name that JSON has for them.
EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        GaussianEvent,
        PureEvent,
        DiscreteGaussianEvent,
        DistributedGaussianEvent,
        SkellamEvent,
        PoissonSampled,
        FixedSizeSampled,
        SelfComposed,
        Composed,
    )
}


def unamplified(event: Event) -> Event:
    """``event`` without sampling, as a party sees it that knows who was sampled."""
    match event:
        case PoissonSampled() | FixedSizeSampled():
            return unamplified(event.event)
        case SelfComposed():
            return SelfComposed(unamplified(event.event), event.count)
        case Composed():
            return Composed(tuple(map(unamplified, event.events)))
        case _:
            return event


def to_plain(event: Event) -> dict[str, Any]:
    """``event`` in types that JSON can hold; :func:`from_plain` reads it."""
    if EVENTS.get(type(event).__name__) is not type(event):
        raise DPError(f"got a {type(event).__name__}, which is unsupported; expected one of {', '.join(EVENTS)}")
    plain: dict[str, Any] = {"kind": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Event):
            plain[field.name] = to_plain(value)
        elif isinstance(value, tuple):
            plain[field.name] = [to_plain(item) for item in value]
        else:
            plain[field.name] = value
    return plain


def from_plain(plain: object, depth: int = 0) -> Event:
    """The event that :func:`to_plain` wrote as ``plain``; :class:`DPError` for any other object.

    ``depth`` is how deep in another event it is: objects that are nested deeper than ``MAX_DEPTH`` are refused.
    """
    if not isinstance(plain, Mapping) or depth > MAX_DEPTH:
        raise DPError(f"an event is not a JSON object, or is nested deeper than {MAX_DEPTH}")
    name = plain.get("kind")
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise DPError(f"got the event {name!r:.60}, which is unsupported; expected one of {', '.join(EVENTS)}")
    values = {key: value for key, value in plain.items() if key != "kind"}
    expected = [field.name for field in fields(kind)]
    if set(values) != set(expected):
        raise DPError(f"got the fields {sorted(values)!r:.200} of {name}; expected exactly {', '.join(expected)}")
    for field in expected:
        value = values[field]
        if isinstance(value, Mapping):
            values[field] = from_plain(value, depth + 1)
        elif isinstance(value, list):
            values[field] = tuple(from_plain(item, depth + 1) for item in value)
    return kind(**values)


def check_name(what: str, value: object, known: tuple[str, ...]) -> None:
    """:class:`DPError` unless ``value`` is one of the ``known`` names; ``what`` names it in the error."""
    if value not in known:
        raise DPError(f"got {what}={value!r}; expected one of {', '.join(known)}")


def _events(owner: object, events: tuple[object, ...]) -> None:
    for event in events:
        if not isinstance(event, Event):
            raise DPError(f"got a {type(event).__name__} in {type(owner).__name__}; expected an event of dp.events")


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        number = real(value)
        if not MIN_NORM <= number <= MAX_NORM:
            raise DPError(f"got {name}={value!r}; expected a number above 0, from {MIN_NORM:g} to {MAX_NORM:g}")
        object.__setattr__(owner, name, number)


def _count(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        number = whole(value)
        if number is None or not 1 <= number <= MAX_COUNT:
            raise DPError(f"got {name}={value!r}; expected an int from 1 to {MAX_COUNT}")
        object.__setattr__(owner, name, number)


def _probability(owner: object, name: str, *, zero: bool = False, one: bool = False) -> None:
    value = getattr(owner, name)
    number = real(value)
    if not (0 < number < 1 or (zero and number == 0) or (one and number == 1)):
        least, most = "[" if zero else "(", "]" if one else ")"
        raise DPError(f"got {name}={value!r}; expected a probability in {least}0, 1{most}")
    object.__setattr__(owner, name, number)

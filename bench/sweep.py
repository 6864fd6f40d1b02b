"""Measures how costs grow: one quantity of a workload varies, the others are fixed, and a power is fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from bench.points import Costs, Playing
from bench.workers import LAST_CPU, LAST_SECONDS, LastRound, last_rounds
from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol


class Over(StrEnum):
    """The quantity that varies."""

    CLIENTS = "clients"
    COORDINATES = "coordinates"
    DROPOUT = "dropout"
    WORKERS = "workers"


#: The workload whose other quantities stay fixed.
HELD = {
    Over.CLIENTS: Workload(clients=8, coordinates=10_000, dropout=0.0),
    Over.COORDINATES: Workload(clients=8, coordinates=1000, dropout=0.0),
    Over.DROPOUT: Workload(clients=100, coordinates=10_000, dropout=0.0),
    Over.WORKERS: Workload(clients=100, coordinates=1_000_000, dropout=0.1),
}
POINTS: Mapping[Over, Sequence[float]] = {
    Over.CLIENTS: (8, 30, 100, 300, 1000, 10_000),
    Over.COORDINATES: (10_000, 100_000, 1_000_000, 10_000_000),
    Over.DROPOUT: (0, 0.05, 0.1, 0.2, 0.3),
    Over.WORKERS: (1, 2, 4),
}

#: The quantities with a curve: the name of a field of :class:`Point`, and its title.
QUANTITIES = {
    "client_seconds": "seconds of a client",
    "server_seconds": "seconds of the server",
    "other_seconds": "seconds of a decryptor or aggregator",
    "bytes_up": "bytes a client sends",
    "client_memory": "peak memory of a client, bytes",
    "server_memory": "peak memory of the server, bytes",
    "other_memory": "peak memory of a decryptor or aggregator, bytes",
    LAST_SECONDS: "seconds of the server's last round",
    LAST_CPU: "seconds of the processor in the server's last round",
}
_FITTED = 3  # a power is fitted to the last three points, where fixed costs weigh least
_NOISE = 0.25  # a greater margin says nothing about growth
_LEAST_MEMORY = 1 << 20  # smaller peaks are noise of the allocator
_TURNS = 5  # of the last round, with each number of workers


@dataclass(frozen=True)
class Point(Costs):
    """The costs of one protocol where the varied quantity has the value ``at``."""

    protocol: str
    at: float


@dataclass(frozen=True)
class Power:
    """A quantity grows as x^``value``. Between neighbouring points the power differs by at most ``margin``."""

    value: float
    margin: float

    @property
    def noise(self) -> bool:
        """Whether the points are too far from one power for the value to mean anything."""
        return self.margin > _NOISE

    def __str__(self) -> str:
        """Value and margin, to two digits."""
        return f"{self.value:.2f} ± {self.margin:.2f}".replace("-0.00", "0.00").replace("-", "−")


@dataclass(frozen=True)
class Sweep:
    """All points of a sweep, and which points were left out, with the reason."""

    over: Over
    held: Workload
    points: tuple[Point | LastRound, ...]
    left_out: tuple[str, ...]

    def curve(self, protocol: str, quantity: str) -> list[tuple[float, float]]:
        """The measured values of ``quantity``, as (x, value), sorted. Memory is at least a byte, for logarithms."""
        mine = [point for point in self.points if point.protocol == protocol]
        values = [(point.at, getattr(point, quantity, None)) for point in mine]
        return sorted(
            (at, max(value, 1) if is_memory(quantity) else value) for at, value in values if value is not None
        )

    def power(self, protocol: str, quantity: str) -> Power | None:
        """The growth of ``quantity`` at the end of its curve. None for fewer than three points above 0."""
        least = _LEAST_MEMORY if is_memory(quantity) else 0
        curve = [(at, value) for at, value in self.curve(protocol, quantity) if at > 0 and value >= least]
        return slope(curve[-_FITTED:])

    @property
    def protocols(self) -> list[str]:
        """The protocols with a point, in the order of the run."""
        return list(dict.fromkeys(point.protocol for point in self.points))


def is_memory(quantity: str) -> bool:
    """Whether ``quantity`` is a peak of memory."""
    return quantity.endswith("memory")


def slope(curve: Sequence[tuple[float, float]]) -> Power | None:
    """The power that fits ``curve`` best, in logarithms. None for fewer than three points.

    Its margin is the greatest difference between this power and the slope between two neighbouring points.
    """
    if len(curve) < _FITTED:
        return None
    x, y = ([math.log(pair[axis]) for pair in curve] for axis in (0, 1))
    centre, height = sum(x) / len(x), sum(y) / len(y)
    width = sum((a - centre) ** 2 for a in x)
    power = sum((a - centre) * (b - height) for a, b in zip(x, y, strict=True)) / width
    steps = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(zip(x, y, strict=True))]
    return Power(power, max(abs(step - power) for step in steps))


def number(at: float) -> str:
    """A value of the varied quantity as text."""
    return f"{at:,.0f}" if at == int(at) else f"{at:.3g}"


def workload_at(over: Over, held: Workload, at: float) -> Workload:
    """``held`` with the varied quantity at ``at``. ``ConfigError`` if that is out of range."""
    match over:
        case Over.CLIENTS:
            return replace(held, clients=int(at))
        case Over.COORDINATES:
            return replace(held, coordinates=int(at))
        case Over.DROPOUT:
            return replace(held, dropout=at)
        case Over.WORKERS:
            return held


def points_of(over: Over, text: str | None) -> list[float]:
    """The points that a command line names, such as ``8,16,32``, sorted. None: the default points."""
    try:
        points = POINTS[over] if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"got --points {text}; expected numbers separated by commas, such as 8,16,32") from error
    least = "at least 0" if over is Over.DROPOUT else "above 0"
    if not all(0 <= at < math.inf for at in points) or (over is not Over.DROPOUT and 0 in points):  # NaN too
        raise ConfigError(f"got --points {text}; expected numbers {least}")
    if over is not Over.DROPOUT and any(at != int(at) for at in points):
        raise ConfigError(f"got --points {text}; expected whole numbers of {over}")
    return sorted(set(points))


class Sweeping:
    """A sweep in progress. :meth:`result` returns the points so far."""

    def __init__(
        self, over: Over, held: Workload, points: Sequence[float], protocols: Mapping[str, AggregationProtocol]
    ) -> None:
        self.over, self.held, self.protocols = over, held, protocols
        self.workloads = [(at, workload_at(over, held, at)) for at in points]
        self._points: list[Point | LastRound] = []
        self._left_out: list[str] = []

    def steps(self, repeats: int) -> int:
        """How often :meth:`run` calls ``step``."""
        if self.over is Over.WORKERS:
            return 2 * len(self.protocols)
        return len(self.workloads) * len(self.protocols) * (repeats + 1)

    def result(self) -> Sweep:
        """The points so far."""
        return Sweep(self.over, self.held, tuple(self._points), tuple(self._left_out))

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Measure every protocol at every point. At each point the protocols take turns.

        A session that is expected to take longer than ``seconds``, or needs more than the free memory, is left out
        and named in the result.
        """
        if self.over is Over.WORKERS:
            counts = [int(at) for at, _ in self.workloads]
            for name, protocol in self.protocols.items():
                self._points += last_rounds(name, protocol, self.held, counts, _TURNS * repeats, step)
            return
        playing = Playing(self.protocols, repeats, seconds, step)
        self._left_out = playing.left_out
        for at, workload in self.workloads:
            costs = playing.at(workload, f"{self.over} {number(at)}")
            self._points += [Point(**one.named(), protocol=name, at=at) for name, one in costs.items()]

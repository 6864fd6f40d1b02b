"""Measures how costs grow: one quantity of a workload varies, the others are fixed, and a power is fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from bench import memory
from bench.measure import Bench, Row
from bench.workloads import Workload, check_memory, memory_free
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol


class Over(StrEnum):
    """The quantity that varies."""

    CLIENTS = "clients"
    COORDINATES = "coordinates"
    DROPOUT = "dropout"


#: The workload whose other quantities stay fixed.
HELD = {
    Over.CLIENTS: Workload(clients=8, coordinates=10_000, dropout=0.0),
    Over.COORDINATES: Workload(clients=8, coordinates=1000, dropout=0.0),
    Over.DROPOUT: Workload(clients=48, coordinates=20_000, dropout=0.0),
}
POINTS: Mapping[Over, Sequence[float]] = {
    Over.CLIENTS: (8, 16, 32, 64, 128),
    Over.COORDINATES: (10_000, 100_000, 1_000_000, 10_000_000),
    Over.DROPOUT: (1 / 48, 2 / 48, 4 / 48, 8 / 48, 15 / 48),
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
}
_FITTED = 3  # a power is fitted to the last three points, where fixed costs weigh least
_NOISE = 0.25  # a greater margin says nothing about growth
_STEEPEST = {Over.CLIENTS: 2.0, Over.COORDINATES: 1.1, Over.DROPOUT: 1.0}  # powers of a session's time
_QUICK = 2.0  # seconds: a shorter session is played twice
_LEAST_MEMORY = 1 << 20  # smaller peaks are noise of the allocator


@dataclass(frozen=True)
class Point:
    """One protocol under one workload: seconds, bytes, and peak memory by kind of party."""

    protocol: str
    at: float
    client_seconds: float
    server_seconds: float
    other_seconds: float | None
    bytes_up: int
    bytes_down: int
    client_memory: int
    server_memory: int
    other_memory: int | None


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
    points: tuple[Point, ...]
    left_out: tuple[str, ...]

    def curve(self, protocol: str, quantity: str) -> list[tuple[float, float]]:
        """The measured values of ``quantity``, as (x, value), sorted. Memory is at least a byte, for logarithms."""
        values = [(point.at, getattr(point, quantity)) for point in self.points if point.protocol == protocol]
        return sorted(
            (at, max(value, 1) if is_memory(quantity) else value) for at, value in values if value is not None
        )

    def power(self, protocol: str, quantity: str) -> Power | None:
        """The growth of ``quantity`` at the end of its curve. None for fewer than three points."""
        least = _LEAST_MEMORY if is_memory(quantity) else 0
        return slope([(at, value) for at, value in self.curve(protocol, quantity) if value >= least][-_FITTED:])

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


def points_of(over: Over, text: str | None) -> list[float]:
    """The points that a command line names, such as ``8,16,32``, sorted. None: the default points."""
    try:
        points = POINTS[over] if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"got --points {text}; expected numbers separated by commas, such as 8,16,32") from error
    if not all(0 < at < math.inf for at in points):  # refuses NaN too
        raise ConfigError(f"got --points {text}; expected numbers above 0, because the axes are logarithmic")
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
        for _, workload in self.workloads:
            check_memory(workload, protocols, memory_free() // 2)  # a second process measures memory
        self._points: list[Point] = []
        self._left_out: list[str] = []
        self._took: dict[str, list[tuple[float, float]]] = {name: [] for name in protocols}

    def result(self) -> Sweep:
        """The points so far."""
        return Sweep(self.over, self.held, tuple(self._points), tuple(self._left_out))

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Measure every protocol at every point. At each point the protocols take turns.

        A session that is expected to take longer than ``seconds`` is left out and named in the result.
        """
        for at, workload in self.workloads:
            names = [name for name in self.protocols if self._affordable(name, at, seconds)]
            bench = Bench(workload, {name: self.protocols[name] for name in names})
            for turn in range(repeats + 1):
                for name in names:
                    step(name, f"{self.over} {number(at)}" if turn else f"{self.over} {number(at)}: warm-up")
                    if not turn:
                        bench.warm(name)
                        continue
                    # Seconds of the parties alone: long-lived keys are generated once a run.
                    took = sum(bench.measure(name).seconds.values())
                    if turn == 1 and took < _QUICK:
                        # The first session of a size also built tables that later ones reuse.
                        bench.forget(name)
                        took = sum(bench.measure(name).seconds.values())
                    self._took[name] = [*self._took[name], (at, took)]
            for name in names:
                step(name, f"{self.over} {number(at)}: memory")
                self._points.append(_point(at, bench.row(name), memory.peaks(name, workload)))

    def _affordable(self, name: str, at: float, seconds: float) -> bool:
        took = self._took[name]
        if not took:
            return True
        growth = (at / took[-1][0]) ** _STEEPEST[self.over]
        expected = took[-1][1] * growth
        if self.over is Over.DROPOUT or expected <= seconds:
            return True
        self._left_out.append(
            f"{name} at {self.over} {number(at)}, because a session would take about {expected:,.0f} s "
            f"(--most-seconds {seconds:g})"
        )
        return False


def _point(at: float, row: Row, peaks: memory.Peaks) -> Point:
    return Point(
        protocol=row.protocol,
        at=at,
        client_seconds=row.client_seconds.median,
        server_seconds=row.server_seconds.median,
        other_seconds=None if row.other_seconds is None else row.other_seconds.median,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
        client_memory=peaks.client,
        server_memory=peaks.server,
        other_memory=peaks.other,
    )

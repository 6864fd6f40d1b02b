"""Workloads: the same updates, the same cohort and the same silent clients for every protocol.

Updates are rounded to the nearest point of the grid. A few lines of NumPy that share no code with the library
therefore compute the exact sum beforehand, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.encoding import Encoding
from secagg.errors import ConfigError
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol
from secagg.table import input_round
from secagg.task import Task

LEAST_CLIENTS, MOST_CLIENTS, MOST_PLAYED = 4, 1 << 24, 1 << 14
MOST_COORDINATES = 1 << 31
CLIP = 1.0

_CORRUPT = 0.33
#: Share of the free memory that a run may need; the rest is for the interpreter, the compiler and other processes.
USABLE = 0.7


@dataclass(frozen=True)
class Workload:
    """One aggregation: ``clients`` updates of ``coordinates`` float32 values, quantized to ``bits`` bits.

    A share of ``dropout`` of the clients sends no input. ``seed`` decides the updates, never a key or a mask.
    ``ConfigError``, with the valid range, for numbers that no protocol can run. :func:`check_memory` checks the
    memory.
    """

    clients: int = 20
    coordinates: int = 100_000
    dropout: float = 0.1
    bits: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _check("clients", self.clients, LEAST_CLIENTS, MOST_CLIENTS)
        _check("coordinates", self.coordinates, 1, MOST_COORDINATES)
        _check("bits", self.bits, 2, 32)
        _check("seed", self.seed, 0, 2**63)
        most = (self.clients - self.floor) / self.clients
        if not 0 <= self.dropout <= 1 or self.gone > self.clients - self.floor:
            raise ConfigError(
                f"got --dropout {self.dropout} of {self.clients} clients, and no sum of fewer than {self.floor} is "
                f"opened; expected 0 to {math.floor(1000 * most) / 1000}"
            )

    @property
    def floor(self) -> int:
        """The least survivors whose sum is opened: what SecAgg needs if a third of the clients is corrupt."""
        return (self.clients + max(1, int(_CORRUPT * self.clients))) // 2 + 1

    @property
    def gone(self) -> int:
        """How many clients fall silent just before their input."""
        return round(self.dropout * self.clients)

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the cohort. All have the same length, so that all clients send the same number of bytes."""
        width = len(str(self.clients))
        return [f"c{number:0{width}}" for number in range(1, self.clients + 1)]

    @cached_property
    def silent(self) -> list[str]:
        """The clients that fall silent, spread over the cohort."""
        return [self.ids[at * self.clients // self.gone] for at in range(self.gone)]

    @property
    def survivors(self) -> list[str]:
        """The clients in the sum, sorted."""
        return sorted(set(self.ids) - set(self.silent))

    @property
    def encoding(self) -> Encoding:
        """Rounding to the nearest point, for a sum that is known beforehand."""
        return FixedPoint(clip=CLIP, bits=self.bits, rounding="nearest")

    @property
    def layout(self) -> Layout:
        """The layout of an update: one array."""
        return Layout.of(np.broadcast_to(np.float32(0), self.coordinates))

    def task(self, protocol: AggregationProtocol) -> Task:
        """The task of this workload under ``protocol``. ``ConfigError`` if the protocol cannot run it."""
        return Task(protocol, self.layout, self.encoding, self.clients, self.floor, context=b"bench")

    def updates(self) -> Mapping[str, Any]:
        """Updates by client, uniform from -1 to 1."""
        rng = np.random.default_rng(self.seed)
        return {client: 2 * rng.random(self.coordinates, np.float32) - 1 for client in self.ids}

    def flat(self, update: Any) -> NDArray[Any]:
        """All values of ``update``, or of a sum or a mean of updates, in one array."""
        return np.asarray(update)

    def dropouts(self, protocol: AggregationProtocol) -> dict[str, str]:
        """The silent clients, each with the round of ``protocol`` that carries inputs."""
        return dict.fromkeys(self.silent, input_round(protocol))


@dataclass(frozen=True)
class Floored(Workload):
    """A workload of which no sum of fewer than ``least`` clients is opened."""

    least: int = 1

    def __post_init__(self) -> None:
        """``ConfigError`` for numbers that no protocol can run."""
        _check("min-survivors", self.least, 1, self.clients)
        super().__post_init__()

    @property
    def floor(self) -> int:
        """The least survivors whose sum is opened."""
        return self.least


@dataclass(frozen=True, eq=False)
class Expected:
    """The exact result of a workload: the sum in steps of the grid, and the mean of the unquantized updates."""

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: float  # steps of the grid in 1.0

    @classmethod
    def of(cls, workload: Workload, updates: Mapping[str, Any]) -> Expected:
        """Add up the survivors' ``updates`` in NumPy."""
        scale = ((1 << (workload.bits - 1)) - 1) / CLIP
        steps = np.zeros(workload.coordinates, np.int64)
        total = np.zeros(workload.coordinates)
        for client in workload.survivors:
            exact = workload.flat(updates[client]).astype(np.float64)
            total += exact
            steps += np.rint(exact * scale).astype(np.int64)
        return cls(steps, total / len(workload.survivors), scale)

    def differs(self, total: NDArray[np.float64]) -> int:
        """The number of coordinates in which ``total``, a sum of floats, is wrong."""
        scaled = np.asarray(total) * self.scale
        steps = np.rint(scaled)
        return int(np.count_nonzero((steps != self.steps) | (np.abs(scaled - steps) >= 1e-3)))


def memory_needed(workload: Workload, protocol: AggregationProtocol) -> int:
    """Estimated bytes of a run with all parties in one process, from the sizes of its messages.

    A client holds its update, the encoding, and its upload twice: in its saved state and in the message. In the
    rounds of keys and shares the server sends on what the clients sent.
    """
    cost = protocol.cost(workload.task(protocol), workload.ids)
    upload = cost.up[input_round(protocol)]
    rest = sum(cost.up.values()) - upload
    each = 8 * workload.coordinates + 2 * upload + 4 * rest
    return workload.clients * each + sum(cost.down.values()) + 128 * workload.coordinates


def estimate(workload: Workload, protocol: AggregationProtocol, usable: int) -> int:
    """As :func:`memory_needed`, which builds messages. For updates that exceed ``usable``, what they alone need."""
    least = workload.clients * 8 * workload.coordinates
    return least if least > usable else memory_needed(workload, protocol)


def check_played(clients: int) -> None:
    """``ConfigError`` for more clients than one process can run, or too few."""
    _check("clients", clients, LEAST_CLIENTS, MOST_PLAYED)


def check_memory(workload: Workload, protocols: Mapping[str, AggregationProtocol], free: int | None = None) -> None:
    """``ConfigError`` for a workload that needs more than the free memory. It says what would fit."""
    check_played(workload.clients)
    usable = int(USABLE * (memory_free() if free is None else free))
    for name, protocol in protocols.items():
        needed = estimate(workload, protocol, usable)
        if needed > usable:
            small = memory_needed(replace(workload, coordinates=1024), protocol)
            each = max(1, memory_needed(replace(workload, coordinates=8192), protocol) - small) / (8192 - 1024)
            most = int((usable - small) / each)
            fitting = f"--coordinates of at most {most:,}, or fewer --clients" if most > 0 else "fewer --clients"
            raise ConfigError(
                f"got {workload.clients} clients of {workload.coordinates:,} coordinates, which need "
                f"{needed / 1e9:.1f} GB under {name}, with {usable / 1e9:.1f} GB available; expected {fitting}"
            )


def memory_free() -> int:
    """Bytes that are available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise ConfigError("MemAvailable is missing from /proc/meminfo; run the benchmarks on Linux")


def _check(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"got --{name} {value}; expected {least:,} to {most:,}")

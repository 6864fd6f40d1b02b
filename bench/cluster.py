"""Reckons a server with workers on other machines: how its work splits, what travels, and where the bottleneck is.

Workers take two kinds of work. Inputs are checked and added up where they arrive, and each worker sends one
partial sum to the server (``Server.receive_all``, ``Server.absorb``). Masks are removed in pieces of up to
:data:`KEYS_IN_PIECE` keys and :data:`LANES_IN_PIECE` coordinates, at most :data:`IN_FLIGHT` at a time, and each
piece comes back as a vector (``mpc.masks.mask_sum``); the opening of ``OneShot`` is split by coordinates. All
else counts as the server's own, the serial part, which no number of workers makes shorter. Workers rebuild secrets
and agree on keys too, so that the serial part of ``SecAgg`` and ``SecAggPlus`` is an upper bound.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from bench import workers
from bench.measure import WARM, play
from bench.rates import ALL_MASKS, VECTOR, VECTORS, Counts, Rates, mask_seconds
from bench.workloads import Workload
from mpc.masks import mask_sum
from secagg import SecAgg
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.task import Task

KEYS_IN_PIECE, LANES_IN_PIECE, IN_FLIGHT = 64, 1 << 18, 32
KEY_BYTES = 33  # a key and its sign
WORD = 4
_FOLDS = "n·d"  # the term of a masked input, which a server hashes and adds up
_TURNS = 5
#: The session whose last round is closed by two worker processes, to be compared with the plan.
CHECKED = Workload(clients=100, coordinates=1_000_000, dropout=0.1)
PROCESSES = 2
#: Small sessions whose saved states show how a state grows.
SMALL = (Workload(clients=12, coordinates=16, dropout=0.0), Workload(clients=36, coordinates=16, dropout=0.0))


@dataclass(frozen=True)
class Cluster:
    """Worker machines beside the server's: how many, cores of each, and bits a second of a machine's link."""

    machines: int
    cores: int
    bandwidth: float

    def __post_init__(self) -> None:
        for name, value, most in (("machines", self.machines, 10_000), ("cores", self.cores, 1024)):
            if not 1 <= value <= most:
                raise ConfigError(f"got --{name} {value}; expected 1 to {most:,}")

    @property
    def workers(self) -> int:
        """All cores of all worker machines."""
        return self.machines * self.cores


@dataclass(frozen=True)
class Overheads:
    """What a result of a worker costs the server: seconds of the processor for a task, and for a byte of it."""

    task_seconds: float
    byte_seconds: float

    def seconds(self, tasks: float, result_bytes: float) -> float:
        """Seconds of one core of the server for ``tasks`` results with ``result_bytes`` in all."""
        return tasks * self.task_seconds + result_bytes * self.byte_seconds


@dataclass(frozen=True)
class Work:
    """Work that is split: core-seconds, the number of results, and bytes to and from all workers."""

    core_seconds: float
    tasks: int
    to_bytes: int
    from_bytes: int

    def seconds(self, lanes: float, overheads: Overheads, bandwidth: float) -> dict[str, float]:
        """Seconds by what may be the bottleneck: the cores, the server's handling of results, its link.

        ``lanes`` cores, one of them the server's own, do the work. A worker writes each result, and the server
        reads it, which takes about as long.
        """
        handling = overheads.seconds(self.tasks, self.from_bytes + self.to_bytes)
        return {
            "cores": (self.core_seconds + 2 * handling) / lanes,
            "results": handling,
            "link": 8 * max(self.from_bytes, self.to_bytes) / bandwidth,  # it carries both ways at once
        }


@dataclass(frozen=True)
class Clustered:
    """One protocol with a cluster. Seconds are on the clock. ``refused`` says why it cannot run."""

    protocol: str
    alone_seconds: float = 0.0  # of one core
    serial_seconds: float = 0.0
    inputs_seconds: float = 0.0
    opening_seconds: float = 0.0
    bottleneck: str = ""
    parts: int = 0  # into which the inputs are divided; more would take longer
    tasks: int = 0
    bytes_to: int = 0
    bytes_from: int = 0
    bytes_in: int = 0  # all clients' messages
    inbound: float = 0.0  # bits a second with which inputs arrive as fast as the workers take them
    refused: str = ""

    @property
    def cluster_seconds(self) -> float:
        """Seconds of the server's work with the cluster."""
        return self.serial_seconds + self.inputs_seconds + self.opening_seconds

    @property
    def most_speedup(self) -> float:
        """Amdahl's bound: how many times as fast any number of workers can make it."""
        return self.alone_seconds / self.serial_seconds if self.serial_seconds else float("inf")


def cluster(
    protocols: Mapping[str, AggregationProtocol],
    rates: Mapping[str, Rates],
    workload: Workload,
    size: Cluster,
    overheads: Overheads,
) -> list[Clustered]:
    """Reckon the server of every protocol with a cluster. For a protocol that cannot run, there is the reason."""
    results = []
    for name, protocol in protocols.items():
        try:
            results.append(_clustered(name, protocol, rates[name], workload, size, overheads))
        except ConfigError as reason:
            results.append(Clustered(name, refused=str(reason)))
    return results


def _clustered(
    name: str, protocol: AggregationProtocol, rates: Rates, workload: Workload, size: Cluster, overheads: Overheads
) -> Clustered:
    task, counts, formula = workload.task(protocol), Counts.of(protocol, workload), rates.formulas["server"]
    by_term = {
        str(term): rate * term.count(counts) for term, rate in zip(formula.terms, formula.rates, strict=True)
    }
    up = sum(protocol.cost(task).up.values())
    sums = WORD * counts.w * counts.d if not counts.s and counts.v == counts.d else counts.v
    state = state_of(protocol, workload)
    folds = by_term.get(_FOLDS, 0.0) + by_term.get(str(VECTORS), 0.0)
    inputs = min(
        (Work(folds, parts, parts * state, parts * (state + sums)) for parts in _parts(size.workers)),
        key=lambda work: max(work.seconds(work.tasks + 1, overheads, size.bandwidth).values()),
    )
    opening = opening_of(task, counts, by_term)
    lanes = min(size.workers, IN_FLIGHT) + 1
    taking = inputs.seconds(inputs.tasks + 1, overheads, size.bandwidth)
    taking["clients' uploads"] = 8 * workload.clients * up / (size.machines * size.bandwidth)
    closing = opening.seconds(lanes, overheads, size.bandwidth) if opening.tasks else {"cores": 0.0}
    alone, split = formula.seconds(counts), inputs.core_seconds + opening.core_seconds
    serial = max(alone - split, 0.0)
    parts = {f"inputs: {what}": seconds for what, seconds in taking.items()}
    parts |= {f"opening: {what}": seconds for what, seconds in closing.items()}
    longest = [max(kind, key=parts.__getitem__) for kind in _by_kind(parts)]
    candidates = {key: parts[key] for key in longest} | {"serial part of the server": serial}
    return Clustered(
        protocol=name,
        alone_seconds=alone,
        serial_seconds=serial,
        inputs_seconds=max(taking.values()),
        opening_seconds=max(closing.values()),
        bottleneck=max(candidates, key=candidates.__getitem__),
        parts=inputs.tasks,
        tasks=inputs.tasks + opening.tasks,
        bytes_to=inputs.to_bytes + opening.to_bytes,
        bytes_from=inputs.from_bytes + opening.from_bytes,
        bytes_in=workload.clients * up,
        inbound=8 * workload.clients * up / taking["cores"] if taking["cores"] else 0.0,
    )


def state_of(protocol: AggregationProtocol, workload: Workload) -> int:
    """About the bytes of the server's saved state as the round of inputs opens, which every part gets and returns.

    It grows with the shares that clients dealt to neighbours, or else with the clients. Two small sessions tell how
    fast; the sums in it are counted apart.
    """
    small, larger = (_state(protocol, one) for one in SMALL)
    x, low, high = (_growing(protocol, one) for one in (workload, *SMALL))
    return round(small + max(larger - small, 0) * (x - low) / (high - low))


@cache
def _state(protocol: AggregationProtocol, workload: Workload) -> int:
    return workers.input_state(protocol, workload)


def _growing(protocol: AggregationProtocol, workload: Workload) -> int:
    counts = Counts.of(protocol, workload)
    return counts.n * max(counts.k, 1)


def _parts(workers: int) -> list[int]:
    """Numbers of parts to choose from: each partial sum that comes back costs the server time."""
    return sorted({workers, *(1 << power for power in range(workers.bit_length()))})


def _by_kind(parts: Mapping[str, float]) -> list[list[str]]:
    return [[key for key in parts if key.startswith(kind)] for kind in ("inputs", "opening")]


def opening_of(task: Task, counts: Counts, by_term: Mapping[str, float]) -> Work:
    """What the server gives to workers in its last round. ``by_term`` are core-seconds by term of its formula.

    A task has a segment for each group of arrays, and one for the number of clients; each is cut by itself.
    """
    protocol, lengths = task.protocol, [segment.length for segment in task.segments]
    ranges = sum(-(-length // LANES_IN_PIECE) for length in lengths)
    if isinstance(protocol, Pairwise):
        removed = masks_removed(counts)
        groups = -(-removed // KEYS_IN_PIECE)
        return Work(
            by_term.get(str(ALL_MASKS), 0.0),
            groups * ranges,
            removed * ranges * KEY_BYTES,
            groups * WORD * counts.w * sum(lengths),
        )
    if isinstance(protocol, OneShotParameters):
        return Work(by_term.get(str(VECTOR), 0.0), ranges, counts.v, 2 * WORD * counts.d)
    return Work(0.0, 0, 0, 0)


def masks_removed(counts: Counts) -> int:
    """The masks in the sum: one of each survivor, and of each silent client one with each surviving neighbour."""
    if counts.n == 1:
        return 1
    return round((counts.n - counts.g) + counts.g * counts.k * (counts.n - counts.g) / (counts.n - 1))


def overheads() -> Overheads:
    """Measure what results of a worker process on this machine cost: of an empty piece, and of a whole one."""
    with processes(1) as pool:
        each = {lanes: _each_result(pool, lanes) for lanes in (1, LANES_IN_PIECE)}
    rest = max(each[LANES_IN_PIECE] - each[1], 0.0)
    return Overheads(each[1], rest / (WORD * LANES_IN_PIECE))


def processes(count: int) -> ProcessPoolExecutor:
    """Worker processes that are started afresh, as those of a cluster are."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def _each_result(pool: Executor, lanes: int) -> float:
    """Seconds of this process, all threads, for a result of so many lanes; the work itself is nothing."""
    taken = []
    total = np.zeros(lanes, np.uint32)
    for turn in range(_TURNS + 1):
        began = time.process_time()
        for one in [pool.submit(mask_sum, [], 0, lanes, "<u4") for _ in range(16)]:
            total += one.result()
        if turn:
            taken.append((time.process_time() - began) / 16)
    return median(taken)


@dataclass(frozen=True)
class CheckedCluster:
    """The last round of a real session on worker processes: pieces and seconds, planned and measured."""

    at: str
    processes: int
    one_seconds: float  # measured, with one worker
    planned: float
    measured: float
    planned_tasks: int
    tasks: int


class _Counting(Executor):
    """Passes work on, and counts the pieces of masks in it."""

    def __init__(self, pool: Executor) -> None:
        self._pool, self.tasks = pool, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``concurrent.futures.Executor``."""
        self.tasks += fn is mask_sum
        return self._pool.submit(fn, *args, **kwargs)


def checked_cluster(
    step: Callable[[str, str], None], overheads: Overheads, each_mask: Callable[[], float] = mask_seconds
) -> CheckedCluster:
    """Close the last round of a real session in this process, and with two worker processes; plan the second.

    The plan has the seconds of one worker as they were measured, divides those of the masks, by their rate, among
    the cores, and adds what the results cost. The pieces that the server gives out are counted too.
    """
    workload, protocol = CHECKED, SecAgg()
    step("SecAgg", f"a session of {workload.clients} clients of {workload.coordinates:,}, for worker processes")
    play(WARM.task(protocol), WARM.updates(), {})
    last = workers.recorded(protocol, workload, workload.updates())
    counts = Counts.of(protocol, workload)
    compute = masks_removed(counts) * counts.d * counts.w * each_mask()
    work = opening_of(last.task, counts, {str(ALL_MASKS): compute})
    here, there, tasks = [], [], 0
    with processes(PROCESSES) as pool:
        for turn in range(_TURNS + 1):
            counting = _Counting(pool)
            one = workers.timed("SecAgg", last, workers.Here())[0]
            two = workers.timed("SecAgg", last, counting)[0]
            tasks = counting.tasks
            if turn:  # the first starts the processes
                here.append(one)
                there.append(two)
    alone = median(here)
    lanes = min(PROCESSES + 1, os.cpu_count() or 1)
    split = work.seconds(lanes, overheads, float("inf"))
    return CheckedCluster(
        at=f"{workload.clients} x {workload.coordinates:,}, {workload.gone} silent",
        processes=PROCESSES,
        one_seconds=alone,
        planned=max(alone - compute, 0.0) + max(split.values()),
        measured=median(there),
        planned_tasks=work.tasks,
        tasks=tasks,
    )

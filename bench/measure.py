"""Measures sessions: each party apart, protocols in turn, medians over repeats, every sum checked.

The library's simulation plays a session and times the calls of each party. The benchmarks count the seconds of the
processor too, because an operator pays for cores.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.workloads import Expected, Workload
from secagg import Outcome, simulation
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol
from secagg.table import rounds
from secagg.task import Task

FLOAT32_BYTES = 4
_FLOAT32 = 2.0**-23  # rounding error of a float32 up to 1
WARM = Workload(clients=5, coordinates=3000, dropout=0.0)


class WrongSum(Exception):  # noqa: N818 - a finding, not a mistake of the caller
    """A protocol or a peer gave a wrong sum, wrong survivors or another wrong answer. It fails the run."""


@dataclass(frozen=True)
class Measured:
    """One session: seconds of the wall clock, seconds of all cores, and bytes sent and received, by party."""

    outcome: simulation.Simulation
    seconds: Mapping[str, float]
    cpu: Mapping[str, float]
    up: Mapping[str, int]
    down: Mapping[str, int]


@dataclass(frozen=True)
class Spread:
    """The median, the least and the greatest of some repeats."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Row:
    """What one protocol costs under a workload. Bytes and seconds of a client are medians over the survivors."""

    protocol: str
    client_seconds: Spread
    server_seconds: Spread
    other_seconds: Spread | None  # the slowest party other than server and clients; None: there is none
    client_cpu: float
    server_cpu: float
    other_cpu: float | None
    others: Mapping[str, int]
    bytes_up: int
    bytes_down: int
    up_per_coordinate: float
    down_per_coordinate: float
    expansion: float  # bytes up over those of float32 in the clear
    client_rounds: int
    all_rounds: int
    largest_error: float  # of the mean, against float64
    dropouts: int  # in this run
    most_dropouts: int  # that the protocol survives in this cohort, with the least min_survivors it accepts
    collusion: str
    post_quantum: bool
    repeats: int


class _Metered(simulation.Session):
    """A simulated session that also counts the seconds of the processor, by party."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.cpu: dict[str, float] = defaultdict(float)

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time()
        try:
            return super().timed(party, name, call, *arguments)
        finally:
            self.cpu[party] += time.process_time() - began


def play(
    task: Task,
    updates: Mapping[str, NDArray[np.float32]],
    dropouts: Mapping[str, str],
    executor: Executor | None = None,
) -> Measured:
    """Play one session of ``task``. The sum is not checked."""
    run = _Metered(task, sorted(updates), dropouts, b"bench", executor=executor)
    outcome = run.run(updates, None)
    return Measured(
        outcome=outcome,
        seconds={party: sum(by_round.values()) for party, by_round in outcome.seconds.items()},
        cpu=dict(run.cpu),
        up={party: sum(by_round.values()) for party, by_round in outcome.bytes_up.items()},
        down={party: sum(by_round.values()) for party, by_round in outcome.bytes_down.items()},
    )


def check(protocol: AggregationProtocol, workload: Workload, expected: Expected, outcome: Outcome) -> None:
    """Raise :class:`WrongSum` unless the survivors, the sum to the last bit, and the mean are right."""
    survivors = sorted(outcome.survivors)
    if survivors != workload.survivors:
        differing = ", ".join(sorted(set(survivors) ^ set(workload.survivors)))
        raise WrongSum(f"{protocol.name}: the survivors are not those of the workload; these differ: {differing}")
    wrong = expected.differs(workload.flat(outcome.sum))
    if wrong:
        raise WrongSum(f"{protocol.name}: {wrong:,} of {workload.coordinates:,} coordinates of the sum are wrong")
    mean = workload.flat(outcome.mean)
    exact = expected.steps / (expected.scale * len(survivors))
    if mean.shape != exact.shape or np.abs(mean - exact).max() > _FLOAT32:
        raise WrongSum(f"{protocol.name}: the mean is not the sum divided by the {len(survivors)} survivors")


class Bench:
    """One workload, and the sessions of each protocol so far.

    The updates are generated once. :meth:`measure` plays one session and checks it. :meth:`rows` covers the
    protocols with at least one session, which an interrupted run prints.
    """

    def __init__(self, workload: Workload, protocols: Mapping[str, AggregationProtocol]) -> None:
        self.workload, self.protocols = workload, protocols
        self.tasks = {name: workload.task(protocol) for name, protocol in protocols.items()}
        self.updates = workload.updates()
        self.expected = Expected.of(workload, self.updates)
        self._sessions: dict[str, list[Measured]] = defaultdict(list)

    def warm(self, name: str) -> None:
        """Compile kernels and generate keys for ``name``: play a small session, check it, and discard it."""
        protocol = self.protocols[name]
        task, updates = WARM.task(protocol), WARM.updates()
        check(protocol, WARM, Expected.of(WARM, updates), play(task, updates, {}).outcome)

    def measure(self, name: str) -> Measured:
        """Play one more session of ``name``. Raises :class:`WrongSum`."""
        protocol = self.protocols[name]
        session = play(self.tasks[name], self.updates, self.workload.dropouts(protocol))
        try:
            check(protocol, self.workload, self.expected, session.outcome)
        except WrongSum:
            self.forget(name)  # a protocol that is right only sometimes has no row
            raise
        self._sessions[name].append(session)
        return session

    def forget(self, name: str) -> None:
        """Discard the sessions of ``name`` so far."""
        self._sessions[name].clear()

    def rows(self) -> list[Row]:
        """A row for each protocol with at least one session, in the order of the protocols."""
        return [self.row(name) for name in self.protocols if self._sessions[name]]

    def row(self, name: str) -> Row:
        """The medians over the sessions of ``name``."""
        protocol, workload, sessions = self.protocols[name], self.workload, self._sessions[name]
        cost = protocol.cost(self.tasks[name], workload.ids)
        others = [party for party in sessions[0].seconds if party not in {*workload.ids, "server"}]
        last = sessions[-1]

        def of_client(what: Callable[[Measured], Mapping[str, float]]) -> list[float]:
            return [median(what(session)[client] for client in workload.survivors) for session in sessions]

        def of_others(what: Callable[[Measured], Mapping[str, float]]) -> list[float]:
            return [max(what(session)[party] for party in others) for session in sessions] if others else []

        up = int(median(last.up[client] for client in workload.survivors))
        down = int(median(last.down[client] for client in workload.survivors))
        slowest = of_others(lambda session: session.seconds)
        return Row(
            protocol=name,
            client_seconds=Spread.of(of_client(lambda session: session.seconds)),
            server_seconds=Spread.of(session.seconds["server"] for session in sessions),
            other_seconds=Spread.of(slowest) if slowest else None,
            client_cpu=median(of_client(lambda session: session.cpu)),
            server_cpu=median(session.cpu["server"] for session in sessions),
            other_cpu=median(of_others(lambda session: session.cpu)) if others else None,
            others={str(role): count for role, count in protocol.party_counts.items()},
            bytes_up=up,
            bytes_down=down,
            up_per_coordinate=up / workload.coordinates,
            down_per_coordinate=down / workload.coordinates,
            expansion=up / (FLOAT32_BYTES * workload.coordinates),
            client_rounds=len(rounds(protocol)),
            all_rounds=len(protocol.phases),
            largest_error=float(np.abs(np.asarray(last.outcome.mean) - self.expected.mean).max()),
            dropouts=workload.gone,
            most_dropouts=most_dropouts(workload, protocol),
            collusion=cost.collusion,
            post_quantum=cost.post_quantum,
            repeats=len(sessions),
        )


def in_turn(
    bench: Bench, repeats: int, seconds: float, step: Callable[[str, str], None] = lambda name, doing: None
) -> bool:
    """Warm up all protocols, then measure them in turn, A B C A B C, ``repeats`` passes.

    A pass is not started if, at the speed of the last one, it would end after ``seconds``. ``step`` is called with
    the name of a protocol and with what happens next to it. Returns whether all passes were completed.
    """
    began = time.perf_counter()
    for name in bench.protocols:
        step(name, "warm-up")
        bench.warm(name)
    took = 0.0
    for number in range(repeats):
        started = time.perf_counter()
        if number and started + took - began > seconds:
            return False
        for name in bench.protocols:
            step(name, f"pass {number + 1} of {repeats}")
            bench.measure(name)
        took = time.perf_counter() - started
    return True


def most_dropouts(workload: Workload, protocol: AggregationProtocol) -> int:
    """How many clients may fall silent before their input, with the least ``min_survivors`` that is accepted."""
    task = workload.task(protocol)
    cohort = workload.ids
    roster = simulation.enrol_for(task, cohort)[1]
    low, high = 1, workload.floor  # the floor of the workload is accepted
    while low < high:
        middle = (low + high) // 2
        try:
            replace(task, min_survivors=middle).check_cohort(cohort, roster)
            high = middle
        except ConfigError:
            low = middle + 1
    return len(cohort) - high


class Timer(Protocol):
    """What can be timed: a :class:`Call`, or work in another process."""

    def seconds(self, times: int = 1) -> float:
        """Seconds of one run, the average over ``times`` runs."""


@dataclass(frozen=True)
class Call:
    """A call to be timed. ``setup``, if there is one, is not timed; ``run`` gets its result."""

    run: Callable[..., Any]
    setup: Callable[[], Any] | None = None

    def seconds(self, times: int = 1) -> float:
        """Seconds of one run, the average over ``times`` runs."""
        took = 0.0
        if self.setup is None:
            began = time.perf_counter()
            for _ in range(times):
                self.run()
            return (time.perf_counter() - began) / times
        for _ in range(times):
            prepared = self.setup()
            began = time.perf_counter()
            self.run(prepared)
            took += time.perf_counter() - began
        return took / times


@dataclass
class Turns:
    """Calls that were timed in turn, A B A B, in one process: seconds of each turn, by name."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, calls: Mapping[str, Timer], repeats: int, most_seconds: float) -> Turns:
        """Warm up all of ``calls``, then time them in turn, ``repeats`` times.

        There are fewer turns, but at least three, if ``repeats`` would take longer than ``most_seconds``. A call
        shorter than a millisecond is repeated within a turn until it lasts one; the turn counts the average. A call
        that takes longer than ``most_seconds`` is made once: its time stands for every turn.
        """
        turns, times, once = cls(), {}, {}
        for name, call in calls.items():
            took = call.seconds()
            if took > most_seconds:
                once[name] = took
            elif took < 1.0:  # a quick first call may have spent its time on compiling
                took = call.seconds()
            times[name] = max(1, int(1e-3 / max(took, 1e-9)))
        began = time.perf_counter()
        for number in range(repeats):
            if number >= 3 and (time.perf_counter() - began) * (1 + 1 / number) > most_seconds:
                break
            for name, call in calls.items():
                turns.seconds[name].append(once[name] if name in once else call.seconds(times[name]))
        return turns

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times as long ``slow`` takes as ``fast``, turn by turn, so that noise affects both alike."""
        return Spread.of(a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True))

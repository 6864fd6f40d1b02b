"""The server's last round on one worker, two, four: the same saved session, closed again and again.

A session is played once. The server is saved as its last round opens, and so are the answers of that round. Then
it is restored with an executor of each number of threads, in turn, takes the answers and opens the sum, which must
be the same to the last bit. The thread that calls the server does tasks too, so it is one of the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.measure import WARM, WrongSum, check, play
from bench.workloads import Expected, Workload, check_memory
from secagg import Outcome, simulation
from secagg.errors import ConfigError
from secagg.identity import Roster
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.table import input_round
from secagg.task import Task

LAST_SECONDS, LAST_CPU = "last_round_seconds", "last_round_cpu_seconds"
MOST_WORKERS = 256


@dataclass(frozen=True)
class LastRound:
    """The server's last round on ``at`` workers: seconds on the clock, and seconds of the processor of all threads.

    Both are medians over the turns.
    """

    protocol: str
    at: float
    last_round_seconds: float
    last_round_cpu_seconds: float


class Here(Executor):
    """Runs each call at once, in the thread that submits it: one worker."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``concurrent.futures.Executor``."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """An executor with which ``count`` threads work: the caller's, and ``count - 1`` others."""
    if count == 1:
        yield Here()
        return
    with ThreadPoolExecutor(count - 1, thread_name_prefix="bench-workers") as pool:
        yield pool


@dataclass(frozen=True)
class Recorded:
    """A session up to its last round: the saved server, and the messages that it then receives."""

    task: Task
    roster: Roster | None
    state: bytes
    answers: Sequence[tuple[str, bytes]]
    outcome: Outcome

    def close(self, executor: Executor) -> Callable[[], Outcome]:
        """The last round of a restored server, ready to be called."""
        server = self.task.restore_server(self.state, roster=self.roster, executor=executor)

        def closed() -> Outcome:
            for party, answer in self.answers:
                server.receive(party, answer)
            server.close_round()
            if server.outcome is None:
                raise WrongSum(f"{self.task.protocol.name}: the last round opened no sum")
            return server.outcome

        return closed


class _Recording(simulation.Session):
    """A simulated session that keeps the server as one round opens, its last by default, and the answers."""

    state, kept = b"", ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.answers: list[tuple[str, bytes]] = []

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """See :meth:`secagg.simulation.Session.timed`."""
        kept = self.kept or self.task.protocol.phases[-1].round
        if party == "server" and name == kept and call == self.server.receive:
            self.state = self.state or self.server.to_bytes()
            self.answers.append((arguments[0], arguments[1]))
        return super().timed(party, name, call, *arguments)


def recorded(protocol: AggregationProtocol, workload: Workload, updates: Mapping[str, Any]) -> Recorded:
    """Play ``workload`` once, check its sum, and keep the last round."""
    task = workload.task(protocol)
    session = _Recording(task, workload.ids, workload.dropouts(protocol), b"bench")
    outcome = session.run(updates, None)
    check(protocol, workload, Expected.of(workload, updates), outcome)
    return Recorded(task, session.roster, session.state, session.answers, outcome)


def input_state(protocol: AggregationProtocol, workload: Workload) -> int:
    """Bytes of the server's saved state as the round of inputs opens, in a real session."""
    session = _Recording(workload.task(protocol), workload.ids, workload.dropouts(protocol), b"bench")
    session.kept = input_round(protocol)
    session.run(workload.updates(), None)
    return len(session.state)


def splits(protocol: AggregationProtocol) -> bool:
    """Whether the server of ``protocol`` gives its last round to an executor."""
    return isinstance(protocol, Pairwise | OneShotParameters)


def check_workers(protocols: Mapping[str, AggregationProtocol], workload: Workload, counts: Sequence[int]) -> None:
    """``ConfigError`` for a protocol whose server has nothing to split, too many workers, or too little memory."""
    whole = [name for name, protocol in protocols.items() if not splits(protocol)]
    if whole:
        raise ConfigError(
            f"got --over workers for {', '.join(whole)}, whose server gives no work to an executor; expected any "
            "of SecAgg, SecAggPlus, OneShot"
        )
    if not all(1 <= count <= MOST_WORKERS for count in counts):
        raise ConfigError(f"got {', '.join(map(str, counts))} workers; expected 1 to {MOST_WORKERS} each")
    check_memory(workload, protocols)


def last_rounds(
    name: str,
    protocol: AggregationProtocol,
    workload: Workload,
    counts: Sequence[int],
    turns: int,
    step: Callable[[str, str], None],
) -> list[LastRound]:
    """Time the last round on each number of workers, in turn. ``WrongSum`` unless all open the same sum."""
    step(name, f"{workload.clients:,} clients of {workload.coordinates:,} coordinates")
    play(WARM.task(protocol), WARM.updates(), {})
    last = recorded(protocol, workload, workload.updates())
    step(name, f"the last round on {', '.join(map(str, counts))} workers")
    clock: dict[int, list[float]] = {count: [] for count in counts}
    cpu: dict[int, list[float]] = {count: [] for count in counts}
    for turn in range(turns + 1):
        for count in counts:
            with workers(count) as executor:
                seconds, of_processor = timed(name, last, executor)
            if turn:  # the first turn warms up
                clock[count].append(seconds)
                cpu[count].append(of_processor)
    return [LastRound(name, count, median(clock[count]), median(cpu[count])) for count in counts]


def timed(name: str, last: Recorded, executor: Executor) -> tuple[float, float]:
    """Seconds on the clock and of this process's threads in one last round, whose sum is compared."""
    closed = last.close(executor)
    cpu, clock = time.process_time(), time.perf_counter()
    outcome = closed()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    if not np.array_equal(np.asarray(outcome.sum), np.asarray(last.outcome.sum)):
        raise WrongSum(f"{name}: the last round opens another sum on another executor")
    return clock, cpu

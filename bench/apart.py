"""Sessions whose measured parties run in processes of their own: seconds, cores and peak memory of each.

Before the first message such a session forks a process for each measured party. Each process plays a small session
first, to load libraries and compile kernels, and then gets the messages of the real session through a pipe. While a
party works, all others wait, so the seconds of its processor are its own, on all its threads.

A peak is the most resident memory during a call, less the resident memory before the first one. It counts the
message that the call got. It does not count the copies that the pipe makes before and after a call.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from bench.measure import WARM, play
from bench.workloads import Workload
from secagg import Outcome, simulation
from secagg.errors import SecAggError
from secagg.protocols.base import AggregationProtocol


class Away:
    """A party in a process of its own. It has the methods and attributes that a session uses."""

    def __init__(self, party: Any, warm: Callable[[], None]) -> None:
        here, there = Pipe()
        self.seconds = self.cpu = 0.0
        self._pid = os.fork()
        if self._pid == 0:
            here.close()
            _serve(there, party, warm)
        there.close()
        self._pipe = here

    def __getattr__(self, name: str) -> Any:
        if name in ("start", "receive", "close_round", "contribute"):
            return lambda *arguments: self._ask(name, arguments)
        return self._ask(name, None)

    def warm(self) -> None:
        """Wait until the party has loaded and compiled everything."""
        self._receive()

    def end(self) -> int:
        """End the process, and return its peak in bytes."""
        peak: int = self._ask("end", ())
        os.waitpid(self._pid, 0)
        return peak

    def _ask(self, name: str, arguments: tuple[Any, ...] | None) -> Any:
        with suppress(BrokenPipeError):  # there is nothing to receive either, which says so in words
            self._pipe.send((name, arguments))
        answer, self.seconds, self.cpu = self._receive()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise SecAggError(
                "the process of a party ended before its session did: it crashed, or the system was out of memory"
            ) from None


def _serve(pipe: Connection, party: Any, warm: Callable[[], None]) -> None:
    """Run a party in a forked process until it is asked to end."""
    try:
        warm()
        before, peak = _status("VmRSS"), 0
        pipe.send(None)
        while True:
            name, arguments = pipe.recv()
            if name == "end":
                pipe.send((max(0, peak - before), 0.0, 0.0))
                break
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
            began, cpu = time.perf_counter(), time.process_time()
            try:
                attribute = getattr(party, name)
                answer = attribute if arguments is None else attribute(*arguments)
            except Exception as error:
                answer = error
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            peak = max(peak, _status("VmHWM"))
            if isinstance(answer, Outcome):
                answer = Outcome(**{field.name: getattr(answer, field.name) for field in fields(Outcome)})
            pipe.send((answer, seconds, cpu))
            attribute = answer = arguments = None  # held until the next message, they would count
    finally:
        os._exit(0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


class Apart(simulation.Session):
    """A session whose server, first surviving clients and first two other parties run in their own processes.

    ``cpu`` has the seconds of the processor of the measured parties, by party and round.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.cpu: dict[str, dict[str, float]] = {party: defaultdict(float) for party in self.seconds}
        self._away: dict[str, Away] = {}

    def part(self, clients: Sequence[str], others: Sequence[str], warm: Callable[[], None]) -> dict[str, Away]:
        """Start the processes of the server, ``clients`` and ``others``, and wait until all are warm."""
        self._away = {party: Away(self.members[party], warm) for party in (*clients, *others)}
        self.members.update(self._away)  # type: ignore[arg-type]
        self._away["server"] = self.server = Away(self.server, warm)  # type: ignore[assignment]
        for one in self._away.values():
            one.warm()
        return self._away

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """As in :class:`secagg.simulation.Session`. A measured party counts its own seconds."""
        away = self._away.get(party)
        if away is None:
            return super().timed(party, name, call, *arguments)
        answer = call(*arguments)
        self.seconds[party][name] += away.seconds
        self.cpu[party][name] += away.cpu
        return answer


def apart(
    protocol: AggregationProtocol, workload: Workload, clients: int, step: Callable[[str], None] | None = None
) -> tuple[Apart, dict[str, Away]]:
    """A session of ``workload`` with its parties started: the server, ``clients`` clients and two other parties.

    The process forks, so it must not have started a thread. ``step`` is called with the name of each round.
    """
    import mpc.kernels  # noqa: F401 - loaded once, before the forks; it starts no thread

    session = Apart(workload.task(protocol), workload.ids, workload.dropouts(protocol), b"bench", progress=step)
    others = [party for party in session.members if party not in workload.ids]

    def warm() -> None:
        play(WARM.task(protocol), WARM.updates(), {})

    return session, session.part(workload.survivors[:clients], others[:2], warm)

"""Measures peak memory by party: each measured party runs in a process of its own.

``python -m bench.memory PROTOCOL CLIENTS COORDINATES DROPOUT BITS`` plays one session in a fresh interpreter.
Before the first message it forks a process for the server, for one client and for at most two other parties. Each
plays a small session of its own, to load libraries and compile kernels, and then gets its messages of the real
session through a pipe. Its peak is the most resident memory from then on, less the resident memory at that moment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from bench.measure import WARM, WrongSum, play
from bench.workloads import Expected, Workload
from secagg import Outcome, simulation
from secagg.errors import SecAggError
from secagg.protocols import chosen
from secagg.protocols.base import AggregationProtocol

_SECONDS = 600
_WRONG = 3  # the exit code of a session with a wrong sum


@dataclass(frozen=True)
class Peaks:
    """Peak bytes of each kind of party. ``other`` is None for a protocol with only clients and a server."""

    client: int
    server: int
    other: int | None


def peaks(protocol: str, workload: Workload) -> Peaks:
    """Peak memory of each kind of party in one session. Raises :class:`WrongSum`; ``SecAggError`` if it failed."""
    arguments = [protocol, *map(str, (workload.clients, workload.coordinates, workload.dropout, workload.bits))]
    try:
        run = subprocess.run(
            [sys.executable, "-m", "bench.memory", *arguments], capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SecAggError(
            f"{protocol}: measuring peak memory took over {_SECONDS} s; sweep over smaller sizes"
        ) from None
    last_line = (run.stderr.strip().splitlines() or ["it printed no error"])[-1]
    if run.returncode == _WRONG:
        raise WrongSum(f"{protocol}: {last_line}")
    if run.returncode:
        raise SecAggError(f"{protocol}: the process that measures memory exited with {run.returncode}: {last_line}")
    return Peaks(**json.loads(run.stdout.splitlines()[-1]))


class _Away:
    """A party in a process of its own. It has the methods and attributes that a session uses."""

    def __init__(self, party: Any, warm: Callable[[], None]) -> None:
        here, there = Pipe()
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
        self._pipe.recv()

    def end(self) -> int:
        """End the process, and return its peak in bytes."""
        peak: int = self._ask("end", ())
        os.waitpid(self._pid, 0)
        return peak

    def _ask(self, name: str, arguments: tuple[Any, ...] | None) -> Any:
        self._pipe.send((name, arguments))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, party: Any, warm: Callable[[], None]) -> None:
    """Run a party in a forked process until it is asked to end."""
    try:
        warm()
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
        pipe.send("warm")
        while True:
            name, arguments = pipe.recv()
            if name == "end":
                pipe.send(_status("VmHWM") - before)
                break
            try:
                attribute = getattr(party, name)
                answer = attribute if arguments is None else attribute(*arguments)
            except Exception as error:
                answer = error
            if isinstance(answer, Outcome):
                answer = Outcome(**{field.name: getattr(answer, field.name) for field in fields(Outcome)})
            pipe.send(answer)
            attribute = answer = arguments = None  # held until the next message, they would count
    finally:
        os._exit(0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


class _Apart(simulation.Session):
    """A session whose server, first surviving client and first two other parties run in their own processes."""

    def part(self, workload: Workload, warm: Callable[[], None]) -> dict[str, _Away]:
        """Start their processes: by ``client``, ``server``, and the ids of the others."""
        client = workload.survivors[0]
        others = [party for party in self.members if party not in workload.ids]
        away = {"server": _Away(self.server, warm)}
        self.server = away["server"]  # type: ignore[assignment]
        for party in (client, *others[:2]):
            away["client" if party == client else party] = self.members[party] = _Away(  # type: ignore[assignment]
                self.members[party], warm
            )
        for one in away.values():
            one.warm()
        return away


def session(protocol: AggregationProtocol, workload: Workload) -> Peaks:
    """Play one session, and measure it. The process forks, so it must not have started a thread."""
    import mpc.kernels  # noqa: F401 - loaded once, before the forks; it starts no thread

    task, updates = workload.task(protocol), workload.updates()
    expected = Expected.of(workload, updates)
    run = _Apart(task, workload.ids, workload.dropouts(protocol), b"bench")

    def warm() -> None:
        play(WARM.task(protocol), WARM.updates(), {})

    away = run.part(workload, warm)
    outcome = run.run(updates, None)
    if expected.differs(outcome.sum) or sorted(outcome.survivors) != workload.survivors:
        raise WrongSum(f"{protocol.name}: the sum or the survivors are wrong")
    bytes_of = {name: party.end() for name, party in away.items()}
    client, server = bytes_of.pop("client"), bytes_of.pop("server")
    return Peaks(client, server, max(bytes_of.values(), default=None))


def main(arguments: list[str]) -> None:
    """Run the subprocess: print the peaks as one line of JSON."""
    name, clients, coordinates, dropout, bits = arguments
    workload = Workload(int(clients), int(coordinates), float(dropout), int(bits))
    try:
        print(json.dumps(session(chosen([name])[name], workload).__dict__))
    except WrongSum as wrong:
        print(wrong, file=sys.stderr)
        raise SystemExit(_WRONG) from None


if __name__ == "__main__":
    main(sys.argv[1:])

"""Measures peak memory by party: each measured party runs in a process of its own.

``python -m bench.memory PROTOCOL CLIENTS COORDINATES DROPOUT BITS`` plays one session in a fresh interpreter, with
the server, one client and at most two other parties apart (:mod:`bench.apart`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from bench.apart import apart
from bench.measure import WrongSum, check
from bench.workloads import Expected, Workload
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


def session(protocol: AggregationProtocol, workload: Workload) -> Peaks:
    """Play one session, and measure it. The process forks, so it must not have started a thread."""
    updates = workload.updates()
    expected = Expected.of(workload, updates)
    run, away = apart(protocol, workload, clients=1)
    check(protocol, workload, expected, run.run(updates, None))
    bytes_of = {party: one.end() for party, one in away.items()}
    client, server = bytes_of.pop(workload.survivors[0]), bytes_of.pop("server")
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

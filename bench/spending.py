"""What the parties of ``bench resnet18`` spend: seconds, cores, bytes and peak memory, by party and round.

``python -m bench.spending PROTOCOL CLIENTS WIDTH DROPOUT BITS SEED`` plays one session in a fresh interpreter, in
which the server, :data:`MEASURED` clients and at most two other parties are apart (:mod:`bench.apart`).
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryFile
from typing import Any

from bench.amounts import duration, size
from bench.apart import apart
from bench.bounds import Bound
from bench.measure import WrongSum, check
from bench.report import Grid, plain
from bench.resnet18 import WIDTH, ResNet18
from bench.workloads import USABLE, Expected, check_played, estimate, memory_free
from secagg.errors import ConfigError, SecAggError
from secagg.protocols import chosen
from secagg.protocols.base import AggregationProtocol
from secagg.table import Round

MEASURED = 3  # clients with a process of their own
#: Protocol → the most seconds of the processor that a client may take, of all cores together.
CLIENT_SECONDS = {"BFV": 0.6, "CKKS": 0.8}
BUSY = 1.5  # the least cores that Paillier's decryptor keeps busy, where there are two
_COLUMNS = (
    "protocol", "client\nCPU", "clock", "sends", "receives", "peak\nmemory", "server\nCPU", "clock",
    "peak\nmemory", "other party\nCPU", "clock", "peak\nmemory",
)  # fmt: skip
_WRONG = 3  # the exit code of a session with a wrong sum


@dataclass(frozen=True)
class Spent:
    """What a party spends in a round: seconds of the wall clock and of all cores, and bytes of messages."""

    seconds: float
    cpu_seconds: float
    bytes_up: float
    bytes_down: float


@dataclass(frozen=True)
class Party:
    """What one kind of party spends: by round, and its peak memory in bytes."""

    rounds: Mapping[str, Spent]
    memory: int

    def all(self, what: str) -> float:
        """The sum over all rounds of a field of :class:`Spent`."""
        return math.fsum(getattr(spent, what) for spent in self.rounds.values())

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Party:
        """The party that was written as JSON."""
        return cls({name: Spent(**spent) for name, spent in data["rounds"].items()}, data["memory"])

    @classmethod
    def middle(cls, parties: Sequence[Party]) -> Party:
        """The medians over some parties, or over some sessions of one."""

        def of(name: str, what: str) -> float:
            return median(float(getattr(party.rounds[name], what)) for party in parties)

        return cls(
            {name: Spent(*(of(name, what) for what in Spent.__annotations__)) for name in parties[0].rounds},
            int(median(party.memory for party in parties)),
        )


@dataclass(frozen=True)
class Row:
    """What a protocol costs. A client is the median of the measured ones, the other party the busiest one."""

    protocol: str
    client_seconds: float
    client_cpu_seconds: float
    client_memory: int
    server_seconds: float
    server_cpu_seconds: float
    server_memory: int
    other_seconds: float | None
    other_cpu_seconds: float | None
    other_memory: int | None
    bytes_up: int
    bytes_down: int
    others: Mapping[str, int]
    parties: Mapping[str, Party]
    repeats: int

    @classmethod
    def of(cls, name: str, protocol: AggregationProtocol, sessions: Sequence[Mapping[str, Party]]) -> Row:
        """The medians over ``sessions``."""
        parties = {kind: Party.middle([session[kind] for session in sessions]) for kind in sessions[0]}
        client, server, other = parties["client"], parties["server"], parties.get("other")
        return cls(
            protocol=name,
            client_seconds=client.all("seconds"),
            client_cpu_seconds=client.all("cpu_seconds"),
            client_memory=client.memory,
            server_seconds=server.all("seconds"),
            server_cpu_seconds=server.all("cpu_seconds"),
            server_memory=server.memory,
            other_seconds=None if other is None else other.all("seconds"),
            other_cpu_seconds=None if other is None else other.all("cpu_seconds"),
            other_memory=None if other is None else other.memory,
            bytes_up=int(client.all("bytes_up")),
            bytes_down=int(client.all("bytes_down")),
            others={str(role): count for role, count in protocol.party_counts.items()},
            parties=parties,
            repeats=len(sessions),
        )


class Measuring:
    """The workload in progress. :attr:`rows` has the protocols with at least one session."""

    def __init__(self, workload: ResNet18, protocols: Mapping[str, AggregationProtocol]) -> None:
        check_played(workload.clients)
        _check_memory(workload, protocols)
        # Paillier takes minutes: an interrupted run should have the others.
        self.protocols = dict(sorted(protocols.items(), key=lambda item: item[0].startswith("Paillier")))
        self.workload = workload
        self._sessions: dict[str, list[dict[str, Party]]] = {name: [] for name in self.protocols}

    @property
    def steps(self) -> int:
        """How often a session of each protocol calls ``step``."""
        return sum(1 + len(protocol.phases) for protocol in self.protocols.values())

    def run(self, repeats: int, step: Callable[[str, str], None]) -> None:
        """Play ``repeats`` sessions of each protocol. ``step`` is called with a protocol and what happens next."""
        for turn in range(repeats):
            for name in self.protocols:
                session = f"session {turn + 1} of {repeats}"
                step(name, f"{session}, warm-up")
                try:
                    self._sessions[name].append(
                        measured(name, self.workload, lambda at: step(name, f"{session}, {at}"))  # noqa: B023
                    )
                except WrongSum:
                    self._sessions[name].clear()  # a protocol that is right only sometimes has no row
                    raise

    @property
    def rows(self) -> list[Row]:
        """A row for each protocol with at least one session."""
        return [Row.of(name, self.protocols[name], of) for name, of in self._sessions.items() if of]


def measured(name: str, workload: ResNet18, step: Callable[[str], None] = lambda doing: None) -> dict[str, Party]:
    """Play one session of the protocol ``name`` in a fresh interpreter; ``step`` gets each round as it opens.

    Returns what the parties spent: ``client``, ``server`` and, where there is one, ``other``. Raises
    :class:`WrongSum`; ``SecAggError`` if the session failed.
    """
    numbers = (workload.clients, workload.width, workload.dropout, workload.bits, workload.seed)
    command = [sys.executable, "-m", "bench.spending", name, *map(str, numbers)]
    last = ""
    with TemporaryFile("w+") as errors:
        # A group of its own, because the parties are processes too, and none may outlive an interrupted run.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as run:
            try:
                for line in run.stdout or ():
                    last = line.strip()
                    if not last.startswith("{"):
                        step(last)
                run.wait()
            except BaseException:
                os.killpg(run.pid, signal.SIGKILL)
                raise
        errors.seek(0)
        reason = (errors.read().strip().splitlines() or ["it printed no error"])[-1]
    if run.returncode == _WRONG:
        raise WrongSum(reason)
    if run.returncode:
        raise SecAggError(f"{name}: the process that plays the session exited with {run.returncode}: {reason}")
    return {kind: Party.of(party) for kind, party in json.loads(last).items()}


def play_apart(
    protocol: AggregationProtocol, workload: ResNet18, step: Callable[[str], None] | None = None
) -> dict[str, Party]:
    """Play one session with its parties in processes of their own, and check it. Raises :class:`WrongSum`."""
    run, away = apart(protocol, workload, MEASURED, step)
    outcome = run.run(workload.updates(), None)
    memory = {party: one.end() for party, one in away.items()}
    check(protocol, workload, Expected.of(workload, workload.updates()), outcome)

    def of(party: str) -> Party:
        spent = {
            name: Spent(
                run.seconds[party].get(name, 0.0),
                run.cpu[party].get(name, 0.0),
                run.up[party].get(name, 0),
                run.down[party].get(name, 0),
            )
            for name in dict.fromkeys([*run.seconds[party], *run.up[party], *run.down[party]])
        }
        return Party(spent, memory[party])

    clients = [party for party in away if party in workload.ids]
    others = [of(party) for party in away if party not in clients and party != "server"]
    parties = {"client": Party.middle([of(party) for party in clients]), "server": of("server")}
    if others:
        parties["other"] = max(others, key=lambda party: party.all("cpu_seconds"))
    return parties


def bounds(rows: Sequence[Row], workload: ResNet18) -> list[Bound]:
    """What the rows are held to; nothing for another shape, cohort or width of a value."""
    if (workload.width, workload.clients, workload.bits) != (WIDTH, 10, 16):
        return []
    by_name = {row.protocol: row for row in rows}
    held = [
        Bound(f"{name}: seconds of the processor of a client", by_name[name].client_cpu_seconds, most=most)
        for name, most in CLIENT_SECONDS.items()
        if name in by_name
    ]
    paillier = by_name.get("Paillier")
    if paillier is not None and (os.cpu_count() or 1) > 1:
        opening = paillier.parties["other"].rounds[Round.OPENING]
        cores = opening.cpu_seconds / opening.seconds
        held.append(Bound("Paillier: cores that the decryptor keeps busy as it opens", cores, least=BUSY))
    return held


def grids(rows: Sequence[Row], workload: ResNet18) -> list[Grid]:
    """The tables: a row for each protocol, and a row for each protocol, party and round."""
    if not rows:
        return []
    cells = [
        (
            row.protocol,
            duration(row.client_cpu_seconds),
            duration(row.client_seconds),
            size(row.bytes_up),
            size(row.bytes_down),
            size(row.client_memory),
            duration(row.server_cpu_seconds),
            duration(row.server_seconds),
            size(row.server_memory),
            *_other(row),
        )
        for row in rows
    ]
    repeats = sorted({row.repeats for row in rows})
    others = [
        f"{row.protocol}: {', '.join(f'{count} {role}' + 's' * (count > 1) for role, count in row.others.items())}"
        for row in rows
        if row.others
    ]
    notes = [
        f"{workload.clients} clients, each with its own update of {workload.coordinates:,} float32 values in "
        f"{len(workload.shapes)} leaves, quantized to {workload.bits} bits; {workload.gone} of them silent just "
        f"before their input. No sum of fewer than {workload.floor} is opened. Every sum was exact, to the last "
        "bit.",
        f"CPU: seconds of the processor in the whole session, on all {os.cpu_count()} cores together. Clock: "
        f"seconds of the wall clock. A client is the median of {MEASURED}. Each of these parties ran in a process "
        f"of its own while all others waited. Sessions of each protocol: {' or '.join(map(str, repeats))}.",
        "Peak memory: the most resident bytes during a call, less those before the first one. A client's has its "
        "update in it, and a server's the mean and the sum.",
        *([f"Other party: the busiest one. {'; '.join(others)}."] if others else []),
    ]
    title = (
        "ResNet-18 through every protocol" if workload.width == WIDTH else f"A ResNet-18 of width {workload.width}"
    )
    by_round = [
        (
            f"{row.protocol}, {kind if kind != 'other' else next(iter(row.others))}",
            name,
            duration(spent.cpu_seconds),
            duration(spent.seconds),
            size(spent.bytes_up),
            size(spent.bytes_down),
        )
        for row in rows
        for kind, party in row.parties.items()
        for name, spent in party.rounds.items()
    ]
    return [
        Grid(title, _COLUMNS, cells, notes),
        Grid("By round", ("party", "round", "CPU", "clock", "sends", "receives"), by_round),
    ]


def _other(row: Row) -> tuple[str, str, str]:
    if row.other_cpu_seconds is None or row.other_seconds is None or row.other_memory is None:
        return "–", "–", "–"
    return duration(row.other_cpu_seconds), duration(row.other_seconds), size(row.other_memory)


def _check_memory(workload: ResNet18, protocols: Mapping[str, AggregationProtocol]) -> None:
    usable = int(USABLE * memory_free())
    for name, protocol in protocols.items():
        needed = estimate(workload, protocol, usable)
        if needed > usable:
            raise ConfigError(
                f"got {workload.clients} clients of a ResNet-18 of width {workload.width}, which need "
                f"{needed / 1e9:.1f} GB under {name}, with {usable / 1e9:.1f} GB available; expected fewer "
                f"--clients, a smaller --width, or --skip {name}"
            )


def main(arguments: Sequence[str]) -> None:
    """Run the subprocess: print the rounds as they open, then what the parties spent as one line of JSON."""
    name, clients, width, dropout, bits, seed = arguments
    workload = ResNet18(int(clients), dropout=float(dropout), bits=int(bits), seed=int(seed), width=int(width))
    try:
        spent = play_apart(chosen([name])[name], workload, lambda doing: print(doing, flush=True))
    except WrongSum as wrong:
        print(wrong, file=sys.stderr)
        raise SystemExit(_WRONG) from None
    print(json.dumps(plain(spent)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Rounds of a thousand to ten thousand clients: what the server and a client spend, and how long all of it takes.

``python -m bench.crowd_round`` plays each round in a process of its own. For the rounds whose server is held to
bounds, the server and one client run in processes of their own, too, so that their memory is theirs alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.amounts import duration, size
from bench.bounds import Bound
from bench.measure import WrongSum
from bench.report import Grid
from secagg.corruption import ThreatModel
from secagg.errors import SecAggError

_SECONDS = 1800
WRONG = 3  # the exit code of a session with a wrong sum


@dataclass(frozen=True)
class Size:
    """One round: a protocol by name and threat model, its size, and the least survivors whose sum is opened."""

    protocol: str
    threat_model: ThreatModel | Literal[""]
    clients: int
    coordinates: int
    dropout: float
    least: int = 0  # 0: what SecAgg needs with a third of the clients corrupt
    apart: bool = False  # the server and a client in processes of their own

    @property
    def what(self) -> str:
        """The round in words."""
        floor = f", opened from {self.least:,} on" if self.least else ""
        kind = f"{self.protocol}, {self.threat_model}" if self.threat_model else self.protocol
        return f"{kind}: {self.clients:,} clients of {self.coordinates:,}, {self.dropout:.0%} silent{floor}"


@dataclass(frozen=True)
class Played:
    """What a round took. ``whole_seconds`` are those of all parties, one after the other, in one process."""

    what: str
    whole_seconds: float
    server_seconds: float
    server_cpu_seconds: float
    client_seconds: float  # of the median survivor
    bytes_up: int
    bytes_down: int
    server_memory: int | None  # None: it was not measured


THOUSAND = Size("SecAggPlus", "semi-honest", 1000, 100_000, 0.1, apart=True)
FULL = (
    THOUSAND,
    Size("SecAggPlus", "semi-honest", 1000, 100_000, 0.1, least=900, apart=True),
    Size("SecAggPlus", "semi-malicious", 2000, 1000, 0.1),
    Size("SecAggPlus", "semi-honest", 10_000, 1000, 0.3),
    Size("OneShot", "", 10_000, 10_000, 0.0),
)
QUICK = (
    Size("SecAggPlus", "semi-honest", 30, 1000, 0.1, apart=True),
    Size("SecAggPlus", "semi-malicious", 30, 1000, 0.1),
    Size("OneShot", "", 30, 1000, 0.0),
)
MOST_SERVER, MOST_MEMORY, MOST_CLIENT = 1.2, 100.0, 15.0  # s, MB and ms, of a thousand clients, on two cores
MOST_WHOLE = 600.0  # seconds, of ten thousand clients


class Measuring:
    """The measurement in progress. ``rounds`` has what was played so far."""

    def __init__(self, sizes: Sequence[Size]) -> None:
        self.sizes = sizes
        self.rounds: list[Played] = []

    def run(self, step: Callable[[str, str], None]) -> None:
        """Play every round."""
        for one in self.sizes:
            step(one.protocol, one.what)
            self.rounds.append(played(one))

    def bounds(self) -> list[Bound]:
        """The bounds that the rounds so far are held to."""
        by_size = dict(zip(self.sizes, self.rounds, strict=False))
        held = []
        for one, it in by_size.items():
            if one == THOUSAND and it.server_memory is not None:
                held += [
                    Bound("1,000 clients: seconds of the server", it.server_seconds, most=MOST_SERVER),
                    Bound("1,000 clients: MB of the server at its peak", it.server_memory / 1e6, most=MOST_MEMORY),
                    Bound("1,000 clients: milliseconds of a client", 1e3 * it.client_seconds, most=MOST_CLIENT),
                ]
            if one.clients >= 10_000:
                held.append(Bound(f"seconds of all parties, {one.what}", it.whole_seconds, most=MOST_WHOLE))
        return held


def played(one: Size) -> Played:
    """Play a round in a process of its own. :class:`WrongSum`; ``SecAggError`` if the process failed."""
    command = [sys.executable, "-m", "bench.crowd_round", json.dumps(asdict(one))]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise SecAggError(f"{one.what}: the round took over {_SECONDS} s") from None
    last_line = (run.stderr.strip().splitlines() or ["it printed no error"])[-1]
    if run.returncode == WRONG:
        raise WrongSum(f"{one.what}: {last_line}")
    if run.returncode:
        raise SecAggError(f"{one.what}: the process exited with {run.returncode}: {last_line}")
    figures: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return Played(what=one.what, **figures)


def crowd_grid(rounds: Sequence[Played], processor: str) -> Grid:
    """The table: a row for each round."""
    columns = (
        "round", "all parties", "server", "CPU", "peak memory", "a client", "client\nsends", "receives"
    )  # fmt: skip
    rows = [
        (
            one.what,
            duration(one.whole_seconds),
            duration(one.server_seconds),
            duration(one.server_cpu_seconds),
            "–" if one.server_memory is None else size(one.server_memory),
            duration(one.client_seconds),
            size(one.bytes_up),
            size(one.bytes_down),
        )
        for one in rounds
    ]
    note = (
        f"One session each, on {processor}; every sum was exact. All parties work one after the other. Seconds of "
        "the server and of the median surviving client are on the clock, over all rounds of the session; CPU "
        "counts all threads of the server. Peak memory of the server: resident bytes, less those of an idle one."
    )
    return Grid("Large cohorts", columns, rows, [note], words=(0,))

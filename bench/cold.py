"""A first session in a new process: seconds of the processor, and how many kernels it compiles.

:mod:`bench.first_session` plays it. :class:`Measuring` runs that twice for each protocol: with an empty folder as
Numba's cache, and with what the first run left there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.amounts import duration
from bench.bounds import Bound
from bench.first_session import CLIENTS, COORDINATES, GAUSSIAN
from bench.report import Grid
from secagg.errors import ConfigError, SecAggError

PROTOCOLS = ("SecAgg", "SecAggPlus", "AdditiveShares", "OneShot", "Paillier", "BFV", "CKKS")
MOST_COLD = {"SecAgg": 3.0, "BFV": 5.0, "Paillier": 5.0, GAUSSIAN: 5.0}  # seconds of the processor
MOST_WARM, MOST_IMPORT = 0.7, 0.3
_SECONDS = 300


@dataclass(frozen=True)
class First:
    """A first session of a process: seconds of the processor from the start of Python on, and compilations."""

    what: str
    cache: str  # "empty" or "warm"
    import_cpu_seconds: float
    session_cpu_seconds: float
    whole_cpu_seconds: float  # of the process from its start to its end, all threads
    compiled: int


def known(names: Sequence[str]) -> list[str]:
    """What ``names`` of the command line measure; without names, everything. ``ConfigError`` for an unknown one."""
    everything = [*PROTOCOLS, GAUSSIAN]
    if unknown := sorted(set(names) - set(everything)):
        raise ConfigError(f"got --session {', '.join(unknown)}; expected any of {', '.join(everything)}")
    return [one for one in everything if not names or one in names]


def child(what: str, cache: Path) -> First:
    """Play the first session of ``what`` in a new process whose cache is ``cache``."""
    state = "warm" if any(cache.rglob("*.nbi")) else "empty"
    # A container writes compiled Python once, too, so the processes may write theirs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["NUMBA_CACHE_DIR"] = str(cache)
    before = _children()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "bench.first_session", what],
            env=environment, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SecAggError(f"{what}: a first session took over {_SECONDS} s") from None
    if run.returncode:
        last_line = (run.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise SecAggError(f"{what}: the process exited with {run.returncode}: {last_line}")
    return First(what=what, cache=state, whole_cpu_seconds=_children() - before, **json.loads(run.stdout))


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


class Measuring:
    """The measurement in progress. ``firsts`` has the sessions so far."""

    def __init__(self, what: Sequence[str], repeats: int) -> None:
        self.what, self.repeats = what, repeats
        self.firsts: list[First] = []

    @property
    def steps(self) -> int:
        """How often :meth:`run` calls ``step``."""
        return 2 * len(self.what) * self.repeats

    def run(self, step: Callable[[str, str], None]) -> None:
        """Play every first session, with an empty cache and then with the one that it filled."""
        with tempfile.TemporaryDirectory(prefix="secagg-bench-cache-") as folder:
            child(self.what[0], Path(folder))  # compiles Python's own modules, which no turn counts
        for turn in range(self.repeats):
            for what in self.what:
                with tempfile.TemporaryDirectory(prefix="secagg-bench-cache-") as folder:
                    for state in ("empty", "warm"):
                        step(what, f"{state} cache, turn {turn + 1} of {self.repeats}")
                        self.firsts.append(child(what, Path(folder)))

    def best(self) -> list[First]:
        """Of each session and state of the cache, the turn with the fewest seconds of the session."""
        by_place: dict[tuple[str, str], First] = {}
        for one in sorted(self.firsts, key=lambda one: -one.session_cpu_seconds):
            by_place[one.what, one.cache] = one
        return [
            by_place[what, state] for what in self.what for state in ("empty", "warm") if (what, state) in by_place
        ]

    def bounds(self) -> list[Bound]:
        """The bounds that the sessions so far are held to."""
        best, held = self.best(), []
        for one in best:
            most = MOST_WARM if one.cache == "warm" else MOST_COLD.get(one.what)
            if most is not None:
                what = f"seconds of a first session of {one.what}, {one.cache} cache"
                held.append(Bound(what, one.session_cpu_seconds, most=most))
        if best:
            least = min(one.import_cpu_seconds for one in best)
            held.append(Bound("seconds of import secagg", least, most=MOST_IMPORT))
        return held


def cold_grid(firsts: Sequence[First], processor: str) -> Grid:
    """The table: a row for each session and state of the cache."""
    rows = [
        (
            one.what,
            one.cache,
            duration(one.import_cpu_seconds),
            duration(one.session_cpu_seconds),
            duration(one.whole_cpu_seconds),
            str(one.compiled),
        )
        for one in firsts
    ]
    note = (
        f"The first session of a process, with {CLIENTS} clients of {COORDINATES:,} coordinates, on {processor}. "
        "Seconds of the processor, on all threads: import secagg, the session, and the whole process with the "
        "start of Python. Compiled: functions that Numba compiled for types, those that others call included; "
        "from a warm cache it loads them."
    )
    columns = ("session", "cache", "import", "first session", "whole process", "compiled")
    return Grid("From a cold start", columns, rows, [note])

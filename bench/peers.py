"""Compares other people's code with ours on the same work: A B A B in one process, medians with their spread.

``peer_calls`` lists the comparisons; ``docs/benchmarks.md`` says what each leaves out. A ratio supports a claim
only if its whole spread does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from statistics import median
from typing import Any

from bench.amounts import duration, size
from bench.measure import Call, Spread, Turns, WrongSum
from bench.report import Grid
from secagg.errors import ConfigError


class Absent(Exception):  # noqa: N818 - a finding that is reported
    """A comparison that is not possible here, with the reason."""


@dataclass(frozen=True)
class Peer:
    """Another package: its name in the index, and the module that shows that it is installed."""

    name: str
    module: str

    @property
    def version(self) -> str | None:
        """The installed version, or None if the package is not installed."""
        if find_spec(self.module.partition(".")[0]) is None:
            return None
        try:
            return version(self.name)
        except PackageNotFoundError:
            return "of unknown version"


@dataclass(frozen=True)
class Part:
    """A part of the work of one side: its seconds, or the bytes of a message, of one unit of the work."""

    side: str
    what: str
    seconds: float | None = None
    bytes: float | None = None


class Laps:
    """Seconds of the named parts of a call, one total for each run of the call."""

    def __init__(self) -> None:
        self._runs: list[dict[str, float]] = []

    def start(self) -> None:
        """Begin another run."""
        self._runs.append(defaultdict(float))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the body to the part ``name`` of the current run."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add ``seconds`` to the part ``name`` of the current run."""
        self._runs[-1][name] += seconds

    def parts(self, side: str, units: int) -> list[Part]:
        """The median of each part over the runs, for one of ``units`` units of work."""
        return [
            Part(side, name, median(run[name] for run in self._runs) / units)
            for name in (self._runs[0] if self._runs else ())
        ]


@dataclass(frozen=True)
class Pair:
    """Both sides of a comparison, ready to be called. A call of ``theirs`` does ``their_units`` units of work.

    ``their_bytes`` and ``our_bytes`` are of one unit, if the work produces a message. ``parts``, called after the
    last turn, says how the work divides. Both sides have been checked to give the right answer.
    """

    theirs: Call
    ours: Call
    their_units: int = 1
    our_units: int = 1
    their_bytes: float | None = None
    our_bytes: float | None = None
    parts: Callable[[], Iterable[Part]] = tuple


@dataclass(frozen=True)
class Comparison:
    """Work that a peer does too, and what our documents claim about it.

    ``claim``: ours is at least so many times as fast. ``most_bytes``: ours sends at most this share of their bytes.
    """

    work: str
    unit: str
    peer: Peer
    build: Callable[[], Pair]
    claim: float | None = None
    most_bytes: float | None = None


@dataclass(frozen=True)
class Compared:
    """The result of a comparison: seconds per unit, and how many times as long theirs took."""

    work: str
    unit: str
    peer: str
    peer_version: str
    theirs: Spread
    ours: Spread
    ratio: Spread
    their_bytes: float | None
    our_bytes: float | None
    claim: float | None
    verdict: str
    turns: int
    most_bytes: float | None
    bytes_verdict: str
    parts: Sequence[Part]


def verdict(ratio: Spread, claim: float | None) -> str:
    """Whether ``ratio`` supports the claim that it is at least ``claim``; empty without a claim."""
    if claim is None:
        return ""
    if ratio.least >= claim:
        return "holds"
    return "fails" if ratio.most < claim else "not supported: the spread crosses it"


def bytes_verdict(pair: Pair, most: float | None) -> str:
    """Whether ours sends at most the share ``most`` of their bytes; empty without a claim."""
    if most is None:
        return ""
    if not pair.their_bytes or pair.our_bytes is None:
        raise ConfigError("the comparison claims a share of the peer's bytes, but it counts no bytes of both sides")
    return "holds" if pair.our_bytes <= most * pair.their_bytes else "fails"


def compare(comparison: Comparison, repeats: int, seconds: float) -> Compared:
    """Make one comparison. Raises :class:`Absent`, or :class:`WrongSum` if a side gives a wrong answer."""
    installed = comparison.peer.version
    if installed is None:
        raise Absent(f"{comparison.peer.name} is not installed: pip install {comparison.peer.name}")
    pair = comparison.build()
    units = {"theirs": pair.their_units, "ours": pair.our_units}
    taken = Turns.of({"theirs": pair.theirs, "ours": pair.ours}, repeats, seconds).seconds
    turns = Turns({name: [each / units[name] for each in times] for name, times in taken.items()})
    ratio = turns.ratio("theirs", "ours")
    return Compared(
        work=comparison.work,
        unit=comparison.unit,
        peer=comparison.peer.name,
        peer_version=installed,
        theirs=Spread.of(turns.seconds["theirs"]),
        ours=Spread.of(turns.seconds["ours"]),
        ratio=ratio,
        their_bytes=pair.their_bytes,
        our_bytes=pair.our_bytes,
        claim=comparison.claim,
        verdict=verdict(ratio, comparison.claim),
        turns=len(turns.seconds["ours"]),
        most_bytes=comparison.most_bytes,
        bytes_verdict=bytes_verdict(pair, comparison.most_bytes),
        parts=list(pair.parts()),
    )


class Comparing:
    """All comparisons, one after the other. The results so far are in ``compared`` and ``absent``."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self.comparisons = comparisons
        self.compared: list[Compared] = []
        self.absent: dict[str, str] = {}

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Make the comparisons. ``absent`` gets the reason for each that is not possible."""
        for comparison in self.comparisons:
            step(comparison.peer.name, comparison.work)
            try:
                self.compared.append(compare(comparison, repeats, seconds))
            except Absent as reason:
                self.absent[f"{comparison.peer.name}, {comparison.work}"] = str(reason)
            except ImportError as moved:
                self.absent[f"{comparison.peer.name}, {comparison.work}"] = f"another version is installed: {moved}"


def selected(comparisons: Sequence[Comparison], names: Sequence[str]) -> list[Comparison]:
    """The comparisons with the named peers; without names, all. ``ConfigError`` for an unknown name."""
    known = sorted({comparison.peer.name for comparison in comparisons})
    if unknown := sorted(set(names) - set(known)):
        several = "; for several, repeat --peer" if any("," in name for name in unknown) else ""
        raise ConfigError(f"got --peer {', '.join(unknown)}; expected one of {', '.join(known)}{several}")
    return [comparison for comparison in comparisons if not names or comparison.peer.name in names]


def peers_grid(compared: Sequence[Compared], absent: Mapping[str, str]) -> Grid:
    """The table of ``bench peers``: a row per comparison, and the missing ones below."""
    columns = ("work", "peer", "theirs", "ours", "times as fast", "from – to", "bytes theirs", "ours", "claim", "")
    rows = [
        (
            f"{one.work}, per {one.unit}",
            f"{one.peer} {one.peer_version}",
            duration(one.theirs.median),
            duration(one.ours.median),
            times(one.ratio.median),
            f"{times(one.ratio.least)} – {times(one.ratio.most)}",
            "" if one.their_bytes is None else size_of(one.their_bytes),
            "" if one.our_bytes is None else size_of(one.our_bytes),
            ", ".join(claim for claim, _ in claims(one)),
            ", ".join(holds for _, holds in claims(one)),
        )
        for one in compared
    ]
    turns = sorted({one.turns for one in compared})
    missing: dict[str, list[str]] = defaultdict(list)
    for work, reason in absent.items():
        missing[reason].append(work)
    notes = [
        "Seconds and bytes are of one unit of the work. Theirs and ours ran in turn in one process, "
        f"{' or '.join(map(str, turns))} times after a warm-up; a call longer than --seconds ran once. The figures "
        "are medians, with the least and the greatest ratio of any turn. A claim holds only if every turn "
        "supports it.",
        *(f"Not compared: {'; '.join(works)}: {reason}." for reason, works in missing.items()),
    ]
    return Grid("Compared with peers", columns, rows, notes)


def claims(one: Compared) -> list[tuple[str, str]]:
    """What our documents claim of a comparison, each with its verdict: a speed, or a share of the bytes."""
    speed = [] if one.claim is None else [(f"≥ {one.claim:g}", one.verdict)]
    share = [] if one.most_bytes is None else [(f"≤ {one.most_bytes:g} of the bytes", one.bytes_verdict)]
    return speed + share


def missed_bytes(compared: Iterable[Compared]) -> list[str]:
    """The comparisons in which ours sends more than the claimed share of the peer's bytes."""
    return [f"{one.peer}, {one.work}" for one in compared if one.bytes_verdict == "fails"]


def parts_grid(compared: Sequence[Compared]) -> Grid:
    """The parts of each comparison that says how its work divides: a row per side."""
    rows = [
        (f"{one.work}, per {one.unit}", one.peer if side == "theirs" else "secagg", *parts_text(one.parts, side))
        for one in compared
        if one.parts
        for side in ("theirs", "ours")
    ]
    return Grid("What the work consists of", ("work", "whose", "seconds", "bytes"), rows, words=(2, 3))


def parts_text(parts: Iterable[Part], side: str) -> tuple[str, str]:
    """The parts of one side as text: those with seconds, and those with bytes."""
    own = [part for part in parts if part.side == side]
    seconds = [f"{part.what} {duration(part.seconds)}" for part in own if part.seconds is not None]
    sizes = [f"{part.what} {size_of(part.bytes)}" for part in own if part.bytes is not None]
    return ", ".join(seconds), ", ".join(sizes)


def times(ratio: float) -> str:
    """A ratio as text."""
    return f"{ratio:,.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def size_of(value: float) -> str:
    """Bytes of a unit as text; they may be a fraction of a byte."""
    return f"{value:.3g} B" if value < 1000 else size(value)


def require(right: Any, what: str) -> None:
    """Raise :class:`WrongSum` unless ``right``, so that no figure of a wrong answer is printed."""
    if not right:
        raise WrongSum(f"{what} gave a wrong answer")

"""Compares other people's code with ours on the same work: A B A B in one process, medians with their spread.

``peer_calls`` lists the comparisons; ``docs/benchmarks.md`` says what each leaves out. A ratio supports a claim
only if its whole spread does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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
class Pair:
    """Both sides of a comparison, ready to be called. A call of ``theirs`` does ``their_units`` units of work.

    ``their_bytes`` and ``our_bytes`` are of one unit, if the work produces a message. Both sides have been checked
    to give the right answer.
    """

    theirs: Call
    ours: Call
    their_units: int = 1
    our_units: int = 1
    their_bytes: float | None = None
    our_bytes: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Work that a peer does too. ``claim``: our documents say that ours is at least so many times as fast."""

    work: str
    unit: str
    peer: Peer
    build: Callable[[], Pair]
    claim: float | None = None


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


def verdict(ratio: Spread, claim: float | None) -> str:
    """Whether ``ratio`` supports the claim that it is at least ``claim``; empty without a claim."""
    if claim is None:
        return ""
    if ratio.least >= claim:
        return "holds"
    return "fails" if ratio.most < claim else "not supported: the spread crosses it"


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
            "" if one.claim is None else f"≥ {one.claim:g}",
            one.verdict,
        )
        for one in compared
    ]
    turns = sorted({one.turns for one in compared})
    notes = [
        "Seconds and bytes are of one unit of the work. Theirs and ours ran in turn in one process, "
        f"{' or '.join(map(str, turns))} times after a warm-up; a call longer than --seconds ran once. The figures "
        "are medians, with the least and the greatest ratio of any turn. A claim holds only if every turn "
        "supports it.",
        *(f"Not compared: {work}: {reason}." for work, reason in absent.items()),
    ]
    return Grid("Compared with peers", columns, rows, notes)


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

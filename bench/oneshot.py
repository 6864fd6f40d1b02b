"""OneShot on one core: whole clients, members and servers against SecAgg's, and bytes, openings and memory.

Both protocols play whole sessions of :data:`CLIENTS` clients with :data:`SILENT` silent ones, in turn, over the
same updates. Every sum is checked to the last bit. Seconds are of the thread that calls a party, in which all its
work runs, and each party does the work of a round in a row. Openings are timed apart, for several numbers of
clients, in turn with encryption. Peaks of memory are of processes of their own, with few clients and with four
times as many.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import memory
from bench.amounts import duration, size
from bench.bounds import Bound
from bench.kahe_calls import LEAST_RATE, LEAST_RATE_WITHOUT_IFMA, MOST_OPENING
from bench.measure import Spread, Turns
from bench.oneshot_calls import (
    BITS,
    CORRUPT,
    COUNTS,
    ENCRYPT,
    FOLD,
    MEMBERS,
    Cpu,
    Large,
    Upload,
    opening_calls,
    opening_of,
    play,
    protocol,
    upload,
)
from bench.report import Grid
from bench.ring import arithmetic, one_core
from bench.workloads import Expected, Workload, check_memory
from secagg import OneShot, SecAgg
from secagg.protocols.base import AggregationProtocol
from secagg.table import Round

ONESHOT, SECAGG, HASH = "OneShot", "SecAgg", "hash"
COORDINATES, CLIENTS, SILENT = 1_000_000, 100, 10
MANY = 10_000  # clients, for which an upload is weighed too
#: Where the server's memory is measured, and where a member's: with few clients, and with four times as many.
VECTORS = (Workload(8, COORDINATES, 0.0), Workload(32, COORDINATES, 0.0))
SHARES = (Workload(100, 1000, 0.0), Workload(400, 1000, 0.0))

MOST_BYTES = {CLIENTS: 3.5, MANY: 4.3}  # of an upload, for a coordinate
MOST_OF_SECAGGS_CLIENT = 1 / 3
LEAST_OVER_UNMASKING = 15.0
MOST_APART = 1.15  # the slowest opening over the fastest: neither clients nor dropouts change it
MOST_MEMBER, MOST_SERVER = 350e-6, 1e-3  # seconds for a client
MOST_GROWTH = 1.1  # of the server's memory, with four times as many clients
MOST_KEPT = 2.0  # what a member's memory grows by with a client, in answers


@dataclass
class Played:
    """What the sessions took so far: seconds of each turn."""

    client: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by protocol
    last_round: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # the server's, likewise
    member: list[float] = field(default_factory=list)  # for a client, all rounds but SessionKey
    taking: list[float] = field(default_factory=list)  # the server's, for a client's answer


@dataclass(frozen=True)
class Figure:
    """One result: seconds, bytes of a message, or the bytes by which a peak of memory is higher than before."""

    what: str
    cpu_seconds: Spread | None = None
    bytes_sent: int | None = None
    peak_memory: float | None = None
    ratio: str = ""


class Measuring:
    """The comparison in progress: what was measured so far."""

    def __init__(self, coordinates: int = COORDINATES, clients: int = CLIENTS) -> None:
        self.workload = Large(clients, coordinates, SILENT / CLIENTS, BITS)
        self.protocols: dict[str, AggregationProtocol] = {ONESHOT: protocol(), SECAGG: SecAgg()}
        check_memory(self.workload, self.protocols)
        self.core, self.arithmetic = max(os.sched_getaffinity(0)), arithmetic()
        self.played = Played()
        self.uploads: list[Upload] = []
        self.turns = Turns()
        self.peaks: dict[Workload, memory.Peaks] = {}

    def steps(self, repeats: int) -> int:
        """How often :meth:`run` calls ``step``."""
        return 2 + len(self.protocols) * (repeats + 1) + len((*VECTORS, *SHARES))

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Measure everything: ``repeats`` sessions of each protocol, and openings for ``seconds`` at most."""
        with one_core(self.core):
            step(ONESHOT, "uploads")
            self.uploads = [upload(self.workload.coordinates, most) for most in MOST_BYTES]
            self._sessions(repeats, step)
            step(ONESHOT, "openings")
            calls = opening_calls(self.workload.coordinates)
            data = bytes(self.uploads[0].sent)
            calls[HASH] = Cpu(lambda: hashlib.sha256(data).digest())
            self.turns = Turns.of(calls, 5 * repeats, seconds)
        for held in (*VECTORS, *SHARES):
            step(ONESHOT, f"memory, {held.clients} clients of {held.coordinates:,} coordinates")
            self.peaks[held] = memory.peaks(ONESHOT, held)

    def _sessions(self, repeats: int, step: Callable[[str, str], None]) -> None:
        small = Large(self.workload.clients, 1000, self.workload.dropout, BITS)
        of_small = Expected.of(small, small.updates())
        for name, one in self.protocols.items():
            step(name, "warm-up")
            play(one, small, small.updates(), of_small)
        updates = self.workload.updates()
        expected = Expected.of(self.workload, updates)
        for turn in range(repeats):
            for name, one in self.protocols.items():
                step(name, f"session {turn + 1} of {repeats}")
                self._session(name, one, updates, expected)

    def _session(self, name: str, one: AggregationProtocol, updates: Mapping[str, Any], expected: Expected) -> None:
        session, played, survivors = (
            play(one, self.workload, updates, expected),
            self.played,
            self.workload.survivors,
        )
        played.client[name].append(median(session.spent(survivors)))
        played.last_round[name].append(session.of_server(one.phases[-1].round))
        if name == ONESHOT:
            members = [party for party in session.members if party not in self.workload.ids]
            played.member.append(median(session.spent(members, leaving_out=Round.SESSION_KEY)) / len(survivors))
            played.taking.append(median(session.calls["server", Round.INPUT, "receive"]))


def figures(measuring: Measuring) -> list[Figure]:
    """All results so far, one by one."""
    played, turns = measuring.played, measuring.turns
    rows = [Figure(f"an upload, up to {one.clients:,} clients", bytes_sent=one.sent) for one in measuring.uploads]
    rows += [Figure("a member's answer", bytes_sent=one.answer) for one in measuring.uploads[:1]]
    for what, by_protocol in (("a client", played.client), ("the server's last round", played.last_round)):
        rows += [
            Figure(f"{name}: {what}", Spread.of(seconds), ratio=_times(Turns(by_protocol), name, ONESHOT))
            for name, seconds in by_protocol.items()
        ]
    if played.member:
        rows.append(Figure("a member, for a client", Spread.of(played.member)))
        rows.append(Figure("the server, for a client's answer", Spread.of(played.taking)))
    rows += [
        Figure(name, Spread.of(seconds), ratio=_times(turns, name, ENCRYPT))
        for name, seconds in turns.seconds.items()
    ]
    for held, peaks in measuring.peaks.items():
        at = f"{held.clients} clients of {held.coordinates:,}"
        if held in VECTORS:
            rows.append(Figure(f"the server, {at}", peak_memory=peaks.server))
        else:
            rows.append(Figure(f"a member, {at}", peak_memory=peaks.other))
    return rows


def _times(turns: Turns, name: str, of: str) -> str:
    ratio = turns.ratio(name, of)
    return f"{ratio.median:.3g} ({ratio.least:.3g} – {ratio.most:.3g})"


def bounds(measuring: Measuring) -> list[Bound]:
    """What OneShot is held to, as far as it was measured."""
    return [*_of_uploads(measuring), *_of_sessions(measuring), *_of_openings(measuring), *_of_memory(measuring)]


def _of_uploads(measuring: Measuring) -> Iterator[Bound]:
    for one in measuring.uploads:
        of = f"an upload, up to {one.clients:,} clients"
        yield Bound(
            f"{of}: bytes for a coordinate", one.sent / measuring.workload.coordinates, most=MOST_BYTES[one.clients]
        )
        yield Bound(f"{of}: bytes more or less than cost states", abs(one.sent - one.stated), most=0)
    for one in measuring.uploads[:1]:
        yield Bound("a member's answer: bytes for a column", one.answer / one.columns, most=4)


def _of_sessions(measuring: Measuring) -> Iterator[Bound]:
    played = measuring.played
    if played.client.get(SECAGG):
        ratio = Turns(played.client).ratio(ONESHOT, SECAGG).median
        yield Bound("a client, in times SecAgg's", ratio, most=MOST_OF_SECAGGS_CLIENT)
        ratio = Turns(played.last_round).ratio(SECAGG, ONESHOT).median
        yield Bound("the server's last round, times as fast as SecAgg's", ratio, least=LEAST_OVER_UNMASKING)
        yield Bound("a member, µs for a client", 1e6 * median(played.member), most=1e6 * MOST_MEMBER)


def _of_openings(measuring: Measuring) -> Iterator[Bound]:
    turns = measuring.turns
    if ENCRYPT not in turns.seconds:
        return
    least = LEAST_RATE if measuring.arithmetic == "ifma" else LEAST_RATE_WITHOUT_IFMA
    rate = 1e-6 * measuring.workload.coordinates / median(turns.seconds[ENCRYPT])
    yield Bound("million values encrypted in a second", rate, least=least)
    openings = {count: turns.ratio(opening_of(count), ENCRYPT).median for count in COUNTS}
    yield Bound("the slowest opening, in encryptions", max(openings.values()), most=MOST_OPENING)
    apart = max(openings.values()) / min(openings.values())
    yield Bound("the slowest opening, in times the fastest", apart, most=MOST_APART)
    beside = median(measuring.played.taking) - sum(median(turns.seconds[name]) for name in (FOLD, HASH))
    yield Bound("the server beside fold and hash, µs for a client", 1e6 * beside, most=1e6 * MOST_SERVER)


def _of_memory(measuring: Measuring) -> Iterator[Bound]:
    few, many = (measuring.peaks.get(held) for held in VECTORS)
    if few and many:
        yield Bound("the server's memory, 4 times the clients", many.server / few.server, most=MOST_GROWTH)
    few, many = (measuring.peaks.get(held) for held in SHARES)
    if few and few.other is not None and many and many.other is not None:
        one, task = OneShot(), SHARES[1].task(OneShot())
        answer = one.committee.answer_bytes(one.scheme(task).degree)
        each = (many.other - few.other) / (SHARES[1].clients - SHARES[0].clients)
        yield Bound("a member's memory for a client, in answers", each / answer, most=MOST_KEPT)


def grids(measuring: Measuring, processor: str) -> list[Grid]:
    """The table of all results so far."""
    rows = [_cells(one) for one in figures(measuring)]
    if not rows:
        return []
    workload = measuring.workload
    notes = [
        f"{processor}, core {measuring.core} alone, {measuring.arithmetic} arithmetic (see SECAGG_RING). "
        f"{workload.coordinates:,} coordinates at {workload.bits} bits. OneShot with {MEMBERS} members, of whom "
        f"{CORRUPT} may be corrupt. Seconds of the processor, of one thread: medians, the least and the greatest.",
        f"Sessions: {workload.clients} clients, {workload.gone} of them silent just before their input, both "
        "protocols in turn. A client and a member: all rounds of the median one, a member's without SessionKey. "
        "Ratios of sessions: in times OneShot's, turn by turn.",
        f"{ENCRYPT}, {FOLD} and openings: of one vector, and of sums of so many clients under a task for "
        f"{max(COUNTS):,}, from the members' answers to the integers. {HASH}: SHA-256 of an upload, which its "
        "signature is over. In turn; ratios are in encryptions.",
        "Memory: peaks of OneShot's default committee, each party in a process of its own.",
    ]
    return [Grid("OneShot on one core", ("what", "median", "from – to", "ratio"), rows, notes)]


def _cells(one: Figure) -> tuple[str, str, str, str]:
    spread = one.cpu_seconds
    if spread is not None:
        return one.what, duration(spread.median), f"{duration(spread.least)} – {duration(spread.most)}", one.ratio
    return one.what, size(one.bytes_sent if one.bytes_sent is not None else one.peak_memory or 0), "", ""

"""The service under load: processor time of an upload, memory of large sessions, and thousands of waiting polls.

The service runs in a process of its own (:mod:`bench.service_process`), over TLS on loopback, and is measured by
what the system counts for that process. All roles are real and run in this process (:mod:`bench.service_crowd`), as
the load generator. Every sum is checked to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench import service_sessions, service_uploads
from bench.amounts import duration, size
from bench.bounds import Bound
from bench.measure import Spread, Turns
from bench.oneshot_calls import BITS, Large
from bench.report import Grid
from bench.service_sessions import Session, Waiting
from bench.service_uploads import ALONE, KEPT, LANES, Uploads
from secagg import AdditiveShares, Clear, SecAgg, SecAggPlus
from secagg.protocols import chosen
from secagg.protocols.base import AggregationProtocol
from secagg.service.limits import Limits

AT_ONCE = 128  # inputs under way in a session

MOST_OVER_RECEIVE = 3.5
MOST_WAITING = 300e6  # bytes


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and with which protocols."""

    uploads: Large
    session: Large
    waiting: Large
    uploading: tuple[str, ...]
    played: tuple[str, ...]


FULL = Sizes(
    uploads=Large(161, 333_000, 0.0, BITS),  # 1 MB an upload
    session=Large(1000, 310_000, 0.0, BITS),  # likewise
    waiting=Large(5000, 16, 0.0, BITS),
    uploading=(Clear.name, SecAgg.name),
    played=(AdditiveShares.name, SecAggPlus.name),
)
QUICK = Sizes(
    uploads=Large(17, 4000, 0.0, BITS),
    session=Large(12, 4000, 0.0, BITS),
    waiting=Large(40, 16, 0.0, BITS),
    uploading=(Clear.name,),
    played=(AdditiveShares.name,),
)


@dataclass(frozen=True)
class Figure:
    """One result of uploads: seconds of the processor for one, or its bytes."""

    what: str
    cpu_seconds: Spread | None = None
    bytes_sent: int | None = None
    ratio: str = ""


@dataclass(frozen=True)
class Whole:
    """One whole session, or one of parties that waited: seconds in all, and bytes by which the memory grew."""

    what: str
    wall_seconds: float
    cpu_seconds: float
    grown_memory: int
    notes: str


@dataclass
class Measuring:
    """The measurement in progress: what was measured so far."""

    sizes: Sizes
    uploads: dict[str, Uploads] = field(default_factory=dict)  # by protocol
    sessions: list[Session] = field(default_factory=list)
    waiting: Waiting | None = None

    @property
    def steps(self) -> int:
        """How often :meth:`run` calls ``step``."""
        return len(self.sizes.uploading) + len(self._played()) + 1

    def run(self, turns: int, step: Callable[[str, str], None]) -> None:
        """Measure everything, uploads in so many ``turns``."""
        sizes = self.sizes
        for name in sizes.uploading:
            step(name, f"{sizes.uploads.clients} uploads")
            self.uploads[name] = service_uploads.measure(_protocol(name), sizes.uploads, turns)
        for name, at_once in self._played():
            step(name, f"a session of {sizes.session.clients}, {at_once} inputs at once")
            self.sessions.append(service_sessions.session(_protocol(name), sizes.session, at_once))
        step(Clear.name, f"{sizes.waiting.clients} waiting polls")
        self.waiting = service_sessions.waiting(Clear(), sizes.waiting)

    def _played(self) -> list[tuple[str, int]]:
        """The sessions: each protocol with some inputs at once, and the first one with all in one burst."""
        clients = self.sizes.session.clients
        some = [(name, min(AT_ONCE, clients)) for name in self.sizes.played]
        return some + [(name, clients) for name in self.sizes.played[:1] if clients > AT_ONCE]


def _protocol(name: str) -> AggregationProtocol:
    return chosen([name])[name]


def figures(measuring: Measuring) -> list[Figure]:
    """The figures of uploads so far, one by one."""
    rows = []
    for name, uploads in measuring.uploads.items():
        rows.append(Figure(f"{name}: an upload", bytes_sent=uploads.size))
        for kind, seconds in uploads.seconds.items():
            ratio = Turns(uploads.seconds).ratio(kind, ALONE)
            words = f"{ratio.median:.3g} ({ratio.least:.3g} – {ratio.most:.3g})"
            rows.append(Figure(f"{name}: {kind}", Spread.of(seconds), ratio=words))
    return rows


def wholes(measuring: Measuring) -> list[Whole]:
    """The sessions so far."""
    rows = [
        Whole(
            f"{one.protocol}: {one.clients:,} clients, {one.at_once:,} inputs at once",
            one.seconds,
            one.cpu,
            one.growth,
            f"inputs in {duration(one.burst)}; {one.busy} asked to come again",
        )
        for one in measuring.sessions
    ]
    if (waited := measuring.waiting) is not None:
        notes = (
            f"all have the offer in {duration(waited.offered)}, and their request {duration(waited.asked)} later"
        )
        what = f"{waited.parties:,} parties in long polls, then a session"
        rows.append(Whole(what, waited.seconds, waited.cpu, waited.growth, notes))
    return rows


def bounds(measuring: Measuring) -> list[Bound]:
    """What the service is held to, as far as it was measured."""
    return [*_of_uploads(measuring), *_of_sessions(measuring)]


def _of_uploads(measuring: Measuring) -> Iterator[Bound]:
    for name, uploads in measuring.uploads.items():
        ratio = Turns(uploads.seconds).ratio(KEPT, ALONE).median
        yield Bound(
            f"{name}: an upload on a kept connection, in times receive alone", ratio, most=MOST_OVER_RECEIVE
        )


def _of_sessions(measuring: Measuring) -> Iterator[Bound]:
    budget = Limits().ingest_bytes
    for one in measuring.sessions:
        if one.at_once <= AT_ONCE:
            most = 1e-6 * (budget + 2 * one.vector)
            yield Bound(
                f"{one.protocol}: MB more than before, of budget and two vectors", 1e-6 * one.growth, most=most
            )
    if (waited := measuring.waiting) is not None:
        what = f"{waited.parties:,} long polls"
        yield Bound(f"{what}: MB more than before", 1e-6 * waited.growth, most=1e-6 * MOST_WAITING)
        yield Bound(f"{what}: answers 500 and above", waited.failed, most=0)


def grids(measuring: Measuring, processor: str) -> list[Grid]:
    """The tables of all results so far."""
    rows = [_cells(one) for one in figures(measuring)]
    if not rows:
        return []
    notes = [
        f"{processor}. Seconds of the processor, on all threads of the service's process, for one signed upload "
        f"over TLS on loopback, spooled and in the sum; the token was checked at a poll before. {LANES} uploads at "
        "once: over kept connections, and over one new connection each, with a full handshake.",
        f"{ALONE}: the session's server, as it was saved when the round opened, takes the same messages in another "
        "process, turn about. Medians, the least and the greatest; ratios are of turns.",
    ]
    tables = [Grid("An upload", ("what", "median", "from – to", "ratio"), rows, notes)]
    if played := wholes(measuring):
        cells = [
            (one.what, duration(one.wall_seconds), duration(one.cpu_seconds), size(one.grown_memory), one.notes)
            for one in played
        ]
        said = [
            "Seconds of the wall, which the load generator on the same machine spends too, and of the service's "
            "processor. Memory: the most that was resident, less what was when all parties were connected; for the "
            "long polls, less what was without a connection.",
        ]
        tables.append(Grid("Sessions", ("what", "wall", "service", "memory", ""), cells, said, words=(0, 4)))
    return tables


def _cells(one: Figure) -> tuple[str, str, str, str]:
    spread = one.cpu_seconds
    if spread is not None:
        return one.what, duration(spread.median), f"{duration(spread.least)} – {duration(spread.most)}", one.ratio
    return one.what, size(one.bytes_sent or 0), "", ""

"""The status document: what a service tells its operators.

The page, ``secagg status --json`` and ``GET /v1/status`` show this one document. Scripts read it too, so a field is
added with its description in docs/service_status.md and never changes its meaning; ``format`` rises if one goes.

Times are UTC (RFC 3339); durations are seconds; sizes are bytes; digests are lowercase hexadecimal. The lists are
bounded, whatever the number of parties: ``more_…`` says how many entries were left out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from secagg.identity import Roster
from secagg.table import input_round
from secagg.task import Task

#: The version of the status document.
FORMAT = 1
#: The most pending parties that are listed of a session.
MOST_PENDING = 50
#: The most faults that are listed of a session.
MOST_FAULTS = 50
#: The most past sessions that are listed.
MOST_HISTORY = 50
#: The most parties that are listed.
MOST_PARTIES = 200
_MOST_TEXT = 300  # characters of a context, a reason or a detail

#: A moment with its time zone: without one it could not be compared with another.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
#: How callers are authenticated.
Auth = Literal["roster", "tokens", "open"]
#: What a round is doing.
RoundState = Literal["waiting", "open", "closed"]
#: What a session is doing.
SessionState = Literal["gathering", "running", "done", "failed"]
_Entry = TypeVar("_Entry")


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One address on which the service listens: for the ``parties``, or for its ``operators``."""

    purpose: Literal["parties", "operators"]
    url: str
    tls: bool


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The process: its version, since when it runs, and whether it takes messages."""

    version: str
    started: Moment
    url: str  # where parties reach it
    ready: bool
    listeners: tuple[Listener, ...] = ()


class RosterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The roster in force; its digest is what two people compare by voice."""

    digest: str
    version: int
    parties: int
    expires: Moment | None = None


class PrivacyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Differential privacy over the run, at one ``delta``.

    ``guaranteed`` is the ε of one session if as many clients collude and fall silent as the task allows for;
    ``realised`` is that of the last session with a sum, with the clients that were in it; ``spent`` is the ε of all
    ``releases`` together: the sessions that ended, also those that failed, because a server may hold their sums.
    Both are None if no bound is known.
    """

    delta: float
    guaranteed: float | None
    realised: float | None
    spent: float | None
    releases: int


class ScheduleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the rounds of training ask, and how long each round of the protocol may last."""

    cohort: int
    goal: int
    min_ready: int
    batches: str
    attempts: int
    deadlines: dict[str, float] = {}


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One task that the service runs, and what it promises; :func:`task_status` makes it.

    ``collusion`` names in words who must collude to learn one client's update. ``number`` is that of the newest
    round of training, ``done`` and ``failed`` count the sessions that ended.
    """

    digest: str
    context: str
    protocol: str
    rounds: tuple[str, ...]
    input_round: str
    threat_model: str
    collusion: str
    post_quantum: bool
    trust: tuple[str, ...]
    warnings: tuple[str, ...]
    auth: Auth
    enrolled: int
    max_clients: int
    min_survivors: int
    coordinates: int
    bytes_up: int  # of one client in one session in which nobody falls silent
    bytes_down: int
    roster: RosterStatus | None = None
    privacy: PrivacyStatus | None = None
    schedule: ScheduleStatus | None = None
    number: int = 0
    done: int = 0
    failed: int = 0


class RoundStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the protocol in a session: ``asked`` = ``answered`` + ``pending`` + ``dropped``.

    ``deadline`` is the number of seconds left (None: no round is open, or it has no deadline) and ``allowed`` the
    number that the round has in all.
    """

    name: str
    state: RoundState
    asks: str = "client"
    asked: int = 0
    answered: int = 0
    pending: int = 0
    dropped: int = 0
    bytes: int = 0
    seconds: float = 0.0
    deadline: float | None = None
    allowed: float | None = None


class FaultCount(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of one kind that one party was blamed for in one round; ``detail`` is that of the last one."""

    party: str
    round: str
    kind: str
    count: int = 1
    detail: str = ""


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is gathering clients or running, or that ended since the last one began.

    ``number`` is that of the round of training, ``attempt`` counts its sessions from 1. ``session`` is empty until
    the session has an id. Of ``offered`` clients that were asked, ``accepted`` said that they take part and
    ``declined`` that they don't; ``needed`` of them begin the session. ``cohort`` is the number of clients that
    were chosen.
    """

    session: str
    task: str
    number: int
    attempt: int
    state: SessionState
    started: Moment
    seconds: float
    offered: int
    accepted: int
    needed: int
    cohort: int
    declined: int = 0
    rounds: tuple[RoundStatus, ...] = ()
    pending: tuple[str, ...] = ()
    more_pending: int = 0
    faults: tuple[FaultCount, ...] = ()
    more_faults: int = 0
    reason: str = ""


class PastSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that ended; ``reason`` says why one failed."""

    session: str
    task: str
    number: int
    attempt: int
    result: Literal["done", "failed"]
    ended: Moment
    seconds: float
    cohort: int
    survivors: int
    faults: int = 0
    bytes_in: int = 0
    reason: str = ""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What the process carries. Rates are bytes a second over the last few seconds."""

    bytes_in: int = 0
    bytes_out: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0
    spool_bytes: int = 0
    waiting_polls: int = 0
    most_waiting_polls: int | None = None
    ingest_used: int = 0
    ingest_budget: int = 0


class PartyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A party, and when it was last heard of; ``waiting`` says that its poll is open now."""

    party: str
    role: str
    seen: Moment
    waiting: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document. ``history`` and ``parties`` begin with the newest."""

    at: Moment
    service: ServiceStatus
    tasks: tuple[TaskStatus, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()
    history: tuple[PastSession, ...] = ()
    totals: Totals = Totals()
    parties: tuple[PartyStatus, ...] = ()
    more_parties: int = 0
    pseudonyms: bool = False
    format: int = FORMAT


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Status)


def encode(status: Status) -> bytes:
    """``status`` as JSON without line breaks."""
    return _encoder.encode(status)


def decode(data: bytes) -> Status:
    """The document in ``data``; fields that this version doesn't know are left out.

    Raises ``msgspec.DecodeError`` or ``msgspec.ValidationError`` for other bytes.
    """
    return _decoder.decode(data)


def task_status(
    task: Task,
    *,
    auth: Auth,
    enrolled: int,
    warnings: Iterable[str] = (),
    roster: Roster | None = None,
    roster_version: int = 0,
    roster_expires: datetime | None = None,
) -> TaskStatus:
    """What is fixed about ``task``: protocol, trust, bytes. The caller adds the rest: ``msgspec.structs.replace``.

    It is slow for a task of many clients: call it once. ``enrolled`` counts the clients that may take part;
    ``auth`` is as in :meth:`secagg.service.Service.add`; ``warnings`` are texts that operators must read.
    ``roster`` is the roster in force, and ``roster_version`` and ``roster_expires`` are what its registrar signed:
    0 and None without a signature.
    """
    cost = task.protocol.cost(task)
    listed = None
    if roster is not None:
        listed = RosterStatus(
            digest=roster.digest.hex(), version=roster_version, parties=len(roster), expires=roster_expires
        )
    return TaskStatus(
        digest=task.digest.hex(),
        context=context_text(task.context),
        protocol=task.protocol.name,
        rounds=tuple(str(phase.round) for phase in task.protocol.phases),
        input_round=str(input_round(task.protocol)),
        threat_model=task.protocol.threat_model,
        collusion=cost.collusion,
        post_quantum=cost.post_quantum,
        trust=tuple(task.protocol.describe(task)),
        warnings=tuple(warnings),
        auth=auth,
        enrolled=enrolled,
        max_clients=task.max_clients,
        min_survivors=task.min_survivors,
        coordinates=task.layout.size,
        bytes_up=sum(cost.up.values()),
        bytes_down=sum(cost.down.values()),
        roster=listed,
    )


def context_text(context: bytes) -> str:
    """A task's ``context`` for people: its text if it is printable UTF-8, else hexadecimal."""
    try:
        text = context.decode()
    except UnicodeDecodeError:
        text = ""
    return (text if text.isprintable() and text else context.hex())[:_MOST_TEXT]


def first(entries: Sequence[_Entry], most: int) -> tuple[tuple[_Entry, ...], int]:
    """The first ``most`` of ``entries``, and how many were left out."""
    return tuple(entries[:most]), max(0, len(entries) - most)


def count_faults(faults: Iterable[tuple[str, str, str, str]]) -> tuple[tuple[FaultCount, ...], int]:
    """The faults of one session, counted by party, round and kind; and how many entries were left out.

    ``faults`` are pairs of (party, round, kind, detail), oldest first. The newest entries come first.
    """
    counts: dict[tuple[str, str, str], tuple[int, str]] = {}
    for party, name, kind, detail in faults:
        key = (party, name, kind)
        count, _ = counts.pop(key, (0, ""))
        counts[key] = (count + 1, detail)
    listed = [
        FaultCount(party=party[:_MOST_TEXT], round=name, kind=kind, count=count, detail=detail[:_MOST_TEXT])
        for (party, name, kind), (count, detail) in reversed(counts.items())
    ]
    return first(listed, MOST_FAULTS)


def pseudonym(party: str, key: bytes) -> str:
    """A short name in the place of the id ``party``: the same for one ``key``, and never the id of a party."""
    return "~" + hmac.new(key, b"secagg/v1/pseudonym" + party.encode(), hashlib.sha256).hexdigest()[:10]


def with_pseudonyms(status: Status, key: bytes) -> Status:
    """``status`` with a pseudonym under ``key`` for each party. Texts that may name a party are left out.

    These are the details of faults and the reasons of failed sessions; the service's log has them.
    """
    replace = msgspec.structs.replace
    withheld = "see the service's log; reasons may name parties"
    return replace(
        status,
        pseudonyms=True,
        sessions=tuple(
            replace(
                session,
                pending=tuple(sorted(pseudonym(party, key) for party in session.pending)),
                faults=tuple(
                    replace(fault, party=pseudonym(fault.party, key), detail="") for fault in session.faults
                ),
                reason=withheld if session.reason else "",
            )
            for session in status.sessions
        ),
        history=tuple(replace(past, reason=withheld if past.reason else "") for past in status.history),
        parties=tuple(replace(party, party=pseudonym(party.party, key)) for party in status.parties),
    )

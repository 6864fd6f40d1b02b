"""Runs a protocol's table on the side that asks: the server.

Each row of the table is a step of three parts: what to ask whom, how to take one answer, and
how to settle the round when the caller closes it. Asking changes nothing, so a restored server
asks again in the same bytes. Taking validates an answer whole before it folds anything in.
"""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import msgspec
from numpy.typing import NDArray

from secagg import wire
from secagg._faults import FaultRecord
from secagg._machine import FOREIGN_TASK, Reply
from secagg._reading import same
from secagg._state import pack_segments, pack_state, unpack_segments, unpack_state
from secagg._turn import Turn, atomic
from secagg.beacon import Fetch
from secagg.errors import Aborted, ConfigError, Fault, FaultKind, LocalProtocolError, shown
from secagg.identity import Roster, check_party_ids
from secagg.layout import Layout
from secagg.protocols.base import Phase, Proposal
from secagg.session import NONCE_BYTES, check_cohort, check_session, draw, roster_digest, session_id
from secagg.store import Store
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task

log = logging.getLogger("secagg")

Outbox = dict[str, bytes]

KEY_BYTES = 32
_NAMED = 5  # of parties in a repr
_CLIPPED = 0.01  # the share of coordinates above which the server warns
_TAG = 16  # bytes of a message's digest by which it is known again


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """What the server can know when a session has ended well.

    ``mean`` and ``sum`` have the structure of the task's layout (``sum`` is Σ wᵢxᵢ in float64);
    ``survivors`` are those whose input is in the sum, and what ``min_survivors`` counts; ``dropped``
    names for each who fell silent the round of its silence, so one that did so after being counted is
    in both. ``clipped`` counts clipped coordinates over all survivors (None under DP).

    Two are equal if all of this is, arrays coordinate by coordinate.
    """

    mean: Any
    sum: Any
    total_weight: int
    survivors: tuple[str, ...]
    dropped: Mapping[str, str]
    faults: tuple[Fault, ...]
    clipped: int | None
    epsilon_guaranteed: float | None = None
    epsilon_realised: float | None = None

    def mean_like(self, update: Any) -> Any:
        """``mean`` as the kind of thing that ``update`` is: a model's state, for ``load_state_dict``.

        ``update`` is any update of the task's layout. Its containers, its kinds of array (Torch's on their devices)
        and its dtypes are those of the answer; integers and bools are rounded to the nearest that their dtype
        has, Python's numbers keep their type. Raises ``ConfigError`` or ``EncodingError`` for another structure.
        """
        layout = Layout.of(update)
        return layout.restore(layout.flatten(self.mean, dtype="float64"), like=update, dtype="like")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = [field.name for field in fields(self) if field.compare]
        return all(same(getattr(self, name), getattr(other, name)) for name in compared)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'; '.join(f'{name} {text}' for name, text in self._told())}>"

    def _repr_html_(self) -> str:
        """What :func:`repr` says as a table, for notebooks."""
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in self._told()
        )
        return f"<table>{rows}</table>"

    def _told(self) -> list[tuple[str, str]]:
        """What a person wants to know first, each a name and a short text."""
        told = [
            ("sum of", f"{len(self.survivors)} clients ({_some(self.survivors)})"),
            ("total weight", f"{self.total_weight:,}"),
            ("dropped", _some([f"{party} in {name}" for party, name in self.dropped.items()]) or "nobody"),
            ("faults", str(len(self.faults))),
        ]
        if self.clipped is not None:
            told.append(("clipped", f"{self.clipped:,} coordinates"))
        if self.epsilon_guaranteed is not None:
            told.append(("epsilon", f"{self.epsilon_guaranteed:.4g}"))
        return told


class ServerState(msgspec.Struct, forbid_unknown_fields=True):
    """All that a server remembers; what :meth:`Server.to_bytes` writes."""

    cohort: list[str]
    session: bytes
    nonce: bytes
    session_id: bytes  # that answers carry
    asked_under: bytes  # the session id that the open round's requests carry
    number: int = 0  # of states saved
    position: int = -1  # the row of the table that is open; -1 before start
    asked: list[str] = []
    answered: list[str] = []
    taken: dict[str, bytes] = {}  # by sender, one tag after the other: the messages taken from it so far
    dropped: dict[str, str] = {}
    parted: list[str] = []  # who was dropped when the last round was closed, and is told so
    faults: list[Fault] = []
    sums: list[bytes] = []  # filled when written
    noise_key: bytes = b""  # of an encoding whose noise the server adds: with it, an exact sum decodes to one noise
    survivors: list[str] = []
    finished: bool = False
    aborted: str = ""


AnyState = TypeVar("AnyState", bound=ServerState)


@dataclass(frozen=True)
class Step:
    """How the server goes through one row of the table."""

    ask: Callable[[Any], Mapping[str, Reply]]  # who is asked what; changes nothing
    take: Callable[[Any, Envelope, Any, memoryview], None]  # Reject, or fold it in
    settle: Callable[[Any], None]  # Aborted if too few answered


class Server(Generic[AnyState]):
    """The server of one session: sums what it can't read. Made by ``task.server``.

    ``start()`` opens the first round; ``receive`` takes what arrives and never raises on bytes;
    ``close_round`` ends a round when nobody is ``pending`` or the caller's clock says so, until there
    is an ``outcome``. Any thread may call anything at any time: each call, and each look at a property, has the
    server to itself, and waits for the one before.

    A step changes the state in place, since a copy for each answer would make a round quadratic in the cohort. So
    ``take`` checks everything before it changes anything, and ``settle`` changes nothing before the last thing
    that the caller's executor may fail.
    """

    state_type: ClassVar[type[ServerState]]
    steps: ClassVar[Mapping[str, Step]]

    def __init__(
        self,
        task: Task,
        cohort: Iterable[str],
        *,
        roster: Roster | None,
        session: bytes,
        save: Store | None,
        rng: Callable[[int], bytes] = os.urandom,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
    ) -> None:
        members = sorted(check_party_ids(cohort))
        session = check_session(session)
        check_cohort(task, members, roster)
        nonce = draw(rng, NONCE_BYTES)
        opening = session_id(
            task=task.digest, roster=roster_digest(roster), session=session, nonce=nonce, cohort=members
        )
        state = self.state_type(
            cohort=members,
            session=session,
            nonce=nonce,
            session_id=opening,
            asked_under=opening,
            noise_key=draw(rng, KEY_BYTES) if hasattr(task.encoder, "for_server") else b"",
        )
        self._setup(task, state, roster, save, executor, beacon, rng)

    def _setup(
        self,
        task: Task,
        state: ServerState,
        roster: Roster | None,
        save: Store | None,
        executor: Executor | None,
        beacon: Fetch | None,
        rng: Callable[[int], bytes],
    ) -> None:
        self._turn = Turn()
        self._rng = rng
        self._task, self._roster, self._save, self._executor, self._beacon = task, roster, save, executor, beacon
        self._state: AnyState = state  # type: ignore[assignment]
        self._phases = task.protocol.phases
        self._limit = task.protocol.largest_message(task, None)
        written = unpack_segments(state.sums, task) if state.sums else []
        self._sums: list[NDArray[Any]] = [total.copy() for total in written]
        state.sums = []
        self._members, self._asked = frozenset(state.cohort), frozenset(state.asked)
        self._pending = set(state.asked) - set(state.answered)
        self._faults = FaultRecord(self._knows, state.faults)
        state.faults = []
        self._received, self._opened = 0, time.monotonic()  # of the open round, for the log
        self._outcome = self._decode() if state.finished else None

    @property
    def session(self) -> bytes:
        """What the caller named this aggregation."""
        return self._state.session

    @property
    @atomic
    def outcome(self) -> Outcome | None:
        """The result, once the last round was closed."""
        return self._outcome

    @property
    @atomic
    def pending(self) -> frozenset[str]:
        """The ids whose answer is still awaited in the open round; none after the end."""
        return frozenset(self._pending) if self._open else frozenset()

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """Who did what wrong so far."""
        return tuple(self._faults.kept)

    @property
    @atomic
    def round(self) -> str | None:
        """The open round's name; None before start and after the end."""
        return self._round

    @property
    def _round(self) -> str | None:
        return self._phases[self._state.position].round if self._open else None

    @property
    def _open(self) -> bool:
        state = self._state
        return state.position >= 0 and not state.finished and not state.aborted

    def _knows(self, party: str) -> bool:
        return party in self._members or (self._roster is not None and party in self._roster)

    @atomic
    def start(self) -> Outbox:
        """Open the session: what to send to whom. On a restored server: what to send again."""
        state = self._state
        if state.aborted:
            raise LocalProtocolError("got start() after the session was aborted; make a new server")
        if state.position < 0:
            self._next_round()
            self._store()
        outbox = self._dismissal(state.parted)
        if not state.finished:
            asked = self._seal_all(self._requests())
            outbox |= {party: asked[party] for party in sorted(self._pending)}
        return outbox

    def receive(self, sender: str, data: bytes) -> Outbox:
        """Take what ``sender`` sent; returns what to pass on at once, mostly nothing.

        Bytes that are wrong change nothing but ``faults``. The very bytes that were taken before change nothing at
        all, so that a transport may try again whenever it likes. While ``close_round`` runs, this waits; a message
        that was not taken by then is too late.
        """
        sender = str.__str__(sender) if isinstance(sender, str) else shown(sender)  # NumPy's text is a subclass
        return self._take(sender, self._read(sender, data))

    def _read(self, sender: str, data: bytes) -> Envelope | Reject:
        """The frame of a message and its signature, checked outside the lock: none of this ever changes."""
        if not self._knows(sender):
            return Reject(FaultKind.UNKNOWN_SENDER, f"got a message of {sender!s:.64}, who is not of this session")
        try:
            envelope = Envelope.parse(data, self._limit)
            if envelope.sender != sender:
                detail = f"got a message of {envelope.sender or 'the server'} from {sender}"
                raise Reject(FaultKind.UNAUTHENTIC, detail)
            if envelope.protocol != self._task.protocol.ID or envelope.task != self._task.digest:
                raise Reject(FaultKind.FOREIGN_TASK, FOREIGN_TASK)
            envelope.verify(None if self._roster is None else self._roster[sender].signing_key)
        except Reject as refused:
            return refused
        return envelope

    @atomic
    def _take(self, sender: str, read: Envelope | Reject) -> Outbox:
        """Take a message that was read, or record why not."""
        state = self._state
        if state.position < 0:
            raise LocalProtocolError("got a message before start()")
        try:
            refusal = self._refusal(sender, read)
            if isinstance(read, Reject):
                raise refusal or read
            if refusal is not None:
                if self._took(read):
                    return {}
                raise refusal
            phase = self._phases[state.position]
            message, payload = read.open(phase.reply)
            self.steps[phase.round].take(self, read, message, payload)
        except Reject as refused:
            self.blame(refused.blame or sender, refused.kind, refused.detail)
            return {}
        self._pending.discard(sender)
        self._received += len(read.raw)
        state.answered.append(sender)
        state.taken[sender] = state.taken.get(sender, b"") + read.digest[:_TAG]
        if phase.relay is None or self._roster is None:
            return {}
        return dict.fromkeys(self._roster.ids(phase.relay), read.raw)

    def _refusal(self, sender: str, read: Envelope | Reject) -> Reject | None:
        """Why nothing of this kind is taken from ``sender`` now, if so."""
        if isinstance(read, Reject) and read.kind is FaultKind.UNKNOWN_SENDER:
            return read
        if not self._open:
            return Reject(FaultKind.OUT_OF_TURN, "got a message after the session's end")
        phase = self._phases[self._state.position]
        if sender not in self._asked:
            return Reject(FaultKind.OUT_OF_TURN, f"got a message of {sender}, who was not asked in {phase.round}")
        if isinstance(read, Reject):
            return read
        if read.session != self._state.session_id:
            detail = "got a message of another session; its sender answered another server, or an earlier session"
            return Reject(FaultKind.FOREIGN_SESSION, detail)
        if read.kind != phase.reply.TYPE:
            return Reject(FaultKind.OUT_OF_TURN, f"got message type {read.kind}; this is {phase.round}")
        if sender not in self._pending:
            return Reject(FaultKind.DUPLICATE, "got another message than the one taken in this round")
        return None

    def _took(self, envelope: Envelope) -> bool:
        """Whether these bytes were taken before. What could be taken now is never asked: two rounds' answers
        may be alike.
        """
        tags, tag = self._state.taken.get(envelope.sender, b""), envelope.digest[:_TAG]
        return any(tags[at : at + _TAG] == tag for at in range(0, len(tags), _TAG))

    @atomic
    def close_round(self, name: str | None = None) -> Outbox:
        """End the open round: who is still pending is dropped. Returns what to send next.

        That is the next round's requests, and to each who was dropped one message that the session goes on without
        it, so that it need not wait. A timer passes the ``name`` of the round that it was set for: where another
        round is open by now, nothing changes and nothing is returned.

        Raises ``Aborted`` if too few remain, and its ``outbox`` tells the others; no outcome is given then.
        After the last round there is an ``outcome``. What the ``executor`` raises comes
        out, with nothing changed: call it again. What ``save`` raises comes out with the round closed: ``start()``
        gives the requests.
        """
        if name is not None and name not in (known := [phase.round for phase in self._phases]):
            raise ConfigError(f"got round {name!r}; {self._task.protocol.name} has {', '.join(known)}")
        if name is not None and self._round != name:
            return {}
        if not self._open:
            raise LocalProtocolError("got close_round() while no round is open; start() opens the first")
        state = self._state
        phase = self._phases[state.position]
        self.before_close(phase)
        silent = sorted(self._pending)
        try:
            self._drop_and_settle(phase, silent)
            self._log_round(phase)
            if state.position + 1 < len(self._phases):
                requests = self._next_round()
                state.parted = [party for party in silent if party not in requests]
                self._store()
                return {**self._dismissal(state.parted), **self._seal_all(requests)}
            self._outcome = self._decode()
        except Aborted as aborted:
            raise self._abort(aborted.reason, silent) from aborted
        state.finished, state.parted = True, silent
        self._store()
        return self._dismissal(silent)

    def _drop_and_settle(self, phase: Phase, silent: Sequence[str]) -> None:
        """Drop who is silent, and go through with the round."""
        state, faults = self._state, len(self._faults.kept)
        fresh = [party for party in silent if party not in state.dropped]
        state.dropped.update(dict.fromkeys(fresh, phase.round))
        for party in silent:
            self.blame(party, FaultKind.SILENT, "")
        asked_under, state.asked_under = state.asked_under, state.session_id
        try:
            self.steps[phase.round].settle(self)
        except Aborted:
            raise
        except Exception:  # of the caller's executor: the round is as open as it was
            for party in fresh:
                del state.dropped[party]
            self._faults.forget(faults)
            state.asked_under = asked_under
            raise

    def before_close(self, phase: Phase) -> None:
        """Raise ``LocalProtocolError`` while the caller has something to wait for first; changes nothing."""

    def _log_round(self, phase: Phase) -> None:
        state = self._state
        log.info(
            "session %s %s: %d of %d answered, %d bytes in %.3f s",
            state.session_id.hex()[:12],
            phase.round,
            len(state.answered),
            len(state.asked),
            self._received,
            time.monotonic() - self._opened,
        )

    def _next_round(self) -> Mapping[str, Reply]:
        state = self._state
        self._received, self._opened = 0, time.monotonic()
        state.position += 1
        state.answered = []
        requests = self._requests()
        state.asked = sorted(requests)
        self._asked, self._pending = frozenset(requests), set(requests)
        return requests

    def _requests(self) -> Mapping[str, Reply]:
        return self.steps[self._phases[self._state.position].round].ask(self)

    def _seal_all(self, requests: Mapping[str, Reply]) -> Outbox:
        """What is said to many alike is written once."""
        sealed: dict[tuple[int, int], bytes] = {}
        for message, payload in requests.values():
            if (id(message), id(payload)) not in sealed:
                sealed[id(message), id(payload)] = self._seal(message, payload)
        return {party: sealed[id(message), id(payload)] for party, (message, payload) in requests.items()}

    def _seal(self, message: wire.Message, payload: bytes = b"", *, session: bytes | None = None) -> bytes:
        # A proposal states what a session id is computed from, so it can't carry one.
        stated = b"" if isinstance(message, Proposal) else self._state.asked_under
        return wire.seal_envelope(
            message,
            protocol=self._task.protocol.ID,
            task=self._task.digest,
            session=stated if session is None else session,
            sender=wire.SERVER,
            payload=payload,
        )

    def blame(self, party: str, kind: FaultKind, detail: str) -> None:
        """Record that ``party`` did something wrong in the open round."""
        fault = Fault(str(party)[:64], self._round or "after the end", kind, detail)
        if self._faults.add(fault):
            log.warning("session %s: %s", self._state.session_id.hex()[:12], fault)

    def need(self, present: int, floor: int, what: str) -> None:
        """``Aborted`` unless at least ``floor`` are ``present``."""
        if present < floor:
            raise Aborted(f"got {present} {what}; {floor} are needed, so nothing is opened")

    def _dismissal(self, parties: Iterable[str]) -> Outbox:
        """What tells ``parties`` not to wait any more, under the id that everyone knows since the proposal.

        It says neither why nor who else. It carries no more weight than silence: who believes it erases its
        secrets and answers nothing more, and a server that lies could have had that by not writing.
        """
        state = self._state
        opening = session_id(
            task=self._task.digest,
            roster=roster_digest(self._roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
        )
        return dict.fromkeys(parties, self._seal(wire.Abort(), session=opening))

    def _abort(self, reason: str, silent: Sequence[str]) -> Aborted:
        """Give up; everyone is told who was not told before, when it was dropped."""
        state = self._state
        everyone = [*state.cohort]
        if self._roster is not None:
            everyone += [party for role in self._task.protocol.others for party in self._roster.ids(role)]
        told = state.dropped.keys() - set(silent)
        outbox = self._dismissal(party for party in everyone if party not in told)
        log.warning("session %s aborted: %s", state.session_id.hex()[:12], reason)
        state.aborted = reason
        self._sums = []
        self._store()
        return Aborted(reason, outbox)

    def _decode(self) -> Outcome:
        task, state = self._task, self._state
        encoder: Any = task.encoder_for(state.session)
        try:
            noisy = state.noise_key and hasattr(encoder, "for_server")
            decoded = (encoder.for_server(state.noise_key) if noisy else encoder).decode(
                self._sums, layout=task.layout, survivors=len(state.survivors), max_weight=task.max_weight
            )
        except ValueError as error:  # an EncodingError, or what another package's encoding raises
            raise Aborted(
                f"the sum is one that no honest inputs have: {error}. One client is enough for that, and nothing "
                "says which: open a new session for each half of the cohort, and go on with a half whose sum "
                "opens"
            ) from error
        coordinates = len(state.survivors) * task.layout.size
        if decoded.clipped is not None and decoded.clipped > _CLIPPED * coordinates:
            log.warning(
                "session %s: %.1f %% of all coordinates were clipped, so the mean is off by more than rounding: "
                "raise clip; FixedPoint.suggest(updates) finds one from updates in the clear",
                state.session_id.hex()[:12],
                100 * decoded.clipped / coordinates,
            )
        return Outcome(
            mean=task.layout.restore(decoded.mean),
            sum=task.layout.restore(decoded.sum, dtype="float64"),
            total_weight=decoded.total_weight,
            survivors=tuple(state.survivors),
            dropped=dict(state.dropped),
            faults=tuple(self._faults.kept),
            clipped=decoded.clipped,
            epsilon_guaranteed=decoded.epsilon_guaranteed,
            epsilon_realised=decoded.epsilon_realised,
        )

    def proposal(self) -> Proposal:
        """The first message of this session to any party."""
        state = self._state
        return Proposal(cohort=state.cohort, session=state.session, nonce=state.nonce)

    def _store(self) -> None:
        self._state.number += 1
        if self._save is not None:
            self._save(self._state.number, self._pack())

    @atomic
    def to_bytes(self) -> bytes:
        """The state, inputs accepted so far included: it never leaves the server."""
        return self._pack()

    def _pack(self) -> bytes:
        return pack_state(self.written(), self._task, "server", self._roster)

    def written(self) -> AnyState:
        """The state as it is saved: a copy, with what the server keeps elsewhere filled in."""
        return msgspec.structs.replace(self._state, sums=pack_segments(self._sums), faults=self._faults.kept)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        task: Task,
        *,
        roster: Roster | None = None,
        save: Store | None = None,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """The server that was saved as ``data``; its ``start()`` asks again whoever is pending.

        ``ConfigError`` if the bytes are of another task or roster or are damaged.
        """
        found = task.protocol.server
        state = unpack_state(data, found.state_type, task, "server", roster)
        server = found.__new__(found)
        try:
            server._setup(task, state, roster, save, executor, beacon, rng)
        except (Aborted, ValueError) as error:
            raise ConfigError(
                f"got a state whose sums are not of this task: {error}; abandon this session"
            ) from error
        return server  # type: ignore[return-value]


def _some(texts: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f", and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(text[:64] for text in texts[:_NAMED]) + more

"""How the server takes what arrives while a round is open.

An answer is checked whole before anything of it is kept. What other parties get of it is handed on at once: the
whole answer, or the parts that the protocol's ``hand_on`` names. Where the table has a ``word``, an answer waits
until every listener has given its word about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from mpc.errors import MPCError
from secagg import wire
from secagg._numbers import is_a
from secagg.errors import FaultKind, LocalProtocolError, blaming, shown
from secagg.roles.handing_on import Waiting, WaitingAnswers, check_handed, check_part
from secagg.roles.hooks import AnyServerState, Reply, ServerHooks
from secagg.roles.incoming import Incoming, incoming
from secagg.roles.member import FOREIGN_TASK
from secagg.roles.turn import Turn, atomic
from secagg.table import Phase, Refusal, Word
from secagg.wire import Envelope, Reject
from secagg.workers import run_all, threads

#: Messages to send, by party.
Outbox = dict[str, bytes]

_IN_TASK = 8  # messages that a thread reads at a time
_FEW = 16  # messages of one party; no client sends as many
_TAG = 16  # bytes of a message's digest by which it is known again


def _raw(messages: Mapping[str, Envelope]) -> Outbox:
    """The bytes to hand on; those that go to several parties are taken out of the caller's buffer once."""
    known = {key: one.raw for key, one in {id(one): one for one in messages.values()}.items()}
    return {party: known[id(one)] for party, one in messages.items()}


class Receiving(ServerHooks[AnyServerState]):
    """The part of a server that takes what arrives; :class:`secagg.roles.Server` opens and closes the rounds."""

    _turn: Turn
    _phases: Sequence[Phase]
    _asked: frozenset[str]
    _pending: set[str]
    _worded: bool  # a row of the table has words
    _waiting: WaitingAnswers
    _asks: Mapping[str, Reply] | None  # the open round's requests, where they were built already
    _received: int  # bytes, in the open round

    def receive(self, sender: str, data: bytes | memoryview) -> Outbox:
        """Take ``data``, a message of ``sender``; returns the messages to hand on at once, by party.

        Often there are none. Wrong bytes change nothing but ``faults``. Bytes that were taken before change nothing
        at all, so a transport may send them again at any time. This call waits while ``close_round`` runs; a
        message that was not taken before is then too late. It is :meth:`read`, then :meth:`take`.
        """
        return self.take(self.read(sender, data))

    def read(self, sender: str, data: bytes | memoryview) -> Incoming:
        """Read ``data``, a message of ``sender``, for :meth:`take`: its frame, its sender, its task, its signature.

        Nothing changes, and no bytes raise: what is wrong is in ``refused``, and becomes a fault when the message
        is taken. This call reads no state and waits for no other call, so any number of threads may read at once. A
        read-only ``memoryview``, such as one of a mapped file, is not copied: keep it unchanged until the message
        is taken.
        """
        sender = str.__str__(sender) if is_a(sender, str) else shown(sender)  # NumPy's text is a subclass
        return incoming(sender, self._read(sender, data), self.context)

    def read_all(self, messages: Iterable[tuple[str, bytes | memoryview]]) -> list[Incoming]:
        """What :meth:`read` returns for each of ``messages``, pairs of a sender and its bytes, in their order.

        Many are read on threads of this process, because most of the work is to hash a message and to verify its
        signature, and both run beside other Python code.
        """
        with blaming(
            LocalProtocolError, "got messages that can't be read; expected pairs of a sender and its bytes"
        ):
            listed = [(sender, data) for sender, data in messages]
        parts = [(listed[at : at + _IN_TASK],) for at in range(0, len(listed), _IN_TASK)]
        if len(parts) < 2:
            return self._read_each(listed)
        return [one for part in run_all(threads(), self._read_each, parts) for one in part]

    def _read_each(self, messages: list[tuple[str, bytes | memoryview]]) -> list[Incoming]:
        return [self.read(sender, data) for sender, data in messages]

    def _read(self, sender: str, data: bytes | memoryview) -> Envelope | tuple[FaultKind, str]:
        if not self.context.knows(sender):
            detail = f"got a message of {sender!s:.64}, who is not of this session"
            return FaultKind.UNKNOWN_SENDER, detail
        try:
            envelope = Envelope.parse(data, self.context.limit)
            if envelope.sender != sender:
                detail = f"got a message of {envelope.sender or 'the server'} from {sender}"
                raise Reject(FaultKind.UNAUTHENTIC, detail)
            if envelope.protocol != self.context.task.protocol.ID or envelope.task != self.context.task.digest:
                raise Reject(FaultKind.FOREIGN_TASK, FOREIGN_TASK)
            envelope.verify(None if self.context.roster is None else self.context.roster[sender].signing_key)
        except Reject as refused:
            return refused.kind, refused.detail
        return envelope

    @atomic
    def take(self, message: Incoming) -> Outbox:
        """Take ``message``, which :meth:`read` of this server has returned; returns what :meth:`receive` does.

        ``LocalProtocolError`` for what another server has read, or a server before it was restored: read the bytes
        again.
        """
        if type(message) is not Incoming or message._reader is not self.context:
            raise LocalProtocolError(
                f"got {shown(message)}, which this server has not read; pass what server.read(sender, data) returns"
            )
        state, sender, read = self.context.state, message._sender, message._read
        if state.position < 0:
            raise LocalProtocolError("got a message before start()")
        try:
            if self._worded and isinstance(read, Envelope):
                read = read.owned()  # it may wait for others
                if self._is_word(sender, read):
                    return self._take_word(read)
                if read.kind == Refusal.TYPE and self._may_refuse(sender):
                    return self._take_refusal(read)
            refusal = self._refusal(sender, read)
            if refusal is not None:
                if isinstance(read, Envelope) and self._took(sender, read.digest):
                    return {}
                raise refusal
            assert isinstance(read, Envelope)  # what was refused has a refusal
            return self._take_answer(self._phases[state.position], read)
        except Reject as refused:
            self.context.blame(refused.blame or sender, refused.kind, refused.detail)
        except MPCError as error:  # of a key or a share in the message, unless the method saw to it
            self.context.blame(sender, FaultKind.INVALID, str(error))
        return {}

    @atomic
    def took(self, sender: str, digest: bytes | None) -> bool:
        """Whether the message of ``sender`` with this digest was taken in this session, in any round so far.

        ``digest`` is :attr:`Incoming.digest`. Of a refused message it is None, and such a message was never taken.
        A restored server knows the messages that it took before its state was saved, and those it took since. Of
        the round that was open then, it asks for the others again. ``LocalProtocolError`` for a digest that is not
        32 bytes.
        """
        if digest is None:
            return False
        if not is_a(digest, bytes) or len(digest) != wire.DIGEST_BYTES:
            raise LocalProtocolError(
                f"got {shown(digest)} as a digest; pass the digest of server.read(sender, data)"
            )
        return self._took(sender, digest)

    def _take_answer(self, phase: Phase, read: Envelope) -> Outbox:
        """Take an answer, or let it await the listeners' words; returns what to hand on."""
        if phase.word is not None and not self._waiting.admits(read):
            return {}
        message, payload = read.open(phase.reply)
        if not phase.reply_vectors:
            wire.no_vectors(payload)
        step, parts = self.steps[phase.round], dict[str, Envelope]()
        if step.hand_on is None:
            if phase.relay is not None:
                parts = dict.fromkeys(self._listeners(phase), read)
        else:
            parts = self._handed(
                phase,
                step.hand_on(self, read, message, payload),
                lambda part: check_part(self.context, phase, read.sender, part),
            )
        if phase.word is None:
            step.take(self, read, message, payload)
            self._accept(read)
        elif not self._waiting.add(Waiting(read, message, payload), parts):
            return {}
        return _raw(parts) if parts else {}

    def _handed(self, phase: Phase, handed: object, check: Callable[[Envelope], None]) -> dict[str, Envelope]:
        return check_handed(self.context, phase, self._listeners(phase), handed, check)

    def _accept(self, read: Envelope) -> None:
        self._pending.discard(read.sender)
        self.context.state.answered.append(read.sender)
        self._remember(read)

    def _remember(self, read: Envelope) -> None:
        self._received += len(read.received)
        self._know_again(read.sender, read.digest)

    def _know_again(self, sender: str, digest: bytes) -> None:
        taken = self.context.state.taken
        tags: bytes | bytearray = taken.get(sender, b"")
        if isinstance(tags, bytearray):
            tags += digest[:_TAG]
        elif len(tags) < _FEW * _TAG:
            taken[sender] = tags + digest[:_TAG]
        else:  # a listener gives a word about each client, and bytes would be copied for each
            taken[sender] = cast("bytes", bytearray(tags + digest[:_TAG]))  # written as bytes are

    def _end_waiting(self) -> None:
        """Nothing waits any more. What came in this round is known again, though it was not taken."""
        for sender, digest in self._waiting.untaken():
            if not self._took(sender, digest):
                self._know_again(sender, digest)
        self._waiting, self._asks = self._nothing_waits(), None

    def _listeners(self, phase: Phase) -> tuple[str, ...]:
        roster = self.context.roster
        return () if phase.relay is None or roster is None else roster.ids(phase.relay)

    def _is_word(self, sender: str, read: Envelope) -> bool:
        """Whether this is of the type of a listener's word in the open round, and its sender is a listener."""
        if not self.context.open:
            return False
        phase = self._phases[self.context.state.position]
        return self._has_word(phase, sender) and phase.word is not None and read.kind == phase.word.TYPE

    def _has_word(self, phase: Phase, sender: str) -> bool:
        return phase.word is not None and sender in self._listeners(phase)

    def _take_word(self, read: Envelope) -> Outbox:
        """Take a listener's word about an answer; with the last one the answer is taken too, or refused.

        The same word again, while the answer waits, gives the same messages to hand on again: one of them may be
        lost.
        """
        phase, state = self._phases[self.context.state.position], self.context.state
        if read.session != state.session_id:
            raise Reject(FaultKind.FOREIGN_SESSION, "got a word of another session")
        assert phase.word is not None
        if len(read.received) > self.context.limit_of(read.sender):
            raise Reject(FaultKind.OVERSIZED, "got a word that is longer than the other listeners read")
        word, rest = read.open(phase.word)
        wire.no_vectors(rest)
        waiting = self._waiting.get(word.client)
        if waiting is None or not waiting.was_shown(read.sender, word.about):
            # The answer was lost in a crash or found no room. It comes again, and then so do the words about it.
            if word.client in self._pending:
                self._waiting.note_early(read, len(state.cohort))
                return {}
            if self._took(read.sender, read.digest):
                return {}
            detail = f"got a word about {word.client:.64}, of whom no answer waits"
            raise Reject(FaultKind.OUT_OF_TURN, detail)
        step, new = self.steps[phase.round], waiting.hear(read)
        try:
            onward = self._onward(phase, read, word, waiting)
        except BaseException as error:
            if new:
                del waiting.words[read.sender]
            if not isinstance(error, Reject) or error.blame != word.client:
                raise
            if new:
                self._remember(read)
            return self._refuse(word.client, error)
        if new:
            self._remember(read)
        waiting.show(onward)
        if not waiting.words.keys() >= set(self._listeners(phase)):
            return _raw(onward)
        try:
            step.take(self, waiting.envelope, waiting.message, waiting.payload)
        except Reject as refused:
            return self._refuse(word.client, refused)
        except MPCError as error:
            return self._refuse(word.client, Reject(FaultKind.INVALID, str(error)))
        self._accept(waiting.envelope)
        return _raw(onward) | self._make_room(word.client)

    def _onward(self, phase: Phase, read: Envelope, word: Word, waiting: Waiting) -> dict[str, Envelope]:
        """What is handed on because of a word: other listeners' words, parts of the client, or the server's own."""
        hear = self.steps[phase.round].hear
        if hear is None:
            return {}
        handed = hear(self, read, word, waiting)

        def check(one: Envelope) -> None:
            if all(one.raw != known.raw for known in waiting.words.values()):
                check_part(self.context, phase, word.client, one)

        try:
            return self._handed(phase, handed, check)
        except Reject as refused:  # it would be so each time, and the answer would wait until the round ends
            raise Reject(refused.kind, refused.detail, blame=word.client) from refused

    def _may_refuse(self, sender: str) -> bool:
        return any(self._has_word(phase, sender) for phase in self._phases)

    def _take_refusal(self, read: Envelope) -> Outbox:
        """Refuse the answer of which a listener refused what it was shown, if that answer still waits."""
        if self._took(read.sender, read.digest):
            return {}
        if read.session != self.context.state.session_id:
            raise Reject(FaultKind.FOREIGN_SESSION, "got a refusal of another session")
        refusal, rest = read.open(Refusal)
        wire.no_vectors(rest)
        client = self._waiting.shown_to(read.sender, refusal.about)
        if client is None:
            self._waiting.note_early(read, len(self.context.state.cohort))
            return {}
        self._remember(read)
        return self._refuse(client, Reject(FaultKind.INVALID, f"{read.sender} refused what it got of this answer"))

    def _refuse(self, client: str, refused: Reject) -> Outbox:
        """Refuse the waiting answer of ``client`` for good; the client stays pending, and has no other answer."""
        self.context.blame(refused.blame or client, refused.kind, refused.detail)
        self._waiting.refuse(client)
        return self._make_room(client)

    def _make_room(self, client: str) -> Outbox:
        """The answer of ``client`` waits no more; returns the request of a client whose answer now has room."""
        following = self._waiting.remove(client)
        if following is None:
            return {}
        self._asks = self._asks or self._requests()
        message, payload = self._asks[following]
        return {following: self.context.seal(message, payload)}

    def _refusal(self, sender: str, read: Envelope | tuple[FaultKind, str]) -> Reject | None:
        """Why a message of this kind is not taken from ``sender`` now; None if it may be taken."""
        refused = None if isinstance(read, Envelope) else Reject(*read)
        if refused is not None and refused.kind is FaultKind.UNKNOWN_SENDER:
            return refused
        if not self.context.open:
            return Reject(FaultKind.OUT_OF_TURN, "got a message after the session's end")
        phase = self._phases[self.context.state.position]
        if sender not in self._asked and not (refused and self._has_word(phase, sender)):
            return Reject(FaultKind.OUT_OF_TURN, f"got a message of {sender}, who was not asked in {phase.round}")
        if not isinstance(read, Envelope):
            return refused
        if read.session != self.context.state.session_id:
            detail = "got a message of another session; its sender answered another server, or an earlier session"
            return Reject(FaultKind.FOREIGN_SESSION, detail)
        if read.kind != phase.reply.TYPE:
            return Reject(FaultKind.OUT_OF_TURN, f"got message type {read.kind}; this is {phase.round}")
        if sender not in self._pending:
            return Reject(FaultKind.DUPLICATE, "got another message than the one taken in this round")
        return None

    @property
    @atomic
    def taken(self) -> dict[str, tuple[bytes, ...]]:
        """What :meth:`took` looks in: by sender, the first 16 bytes of the digest of each message, as they came."""
        return {
            sender: tuple(bytes(tags[at : at + _TAG]) for at in range(0, len(tags), _TAG))
            for sender, tags in self.context.state.taken.items()
        }

    def _took(self, sender: str, digest: bytes) -> bool:
        """Whether this message was taken before.

        ``take`` asks this only of bytes that can't be taken now, because the answers of two rounds may be the same
        bytes.
        """
        tags, tag = self.context.state.taken.get(sender, b""), digest[:_TAG]
        at = tags.find(tag)
        while at % _TAG and at > 0:  # found across two tags
            at = tags.find(tag, at + 1)
        return at >= 0

    def _blame_silent(self, phase: Phase, silent: Sequence[str]) -> None:
        """Record each silent party: one that did not answer, or the listeners for whose word its answer waited."""
        owing: dict[str, str] = {}
        for party in silent:
            listeners = self._waiting.awaited_by(party, self._listeners(phase))
            if listeners is None:
                self.context.blame(party, FaultKind.SILENT, "")
            for listener in listeners or ():
                owing.setdefault(listener, party)
        for listener, client in sorted(owing.items()):
            detail = f"gave no word about the answer of {client}, so that it was not taken"
            self.context.blame(listener, FaultKind.SILENT, detail)

    def _nothing_waits(self) -> WaitingAnswers:
        return WaitingAnswers(self._phases[max(0, self.context.state.position)].awaiting)

    def _requests(self) -> Mapping[str, Reply]:
        return self.steps[self._phases[self.context.state.position].round].ask(self)

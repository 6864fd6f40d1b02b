"""How a client, a decryptor or an aggregator takes what the server hands on to it from other parties."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind
from secagg.identity import is_listed
from secagg.roles.hooks import AnyState, MemberHooks
from secagg.roles.state import ListenerState
from secagg.table import Phase, Word
from secagg.wire import Envelope, Reject

_SPOKEN = "got another message about {}; the word on the first one stands"


class Hearing(MemberHooks[AnyState]):
    """The part of a member that listens; :class:`secagg.roles.Member` answers the server's requests."""

    _phases: Sequence[Phase]  # that ask this role
    _relayed: Sequence[Phase]  # in which the server hands messages on to this role
    _spoken: dict[bytes, bytes]  # this role's words, by the digest of what each is about

    @property
    def id(self) -> str:
        """The party's id."""
        return self._state.id

    @property
    def _ended(self) -> bool:
        raise NotImplementedError

    def _commit(self, draft: AnyState, row: bytes | None = None) -> None:
        raise NotImplementedError

    def _check_table(self) -> None:
        """``ConfigError`` for a class that lacks a method or a state for what the protocol's table asks of it."""
        heard = self._relayed
        lacking = [f"answers[{phase.round!s}]" for phase in self._phases if phase.round not in self.answers]
        lacking += [f"overhears[{phase.round!s}]" for phase in heard if phase.round not in self.overhears]
        if any(phase.word for phase in heard) and not isinstance(self._state, ListenerState):
            lacking += ["a state_type that is a ListenerState"]
        kinds = [kind.TYPE for phase in heard for kind in (phase.handed_on, phase.word) if kind is not None]
        if len(kinds) != len(set(kinds)):
            raise ConfigError(
                f"{self.context.task.protocol.name} hands on messages of one type in two rounds; give each its own"
            )
        requests = {phase.request.TYPE for phase in self._phases}
        if both := [phase.round for phase in heard if phase.relayed and phase.relayed.TYPE in requests]:
            raise ConfigError(
                f"{self.context.task.protocol.name} hands on in {both[0]} what it also sends as a request; give "
                "the two messages different types"
            )
        if lacking:
            raise ConfigError(
                f"{type(self).__name__} has no {', '.join(lacking)}, which its protocol's table needs"
            )

    def _check_type(self, message: object, expected: type[wire.Message] | None, name: str) -> None:
        if expected is None or not isinstance(message, expected):
            stated = "no answer" if expected is None else expected.__name__
            raise ConfigError(
                f"{type(self).__name__} answered {type(message).__name__} in {name}; the protocol's table has "
                f"{stated} there: correct one of them"
            )

    def _listens_in(self, envelope: Envelope) -> Phase | None:
        """The row of the table by which the server hands such a message on to this role; None if there is none."""
        for phase in self._relayed:
            if envelope.kind == phase.handed_on.TYPE and (envelope.sender != wire.SERVER or phase.relayed):
                return phase
            if phase.word is not None and envelope.kind == phase.word.TYPE and envelope.sender != wire.SERVER:
                return phase
        return None

    def _overhear(self, envelope: Envelope, phase: Phase) -> bytes | None:
        """Take a message that the server handed on; returns this role's word on it, if the protocol has words.

        It is signed by the party that was asked or, if it is a word itself, by another listener; or it is the
        server's own, which is believed as little as a request.
        """
        state, kind, signer = self._state, phase.handed_on, phase.role
        if phase.word is not None and envelope.kind == phase.word.TYPE:
            kind, signer = phase.word, self.role
        if not state.session_id or envelope.session != state.session_id:
            raise Reject(FaultKind.FOREIGN_SESSION, "got a relayed message of another session")
        if envelope.sender != wire.SERVER:
            self.context.check_signature(envelope, signer)
        if kind is phase.word and envelope.sender == self.id:
            raise Reject(FaultKind.INVALID, "got this party's own word; expected another listener's")
        if (sealed := self._spoken.get(envelope.digest)) is not None:
            return sealed
        if self.heard(envelope):
            return None
        if self._ended:
            raise Reject(FaultKind.OUT_OF_TURN, "got another party's message after the end of the session")
        return self._listen(envelope, phase, kind)

    def _listen(self, envelope: Envelope, phase: Phase, kind: type[wire.Message]) -> bytes | None:
        """Have the protocol take a message that is genuine and new; returns this role's word on it."""
        message, payload = envelope.open(kind)
        if kind is phase.word or not phase.handed_on_vectors:
            wire.no_vectors(payload)
        draft = msgspec.structs.replace(self._state)
        word = self.overhears[phase.round](self, draft, envelope, message, payload)
        sealed = None
        if word is not None:
            self._check_type(word, phase.word, phase.round)
            assert isinstance(draft, ListenerState)  # held to it when the role was made
            self._check_word(draft, envelope, word)
            sealed = self.context.seal(draft, word)
            self.add(draft.words, word.client, (envelope.digest, sealed))
            self.add(self._spoken, envelope.digest, sealed)
        self._commit(draft, None if sealed else self.new_row(draft))
        return sealed

    def _check_word(self, draft: ListenerState, envelope: Envelope, word: Word) -> None:
        """Hold a role to one word about each client: more would fill its memory, and might say two things."""
        if word.about != envelope.digest:
            raise ConfigError(
                f"{type(self).__name__} gave a word about another message than it got; set about=envelope.digest"
            )
        if not is_listed(word.client, draft.cohort):
            raise Reject(FaultKind.INVALID, f"got a message about {word.client!s:.64}, who is not in the cohort")
        if word.client in draft.words:
            raise Reject(FaultKind.DUPLICATE, _SPOKEN.format(word.client), blame=word.client)
        try:
            self.context.claim(envelope.digest, "word", draft.session_id, word.client)
        except Aborted as clash:  # this role was rolled back, which no client's second answer may make worse
            raise Reject(FaultKind.DUPLICATE, _SPOKEN.format(word.client), blame=word.client) from clash

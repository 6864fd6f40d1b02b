"""What the server hands on while a round is open: messages for other parties, and answers that await their word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from secagg import wire
from secagg._numbers import is_a
from secagg.errors import ConfigError, FaultKind, kind_of, shown
from secagg.relay import check_relayed
from secagg.roles.context import ServerContext
from secagg.table import Phase
from secagg.wire import Envelope, Reject

ForListener = bytes | tuple[wire.Message, bytes]
"""A message for a listener: the bytes that a party signed, or a message of the server's own and its vectors."""


@dataclass(frozen=True)
class Waiting:
    """A client's answer that awaits the word of each listener.

    ``envelope`` is the whole answer, ``message`` its structured part, and ``payload`` its vectors. ``words`` are
    those that came, by listener. ``shown`` has the digests of the messages that were handed on because of this
    answer, by receiver.
    """

    envelope: Envelope
    message: Any
    payload: memoryview
    shown: dict[str, set[bytes]] = field(default_factory=dict)
    words: dict[str, Envelope] = field(default_factory=dict)

    def hear(self, word: Envelope) -> bool:
        """Keep ``word``; returns whether it is new. ``Reject`` if its sender gave another one before."""
        earlier = self.words.setdefault(word.sender, word)
        if earlier.digest != word.digest:
            raise Reject(FaultKind.DUPLICATE, f"got a second word about {self.envelope.sender}; the first stands")
        return earlier is word

    def show(self, messages: Mapping[str, Envelope]) -> None:
        """Note that ``messages`` are handed on too, by receiver."""
        for party, one in messages.items():
            self.shown.setdefault(party, set()).add(one.digest)

    def was_shown(self, party: str, digest: bytes) -> bool:
        """Whether ``party`` got the message with this ``digest`` because of this answer."""
        return digest in self.shown.get(party, ())

    def owing(self, listeners: Iterable[str]) -> set[str]:
        """Those of ``listeners`` that were shown something and gave no word.

        If there are none, all that gave no word.
        """
        without = set(listeners) - self.words.keys()
        return without & self.shown.keys() or without


class WaitingAnswers:
    """The answers of the open round that await words: ``most`` at a time, in memory only.

    An answer that finds no room is dropped, and its sender is asked again when there is room. An answer that was
    refused is final: a client that could send one after the other would keep a place that others need. A server
    that is restored has none of these answers, and asks for all of them again; clients and listeners repeat their
    bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: dict[str, Waiting] = {}
        self._turned_away: dict[str, bytes] = {}  # digests, by client
        self._refused: dict[str, bytes] = {}  # digests, by client
        self._early: dict[str, set[bytes]] = {}  # digests, by listener

    def get(self, client: str) -> Waiting | None:
        """The answer of ``client`` that waits, if one does."""
        return self._answers.get(client)

    def shown_to(self, party: str, digest: bytes) -> str | None:
        """The client because of whose answer ``party`` got the message with this digest, if that answer waits."""
        return next((name for name, one in self._answers.items() if one.was_shown(party, digest)), None)

    def admits(self, answer: Envelope) -> bool:
        """Whether these bytes may wait: not if they were refused. ``Reject`` for another answer of the client."""
        earlier = self._answers.get(answer.sender)
        if earlier is not None and earlier.envelope.digest != answer.digest:
            raise Reject(FaultKind.DUPLICATE, "got another message than the one that waits")
        refused = self._refused.get(answer.sender)
        if refused not in (None, answer.digest):
            raise Reject(FaultKind.DUPLICATE, "got another message than the one that was refused")
        return refused is None

    def add(self, waiting: Waiting, parts: Mapping[str, Envelope]) -> bool:
        """Keep an answer, of which ``parts`` are handed on, if there is room; returns whether it waits now."""
        client = waiting.envelope.sender
        if client not in self._answers and len(self._answers) >= self._most:
            self._turned_away[client] = waiting.envelope.digest
            return False
        self._turned_away.pop(client, None)
        self._answers.setdefault(client, waiting).show(parts)
        return True

    def refuse(self, client: str) -> None:
        """Note that the answer of ``client`` was refused for good."""
        self._refused[client] = self._answers[client].envelope.digest

    def remove(self, client: str) -> str | None:
        """Make room: the answer of ``client`` waits no more. Returns a client that found no room, to ask it again.

        That client goes to the end of the line, in case its answer is lost on the way.
        """
        self._answers.pop(client, None)
        following = next(iter(self._turned_away), None)
        if following is not None:
            self._turned_away[following] = self._turned_away.pop(following)
        return following

    def note_early(self, word: Envelope, most: int) -> None:
        """Note what a listener said of an answer that doesn't wait now: ``most`` such messages of each listener."""
        noted = self._early.setdefault(word.sender, set())
        if len(noted) < most:
            noted.add(word.digest)

    def untaken(self) -> Iterator[tuple[str, bytes]]:
        """The sender and the digest of each message that came and was not taken, though nothing is wrong with it.

        An answer that was refused is among them: its sender has the fault already.
        """
        yield from ((client, waiting.envelope.digest) for client, waiting in self._answers.items())
        yield from self._turned_away.items()
        yield from self._refused.items()
        yield from ((listener, digest) for listener, noted in self._early.items() for digest in sorted(noted))

    def awaited_by(self, client: str, listeners: Iterable[str]) -> set[str] | None:
        """The listeners for whose word the answer of ``client`` waits, or for room; None if there is no answer."""
        if client in self._answers:
            return self._answers[client].owing(listeners)
        if client in self._turned_away:
            return set().union(*(waiting.owing(listeners) for waiting in self._answers.values()))
        return None


def check_handed(
    context: ServerContext[Any],
    phase: Phase,
    listeners: tuple[str, ...],
    handed: object,
    check: Callable[[Envelope], None],
) -> dict[str, Envelope]:
    """What a protocol hands on, by receiver; ``Reject`` if a message would be refused there.

    Bytes are a party's message, which ``check`` refuses if it is not. Only a message that the protocol returns
    unsealed becomes the server's own: an envelope without a sender inside a party's bytes is that party's forgery.
    ``ConfigError`` for what no protocol may return, however long it is.
    """
    if not is_a(handed, (Mapping,)):
        raise ConfigError(_RETURNED.format(phase.round, f"a {kind_of(handed)}"))
    checked: dict[str, Envelope] = {}
    known: dict[int, tuple[ForListener, Envelope]] = {}  # holds what it names, so that no id is used twice
    for receiver in handed:  # type: ignore[attr-defined]
        if not is_a(receiver, str) or receiver in checked:
            raise ConfigError(_RETURNED.format(phase.round, f"a mapping with the key {shown(receiver)}"))
        if receiver not in listeners:
            raise Reject(FaultKind.INVALID, f"got a part for {shown(receiver)}, who doesn't listen here")
        one = handed[receiver]  # type: ignore[index]
        if id(one) not in known:
            own = is_a(one, tuple)
            if not own and not is_a(one, bytes | bytearray | memoryview):
                raise ConfigError(_RETURNED.format(phase.round, f"a {kind_of(one)}"))
            envelope = Envelope.parse(_own(context, phase, one) if own else one, context.limit_of(receiver))
            if not own:
                check(envelope)
            known[id(one)] = one, envelope
        checked[receiver] = known[id(one)][1]
    return checked


_RETURNED = (
    "the server's step for {} hands on {}; expected a mapping from the ids of listeners, each once, to bytes that "
    "a party signed, or to a message of the type relayed= of the table and its vectors"
)


def _own(context: ServerContext[Any], phase: Phase, one: Any) -> bytes:
    """A message of the server's own, sealed."""
    fits = len(one) == 2 and phase.relayed is not None and is_a(one[0], phase.relayed) and is_a(one[1], bytes)
    if not fits or (one[1] and not phase.relayed_vectors):
        kinds = ", ".join(kind_of(item) for item in one[:2])
        raise ConfigError(_RETURNED.format(phase.round, f"({kinds})"))
    return context.seal(*one)


def check_part(context: ServerContext[Any], phase: Phase, sender: str, part: Envelope) -> None:
    """``Reject`` a part in the answer of ``sender`` unless it is of the phase's type, and ``sender`` signed it."""
    check_relayed(part, context.task, context.state.session_id, phase.handed_on)
    if part.sender != sender:
        raise Reject(FaultKind.INVALID, f"got a part of {part.sender or 'the server'} in the answer of {sender}")
    context.check_signature(part, phase.role)
    _, vectors = part.open(phase.handed_on)
    if not phase.handed_on_vectors:
        wire.no_vectors(vectors)

"""What the server hands on while a round is open: messages for other parties, and answers that await their word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from secagg import wire
from secagg.errors import FaultKind
from secagg.relay import check_relayed
from secagg.roles.context import ServerContext
from secagg.table import Phase
from secagg.wire import Envelope, Reject


@dataclass(frozen=True)
class Waiting:
    """A client's answer that awaits the word of each listener.

    ``words`` are those that came, by listener; ``shown`` are the parties to which some of the answer was handed on.
    """

    envelope: Envelope
    message: Any
    payload: memoryview
    shown: frozenset[str]
    words: Mapping[str, Envelope] = field(default_factory=dict)

    def with_word(self, word: Envelope) -> Waiting:
        """The same with one more word; ``Reject`` if its sender gave another one before."""
        earlier = self.words.get(word.sender)
        if earlier is not None and earlier.digest != word.digest:
            raise Reject(FaultKind.DUPLICATE, f"got a second word about {self.envelope.sender}; the first stands")
        return replace(self, words={**self.words, word.sender: word})

    def shown_to(self, parties: Iterable[str]) -> Waiting:
        """The same, with something handed on to ``parties`` too."""
        return replace(self, shown=self.shown.union(parties))

    def owing(self, listeners: Iterable[str]) -> set[str]:
        """The listeners that were shown something and gave no word; if there are none, all without a word."""
        without = set(listeners) - self.words.keys()
        return without & self.shown or without


class WaitingAnswers:
    """The answers of the open round that await words: ``most`` at a time, in memory only.

    An answer that finds no room is dropped, and its sender is asked again when there is room. A server that is
    restored has none of these answers, and asks for all of them again; clients and listeners repeat their bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: dict[str, Waiting] = {}
        self._turned_away: dict[str, None] = {}

    def get(self, client: str) -> Waiting | None:
        """The answer of ``client`` that waits, if one does."""
        return self._answers.get(client)

    def add(self, waiting: Waiting) -> bool:
        """Keep an answer if there is room; returns whether it waits now. ``Reject`` for another of its client."""
        client = waiting.envelope.sender
        earlier = self._answers.get(client)
        if earlier is not None:
            if earlier.envelope.digest != waiting.envelope.digest:
                raise Reject(FaultKind.DUPLICATE, "got another message than the one that waits")
            return True
        if len(self._answers) >= self._most:
            self._turned_away[client] = None
            return False
        self._turned_away.pop(client, None)
        self._answers[client] = waiting
        return True

    def update(self, waiting: Waiting) -> None:
        """Keep what came in for an answer that waits."""
        self._answers[waiting.envelope.sender] = waiting

    def remove(self, client: str) -> str | None:
        """Make room: the answer of ``client`` waits no more. Returns a client that found no room, to ask it again.

        That client goes to the end of the line, in case its answer is lost on the way.
        """
        self._answers.pop(client, None)
        following = next(iter(self._turned_away), None)
        if following is not None:
            self._turned_away[following] = self._turned_away.pop(following)
        return following

    def awaited_by(self, client: str, listeners: Iterable[str]) -> set[str] | None:
        """The listeners for whose word the answer of ``client`` waits, or for room; None if there is no answer."""
        if client in self._answers:
            return self._answers[client].owing(listeners)
        if client in self._turned_away:
            return set().union(*(waiting.owing(listeners) for waiting in self._answers.values()))
        return None


def check_parts(
    context: ServerContext[Any], phase: Phase, sender: str, parts: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The ``parts`` of an answer, by receiver; ``Reject`` if one of them would be refused there.

    Each part is signed by ``sender`` and of the phase's type, or is the server's own message, and is no longer than
    its receiver reads.
    """
    for receiver, data in parts.items():
        envelope = _check_sent(context, receiver, data)
        if envelope.sender == wire.SERVER:
            continue
        check_relayed(envelope, context.task, context.state.session_id, phase.handed_on)
        if envelope.sender != sender:
            raise Reject(FaultKind.INVALID, f"got a part of {envelope.sender} in the answer of {sender}")
        context.check_signature(envelope, phase.role)
    return dict(parts)


def check_messages(context: ServerContext[Any], messages: Mapping[str, bytes]) -> dict[str, bytes]:
    """The ``messages`` that follow a word, by receiver; ``Reject`` if one is longer than its receiver reads."""
    for receiver, data in messages.items():
        _check_sent(context, receiver, data)
    return dict(messages)


def _check_sent(context: ServerContext[Any], receiver: str, data: bytes) -> Envelope:
    if not context.knows(receiver):
        raise Reject(FaultKind.INVALID, f"got a part for {receiver!s:.64}, who is not enrolled")
    return Envelope.parse(data, context.limit_of(receiver))

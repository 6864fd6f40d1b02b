"""What each party of a session has to get next: clients' requests and few other messages, and listeners' files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from secagg.api.documents import Framed
from secagg.api.routes import LARGEST_BATCH, LARGEST_BATCH_BYTES
from secagg.service.relays import Relays


class Batch(NamedTuple):
    """Messages for one party, and the cursor behind them."""

    messages: Sequence[tuple[int, bytes | memoryview]]
    cursor: str


_NUMBER: Final = re.compile(r"[0-9]{1,18}\Z", re.ASCII)  # int() refuses thousands of digits


class Inboxes:
    """The messages for the parties of one session; only the event loop's thread calls it.

    A client has at most a few messages at a time: the open round's request, or the word that the session goes on
    without it. A listener's messages may be as large as all uploads together, so they are in files, in the order in
    which the server made them. A cursor says what a party has handled: for a client its round and the number of
    the message within it, for a listener the number of the message in its file, which a restart of the service
    does not change.
    """

    def __init__(self, session: str, relays: Relays, listeners: frozenset[str]) -> None:
        self._mark = session[:16]
        self._relays, self._listeners = relays, listeners
        self._round = 0
        self._requests: Mapping[str, bytes] = {}
        self._more: dict[str, list[Framed]] = {}  # what was handed on to clients after their requests

    def open(self, number: int, outbox: Mapping[str, bytes]) -> None:
        """Replace the clients' messages by those of the round ``number``; they answer no older one."""
        self._round, self._requests, self._more = number, outbox, {}

    def add(self, number: int, outbox: Mapping[str, bytes]) -> None:
        """Add what the server handed on to clients in the round ``number``."""
        for party, data in outbox.items():
            if party not in self._listeners:
                self._more.setdefault(party, []).append(Framed(number, data))

    def close(self, number: int, outbox: Mapping[str, bytes]) -> None:
        """The session is over: only ``outbox`` is left, also for listeners, whose files are gone."""
        self._listeners = frozenset()
        self.open(number + 1, outbox)

    def is_of(self, after: str) -> bool:
        """Whether the cursor ``after`` is of this session."""
        return after.partition(".")[0] == self._mark

    def waits(self, party: str, after: str) -> bool:
        """Whether there is a message behind the cursor ``after``; reads no file."""
        if party in self._listeners:
            return self._listened(after) < self._relays.count(party)
        return self._handled(after) < self._count(party)

    def read(self, party: str, after: str) -> Batch:
        """The messages behind the cursor ``after``; for a listener this reads its file."""
        if party in self._listeners:
            start = self._listened(after)
            read = self._relays.read(party, start, LARGEST_BATCH, LARGEST_BATCH_BYTES)
            return Batch(read, f"{self._mark}.{start + len(read)}")
        messages, start = list(self._more.get(party, ())), self._handled(after)
        if party in self._requests:
            if start:
                start -= 1
            else:
                messages.insert(0, Framed(self._round, self._requests[party]))
        return Batch(messages[start:], f"{self._mark}.{self._round}.{self._count(party)}")

    def _count(self, party: str) -> int:
        """How many messages a client has in this round."""
        return (party in self._requests) + len(self._more.get(party, ()))

    def _listened(self, after: str) -> int:
        mark, _, index = after.partition(".")
        return int(index) if mark == self._mark and _NUMBER.match(index) else 0

    def _handled(self, after: str) -> int:
        return _after(after, self._mark, self._round)


def _after(after: str, mark: str, number: int) -> int:
    parts = after.split(".")
    fits = len(parts) == 3 and parts[0] == mark and all(map(_NUMBER.match, parts[1:]))
    return int(parts[2]) if fits and int(parts[1]) == number else 0

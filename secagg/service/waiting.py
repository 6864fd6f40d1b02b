"""Parties that wait for something to do: one long poll each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

_AT_ONCE = 64  # polls that are answered at the same moment
_A_SECOND = 500  # of the others, in random order: a round's start wakes everyone


class Polls:
    """The waiting polls by party; only the event loop's thread calls it."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, party: str, seconds: float) -> bool:
        """Wait until ``party`` has something to do; False if it has not, or polls anew from elsewhere."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        older, self._waiting[party] = self._waiting.get(party), mine
        if older is not None and not older.done():
            older.set_result(False)
        timer = loop.call_later(seconds, _answer, mine, False)
        try:
            return await mine
        finally:
            timer.cancel()
            if self._waiting.get(party) is mine:
                del self._waiting[party]

    def wake(self, parties: Iterable[str]) -> None:
        """Let the polls of ``parties`` return: all at once if they are few, else spread over time."""
        polls = [self._waiting[party] for party in parties if party in self._waiting]
        if len(polls) > _AT_ONCE:
            random.shuffle(polls)
        loop = asyncio.get_running_loop()
        for number, one in enumerate(polls):
            if number < _AT_ONCE:
                _answer(one, True)
            else:
                loop.call_later((number - _AT_ONCE) / _A_SECOND, _answer, one, True)

    def wake_all(self, answer: bool = True) -> None:
        """Let all polls return at once, as when the service stops."""
        for one in list(self._waiting.values()):
            _answer(one, answer)

    @property
    def parties(self) -> list[str]:
        """Who waits."""
        return list(self._waiting)


def _answer(waiting: asyncio.Future[bool], value: bool) -> None:
    if not waiting.done():
        waiting.set_result(value)

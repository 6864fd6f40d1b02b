"""The time between an offer and a session: who takes part?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from secagg.api.documents import Offer
from secagg.errors import Aborted
from secagg.service.schedule import Schedule
from secagg.task import Task


class Gathering:
    """An offer, and the answers to it; only the event loop's thread calls it. A restart asks everyone again."""

    def __init__(self, key: str, offer: Offer, eligible: Sequence[str] | None) -> None:
        self.key, self.offer = key, offer
        self.accepted: set[str] = set()
        self.declined: set[str] = set()
        self.closed = False  # the cohort is chosen
        self._eligible = None if eligible is None else frozenset(eligible)  # None: whoever asks, without a roster
        self._began = asyncio.get_running_loop().time()
        self._changed = asyncio.Event()

    @property
    def offered(self) -> int:
        """To how many clients the round is offered; 0 if to whoever asks."""
        return 0 if self._eligible is None else len(self._eligible)

    def offers(self, party: str) -> bool:
        """Whether ``party`` is to get the offer: it may take part, and has not answered."""
        waits = self.includes(party) and party not in self.accepted and party not in self.declined
        return waits and not self.closed

    def includes(self, party: str) -> bool:
        """Whether the round is offered to ``party``."""
        return self._eligible is None or party in self._eligible

    def answer(self, party: str, accepts: bool) -> bool:
        """Note an answer, which a later one replaces. False if it is too late and not the one that was given."""
        if self.closed:
            return party in (self.accepted if accepts else self.declined)
        (self.accepted if accepts else self.declined).add(party)
        (self.declined if accepts else self.accepted).discard(party)
        self._changed.set()
        return True

    @property
    def seconds(self) -> float:
        """The time since the offer was made."""
        return asyncio.get_running_loop().time() - self._began

    async def ready(self, task: Task, schedule: Schedule) -> None:
        """Wait until enough clients have accepted; ``Aborted`` if so many declined that too few are left."""
        while True:
            most = task.max_clients if self._eligible is None else len(self._eligible - self.declined)
            if schedule.ready(task, len(self.accepted), most, self.seconds):
                return
            needed = max(schedule.min_ready or 0, task.min_survivors)
            if most < needed and self.seconds >= schedule.gather:
                raise Aborted(
                    f"{len(self.declined)} clients declined, so {most} are left; a session needs {needed}"
                )
            self._changed.clear()
            wait = schedule.gather - self.seconds
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait if wait > 0 else None)

"""The faults that a role keeps; their number is bounded, whatever others send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from secagg.errors import Fault

FAULTS_KEPT = 256  # of one party, besides the first of each kind
MOST_FAULTS = 4096  # of all parties together, besides the first of each kind of each party


class FaultRecord:
    """The faults that are kept, oldest first.

    A flood of faults must neither fill the memory nor displace the faults of another party. So the first fault of
    each kind of each party is always kept. Of the others, at most ``FAULTS_KEPT`` of one party are kept, and at
    most ``MOST_FAULTS`` in all. Anyone can invent names, so all parties that ``knows`` doesn't know count as one.
    """

    def __init__(self, knows: Callable[[str], bool], kept: list[Fault] | None = None) -> None:
        self._knows = knows
        self.kept: list[Fault] = []
        self._first: set[tuple[str, str]] = set()
        self._count: Counter[str] = Counter()
        self._room = MOST_FAULTS
        for fault in kept or []:
            self.add(fault)

    def add(self, fault: Fault) -> bool:
        """Keep ``fault`` if there is room; returns whether there was."""
        owner = fault.sender if self._knows(fault.sender) else ""
        if (owner, fault.kind) not in self._first:
            self._first.add((owner, fault.kind))
        elif self._room and self._count[owner] < FAULTS_KEPT:
            self._room -= 1
        else:
            return False
        self._count[owner] += 1
        self.kept.append(fault)
        return True

    def forget(self, since: int) -> None:
        """Drop all but the first ``since`` faults."""
        kept, self.kept = self.kept[:since], []
        self._first.clear()
        self._count.clear()
        self._room = MOST_FAULTS
        for fault in kept:
            self.add(fault)

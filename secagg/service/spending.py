"""The ε that a run has spent, for operators."""

from __future__ import annotations

import math

from secagg.service.status import PrivacyStatus
from secagg.task import Task


class Spending:
    """ε of one task's run at the encoding's δ. Accounting takes milliseconds, so it runs once a session.

    Each session that began counts, also one that failed: a server may hold the sum of a session that it gave up.
    """

    def __init__(self, task: Task) -> None:
        release, delta = task.encoder.release(task.layout.size), getattr(task.encoder, "delta", None)
        self._event = None if release is None or delta is None else release.event
        self._delta = delta or 0.0
        self._known: dict[int, float | None] = {0: 0.0}

    def after(self, sessions: int) -> float | None:
        """ε after so many sessions; None if there is no noise, or no bound is known."""
        if self._event is None:
            return None
        if sessions not in self._known:
            from dp.accounting import RDPAccountant
            from dp.errors import DPError

            try:
                spent = RDPAccountant(self._delta).epsilon_after(self._event, sessions)
            except DPError:
                spent = math.inf
            first = {count: self._known[count] for count in (0, 1) if count in self._known}
            self._known = first | {sessions: spent if math.isfinite(spent) else None}
        return self._known[sessions]

    def status(self, sessions: int, realised: float | None) -> PrivacyStatus | None:
        """What the document says of ε; ``realised`` is that of the last session with a sum."""
        if self._event is None:
            return None
        return PrivacyStatus(
            delta=self._delta,
            guaranteed=self.after(1),
            realised=realised,
            spent=self.after(sessions),
            releases=sessions,
        )

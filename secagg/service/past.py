"""Sessions that ended: as each ends, and as a service that is started again finds them in its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from secagg.service.database import Database
from secagg.service.run import Run
from secagg.service.running import Running
from secagg.service.status import MOST_HISTORY, PastSession
from secagg.service.tables import CLOSED, SessionRow


@dataclass(frozen=True)
class Recalled:
    """What the folder remembers for operators: the newest sessions first; ``seen`` is by task and party.

    The times in ``seen`` are on the monotonic clock.
    """

    history: tuple[PastSession, ...]
    seen: dict[tuple[str, str], float]


def recall(database: Database, runs: dict[str, Run]) -> Recalled:
    """Give each of ``runs`` its counts of ended sessions, and return what all share; before the service answers.

    The counts must outlive the process, because the ε that a run has spent follows from them.
    """
    for run in runs.values():
        counts = database.count_ended(run.task.digest)
        run.done, run.failed = counts.get("done", 0), counts.get("failed", 0)
    rows = [row for row in database.recent_sessions(MOST_HISTORY) if row.state in CLOSED and row.task.hex() in runs]
    past = [(row, database.outcome_document(row.key)) for row in rows]
    for row, outcome in reversed(past):
        run = runs[row.task.hex()]
        run.number = max(run.number, row.round)
        if outcome is not None:
            run.epsilon_realised = outcome["epsilon_realised"]
    now, monotonic = time.time(), time.monotonic()
    seen = {
        (key, party): monotonic - max(0.0, now - at)
        for key, run in runs.items()
        for party, at in database.seen(run.task.digest).items()
        if run.hosted.roster is None or party in run.hosted.roster
    }
    return Recalled(tuple(_recalled(row, outcome or {}) for row, outcome in past), seen)


def _recalled(row: SessionRow, outcome: dict[str, list[object]]) -> PastSession:
    return PastSession(
        session=row.key,
        task=row.task.hex(),
        number=row.round,
        attempt=row.attempt,
        result="done" if row.state == "done" else "failed",
        ended=datetime.fromtimestamp(row.changed, UTC),
        seconds=max(0.0, row.changed - row.begun),
        cohort=len(row.cohort),
        survivors=len(outcome.get("survivors", ())),
        faults=len(outcome.get("faults", ())),
        reason=row.reason,
    )


def past_session(run: Run, one: Running) -> PastSession:
    """A session that has just ended."""
    return PastSession(
        session=one.key,
        task=run.key,
        number=one.about.number,
        attempt=one.about.attempt,
        result="done" if one.state == "done" else "failed",
        ended=datetime.now(UTC),
        seconds=one.seconds,
        cohort=len(one.cohort),
        survivors=0 if one.outcome is None else len(one.outcome.survivors),
        faults=len(one.faults),
        bytes_in=sum(view.bytes for view in one.past),
        reason=one.reason,
    )

"""When each party was last seen, for operators alone. The last seconds of it may be lost in a crash."""

from __future__ import annotations

import threading
import time

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from secagg.service.engine import Writer
from secagg.service.tables import SEEN


class Sightings:
    """When parties called, in memory until :meth:`flush`, so that no call costs a write to the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._lock = writer, threading.Lock()
        self._seen: dict[tuple[bytes, str], float] = {}

    def saw(self, task: bytes, party: str) -> None:
        """Note that a party called now."""
        with self._lock:
            self._seen[task, party] = time.time()

    def flush(self) -> None:
        """Write what was noted. ``OSError`` leaves it in memory."""
        with self._lock:
            seen, self._seen = self._seen, {}
        if not seen:
            return
        row = insert(SEEN)
        row = row.on_conflict_do_update(index_elements=["task", "party"], set_={"at": row.excluded.at})
        try:
            with self._writer.writing() as connection:
                rows = [{"task": task, "party": party, "at": at} for (task, party), at in seen.items()]
                connection.execute(row, rows)
        except OSError:
            with self._lock:
                self._seen = seen | self._seen
            raise

    def seen(self, task: bytes) -> dict[str, float]:
        """When each party of a task was last seen."""
        self.flush()
        with self._writer.reading() as connection:
            rows = connection.execute(select(SEEN).where(SEEN.c.task == task)).all()
        return {row.party: row.at for row in rows}

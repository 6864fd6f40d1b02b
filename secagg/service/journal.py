"""What is kept for operators alone: events, and when each party was seen. It may be lost in a crash."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from secagg.service.engine import Writer
from secagg.service.tables import EVENTS, SEEN, EventRow

MOST_EVENTS: Final = 10_000


class Journal:
    """Events and sightings, in memory until :meth:`flush`, so that neither costs a write to the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._lock = writer, threading.Lock()
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._seen: dict[tuple[bytes, str], float] = {}

    def event(self, kind: str, **detail: Any) -> None:
        """Note that something of ``kind`` happened now; ``detail`` has values that JSON can hold."""
        entry = {"at": time.time(), "kind": kind, "detail": json.dumps(detail)}
        with self._lock:
            self._events.append(entry)

    def saw(self, task: bytes, party: str) -> None:
        """Note that a party called now."""
        with self._lock:
            self._seen[task, party] = time.time()

    def flush(self) -> None:
        """Write what was noted; of the events, the newest 10,000 stay. ``OSError`` leaves it in memory."""
        with self._lock:
            events, seen = list(self._events), self._seen
            self._events.clear()
            self._seen = {}
        if not events and not seen:
            return
        try:
            with self._writer.writing() as connection:
                _write(connection, events, seen)
        except OSError:
            with self._lock:
                self._events = deque((*events, *self._events), MOST_EVENTS)
                self._seen = seen | self._seen
            raise

    def recent(self, most: int) -> list[EventRow]:
        """The newest events, newest first."""
        self.flush()
        with self._writer.reading() as connection:
            rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id.desc()).limit(most)).all()
        return [EventRow(row.id, row.at, row.kind, json.loads(row.detail)) for row in rows]

    def seen(self, task: bytes) -> dict[str, float]:
        """When each party of a task was last seen."""
        self.flush()
        with self._writer.reading() as connection:
            rows = connection.execute(select(SEEN).where(SEEN.c.task == task)).all()
        return {row.party: row.at for row in rows}


def _write(connection: Connection, events: list[dict[str, Any]], seen: dict[tuple[bytes, str], float]) -> None:
    if events:
        connection.execute(insert(EVENTS), events)
        newest = select(func.max(EVENTS.c.id)).scalar_subquery()
        connection.execute(delete(EVENTS).where(EVENTS.c.id <= newest - MOST_EVENTS))
    if seen:
        row = upsert(SEEN)
        row = row.on_conflict_do_update(index_elements=["task", "party"], set_={"at": row.excluded.at})
        connection.execute(row, [{"task": task, "party": party, "at": at} for (task, party), at in seen.items()])

"""The files of one session: its state, the spool of the open round, and what goes to listeners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from secagg.roles import Outcome
from secagg.service.database import Database
from secagg.service.spool import Spool
from secagg.task import Task

TAG_BYTES = 16  # of a digest, by which a server knows a message again


class SessionFiles:
    """The files of the session ``key``. Only its worker's thread calls it; :attr:`relays` has a lock."""

    def __init__(self, database: Database, task: Task, key: str, listeners: frozenset[str]) -> None:
        self.key, self.relays = key, database.relays(key)
        self._database, self._task, self._listeners = database, task, listeners
        self._relays_end = self._position = 0
        self._spool: Spool | None = None
        self.store = database.store(
            key, lambda: {"relays": self._relays_end, "position": self._position, "remaining": None}
        )

    @property
    def spool(self) -> Spool:
        """The spool of the open round."""
        assert self._spool is not None
        return self._spool

    def open_spool(self, position: int) -> Spool:
        """The spool of the round with the number ``position``, which may have messages already."""
        if self._spool is not None:
            self._spool.close()
        self._spool = self._database.spool(self.key, position)
        return self._spool

    def next_spool(self, position: int) -> None:
        """Begin the spool of the next round. That of the last one is deleted: the state holds its messages."""
        last, self._spool = self._spool, self._database.spool(self.key, position)
        if last is not None:
            last.delete()

    def relay(self, number: int, outbox: Mapping[str, bytes]) -> None:
        """Keep what goes to listeners; the same bytes are kept once."""
        shared: dict[int, tuple[bytes, list[str]]] = {}
        for party in sorted(outbox.keys() & self._listeners):
            shared.setdefault(id(outbox[party]), (outbox[party], []))[1].append(party)
        for data, parties in shared.values():
            self.relays.broadcast(parties, number, data)

    def requests(self, outbox: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The requests of a round, which the event loop reads one by one; not in memory if they are large."""
        return self._database.requests(outbox)

    def restore_relays(self) -> None:
        """Forget what was handed on after the newest state; the role hands it on again."""
        self._relays_end = self._database.session(self.key).relays
        self.relays.truncate(self._relays_end)

    def before_close(self, position: int) -> None:
        """Bring what was handed on to the disk, before the state of the round ``position`` is saved."""
        self._relays_end, self._position = self.relays.sync(), position

    @property
    def spool_bytes(self) -> int:
        """The bytes in the spool of the open round; any thread may ask."""
        spool = self._spool
        return 0 if spool is None else spool.size

    @property
    def remaining(self) -> float | None:
        """The seconds that the open round had left when they were last written."""
        return self._database.session(self.key).remaining

    def write_remaining(self, seconds: float) -> None:
        """Write how long the open round has left."""
        self._database.write_remaining(self.key, seconds)

    def finish(
        self, state: str, *, reason: str = "", taken: Mapping[str, Sequence[bytes]], outcome: Outcome | None = None
    ) -> None:
        """Write how the session ended, and delete its files."""
        self._database.finish_session(
            self.key,
            state,
            reason,
            taken=msgspec.msgpack.encode({party: b"".join(tags) for party, tags in taken.items()}),
            outcome=outcome,
            layout=None if outcome is None else self._task.layout,
            number=self.store.number,
        )
        self.close()

    def close(self) -> None:
        """Release the files."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self.relays.close()


def took(taken: bytes, party: str, digest: bytes) -> bool:
    """Whether the messages that a finished session took hold this one of ``party``; ``taken`` is its row's."""
    tags = msgspec.msgpack.decode(taken, type=dict[str, bytes]).get(party, b"") if taken else b""
    return digest[:TAG_BYTES] in (tags[at : at + TAG_BYTES] for at in range(0, len(tags), TAG_BYTES))

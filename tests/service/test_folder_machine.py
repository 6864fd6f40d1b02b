"""The service's folder against a model of it, over random orders of calls, kills, torn ends and full disks."""

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from secagg.errors import LocalProtocolError
from secagg.service.database import Database
from secagg.service.relays import Relays
from secagg.service.spool import Record, Spool

TASK, KEY = b"t" * 32, "a" * 64
MEMORY = Path("/dev/shm")

messages = st.lists(st.tuples(st.sampled_from(["c1", "c2", "c3"]), st.binary(max_size=60)), min_size=1, max_size=4)


class FolderMachine(RuleBasedStateMachine):
    """One session. The model: what is in the spool and the relays, what was saved, and what of it was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.acknowledged: list[tuple[str, bytes]] = []
        self.relayed: list[tuple[int, bytes]] = []
        self.saved_relays = 0
        self.saved: tuple[int, bytes] | None = None
        self.position = 0

    @initialize()
    def begin(self) -> None:
        self.open()
        self.database.add_task(TASK, b"task", "open")
        self.database.open_round(TASK, 1, bytes(32), "{}")
        self.database.begin_session(KEY, TASK, 1, 1, b"name", ["c1"])
        self.files()

    def open(self) -> None:
        self.database = Database.open(self.root / "service")

    def files(self) -> None:
        self.spool: Spool = self.database.spool(KEY, self.position)
        self.relays: Relays = self.database.relays(KEY)
        self.relays.truncate(self.database.session(KEY).relays)

    def teardown(self) -> None:
        self.spool.close()
        self.relays.close()
        self.database.close()
        shutil.rmtree(self.root)

    @rule(batch=messages)
    def append(self, batch: list[tuple[str, bytes]]) -> None:
        self.spool.append([Record(sender, hashlib.sha256(data).digest(), data) for sender, data in batch])
        self.acknowledged += batch

    @rule(batch=messages, call=st.sampled_from(["pwritev", "fdatasync"]))
    def append_on_a_full_disk(self, batch: list[tuple[str, bytes]], call: str) -> None:
        full = mock.Mock(side_effect=OSError(errno.ENOSPC, "full"))
        with mock.patch.object(os, call, full), pytest.raises(OSError, match="full"):
            self.spool.append([Record(sender, bytes(32), data) for sender, data in batch])

    @rule(data=st.binary(max_size=30))
    def relay(self, data: bytes) -> None:
        self.relays.append("agg1", self.position, data)
        self.relayed.append((self.position, data))

    @rule(state=st.binary(max_size=30), step=st.integers(1, 3))
    def close_round(self, state: bytes, step: int) -> None:
        number = step + (self.saved[0] if self.saved else 0)
        end = self.relays.sync()
        self.database.store(KEY, lambda: {"position": self.position + 1, "relays": end})(number, state)
        self.saved, self.saved_relays = (number, state), len(self.relayed)
        self.spool.delete()
        self.position += 1
        self.spool, self.acknowledged = self.database.spool(KEY, self.position), []

    @precondition(lambda self: self.saved is not None)
    @rule(back=st.integers(0, 3))
    def an_older_role_is_refused(self, back: int) -> None:
        assert self.saved is not None
        with pytest.raises(LocalProtocolError, match="must not overwrite"):
            self.database.store(KEY)(self.saved[0] - back, b"older")

    @rule(torn=st.binary(max_size=80), orphan=st.booleans())
    def kill(self, torn: bytes, orphan: bool) -> None:
        """The spool gets a torn end; of the relays, what no state covers is lost."""
        end = self.spool.path
        self.spool.close()
        self.relays.close()
        self.database.close()
        with end.open("ab") as file:
            file.write(torn)
        if orphan:
            (self.root / "service" / "states" / f"{KEY}.99.00").write_bytes(b"written, but the row did not move")
        self.open()
        self.files()
        del self.relayed[self.saved_relays :]

    @invariant()
    def agrees_with_the_model(self) -> None:
        records = [(one.sender, bytes(one.data)) for one in self.spool.replay()]
        assert records == self.acknowledged
        assert len(self.spool) == len(records)
        assert [tuple(one) for one in self.relays.read("agg1", 0, 1 << 20, 1 << 40)] == self.relayed
        assert self.database.store(KEY).load() == (self.saved[1] if self.saved else None)
        states = os.listdir(self.root / "service" / "states")
        assert states == ([self.database.session(KEY).file] if self.saved else [])


FolderMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_the_folder_agrees_with_a_model = FolderMachine.TestCase

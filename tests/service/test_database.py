"""The database: what a row allows, what survives reopening, who may open it, and which of two savers wins."""

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update as sqlalchemy_update

import secagg
from secagg.errors import ConfigError, Fault, FaultKind, LocalProtocolError
from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.service import sightings, states
from secagg.service.database import Database
from secagg.service.engine import Writer
from secagg.service.folder import NETWORK, file_system
from secagg.service.spool import Record
from secagg.service.states import States
from secagg.service.tables import TASKS

TASK, OTHER, MODEL = b"t" * 32, b"o" * 32, b"m" * 32
KEY, SECOND = "a" * 64, "b" * 64


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path / "service") as database:
        yield database


def opened(folder: Path) -> Database:
    """A database with a task, an open round and a running session."""
    database = Database.open(folder)
    database.add_task(TASK, b"task", "open")
    database.open_round(TASK, 1, MODEL, "{}")
    database.begin_session(KEY, TASK, 1, 1, b"name", ["c1", "c2"])
    return database


def files(database: Database, name: str) -> list[str]:
    return sorted(path.name for path in (database._folder / name).iterdir())


# Tasks and rounds


def tasks(database: Database) -> list[Any]:
    with database._writer.reading() as connection:
        return [tuple(row) for row in connection.execute(select(*list(TASKS.c)[:-1]).order_by(TASKS.c.added))]


def test_tasks_are_kept_and_a_new_roster_replaces_the_old_one(tmp_path: Path) -> None:
    with Database.open(tmp_path) as database:
        database.add_task(TASK, b"one", "roster", "old", None)
        database.add_task(OTHER, b"two", "open")
        database.add_task(TASK, b"one", "roster", "new", "signed")
    with Database.open(tmp_path) as database:
        assert tasks(database) == [(TASK, b"one", "new", "signed", "roster"), (OTHER, b"two", None, None, "open")]


def test_a_round_is_opened_once_and_the_next_only_after_it_has_ended(database: Database) -> None:
    assert database.open_round(TASK, 1, MODEL, "{}") == database.round(TASK, 1)
    with pytest.raises(ConfigError, match="another model or config"):
        database.open_round(TASK, 1, OTHER, "{}")
    with pytest.raises(ConfigError, match="another model or config"):
        database.open_round(TASK, 1, MODEL, "[]")
    with pytest.raises(ConfigError, match="while round 1 is open"):
        database.open_round(TASK, 2, MODEL, "{}")
    database.finish_round(TASK, 1, "done")
    with pytest.raises(ConfigError, match="or has ended"):
        database.open_round(TASK, 1, MODEL, "{}")
    database.open_round(TASK, 2, MODEL, "{}")
    newest, first = database.round(TASK), database.round(TASK, 1)
    assert newest
    assert first
    assert (newest.number, newest.state, newest.ended) == (2, "open", None)
    assert (first.state, first.ended is None) == ("done", False)
    assert database.round(TASK, 3) is None
    assert database.round(OTHER) is None
    with pytest.raises(LocalProtocolError, match="not open"):
        database.finish_round(TASK, 1, "failed")
    with pytest.raises(ConfigError, match="expected done or failed"):
        database.finish_round(TASK, 2, "over")


def test_rows_name_only_what_is_here(database: Database) -> None:
    with pytest.raises(ConfigError, match="add the task"):
        database.open_round(OTHER, 1, MODEL, "{}")
    with pytest.raises(ConfigError, match="whose round is not"):
        database.begin_session(SECOND, TASK, 2, 1, b"name", ["c1"])
    with pytest.raises(ConfigError, match="whose task is not here"):
        database.add_token(OTHER, "c1", bytes(32))
    with pytest.raises(ConfigError, match="not here"):
        database.session(SECOND)
    with pytest.raises(ConfigError, match="begin it first"):
        database.store(SECOND).load()


# Sessions


def test_a_session_runs_and_ends(database: Database) -> None:
    assert database.session(KEY).state == "running"
    database.finish_session(KEY, "failed", "nobody came", taken=b"taken")
    row = database.begin_session(SECOND, TASK, 1, 2, b"name 2", ["c3", "c1"])
    assert (row.state, row.cohort, row.attempt, row.number) == ("running", ("c3", "c1"), 2, 0)
    assert [one.key for one in database.running()] == [one.key for one in database.running(TASK)] == [SECOND]
    assert database.running(OTHER) == []
    assert [one.key for one in database.sessions(TASK, 1)] == [KEY, SECOND]
    assert [one.key for one in database.recent_sessions(9)] == [SECOND, KEY]
    first = database.session(KEY)
    assert (first.state, first.reason, first.taken) == ("failed", "nobody came", b"taken")


@pytest.mark.parametrize(("key", "attempt"), [(KEY, 2), (SECOND, 1)])
def test_a_key_or_an_attempt_is_taken_once(database: Database, key: str, attempt: int) -> None:
    with pytest.raises(ConfigError, match="next attempt"):
        database.begin_session(key, TASK, 1, attempt, b"name", ["c1"])


@pytest.mark.parametrize("key", ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 63 + "٣"])
def test_a_key_that_could_name_another_file_is_refused(database: Database, key: str) -> None:
    for call in (
        lambda: database.begin_session(key, TASK, 1, 2, b"name", ["c1"]),
        lambda: database.spool(key, 1),
        lambda: database.relays(key),
    ):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            call()


# States


def test_a_state_is_saved_with_what_stands_beside_it(database: Database) -> None:
    beside: dict[str, Any] = {"position": 2, "remaining": 4.5, "relays": 77}
    store = database.store(KEY, lambda: beside)
    assert store.load() is None
    for number, state in ((1, b"one"), (2, b""), (5, bytes(range(256)) * 1000)):
        store(number, state)
        assert store.load() == state
        assert len(files(database, "states")) == 1
    row = database.session(KEY)
    assert (row.number, row.position, row.remaining, row.relays) == (5, 2, 4.5, 77)
    database.write_remaining(KEY, 1.25)
    assert database.session(KEY).remaining == 1.25
    folder = database._folder
    database.close()
    with Database.open(folder) as again:
        assert again.store(KEY).load() == bytes(range(256)) * 1000


def test_only_columns_that_belong_to_a_state_are_saved_beside_it(database: Database) -> None:
    store = database.store(KEY, lambda: {"state": 1})
    with pytest.raises(ConfigError, match="expected only position, relays, remaining"):
        store(1, b"one")
    assert store.load() is None


def test_a_role_saves_and_is_restored_through_the_store(database: Database) -> None:
    task = secagg.Task(
        secagg.Clear(), Layout.of(np.zeros(2)), secagg.FixedPoint(clip=1.0), max_clients=4, min_survivors=2
    )
    store = database.store(KEY)
    cohort = ["c1", "c2", "c3"]
    server = task.server(cohort, session=b"s", save=store)
    asked = server.start()
    data = store.load()
    assert data is not None
    restored = task.restore_server(data, save=store)
    assert restored.start() == asked
    restored._store()
    with pytest.raises(LocalProtocolError, match="must not overwrite"):
        server._store()


@pytest.mark.parametrize("number", [0, 3, 4])
def test_a_number_that_does_not_rise_is_refused_and_leaves_no_file(database: Database, number: int) -> None:
    database.store(KEY)(4, b"new")
    with pytest.raises(LocalProtocolError, match="whose row has number 4, running"):
        database.store(KEY)(number, b"old")
    assert database.store(KEY).load() == b"new"
    assert len(files(database, "states")) == 1


def race(folder: Path) -> list[str]:
    """Two servers, each with the state 1, save their own state 2, 40 times; returns what each of them reported."""
    with opened(folder) as database:
        database.store(KEY)(1, b"common")
        second = Writer(folder / "service.db")  # as of a process that got past the folder's lock
        stores = [database.store(KEY), states.SessionStore(States(folder / "states", second), KEY)]
        reports, barrier = list[str](), threading.Barrier(2)

        def save(which: int, number: int) -> None:
            barrier.wait(60)
            try:
                stores[which](number, b"of server %d" % which)
                reports.append("saved")
            except LocalProtocolError:
                reports.append("refused")

        for number in range(2, 42):
            threads = [threading.Thread(target=save, args=(which, number)) for which in (0, 1)]
            for one in threads:
                one.start()
            for one in threads:
                one.join(60)
        assert files(database, "states") == [database.session(KEY).file]
        second.close()
    return reports


def test_of_two_servers_that_save_the_same_state_one_is_refused(tmp_path: Path) -> None:
    assert sorted(race(tmp_path)) == ["refused"] * 40 + ["saved"] * 40


def test_control_without_the_comparison_both_servers_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfenced:
        """An update without the condition on the number."""

        def __init__(self, table: Any) -> None:
            self.statement = sqlalchemy_update(table)

        def where(self, key: Any, number: Any, state: Any) -> Any:
            assert "number <" in str(number)
            return self.statement.where(key, state)

    with opened(tmp_path) as database:
        monkeypatch.setattr(states, "update", Unfenced)
        database.store(KEY)(2, b"of server 0")
        database.store(KEY)(2, b"of server 1")
        assert database.store(KEY).load() == b"of server 1"


@pytest.mark.parametrize("fenced", [True, False], ids=["", "control: without the number"])
def test_a_server_that_lost_a_session_to_another_cannot_end_it(tmp_path: Path, fenced: bool) -> None:
    with opened(tmp_path) as database:
        ours, others = database.store(KEY), database.store(KEY)
        ours(1, b"common")
        others.load()
        others(2, b"of the other server")
        with pytest.raises(LocalProtocolError, match="must not overwrite"):
            ours(2, b"of this server")
        if fenced:
            for end, arguments in (("failed", {}), ("done", {"outcome": outcome(), "layout": LAYOUT})):
                with pytest.raises(LocalProtocolError, match="another server goes on"):
                    database.finish_session(KEY, end, **arguments, number=ours.number)  # type: ignore[arg-type]
            assert files(database, "outcomes") == []
            assert others.load() == b"of the other server"
            database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT, number=others.number)
        else:
            database.finish_session(KEY, "failed")
            with pytest.raises(LocalProtocolError, match="failed"):
                others(3, b"all that it took is lost")


def test_after_the_end_nothing_of_a_session_is_on_the_disk(database: Database) -> None:
    database.store(KEY)(1, b"one")
    spool, relays = database.spool(KEY, 1), database.relays(KEY)
    spool.append([Record("c1", bytes(32), b"x")])
    relays.append("agg1", 1, b"y")
    database.finish_session(KEY, "failed", "why")
    assert files(database, "states") == files(database, "spools") == files(database, "relays") == []
    spool.close()
    relays.close()
    assert database.store(KEY).load() is None
    with pytest.raises(LocalProtocolError, match="failed"):
        database.store(KEY)(2, b"two")
    with pytest.raises(LocalProtocolError, match="ended already"):
        database.finish_session(KEY, "failed", "again")


def test_a_state_whose_file_is_gone_is_named(database: Database) -> None:
    database.store(KEY)(1, b"one")
    (database._folder / "states" / str(database.session(KEY).file)).unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        database.store(KEY).load()


# Outcomes and models

LAYOUT = Layout.of(
    {"w": np.zeros((2, 3), np.float32), "n": np.zeros(2, np.int64), "b": 0.5, "h": np.zeros(1, np.float16)}
)


def outcome(scale: float = 1 / 3) -> Outcome:
    vector = np.arange(LAYOUT.size) * scale
    return Outcome(
        mean=LAYOUT.restore(vector),
        sum=LAYOUT.restore(vector * 7, dtype="float64"),
        total_weight=2**70,
        survivors=("c1", "c2"),
        dropped={"c3": "ShareKeys"},
        faults=(Fault("c3", "ShareKeys", FaultKind.SILENT), Fault("c4", "Clear", FaultKind.INVALID, "ü\n<b>")),
        clipped=3,
        epsilon_guaranteed=None,
        epsilon_realised=1.5,
    )


def test_an_outcome_comes_back_equal_to_the_last_bit(database: Database) -> None:
    assert database.outcome(KEY, LAYOUT) is None
    assert database.outcome_document(KEY) is None
    database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT)
    assert database.outcome(KEY, LAYOUT) == outcome()
    assert database.outcome(KEY, LAYOUT) != outcome(1 / 7)
    document = database.outcome_document(KEY)
    assert document is not None
    assert document["survivors"] == ["c1", "c2"]
    assert document["total_weight"] == 2**70
    (file,) = files(database, "outcomes")
    assert file.startswith(f"{KEY}.")


def test_an_end_that_could_not_be_written_leaves_the_session_running(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    database.store(KEY)(1, b"one")
    for name in ("fsync", "replace"):  # of the arrays; the database's own error is below
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="full"):
                database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT)
    with monkeypatch.context() as patch:
        patch.setattr("secagg.service.database.insert", fail)
        with pytest.raises(OSError, match="full"):
            database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT)
    assert database.store(KEY).load() == b"one"
    assert files(database, "outcomes") == []
    database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT)
    assert database.outcome(KEY, LAYOUT) == outcome()


def test_a_damaged_outcome_is_named(database: Database) -> None:
    database.finish_session(KEY, "done", outcome=outcome(), layout=LAYOUT)
    (file,) = (database._folder / "outcomes").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:40], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b"\x80\x04N."):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="restore it from a backup"):
            database.outcome(KEY, LAYOUT)


def test_a_session_is_done_with_an_outcome_only(database: Database) -> None:
    with pytest.raises(ConfigError, match="expected the opposite"):
        database.finish_session(KEY, "done")
    with pytest.raises(ConfigError, match="expected the opposite"):
        database.finish_session(KEY, "failed", outcome=outcome(), layout=LAYOUT)
    assert database.session(KEY).state == "running"


def test_models_are_kept_by_their_digest_and_old_ones_can_be_forgotten(database: Database) -> None:
    digests = [database.add_model(b"model %d" % number) for number in range(4)]
    assert [database.model_path(one).read_bytes() for one in digests] == [b"model %d" % n for n in range(4)]
    assert database.add_model(b"model 0") == digests[0]
    database.finish_round(TASK, 1, "done")
    for number, model in enumerate((0, 1, 0, 2), start=2):
        database.open_round(TASK, number, digests[model], "{}")
        database.finish_round(TASK, number, "done")
    database.add_task(OTHER, b"other", "open")
    database.open_round(OTHER, 1, digests[3], "{}")
    database.forget_models(TASK, 2)
    assert [database.model_path(one).exists() for one in digests] == [True, False, True, True]


# Tokens, sightings


def test_a_token_is_one_partys_in_one_task(database: Database) -> None:
    database.add_task(OTHER, b"other", "tokens")
    database.add_token(TASK, "c1", b"1" * 32)
    database.add_token(OTHER, "c9", b"1" * 32)
    for party, token in (("c1", b"2" * 32), ("c2", b"1" * 32)):
        with pytest.raises(ConfigError, match="has one"):
            database.add_token(TASK, party, token)
    assert database.token_party(TASK, b"1" * 32) == "c1"
    assert database.token_party(OTHER, b"1" * 32) == "c9"
    assert database.token_party(TASK, b"2" * 32) is None


def test_sightings_wait_in_memory_while_the_disk_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    database.saw(TASK, "c1")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "writing", fail)
        with pytest.raises(OSError, match="full"):
            database.flush()
        database.saw(TASK, "c2")
    assert sorted(database.seen(TASK)) == ["c1", "c2"]


def test_a_sighting_replaces_the_one_before(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (5.0, 9.0):
        monkeypatch.setattr(sightings.time, "time", lambda at=at: at)  # type: ignore[attr-defined]
        database.saw(TASK, "c1")
        database.saw(OTHER, "c2")
        database.flush()
    assert database.seen(TASK) == {"c1": 9.0}


# The folder


def test_closing_leaves_no_file_open(tmp_path: Path) -> None:
    def in_folder() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.lexists(link)]
        return [name for name in names if name.startswith(str(tmp_path))]

    with opened(tmp_path) as database, database.spool(KEY, 0), database.relays(KEY):
        assert len(in_folder()) >= 4
    assert in_folder() == []


def test_a_second_process_is_refused(database: Database) -> None:
    with pytest.raises(ConfigError, match="another server has open"):
        Database.open(database._folder)
    code = f"from secagg.service.database import Database; Database.open({str(database._folder)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another server has open" in other.stderr
    folder = database._folder
    database.close()
    Database.open(folder).close()


@pytest.mark.parametrize("forgotten", [True, False], ids=["", "control: the child keeps the files"])
def test_a_child_that_outlives_a_killed_server_keeps_no_lock(tmp_path: Path, forgotten: bool) -> None:
    opened(tmp_path).close()
    code = f"""
import os, signal, time
from pathlib import Path
from secagg.service import folder
from secagg.service.database import Database
if not {forgotten}:
    folder._HOLDERS.add = lambda holder: None
database = Database.open(Path({str(tmp_path)!r}))
spool = database.spool({KEY!r}, 0)
if not (child := os.fork()):
    os.close(1)
    os.close(2)
    time.sleep(600)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    try:
        if forgotten:
            with Database.open(tmp_path) as database:
                database.spool(KEY, 0).close()
        else:
            with pytest.raises(ConfigError, match="another server has open"):
                Database.open(tmp_path)
    finally:
        os.kill(int(killed.stdout), signal.SIGKILL)


def test_everything_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path / "new" / "folder") as database:
            database.store(KEY)(1, b"one")
            database.add_model(b"model")
            database.spool(KEY, 1).close()
            paths = [tmp_path / "new" / "folder", *(tmp_path / "new" / "folder").rglob("*")]
            modes = {stat.S_IMODE(one.stat().st_mode) for one in paths if one.is_dir()}
            assert modes == {0o700}
            assert {stat.S_IMODE(one.stat().st_mode) for one in paths if one.is_file()} == {0o600}
    finally:
        os.umask(before)


MOUNTS = """22 1 254:1 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:40 / /srv rw,relatime shared:2 - nfs4 server:/x rw
31 30 8:1 / /srv/local rw - xfs /dev/sda1 rw
32 22 0:41 / /mnt/with\\040space rw master:1 - cifs //host/share rw
33 22 0:42 / /covered rw - nfs x rw
34 33 8:2 / /covered rw - ext4 /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/secagg", "ext4"),
        ("/srv/secagg", "nfs4"),
        ("/srv", "nfs4"),
        ("/srvx", "ext4"),
        ("/srv/local/secagg", "xfs"),
        ("/mnt/with space/a", "cifs"),
        ("/covered/a", "ext4"),
    ],
)
def test_the_mount_that_a_folder_is_on_decides(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind
    assert (kind in NETWORK) == (kind in ("nfs4", "cifs"))
    assert file_system(Path(folder), "") == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(
        f"22 1 0:4 / / rw - ext4 / rw\n23 22 0:5 / {tmp_path.resolve()} rw - nfs4 x rw\n"
    )
    monkeypatch.setattr("secagg.service.folder._MOUNTS", str(tmp_path / "mounts"))
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*local disk"):
        Database.open(tmp_path / "service")


@pytest.mark.parametrize("damage", [lambda data: b"not a database" * 400, lambda data: data[:5000] + bytes(9000)])
def test_a_damaged_database_is_refused_and_the_folder_is_released(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    opened(tmp_path).close()
    whole = (tmp_path / "service.db").read_bytes()
    (tmp_path / "service.db").write_bytes(damage(whole))
    with pytest.raises(ConfigError, match="can't be used"):
        Database.open(tmp_path)
    (tmp_path / "service.db").write_bytes(whole)
    Database.open(tmp_path).close()


def test_commits_are_on_the_disk_before_a_call_returns(database: Database) -> None:
    for context in (database._writer.writing(), database._writer.reading()):
        with context as connection:
            settings = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_what_raises_in_a_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database._writer.writing() as connection:
            connection.exec_driver_sql("UPDATE sessions SET reason = 'half'")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert database.session(KEY).reason == ""


def test_a_full_database_is_an_error_of_the_disk_and_nothing_is_lost(database: Database) -> None:
    store = database.store(KEY)
    store(1, b"one")
    with database._writer.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    database._writer._engine.dispose()
    from sqlalchemy import event

    def limit(connection: sqlite3.Connection, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(database._writer._engine, "connect", limit)
    with pytest.raises(OSError, match="full") as caught:
        database.add_task(OTHER, bytes(1 << 20), "open")
    assert caught.value.errno == errno.ENOSPC
    assert [one[0] for one in tasks(database)] == [TASK]
    assert store.load() == b"one"
    event.remove(database._writer._engine, "connect", limit)
    database._writer._engine.dispose()
    database.add_task(OTHER, bytes(1 << 20), "open")


def test_a_state_that_could_not_be_written_leaves_the_older_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.store(KEY)
    store(1, b"one")

    def fail(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    for name in ("fsync", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="full"):
                store(2, b"two")
        assert store.load() == b"one", name
        assert len(files(database, "states")) == 1
    store(2, b"two")
    assert store.load() == b"two"


def test_many_threads_may_call(database: Database) -> None:
    database.finish_session(KEY, "failed", "over")
    keys = [f"{number:064x}" for number in range(8)]
    wrong = list[Any]()

    def work(number: int) -> None:
        try:
            key = keys[number]
            database.begin_session(key, TASK, 1, number + 2, b"n", ["c1"])
            store = database.store(key, lambda: {"position": number})
            for saved in range(1, 6):
                store(saved, b"%d %d" % (number, saved))
                database.saw(TASK, f"c{number}")
                database.recent_sessions(5)
            assert store.load() == b"%d 5" % number
            assert database.session(key).position == number
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert wrong == []
    assert len(database.seen(TASK)) == 8

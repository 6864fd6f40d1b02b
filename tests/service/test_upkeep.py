"""Upgrades of the tables, what crashes left of files, and backups."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from secagg.errors import ConfigError
from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.service import migrations, upkeep
from secagg.service.database import Database
from secagg.service.spool import Record
from secagg.service.tables import METADATA
from secagg.service.upkeep import backup

TASK, MODEL = b"t" * 32, b"m" * 32
FIRST, SECOND, THIRD = "a" * 64, "b" * 64, "c" * 64
LAYOUT = Layout.of(np.zeros(3, np.float32))

SECOND_VERSION = """
from alembic import op
from sqlalchemy import Column, String

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("tasks", Column("label", String, server_default="none"))
    op.create_table("more", Column("name", String, primary_key=True))
    {then}
"""


def filled(folder: Path) -> Path:
    """A closed service folder with a session that is done and one that is running."""
    with Database.open(folder) as database:
        database.add_task(TASK, b"task", "open")
        model = database.add_model(b"model")
        database.open_round(TASK, 1, model, "{}")
        database.begin_session(FIRST, TASK, 1, 1, b"one", ["c1"])
        database.store(FIRST, lambda: {"position": 0})(1, b"state")
        vector = np.arange(3.0)
        outcome = Outcome(LAYOUT.restore(vector), LAYOUT.restore(vector, dtype="float64"), 3, ("c1",), {}, (), 0)
        database.finish_session(FIRST, "done", outcome=outcome, layout=LAYOUT)
        database.begin_session(SECOND, TASK, 1, 2, b"two", ["c1"])
        database.store(SECOND, lambda: {"position": 1})(2, b"secret state")
        with database.spool(SECOND, 1) as spool:
            spool.append([Record("c1", bytes(32), b"secret message")])
        with database.relays(SECOND) as relays:
            relays.append("agg1", 1, b"secret share")
    return folder


def second_version(folder: Path, then: str = "") -> Path:
    folder.mkdir()
    (folder / "v2.py").write_text(SECOND_VERSION.format(then=then))
    return folder


def columns(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "service.db")) as connection:
        return {row[1] for row in connection.execute("PRAGMA table_info(tasks)")}


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    with Database.open(tmp_path) as database, database._writer.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert migrations.version(connection) == migrations.newest() == "1"


def test_an_older_database_is_copied_and_upgraded_and_keeps_its_rows(tmp_path: Path) -> None:
    folder = filled(tmp_path / "service")
    with Database.open(folder, second_version(tmp_path / "new")) as database, database._writer.reading() as reading:
        assert migrations.version(reading) == "2"
        assert reading.exec_driver_sql("SELECT label, data FROM tasks").all() == [("none", b"task")]
        assert database.store(SECOND).load() == b"secret state"
    with closing(sqlite3.connect(folder / "service.db.version-1")) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("1",)]
        assert copy.execute("SELECT key FROM sessions ORDER BY key").fetchall() == [(FIRST,), (SECOND,)]
    assert oct((folder / "service.db.version-1").stat().st_mode & 0o777) == "0o600"


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = filled(tmp_path / "service")
    Database.open(folder, second_version(tmp_path / "new")).close()
    with pytest.raises(ConfigError, match=r"version 2, which this secagg does not know; its newest is 1\. Install"):
        Database.open(folder)
    assert "label" in columns(folder)
    Database.open(folder, tmp_path / "new").close()


@pytest.mark.parametrize("then", ["raise RuntimeError('half way')", "raise KeyboardInterrupt"])
def test_an_upgrade_that_fails_half_way_changes_nothing(tmp_path: Path, then: str) -> None:
    folder = filled(tmp_path / "service")
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        Database.open(folder, second_version(tmp_path / "new", then))
    assert "label" not in columns(folder)
    with Database.open(folder) as database:
        assert database.store(SECOND).load() == b"secret state"


def test_opening_deletes_what_crashes_left_and_nothing_else(tmp_path: Path) -> None:
    folder = filled(tmp_path / "service")
    here = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    for orphan in (
        f"states/{SECOND}.3.00",  # written, but the row did not move
        f"states/{SECOND}.1.00",  # the older state
        f"spools/{SECOND}.0",  # of the round before
        f"spools/{FIRST}.0",  # of a session that has ended
        f"spools/{SECOND}.1.bak",
        f"spools/{SECOND}.bak",
        f"spools/{THIRD}.0",
        f"outcomes/{SECOND}.npz",
        f"outcomes/{SECOND}.npz.00.new",
        "models/00.new",
    ):
        (folder / orphan).write_bytes(b"left")
    for key in (FIRST, THIRD):
        (folder / "relays" / key).mkdir()
        (folder / "relays" / key / "relays").write_bytes(b"left")
    Database.open(folder).close()
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == here
    assert sorted(path.name for path in (folder / "relays").iterdir()) == [SECOND]


def test_a_backup_has_what_has_ended_and_nothing_of_an_open_session(tmp_path: Path) -> None:
    with Database.open(filled(tmp_path / "service")) as database:
        backup(tmp_path / "service", tmp_path / "backup")
        assert database.session(SECOND).state == "running"
        wanted = database.outcome(FIRST, LAYOUT)
    assert not (tmp_path / "backup" / "states").exists()
    for path in (tmp_path / "backup").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        assert path.is_dir() or b"secret" not in path.read_bytes()
    with Database.open(tmp_path / "backup") as restored:
        assert wanted is not None
        assert restored.outcome(FIRST, LAYOUT) == wanted
        assert restored.running() == []
        assert (restored.session(SECOND).state, restored.session(SECOND).reason) == ("failed", upkeep.RESTORED)
        row = restored.round(TASK)
        assert row
        assert restored.model_path(row.model).read_bytes() == b"model"
        assert row.state == "open"
        restored.begin_session(THIRD, TASK, 1, 3, b"three", ["c1"])  # the next attempt


def test_the_command_makes_a_backup_beside_a_server_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "backup"
    with Database.open(filled(tmp_path / "service")) as database:
        command = [sys.executable, "-m", "secagg", "backup", str(tmp_path / "service"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(out) in done.stdout
        database.store(SECOND)(3, b"goes on")
    with Database.open(out) as restored:
        assert [row.state for row in restored.sessions(TASK, 1)] == ["done", "failed"]


def test_what_is_not_a_services_folder_or_of_another_version_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a service"):
        backup(tmp_path, tmp_path / "backup")
    folder = filled(tmp_path / "service")
    Database.open(folder, second_version(tmp_path / "new")).close()
    with pytest.raises(ConfigError, match="use the secagg that the service runs"):
        backup(folder, tmp_path / "backup")


def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    with Database.open(filled(tmp_path / "service")):
        for taken in ("backup", "other.unfinished"):
            (tmp_path / taken).mkdir()
            with pytest.raises(ConfigError, match="is here already"):
                backup(tmp_path / "service", tmp_path / taken.removesuffix(".unfinished"))
        with pytest.raises(ConfigError, match="can't be made"):
            backup(tmp_path / "service", tmp_path / "none" / "backup")


def test_a_backup_while_sessions_save_is_one_moment(tmp_path: Path) -> None:
    # Each save is a transaction over two rows; a copy in the middle of one would show them differ.
    import threading

    with Database.open(filled(tmp_path / "service")) as database:
        stop, begun = threading.Event(), threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                with database._writer.writing() as connection:
                    connection.exec_driver_sql("UPDATE tasks SET auth = ?", (str(number),))
                    connection.exec_driver_sql("UPDATE rounds SET config = ?", (str(number),))
                begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        begun.wait(60)
        try:
            for number in range(5):
                backup(tmp_path / "service", tmp_path / f"backup{number}")
        finally:
            stop.set()
            writer.join(60)
    for number in range(5):
        with closing(sqlite3.connect(tmp_path / f"backup{number}" / "service.db")) as copy:
            query = "SELECT tasks.auth, rounds.config FROM tasks, rounds"
            ((auth, config),) = copy.execute(query).fetchall()
            assert auth == config


def test_an_interrupted_backup_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "full")

    with Database.open(filled(tmp_path / "service")):
        with monkeypatch.context() as patch:
            patch.setattr(upkeep, "_copy", fail)
            with pytest.raises(OSError, match="full"):
                backup(tmp_path / "service", tmp_path / "backup")
        assert not os.path.exists(tmp_path / "backup")

"""What the service must not forget, in one folder: a SQLite database, and files for all that is large.

::

    lock                          locked while a server runs
    service.db                    tasks, rounds, sessions, outcomes, tokens, sightings
    states/<key>.<number>.<id>    the state of a session's role; the session's row names the one that counts
    spools/<key>.<position>       the messages of a session's open round
    relays/<key>/                 what the server handed on in a session
    models/<sha256>               what training starts from
    outcomes/<key>.<id>.npz       the mean and the sum; the outcome's row names the file
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError

from secagg.errors import ConfigError, LocalProtocolError, shown
from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.service import upkeep
from secagg.service.engine import Writer
from secagg.service.folder import FolderLock, check_local, write_file
from secagg.service.outcomes import describe_outcome, read_outcome, write_outcome
from secagg.service.relays import Relays
from secagg.service.requests import kept_apart
from secagg.service.sightings import Sightings
from secagg.service.spool import Spool
from secagg.service.states import Beside, SessionStore, States
from secagg.service.tables import (
    CLOSED,
    OUTCOMES,
    ROUNDS,
    SESSIONS,
    TASKS,
    TOKENS,
    RoundRow,
    SessionRow,
)

_KEY: Final = re.compile(r"[0-9a-f]{64}")


class Database:
    """The service's memory; :meth:`open` opens it. Any thread may call any method; calls block.

    What a method wrote is on the disk when it returns, except sightings, which :meth:`flush` writes.
    Where a method raises ``OSError``, such as on a full disk, nothing changed.
    """

    def __init__(self, folder: Path, lock: FolderLock) -> None:
        self._folder, self._lock = folder, lock
        self._writer = Writer(folder / upkeep.FILE)
        self._states = States(folder / "states", self._writer)
        self._sightings = Sightings(self._writer)

    @classmethod
    def open(cls, folder: str | Path, *versions: Path) -> Self:
        """Open the database in ``folder``, or make a new one; upgrade it, and delete what crashes left of files.

        ``ConfigError`` if the folder is open in another process or on a network file system, or if a newer version
        of the package wrote it. ``versions`` are folders of further migrations.
        """
        folder = Path(folder).expanduser().resolve()
        upkeep.make_folders(folder)
        check_local(folder)
        lock = FolderLock(folder)
        try:
            database = cls(folder, lock)
            try:
                upkeep.upgrade(folder, database._writer, *versions)
                upkeep.sweep(folder, database._writer)
            except BaseException as error:
                database._writer.close()
                if isinstance(error, OSError):
                    raise ConfigError(f"got folder {folder}, which can't be used: {error}") from error
                raise
        except BaseException:
            lock.close()
            raise
        return database

    def close(self) -> None:
        """Write what is in memory, and release the folder."""
        try:
            self.flush()
        finally:
            self._writer.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Tasks

    def add_task(
        self, digest: bytes, data: bytes, auth: str, roster: str | None = None, signature: str | None = None
    ) -> None:
        """Add a task with its bytes; for one that is here, replace its roster, the signature and ``auth``."""
        changed = {"roster": roster, "signature": signature, "auth": auth}
        adding = upsert(TASKS).values(digest=digest, data=data, added=time.time(), **changed)
        with self._writer.writing() as connection:
            connection.execute(adding.on_conflict_do_update(index_elements=["digest"], set_=changed))

    # Rounds

    def open_round(self, task: bytes, number: int, model: bytes, config: str) -> RoundRow:
        """Open the round ``number`` over the model with the SHA-256 ``model``; an open one is returned as it is.

        ``ConfigError`` if this round has another model or config or has ended, or another round is open.
        """
        row = RoundRow(task, number, model, config, "open", time.time(), None)
        with self._writer.writing() as connection:
            ours = ROUNDS.c.task == task
            here = [RoundRow(**one._mapping) for one in connection.execute(select(ROUNDS).where(ours)).all()]
            for one in here:
                if one.number == number:
                    if (one.model, one.config, one.state) != (model, config, "open"):
                        raise ConfigError(
                            f"got round {number}, which is here with another model or config, or has ended; take "
                            "the next number for another round"
                        )
                    return one
                if one.state == "open":
                    raise ConfigError(f"got round {number} while round {one.number} is open; finish that one first")
            try:
                connection.execute(insert(ROUNDS).values(vars(row)))
            except IntegrityError as error:
                raise ConfigError(f"got a round of task {task.hex()}, which is not here; add the task") from error
        return row

    def round(self, task: bytes, number: int | None = None) -> RoundRow | None:
        """The round ``number`` of a task, or its newest; None if it is not here."""
        query = select(ROUNDS).where(ROUNDS.c.task == task).order_by(ROUNDS.c.number.desc()).limit(1)
        rows = self._rows(query if number is None else query.where(ROUNDS.c.number == number))
        return RoundRow(**rows[0]._mapping) if rows else None

    def finish_round(self, task: bytes, number: int, state: str) -> None:
        """Mark an open round as done or failed; ``LocalProtocolError`` if it is not open."""
        _check_closed(state)
        ours = (ROUNDS.c.task == task, ROUNDS.c.number == number, ROUNDS.c.state == "open")
        with self._writer.writing() as connection:
            done = connection.execute(update(ROUNDS).where(*ours).values(state=state, ended=time.time()))
            if done.rowcount != 1:
                raise LocalProtocolError(f"got the end of round {number}, which is not open")

    # Sessions

    def begin_session(
        self, key: str, task: bytes, number: int, attempt: int, name: bytes, cohort: Sequence[str]
    ) -> SessionRow:
        """Add a session of the round ``number``, which is running then.

        ``ConfigError`` if the key or the attempt is taken, or the round is not here.
        """
        now = time.time()
        _check_key(key)
        values: dict[str, Any] = {"key": key, "task": task, "round": number, "attempt": attempt, "name": name}
        values |= {"cohort": json.dumps(list(cohort)), "state": "running", "number": 0}
        values |= {"relays": 0, "reason": "", "taken": b"", "begun": now, "changed": now}
        with self._writer.writing() as connection:
            try:
                connection.execute(insert(SESSIONS).values(values))
            except IntegrityError as error:
                raise ConfigError(
                    f"got session {key}, attempt {attempt} at round {number}, which is here already or whose round "
                    "is not; take the next attempt of an open round"
                ) from error
        return self.session(key)

    def session(self, key: str) -> SessionRow:
        """The session with this key; ``ConfigError`` if it is not here."""
        rows = self._rows(select(SESSIONS).where(SESSIONS.c.key == key))
        if not rows:
            raise ConfigError(f"got session {key}, which is not here")
        return _session(rows[0])

    def sessions(self, task: bytes, number: int) -> list[SessionRow]:
        """The sessions of a round, by attempt."""
        ours = (SESSIONS.c.task == task, SESSIONS.c.round == number)
        return [_session(row) for row in self._rows(select(SESSIONS).where(*ours).order_by(SESSIONS.c.attempt))]

    def running(self, task: bytes | None = None) -> list[SessionRow]:
        """The sessions, of one task or of all, that have not ended, oldest first."""
        query = select(SESSIONS).where(SESSIONS.c.state == "running").order_by(SESSIONS.c.begun)
        return [
            _session(row) for row in self._rows(query if task is None else query.where(SESSIONS.c.task == task))
        ]

    def recent_sessions(self, most: int) -> list[SessionRow]:
        """The newest sessions of all tasks, newest first."""
        return [_session(row) for row in self._rows(select(SESSIONS).order_by(SESSIONS.c.begun.desc()).limit(most))]

    def count_ended(self, task: bytes) -> dict[str, int]:
        """How many sessions of a task are done, and how many failed."""
        ours = (SESSIONS.c.task == task, SESSIONS.c.state.in_(CLOSED))
        count = func.count().label("sessions")
        rows = self._rows(select(SESSIONS.c.state, count).where(*ours).group_by(SESSIONS.c.state))
        return {row.state: row.sessions for row in rows}

    def store(self, key: str, beside: Beside | None = None) -> SessionStore:
        """What ``save=`` of the session's role takes.

        ``beside`` returns ``position``, ``remaining`` and ``relays``, or some of them, for the session's row; they
        are saved in the same transaction as the state.
        """
        return SessionStore(self._states, key, beside)

    def write_remaining(self, key: str, seconds: float) -> None:
        """Write how long the open round of a session may still last."""
        with self._writer.writing() as connection:
            connection.execute(update(SESSIONS).where(SESSIONS.c.key == key).values(remaining=seconds))

    def finish_session(
        self,
        key: str,
        state: str,
        reason: str = "",
        *,
        taken: bytes = b"",
        outcome: Outcome | None = None,
        layout: Layout | None = None,
        number: int | None = None,
    ) -> None:
        """Mark a session as done, with its ``outcome`` under the task's ``layout``, or as failed for a ``reason``.

        Its states, spools and relays are deleted. ``taken`` is kept for the caller. ``number`` is that of the state
        which the caller saved or loaded last. ``LocalProtocolError`` if there is a newer one, because another
        server goes on with the session then; or if the session is not running.
        """
        _check_closed(state)
        if (state == "done") != (outcome is not None and layout is not None):
            raise ConfigError(
                "got an outcome of a failed session, or none of one that is done; expected the opposite"
            )
        file = self._folder / "outcomes" / f"{_check_key(key)}.{secrets.token_hex(8)}.npz"
        document = None if outcome is None or layout is None else write_outcome(file, outcome, layout)
        ours = [SESSIONS.c.key == key, SESSIONS.c.state == "running"]
        if number is not None:
            ours.append(SESSIONS.c.number == number)
        values = {"state": state, "reason": reason, "taken": taken, "file": None, "changed": time.time()}
        try:
            with self._writer.writing() as connection:
                if connection.execute(update(SESSIONS).where(*ours).values(values)).rowcount != 1:
                    raise LocalProtocolError(
                        f"got the end of session {key}, which has ended already, or which another server goes on "
                        "with: stop this one"
                    )
                if document is not None:
                    connection.execute(insert(OUTCOMES).values(session=key, document=document, file=file.name))
        except (LocalProtocolError, OSError):
            with contextlib.suppress(OSError):
                if not self._rows(select(OUTCOMES).where(OUTCOMES.c.file == file.name)):
                    file.unlink(missing_ok=True)
            raise
        upkeep.delete_session(self._folder, key)

    def outcome(self, key: str, layout: Layout) -> Outcome | None:
        """The outcome of a session under the task's ``layout``; None if it has none."""
        rows = self._rows(select(OUTCOMES).where(OUTCOMES.c.session == key))
        return read_outcome(self._folder / "outcomes" / rows[0].file, rows[0].document, layout) if rows else None

    def outcome_document(self, key: str) -> dict[str, Any] | None:
        """An outcome without its arrays; None if the session has none."""
        rows = self._rows(select(OUTCOMES.c.document).where(OUTCOMES.c.session == key))
        return describe_outcome(rows[0].document) if rows else None

    def spool(self, key: str, position: int) -> Spool:
        """The spool of a session's round with the number ``position``; the caller deletes it after the round."""
        return Spool(self._folder / "spools" / f"{_check_key(key)}.{position}")

    def relays(self, key: str) -> Relays:
        """What the server handed on in a session."""
        return Relays(self._folder / "relays" / _check_key(key))

    def requests(self, outbox: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The messages of ``outbox``, in a file if they are large together; see :func:`kept_apart`."""
        return kept_apart(outbox, self._folder / "spools")

    # Models

    def add_model(self, data: bytes) -> bytes:
        """Keep a model's bytes; returns their SHA-256."""
        digest = hashlib.sha256(data).digest()
        if not (path := self.model_path(digest)).exists():
            write_file(path, lambda file: file.write(data))
        return digest

    def model_path(self, digest: bytes) -> Path:
        """The file with the model of this SHA-256, if it was added."""
        return self._folder / "models" / digest.hex()

    def forget_models(self, task: bytes, newest: int) -> None:
        """Delete the models of a task's rounds, except those of its ``newest`` ones and of other tasks' rounds."""
        numbered = self._rows(select(ROUNDS.c.task, ROUNDS.c.model).order_by(ROUNDS.c.number.desc()))
        ours = [row.model for row in numbered if row.task == task]
        kept = {*ours[:newest], *(row.model for row in numbered if row.task != task)}
        for model in set(ours) - kept:
            self.model_path(model).unlink(missing_ok=True)

    # Tokens

    def add_token(self, task: bytes, party: str, token_hash: bytes) -> None:
        """Keep the hash of a party's token; ``ConfigError`` if the party has one, or the task is not here."""
        with self._writer.writing() as connection:
            try:
                connection.execute(insert(TOKENS).values(task=task, party=party, hash=token_hash))
            except IntegrityError as error:
                raise ConfigError(f"got a token for {party}, which has one, or whose task is not here") from error

    def count_tokens(self, task: bytes) -> int:
        """How many parties of a task have a token."""
        rows = self._rows(select(func.count()).select_from(TOKENS).where(TOKENS.c.task == task))
        return int(rows[0][0])

    def token_party(self, task: bytes, token_hash: bytes) -> str | None:
        """Whose token this is; None if it is nobody's."""
        ours = (TOKENS.c.task == task, TOKENS.c.hash == token_hash)
        rows = self._rows(select(TOKENS.c.party).where(*ours))
        return str(rows[0].party) if rows else None

    # For operators

    def saw(self, task: bytes, party: str) -> None:
        """Note, in memory, that a party called now."""
        self._sightings.saw(task, party)

    def seen(self, task: bytes) -> dict[str, float]:
        """When each party of a task was last seen."""
        return self._sightings.seen(task)

    def flush(self) -> None:
        """Write the sightings that are in memory."""
        self._sightings.flush()

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._writer.reading() as connection:
            return connection.execute(query).all()


def _session(row: Row[Any]) -> SessionRow:
    return SessionRow(**{**row._mapping, "cohort": tuple(json.loads(row.cohort))})


def _check_key(key: str) -> str:
    """``key`` if it may name a file."""
    if not _KEY.fullmatch(key):
        raise ConfigError(f"got session key {shown(key)}; expected 64 hexadecimal digits")
    return key


def _check_closed(state: str) -> None:
    if state not in CLOSED:
        raise ConfigError(f"got {state!r} as the end; expected {' or '.join(CLOSED)}")

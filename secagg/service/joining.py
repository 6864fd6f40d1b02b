"""Join tokens for tasks without identities: the operator gives one to each client."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlalchemy import delete, insert
from sqlalchemy.dialects.sqlite import insert as upsert

from secagg.api.tokens import new_token, token_hash
from secagg.errors import ConfigError
from secagg.identity import check_party_id
from secagg.service.engine import Writer
from secagg.service.settings import Entry, read_settings, read_task
from secagg.service.tables import TASKS, TOKENS
from secagg.service.upkeep import FILE, make_folders, upgrade
from secagg.task import Task


def give_tokens(settings: Path, parties: Sequence[str], out: Path) -> list[Path]:
    """Write ``ID.token`` (mode 0600) for each party of the one task with ``auth = "tokens"``; run by the operator.

    The service stores a hash of each, and may run meanwhile. A party that had a token has the new one instead.
    Returns the files' paths. ``ConfigError`` if there is no such task, or a file exists.
    """
    read, beside = read_settings(settings), settings.resolve().parent
    task, entry = _task(read.task, beside)
    names = [check_party_id(party) for party in parties]
    paths = [out / f"{name}.token" for name in names]
    if taken := [str(path) for path in paths if path.exists()]:
        raise ConfigError(f"got {', '.join(taken)}, which exist; a token is never overwritten: delete it first")
    tokens = {name: new_token() for name in names}
    folder = beside / read.service.folder
    make_folders(folder)
    with closing(Writer(folder / FILE)) as writer:
        upgrade(folder, writer)
        with writer.writing() as connection:
            row = {"digest": task.digest, "data": task.to_bytes(), "auth": entry.auth, "added": time.time()}
            connection.execute(upsert(TASKS).values(row).on_conflict_do_nothing())
            for name, token in tokens.items():
                connection.execute(delete(TOKENS).where(TOKENS.c.task == task.digest, TOKENS.c.party == name))
                connection.execute(insert(TOKENS).values(task=task.digest, party=name, hash=token_hash(token)))
            for path, token in zip(paths, tokens.values(), strict=True):
                _write(path, token)
    return paths


def _task(entries: Sequence[Entry], beside: Path) -> tuple[Task, Entry]:
    ours = [entry for entry in entries if entry.auth == "tokens"]
    if len(ours) != 1:
        raise ConfigError(
            f'got {len(ours)} tasks with auth = "tokens" in the settings; expected one, without a roster'
        )
    return read_task(ours[0], beside), ours[0]


def _write(path: Path, token: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise ConfigError(f"got {path}, which can't be written: {error.strerror}") from error

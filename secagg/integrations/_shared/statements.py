"""The messages between a server and a party, as dicts of plain values, for stacks that carry those."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from secagg import wire
from secagg.errors import ConfigError
from secagg.integrations._shared.metrics import with_metrics
from secagg.integrations._shared.party import RefusalError
from secagg.task import Task

VERSION = (1 << 16) + wire.VERSION  # the version of these messages, and that of the messages in them

_MOST_SHOWN = 300  # characters of the other side's refusal


def task_text(task: Task | str, metrics: Mapping[str, float] | None) -> tuple[Task, str]:
    """The task with ``metrics`` in its sum, and its text: what a job's JSON can hold."""
    if not isinstance(task, Task | str):
        raise ConfigError(
            f"got a task that is a {type(task).__name__}; expected a secagg.Task, or base64 of its bytes"
        )
    if isinstance(task, str):
        try:
            task = Task.from_bytes(base64.b64decode(task, validate=True))
        except ValueError as error:
            raise ConfigError(
                f"got a text as the task that is not base64 of a task's bytes ({error}); expected a secagg.Task, "
                "or the text SecureFilter(TASK).task"
            ) from error
    full = with_metrics(task, metrics)
    return full, base64.b64encode(full.to_bytes()).decode()


class Statement(NamedTuple):
    """The content of a message, with checked types; ``data`` is empty in an introduction."""

    task: bytes
    party: str  # the party that is meant, if it is not the site itself
    roster: bytes  # its digest, in the answer to an introduction
    number: int  # the stack's round
    attempt: int
    session: bytes
    data: bytes


def write(task: Task, **fields: Any) -> dict[str, Any]:
    """A message about ``task``."""
    empty = {"party": "", "roster": b"", "number": 0, "attempt": 0, "session": b"", "data": b""}
    return {"version": VERSION, "task": task.digest} | empty | fields


def refuse(reason: str) -> dict[str, Any]:
    """An answer that has a reason and no more; the other side may read ``reason``."""
    return {"version": VERSION, "refusal": reason}


def read(message: Mapping[str, Any], task: Task) -> Statement:
    """The other side's message; ``RefusalError`` unless it is of this version and task, with no more fields."""
    content = dict(message)
    version, refusal = content.pop("version", None), content.pop("refusal", None)
    if version != VERSION:
        raise RefusalError(
            f"got version {_version(version)}; this side speaks {_version(VERSION)}: install one secagg everywhere"
        )
    if isinstance(refusal, str):
        raise RefusalError("".join(refusal.splitlines())[:_MOST_SHOWN])
    if content.get("task") != task.digest:
        raise RefusalError("got another task; give the server and all sites the same task, with the same metrics")
    types = [type(content.get(name)) for name in Statement._fields]
    if content.keys() != set(Statement._fields) or types != [bytes, str, bytes, int, int, bytes, bytes]:
        raise RefusalError("got a message with unexpected fields; install the same secagg on all sides")
    return Statement(**content)


def _version(version: object) -> str:
    return f"{version >> 16}.{version & 0xFFFF}" if type(version) is int else repr(version)[:20]


def as_refusal(error: Exception) -> str:
    """Why a party's answer can't be used, for the server's log."""
    return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"[:_MOST_SHOWN]

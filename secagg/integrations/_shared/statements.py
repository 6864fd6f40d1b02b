"""What a message between a server and a party says, and such messages as dicts, for stacks that carry those."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from secagg import wire
from secagg.errors import ConfigError, shown
from secagg.integrations._shared.metrics import with_metrics
from secagg.integrations._shared.party import RefusalError
from secagg.task import Task

VERSION = (1 << 16) + wire.VERSION  # the version of these statements, and that of the messages in them

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
    """The content of a message, with checked types; ``session`` and ``data`` are empty in an introduction."""

    task: bytes
    party: str = ""  # the party that is meant or answers, if that is not clear from who sends the message
    roster: bytes = b""  # its digest, in the answer to an introduction
    number: int = 0  # the stack's round
    attempt: int = 0
    session: bytes = b""
    data: bytes = b""

    @classmethod
    def of(cls, fields: Mapping[str, Any], task: Task) -> Self:
        """The statement of these fields; ``RefusalError`` unless it is about ``task`` and has no other fields."""
        digest = fields.get("task")
        if type(digest) is not bytes or digest != task.digest:
            raise RefusalError(
                "got another task; give the server and all parties the same task, with the same metrics"
            )
        values = cls._field_defaults | dict(fields)
        if values.keys() != set(cls._fields) or [type(values[name]) for name in cls._fields] != _TYPES:
            raise RefusalError(
                "got secagg's records with unexpected fields, from another release or from code that changes "
                "messages; install the same secagg on all sides"
            )
        return cls(**values)


_TYPES = [bytes, str, bytes, int, int, bytes, bytes]


def check_version(version: object) -> None:
    """``RefusalError`` unless the other side speaks this version."""
    if type(version) is not int or version != VERSION:  # a stack may deliver arrays, which compare by element
        raise RefusalError(
            f"got version {_shown(version)}; this side speaks {_shown(VERSION)}: install one secagg everywhere"
        )


def _shown(version: object) -> str:
    return f"{version >> 16}.{version & 0xFFFF}" if type(version) is int else shown(version)


def write(task: Task, **fields: Any) -> dict[str, Any]:
    """A message about ``task``."""
    return {"version": VERSION} | Statement(task.digest, **fields)._asdict()


def refuse(reason: str) -> dict[str, Any]:
    """An answer that has a reason and no more; the other side may read ``reason``."""
    return {"version": VERSION, "refusal": reason}


def read(message: Mapping[str, Any], task: Task) -> Statement:
    """The other side's message; ``RefusalError`` unless it is of this version and task, with no more fields."""
    content = dict(message)
    version, refusal = content.pop("version", None), content.pop("refusal", None)
    check_version(version)
    if isinstance(refusal, str):
        reason = "".join(letter if letter.isprintable() else " " for letter in refusal[:_MOST_SHOWN]).strip()
        raise RefusalError(reason or "got a refusal without a reason; the other side's log may say why")
    return Statement.of(content, task)


def as_refusal(error: Exception) -> str:
    """Why a party's answer can't be used, for the server's log."""
    return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"[:_MOST_SHOWN]

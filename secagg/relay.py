"""Messages from one party to another that pass through the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secagg import wire
from secagg.errors import FaultKind
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task


def relayed(data: bytes, task: Task, session: bytes, kind: type[wire.Message], limit: int) -> Envelope:
    """Read ``data`` that the server passed on; ``Reject`` unless it is a ``kind`` of this session.

    ``session`` is the session's id (32 bytes). ``limit`` is the number of bytes above which nothing is read. The
    caller checks the signature.
    """
    envelope = Envelope.parse(data, limit)
    check_relayed(envelope, task, session, kind)
    return envelope


def check_relayed(envelope: Envelope, task: Task, session: bytes, kind: type[wire.Message]) -> None:
    """``Reject`` a message that the server passed on unless it is a ``kind`` of this task and session.

    ``session`` is the session's id (32 bytes).
    """
    if envelope.protocol != task.protocol.ID or envelope.task != task.digest:
        raise Reject(FaultKind.FOREIGN_TASK, "got a relayed message of another protocol or task")
    if envelope.session != session:
        raise Reject(FaultKind.FOREIGN_SESSION, "got a relayed message of another session")
    if envelope.kind != kind.TYPE:
        raise Reject(FaultKind.INVALID, f"got message type {envelope.kind} where a {kind.__name__} is relayed")

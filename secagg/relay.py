"""A party's message that reaches another party through the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secagg import wire
from secagg.errors import FaultKind
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task


def relayed(data: bytes, task: Task, session: bytes, kind: type[wire.Message], limit: int) -> Envelope:
    """A party's message that came through the server; ``Reject`` unless it is a ``kind`` of this session.

    Its signature is for the caller to check.
    """
    envelope = Envelope.parse(data, limit)
    if envelope.protocol != task.protocol.ID or envelope.task != task.digest:
        raise Reject(FaultKind.FOREIGN_TASK, "got a relayed message of another protocol or task")
    if envelope.session != session:
        raise Reject(FaultKind.FOREIGN_SESSION, "got a relayed message of another session")
    if envelope.kind != kind.TYPE:
        raise Reject(FaultKind.INVALID, f"got message type {envelope.kind} where a {kind.__name__} is relayed")
    return envelope

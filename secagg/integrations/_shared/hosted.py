"""An aggregator's or a decryptor's role behind a function from bytes to bytes; needs no Flower."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from secagg import wire
from secagg.errors import ConfigError
from secagg.roles.member import Member
from secagg.session import MAX_SESSION_BYTES
from secagg.table import Proposal
from secagg.wire import Envelope, Reject

Party = Callable[[bytes], bytes | None]


def hosted(make: Callable[[bytes], Member[Any]]) -> Party:
    """A party for ``parties=``, in this process or behind your endpoint: a function from bytes to bytes or None.

    ``make(session)`` makes the party's role when the server proposes the session of this name, for example by
    ``lambda session: task.aggregator("a1", session=session, identity=..., roster=..., key=..., save=...)``. If
    there are metrics, use the task that :func:`with_metrics` returns. The stores in ``save`` must share one
    ledger, or a server could play a session again and open a second sum; ``ConfigError`` if there is no ledger. A
    :class:`secagg.store.FileStore` holds one session, so include the session in its path.

    The role of the running session stays until the role of another session has accepted its proposal, so forged
    bytes end no session. Threads may share the function; it answers one message at a time.
    """
    lock = threading.Lock()
    role: Member[Any] | None = None
    session: bytes | None = None

    def answer(data: bytes) -> bytes | None:
        nonlocal role, session
        with lock:
            proposal = _proposal(data)
            if proposal is None or proposal == session:
                return None if role is None else role.receive(data)
            fresh = make(proposal)
            if fresh.ledger is None:
                raise ConfigError(
                    f"got a role for {fresh.id} without a ledger; pass save= a store that has one, the same for "
                    "all sessions: secagg.store.FileStore(path, ledger=FileLedger(other))"
                )
            reply = fresh.receive(data)
            if reply is not None:  # otherwise the role refused the proposal, and has logged why
                role, session = fresh, proposal
            return reply

    return answer


def _proposal(data: bytes) -> bytes | None:
    """The name of the session that the server proposes in ``data``; None for any other message."""
    try:
        envelope = Envelope.parse(data, len(data))
        if envelope.sender != wire.SERVER or envelope.kind != Proposal.TYPE:
            return None
        session = envelope.open(Proposal)[0].session
    except Reject:
        return None
    return session if len(session) <= MAX_SESSION_BYTES else None

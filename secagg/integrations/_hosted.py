"""A role of another party than a client behind a function from bytes to bytes; needs no Flower."""

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
    """A party for ``parties=`` that lives in this process, or behind an endpoint of yours: bytes to bytes or None.

    ``make(session)`` makes its role for the session of this name, when the server proposes it: such as
    ``lambda session: task.aggregator("a1", session=session, identity=..., roster=..., key=..., save=...)``, with
    the task that :func:`with_metrics` gives if there are metrics. All stores that are given as ``save`` have one
    ledger, or a server that plays a session again opens a second sum: ``ConfigError`` where there is none. A
    :class:`secagg.store.FileStore` holds one session, so its path has the session in it.

    The role of the running session stays until another role has accepted its own proposal: bytes that only look
    like one end no session. Threads may share the function; it answers one message at a time.
    """
    turn = threading.Lock()
    role: Member[Any] | None = None
    session: bytes | None = None

    def answer(data: bytes) -> bytes | None:
        nonlocal role, session
        with turn:
            proposed = _proposed(data)
            if proposed is None or proposed == session:
                return None if role is None else role.receive(data)
            fresh = make(proposed)
            if fresh.ledger is None:
                raise ConfigError(
                    f"got a role for {fresh.id} without a ledger; pass save= a store that has one, the same for "
                    "all sessions: secagg.store.FileStore(path, ledger=FileLedger(other))"
                )
            reply = fresh.receive(data)
            if reply is not None:  # else it was refused, and the role has logged why
                role, session = fresh, proposed
            return reply

    return answer


def _proposed(data: bytes) -> bytes | None:
    """The name of the session that the server proposes here, or None if this is another message."""
    try:
        envelope = Envelope.parse(data, len(data))
        if envelope.sender != wire.SERVER or envelope.kind != Proposal.TYPE:
            return None
        session = envelope.open(Proposal)[0].session
    except Reject:
        return None
    return session if len(session) <= MAX_SESSION_BYTES else None

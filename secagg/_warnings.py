"""Warnings about a client's update. Each names the client; a simulation logs equal warnings as one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NAMED = 3  # clients named in one line

_log = logging.getLogger("secagg")
_client: ContextVar[str] = ContextVar("client", default="")
_pending: ContextVar[dict[str, list[str]] | None] = ContextVar("pending", default=None)


@contextmanager
def about(client: str) -> Iterator[None]:
    """Name ``client`` in the warnings inside the block."""
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """Log the warnings of the block at its end, one line for all clients with the same warning."""
    pending: dict[str, list[str]] = {}
    token = _pending.set(pending)
    try:
        yield
    finally:
        _pending.reset(token)
        for text, clients in pending.items():
            more = f" and {len(clients) - _NAMED:,} more" if len(clients) > _NAMED else ""
            _log.warning("%s%s: %s", ", ".join(clients[:_NAMED]), more, text)


@contextmanager
def on_stderr() -> Iterator[None]:
    """Print the warnings inside the block on stderr, a line each: a command's user sets up no logging."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("secagg: %(message)s"))
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


def warn(text: str) -> None:
    """Log ``text`` as a WARNING, after the name of the client if it is known."""
    client, pending = _client.get(), _pending.get()
    if client and pending is not None:
        pending.setdefault(text, []).append(client)
    elif client:
        _log.warning("%s: %s", client, text)
    else:
        _log.warning("%s", text)

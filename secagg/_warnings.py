"""Warnings about one client's update: each names the client, and a simulation gives equal ones in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NAMED = 3  # of the clients that one line is about

_log = logging.getLogger("secagg")
_client: ContextVar[str] = ContextVar("client", default="")
_kept: ContextVar[dict[str, list[str]] | None] = ContextVar("kept", default=None)


@contextmanager
def about(client: str) -> Iterator[None]:
    """What is warned of in here is about ``client``."""
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """What is warned of in here is logged at the end, one line for all clients to which the same happened."""
    kept: dict[str, list[str]] = {}
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)
        for text, clients in kept.items():
            more = f" and {len(clients) - _NAMED:,} more" if len(clients) > _NAMED else ""
            _log.warning("%s%s: %s", ", ".join(clients[:_NAMED]), more, text)


def warn(text: str) -> None:
    """Log ``text`` as a WARNING, behind the name of the client that it is about, if that is known."""
    client, kept = _client.get(), _kept.get()
    if client and kept is not None:
        kept.setdefault(text, []).append(client)
    elif client:
        _log.warning("%s: %s", client, text)
    else:
        _log.warning("%s", text)

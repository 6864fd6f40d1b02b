"""The two listeners: one for the parties, one for the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from starlette.applications import Starlette

from secagg.service.guard import protect
from secagg.service.handlers import public_routes
from secagg.service.limits import Limits
from secagg.service.listener import Listener
from secagg.service.operator import Source, operator_app
from secagg.service.serving import Serving

_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def public_listener(
    serving: Serving,
    address: tuple[str, int],
    url: str | None,
    tls: tuple[str | Path, str | Path] | Literal["proxy"] | None,
    limits: Limits,
) -> Listener:
    """The listener for the parties; it answers to the host of ``url``, and without one to loopback names."""
    hosts = _LOOPBACK_NAMES if url is None else (_host(url), *_LOOPBACK_NAMES)
    app = protect(Starlette(routes=public_routes(serving)), hosts, limits)
    if tls == "proxy":
        return Listener(app, *address, limits=limits, behind_proxy=True)
    return Listener(app, *address, tls=tls, limits=limits)


def operator_listener(source: Source, address: tuple[str, int], pseudonym_key: bytes | None) -> Listener:
    """The listener for the operators, with the page, the metrics and the health checks."""
    return Listener(operator_app(source, pseudonyms=pseudonym_key), *address)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""

"""The operators' listener: the status page, the document that it shows, metrics and health. It only reads.

It is meant for the loopback interface. The people who can open it there may read it. Pages of other sites in the
same browser may not. So a request must name an allowed host, because a site can point its own name at 127.0.0.1;
requests of other sites' pages are refused; and there are no cookies.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from time import monotonic
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secagg.service.status import Status, encode, with_pseudonyms

MOST_STREAMS = 32  # event streams at a time
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
#: The names of this machine that nobody else can give to another: what a request may be for.
_HOST = re.compile(r"(?:localhost|\[::1\]|127(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?\Z", re.IGNORECASE)
_PAGE = {"/": ("index.html", "text/html"), "/status.js": ("status.js", "text/javascript"),
         "/status.css": ("status.css", "text/css")}  # fmt: skip


class Source(Protocol):
    """What the operators' listener shows. Each call is quick, reads a snapshot, and changes nothing."""

    @property
    def registry(self) -> CollectorRegistry:
        """The service's metrics, in a registry of their own."""
        ...

    def document(self) -> Status:
        """The status document as of now."""
        ...

    def ready(self) -> bool:
        """Whether the service takes messages: kernels are compiled, spools replayed, the disk has room."""
        ...

    def stopping(self) -> bool:
        """Whether the service is about to end; open event streams then end too."""
        ...


def operator_app(source: Source, *, pseudonyms: bytes | None = None, period: float = 1.0) -> Starlette:
    """The application for the operators' listener.

    ``pseudonyms`` is a secret key: under it, pseudonyms replace the ids of parties; None shows the ids. ``period``
    is the time between two events, in seconds.
    """
    pages = _Pages(source, pseudonyms, period)
    routes: list[BaseRoute] = [_static(path, name, kind) for path, (name, kind) in _PAGE.items()]
    routes += [
        Route("/v1/status", pages.status),
        Route("/v1/status/events", pages.events),
        Route("/metrics", pages.metrics),
        Route("/healthz", pages.healthy),
        Route("/readyz", pages.ready),
        Route("/favicon.ico", _nothing),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Guard)],
        exception_handlers={Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Pages:
    """The answers that depend on the service."""

    def __init__(self, source: Source, pseudonyms: bytes | None, period: float) -> None:
        self._source, self._pseudonyms, self._period = source, pseudonyms, period
        self._streams = 0
        self._shared: tuple[float, bytes] = (float("-inf"), b"")  # when, and the event that every stream sends

    def _document(self) -> bytes:
        status = self._source.document()
        return encode(status if self._pseudonyms is None else with_pseudonyms(status, self._pseudonyms))

    async def status(self, request: Request) -> Response:
        return Response(self._document(), media_type="application/json")

    async def events(self, request: Request) -> Response:
        if self._streams >= MOST_STREAMS:
            return PlainTextResponse(
                f"{MOST_STREAMS} event streams are open; close one, or read /v1/status\n", 503, {"Retry-After": "5"}
            )
        return _Stream(self, b"" if request.method == "HEAD" else None)

    async def metrics(self, request: Request) -> Response:
        encoder, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self._source.registry), headers={"Content-Type": kind})

    async def healthy(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        return PlainTextResponse("ready\n") if self._source.ready() else PlainTextResponse("not ready\n", 503)

    async def stream(self) -> AsyncIterator[bytes]:
        """One event a period until the service stops. All streams share its bytes."""
        yield b"retry: 2000\n\n"
        while not self._source.stopping():
            when, event = self._shared
            if monotonic() - when > self._period / 2:
                event = b"event: status\ndata: " + self._document() + b"\n\n"
                self._shared = monotonic(), event
            yield event
            await asyncio.sleep(self._period)

    def opened(self, change: int) -> None:
        self._streams += change


class _Stream(StreamingResponse):
    """An event stream that counts as open until its last byte or until its reader goes."""

    def __init__(self, pages: _Pages, body: bytes | None) -> None:
        events = pages.stream() if body is None else iter([body])
        headers = {"X-Accel-Buffering": "no"}  # nginx would hold events back
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._pages = pages
        pages.opened(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pages.opened(-1)


class _Guard:
    """Refuses other hosts and requests of other sites' pages, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, headers: Headers) -> Response | None:
        named = headers.getlist("host")
        if len(named) != 1 or not _HOST.match(named[0]):
            return PlainTextResponse("this host is not allowed here: ask for 127.0.0.1 or localhost\n", 421)
        crossed = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if crossed and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("pages of other sites may not read this\n", 403)
        return None


def _static(path: str, name: str, kind: str) -> Route:
    """A file of the page, read once."""
    body = files("secagg.service").joinpath("page", name).read_bytes()

    async def page(request: Request) -> Response:
        return Response(body, media_type=kind)

    return Route(path, page)


async def _nothing(request: Request) -> Response:
    return Response(status_code=204)


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to an exception: it says nothing of it. Starlette sends this one outside the guard."""
    return PlainTextResponse("the service failed to answer; its log says why\n", 500, _HEADERS)

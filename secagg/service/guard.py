"""What every request passes before a handler reads its body, and how every refusal is answered.

:func:`protect` wraps the application of a listener. :class:`Guard` is what its handlers ask for a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from secagg.api.problems import MEDIA_TYPE, Kind, Problem
from secagg.service.budget import ByteBudget, PartyRate
from secagg.service.buffers import Buffers
from secagg.service.connection import FILL, STAYS
from secagg.service.limits import Limits

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fill = Callable[[memoryview], Awaitable[int | None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LENGTH: Final = re.compile(rb"[0-9]{1,18}\Z")
#: An encoded slash, backslash, control character or byte above 127. No path of the service has one.
_HIDDEN: Final = re.compile(rb"%(?:2[fF]|5[cC]|[01][0-9a-fA-F]|7[fF]|[89a-fA-F][0-9a-fA-F])")
_LARGE: Final = 1 << 18  # bytes of an upload after which only some connections stay open
_BODIES: Final = 2  # of one party at a time
_KEPT: Final = frozenset({b"allow", b"retry-after", b"www-authenticate"})  # of an error that is not ours


class Guard:
    """The bodies in memory and the requests of each party; one for all tasks of a service, on one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.budget = ByteBudget(limits.ingest_bytes, limits.ingest_seconds)
        self._buffers = Buffers(lambda: self.budget.free)
        self._rate = PartyRate(limits.party_rate, limits.party_burst)
        self._reading: dict[str, list[asyncio.Timeout]] = {}

    def count(self, party: str) -> None:
        """Count one request of an authenticated party; ``Problem`` (429) if it sends too many."""
        self._rate.count(party)

    @asynccontextmanager
    async def body_within(self, request: Request, most: int, party: str | None = None) -> AsyncIterator[memoryview]:
        """The body of an upload, read-only, of at most ``most`` bytes.

        It counts in the byte budget until the block ends. ``Problem`` before any byte is read if the request has no
        length (411), names an encoding (415), is too long (413), or if there is no room in time (503). Of one
        ``party`` two bodies are read at a time; the oldest makes room for a third one, and gets 429.
        """
        length = body_length(request.scope, most)
        async with contextlib.AsyncExitStack() as held:
            async with self._among_two(party):
                await held.enter_async_context(self.budget.hold(length))
                buffer = self._buffers.take(length)
                view = buffer.data[:length]
                body = await read_body(request.scope, request.receive, length, view)
            try:
                yield body
            finally:
                with contextlib.suppress(BufferError):  # of somebody who still looks at it
                    body.release()
                    view.release()
                self._buffers.give(buffer)

    @asynccontextmanager
    async def _among_two(self, party: str | None) -> AsyncIterator[None]:
        """Else a few slow bodies of one party would hold the whole budget.

        An honest party sends one at a time. A second one may be left of a connection that is dead.
        """
        if party is None:
            yield
            return
        reading = self._reading.setdefault(party, [])
        if len(reading) >= _BODIES:
            reading.pop(0).reschedule(asyncio.get_running_loop().time())
        scope = asyncio.timeout(None)
        try:
            async with scope:
                reading.append(scope)
                yield
        except TimeoutError:
            raise Problem(Kind.TOO_MANY_REQUESTS, retry_after=1.0) from None
        finally:
            if scope in reading:
                reading.remove(scope)
            if not reading and self._reading.get(party) is reading:
                del self._reading[party]

    async def body(self, request: Request, most: int) -> bytes:
        """The body of a small document, as in :meth:`body_within`, outside the budget."""
        return bytes(await read_body(request.scope, request.receive, body_length(request.scope, most)))


def body_length(scope: Scope, most: int) -> int:
    """The length that a request claims for its body; ``Problem`` if it is more than ``most``, or not plain."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    if b"transfer-encoding" in headers:
        raise Problem(Kind.LENGTH_REQUIRED)
    if b"content-encoding" in headers:
        raise Problem(Kind.UNSUPPORTED_ENCODING)
    lengths = headers.get(b"content-length", [])
    if len(lengths) != 1:
        raise Problem(Kind.LENGTH_REQUIRED)
    if not lengths[0].isdigit():
        raise Problem(Kind.BAD_REQUEST)
    if not _LENGTH.match(lengths[0]) or int(lengths[0]) > most:
        raise Problem(Kind.TOO_LARGE)
    return int(lengths[0])


async def read_body(scope: Scope, receive: Receive, length: int, view: memoryview | None = None) -> memoryview:
    """A body of exactly ``length`` bytes in one buffer, by default a new one, read-only.

    ``ClientDisconnect`` if the client leaves.
    """
    if view is None:
        view = np.empty(length, np.uint8).data  # not memory until it is written
    fill: Fill | None = scope.get("extensions", {}).get(FILL)
    at = await (_collect(receive, view) if fill is None else fill(view))
    if at is None:
        raise ClientDisconnect
    if at != length:
        raise Problem(Kind.BAD_REQUEST)
    return view.toreadonly()


async def _collect(receive: Receive, view: memoryview) -> int | None:
    """Read a body as any ASGI server hands it over; returns as :meth:`_Exchange.fill` does."""
    at, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part, more = message.get("body", b""), message.get("more_body", False)
        if at + len(part) > len(view):
            return at + len(part)
        view[at : at + len(part)] = part
        at += len(part)
    return at


def protect(app: App, hosts: Collection[str], limits: Limits) -> App:
    """``app`` behind the checks that all requests need, with every error as ``application/problem+json``.

    ``hosts`` are the names, without port, that a ``Host`` header may have: a page in an operator's browser can
    otherwise reach a listener on loopback through a name of its own (DNS rebinding). A handler raises
    :class:`Problem`. Any other exception is logged, and the client learns nothing of it.
    """
    if isinstance(app, Starlette):
        app.add_exception_handler(Problem, _to_response)
        app.router.redirect_slashes = False  # a redirect repeats what the client wrote
    return _Protected(app, frozenset(host.lower() for host in hosts), limits)


def _to_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return Response(error.body(), error.kind.status, error.headers())


class _Protected:
    def __init__(self, app: App, hosts: Collection[str], limits: Limits) -> None:
        self._app, self._hosts, self._limits = app, hosts, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        try:
            self._check(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass
        except Problem as problem:
            await exchange.fail(problem)
        except Exception:
            logger.exception("a handler failed; the client gets %s", Kind.INTERNAL_ERROR.word)
            await exchange.fail(Problem(Kind.INTERNAL_ERROR))
        finally:
            scope.pop("extensions", None)  # which refers to the exchange, and that to the scope's owner

    def _check(self, scope: Scope) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or _HIDDEN.search(scope.get("raw_path") or b""):
            raise Problem(Kind.BAD_REQUEST)
        if _hostname(hosts[0]) not in self._hosts:
            raise Problem(Kind.WRONG_HOST)


class _Exchange:
    """One request and its answer.

    An answer that leaves a body unread closes the connection. A bounded part of the body is read before: closing at
    once would reset the connection, and the client, still writing, would not see the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        extensions = scope.get("extensions", {})
        if FILL in extensions:
            self._fill: Fill = extensions[FILL]
            scope["extensions"] = {**extensions, FILL: self.fill}
        self._stays: Callable[[], bool] = extensions.get(STAYS, lambda: True)
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        self._large = any(not _LENGTH.match(value) or int(value) > _LARGE for value in lengths)
        self._unread = any(
            (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
            for name, value in scope["headers"]
        )
        self._started = self._ended = self._gone = False
        self._instead: bytes | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self._gone = message["type"] == "http.disconnect"
        self._unread = not self._gone and message.get("more_body", False)
        return message

    async def fill(self, view: memoryview) -> int | None:
        """Read the body into ``view``; returns how many bytes came, or None if the client has left."""
        size = await self._fill(view)
        self._gone, self._unread = size is None, False
        return size

    async def send(self, message: Message) -> None:
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": self._headers(message)}
        elif self._instead is not None:
            body, self._instead = self._instead, b""
            message = {**message, "body": body}
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not self._ended or not self._unread:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._drain()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, problem: Problem) -> None:
        """Answer with ``problem``, unless an answer has begun: then the listener ends the connection."""
        if self._ended or self._gone:
            return
        if self._started:
            raise problem
        body = problem.body()
        headers = {**problem.headers(), "content-length": str(len(body))}
        raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.kind.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def _headers(self, start: Message) -> list[tuple[bytes, bytes]]:
        headers = [(bytes(name).lower(), bytes(value)) for name, value in start.get("headers", [])]
        if start["status"] >= 400 and (b"content-type", MEDIA_TYPE.encode()) not in headers:  # a framework's own
            problem = Problem.of(start["status"], {}, b"")
            self._instead = problem.body()
            fixed = {**problem.headers(), "content-length": str(len(self._instead))}
            headers = [(name, value) for name, value in headers if name in _KEPT]
            headers += [(name.encode(), value.encode()) for name, value in fixed.items()]
        if self._unread or (self._large and not self._stays()):
            headers.append((b"connection", b"close"))
        return headers

    async def _drain(self) -> None:
        left = self._limits.drain_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_seconds):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def _hostname(header: bytes) -> str:
    """The name in a ``Host`` header, in lower case, without the port."""
    host = header.decode("latin-1").strip().lower()
    return host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]

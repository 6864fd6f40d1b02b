"""One connection: uvicorn's HTTP/1.1 with deadlines, a cap on headers, and no doubt where a message ends.

uvicorn alone waits without end for headers, bodies and slow readers. It also leaves some readings of a byte stream
to the parser's leniency. What is refused here is what no client of the service sends, and what two HTTP
implementations in a row may read in two ways (request smuggling; RFC 9112, section 11.2): Transfer-Encoding,
Upgrade, an absolute URI, and a second request before the first one is answered.

:class:`Connection` extends a class that is not public. Its attributes are those of uvicorn 0.54; the extra
``service`` bounds the version.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Final, NoReturn
from weakref import WeakSet

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from secagg.api.problems import Kind, Problem
from secagg.service.deadline import Deadline, acknowledged, unread
from secagg.service.limits import Limits

#: The ASGI extension for reading a whole body into one buffer.
FILL: Final = "secagg.fill"
STAYS: Final = "secagg.stays"
_MOST_GROWN: Final = 64
#: Connections that stay open after a large upload. The buffers of TLS grow with what a client sends at once, to
#: about half a megabyte, and never shrink: a thousand clients in long polls would hold half a gigabyte.
_GROWN: WeakSet[Connection] = WeakSet()
_METHODS: Final = frozenset({b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS"})


class _Stage(Enum):
    IDLE = auto()  # between two requests
    HEAD = auto()  # of the first request, or from the first byte of a later one
    BODY = auto()
    ANSWER = auto()  # the request is complete
    LAST = auto()  # nothing that arrives counts any more


class _Filling:
    """A body on its way into the buffer of the application."""

    def __init__(self, cycle: RequestResponseCycle, view: memoryview) -> None:
        self.cycle, self.size = cycle, 0
        self._view = view

    def add(self, piece: bytes | bytearray) -> None:
        end = self.size + len(piece)
        if end <= len(self._view):
            self._view[self.size : end] = piece
        self.size = end


class Connection(HttpToolsProtocol):
    """A connection of a listener, over the socket ``peer``. ``lost`` is called when it has ended."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        peer: socket.socket,
        limits: Limits,
        lost: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(config, server_state, {}, loop)
        self._peer, self._limits, self._lost = peer, limits, lost
        self._stage = _Stage.HEAD
        self._problem = Kind.BAD_REQUEST
        self._head = self._head_size = self._head_count = self._body = self._dropped = 0
        self._filling: _Filling | None = None
        self._reading = Deadline(loop, self._too_slow)
        self._writing = Deadline(loop, self._not_read)

    # The peer's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The handshake is done; the first request is due."""
        super().connection_made(transport)
        self._reading.start(self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has closed."""
        self._reading.end()
        self._writing.end()
        super().connection_lost(exc)
        # Nothing refers to the connection in a circle or from a timer now, so its buffers, up to a megabyte under
        # TLS, are free at once and not when the garbage is next collected.
        _GROWN.discard(self)
        self._unset_keepalive_if_required()
        if self.scope is not None:
            self.scope.pop("extensions", None)
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, unless nothing more counts."""
        if self._stage is _Stage.LAST:
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        if self._stage is _Stage.IDLE:
            self._begin_head()
        if self._stage is _Stage.HEAD:
            self._head += len(data)
        try:
            self.parser.feed_data(data)
            if self._stage is _Stage.HEAD and self._head > self._limits.header_bytes:
                self._fail(Kind.HEADERS_TOO_LARGE)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse()
            return
        if self._stage is _Stage.BODY and not self._reading.running:
            self._reading.start(
                self._limits.grace_seconds, self._limits.least_rate, lambda: self._body, self._not_reading
            )

    def pause_writing(self) -> None:
        """More is written than the peer has read: it must go on reading."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The peer has read most of it."""
        super().resume_writing()
        self._writing.stop()
        if self.cycle is not None and self.cycle.response_complete:
            self._watch_writing()

    # The parser's callbacks. An error that one raises ends the parsing.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.pipeline or not self._is_answered():
                self._fail(Kind.BAD_REQUEST)  # pipelining, or what was smuggled behind a request
            self._begin_head()
        self._head_size = self._head_count = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        super().on_url(url)
        self._count_head(len(url), 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._count_head(len(name) + len(value), 1)

    def on_headers_complete(self) -> None:
        """The request's head is complete: refuse what is read in two ways, or hand it to the application."""
        if self.parser.get_method() not in _METHODS:
            self._fail(Kind.NOT_IMPLEMENTED)
        if any(name == b"transfer-encoding" for name, _ in self.headers):
            self._fail(Kind.LENGTH_REQUIRED)
        upgrade = self.parser.should_upgrade() or any(name == b"upgrade" for name, _ in self.headers)
        if upgrade or not self.url.startswith(b"/") or self.parser.get_http_version() not in ("1.0", "1.1"):
            self._fail(Kind.BAD_REQUEST)
        super().on_headers_complete()
        self.scope["extensions"] = {FILL: partial(self._fill, self.cycle), STAYS: self._stays}  # type: ignore[dict-item]
        self._stage, self._body = _Stage.BODY, 0
        if any(name == b"content-length" and value != b"0" for name, value in self.headers):
            self.flow.pause_reading()  # until the application asks for the body, so that none waits in memory
        self._reading.stop()
        self._writing.stop()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += len(body)
        if self._filling is not None and self._filling.cycle is self.cycle:
            self._filling.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        super().on_message_complete()
        self._reading.stop()
        self._stage = _Stage.ANSWER
        if self.cycle.response_complete:  # before the end of the body
            self._stage = _Stage.IDLE
            self._reading.start(self._limits.idle_seconds)

    def on_response_complete(self) -> None:
        """The application has answered. uvicorn's timer closes the connection if no other request comes."""
        super().on_response_complete()
        if self._stage is _Stage.ANSWER and self.cycle.response_complete:  # the newest cycle, not a queued one
            self._stage = _Stage.IDLE
        self._watch_writing()

    async def _fill(self, cycle: RequestResponseCycle, view: memoryview) -> int | None:
        """Let the body of a request be written into ``view`` as it arrives, instead of calls of ``receive``.

        Returns how many bytes came, more than fit if the body is too long, or None if the client has left. uvicorn
        alone copies each piece four times, and wakes the application for it.
        """
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        filling = self._filling = _Filling(cycle, view)
        filling.add(cycle.body)
        cycle.body = bytearray()
        try:
            while cycle.more_body and not (cycle.disconnected or cycle.response_complete):
                self.flow.resume_reading()
                await cycle.message_event.wait()
                cycle.message_event.clear()
        finally:
            self._filling = None
        return None if cycle.disconnected or cycle.response_complete else filling.size

    def _stays(self) -> bool:
        """Whether the connection may stay open after a large upload, as long as few others do."""
        if self not in _GROWN and len(_GROWN) >= _MOST_GROWN:
            return False
        _GROWN.add(self)
        return True

    # What ends a connection

    def _begin_head(self) -> None:
        self._stage, self._head = _Stage.HEAD, 0
        self._reading.start(self._limits.header_seconds)

    def _is_answered(self) -> bool:
        """Whether all of the answer is written, though the application has not said so yet.

        The client can't know the difference, and may send its next request.
        """
        cycle = self.cycle
        ended = cycle.expected_content_length == 0 or cycle.scope["method"] == "HEAD"
        return cycle.response_started and not cycle.chunked_encoding and ended

    def _count_head(self, size: int, count: int) -> None:
        self._head_size += size
        self._head_count += count
        if self._head_size > self._limits.header_bytes or self._head_count > self._limits.header_count:
            self._fail(Kind.HEADERS_TOO_LARGE)

    def _fail(self, kind: Kind) -> NoReturn:
        self._problem = kind
        raise httptools.HttpParserError(kind.title)

    def _not_reading(self) -> bool:
        """Whether the body waits for the application, not for the peer."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _watch_writing(self) -> None:
        """From now until the application writes again, the peer must read at the least rate."""
        if unread(self._peer) or self.transport.is_closing():
            before = acknowledged(self._peer)
            self._writing.start(
                self._limits.grace_seconds,
                self._limits.least_rate,
                lambda: acknowledged(self._peer) - before,
            )

    def _not_read(self) -> None:
        if unread(self._peer) or self.transport.is_closing():
            self.transport.abort()

    def _too_slow(self) -> None:
        if self._stage is _Stage.IDLE or (self._stage is _Stage.HEAD and not self._head):
            self.transport.close()  # nothing has arrived that could be answered
        elif self._stage is _Stage.HEAD:
            self._problem = Kind.TOO_SLOW
            self._refuse()
        elif self._stage is _Stage.BODY and not self.cycle.response_started:
            self.cycle.disconnected = True  # for the application, which may wait for the rest
            self.cycle.message_event.set()
            self._problem = Kind.TOO_SLOW
            self._refuse()
        else:
            self.transport.abort()

    def _refuse(self) -> None:
        """Answer with the problem and close. A request that is being answered gets its own answer alone."""
        answering = self.cycle is not None and not (self.cycle.response_complete or self.cycle.disconnected)
        self._stage = _Stage.LAST
        if answering:
            self.cycle.keep_alive = False
            self._reading.stop()
            return
        if not self.transport.is_closing():
            problem = Problem(self._problem)
            body = problem.body()
            headers = problem.headers() | {"content-length": str(len(body)), "connection": "close"}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[problem.status] + lines.encode("ascii") + b"\r\n" + body)
            if self.transport.can_write_eof():
                self.transport.write_eof()
        # To close with bytes unread would reset the connection, and the peer would not see the answer.
        self._reading.start(self._limits.header_seconds)

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > self._limits.drain_bytes:
            self.transport.abort()

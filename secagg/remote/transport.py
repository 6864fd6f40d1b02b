"""The drivers: they carry requests over HTTPS with httpx2, blocking or with asyncio, and decide nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from http.cookiejar import CookieJar
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from secagg.errors import ConfigError, Refused, words
from secagg.remote.line import INSTALL
from secagg.remote.requests import Request, Response, Sleep
from secagg.remote.settings import Progress

if TYPE_CHECKING:
    import httpx2

    from secagg.kit import Kit
    from secagg.remote.line import Exchange
    from secagg.remote.settings import Settings

_PIECE: Final = 1 << 16
_SMALL: Final = 1 << 16  # bytes up to which a body is sent without telling of progress
_CONNECT: Final = 20.0  # seconds
_SILENT: Final = 90.0  # seconds without a byte, which is more than a poll may wait


class LostError(Exception):
    """The connection failed before the whole answer was there; the core tries again."""


def library() -> ModuleType:
    """httpx2; ``ConfigError`` that says what to install."""
    try:
        import httpx2
    except ImportError as error:
        raise ConfigError(f"got no {error.name}, which a client of a service needs: {INSTALL}") from error
    return httpx2


def tls(kit: Kit) -> ssl.SSLContext:
    """What the connection trusts: the kit's certificates, else the system's."""
    if kit.ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=kit.ca)
    else:
        try:
            import truststore

            context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except ImportError:
            context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Clock:
    """Seconds since 1970 that never jump: the time at the start, and how much has passed since."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()

    def __call__(self) -> float:
        """The time now."""
        return self._start + time.monotonic()


class _NoCookies(CookieJar):
    """Keeps and sends none: a service could fill the memory with them, and each request would be longer."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Keep nothing."""

    def add_cookie_header(self, request: object) -> None:
        """Send nothing."""


def _arguments(kit: Kit, settings: Settings) -> dict[str, Any]:
    secure = kit.url.startswith("https")
    return {
        "base_url": kit.url,
        "verify": tls(kit) if secure else True,
        # The environment's proxy is elsewhere. What goes to this machine without TLS must not pass there.
        "trust_env": settings.trust_env and secure,
        "cookies": _NoCookies(),
        "proxy": settings.proxy,
        "follow_redirects": False,
        "headers": {"user-agent": "secagg"},
    }


def _sent(request: Request, settings: Settings) -> tuple[dict[str, str], Any]:
    """The headers and the body of a request; a large body is sent in pieces, which tell of progress."""
    headers = dict(request.headers)
    if request.method in ("PUT", "PATCH", "POST"):
        headers["content-length"] = str(len(request.body))
    tell = settings.progress
    if len(request.body) <= _SMALL or not callable(tell):
        return headers, bytes(request.body)
    body, total = memoryview(request.body), len(request.body)

    def pieces() -> Iterator[bytes]:
        for at in range(0, total, _PIECE):
            yield bytes(body[at : at + _PIECE])
            tell(Progress("upload", min(at + _PIECE, total), total))

    return headers, pieces()


def _timeout(httpx: ModuleType, request: Request) -> Any:
    silent = min(_SILENT, request.seconds)
    return httpx.Timeout(connect=_CONNECT, read=silent, write=silent, pool=None)


class _Body:
    """Collects the body of an answer within the request's caps."""

    def __init__(self, request: Request, response: httpx2.Response, started: float) -> None:
        self._request, self._until = request, started + request.seconds
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._status = response.status_code
        self._most = request.check_head(self._status, self.headers)
        self._pieces: list[bytes] = []
        self._size = 0
        self.failure: Exception | None = None  # of this side, such as a full disk: the connection is not lost

    def add(self, piece: bytes) -> bool:
        """Take a piece; False if nothing more of the body is wanted."""
        if time.monotonic() > self._until:
            raise LostError(f"the answer took more than {self._request.seconds:.0f} s")
        self._size += len(piece)
        if self._size > self._most:
            if self._status >= 300:  # an error's page: its beginning is enough
                return False
            raise Refused(f"got an answer of more than {self._most} bytes")
        if self._request.sink is not None and self._status < 300:
            try:
                self._request.sink(piece)
            except Exception as error:
                self.failure = error
                raise
        else:
            self._pieces.append(piece)
        return True

    def response(self) -> Response:
        """The whole answer."""
        return Response(self._status, self.headers, b"".join(self._pieces))


def _failure(error: Exception) -> Exception:
    """What a failed request means: a certificate that is not trusted is permanent, all else is not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(
                f"the service's certificate is not trusted: {words(cause)}; a kit with its CA names whom to trust"
            )
        cause = cause.__cause__ or cause.__context__
    return LostError(f"{type(error).__name__}: {words(error)}")


class _Sockets:
    """The open connections of a client, to be ended from another thread than the one that waits for them.

    The library's timeouts are for each read. A service that sends heads of 1xx answers, or one line a minute, keeps
    a read from ever being late.
    """

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def note(self, event: str, details: dict[str, Any]) -> None:
        """See the trace extension of httpx2: note a connection that was made."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            made = details["return_value"].get_extra_info("socket")
            with self._lock:
                self._open.add(made)

    def end(self, late: threading.Event) -> None:
        """End all, so that each reader gets an error, and say so in ``late``."""
        late.set()
        with self._lock:
            ending = list(self._open)
        for one in ending:
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # not TLS's own, which is for its thread alone


class Http:
    """Sends requests, blocking; any thread may send."""

    def __init__(self, kit: Kit, settings: Settings) -> None:
        self._httpx, self._settings, self._sockets = library(), settings, _Sockets()
        self._client = self._httpx.Client(**_arguments(kit, settings))

    def send(self, request: Request) -> Response:
        """The answer; ``LostError`` where trying again may help, and ``Refused`` where it would not."""
        headers, body = _sent(request, self._settings)
        started = time.monotonic()
        collected: _Body | None = None
        late = threading.Event()
        watch = threading.Timer(request.seconds, self._sockets.end, (late,))
        watch.daemon = True
        watch.start()
        try:
            with self._client.stream(
                request.method,
                request.target,
                headers=headers,
                content=body,
                timeout=_timeout(self._httpx, request),
                extensions={"trace": self._sockets.note},
            ) as response:
                collected = _Body(request, response, started)
                for piece in response.iter_raw():
                    if not collected.add(piece):
                        break
                return collected.response()
        except (self._httpx.HTTPError, self._httpx.InvalidURL, ssl.SSLError, OSError) as error:
            if collected is not None and error is collected.failure:
                raise
            if late.is_set():
                raise LostError(f"the answer took more than {request.seconds:.0f} s") from error
            raise _failure(error) from error
        finally:
            watch.cancel()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class Gate:
    """Lets cores compute until it is closed; closing it waits for the one that computes."""

    def __init__(self) -> None:
        self._lock, self.shut = threading.RLock(), threading.Event()

    def next(self, exchange: Exchange, now: float) -> Request | Sleep | None:
        """What the exchange asks for; None once this gate is shut."""
        with self._lock:
            return None if self.shut.is_set() else exchange.next(now)

    def got(self, exchange: Exchange, response: Response, now: float) -> None:
        """Pass an answer on."""
        with self._lock:
            if not self.shut.is_set():
                exchange.got(response, now)

    def lost(self, exchange: Exchange, lost: LostError, now: float) -> None:
        """Pass a failure on."""
        with self._lock:
            if not self.shut.is_set():
                exchange.lost(str(lost), now)

    def close(self) -> None:
        """From now on, no core computes, so its folder may be released."""
        self.shut.set()
        with self._lock:
            pass


class Driver:
    """Does what an exchange asks for, one step at a time; any thread may take steps of exchanges of its own."""

    def __init__(self, kit: Kit, settings: Settings) -> None:
        self.now, self.wake, self._gate = Clock(), threading.Event(), Gate()
        self._http = Http(kit, settings)

    @property
    def closed(self) -> bool:
        """Whether the driver was closed."""
        return self._gate.shut.is_set()

    def step(self, exchange: Exchange, wake: threading.Event | None = None) -> bool:
        """Do what the exchange asks for; False at its end. ``wake`` ends its sleep early."""
        if wake is not None:
            wake.clear()
        step = self._gate.next(exchange, self.now())
        if step is None:
            return False
        if isinstance(step, Sleep):
            if not self.closed:
                (wake or self._gate.shut).wait(step.seconds)
            return True
        try:
            response = self._http.send(step)
        except LostError as lost:
            self._gate.lost(exchange, lost, self.now())
        else:
            self._gate.got(exchange, response, self.now())
        return True

    def close(self) -> None:
        """Wake whoever sleeps, and wait for what computes. A request that is under way is left to its thread."""
        self._gate.close()
        self.wake.set()

    def hang_up(self) -> None:
        """Close all connections. No thread may be sending any more: a descriptor would close under it."""
        self._http.close()


class AsyncHttp:
    """Sends requests with asyncio."""

    def __init__(self, kit: Kit, settings: Settings) -> None:
        self._httpx, self._settings = library(), settings
        self._client = self._httpx.AsyncClient(**_arguments(kit, settings))

    async def send(self, request: Request) -> Response:
        """See :meth:`Http.send`."""
        headers, body = _sent(request, self._settings)
        started = time.monotonic()
        collected: _Body | None = None
        try:
            async with (
                asyncio.timeout(request.seconds),
                self._client.stream(
                    request.method,
                    request.target,
                    headers=headers,
                    content=body if isinstance(body, bytes) else _as_async(body),
                    timeout=_timeout(self._httpx, request),
                ) as response,
            ):
                collected = _Body(request, response, started)
                async for piece in response.aiter_raw():
                    if not collected.add(piece):
                        break
                return collected.response()
        except (self._httpx.HTTPError, self._httpx.InvalidURL, ssl.SSLError, OSError) as error:
            if collected is not None and error is collected.failure:
                raise
            raise _failure(error) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _as_async(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece

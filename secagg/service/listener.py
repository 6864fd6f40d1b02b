"""A listening socket for an ASGI application: TLS, the limits on connections, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import os
import resource
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from secagg._private_files import warn_if_shared
from secagg.errors import ConfigError
from secagg.service.connection import Connection
from secagg.service.limits import Limits

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # connections accepted in one turn of the event loop
_PAUSE_SECONDS: Final = 0.5
_SPARE_FILES: Final = 128  # descriptors for databases, spools and the event loop
_CLOSING_SECONDS: Final = 30.0  # for the end of a TLS connection, with what is still to be sent
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are OpenSSL's, AES-GCM first


class Listener:
    """One listening socket with one application, on one event loop; run by the service.

    ``tls`` is the paths of the certificate chain and of its key, both PEM. Without it a listener serves loopback
    addresses only, unless ``behind_proxy`` says that a proxy ends TLS in front of it. Then connections are not
    counted by address either. Port 0 takes a free port: see :attr:`port` after :meth:`start`.

    A session lives in one process, so there are no workers. ``ConfigError`` for what can't work.
    """

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: tuple[str | Path, str | Path] | None = None,
        limits: Limits | None = None,
        behind_proxy: bool = False,
    ) -> None:
        if tls is None and not behind_proxy and not _is_loopback(host):
            raise ConfigError(
                f"got a listener on {host} without TLS; expected a certificate and its key, a loopback address, or "
                f"behind_proxy=True if a proxy ends TLS"
            )
        if os.environ.get("WEB_CONCURRENCY", "1") != "1":
            raise ConfigError("got WEB_CONCURRENCY in the environment; unset it: a session lives in one process")
        self._host, self._asked = host, port
        self._tls = None if tls is None else server_context(*tls)
        self._limits, self._behind_proxy = limits or Limits(), behind_proxy
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            workers=1,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=math.ceil(self._limits.idle_seconds),
        )
        self._server = _Server(config)
        self._ticking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port, chosen by the system if it was 0. ``ConfigError`` before :meth:`start`."""
        return int(self._running().socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The address as a URL, such as ``https://127.0.0.1:8443``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open, also those whose TLS handshake is not done."""
        return self._running().gate.total

    async def start(self) -> None:
        """Listen. Returns when connections are accepted; ``ConfigError`` if the address can't be used."""
        if self._ticking is not None:
            raise ConfigError("got start() on a listener that has started; make another one")
        gate = _Gate(_most_connections(self._limits), None if self._behind_proxy else self._limits.per_address)
        config = self._server.config
        config.load()

        def connect(peer: socket.socket, lost: Callable[[], None]) -> Connection:
            return Connection(config, self._server.server_state, peer, self._limits, lost)

        self._server.acceptor = _Acceptor(
            _listen(self._host, self._asked), gate, connect, self._tls, self._limits.handshake_seconds
        )
        await self._server.startup()
        self._ticking = asyncio.create_task(self._server.main_loop(), name="secagg listener")

    async def stop(self, grace: float = 20.0) -> None:
        """Accept no more, let the requests under way end within ``grace`` seconds, and close every connection."""
        if self._ticking is None or self._server.should_exit:
            return
        self._server.should_exit = True
        self._running().close()
        self._server.config.timeout_graceful_shutdown = math.ceil(grace)
        await self._ticking
        await self._server.shutdown()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Connection):
                connection.transport.abort()
        if cancelled := set(self._server.server_state.tasks):
            await asyncio.wait(cancelled, timeout=1.0)
        for _ in range(3):
            await asyncio.sleep(0)  # transports close their sockets in the next turns of the loop

    def _running(self) -> _Acceptor:
        if self._server.acceptor is None:
            raise ConfigError("got a question to a listener that has not started; await its start() first")
        return self._server.acceptor


@contextlib.contextmanager
def in_thread(*listeners: Listener, grace: float = 5.0) -> Iterator[None]:
    """Serve ``listeners`` on an event loop in a thread of its own until the block ends."""
    loop = new_loop()

    async def each(stop: bool) -> None:
        for listener in listeners:
            await (listener.stop(grace) if stop else listener.start())

    thread = threading.Thread(target=loop.run_forever, name="secagg listeners", daemon=True)
    thread.start()
    try:
        try:
            asyncio.run_coroutine_threadsafe(each(stop=False), loop).result()
            yield
        finally:
            asyncio.run_coroutine_threadsafe(each(stop=True), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop for listeners: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def server_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """TLS 1.3 and 1.2 with forward secrecy; ``ConfigError`` if the files are not a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake costs the server more than its client
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # else OpenSSL asks at the terminal
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"got certificate {certificate} and key {key} that can't be used ({error}); expected a chain and its "
            f"key, both in PEM and not encrypted"
        ) from error
    warn_if_shared(key)
    return context


class _Server(uvicorn.Server):
    """uvicorn's bookkeeping and shutdown over a socket of our own."""

    acceptor: _Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert self.acceptor is not None
        self.lifespan = self.config.lifespan_class(self.config)
        self.acceptor.start()
        self.servers = [self.acceptor]  # type: ignore[list-item]  # shutdown closes it and waits for it
        self.started = True


class _Gate:
    """Counts connections, in all and by address, from the moment that they are accepted."""

    def __init__(self, most: int, per_address: int | None) -> None:
        self._most, self._per_address = most, per_address
        self._by_address: Counter[str] = Counter()
        self.total = 0

    def enter(self, peer: str) -> Callable[[], None] | None:
        """What to call when the connection has ended, or None if there is no room for it."""
        address = network(peer)
        if self.total >= self._most or self._by_address[address] >= (self._per_address or math.inf):
            return None
        self.total += 1
        self._by_address[address] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self.total -= 1
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]

        return leave


class _Acceptor:
    """Accepts connections and shakes hands. asyncio's own server counts a connection only after its handshake."""

    def __init__(
        self,
        listening: socket.socket,
        gate: _Gate,
        connect: Callable[[socket.socket, Callable[[], None]], Connection],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self.socket, self.gate = listening, gate
        self._connect = connect
        self._tls: dict[str, Any] = {}
        if tls is not None:
            timeouts = {"ssl_handshake_timeout": handshake_seconds, "ssl_shutdown_timeout": _CLOSING_SECONDS}
            self._tls = {"ssl": tls, **timeouts}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.socket, self._accept)

    def close(self) -> None:
        if self.socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                peer, address = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: the backlog waits in the kernel
                logger.warning("no connection could be accepted: %s", error.strerror)
                loop.remove_reader(self.socket)
                loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            leave = self.gate.enter(address[0])
            if leave is None:
                peer.close()
                continue
            peer.setblocking(False)
            task = loop.create_task(self._open(peer, leave))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self) -> None:
        if self.socket.fileno() >= 0:
            self.start()

    async def _open(self, peer: socket.socket, leave: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._connect(peer, leave), peer, **self._tls)
        except BaseException as error:
            leave()
            peer.close()
            if not isinstance(error, OSError):  # of which those of TLS and of time are two
                raise


def network(peer: str) -> str:
    """An IPv4 address, or the 64 bits of an IPv6 address of which one host has all addresses."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return peer


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"got {host}:{port} to listen on, which the system refuses ({error})") from error
    listening.setblocking(False)
    return listening


def _most_connections(limits: Limits) -> int:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files - _SPARE_FILES < limits.connections:
        most = max(1, files - _SPARE_FILES)
        _warn_of_few_files(most, files)
        return most
    return limits.connections


@functools.cache  # the parties' listener and the operators' page have the same limit
def _warn_of_few_files(most: int, files: int) -> None:
    logger.warning(
        "at most %d connections, since the process may open %d files; raise LimitNOFILE or ulimit -n", most, files
    )

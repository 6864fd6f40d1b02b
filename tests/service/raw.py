"""Raw sockets against a listener: what the peers of these tests send no HTTP library would."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterable

from secagg.service.guard import protect
from secagg.service.limits import Limits
from secagg.service.listener import Listener

LIMITS = Limits(
    header_seconds=0.4,
    handshake_seconds=0.4,
    grace_seconds=0.4,
    least_rate=20_000.0,
    idle_seconds=1.0,
    drain_seconds=0.2,
    per_address=None,
)
#: The control of every attack on time or number: the same listener without the deadlines.
ENDLESS = Limits(
    header_seconds=1e6,
    handshake_seconds=1e6,
    grace_seconds=1e6,
    least_rate=1e-3,
    idle_seconds=1e6,
    drain_seconds=1e6,
    header_bytes=1 << 30,
    header_count=1 << 30,
    per_address=None,
)


class Recorder:
    """An application that answers with its path, and counts requests, reads and bytes of bodies."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.reads = self.bytes = 0
        self.left = threading.Event()  # a client has left while its body was awaited

    async def __call__(self, scope, receive, send) -> None:
        self.paths.append(scope["path"])
        more = True
        while more:
            self.reads += 1
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            self.bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = scope["path"].encode()
        if scope["path"] == "/large":
            body = bytes(64 << 20)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, len(body) or 1, 1 << 18):
            await send({"type": "http.response.body", "body": body[at : at + (1 << 18)], "more_body": True})
        await asyncio.sleep(0.005)  # the client may have sent its next request by now
        await send({"type": "http.response.body", "body": b""})


def listener(app, limits: Limits = LIMITS, **keywords) -> Listener:
    return Listener(protect(app, ["127.0.0.1", "localhost"], limits), limits=limits, **keywords)


def request(method: str = "GET", path: str = "/", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Peer:
    """One TCP connection."""

    def __init__(self, to: Listener, timeout: float = 5.0, buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(("127.0.0.1", to.port))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the connection still took the bytes."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def receive(self, count: int = 1 << 16) -> bytes:
        return self.socket.recv(count)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def drip(self, data: Iterable[bytes], gap: float, seconds: float) -> bool:
        """Send piece by piece for at most ``seconds``; whether the connection was still open at the end."""
        until = time.monotonic() + seconds
        self.socket.settimeout(gap)
        for piece in data:
            if time.monotonic() > until:
                break
            if not self.send(piece):
                return False
            try:
                if not self.socket.recv(1 << 16):
                    return False
            except TimeoutError:
                continue
            except OSError:
                return False
        return True


def statuses(answer: bytes) -> list[int]:
    """The status of every response in what a peer has received."""
    return [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]

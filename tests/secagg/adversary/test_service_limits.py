"""What a peer can hold or hide before any message is read, on a listener of the service.

The attacker has a network connection, and mostly no token. It wants room that honest parties then lack
(connections, memory), or it wants a proxy and the service to disagree on where a request ends, so that its bytes
pass as another's request. Most tests run against the real listener over raw sockets; deadlines are fractions of a
second there.
"""

import asyncio
import contextlib
import os
import random
import socket
import sys
import threading
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request

import secagg
from secagg.api import routes
from secagg.api.problems import Kind, Problem
from secagg.api.tokens import sign_token
from secagg.identity import enrol
from secagg.service import Service, guard
from secagg.service.connection import Connection
from secagg.service.guard import Guard, protect
from secagg.service.handlers import Handlers, public_routes
from secagg.service.limits import Limits
from secagg.service.listener import Listener, in_thread
from tests.secagg.adversary.registry import attack, refusal
from tests.service.certificates import trusting, write_certificate
from tests.service.raw import ENDLESS, LIMITS, Peer, Recorder, listener, request, statuses

ANYONE = "any peer, without a token"
OWN = "our own"


def hosted(folder: Path) -> tuple[Service, str]:
    """A real service with one task, and a token of its client c1."""
    update = {"w": np.zeros(4, np.float32)}
    task = secagg.Task(
        protocol=secagg.Clear(),
        layout=secagg.Layout.of(update),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=2,
        min_survivors=2,
    )
    keys, roster = enrol(["c1", "c2"])
    service = Service(folder, url="http://localhost", status=None, limits=replace(LIMITS, party_rate=1e9))
    service.add(task, roster=roster)
    return service, sign_token("c1", keys["c1"], "http://localhost", task.digest, time.time())


def ask(app, method: str, path: str, *headers: tuple[str, str], parts: int = 0) -> tuple[int, int]:
    """The status, and how often the body was read before the answer began; in memory, by ASGI."""
    return asyncio.run(_ask(app, method, path, headers, parts))


async def _ask(app, method, path, headers, parts) -> tuple[int, int]:
    reads, answer = 0, (0, 0)

    async def receive():
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"x" * 10, "more_body": reads < parts}

    async def send(message):
        nonlocal answer
        if message["type"] == "http.response.start":
            answer = message["status"], reads

    raw = path.encode("utf-8", "surrogatepass")
    scope = {
        "type": "http",
        "method": method,
        "path": urllib.parse.unquote(path),
        "raw_path": raw,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in [("host", "localhost"), *headers]],
    }
    await app(scope, receive, send)
    return answer


def patience(limits: Limits) -> float:
    """Seconds in which a listener with deadlines ends what it ends, and after which one without them never will."""
    return 5.0 if limits.header_seconds < 5 else 2.5 * LIMITS.header_seconds


def settled(to: Listener, count: int = 0, seconds: float = 5.0) -> bool:
    """Whether the listener comes down to ``count`` connections."""
    until = time.monotonic() + seconds
    while to.connections > count and time.monotonic() < until:
        time.sleep(0.02)
    return to.connections <= count


@attack(
    title="A header that never ends.",
    attacker=ANYONE,
    defence="A request's headers, and empty lines before them, must be complete ten seconds after the first byte",
    control="without the deadline the connection is held for as long as the attacker drips",
    source="Slowloris (2009)",
)
class TestSlowHeader:
    DRIPS = (request("GET", "/a", "X: " + "a" * 400), b"\r\n" * 400)

    def hold(self, limits: Limits) -> list[bool]:
        with in_thread(to := listener(Recorder(), limits), grace=0.1):
            held = []
            for bytes_ in self.DRIPS:
                with Peer(to) as peer:
                    held.append(peer.drip((bytes([byte]) for byte in bytes_), 0.1, patience(limits)))
            return held

    def test_refused(self) -> None:
        assert self.hold(LIMITS) == [False, False]

    def test_control_succeeds(self) -> None:
        assert self.hold(ENDLESS) == [True, True]


@attack(
    title="A TLS handshake that never ends.",
    attacker=ANYONE,
    defence="A handshake must be complete ten seconds after the connection",
    control="without the deadline a silent peer holds its connection, and the memory of a handshake",
    source=OWN,
)
class TestSlowHandshake:
    def hold(self, folder: Path, limits: Limits) -> list[bool]:
        tls = write_certificate(folder)
        with in_thread(to := listener(Recorder(), limits, tls=tls), grace=0.1):
            held = []
            for hello in (b"", b"\x16\x03\x01\x02\x00"):  # nothing, and the head of a record
                with Peer(to) as peer:
                    peer.send(hello)
                    while not to.connections:
                        time.sleep(0.01)
                    held.append(not settled(to, seconds=patience(limits)))
            return held

    def test_refused(self, tmp_path) -> None:
        assert self.hold(tmp_path, LIMITS) == [False, False]

    def test_control_succeeds(self, tmp_path) -> None:
        assert self.hold(tmp_path, ENDLESS) == [True, True]


@attack(
    title="A body that never ends.",
    attacker=ANYONE,
    defence="A body must arrive at 16 kB a second on average, from five seconds after its headers",
    control="without the deadline one byte now and then holds the connection, the request and its memory",
    source="R-U-Dead-Yet (2010)",
)
class TestSlowBody:
    def hold(self, limits: Limits) -> tuple[bool, Recorder]:
        app = Recorder()
        with in_thread(to := listener(app, limits), grace=0.1), Peer(to) as peer:
            peer.send(request("PUT", "/a", "Content-Length: 1000000", body=bytes(1000)))
            return peer.drip([b"x"] * 100, 0.1, patience(limits)), app

    def test_refused(self) -> None:
        held, app = self.hold(LIMITS)
        assert not held
        assert app.left.wait(5)  # the handler's memory is free too

    def test_control_succeeds(self) -> None:
        held, app = self.hold(ENDLESS)
        assert held
        assert app.bytes > 1000


@attack(
    title="An answer that is never read.",
    attacker=ANYONE,
    defence="The peer must acknowledge an answer at 16 kB a second on average, by the kernel's own count",
    control="without the deadline the answer stays in memory for as long as the attacker likes",
    source="CVE-2011-3192's kind; Slow Read (2012)",
)
class TestSlowReader:
    def hold(self, limits: Limits, tls: tuple[Path, Path] | None = None) -> bool:
        with in_thread(to := listener(Recorder(), limits, tls=tls), grace=0.1), Peer(to, buffer=4096) as peer:
            if tls is not None:
                peer.socket = trusting(tls[0]).wrap_socket(peer.socket, server_hostname="localhost")
            peer.send(request("GET", "/large", "Connection: close"))
            peer.receive(100)
            return not settled(to, seconds=patience(limits))

    def test_refused(self, tmp_path) -> None:
        assert not self.hold(LIMITS)
        assert not self.hold(LIMITS, write_certificate(tmp_path))  # where the transport's own buffer is empty

    def test_control_succeeds(self) -> None:
        assert self.hold(ENDLESS)


@attack(
    title="Half-open connections that fill the server.",
    attacker="a peer with many addresses, without a token",
    defence="A connection without a whole request ends at its deadline, so room is free again",
    control="without the deadlines 500 sockets hold all connections, and an honest request is never answered",
    source="Slowloris (2009)",
)
class TestHalfOpen:
    def served(self, limits: Limits) -> bool:
        limits = replace(limits, connections=500)
        with in_thread(to := listener(Recorder(), limits), grace=0.1), contextlib.ExitStack() as stack:
            half = [stack.enter_context(Peer(to)) for _ in range(500)]
            for number, peer in enumerate(half):
                peer.send(b"" if number % 2 else b"GET /a HTTP/1.1\r\nHost: loc")
            until = time.monotonic() + patience(limits)
            while time.monotonic() < until:
                with Peer(to) as honest, contextlib.suppress(OSError):
                    honest.send(request("GET", "/honest"))
                    if statuses(honest.receive()) == [200]:
                        return True
                time.sleep(0.05)
            return False

    def test_refused(self) -> None:
        assert self.served(LIMITS)

    def test_control_succeeds(self) -> None:
        assert not self.served(ENDLESS)


@attack(
    title="One address that takes all connections.",
    attacker="a peer with one address, without a token",
    defence="64 connections an address, counted from the moment that they are accepted, before a TLS handshake",
    control="without the count one address holds every connection, and another address gets none",
    source=OWN,
)
class TestOneAddress:
    def served(self, limits: Limits) -> bool:
        with in_thread(to := listener(Recorder(), limits), grace=0.1), contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(Peer(to)).send(b"GET")
            with socket.socket() as honest, contextlib.suppress(OSError):
                honest.settimeout(5)
                honest.bind(("127.0.0.2", 0))
                honest.connect(("127.0.0.1", to.port))
                honest.sendall(request("GET", "/honest"))
                return honest.recv(4096).startswith(b"HTTP/1.1 200")
            return False

    def test_refused(self) -> None:
        assert self.served(replace(ENDLESS, connections=100, per_address=64))

    def test_control_succeeds(self) -> None:
        assert not self.served(replace(ENDLESS, connections=100, per_address=None))


@attack(
    title="Headers without end.",
    attacker=ANYONE,
    defence="16 kB and 64 headers a request, counted while they arrive",
    control="without the caps the server keeps megabytes of headers, of one or of many names, for each connection",
    source="CVE-2024-27316 (CONTINUATION floods) is HTTP/2's variant",
)
class TestEndlessHeader:
    def kept(self, limits: Limits) -> list[int]:
        app, answers = Recorder(), []
        with in_thread(to := listener(app, limits), grace=0.1):
            for headers in (["X: " + "a" * (1 << 20)], [f"X{number}: a" for number in range(1000)]):
                with Peer(to) as peer:
                    peer.send(request("GET", "/a", *headers))
                    answers += statuses(peer.receive())
            with Peer(to) as peer:
                peer.send(b"GET /" + b"a" * 40_000)
                peer.send(b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with contextlib.suppress(OSError):
                    answers += statuses(peer.receive())
        return answers

    def test_refused(self) -> None:
        assert self.kept(LIMITS) == [431, 431, 431]

    def test_control_succeeds(self) -> None:
        assert self.kept(replace(LIMITS, header_bytes=1 << 30, header_count=1 << 30)) == [200, 200, 200]


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: What only our own checks refuse: (what it is, the bytes, what the attacker has without the checks).
OURS = {
    "pipelined": (request("GET", "/a") + HIDDEN, "/smuggled"),
    "behind a body": (request("PUT", "/a", "Content-Length: 1", body=b"x") + HIDDEN, "/smuggled"),
    "chunked": (request("PUT", "/a", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n"), "/a"),
    "an absolute URI of another host": (request("GET", "http://evil.example/a"), "/a"),
    "a method of our own": (request("PROPFIND", "/a"), "/a"),
}
UPGRADE = request("PUT", "/a", "Connection: Upgrade", "Upgrade: x", f"Content-Length: {len(HIDDEN)}")
#: What is refused also without those checks, mostly by the parser.
PARSER = {
    "a trailer": request("PUT", "/a", "Transfer-Encoding: chunked", body=b"0\r\nHost: evil\r\n\r\n"),
    "a body that Upgrade hides": UPGRADE + HIDDEN,
    "CL and TE": request("PUT", "/a", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "TE and CL": request("PUT", "/a", "Transfer-Encoding: chunked", "Content-Length: 4", body=b"0\r\n\r\n"),
    "two lengths": request("PUT", "/a", "Content-Length: 1", "Content-Length: 2", body=b"xx"),
    "two equal lengths": request("PUT", "/a", "Content-Length: 1", "Content-Length: 1", body=b"x"),
    "a list of lengths": request("PUT", "/a", "Content-Length: 1, 1", body=b"x"),
    "a signed length": request("PUT", "/a", "Content-Length: +1", body=b"x"),
    "a hexadecimal length": request("PUT", "/a", "Content-Length: 0x1", body=b"x"),
    "a length above 2^64": request("PUT", "/a", "Content-Length: 18446744073709551617", body=b"x"),
    "an unknown coding": request("PUT", "/a", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "two codings": request("PUT", "/a", "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "a space before the colon": request("PUT", "/a", "Content-Length : 1", body=b"x"),
    "a folded line": request("PUT", "/a", "Content-Length: 1", "X: a", " b", body=b"x"),
    "bare line feeds": request("GET", "/a").replace(b"\r\n", b"\n"),
    "a bare carriage return": request("GET", "/a", "X: a\rY: b"),
    "NUL in a header": request("GET", "/a", "X: a\0b"),
    "NUL in the path": request("GET", "/a\0b"),
    "a space in the path": request("GET", "/a b"),
    "raw bytes in the path": request("GET", "/a").replace(b"/a", b"/\xff"),
    "HTTP/0.9": b"GET /a\r\n\r\n",
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": request("CONNECT", "evil.example:443"),
    "an asterisk": request("OPTIONS", "*"),
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "two hosts": request("GET", "/a", "Host: localhost"),
    "garbage": bytes(range(256)) * 4,
}


@attack(
    title="A request that two servers read in two ways.",
    attacker="any peer behind a proxy that reads the same bytes otherwise",
    defence="Only Content-Length frames a body; pipelining, Upgrade, absolute URIs and unknown methods are refused",
    control="without our checks the parser alone answers the hidden request, or runs a request that the proxy "
    "took for a body",
    source="RFC 9112, sections 11.1 and 11.2; HTTP desync attacks (2019)",
)
class TestSmuggling:
    LIMITS = replace(LIMITS, drain_seconds=0.05)

    def test_refused(self) -> None:
        app = Recorder()
        with in_thread(to := listener(app, self.LIMITS), grace=0.1):
            for name, raw in {**PARSER, **{name: raw for name, (raw, _) in OURS.items()}}.items():
                app.paths.clear()
                with Peer(to) as peer:
                    peer.send(raw)
                    answers = statuses(peer.rest())
                assert "/smuggled" not in app.paths, name
                if "/a" in app.paths:  # the first of two requests, answered by itself
                    assert (answers, app.paths, name) == ([200], ["/a"], name)
                    assert name in ("pipelined", "behind a body")
                else:
                    assert len(answers) == 1, name
                    assert answers[0] in (400, 411, 501), name

    def test_control_succeeds(self, monkeypatch) -> None:
        monkeypatch.setattr(Connection, "_fail", lambda self, kind: None)
        app = Recorder()
        with in_thread(to := listener(app, self.LIMITS), grace=0.1):
            for name, (raw, path) in OURS.items():
                app.paths.clear()
                with Peer(to) as peer:
                    peer.send(raw)
                    while path not in app.paths:
                        assert peer.receive(), name


@attack(
    title="A page that reaches the service through the browser of a party.",
    attacker="a web page whose host name the attacker points at the service's address (DNS rebinding)",
    defence="Only requests to the service's own names are answered",
    control="without the list of names the page's script reads the answer as one of its own origin",
    source="Jackson et al., Protecting Browsers from DNS Rebinding Attacks (CCS 2007)",
)
class TestRebinding:
    def answered(self) -> list[int]:
        with in_thread(to := listener(Recorder())), Peer(to) as peer:
            peer.send(request("GET", "/v1/status", "Connection: close").replace(b"localhost", b"evil.example"))
            return statuses(peer.rest())

    def test_refused(self) -> None:
        assert self.answered() == [421]

    def test_control_succeeds(self, monkeypatch) -> None:
        monkeypatch.setattr(guard, "_hostname", lambda header: "localhost")
        assert self.answered() == [200]


class Uploads:
    """An application that takes uploads of at most 1 MB through a guard, and counts what it holds at once."""

    def __init__(self, limits: Limits) -> None:
        self.guard = Guard(limits)
        self.held = self.most = self.taken = 0

    async def __call__(self, scope, receive, send) -> None:
        async with self.guard.body_within(Request(scope, receive), 1 << 20) as body:
            self.taken += 1
            self.held += len(body)
            self.most = max(self.most, self.held)
            await asyncio.sleep(0.02)
            self.held -= len(body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@attack(
    title="More bytes than fit into memory.",
    attacker="parties with tokens that upload all at once",
    defence="A budget of bytes, taken before a body is read; who finds no room in time gets 503 and Retry-After",
    control="without the budget all bodies are in memory at once",
    source=OWN,
)
class TestManyBodies:
    LIMITS = replace(LIMITS, ingest_bytes=4 << 20, ingest_seconds=5.0)

    def upload(self, limits: Limits) -> Uploads:
        app = Uploads(limits)
        with in_thread(to := listener(app, limits)), contextlib.ExitStack() as stack:
            peers = [stack.enter_context(Peer(to)) for _ in range(24)]
            for peer in peers:
                peer.socket.setblocking(False)
            left = {
                peer: memoryview(request("PUT", "/a", "Content-Length: 1048576", body=bytes(1 << 20)))
                for peer in peers
            }
            while left:
                for peer, data in list(left.items()):
                    with contextlib.suppress(BlockingIOError):
                        data = data[peer.socket.send(data[: 1 << 18]) :]
                    left[peer] = data
                    if not data:
                        del left[peer]
            for peer in peers:
                peer.socket.settimeout(5)
                assert statuses(peer.receive()) == [204]
        return app

    def test_refused(self) -> None:
        app = self.upload(self.LIMITS)
        assert app.taken == 24
        assert app.most <= 4 << 20

    def test_control_succeeds(self) -> None:
        assert self.upload(replace(self.LIMITS, ingest_bytes=1 << 40)).most > 4 << 20


@attack(
    title="A length of gigabytes.",
    attacker=ANYONE,
    defence="The length must be given and at most that of an honest message; 413 comes before a byte is read",
    control="without the check the service reads what the attacker sends, far above an honest message",
    source=OWN,
)
class TestGigabytes:
    def read(self, monkeypatch=None) -> tuple[set[int], int]:
        app, answers = Uploads(LIMITS), set()
        limits = replace(LIMITS, drain_bytes=1 << 16, drain_seconds=0.05)
        if monkeypatch is not None:
            monkeypatch.setattr(guard, "body_length", lambda scope, most: 2 << 20)
        with in_thread(to := listener(app, limits)):
            for claim in (2 << 20, 10**9, 10**18, 10**30) if monkeypatch is None else [2 << 20]:
                with Peer(to) as peer:
                    peer.send(request("PUT", "/a", f"Content-Length: {claim}"))
                    peer.send(bytes(2 << 20))
                    with contextlib.suppress(ConnectionResetError):
                        answers |= set(statuses(peer.receive()))
        return answers, app.most

    def test_refused(self) -> None:
        answers, most = self.read()
        assert answers <= {413, 400}
        assert 413 in answers
        assert most == 0

    def test_control_succeeds(self, monkeypatch) -> None:
        assert self.read(monkeypatch) == ({204}, 2 << 20)


@attack(
    title="A flood of one party's requests.",
    attacker="a party with a token",
    defence="Ten requests a second a party, 20 at once, in a table of bounded size",
    control="without the rate every request of a thousand reaches its handler",
    source=OWN,
)
class TestFlood:
    def reached(self, limits: Limits) -> int:
        flooded, count = Guard(limits), 0
        for _ in range(1000):
            with contextlib.suppress(Problem):
                flooded.count("c1")
                count += 1
        return count

    def test_refused(self) -> None:
        assert self.reached(LIMITS) < 30
        many = Guard(LIMITS)
        for number in range(40_000):
            many.count(f"c{number}")
        assert len(many._rate._due) == 1 << 14

    def test_control_succeeds(self) -> None:
        assert self.reached(replace(LIMITS, party_rate=1e9)) == 1000


@refusal(
    title="An upload with a Content-Encoding",
    why="Nothing in the service inflates a body, so kilobytes never become gigabytes",
)
def test_a_compressed_upload_is_refused_unread() -> None:
    app = Uploads(LIMITS)
    with in_thread(to := listener(app)), Peer(to) as peer:
        for coding in ("gzip", "zstd", "br", "identity, gzip"):
            with Peer(to) as peer:
                peer.send(request("PUT", "/a", "Content-Length: 9", f"Content-Encoding: {coding}", body=b"x" * 9))
                answer = peer.receive()
                assert statuses(answer) == [415]
                assert Kind.UNSUPPORTED_ENCODING.type.encode() in answer
    assert app.taken == 0


@attack(
    title="A body before a token.",
    attacker=ANYONE,
    defence="The token, the path, the party's turn and the length are checked before the body is read",
    control="if the body is read first, anyone makes the service read as much as an honest message has",
    source=OWN,
)
class TestBodyBeforeToken:
    def reads(self, folder: Path) -> list[tuple[int, int]]:
        service, token = hosted(folder)
        with service:
            task = next(iter(service._serving.runs))
            app = protect(Starlette(routes=public_routes(service._serving)), ["localhost"], LIMITS)
            path = routes.BY_NAME["upload"].url(task=task, party="c1", session="0" * 64, digest="1" * 64)
            size = ("content-length", "100")
            return [
                ask(app, "PUT", path, size, parts=10),
                ask(app, "PUT", path, size, ("authorization", "Bearer eyJ"), parts=10),
                ask(app, "PUT", path.replace("c1", "c2"), size, ("authorization", f"Bearer {token}"), parts=10),
                ask(app, "PUT", path, size, ("authorization", f"Bearer {token}"), parts=10),
            ]

    def test_refused(self, tmp_path) -> None:
        assert self.reads(tmp_path) == [(401, 0), (401, 0), (403, 0), (410, 0)]

    def test_control_succeeds(self, tmp_path, monkeypatch) -> None:
        checked = Handlers.upload

        async def read_first(self, request):
            async with self._guard.body_within(request, 1000):
                return await checked(self, request)

        monkeypatch.setattr(Handlers, "upload", read_first)
        assert self.reads(tmp_path) == [(401, 10), (401, 10), (403, 10), (410, 10)]


HOSTILE = (
    "..", ".", "", "..%2f..%2f", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "..%5c", "%00", "a%00b", "a\0b", "%c0%af",
    "c" * 300, "c" * 64, "c" * 65, "٣" * 64, "%D9%A3", "０" * 64, "0" * 63, "0" * 65, "F" * 64, "0" * 64 + "%0a",
    "0" * 64 + "\n", "server", "c1%20", "c1/", "//", "~root", "C:", "%s%n", "{task}", "-1", "1e9", "\udcff", "..;",
    "<img src=x onerror=alert(1)>", "'; drop table sessions; --", "%25%32%66", "c1?x=1#y", "c1\r\nX: y",
)  # fmt: skip


@refusal(
    title="A path that leaves the service's folder",
    why="Files are named by digests that the service computed or checked digit by digit, never by a path",
)
def test_no_path_reaches_a_file_or_an_error(tmp_path) -> None:
    """Hostile ids by an enrolled party, in every place of every route: 20,000 paths, or ``SECAGG_PATHS``."""
    service, token = hosted(tmp_path)
    opened: set[str] = set()
    me = threading.get_ident()

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and watching and threading.get_ident() == me:
            opened.add(str(arguments[0]))

    drawn, watching = random.Random(17), False
    sys.addaudithook(watch)  # for good: it does nothing while watching is false

    async def play(app, task: str) -> dict[int, int]:
        seen: dict[int, int] = {}
        names = {"task": task, "party": "c1", "session": "0" * 64, "digest": "1" * 64, "sha256": "2" * 64}
        for _ in range(int(os.environ.get("SECAGG_PATHS", "20000"))):
            route = drawn.choice(routes.ROUTES)
            values = {
                name: drawn.choice(HOSTILE) + drawn.choice(("", "", drawn.choice(HOSTILE)))
                if drawn.random() < 0.4
                else value
                for name, value in names.items()
            }
            path = routes.PREFIX + route.path.format(**values)
            if drawn.random() < 0.1:
                path = "/" + "/".join(drawn.choice(HOSTILE) for _ in range(drawn.randrange(6)))
            method = route.method if drawn.random() < 0.9 else drawn.choice(("GET", "PUT", "PATCH", "HEAD"))
            headers = [("authorization", f"Bearer {token}"), ("content-length", "10")]
            status, _ = await _ask(app, method, path, headers, 1)
            seen[status] = seen.get(status, 0) + 1
        return seen

    with service:
        task = next(iter(service._serving.runs))
        app = protect(Starlette(routes=public_routes(service._serving)), ["localhost"], LIMITS)
        watching = True
        try:
            seen = asyncio.run(play(app, task))
        finally:
            watching = False
    assert {status for status in seen if status >= 500} == set()
    assert {200, 400, 403, 404, 405, 410} <= set(seen)
    assert {path for path in opened if not path.startswith(str(tmp_path))} == set()


@attack(
    title="Slow bodies that hold all room for uploads.",
    attacker="an enrolled party, with many connections",
    defence="Of one party two bodies are read at a time; a third one ends the oldest",
    control="without the cap one party holds the whole byte budget, and an honest upload gets 503",
    source=OWN,
)
class TestSlowBodiesOfOneParty:
    def status(self, bodies: int, monkeypatch) -> int:
        monkeypatch.setattr(guard, "_BODIES", bodies)
        return asyncio.run(self._upload())

    async def _upload(self) -> int:
        shared = Guard(replace(LIMITS, ingest_bytes=1000, ingest_seconds=0.3))

        async def never():
            await asyncio.Event().wait()

        async def whole():
            return {"type": "http.request", "body": bytes(100), "more_body": False}

        async def read(party: str, receive) -> int:
            scope = {"type": "http", "method": "PUT", "headers": [(b"content-length", b"100")]}
            try:
                async with shared.body_within(Request(scope, receive), 100, party):
                    return 200
            except Problem as problem:
                return problem.status

        slow = [asyncio.create_task(read("c2", never)) for _ in range(20)]
        await asyncio.sleep(0.05)
        honest = await read("c1", whole)
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert shared.budget.free == shared.budget.total
        return honest

    def test_refused(self, monkeypatch):
        assert self.status(2, monkeypatch) == 200

    def test_control_succeeds(self, monkeypatch):
        assert self.status(1 << 30, monkeypatch) == Kind.OVERLOADED.status

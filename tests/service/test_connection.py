"""Connections of honest clients: nothing that the limits refuse to attackers happens to these."""

import asyncio
import http.client
import ssl
import time
from pathlib import Path

from secagg.api.routes import LARGEST_WHOLE
from secagg.service.limits import Limits
from secagg.service.listener import in_thread
from tests.service.certificates import trusting, write_certificate
from tests.service.raw import LIMITS, Peer, Recorder, listener, request, statuses


def test_the_next_request_may_follow_as_soon_as_the_answer_is_whole() -> None:
    """The application has sent all of a body of known length, and then says that it ends."""
    app = Recorder()
    with in_thread(to := listener(app)):
        client = http.client.HTTPConnection("127.0.0.1", to.port, timeout=5)
        for number in range(40):
            method = ("GET", "PUT", "HEAD")[number % 3]
            client.request(method, f"/{number}", body=b"x" * 70_000 if method == "PUT" else None)
            answer = client.getresponse().read()
            assert answer == (b"" if method == "HEAD" else f"/{number}".encode())
        client.close()
    assert app.paths == [f"/{number}" for number in range(40)]


def test_an_early_answer_reaches_a_client_that_is_still_writing() -> None:
    app = Recorder()
    with in_thread(to := listener(app, Limits())):
        client = http.client.HTTPConnection("127.0.0.1", to.port, timeout=5)
        client.request("PUT", "/a", body=b"x" * LARGEST_WHOLE, headers={"Host": "elsewhere"})
        answer = client.getresponse()
        assert answer.status == 421
        assert answer.getheader("connection") == "close"
        client.close()
    assert app.paths == []


def test_a_slow_client_at_the_least_rate_is_served(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with in_thread(to := listener(Recorder(), tls=(certificate, key))), Peer(to) as peer:
        peer.socket = trusting(certificate).wrap_socket(peer.socket, server_hostname="localhost")
        body = bytes(60_000)
        peer.send(request("PUT", "/slow", f"Content-Length: {len(body)}"))
        for at in range(0, len(body), 2_000):  # 40 kB/s for 1.5 s, at a least rate of 20 kB/s
            assert peer.send(body[at : at + 2_000])
            time.sleep(0.05)
        assert peer.receive().startswith(b"HTTP/1.1 200")
        assert isinstance(peer.socket, ssl.SSLSocket)


def test_a_large_answer_is_read_whole_though_the_application_has_long_ended(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with in_thread(to := listener(Recorder(), tls=(certificate, key))), Peer(to) as peer:
        peer.socket = trusting(certificate).wrap_socket(peer.socket, server_hostname="localhost")
        peer.send(request("GET", "/large", "Connection: close"))
        time.sleep(LIMITS.grace_seconds / 2)
        assert len(peer.rest()) > 64 << 20


def test_a_client_that_awaits_permission_for_its_body_has_time_from_then_on() -> None:
    """``Expect: 100-continue`` is answered when the application asks for the body, and no earlier."""

    class Late(Recorder):
        async def __call__(self, scope, receive, send) -> None:
            await asyncio.sleep(2 * LIMITS.grace_seconds)
            await super().__call__(scope, receive, send)

    with in_thread(to := listener(Late())), Peer(to) as peer:
        peer.send(request("PUT", "/a", "Content-Length: 3", "Expect: 100-continue"))
        began = time.monotonic()
        assert statuses(peer.receive()) == [100]
        assert time.monotonic() - began > LIMITS.grace_seconds
        peer.send(b"abc")
        assert statuses(peer.receive()) == [200]


def test_a_refused_upload_is_never_invited() -> None:
    with in_thread(to := listener(Recorder())), Peer(to) as peer:
        peer.send(request("PUT", "/a", "Content-Length: 3", "Expect: 100-continue").replace(b"localhost", b"else"))
        assert statuses(peer.rest()) == [421]


def test_a_long_poll_outlives_every_deadline() -> None:
    class Poll(Recorder):
        async def __call__(self, scope, receive, send) -> None:
            await asyncio.sleep(1.5)
            await super().__call__(scope, receive, send)

    with in_thread(to := listener(Poll())), Peer(to) as peer:
        peer.send(request("GET", "/next"))
        assert statuses(peer.receive()) == [200]

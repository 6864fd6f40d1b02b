"""Bodies that the connection writes into the guard's buffer, without the ASGI server's queue in between."""

import gc
import hashlib
import os
import socket
import time
import weakref

import pytest
from starlette.requests import Request

from secagg.service.connection import Connection
from secagg.service.guard import Guard
from secagg.service.listener import in_thread
from tests.service.certificates import trusting, write_certificate
from tests.service.raw import LIMITS, Peer, listener, request, statuses


async def never():
    raise AssertionError("the body was read message by message")


class Uploads:
    """Answers with the hash of a body of at most 2 MB, which it reads without a call of ``receive``."""

    def __init__(self) -> None:
        self.guard = Guard(LIMITS)

    async def __call__(self, scope, receive, send) -> None:
        async with self.guard.body_within(Request(scope, never), 2_000_000) as body:
            answer = hashlib.sha256(body).hexdigest().encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]})
        await send({"type": "http.response.body", "body": answer})

    def is_free_again(self) -> bool:
        until = time.monotonic() + 5
        while self.guard.budget.free < self.guard.budget.total and time.monotonic() < until:
            time.sleep(0.01)
        return self.guard.budget.free == self.guard.budget.total


@pytest.fixture
def served():
    app = Uploads()
    with in_thread(to := listener(app)):
        yield app, to


def test_bodies_of_any_size_arrive_whole_one_after_the_other_on_one_connection(served) -> None:
    _, to = served
    with Peer(to) as peer:
        for size in (0, 1, 65_535, 65_536, 65_537, 2_000_000):
            body = os.urandom(size)
            peer.send(request("PUT", "/", f"Content-Length: {size}", body=body))
            answer = b""
            while not answer.endswith(hashlib.sha256(body).hexdigest().encode()):
                answer += (part := peer.receive())
                assert part
            assert statuses(answer) == [200]


def test_a_body_that_waits_for_100_continue_is_asked_for(served) -> None:
    _, to = served
    with Peer(to) as peer:
        peer.send(request("PUT", "/", "Content-Length: 3", "Expect: 100-continue"))
        assert statuses(peer.receive()) == [100]
        for piece in (b"a", b"b", b"c"):
            peer.send(piece)
            time.sleep(0.01)
        assert peer.receive().endswith(hashlib.sha256(b"abc").hexdigest().encode())


def test_what_arrives_behind_a_body_is_not_part_of_it(served) -> None:
    app, to = served
    with Peer(to) as peer:
        peer.send(request("PUT", "/", "Content-Length: 3", body=b"abcdef"))
        answer = peer.rest()
        assert statuses(answer) == [200]
        assert answer.endswith(hashlib.sha256(b"abc").hexdigest().encode())
    assert app.is_free_again()


def test_a_client_that_leaves_or_stalls_in_a_body_holds_no_budget(served) -> None:
    app, to = served
    with Peer(to) as peer:
        peer.send(request("PUT", "/", "Content-Length: 2000000", body=bytes(1000)))
        while app.guard.budget.free == app.guard.budget.total:
            time.sleep(0.01)
    assert app.is_free_again()
    with Peer(to) as peer:
        peer.send(request("PUT", "/", "Content-Length: 2000000", body=bytes(1000)))
        assert statuses(peer.rest()) == [408]
    assert app.is_free_again()


def test_a_connection_that_has_ended_is_freed_at_once_with_its_buffers(tmp_path, monkeypatch) -> None:
    certificate, key = write_certificate(tmp_path)
    known: weakref.WeakSet[Connection] = weakref.WeakSet()
    made, count = Connection.__init__, []

    def make(connection, *arguments):
        made(connection, *arguments)
        known.add(connection)
        count.append(None)

    monkeypatch.setattr(Connection, "__init__", make)
    body, tls = os.urandom(1_000_000), trusting(certificate)
    gc.disable()
    try:
        with in_thread(to := listener(Uploads(), tls=(certificate, key))):
            for _ in range(5):
                plain = socket.create_connection(("127.0.0.1", to.port), timeout=5)
                with tls.wrap_socket(plain, server_hostname="localhost") as peer:
                    for _ in range(2):
                        peer.sendall(request("PUT", "/", f"Content-Length: {len(body)}", body=body))
                        answer = b""
                        while not answer.endswith(hashlib.sha256(body).hexdigest().encode()):
                            answer += (part := peer.recv(1 << 16))
                            assert part
            assert len(count) == 5
            until = time.monotonic() + 5
            while known and time.monotonic() < until:
                time.sleep(0.01)
            assert not known
    finally:
        gc.enable()

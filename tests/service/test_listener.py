"""Listeners: where they may listen, TLS, several on one loop, and how they end."""

import asyncio
import http.client
import resource
import socket
import ssl
import threading
from pathlib import Path

import pytest

from secagg.errors import ConfigError
from secagg.service.limits import Limits, table
from secagg.service.listener import Listener, in_thread, new_loop, server_context
from tests.service.certificates import trusting, write_certificate


async def echo(scope, receive, send):
    """Answers with the path."""
    while (await receive()).get("more_body"):
        pass
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def get(listener: Listener, path: str, context: ssl.SSLContext | None = None) -> bytes:
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", listener.port, timeout=5, context=context)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


def test_two_listeners_serve_on_one_loop_and_then_their_ports_are_free(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    public, operators = Listener(echo, tls=(certificate, key)), Listener(echo)
    with in_thread(public, operators):
        assert public.url == f"https://127.0.0.1:{public.port}"
        assert get(public, "/a", trusting(certificate)) == b"/a"
        assert get(operators, "/b") == b"/b"
        ports = [public.port, operators.port]
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_process_that_may_open_few_files_says_once_how_many_connections_that_leaves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_023, 4_096))  # a number of this test alone
    with in_thread(Listener(echo), Listener(echo)):
        pass
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage().startswith("at most 895 connections, since the process may open 1023 files")
    with in_thread(Listener(echo, limits=Limits(connections=895))):  # no fewer than were asked for
        pass
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_a_listener_without_tls_serves_loopback_or_a_proxy_alone() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(
            ConfigError, match="without TLS; expected a certificate and its key, a loopback address"
        ):
            Listener(echo, host)
    with in_thread(listener := Listener(echo, "0.0.0.0", behind_proxy=True)):
        assert get(listener, "/") == b"/"
    with in_thread(listener := Listener(echo, "::1")):
        assert listener.url == f"http://[::1]:{listener.port}"


def test_tls_is_modern_and_cannot_be_renegotiated(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    listener = Listener(echo, tls=(certificate, key))
    with in_thread(listener):

        def agreed(newest: ssl.TLSVersion) -> tuple[str, str]:
            context = trusting(certificate)
            context.maximum_version = newest
            plain = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
            with plain, context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                return str(wrapped.version()), str(wrapped.cipher())

        assert agreed(ssl.TLSVersion.TLSv1_3)[0] == "TLSv1.3"
        version, cipher = agreed(ssl.TLSVersion.TLSv1_2)
        assert version == "TLSv1.2"
        assert "ECDHE" in cipher
        assert "GCM" in cipher
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises((ssl.SSLError, ConnectionError)):
            agreed(ssl.TLSVersion.TLSv1_1)
    context = server_context(certificate, key)
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_what_can_not_work_is_said_before_anything_listens(tmp_path: Path, monkeypatch) -> None:
    certificate, key = write_certificate(tmp_path)
    with pytest.raises(ConfigError, match="expected a chain and its key, both in PEM"):
        Listener(echo, tls=(key, certificate))
    with pytest.raises(ConfigError, match="expected a chain and its key, both in PEM"):
        Listener(echo, tls=(tmp_path / "absent", key))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = Listener(echo, port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="which the system refuses"), in_thread(listener):
            pass
        with pytest.raises(ConfigError, match="has not started"):
            _ = listener.port
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with pytest.raises(ConfigError, match="a session lives in one process"):
        Listener(echo)


def test_a_stop_lets_a_request_under_way_end_and_refuses_new_connections() -> None:
    begun, release = threading.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        begun.set()
        await release.wait()
        await echo(scope, receive, send)

    async def play() -> bytes:
        listener = Listener(slow)
        await listener.start()
        asked = asyncio.create_task(asyncio.to_thread(get, listener, "/slow"))
        await asyncio.to_thread(begun.wait)
        port = listener.port
        stopping = asyncio.create_task(listener.stop())
        for _ in range(3):
            await asyncio.sleep(0)  # the accepting task ends, and its socket with it
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        release.set()
        await stopping
        await listener.stop()
        return await asked

    loop = new_loop()
    try:
        assert loop.run_until_complete(play()) == b"/slow"
    finally:
        loop.close()


def test_a_stop_ends_what_does_not_end_by_itself() -> None:
    begun = threading.Event()

    async def forever(scope, receive, send):
        begun.set()
        await asyncio.Event().wait()

    with in_thread(listener := Listener(forever), grace=0.1):
        peer = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(5)
    with peer:
        assert not peer.recv(4096).startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize(
    "wrong", [{"header_bytes": 0}, {"header_bytes": 2.5}, {"idle_seconds": float("nan")}, {"connections": None}]
)
def test_a_limit_that_is_no_limit_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="more than 0"):
        Limits(**wrong)
    assert Limits(per_address=None).per_address is None


def test_the_table_of_limits_has_every_limit() -> None:
    assert [row.split("`")[1] for row in table().splitlines()[2:]] == list(Limits.__dataclass_fields__)

"""The drivers' own part: large bodies in pieces, the bar, a wrong library, a proxy."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.kit import Kit
from secagg.remote.bar import bar
from secagg.remote.requests import Request, Response
from secagg.remote.settings import Progress, Settings
from secagg.remote.transport import AsyncHttp, Http, LostError
from tests.remote.playing import kit_for
from tests.remote.test_client import PARTIES
from tests.service.serving import served


class Echo:
    """Answers with the body that it got, and notes the headers."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.headers[-1]["path"] = scope["path"]
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def echo() -> Iterator[tuple[Echo, Kit]]:
    echo = Echo()
    with served(echo) as url:
        yield echo, kit_for(PARTIES, "c1", url)


def send(kit: Kit, settings: Settings, request: Request, how: str) -> Response:
    if how == "blocking":
        http = Http(kit, settings)
        response = http.send(request)
        http.close()
        return response

    async def sent() -> Response:
        http = AsyncHttp(kit, settings)
        response = await http.send(request)
        await http.close()
        return response

    return asyncio.run(sent())


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_a_large_body_goes_in_pieces_that_are_told_of(how: str) -> None:
    moved: list[Progress] = []
    body = bytes(range(256)) * 800
    with echo() as (service, kit):
        request = Request("PUT", "/v1/tasks", {"x": "y"}, memoryview(body), len(body))
        response = send(kit, Settings(progress=moved.append), request, how)
    assert response.body == body
    assert [one.done for one in moved] == [65536, 131072, 196608, 204800]
    assert {(one.what, one.total) for one in moved} == {("upload", 204800)}
    assert service.headers[0]["content-length"] == "204800"
    assert "transfer-encoding" not in service.headers[0]


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_the_body_of_a_download_is_passed_on_piece_by_piece(how: str) -> None:
    pieces: list[bytes] = []
    with echo() as (_, kit):
        request = Request("PUT", "/", {}, b"m" * 200_000, 200_000, sink=pieces.append)
        response = send(kit, Settings(), request, how)
    assert response == Response(200, response.headers)
    assert b"".join(pieces) == b"m" * 200_000


def test_a_proxy_gets_the_requests(tmp_path: Path) -> None:
    with echo() as (proxy, kit):
        far = Kit(party="c1", url="http://localhost:9", task=kit.task, roster=kit.roster)
        response = send(far, Settings(proxy=kit.url), Request("PUT", "/v1/tasks", {}, b"m"), "blocking")
    assert response.body == b"m"
    assert proxy.headers[0]["host"] == "localhost:9"


def test_the_proxy_of_the_environment_never_gets_what_has_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with echo() as (proxy, kit):
        monkeypatch.setenv("http_proxy", kit.url)
        monkeypatch.setenv("all_proxy", kit.url)
        here = Kit(party="c1", url="http://127.0.0.1:9", task=kit.task, roster=kit.roster)
        with pytest.raises(LostError, match="ConnectError"):
            send(here, Settings(), Request("PUT", "/v1/tasks", {"authorization": "Bearer t"}, b"m"), "blocking")
    assert proxy.headers == []


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_a_full_disk_is_no_lost_connection(how: str) -> None:
    def full(piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with echo() as (_, kit), pytest.raises(OSError, match="No space left on device"):
        send(kit, Settings(), Request("PUT", "/", {}, b"m" * 9, 9, sink=full), how)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
@pytest.mark.parametrize("piece", [b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n", b"x: y\r\n"])
def test_a_head_without_an_end_is_a_lost_connection_when_the_request_s_time_is_over(piece: bytes, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=talk_without_end, args=(listener, piece), daemon=True).start()
        kit = kit_for(PARTIES, "c1", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(LostError, match="took more than 1 s" if how == "blocking" else "TimeoutError"):
            send(kit, Settings(), Request("GET", "/", seconds=1.0), how)
    for watch in (one for one in threading.enumerate() if isinstance(one, threading.Timer)):
        watch.join(20)
        assert not watch.is_alive()


def talk_without_end(listener: socket.socket, piece: bytes) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        connection.recv(1 << 16)
        if not piece.startswith(b"HTTP/1.1 103"):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(piece)
            time.sleep(0.01)


def test_a_bar_shows_what_moves_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    show = bar(Settings(progress=True)).progress
    assert callable(show)
    for done in (10, 60, 100):
        show(Progress("model", done, 100))
    show(Progress("upload", 5, 5))
    assert bar(Settings()).progress is False


def test_a_missing_library_is_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(secagg.ConfigError, match=r"got no httpx2, .*: pip install 'secagg\[client\]', or"):
        secagg.connect(kit_for(PARTIES, "c1"), tmp_path)
    assert not list(tmp_path.iterdir())  # the folder is not locked

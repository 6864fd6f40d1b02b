"""The operators' listener: what it answers, to whom, and that nothing there changes anything."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from secagg.service import operator as operator_module
from secagg.service.operator import MOST_STREAMS, operator_app
from secagg.service.status import Status, decode
from tests.service.played import CLIENTS, Played
from tests.service.serving import served

PATHS = ("/", "/status.js", "/status.css", "/v1/status", "/metrics", "/healthz", "/readyz")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FOREIGN = {"host": "attacker.example"}


@pytest.fixture(scope="module")
def played() -> Played:
    source = Played()
    for _ in range(CLIENTS + 2):
        source.step()
    return source


@pytest.fixture(scope="module")
def url(played: Played) -> Iterator[str]:
    with served(operator_app(played, period=0.05)) as address:
        yield address


def get(url: str, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url + path, headers=headers, trust_env=False)


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/v1/status/"])
def test_every_answer_has_the_headers_that_protect_it(url: str, path: str) -> None:
    answer = get(url, path)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "set-cookie" not in answer.headers
    assert answer.status_code == (200 if path in PATHS else 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_route_takes_a_method_that_changes_something(url: str, method: str) -> None:
    for path in (*PATHS, "/v1/status/events"):
        assert httpx2.request(method, url + path, trust_env=False).status_code == 405


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example", "10.0.0.1", "localhost:80@x", "", "[::1"]
)
def test_a_host_that_is_not_allowed_reads_nothing(url: str, host: str) -> None:
    answer = get(url, "/v1/status", host=host)
    assert answer.status_code in (400, 421)
    assert "tasks" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8081", "127.0.0.1:1", "127.8.8.8", "[::1]:8081"])
def test_the_loopback_names_are_allowed(url: str, host: str) -> None:
    assert get(url, "/v1/status", host=host).status_code == 200


def test_two_host_headers_are_refused(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        lines = "GET /v1/status HTTP/1.1", "Host: localhost", "Host: attacker.example", "Connection: close", "", ""
        connection.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"421")
    assert b"tasks" not in answer


def test_pages_of_other_sites_read_nothing(url: str) -> None:
    for site in ("cross-site", "same-site"):
        answer = get(url, "/v1/status", **{"sec-fetch-site": site, "sec-fetch-mode": "no-cors"})
        assert answer.status_code == 403
        assert get(url, "/", **{"sec-fetch-site": site, "sec-fetch-mode": "navigate"}).status_code == 200


def test_control_without_the_guard_a_foreign_host_reads_the_document(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_module._Guard, "_refusal", lambda self, headers: None)
    with served(operator_app(played)) as url:
        assert decode(get(url, "/v1/status", **FOREIGN).content) == played.document()


def test_the_document_is_that_of_the_source(url: str, played: Played) -> None:
    answer = get(url, "/v1/status")
    assert answer.headers["content-type"] == "application/json"
    status = decode(answer.content)
    assert status == played.document()
    rounds = [(step.name, step.state, step.answered, step.pending) for step in status.sessions[0].rounds]
    assert rounds[:3] == [
        ("AdvertiseKeys", "closed", 6, 0),
        ("ShareKeys", "open", 1, 5),
        ("MaskedInput", "waiting", 0, 0),
    ]
    assert status.tasks[0].collusion == "the server and 2 of 5 clients in the smallest session allowed"


def test_readiness_is_that_of_the_source(url: str, played: Played) -> None:
    played.is_ready = False
    try:
        assert get(url, "/readyz").status_code == 503
        assert get(url, "/healthz").status_code == 200
        assert decode(get(url, "/v1/status").content).service.ready is False
    finally:
        played.is_ready = True
    assert get(url, "/readyz").text == "ready\n"


async def events(url: str, number: int, between: Any = lambda: None) -> list[Status]:
    """The documents of the first ``number`` events."""
    heard: list[Status] = []
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream("GET", url + "/v1/status/events") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                heard.append(decode(line.removeprefix("data: ").encode()))
                between()
                if len(heard) == number:
                    break
    return heard


def test_the_events_follow_the_source() -> None:
    source = Played()
    with served(operator_app(source, period=0.05)) as url:
        heard = asyncio.run(events(url, 4, source.step))
    assert [status.sessions[0].rounds[0].answered for status in heard] == [0, 1, 2, 3]


def test_the_events_end_when_the_service_stops() -> None:
    source = Played()

    def stop() -> None:
        source.is_stopping = True

    with served(operator_app(source, period=0.05)) as url:
        assert len(asyncio.run(events(url, 1000, stop))) == 1


def test_event_streams_are_limited_and_a_reader_that_goes_makes_room() -> None:
    async def crowd(url: str) -> None:
        async with httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=None)) as client:
            streams = [client.stream("GET", url + "/v1/status/events") for _ in range(MOST_STREAMS)]
            assert [(await stream.__aenter__()).status_code for stream in streams] == [200] * MOST_STREAMS
            refused = await client.get(url + "/v1/status/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert (await client.get(url + "/v1/status")).status_code == 200
            for stream in streams:
                await stream.__aexit__(None, None, None)
            for _ in range(200):
                async with client.stream("GET", url + "/v1/status/events") as again:
                    if again.status_code == 200:
                        return
                await asyncio.sleep(0.05)
            raise AssertionError("the streams of readers that went still count")

    with served(operator_app(Played(), period=0.05)) as url:
        asyncio.run(crowd(url))


def test_a_head_request_for_the_events_ends(url: str) -> None:
    answer = httpx2.head(url + "/v1/status/events", trust_env=False)
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_an_error_of_the_source_says_nothing_of_itself() -> None:
    def fail(status: Status) -> Status:
        raise RuntimeError("the secret is 4711")

    with served(operator_app(Played(change=fail))) as url:
        answer = get(url, "/v1/status")
        assert answer.status_code == 500
        assert "4711" not in answer.text
        assert answer.headers["content-security-policy"] == POLICY
        assert get(url, "/healthz").status_code == 200


def noisy() -> Played:
    source = Played()
    source.misbehave("c2", b"bytes that c2 sent")
    source.misbehave("c9", b"bytes of nobody")
    return source


def named(body: str) -> set[str]:
    """The ids of parties in a document, wherever they stand in it."""
    words = set("".join(letter if letter.isalnum() else " " for letter in body).split())
    return words & {f"c{number}" for number in range(1, 10)}


def test_pseudonyms_leave_no_id_in_the_document() -> None:
    with served(operator_app(noisy(), pseudonyms=b"k" * 32)) as url:
        body = get(url, "/v1/status").text
        again = get(url, "/v1/status").text
    assert not named(body)
    assert body == again
    assert json.loads(body)["pseudonyms"] is True
    shown = decode(body.encode())
    assert len(set(shown.sessions[0].pending)) == CLIENTS
    assert {fault.party for fault in shown.sessions[0].faults} & set(shown.sessions[0].pending)


def test_control_without_pseudonyms_the_ids_are_in_the_document() -> None:
    with served(operator_app(noisy())) as url:
        assert named(get(url, "/v1/status").text) == {"c1", "c2", "c3", "c4", "c5", "c6", "c9"}


def test_a_reason_is_withheld_under_pseudonyms() -> None:
    def change(status: Status) -> Status:
        (session,) = status.sessions
        return msgspec.structs.replace(
            status, sessions=(msgspec.structs.replace(session, reason="c3 sent a wrong share"),)
        )

    with served(operator_app(Played(change=change), pseudonyms=b"k" * 32)) as url:
        assert not named(get(url, "/v1/status").text)

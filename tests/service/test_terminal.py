"""``secagg status``: the document as tables and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from secagg.cli import main
from secagg.service import terminal
from secagg.service.operator import operator_app
from secagg.service.status import PrivacyStatus, Status, decode
from tests.service.played import CLIENTS, Played
from tests.service.serving import served

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``secagg status``; returns its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["status", *arguments])
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return call


def private(status: Status) -> Status:
    """With figures for privacy, and a warning."""
    privacy = PrivacyStatus(delta=1e-6, guaranteed=0.9, realised=0.8, spent=3.21, releases=12)
    about = msgspec.structs.replace(status.tasks[0], privacy=privacy, warnings=("Anybody may join.",))
    return msgspec.structs.replace(status, tasks=(about,))


@pytest.fixture(scope="module")
def source() -> Played:
    played = Played(change=private)
    for _ in range(CLIENTS + 3):
        played.step()
    played.misbehave("c5", b"no envelope")
    return played


@pytest.fixture(scope="module")
def url(source: Played) -> Iterator[str]:
    with served(operator_app(source)) as address:
        yield address


def test_the_tables_say_what_a_person_asks_first(command: Command, url: str) -> None:
    code, out, err = command("--url", url)
    assert (code, err) == (0, "")
    assert "To learn one client's update would take the server and 2 of 5 clients" in out
    assert "ε = 3.21 is spent at δ = 1e-06 in 12 sessions; one is guaranteed ε ≤ 0.9." in out
    assert "Warning: Anybody may join." in out
    assert "Session 1: running" in out
    (row,) = [line for line in out.splitlines() if line.split()[:1] == ["ShareKeys"]]
    assert row.split()[2:6] == ["2", "of", "6", "4"]
    assert "Still to answer: c3, c4, c5, c6" in out
    assert "Fault: c5 in ShareKeys, malformed: " in out


def test_json_is_the_document_of_the_service(command: Command, url: str, source: Played) -> None:
    code, out, err = command("--url", url + "/", "--json")
    assert (code, err) == (0, "")
    assert decode(out.encode()) == source.document()
    assert out.startswith("{\n  ")


def test_watched_json_is_one_document_a_line(url: str) -> None:
    watch = [sys.executable, "-m", "secagg", "status", "--url", url, "--json", "--watch"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.kill()
    assert [json.loads(line)["format"] for line in lines] == [1, 1]


@pytest.mark.parametrize("wrong", ["ftp://127.0.0.1", "127.0.0.1:8081", "http://", "http://x/?token=1"])
def test_an_url_that_cannot_be_asked_is_refused(command: Command, wrong: str) -> None:
    code, _, err = command("--url", wrong)
    assert code == 2
    assert "expected one such as http://127.0.0.1:8081" in err


def test_no_service_is_one_line(command: Command) -> None:
    code, out, err = command("--url", "http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert err.startswith("secagg: no service answers at http://127.0.0.1:9: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"<html>", 200, "not a status document"),
        (b'{"at": 5}', 200, "not a status document"),
        (b"\xff", 200, "not a status document"),
        (b"", 302, "answers with status 302"),
        (b"x" * 3000, 200, "more than 0 MiB"),
    ],
)
def test_another_answer_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int, message: str
) -> None:
    monkeypatch.setattr(terminal, "_MOST_BYTES", 2000)

    async def answer(request: object) -> Response:
        return Response(body, status, {"Location": "/elsewhere"})

    with served(Starlette(routes=[Route("/v1/status", answer)])) as url:
        code, _, err = command("--url", url)
    assert code == 1
    assert message in err


def test_a_session_that_gathers_clients_says_how_many_declined(command: Command) -> None:
    def change(status: Status) -> Status:
        session = msgspec.structs.replace(status.sessions[0], state="gathering", accepted=1, needed=5, declined=2)
        return msgspec.structs.replace(status, sessions=(session,))

    with served(operator_app(Played(change=change))) as url:
        _, out, _ = command("--url", url)
    assert "1 of the 5 clients that are needed take part. 2 declined." in out

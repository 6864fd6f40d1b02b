"""Parties, disks and moments at which a service once lost something, hung, or failed: over real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg.api import documents, routes
from secagg.api.problems import Problem
from secagg.api.tokens import audience
from secagg.errors import Aborted
from secagg.service import (
    Schedule,
    Service,
    database,
    files,
    patience,
    relays,
    run,
    running,
    spool,
    states,
    uploads,
)
from secagg.service.handlers import public_routes
from secagg.wire import Envelope
from tests.service.plain import Enrolled, Party, hurry, make_task, playing, serving, update_of

MODEL = {"w": np.zeros(40, np.float32), "b": np.zeros(3, np.float32)}


_MADE: list[Party] = []


@pytest.fixture(autouse=True)
def _cold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("secagg.service.service.warm", lambda task: None)
    yield
    while _MADE:
        _MADE.pop().http.close()


def parties_of(enrolled: Enrolled, service: Service) -> list[Party]:
    parties = [
        Party(
            enrolled,
            party,
            service.url,
            lambda offer, model, party=party: (update_of(enrolled.clients.index(party)),),
        )
        for party in enrolled.roles
    ]
    _MADE.extend(parties)
    return parties


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run ``call`` in a thread; its result, or its error, is in the list when the block has ended."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield results
    thread.join(60)
    assert not thread.is_alive()


def small(clients: int = 3, floor: int = 2) -> Enrolled:
    return Enrolled(make_task(secagg.Clear(), clients=clients, floor=floor), clients)


def head(party: Party, method: str, url: str, *headers: str) -> bytes:
    lines = [f"{method} {url} HTTP/1.1", "Host: localhost", f"Authorization: {party.headers()['authorization']}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def answer_of(party: Party) -> tuple[str, int, bytes]:
    """The session, the number and the bytes of the answer that ``party`` would upload now."""
    while True:
        polled = party.get("next", {"after": party.after, "wait": "20"})
        if polled.status_code == 200 and polled.headers["content-type"] == routes.MESSAGES_TYPE:
            session = polled.headers[routes.SESSION_HEADER]
            (frame,) = documents.from_frames(polled.content)
            reply = party._role(session, frame.data).receive(frame.data)
            assert reply is not None
            return session, frame.round, reply


def test_an_upload_whose_session_ends_before_its_body_has_an_answer(tmp_path: Path) -> None:
    enrolled = small()
    with serving(tmp_path, enrolled) as service:
        *others, late = parties_of(enrolled, service)
        with playing(service, *others), in_background(lambda: service.round(MODEL)) as outcome:
            while not late.roles:
                late.step()
            session, number, reply = answer_of(late)
            digest = Envelope.parse(reply, len(reply)).digest.hex()
            url = late.route("upload", session=session, digest=digest)
            with closing(socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))) as peer:
                peer.settimeout(20)
                length = f"Content-Length: {len(reply)}"
                peer.sendall(head(late, "PUT", url, length, f"Secagg-Round: {number}") + reply[:10])
                hurry(service, late.party, str(enrolled.task.protocol.phases[0].round))
                while not outcome:
                    time.sleep(0.02)
                peer.sendall(reply[10:])
                assert peer.recv(1 << 16).startswith(b"HTTP/1.1 410 ")
            budget = service._serving.guard.budget
            assert budget.free == budget.total
    assert outcome[0].survivors == tuple(one.party for one in others)


def test_a_stream_of_damaged_messages_does_not_keep_a_round_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_MOST_REFUSED", 1 << 30)
    enrolled = small()
    with serving(tmp_path, enrolled, schedule=Schedule(deadline=0.5, training=0.5, gather=60)) as service:
        *others, hostile = parties_of(enrolled, service)
        with playing(service, *others), in_background(lambda: service.round(MODEL)) as outcome:
            while not hostile.roles:
                hostile.step()
            _, number, reply = answer_of(hostile)
            session = service._run(None).running
            assert session is not None

            async def flood() -> None:
                while not outcome and session.state != "done":
                    await session.submit(hostile.party, number, secrets.token_bytes(32), reply)

            loop = service._loop_now()
            floods = [asyncio.run_coroutine_threadsafe(flood(), loop) for _ in range(4)]
            for one in floods:
                one.result(30)
    assert outcome[0].survivors == tuple(one.party for one in others)
    assert not [fault for fault in outcome[0].faults if fault.sender != hostile.party]


def test_damaged_messages_count_as_refused(tmp_path: Path) -> None:
    enrolled = small()
    with serving(tmp_path, enrolled) as service:
        *others, hostile = parties_of(enrolled, service)
        with playing(service, *others), in_background(lambda: service.round(MODEL)):
            while not hostile.roles:
                hostile.step()
            session, number, reply = answer_of(hostile)

            def send(digest: str) -> int:
                url = hostile.route("upload", session=session, digest=digest)
                headers = hostile.headers() | {routes.ROUND_HEADER: str(number)}
                while True:
                    answer = hostile.http.put(url, content=reply, headers=headers)
                    if answer.status_code == 429 and int(answer.headers["retry-after"]) < 5:
                        time.sleep(0.1)  # the party's rate
                        continue
                    return answer.status_code

            statuses = [send(secrets.token_hex(32)) for _ in range(17)]
            assert statuses == [400] * 16 + [429]
            hurry(service, hostile.party, str(enrolled.task.protocol.phases[0].round))


def test_each_method_goes_to_its_own_handler() -> None:
    class Serving:
        guard = uploads = None

    made = public_routes(Serving())  # type: ignore[arg-type]
    assert [route.methods for route in made] == [{one.method} for one in routes.ROUTES]


def test_a_message_in_parts_goes_on_where_it_stopped_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    enrolled = small()
    with serving(tmp_path, enrolled) as service:
        *others, slow = parties_of(enrolled, service)
        with playing(service, *others), in_background(lambda: service.round(MODEL)) as outcome:
            while not slow.roles:
                slow.step()
            session, number, reply = answer_of(slow)
            digest = Envelope.parse(reply, len(reply)).digest.hex()
            url = slow.route("upload", session=session, digest=digest)
            about = {routes.ROUND_HEADER: str(number)}

            def part(at: int, data: bytes, last: bool) -> Any:
                headers = about | {routes.OFFSET_HEADER: str(at), routes.COMPLETE_HEADER: f"?{last:d}"}
                return slow.send("PATCH", url, content=data, headers=headers)

            assert part(0, b"", True).status_code == 400
            assert part(0, reply[:7], False).status_code == 204
            assert slow.send("HEAD", url, headers=about).headers[routes.OFFSET_HEADER] == "7"
            assert part(0, reply, True).status_code == 409
            assert part(7, reply[7:], True).status_code == 200
            assert slow.send("HEAD", url, headers=about).headers[routes.COMPLETE_HEADER] == "?1"
    assert outcome[0].survivors == tuple(enrolled.clients)
    assert not outcome[0].faults
    assert not list((tmp_path / "incoming").iterdir())


def test_a_party_begins_one_message_in_parts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, wrote = threading.Event(), uploads.Uploads._write

    def write(*arguments: Any) -> None:
        gate.wait(20)
        wrote(*arguments)

    monkeypatch.setattr(uploads.Uploads, "_write", write)
    kept = uploads.Uploads(tmp_path)

    async def begin(number: int) -> bool:
        if number == 7:
            gate.set()
        try:
            async with kept.append("a" * 64, "c1", bytes([number]) * 32, 0, bytes(100), False, 1000):
                return True
        except Problem:
            return False

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*map(begin, range(8)))

    assert asyncio.run(all_at_once()) == [True] + [False] * 7
    assert len(list(tmp_path.iterdir())) == 1


def test_the_third_body_of_a_party_ends_its_first(tmp_path: Path) -> None:
    enrolled = small()
    with serving(tmp_path, enrolled) as service:
        *others, hostile = parties_of(enrolled, service)
        with playing(service, *others), in_background(lambda: service.round(MODEL)) as outcome:
            while not hostile.roles:
                hostile.step()
            session, number, reply = answer_of(hostile)
            budget = service._serving.guard.budget
            peers = []
            for _ in range(5):
                peer = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))
                peer.settimeout(20)
                url = hostile.route("upload", session=session, digest=secrets.token_hex(32))
                peer.sendall(head(hostile, "PUT", url, "Content-Length: 100", f"Secagg-Round: {number}") + b"x")
                peers.append(peer)
            for peer in peers[:3]:
                assert peer.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
            until = time.monotonic() + 20
            while budget.total - budget.free != 200 and time.monotonic() < until:  # the others have sent theirs
                time.sleep(0.02)
            assert budget.total - budget.free == 200
            assert hostile.upload(session, number, reply).status_code == 200  # an honest retry is not held up
            for peer in peers:
                peer.close()
    assert outcome[0].survivors == tuple(enrolled.clients)
    assert not outcome[0].faults


def test_a_loop_goes_on_after_a_round_without_an_outcome(tmp_path: Path) -> None:
    enrolled = small()
    schedule = Schedule(deadline=0.2, training=0.2, gather=60, attempts=1)
    with serving(tmp_path, enrolled, schedule=schedule) as service:
        with in_background(lambda: service.round(MODEL)) as first:
            for party in parties_of(enrolled, service):
                while not party.roles:
                    party.step()  # and then it says nothing
        assert isinstance(first[0], Aborted)
        with in_background(lambda: service.round(MODEL)) as second:
            while not second and service._run(None).gathering is None:
                time.sleep(0.02)
            number = service._run(None).gathering.offer.number
            service.stop()
        assert number == 2
        assert isinstance(second[0], Aborted)
        assert service._numbers == {enrolled.task.digest: 1}  # the round goes on when the service starts again


def test_parties_stay_when_a_loop_finishes_in_the_middle_of_a_round(tmp_path: Path) -> None:
    enrolled = Enrolled(make_task(secagg.SecAgg(), clients=4, floor=3), 4)
    with serving(tmp_path, enrolled) as service:
        parties = parties_of(enrolled, service)
        with playing(service, *parties), in_background(lambda: service.round(MODEL)) as outcome:
            while (session := service._run(None).running) is None or session.view is None:
                time.sleep(0.001)
            service.finish(wait=0)
    assert outcome[0].survivors == tuple(enrolled.clients)


#: Each call that writes. It fails three times, before or after it did its work, as on a disk that is full.
WRITES: dict[str, tuple[Any, str]] = {
    "model": (database.Database, "add_model"),
    "round opened": (database.Database, "open_round"),
    "session begun": (database.Database, "begin_session"),
    "files": (run, "SessionFiles"),
    "spool opened": (database.Database, "spool"),
    "spool written": (spool.Spool, "append"),
    "spool deleted": (spool.Spool, "delete"),
    "state": (states.States, "save"),
    "row": (states.States, "_move"),
    "relays": (relays.Relays, "sync"),
    "handed on": (files.SessionFiles, "relay"),
    "remaining": (database.Database, "write_remaining"),
    "session finished": (database.Database, "finish_session"),
    "round finished": (database.Database, "finish_round"),
    "old models": (database.Database, "forget_models"),
}
#: Not the calls that are one transaction: it fails, or it is done.
AFTER = ("model", "spool opened", "spool written", "state", "handed on")
CASES = [(name, False) for name in WRITES] + [(name, True) for name in AFTER]
if not os.environ.get("SECAGG_FULL_DISKS"):  # those that once ended a session or a loop
    CASES = [
        ("session begun", False),
        ("spool opened", False),
        ("spool written", True),
        ("handed on", False),
        ("session finished", False),
        ("round finished", False),
    ]


@pytest.mark.parametrize(("name", "late"), CASES)
def test_a_disk_that_is_full_for_a_while(
    name: str, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, attribute = WRITES[name]
    real, failures = getattr(owner, attribute), [3]

    def call(*arguments: Any, **named: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            if late:
                done = real(*arguments, **named)
                if hasattr(done, "close"):
                    done.close()
            error = OSError(errno.ENOSPC, "no space is left")
            if name in ("files", "spool opened"):
                raise secagg.ConfigError("got a file that can't be opened") from error
            raise error
        return real(*arguments, **named)

    async def soon(failures: int) -> None:
        await asyncio.sleep(0.02)

    monkeypatch.setattr(running, "pause", soon)
    monkeypatch.setattr(patience, "pause", soon)
    monkeypatch.setattr(owner, attribute, call)
    monkeypatch.setattr("secagg.service.run._SAVE_EVERY", 0.01)
    enrolled = Enrolled(make_task(secagg.AdditiveShares(), clients=4, floor=3), 4)
    with serving(tmp_path, enrolled) as service:
        parties = parties_of(enrolled, service)
        with playing(service, *parties):
            outcome = service.round(MODEL)
    updates = {party: update_of(number) for number, party in enumerate(enrolled.clients)}
    expected = secagg.simulate(enrolled.task, updates)
    assert failures == [0]
    np.testing.assert_array_equal(outcome.sum["w"], expected.sum["w"])
    assert outcome.survivors == tuple(enrolled.clients)
    assert not outcome.faults
    for party in parties:
        answered = [number for _, number, _, status in party.uploads if status == 200]
        assert len(answered) == len(set(answered))


@pytest.mark.parametrize("algorithm", ["EdDSA", "HS256", "none"])
def test_a_token_without_the_key_does_not_tell_who_is_enrolled(tmp_path: Path, algorithm: str) -> None:
    enrolled = small()
    key: Any = {"EdDSA": Ed25519PrivateKey.generate(), "HS256": "k" * 32, "none": None}[algorithm]
    with serving(tmp_path, enrolled) as service:
        (party, *_) = parties_of(enrolled, service)
        answers = []
        for name in ("c1", "nobody"):
            claims = {
                "sub": name,
                "aud": audience(service.url, enrolled.task.digest),
                "iat": 0,
                "exp": 1,
                "jti": "x",
            }
            token = jwt.encode(claims, key, algorithm=algorithm)
            answers.append(party.http.get(party.route("next"), headers={"authorization": f"Bearer {token}"}))
    assert answers[0].status_code == answers[1].status_code == 401
    assert answers[0].content == answers[1].content

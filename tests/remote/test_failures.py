"""Connections that fail and processes that die: a party sends one message a round, always as the same bytes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import secagg
from secagg.remote.requests import Request, Response
from secagg.remote.state import State
from secagg.remote.transport import LostError
from secagg.store import FileLedger, FileStore
from secagg.testing._parties import Parties, parties_for
from tests.remote.double import Double
from tests.remote.playing import MODEL, OPEN, closed_folders as closed_folders, everyone, expected_mean, play

pytestmark = pytest.mark.usefixtures("closed_folders")

PARTIES = {
    "SecAgg": parties_for(secagg.SecAgg(), 3).enrolled(),
    "AdditiveShares": parties_for(secagg.AdditiveShares(), 3).enrolled(),
}
PROBLEM = b'{"type": "urn:secagg:problem:%s", "status": %d}'


def check(double: Double, parties: Parties) -> None:
    """The exact mean, no fault, and no second message of anyone."""
    for session in double.sessions:
        assert session.outcome is not None, session.failed
        np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(parties), atol=1e-6)
        assert session.outcome.survivors == tuple(sorted(parties.cohort))
        assert not session.server.faults
    assert all(len(set(digests)) == 1 for digests in double.uploads.values())


# Connections


def never_arrives(send: Callable[[Request], Response], request: Request) -> Response:
    raise LostError("the connection was refused")


def answer_is_lost(send: Callable[[Request], Response], request: Request) -> Response:
    if request.sink is None:
        send(request)
    raise LostError("the connection was reset")


def cut_short(send: Callable[[Request], Response], request: Request) -> Response:
    """A download loses its connection after a few bytes; anything else loses its answer."""
    if request.sink is None:
        return answer_is_lost(send, request)
    pieces: list[bytes] = []
    whole = Request(request.method, request.target, request.headers, most=request.most, sink=pieces.append)
    response = send(whole)
    request.check_head(response.status, response.headers)
    request.sink(b"".join(pieces)[:7])
    raise LostError("the connection was reset")


def refusing(status: int, word: bytes = b"", **headers: str) -> Callable[[Any, Request], Response]:
    body = PROBLEM % (word, status) if word else b"<h1>Bad gateway</h1>"
    return lambda send, request: Response(status, headers, body)


FAILURES: list[Callable[[Callable[[Request], Response], Request], Response]] = [
    lambda send, request: send(request),
    never_arrives,
    answer_is_lost,
    cut_short,
    refusing(503, b"overloaded", **{"retry-after": "3"}),
    refusing(429, b"too-many-requests", **{"retry-after": "1"}),
    refusing(400, b"digest-mismatch"),
    refusing(408, b"too-slow"),
    refusing(500),
    refusing(502),
]


@pytest.mark.parametrize("protocol", PARTIES)
@settings(max_examples=15, deadline=None)
@given(failures=st.lists(st.integers(0, len(FAILURES) - 1), max_size=120))
def test_any_order_of_failures_ends_with_the_same_sum_and_one_message_a_round(
    protocol: str, failures: list[int]
) -> None:
    parties = PARTIES[protocol]
    double = Double(parties.task, parties.roster, parties.cohort)
    double.offer(MODEL)
    plan = iter(failures)

    def failing(honest: Callable[[Request], Response]) -> Callable[[Request], Response]:
        return lambda request: FAILURES[next(plan, 0)](honest, request)

    with TemporaryDirectory() as folder:
        parts = everyone(parties, Path(folder), double)
        for party in parts:
            party.send = failing(party.send)  # type: ignore[method-assign]
        play(parts, double)
        while OPEN:
            OPEN.pop().close()
    check(double, parties)
    assert {(party, number) for party, _, number in double.uploads} == expected_uploads(protocol)


def expected_uploads(protocol: str) -> set[tuple[str, int]]:
    """Who sends a message in which round if nothing fails."""
    parties = PARTIES[protocol]
    phases = list(parties.task.protocol.phases)
    return {
        (party, number)
        for number, phase in enumerate(phases)
        for party, role in parties.roles.items()
        if phase.role is role
    }


def test_a_service_that_finds_every_upload_damaged_is_left() -> None:
    parties = PARTIES["SecAgg"]
    double = Double(parties.task, parties.roster, parties.cohort)
    double.offer(MODEL)
    damaged = 400, {}, PROBLEM % (b"digest-mismatch", 400)
    double.before = lambda party, route: damaged if route == "upload" else None
    with TemporaryDirectory() as folder, pytest.raises(secagg.Refused, match="does not have the digest"):
        play(everyone(parties, Path(folder), double), double)


# Processes


class Killed(BaseException):
    """The process dies here."""


class Points:
    """Counts the points at which a process can die, and kills it at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def around(self, function: Any) -> Any:
        """``function``, with a point before and one after it."""

        def killed(*arguments: Any, **keywords: Any) -> Any:
            self.point()
            result = function(*arguments, **keywords)
            self.point()
            return result

        return killed

    def point(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


def played_with_one_death(
    parties: Parties, victim: str, folder: Path, points: Points, monkeypatch: pytest.MonkeyPatch
) -> Double:
    """A session in which ``victim`` dies at one point and starts again from its folder."""
    double = Double(parties.task, parties.roster, parties.cohort)
    double.offer(MODEL)
    parts = everyone(parties, folder, double)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine stays on, so nothing is lost
    index = [party.party for party in parts].index(victim)
    for kind, name in (
        (FileStore, "__call__"),
        (FileLedger, "claim"),
        (FileStore, "delete"),
        (State, "_write"),
        (State, "keep_part"),
        (State, "forget_offer"),
    ):
        honest = getattr(kind, name)
        counted = points.around(honest)

        def chosen(self: Any, *arguments: Any, honest: Any = honest, counted: Any = counted) -> Any:
            inside = (folder / victim).resolve() in Path(getattr(self, "_path", folder)).resolve().parents
            mine = inside or getattr(self, "_path", None) == folder / victim
            return (counted if mine else honest)(self, *arguments)

        monkeypatch.setattr(kind, name, chosen)
    for _ in range(600):
        for number, party in enumerate(parts):
            try:
                if number == index:
                    party.send = points.around(type(party).send.__get__(party))  # type: ignore[method-assign]
                party.go_on()
            except Killed:
                party.close()
                parts[number] = type(party)(parties, victim, folder / victim, double)
        session = double.sessions[0]
        if (session.outcome is not None or session.failed) and not any(party.busy for party in parts):
            return double
    raise AssertionError(f"the session does not end after a death at point {points.at}")


@pytest.mark.parametrize(("protocol", "victim"), [("SecAgg", "c1"), ("AdditiveShares", "aggregator-1")])
def test_a_party_that_dies_at_any_point_goes_on_from_its_folder(protocol: str, victim: str, tmp_path: Path) -> None:
    for at in itertools.count(1):
        points = Points(at)
        with pytest.MonkeyPatch.context() as patch:
            double = played_with_one_death(PARTIES[protocol], victim, tmp_path / str(at), points, patch)
        check(double, PARTIES[protocol])
        while OPEN:
            OPEN.pop().close()
        if points.count < at:
            break
    assert at > 20


def test_control_a_party_without_its_state_says_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same deaths, of a client whose states are lost: at some of the points, the session comes to harm."""
    monkeypatch.setattr(FileStore, "load", lambda self: None)
    harmed = []
    for at in range(36, 60, 4):
        with pytest.MonkeyPatch.context() as patch:
            try:
                parties = PARTIES["SecAgg"]
                check(played_with_one_death(parties, "c1", tmp_path / str(at), Points(at), patch), parties)
            except (AssertionError, secagg.SecAggError) as harm:
                harmed.append(harm)
        while OPEN:
            OPEN.pop().close()
    assert harmed

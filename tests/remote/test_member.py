"""Aggregators behind real HTTP, as a program and in this process, with clients that a command line trains."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from mpc.hpke import Kem
from secagg.api import routes
from secagg.api.documents import session_key, to_frames
from secagg.remote import RemoteMember
from secagg.remote.member import MOST_SESSIONS
from secagg.testing._parties import parties_for
from tests.remote.double import Answer, Double
from tests.remote.http import running
from tests.remote.playing import MODEL, Party, closed_folders as closed_folders, kit_for, options_for, update_of

PARTIES = parties_for(secagg.AdditiveShares(), 3).enrolled()
TRAIN = """
def train(model, config):
    return {"w": model["w"] * 0 + config["update"]}, 9
"""


def write_folder(party: str, folder: Path, url: str) -> list[str]:
    """What a party has on its disk; returns the options that name it."""
    folder.mkdir(mode=0o700)
    pem = PARTIES.identities[party].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{party}.pem").write_bytes(pem)
    if PARTIES.long_lived.get(party):
        key = base64.b64encode(PARTIES.long_lived[party]).decode()
        document = {"version": 1, "kem": str(Kem.MLKEM768_X25519), "key": key}
        (folder / f"{party}.sealing.json").write_text(json.dumps(document))
    kit = folder.parent / f"{party}.kit"
    kit.write_text(kit_for(PARTIES, party, url).to_json())
    return ["--kit", str(kit), "--state", str(folder)]


def test_programs_and_threads_play_a_session_with_two_aggregators(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    session = double.offer(MODEL, config={"update": 0.25})
    (tmp_path / "training.py").write_text(TRAIN)
    member, others = "aggregator-1", ["aggregator-2"]
    with running(double) as url, ThreadPoolExecutor(3) as pool:
        command = [sys.executable, "-m", "secagg", "member", *write_folder(member, tmp_path / member, url)]
        program = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        hosted = [RemoteMember(kit_for(PARTIES, p, url), tmp_path / p, **options_for(PARTIES, p)) for p in others]
        threads = [threading.Thread(target=one.run) for one in hosted]
        for thread in threads:
            thread.start()
        trained = subprocess.Popen(
            [
                *(sys.executable, "-m", "secagg", "client", *write_folder("c1", tmp_path / "c1", url)),
                *("--train", "training:train", "--once"),
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

        def client(party: str) -> None:
            kit = kit_for(PARTIES, party, url)
            with secagg.connect(kit, tmp_path / party, **options_for(PARTIES, party)) as remote:
                for offer in remote.offers():
                    offer.contribute(update_of(PARTIES, party), 9)

        futures = [pool.submit(client, party) for party in ("c2", "c3")]
        out, _ = trained.communicate(timeout=60)
        double.end()
        for future in futures:
            future.result(60)
        for thread in threads:
            thread.join(30)
        _, told = program.communicate(timeout=60)
        for one in hosted:
            one.close()
    assert trained.returncode == 0
    assert "round 1: " in out
    assert program.returncode == 0, told
    assert "ended" in told
    updates = [np.full(5, 0.25, np.float32), *(update_of(PARTIES, party)["w"] for party in ("c2", "c3"))]
    np.testing.assert_allclose(session.outcome.mean["w"], np.mean(updates, axis=0), atol=1e-3)
    assert not session.server.faults
    assert not list(tmp_path.glob("*/sessions/*"))


def aggregator_for(folder: Path) -> tuple[Double, Party]:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    return double, Party(PARTIES, "aggregator-1", folder, double)


def polled(double: Double, name: bytes, *, under: bytes | None = None, message: bytes | None = None) -> None:
    """The next polls get the proposal of a session, or ``message``, under the address of the session ``under``."""
    server = PARTIES.task.server(PARTIES.cohort, roster=PARTIES.roster, session=name)
    server.start()
    proposal = server.context.seal(server.context.proposal())
    key = session_key(PARTIES.task.digest, under or name)
    headers = {"content-type": routes.MESSAGES_TYPE, "secagg-session": key, "secagg-cursor": "x"}
    answers: dict[str, Answer] = {
        "next": (200, headers, to_frames([(0, message or proposal)])),
        "upload": (200, {}, b"{}"),
        "result": (200, {}, b'{"state": "running", "selected": true, "in_sum": false}'),
    }
    double.before = lambda party, route: answers.get(route)


def until(member: Party, condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        member.step()
    raise AssertionError("it does not happen")


@pytest.mark.usefixtures("closed_folders")
@pytest.mark.parametrize("lie", [{"message": b"bytes"}, {"under": b"two"}])
def test_messages_that_begin_with_no_proposal_of_their_session_are_refused(
    lie: dict[str, Any], tmp_path: Path
) -> None:
    double, member = aggregator_for(tmp_path)
    polled(double, b"one", **lie)
    with pytest.raises(secagg.Refused, match="that don't begin with its proposal"):
        until(member, lambda: member.busy)
    assert not list((tmp_path / "sessions").iterdir())


@pytest.mark.usefixtures("closed_folders")
def test_a_service_that_opens_session_after_session_fills_neither_memory_nor_disk(tmp_path: Path) -> None:
    double, member = aggregator_for(tmp_path)
    names = [b"session %d" % number for number in range(MOST_SESSIONS + 3)]
    for name in names:
        polled(double, name)
        until(member, partial(is_open, member, name))
        assert len(member.core.sessions) <= MOST_SESSIONS
    assert [one.name for one in member.core.sessions.values()] == names[3:]
    assert len(list((tmp_path / "sessions").glob("*.state"))) == MOST_SESSIONS
    polled(double, names[0])  # a session that was left is not opened again
    with pytest.raises(AssertionError, match="it does not happen"):
        until(member, partial(is_open, member, names[0]))
    assert [one.name for one in member.core.sessions.values()] == names[3:]


@pytest.mark.usefixtures("closed_folders")
def test_a_member_that_restarts_goes_on_with_each_of_its_sessions(tmp_path: Path) -> None:
    double, member = aggregator_for(tmp_path)
    names = [b"one", b"two", b"three"]
    for name in names:
        polled(double, name)
        until(member, partial(is_open, member, name))
    member.close()
    again = Party(PARTIES, "aggregator-1", tmp_path, double)
    for name in names:
        polled(double, name)
        until(again, partial(is_open, again, name))
    assert [one.name for one in again.core.sessions.values()] == names


def is_open(member: Party, name: bytes) -> bool:
    return session_key(PARTIES.task.digest, name) in member.core.sessions


@pytest.mark.usefixtures("closed_folders")
def test_a_member_checks_the_roster_again_when_a_session_opens(tmp_path: Path) -> None:
    double, member = aggregator_for(tmp_path)
    polled(double, b"one")
    until(member, lambda: member.busy)
    member.now += 3600
    asked = [route for _, route, _ in double.requests].count("roster")
    polled(double, b"two")
    until(member, partial(is_open, member, b"two"))
    assert [route for _, route, _ in double.requests].count("roster") == asked + 1


def test_the_kit_of_a_client_is_not_a_member_s(tmp_path: Path) -> None:
    with pytest.raises(secagg.ConfigError, match="the kit of c1, a client; connect it"):
        RemoteMember(kit_for(PARTIES, "c1"), tmp_path)

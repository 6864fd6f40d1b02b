"""How a client's part ends early: killed while it keeps its update, late, closed, refused, asleep."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from secagg import _remote_commands
from secagg.api.problems import Kind, Problem
from secagg.kit import Kit
from secagg.remote import client as blocking
from secagg.remote.uploads import Upload
from secagg.store import FileStore
from secagg.testing._parties import parties_for
from tests.remote.double import Double
from tests.remote.http import running
from tests.remote.playing import (
    MODEL,
    URL,
    Client,
    closed_folders as closed_folders,
    everyone,
    expected_mean,
    kit_for,
    options_for,
    play,
    update_of,
)
from tests.remote.test_client import PARTIES, accepted, double_for, until

pytestmark = pytest.mark.usefixtures("closed_folders")


class Killed(BaseException):
    """The process dies here."""


def test_a_client_killed_before_it_kept_its_update_leaves_the_session_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next training gives another update. The ledger has the first one, which was lost."""
    double = double_for()
    session = double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, _ = accepted(parts, double)

    def die(store: FileStore, number: int, state: bytes) -> None:
        raise Killed

    monkeypatch.setattr(FileStore, "__call__", die)
    with pytest.raises(Killed):
        client.core.contribute(client.core.session, update_of(PARTIES, "c1"), 9)  # type: ignore[arg-type]
    monkeypatch.undo()
    client.close()
    parts[0] = again = Client(PARTIES, "c1", tmp_path / "c1", double)
    again.train = lambda model, config: {"w": update_of(PARTIES, "c1")["w"] + 1}
    play(parts, double, until=lambda: not parts[0].busy and session.server is not None)
    assert again.core.session is not None
    assert again.core.session.over == (
        "an update from before a crash was lost, and only that one may be contributed"
    )
    assert not any(party == "c1" for party, _, _ in double.uploads)
    double.close(session)  # without c1, as at the deadline
    play(parts, double)
    assert session.outcome.survivors == ("c2", "c3", "c4")
    double.offer({"w": MODEL["w"] + 1}, number=2)
    again.train = lambda model, config: update_of(PARTIES, "c1")
    play(parts, double)
    np.testing.assert_allclose(double.sessions[1].outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)


def test_a_second_update_of_one_session_is_an_error_and_the_first_one_counts(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, _ = accepted(parts, double)
    until(client, lambda: session.accepted)
    mine = client.core.session
    assert mine is not None
    client.core.contribute(mine, update_of(PARTIES, "c1"), 9)
    with pytest.raises(secagg.LocalProtocolError, match="a second update for one session"):
        client.core.contribute(mine, {"w": np.ones(5, np.float32)}, 9)
    play(parts, double)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)


def test_offers_that_nobody_takes_up_leave_nothing_in_the_ledger(tmp_path: Path) -> None:
    double = double_for()
    client = Client(PARTIES, "c1", tmp_path, double)
    double.offer(MODEL)
    until(client, lambda: client.core.session is not None)
    size = (tmp_path / "ledger").stat().st_size
    for number in range(2, 12):
        double.offer(MODEL, number=number)
        client.core.session.answer = None  # type: ignore[union-attr]
        client.core._call = client.core.poll(client.now, live=True)  # type: ignore[assignment]
        until(client, lambda number=number: client.core.session.offer.number == number)  # type: ignore[union-attr, misc]
    assert (tmp_path / "ledger").stat().st_size == size


def test_the_clock_of_a_machine_that_sleeps_twice_is_corrected_twice(tmp_path: Path) -> None:
    double = double_for()
    client = Client(PARTIES, "c1", tmp_path, double)
    dates = ["Sun, 09 Sep 2001 04:46:40 GMT", "Sun, 09 Sep 2001 06:46:40 GMT"]
    for hours, date in zip((3, 5), dates, strict=True):
        answers = iter([(401, {"date": date}, b"")])
        double.before = lambda party, route, answers=answers: next(answers, None)  # type: ignore[misc]
        until(client, lambda hours=hours: client.core.caller.time(1e9) == 1e9 + hours * 3600)  # type: ignore[misc]
        client.now = 1e9
        client.step()
    double.before = lambda party, route: (401, {"date": dates[0]}, b"")
    with pytest.raises(secagg.Refused, match="token is missing, expired or not valid"):
        until(client, lambda: False)


@pytest.mark.parametrize(
    "answer", [b'{"party": "../c1", "token": "t"}', b'{"party": "c1", "token": "a\\r\\nb: c"}']
)
def test_an_id_or_a_token_that_cannot_be_used_is_refused_and_not_kept(answer: bytes, tmp_path: Path) -> None:
    parties = parties_for(secagg.Clear(), 2)
    double = Double(parties.task, None, ["c1"])
    double.before = lambda party, route: (200, {}, answer) if route == "join" else None
    kit = Kit(party=None, url=URL, task=parties.task.digest.hex(), auth="open")
    client = Client(parties, "c1", tmp_path, double, kit)
    with pytest.raises(secagg.Refused, match="an id or a token that can't be used"):
        client.step()
    assert not (tmp_path / "joined.json").exists()


def test_a_service_that_never_agrees_on_an_offset_is_left() -> None:
    data = PARTIES.task.server(PARTIES.cohort, roster=PARTIES.roster, session=b"s")
    proposal = next(iter(data.start().values()))
    upload = Upload("ab" * 32, 0, proposal, lambda again: None, lambda problem: None)
    for _ in range(64):
        upload._refused(Problem(Kind.UPLOAD_OFFSET))
    with pytest.raises(secagg.Refused, match="asked 65 times for another part"):
        upload._refused(Problem(Kind.UPLOAD_OFFSET))


def test_a_model_that_never_comes_is_given_up_long_after_the_offer_s_time(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    client = Client(PARTIES, "c1", tmp_path, double)
    until(client, lambda: client.core.session is not None)
    double.before = lambda party, route: (503, {}, b"") if route == "model" else None
    session = client.core.session
    assert session is not None
    download = client.core.download(session)
    began = client.now
    while client.step(download):
        assert client.now < began + 3600
    assert client.now > began + session.offer.seconds
    assert download.over is not None
    assert download.over.kind is Kind.OFFER_CLOSED
    download.close()


def test_contribute_after_decline_or_after_the_end_fetches_no_model_and_says_why(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    with running(double) as url:
        remote = secagg.connect(kit_for(PARTIES, "c1", url), tmp_path / "c1", **options_for(PARTIES, "c1"))
        with remote:
            offer = next(iter(remote.offers()))
            offer.decline("no")
            result = offer.contribute(update_of(PARTIES, "c1"), 9)
            assert (result.in_sum, result.reason) == (None, "this client declined")
    assert "model" not in [route for _, route, _ in double.requests]


def test_close_in_another_thread_ends_contribute_with_an_error(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL)
    with running(double) as url:
        remote = secagg.connect(kit_for(PARTIES, "c1", url), tmp_path / "c1", **options_for(PARTIES, "c1"))
        offer = next(iter(remote.offers()))
        offer.model()
        tell = double.on_accept

        def accept(*request: Any) -> Any:
            blocking.threading.Timer(0.2, remote.close).start()
            return tell(*request)

        double.on_accept = accept  # type: ignore[method-assign]
        with pytest.raises(secagg.LocalProtocolError, match=r"got close\(\) before this client's part was over"):
            offer.contribute(update_of(PARTIES, "c1"), 9)
    assert session.server is None


def test_a_cancelled_contribute_of_asyncio_goes_on_with_the_same_update(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL)

    async def cancelled(url: str) -> None:
        kit, options = kit_for(PARTIES, "c1", url), options_for(PARTIES, "c1")
        async with secagg.aconnect(kit, tmp_path / "c1", **options) as remote:
            offers = remote.offers()
            offer = await anext(offers)
            await offer.model()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(offer.contribute(update_of(PARTIES, "c1"), 9), 0.3)
            with pytest.raises(secagg.LocalProtocolError, match="a second update for one session"):
                await offer.contribute({"w": np.ones(5, np.float32)}, 9)

    with running(double) as url:
        asyncio.run(cancelled(url))
    parts = everyone(PARTIES, tmp_path, double)
    play(parts, double)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)


def test_a_folder_that_lost_its_ledger_is_refused_and_not_counted_anew(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    play(parts, double)
    parts[0].close()
    (tmp_path / "c1" / "ledger").unlink()
    with pytest.raises(
        secagg.ConfigError, match="without its ledger, so what this party sent is no longer known; put"
    ):
        Client(PARTIES, "c1", tmp_path / "c1", double)
    assert not (tmp_path / "c1" / "ledger").exists()


def test_a_damaged_file_of_the_folder_is_named(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    accepted(parts, double)
    parts[0].close()
    (tmp_path / "c1" / "offer.json").write_bytes(b"\0" * 9)
    again = Client(PARTIES, "c1", tmp_path / "c1", double)
    with pytest.raises(secagg.ConfigError, match=r"offer\.json, which is damaged; if it is deleted, its session"):
        until(again, lambda: False)


def test_the_command_goes_on_with_the_next_round_where_a_model_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    double = double_for()
    double.offer(MODEL)
    gone = Problem(Kind.UNKNOWN_MODEL)
    double.before = lambda party, route: (404, gone.headers(), gone.body()) if route == "model" else None
    pem = PARTIES.identities["c1"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "identity.pem").write_bytes(pem)
    with running(double) as url:
        (tmp_path / "c1.kit").write_text(kit_for(PARTIES, "c1", url).to_json())
        _remote_commands.client(tmp_path / "c1.kit", tmp_path / "state", "json:loads", True, None)
    assert "round 1: not in the sum: the model that was offered is no longer there" in capsys.readouterr().out

"""What a client does in the cases that a training loop meets: late updates, restarts, refusals, limits."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import dp
import secagg
from secagg.api.documents import Result
from secagg.api.problems import Kind, Problem
from secagg.identity import PartyRole, Roster, enrol
from secagg.kit import Kit
from secagg.registrar import sign_roster
from secagg.remote import Event, Progress, uploads
from secagg.remote.offers import BaseOffer
from secagg.remote.requests import Meaning, meaning
from secagg.remote.settings import Options
from secagg.store import MemoryLedger
from secagg.testing._parties import Parties, parties_for
from tests.remote.double import Double, Open
from tests.remote.playing import (
    MODEL,
    URL,
    Client,
    Party,
    closed_folders as closed_folders,
    everyone,
    expected_mean,
    kit_for,
    play,
    update_of,
)

pytestmark = pytest.mark.usefixtures("closed_folders")

PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()


def double_for(parties: Parties = PARTIES) -> Double:
    return Double(parties.task, parties.roster, parties.cohort)


def until(party: Party, condition: Callable[[], Any], others: list[Party] | None = None) -> None:
    """Steps of a party that does not train, and of others that do, until ``condition`` holds."""
    for _ in range(400):
        if condition():
            return
        party.step()
        for other in others or []:
            other.go_on()
    raise AssertionError("it does not happen")


def waits_for_c1(session: Open) -> bool:
    """Whether the update of c1 is all that is missing."""
    server = session.server
    return bool(server and server.round == secagg.Round.MASKED_INPUT and server.pending == {"c1"})


def accepted(parts: list[Party], double: Double) -> tuple[Client, Open]:
    """The first client, which has accepted the newest offer and not contributed, and the session."""
    client, session = parts[0], double.sessions[-1]
    assert isinstance(client, Client)
    until(client, lambda: client.core.session is not None)
    assert client.core.session is not None
    client.take_up(client.core.session)
    return client, session


def test_keys_are_exchanged_while_a_client_still_trains(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, session = accepted(parts, double)
    until(client, lambda: waits_for_c1(session), parts[1:])
    play(parts, double)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)


def test_an_update_after_the_deadline_is_taken_if_the_service_still_waits(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    double.deadline = 5.0
    parts = everyone(PARTIES, tmp_path, double)
    client, session = accepted(parts, double)
    until(client, lambda: waits_for_c1(session), parts[1:])
    late = client.now + 100
    until(client, lambda: client.now > late)
    play(parts, double)
    assert "c1" in session.outcome.survivors


def test_a_client_that_is_too_late_is_told_so_and_goes_on(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    double.deadline = 5.0
    parts = everyone(PARTIES, tmp_path, double)
    client, session = accepted(parts, double)
    until(client, lambda: waits_for_c1(session), parts[1:])
    double.close(session)
    play(parts[1:], double)
    old = client.core.session
    until(client, lambda: old is None or old.closed)
    assert old is not None
    assert old.in_sum is False
    assert session.outcome.survivors == ("c2", "c3", "c4")
    client.core.contribute(old, update_of(PARTIES, "c1"), 9)  # what a loop does that is still training: no error
    assert not list((tmp_path / "c1" / "sessions").iterdir())
    second = double.offer(MODEL, number=2)
    play(parts, double)
    assert second.outcome.survivors == PARTIES.cohort


def test_a_loop_that_goes_on_without_an_update_leaves_the_session(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, _ = accepted(parts, double)
    assert client.core.session is not None
    client.core.leave(client.core.session)
    until(client, lambda: client.core.session is None or client.core.session.closed)
    assert client.core.session.over == "this client contributed nothing"
    assert not list((tmp_path / "c1" / "sessions").iterdir())


def test_offers_are_declined_by_the_loop_and_while_the_device_may_not_run(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL)
    ready = Client(PARTIES, "c1", tmp_path / "c1", double)
    until(ready, lambda: ready.core.session is not None)
    ready.core.leave(ready.core.session)
    busy = Client(PARTIES, "c2", tmp_path / "c2", double, may_run=lambda: False)
    until(ready, lambda: "c1" in session.declined)
    until(busy, lambda: "c2" in session.declined)
    assert session.declined == {
        "c1": "this client did not take the offer up",
        "c2": "this device can't run now",
    }
    assert not any(route == "model" for _, route, _ in double.requests)


def test_an_update_from_before_a_restart_is_not_trained_again(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, session = accepted(parts, double)
    assert client.core.session is not None
    client.core.contribute(client.core.session, update_of(PARTIES, "c1"), 9)
    client.close()
    again = Client(PARTIES, "c1", tmp_path / "c1", double)
    until(again, lambda: again.core.session is not None)
    restored = again.core.session
    assert restored is not None
    assert restored.resumed
    assert again.core.new_session(None, False) is None
    assert again.core.new_session(None, True) is restored
    again.train = lambda model, config: pytest.fail("it was trained again")
    play([again, *parts[1:]], double)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)


def test_a_client_that_was_not_selected_waits_no_longer(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, _ = accepted(parts, double)
    until(client, lambda: "c1" in session.accepted)
    double.cohort = ["c2", "c3", "c4"]
    session.accepted.discard("c1")
    running = msgspec.json.encode(Result("running", False, False))
    double.before = lambda party, route: (200, {}, running) if (party, route) == ("c1", "result") else None
    assert client.core.session is not None
    client.core.contribute(client.core.session, update_of(PARTIES, "c1"), 9)
    until(client, lambda: client.core.session.closed)  # type: ignore[union-attr]
    assert client.core.session.over == "this client was not selected"


def test_a_second_session_over_one_model_is_warned_of_and_one_can_be_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    parts[0].close()
    parts[0] = Client(PARTIES, "c1", tmp_path / "c1", double, max_uploads_per_model=1)
    play(parts, double)
    double.offer(MODEL, attempt=2)
    play(parts, double)
    assert double.sessions[1].declined == {"c1": "this client gives 1 uploads over one model"}
    assert double.sessions[1].outcome.survivors == ("c2", "c3", "c4")
    assert caplog.text.count("a second upload from one model") == 3
    assert "a session was offered over a model that got 1 uploads: declined" in caplog.text


def test_an_update_that_the_budget_forbids_does_not_leave(tmp_path: Path) -> None:
    noisy = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=0.2, bits=18)
    task = PARTIES.make_task(encoding=noisy, max_weight=None)
    double = Double(task, PARTIES.roster, PARTIES.cohort)
    double.offer(MODEL)
    parts: list[Party] = []
    for party in PARTIES.cohort:
        kit = kit_for(PARTIES, party, task=task.digest.hex())
        budget = dp.PrivacyLedger(1e-3 if party == "c1" else 1e6, 1e-5, unit="client", trust="distributed")
        parts.append(Client(PARTIES, party, tmp_path / party, double, kit, budget=budget))
    client = parts[0]
    with pytest.raises(AssertionError, match="the session does not end"):
        play(parts, double, most=60)
    assert isinstance(client.core.session.error, secagg.LocalProtocolError)
    assert "this input does not leave" in str(client.core.session.error)
    inputs = [number for party, _, number in double.uploads if party == "c1"]
    assert max(inputs) < [phase.round for phase in task.protocol.phases].index(secagg.Round.MASKED_INPUT)


@pytest.mark.parametrize("largest", [50, 333])
def test_a_large_message_goes_in_parts_and_on_from_where_it_broke(
    largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LARGEST_WHOLE", largest)
    double = double_for()
    session = double.offer(MODEL)
    broken = {"part": 0}

    def before(party: str, route: str) -> Any:
        """Every third part is not taken."""
        broken["part"] += route == "part"
        return (503, {"retry-after": "1"}, b"") if route == "part" and broken["part"] % 3 == 0 else None

    double.before = before
    play(everyone(PARTIES, tmp_path, double), double, most=3000)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)
    parts = [len(body) for _, route, body in double.requests if route == "part"]
    assert max(parts) == largest
    assert len(parts) > 15
    assert not session.server.faults


def test_a_client_where_anyone_may_join_keeps_its_id_and_token(tmp_path: Path) -> None:
    parties = parties_for(secagg.Clear(), 2)
    double = Double(parties.task, None, ["c1"])
    kit = Kit(party=None, role=PartyRole.CLIENT, url=URL, task=parties.task.digest.hex(), auth="open")
    for _ in range(2):
        client = Client(parties, "c1", tmp_path, double, kit)
        while client.core.task is None:
            client.step()
        client.close()
    assert client.core.party == "c1"
    assert [route for _, route, _ in double.requests] == ["join", "task", "task"]
    assert double.authorizations == ["", "Bearer secret", "Bearer secret"]
    assert stat.S_IMODE((tmp_path / "joined.json").stat().st_mode) == 0o600


def test_a_join_token_comes_from_a_file(tmp_path: Path) -> None:
    parties = parties_for(secagg.Clear(), 2)
    double = Double(parties.task, None, ["c1"])
    kit = Kit(party="c1", role=PartyRole.CLIENT, url=URL, task=parties.task.digest.hex(), auth="tokens")
    with pytest.raises(secagg.ConfigError, match=r"no join token at .*; ask the operator for one"):
        Client(parties, "c1", tmp_path, double, kit)
    (tmp_path / "token").write_text("abc\n")
    client = Client(parties, "c1", tmp_path, double, kit)
    client.step()
    assert double.authorizations == ["Bearer abc"]


def test_a_second_process_is_refused_the_folder(tmp_path: Path) -> None:
    Client(PARTIES, "c1", tmp_path, double_for())
    again = (
        r"open already in this process; close\(\) what has it open, such as a client of an earlier secagg.connect"
    )
    with pytest.raises(secagg.ConfigError, match=again):
        Client(PARTIES, "c1", tmp_path, double_for())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_clock_that_is_wrong_by_hours_is_corrected_once(tmp_path: Path) -> None:
    double = double_for()
    client = Client(PARTIES, "c1", tmp_path, double)
    answers = iter([(401, {"date": "Sun, 09 Sep 2001 04:46:40 GMT"}, b"")])
    double.before = lambda party, route: next(answers, None)
    until(client, lambda: client.core.roster is not None)
    assert len(set(double.authorizations)) == 2  # the first, and the one that was signed anew
    assert client.core.caller.time(1e9) == 1e9 + 3 * 3600


def test_what_moves_and_what_happens_is_told(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    events: list[Event] = []
    moved: list[Progress] = []
    parts = everyone(PARTIES, tmp_path, double)
    parts[0].close()
    parts[0] = Client(PARTIES, "c1", tmp_path / "c1", double, on_event=events.append, progress=moved.append)
    play(parts, double)
    assert [event.what for event in events] == ["roster", "offered", "accepted", *["sent"] * 5, "ended"]
    size = double.sessions[0].offer.model_bytes
    assert moved == [Progress("model", size, size)]


REGISTRAR = Ed25519PrivateKey.generate()


def registered(party: str) -> Kit:
    """A kit that pins the registrar."""
    return kit_for(PARTIES, party, roster=None, registrar=REGISTRAR.public_key().public_bytes_raw())


def test_a_roster_that_expires_while_the_client_runs_is_refused(tmp_path: Path) -> None:
    double = double_for()
    assert PARTIES.roster is not None
    ledger = MemoryLedger()
    double.signature = sign_roster(PARTIES.roster, REGISTRAR, version=1, expires=1e9 + 1000, ledger=ledger)
    client = Client(PARTIES, "c1", tmp_path, double, registered("c1"))
    until(client, lambda: client.core.roster is not None)
    client.now += 2000
    double.offer(MODEL)
    with pytest.raises(secagg.Refused, match="a roster that expired at"):
        until(client, lambda: "c1" in double.sessions[0].accepted)


def test_a_session_under_a_roster_that_was_replaced_keeps_nobody_from_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    double, ledger = double_for(), MemoryLedger()
    assert PARTIES.roster is not None
    double.signature = sign_roster(PARTIES.roster, REGISTRAR, version=1, expires=2e9, ledger=ledger)
    double.offer(MODEL)
    parts: list[Party] = [Client(PARTIES, p, tmp_path / p, double, registered(p)) for p in PARTIES.cohort]
    client, _ = accepted(parts, double)
    assert client.core.session is not None
    client.core.contribute(client.core.session, update_of(PARTIES, "c1"), 9)
    for party in parts:
        party.close()
    guest = enrol(["c5"])[1]["c5"]
    newer = Roster([*PARTIES.roster.values(), guest])
    double = Double(PARTIES.task, newer, PARTIES.cohort)
    double.signature = sign_roster(newer, REGISTRAR, version=2, expires=2e9, ledger=ledger)
    session = double.offer(MODEL, number=2)
    parts = [Client(PARTIES, p, tmp_path / p, double, registered(p)) for p in PARTIES.cohort]
    play(parts, double)
    assert session.outcome.survivors == PARTIES.cohort
    assert "is left out, because its state can't be used" in caplog.text


def test_the_end_of_the_run_ends_an_open_session(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    parts = everyone(PARTIES, tmp_path, double)
    client, _ = accepted(parts, double)
    assert client.core.session is not None
    client.core.contribute(client.core.session, update_of(PARTIES, "c1"), 9)
    over = Problem(Kind.TASK_OVER)
    double.before = lambda party, route: (410, over.headers(), over.body())
    until(client, lambda: client.core.ended)
    assert client.core.session.over == "the run is over"
    assert client.core.session.closed
    assert not list((tmp_path / "c1" / "sessions").iterdir())


def test_an_offer_that_was_replaced_while_the_model_came_is_not_accepted(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    client = Client(PARTIES, "c1", tmp_path, double)
    until(client, lambda: client.core.session is not None)
    old = client.core.session
    assert old is not None
    double.sessions[0].declined["c1"] = "gone"
    double.offer({"w": MODEL["w"] + 1}, number=2)
    client.core._end(old, "the service went on to another session")
    old.closed = True
    until(client, lambda: client.core.session is not old)
    client.core.accept(old)
    client.core.contribute(old, update_of(PARTIES, "c1"), 9)  # what a loop does that trained on it: no error
    assert old.role is None
    assert client.state.read_offer() is None
    with pytest.raises(secagg.Aborted, match="the model of round 1 is no longer here"):
        BaseOffer(client.core, old)._read_model(None)


def test_a_service_that_is_gone_for_good_ends_the_session_and_a_run_of_once(tmp_path: Path) -> None:
    double = double_for()
    double.offer(MODEL)
    double.deadline = 5.0
    parts = everyone(PARTIES, tmp_path, double)
    client, session = accepted(parts, double)
    until(client, lambda: session.server, parts[1:])
    until(client, lambda: client.core.session.heard)  # type: ignore[union-attr]
    double.before = lambda party, route: (503, {}, b"")
    until(client, lambda: client.core.session.closed)  # type: ignore[union-attr]
    assert "did not answer for 600 s after the deadline" in client.core.session.over
    client.close()
    once = Client(PARTIES, "c1", tmp_path / "c1", double, once=True)
    with pytest.raises(secagg.Refused, match="did not answer after"):
        until(once, lambda: False)


def test_a_service_that_does_not_answer_is_told_of_once_until_it_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    double = double_for()
    client = Client(PARTIES, "c1", tmp_path, double, wait=0)

    def warnings_after(seconds: float) -> int:
        caplog.clear()
        end = client.now + seconds
        until(client, lambda: client.now > end)
        return sum(
            "the service did not answer" in one.message for one in caplog.records if one.levelname == "WARNING"
        )

    double.before = lambda party, route: (503, {}, b"")
    assert warnings_after(600) == 1
    double.before = lambda party, route: None
    assert warnings_after(120) == 0
    double.before = lambda party, route: (503, {}, b"")
    assert warnings_after(600) == 1


def test_a_client_that_polls_rarely_sends_a_request_a_minute(tmp_path: Path) -> None:
    double = double_for()
    client = Client(PARTIES, "c1", tmp_path, double, wait=0)
    double.before = lambda party, route: (204, {}, b"") if route == "next" else None
    start = client.now
    until(client, lambda: client.now > start + 600)
    assert len(double.requests) == 2 + 11  # the task, the roster, the polls


def test_the_cost_is_known_before_the_training(tmp_path: Path) -> None:
    double = double_for()
    session = double.offer(MODEL, config={"epochs": 3})
    client = Client(PARTIES, "c1", tmp_path, double)
    until(client, lambda: client.core.session is not None)
    offer = BaseOffer(client.core, client.core.session)  # type: ignore[arg-type]
    cost = PARTIES.task.protocol.cost(PARTIES.task)
    assert offer.cost == (sum(cost.up.values()), sum(cost.down.values()) + len(session.model))
    assert (offer.number, offer.attempt, offer.config) == (1, 1, {"epochs": 3})
    assert offer.session == session.key
    assert not offer.resumed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"wait": 26}, "got wait=26; expected 0 to 25 seconds"),
        ({"max_uploads_per_model": 3}, "expected 1 to 2"),
        ({"most_model_bytes": 0}, "expected a number of bytes"),
        ({"on_event": 5}, "got on_event=5; expected a function"),
        ({"speed": 1}, "got speed, which secagg.connect doesn't take"),
    ],
)
def test_settings_that_can_t_work_are_refused(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(secagg.ConfigError, match=match):
        secagg.connect(kit_for(PARTIES, "c1"), tmp_path, **options)


def test_the_document_says_what_each_answer_means() -> None:
    text = (Path(__file__).parents[2] / "docs" / "service_client.md").read_text(encoding="utf-8")
    table = text[text.index("| Answer | Meaning |") :]
    rows = [row.split("|")[1:3] for row in table.splitlines() if row.startswith("| `")]
    said = {word: means for words, means in rows for word in re.findall(r"`([a-z-]+)`", words)}
    expected = {
        Meaning.AGAIN: " send the same request again, later ",
        Meaning.RESUME: " ask how much is there, and go on from there ",
        Meaning.OVER: " the session is over for this party ",
        Meaning.ENDED: " the run is over ",
    }
    special = {Kind.UNAUTHORIZED, Kind.DIGEST_MISMATCH}
    for kind in set(Kind) - special:
        what = meaning(Problem(kind))
        assert said.pop(kind.word, None) == expected.get(what), kind
    assert set(said) == {kind.word for kind in special}


def test_the_document_lists_every_option() -> None:
    text = (Path(__file__).parents[2] / "docs" / "service_client.md").read_text(encoding="utf-8")
    table = text[text.index("| Option | What it does |") : text.index("## From the command line")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == set(Options.__annotations__)

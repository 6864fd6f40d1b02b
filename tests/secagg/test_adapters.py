"""What the adapters share: it imports no stack, and its digests tell apart what a training could tell apart."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc.keys import encode_parts
from secagg._rounds import UPLOADS_OF_A_MODEL
from secagg.beacon import SignedBeacon
from secagg.errors import Aborted, ConfigError, EncodingError
from secagg.integrations._shared import party
from secagg.integrations._shared.digests import arguments_digest, arrays_digest, arrays_of, typed
from secagg.integrations._shared.metrics import with_metrics
from secagg.integrations._shared.rounds import Channel, Rounds
from secagg.integrations._shared.sessions import Exhausted, Sessions, without
from secagg.integrations._shared.settings import server_roster
from secagg.integrations._shared.site import Site
from secagg.integrations._shared.site_rounds import SiteRounds
from secagg.integrations._shared.statements import write
from secagg.keygen import write_identities
from secagg.session import roster_digest

STACKS = ("flwr", "nvflare", "ray", "distributed")


def make_task(**changes: Any) -> secagg.Task:
    settings: dict[str, Any] = {
        "protocol": secagg.SecAgg(threat_model="semi-honest"),
        "layout": secagg.Layout.of({"w": np.zeros(3)}),
        "encoding": secagg.FixedPoint(clip=1.0, bits=20),
        "max_clients": 40,
        "min_survivors": 30,
    }
    return secagg.Task(**settings | changes)


OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
BEACON = SignedBeacon(OPERATOR, genesis=1_700_000_000, period=30)
DRAWN = secagg.DrawnOneShot(4, 1, enrolled=5, member_corruption=0.2, beacon=BEACON, draw_round=1)

VALUES: list[Any] = [
    *(None, True, False, 1, 0, "1", "True", 1.0, -0.0, 0.0, b"1", b""),
    *([], (), {}, [1], (1,), [[1]], [1, []], {"a": 1}, {"a": [1]}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    *(np.float32(1), np.zeros(2), np.zeros((1, 2)), np.zeros(2, np.float32), np.zeros(2, ">f8"), np.zeros(0)),
]


def test_no_stack_is_imported() -> None:
    rooms = (
        "budget", "digests", "hosted", "metrics", "party", "rounds", "sessions", "settings", "site", "site_rounds",
        "statements",
    )  # fmt: skip
    code = "; ".join(
        [
            f"import sys; sys.modules.update(dict.fromkeys({STACKS}))",
            *(f"import secagg.integrations._shared.{room}" for room in rooms),
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(subprocess.CalledProcessError) as error:  # control: the stacks are out of reach
        subprocess.run([sys.executable, "-c", f"{code}; import ray"], check=True, capture_output=True)
    assert b"import of ray halted" in error.value.stderr


def test_values_that_differ_in_value_type_or_order_differ_as_parts() -> None:
    assert len({encode_parts(*typed(value)) for value in VALUES}) == len(VALUES)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "got a object in a train request"),
        ({"a": [{1}]}, "got a set"),
        (np.array([object()]), "got an array of dtype object"),
        (np.zeros(2, [("lr", "f4"), ("decay", "f4")]), "got an array of dtype .*'lr'"),
        (1j, "got a complex"),
    ],
)
def test_a_value_that_has_no_canonical_form_is_refused(value: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        list(typed(value))


def test_a_request_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="nested more than"):
        list(typed(loop))


def test_a_model_in_fewer_bits_is_another_request() -> None:
    torch: Any = pytest.importorskip("torch", reason="needs PyTorch")
    wide = {"w": torch.tensor([1.0, 0.5])}
    narrow = {"w": wide["w"].bfloat16()}
    assert len({arrays_digest("x", arrays_of(model)) for model in (wide, narrow)}) == 1
    assert len({arguments_digest("x", "job", model, {}) for model in (wide, narrow)}) == 2


def test_names_that_would_be_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="a name that is a int; expected text"):
        arrays_of({"1": np.zeros(1), 1: np.ones(1)})


def test_models_that_differ_have_different_digests() -> None:
    models = [
        {"w": np.zeros(4)},
        {"v": np.zeros(4)},
        {"w": np.zeros((2, 2))},
        {"w": np.zeros(8, np.float32)},
        {"w": np.zeros(4, ">f8")},
        {"w": np.array([0.0, 0, 0, -0.0])},
        {"w": np.zeros(3), "x": np.zeros(1)},
        {"x": np.zeros(1), "w": np.zeros(3)},
    ]
    digests = {arrays_digest(stack, model) for stack in ("flower", "nvflare") for model in models}
    assert len(digests) == 2 * len(models)
    assert arrays_digest("x", {"w": np.zeros((4, 4))[:, ::2]}) == arrays_digest("x", {"w": np.zeros((4, 2))})
    with pytest.raises(ConfigError, match="Python objects"):
        arrays_digest("x", {"w": np.array([None])})


def test_a_session_of_a_model_has_a_name_of_its_own_and_a_third_that_asks_is_refused() -> None:
    sessions, model, names = Sessions("nvflare"), bytes(32), set()
    for number in range(1, UPLOADS_OF_A_MODEL + 2):  # one of them ends before it asks for inputs
        name, attempt = sessions.open(7, model=model, request=bytes(32))
        assert attempt == number
        names.add(name)
        if number > 1:
            sessions.asks_for_inputs(model)
    assert len(names) == UPLOADS_OF_A_MODEL + 1
    with pytest.raises(Exhausted, match="2 sessions asked for updates from this model"):
        sessions.open(8, model=model, request=bytes(32))


def test_the_log_names_who_is_missing_by_reason() -> None:
    assert without({}) == ""
    assert without({"c10": "late", "c2": "late", "c1": "no key"}) == ", without c2, c10: late; c1: no key"


def test_a_partys_refusal_writes_no_line_of_its_own_into_the_log() -> None:
    refusal = "busy\n2026-01-01 secagg: all is well\x1b[2J\u2028\r"
    assert without({"a": refusal}) == ", without a: busy2026-01-01 secagg: all is well[2J"


def test_rounds_leave_out_a_site_that_claims_the_roster_and_is_not_in_it(tmp_path: Path) -> None:
    """Messages are dicts of plain values here, without any stack."""
    names = ["s1", "s2", "s3", "s4"]
    roster = secagg.load_roster(write_identities(names, tmp_path))
    model = {"w": np.zeros(3)}
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(model), secagg.FixedPoint(clip=1.0, bits=20), 4, 3)
    sites = {}
    for number, name in enumerate(names):
        settings = {"secagg-key": str(tmp_path / f"{name}.pem"), "secagg-roster": str(tmp_path / "roster.json")}
        settings["secagg-dir"] = str(tmp_path / name)
        sites[name] = Site(task, name, stack="test", run="1", settings=settings, weighted_by="n")
        training = sites[name].take(0, model, bytes(32))
        sites[name].keep(training, {"w": np.full(3, number / 8)}, {})

    def ask(site: str, message: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        if site in sites:
            return sites[site].answer(message)
        return write(task, roster=roster_digest(roster))  # a liar: only its introduction would be believed

    rounds = SiteRounds("test", task, roster=roster, parties={}, deadlines=20.0, ask=ask)
    digest = arrays_digest("test", model)
    outcome = rounds.play(0, model=digest, request=bytes(32), sites=[*names, "s5"], left_out={})
    assert outcome is not None
    assert outcome.survivors == tuple(names)
    np.testing.assert_allclose(outcome.mean["w"], 1.5 / 8, atol=1e-5)
    assert rounds._left_out == {"s5": "got id s5, which the roster doesn't list as a client"}


@pytest.mark.parametrize("bound", [0, -1.0, "1", None, float("nan"), float("inf")])
def test_a_bound_that_no_metric_can_have_is_refused_by_the_metrics_name(bound: Any) -> None:
    with pytest.raises(ConfigError, match=r"got metrics=\{'loss': .*\}; expected a bound of the metric's absolute"):
        with_metrics(make_task(), {"loss": bound})


@pytest.mark.parametrize(
    ("after", "metrics", "reason"),
    [
        ([0.0, np.nan, 0.0], {"n": 3, "loss": 1.0}, "values that are not finite, the first in 'w'"),
        ([0.0, 0.0, 0.0], {"n": 3, "loss": np.inf}, "not finite, the first in 'metric:loss'"),
        (
            [0.0, 0.0, 0.0],
            {"n": 9, "loss": 1.0},
            "got n=9 as the weight; the task allows 1 to 8: raise its max_",
        ),
    ],
)
def test_an_update_that_does_not_fit_is_refused_before_it_is_counted(
    after: list[float], metrics: dict[str, float], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(party, "count_upload", lambda *_, **__: pytest.fail("counted"))
    task = with_metrics(make_task(max_weight=8), {"loss": 4.0})
    site = Site(task, "s1", stack="test", run="1", settings={}, weighted_by="n")
    before = {"w": np.zeros(3)}
    with pytest.raises(EncodingError, match=reason):
        site.party.contribute(b"session", b"request", before, {"w": np.array(after)}, metrics)
    with pytest.raises(EncodingError, match=reason):
        site.keep(site.take(0, before, bytes(32)), {"w": np.array(after)}, metrics)


@pytest.mark.parametrize(
    ("protocol", "needs"),
    [
        (secagg.SecAgg(), "SecAgg for a malicious server"),
        (secagg.BFV(), "BFV for a semi-honest server"),
        (secagg.OneShot(), "OneShot for a malicious server"),
    ],
)
def test_a_server_without_the_roster_that_it_needs_says_where_to_set_it(
    protocol: Any, needs: str, tmp_path: Path
) -> None:
    task = make_task(protocol=protocol)
    with pytest.raises(
        ConfigError, match=f"{needs} needs one; pass its path as roster= in the job, or set secagg-ro"
    ):
        server_roster(None, "server", tmp_path, task)
    (tmp_path / "secagg.json").write_text(json.dumps({"secagg-roster": str(write_identities(["s1"], tmp_path))}))
    roster = server_roster(None, "server", tmp_path, task)
    assert roster is not None
    assert list(roster) == ["s1"]
    assert server_roster(None, "server", tmp_path / "other", make_task(protocol=secagg.Clear())) is None


class InProcess(Channel):
    """Parties that are functions, called one after the other: all that a stack has to bring."""

    def __init__(self, parties: Mapping[str, Callable[[bytes], bytes | None]]) -> None:
        self.parties, self.messages, self.inputs_in = parties, deque[tuple[str, bytes]](), ""

    def open(self, outbox: Mapping[str, bytes], name: str, *, takes_inputs: bool) -> None:
        self.inputs_in = name if takes_inputs else self.inputs_in
        self.send(outbox)

    def send(self, outbox: Mapping[str, bytes]) -> None:
        self.messages.extend(outbox.items())

    def answers(self, server: Any) -> Iterator[tuple[str, bytes | Exception]]:
        while server.pending and self.messages:
            name, data = self.messages.popleft()
            try:
                answer = self.parties[name](data)
            except Exception as error:
                yield name, error
            else:
                yield from () if answer is None else [(name, answer)]

    def dismiss(self, outbox: Mapping[str, bytes]) -> None:
        for name, data in outbox.items():
            with pytest.raises(Aborted, match="the server gave the session up"):
                self.parties[name](data)


def test_a_stack_that_says_how_a_message_travels_has_rounds(caplog: Any) -> None:
    update = {"w": np.full(3, 0.5)}
    task = secagg.Task(
        secagg.SecAgg(threat_model="semi-honest"), secagg.Layout.of(update), secagg.FixedPoint(clip=1.0), 4, 3
    )
    rounds = Rounds("test", task, roster=None, parties=(), deadlines=0.0)
    clients: dict[str, Any] = {}

    def play(number: int, silent: int) -> Any:
        model = number.to_bytes(32)
        session, attempt = rounds._sessions.open(number, model=model, request=bytes(32))
        clients.update({name: task.client(name, session=session) for name in ("a", "b", "c", "d")})
        for client in [*clients.values()][silent:]:  # the others raise when they are asked for their input
            client.contribute(update)
        channel = InProcess({name: client.receive for name, client in clients.items()})
        outcome = rounds.noted(number, {}, lambda: rounds._play(clients, session, model, channel))
        assert (attempt, channel.inputs_in) == (1, "MaskedInput")
        return outcome

    for number in (0, 1):
        np.testing.assert_allclose(play(number, silent=1).mean["w"], update["w"], atol=1e-4)
    why = "LocalProtocolError: the input is asked for: contribute(update) first, then receive this again"
    assert f"round 1 went on, without a: {why}" in caplog.text
    assert [outcome.mean is None for outcome in rounds.outcomes] == [True, False]
    assert play(2, silent=2) is None
    assert rounds.failures == [
        f"round 2 aborted: got 2 masked inputs; 3 are needed, so nothing is opened, without a, b: {why}"
    ]
    assert all(client.aborted for client in clients.values())


@pytest.mark.parametrize("error", [ConfigError("got no key; set it"), ValueError("odd"), SystemExit("bye")])
def test_a_site_logs_a_traceback_for_what_nobody_expects_alone(error: BaseException, caplog: Any) -> None:
    site = Site(make_task(), "s1", stack="test", run="1", settings={}, weighted_by="n")

    def fail() -> Any:
        raise error

    assert site.refusing(fail)["refusal"] == "this site can't take part; its log says why"
    (record,) = [each for each in caplog.records if "takes no part" in each.getMessage()]
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) is not isinstance(error, ConfigError)


@pytest.mark.parametrize(
    ("protocol", "why"),
    [
        (
            secagg.SecAggPlus(threat_model="malicious", beacon=BEACON),
            "SecAggPlus with a beacon, and no function",
        ),
        (DRAWN, "DrawnOneShot with a beacon, whose values a client needs too; expected OneShot"),
    ],
)
def test_a_beacon_whose_values_would_not_arrive_is_refused_at_once(protocol: Any, why: str) -> None:
    task = secagg.Task(protocol, secagg.Layout.of({"w": np.zeros(3)}), secagg.FixedPoint(clip=1.0), 5, 4)
    with pytest.raises(ConfigError, match=f"got {why}"):
        Rounds("test", task, roster=None, parties=(), deadlines=1.0)


@pytest.mark.parametrize(
    ("protocol", "config", "missing"),
    [
        (secagg.SecAgg(), {}, "secagg-key and secagg-roster"),
        (secagg.BFV(), {}, "secagg-key and secagg-roster"),
        (secagg.SecAgg(threat_model="semi-honest"), {"secagg-roster": ""}, "secagg-key"),
        (secagg.SecAgg(threat_model="semi-honest"), {}, ""),
        (secagg.SecAgg(), {"secagg-key": "", "secagg-roster": ""}, ""),
    ],
)
def test_a_party_without_its_key_or_roster_says_which_and_where(
    protocol: Any, config: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("load_identity", "load_roster"):
        monkeypatch.setattr(party, loader, lambda path: None)
    one = party.Party(
        task=make_task(protocol=protocol), stack="x", run="1", party="s1", config=config, memory={}, forgets="",
        log=logging.getLogger("x"),
    )  # fmt: skip
    if missing:
        with pytest.raises(
            ConfigError, match=f"got settings without {missing}; set the paths of s1's .* in a file,"
        ):
            one.check_keys("a file")
    else:
        one.check_keys("a file")

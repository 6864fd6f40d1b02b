"""Collab rounds in one process: the mean, and what a client refuses."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.collab import collab
from nvflare.job_config.fed_job_config import FedJobConfig

import secagg
from secagg.errors import ConfigError
from secagg.integrations._shared.sessions import Sessions
from secagg.integrations._shared.statements import write
from secagg.integrations.flare import SecureClient, SecureServer, with_metrics
from tests.flare.collab_federation import METRICS, MODEL, Client, Federation, change, make_task
from tests.flare.harness import Note
from tests.flare.scenes import SITES, VICTIM

OTHERS = [site for site in SITES if site != VICTIM]


def is_moved_by(model: Any, sites: list[str], rate: float = 1.0) -> bool:
    expected = MODEL["w"] + rate * sum(map(change, sites)) / len(sites)
    return model["w"].dtype == np.float32 and bool(np.allclose(model["w"], expected, rtol=0, atol=1e-5))


def goes_on_without_the_victim(federation: Federation, reason: str, caplog: Any) -> bool:
    model, _ = federation.server.aggregate(MODEL)
    return is_moved_by(model, OTHERS) and f"round 0 went on, without {VICTIM}: {reason}" in caplog.text


def test_a_round_moves_the_model_by_the_mean_and_returns_the_mean_of_the_metrics(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    model, metrics = federation.server.aggregate(MODEL, rate=0.5)
    assert is_moved_by(model, SITES, rate=0.5)
    assert metrics == pytest.approx({"loss": 2.0}, abs=1e-5)
    assert [outcome.survivors for outcome in federation.server.outcomes] == [tuple(SITES)]


def another_argument(message: Any) -> None:
    message["request"]["rate"] = 0.0


def another_type(message: Any) -> None:
    message["request"]["rate"] = 1


def one_more(message: Any) -> None:
    message["request"]["more"] = None


def another_model(message: Any) -> None:
    message["model"]["w"] = np.nextafter(message["model"]["w"], np.float32(1.0))


def another_round(message: Any) -> None:
    message["number"] += 1


@pytest.mark.parametrize("lie", [another_argument, another_type, another_model, another_round])
def test_a_site_that_was_sent_another_request_takes_no_part(lie: Any, tmp_path: Path, caplog: Any) -> None:
    def tamper(site: str, message: Any) -> None:
        if site == VICTIM and "model" in message:
            lie(message)

    federation = Federation(tmp_path, tamper=tamper)
    model, _ = federation.server.aggregate(MODEL, rate=1.0)
    assert is_moved_by(model, OTHERS)
    assert f"round 0 went on, without {VICTIM}: got another model, round, run" in caplog.text


def test_a_request_that_no_session_can_be_bound_to_is_not_sent(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with pytest.raises(ConfigError, match="got a set in a train request"):
        federation.server.aggregate(MODEL, layers={"w"})
    assert not any(site.sent for site in federation.sites.values())


def test_each_site_refuses_the_third_upload_of_a_model(tmp_path: Path, caplog: Any) -> None:
    federation = Federation(tmp_path)
    for _ in range(3):
        federation.server._rounds._sessions = Sessions("nvflare")  # the server forgets what it asked for
        model, metrics = federation.server.aggregate(MODEL)
    assert (model["w"] is MODEL["w"], metrics) == (True, {})
    assert "site-1, site-2, site-3, site-4: got a request for upload 3 from one model" in caplog.text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (None, "this site can't take part; its log says why"),
        ({"secagg-kye": "k"}, "this site can't take part with its settings; its log says why"),
        ({"secagg-dir": "/nowhere/else"}, "got a node whose secagg-dir does not exist and can't be made"),
    ],
)
def test_a_site_without_its_settings_does_not_train(
    settings: Any, reason: str, tmp_path: Path, caplog: Any
) -> None:
    federation = Federation(tmp_path, settings={VICTIM: settings})
    federation.sites[VICTIM].client.train = None
    assert goes_on_without_the_victim(federation, reason, caplog)
    sent = b"".join(federation.sites[VICTIM].sent)
    assert b"nowhere" not in sent
    assert b"kye" not in sent


class Careless(Client):
    def train(self, model: Any, rate: float = 1.0) -> Any:
        if collab.site_name == VICTIM:
            return model
        return super().train(model, rate)


class Failing(Client):
    def train(self, model: Any, rate: float = 1.0) -> Any:
        if collab.site_name == VICTIM:
            raise RuntimeError("a secret of this site")
        return super().train(model, rate)


class Exiting(Client):
    def train(self, model: Any, rate: float = 1.0) -> Any:
        if collab.site_name == VICTIM:
            sys.exit("a secret of this site")
        return super().train(model, rate)


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (Careless, "got a result of train that is not a model and its metrics; return both"),
        (Failing, "this site can't take part; its log says why"),
        (Exiting, "this site can't take part; its log says why"),
    ],
)
def test_a_training_that_fails_drops_its_site(client: Any, reason: str, tmp_path: Path, caplog: Any) -> None:
    federation = Federation(tmp_path, client=client)
    assert goes_on_without_the_victim(federation, reason, caplog)
    assert not any(b"secret" in sent or b"Traceback" in sent for sent in federation.sites[VICTIM].sent)


def test_a_site_that_is_late_in_a_round_is_left_out_and_not_waited_for(tmp_path: Path, caplog: Any) -> None:
    federation, go_on = Federation(tmp_path, deadlines={"MaskedInput": 1.0}), threading.Event()
    party = federation.sites[VICTIM].client._site.party

    def waits(*_: Any) -> bytes:
        go_on.wait(60.0)
        raise RuntimeError("too late")

    party.contribute = waits
    assert goes_on_without_the_victim(federation, "silent in MaskedInput", caplog)
    assert federation.server.outcomes[0].dropped == {VICTIM: "MaskedInput"}
    go_on.set()


def noted(site: str, model: Any) -> Note:
    """What a site's training has to hide."""
    own = int(site.rpartition("-")[2])
    after = {"w": (model["w"] + change(site)).astype(np.float32)}
    return Note(site, 0, model, after, 70_000 + 1_009 * own, float(np.random.default_rng(own).uniform(1, 2)))


class Secret(SecureClient):
    def train(self, model: Any) -> Any:
        note = noted(collab.site_name, model)
        return note.after, {"loss": note.loss, "num-examples": note.steps}


class Plain:
    @collab.publish  # type: ignore[untyped-decorator]
    def train(self, message: Any) -> Any:
        return Secret.train(self, message)  # type: ignore[arg-type]


def finds(federation: Federation, task: secagg.Task | None = None) -> set[str]:
    """The kinds of secrets in what has left a site."""
    sent = [(site.name, b"".join(site.sent)) for site in federation.sites.values()]
    return {what for name, data in sent for what, secret in noted(name, MODEL).secrets(task) if secret in data}


def test_nothing_leaves_but_the_protocols_messages(tmp_path: Path) -> None:
    task = make_task(max_weight=100_000)
    federation = Federation(tmp_path, task=task, client=Secret)
    federation.server.aggregate(MODEL)
    assert len(federation.server.outcomes) == 1
    assert finds(federation, with_metrics(task, METRICS)) == set()
    assert all(len(site.sent) == 7 for site in federation.sites.values())  # training, introduction, five rounds


def test_control_plain_clients_send_it_all(tmp_path: Path) -> None:
    federation = Federation(tmp_path, client=lambda *_, **__: Plain())
    for site in federation.sites.values():
        site.call(MODEL, method="train")
    assert finds(federation) == {"model", "metric", "weight"}


def test_a_call_from_another_site_is_refused(tmp_path: Path) -> None:
    site = Federation(tmp_path).sites[VICTIM]
    for message in ({"model": MODEL, "request": {}}, {}, None):
        assert "got a call from another site" in str(site.call(message, caller="site-1"))
    assert "no method named 'train' or it is not collab" in str(site.call({}, method="train"))


@pytest.mark.parametrize("message", [None, 5, [], {}, {"model": 5}, {"version": 1, "model": MODEL, "request": {}}])
def test_a_message_of_another_shape_gets_a_refusal_and_no_traceback(message: Any, tmp_path: Path) -> None:
    answer = Federation(tmp_path).sites[VICTIM].call(message)
    assert set(answer) == {"result"}
    assert set(answer["result"]) == {"version", "refusal"}


def test_a_site_that_was_late_goes_on_with_the_newest_round(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Client):
        def train(self, model: Any, rate: float = 1.0) -> Any:
            started.set()
            go_on.wait(60.0)
            return super().train(model, rate)

    site = Federation(tmp_path, client=Slow).sites[VICTIM]
    task = with_metrics(make_task(), METRICS)
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        message = write(task, number=number) | {"model": MODEL, "request": {}}
        answers[number] = site.call(message)["result"]

    threads = [threading.Thread(target=ask, args=[number]) for number in range(3)]
    threads[0].start()
    assert started.wait(60.0)
    for thread in threads[1:]:
        thread.start()
    while site.client._newest < 2:
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert "got the model of an earlier round" in answers[1]["refusal"]
    assert [answers[number].get("refusal") for number in (0, 2)] == [None, None]


def test_a_client_that_publishes_a_method_is_refused() -> None:
    class Open(SecureClient):
        @collab.publish  # type: ignore[untyped-decorator]
        def train(self, model: Any) -> Any:
            return model, {}

    with pytest.raises(ConfigError, match=r"got @collab.publish at train of Open, .*: remove|remove the decorator"):
        Open(make_task())


def test_what_a_job_says_of_client_and_server_makes_the_same_again() -> None:
    """A job's JSON: the task, names and bounds, and no key."""
    client = Client(make_task(max_weight=10), metrics=METRICS, weighted_by="n")
    server = SecureServer(
        make_task(),
        roster="/keys/roster.json",
        metrics=METRICS,
        parties={"d": "site-4"},
        deadlines={"Introduction": 5.0},
    )
    for made in (client, server):
        arguments = json.loads(json.dumps(FedJobConfig("job", 1)._get_args(made, "")))
        again = type(made)(**arguments)
        assert vars(again).keys() == vars(made).keys()
        assert (again._full.digest, again.task) == (made._full.digest, made.task)
    assert again.parties == server.parties
    assert (again.roster, again.deadlines) == (server.roster, server.deadlines)


def test_a_site_may_host_a_party_and_not_train(tmp_path: Path) -> None:
    federation = Federation(tmp_path, task=make_task(protocol=secagg.BFV()), hosts={"d": "site-5"})
    model, _ = federation.server.aggregate(MODEL)
    assert is_moved_by(model, SITES)
    assert federation.server.outcomes[0].survivors == tuple(SITES)
    assert [len(site.sent) for site in federation.sites.values()] == [4, 4, 4, 4, 3]


def test_parties_that_nobody_hosts_are_named(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(ConfigError, match="got parties= for d, which SecAgg does not have"):
        Federation(tmp_path, hosts={"d": "site-4"})


def test_the_settings_of_a_hosted_party_are_checked_by_name(tmp_path: Path, caplog: Any) -> None:
    parties = {"d": {"role": "decryptor", "secagg-key": "/k", "secagg-dir": "/f", "sealing": "s"}}
    federation = Federation(tmp_path, settings={VICTIM: {"parties": parties}})
    assert goes_on_without_the_victim(federation, "this site can't take part", caplog)
    assert "got settings ['role', 'sealing', 'secagg-dir', 'secagg-key', 'secagg-roster'] of party d" in caplog.text

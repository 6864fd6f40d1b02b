"""Rounds with real filters, runners and messages, in one process: the sums, and what sites refuse."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.fedavg import FedAvg

import secagg
from secagg.errors import ConfigError
from secagg.identity import load_roster
from secagg.integrations import _flare_site
from secagg.integrations._flare_site import request_digest
from secagg.integrations._shared import party
from secagg.integrations._shared.digests import arguments_digest
from secagg.integrations._shared.sessions import Sessions
from secagg.integrations._shared.statements import write
from secagg.integrations.flare import SecureFedAvg, with_metrics
from tests.flare import scenes
from tests.flare.federation import MODEL, job_of
from tests.flare.scenes import LIES, SITES, VICTIM, make_federation, make_task, update


def is_the_mean(result: Any, sites: list[str]) -> bool:
    expected = sum(map(update, sites)) / len(sites)
    return bool(np.allclose(result.params.get("numpy_key", np.nan), expected, rtol=0, atol=1e-5))


def test_a_round_gives_the_mean_of_the_differences(tmp_path: Path) -> None:
    federation = make_federation(tmp_path)
    result = federation.round(0)
    assert is_the_mean(result, SITES)
    assert (result.params_type, result.metrics) == ("DIFF", None)
    federation.round(1, {"numpy_key": MODEL["numpy_key"] + 1})
    first, second = federation.aggregator.outcomes
    assert (first.survivors, first.mean, first.sum) == (tuple(SITES), None, None)
    assert is_the_mean(FLModel(params=second.mean), SITES)


def test_a_script_that_changes_the_model_in_place_sends_its_difference_too(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def train(site: str, request: Shareable) -> FLModel:
        model = FLModelUtils.from_shareable(request)
        model.params["numpy_key"] += update(site)
        return FLModel(params=model.params)

    monkeypatch.setattr(scenes, "train", train)
    assert is_the_mean(make_federation(tmp_path).round(0), SITES)


def test_fedavg_asks_the_rosters_clients_and_gives_them_the_time_of_a_training(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A site that the roster does not list as a client may host a party, and does not train."""
    sent: list[Any] = []
    monkeypatch.setattr(FedAvg, "send_model", lambda self, **named: sent.append(named["timeout"]))
    controller = SecureFedAvg(num_clients=4, aggregator=make_federation(tmp_path).aggregator, training_seconds=7)
    joined = [SimpleNamespace(name=name) for name in [*SITES, "site-5"]]
    controller.engine = SimpleNamespace(get_clients=lambda: joined)
    assert sorted(controller.sample_clients()) == SITES
    assert all("site-5" not in controller.sample_clients(3) for _ in range(20))
    controller.send_model(targets=SITES)
    assert sent == [7]


def test_a_site_that_died_before_it_fetched_the_model_is_left_out_by_name(
    tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    federation = make_federation(tmp_path)
    monkeypatch.setattr(FedAvg, "send_model", lambda self, **named: None)
    controller = SecureFedAvg(num_clients=4, aggregator=federation.aggregator)
    reset = federation.aggregator.reset_stats
    monkeypatch.setattr(
        federation.aggregator, "reset_stats", lambda: (reset(), controller.send_model(targets=SITES))
    )
    del federation.sites[VICTIM]
    assert is_the_mean(federation.round(0), [site for site in SITES if site != VICTIM])
    assert f"round 0 went on, without {VICTIM}: no result of the training" in caplog.text


class Best(FLComponent):  # type: ignore[misc]
    """Notes for which means NVFlare was told that the model is the best one yet."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        if event_type == AppEventType.GLOBAL_BEST_MODEL_AVAILABLE:
            self.values.append(fl_ctx.get_prop(AppConstants.VALIDATION_RESULT))


@pytest.mark.parametrize(("mode", "best"), [("min", [3.0, 2.0, 1.0]), ("max", [3.0])])
def test_the_best_model_is_chosen_by_the_mean_of_the_key_metric(
    mode: str, best: list[float], tmp_path: Path, monkeypatch: Any
) -> None:
    losses, noted = [3.0, 2.0, 2.5, 1.0], Best()

    def train(site: str, request: Shareable) -> FLModel:
        model = FLModelUtils.from_shareable(request)
        return FLModel(params=model.params, metrics={"loss": losses[model.current_round]})

    monkeypatch.setattr(scenes, "train", train)
    federation = make_federation(tmp_path, with_metrics(make_task(), {"loss": 8.0}))
    federation.aggregator.key_metric, federation.aggregator.key_metric_mode = "loss", mode
    federation.handlers.append(noted)
    for number in range(len(losses)):
        federation.round(number, {"numpy_key": MODEL["numpy_key"] + np.float32(number)})
    assert noted.values == pytest.approx(best, abs=1e-5)


def test_a_model_that_does_not_fit_the_task_is_named_by_the_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'numpy_key' has shape \(3,\); the task's layout says \(4, 5\)"):
        make_federation(tmp_path).round(0, {"numpy_key": np.zeros(3)})


def test_a_site_forgets_its_update_at_the_end_of_the_run(tmp_path: Path) -> None:
    federation = make_federation(tmp_path)
    federation.round(0)
    victim = federation.sites[VICTIM]
    site = _flare_site._SITES[job_of(tmp_path), VICTIM]
    assert site.training is not None
    victim.engine.fire(EventType.END_RUN)
    assert site.training is None
    answer = victim.ask(_flare_site.TOPIC, Shareable(write(make_task())))
    assert "after this site has left the job" in answer["refusal"]


def test_metrics_and_weights_may_be_numbers_of_numpys(tmp_path: Path) -> None:
    task = with_metrics(make_task(max_weight=10), {"loss": 8.0})

    def script(number: int) -> Any:
        return FLModel(
            params={"numpy_key": MODEL["numpy_key"] + np.float32(number / 10)},
            metrics={"loss": np.float32(number)},
            meta={MetaKey.NUM_STEPS_CURRENT_ROUND: np.int64(number)},
        )

    results = {site: lambda number=number: script(number) for number, site in enumerate(SITES, 1)}
    result = make_federation(tmp_path, task, results=results).round(0)
    mean = sum(number * number for number in range(1, 5)) / 10
    np.testing.assert_allclose(result.params["numpy_key"], mean / 10, rtol=0, atol=1e-5)
    assert result.metrics == {"loss": pytest.approx(mean, abs=1e-5)}


@pytest.mark.parametrize("steps", [{}, {MetaKey.NUM_STEPS_CURRENT_ROUND: 2.5}])
def test_a_training_without_a_whole_weight_is_left_out_before_the_session(
    steps: dict[str, float], tmp_path: Path, caplog: Any
) -> None:
    def script() -> Any:
        return FLModel(params=MODEL, meta=steps)

    others = {site: lambda: FLModel(params=MODEL, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 1}) for site in SITES}
    federation = make_federation(tmp_path, make_task(max_weight=10), results=others | {VICTIM: script})
    federation.round(0)
    assert "got no whole number for 'NUM_STEPS_CURRENT_ROUND', which is the weight; return it from" in caplog.text
    assert f"round 0 went on, without {VICTIM}: no result of the training" in caplog.text


@pytest.mark.parametrize("lie", LIES)
def test_a_site_whose_request_was_changed_takes_no_part(lie: str, tmp_path: Path, caplog: Any) -> None:
    federation = make_federation(tmp_path)
    federation.tamper = lambda site, request: LIES[lie](request) if site == VICTIM else None
    others = [site for site in SITES if site != VICTIM]
    assert is_the_mean(federation.round(0), others)
    assert f"round 0 went on, without {VICTIM}: got another model, round, run, header or meta" in caplog.text


def test_a_request_in_fewer_bits_has_another_digest() -> None:
    """NVFlare's messages and digests, with a number in place of an array: the same value, in another kind."""
    digests = [
        request_digest("job", "train", DXO(DataKind.WEIGHTS, data={"w": value}, meta={}).to_shareable())
        for value in (0.5, np.float64(0.5), np.full((), 0.5))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_same_request_in_another_job_or_task_has_another_digest() -> None:
    """Otherwise a site whose ledger is shared by jobs would take the session of one for the other's."""
    request = FLModelUtils.to_shareable(FLModel(params=MODEL, current_round=0))
    names = [(job, task) for job in ("one", "two") for task in ("train", "train_again")]
    assert len({request_digest(job, task, request) for job, task in names}) == len(names)
    assert len({arguments_digest("nvflare", job, MODEL, {"rate": 1.0}) for job, _ in names}) == 2


def third_sum(folder: Path) -> Any:
    """What a server gets in the third round over one model, if it forgets the rounds before."""
    federation = make_federation(folder)
    for number in range(3):
        federation.aggregator._rounds._sessions = Sessions("nvflare")
        result = federation.round(number)
    return result


def test_the_third_upload_of_a_model_is_refused_by_each_site(tmp_path: Path, caplog: Any) -> None:
    assert third_sum(tmp_path).params == {}
    assert "site-1, site-2, site-3, site-4: got a request for upload 3 from one model" in caplog.text


def test_a_second_simulation_in_the_same_folders_is_refused_and_says_what_to_set(
    tmp_path: Path, caplog: Any
) -> None:
    """All simulated jobs have one id, so the second is the first one's replay, by other updates."""
    federation = make_federation(tmp_path)
    assert is_the_mean(federation.round(0), SITES)
    federation.aggregator._rounds._sessions = Sessions("nvflare")
    assert federation.round(0).params == {}
    assert (
        "got 0 sites for a sum; the task's min_survivors is 3, without site-1, site-2, site-3, site-4: got a "
        "session that this site has answered before; if this is a simulation, whose jobs have one id, give the "
        "sites a new secagg-dir for each run"
    ) in caplog.text


def test_control_uncounted_a_third_upload_leaves(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(party, "count_upload", lambda *_, **__: 1)
    assert is_the_mean(third_sum(tmp_path), SITES)


def answers_to_two_requests(folder: Path, monkeypatch: Any, restored: str) -> list[dict[str, Any]]:
    """A site's answers to two requests of one session's ShareKeys, between which its process has restarted.

    The second request leaves out site-1. Before it, the files ``restored`` of the site's folder are as they were
    before the first.
    """
    servers, make = [], secagg.Task.server

    def noted(task: secagg.Task, cohort: list[str], **named: Any) -> Any:
        server = make(task, cohort, **named)
        if VICTIM in cohort:  # and not of the session that compiles kernels
            servers.append(server)
        return server

    monkeypatch.setattr(secagg.Task, "server", noted)
    federation, lock = make_federation(folder), threading.Lock()
    own, victim, send = folder / f"{VICTIM}.secagg", federation.sites[VICTIM], federation.send_aux_request
    saved, adverts, answers = [], dict[str, bytes](), list[dict[str, Any]]()

    def twice(targets: list[str], topic: str, request: Shareable, *rest: Any, **named: Any) -> dict[str, Shareable]:
        (site,) = targets
        with lock:
            if request["data"] and not saved:  # the server has proposed, and taken no answer
                saved.append(servers[0].to_bytes())
        if site == VICTIM and site in adverts and not answers:
            shutil.copytree(own, folder / "copy")
            answers.append(dict(victim.ask(topic, request)))
            for path in (folder / "copy").glob(restored):
                shutil.copy(path, own)
            twin = make_task().restore_server(saved[0], roster=load_roster(folder / "keys" / "roster.json"))
            for other in SITES[1:]:
                twin.receive(other, adverts[other])
            answers.append(dict(victim.ask(topic, Shareable(dict(request) | {"data": twin.close_round()[VICTIM]}))))
            return {VICTIM: Shareable(answers[0])}
        replies = send(targets, topic, request, *rest, **named)
        if request["data"]:
            adverts.setdefault(site, replies[site]["data"])
        return replies

    monkeypatch.setattr(federation, "send_aux_request", twice)
    federation.round(0)
    return answers


def test_a_replayed_round_with_another_request_is_refused_by_the_ledger(tmp_path: Path, monkeypatch: Any) -> None:
    first, second = answers_to_two_requests(tmp_path, monkeypatch, "*.state*")
    assert first["data"]
    assert second["refusal"] == "this site has left the session; its log says why"
    assert "data" not in second


def test_control_with_the_ledger_rolled_back_too_both_are_answered(tmp_path: Path, monkeypatch: Any) -> None:
    first, second = answers_to_two_requests(tmp_path, monkeypatch, "*")
    assert first["data"]
    assert second["data"] != first["data"]

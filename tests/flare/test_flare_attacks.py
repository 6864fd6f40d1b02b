"""A server misuses NVFlare: requests that steer, results that filters pass, and calls of single clients' methods.

Four sites are enrolled. [NVFlare](nvflare.md) says what else stays visible.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.secagg.adversary.registry import attack

LIES = ("in the meta", "in a header", "in a cookie", "beside the model", "in the number of rounds")

RESULTS = (
    "a return code that is not OK", "a return code of its own", "no DXO", "a DXO without data", "a collection",
    "a difference", "metrics", "another kind", "empty data", "another name", "one name more", "another shape",
)  # fmt: skip

# No module of NVFlare is imported up here: docs/attacks.md is written where it is not installed.


@pytest.fixture(autouse=True)
def _nvflare() -> None:
    pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")


@attack(
    title=(
        "Steering by requests: all sites but the victim's get a train request that makes their update zero, by a "
        "learning rate of 0 in its meta, in a header, in a cookie or beside the model, or by the number of rounds"
    ),
    attacker="lying server alone",
    defence=(
        "the session's name includes a digest of everything in a request that can reach a script, which each site "
        "compares (`request_digest`)"
    ),
    control="with a digest of the model alone: the victim's update",
    source="own; Pasquini, Francati, Ateniese, CCS 2022: the other updates vanish",
)
@pytest.mark.parametrize("lie", LIES)
class TestRequestsThatSteer:
    def test_refused(self, lie: str, tmp_path: Path, caplog: Any) -> None:
        from tests.flare import scenes

        _, result = scenes.steer(tmp_path, lie)
        assert not scenes.has_the_victims_update(result)
        assert "site-1, site-2, site-4: got another model, round, run, header or meta" in caplog.text

    def test_control_succeeds(self, lie: str, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_server, _flare_site
        from tests.flare import scenes

        for side in (_flare_site, _flare_server):
            monkeypatch.setattr(side, "request_digest", lambda *_: bytes(32))
        _, result = scenes.steer(tmp_path, lie)
        assert scenes.has_the_victims_update(result)


@attack(
    title=(
        "Steering by the job's config: its author gives all sites but the victim's a learning rate of 0 in the "
        "script's arguments"
    ),
    attacker="lying server, which deploys the job",
    defence=(
        "each site states a digest of the config that it has read, and the session's name includes it "
        "(`config_digest`); sites with another one than most are left out"
    ),
    control="without that digest: the victim's update",
    source="own; Pasquini, Francati, Ateniese, CCS 2022: the other updates vanish",
)
class TestConfigsThatSteer:
    def test_refused(self, tmp_path: Path, caplog: Any) -> None:
        from tests.flare import scenes

        _, result = scenes.configure(tmp_path)
        assert not scenes.has_the_victims_update(result)
        assert "site-3: another config of the job, such as a script's arguments, than most sites" in caplog.text

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_site
        from tests.flare import scenes

        monkeypatch.setattr(_flare_site, "config_digest", lambda *_: "")
        _, result = scenes.configure(tmp_path)
        assert scenes.has_the_victims_update(result)


@attack(
    title=(
        "One array in two places: the model's array is also in a cookie, or in the task's id, which NVFlare "
        "returns past all filters; the script trains in place"
    ),
    attacker="lying server alone",
    defence="a script gets arrays that are in no other part of the request (`SecureFilter`)",
    control="with the arrays as NVFlare has read them: the victim's trained model",
    source="own",
)
@pytest.mark.parametrize("ending", ["a result", "an error"])
@pytest.mark.parametrize("place", ["a cookie", "the task's id"])
class TestOneArrayInTwoPlaces:
    def test_refused(self, place: str, ending: str, tmp_path: Path) -> None:
        from tests.flare import scenes

        assert not scenes.has_the_victims_model(scenes.share(tmp_path, place, ending))

    def test_control_succeeds(self, place: str, ending: str, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_site
        from tests.flare import scenes

        monkeypatch.setattr(_flare_site, "part", lambda _: None)
        assert scenes.has_the_victims_model(scenes.share(tmp_path, place, ending))


@attack(
    title=(
        "What a script writes for experiment tracking leaves as an event: NVFlare's executor sends it if the "
        "script has a process of its own, and a job may list `ConvertToFedEvent`"
    ),
    attacker="a server that follows the protocol, and keeps what it gets",
    defence="a site with `SecureFilter` sends no federated events",
    control="with NVFlare's events as they are: the metric of a single site",
    source="own",
)
class TestTrackedMetrics:
    def test_refused(self, tmp_path: Path) -> None:
        from tests.flare import scenes

        assert not scenes.has_the_metric(scenes.track(tmp_path))

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_site
        from tests.flare import scenes

        monkeypatch.setattr(_flare_site, "keep_events", lambda _: None)
        assert scenes.has_the_metric(scenes.track(tmp_path))


@attack(
    title="The server runs `cat` at a site, on its private key: a command of NVFlare's for administrators",
    attacker="lying server alone",
    defence="a site with the component `NoShell` takes no such commands, and a site without it sends nothing",
    control="without this component: the private key",
    source="own",
)
class TestShellOfTheServer:
    def test_refused(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations.flare import NoShell
        from tests.flare import scenes

        commands = scenes.ClientRequestProcessors
        monkeypatch.setattr(commands, "request_processors", list(commands.request_processors))
        answer = scenes.shell(tmp_path, NoShell)
        assert "PRIVATE KEY" not in answer
        assert "invalid_request" in answer

    def test_control_succeeds(self, tmp_path: Path) -> None:
        from tests.flare import scenes

        assert "PRIVATE KEY" in scenes.shell(tmp_path, None)


@attack(
    title=(
        "Steering by two trainings at once: all sites rest, and the victim is asked to train just before it is "
        "asked to rest, by an auxiliary message that NVFlare runs beside the fetched task"
    ),
    attacker="lying server alone",
    defence="a result belongs to the request in whose own context it was trained (`SecureFilter`)",
    control="with the newest request of the site in its place: the victim's update",
    source="own",
)
class TestTrainingsThatOverlap:
    def test_refused(self, tmp_path: Path, caplog: Any) -> None:
        from tests.flare import scenes

        assert not scenes.has_the_victims_update(scenes.overlap(tmp_path))
        assert "without site-3: got another model, round, run, header or meta" in caplog.text

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_site
        from tests.flare import scenes

        newest: dict[str, Any] = {}

        class Run(_flare_site._Run):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                newest["run"] = self

        monkeypatch.setattr(_flare_site, "_Run", Run)
        found = _flare_site._run_in

        def run_in(fl_ctx: Any) -> Any:
            return newest["run"] if found(fl_ctx) else None

        monkeypatch.setattr(_flare_site, "_run_in", run_in)
        assert scenes.has_the_victims_update(scenes.overlap(tmp_path))


@attack(
    title=(
        "An update in a result that NVFlare's filters pass through: with an error code, without a DXO, in a "
        "collection, of another kind, without data, or with other names or shapes"
    ),
    attacker="a faulty script, or a script that the server wrote",
    defence="a result that is not the model's leaves as an error code alone (`SecureFilter`)",
    control="with a filter that extends NVFlare's `DXOFilter`: the trained model",
    source="own",
)
@pytest.mark.parametrize("result", RESULTS)
class TestResultsThatFiltersPass:
    def test_refused(self, result: str, tmp_path: Path) -> None:
        from tests.flare import test_filter as scene

        site = scene.make_site(tmp_path, [scene.SecureFilter(scene.TASK)], scene.RESULTS[result]())
        reply = site.run(scene.request())
        assert reply.get_return_code() in {"TASK_RESULT_FILTER_ERROR", "EXECUTION_EXCEPTION"}
        assert set(reply) == {"__headers__"}
        assert not scene.is_found(site.sent[0])

    def test_control_succeeds(self, result: str, tmp_path: Path) -> None:
        from tests.flare import test_filter as scene

        site = scene.make_site(tmp_path, [scene.Passing()], scene.RESULTS[result]())
        site.run(scene.request())
        assert scene.is_found(site.sent[0])


@attack(
    title="A job without the filter, whose server asks a site for its model",
    attacker="the author of a job",
    defence="the filter in the site's own `privacy.json`, which the job can't change",
    control="without this file: the trained model",
    source="own",
)
class TestJobWithoutTheFilter:
    def test_refused(self, tmp_path: Path) -> None:
        from tests.flare import test_filter as scene
        from tests.flare.document import policy

        privacy = policy(scene.SecureFilter(scene.TASK).task)
        assert scene.plain_job(tmp_path, privacy) == ("TASK_RESULT_FILTER_ERROR", False)

    def test_control_succeeds(self, tmp_path: Path) -> None:
        from tests.flare import test_filter as scene

        assert scene.plain_job(tmp_path, None) == ("OK", True)


@attack(
    title="Steering by arguments: a Collab server has all sites but the victim's train with a rate of 0",
    attacker="lying server alone",
    defence="the session's name includes a digest of all arguments, which each site compares (`arguments_digest`)",
    control="with a digest of the model alone: the victim's update",
    source="own; Pasquini, Francati, Ateniese, CCS 2022: the other updates vanish",
)
class TestArgumentsThatSteer:
    def test_refused(self, tmp_path: Path, caplog: Any) -> None:
        from tests.flare import collab_federation as scene

        assert not scene.has_the_victims_update(scene.steer(tmp_path))
        assert "site-1, site-2, site-4: got another model, round, run" in caplog.text

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_server, flare
        from tests.flare import collab_federation as scene

        for side in (flare, _flare_server):
            monkeypatch.setattr(side, "arguments_digest", lambda *_: bytes(32))
        assert scene.has_the_victims_update(scene.steer(tmp_path))


@attack(
    title="A Collab client publishes its training, as in the plain job, and the server calls it at one site",
    attacker="lying server alone, and a job that was made secure in part",
    defence="a client that publishes a method of its own is refused when it is made (`SecureClient`)",
    control="without that check: the victim's update",
    source="own",
)
class TestPublishedTraining:
    def test_refused(self, tmp_path: Path) -> None:
        from secagg.errors import ConfigError
        from tests.flare import collab_federation as scene

        with pytest.raises(ConfigError, match=r"got @collab\.publish at train of"):
            scene.call_the_victims_training(tmp_path)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import flare
        from tests.flare import collab_federation as scene

        monkeypatch.setattr(flare, "get_object_publish_interface", lambda kind: {})
        assert scene.has_the_victims_update(scene.call_the_victims_training(tmp_path), sites=1)


@attack(
    title="The server sends its model as a task of a name that no filter has; the site's executor takes every task",
    attacker="lying server alone",
    defence=(
        "a result for which no `SecureFilter` is listed is emptied before it leaves, but for the numbers of an "
        "evaluation (`SecureFilter`)"
    ),
    control="with the task's filters alone: the victim's model",
    source="own",
)
class TestTrainingUnderAnotherName:
    def test_refused(self, tmp_path: Path) -> None:
        from tests.flare import test_other_tasks as scene

        assert scene.is_held_back(scene.sent(tmp_path))

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations.flare import SecureFilter
        from tests.flare import test_other_tasks as scene

        monkeypatch.setattr(SecureFilter, "_hold_back", lambda *_: None)
        assert (scene.sent(tmp_path)["DXO"]["data"]["numpy_key"] == scene.SECRET).all()


@attack(
    title=(
        "A job of NVFlare's own swarm, cyclic or cross-site workflows: a site's executor sends its model to "
        "another site as the data of a task, which result filters don't see"
    ),
    attacker="the author of a job, with one other site",
    defence="a job with an executor that sends tasks itself is unsafe: all its tasks are refused (`SecureFilter`)",
    control="without that look at the executors: the victim's model",
    source="own",
)
class TestExecutorsThatSendTasks:
    def test_refused(self, tmp_path: Path, caplog: Any) -> None:
        from tests.flare import test_other_tasks as scene

        assert scene.swarm(tmp_path) == ("UNSAFE_JOB", b"")
        assert "got executor Swarming, which sends results to other sites past all filters" in caplog.text

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flare_site
        from tests.flare import test_other_tasks as scene

        monkeypatch.setattr(_flare_site, "check_executors", lambda *_: None)
        _, sent = scene.swarm(tmp_path)
        assert scene.SECRET.tobytes() in sent

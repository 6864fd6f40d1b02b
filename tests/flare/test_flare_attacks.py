"""A server misuses NVFlare: requests that make other sites' updates vanish, and calls of single clients' methods.

Four sites are enrolled. [NVFlare](nvflare.md) says what else stays visible.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.secagg.adversary.registry import attack

LIES = ("in the meta", "in a header", "in a cookie", "beside the model", "in the number of rounds")

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
        from secagg.integrations import _flare_server, _flare_site
        from tests.flare import collab_federation as scene

        for side in (_flare_site, _flare_server):
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
        from secagg.integrations import _flare_site
        from tests.flare import collab_federation as scene

        monkeypatch.setattr(_flare_site, "get_object_publish_interface", lambda kind: {})
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

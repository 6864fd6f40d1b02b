"""A server misuses Flower: messages outside of sessions, requests to single nodes, endpoints of parties.

Five clients are enrolled. [Flower](flower.md) says what else stays visible.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.secagg.adversary.registry import attack

LIES = ("in_config", "in_metrics", "in_a_records_name", "in_the_type", "in_the_run_config")

# No module of Flower is imported up here: docs/attacks.md is written where it is not installed.


@pytest.fixture(autouse=True)
def _flower() -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")


@attack(
    title=(
        "Steering by evaluations: the server asks all nodes but the victim's to evaluate a model. Their "
        "app notes in its context that the model is good, and sends a zero update in the next training "
        "round, whose request is the same for all"
    ),
    attacker="lying server alone",
    defence=(
        "a message outside of a session runs on a copy of the node's context, and its changes are dropped "
        "(`client_mod`)"
    ),
    control="with the context itself: the victim's update",
    source="own; Pasquini, Francati, Ateniese, CCS 2022: the other updates vanish",
)
@pytest.mark.parametrize("place", ["a new record", "a record that was there", "node config"])
@pytest.mark.parametrize("kind", ["evaluate", "query"])
class TestEvaluationsThatSteer:
    def test_refused(self, kind: str, place: str, tmp_path: Path) -> None:
        from tests.integrations import test_flower_context as scene

        assert not scene.has_the_victims_update(scene.steer(tmp_path, kind, place))

    def test_control_succeeds(self, kind: str, place: str, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flower_client
        from tests.integrations import test_flower_context as scene

        def itself(message: Any, context: Any, call_next: Any) -> Any:
            return call_next(message, context)

        monkeypatch.setattr(_flower_client, "_without_trace", itself)
        assert scene.has_the_victims_update(scene.steer(tmp_path, kind, place))


@attack(
    title=(
        "Steering by requests: all nodes but the victim's get a request that makes their update zero, by "
        "a learning rate of 0 in a record, by a record's name, by the message's type, or by another run "
        "config"
    ),
    attacker="lying server alone",
    defence=(
        "the session's name includes a digest of everything that a training gets, which each node "
        "compares (`request_digest`)"
    ),
    control="with a digest of the model alone: the victim's update",
    source="own; Pasquini, Francati, Ateniese, CCS 2022: the other updates vanish",
)
@pytest.mark.parametrize("lie", LIES)
class TestRequestsThatSteer:
    def test_refused(self, lie: str, tmp_path: Path, caplog: Any) -> None:
        from tests.integrations import test_flower_request as scene
        from tests.integrations.apps import the_error

        secure_grid = scene.play_attack(getattr(scene, lie), tmp_path)
        assert not secure_grid.outcomes
        assert "c1, c2, c4, c5: got another model, round, run, type, record or run config" in the_error(caplog)

    def test_control_succeeds(self, lie: str, tmp_path: Path, monkeypatch: Any) -> None:
        from secagg.integrations import _flower_client, _flower_server
        from tests.integrations import test_flower_request as scene
        from tests.integrations.apps import CLIENTS, MODEL, step

        for side in (_flower_client, _flower_server):
            monkeypatch.setattr(side, "request_digest", lambda *_: bytes(32))
        (outcome,) = scene.play_attack(getattr(scene, lie), tmp_path).outcomes
        for name, array in MODEL.items():
            got = CLIENTS * outcome.mean[name]
            np.testing.assert_allclose(got, step(scene.VICTIM, 1, name, array), rtol=0, atol=1e-5)


@attack(
    title=(
        "The server plays a finished session again with hosted aggregators and without one client's "
        "report, after it proposed another session in between"
    ),
    attacker="lying server alone",
    defence="all roles of a hosted party share one ledger, and no role is made without it (`hosted`)",
    control="with a ledger for each role: the victim's update",
    source="Multi-RoundSecAgg; Gradient Disaggregation",
)
class TestHostedSessionPlayedAgain:
    def test_refused(self, tmp_path: Path) -> None:
        from secagg.errors import Aborted
        from tests.integrations import test_flower_hosted as scene
        from tests.integrations.apps import CLIENTS, lasting_party

        sums = scene.two_sums(tmp_path, lasting_party, True)
        assert len(next(sums).survivors) == CLIENTS
        with pytest.raises(Aborted):
            next(sums)

    def test_control_succeeds(self, tmp_path: Path) -> None:
        from tests.integrations import test_flower_hosted as scene
        from tests.integrations.apps import CLIENTS, MODEL, step

        first, second = scene.two_sums(tmp_path, scene.forgetful, True)
        assert set(first.survivors) - set(second.survivors) == {scene.VICTIM}
        for name, array in MODEL.items():
            got = (first.sum[name] - second.sum[name]) / (10 * CLIENTS)  # its weight
            np.testing.assert_allclose(got, step(CLIENTS, 1, name, array), rtol=0, atol=1e-5)


@attack(
    title=("An update in the answer to an evaluation or a query, encoded in the names of empty records"),
    attacker="a faulty app, or an app that the server wrote",
    defence=(
        "such an answer holds at most 64 single values, names and records (`client_mod`); this protects "
        "against accidents only, see [Flower](flower.md)"
    ),
    control="with every answer let through: the update",
    source="own",
)
@pytest.mark.parametrize("kind", ["evaluate", "query"])
class TestUpdateInAnEvaluation:
    def test_refused(self, kind: str) -> None:
        from tests.integrations import test_flower as scene

        _, reply = scene.answer_in_names(kind)
        assert "nothing else" in reply.error.reason

    def test_control_succeeds(self, kind: str, monkeypatch: Any) -> None:
        from secagg.integrations import _flower_client
        from tests.integrations import test_flower as scene

        monkeypatch.setattr(_flower_client, "_let_pass", lambda reply: reply)
        update, reply = scene.answer_in_names(kind)
        got = np.frombuffer(bytes.fromhex("".join(name[6:] for name in sorted(reply.content))))
        np.testing.assert_array_equal(got, update)


@attack(
    title=(
        "The server moves a node to the task that its app has for simulations, which needs no keys. All "
        "other nodes are the server's own"
    ),
    attacker="lying server alone, and a node whose operator has not enrolled it",
    defence="only a node that Flower's simulation runs plays that task (`is_simulated`)",
    control="with a node that believes it is simulated: the victim's update",
    source="own; Sybil attacks",
)
class TestTaskForSimulations:
    def test_refused(self, caplog: Any) -> None:
        from tests.integrations import test_flower_simulation as scene

        secure_grid = scene.downgraded_round()
        assert not scene.has_the_victims_update(secure_grid)
        assert "node 1: got the task for simulations, and a node outside" in caplog.text

    def test_control_succeeds(self, monkeypatch: Any) -> None:
        from secagg.integrations import _flower_client
        from tests.integrations import test_flower_simulation as scene

        monkeypatch.setattr(_flower_client, "is_simulated", lambda: True)
        assert scene.has_the_victims_update(scene.downgraded_round())

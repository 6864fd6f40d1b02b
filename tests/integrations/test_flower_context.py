"""What a node's app keeps between messages: what trainings left, and nothing that came outside of a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from bench.loopback import LoopbackGrid
from secagg.integrations.flower import client_mod
from tests.integrations.apps import CLIENTS, MODEL, enrol, make_task, record, secure, step, training_reply

TASK = make_task(secagg.SecAgg(corruption=0.1), min_survivors=4)
VICTIM = 3
KINDS = ("evaluate", "query")
PLACES = ("a new record", "a record that was there", "node config")


def remember(place: str, context: Any, score: float) -> None:
    """What an app does that stops early: it keeps the best score that its evaluations gave."""
    if place == "a new record":
        context.state["best"] = MetricRecord({"score": score})
    elif place == "a record that was there":
        context.state["seen"]["scores"].append(score)
    else:
        context.node_config["best"] = score


def best(context: Any) -> float:
    scores = [*context.state.get("seen", {}).get("scores", []), context.node_config.get("best", 0.0)]
    return max([*scores, context.state.get("best", {}).get("score", 0.0)])


def make_app(client: int, place: str) -> ClientApp:
    """It trains until an evaluation has content it that the model is good enough."""
    app = ClientApp(mods=[client_mod(TASK)])

    def look(message: Any, context: Any) -> Any:
        remember(place, context, float(message.content["config"]["score"]))
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    app.evaluate()(look)
    app.query()(look)

    @app.train()
    def train(message: Any, context: Any) -> Any:
        return training_reply(message, client, 0.0 if best(context) > 0.9 else 1.0)

    return app


def steer(folder: Path, kind: str, place: str) -> Any:
    """All but the victim are content that the model is good, outside of sessions; a train round for all follows."""
    roster, configs, _ = enrol(TASK, folder)
    grid = LoopbackGrid([make_app(client, place) for client in range(1, CLIENTS + 1)], configs)
    for node in grid.nodes.values():
        node.context.state["seen"] = MetricRecord({"scores": [0.0]})
    content = RecordDict({"config": ConfigRecord({"score": 1.0})})
    secure_grid = secure(grid, TASK, roster=roster)
    replies = secure_grid.send_and_receive(
        [Message(content, node, kind) for node in grid.nodes if node != VICTIM], timeout=0.0
    )
    assert not any(reply.has_error() for reply in replies)
    FedAvg(fraction_evaluate=0.0).start(grid=secure_grid, initial_arrays=record(), num_rounds=1, timeout=0.0)
    (outcome,) = secure_grid.outcomes
    assert len(outcome.survivors) == CLIENTS
    return outcome


def has_the_victims_update(outcome: Any) -> bool:
    """To within a grid step: what the sum holds once it is divided by the weight."""
    return all(
        np.allclose(CLIENTS * outcome.mean[name], step(VICTIM, 1, name, array), rtol=0, atol=1e-5)
        for name, array in MODEL.items()
    )


def context_after(app: ClientApp, state: RecordDict, kind: str) -> Any:
    """One node's context after a message of ``kind``."""
    grid = LoopbackGrid([app])
    grid.nodes[1].context.state = state
    reply = grid.nodes[1].answer(Message(RecordDict({"config": ConfigRecord({"score": 0.5})}), 1, kind))
    assert reply.has_content()
    return grid.nodes[1].context


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_evaluation_or_a_query_leaves_is_dropped_with_a_word(kind: str, place: str, caplog: Any) -> None:
    state = RecordDict({"seen": MetricRecord({"scores": [0.0]})})
    context = context_after(make_app(1, place), state, kind)
    assert context.state == RecordDict({"seen": MetricRecord({"scores": [0.0]})})
    assert not context.node_config
    assert f"dropped the app's changes to its context during {kind}" in caplog.text


def test_an_evaluation_sees_what_trainings_left_and_is_no_news_if_it_changes_nothing(caplog: Any) -> None:
    app, seen = ClientApp(mods=[client_mod(TASK)]), []

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        seen.append(context.state["weights"])
        return Message(RecordDict(), reply_to=message)

    context_after(app, RecordDict({"weights": record()}), "evaluate")
    assert seen == [record()]
    assert "dropped" not in caplog.text


@pytest.mark.parametrize("protocol", [secagg.Clear(), secagg.SecAgg(threat_model="semi-honest")])
def test_what_a_training_leaves_is_kept(protocol: Any) -> None:
    task = make_task(protocol)
    counted: Callable[[Any], Any] = lambda context: context.state.get("count", {}).get("rounds", 0)  # noqa: E731

    def app(client: int) -> ClientApp:
        app_ = ClientApp(mods=[client_mod(task)])

        @app_.train()
        def train(message: Any, context: Any) -> Any:
            context.state["count"] = ConfigRecord({"rounds": counted(context) + 1})
            reply = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
            return Message(RecordDict(reply), reply_to=message)

        return app_

    grid = LoopbackGrid([app(client) for client in range(1, CLIENTS + 1)])
    for number in (1, 2):
        model = record({name: array + number for name, array in MODEL.items()})
        FedAvg(fraction_evaluate=0.0).start(
            grid=secure(grid, task), initial_arrays=model, num_rounds=1, timeout=0.0
        )
    assert [counted(node.context) for node in grid.nodes.values()] == [2] * CLIENTS

"""One request for all: a server that lies can't have the others stand still and read one client off the sum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from bench.loopback import LoopbackGrid, through_bytes
from secagg.integrations import _flower_records
from secagg.integrations.flower import client_mod
from tests.integrations.apps import (
    CLIENTS,
    MODEL,
    enrol,
    make_grid,
    make_task,
    record,
    secure,
    start,
    the_error,
    train_messages,
    training_reply,
)

TASK = make_task(secagg.SecAgg(corruption=0.1), min_survivors=4)
VICTIM = 3
RUN_CONFIG = {"lr": 1.0, "local-epochs": 1, "nesterov": False, "data": "x"}


def rate_of(message: Any, context: Any) -> float:
    """What steers an app's training: all of what its request and its context can."""
    records = [entry for entry in message.content.values() if not isinstance(entry, ArrayRecord)]
    rates = [float(entry["lr"]) for entry in records if "lr" in entry] + [float(context.run_config["lr"])]
    return min([*rates, 0.0 if "paused" in message.content else 1.0])


def make_nodes(configs: Any) -> LoopbackGrid:
    def make(client: int) -> ClientApp:
        app = ClientApp(mods=[client_mod(TASK)])

        app.train()(lambda message, context: training_reply(message, client, rate_of(message, context)))
        app.train("rest")(lambda message, context: training_reply(message, client, 0.0))
        return app

    grid = LoopbackGrid([make(c) for c in range(1, CLIENTS + 1)], configs)
    for node in grid.nodes.values():
        node.context.run_config = dict(RUN_CONFIG)
    return grid


def in_config(grid: LoopbackGrid, node: int, request: Any) -> None:
    request.content["config"]["lr"] = 0.0


def in_metrics(grid: LoopbackGrid, node: int, request: Any) -> None:
    request.content["rates"] = MetricRecord({"lr": 0})


def in_a_records_name(grid: LoopbackGrid, node: int, request: Any) -> None:
    request.content["paused"] = ConfigRecord({})


def in_the_type(grid: LoopbackGrid, node: int, request: Any) -> None:
    request.metadata.__dict__["_message_type"] = "train.rest"


def in_the_run_config(grid: LoopbackGrid, node: int, request: Any) -> None:
    grid.nodes[node].context.run_config["lr"] = 0.0


Steers = Callable[[LoopbackGrid, int, Any], None]


def play_attack(lie: Steers, folder: Path) -> Any:
    """One round, in which all but the victim are told to stand still."""
    roster, configs, _ = enrol(TASK, folder)
    grid = make_nodes(configs)

    def spoil(node: int, request: Any) -> Any:
        if node != VICTIM and "arrays" in request.content:
            lie(grid, node, request)
        return request

    grid.spoil = spoil
    secure_grid = secure(grid, TASK, roster=roster, run_config=RUN_CONFIG)
    strategy = FedAvg(fraction_evaluate=0.0)
    config = ConfigRecord({"lr": 1.0})
    strategy.start(grid=secure_grid, initial_arrays=record(), num_rounds=1, timeout=0.0, train_config=config)
    return secure_grid


def test_the_run_config_of_both_sides_has_to_be_given(tmp_path: Path, caplog: Any) -> None:
    roster, configs, _ = enrol(TASK, tmp_path)
    start(
        secure_grid := secure(
            make_nodes(configs), TASK, roster=roster, run_config=dict(reversed(RUN_CONFIG.items()))
        )
    )
    assert len(secure_grid.outcomes) == 1
    start(secure_grid := secure(make_nodes(configs), TASK, roster=roster))
    assert "run_config=context.run_config" in the_error(caplog)
    assert not secure_grid.outcomes


@pytest.mark.parametrize("what", ["config", "type", "model"])
def test_a_broadcast_of_different_requests_is_not_sent(what: str, caplog: Any) -> None:
    """Such as a strategy that gives each node a learning rate of its own."""
    grid = make_grid()
    messages = train_messages(grid)
    content = {"arrays": record(), "config": ConfigRecord({"server-round": 1})}
    if what == "config":
        content["config"]["lr"] = 0.1
    if what == "model":
        content["arrays"] = record({**MODEL, "bias": MODEL["bias"] + 1})
    messages[1] = Message(RecordDict(content), 2, "train.rest" if what == "type" else "train")
    secure_grid = secure(grid, strategies=[None])
    assert secure_grid.send_and_receive(messages) == []
    reason = "different models" if what == "model" else "differ in type or records; a session has one request"
    assert reason in the_error(caplog)
    assert grid.pushes == 0


VALUES: list[Any] = [True, 1, 1.0, "1", b"1", -1, 0.0, -0.0, [1], [1.0], [True], ["1"], [b"1"], [1, 1], [], ""]


def digest_of(value: Any) -> bytes:
    message = Message(RecordDict({"config": ConfigRecord({"a": value, "b": "x"})}), 1, "train")
    result = _flower_records.request_digest("train", message.content, {})
    arrived = through_bytes(message)[0].content
    assert result == _flower_records.request_digest("train", arrived, {})
    return result


def test_values_and_types_can_be_told_apart_and_stay_on_the_wire() -> None:
    assert len({digest_of(value) for value in VALUES}) == len(VALUES)
    assert digest_of(np.float64(0.1)) == digest_of(0.1)  # as it is once it has arrived


def test_what_stands_in_one_record_does_not_pass_for_another() -> None:
    empty = ConfigRecord({})
    contents: list[dict[str, Any]] = [
        {"a": ConfigRecord({"x": 1}), "b": empty},
        {"a": empty, "b": ConfigRecord({"x": 1})},
        {"a": MetricRecord({"x": 1}), "b": empty},
        {"b": empty, "a": ConfigRecord({"x": 1})},
        {"a": ConfigRecord({"x": 1})},
        {"a": ConfigRecord({"x": 1}), "b": ArrayRecord({})},
        {"ax": ConfigRecord({"": 1}), "b": empty},
    ]
    digests = {_flower_records.request_digest("train", RecordDict(content), {}) for content in contents}
    assert len(digests) == len(contents)
    plain = _flower_records.request_digest("train", RecordDict({}), {"x": 1})
    assert plain != _flower_records.request_digest("train", RecordDict({"run": ConfigRecord({"x": 1})}), {})
    assert plain == _flower_records.request_digest("train", RecordDict({}), {"x": 1})
    assert plain != _flower_records.request_digest("train.x", RecordDict({}), {"x": 1})

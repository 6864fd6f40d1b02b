"""Rounds in Flower, on a loopback grid: equal to the plain run, and refused where they would not be protected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from secagg import identity, wire
from secagg._rounds import session_name

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi

from bench.loopback import RUN, LoopbackGrid, through_bytes
from secagg.integrations import _flower_records
from secagg.integrations.flower import SecureGrid, client_mod, layout_of
from tests.integrations.apps import (
    CLIENTS,
    METRICS,
    MODEL,
    TASK,
    change_fields,
    close_to,
    enrol,
    error_texts,
    in_run,
    make_app,
    make_grid,
    make_task,
    nodes_with_the_model,
    plain_grid,
    record,
    secure,
    silent_in,
    start,
    the_error,
    train_messages,
)

WITH_ROSTER = secagg.SecAgg(corruption=0.1)

STRATEGIES: list[Callable[[], Any]] = [
    lambda: FedAvg(fraction_evaluate=0.0),
    lambda: FedAvgM(fraction_evaluate=0.0, server_momentum=0.9, server_learning_rate=0.5),
    lambda: FedAdam(fraction_evaluate=0.0),
    lambda: FedYogi(fraction_evaluate=0.0),
    lambda: FedAdagrad(fraction_evaluate=0.0),
    lambda: FedProx(fraction_evaluate=0.0, proximal_mu=0.1),
]


@pytest.mark.parametrize("make", STRATEGIES, ids=lambda make: type(make()).__name__)
def test_equals_the_plain_run(make: Callable[[], Any]) -> None:
    """Three rounds, one client silent in the second: model and metrics are the plain run's."""
    plain = plain_grid()
    plain.spoil = silent_in(2, 3)
    expected = start(plain, make(), rounds=3)
    grid = make_grid(metrics=METRICS)
    grid.spoil = silent_in(2, 3)
    secure_grid = secure(grid, metrics=METRICS)
    result = start(secure_grid, make(), rounds=3)
    close_to(result.arrays, expected.arrays)
    for number, metrics in expected.train_metrics_clientapp.items():
        got = dict(result.train_metrics_clientapp[number])
        assert got == pytest.approx({"train_loss": metrics["train_loss"]}, abs=1e-6)
    assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [5, 4, 5]
    assert secure_grid.outcomes[1].dropped == {"node-3": "MaskedInput"}


def test_integer_leaves_come_back_as_in_the_plain_run() -> None:
    model = {"seen": np.array([3, 4]), "w": np.ones(2, np.float32)}
    task = make_task(layout=layout_of(record(model)), encoding=secagg.FixedPoint(clip=8.0, bits=30))
    grid = make_grid(task)
    for c, node in grid.nodes.items():
        app = ClientApp(mods=[client_mod(task)])

        @app.train()
        def train(message: Any, context: Any, c: int = c) -> Any:
            fresh = {"seen": np.array([3, 4]) + c, "w": np.ones(2, np.float32) * c}
            metrics = MetricRecord({"num-examples": 1})
            return Message(RecordDict({"a": record(fresh), "m": metrics}), reply_to=message)

        node.app = app
    result = start(secure(grid, task), model=record(model)).arrays
    assert result["seen"].numpy().dtype == np.float64
    np.testing.assert_allclose(result["seen"].numpy(), [6, 7], rtol=0, atol=1e-5)  # as near as the encoding is


# Refusals.

NEEDS_EACH = [
    "Krum",
    "MultiKrum",
    "Bulyan",
    "FedMedian",
    "FedTrimmedAvg",
    "QFedAvg",
    "FedXgbBagging",
    "FedXgbCyclic",
]
WRAPPERS = {
    f"DifferentialPrivacy{side}Side{kind}Clipping": {"Fixed": (0.1, 1.0, 5), "Adaptive": (0.1, 5)}[kind]
    for side in ("Server", "Client")
    for kind in ("Fixed", "Adaptive")
}


@pytest.mark.parametrize("name", [*NEEDS_EACH, *WRAPPERS])
def test_strategies_that_need_each_update_are_refused_at_the_start(name: str) -> None:
    kind = getattr(strategies, name)
    arguments = {"QFedAvg": {"client_learning_rate": 0.1}}.get(name, {})
    strategy = kind(FedAvg(), *WRAPPERS[name]) if name in WRAPPERS else kind(**arguments)
    grid = make_grid()
    with pytest.raises(secagg.ConfigError, match=name):
        start(secure(grid), strategy, model=record({"0": MODEL["bias"]}))
    assert grid.pushes == 0


class Mine(FedAvg):  # type: ignore[misc]
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, replies)


@pytest.mark.parametrize("name", ["Krum", "FedMedian", "QFedAvg"])
def test_declaring_fedavg_does_not_declare_its_subclasses(name: str) -> None:
    arguments = {"QFedAvg": {"client_learning_rate": 0.1}}.get(name, {})
    grid = make_grid()
    with pytest.raises(secagg.ConfigError, match=name):
        start(secure(grid, strategies=[FedAvg]), getattr(strategies, name)(**arguments))
    assert grid.pushes == 0


class Samples(FedAvg):  # type: ignore[misc]
    def configure_train(self, *arguments: Any) -> Any:
        return super().configure_train(*arguments)


def test_an_unknown_strategy_has_to_be_declared() -> None:
    with pytest.raises(secagg.ConfigError, match="strategies=\\[Mine\\]"):
        start(secure(make_grid()), Mine(fraction_evaluate=0.0))
    start(declared := secure(make_grid(), strategies=[Mine]), Mine(fraction_evaluate=0.0))
    start(inherited := secure(make_grid()), Samples(fraction_evaluate=0.0))
    assert len(declared.outcomes) == len(inherited.outcomes) == 1


def counts_replies(replies: list[Any], weighted_by: str) -> Any:
    return MetricRecord({"clients": len(replies)})


def overridden() -> Any:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.aggregate_train = lambda server_round, replies: FedAvg.aggregate_train(strategy, server_round, replies)
    return strategy


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (overridden, "aggregate_train of its own"),
        (lambda: FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=counts_replies), "train_metrics_aggr_fn"),
        (lambda: FedAdam(fraction_evaluate=0.0, train_metrics_aggr_fn=counts_replies), "train_metrics_aggr_fn"),
    ],
    ids=["aggregate_train", "train_metrics", "train_metrics of FedAdam"],
)
def test_a_function_set_on_a_strategy_has_to_be_declared(make: Callable[[], Any], why: str) -> None:
    grid, kind = make_grid(), type(make())
    with pytest.raises(secagg.ConfigError, match=f"{why}.*strategies=\\[{kind.__name__}\\]"):
        start(secure(grid), make())
    assert grid.pushes == 0
    start(declared := secure(grid, strategies=[kind]), make())
    assert len(declared.outcomes) == 1


def test_a_function_that_aggregates_evaluations_is_accepted() -> None:
    strategy = FedAvg(evaluate_metrics_aggr_fn=counts_replies)
    result = start(secure_grid := secure(make_grid()), strategy)
    assert dict(result.evaluate_metrics_clientapp[1]) == {"clients": CLIENTS}
    assert len(secure_grid.outcomes) == 1


def test_a_loop_without_a_strategy_has_to_be_declared() -> None:
    grid = make_grid()
    with pytest.raises(secagg.ConfigError, match="strategies=\\[None\\]"):
        secure(grid).send_and_receive(train_messages(grid))
    with pytest.raises(secagg.ConfigError, match="send_and_receive"):
        secure(grid).push_messages(train_messages(grid))
    assert grid.pushes == 0
    assert len(secure(grid, strategies=[None]).send_and_receive(train_messages(grid))) == 1


class NoisesArrays:
    """A mod of the user's own that never asks whether what it noises is an update."""

    def __call__(self, message: Any, context: Any, call_next: Any) -> Any:
        return call_next(message, context)


LOCAL_DP = LocalDpMod(1.0, 1.0, 1.0, 1e-5)


@pytest.mark.parametrize("outer", [LOCAL_DP, fixedclipping_mod, NoisesArrays()], ids=["dp", "clipping", "own"])
@pytest.mark.parametrize("of_function", [False, True])
def test_a_mod_outside_of_ours_is_refused(outer: Any, of_function: bool, caplog: Any) -> None:
    def app(client: int) -> ClientApp:
        if of_function:
            return make_app(client, [outer], [client_mod(TASK)])
        return make_app(client, [outer, client_mod(TASK)])

    grid = LoopbackGrid(map(app, range(1, CLIENTS + 1)))
    secure_grid = secure(grid)
    start(secure_grid)
    assert not secure_grid.outcomes
    assert "first in mods" in the_error(caplog)
    assert not nodes_with_the_model(grid)


def test_a_mod_inside_of_ours_is_accepted() -> None:
    grid = LoopbackGrid(make_app(c, [client_mod(TASK), NoisesArrays(), LOCAL_DP]) for c in range(1, CLIENTS + 1))
    secure_grid = secure(grid)
    start(secure_grid)
    assert len(secure_grid.outcomes) == 1


def test_our_mod_is_refused_outside_of_an_app() -> None:
    with pytest.raises(secagg.ConfigError, match="outside of"):
        client_mod(TASK)(train_messages(make_grid())[0], None, lambda *_: None)


def test_a_task_with_a_threat_model_needs_a_roster() -> None:
    with pytest.raises(secagg.ConfigError, match='threat_model="semi-honest"'):
        SecureGrid(make_grid(), make_task(secagg.SecAgg(corruption=0.1), min_survivors=4))


def test_a_task_with_aggregators_needs_them(tmp_path: Path) -> None:
    task = make_task(secagg.AdditiveShares())
    roster, _, _ = enrol(task, tmp_path)
    with pytest.raises(secagg.ConfigError, match="parties= for aggregator1, aggregator2"):
        SecureGrid(make_grid(), task, roster=roster)


@pytest.mark.parametrize("deadlines", [-1.0, float("nan"), "60", {"MaskedInput": -1.0}, {"Masked": 20.0}])
def test_deadlines_that_no_round_has_are_refused(deadlines: Any) -> None:
    with pytest.raises(
        secagg.ConfigError, match=r"got deadlines=.*(expected seconds, not below 0|SecAgg has Introduction)"
    ):
        SecureGrid(make_grid(), make_task(), deadlines=deadlines)


# What is wrong on one side is one line on the server, and no round that isn't protected.


def test_nodes_without_the_mod_never_see_the_model(caplog: Any) -> None:
    grid = plain_grid()
    result = start(secure_grid := secure(grid))
    assert "node 1, node 2, node 3, node 4, node 5: error 2" in the_error(caplog)
    assert "does its ClientApp have client_mod(task) first in mods?" in the_error(caplog)
    assert not nodes_with_the_model(grid)
    assert not secure_grid.outcomes
    assert not result.arrays


GONE = [
    (5, "Error: Node Unavailable"),
    (8, "ClientApp stopped responding."),
]


@pytest.mark.parametrize(("code", "reason"), GONE)
@pytest.mark.parametrize("at", ["introduction", "keys"])
def test_a_node_that_is_gone_is_not_told_to_install_the_mod(at: str, code: int, reason: str, caplog: Any) -> None:
    grid = make_grid()

    def tamper(node: int, reply: Any) -> Any:
        introduces = _flower_records.MESSAGE not in reply.content
        if node == 2 and introduces == (at == "introduction"):
            reply.__dict__["_content"], reply.__dict__["_error"] = None, Error(code, reason)
        return reply

    grid.tamper = tamper
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS - 1
    assert f"error {code}: {reason}" in caplog.text
    assert "first in mods" not in caplog.text


def test_an_app_that_raises_in_training_has_the_mod(caplog: Any) -> None:
    grid = make_grid()

    def raises(message: Any, context: Any, call_next: Any) -> Any:
        raise ZeroDivisionError("no examples")

    grid.nodes[2].app = make_app(2, [client_mod(TASK), raises])
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS - 1
    assert "ZeroDivisionError" in caplog.text
    assert "first in mods" not in caplog.text


def test_failed_rounds_are_listed_with_their_reason(caplog: Any) -> None:
    grid = make_grid()
    grid.spoil = lambda node, request: (
        None if "arrays" in request.content and len(secure_grid.outcomes) else request
    )
    secure_grid = secure(grid)
    result = start(secure_grid, rounds=2)
    assert len(secure_grid.outcomes) == 1
    assert result.arrays
    (failure,) = secure_grid.failures
    assert failure.startswith("round 2 aborted: ")
    assert f"secagg: {failure}" == the_error(caplog)


@pytest.mark.parametrize("clip", [0.02, 0.19, 0.1995, 1.0])
def test_a_rounds_line_says_how_much_was_clipped(clip: float, caplog: Any) -> None:
    """Steps are uniform within 0.2."""
    caplog.set_level("INFO")
    task = make_task(encoding=secagg.FixedPoint(clip=clip, bits=20))
    start(secure_grid := secure(make_grid(task), task))
    (line,) = [entry for entry in caplog.records if "5 updates in the sum" in entry.getMessage()]
    share = secure_grid.outcomes[0].clipped / (CLIENTS * task.layout.size)  # type: ignore[operator]
    assert share == pytest.approx(max(0.0, 1 - clip / 0.2), abs=0.05)
    if share:
        assert f"in the sum, {100 * share:.3g} % of their coordinates clipped" in line.getMessage()
    else:
        assert line.getMessage() == "secagg: round 1: 5 updates in the sum"
    assert (line.levelname == "WARNING") == (share > 0.01) == ("raise the encoding's clip" in line.getMessage())


def test_one_node_without_the_mod_is_left_out(caplog: Any) -> None:
    grid = make_grid()
    grid.nodes[2].app = lambda message, context: Message(RecordDict({"arrays": record()}), reply_to=message)
    start(secure_grid := secure(grid))
    assert secure_grid.outcomes[0].survivors == ("node-1", "node-3", "node-4", "node-5")
    assert "without node 2: got a message without secagg's records" in caplog.text
    assert nodes_with_the_model(grid) == [1, 3, 4, 5]


@pytest.mark.parametrize("metrics", [None, METRICS])
def test_nodes_with_another_task_or_other_metrics_are_left_out(metrics: Any, caplog: Any) -> None:
    grid = make_grid(metrics=metrics) if metrics else make_grid(dataclasses.replace(TASK, context=b"other"))
    start(secure_grid := secure(grid))
    assert "another task" in the_error(caplog)
    assert not secure_grid.outcomes
    assert not nodes_with_the_model(grid)


@pytest.mark.parametrize("side", ["spoil", "tamper"])
def test_another_version_on_one_side(side: str, caplog: Any) -> None:
    grid = make_grid()
    setattr(grid, side, change_fields(version=_flower_records.VERSION - 1))
    start(secure_grid := secure(grid))
    assert "version 1.1; this side speaks 1.2" in the_error(caplog)
    assert not secure_grid.outcomes
    assert not nodes_with_the_model(grid)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"party": 7}, "got secagg's records with unexpected fields"),
        ({"session": "text"}, "got secagg's records with unexpected fields"),
        ({"party": "no id"}, "got party id 'no id'; expected 1 to 64 letters"),
        ({"version": "1"}, "got version '1'; this side speaks 1.2"),
    ],
)
def test_fields_of_other_types_are_left_out(fields: dict[str, Any], why: str, caplog: Any) -> None:
    grid = make_grid()
    grid.tamper = change_fields(**fields)
    start(secure_grid := secure(grid))
    assert f", without node 1, node 2, node 3, node 4, node 5: {why}" in the_error(caplog)
    assert not secure_grid.outcomes


def test_a_model_of_other_shapes_is_not_sent(caplog: Any) -> None:
    grid = make_grid()
    start(secure_grid := secure(grid), model=record({**MODEL, "bias": np.zeros(4, np.float32)}))
    assert "'bias' has shape (4,); the task's layout says (3,)" in the_error(caplog)
    assert grid.pushes == 0
    assert not secure_grid.outcomes


def test_a_model_that_grows_between_rounds_ends_that_round(caplog: Any) -> None:
    class Grows(FedAvg):  # type: ignore[misc]
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            if server_round == 2:
                arrays = record({**MODEL, "head": np.zeros(2)})
            return super().configure_train(server_round, arrays, config, grid)

    start(secure_grid := secure(make_grid()), Grows(fraction_evaluate=0.0), rounds=2)
    assert "round 2 aborted" in the_error(caplog)
    assert "'head' has shape (2,); the task's layout says None" in the_error(caplog)
    assert len(secure_grid.outcomes) == 1


def test_a_node_with_another_roster_is_left_out(tmp_path: Path, caplog: Any) -> None:
    task = make_task(WITH_ROSTER, min_survivors=4)
    roster, configs, _ = enrol(task, tmp_path)
    (tmp_path / "more").mkdir()
    _, other, _ = enrol(task, tmp_path / "more")
    configs[1] = other[1]
    start(secure_grid := secure(make_grid(task, configs), task, roster=roster))
    assert secure_grid.outcomes[0].survivors == ("c1", "c3", "c4", "c5")
    assert "node 2: got another roster" in caplog.text


# The node's side holds against a server that errs or lies.


def update_in(reply: Any) -> bool:
    """Whether a reply gives away what a client has learnt."""
    return reply.has_content() and any(
        array.stype == "numpy.ndarray"
        for result in reply.content.array_records.values()
        for array in result.values()
    )


def test_a_server_without_our_grid_gets_nothing() -> None:
    grid = make_grid()
    replies = grid.send_and_receive(train_messages(grid))
    assert all("without secagg's records" in reply.error.reason for reply in replies)


def test_control_without_the_mod_it_gets_the_update() -> None:
    grid = plain_grid()
    assert all(map(update_in, grid.send_and_receive(train_messages(grid))))


def other_model(node: int, request: Any) -> Any:
    if "arrays" in request.content:
        request.content["arrays"] = record({name: array + 1 for name, array in MODEL.items()})
    return request


def test_another_model_than_the_sessions_gets_nothing(caplog: Any) -> None:
    grid = make_grid()
    grid.spoil = other_model
    start(secure_grid := secure(grid))
    assert "another model, round, run" in the_error(caplog)
    assert not secure_grid.outcomes


def test_control_unchecked_another_model_gets_an_update(monkeypatch: Any) -> None:
    from secagg.integrations import _flower_client

    def unchecked(self: Any, statement: Any, message: Any) -> Any:
        return _flower_records.arrays_of(message.content["arrays"])

    monkeypatch.setattr(_flower_client._Node, "check_request", unchecked)
    grid = make_grid()
    grid.spoil = other_model
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes) == 1


def test_another_round_than_the_sessions_gets_nothing(caplog: Any) -> None:
    grid = make_grid()

    def later(node: int, request: Any) -> Any:
        if "config" in request.content:
            request.content["config"]["server-round"] = 2
        return request

    grid.spoil = later
    start(secure_grid := secure(grid))
    assert "another model, round, run" in the_error(caplog)
    assert not secure_grid.outcomes


def all_silent_after_input(grid: LoopbackGrid) -> None:
    """Nobody's answer to the last round arrives, so sessions end without a sum after updates left."""

    def tamper(node: int, reply: Any) -> Any:
        return None if len(grid.nodes[node].requests) > 1 and "arrays" in grid.nodes[node].requests[-2] else reply

    grid.tamper = tamper


def test_a_model_gets_two_uploads_and_the_second_is_a_warning(caplog: Any) -> None:
    grid = make_grid()
    all_silent_after_input(grid)
    secure_grid = secure(grid)
    with pytest.raises(secagg.Aborted, match="2 sessions asked for updates"):
        start(secure_grid, rounds=3)
    assert caplog.text.count("second upload from one model") == CLIENTS
    assert not secure_grid.outcomes


class Asks(FedAvg):  # type: ignore[misc]
    """Says that its round is another one."""

    def __init__(self, number: int) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.number = number

    def configure_train(self, server_round: int, *arguments: Any) -> Any:
        return super().configure_train(self.number, *arguments)


def test_a_server_that_forgot_gets_no_third_upload(caplog: Any) -> None:
    grid = make_grid()
    all_silent_after_input(grid)

    for number in (1, 2):
        start(secure(grid), Asks(number))
    caplog.clear()
    grid.tamper = lambda node, reply: reply
    start(secure_grid := secure(grid), Asks(3))
    assert "upload 3 from one model; this client gives 2" in the_error(caplog)
    assert not secure_grid.outcomes


SCALARS: list[Any] = [
    MetricRecord({"num-examples": 1, "loss": 0.5}),
    MetricRecord({f"accuracy of class {number}": 0.1 for number in range(58)} | {"num-examples": 1, "loss": 0.5}),
    ConfigRecord({"device": "gpu", "ready": True, "seconds": 1.5}),
]
UPDATE = np.arange(3.0)
PASSENGERS: dict[str, Any] = {
    "arrays": record(),
    "list of a metric": MetricRecord({"num-examples": 1, "w": UPDATE.tolist()}),
    "list of one": MetricRecord({"num-examples": 1, "w": [0.5]}),
    "list of integers": MetricRecord({"num-examples": 1, "w": [1, 2, 3]}),
    "bytes": ConfigRecord({"w": UPDATE.tobytes()}),
    "list of bytes": ConfigRecord({"w": [UPDATE.tobytes()]}),
    "list of texts": ConfigRecord({"w": ["0.5"]}),
    "list of numbers": ConfigRecord({"w": UPDATE.tolist()}),
    "text": ConfigRecord({"w": UPDATE.tobytes().hex() * 3}),
    "name": MetricRecord({UPDATE.tobytes().hex() * 3: 1}),
    "many scalars": MetricRecord({f"w{number}": 0.5 for number in range(65)}),
}


def passing(passenger: Any, name: str = "passenger") -> Callable[[str], Any]:
    """A reply of a node whose app adds ``passenger``, to an evaluation or a query."""

    def answer(kind: str) -> Any:
        app = make_app(1, [client_mod(TASK)], extra={name: passenger})
        app.query()(lambda message, context: Message(RecordDict({name: passenger}), reply_to=message))
        grid = LoopbackGrid([app])
        (reply,) = secure(grid).send_and_receive([Message(RecordDict(), 1, kind)], timeout=1.0)
        return reply

    return answer


@pytest.mark.parametrize("kind", ["evaluate", "query"])
@pytest.mark.parametrize("passenger", SCALARS)
def test_scalars_pass(passenger: Any, kind: str) -> None:
    assert passing(passenger)(kind).content["passenger"] == passenger


@pytest.mark.parametrize("kind", ["evaluate", "query"])
@pytest.mark.parametrize("what", PASSENGERS)
def test_records_that_can_hold_an_update_do_not_pass(what: str, kind: str) -> None:
    reply = passing(PASSENGERS[what])(kind)
    assert not reply.has_content()
    assert "ConfigError" in reply.error.reason
    assert "nothing else" in reply.error.reason


@pytest.mark.parametrize("kind", ["evaluate", "query"])
def test_a_long_name_of_a_record_does_not_pass(kind: str) -> None:
    assert passing(MetricRecord({"w": 1}), "w" * 129)(kind).has_error()


def in_names(update: Any) -> dict[str, Any]:
    """Records without a value whose names are an update."""
    size, data = 56, update.tobytes()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return {f"{number:06d}{part.hex()}": MetricRecord({}) for number, part in enumerate(parts)}


def answer_in_names(kind: str) -> tuple[Any, Any]:
    """An update, and what a node answers whose app spells the update in names."""
    update = np.random.default_rng(0).normal(size=1000)
    app = ClientApp(mods=[client_mod(TASK)])
    records = RecordDict(in_names(update))
    getattr(app, kind)()(lambda message, context: Message(records, reply_to=message))
    return update, LoopbackGrid([app]).nodes[1].answer(Message(RecordDict(), 1, kind))


def test_control_without_the_filter_an_update_passes(monkeypatch: Any) -> None:
    from secagg.integrations import _flower_client

    monkeypatch.setattr(_flower_client, "_let_pass", lambda reply: reply)
    for what in PASSENGERS:
        assert passing(PASSENGERS[what])("evaluate").content["passenger"] == PASSENGERS[what]


def test_an_evaluation_that_is_held_back_leaves_the_others(caplog: Any) -> None:
    grid = make_grid()
    grid.nodes[4].app = make_app(4, [client_mod(TASK)], extra={"arrays": record()})
    result = start(secure(grid), FedAvg())
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx((1 + 2 + 3 + 5) / 4)
    assert "because of the contents of 'arrays'" in caplog.text


def test_details_of_an_update_stay_in_its_nodes_log(caplog: Any) -> None:
    """Flower sends the text of an error to the server."""
    grid = make_grid()
    reasons = error_texts(grid)
    app = ClientApp(mods=[client_mod(TASK)])

    @app.train()
    def train(message: Any, context: Any) -> Any:
        fresh = record({name: array * np.nan for name, array in MODEL.items()})
        return Message(RecordDict({"a": fresh, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    grid.nodes[1].app = app
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS - 1
    assert len(reasons) == 1
    assert "this node's log says how" in reasons[0]
    assert "finite" not in reasons[0]
    assert "not finite, the first in 'bias'" in caplog.text


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"num-examples": None}, "no whole number for 'num-examples'"),
        ({"num-examples": 1.5}, "no whole number for 'num-examples'"),
        ({"num-examples": 101}, "doesn't fit the task"),
        ({"train_loss": None}, "no number for metric 'train_loss'"),
        ({"train_loss": [1.0]}, "no number for metric 'train_loss'"),
        ({"train_loss": float("nan")}, "doesn't fit the task"),
    ],
)
def test_a_reply_of_the_app_that_does_not_fit_leaves_its_node_out(
    metrics: dict[str, Any], why: str, caplog: Any
) -> None:
    grid = make_grid(metrics=METRICS)
    grid.nodes[2].app = make_app(2, [client_mod(TASK, metrics=METRICS)], **metrics)
    start(secure_grid := secure(grid, metrics=METRICS))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS - 1
    assert why in caplog.text


def test_withheld_metrics_are_named_once_a_node(caplog: Any) -> None:
    result = start(secure(make_grid()), rounds=3)
    assert caplog.text.count("withheld from the server: accuracy, train_loss") == CLIENTS
    assert all(not dict(metrics) for metrics in result.train_metrics_clientapp.values())


# State between messages.


def forgets(grid: LoopbackGrid, node: int) -> Callable[[int, Any], Any]:
    """The SuperNode starts anew before each message."""

    def spoil(receiver: int, request: Any) -> Any:
        if receiver == node:
            grid.nodes[node].context.state = RecordDict()
        return request

    return spoil


def test_a_supernode_that_restarts_without_a_folder_sits_the_round_out() -> None:
    grid = make_grid()
    grid.spoil = forgets(grid, 2)
    start(secure_grid := secure(grid))
    assert secure_grid.outcomes[0].survivors == ("node-1", "node-3", "node-4", "node-5")


def test_a_supernode_that_restarts_with_a_folder_goes_on(tmp_path: Path) -> None:
    grid = make_grid(configs=[{"secagg-dir": str(tmp_path)} if c == 2 else {} for c in range(1, CLIENTS + 1)])
    grid.spoil = forgets(grid, 2)
    start(secure_grid := secure(grid), rounds=2)
    assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [5, 5]
    assert len(list(tmp_path.glob("*.state"))) == 1
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o600


def test_a_replayed_request_gets_the_same_answer_and_no_training() -> None:
    grid = make_grid()
    answers: list[bytes] = []

    def twice(node: int, request: Any) -> Any:
        if node == 1 and "arrays" in request.content:
            again = through_bytes(request)[0]
            first = grid.nodes[1].answer(request)
            answers.append(first.content[_flower_records.MESSAGE]["message"].data)
            trained: list[Any] = []
            grid.nodes[1].app = make_app(9, [client_mod(TASK), lambda m, c, n: trained.append(m)])
            answers.append(grid.nodes[1].answer(again).content[_flower_records.MESSAGE]["message"].data)
            assert not trained
            return again
        return request

    grid.spoil = twice
    start(secure_grid := secure(grid))
    assert answers[0] == answers[1]
    assert len(secure_grid.outcomes) == 1


def abort_of_nothing(task: secagg.Task) -> bytes:
    """What only a server that lies sends: the end of a session that never began."""
    return wire.seal_envelope(
        wire.Abort(), protocol=task.protocol.ID, task=task.digest, session=b"", sender=wire.SERVER
    )


def foreign_proposal(task: secagg.Task) -> bytes:
    cohort = sorted(f"node-{number}" for number in range(1, CLIENTS + 1))
    return next(iter(task.server(cohort, session=b"of another name").start().values()))


BOGUS: dict[str, Callable[[secagg.Task], bytes]] = {
    "noise": lambda task: bytes(100),
    "nothing": lambda task: b"",
    "abort": abort_of_nothing,
    "proposal": foreign_proposal,
}


@pytest.mark.parametrize("protocol", [secagg.SecAgg(threat_model="semi-honest"), secagg.Clear()])
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("what", BOGUS)
def test_a_session_outlives_messages_of_sessions_that_do_not_exist(
    what: str, durable: bool, protocol: Any, tmp_path: Path
) -> None:
    """Before each message a node gets one that names another session, and no genuine proposal of it."""
    task = make_task(protocol)
    folder = {"secagg-dir": str(tmp_path)} if durable else {}
    grid = make_grid(task, [folder if c == 2 else {} for c in range(1, CLIENTS + 1)])
    refused = []

    def spoil(node: int, request: Any) -> Any:
        fields_sent = request.content.get(_flower_records.FIELDS)
        if node == 2 and "session" in fields_sent:
            fields = {"session": b"flower/7/9/%d/" % len(refused) + bytes(32), "number": 9, "attempt": len(refused)}
            content = RecordDict(_flower_records.write(task, BOGUS[what](task), **fields))
            refused.append(grid.nodes[2].answer(Message(content, 2, "train")))
        return request

    grid.spoil = spoil
    start(secure_grid := secure(grid, task), rounds=2)
    assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [5, 5]
    assert refused
    assert all("left the session" in reply.error.reason or "ConfigError" in reply.error.reason for reply in refused)
    assert len(list(tmp_path.glob("*.state"))) == durable


def test_a_state_is_kept_until_the_next_session_has_begun(tmp_path: Path) -> None:
    """It is not kept longer, because it may hold an update."""
    grid = make_grid(configs=[{"secagg-dir": str(tmp_path)} if c == 2 else {} for c in range(1, CLIENTS + 1)])
    seen: list[tuple[str, ...]] = []

    def tamper(node: int, reply: Any) -> Any:
        if node == 2:
            seen.append(tuple(sorted(path.name for path in tmp_path.glob("*.state"))))
        return reply

    grid.tamper = tamper
    start(secure(grid), rounds=2)
    assert {len(result) for result in seen} == {0, 1}
    assert len({result for result in seen if result}) == 2


NO_FOLDER = "a node without secagg-dir in its config"


@pytest.mark.parametrize("protocol", [WITH_ROSTER, secagg.SecAggPlus(), secagg.AdditiveShares()])
def test_a_node_that_could_contradict_itself_takes_no_part(protocol: Any, tmp_path: Path, caplog: Any) -> None:
    task = make_task(protocol, min_survivors=4)
    roster, configs, parties = enrol(task, tmp_path)
    del configs[1]["secagg-dir"]
    start(secure_grid := secure(make_grid(task, configs), task, roster=roster, parties=parties))
    assert secure_grid.outcomes[0].survivors == ("c1", "c3", "c4", "c5")
    assert NO_FOLDER in caplog.text
    for config in configs:
        config.pop("secagg-dir", None)
    grid = make_grid(task, configs)
    start(secure_grid := secure(grid, task, roster=roster, parties=parties))
    assert NO_FOLDER in the_error(caplog)
    assert not nodes_with_the_model(grid)


def two_at_once(folder: Path, durable: bool) -> list[Any]:
    """Answers of one node to two proposals of one session's name, from processes that start at once."""
    task = make_task(WITH_ROSTER, min_survivors=4)
    roster, configs, _ = enrol(task, folder)
    if not durable:
        del configs[0]["secagg-dir"]
    node = make_grid(task, configs).nodes[1]
    name = session_name("flower", RUN, 1, 1, model=bytes(32), request=bytes(32))
    before, answers = context_to_proto(node.context), []
    for _ in range(2):
        server = task.server([f"c{number}" for number in range(1, CLIENTS + 1)], roster=roster, session=name)
        fields = {"session": name, "number": 1, "attempt": 1}
        content = RecordDict(_flower_records.write(task, server.start()["c1"], **fields))
        node.context = context_from_proto(before)
        answers.append(node.answer(through_bytes(Message(content, 1, "train"))[0]))
    return answers


def test_two_requests_at_once_get_one_answer(tmp_path: Path) -> None:
    assert [reply.has_error() for reply in two_at_once(tmp_path, True)] == [False, True]


def test_two_requests_at_once_get_no_answer_without_a_folder(tmp_path: Path) -> None:
    """No server has to let its nodes introduce themselves first."""
    answers = two_at_once(tmp_path, False)
    assert all(NO_FOLDER in reply.error.reason for reply in answers)


def test_control_in_the_context_two_requests_get_two_answers(tmp_path: Path, monkeypatch: Any) -> None:
    from secagg.integrations import _flower_client

    monkeypatch.setattr(_flower_client._Node, "check_storage", lambda self: None)
    first, second = two_at_once(tmp_path, False)
    assert first.content[_flower_records.MESSAGE] != second.content[_flower_records.MESSAGE]


def with_folders(folder: Path) -> list[dict[str, str]]:
    paths = [folder / f"{number}" for number in range(1, CLIENTS + 1)]
    for path in paths:
        path.mkdir(exist_ok=True)
    return [{"secagg-dir": str(path)} for path in paths]


def test_each_run_may_begin_with_the_same_model(tmp_path: Path, monkeypatch: Any) -> None:
    """One folder a node for all of them, and one first model, as where a deployment is started again."""
    for run in range(RUN + 1, RUN + 4):
        in_run(monkeypatch, run)
        start(secure_grid := secure(make_grid(configs=with_folders(tmp_path))))
        assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [CLIENTS]


def test_restarted_nodes_give_no_third_upload_in_a_run(tmp_path: Path, caplog: Any) -> None:
    for number in (1, 2, 3):
        start(secure_grid := secure(make_grid(configs=with_folders(tmp_path))), Asks(number))
        assert len(secure_grid.outcomes) == (number < 3)
    assert "upload 3 from one model; this client gives 2" in the_error(caplog)


def test_a_changed_last_bit_is_another_model(caplog: Any) -> None:
    """The limit of counting uploads by model, as docs/flower.md states it: it stops no server that lies."""
    grid = make_grid()
    all_silent_after_input(grid)
    secure_grid = secure(grid)
    for bits in range(3):
        model = {"conv": MODEL["conv"] + np.spacing(MODEL["conv"]) * bits, "bias": MODEL["bias"]}
        start(secure_grid, model=record(model))
    assert "upload 3" not in caplog.text
    assert sum("arrays" in heard for heard in grid.nodes[1].requests) == 3


# Who is who.


def test_signatures_decide_which_node_has_an_id(tmp_path: Path) -> None:
    """Node 1 says that it is c2, in a roster of its own making: c2's input is in the sum, the impostor's isn't."""
    task = make_task(WITH_ROSTER, min_survivors=4)
    roster, configs, _ = enrol(task, tmp_path)
    keys, false_roster = identity.enrol(roster)
    pem = keys["c2"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "impostor.pem").write_bytes(pem)
    (tmp_path / "impostor.json").write_text(false_roster.to_json())
    paths = {"secagg-key": str(tmp_path / "impostor.pem"), "secagg-roster": str(tmp_path / "impostor.json")}
    configs[0] |= {"secagg-id": "c2", **paths}
    grid = make_grid(task, configs)

    def tamper(node: int, reply: Any) -> Any:
        introduces = node == 1 and not reply.has_error() and "roster" in reply.content[_flower_records.FIELDS]
        return change_fields(roster=roster.digest)(node, reply) if introduces else reply

    grid.tamper = tamper
    start(secure_grid := secure(grid, task, roster=roster), rounds=2)
    assert secure_grid.outcomes[0].survivors == ("c2", "c3", "c4", "c5")
    assert any((fault.sender, fault.kind) == ("c2", "unauthentic") for fault in secure_grid.outcomes[0].faults)
    assert not secure_grid.outcomes[1].faults
    assert secure_grid._rounds.proven["c2"] == 2


def test_a_config_that_does_not_fit_is_named(tmp_path: Path, caplog: Any) -> None:
    task = make_task(WITH_ROSTER, min_survivors=4)
    roster, configs, _ = enrol(task, tmp_path)
    configs[0]["secagg-key"] = configs[1]["secagg-key"]
    del configs[1]["secagg-roster"]
    start(secure_grid := secure(make_grid(task, configs), task, roster=roster))
    assert not secure_grid.outcomes
    error = the_error(caplog)
    assert "node 1: this node can't take part with its config and files; its log says why" in error
    assert (
        "node 2: got settings without secagg-roster; set the paths of c2's key and the roster in its node" in error
    )
    assert "not the one the roster lists for c1" in caplog.text


def test_an_aggregator_that_fails_ends_the_round_in_one_line(tmp_path: Path, caplog: Any) -> None:
    task = make_task(secagg.AdditiveShares(), min_survivors=4)
    roster, configs, parties = enrol(task, tmp_path)

    def broken(data: bytes) -> bytes:
        raise TimeoutError("no route")

    start(
        secure_grid := secure(
            make_grid(task, configs), task, roster=roster, parties=parties | {"aggregator2": broken}
        )
    )
    assert "aggregator2: TimeoutError: no route" in the_error(caplog)
    assert not secure_grid.outcomes


def test_arrays_are_read_without_a_copy_and_pickles_not_at_all() -> None:
    array = Array(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    result = _flower_records.arrays_of({"w": array})["w"]
    np.testing.assert_array_equal(result, np.arange(6.0).reshape(2, 3))
    assert not result.flags.owndata
    header = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    )
    for data in (header + bytes(8), array.data[:-1], b"", b"\x93NUMPY\x09\x00"):
        with pytest.raises(secagg.EncodingError, match="can't be read"):
            _flower_records.arrays_of({"w": Array("float64", (1,), "numpy.ndarray", data)})

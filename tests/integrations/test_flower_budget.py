"""A node's privacy budget in Flower: charged before an input leaves, on the disk, and final."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from dp.ledger import Spent

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from bench.loopback import LoopbackGrid, through_bytes
from secagg.integrations._shared import budget as budgets
from secagg.integrations.flower import client_mod, layout_of
from secagg.store import FileLedger
from tests.integrations.apps import CLIENTS, TASK, make_app, make_task, secure, start, the_error

SIZE, DELTA = 64, 1e-5
MODEL = ArrayRecord({"w": Array(np.zeros(SIZE))})
NOISED = make_task(
    layout=layout_of(MODEL),
    encoding=dp.DistributedGaussian(l2_clip=2.0, noise_multiplier=1.1, bits=18),
    max_weight=None,
    min_survivors=4,
)
FOR_TWO = NOISED.encoder.epsilon(SIZE, rounds=2) * 1.001  # type: ignore[attr-defined]
ONE_MESSAGE = "this node's privacy budget does not allow another input"
BOUND = 2  # the node with a budget


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {"secagg-dir": str(folder), "secagg-epsilon": FOR_TWO, "secagg-delta": DELTA}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def make_grid(config: dict[str, Any], task: secagg.Task = NOISED) -> LoopbackGrid:
    """SuperNodes that have just been started, one of them with ``config``."""
    apps = [make_app(c, [client_mod(task)]) for c in range(1, CLIENTS + 1)]
    return LoopbackGrid(apps, [config if c == BOUND else {} for c in range(1, CLIENTS + 1)])


def report(folder: Path) -> Spent:
    ledger = dp.PrivacyLedger.open(folder / "privacy.json", FOR_TWO, DELTA, unit="client", trust="distributed")
    return ledger.report()


def survivors(secure_grid: Any) -> list[int]:
    return [len(outcome.survivors) for outcome in secure_grid.outcomes]


def trainings(grid: LoopbackGrid) -> int:
    return sum("arrays" in content for content in grid.nodes[BOUND].requests)


@pytest.mark.parametrize("protocol", [secagg.SecAgg(threat_model="semi-honest"), secagg.Clear()])
def test_the_round_that_would_exceed_the_budget_goes_on_without_the_node(
    protocol: Any, tmp_path: Path, caplog: Any
) -> None:
    task = make_task(
        protocol,
        layout=NOISED.layout,
        encoding=NOISED.encoding,
        max_weight=None,
        min_survivors=NOISED.min_survivors,
    )
    for_two = task.encoder.epsilon(SIZE, rounds=2) * 1.001  # type: ignore[attr-defined]
    grid = make_grid(settings(tmp_path, **{"secagg-epsilon": for_two}), task)
    start(secure_grid := secure(grid, task), rounds=3, model=MODEL)
    assert survivors(secure_grid) == [5, 5, 4]
    (line,) = [text for text in caplog.messages if text.startswith("secagg: round") and ONE_MESSAGE in text]
    assert line.startswith("secagg: round 3 went on, without node-2: got a request")
    assert "\n" not in line
    assert f"{for_two:.4g}" not in line  # what it has is the node's own business


def test_control_without_a_budget_it_goes_on(tmp_path: Path) -> None:
    grid = make_grid(settings(tmp_path, **{"secagg-epsilon": None, "secagg-delta": None}))
    start(secure_grid := secure(grid, NOISED), rounds=3, model=MODEL)
    assert survivors(secure_grid) == [5, 5, 5]
    assert not (tmp_path / "privacy.json").exists()


def test_a_budget_outlives_process_and_supernode(tmp_path: Path, caplog: Any) -> None:
    """Another run, in which nothing is left of the first one but the folder."""
    first, second = make_grid(settings(tmp_path)), make_grid(settings(tmp_path))
    result = start(secure_grid := secure(first, NOISED), rounds=1, model=MODEL)
    start(again := secure(second, NOISED), rounds=2, model=result.arrays)
    assert (survivors(secure_grid), survivors(again)) == ([5], [5, 4])
    assert (trainings(first), trainings(second)) == (1, 1)
    spent = report(tmp_path)
    assert spent.releases == 2
    assert spent.epsilon_against_sampler <= FOR_TWO
    assert (tmp_path / "privacy.json").stat().st_mode & 0o777 == 0o600


def test_an_input_is_charged_before_it_leaves(tmp_path: Path) -> None:
    grid = make_grid(settings(tmp_path))
    charged: list[int] = []

    def tamper(node: int, reply: Any) -> Any:
        if node == BOUND and "arrays" in grid.nodes[BOUND].requests[-1]:
            charged.append(report(tmp_path).releases)
        return reply

    grid.tamper = tamper
    start(secure(grid, NOISED), rounds=2, model=MODEL)
    assert charged == [1, 2]


def test_a_request_that_is_repeated_is_charged_once(tmp_path: Path) -> None:
    grid = make_grid(settings(tmp_path))

    def twice(node: int, request: Any) -> Any:
        if node == BOUND and "arrays" in request.content:
            again = through_bytes(request)[0]
            grid.nodes[BOUND].answer(request)
            return again
        return request

    grid.spoil = twice
    start(secure_grid := secure(grid, NOISED), rounds=1, model=MODEL)
    assert survivors(secure_grid) == [5]
    assert report(tmp_path).releases == 1


def test_a_retry_is_charged_again(tmp_path: Path) -> None:
    """The first round's answers are lost once updates have left; the second starts from the same model."""
    grid = make_grid(settings(tmp_path))

    def tamper(node: int, reply: Any) -> Any:
        config = grid.nodes[node].requests[-1].get("config")
        return None if config and config["server-round"] == 1 else reply

    grid.tamper = tamper
    start(secure_grid := secure(grid, NOISED), rounds=2, model=MODEL)
    assert survivors(secure_grid) == [5]
    assert report(tmp_path).releases == 2


def test_where_no_budget_allows_a_round_it_ends_in_one_line(tmp_path: Path, caplog: Any) -> None:
    configs = []
    for number in range(1, CLIENTS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        configs.append(settings(folder, **{"secagg-epsilon": FOR_TWO / 4}))
    grid = LoopbackGrid([make_app(c, [client_mod(NOISED)]) for c in range(1, CLIENTS + 1)], configs)
    start(secure_grid := secure(grid, NOISED), model=MODEL)
    assert not secure_grid.outcomes
    assert ONE_MESSAGE in the_error(caplog)
    assert trainings(grid) == 0


def test_an_account_assumes_one_kind_of_trust(tmp_path: Path) -> None:
    """Where the server reads each term others' noise hides nothing, and such figures add up with no others."""
    shown = make_task(
        secagg.Clear(), layout=NOISED.layout, encoding=NOISED.encoding, max_weight=None, min_survivors=4
    )
    start(secure_grid := secure(make_grid(settings(tmp_path)), NOISED), rounds=1, model=MODEL)
    start(other := secure(make_grid(settings(tmp_path), shown), shown), rounds=1, model=MODEL)
    assert (survivors(secure_grid), survivors(other)) == ([5], [4])
    assert report(tmp_path).releases == 1
    (fresh := tmp_path / "fresh").mkdir()
    start(alone := secure(make_grid(settings(fresh), shown), shown), rounds=1, model=MODEL)
    assert survivors(alone) == [5], "the control: in an account of its own it pays"


CENTRAL = make_task(
    layout=NOISED.layout,
    encoding=dp.CentralGaussian(l2_clip=2.0, noise_multiplier=1.1, bits=18),
    max_weight=None,
    min_survivors=4,
)


@pytest.mark.parametrize(
    ("changes", "task", "why"),
    [
        ({"secagg-delta": None}, NOISED, "expected both"),
        ({"secagg-epsilon": None}, NOISED, "expected both"),
        ({"secagg-dir": None}, NOISED, "secagg-dir"),
        ({"secagg-epsilon": "eight"}, NOISED, "expected a finite number"),
        ({"secagg-delta": 2.0}, NOISED, "expected a number above 0"),
        ({}, TASK, "without noise"),
        ({}, CENTRAL, "in which the server adds the noise"),
    ],
)
def test_a_budget_that_can_not_hold_keeps_its_node_out(
    changes: dict[str, Any], task: secagg.Task, why: str, tmp_path: Path, caplog: Any
) -> None:
    grid = make_grid(settings(tmp_path, **changes), task)
    start(secure_grid := secure(grid, task), model=None if task is TASK else MODEL)
    assert survivors(secure_grid) == [4]
    assert why in caplog.text
    assert trainings(grid) == 0


EVALUATION = "an evaluation or a query at a node with a privacy budget"


@pytest.mark.parametrize("kind", ["evaluate", "query"])
@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, False),
        ({"secagg-evaluate": False}, False),
        ({"secagg-evaluate": "false"}, False),
        ({"secagg-delta": None}, False),
        ({"secagg-evaluate": True}, True),
        ({"secagg-epsilon": None, "secagg-delta": None}, True),
    ],
)
def test_an_answer_without_noise_leaves_only_if_the_operator_allows_it(
    changes: dict[str, Any], passes: bool, kind: str, tmp_path: Path
) -> None:
    grid, calls = make_grid(settings(tmp_path, **changes)), []

    def record_call(message: Any, context: Any, call_next: Any) -> Any:
        calls.append(message)
        return call_next(message, context)

    app = make_app(BOUND, [client_mod(NOISED), record_call])
    app.query()(lambda message, context: Message(RecordDict({"m": MetricRecord({"a": 1})}), reply_to=message))
    grid.nodes[BOUND].app = app
    (reply,) = secure(grid, NOISED).send_and_receive([Message(RecordDict(), BOUND, kind)], timeout=1.0)
    assert len(calls) == passes
    if passes:
        assert reply.has_content()
    else:
        assert EVALUATION in reply.error.reason


def test_a_run_with_evaluations_goes_on_without_that_nodes(tmp_path: Path) -> None:
    result = start(secure_grid := secure(make_grid(settings(tmp_path)), NOISED), FedAvg(), model=MODEL)
    assert survivors(secure_grid) == [5]
    others = [c for c in range(1, CLIENTS + 1) if c != BOUND]
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx(np.mean(others))


LOST = {
    "deleted": lambda path, older: path.unlink(),
    "an older copy": lambda path, older: path.write_bytes(older),
    "a new account": lambda path, older: (path.unlink(), report(path.parent)),
}


@pytest.mark.parametrize("how", LOST)
def test_a_lost_account_begins_no_new_budget(how: str, tmp_path: Path, caplog: Any) -> None:
    """The ledger beside it, which counts what was charged, is the older one's and stays."""
    account = tmp_path / "privacy.json"
    start(secure(make_grid(settings(tmp_path)), NOISED), rounds=1, model=MODEL)
    older = account.read_bytes()
    start(secure(make_grid(settings(tmp_path)), NOISED), rounds=1, model=ArrayRecord({"w": Array(np.ones(SIZE))}))
    assert report(tmp_path).releases == 2
    LOST[how](account, older)
    grid = make_grid(settings(tmp_path))
    start(secure_grid := secure(grid, NOISED), rounds=1, model=MODEL)
    assert survivors(secure_grid) == [4]
    assert trainings(grid) == 0
    assert "these data" in caplog.text
    assert account.exists() == (how != "deleted"), "no full budget may lie there for the next app that looks"


@pytest.mark.parametrize("how", LOST)
def test_control_without_the_count_a_lost_account_is_a_new_budget(
    how: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(budgets, "_count", lambda ledger: 0)
    account = tmp_path / "privacy.json"
    start(secure(make_grid(settings(tmp_path)), NOISED), rounds=1, model=MODEL)
    older = account.read_bytes()
    for number in (1, 2):
        LOST[how](account, older)
        model = ArrayRecord({"w": Array(np.full(SIZE, float(number)))})
        start(secure_grid := secure(make_grid(settings(tmp_path)), NOISED), rounds=1, model=model)
        assert survivors(secure_grid) == [5], "three inputs have left under a budget for two"
    assert report(tmp_path).releases <= 2


def test_a_charge_whose_node_died_before_it_was_counted_is_counted_later(tmp_path: Path, monkeypatch: Any) -> None:
    """Its answer had not left: it leaves when the same request comes again, and is counted before."""
    grid = make_grid(settings(tmp_path))
    died = []

    def dies(budget: Any, ledger: Any) -> None:
        if budget.report().releases and not died:
            died.append(budget)
            raise OSError("its node has died")
        count_charges(budget, ledger)

    def again(node: int, request: Any) -> Any:
        if node == BOUND and "arrays" in request.content:
            first = grid.nodes[BOUND].answer(through_bytes(request)[0])
            assert first.has_error()
        return request

    count_charges = budgets.count_charges
    monkeypatch.setattr(budgets, "count_charges", dies)
    grid.spoil = again
    start(secure_grid := secure(grid, NOISED), rounds=1, model=MODEL)
    assert survivors(secure_grid) == [5]
    assert died
    with FileLedger(tmp_path / "ledger") as ledger:
        assert budgets._count(ledger) == report(tmp_path).releases == 1


def test_a_larger_budget_goes_on_from_what_was_spent(tmp_path: Path) -> None:
    """As :meth:`dp.PrivacyLedger.open` says; the count takes it for the account that it is."""
    start(secure(make_grid(settings(tmp_path)), NOISED), rounds=2, model=MODEL)
    account = tmp_path / "privacy.json"
    larger = dp.PrivacyLedger.from_bytes(account.read_bytes())
    larger.epsilon = 2 * FOR_TWO
    account.write_bytes(larger.to_bytes())
    grid = make_grid(settings(tmp_path, **{"secagg-epsilon": 2 * FOR_TWO}))
    start(secure_grid := secure(grid, NOISED), rounds=1, model=ArrayRecord({"w": Array(np.ones(SIZE))}))
    assert survivors(secure_grid) == [5]


def test_a_saved_session_is_not_resumed_without_its_budget(tmp_path: Path, caplog: Any) -> None:
    grid = make_grid(settings(tmp_path))

    def spoil(node: int, request: Any) -> Any:
        if node == BOUND and "arrays" in request.content:
            grid.nodes[BOUND].context.node_config.pop("secagg-epsilon")
            grid.nodes[BOUND].context.node_config.pop("secagg-delta")
        return request

    grid.spoil = spoil
    start(secure_grid := secure(grid, NOISED), model=MODEL)
    assert survivors(secure_grid) == [4]
    assert "no budget" in caplog.text

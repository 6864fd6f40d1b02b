"""Flower's strategies beside the rules here: equal where Flower does what the papers say, and by how much not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from bench import loopback
from secagg.federated import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, ServerOptimizer
from secagg.federated.optimizers import Moments

ROUNDS, SIZE = 12, 40
EARLY = {"tau": 1e-3, "eta": 0.03}
ADAPTIVE = EARLY | {"beta_1": 0.9, "beta_2": 0.99}


@pytest.fixture(autouse=True)
def run_of_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made in a run alone."""
    monkeypatch.setattr(loopback.TaskIdentity, "_run_id", 1)


class NoGrid:
    """A grid of nodes that are never asked: the replies are given to the strategy directly."""

    def get_node_ids(self) -> list[int]:
        return [1, 2]


def replies(models: Sequence[np.ndarray[Any, Any]]) -> list[Message]:
    """What nodes send back that trained to ``models``, with one example each."""
    messages = []
    for number, model in enumerate(models, 1):
        content = RecordDict(
            {"arrays": ArrayRecord({"w": Array(model)}), "metrics": MetricRecord({"num-examples": 1})}
        )
        asked = Message(RecordDict(), dst_node_id=number, message_type="train")
        messages.append(Message(content, reply_to=asked))
    return messages


def changes(server_round: int) -> np.ndarray[Any, Any]:
    """What two clients changed; one coordinate never."""
    updates = np.random.default_rng(server_round).normal(0, 0.2, (2, SIZE))
    updates[:, 0] = 0
    return updates


def flowers(strategy: Any) -> list[np.ndarray[Any, Any]]:
    """The weights after each round of a Flower strategy."""
    weights, models = np.ones(SIZE), []
    for server_round in range(1, ROUNDS + 1):
        arrays = ArrayRecord({"w": Array(weights)})
        list(strategy.configure_train(server_round, arrays, ConfigRecord(), NoGrid()))
        after, _ = strategy.aggregate_train(server_round, replies(weights + changes(server_round)))
        weights = after["w"].numpy()
        models.append(weights)
    return models


def ours(optimizer: ServerOptimizer, v: float | None = None) -> list[np.ndarray[Any, Any]]:
    """The weights after each round here; ``v`` in place of the paper's τ², to see what that alone changes."""
    weights = np.ones(SIZE)
    state, models = optimizer.start(weights), []
    if v is not None:
        object.__setattr__(state, "moments", Moments(state.moments.m, np.full(SIZE, v)))
    for server_round in range(1, ROUNDS + 1):
        weights, state = optimizer.step(weights, changes(server_round).mean(axis=0), state)
        models.append(weights)
    return models


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        (lambda: flower.FedAvg(), FedAvg()),
        (lambda: flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.8), FedAvgM(0.7, momentum=0.8)),
    ],
    ids=["FedAvg", "FedAvgM"],
)
def test_flower_averages_and_has_momentum_as_the_papers_do(strategy: Any, optimizer: ServerOptimizer) -> None:
    np.testing.assert_allclose(ours(optimizer), flowers(strategy()), rtol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        (lambda: flower.FedAdagrad(**EARLY), FedAdagrad(0.03, tau=1e-3)),
        (lambda: flower.FedYogi(**ADAPTIVE), FedYogi(0.03, tau=1e-3)),
    ],
    ids=["FedAdagrad", "FedYogi"],
)
def test_flower_differs_from_the_paper_in_where_v_starts(strategy: Any, optimizer: ServerOptimizer) -> None:
    """At 0, where the paper has at least τ²; with v set to 0 here the two are one."""
    theirs = flowers(strategy())
    np.testing.assert_allclose(ours(optimizer, v=0.0), theirs, rtol=1e-11)
    apart = np.abs(np.array(ours(optimizer)) - theirs)
    assert apart.max() > 1e-7
    assert not apart[:, 0].any()  # the weight that nobody changed


def test_flower_corrects_the_bias_of_adam_one_round_late() -> None:
    """Its rate has β^(t+1) in round t, Kingma and Ba β^t, Reddi et al. nothing: the steps differ by that factor."""
    theirs = np.array(flowers(flower.FedAdam(**ADAPTIVE)))
    mine = np.array(ours(FedAdam(0.03, tau=1e-3), v=0.0))
    t = np.arange(1, ROUNDS + 1)[:, None]
    factor = np.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
    steps, expected = (np.diff(models, axis=0, prepend=np.ones((1, SIZE))) for models in (theirs, mine))
    np.testing.assert_allclose(steps, factor * expected, rtol=1e-9, atol=1e-14)
    assert factor[0] == pytest.approx(0.7425, abs=1e-3)
    assert np.abs(theirs - ours(FedAdam(0.03, tau=1e-3))).max() > 1e-3

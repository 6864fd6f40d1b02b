"""Adaptive clipping under masks: the bits that steer the clip are one more coordinate of the noised sum."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dp
import secagg
from secagg.table import input_round

CLIENTS, SIZE, ROUNDS, RUNS = 12, 10, 30, 100
IDS = [f"c{i:02}" for i in range(CLIENTS)]
NORMS = np.sort(np.random.default_rng(7).lognormal(0.5, 0.25, CLIENTS))
DOCUMENT = Path(__file__).parents[2] / "docs" / "privacy.md"


def updates(number: int) -> dict[str, NDArray[np.float64]]:
    """Every client's update in a round: of its own norm, in a new direction."""
    directions = np.random.default_rng(number).normal(size=(CLIENTS, SIZE))
    rows = directions / np.linalg.norm(directions, axis=1, keepdims=True) * NORMS[:, None]
    return dict(zip(IDS, rows, strict=True))


def clip_of(quantile: float, start: float) -> dp.AdaptiveClip:
    return dp.AdaptiveClip(0.8, CLIENTS / 20, clip=start, quantile=quantile, learning_rate=0.4)


def task_for(adaptive: dp.AdaptiveClip, protocol: Any = None) -> secagg.Task:
    return secagg.Task(
        protocol=protocol or secagg.SecAgg(corruption=0.1),
        layout=secagg.Layout.of(np.zeros(SIZE + 1)),
        encoding=dp.DistributedGaussian(1.0, adaptive.noise_multiplier, 20),
        max_clients=CLIENTS,
        min_survivors=CLIENTS - 1,
    )


def budgets() -> dict[str, dp.PrivacyLedger]:
    return {party: dp.PrivacyLedger(500.0, 1e-5, unit="client", trust="distributed") for party in IDS}


def play(adaptive: dp.AdaptiveClip, held: Any = None, *, sign: int = 1, count: int = ROUNDS) -> float:
    """The clip after all rounds, in each of which another client falls silent; ``sign`` -1 turns the bits round."""
    task = task_for(adaptive)
    for number in range(count):
        vectors = {party: adaptive.encode(update) for party, update in updates(number).items()}
        for vector in vectors.values():
            vector[-1] *= sign
        silent = {IDS[number % CLIENTS]: input_round(task.protocol)}
        name = b"round %d" % number
        outcome = secagg.simulate(task, vectors, budgets=held, session=name, dropouts=silent)
        assert len(outcome.survivors) == CLIENTS - 1
        _, adaptive = adaptive.decode(outcome.sum, len(outcome.survivors))
    return adaptive.clip


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 0.1), (0.5, 20.0), (0.8, 0.5)])
def test_the_clip_finds_the_quantile_under_masks(quantile: float, start: float) -> None:
    """About 0.02 of noise in log(clip), and 0.1 for who is silent: within a third is more than three times both."""
    expected = pytest.approx(float(np.quantile(NORMS, quantile)), rel=0.35)
    assert start != expected
    assert play(clip_of(quantile, start)) == expected


@pytest.mark.parametrize("start", [0.1, 20.0])
def test_control_with_the_bits_turned_round_the_clip_runs_away(start: float) -> None:
    clip, median = play(clip_of(0.5, start), sign=-1, count=ROUNDS // 2), float(np.median(NORMS))
    assert not median / 10 < clip < median * 10
    assert abs(np.log(clip / median)) > abs(np.log(start / median)) + 1, "and farther than it began"


def test_update_and_bit_are_charged_together() -> None:
    """The ledger is charged for noise z on all coordinates; the update alone would have cost less."""
    adaptive, held = clip_of(0.5, 1.0), budgets()
    play(adaptive, held, count=4)
    encoder: Any = task_for(adaptive).encoder
    alone = replace(encoder, noise_multiplier=adaptive.update_noise_multiplier)
    spent = {party: held[party].spent for party in IDS}
    assert spent[IDS[-1]] == pytest.approx(encoder.epsilon(SIZE + 1, rounds=4))
    assert spent[IDS[0]] == pytest.approx(encoder.epsilon(SIZE + 1, rounds=3)), "silent once"
    assert spent[IDS[-1]] > 1.2 * alone.epsilon(SIZE, rounds=4)


def test_the_bit_is_noised_by_the_clients_as_much_as_is_stated() -> None:
    """All norms are below the clip, so what the bits' sum varies by is noise: bit_noise for those guaranteed.

    The clients' noise is the same in each protocol; of a hundred sessions, those of AdditiveShares cost the least.
    """
    adaptive = replace(clip_of(0.5, 50.0), learning_rate=1.0)
    task = task_for(adaptive, secagg.AdditiveShares(corruption=0.1))
    vectors = {party: adaptive.encode(update) for party, update in updates(0).items()}
    counts = []
    for number in range(RUNS):
        outcome = secagg.simulate(task, vectors, session=b"%d" % number)
        _, after = adaptive.decode(outcome.sum, CLIENTS)
        counts.append(CLIENTS * (0.5 - np.log(after.clip / adaptive.clip)))
    width = adaptive.bit_noise * np.sqrt(CLIENTS / task.honest)
    assert abs(np.std(counts) / width - 1) < 6 / np.sqrt(2 * RUNS)
    assert abs(np.mean(counts) - CLIENTS) < 6 * width / np.sqrt(RUNS)


def test_what_the_document_shows() -> None:
    """Its snippet, run as it stands: the clip moves towards the norms, and all pay for all rounds."""
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    update = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}
    rng = np.random.default_rng(0)

    def trained(client: str, model: Any) -> Any:
        return {"w": model["w"] + rng.normal(0, 1, (2, 3)), "b": model["b"] + rng.normal(0, 1, 2)}

    ids = [f"c{i:02}" for i in range(20)]
    held = {client: dp.PrivacyLedger(100.0, 1e-5, unit="client", trust="distributed") for client in ids}
    names: dict[str, Any] = {"model": update, "clients": ids, "trained": trained, "budgets": held}
    exec(snippet, names)
    adaptive, task = names["adaptive"], names["task"]
    assert 0.4 < adaptive.clip < 1.2
    assert len({budget.spent for budget in held.values()}) == 1
    assert held["c00"].spent == pytest.approx(task.encoder.epsilon(9, rounds=20))
    assert {leaf: array.shape for leaf, array in names["model"].items()} == {"w": (2, 3), "b": (2,)}
    assert names["model"]["w"].any()

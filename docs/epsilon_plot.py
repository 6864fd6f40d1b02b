"""Accuracy against epsilon on handwritten digits, by real sessions: ``python -m docs.epsilon_plot``.

Forty clients train one softmax regression on scikit-learn's digits by DP-FedAvg: in each of ten rounds every
client takes a few steps on its own digits, shortens its update to the clip, and adds its share of the noise. Four
clients fall silent in each round. ``secagg.simulate`` runs every round under ``AdditiveShares``; all protocols
return the same sums. A seed decides how the digits are dealt and who falls silent; the noise is fresh. The script
writes docs/gallery/epsilon.json and draws docs/gallery/epsilon.svg; with ``--draw`` it only draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import secagg
from bench.report import machine, versions, write_json
from dp import DistributedGaussian
from secagg.table import input_round

RESULTS = Path(__file__).parent / "gallery" / "epsilon.json"
PICTURE = RESULTS.with_suffix(".svg")
CLIENTS, SILENT, ROUNDS, STEPS, RATE, CLIP = 40, 4, 10, 5, 0.5, 0.5
EPSILONS, SEEDS, DELTA = (1, 2, 4, 8, 16, 32), 5, 1e-5
PROTOCOL = secagg.AdditiveShares()
Matrix = NDArray[np.float64]


def digits(seed: int) -> tuple[list[tuple[Matrix, NDArray[np.int64]]], tuple[Matrix, NDArray[np.int64]]]:
    """The digits of each client, and those of the test; every digit has 64 pixels from 0 to 1, and a constant."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.hstack([images / 16, np.ones((len(images), 1))])
    order = np.random.default_rng(seed).permutation(len(pixels))
    test, rest = order[:360], order[360:]
    dealt = np.array_split(rest, CLIENTS)
    return [(pixels[part], labels[part]) for part in dealt], (pixels[test], labels[test])


def update(weights: Matrix, pixels: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """What a client sends: the change of the weights by a few steps of gradient descent."""
    new = weights.copy()
    for _ in range(STEPS):
        scores = pixels @ new
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        odds[np.arange(len(labels)), labels] -= 1
        new -= RATE * pixels.T @ odds / len(labels)
    return new - weights


def task(epsilon: float | None, size: int) -> secagg.Task:
    """The task of all rounds, whose noise keeps them within ``epsilon`` together; None: no noise."""
    layout, floor = secagg.Layout.of(np.zeros(size)), CLIENTS - SILENT
    if epsilon is None:
        return secagg.Task(PROTOCOL, layout, secagg.FixedPoint(clip=CLIP, bits=16), CLIENTS, floor)
    start = DistributedGaussian(l2_clip=CLIP, noise_multiplier=1.0, bits=20, delta=DELTA)
    encoder: Any = secagg.Task(PROTOCOL, layout, start, CLIENTS, floor).encoder
    return secagg.Task(PROTOCOL, layout, encoder.with_epsilon(epsilon, size, rounds=ROUNDS), CLIENTS, floor)


def accuracy(seed: int, epsilon: float | None) -> float:
    """The accuracy on the test's digits after a whole training, in per cent."""
    clients, (pixels, labels) = digits(seed)
    silent = np.random.default_rng([seed, 1])
    weights = np.zeros((pixels.shape[1], 10))
    agreed = task(epsilon, weights.size)
    for number in range(ROUNDS):
        updates = {f"c{i}": _shortened(update(weights, *own)) for i, own in enumerate(clients)}
        gone = {f"c{i}": input_round(PROTOCOL) for i in silent.choice(CLIENTS, SILENT, replace=False)}
        outcome = secagg.simulate(agreed, updates, dropouts=gone, session=b"round %d" % number)
        weights = weights + np.asarray(outcome.mean).reshape(weights.shape)
    return float(100 * np.mean((pixels @ weights).argmax(axis=1) == labels))


def _shortened(change: Matrix) -> Matrix:
    """The update with a norm of at most the clip, as the noised encoding shortens it, for the training without."""
    flat = change.ravel()
    return flat * min(1.0, CLIP / float(np.linalg.norm(flat)))


def train() -> dict[str, Any]:
    """All trainings."""
    curve = {}
    for epsilon in (None, *EPSILONS):
        curve[str(epsilon)] = [accuracy(seed, epsilon) for seed in range(SEEDS)]
        print(f"epsilon {epsilon}: " + ", ".join(f"{value:.1f} %" for value in curve[str(epsilon)]), flush=True)
    return curve


def draw(curve: dict[str, Sequence[float]]) -> None:
    """The mean over the seeds by epsilon, with the least and the greatest accuracy as a bar."""
    from docs.gallery_plots import axes_of, save

    figure, axes = axes_of(7.2, 4.2)
    exact = float(np.mean(curve["None"]))
    axes.axhline(exact, color="#777777", linewidth=1.2, linestyle="--")
    axes.text(EPSILONS[0], exact + 1.2, f"without noise: {exact:.1f} %", color="#444444")
    rows = np.array([curve[str(epsilon)] for epsilon in EPSILONS])
    middle = rows.mean(axis=1)
    reach = [middle - rows.min(axis=1), rows.max(axis=1) - middle]
    axes.errorbar(EPSILONS, middle, reach, marker="o", color="#1f4e79", linewidth=1.8, elinewidth=1, capsize=3)
    for epsilon, value in zip(EPSILONS, middle, strict=True):
        axes.annotate(f"{value:.0f} %", (epsilon, value), xytext=(8, -13), textcoords="offset points", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(EPSILONS, [str(epsilon) for epsilon in EPSILONS])
    axes.set_ylim(0, 103)
    axes.set_xlabel(f"epsilon of the {ROUNDS} rounds together, at delta {DELTA:g}, for all digits of a client")
    axes.set_ylabel("digits recognised, %")
    save(figure, PICTURE)


def main() -> None:
    """Train and draw, or with ``--draw`` only draw."""
    if "--draw" not in sys.argv:
        head = {"command": "python -m docs.epsilon_plot", "machine": machine(), "versions": versions()}
        write_json(RESULTS, {**head, "accuracies": train()})
    draw(json.loads(RESULTS.read_text(encoding="utf-8"))["accuracies"])


if __name__ == "__main__":
    main()

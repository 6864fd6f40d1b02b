"""Draws docs/frequency.png: rounds against local epochs at one epsilon for all of them.

``python -m docs.frequency_plot`` trains the hospitals and the digits of ``secagg demo`` for 5, 10, 20 or 40 rounds,
with 1, 2 or 5 local epochs before each. Whatever the number of rounds, together they cost epsilon = 8: more rounds
mean more noise in each. It prints the two tables of docs/federated.md. Every client stays to the end. The script
sums in the clear what the clients of any protocol would send, because all protocols return the same sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import secagg
from dp import DistributedGaussian, clip_l2
from secagg.demo.model import add
from secagg.demo.problems import Digits, Hospitals, Problem
from secagg.demo.training import DELTA

PICTURE = Path(__file__).parent / "frequency.png"
EPSILON = 8.0
ROUNDS, EPOCHS = (5, 10, 20, 40), (1, 2, 5)

Floats = NDArray[np.float64]
Cells = dict[tuple[int, int], tuple[float, float]]
"""Mean and standard deviation of the accuracy, by rounds and epochs."""


@dataclass(frozen=True)
class Plan:
    """What is trained over how many clients and seeds; every client is in every sum."""

    name: str
    clients: int
    seeds: int
    least: float  # of the axis of accuracies, in per cent
    load: Callable[[int], Problem]  # from a seed

    @property
    def layout(self) -> secagg.Layout:
        """That of the model, which is the same for every seed."""
        return secagg.Layout.of(self.load(0).initial())

    @property
    def l2_clip(self) -> float:
        """The length to which updates are clipped."""
        return self.load(0).l2_clip

    def noise(self, rounds: int) -> DistributedGaussian:
        """The least noise that keeps ``rounds`` sums within epsilon, though a third of the clients colludes."""
        task = secagg.Task(
            protocol=secagg.SecAgg(),
            layout=self.layout,
            encoding=DistributedGaussian(self.l2_clip, 1.0, 22, k_stddevs=5.0, delta=DELTA),
            max_clients=self.clients,
            min_survivors=self.clients,
        )
        encoding = task.encoder
        assert isinstance(encoding, DistributedGaussian)
        return encoding.with_epsilon(EPSILON, self.layout.size, rounds=rounds)

    def train(self, seed: int, rounds: int, epochs: int, encoding: DistributedGaussian | None) -> float:
        """The accuracy of one training in per cent. Without an encoding, updates are clipped but get no noise."""
        problem, layout = self.load(seed), self.layout
        rng = np.random.default_rng([seed, 9])
        current = problem.initial()
        for number in range(1, rounds + 1):
            updates = [
                layout.flatten(problem.update(current, client, number, epochs, 0.0)) for client in problem.weights
            ]
            current = add(current, layout.restore(mean(updates, layout, self.l2_clip, encoding, rng)))
        return 100 * problem.correct(current) / problem.tested


# Constants scale the hospitals' features, so that epsilon covers all that is used.
PLANS = (
    Plan("10 hospitals, 31 weights", 10, 24, 75.0, cache(lambda seed: Hospitals(10, seed, plausible=True))),
    Plan("20 clients with digits, 2,410 weights", 20, 5, 10.0, cache(lambda seed: Digits(20, seed))),
)


def mean(
    updates: Sequence[NDArray[np.floating[Any]]],
    layout: secagg.Layout,
    l2_clip: float,
    encoding: DistributedGaussian | None,
    rng: np.random.Generator,
) -> Floats:
    """The mean that a server computes from the sum of what these clients send."""
    if encoding is None:
        clipped: Floats = np.mean([clip_l2(update, l2_clip) for update in updates], axis=0)
        return clipped
    session = encoding.for_session(rng.bytes(16))
    total = np.zeros(0, np.uint64)
    for update in updates:
        term = session.encode(update, layout=layout, weight=None, max_weight=None, rng=rng.bytes)[0].astype(
            np.uint64
        )
        total = term if total.size == 0 else total + term
    return session.decode([total], layout=layout, survivors=len(updates), max_weight=None).mean


def main() -> None:
    """Train, print the tables, and draw them."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for plan, axes in zip(PLANS, figure.subplots(1, 2), strict=True):
        print(f"\n{plan.name}; {plan.seeds} seeds; updates clipped to {plan.l2_clip}")
        noised: Cells = {}
        plain: Cells = {}
        for rounds in ROUNDS:
            encoding = plan.noise(rounds)
            for epochs in EPOCHS:
                for into, one in ((noised, encoding), (plain, None)):
                    accuracies = [plan.train(seed, rounds, epochs, one) for seed in range(plan.seeds)]
                    into[rounds, epochs] = (float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)))
            pairs = [(*noised[rounds, epochs], plain[rounds, epochs][0]) for epochs in EPOCHS]
            cells = " | ".join(f"{middle:.1f} ± {spread:.1f} ({exact:.1f})" for middle, spread, exact in pairs)
            print(f"| {rounds} | {encoding.noise_multiplier:.2f} | {cells} |", flush=True)
        draw(axes, plan, noised, plain)
    figure.suptitle(f"How often to aggregate: rounds against local epochs, epsilon = {EPSILON:g} in all")
    figure.savefig(PICTURE, dpi=130)


def draw(axes: Any, plan: Plan, noised: Cells, plain: Cells) -> None:
    """A curve over rounds for each number of epochs, with noise and, faint, without."""
    for index, (epochs, shade, marker) in enumerate(
        zip(EPOCHS, ("#9a9a9a", "#5b8db8", "#1f4e79"), "^so", strict=True)
    ):
        beside = [rounds * 1.03 ** (index - 1) for rounds in ROUNDS]  # else one bar would cover another
        middle, spread = zip(*(noised[rounds, epochs] for rounds in ROUNDS), strict=True)
        label = f"{epochs} local epoch{'s' * (epochs > 1)}"
        exact = [plain[rounds, epochs][0] for rounds in ROUNDS]
        axes.plot(ROUNDS, exact, color=shade, linestyle=":", marker=marker, markersize=4, linewidth=1)
        axes.errorbar(beside, middle, spread, color=shade, marker=marker, linewidth=1.8, elinewidth=0.9, capsize=2,
                      label=label)  # fmt: skip
    axes.plot([], [], color="#777777", linestyle=":", linewidth=1, label="without noise")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ROUNDS, [str(rounds) for rounds in ROUNDS])
    axes.set_ylim(plan.least, 100)
    axes.set_xlabel("rounds")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(plan.name, fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="best" if plan.least < 50 else "lower right")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()

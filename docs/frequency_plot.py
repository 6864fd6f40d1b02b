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
from secagg.demo import digits, hospitals, model
from secagg.demo.hospitals import FEATURES
from secagg.demo.training import DELTA

PICTURE = Path(__file__).parent / "frequency.png"
EPSILON = 8.0
ROUNDS, EPOCHS = (5, 10, 20, 40), (1, 2, 5)

Floats = NDArray[np.float64]
Model = dict[str, Floats]
Cells = dict[tuple[int, int], tuple[float, float]]
"""Mean and standard deviation of the accuracy, by rounds and epochs."""


@dataclass(frozen=True)
class Problem:
    """What is trained: clients that are all in every sum, and the length that their updates are clipped to."""

    name: str
    clients: int
    l2_clip: float
    seeds: int
    least: float  # of the axis of accuracies, in per cent
    layout: secagg.Layout
    first: Callable[[int], Model]
    update: Callable[[int, Model, int, int, int], Model]  # seed, model, client, round, epochs
    accuracy: Callable[[int, Model], float]

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
        rng = np.random.default_rng([seed, 9])
        current = self.first(seed)
        for number in range(1, rounds + 1):
            updates = [
                self.layout.flatten(self.update(seed, current, client, number, epochs))
                for client in range(self.clients)
            ]
            change = self.layout.restore(mean(updates, self.layout, self.l2_clip, encoding, rng))
            current = {name: current[name] + change[name] for name in current}
        return self.accuracy(seed, current)


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


@cache
def study(seed: int) -> hospitals.Study:
    """The hospitals of one seed. Constants scale their features, so that epsilon covers all that is used."""
    return hospitals.load(10, np.random.default_rng([seed, 0]), plausible=True)


@cache
def images(seed: int) -> digits.Digits:
    """The digits of one seed."""
    return digits.load(20, seed)


def problems() -> tuple[Problem, Problem]:
    """The logistic regression of ten hospitals, and the network of twenty clients with handwritten digits."""
    return (
        Problem(
            name="10 hospitals, 31 weights",
            clients=10,
            l2_clip=0.1,
            seeds=24,
            least=75.0,
            layout=secagg.Layout.of(model.initial(FEATURES)),
            first=lambda seed: model.initial(FEATURES),
            update=lambda seed, now, at, number, epochs: model.update(now, study(seed).hospitals[at], epochs),
            accuracy=lambda seed, now: 100 * model.correct(now, study(seed).test) / study(seed).test.patients,
        ),
        Problem(
            name="20 clients with digits, 2,410 weights",
            clients=20,
            l2_clip=0.5,
            seeds=5,
            least=10.0,
            layout=secagg.Layout.of(digits.initial(0)),
            first=digits.initial,
            update=lambda seed, now, at, number, epochs: digits.train(
                now, images(seed).clients[at], np.random.default_rng([seed, 2, number, at]), epochs=epochs
            ),
            accuracy=lambda seed, now: 100 * digits.correct(now, images(seed).test) / images(seed).test.images,
        ),
    )


def main() -> None:
    """Train, print the tables, and draw them."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for problem, axes in zip(problems(), figure.subplots(1, 2), strict=True):
        print(f"\n{problem.name}; {problem.seeds} seeds; updates clipped to {problem.l2_clip}")
        noised: Cells = {}
        plain: Cells = {}
        for rounds in ROUNDS:
            encoding = problem.noise(rounds)
            for epochs in EPOCHS:
                for into, one in ((noised, encoding), (plain, None)):
                    found = [problem.train(seed, rounds, epochs, one) for seed in range(problem.seeds)]
                    into[rounds, epochs] = (float(np.mean(found)), float(np.std(found, ddof=1)))
            pairs = [(*noised[rounds, epochs], plain[rounds, epochs][0]) for epochs in EPOCHS]
            cells = " | ".join(f"{middle:.1f} ± {spread:.1f} ({exact:.1f})" for middle, spread, exact in pairs)
            print(f"| {rounds} | {encoding.noise_multiplier:.2f} | {cells} |", flush=True)
        draw(axes, problem, noised, plain)
    figure.suptitle(f"How often to aggregate: rounds against local epochs, epsilon = {EPSILON:g} in all")
    figure.savefig(PICTURE, dpi=130)


def draw(axes: Any, problem: Problem, noised: Cells, plain: Cells) -> None:
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
    axes.set_ylim(problem.least, 100)
    axes.set_xlabel("rounds")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(problem.name, fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="best" if problem.least < 50 else "lower right")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()

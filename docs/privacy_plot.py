"""Draws docs/privacy.png, accuracy against epsilon on the demo's hospitals: ``python -m docs.privacy_plot``.

One training of 20 rounds for each point and seed; all protocols return the same sums. The
noise is the library's own. The hospitals are the demo's: ten, two of which fall silent in each round.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import secagg
from dp import DistributedGaussian
from secagg.demo import model
from secagg.demo.hospitals import Study, load
from secagg.demo.training import DELTA, FEATURES, L2_CLIP

PICTURE = Path(__file__).parent / "privacy.png"
CLIENTS, SURVIVORS, ROUNDS, SEEDS = 10, 8, 20, 5


@dataclass(frozen=True)
class Summed(secagg.Clear):
    """Stands for any protocol that shows the sum alone: they all return the same one, and this one is fast."""

    shows_terms: ClassVar[bool] = False
    corruption: ClassVar[float] = 0.0
    threat_model: ClassVar[str] = "semi-honest"


EPSILONS = (1, 2, 4, 8, 16, 32, 64)

#: How many honest survivors' noise has to be enough; the server's own counts for all but one of them.
TRUST = {
    "central: the server adds the noise\nand is trusted with every update": (SURVIVORS - 1, "o"),
    "distributed: SecAgg, 3 of 10 may collude": (5, "s"),
    "local: each hospital trusts itself alone": (1, "^"),
}


def accuracy(study: Study, honest: int, epsilon: float, seed: int) -> float:
    """Of a whole training, in per cent."""
    encoding = DistributedGaussian(
        L2_CLIP, 1.0, 22, clients=CLIENTS, honest=honest, corrupt=1, k_stddevs=5.0, delta=DELTA
    )
    current = model.initial(FEATURES)
    layout = secagg.Layout.of(current)
    task = secagg.Task(
        protocol=Summed(),
        layout=layout,
        encoding=encoding.with_epsilon(epsilon, layout.size, rounds=ROUNDS),
        max_clients=CLIENTS,
        min_survivors=SURVIVORS,
    )
    silent = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        stay = sorted(silent.choice(CLIENTS, SURVIVORS, replace=False))
        updates = {study.hospitals[i].id: model.update(current, study.hospitals[i]) for i in stay}
        current = model.moved(current, secagg.simulate(task, updates).mean)
    return 100 * model.correct(current, study.test) / study.test.patients


def main() -> None:
    """Train, and draw the median of the seeds with the range of all."""
    study = load(CLIENTS, np.random.default_rng([0, 0]), plausible=True)
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (label, (honest, marker)), shade in zip(TRUST.items(), ("#1f4e79", "#5b8db8", "#9a9a9a"), strict=True):
        found = np.array(
            [[accuracy(study, honest, epsilon, seed) for seed in range(SEEDS)] for epsilon in EPSILONS]
        )
        middle = np.median(found, axis=1)
        axes.fill_between(EPSILONS, found.min(axis=1), found.max(axis=1), color=shade, alpha=0.18, linewidth=0)
        axes.plot(EPSILONS, middle, marker=marker, color=shade, linewidth=1.6, label=label)
        print(
            label.replace("\n", " "),
            *(f"{epsilon}: {value:.1f} %" for epsilon, value in zip(EPSILONS, middle, strict=True)),
        )
    axes.axhline(97.3, color="#bbbbbb", linewidth=5, zorder=0)
    axes.text(EPSILONS[0], 98.1, "without noise", color="#666666")
    axes.set_xscale("log", base=2)
    axes.set_xticks(EPSILONS, [str(epsilon) for epsilon in EPSILONS])
    axes.set_ylim(40, 101)
    axes.set_xlabel(f"epsilon of 20 rounds, at delta {DELTA:g}, for a whole hospital")
    axes.set_ylabel("test patients classified rightly (%)")
    axes.set_title("What privacy costs ten hospitals, by who is trusted")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()

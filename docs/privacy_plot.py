"""Draw docs/privacy.png, accuracy against epsilon on the demo's hospitals: ``python -m docs.privacy_plot``.

Each point is the mean of 48 trainings of 20 rounds, with the same 48 seeds at every point. A seed determines how
the patients are dealt, which two of ten hospitals fall silent in each round, and the noise. The script sums in the
clear what the clients of any protocol would send, because all protocols return the same sums.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import secagg
from dp import DistributedGaussian, clip_l2
from secagg.demo import model
from secagg.demo.hospitals import FEATURES, Study, load
from secagg.demo.problems import Hospitals
from secagg.demo.training import DELTA

PICTURE = Path(__file__).parent / "privacy.png"
CLIENTS, SURVIVORS, ROUNDS, SEEDS = 10, 8, 20, 48
L2_CLIP = Hospitals.l2_clip
LAYOUT = secagg.Layout.of(model.initial(FEATURES))
EPSILONS = (1, 2, 4, 8, 16, 32, 64)

#: h: the number of honest survivors whose noise is enough. A server's own noise, added once, counts as that of all.
TRUST = {
    "central: the server adds the noise\nand is trusted with every update": (SURVIVORS, "o"),
    "distributed: SecAgg, 3 of 10 may collude": (SURVIVORS - 3, "s"),
    "local: each hospital trusts itself alone": (1, "^"),
}


@cache
def study(seed: int) -> Study:
    """The hospitals of one seed. Constants scale their features, so epsilon covers all that training uses."""
    return load(CLIENTS, np.random.default_rng([seed, 0]), plausible=True)


@cache
def noise(honest: int, epsilon: float) -> DistributedGaussian:
    """The least noise that keeps all rounds within ``epsilon``, if ``honest`` clients add it."""
    encoding = DistributedGaussian(
        L2_CLIP, 1.0, 22, clients=CLIENTS, honest=honest, corrupt=CLIENTS - SURVIVORS, k_stddevs=5.0, delta=DELTA
    )
    return encoding.with_epsilon(epsilon, LAYOUT.size, rounds=ROUNDS)


def survivors(seed: int) -> Iterator[list[int]]:
    """The hospitals that survive, round by round."""
    silent = np.random.default_rng([seed, 1])
    for _ in range(ROUNDS):
        yield sorted(silent.choice(CLIENTS, SURVIVORS, replace=False))


def accuracy(seed: int, encoding: DistributedGaussian | None) -> float:
    """The accuracy after a whole training, in per cent. Without an encoding, clipped updates get no noise."""
    rng = np.random.default_rng([seed, 2])
    current = model.initial(FEATURES)
    for stay in survivors(seed):
        updates = [LAYOUT.flatten(model.update(current, study(seed).hospitals[i])) for i in stay]
        current = model.add(current, LAYOUT.restore(mean(updates, encoding, rng)))
    tested = study(seed).test
    return 100 * model.correct(current, tested) / tested.patients


def mean(
    updates: Sequence[NDArray[np.floating[Any]]], encoding: DistributedGaussian | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The mean that a server computes from the sum of what these clients send."""
    if encoding is None:
        clipped: NDArray[np.float64] = np.mean([clip_l2(update, L2_CLIP) for update in updates], axis=0)
        return clipped
    session = encoding.for_session(rng.bytes(16))
    terms = [
        session.encode(update, layout=LAYOUT, weight=None, max_weight=None, rng=rng.bytes)[0].astype(np.uint64)
        for update in updates
    ]
    return session.decode([np.sum(terms, axis=0)], layout=LAYOUT, survivors=len(terms), max_weight=None).mean


def main() -> None:
    """Train, and draw the means, each with the range of eight in ten trainings."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    exact = float(np.mean([accuracy(seed, None) for seed in range(SEEDS)]))
    print(f"without noise: {exact:.1f} %")
    for (label, (honest, marker)), shade in zip(TRUST.items(), ("#1f4e79", "#5b8db8", "#9a9a9a"), strict=True):
        accuracies = np.array(
            [[accuracy(seed, noise(honest, epsilon)) for seed in range(SEEDS)] for epsilon in EPSILONS]
        )
        middle, (low, high) = accuracies.mean(axis=1), np.quantile(accuracies, (0.1, 0.9), axis=1)
        shifted = np.array(EPSILONS) * 1.04 ** (len(axes.containers) - 1)  # no bar covers another
        reach = np.maximum(0, [middle - low, high - middle])
        style: dict[str, Any] = {"color": shade, "linewidth": 1.8, "elinewidth": 0.9, "capsize": 2}
        axes.errorbar(shifted, middle, reach, marker=marker, label=label, **style)
        print(
            label.replace("\n", " "),
            *(f"{epsilon}: {value:.1f} %" for epsilon, value in zip(EPSILONS, middle, strict=True)),
        )
    axes.axhline(exact, color="#bbbbbb", linewidth=5, zorder=0)
    axes.text(EPSILONS[0], exact + 1.6, f"without noise: {exact:.1f} %", color="#666666")
    axes.set_xscale("log", base=2)
    axes.set_xticks(EPSILONS, [str(epsilon) for epsilon in EPSILONS])
    axes.set_ylim(10, 101)
    axes.set_xlabel(f"epsilon of 20 rounds, at delta {DELTA:g}, for a whole hospital")
    axes.set_ylabel("test patients classified rightly (%)")
    axes.set_title("What privacy costs ten hospitals, by who is trusted")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()

"""What federated training on the digits reaches under secure aggregation: the figures of docs/federated.md.

The workload was fixed before its first run, and nothing is tuned for a figure: 20 clients, 40 rounds, 2 local
epochs in batches of 16 at the rate 0.1, five seeds. :mod:`secagg.demo.digits` has the data, the network and the
seeds; :mod:`bench.learning` trains. A bound that is missed is printed as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np

from bench.bounds import Bound, bounds_grid
from bench.learning import (
    ATTACKERS,
    BITS,
    CLIENTS,
    CLIP,
    GROUPS,
    ROUNDS,
    SEEDS,
    Trained,
    Training,
    differing,
    train,
)
from bench.report import Grid
from bench.workloads import Workload
from secagg.demo import digits
from secagg.federated import (
    Compression,
    CoordinateMedian,
    CountSketch,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    GeometricMedian,
    GroupRule,
    NormClippedMean,
    PublicMask,
    RandomK,
    TrimmedMean,
)
from secagg.layout import Layout
from secagg.protocols import named

KEPT = 241  # of 2,410 coordinates
LONG = 100  # rounds that a public mask needs
SCALED, FLIPPED = -10.0, -1.0  # what attackers multiply their update by
LARGE = 100_000  # coordinates at which bytes are compared
#: Names of sections and trainings.
EXACT, WHOLE, TENTH, LONGER = "float64", "integers", "a tenth of the coordinates", "all coordinates, 100 rounds"
CALM, ATTACKED, FLIPPING = "no attack", "two of twenty send -10 times theirs", "two of twenty flip the sign"
FEDAVG, UNWEIGHTED, MASK, MEDIAN = "FedAvg", "FedAvg, unweighted", "public mask, residuals", "5 groups, median"

ALGORITHMS = {
    "FedAvg": Training(FedAvg()),
    "FedProx": Training(FedAvg(), proximal=0.1),
    "FedAvgM": Training(FedAvgM(learning_rate=0.1, momentum=0.9)),
    "FedAdagrad": Training(FedAdagrad(learning_rate=0.1, tau=1e-3)),
    "FedAdam": Training(FedAdam(learning_rate=0.03, beta1=0.9, beta2=0.99, tau=1e-3)),
    "FedYogi": Training(FedYogi(learning_rate=0.03, beta1=0.9, beta2=0.99, tau=1e-3)),
}
RULES: dict[str, GroupRule] = {
    "median": CoordinateMedian(bad=ATTACKERS),
    "trimmed mean, one off each end": TrimmedMean(bad=1, trim=1),
    "geometric median": GeometricMedian(bad=ATTACKERS),
    "norm-clipped mean": NormClippedMean(bad=ATTACKERS, clip=0.5),
}
HELD = ("FedAvg", "FedProx", "FedAdam", "FedYogi")  # compared with float64


def trainings() -> dict[str, dict[str, Training]]:
    """Section → name → training: all that the workload runs."""
    plain = Training(weighted=False)
    robust = {f"{GROUPS} groups, {name}": Training(weighted=False, rule=rule) for name, rule in RULES.items()}
    fixed = Training(weighted=False, rule=RULES["median"], fixed_groups=True, attack=SCALED)
    averaged = {FEDAVG: Training(), UNWEIGHTED: plain}

    def under(attack: float) -> dict[str, Training]:
        return {name: replace(one, attack=attack) for name, one in (averaged | robust).items()}

    def random_k(layout: Layout) -> Compression:
        return RandomK(layout, KEPT)

    return {
        EXACT: {name: replace(one, bits=None) for name, one in ALGORITHMS.items()},
        WHOLE: {**ALGORITHMS, UNWEIGHTED: plain} | {f"FedAvg, {bits} bits": Training(bits=bits) for bits in (8, 4)},
        TENTH: {
            "random-k": Training(make=random_k),
            "CountSketch": Training(make=lambda layout: CountSketch(layout, KEPT)),
            "FedAdam, random-k": replace(ALGORITHMS["FedAdam"], make=random_k),
            MASK: Training(make=lambda layout: PublicMask(layout, KEPT), residuals=True, rounds=LONG),
        },
        LONGER: {FEDAVG: Training(rounds=LONG)},
        CALM: robust,
        ATTACKED: {**under(SCALED), f"{MEDIAN}, groups fixed": fixed},
        FLIPPING: under(FLIPPED),
    }


@dataclass(frozen=True)
class Figure:
    """The final accuracies of one training over the seeds, in per cent."""

    section: str
    name: str
    rounds: int
    final: tuple[float, ...]
    curve: tuple[float, ...]  # the mean after each round
    clipped: float  # share of the coordinates that were sent
    refused: int  # sums that the decoder refused, over all seeds
    apart: float | None  # the largest difference of a weight at the end from the same training in float64

    @classmethod
    def of(
        cls, section: str, name: str, training: Training, seeds: Sequence[Trained], exact: Sequence[Trained] = ()
    ) -> Figure:
        """The figure of one training over some seeds; ``exact`` is the same in float64, if there is one."""
        rounds = list(zip(*(one.correct for one in seeds), strict=True))
        sent = sum(one.sent for one in seeds)
        return cls(
            section,
            name,
            training.rounds,
            tuple(_percent(correct) for correct in rounds[-1]),
            tuple(round(mean(map(_percent, correct)), 2) for correct in rounds),
            sum(one.clipped for one in seeds) / sent,
            sum(one.refused for one in seeds),
            max(map(_apart, seeds, exact)) if exact else None,
        )

    @property
    def mean(self) -> float:
        """The mean of the final accuracies."""
        return mean(self.final)

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return stdev(self.final) if len(self.final) > 1 else 0.0


class Federated:
    """The workload, and the figures so far; :meth:`run` adds them one by one."""

    def __init__(self, seeds: int = SEEDS) -> None:
        self.seeds = seeds
        self.figures: list[Figure] = []
        self.bytes_up: dict[str, tuple[int, int]] = {}
        self.differing = 0

    @property
    def steps(self) -> int:
        """How often :meth:`run` calls ``step``."""
        return self.seeds * sum(map(len, trainings().values())) + 2

    def run(self, step: Callable[[str, str], None]) -> None:
        """Train everything. ``step`` is called with a name as each training begins."""
        step("bytes", "")
        self.bytes_up = uploads()
        step("three rounds through SecAggPlus", "")
        self.differing = differing(seed=0, rounds=3)
        exact: dict[str, list[Trained]] = {}
        for section, named_trainings in trainings().items():
            for name, training in named_trainings.items():
                trained = []
                for seed in range(self.seeds):
                    step(section, name)
                    trained.append(train(training, seed))
                beside = exact.get(name, []) if section == WHOLE else []
                self.figures.append(Figure.of(section, name, training, trained, beside))
                if section == EXACT:
                    exact[name] = trained

    def section(self, section: str) -> dict[str, Figure]:
        """The figures of one section, by name."""
        return {one.name: one for one in self.figures if one.section == section}

    def bounds(self) -> list[Bound]:
        """What the workload is held to; nothing before all of it was measured."""
        if len(self.figures) < sum(map(len, trainings().values())):
            return []
        reached = {(one.section, one.name): one.mean for one in self.figures}
        fedavg = reached[WHOLE, FEDAVG]
        bounds = []
        for name in HELD:
            apart = abs(reached[WHOLE, name] - reached[EXACT, name])
            bounds.append(Bound(f"{name}: points between float64 and integer sums", apart, most=0.5))
            bounds.append(Bound(f"{name} on integer sums, %", reached[WHOLE, name], least=92.0))
        bounds += [
            Bound(f"{name}: points below FedAvg", fedavg - reached[TENTH, name], most=1.5)
            for name in ("random-k", "CountSketch")
        ]
        long = reached[LONGER, FEDAVG] - reached[TENTH, MASK]
        bounds.append(Bound(f"{MASK}: points below FedAvg, both after {LONG} rounds", long, most=1.5))
        least = min(whole / part for whole, part in self.bytes_up.values())
        bounds.append(Bound(f"bytes up of {LARGE:,} coordinates over those of a tenth, least", least, least=8.5))
        for name in (FEDAVG, UNWEIGHTED):
            fall = fedavg - reached[ATTACKED, name]
            bounds.append(Bound(f"-10 times, {name}: points below FedAvg without attack", fall, least=50.0))
        loss = fedavg - reached[ATTACKED, MEDIAN]
        bounds.append(Bound(f"-10 times, {MEDIAN}: points below FedAvg without attack", loss, most=10.0))
        for name in (FEDAVG, UNWEIGHTED):
            price = reached[WHOLE, name] - reached[CALM, MEDIAN]
            bounds.append(Bound(f"no attack, {MEDIAN}: points below {name}", price, most=1.0))
        what = "three rounds through SecAggPlus: weights that differ from those of the integer sums"
        bounds.append(Bound(what, float(self.differing), most=0.0))
        return bounds


def uploads() -> dict[str, tuple[int, int]]:
    """Protocol → bytes that a client sends for :data:`LARGE` coordinates, and for a tenth of them."""
    workloads = [Workload(CLIENTS, coordinates, 0.0, BITS) for coordinates in (LARGE, LARGE // 10)]

    def sent(workload: Workload, name: str) -> int:
        protocol = named()[name]
        return sum(protocol.cost(workload.task(protocol), workload.ids).up.values())

    return {name: (sent(workloads[0], name), sent(workloads[1], name)) for name in named()}


def grids(federated: Federated) -> list[Grid]:
    """The tables: accuracies, bytes, and the bounds."""
    figures = [
        (
            f"{one.section}: {one.name}",
            f"{one.mean:.1f} ± {one.spread:.1f}",
            *(f"{one.curve[rounds - 1]:.1f}" if rounds <= one.rounds else "" for rounds in (10, ROUNDS)),
            f"{100 * one.clipped:.2g} %" if one.clipped else "none",
            str(one.refused) if one.refused else "none",
            "" if one.apart is None else f"{one.apart:.1e}",
        )
        for one in federated.figures
    ]
    notes = [
        f"{CLIENTS} clients, Dirichlet {digits.SKEW}, {digits.TEST_IMAGES} test images, {digits.EPOCHS} local "
        f"epochs, {federated.seeds} seeds: mean ± standard deviation after the last of {ROUNDS} or {LONG} rounds. "
        f"One image is {100 / digits.TEST_IMAGES:.2f} points. Weighted by images, in groups unweighted. Integers "
        f"have {BITS} bits, a clip of {CLIP} and stochastic rounding, unless the name says otherwise. {ATTACKERS} "
        f"attackers bypass the encoding. {GROUPS} groups of {CLIENTS // GROUPS} are drawn anew each round, unless "
        "the name says fixed.",
        "Clipped: of all coordinates that were sent. Refused: sums that no honest clients can have, over all "
        "seeds; a session whose sum is refused gives nothing, and the model stays. Weights apart: the largest "
        "difference from the weights that float64 ends with, over all seeds.",
    ]
    accuracy = Grid(
        "Federated training on digits under secure aggregation",
        (
            "training",
            "accuracy, %",
            "after\n10 rounds",
            f"after\n{ROUNDS} rounds",
            "clipped",
            "refused",
            "weights\napart",
        ),
        figures,
        notes,
    )
    sizes = Grid(
        "Bytes that a client sends",
        ("protocol", f"{LARGE:,} coordinates", "a tenth", "times less"),
        [
            (name, f"{whole:,}", f"{part:,}", f"{whole / part:.2f}")
            for name, (whole, part) in federated.bytes_up.items()
        ],
    )
    bounds = bounds_grid(federated.bounds())
    return [accuracy, sizes, *([bounds] if bounds.rows else [])]


def _apart(one: Trained, other: Trained) -> float:
    return max(float(np.abs(one.model[name] - other.model[name]).max()) for name in one.model)


def _percent(correct: int) -> float:
    return 100 * correct / digits.TEST_IMAGES

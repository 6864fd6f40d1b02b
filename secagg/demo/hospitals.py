"""The data: real patients, split into a test set and one shard per hospital.

They are the 569 patients of the Breast Cancer Wisconsin (Diagnostic) data, 30 features each, that
scikit-learn carries with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_PATIENTS = 5  # of a hospital
MOST_HOSPITALS = 50
SKEW = 0.5  # the Dirichlet's concentration: the smaller, the more hospitals differ

#: What may be expected of cell nuclei: of each of ten measures its mean over a slide, that mean's standard
#: error, and its largest values. Radii are in µm, perimeters and areas about those of circles; the rest are round
#: numbers. Written down by hand and not computed from these patients, so that scaling by them tells nothing of any.
PLAUSIBLE = {
    "radius": ((5, 25), (0, 1.5), (5, 35)),
    "texture": ((5, 35), (0, 3.5), (5, 50)),
    "perimeter": ((30, 160), (0, 10), (30, 220)),
    "area": ((80, 2000), (0, 150), (80, 3800)),
    "smoothness": ((0.05, 0.15), (0, 0.015), (0.05, 0.25)),
    "compactness": ((0, 0.3), (0, 0.1), (0, 1)),
    "concavity": ((0, 0.4), (0, 0.15), (0, 1.2)),
    "concave points": ((0, 0.2), (0, 0.03), (0, 0.3)),
    "symmetry": ((0.1, 0.3), (0, 0.05), (0.1, 0.5)),
    "fractal dimension": ((0.04, 0.1), (0, 0.01), (0.04, 0.2)),
}
FARTHEST = 3.0  # where the ends of such a range are scaled to, and what lies beyond them is cut to


@dataclass(frozen=True, eq=False)
class Hospital:
    """Some patients: ``features`` (patients × 30) and ``labels`` (1.0 malignant, 0.0 benign)."""

    id: str
    features: Floats
    labels: Floats

    @property
    def patients(self) -> int:
        """How many patients; the weight of this hospital's update."""
        return len(self.labels)

    @property
    def malignant(self) -> int:
        """How many of them have a malignant tumour."""
        return int(self.labels.sum())


@dataclass(frozen=True, eq=False)
class Study:
    """The hospitals, whose shards are disjoint, and the patients of none of them for testing."""

    hospitals: tuple[Hospital, ...]
    test: Hospital


def hospital_ids(count: int) -> list[str]:
    """The ids of so many hospitals."""
    return [f"hospital-{number:02}" for number in range(1, count + 1)]


def load(hospitals: int, rng: np.random.Generator, *, plausible: bool = False) -> Study:
    """Deal the patients to 1 to 50 hospitals.

    A fifth of each class is the test set. Of the rest every hospital gets five patients drawn at random,
    and then, of each class, a part drawn from a Dirichlet distribution: sizes and the fraction
    of malignant tumours differ. Features are scaled by the mean and the standard deviation over all
    training patients, computed here in the clear; hospitals would add up n, Σx and Σx² under the
    same protocol. Those are exact sums, which no ε of a noised training covers: with ``plausible``, features
    are scaled by :data:`PLAUSIBLE` instead, which no patient has changed.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    labels = (data.target == 0).astype(np.float64)
    test, training = [], []
    for label in (0.0, 1.0):
        patients = rng.permutation(np.flatnonzero(labels == label))
        test.append(patients[: len(patients) // 5])
        training.append(patients[len(patients) // 5 :])
    everyone = np.concatenate(training)
    features = (
        scaled(data.data)
        if plausible
        else (data.data - data.data[everyone].mean(axis=0)) / data.data[everyone].std(axis=0)
    )

    def hospital(name: str, *parts: NDArray[np.int64]) -> Hospital:
        chosen = np.concatenate(parts)
        return Hospital(name, features[chosen], labels[chosen])

    names = hospital_ids(hospitals)
    shards = [[part] for part in _first_patients(everyone, hospitals, rng)]
    left = np.setdiff1d(everyone, np.concatenate([part for shard in shards for part in shard]))
    for label in (0.0, 1.0):
        patients = rng.permutation(left[labels[left] == label])
        until = np.cumsum(rng.dirichlet(np.full(hospitals, SKEW)))[:-1]
        for shard, part in zip(shards, np.split(patients, np.rint(until * len(patients)).astype(int)), strict=True):
            shard.append(part)
    return Study(
        tuple(hospital(name, *shard) for name, shard in zip(names, shards, strict=True)), hospital("test", *test)
    )


def scaled(features: Floats) -> Floats:
    """``features`` (patients × 30) with the :data:`PLAUSIBLE` ranges moved to -3 to 3; a row by itself alone."""
    # The data have all means first, then the errors, then the largest.
    least, most = np.array([ranges[at] for at in range(3) for ranges in PLAUSIBLE.values()]).T
    found: Floats = np.clip(FARTHEST * (2 * features - most - least) / (most - least), -FARTHEST, FARTHEST)
    return found


def _first_patients(
    everyone: NDArray[np.int64], hospitals: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    drawn = rng.permutation(everyone)[: LEAST_PATIENTS * hospitals]
    return np.split(drawn, hospitals)

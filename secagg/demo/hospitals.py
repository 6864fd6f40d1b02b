"""The data: real patients, split into a test set and one shard per hospital.

The patients are the 569 of the Breast Cancer Wisconsin (Diagnostic) data set, with 30 features each. scikit-learn
contains it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES = 30  # of a patient
LEAST_PATIENTS = 5  # of a hospital
MOST_HOSPITALS = 50
SKEW = 0.5  # the Dirichlet's concentration: the smaller, the more hospitals differ

#: Plausible ranges for cell nuclei. Each of ten measures has three: for its mean over a slide, for the standard
#: error of that mean, and for its largest values. Radii are in µm, perimeters and areas are about those of circles,
#: the rest are round numbers. They were not computed from these patients, so scaling by them reveals nothing.
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
FARTHEST = 3.0  # the ends of a range are scaled to -3 and 3; values beyond are cut to these


@dataclass(frozen=True, eq=False)
class Hospital:
    """One hospital's patients: ``features`` (patients × 30) and ``labels`` (1.0 malignant, 0.0 benign)."""

    id: str
    features: Floats
    labels: Floats

    @property
    def patients(self) -> int:
        """The number of patients, which is the weight of this hospital's update."""
        return len(self.labels)

    @property
    def malignant(self) -> int:
        """The number of patients with a malignant tumour."""
        return int(self.labels.sum())


@dataclass(frozen=True, eq=False)
class Study:
    """The hospitals, which share no patient, and a test set of other patients."""

    hospitals: tuple[Hospital, ...]
    test: Hospital


def hospital_ids(count: int) -> list[str]:
    """The ids of ``count`` hospitals."""
    return [f"hospital-{number:02}" for number in range(1, count + 1)]


def load(hospitals: int, rng: np.random.Generator, *, plausible: bool = False) -> Study:
    """Divide the patients among 1 to 50 hospitals.

    A fifth of each class is the test set. Every hospital gets five of the other patients at random, and then a part
    of each class. The parts follow a Dirichlet distribution, so sizes and fractions of malignant tumours differ.

    Features are scaled by the mean and the standard deviation over all training patients. They are computed here
    in the clear; real hospitals would add up n, Σx and Σx² under the same protocol. These are exact sums, which the
    ε of a noised training does not cover. With ``plausible``, features are scaled by :data:`PLAUSIBLE` instead,
    which does not depend on any patient.
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
        scale(data.data)
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


def scale(features: Floats) -> Floats:
    """``features`` (patients × 30) with each :data:`PLAUSIBLE` range mapped to -3 to 3, row by row."""
    # The data have all means first, then the errors, then the largest.
    least, most = np.array([ranges[at] for at in range(3) for ranges in PLAUSIBLE.values()]).T
    cut: Floats = np.clip(FARTHEST * (2 * features - most - least) / (most - least), -FARTHEST, FARTHEST)
    return cut


def _first_patients(
    everyone: NDArray[np.int64], hospitals: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    first = rng.permutation(everyone)[: LEAST_PATIENTS * hospitals]
    return np.split(first, hospitals)

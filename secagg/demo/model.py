"""The model: logistic regression by gradient steps over all of a hospital's patients."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from secagg.demo.hospitals import Hospital

Model = dict[str, NDArray[np.float64]]

STEPS = 5  # a hospital takes on its own between two aggregations
RATE = 0.1  # of learning


def initial(features: int) -> Model:
    """All zero: every patient is as likely malignant as not."""
    return {"bias": np.zeros(1), "weights": np.zeros(features)}


def probabilities(model: Model, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of a malignant tumour, for each patient (row)."""
    # The logistic function, written so that it can't overflow.
    return 0.5 + 0.5 * np.tanh((features @ model["weights"] + model["bias"]) / 2)


def update(model: Model, hospital: Hospital) -> Model:
    """What training on the hospital's patients changes: its model minus ``model``."""
    own = model
    for _ in range(STEPS):
        error = probabilities(own, hospital.features) - hospital.labels
        slope = {"bias": error.mean(keepdims=True), "weights": hospital.features.T @ error / hospital.patients}
        own = {name: own[name] - RATE * slope[name] for name in own}
    return {name: own[name] - model[name] for name in model}


def moved(model: Model, change: Model) -> Model:
    """``model`` + ``change``."""
    return {name: model[name] + change[name] for name in model}


def correct(model: Model, hospital: Hospital) -> int:
    """How many of the hospital's patients the model classifies rightly."""
    return int(np.sum((probabilities(model, hospital.features) > 0.5) == (hospital.labels > 0.5)))


def difference(one: Model, other: Model) -> float:
    """The largest difference of two models in any parameter."""
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def fingerprint(model: Model) -> bytes:
    """SHA-256 of the parameters."""
    return hashlib.sha256(b"".join(model[name].astype("<f8").tobytes() for name in sorted(model))).digest()

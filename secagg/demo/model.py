"""The model: logistic regression, trained by gradient steps over all patients of a hospital."""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secagg.demo.hospitals import Hospital

Model = dict[str, NDArray[np.float64]]

STEPS = 5  # gradient steps of a hospital between two aggregations, each over all its patients: local epochs
RATE = 0.1  # the learning rate


def initial(features: int) -> Model:
    """A model of zeros, under which malignant and benign are equally likely."""
    return {"bias": np.zeros(1), "weights": np.zeros(features)}


def probabilities(model: Model, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of a malignant tumour for each patient (row)."""
    # The logistic function, written so that it can't overflow.
    return 0.5 + 0.5 * np.tanh((features @ model["weights"] + model["bias"]) / 2)


def update(
    model: Model,
    hospital: Hospital,
    steps: int = STEPS,
    adjusted: Callable[[Model, Model], Model] = lambda slope, own: slope,
) -> Model:
    """Train on the hospital's patients for ``steps`` steps, and return the trained model minus ``model``.

    ``adjusted(gradient, own)`` is what a step follows in the gradient's place, as FedProx has it.
    """
    own = model
    for _ in range(steps):
        error = probabilities(own, hospital.features) - hospital.labels
        slope = {"bias": error.mean(keepdims=True), "weights": hospital.features.T @ error / hospital.patients}
        slope = adjusted(slope, own)
        own = {name: own[name] - RATE * slope[name] for name in own}
    return {name: own[name] - model[name] for name in model}


def add(model: Model, change: Model) -> Model:
    """``model`` + ``change``."""
    return {name: model[name] + change[name] for name in model}


def correct(model: Model, hospital: Hospital) -> int:
    """The number of the hospital's patients that the model classifies correctly."""
    return int(np.sum((probabilities(model, hospital.features) > 0.5) == (hospital.labels > 0.5)))


def difference(one: Model, other: Model) -> float:
    """The largest difference between two models in any parameter."""
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def fingerprint(model: Model) -> bytes:
    """SHA-256 of the parameters."""
    return hashlib.sha256(b"".join(model[name].astype("<f8").tobytes() for name in sorted(model))).digest()

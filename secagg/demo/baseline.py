"""FedAvg in float64, with nothing between the hospitals and their mean: what the protocols are held to."""

from collections.abc import Sequence

import numpy as np

from secagg.demo import model
from secagg.demo.hospitals import Hospital


def step(before: model.Model, hospitals: Sequence[Hospital]) -> model.Model:
    """One round: every hospital trains, and the mean of their updates, weighted by patients, is added."""
    changes = [model.update(before, hospital) for hospital in hospitals]
    patients = [hospital.patients for hospital in hospitals]
    return model.moved(
        before,
        {name: np.average([change[name] for change in changes], axis=0, weights=patients) for name in before},
    )

"""FedAvg in float64 without secure aggregation: the baseline that every protocol is compared with."""

from collections.abc import Sequence

import numpy as np

from secagg.demo import model
from secagg.demo.hospitals import Hospital


def step(before: model.Model, hospitals: Sequence[Hospital]) -> model.Model:
    """One round: every hospital trains, and the model moves by the mean of the updates, weighted by patients."""
    changes = [model.update(before, hospital) for hospital in hospitals]
    patients = [hospital.patients for hospital in hospitals]
    return model.add(
        before,
        {name: np.average([change[name] for change in changes], axis=0, weights=patients) for name in before},
    )

"""What all sites and the server agree on."""

from pathlib import Path

import numpy as np

import secagg
from secagg.integrations.flare import layout_of

TASK = secagg.Task(
    protocol=secagg.SecAgg(),
    layout=layout_of(np.zeros((65, 10))),
    encoding=secagg.FixedPoint(clip=2.0),
    max_clients=4,
    min_survivors=3,
    max_weight=1_000,
)
METRICS = {"accuracy": 1.0}
ROSTER = str(Path("keys/roster.json").resolve())

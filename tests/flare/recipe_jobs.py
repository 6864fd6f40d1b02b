"""Jobs of the NumPy recipe by :func:`secured`, one for each protocol, with the training script as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

import secagg
from secagg.integrations.flare import layout_of, secured
from tests.flare.jobs import MODEL, arguments
from tests.flare.protocols import enrol, make_task, protocol_of

METRICS = {"loss": 4.0}
CLIP, BITS, MAX_WEIGHT = 0.25, 24, 10_000_000


def task_of(protocol: str) -> secagg.Task:
    """The job's task. Numbers are rounded to the nearest, so that a search knows each integer."""
    encoding = secagg.FixedPoint(clip=CLIP, bits=BITS, rounding="nearest")
    return make_task(protocol, layout_of(MODEL), encoding, MAX_WEIGHT)


def by_secured(folder: Path, *, protocol: str, sites: int, rounds: int, external: bool) -> Any:
    parties = enrol(protocol_of(protocol), folder / "keys", folder / "sites")
    roster = str(folder / "keys" / "roster.json")
    recipe = secured(NumpyFedAvgRecipe, task_of(protocol), roster=roster, metrics=METRICS, parties=parties)
    return recipe(**arguments(folder, sites=sites, rounds=rounds, external=external))

"""The jobs that the tests play, each a function that makes a recipe."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

import secagg
from secagg.integrations.flare import secured
from secagg.keygen import write_identities
from secagg.table import contribution_round

SCRIPT = Path(__file__).parent / "train.py"
MODEL = [[0.5] * 5] * 4
METRICS = {"loss": 4.0}
PROTOCOLS = {
    "SecAgg": secagg.SecAgg(),
    "Clear": secagg.Clear(),
}


def arguments(
    folder: Path, *, sites: int, rounds: int, forms: str = "full:<f4", external: bool = False, dies: str = ""
) -> dict[str, Any]:
    """The arguments that a user gives to the recipe, plain or secure.

    An ``external`` script runs in a process of its own, which NVFlare starts with a copy of the script. It also
    writes a metric for experiment tracking, which such a process sends by another way.
    """
    own: dict[str, Any] = {"train_script": str(SCRIPT)}
    flags = ["--track"] * external + [f"--dies {dies}"] * bool(dies)
    if external:
        shutil.copy(SCRIPT, folder)
        own = {"train_script": SCRIPT.name, "launch_external_process": True, "command": f"{sys.executable} -u"}
    return {
        "name": "job",
        "model": MODEL,
        "min_clients": sites,
        "num_rounds": rounds,
        "train_args": " ".join([f"--notes {folder}/notes --forms {forms}", *flags]),
        **own,
    }


def plain(folder: Path, **options: Any) -> Any:
    """The job without us."""
    return NumpyFedAvgRecipe(**arguments(folder, **options))


class Tolerant(NumpyFedAvgRecipe):  # type: ignore[misc]
    """A recipe whose job goes on without sites that answer by an error."""

    def _get_controller_kwargs(self) -> dict[str, Any]:
        return {"ignore_result_error": True}


def tolerant(folder: Path, **options: Any) -> Any:
    """The plain job, which goes on without sites that answer by an error."""
    return Tolerant(**arguments(folder, **options))


def make_task(protocol: str) -> secagg.Task:
    """The job's task. Numbers are rounded to the nearest, so that a search knows each integer."""
    return secagg.Task(
        protocol=PROTOCOLS[protocol],
        layout=secagg.Layout.of({"numpy_key": np.zeros((4, 5))}),
        encoding=secagg.FixedPoint(clip=0.5, bits=24, rounding="nearest"),
        max_clients=4,
        min_survivors=3,
        max_weight=10_000_000,
    )


def secure(folder: Path, *, protocol: str = "SecAgg", sites: int, training_seconds: int = 0, **options: Any) -> Any:
    """The job with us, for sites that have a key, the roster and a folder."""
    names = [f"site-{number}" for number in range(1, sites + 1)]
    task, keys, settings = make_task(protocol), folder / "keys", folder / "sites"
    for path in (keys, settings):
        path.mkdir()
    roster = str(write_identities(names, keys))
    for name in names:
        content = {
            "secagg-key": f"{keys}/{name}.pem",
            "secagg-roster": roster,
            "secagg-dir": f"{folder}/{name}.secagg",
        }
        (settings / f"{name}.json").write_text(json.dumps(content))
    # Nobody waits longer for a site that died when it was asked for its input.
    deadlines = {contribution_round(task.protocol): 20.0}
    recipe = secured(
        NumpyFedAvgRecipe,
        task,
        roster=roster,
        metrics=METRICS,
        deadlines=deadlines,
        training_seconds=training_seconds,
    )
    return recipe(**arguments(folder, sites=sites, **options))

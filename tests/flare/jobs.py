"""The jobs that the tests play, each a function that makes a recipe."""

from pathlib import Path
from typing import Any

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

SCRIPT = Path(__file__).parent / "train.py"
MODEL = [[0.5] * 5] * 4


def arguments(folder: Path, *, sites: int, rounds: int, forms: str = "full:<f4", die: str = "") -> dict[str, Any]:
    """The arguments that a user gives to the recipe, plain or secure."""
    return {
        "name": "job",
        "model": MODEL,
        "min_clients": sites,
        "num_rounds": rounds,
        "train_script": str(SCRIPT),
        "train_args": f"--notes {folder}/notes --forms {forms}" + (f" --die {die}" if die else ""),
    }


def plain(folder: Path, **options: Any) -> Any:
    """The job without us."""
    return NumpyFedAvgRecipe(**arguments(folder, **options))

"""What the demo found: a table for people, JSON for machines."""

import platform
from importlib.metadata import version
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from secagg.demo.training import Demo, Run

_PACKAGES = ("secagg", "numpy", "numba", "cryptography", "scikit-learn", "matplotlib")


def to_table(demo: Demo) -> RenderableType:
    """A row per protocol, and what one needs to know to read it."""
    table = Table(title="Hospitals train one classifier, and the server sees only sums", title_style="bold")
    table.add_column("protocol", no_wrap=True)
    table.add_column("test accuracy", justify="right")
    table.add_column("off float64 by", justify="right")
    table.add_column("bytes up", justify="right")
    table.add_column("bytes down", justify="right")
    table.add_column("to learn one hospital's update")
    for run in demo.runs:
        table.add_row(
            run.protocol,
            _accuracy(demo, run.correct),
            f"{run.difference:.1e}",
            f"{run.bytes_up:,.0f}",
            f"{run.bytes_down:,.0f}",
            run.collusion,
        )
    return Group(table, *_notes(demo))


def _notes(demo: Demo) -> list[str]:
    settings, hospitals = demo.settings, demo.study.hospitals
    sizes = [hospital.patients for hospital in hospitals]
    sick = [round(100 * hospital.malignant / hospital.patients) for hospital in hospitals]
    return [
        f"FedAvg in float64, without secagg: {_accuracy(demo, demo.float64_correct[-1])}; the third column is the "
        "largest difference of a final weight from it.",
        f"{settings.rounds} rounds of training; {settings.dropouts} of {settings.clients} hospitals fall silent in "
        f"each. A hospital has {min(sizes)} to {max(sizes)} patients, {min(sick)} to {max(sick)} % malignant.",
        "Bytes are per hospital and round, mean over those that stay to the end. "
        + "; ".join(f"clipped coordinates under {run.protocol}: {_clipped(run)}" for run in demo.runs)
        + ".",
        *(f"{name} was left out: {reason}" for name, reason in demo.left_out.items()),
    ]


def _accuracy(demo: Demo, correct: int) -> str:
    patients = demo.study.test.patients
    return f"{100 * correct / patients:.1f} % ({correct}/{patients})"


def _clipped(run: Run) -> int | None:
    counts = [aggregation.clipped for aggregation in run.aggregations]
    return None if None in counts else sum(count for count in counts if count is not None)


def to_json(demo: Demo) -> dict[str, Any]:
    """All of it in plain types; accuracies are fractions, bytes per hospital and round."""
    patients = demo.study.test.patients
    settings = demo.settings
    return {
        "seed": settings.seed,
        "clients": settings.clients,
        "rounds": settings.rounds,
        "dropouts": settings.dropouts,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "hospitals": {h.id: {"patients": h.patients, "malignant": h.malignant} for h in demo.study.hospitals},
        "test_patients": patients,
        "float64": {
            "accuracy": demo.float64_correct[-1] / patients,
            "accuracy_by_round": [correct / patients for correct in demo.float64_correct],
            "model": _plain(demo.float64_model),
        },
        "protocols": [
            {
                "name": run.protocol,
                "accuracy": run.correct / patients,
                "difference_from_float64": run.difference,
                "bytes_up": run.bytes_up,
                "bytes_down": run.bytes_down,
                "collusion": run.collusion,
                "clipped": _clipped(run),
                "model": _plain(run.model),
                "rounds": [
                    {
                        "round": number,
                        "accuracy": aggregation.correct / patients,
                        "survivors": list(aggregation.survivors),
                        "dropped": dict(aggregation.dropped),
                        "clipped": aggregation.clipped,
                    }
                    for number, aggregation in enumerate(run.aggregations, 1)
                ],
            }
            for run in demo.runs
        ],
        "left_out": dict(demo.left_out),
    }


def _plain(model: dict[str, Any]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in model.items()}

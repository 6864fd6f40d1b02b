"""The demo's results: a table for people, JSON for machines."""

import platform
from importlib.metadata import version
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secagg.demo.training import DELTA, L2_CLIP, Demo, Run

_PACKAGES = ("secagg", "numpy", "numba", "cryptography", "scikit-learn", "matplotlib")


def to_table(demo: Demo) -> RenderableType:
    """A row per protocol, and notes that explain the columns."""
    title = "One classifier from many hospitals"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("protocol", no_wrap=True)
    table.add_column("test\naccuracy", justify="right")
    table.add_column("off by\nat most", justify="right")
    if demo.settings.epsilon is not None:
        table.add_column("epsilon", justify="right")
    table.add_column("bytes\nup", justify="right")
    table.add_column("bytes\ndown", justify="right")
    table.add_column("to learn one\nhospital's update\nwould take", min_width=16)
    for run in demo.runs:
        table.add_row(
            run.protocol,
            f"{100 * run.correct / demo.study.test.patients:.1f} %",
            f"{run.difference:.1e}",
            *([] if demo.settings.epsilon is None else ["none" if run.epsilon is None else f"{run.epsilon:.2f}"]),
            f"{run.bytes_up:,.0f}",
            f"{run.bytes_down:,.0f}",
            Text(run.collusion),
        )
    return Group(table, *map(Text, _notes(demo)))  # a Text, so that [he] is not read as markup


def _notes(demo: Demo) -> list[str]:
    settings, hospitals, exact = demo.settings, demo.study.hospitals, demo.float64_correct[-1]
    tested = demo.study.test.patients
    sizes = [hospital.patients for hospital in hospitals]
    sick = [round(100 * hospital.malignant / hospital.patients) for hospital in hospitals]
    clipped = {run.protocol: _clipped(run) for run in demo.runs if run.epsilon is None}
    return [
        f"Rounds of training: {settings.rounds}, over {settings.clients} hospitals of {min(sizes)} to {max(sizes)} "
        f"patients, {min(sick)} to {max(sick)} % of them malignant; {_silent(settings.dropouts)}. "
        f"{tested} other patients are the test.",
        f"FedAvg in float64 over the same hospitals, without secagg: {100 * exact / tested:.1f} %. Off by: the "
        "largest difference between a final weight and FedAvg's.",
        *(
            ["Coordinates clipped: " + ", ".join(f"{count} ({name})" for name, count in clipped.items()) + "."]
            if any(clipped.values())
            else []
        ),
        *_privacy(demo),
        "Bytes: per hospital and round of training, for hospitals that stay to the end.",
        *(f"Left out: {name}, {reason}" for name, reason in demo.left_out.items()),
    ]


def _silent(dropouts: int) -> str:
    if dropouts == 0:
        return "no hospital falls silent in any round"
    return f"{'1 hospital falls' if dropouts == 1 else f'{dropouts} hospitals fall'} silent in each round"


def _privacy(demo: Demo) -> list[str]:
    noised = next((run for run in demo.runs if run.epsilon is not None), None)
    if noised is None:
        return []
    price = 100 * (demo.float64_correct[-1] - noised.correct) / demo.study.test.patients
    return [
        f"Epsilon: the most that any hospital was charged over {demo.settings.rounds} rounds, at delta {DELTA:g}. "
        "It covers all patients of a hospital, and holds as long as no more clients collude than the task allows. "
        f"Every hospital has the same weight, shortens its update to length {L2_CLIP} and adds its share of the "
        f"noise. With so few hospitals the noise costs {price:.1f} points of accuracy. Under --epsilon all "
        "trainings scale features by public constants, because epsilon does not cover the patients' means and "
        "deviations, which scale them otherwise. It does not cover the accuracies either: they are exact."
    ]


def _clipped(run: Run) -> int | None:
    counts = [aggregation.clipped for aggregation in run.aggregations]
    return None if None in counts else sum(count for count in counts if count is not None)


def to_json(demo: Demo) -> dict[str, Any]:
    """The results in plain types. Accuracies are fractions; bytes are per hospital and round."""
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
                "epsilon": run.epsilon,
                "delta": None if run.epsilon is None else DELTA,
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

"""The demo's results: a table for people, JSON for machines."""

import platform
from importlib.metadata import version
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secagg.demo.learner import make_rule
from secagg.demo.settings import ALGORITHMS, ATTACKS
from secagg.demo.training import CORRUPTION, DELTA, Demo, Run

_PACKAGES = ("secagg", "numpy", "numba", "cryptography", "scikit-learn", "matplotlib")


def to_table(demo: Demo) -> RenderableType:
    """A row per protocol, and notes that explain the columns."""
    title = f"One classifier from many {demo.problem.client}s"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("protocol", no_wrap=True)
    table.add_column("test\naccuracy", justify="right")
    table.add_column("off by\nat most", justify="right")
    if demo.settings.epsilon is not None:
        table.add_column("epsilon", justify="right")
    table.add_column("bytes\nup", justify="right")
    table.add_column("bytes\ndown", justify="right")
    table.add_column(f"to learn one\n{demo.problem.client}'s update\nwould take", min_width=16)
    for run in demo.runs:
        table.add_row(
            run.protocol,
            f"{100 * run.correct / demo.problem.tested:.1f} %",
            f"{run.difference:.1e}",
            *([] if demo.settings.epsilon is None else ["none" if run.epsilon is None else f"{run.epsilon:.2f}"]),
            f"{run.bytes_up:,.0f}",
            f"{run.bytes_down:,.0f}",
            Text(run.collusion),
        )
    return Group(table, *map(Text, _notes(demo)))  # a Text, so that [he] is not read as markup


def _notes(demo: Demo) -> list[str]:
    settings, problem, exact = demo.settings, demo.problem, demo.float64_correct[-1]
    clipped = {run.protocol: _clipped(run) for run in demo.runs if run.epsilon is None}
    return [
        f"Rounds of training: {settings.rounds}, over {settings.clients} {problem.client}s of "
        f"{problem.describe()}; {_silent(settings.dropouts, problem.client)}. {problem.tested} other "
        f"{problem.example}s are the test.",
        f"{_recipe(demo)} in float64 over the same {problem.client}s, without secagg: "
        f"{100 * exact / problem.tested:.1f} %. Off by: the largest difference from its final weights.",
        *_around_the_sum(demo),
        *(
            ["Coordinates clipped: " + ", ".join(f"{count} ({name})" for name, count in clipped.items()) + "."]
            if any(clipped.values())
            else []
        ),
        *_privacy(demo),
        f"Bytes: per {problem.client} and round of training, for {problem.client}s that stay to the end.",
        *(f"Left out: {name}, {reason}" for name, reason in demo.left_out.items()),
    ]


def _recipe(demo: Demo) -> str:
    """What is trained, such as ``FedAdam with random-k and median of groups``."""
    settings = demo.settings
    title = ALGORITHMS[settings.optimizer].title
    around = [text for text in (settings.compression, settings.robust and f"{settings.robust} of groups") if text]
    return f"{title} with {' and '.join(around)}" if around else title


def _around_the_sum(demo: Demo) -> list[str]:
    """What the compression, the rule over groups and the attack mean, a note each."""
    settings, problem, notes = demo.settings, demo.problem, []
    if settings.compression is not None:
        notes.append(
            f"{settings.compression}: a tenth of the coordinates is sent. Keys and shares are sent as before; with "
            "so few coordinates they are most of the bytes."
        )
        if settings.compression == "public-mask":
            notes.append("The mask follows from the last mean, so trainings soon send different coordinates.")
    rule = make_rule(problem, settings)
    if rule is not None:
        notes.append(
            f"{settings.robust}: each of {settings.groups} groups, drawn anew each round, has a secure sum of its "
            f"own; at most {rule.bad} may hold an attacker: then {rule.promise}. All {problem.client}s count the "
            f"same. Protocols run with corruption={CORRUPTION}, so that all who may collude fit into one group."
        )
    if settings.attack is not None and demo.unattacked_correct is not None:
        unattacked = 100 * demo.unattacked_correct[-1] / problem.tested
        notes.append(
            f"{settings.attack}: {settings.liars} of {settings.clients} {problem.client}s "
            f"{'sends' if settings.liars == 1 else 'send'} {ATTACKS[settings.attack]:g} times "
            f"{'its' if settings.liars == 1 else 'their'} update, clipped as all are. Without attack: "
            f"{unattacked:.1f} %."
        )
    return notes


def _silent(dropouts: int, client: str) -> str:
    if dropouts == 0:
        return f"no {client} falls silent in any round"
    return f"{f'1 {client} falls' if dropouts == 1 else f'{dropouts} {client}s fall'} silent in each round"


def _privacy(demo: Demo) -> list[str]:
    noised = next((run for run in demo.runs if run.epsilon is not None), None)
    if noised is None:
        return []
    problem = demo.problem
    price = 100 * (demo.float64_correct[-1] - noised.correct) / problem.tested
    costs = (
        f"With so few {problem.client}s the noise costs {price:.1f} points of accuracy."
        if demo.settings.attack is None
        else "The length binds attackers too, as long as they run the library's client."
    )
    scaled = (
        "Under --epsilon all trainings scale features by public constants, because epsilon does not cover the "
        "patients' means and deviations, which scale them otherwise. It does not cover the accuracies either: they "
        "are exact."
        if problem.example == "patient"
        else "It does not cover the accuracies: they are exact."
    )
    return [
        f"Epsilon: the most that any {problem.client} was charged over {demo.settings.rounds} rounds, at delta "
        f"{DELTA:g}. It covers all {problem.example}s of a {problem.client}, and holds as long as no more clients "
        f"collude than the task allows. Every {problem.client} has the same weight, shortens what it sends to "
        f"length {problem.l2_clip} and adds its share of the noise. {costs} {scaled}"
    ]


def _clipped(run: Run) -> int | None:
    counts = [aggregation.clipped for aggregation in run.aggregations]
    return None if None in counts else sum(count for count in counts if count is not None)


def to_json(demo: Demo) -> dict[str, Any]:
    """The results in plain types. Accuracies are fractions; bytes are per hospital and round."""
    tested, settings, claim = demo.problem.tested, demo.settings, demo.claim
    return {
        "seed": settings.seed,
        "clients": settings.clients,
        "rounds": settings.rounds,
        "dropouts": settings.dropouts,
        "task": settings.task,
        "local_epochs": settings.epochs,
        "optimizer": settings.optimizer,
        "compression": settings.compression,
        "robust": settings.robust,
        "groups": settings.groups if settings.robust is not None else 1,
        "attack": settings.attack,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "shards": demo.problem.shards(),
        "tested": tested,
        "float64": {
            "accuracy": demo.float64_correct[-1] / tested,
            "accuracy_by_round": [correct / tested for correct in demo.float64_correct],
            "model": _plain(demo.float64_model),
        },
        "protocols": [
            {
                "name": run.protocol,
                "accuracy": run.correct / tested,
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
                        "accuracy": aggregation.correct / tested,
                        "survivors": list(aggregation.survivors),
                        "dropped": dict(aggregation.dropped),
                        "clipped": aggregation.clipped,
                    }
                    for number, aggregation in enumerate(run.aggregations, 1)
                ],
            }
            for run in demo.runs
        ],
        "unattacked": None
        if demo.unattacked_correct is None
        else [correct / tested for correct in demo.unattacked_correct],
        "claim": {
            "protocol": claim.protocol,
            "client": claim.client,
            "clients": claim.clients,
            "correlation": claim.correlation,
            "error": claim.error,
        },
        "left_out": dict(demo.left_out),
    }


def _plain(model: dict[str, Any]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in model.items()}

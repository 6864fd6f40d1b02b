"""Metrics that ride in the sum: coordinates of their own beside the model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from secagg._numbers import is_a, real
from secagg.errors import ConfigError, shown
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout, Leaf
from secagg.task import Task

MOST_NUMBERS = 64  # in the answer to an evaluation, which no session protects

_METRIC = "metric:"
_MOST_TEXT = 128  # characters of a name in such an answer


def metric_key(name: str) -> str:
    """The key of a metric in the update."""
    return _METRIC + name


def metrics_of(task: Task) -> list[str]:
    """The names of the metrics in the task's sum."""
    keys = [leaf.path[0] for leaf in task.layout.leaves if len(leaf.path) == 1]
    return [key.removeprefix(_METRIC) for key in keys if isinstance(key, str) and key.startswith(_METRIC)]


def check_model(arrays: Mapping[str, Any], task: Task) -> None:
    """``ConfigError`` unless the arrays have the names and shapes of the task's layout, without its metrics."""
    metrics = set(map(metric_key, metrics_of(task)))
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    expected = {leaf.name: leaf.shape for leaf in task.layout.leaves if leaf.name not in metrics}
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise ConfigError(
                f"got a model whose array {name!r:.80} has shape {shapes.get(name)}; the task's layout says "
                f"{expected.get(name)}: a model of other names or shapes needs a new task"
            )


def without_metrics(mean: Mapping[str, Any], task: Task) -> tuple[dict[str, Any], dict[str, float]]:
    """The mean of the model's updates by name, and the means of the metrics."""
    names = metrics_of(task)
    keys = set(map(metric_key, names))
    means = {name: float(mean[metric_key(name)]) for name in names}
    return {key: value for key, value in mean.items() if key not in keys}, means


def with_metrics(task: Task, metrics: Mapping[str, float] | None) -> Task:
    """``task`` with ``metrics`` (name → bound of its absolute value) in the same sum.

    Server, clients and aggregators all need the task that this returns. ``ConfigError`` under an encoding that adds
    noise, because no ε covers an exact sum.
    """
    if not is_a(task, Task):
        raise ConfigError(f"got {shown(task)} as the task; expected a secagg.Task")
    if not metrics:
        return task
    if not isinstance(metrics, Mapping) or any(not isinstance(name, str) for name in metrics):
        raise ConfigError(
            f"got metrics={metrics!r:.80}; expected a dict of names and bounds, such as {{'accuracy': 1.0}}"
        )
    for name, bound in metrics.items():
        if not 0 < real(bound) < math.inf:
            raise ConfigError(
                f"got metrics={{{name!r:.80}: {shown(bound)}}}; expected a bound of the metric's absolute value, a "
                "number more than 0"
            )
    encoding, layout = task.encoding, task.layout
    if not isinstance(encoding, FixedPoint):
        raise ConfigError(
            f"got metrics with {type(encoding).__name__}; metrics would be exact, and every epsilon covers noised "
            "sums only: drop metrics, or evaluate the aggregated model in the app"
        )
    if any(len(leaf.path) != 1 for leaf in layout.leaves):
        raise ConfigError("got a layout with nested names; expected the layout of a model: one array by name")
    leaves = [*layout.leaves, *(Leaf((metric_key(name),), (), layout.dtype.name) for name in metrics)]
    if isinstance(encoding.clip, tuple):
        clips = dict(encoding.clip)
    else:
        clips = {leaf.name: float(encoding.clip) for leaf in layout.leaves}  # type: ignore[arg-type]
    clips |= {metric_key(name): bound for name, bound in metrics.items()}
    ordered = tuple(sorted(leaves, key=lambda leaf: leaf.path))
    return replace(task, layout=Layout(ordered, layout.branches), encoding=replace(encoding, clip=clips))


def only_numbers(metrics: object) -> dict[str, float] | None:
    """The metrics of an evaluation as floats; None if there is anything that could carry a model."""
    if not isinstance(metrics, dict) or len(metrics) > MOST_NUMBERS:
        return None
    if any(type(name) is not str or len(name) > _MOST_TEXT for name in metrics):
        return None
    if not all(isinstance(value, int | float) for value in metrics.values()):
        return None
    try:
        return {name: float(value) for name, value in metrics.items()}
    except OverflowError:  # of a long integer
        return None

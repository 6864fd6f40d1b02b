"""The demo's picture: accuracy by round of training, and bytes by protocol."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secagg.demo.training import Demo

_LABELLED = 3  # up to so many curves carry their names; more get a legend
_MARKERS = "osD^vP*Xph<>"
_DARK, _LIGHT, _BASE = "#1f4e79", "#9dc3e6", "#cccccc"


def draw(demo: Demo, path: Path) -> None:
    """Write the picture to ``path``: PNG, SVG or PDF, by its ending. ``OSError`` if it can't be written."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    _draw_accuracy(left, demo)
    _draw_bytes(right, demo)
    figure.savefig(path, format=path.suffix[1:].lower(), dpi=150)


def _draw_accuracy(axes: Any, demo: Demo) -> None:
    """The protocols' curves lie on each other, so each protocol has its markers on other rounds."""
    patients = demo.study.test.patients
    numbers = list(range(1, demo.settings.rounds + 1))
    exact = [100 * correct / patients for correct in demo.float64_correct]
    curves = [[100 * a.correct / patients for a in run.aggregations] for run in demo.runs]
    lowest, highest = (of(of(curve) for curve in [exact, *curves]) for of in (min, max))
    span = max(highest - lowest, 2.0)
    axes.set_ylim(lowest - 0.35 * span, min(100.5, highest + 0.25 * span))
    axes.set_xlim(0.5 - 0.02 * len(numbers), len(numbers) + 0.5 + 0.02 * len(numbers))
    axes.plot(numbers, exact, color=_BASE, linewidth=9, solid_capstyle="round")
    # Between two rounds, where no protocol's marker is.
    _label(axes, "float64, without secagg", _between(numbers), _between(exact), 0.5, (-14, 26))
    for index, (run, curve) in enumerate(zip(demo.runs, curves, strict=True)):
        own = slice(index, None, len(curves))
        axes.plot(numbers, curve, color=_DARK, linewidth=1.2, linestyle="--")
        axes.plot(
            *(numbers[own], curve[own], _MARKERS[index % len(_MARKERS)]),
            color=_DARK,
            markerfacecolor="white" if index % 2 == 0 else _DARK,
            markersize=7,
            label=run.protocol,
        )
        if numbers[own] and len(curves) <= _LABELLED:
            _label(
                axes,
                run.protocol,
                numbers[own],
                curve[own],
                (index + 1) / (len(curves) + 1),
                (14, -34 - 18 * (index % 2)),
            )
    if len(curves) > _LABELLED:
        axes.legend(loc="lower right", frameon=False)
    axes.set_title("Test accuracy by round of training", fontsize=13)
    axes.set_xlabel("round of training")
    axes.set_ylabel(f"test patients classified correctly (% of {patients})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _strip(axes)


def _between(values: Sequence[float]) -> list[float]:
    return [(one + other) / 2 for one, other in pairwise(values)] or list(values)


def _label(
    axes: Any, name: str, numbers: Sequence[float], curve: Sequence[float], along: float, offset: tuple[int, int]
) -> None:
    """Name the curve at the fraction ``along`` of it. A rising curve has room at its upper left and lower right."""
    at = min(int(along * len(numbers)), len(numbers) - 1)
    leftwards = offset[0] < 0
    axes.annotate(
        name,
        xy=(numbers[at], curve[at]),
        xytext=offset,
        textcoords="offset points",
        ha="right" if leftwards else "left",
        fontsize=11,
        arrowprops={
            "arrowstyle": "-",
            "color": "#777777",
            "shrinkB": 5,
            "relpos": (1.0, 0.3) if leftwards else (0.0, 0.7),
        },
    )


def _draw_bytes(axes: Any, demo: Demo) -> None:
    """Two bars for each protocol; the first protocol is on top."""
    height = 0.36
    most = max(max(run.bytes_up, run.bytes_down) for run in demo.runs)
    for row, run in enumerate(demo.runs):
        for name, size, at, style in (
            ("up", run.bytes_up, row - height / 2, {"color": _DARK}),
            ("down", run.bytes_down, row + height / 2, {"facecolor": _LIGHT, "edgecolor": _DARK, "hatch": "//"}),
        ):
            axes.barh(at, size, height=height * 0.92, **style)
            axes.text(size + most * 0.015, at, f"{size:,.0f} {name}", va="center", fontsize=11)
    axes.set_yticks(range(len(demo.runs)), [run.protocol for run in demo.runs], fontsize=12)
    axes.set_ylim(max(len(demo.runs), 2) - 0.4, -0.6)
    axes.set_xlim(0, most * 1.25)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_title("Bytes of one hospital in one round of training", fontsize=13)
    axes.set_xlabel("bytes")
    axes.tick_params(axis="y", length=0)
    _strip(axes)


def _strip(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)

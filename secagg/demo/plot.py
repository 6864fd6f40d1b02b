"""The demo's picture: what the server gets for one update, accuracy by round, and accuracy by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from secagg.demo.claim import Claim
from secagg.demo.training import Demo, Run

_DARK, _BASE, _WARN = "#1f4e79", "#cccccc", "#b03a2e"
_MARKERS = "osD^vP*Xph<>"
_STEMS = 256  # up to so many coordinates are drawn one by one; more as an image
_ROWS = 32  # of an image of coordinates
_WIDE = 30  # from the least to the most bytes, where an axis of powers of ten has two of them at least

Values = NDArray[Any]


def draw(demo: Demo, path: Path) -> None:
    """Write the picture to ``path``: PNG, SVG or PDF, by its ending. ``OSError`` if it can't be written."""
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = cast(Sequence[Any], figure.subfigures(2, 1, height_ratios=[1, 1.2]))
    _draw_claim(upper, demo)
    left, right = lower.subplots(1, 2, width_ratios=[1, 1.25])
    _draw_rounds(left, demo)
    _draw_bytes(right, demo)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="y", color="#e4e4e4", linewidth=0.8)
    figure.savefig(path, format=path.suffix[1:].lower(), dpi=150)


def _draw_claim(figure: Any, demo: Demo) -> None:
    """One update, what the server got for it, and the mean that it opened, coordinate by coordinate."""
    claim = demo.claim
    panels: Any = figure.subplots(1, 3)
    client = demo.problem.client
    titles = (
        f"the {'compressed ' if demo.settings.compression else ''}update of {claim.client}",
        f"what the server got for it ({claim.protocol})",
        f"the mean of {claim.clients} {client}s that it opened",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
    seen = "to the server it looks random" if claim.hides else "the server reads it"
    _values(panels[0], claim.update)
    panels[0].set_xlabel(f"stays with the {client}: {claim.update.size:,} coordinates")
    _received(panels[1], claim)
    if claim.correlation is not None:
        close = f"{round(claim.correlation, 2) + 0.0:.2f}"  # + 0.0: no -0.00
        seen += f"; correlation with the update {close.replace('-', '−')}"
    panels[1].set_xlabel(seen, fontsize=9.5)
    _values(panels[2], claim.opened)
    if claim.opened.size <= _STEMS:
        at = np.arange(claim.exact.size)
        panels[2].plot(at, claim.exact, "o", markersize=8, markerfacecolor="none", color="#777777")
    panels[2].set_xlabel(f"off by at most {claim.error:.0e} from the exact mean" + (
        " (circles)" if claim.opened.size <= _STEMS else ""))  # fmt: skip


def _values(axes: Any, values: Values) -> None:
    """Signed values: as stems, or in an image in which grey is zero."""
    if values.size <= _STEMS:
        at = np.arange(values.size)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.vlines(at, 0, values, color=_DARK, linewidth=1.4)
        axes.plot(at, values, "o", color=_DARK, markersize=3.5)
        axes.set_xticks([])
        return
    most = float(np.quantile(np.abs(values), 0.99)) or 1.0
    _image(axes, values, -most, most, "RdBu_r")


def _received(axes: Any, claim: Claim) -> None:
    """The integers or bytes of the message, from 0 to the modulus."""
    if claim.received.size <= _STEMS:
        axes.plot(np.arange(claim.received.size), claim.received, "o", color=_DARK, markersize=4.5)
        if claim.hides:  # what a server reads is drawn as large as it is
            axes.set_ylim(-0.05 * claim.modulus, 1.05 * claim.modulus)
            axes.set_yticks([0, claim.modulus], ["0", f"{claim.modulus:,}"])
        axes.set_xticks([])
        return
    if not claim.by_coordinate:
        _image(axes, claim.received[: max(_ROWS * 80, claim.update.size)], 0, claim.modulus, "gray")
        return
    middle = claim.received.astype(np.float64)
    low, high = (0.0, float(claim.modulus)) if claim.hides else tuple(np.quantile(middle, (0.01, 0.99)))
    _image(axes, middle, low, high, "RdBu_r")


def _image(axes: Any, values: Values, low: float, high: float, colours: str) -> None:
    columns = -(-values.size // _ROWS)
    padded = np.full(_ROWS * columns, np.nan)
    padded[: values.size] = values
    axes.imshow(padded.reshape(columns, _ROWS).T, cmap=colours, vmin=low, vmax=high, aspect="auto",
                interpolation="nearest")  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_rounds(axes: Any, demo: Demo) -> None:
    """Accuracy by round: in float64, and under protocols, which are one curve where they agree in every bit."""
    numbers = list(range(1, demo.settings.rounds + 1))
    exact = _percent(demo, demo.float64_correct)
    axes.plot(numbers, exact, color=_BASE, linewidth=8, solid_capstyle="round", label="float64, without secagg")
    if demo.unattacked_correct is not None:
        unattacked = _percent(demo, demo.unattacked_correct)
        dotted = {"color": "#555555", "linestyle": ":", "linewidth": 1.8}
        axes.plot(numbers, unattacked, **dotted, label="float64, without attack")
    for index, (label, runs) in enumerate(_alike(demo).items()):
        axes.plot(numbers, _curve(demo, runs[0]), **_style(runs[0], index), label=label)
    axes.set_title("Test accuracy by round of training", fontsize=12)
    axes.set_xlabel("round of training")
    axes.set_ylabel(f"test {demo.problem.example}s classified correctly (% of {demo.problem.tested})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.legend(loc="best", frameon=False, fontsize=10)


def _style(run: Run, index: int) -> dict[str, Any]:
    shade = _WARN if run.epsilon is not None else _DARK
    return {
        "color": shade,
        "linewidth": 1.3,
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white" if index % 2 else shade,
    }


def _alike(demo: Demo) -> dict[str, list[Run]]:
    """Runs by what to call them: those whose models agree in every bit are one curve."""
    groups: dict[tuple[bytes, ...], list[Run]] = {}
    for run in demo.runs:
        groups.setdefault(tuple(array.tobytes() for array in run.model.values()), []).append(run)
    return {
        f"{len(runs)} protocols, one model to the last bit" if len(runs) > 1 else runs[0].protocol: runs
        for runs in groups.values()
    }


def _draw_bytes(axes: Any, demo: Demo) -> None:
    """Accuracy by what one client has sent and received so far: the price of each protocol."""
    rounds = range(1, demo.settings.rounds + 1)
    sizes = [(run.bytes_up + run.bytes_down) / 1e6 for run in demo.runs]
    for index, (run, each) in enumerate(zip(demo.runs, sizes, strict=True)):
        megabytes = [number * each for number in rounds]
        every = max(1, len(megabytes) // 5)
        label = f"{run.protocol}: {_size(megabytes[-1])}"
        axes.plot(megabytes, _curve(demo, run), **_style(run, index), markevery=(index % every, every), label=label)
    if rounds[-1] * max(sizes) > _WIDE * min(sizes):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Test accuracy by bytes", fontsize=12)
    axes.set_xlabel(f"one {demo.problem.client} has sent and received")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=10, title="in all")


def _curve(demo: Demo, run: Run) -> list[float]:
    return _percent(demo, [aggregation.correct for aggregation in run.aggregations])


def _percent(demo: Demo, correct: Sequence[int]) -> list[float]:
    return [100 * number / demo.problem.tested for number in correct]


def _size(megabytes: float) -> str:
    return f"{megabytes * 1000:,.3g} kB" if megabytes < 1 else f"{megabytes:,.3g} MB"

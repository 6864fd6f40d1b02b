"""Pictures. They are readable without colour: every curve has a marker, a shade and its name at its end."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.amounts import duration, size
from bench.measure import Row
from bench.sweep import QUANTITIES, Over, Sweep, is_memory

_MARKERS = "osD^vP*Xph<>"
_SHADES = ("#000000", "#1f4e79", "#5a5a5a", "#3f7fb5", "#8a8a8a")
_LINES = ("-", "--", "-.", ":")
MEMORY_FLOOR = 500_000  # bytes: less comes from the allocator, not from the protocol
_APART = 0.062  # least distance between two names, in heights of a panel

_AXES = {
    Over.CLIENTS: "clients",
    Over.COORDINATES: "coordinates of an update",
    Over.DROPOUT: "clients that fall silent",
    Over.WORKERS: "workers",
}


def style(index: int) -> dict[str, Any]:
    """The style of the curve of the ``index``-th protocol."""
    return {
        "color": _SHADES[index % len(_SHADES)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markerfacecolor": "white" if index % 2 else _SHADES[index % len(_SHADES)],
        "markersize": 6,
        "linewidth": 1.6,
    }


def growth(sweep: Sweep) -> Figure:
    """A log-log panel for each quantity of a sweep. Each curve has its name and its power at its end."""
    shown = [name for name in QUANTITIES if any(sweep.curve(protocol, name) for protocol in sweep.protocols)]
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(15, 5.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, quantity in zip(panels, shown, strict=False):
        _panel(axes, sweep, quantity)
    figure.suptitle(f"Growth of costs with {_AXES[sweep.over]}: {_held(sweep)}", fontsize=15)
    return figure


def _held(sweep: Sweep) -> str:
    held = sweep.held
    parts = {
        Over.CLIENTS: f"{held.clients} clients",
        Over.COORDINATES: f"{held.coordinates:,} coordinates",
        Over.DROPOUT: f"{held.gone} silent" if held.gone else "nobody silent",
    }
    if sweep.over is Over.WORKERS:
        parts[Over.WORKERS] = f"{os.cpu_count()} cores"
        return ", ".join(parts.values())
    return ", ".join(text for over, text in parts.items() if over is not sweep.over)


def _panel(axes: Any, sweep: Sweep, quantity: str) -> None:
    factor = sweep.held.clients if sweep.over is Over.DROPOUT else 1
    ends = []
    furthest = factor * max(at for at, _ in _all(sweep, quantity))
    for index, protocol in enumerate(sweep.protocols):
        least = MEMORY_FLOOR if is_memory(quantity) else 0
        curve = [(at * factor, max(value, least)) for at, value in sweep.curve(protocol, quantity)]
        if not curve:
            continue
        axes.plot(*zip(*curve, strict=True), **style(index))
        power = sweep.power(protocol, quantity)
        text = protocol + ("" if power is None else "  (noise)" if power.noise else f"  ~ x$^{{{power}}}$")
        if curve[-1][0] < furthest:  # later points were left out
            near = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 10.5}
            white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
            axes.annotate(text, curve[-1], color=style(index)["color"], bbox=white, **near)
        else:
            ends.append((*curve[-1], text, index))
    values = sorted({at * factor for at, _ in _all(sweep, quantity)})
    axes.set_xscale("log" if values[0] > 0 else "linear")
    axes.set_yscale("log")
    heights = [max(value, MEMORY_FLOOR if is_memory(quantity) else 0) for _, value in _all(sweep, quantity)]
    low, high = min(heights), max(heights)
    axes.set_ylim(low / 1.6, max(high, low * 12) * 1.6)
    title = QUANTITIES[quantity].replace(", bytes", "")
    if is_memory(quantity):
        axes.set_ylim(bottom=MEMORY_FLOOR / 1.15)
        title += f" (at least {size(MEMORY_FLOOR)} is drawn)"
    if values[0] > 0:
        axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
        axes.xaxis.set_minor_locator(LogLocator(subs=[]))
    axes.set_xticks(values, [f"{value:,.0f}" for value in values])
    axes.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 100 * bottom else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value, quantity)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(_AXES[sweep.over])
    axes.set_title(title, fontsize=13, loc="left")
    axes.grid(visible=True, which="major", axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    name_ends(axes, ends)


def _all(sweep: Sweep, quantity: str) -> list[tuple[float, float]]:
    return [pair for protocol in sweep.protocols for pair in sweep.curve(protocol, quantity)]


#: The line from a name to its curve. It begins at the middle of the left side, so it crosses no name.
_LEADER = {
    "arrowstyle": "-", "relpos": (0, 0.5), "color": "#bbbbbb", "linewidth": 0.8, "shrinkA": 2, "shrinkB": 5,
}  # fmt: skip


def name_ends(axes: Any, ends: Sequence[tuple[float, float, str, int]]) -> None:
    """Write the name of each curve to the right of the panel, with a thin line to the end of the curve."""
    low, high = map(math.log, axes.get_ylim())
    labels = sorted(((math.log(y) - low) / (high - low), x, y, text, index) for x, y, text, index in ends)
    places = spread([place for place, *_ in labels], _APART)
    for place, (_, x, y, text, index) in zip(places, labels, strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.04, place),
            textcoords=axes.transAxes,
            va="center",
            fontsize=10.5,
            color=_SHADES[index % len(_SHADES)],
            annotation_clip=False,
            arrowprops=_LEADER,
        )


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Move sorted ``places`` as little as possible until they are ``apart``, from 0 to 1 if there is room."""
    groups: list[tuple[list[float], float]] = []  # wanted places, and the place of the first of them
    for place in places:
        members, start = [place], place
        while groups and groups[-1][1] + apart * len(groups[-1][0]) > start:
            members = groups.pop()[0] + members
            middle = sum(at - apart * number for number, at in enumerate(members)) / len(members)
            start = min(max(middle, 0.0), max(0.0, 1.0 - apart * (len(members) - 1)))
        groups.append((members, start))
    return [start + apart * number for members, start in groups for number in range(len(members))]


def _amount(value: float, quantity: str) -> str:
    if "seconds" in quantity:
        return duration(value)
    return size(value)


def trade(rows: Sequence[Row]) -> Figure:
    """Each protocol as a point, on logarithmic axes: seconds that a client computes, and bytes that it sends."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x = [row.client_seconds.median for row in rows]
    y = [row.up_per_coordinate for row in rows]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(x) / 2, max(x) * 3)
    axes.set_ylim(min(*y, 3.0) / 1.4, max(y) * 1.5)
    for index in range(len(rows)):
        axes.plot(x[index], y[index], **{**style(index), "linestyle": "", "markersize": 9})
    low, high = map(math.log, axes.get_ylim())
    order = sorted(range(len(rows)), key=lambda at: y[at])
    places = spread([(math.log(y[at]) - low) / (high - low) for at in order], 0.055)
    for place, at in zip(places, order, strict=True):
        axes.annotate(
            f"{rows[at].protocol}: {duration(x[at])}, {y[at]:.3g} B",
            xy=(x[at], y[at]),
            xytext=(1.03, place),
            textcoords=axes.transAxes,
            va="center",
            fontsize=10.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.8, "shrinkA": 2, "shrinkB": 6},
        )
    axes.axhline(4, color="#999999", linewidth=1, linestyle=":")
    axes.text(min(x) / 1.9, 4.08, "float32 in the clear", fontsize=9, color="#555555", va="bottom")
    axes.set_yticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.set_xlabel("a client computes")
    axes.set_ylabel("a client sends, bytes per coordinate")
    axes.set_title("What a client pays", fontsize=13, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``figure`` to the files of :func:`pictures`, and return their paths."""
    for target in pictures(path):
        kind = target.suffix[1:].lower()
        figure.savefig(target, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    return pictures(path)


def pictures(path: Path) -> list[Path]:
    """The files to write for ``path``: itself if it ends in .png, .svg or .pdf, else a .png and a .svg."""
    if path.suffix.lower() in (".png", ".svg", ".pdf"):
        return [path]
    return [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]


def to_svg(figure: Figure) -> str:
    """``figure`` as the text of an ``svg`` element, to be put inside a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

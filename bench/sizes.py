"""The picture of a sweep of all combinations: seconds of a client and of the server, by clients and coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.amounts import duration
from bench.plots import name_ends, style
from bench.scale import Session


def sizes(sessions: Sequence[Session]) -> Figure:
    """A column for each number of coordinates: a client above, the server below for each share of silent clients.

    All panels of a row have the same axes, so that columns can be compared.
    """
    columns = sorted({one.coordinates for one in sessions})
    silent = sorted({one.dropout for one in sessions})
    most = silent[-1]
    rows = [("client_seconds", most, "a client"), *(("server_seconds", rate, "the server") for rate in silent)]
    figure = Figure(figsize=(5.6 * len(columns), 3.9 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (quantity, rate, who) in zip(panels, rows, strict=True):
        for axes, size in zip(line, columns, strict=True):
            shown = [one for one in sessions if (one.coordinates, one.dropout) == (size, rate)]
            alike = [one for one in sessions if one.dropout == rate]
            _panel(axes, shown, quantity, alike)
            axes.set_title(f"{who}, {size:,} coordinates, {rate:.0%} silent", fontsize=12, loc="left")
    figure.suptitle("Seconds of a session", fontsize=15)
    return figure


def _panel(axes: Any, shown: Sequence[Session], quantity: str, alike: Sequence[Session]) -> None:
    """Draw the curves of ``shown``. ``alike`` are the sessions of the whole row, which decide its axes."""
    counts = sorted({one.clients for one in alike})
    heights = [getattr(one, quantity) for one in alike]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(counts[0] / 1.4, counts[-1] * 1.4)
    axes.set_ylim(min(heights) / 1.8, max(max(heights), 12 * min(heights)) * 1.8)
    ends = []
    protocols = sorted({one.protocol for one in alike})
    for index, protocol in enumerate(protocols):
        curve = sorted((one.clients, getattr(one, quantity)) for one in shown if one.protocol == protocol)
        if curve:
            axes.plot(*zip(*curve, strict=True), **style(index))
            ends.append((*curve[-1], f"{protocol} {duration(curve[-1][1])}", index))
    if not shown:
        axes.text(0.5, 0.5, "left out", transform=axes.transAxes, ha="center", color="#555555", fontsize=11)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(LogLocator(subs=[]))
    few = math.log10(axes.get_ylim()[1] / axes.get_ylim()[0]) < 2
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("clients")
    axes.grid(visible=True, which="major", axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    name_ends(axes, ends)

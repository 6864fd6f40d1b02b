"""The picture of ``bench resnet18``: seconds, bytes and peak memory of each party, as dots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.amounts import duration, size
from bench.resnet18 import WIDTH, ResNet18
from bench.spending import Row

_CLIENT, _SERVER, _OTHER = "client", "server", "decryptor or aggregator"
_STYLES: Mapping[str, Mapping[str, Any]] = {
    _CLIENT: {"marker": "o", "color": "#000000"},
    _SERVER: {"marker": "s", "color": "#3f7fb5"},
    _OTHER: {"marker": "D", "color": "#8a8a8a"},
    "client sends": {"marker": ">", "color": "#000000"},
    "client receives": {"marker": "<", "color": "#3f7fb5"},
}


def dots(rows: Sequence[Row], workload: ResNet18) -> Figure:
    """A panel each for seconds of the processor, bytes and peak memory; a line for each protocol."""
    figure = Figure(figsize=(15, 1.9 + 0.46 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    seconds, sent, memory = figure.subplots(1, 3, sharey=True)
    _panel(
        seconds,
        "Seconds of the processor",
        duration,
        {
            _CLIENT: [row.client_cpu_seconds for row in rows],
            _SERVER: [row.server_cpu_seconds for row in rows],
            _OTHER: [row.other_cpu_seconds for row in rows],
        },
    )
    _panel(
        sent,
        "Bytes of a client",
        size,
        {
            "client sends": [row.bytes_up for row in rows],
            "client receives": [row.bytes_down for row in rows],
        },
    )
    floats = 4 * workload.coordinates
    sent.axvline(floats, color="#999999", linewidth=1, linestyle=":")
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    sent.text(
        floats, -0.62, "float32 in the clear", fontsize=9, color="#555555", ha="center", va="center", bbox=white
    )
    _panel(
        memory,
        "Peak memory",
        size,
        {
            _CLIENT: [row.client_memory for row in rows],
            _SERVER: [row.server_memory for row in rows],
            _OTHER: [row.other_memory for row in rows],
        },
    )
    seconds.set_yticks(range(len(rows)), [row.protocol for row in rows], fontsize=11)
    seconds.set_ylim(len(rows) - 0.5, -0.9)
    network = "ResNet-18" if workload.width == WIDTH else f"a ResNet-18 of width {workload.width}"
    figure.suptitle(
        f"The sum of {workload.clients} updates of {network}: {workload.coordinates:,} values of "
        f"{workload.bits} bits, {workload.gone or 'nobody'} silent",
        fontsize=14,
    )
    return figure


def _panel(
    axes: Any, title: str, words: Callable[[float], str], values: Mapping[str, Sequence[float | None]]
) -> None:
    for name, of in values.items():
        pairs = [(value, at) for at, value in enumerate(of) if value]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), linestyle="", markersize=7, label=name, **_STYLES[name])
    axes.set_xscale("log")
    shown = [value for of in values.values() for value in of if value]
    low, high = min(shown) / 1.6, max(shown) * 1.6
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axes.grid(visible=True, axis="both", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=12, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)

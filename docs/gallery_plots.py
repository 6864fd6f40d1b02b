"""Draws the gallery's pictures from the committed results: ``python -m docs.gallery_plots``.

Every picture is a small SVG on a white card, so it can be read on a dark page. It can be read without colour: bars
differ by hatching, and curves by marker and line. Texts are text, so a reader can search and enlarge them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.amounts import duration, size
from bench.plan import Link, Planned, plan
from bench.plots import name_ends, style
from bench.saved_rates import chosen_rates, load
from bench.workloads import Workload
from docs.chooser import RATES
from secagg.protocols import named

RESULTS = Path(__file__).parent.parent / "bench" / "results"
PICTURES = Path(__file__).parent / "gallery"
CLIENTS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
COORDINATES = tuple(10**power for power in range(2, 9))
#: One shade, one hatching for each kind of figure.
CLIENT, SERVER, OTHER = ("#1f4e79", ""), ("#9fc0dd", "///"), ("#f2f2f2", "\\\\")


def axes_of(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """An empty picture, and its panel or panels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for one in [axes] if columns == 1 else axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write an SVG whose bytes depend on nothing but the picture."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secagg", "font.family": "sans-serif"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def protocols(results: dict[str, Any]) -> tuple[Figure, Figure]:
    """Seconds of each party, and bytes of a client, by protocol."""
    rows = list(reversed(results["rows"]))
    names = [row["protocol"] for row in rows]
    figures = []
    seconds = [
        (what, [(row[f"{key}_seconds"] or {}).get("median") for row in rows], look)
        for what, key, look in (
            ("a client", "client", CLIENT),
            ("the server", "server", SERVER),
            ("another party", "other", OTHER),
        )
    ]
    carried = [
        ("a client sends", [row["up_per_coordinate"] for row in rows], CLIENT),
        ("a client receives", [row["down_per_coordinate"] for row in rows], SERVER),
    ]
    for bars, text, label in (
        (seconds, duration, "time on the clock, logarithmic"),
        (carried, lambda value: f"{value:.3g}", "bytes per coordinate, logarithmic; a float32 has 4"),
    ):
        figure, axes = axes_of(7.2, 0.34 * len(bars) * len(rows) + 1.1)
        for index, (what, values, (shade, hatch)) in enumerate(bars):
            places = [at + 0.8 * (0.5 - (index + 0.5) / len(bars)) for at in range(len(rows))]
            shown = [(at, value) for at, value in zip(places, values, strict=True) if value]
            shapes = axes.barh(
                *zip(*shown, strict=True),
                0.8 / len(bars),
                color=shade,
                hatch=hatch,
                edgecolor="#222222",
                linewidth=0.6,
                label=what,
            )
            axes.bar_label(shapes, [text(value) for _, value in shown], padding=3, fontsize=8)
        axes.set_yticks(range(len(rows)), names)
        axes.set_xscale("log")
        least, most = axes.get_xlim()
        axes.set_xlim(least, most * 3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        figures.append(figure)
    return figures[0], figures[1]


def growth(points: Sequence[tuple[float, Workload]], over: str) -> Figure:
    """Seconds of a client and bytes that it sends, by the varied quantity: the plan, by the saved rates."""
    known, saved = named(), load(RATES)
    curves: dict[str, list[tuple[float, Planned]]] = {name: [] for name in known}
    for at, workload in points:
        for one in plan(known, chosen_rates(saved, known, workload), workload, Link(10e6, 50e6)):
            if not one.refused:
                curves[one.protocol].append((at, one))
    figure, (left, right) = axes_of(9.6, 4.6, 2)
    seconds = {name: [(at, one.client_seconds) for at, one in curve] for name, curve in curves.items()}
    carried = {name: [(at, float(one.bytes_up)) for at, one in curve] for name, curve in curves.items()}
    _panel(left, seconds, duration, "a client computes", over)
    _panel(right, carried, size, "a client sends", over)
    return figure


def _panel(
    axes: Any, curves: dict[str, list[tuple[float, float]]], text: Callable[[float], str], title: str, over: str
) -> None:
    """Curves with their names at their ends."""
    furthest = max(at for curve in curves.values() for at, _ in curve)
    ends = []
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(*zip(*curve, strict=True), **(style(index) | {"markersize": 4.5, "linewidth": 1.2}))
        if curve[-1][0] == furthest:
            ends.append((*curve[-1], name, index))
        else:
            axes.annotate(name, curve[-1], xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 100 * bottom else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: text(at)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=30)
    axes.grid(visible=True, axis="y", color="#dddddd", linewidth=0.8)
    axes.set_xlabel(over)
    axes.set_title(title, loc="left", fontsize=11)
    name_ends(axes, ends)


def pictures() -> dict[str, Figure]:
    """All pictures, by the names of their files."""
    seconds, carried = protocols(json.loads((RESULTS / "run.json").read_text(encoding="utf-8")))
    return {
        "seconds.svg": seconds,
        "bytes.svg": carried,
        "clients.svg": growth([(n, Workload(n, 100_000, 0.1)) for n in CLIENTS], "clients"),
        "coordinates.svg": growth([(d, Workload(100, d, 0.1)) for d in COORDINATES], "coordinates of an update"),
    }


def measured() -> str:
    """A sentence that says when and where the saved rates were measured, and by which command."""
    document = json.loads(RATES.read_text(encoding="utf-8"))
    machine = document["machine"]
    return (
        f"The rates behind the seconds were measured on {document['date']} on {machine['cores']} cores of "
        f"{machine['processor']}\nby `{document['command']}`"
        f"{', while other programs ran beside it' if is_busy(machine) else ''}."
    )


def is_busy(machine: Mapping[str, Any]) -> bool:
    """Whether other programs ran while a result was measured, so that its seconds are rough."""
    return bool(machine["load"] > machine["cores"])


def redraw(text: str) -> str:
    """The page with the sentence about the saved rates written anew."""
    before, marker, rest = text.partition("<!-- rates -->\n")
    return f"{before}{marker}{measured()}\n{rest[rest.index('<!-- end -->') :]}"


def main() -> None:
    """Draw all pictures, and say in their page where the rates are from."""
    for name, figure in pictures().items():
        save(figure, PICTURES / name)
    page = PICTURES / "pictures.md"
    page.write_text(redraw(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

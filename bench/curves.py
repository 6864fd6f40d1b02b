"""The picture of ``bench federated``: accuracies by round, by coordinates sent, and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.federated import (
    ALGORITHMS,
    ATTACKED,
    CALM,
    FEDAVG,
    FLIPPING,
    KEPT,
    LONGER,
    TENTH,
    WHOLE,
    Federated,
    Figure,
)
from bench.plots import spread, style
from secagg.demo import digits

_APART = 0.06  # least distance between two names, in heights of a panel
_LEAST = 30.0  # per cent, where the panels of curves begin
_HIGHEST = 0.95  # of the names, below the next panel's title
_ATTACKS = {CALM: "no attack", FLIPPING: "2 of 20 flip the sign", ATTACKED: "2 of 20 send −10 times theirs"}


def curves(federated: Federated) -> Picture:
    """A panel each for the server's rules, for compression, and for what two attackers do."""
    picture = Picture(figsize=(17, 5.4), layout="constrained")
    FigureCanvasAgg(picture)
    rules, compressed, attacked = picture.subplots(1, 3, width_ratios=[1, 1, 1.25])
    named = federated.section(WHOLE)
    _lines(rules, [(name, named[name], range(1, named[name].rounds + 1)) for name in ALGORITHMS])
    rules.set_xlabel("round")
    rules.set_title("Server's rules, integer sums", fontsize=12, loc="left")
    weights = sum(array.size for array in digits.initial(0).values())
    tenth, whole = federated.section(TENTH), federated.section(LONGER)[FEDAVG]
    _lines(
        compressed,
        [
            (f"{FEDAVG}, all", whole, _sent(weights, whole.rounds)),
            *((name, one, _sent(KEPT, one.rounds)) for name, one in tenth.items()),
        ],
    )
    compressed.set_xscale("log")
    compressed.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    compressed.xaxis.set_minor_formatter(NullFormatter())
    compressed.set_xlabel("coordinates that a client has sent")
    compressed.set_title("A tenth of the coordinates", fontsize=12, loc="left")
    _attacked(attacked, federated)
    for axes in (rules, compressed, attacked):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="x" if axes is attacked else "y", color="#dddddd", linewidth=0.8)
    return picture


def _sent(coordinates: int, rounds: int) -> Sequence[int]:
    return range(coordinates, coordinates * rounds + 1, coordinates)


def _lines(axes: Any, lines: Sequence[tuple[str, Figure, Sequence[int]]]) -> None:
    """Curves with a few markers, each with its name and its end to the right of the panel."""
    for index, (_, figure, at) in enumerate(lines):
        every = max(1, len(at) // 8)
        axes.plot(at, figure.curve, markevery=(index % every, every), **{**style(index), "markersize": 5})
    axes.set_ylim(_LEAST, 100)
    axes.set_ylabel("test accuracy, mean over the seeds (%)")
    order = sorted(range(len(lines)), key=lambda index: lines[index][1].curve[-1])
    ends = [(lines[at][1].curve[-1] - _LEAST) / (100 - _LEAST) for at in order]
    places = [_HIGHEST * place for place in spread([end / _HIGHEST for end in ends], _APART / _HIGHEST)]
    for place, index in zip(places, order, strict=True):
        name, figure, at = lines[index]
        axes.annotate(
            f"{name} {figure.curve[-1]:.1f}",
            xy=(at[-1], figure.curve[-1]),
            xytext=(1.09, place),
            textcoords=axes.transAxes,
            va="center",
            fontsize=10,
            color=style(index)["color"],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "#bbbbbb",
                "linewidth": 0.8,
                "shrinkA": 2,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _attacked(axes: Any, federated: Federated) -> None:
    """A row for each way to combine: its accuracies without and under each attack."""
    by_attack = {attack: federated.section(attack) for attack in _ATTACKS}
    by_attack[CALM] = federated.section(WHOLE) | by_attack[CALM]
    names = list(by_attack[ATTACKED])
    for index, (attack, label) in enumerate(_ATTACKS.items()):
        rows = [row for row, name in enumerate(names) if name in by_attack[attack]]
        figures = [by_attack[attack][names[row]] for row in rows]
        look = style(2 * index)
        axes.errorbar(
            [figure.mean for figure in figures],
            [row + 0.2 * (index - 1) for row in rows],
            xerr=[figure.spread for figure in figures],
            linestyle="none",
            **{key: look[key] for key in ("color", "marker", "markerfacecolor")},
            markersize=6,
            elinewidth=1,
            capsize=2,
            label=label,
        )
    axes.set_yticks(range(len(names)), [name.replace(", ", ",\n", 1) for name in names], fontsize=9.5)
    axes.set_ylim(len(names) + 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("final test accuracy, mean ± standard deviation (%)")
    axes.set_title("Two attackers among twenty clients", fontsize=12, loc="left")
    axes.legend(frameon=False, fontsize=9.5, loc="lower left")

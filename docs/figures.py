"""Writes the measured tables of docs/federated.md: ``python -m docs.figures``.

They come from bench/results/federated.json, which ``python -m bench federated`` wrote. A test compares the document
with that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent / "federated.md"
RESULTS = Path(__file__).parent.parent / "bench" / "results" / "federated.json"


def accuracies(results: Mapping[str, Any]) -> str:
    """A row for each training: accuracies, and how far the weights are from those of float64."""
    rows = [
        "| training | after 10 rounds | after 40 | at the end, ± over the seeds | weights apart from float64's |",
        "|---|---|---|---|---|",
    ]
    section = None
    for figure in results["figures"]:
        if figure["section"] != section:
            section = figure["section"]
            rows.append(f"| **{section}** | | | | |")
        middle = [f"{figure['curve'][rounds - 1]:.1f}" for rounds in (10, 40)]
        ends = "" if figure["rounds"] == 40 else f" ({figure['rounds']} rounds)"
        count = figure["refused"]
        refused = f"; {count} sum{'s' * (count > 1)} refused" if count else ""
        last = f"{figure['mean']:.1f} ± {figure['spread']:.1f}{ends}{refused}"
        apart = "" if figure["apart"] is None else f"{figure['apart']:.1e}"
        rows.append(f"| {figure['name']} | {' | '.join(middle)} | {last} | {apart} |")
    return "\n".join(rows)


def bounds(results: Mapping[str, Any]) -> str:
    """A row for each bound: what was measured, and whether it holds."""
    rows = ["| what | measured | bound | |", "|---|---|---|---|"]
    for bound in results["bounds"]:
        words = f"at most {bound['most']:g}" if bound["least"] is None else f"at least {bound['least']:g}"
        outcome = "holds" if bound["holds"] else "**missed**"
        rows.append(f"| {bound['what']} | {bound['measured']:.2f} | {words} | {outcome} |")
    return "\n".join(rows)


def uploads(results: Mapping[str, Any]) -> str:
    """A row for each protocol: bytes up of 100,000 coordinates and of a tenth of them."""
    rows = ["| protocol | 100,000 coordinates | a tenth | times less |", "|---|---|---|---|"]
    for name, (whole, part) in results["bytes_up"].items():
        rows.append(f"| `{name}` | {whole:,} | {part:,} | {whole / part:.2f} |")
    return "\n".join(rows)


def redraw(text: str, results: Mapping[str, Any]) -> str:
    """``text`` with everything between the markers written anew."""
    for name, inside in (
        ("accuracies", accuracies(results)),
        ("bounds", bounds(results)),
        ("uploads", uploads(results)),
    ):
        if (count := text.count(f"<!-- {name} -->\n")) != 1:
            raise SystemExit(f"{DOCUMENT.name} has {count} places for {name}; expected 1")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}{marker}{inside}\n{rest[rest.index('<!-- end -->') :]}"
    return text


def main() -> None:
    """Write the document."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCUMENT.write_text(redraw(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()

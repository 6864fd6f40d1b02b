"""Draws who sends what to whom in each protocol: ``python -m docs.drawings`` writes docs/drawings/*.svg.

The drawings come from ``protocol.phases``, which the roles run, as the tables of docs/protocols.md do. A test
compares the files with what this module draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

from docs.diagrams import PROTOCOLS
from secagg import OneShot
from secagg.identity import PartyRole
from secagg.protocols.base import AggregationProtocol

FOLDER = Path(__file__).parent / "drawings"

#: The protocols with a drawing: of each family the variant that docs/how_it_works.md tells.
DRAWN: Mapping[str, AggregationProtocol] = {
    **{
        name: PROTOCOLS[name]
        for name in ("clear", "secagg-malicious", "secaggplus-semi-malicious", "additive-shares", "encrypted")
    },
    "one-shot": OneShot(),  # without the round that recount=True adds
}

SIDE = 54  # pixels beside the first lifeline, and beside the server's if it is the last: these two fit a phone
GAP = 228  # between two lifelines
STEP, PAD, HEAD, NAME = 34, 16, 56, 18  # NAME is for the name of a round, above its arrows

STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1b1f24}"
    ".head{font-size:13px;font-weight:600;text-anchor:middle}"
    ".round{font-size:13px;fill:#57606a;stroke:#ffffff;stroke-width:5px;paint-order:stroke}"
    ".word{text-anchor:middle}.input{font-weight:700}"
    "line{stroke:#1b1f24;stroke-width:1.4}.life{stroke:#8c959f;stroke-dasharray:3 4}"
    ".heavy{stroke-width:4}.rule{stroke:#d0d7de;stroke-width:1}"
)


class Arrow(NamedTuple):
    """One message: from whom, to whom, its name, and whether it carries an update."""

    sender: str
    receiver: str
    message: str
    heavy: bool = False


def arrows(protocol: AggregationProtocol) -> Iterator[tuple[str, list[Arrow]]]:
    """The messages of each round, by its name."""
    for phase in protocol.phases:
        role = str(phase.role)
        inside = [
            Arrow("server", role, phase.request.__name__),
            Arrow(role, "server", phase.reply.__name__, phase.takes_input),
        ]
        if phase.relay is not None:
            inside.append(Arrow("server", str(phase.relay), phase.handed_on.__name__))
        if phase.word is not None:
            inside.append(Arrow(str(phase.relay), "server", phase.word.__name__))
        yield str(phase.round), inside


def draw(protocol: AggregationProtocol) -> str:
    """The drawing as SVG, on a light card, so that it is readable on a dark page and in grey."""
    rounds = list(arrows(protocol))
    others = [str(role) for role in PartyRole if role is not PartyRole.CLIENT]
    present = {end for _, inside in rounds for arrow in inside for end in arrow[:2]}
    lanes = ["client", "server", *(role for role in others if role in present)]
    at = {lane: SIDE + GAP * number for number, lane in enumerate(lanes)}
    width = at[lanes[-1]] + max(SIDE, 5 * len(_title(lanes[-1])))
    marks: list[str] = []
    y = HEAD + PAD
    for name, inside in rounds:
        marks.append(f'<line class="rule" x1="{PAD // 2}" y1="{y - PAD}" x2="{width - PAD // 2}" y2="{y - PAD}"/>')
        marks.append(f'<text class="round" x="{PAD // 2}" y="{y + 2}">{escape(name)}</text>')
        y += NAME
        for arrow in inside:
            y += STEP
            marks += _arrow(arrow, at, y - 8)
        y += PAD + 4
    height = y
    heads = [f'<text class="head" x="{x}" y="30">{_title(lane)}</text>' for lane, x in at.items()]
    lives = [f'<line class="life" x1="{x}" y1="42" x2="{x}" y2="{height - PAD}"/>' for x in at.values()]
    title = f"{protocol.name}: who sends what to whom, in {len(rounds)} round{'s' * (len(rounds) > 1)}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
            'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="#1b1f24"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
            *heads,
            *lives,
            *marks,
            "</svg>\n",
        ]
    )


def _arrow(arrow: Arrow, at: dict[str, int], y: int) -> list[str]:
    start, end = at[arrow.sender], at[arrow.receiver]
    sign = 1 if end > start else -1
    kind = ' class="heavy"' if arrow.heavy else ""
    style = "word input" if arrow.heavy else "word"
    return [
        f'<line{kind} x1="{start + 5 * sign}" y1="{y}" x2="{end - 6 * sign}" y2="{y}" marker-end="url(#tip)"/>',
        f'<text class="{style}" x="{(start + end) // 2}" y="{y - 6}">{escape(arrow.message)}</text>',
    ]


def _title(lane: str) -> str:
    return "server" if lane == "server" else f"each {lane}"


def files() -> dict[Path, str]:
    """What each file must contain."""
    return {FOLDER / f"{name}.svg": draw(protocol) for name, protocol in DRAWN.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")

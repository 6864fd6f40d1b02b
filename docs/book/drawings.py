"""The states of a role as a drawing, in the place of a page's state diagram for Mermaid, which GitHub draws.

The drawing uses ``currentColor`` alone, so it follows the page in dark mode and loses nothing in print.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

_STYLE = (
    "text{fill:currentColor;font:14px system-ui,sans-serif}"
    "line,path,rect,circle{stroke:currentColor;stroke-width:1.3;fill:none}.head,.dot{fill:currentColor;stroke:none}"
)


def states(mermaid: str) -> str:
    """A drawing of a state diagram in Mermaid's language, of the kind that :mod:`docs.diagrams` writes.

    The states are in a column, in order, and a message that changes no state has a loop.
    """
    edges = re.findall(r"^ +(\S+) --> ([^\s:]+)(?:: (.*))?$", mermaid, re.MULTILINE)
    order = list(dict.fromkeys(name for edge in edges for name in edge[:2] if name != "[*]"))
    y = {name: 40 + 74 * place for place, name in enumerate(order)}
    centre, half = 110, 85
    parts = [f'<circle class="dot" cx="{centre}" cy="8" r="6"/>', *_down(centre, 14, y[order[0]], "")]
    for name in order:
        parts.append(f'<rect x="{centre - half}" y="{y[name]}" width="{2 * half}" height="32" rx="14"/>')
        parts.append(f'<text x="{centre}" y="{y[name] + 21}" text-anchor="middle">{escape(name)}</text>')
    for start, end, label in edges:
        if start == end:
            x, top = centre + half, y[start] + 6
            parts.append(f'<path d="M{x} {top}h30v20h-22"/><path class="head" d="M{x} {top + 20}l11 -5.5v11z"/>')
            parts.append(f'<text x="{x + 40}" y="{top + 15}">{escape(label)}</text>')
        elif start != "[*]" and end != "[*]":
            parts += _down(centre, y[start] + 32, y[end], label)
    width = centre + max(half + 40, 20) + 8 * max([len(label) for *_, label in edges] or [0])
    description = "; ".join(
        f"{start} to {end} {label}".strip() for start, end, label in edges if "[*]" not in (start, end)
    )
    return _svg(width, y[order[-1]] + 42, f"States: {description}.", parts)


def _down(x: int, start: int, end: int, label: str) -> list[str]:
    text = f'<text x="{x + 12}" y="{(start + end) // 2 + 4}">{escape(label)}</text>' if label else ""
    return [
        f'<line x1="{x}" x2="{x}" y1="{start}" y2="{end - 9}"/>',
        f'<path class="head" d="M{x} {end}l-5.5 -11h11z"/>{text}',
    ]


def _svg(width: int, height: int, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(description)}"><style>{_STYLE}</style>{"".join(parts)}</svg>'
    )


def redraw(app: Sphinx, tree: nodes.document) -> None:
    """Put a drawing in the place of each state diagram."""
    for block in list(tree.findall(nodes.literal_block)):
        if block.get("language") == "mermaid" and block.astext().startswith("stateDiagram-v2"):
            figure = f'<figure class="book-drawing">{states(block.astext())}</figure>'
            block.replace_self(nodes.raw("", figure, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of this function."""
    app.connect("doctree-read", redraw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

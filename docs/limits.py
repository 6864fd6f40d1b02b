"""Writes the tables of ``operations_limits.md``: the limits of a listener, and the problems of the service.

``python -m docs.limits``
"""

from __future__ import annotations

from pathlib import Path

from secagg.api import problems
from secagg.service import limits

DOCUMENT = Path(__file__).with_name("operations_limits.md")


def redraw(text: str) -> str:
    """``text`` with everything between the markers written anew."""
    for name, table in (("limits", limits.table()), ("problems", problems.table())):
        if (count := text.count(f"<!-- {name} -->\n")) != 1:
            raise SystemExit(f"{DOCUMENT.name} has {count} places for {name}; expected 1")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}{marker}\n{table}\n{rest[rest.index('<!-- end -->') :]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(redraw(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")

"""Writes the tables of the service's documents: limits, problems, schedule and routes.

``python -m docs.service_tables``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from secagg.api import problems, routes
from secagg.service import limits, schedule

_HERE = Path(__file__).parent
LIMITS, SERVICE = _HERE / "operations_limits.md", _HERE / "service.md"
TABLES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    LIMITS: {"limits": limits.table, "problems": problems.table},
    SERVICE: {"schedule": schedule.table, "routes": routes.reference},
}


def redraw(document: Path, text: str) -> str:
    """``text`` of ``document`` with everything between the markers written anew."""
    for name, table in TABLES[document].items():
        if (count := text.count(f"<!-- {name} -->\n")) != 1:
            raise SystemExit(f"{document.name} has {count} places for {name}; expected 1")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}{marker}\n{table().rstrip()}\n\n{rest[rest.index('<!-- end -->') :]}"
    return text


if __name__ == "__main__":
    for each in TABLES:
        each.write_text(redraw(each, each.read_text(encoding="utf-8")), encoding="utf-8")

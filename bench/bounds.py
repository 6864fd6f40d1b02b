"""Bounds: figures that a workload is held to. A bound that is missed is printed as missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.report import Grid, plain


@dataclass(frozen=True)
class Bound:
    """A figure that a workload is held to: what was measured, and the ``least`` or the ``most`` that is right."""

    what: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the measured figure keeps the bound."""
        return (self.least is None or self.measured >= self.least) and (
            self.most is None or self.measured <= self.most
        )

    @property
    def words(self) -> str:
        """The bound as text."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


def bounds_grid(bounds: Sequence[Bound]) -> Grid:
    """The table of bounds."""
    rows = [(one.what, f"{one.measured:.2f}", one.words, "holds" if one.holds else "MISSED") for one in bounds]
    return Grid("Bounds", ("what", "measured", "bound", ""), rows)


def bounds_plain(bounds: Sequence[Bound]) -> list[dict[str, Any]]:
    """Bounds for a document in JSON."""
    return [{**plain(one), "holds": one.holds} for one in bounds]


def missed(bounds: Sequence[Bound]) -> str:
    """One sentence about the bounds that are missed; empty if all hold."""
    count = sum(not one.holds for one in bounds)
    return f"{count} of {len(bounds)} bounds are missed; see the last table" if count else ""

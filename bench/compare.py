"""Compares two results of the same command: which figures got worse by more than a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.amounts import duration, size
from bench.report import Grid, Kind
from bench.sweep import number
from secagg.errors import ConfigError

_LEAST_SECONDS = 5e-4  # a smaller difference is noise of the clock
_BYTES_TOLERANCE = 0.01
_ACCURACY_TOLERANCE = 0.01
_LEAST_MEMORY = 1 << 20  # bytes; a smaller difference is noise of the allocator
_SAME = {
    Kind.RUN: ("workload",),
    Kind.PEERS: (),
    Kind.SWEEP: ("over", "held"),
    Kind.SCALE: (),
    Kind.PLAN: ("workload", "link"),
    Kind.FEDERATED: ("seeds",),
    Kind.RESNET18: ("workload",),
    Kind.RING: ("arithmetic",),
    Kind.ONESHOT: ("arithmetic", "workload"),
    Kind.SERVICE: ("sizes",),
    Kind.COLD: (),
    Kind.CROWD: (),
    Kind.MASKS: (),
}


@dataclass(frozen=True)
class Change:
    """One figure in both results; None: it is missing. ``higher``: more is better, as in a ratio over a peer."""

    what: str
    figure: str
    old: float | None
    new: float | None
    tolerance: float
    higher: bool = False

    @property
    def ratio(self) -> float:
        """The new figure divided by the old one."""
        new = self.new or 0.0
        return new / self.old if self.old else math.inf if new else 1.0

    @property
    def noise(self) -> float:
        """The least difference that counts."""
        return _LEAST_SECONDS if "seconds" in self.figure else _LEAST_MEMORY if "memory" in self.figure else 0.0

    @property
    def worse(self) -> bool:
        """Whether the figure is missing, or worse by more than the tolerance."""
        if self.new is None or not math.isfinite(self.new):
            return True
        if self.old is None:
            return False
        if abs(self.new - self.old) < self.noise:
            return False
        return self.ratio < 1 / (1 + self.tolerance) if self.higher else self.ratio > 1 + self.tolerance


def compared(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[Change]:
    """Every figure of ``old`` with that of ``new``. ``ConfigError`` for results that cannot be compared."""
    if old["kind"] != new["kind"]:
        raise ConfigError(
            f"got a result of {old['kind']} and one of {new['kind']}; expected two results of one command"
        )
    if old["kind"] == Kind.RATES:
        raise ConfigError("got rates, which trade with each other in a fit; compare two results of plan --rates")
    if not new["finished"] or not old["finished"]:
        raise ConfigError("got a result that was interrupted; run the command to its end")
    try:
        return _changes(old, new, tolerance)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"got a result of {old['kind']} with parts missing or of the wrong type ({error!r}); run it again"
        ) from error


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[Change]:
    for same in _SAME[old["kind"]]:
        if old[same] != new[same]:
            raise ConfigError(f"got results for {same} {old[same]} and {new[same]}; expected the same for both")
    match old["kind"]:
        case Kind.RUN:
            return list(_rows(old["rows"], new["rows"], tolerance))
        case Kind.PEERS:
            return list(_ratios(old["compared"], new["compared"], tolerance))
        case Kind.SWEEP:
            return list(_figures(old["points"], new["points"], ("protocol", "at"), tolerance))
        case Kind.SCALE:
            keys = ("protocol", "clients", "coordinates", "dropout")
            return list(_figures(old["sessions"], new["sessions"], keys, tolerance))
        case Kind.RING:
            return list(_ratios(old["timed"], new["timed"], tolerance))
        case Kind.ONESHOT | Kind.SERVICE:
            return list(_figures(old["figures"], new["figures"], ("what",), tolerance))
        case Kind.COLD:
            return list(_figures(old["firsts"], new["firsts"], ("what", "cache"), tolerance))
        case Kind.CROWD:
            return list(_figures(old["rounds"], new["rounds"], ("what",), tolerance))
        case Kind.MASKS:
            return list(_ratios(old["compared"], new["compared"], tolerance))
        case Kind.RESNET18:
            return list(_figures(old["rows"], new["rows"], ("protocol",), tolerance))
        case Kind.FEDERATED:
            return list(_accuracies(old["figures"], new["figures"]))
        case _:
            return list(_figures(old["planned"], new["planned"], ("protocol",), tolerance))


def _rows(old: list[dict[str, Any]], new: list[dict[str, Any]], tolerance: float) -> Iterator[Change]:
    now = {row["protocol"]: row for row in new}
    for row in old:
        name, later = row["protocol"], now.get(row["protocol"])
        for figure in ("client_seconds", "server_seconds", "other_seconds"):
            if row[figure] is not None:
                spread = (later or {}).get(figure)
                yield Change(name, figure, row[figure]["median"], spread and spread["median"], tolerance)
        for figure in ("bytes_up", "bytes_down", "largest_error"):
            yield Change(name, figure, row[figure], (later or {}).get(figure), _BYTES_TOLERANCE)
        yield Change(
            name, "most_dropouts", row["most_dropouts"], (later or {}).get("most_dropouts"), 0.0, higher=True
        )


def _ratios(old: list[dict[str, Any]], new: list[dict[str, Any]], tolerance: float) -> Iterator[Change]:
    now = {(one["peer"], one["work"]): one for one in new}
    for one in old:
        later = now.get((one["peer"], one["work"]))
        what = f"{one['peer']}: {one['work']}"
        ratio = later["ratio"]["median"] if later else None
        yield Change(what, "times as fast", one["ratio"]["median"], ratio, tolerance, higher=True)
        if one["our_bytes"]:
            yield Change(
                what, "bytes ours", one["our_bytes"], later["our_bytes"] if later else None, _BYTES_TOLERANCE
            )


def _figures(
    old: list[dict[str, Any]], new: list[dict[str, Any]], keys: tuple[str, ...], tolerance: float
) -> Iterator[Change]:
    """Seconds and bytes of entries that are matched by ``keys``: points of a sweep, or planned protocols."""
    now = {tuple(one[key] for key in keys): one for one in new}
    for one in old:
        later = now.get(tuple(one[key] for key in keys), {})
        what = " at ".join(one[key] if isinstance(one[key], str) else number(one[key]) for key in keys)
        for figure, value in one.items():
            if isinstance(value, dict) and figure.endswith("_seconds"):
                yield Change(what, figure, value["median"], (later.get(figure) or {}).get("median"), tolerance)
            elif value is not None and figure.endswith(("_seconds", "_memory")):
                yield Change(what, figure, value, later.get(figure), tolerance)
            elif value is not None and figure.startswith("bytes_"):
                yield Change(what, figure, value, later.get(figure), _BYTES_TOLERANCE)


def _accuracies(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[Change]:
    """Accuracies of seeded trainings: a point of a hundred is tolerated, since processors round differently."""
    now = {(one["section"], one["name"]): one["mean"] for one in new}
    for one in old:
        what = f"{one['section']}: {one['name']}"
        later = now.get((one["section"], one["name"]))
        yield Change(what, "accuracy", one["mean"], later, _ACCURACY_TOLERANCE, higher=True)


def changes_grid(changes: list[Change], before: str, after: str) -> Grid:
    """A table of the figures that got worse, or of all if none did."""
    shown = [change for change in changes if change.worse] or changes
    rows = [
        (
            change.what,
            change.figure.replace("_", " "),
            _words(change, change.old),
            _words(change, change.new),
            "" if change.new is None else f"{change.ratio:.2f}",
            "worse" if change.worse else "",
        )
        for change in shown
    ]
    worse = sum(change.worse for change in changes)
    notes = [f"{worse} of {len(changes)} figures got worse by more than the tolerance, or are missing."]
    if before != after:
        notes.append(f"Taken on different machines: {before}, and {after}. Do not compare their seconds.")
    return Grid("New and old", ("what", "figure", "old", "new", "new / old", ""), rows, notes)


def _words(change: Change, value: float | None) -> str:
    if value is None:
        return "missing"
    if "seconds" in change.figure:
        return duration(value)
    return size(value) if "bytes" in change.figure or "memory" in change.figure else f"{value:.3g}"

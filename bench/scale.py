"""Measures every combination of clients, coordinates and dropout: what a session of that size costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from bench.amounts import duration, size
from bench.plots import MEMORY_FLOOR
from bench.points import Costs, Playing
from bench.report import Grid
from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

PROTOCOLS = ("SecAgg", "SecAggPlus", "OneShot")
CLIENTS, ALL_CLIENTS = (100, 1000), (100, 1000, 10_000)
COORDINATES, ALL_COORDINATES = (10_000, 1_000_000), (10_000, 1_000_000, 10_000_000)
DROPOUT = (0.0, 0.1, 0.3)


@dataclass(frozen=True)
class Session(Costs):
    """The costs of one protocol for a number of clients and coordinates and a share of silent clients."""

    protocol: str
    clients: int
    coordinates: int
    dropout: float

    @property
    def place(self) -> tuple[str, int, int, float]:
        """What was measured."""
        return self.protocol, self.clients, self.coordinates, self.dropout


def numbers(option: str, text: str | None, default: Sequence[float], whole: bool = True) -> list[float]:
    """The numbers of an option such as ``100,1000``, sorted; ``default`` if it is not there. ``ConfigError``."""
    if text is None:
        return list(default)
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"got {option} {text}; expected numbers separated by commas, such as 100,1000") from error
    if whole and not all(value.is_integer() for value in values):  # refuses NaN and infinity too
        raise ConfigError(f"got {option} {text}; expected whole numbers")
    return values


class Scaling:
    """All combinations, from the smallest on. ``sessions`` has those that were measured so far.

    Sessions of an earlier result, ``before``, are kept and not played again.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        protocols: Mapping[str, AggregationProtocol],
        before: Sequence[Session] = (),
    ) -> None:
        self.protocols = protocols
        self.workloads = sorted(workloads, key=_small_first)
        wanted = {
            (name, one.clients, one.coordinates, one.dropout) for one in self.workloads for name in self.protocols
        }
        self.sessions = [session for session in before if session.place in wanted]
        self.left_out: list[str] = []

    def steps(self, repeats: int) -> int:
        """How often :meth:`run` calls ``step`` at most."""
        return len(self.workloads) * len(self.protocols) * (repeats + 1)

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None], save: Callable[[], None]) -> None:
        """Measure all protocols at each combination, and call ``save`` after each."""
        playing = Playing(self.protocols, repeats, seconds, step)
        self.left_out = playing.left_out
        done = {session.place for session in self.sessions}
        for one in self.workloads:
            at = (one.clients, one.coordinates, one.dropout)
            playing.only = [name for name in self.protocols if (name, *at) not in done]
            label = f"{one.clients:,} clients of {one.coordinates:,}, {one.dropout:.0%} silent"
            self.sessions += [
                Session(
                    **costs.named(),
                    protocol=name,
                    clients=one.clients,
                    coordinates=one.coordinates,
                    dropout=one.dropout,
                )
                for name, costs in playing.at(one, label).items()
            ]
            save()


def _small_first(one: Workload) -> tuple[float, ...]:
    return one.clients * one.coordinates, one.clients, one.dropout


def workloads(clients: Sequence[float], coordinates: Sequence[float], dropout: Sequence[float]) -> list[Workload]:
    """A workload for each combination. ``ConfigError`` for one that is out of range."""
    return [Workload(int(n), int(d), rate) for n, d, rate in product(clients, coordinates, dropout)]


def earlier(document: Mapping[str, Any]) -> list[Session]:
    """The sessions of a result that ``--json`` wrote. ``ConfigError`` if it is of another command."""
    names = {field.name for field in fields(Session)}
    sessions = document.get("sessions")
    if not isinstance(sessions, list) or not all(isinstance(one, dict) and set(one) == names for one in sessions):
        raise ConfigError("got --resume with the file of another command; expected one of sweep without --over")
    return [Session(**one) for one in sessions]


def scale_grid(sessions: Sequence[Session], left_out: Sequence[str]) -> Grid:
    """The table: a row for each session, by protocol."""
    columns = (
        "protocol", "clients", "coordinates", "silent", "client", "CPU", "server", "CPU", "client\nsends",
        "peak memory\nof a client", "of the\nserver", "other\nparty",
    )  # fmt: skip
    rows = [
        (
            one.protocol,
            f"{one.clients:,}",
            f"{one.coordinates:,}",
            f"{one.dropout:.0%}",
            duration(one.client_seconds),
            duration(one.client_cpu_seconds),
            duration(one.server_seconds),
            duration(one.server_cpu_seconds),
            size(one.bytes_up),
            _memory(one.client_memory),
            _memory(one.server_memory),
            "–" if one.other_seconds is None else duration(one.other_seconds),
        )
        for one in sorted(sessions, key=lambda one: one.place)
    ]
    notes = [
        "Seconds of the median client, of the server and of the slowest other party over a whole session, on the "
        "clock; CPU: seconds of the processor on all cores. Every sum was exact. Memory: peak resident bytes, less "
        "those of an idle process; each measured party ran in a process of its own.",
        *(f"Left out: {text}." for text in left_out),
    ]
    return Grid("Costs by size", columns, rows, notes)


def _memory(peak: int) -> str:
    return f"< {size(MEMORY_FLOOR)}" if peak < MEMORY_FLOOR else size(peak)

"""Plays protocols at one workload after the other, and says which of them were left out, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench import memory
from bench.amounts import duration, size
from bench.estimates import Estimates
from bench.measure import WARM, Bench, Row, check, play
from bench.workloads import USABLE, Expected, Workload, check_played, estimate, memory_free
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

_QUICK = 2.0  # seconds: a shorter session is played twice


@dataclass(frozen=True)
class Costs:
    """One protocol under one workload: seconds on the clock and of the processor, bytes, and peaks of memory."""

    client_seconds: float
    server_seconds: float
    other_seconds: float | None
    client_cpu_seconds: float
    server_cpu_seconds: float
    bytes_up: int
    bytes_down: int
    client_memory: int
    server_memory: int
    other_memory: int | None

    @classmethod
    def of(cls, row: Row, peaks: memory.Peaks) -> Costs:
        """The medians of ``row``, and ``peaks``."""
        return cls(
            client_seconds=row.client_seconds.median,
            server_seconds=row.server_seconds.median,
            other_seconds=None if row.other_seconds is None else row.other_seconds.median,
            client_cpu_seconds=row.client_cpu,
            server_cpu_seconds=row.server_cpu,
            bytes_up=row.bytes_up,
            bytes_down=row.bytes_down,
            client_memory=peaks.client,
            server_memory=peaks.server,
            other_memory=peaks.other,
        )

    def named(self) -> dict[str, Any]:
        """The figures by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Playing:
    """Plays ``protocols`` at one workload after the other, each ``repeats`` times, in turn.

    A session that is expected to take longer than ``seconds``, or needs more than the free memory, is not played;
    ``left_out`` names it with the reason. Only protocols in ``only`` are played. ``step`` is called with a protocol
    and what happens next to it.
    """

    def __init__(
        self,
        protocols: Mapping[str, AggregationProtocol],
        repeats: int,
        seconds: float,
        step: Callable[[str, str], None],
    ) -> None:
        self.protocols, self.repeats, self.seconds, self.step = protocols, repeats, seconds, step
        self.estimates = Estimates(protocols)
        self.only = list(protocols)
        self.left_out: list[str] = []

    def at(self, workload: Workload, label: str) -> dict[str, Costs]:
        """The costs of each protocol at ``workload``, without those that were left out."""
        names = [name for name in self.only if self._affordable(name, workload, label)]
        for name in self.only:
            for _ in range(0 if name in names else self.repeats + 1):
                self.step(name, f"{label}: left out")
        if not names:
            return {}
        bench = Bench(workload, {name: self.protocols[name] for name in names})
        for turn in range(self.repeats):  # the probes have warmed everything up
            for name in names:
                self.step(name, label)
                # Seconds of the parties alone: long-lived keys are generated once a run.
                took = sum(bench.measure(name).seconds.values())
                if turn == 0 and took < _QUICK:
                    # The first session of a size also built tables that later ones reuse.
                    bench.forget(name)
                    took = sum(bench.measure(name).seconds.values())
                self.estimates.add(name, workload, took)
        costs = {}
        for name in names:
            self.step(name, f"{label}: memory")
            costs[name] = Costs.of(bench.row(name), memory.peaks(name, workload))
        return costs

    def _affordable(self, name: str, workload: Workload, label: str) -> bool:
        reason = too_large(workload, self.protocols[name]) or self._too_long(name, workload)
        if reason:
            self.left_out.append(f"{name} at {label}, because {reason}")
        return not reason

    def _too_long(self, name: str, workload: Workload) -> str:
        self.estimates.probe(name, lambda probe: _seconds(self.protocols[name], probe))
        expected = self.estimates.seconds(name, workload)
        if expected <= self.seconds:
            return ""
        return f"a session would take about {duration(expected)} (--most-seconds {self.seconds:g})"


def too_large(workload: Workload, protocol: AggregationProtocol) -> str:
    """Why ``protocol`` cannot play ``workload`` here: its own limits, or the memory. Empty if it can."""
    usable = int(USABLE * memory_free() / 2)  # a second process measures memory
    try:
        check_played(workload.clients)
        needed = estimate(workload, protocol, usable)
    except ConfigError as refused:
        return f"it is refused: {refused}"
    if needed <= usable:
        return ""
    return f"all its parties in one process need {size(needed)}, with {size(usable)} available"


def _seconds(protocol: AggregationProtocol, workload: Workload) -> float:
    """Seconds of all parties in one small session, which is checked; after one that is not counted."""
    for one in (WARM, workload):
        updates = one.updates()
        session = play(one.task(protocol), updates, one.dropouts(protocol))
        check(protocol, one, Expected.of(one, updates), session.outcome)
    return sum(session.seconds.values())

"""Plays one round of ``bench crowd``: ``python -m bench.crowd_round SIZE`` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.apart import apart
from bench.crowd import WRONG, Size
from bench.measure import WARM, WrongSum, check, play
from bench.oneshot_calls import Large
from bench.workloads import Expected
from secagg import OneShot, SecAggPlus, simulation
from secagg.protocols.base import AggregationProtocol


@dataclass(frozen=True)
class Crowd(Large):
    """A workload that says itself from how many survivors on a sum is opened."""

    least: int = 0

    @property
    def floor(self) -> int:
        """The least survivors whose sum is opened."""
        return self.least or super().floor


def protocol_of(one: Size) -> AggregationProtocol:
    """The protocol of a round."""
    if one.protocol == "OneShot":
        return OneShot()
    return SecAggPlus(threat_model=one.threat_model or "semi-honest")


def figures(one: Size) -> dict[str, Any]:
    """Play a round, check its sum, and return its figures. The process must not have started a thread."""
    protocol = protocol_of(one)
    workload = Crowd(one.clients, one.coordinates, one.dropout, least=one.least)
    updates = workload.updates()
    peak = None
    if one.apart:
        run, away = apart(protocol, workload, clients=1)
        began = time.perf_counter()
        outcome = run.run(updates, None)
        whole = time.perf_counter() - began
        server_cpu, peak = sum(run.cpu["server"].values()), away["server"].end()
        away[workload.survivors[0]].end()
    else:
        play(WARM.task(protocol), WARM.updates(), {})
        began = time.perf_counter()
        session = play(workload.task(protocol), updates, workload.dropouts(protocol))
        whole = time.perf_counter() - began
        outcome, server_cpu = session.outcome, session.cpu["server"]
    check(protocol, workload, Expected.of(workload, updates), outcome)
    return {
        "whole_seconds": whole,
        "server_seconds": sum(outcome.seconds["server"].values()),
        "server_cpu_seconds": server_cpu,
        "client_seconds": median(sum(outcome.seconds[client].values()) for client in workload.survivors),
        "bytes_up": _median(outcome, outcome.bytes_up),
        "bytes_down": _median(outcome, outcome.bytes_down),
        "server_memory": peak,
    }


def _median(outcome: simulation.Simulation, counted: Any) -> int:
    return int(median(sum(counted[client].values()) for client in outcome.survivors))


def main(arguments: Sequence[str]) -> None:
    """Run the subprocess: print the figures as one line of JSON."""
    try:
        print(json.dumps(figures(Size(**json.loads(arguments[0])))))
    except WrongSum as wrong:
        print(wrong, file=sys.stderr)
        raise SystemExit(WRONG) from None


if __name__ == "__main__":
    main(sys.argv[1:])

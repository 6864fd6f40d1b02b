"""Whole sessions over the service: large ones, whose inputs come in one burst, and thousands of waiting polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench.measure import check
from bench.oneshot_calls import Large
from bench.service_crowd import Crowd, Enrolled
from bench.service_line import trusting
from bench.service_process import Serving, allow_files, serving
from bench.workloads import Expected
from secagg.protocols.base import AggregationProtocol
from secagg.service.listener import new_loop

SECONDS = 1800.0
_SPARE = 512  # open files beside the connections
_FLOOR = 9  # tenths of the clients that must stay: a client of SecAggPlus then has 78 neighbours of 1,000
Result = TypeVar("Result")


@dataclass(frozen=True)
class Session:
    """A whole session: seconds of the wall and of the service's processor, and what its memory grew by at most.

    ``at_once`` inputs are under way at a time. ``upload`` is the bytes of an input, ``vector`` those of the sum in
    the server's memory. ``burst`` is the time from the first input that is sent until the last one is taken.
    ``busy`` counts the answers 429 and 503, after which a party sends its message again.
    """

    protocol: str
    clients: int
    at_once: int
    upload: int
    vector: int
    seconds: float
    burst: float
    cpu: float
    growth: int
    busy: int


@dataclass(frozen=True)
class Waiting:
    """Parties in long polls over TLS: what they add to the memory, and how long it takes to wake them all.

    ``offered`` is the seconds from the opening of a round until the last party has its offer, ``asked`` those from
    then until the last one has its first message. ``failed`` counts the answers 500 and above.
    """

    parties: int
    growth: int
    offered: float
    asked: float
    seconds: float
    cpu: float
    failed: int


def session(protocol: AggregationProtocol, workload: Large, at_once: int) -> Session:
    """Play a whole session. The inputs are ready before the first one is sent, ``at_once`` at a time.

    The memory counts from when all parties are connected and wait for the round.
    """
    return _play(protocol, workload, lambda service, crowd: _session(service, crowd, protocol, workload), at_once)


def waiting(protocol: AggregationProtocol, workload: Large) -> Waiting:
    """Let all parties wait in long polls, and then play a session of all."""
    return _play(protocol, workload, _waiting, workload.clients)


def _play(
    protocol: AggregationProtocol,
    workload: Large,
    measuring: Callable[[Serving, Crowd], Coroutine[Any, Any, Result]],
    at_once: int,
) -> Result:
    task = workload.task(protocol)
    task = replace(task, min_survivors=max(task.min_survivors, _FLOOR * workload.clients // 10))
    enrolled = Enrolled.of(task, workload.ids)
    expected = Expected.of(workload, workload.updates())
    allow_files(len(enrolled.roster) + _SPARE)

    async def measured(service: Serving) -> Result:
        crowd = Crowd(enrolled, service.url, trusting(service.ca), workload.updates().__getitem__, at_once)
        with crowd.living():
            return await measuring(service, crowd)

    with serving(task, enrolled.roster, seconds=SECONDS, connections=len(enrolled.roster)) as service:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            result = runner.run(measured(service))
        check(protocol, workload, expected, service.end())  # type: ignore[arg-type]
        return result


async def _session(service: Serving, crowd: Crowd, protocol: AggregationProtocol, workload: Large) -> Session:
    await _all_wait(service, crowd)
    before = service.usage()
    service.peak()
    began = time.monotonic()
    service.begin()
    await crowd.until(lambda: len(crowd.held) == workload.clients, SECONDS)
    upload, burst = len(crowd.held[workload.ids[0]].data), time.monotonic()
    crowd.released.set()
    await crowd.until(lambda: crowd.taken == workload.clients, SECONDS)
    burst = time.monotonic() - burst
    await crowd.ended(SECONDS)
    return Session(
        protocol=protocol.name,
        clients=workload.clients,
        at_once=crowd.at_once,
        upload=upload,
        vector=8 * workload.coordinates,
        seconds=time.monotonic() - began,
        burst=burst,
        cpu=service.usage().cpu - before.cpu,
        growth=service.peak() - before.resident,
        busy=crowd.statuses[429] + crowd.statuses[503],
    )


async def _waiting(service: Serving, crowd: Crowd) -> Waiting:
    before = service.usage()
    await _all_wait(service, crowd)
    growth = service.usage().resident - before.resident
    crowd.released.set()
    before, began = service.usage(), time.monotonic()
    service.begin()
    await crowd.ended(SECONDS)
    seconds, cpu = time.monotonic() - began, service.usage().cpu - before.cpu
    offered = max(crowd.offered.values())
    failed = sum(count for status, count in crowd.statuses.items() if status >= 500)
    asked = max(crowd.asked.values()) - offered
    return Waiting(len(crowd.enrolled.roster), growth, offered - began, asked, seconds, cpu, failed)


async def _all_wait(service: Serving, crowd: Crowd) -> None:
    """Wait until all parties wait, but for those whose poll has just ended and who poll again."""
    parties = len(crowd.enrolled.roster)
    await crowd.until(lambda: service.waiting() >= parties - parties // 100, SECONDS)

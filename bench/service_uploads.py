"""Processor time of one upload: over TLS to the service, and by the session's server alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measure import check
from bench.oneshot_calls import Large
from bench.service_crowd import Crowd, Enrolled, Upload, send
from bench.service_line import Line, trusting
from bench.service_process import Serving, serving
from bench.workloads import Expected
from secagg.api import routes
from secagg.protocols.base import AggregationProtocol
from secagg.service.listener import new_loop

ALONE, KEPT, NEW = "receive alone", "kept connections", "new connections"
LANES = 8  # uploads that are under way at once
SECONDS = 600.0


@dataclass
class Uploads:
    """Seconds of the processor for one upload, of each turn, by kind; and the bytes of an upload."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {ALONE: [], KEPT: [], NEW: []})
    size: int = 0


def measure(protocol: AggregationProtocol, workload: Large, turns: int) -> Uploads:
    """One session, in ``turns``: some clients upload over kept connections, some over new ones.

    In each turn a server alone, restored as it was saved when the round opened, takes the same messages. One client
    is left to the end, so that no turn ends the round.
    """
    task = workload.task(protocol)
    enrolled = Enrolled.of(task, workload.ids)
    expected = Expected.of(workload, workload.updates())
    with serving(task, enrolled.roster, seconds=SECONDS, connections=workload.clients + LANES) as service:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            measuring = _Measuring(service, enrolled, workload)
            result = runner.run(measuring.session(turns))
        check(protocol, workload, expected, service.end())  # type: ignore[arg-type]
        return result


class _Measuring:
    def __init__(self, service: Serving, enrolled: Enrolled, workload: Large) -> None:
        self.service, self.enrolled, self.workload = service, enrolled, workload
        self.result = Uploads()

    async def session(self, turns: int) -> Uploads:
        service, count = self.service, self.workload.clients
        crowd = Crowd(self.enrolled, service.url, trusting(service.ca), self.workload.updates().__getitem__, LANES)
        self.crowd = crowd
        crowd.sent.clear()
        service.begin()
        with crowd.living():
            await crowd.until(lambda: len(crowd.held) == count, SECONDS)
            uploads = list(crowd.held.values())
            self.result.size = len(uploads[0].data)
            await self._turns(uploads, turns)
            crowd.sent.set()
            crowd.released.set()
            await crowd.ended(SECONDS)
        return self.result

    async def _turns(self, uploads: list[Upload], turns: int) -> None:
        crowd, each = self.crowd, (len(uploads) - 1) // (2 * turns)
        lines = [crowd.line() for _ in range(LANES)]
        for line, upload in zip(lines, uploads, strict=False):  # the handshake is not part of what is measured
            await line.request("GET", routes.PREFIX + "/tasks", self.crowd.headers(upload.party))
        alone = self.enrolled.task.restore_server(self.service.state(crowd.session), roster=self.enrolled.roster)
        alone.start()
        for turn in range(turns):
            some = uploads[2 * turn * each : 2 * (turn + 1) * each]
            await self._measure(KEPT, some[:each], lines)
            await self._measure(NEW, some[each:], None)
            began = time.process_time()
            for upload in some:
                alone.receive(upload.party, upload.data)
            self.result.seconds[ALONE].append((time.process_time() - began) / len(some))
        await self._send(uploads[2 * turns * each :], lines)
        for line in lines:
            await line.close()

    async def _measure(self, kind: str, uploads: Sequence[Upload], lines: Sequence[Line] | None) -> None:
        before = self.service.usage().cpu
        await self._send(uploads, lines)
        self.result.seconds[kind].append((self.service.usage().cpu - before) / len(uploads))

    async def _send(self, uploads: Sequence[Upload], lines: Sequence[Line] | None) -> None:
        """Send ``uploads``, as many at once as there are lanes, over ``lines`` or each over a new connection."""
        left = list(uploads)

        async def lane(line: Line | None) -> None:
            while left:
                upload = left.pop()
                mine = line or self.crowd.line()
                await send(upload, mine, self.crowd.headers(upload.party), self.crowd.statuses)
                if line is None:
                    await mine.close()

        kept: list[Line | None] = [None] * LANES if lines is None else [*lines]
        await asyncio.gather(*(lane(line) for line in kept))

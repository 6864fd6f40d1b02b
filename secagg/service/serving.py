"""What the handlers of one process share."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from secagg.api.problems import Kind, Problem
from secagg.service.callers import Doors
from secagg.service.database import Database
from secagg.service.guard import Guard
from secagg.service.metrics import Metrics
from secagg.service.run import Run
from secagg.service.status import MOST_HISTORY, PastSession
from secagg.service.uploads import Uploads


@dataclass
class Serving:
    """The runs by their task's digest in hexadecimal digits, and what every request needs.

    ``doors`` is None until the service is ready; ``stopping`` lets every poll end at once.
    """

    database: Database
    guard: Guard
    uploads: Uploads
    metrics: Metrics
    most_waiting: int = 10_000
    runs: dict[str, Run] = field(default_factory=dict)
    history: deque[PastSession] = field(default_factory=lambda: deque(maxlen=MOST_HISTORY))
    seen: dict[tuple[str, str], float] = field(default_factory=dict)  # by task and party, on the monotonic clock
    bytes_in: int = 0
    bytes_out: int = 0
    doors: Doors | None = None
    stopping: bool = False

    def open_doors(self) -> Doors:
        """What finds the caller of a request; ``Problem`` while the service starts or stops."""
        if self.doors is None:
            raise Problem(Kind.NOT_READY, retry_after=1.0)
        return self.doors

    def saw(self, run: Run, party: str) -> None:
        """Note that ``party`` called."""
        self.database.saw(run.task.digest, party)
        self.seen[run.key, party] = time.monotonic()

    @property
    def waiting(self) -> int:
        """How many polls wait."""
        return sum(len(run.polls) for run in self.runs.values())

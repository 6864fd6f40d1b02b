"""The service of a load test, in a process of its own, whose processor time and memory are its own too.

The process is spawned, plays a small session to load the kernels, starts a :class:`secagg.service.Service` on
loopback with TLS, and then answers what the pipe asks.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import WARM, play
from secagg.certificates import write_certificates
from secagg.errors import SecAggError
from secagg.identity import Roster
from secagg.service import Schedule, Service
from secagg.service.limits import Limits
from secagg.task import Task

_MODEL = np.zeros(1, np.float32)  # small: what a client downloads is no part of an upload
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Usage:
    """What the process has used: seconds of the processor on all its threads, and resident bytes now."""

    cpu: float
    resident: int


@dataclass(frozen=True)
class Ended:
    """How a round ended: who is in the sum, the sum and the mean, or why there is none."""

    survivors: tuple[str, ...] = ()
    sum: Any = None
    mean: Any = None
    error: str = ""


class Serving:
    """A service in another process."""

    def __init__(self, pipe: Connection, ca: Path) -> None:
        self._pipe, self.ca = pipe, ca
        self.url = str(self._answer())

    def usage(self) -> Usage:
        """What it has used so far."""
        usage: Usage = self._ask("usage")
        return usage

    def peak(self) -> int:
        """The most resident bytes since the last call."""
        peak: int = self._ask("peak")
        return peak

    def begin(self) -> None:
        """Begin a round."""
        self._ask("begin")

    def end(self) -> Ended:
        """Wait for the end of the round. ``SecAggError`` if it has no outcome."""
        ended: Ended = self._ask("end")
        if ended.error:
            raise SecAggError(f"the round on the service has no outcome: {ended.error}")
        return ended

    def state(self, session: str) -> bytes:
        """The state of the session's server as it was saved when the open round was opened."""
        state: bytes = self._ask("state", session)
        return state

    def waiting(self) -> int:
        """How many polls wait."""
        waiting: int = self._ask("waiting")
        return waiting

    def _ask(self, *question: Any) -> Any:
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise SecAggError("the process of the service ended; its messages are above") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def serving(task: Task, roster: Roster, *, seconds: float, connections: int) -> Iterator[Serving]:
    """A service of ``task`` in a process of its own, in a folder of its own, until the block ends.

    A round may last ``seconds``, and ``connections`` may be open at once.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    with tempfile.TemporaryDirectory(prefix="secagg-bench-") as folder:
        ca = write_certificates(["127.0.0.1", "localhost"], Path(folder) / "tls") / "ca.crt"
        arguments = (there, folder, task.to_bytes(), roster.to_json(), seconds, connections)
        process = spawn.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        there.close()
        try:
            yield Serving(here, ca)
        finally:
            here.close()  # which ends it
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


def allow_files(count: int) -> None:
    """Let this process open ``count`` files. ``SecAggError`` if the system allows fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SecAggError(f"got a limit of {hard} open files; raise it to {count} (ulimit -Hn) or measure fewer")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _serve(pipe: Connection, folder: str, task: bytes, roster: str, seconds: float, connections: int) -> None:
    allow_files(connections + 512)
    play(WARM.task(Task.from_bytes(task).protocol), WARM.updates(), {})
    limits = Limits(per_address=None, connections=connections + 128)
    tls = Path(folder) / "tls"
    service = Service(
        Path(folder) / "service", tls=(tls / "server.crt", tls / "server.key"), status=None, limits=limits
    )
    schedule = Schedule(gather=seconds, deadline=seconds, training=seconds)
    service.add(Task.from_bytes(task), roster=Roster.from_json(roster), schedule=schedule)
    with service:
        pipe.send(service.url)
        _answer_all(pipe, service)


def _answer_all(pipe: Connection, service: Service) -> None:
    """Answer until the other end of the pipe is closed."""
    rounds: list[_Round] = []
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        match name:
            case "usage":
                used = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(Usage(used.ru_utime + used.ru_stime, _status("VmRSS")))
            case "peak":
                pipe.send(_status("VmHWM"))
                Path("/proc/self/clear_refs").write_text("5")  # resets it
            case "begin":
                rounds.append(_Round(service))
                pipe.send(None)
            case "end":
                pipe.send(rounds.pop().end())
            case "state":
                pipe.send(service._serving.database.store(arguments[0]).load())
            case _:
                pipe.send(service._serving.waiting)


class _Round:
    """A round in a thread, as in a training loop beside the service."""

    def __init__(self, service: Service) -> None:
        self._service, self._ended = service, Ended(error="it did not end")
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self) -> None:
        try:
            outcome = self._service.round(_MODEL)
        except Exception as error:
            self._ended = Ended(error=f"{type(error).__name__}: {error}")
        else:
            self._ended = Ended(tuple(outcome.survivors), outcome.sum, outcome.mean)

    def end(self) -> Ended:
        self._thread.join()
        return self._ended


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)

"""A server process that kills itself at one point; a fork server starts it (:func:`serve`)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from secagg.identity import load_roster
from secagg.service import (
    Schedule,
    Service,
    database,
    files,
    relays,
    running,
    service as service_module,
    spool,
    states,
)
from secagg.task import Task

MODEL = {"w": np.linspace(-1, 1, 40).astype(np.float32)}

#: Where the process can die: before and after each of these calls.
CALLS: dict[str, tuple[Any, str]] = {
    "spool write": (spool.Spool, "append"),
    "fdatasync": (os, "fdatasync"),
    "save": (states.States, "save"),
    "move": (states.States, "_move"),
    "relays": (relays.Relays, "sync"),
    "handed on": (files.SessionFiles, "relay"),
    "spool delete": (spool.Spool, "delete"),
    "publish": (running.Running, "_show"),
    "answers": (running.Running, "_publish"),
    "session begun": (database.Database, "begin_session"),
    "session finished": (database.Database, "finish_session"),
    "round finished": (database.Database, "finish_round"),
    "model": (database.Database, "add_model"),
    "end": (running.Running, "_end"),
}
POINTS = [f"{when} {name}" for name in CALLS for when in ("before", "after")]


def arm(point: str) -> None:
    """Kill this process when ``point`` is reached."""
    when, name = point.split(" ", 1)
    owner, attribute = CALLS[name]
    real: Callable[..., Any] = getattr(owner, attribute)

    def call(*arguments: Any, **named: Any) -> Any:
        if when == "after":
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, call)


def serve(folder: Path, port: int, point: str, report: Connection) -> None:
    """Run one round of the task and the roster in ``folder``; say when the service listens, and what came out.

    ``point`` is a name of :data:`POINTS`, or ``none``.
    """
    service_module.warm = lambda task: None  # type: ignore[assignment]  # dozens of processes start, over 43 numbers
    task = Task.from_bytes((folder / "task.bin").read_bytes())
    service = Service(folder / "state", listen=("127.0.0.1", port), status=None)
    schedule = Schedule(deadline=60, training=60, gather=60, grace=60)
    service.add(task, roster=load_roster(folder / "roster.json"), schedule=schedule)
    if point != "none":
        arm(point)
    with service:
        report.send("ready")
        outcome = service.round(MODEL)
        flat = task.layout.flatten(outcome.sum, dtype="float64").tolist()
        faults = [str(fault) for fault in outcome.faults]
        report.send({"sum": flat, "survivors": list(outcome.survivors), "faults": faults})
        service.finish(wait=10)

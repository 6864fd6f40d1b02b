"""The command ``secagg serve``."""

from __future__ import annotations

import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any

import numpy as np

from secagg._loading import load_function
from secagg.errors import Aborted, ConfigError
from secagg.service.folder import write_file
from secagg.service.logs import configure
from secagg.service.service import Service
from secagg.service.settings import Entry, make_service, read_settings
from secagg.task import Task

log = logging.getLogger("secagg.service")

Loop = Callable[[Service], None]
_SET_DUMPABLE = 4  # PR_SET_DUMPABLE of prctl(2)
_MOST_FAILURES = 3  # in a row


def serve(settings: Path, loop: str | None) -> None:
    """Run the service of the file ``settings`` with a training loop, until the loop ends or SIGTERM comes.

    ``loop`` is ``module:function``; the function gets the :class:`Service`. By default the service adds the mean
    of each round to the model that the file names.
    """
    configure()
    read = read_settings(settings)
    service, tasks = make_service(read, settings.resolve().parent)
    if loop is None:
        play = _default_loop(read.task, tasks, settings.resolve().parent)
    else:
        play = load_function("--loop", loop)
    signal.signal(signal.SIGTERM, _stop)
    keep_out_of_core_files()
    with service:
        log.info("the service answers at %s, the status page at %s", service.url, service.status_url)
        play(service)
        for task in tasks:
            service.finish(task)


def keep_out_of_core_files() -> None:
    """Let no crash write this process's memory to a file, and no other process of this user read it (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _default_loop(entries: list[Entry], tasks: list[Task], beside: Path) -> Loop:
    if len(tasks) != 1 or entries[0].model is None:
        raise ConfigError(
            "got no training loop: pass --loop module:function, or give the one [[task]] a model, such as "
            'model = "model.npz", and the number of rounds'
        )
    path = beside / entries[0].model
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:  # noticed before the first round, not after the last
        raise ConfigError(
            f"got model = {entries[0].model}, in a folder that can't be written to: {error.strerror}; the trained "
            "model goes there, so name a file in another folder"
        ) from error
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            model: dict[str, Any] = {name: file[name] for name in file.files}
    except Exception as error:  # zip files and NumPy's format end in a dozen kinds of errors
        raise ConfigError(
            f"got no model at {path}: {error!s:.200}; expected a file of numpy.savez with an array for each leaf"
        ) from error
    return partial(_average, entries[0], tasks[0], model, path)


def _average(entry: Entry, task: Task, model: dict[str, Any], path: Path, service: Service) -> None:
    """Add each round's mean to the model. A round that ended before a restart has its outcome again at once."""
    failures = 0
    for number in range(1, entry.rounds + 1):
        try:
            outcome = service.round(model, task=task, config=entry.config, number=number)
        except Aborted as aborted:
            failures += 1
            log.warning("round %d of %d has no outcome: %s", number, entry.rounds, aborted)
            if failures >= _MOST_FAILURES:
                raise
            continue
        failures = 0
        mean = outcome.mean_like(model)
        model = {name: value + mean[name] for name, value in model.items()}
        log.info("round %d of %d: %d updates in the sum", number, entry.rounds, len(outcome.survivors))
    trained = path.with_name(f"{path.stem}.trained.npz")
    write_file(trained, lambda file: np.savez(file, **model))
    log.info("the model is in %s", trained)

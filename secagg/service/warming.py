"""Compile or load the kernels of a task before its first deadline runs."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from secagg.errors import SecAggError
from secagg.layout import Layout
from secagg.simulation import simulate
from secagg.task import Task

log = logging.getLogger("secagg.service")

_MOST_CLIENTS = 32
_LENGTH = 64


def warm(task: Task) -> None:
    """Play a session of ``task`` over a short vector, so that its kernels are there, if it can be played so."""
    update = np.zeros(_LENGTH, np.float32)
    count = min(task.max_clients, max(task.min_survivors, 4))
    if count > _MOST_CLIENTS:
        return
    weights = None if task.max_weight is None else [1] * count
    try:
        simulate(replace(task, layout=Layout.of(update)), [update] * count, weights=weights)
    except SecAggError as error:
        log.debug("the kernels are loaded when they are first needed: %s", error)

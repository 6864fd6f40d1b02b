"""The service's log, written to a string."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from secagg.service import logs


@contextmanager
def logged(level: int = logging.INFO) -> Iterator[io.StringIO]:
    """What is logged in the block; the loggers are as before afterwards."""
    loggers = [logging.getLogger(name) for name in logs.BRIDGED]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    written = io.StringIO()
    logs.configure(written, level)
    try:
        yield written
    finally:
        for logger, (handlers, was, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(was)

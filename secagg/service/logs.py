"""The service's log: one JSON object a line, with the keys of a fixed list and no others.

A key that is not listed is dropped, so a private key, share or token that is bound to a line by mistake does not
reach the file. Values are plain: bytes, arrays and other objects are replaced by the name of their class. Of an
exception the log has its class and where it was raised. It has the text only if the library itself raised it. Other
texts quote values: a database's error, for example, quotes the parameters of its statement.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import IO, Any

import structlog

from secagg.errors import SecAggError, words

#: The keys of a line. ``event`` is what happened, in words.
KEYS = frozenset({
    "at", "level", "logger", "event",
    "task", "session", "number", "attempt", "round", "position", "party", "role", "state", "result", "reason",
    "kind", "asked", "answered", "pending", "dropped", "survivors", "accepted", "cohort", "faults", "count",
    "bytes", "seconds", "deadline", "epsilon", "delta",
    "method", "route", "status", "problem", "address", "url", "path", "version", "pid", "signal",
    "error", "text", "where",
})  # fmt: skip
#: The loggers that are written in this form: this library's, and that of the HTTP server.
BRIDGED = ("secagg", "uvicorn.error")
_ADDRESSES = {"url", "path", "route"}
_MOST_TEXT = 2000
_MOST_FRAMES = 12

_Line = MutableMapping[str, Any]


def configure(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Write the service's own lines, and those of the ``BRIDGED`` loggers, to ``stream`` (by default stderr).

    It replaces what an earlier call set up.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_secrets,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.set_name("secagg.service")
    for name in BRIDGED:
        logger = logging.getLogger(name)
        for old in [old for old in logger.handlers if old.get_name() == handler.get_name()]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


def logger(**bound: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger of the service whose lines all carry ``bound``, such as ``session=``."""
    made: structlog.typing.FilteringBoundLogger = structlog.get_logger("secagg.service")
    return made.bind(**bound)


def _without_secrets(_: Any, __: str, line: _Line) -> _Line:
    """Keep what may be written: listed keys, plain values, and of an exception its class and place."""
    raised = line.pop("exc_info", None)
    error = sys.exc_info()[1] if raised is True else raised[1] if isinstance(raised, tuple) else raised
    kept = {key: _plain(line[key]) for key in line if key in KEYS}
    for key in _ADDRESSES & kept.keys():
        kept[key] = str(kept[key]).partition("?")[0]  # some clients put a token into the query
    if isinstance(error, BaseException):
        kept["error"] = type(error).__name__
        kept["where"] = _places(error.__traceback__)
        if isinstance(error, SecAggError):
            kept["text"] = words(error)
    return kept


def _plain(value: object) -> object:
    """``value`` if it is plain, and of a bounded length; else the name of its class."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)[:_MOST_TEXT]
    if isinstance(value, SecAggError):
        return words(value)[:_MOST_TEXT]
    return f"<{type(value).__name__}>"


def _places(trace: TracebackType | None) -> list[str]:
    """Where an exception came from, innermost last: module, line and function, without any source or value."""
    frames = [(frame.f_globals.get("__name__", "?"), line, frame) for frame, line in traceback.walk_tb(trace)]
    return [f"{name}:{line} {frame.f_code.co_name}" for name, line, frame in frames[-_MOST_FRAMES:]]

"""The service's log: one JSON object a line, with the keys of a fixed list and no others.

Everything is logged by the standard library's ``logging``; a line's keys are what the caller passes as ``extra=``.
A key that is not listed is dropped, so a private key, share or token that is bound to a line by mistake does not
reach the file. Values are plain: bytes, arrays and other objects are replaced by the name of their class. Of an
exception the log has its class and where it was raised. It has the text only if the library itself or the system
raised it. Other texts quote values: a database's error, for example, quotes the parameters of its statement.
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
    "session", "round", "party", "kind", "asked", "answered", "bytes", "seconds", "reason",
    "error", "text", "where",
})  # fmt: skip
#: The loggers that are written in this form: this library's, and that of the HTTP server.
BRIDGED = ("secagg", "uvicorn.error")
_MOST_TEXT = 2000
_MOST_FRAMES = 12

_Line = MutableMapping[str, Any]


def configure(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Write the lines of the ``BRIDGED`` loggers to ``stream`` (by default stderr), from the level ``level`` on.

    It replaces what an earlier call set up.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=[
                structlog.stdlib.ExtraAdder(),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            ],
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


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Puts exceptions that are arguments of a line into words before their own text can get into it."""

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_without_text, record.args))
        elif record.args:
            record.args = {name: _without_text(value) for name, value in record.args.items()}
        return super().format(record)


def _without_secrets(_: Any, __: str, line: _Line) -> _Line:
    """Keep what may be written: listed keys, plain values, and of an exception its class and place."""
    raised = line.pop("exc_info", None)
    error = sys.exc_info()[1] if raised is True else raised[1] if isinstance(raised, tuple) else raised
    kept = {key: _plain(line[key]) for key in line if key in KEYS}
    if isinstance(error, BaseException):
        kept["error"] = type(error).__name__
        kept["where"] = _places(error.__traceback__)
        if _is_ours(error):
            kept["text"] = words(error)
    return kept


def _is_ours(error: BaseException) -> bool:
    """Whether the text of ``error`` is known to hold no secret: errors of this library, and the system's."""
    return isinstance(error, SecAggError) or (type(error).__module__ == "builtins" and isinstance(error, OSError))


def _worded(error: BaseException) -> str:
    return words(error) if _is_ours(error) else f"<{type(error).__name__}>"


def _without_text(value: object) -> object:
    return _worded(value) if isinstance(value, BaseException) else value


def _plain(value: object) -> object:
    """``value`` if it is plain, and of a bounded length; else the name of its class."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)[:_MOST_TEXT]
    return _worded(value) if isinstance(value, BaseException) else f"<{type(value).__name__}>"


def _places(trace: TracebackType | None) -> list[str]:
    """Where an exception came from, innermost last: module, line and function, without any source or value."""
    frames = [(frame.f_globals.get("__name__", "?"), line, frame) for frame, line in traceback.walk_tb(trace)]
    return [f"{name}:{line} {frame.f_code.co_name}" for name, line, frame in frames[-_MOST_FRAMES:]]

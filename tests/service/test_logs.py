"""The log: one JSON object a line, listed keys only, and nothing secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from secagg.errors import ConfigError
from secagg.service import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream that the log is written to; the loggers are as before afterwards."""
    before = {
        name: (
            logging.getLogger(name).handlers[:],
            logging.getLogger(name).level,
            logging.getLogger(name).propagate,
        )
        for name in logs.BRIDGED
    }
    written = io.StringIO()
    logs.configure(written)
    yield written
    structlog.reset_defaults()
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_time_level_and_listed_keys(stream: io.StringIO) -> None:
    logs.logger(session="ab12").info("round closed", round="ShareKeys", answered=7, seconds=1.5)
    (line,) = lines(stream)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "round closed",
        "level": "info",
        "logger": "secagg.service",
        "session": "ab12",
        "round": "ShareKeys",
        "answered": 7,
        "seconds": 1.5,
    }


def test_of_another_packages_error_only_class_and_place_are_written(stream: io.StringIO) -> None:
    try:
        raise RuntimeError("parameters of a statement")
    except RuntimeError:
        logs.logger().exception("failed")
        logging.getLogger("uvicorn.error").exception("failed")
    for line in lines(stream):
        assert (line["event"], line["error"], "text" in line) == ("failed", "RuntimeError", False)
        assert line["where"][-1].endswith(" test_of_another_packages_error_only_class_and_place_are_written")


def test_an_error_of_the_library_is_written_with_its_text(stream: io.StringIO) -> None:
    try:
        raise ConfigError("expected 3 clients")
    except ConfigError:
        logs.logger().exception("refused")
    (line,) = lines(stream)
    assert (line["error"], line["text"]) == ("ConfigError", "expected 3 clients")


def test_the_librarys_own_lines_are_bridged_and_written_once(stream: io.StringIO) -> None:
    logs.configure(stream)
    logging.getLogger("secagg").warning("fault of %s", "c1\n{}")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("fault of c1\n{}", "warning", "secagg")


def test_a_level_leaves_out_what_is_below_it(stream: io.StringIO) -> None:
    logs.configure(stream, logging.WARNING)
    logs.logger().info("made")
    logging.getLogger("secagg").info("made")
    assert stream.getvalue() == ""

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

SECRET = "5ec2e7" * 8


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


def secrets_to(stream: io.StringIO) -> str:
    """What is written if a key is bound by mistake, in each way in which it may get to the log."""
    log = logs.logger(private_key=SECRET)
    log.info("made", token=SECRET, seed=bytes.fromhex(SECRET))
    log.info("asked", path=f"/v1/tasks?token={SECRET}", round=SECRET.encode())
    try:
        raise RuntimeError(f"INSERT INTO sessions: parameters {SECRET}")
    except RuntimeError as error:
        log.exception("failed")
        log.info("failed", error=error)
        logging.getLogger("secagg").exception("failed", extra={"state": SECRET})
        logging.getLogger("uvicorn.error").exception("failed")
    assert len(lines(stream)) == 6
    return stream.getvalue()


def test_keys_that_are_not_listed_and_texts_of_foreign_errors_are_not_written(stream: io.StringIO) -> None:
    assert SECRET not in secrets_to(stream)
    failed = [line for line in lines(stream) if line.get("error") == "RuntimeError"]
    assert len(failed) == 3
    assert all(line["where"][-1].endswith(" secrets_to") and "text" not in line for line in failed)


def test_control_a_secret_under_a_listed_key_is_written(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "KEYS", logs.KEYS | {"token"})
    assert SECRET in secrets_to(stream)


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

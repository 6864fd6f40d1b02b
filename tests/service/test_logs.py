"""The log: one JSON object a line, listed keys only, and nothing secret in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from secagg.errors import ConfigError
from secagg.service import logs
from tests.service.logged import logged
from tests.service.played import Played

log = logging.getLogger("secagg.service")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    with logged() as written:
        yield written


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_time_level_and_listed_keys(stream: io.StringIO) -> None:
    log.info("round closed", extra={"session": "ab12", "round": "ShareKeys", "answered": 7, "seconds": 1.5, "x": 1})
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
        log.exception("failed")
        logging.getLogger("uvicorn.error").exception("failed")
    assert len(lines(stream)) == 2
    for line in lines(stream):
        assert (line["event"], line["error"], "text" in line) == ("failed", "RuntimeError", False)
        assert line["where"][-1].endswith(" test_of_another_packages_error_only_class_and_place_are_written")


def test_an_error_of_the_library_is_written_with_its_text(stream: io.StringIO) -> None:
    try:
        raise ConfigError("expected 3 clients")
    except ConfigError:
        log.exception("refused")
    (line,) = lines(stream)
    assert (line["error"], line["text"]) == ("ConfigError", "expected 3 clients")


def test_the_librarys_own_lines_are_bridged_and_written_once(stream: io.StringIO) -> None:
    logs.configure(stream)
    logging.getLogger("secagg").warning("fault of %s", "c1\n{}")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("fault of c1\n{}", "warning", "secagg")


def test_a_level_leaves_out_what_is_below_it(stream: io.StringIO) -> None:
    logs.configure(stream, logging.WARNING)
    log.info("made")
    logging.getLogger("secagg").info("made")
    assert stream.getvalue() == ""


def test_a_round_and_a_fault_have_keys_to_search_for(stream: io.StringIO) -> None:
    played = Played()
    played.misbehave("c2", b"no envelope")
    while played.server.round != "ShareKeys":
        played.step()
    (fault,) = [line for line in lines(stream) if "kind" in line]
    (closed,) = [line for line in lines(stream) if "answered" in line]
    assert (fault["party"], fault["round"], fault["kind"]) == ("c2", "AdvertiseKeys", "malformed")
    assert (closed["round"], closed["answered"], closed["asked"]) == ("AdvertiseKeys", 6, 6)
    assert len(fault["session"]) == len(closed["session"]) == 12
    assert closed["event"].startswith(f"session {closed['session']} AdvertiseKeys: 6 of 6 answered, ")


def test_an_exception_in_a_text_is_put_into_words(stream: io.StringIO) -> None:
    log.warning("ended: %s", RuntimeError("parameters"))
    log.warning("ended: %(error)s", {"error": RuntimeError("parameters")})
    log.warning("ended: %s", ConfigError("expected 3 clients"))
    log.warning("ended: %s", OSError(28, "No space left on device"))
    assert [line["event"] for line in lines(stream)] == [
        "ended: <RuntimeError>",
        "ended: <RuntimeError>",
        "ended: expected 3 clients",
        "ended: [Errno 28] No space left on device",
    ]

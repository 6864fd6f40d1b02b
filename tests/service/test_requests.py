"""The requests of a round in a file: the same messages, in the same order, and nothing left of them."""

import os
from pathlib import Path

import pytest

from secagg.api.documents import frames
from secagg.service import requests
from secagg.service.handlers import _PIECE, _SMALL, _InPieces
from secagg.service.inbox import Inboxes
from secagg.service.relays import Relays
from secagg.service.requests import kept_apart

SHARED = bytes(range(256)) * 4096
OUTBOX = {"c1": b"one" * 100_000, "c2": SHARED, "c3": SHARED, "c4": b""}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_large_requests_are_read_from_a_file_that_has_no_name(tmp_path: Path) -> None:
    before = open_files()
    kept = kept_apart(OUTBOX, tmp_path)
    assert open_files() == before + 1
    assert not list(tmp_path.iterdir())
    assert dict(kept) == OUTBOX
    assert list(kept) == list(OUTBOX)
    assert len(kept) == len(OUTBOX)
    assert "c5" not in kept
    with pytest.raises(KeyError):
        kept["c5"]
    stored = os.fstat(kept._file).st_size  # type: ignore[attr-defined]
    assert stored == len(OUTBOX["c1"]) + len(SHARED)  # what two clients get is there once
    del kept
    assert open_files() == before


def test_connections_share_the_message_that_is_on_its_way_to_them(tmp_path: Path) -> None:
    """Slow readers of one broadcast, or many connections of one party, take no memory each."""
    kept = kept_apart(OUTBOX, tmp_path)
    readers = [kept[party] for party in ("c2", "c3", "c2")]
    assert readers[0] is readers[1] is readers[2]
    assert readers[0] is not kept["c1"]
    del readers
    assert not kept._read  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [_PIECE, _SMALL, 2 * _SMALL])
def test_an_answer_copies_no_large_message(size: int) -> None:
    message = bytes(size)
    answer = _InPieces(list(frames([(1, message), (2, b"")])), {})
    assert any(part is message for part in answer._parts)


def test_small_requests_stay_in_memory_also_if_many_clients_get_the_same(tmp_path: Path) -> None:
    one = bytes(requests._IN_MEMORY)
    outbox = {f"c{number}": one for number in range(100)}
    assert kept_apart(outbox, tmp_path) is outbox


def test_requests_that_cannot_be_written_raise_and_leave_nothing_open(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(OSError, match="No such file"):
        kept_apart(OUTBOX, tmp_path / "none")
    assert open_files() == before


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["in a file", "in memory"])
def test_a_client_gets_its_request_and_then_what_was_handed_on(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_IN_MEMORY", limit)
    with Relays(tmp_path / "relays") as relays:
        inboxes = Inboxes("ab" * 32, relays, frozenset({"listener"}))
        inboxes.open(2, kept_apart({"c1": b"request"}, tmp_path))
        first = inboxes.read("c1", "")
        assert first.messages == [(2, b"request")]
        assert not inboxes.waits("c1", first.cursor)
        assert not inboxes.waits("c2", "")
        inboxes.add(2, {"c1": b"more", "c2": b"alone"})
        assert inboxes.read("c1", first.cursor).messages == [(2, b"more")]
        assert inboxes.read("c1", "").messages == [(2, b"request"), (2, b"more")]
        assert inboxes.read("c2", "").messages == [(2, b"alone")]
        assert not inboxes.waits("c1", inboxes.read("c1", "").cursor)
        inboxes.open(3, kept_apart({"c1": b"next"}, tmp_path))
        assert inboxes.read("c1", first.cursor).messages == [(3, b"next")]
        assert not inboxes.waits("c2", "")

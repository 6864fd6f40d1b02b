"""What was handed on: the order for each listener, readers beside the writer, restarts, damage."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import ConfigError
from secagg.service.relays import Relayed, Relays

ALL = 1 << 40


def everything(relays: Relays, party: str) -> list[Relayed]:
    return relays.read(party, 0, 1 << 30, ALL)


def test_each_listener_reads_its_messages_in_order(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        relays.append("a", 1, b"one")
        relays.broadcast(["a", "b"], 1, b"two")
        relays.append("b", 2, memoryview(b"three"))
        relays.append("a", 2, b"")
        assert everything(relays, "a") == [(1, b"one"), (1, b"two"), (2, b"")]
        assert everything(relays, "b") == [(1, b"two"), (2, b"three")]
        assert everything(relays, "c") == []
        assert (relays.count("a"), relays.count("b"), relays.count("c")) == (3, 2, 0)
        assert relays.read("a", 1, 1, ALL) == [(1, b"two")]
        assert relays.read("a", 3, 5, ALL) == relays.read("a", 0, 0, ALL) == []


def test_a_message_to_many_is_stored_once(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        relays.broadcast([f"c{n}" for n in range(100)], 1, bytes(100_000))
        assert relays.size < 101_000


def test_an_answer_is_bounded_and_has_one_message_at_least(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        for n in range(5):
            relays.append("a", n, bytes(10))
        assert len(relays.read("a", 0, 9, 30)) == 3
        assert len(relays.read("a", 0, 9, 39)) == 3
        assert len(relays.read("a", 0, 9, 1)) == 1
        assert len(relays.read("a", 0, 2, 30)) == 2


def test_after_a_restart_what_followed_the_last_sync_is_forgotten(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        relays.append("a", 1, b"one")
        end = relays.sync()
        relays.append("a", 2, b"later")
        relays.append("b", 2, b"later")
    with Relays(tmp_path) as relays:
        relays.truncate(end)
        assert everything(relays, "a") == [(1, b"one")]
        assert relays.count("b") == 0
        relays.append("b", 2, b"again")
        assert relays.size == (tmp_path / "relays").stat().st_size
    with Relays(tmp_path) as relays:
        assert everything(relays, "b") == [(2, b"again")]
        relays.truncate(0)
        assert relays.count("a") == relays.size == 0


def test_a_torn_end_is_not_read(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        relays.append("a", 1, b"one")
        end = relays.sync()
        relays.append("a", 1, b"two")
    whole = (tmp_path / "relays").read_bytes()
    for cut in range(end, len(whole)):
        for tail in (b"", bytes(len(whole) - cut)):
            (tmp_path / "relays").write_bytes(whole[:cut] + tail)
            with Relays(tmp_path) as relays:
                relays.truncate(end)
                assert everything(relays, "a") == [(1, b"one")]


def test_damage_before_the_saved_end_is_refused(tmp_path: Path) -> None:
    with Relays(tmp_path) as relays:
        relays.append("ab", 1, b"one")
        end = relays.sync()
    whole = (tmp_path / "relays").read_bytes()
    for at in range(end - len(b"one")):
        (tmp_path / "relays").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with Relays(tmp_path) as relays, pytest.raises(ConfigError, match="damaged at byte 0"):
            relays.truncate(end)
    (tmp_path / "relays").write_bytes(whole[:-1])
    with Relays(tmp_path) as relays, pytest.raises(ConfigError, match=f"damaged at byte 0 of {end}"):
        relays.truncate(end)


def test_a_message_that_could_not_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def torn(file: int, pieces: Any, at: int) -> int:
        if at > before:
            raise OSError(errno.ENOSPC, "full")
        return real(file, [b"".join(pieces)[:7]], at)

    with Relays(tmp_path) as relays:
        relays.append("a", 1, b"one")
        before = relays.size
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", torn)
            with pytest.raises(OSError, match="full"):
                relays.append("a", 1, b"two")
        assert everything(relays, "a") == [(1, b"one")]
        relays.append("a", 2, b"three")
        end = relays.sync()
    with Relays(tmp_path) as relays:
        relays.truncate(end)
        assert everything(relays, "a") == [(1, b"one"), (2, b"three")]


def test_readers_see_whole_messages_while_the_writer_goes_on(tmp_path: Path) -> None:
    count, wrong = 400, list[Any]()

    def follow(relays: Relays, party: str) -> None:
        seen = 0
        while seen < count:
            for number, data in relays.read(party, seen, 7, ALL):
                if data != bytes([seen % 256]) * (seen % 50) or number != seen:
                    wrong.append((party, seen, data))
                seen += 1

    with Relays(tmp_path) as relays:
        readers = [threading.Thread(target=follow, args=(relays, party)) for party in ("a", "b", "a")]
        for reader in readers:
            reader.start()
        for n in range(count):
            relays.broadcast(("a", "b"), n, bytes([n % 256]) * (n % 50))
        for reader in readers:
            reader.join(60)
        assert not any(reader.is_alive() for reader in readers)
    assert wrong == []


@pytest.mark.parametrize("change", ["close", "truncate"])
def test_the_file_is_not_closed_or_cut_under_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    # A number of a closed file may be another session's file by the next read.
    relays, real = Relays(tmp_path), os.preadv
    for _ in range(2):
        relays.append("a", 1, b"one")
    inside, go_on, changed = threading.Event(), threading.Event(), threading.Event()

    def slow(*arguments: Any) -> int:
        inside.set()
        go_on.wait(60)
        assert not changed.is_set()
        return real(*arguments)

    def alter() -> None:
        inside.wait(60)
        relays.close() if change == "close" else relays.truncate(0)
        changed.set()

    other = threading.Thread(target=alter)
    other.start()
    monkeypatch.setattr(os, "preadv", slow)
    threading.Timer(0.05, go_on.set).start()
    assert everything(relays, "a") == [(1, b"one")] * 2
    other.join(60)
    assert changed.is_set()
    assert everything(relays, "a") == []
    assert relays.count("a") == 0
    relays.close()


def test_the_file_is_its_owners_alone_and_goes_with_its_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        relays = Relays(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "key" / "relays").stat().st_mode) == 0o600
    relays.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parties", [(), "ab", ["c" * (1 << 24), "d"]])
def test_what_is_not_a_list_of_listeners_is_refused(tmp_path: Path, parties: Any) -> None:
    with Relays(tmp_path) as relays, pytest.raises(ConfigError, match="list of listeners"):
        relays.broadcast(parties, 1, b"")

"""The spool against torn writes, damage, full disks and a second process: what was acknowledged stays."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from secagg.errors import ConfigError
from secagg.service import spool as module
from secagg.service.spool import Record, Spool

KEY = "ab" * 32


def record(number: int, size: int = 5) -> Record:
    data = bytes([number]) * size
    return Record(f"c{number}", hashlib.sha256(data).digest(), data)


def plain(records: Iterable[Record]) -> list[Record]:
    return [Record(one.sender, one.digest, bytes(one.data)) for one in records]


def filled(path: Path, *batches: Sequence[Record]) -> list[int]:
    """A closed spool with these batches; where each record ends."""
    ends = []
    with Spool(path) as spool:
        ends.append(spool.size)
        for batch in batches:
            before = spool.size
            spool.append(batch)
            for one in batch:
                before += module._HEAD.size + len(one.sender) + len(one.data) + module._TAG
                ends.append(before)
            assert before == spool.size
    return ends


def read(path: Path) -> list[Record]:
    with Spool(path) as spool:
        assert spool.size == path.stat().st_size
        records = plain(spool.replay())
        assert len(spool) == len(records)
        return records


def test_a_spool_gives_back_what_was_appended_in_order(tmp_path: Path) -> None:
    batches = [[record(1), record(2, 0)], [], [record(3, 100_000)], [record(n) for n in range(4, 40)]]
    wanted = [one for batch in batches for one in batch]
    filled(tmp_path / f"{KEY}.1", *batches)
    assert read(tmp_path / f"{KEY}.1") == wanted
    with Spool(tmp_path / f"{KEY}.1") as spool:
        spool.append([record(40)])
        assert plain(spool.replay()) == [*wanted, record(40)]


def test_more_records_than_one_call_of_writev_takes_are_written_whole(tmp_path: Path) -> None:
    many = [record(n % 250 + 1, n % 7) for n in range(1000)]
    filled(tmp_path / "s.1", many)
    assert read(tmp_path / "s.1") == many


def test_one_call_brings_all_its_records_to_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with Spool(tmp_path / "s.1") as spool:
        monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
        spool.append([record(n) for n in range(1, 33)])
        assert synced == [spool.size]


def test_only_the_owner_can_read_a_spool(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        filled(tmp_path / "s.1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s.1").stat().st_mode) == 0o600


def test_replayed_bytes_are_read_only_and_outlive_the_file(tmp_path: Path) -> None:
    with Spool(tmp_path / "s.1") as spool:
        spool.append([record(1, 9000)])
        (one,) = spool.replay()
        spool.delete()
    assert not (tmp_path / "s.1").exists()
    assert isinstance(one.data, memoryview)
    assert one.data.readonly
    assert one.data == record(1, 9000).data


@pytest.mark.parametrize("size", [0, 3])
def test_a_spool_cut_anywhere_keeps_all_whole_records_and_goes_on(tmp_path: Path, size: int) -> None:
    path, records = tmp_path / "s.1", [record(1, size), record(2, 3), record(3, size)]
    ends = filled(path, records[:1], records[1:])
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        left = [one for one, end in zip(records, ends[1:], strict=True) if end <= cut]
        assert read(path) == left
        with Spool(path) as spool:
            spool.append([record(9)])
        assert read(path) == [*left, record(9)]


@pytest.mark.parametrize("tail", [bytes(1), bytes(4096), b"\xff" * 50])
def test_an_unwritten_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    filled(tmp_path / "s.1", [record(1)])
    with (tmp_path / "s.1").open("ab") as file:
        file.write(tail)
    assert read(tmp_path / "s.1") == [record(1)]


def test_any_flipped_bit_is_noticed_and_the_records_before_it_stay(tmp_path: Path) -> None:
    path, records = tmp_path / "s.1", [record(1, 2), record(2, 3)]
    ends = filled(path, records)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            if at < ends[0] - module._KEY:
                with pytest.raises(ConfigError, match="head is damaged"):
                    Spool(path)
            else:
                # Under another key no record fits.
                kept = [one for one, start in zip(records, ends, strict=False) if ends[0] <= at and start <= at]
                assert read(path) == [one for one, end in zip(kept, ends[1:], strict=False) if end <= at]


def test_control_without_the_tag_a_damaged_message_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "_tag_of", lambda *_: bytes(module._TAG))
    ends = filled(tmp_path / "s.1", [record(1)])
    data = bytearray((tmp_path / "s.1").read_bytes())
    data[ends[1] - module._TAG - 1] ^= 1
    (tmp_path / "s.1").write_bytes(data)
    assert read(tmp_path / "s.1")[0].data == b"\1\1\1\1\0"


def test_records_of_an_older_write_do_not_fit_behind_newer_ones(tmp_path: Path) -> None:
    # The disk may show the end of a longer, failed write behind what replaced its beginning.
    path = tmp_path / "s.1"
    filled(path, [record(1), record(2), record(3)])
    stale = path.read_bytes()
    with Spool(path) as spool:
        os.ftruncate(spool._file, module._START)
        spool._end, spool._tag = module._START, bytes(module._TAG)
        spool.append([record(4)])
    path.write_bytes(path.read_bytes() + stale[path.stat().st_size :])
    assert read(path) == [record(4)]


def test_a_spool_under_another_name_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / f"{KEY}.1", [record(1)])
    (tmp_path / f"{KEY}.1").rename(tmp_path / f"{KEY}.2")
    with pytest.raises(ConfigError, match="belongs to another file"):
        Spool(tmp_path / f"{KEY}.2")


def test_a_sender_cannot_forge_a_record_inside_its_message(tmp_path: Path) -> None:
    # The message holds a whole record, as a spool with another key has it; a crash cut the outer record's head off.
    filled(tmp_path / "s.1", [record(7)])
    inner = (tmp_path / "s.1").read_bytes()[module._START :]
    (tmp_path / "s.1").unlink()
    filled(tmp_path / "s.1", [Record("mallory", bytes(32), inner)])
    data = (tmp_path / "s.1").read_bytes()
    skipped = module._START + module._HEAD.size + len("mallory")
    (tmp_path / "s.1").write_bytes(data[: module._START] + data[skipped:])
    assert read(tmp_path / "s.1") == []


def test_an_open_spool_is_not_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "s.1"
    with Spool(path):
        with pytest.raises(ConfigError, match="open already"):
            Spool(path)
        code = f"from secagg.service.spool import Spool; Spool({str(path)!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "open already" in other.stderr
    Spool(path).close()


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_after_a_failed_write_none_of_it_is_there_and_the_spool_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = os.pwritev

    def fail(file: int, *arguments: Any) -> int:
        if arguments and os.fstat(file).st_size < before + 300:
            return real(file, [memoryview(b"".join(arguments[0]))[:99]], arguments[1])  # a part is written
        raise OSError(errno.ENOSPC, "full")

    with Spool(tmp_path / "s.1") as spool:
        spool.append([record(1)])
        before = spool.size
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="full"):
                spool.append([record(2, 1000), record(3)])
        assert spool.size == before == (tmp_path / "s.1").stat().st_size
        assert plain(spool.replay()) == [record(1)]
        spool.append([record(4)])
    assert read(tmp_path / "s.1") == [record(1), record(4)]


def test_after_a_failed_write_that_could_not_be_cut_off_either_the_next_one_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with Spool(tmp_path / "s.1") as spool:
        spool.append([record(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(OSError, match="broken"):
                spool.append([record(2), record(3)])
        spool.append([record(4)])
    assert read(tmp_path / "s.1") == [record(1), record(4)]


def test_a_full_disk_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from secagg.service.spool import Record, Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool({str(tmp_path / "s.1")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
taken = 0
for number in range(100):
    try:
        spool.append([Record(f"c{{number}}", bytes(32), bytes([number]) * 700)])
        taken += 1
    except OSError:
        break
try:
    spool.append([Record("small", bytes(32), b"fits")])
    taken += 1
except OSError:
    pass
print(taken, spool.size)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, size = map(int, done.stdout.split())
    records = read(tmp_path / "s.1")
    assert len(records) == taken == 7
    assert size == (tmp_path / "s.1").stat().st_size <= 5000
    assert records[-1].sender == "small"


@pytest.mark.parametrize(
    "wrong", [Record("", bytes(32), b""), Record("c" * 256, bytes(32), b""), Record("c", b"", b"")]
)
def test_what_is_not_a_record_is_refused(tmp_path: Path, wrong: Record) -> None:
    with Spool(tmp_path / "s.1") as spool:
        with pytest.raises(ConfigError, match="sender of"):
            spool.append([record(1), wrong])
        assert len(spool) == 0


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened"):
        Spool(tmp_path / "none" / "s.1")


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_never_a_spool_with_records(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "s.1"
    filled(path, [record(1)])
    with path.open("ab") as file:
        file.write(data)
    assert read(path) == [record(1)]


def test_on_a_small_disk_that_fills_up_every_call_succeeds_or_changes_nothing(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=4m none "$0" && echo mounted && exec "$1" -m tests.service.full_disk "$0"'
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mounted,
        str(tmp_path),
        sys.executable,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("mounted"):
        pytest.skip(f"this host lets no user mount a disk of its own: {done.stderr}")
    assert done.returncode == 0, done.stderr[-2000:]
    failed = json.loads(done.stdout.removeprefix("mounted"))
    assert failed.keys() == {"spool", "relays", "state", "row", "model"}  # each was tried on a full disk
    assert all(0 < count < 30 for count in failed.values())

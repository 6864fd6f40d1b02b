"""Stores and ledgers against crashes: what stands after one, and what is refused."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import ConfigError, LocalProtocolError
from secagg.store import FileLedger, FileStore, Ledger, MemoryLedger

ROW = 96


def h(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Crash(BaseException):
    """The process is gone: no handler of the code under test may run on it."""


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def any_umask(request: pytest.FixtureRequest) -> Any:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# FileStore


def test_a_store_gives_back_the_newest_state(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state")
    assert store.load() is None
    for number, state in ((1, b"one"), (2, b""), (5, bytes(range(256)) * 1000)):
        store(number, state)
        assert store.load() == state
        assert FileStore(tmp_path / "state").load() == state
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("number", [0, 3, 4])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_store_refuses_a_number_that_does_not_rise(tmp_path: Path, number: int, reopened: bool) -> None:
    store = FileStore(tmp_path / "state")
    store(4, b"new")
    if reopened:
        store = FileStore(tmp_path / "state")
    with pytest.raises(LocalProtocolError, match=f"state number {number} after 4"):
        store(number, b"old")
    assert FileStore(tmp_path / "state").load() == b"new"
    store(5, b"newer")
    assert store.load() == b"newer"


@pytest.mark.usefixtures("any_umask")
def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    with FileLedger(tmp_path / "ledger") as ledger:
        store = FileStore(tmp_path / "state", ledger=ledger)
        for number in (1, 2):
            store(number, b"secret")
            assert mode(tmp_path / "state") == 0o600
    assert mode(tmp_path / "ledger") == 0o600


def test_a_state_that_could_not_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "state")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no room"):
        store(1, b"secret")
    assert list(tmp_path.iterdir()) == []


def test_two_who_write_at_once_leave_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, fsync, inside = FileStore(tmp_path / "state"), FileStore(tmp_path / "state"), os.fsync, []

    def meanwhile(descriptor: int) -> None:
        if not inside:
            inside.append(True)
            second(1, b"the other's" * 1000)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    first(1, b"one's" * 1000)
    assert FileStore(tmp_path / "state").load() == b"one's" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_crash_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    store = FileStore(tmp_path / "state")
    store(1, b"old" * 5000)

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if where == "write":
            opened = os.fdopen
            patch.setattr(os, "fdopen", lambda *arguments: HalfWritten(opened(*arguments)))
        elif where == "fsync":
            patch.setattr(os, "fsync", crash)
        else:
            patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            store(2, b"new" * 5000)
    again = FileStore(tmp_path / "state")
    assert again.load() == b"old" * 5000
    again(2, b"new" * 5000)
    assert again.load() == b"new" * 5000


def test_what_a_killed_process_left_of_a_save_is_deleted(tmp_path: Path) -> None:
    other = tmp_path / "state2.0123.new"  # of another store
    other.write_bytes(b"secret")
    killed = (
        "import os, pathlib, signal, sys; from secagg.store import FileStore; store = FileStore(sys.argv[1]);"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); store(1, b'secret')"
    )
    run = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "state")], check=False)
    assert run.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path != other]
    assert [path.read_bytes()[40:] for path in left] == [b"secret"]
    store = FileStore(tmp_path / "state")
    assert store.load() is None
    assert list(tmp_path.iterdir()) == [other]


def test_what_another_store_is_writing_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, fsync = FileStore(tmp_path / "state"), os.fsync

    def meanwhile(descriptor: int) -> None:
        FileStore(tmp_path / "state")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    store(1, b"state")
    assert store.load() == b"state"


class HalfWritten:
    """A file at whose first long write the process dies, half of it on the disk."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        if len(data) > 1000:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise Crash
        return int(self.file.write(data))


def test_a_state_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    FileStore(tmp_path / "state")(1, b"state")
    assert happened == ["file", "rename", "folder"]


def test_every_damage_to_a_state_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    FileStore(path)(3, b"a state")
    whole = path.read_bytes()
    damaged = [whole[:end] for end in range(len(whole))] + [whole + b"\0"]
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    store = FileStore(path)
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="damaged state"):
            FileStore(path)
        with pytest.raises(ConfigError, match="damaged state"):
            store.load()


def test_a_store_needs_a_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        FileStore(tmp_path / "absent" / "state")
    with pytest.raises(ConfigError, match="can't be read"):
        FileStore(tmp_path)


# Ledgers


@pytest.fixture(params=["memory", "file"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    with FileLedger(tmp_path / "ledger") as opened:
        yield opened


def test_the_first_claim_stands(ledger: Ledger) -> None:
    assert ledger.claim(h("a"), h("1")) == h("1")
    assert ledger.claim(h("a"), h("2")) == h("1")
    assert ledger.claim(h("b"), h("2")) == h("2")
    assert ledger.claim(h("a"), h("1")) == h("1")


def test_a_ledger_outlives_its_process(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "ledger")
    for number in range(20):
        ledger.claim(h(f"entry {number}"), h(f"value {number}"))
        ledger.claim(h(f"entry {number}"), h("another"))
    ledger.close()
    assert (tmp_path / "ledger").stat().st_size == 20 * ROW
    again = FileLedger(tmp_path / "ledger")
    assert [again.claim(h(f"entry {n}"), h("late")) for n in range(20)] == [h(f"value {n}") for n in range(20)]
    assert again.claim(h("entry 20"), h("value 20")) == h("value 20")
    again.close()


def test_a_ledger_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    before = b""
    for number in range(6):
        ledger = FileLedger(path)
        assert h(f"entry {number}") not in ledger
        ledger.claim(h(f"entry {number}"), h("value"))
        ledger.claim(h("entry 0"), h("another"))
        assert h(f"entry {number}") in ledger
        ledger.close()
        after = path.read_bytes()
        assert after[: len(before)] == before
        assert len(after) == len(before) + ROW
        before = after


def test_a_claim_is_on_the_disk_before_it_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, synced, fsync = FileLedger(tmp_path / "ledger"), [], os.fsync

    def watched_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    ledger.claim(h("a"), h("1"))
    ledger.claim(h("b"), h("2"))
    assert synced == [ROW, 2 * ROW]
    ledger.close()


@pytest.mark.parametrize("kept", range(1, ROW))
def test_a_row_cut_short_is_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger"
    ledger = FileLedger(path)
    ledger.claim(h("a"), h("1"))
    ledger.claim(h("b"), h("2"))
    ledger.close()
    path.write_bytes(path.read_bytes()[: ROW + kept])
    again = FileLedger(path)
    assert path.stat().st_size == ROW
    assert again.claim(h("a"), h("late")) == h("1")
    assert again.claim(h("b"), h("3")) == h("3")
    again.close()
    last = FileLedger(path)
    assert last.claim(h("b"), h("late")) == h("3")
    last.close()


@pytest.mark.parametrize("tail", [bytes(ROW), bytes(40)], ids=["zeros", "few zeros"])
def test_a_row_that_never_reached_the_disk_whole_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "ledger"
    ledger = FileLedger(path)
    ledger.claim(h("a"), h("1"))
    ledger.close()
    path.write_bytes(path.read_bytes() + tail)
    again = FileLedger(path)
    assert path.stat().st_size == ROW
    assert again.claim(h("a"), h("late")) == h("1")
    again.close()


def test_damage_and_lost_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = FileLedger(path)
    for name in "abc":
        ledger.claim(h(name), h(name + name))
    ledger.close()
    whole = path.read_bytes()
    spoilt = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(3 * ROW)]
    spoilt += [whole + os.urandom(ROW), whole + bytes(2 * ROW), whole + bytes(ROW) + whole[:40]]
    spoilt += [whole[ROW:], whole[:ROW] + whole[2 * ROW :] + whole[ROW : 2 * ROW], whole[:5] + whole[6:]]
    for data in spoilt:
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="damaged at byte"):
            FileLedger(path)
        assert path.read_bytes() == data  # evidence stays as it is
    path.write_bytes(whole)
    FileLedger(path).close()  # and the refusals let go of the lock


def test_control_a_last_row_that_is_dropped_for_any_damage_frees_its_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    with FileLedger(path) as ledger:
        ledger.claim(h("upload"), h("one update"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("secagg.store._is_unwritten", lambda _: True)
    with FileLedger(path) as ledger:
        assert ledger.claim(h("upload"), h("another")) == h("another")


# Several processes
#
# A process of its own forks, so that this one, which has threads, does not.

FORKED = """
import os, sys, threading
from hashlib import sha256
from secagg import store
from secagg.errors import LocalProtocolError

path, checked = sys.argv[1], sys.argv[2] == "checked"
ledger = store.FileLedger(path)
ledger.claim(bytes(32), bytes(32))
if not checked:
    store.FileLedger._check_process = lambda _: None
(mine, yours), results = (os.pipe() for _ in range(2)), os.pipe()
look = ledger._is_in_place

def both_look():  # each has looked at the file before either writes to it
    found = look()
    os.write(theirs, b"x")
    os.read(ours, 1)
    return found

ledger._is_in_place = both_look
held, forked = threading.Event(), threading.Event()

def hold():  # a lock that another thread of the parent holds at the fork
    with ledger._lock:
        held.set()
        forked.wait(60)

if checked:
    threading.Thread(target=hold).start()
    held.wait(60)
child = os.fork()
ours, theirs = (yours[0], mine[1]) if child else (mine[0], yours[1])
if checked and child:
    forked.set()
    os.write(yours[1], b"x")
story = sha256(b"parent" if child else b"child").digest()
try:
    own = ledger.claim(bytes([1]) * 32, story) == story
    outcome = "own" if own else "other"
except LocalProtocolError as error:
    outcome = "refused" if "open the ledger in the process that uses it" in str(error) else str(error)
if not child:
    if checked:
        try:
            bytes(32) in ledger
        except LocalProtocolError:
            outcome += " to look"
        ledger.close()
        try:
            store.FileLedger(path)
        except store.ConfigError as error:
            outcome += ", and locked" if "in another process" in str(error) else str(error)
    os.write(results[1], outcome.encode())
    os._exit(0)
os.waitpid(child, 0)
print(f"parent {outcome}, child {os.read(results[0], 500).decode()}")
"""


def forked(path: Path, how: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path), how]
    return subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_after_a_fork_a_ledger_serves_the_process_that_opened_it(tmp_path: Path) -> None:
    """Whatever thread held the lock; and the child that closes its copy does not unlock the file."""
    assert forked(tmp_path / "ledger", "checked") == "parent own, child refused to look, and locked"
    with FileLedger(tmp_path / "ledger") as ledger:
        assert ledger.claim(bytes([1]) * 32, h("late")) == h("parent")


def test_control_where_a_forked_copy_is_served_each_process_has_its_own_story(tmp_path: Path) -> None:
    assert forked(tmp_path / "ledger", "not checked") == "parent own, child own"


def test_a_ledger_that_was_closed_is_free_though_a_child_has_it_open(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom secagg.store import FileLedger\nledger = FileLedger(sys.argv[1])\n"
        "ready, done = os.pipe(), os.pipe()\nchild = os.fork()\n"
        "if not child:\n    os.read(done[0], 1)\n    os._exit(0)\n"
        "ledger.close()\nFileLedger(sys.argv[1]).close()\nos.write(done[1], b'x')\nos.waitpid(child, 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "ledger")], check=True, timeout=60)


def test_a_ledger_is_opened_once(tmp_path: Path) -> None:
    first = FileLedger(tmp_path / "ledger")
    with pytest.raises(ConfigError, match="open already"):
        FileLedger(tmp_path / "ledger")
    code = (
        "import sys\nfrom secagg.errors import ConfigError\nfrom secagg.store import FileLedger\n"
        "try:\n    FileLedger(sys.argv[1])\nexcept ConfigError:\n    sys.exit(17)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ledger")]
    assert subprocess.run(command, check=False, timeout=30).returncode == 17
    first.close()
    assert subprocess.run(command, check=False, timeout=30).returncode == 0


@pytest.mark.parametrize("failure", ["part", "full", "fsync"])
def test_a_claim_that_could_not_be_written_was_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    path = tmp_path / "ledger"
    ledger = FileLedger(path)
    ledger.claim(h("a"), h("1"))
    with monkeypatch.context() as patch:
        if failure == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(ledger, "_file", FullDisk(ledger._file, 50 if failure == "part" else None))
        with pytest.raises(OSError, match=r"part of a row|no room"):
            ledger.claim(h("b"), h("2"))
    assert path.stat().st_size == ROW
    assert ledger.claim(h("b"), h("3")) == h("3")
    ledger.close()
    again = FileLedger(path)
    assert again.claim(h("a"), h("late")) == h("1")
    assert again.claim(h("b"), h("late")) == h("3")
    again.close()


def fail(*_: object) -> None:
    raise OSError("no room")


class FullDisk:
    """A file that takes only the first bytes of a write, or refuses it."""

    def __init__(self, file: Any, taken: int | None) -> None:
        self.file, self.taken = file, taken
        self.tell, self.seek, self.truncate, self.fileno, self.name = (
            *(file.tell, file.seek, file.truncate, file.fileno),
            file.name,
        )

    def write(self, data: bytes) -> int:
        if self.taken is None:
            fail()
        return int(self.file.write(data[: self.taken]))


@pytest.mark.parametrize(("entry", "value"), [(b"", h("1")), (h("a"), b"short"), (h("a") + b"x", h("1"))])
def test_entries_and_values_are_hashes(tmp_path: Path, entry: bytes, value: bytes) -> None:
    ledger = FileLedger(tmp_path / "ledger")
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        ledger.claim(entry, value)
    ledger.close()
    assert (tmp_path / "ledger").stat().st_size == 0


def test_a_ledger_that_can_not_be_opened_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be opened"):
        FileLedger(tmp_path / "absent" / "ledger")


def test_one_ledger_serves_several_threads(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "ledger")
    results: dict[int, list[bytes]] = {}

    def claim(thread: int) -> None:
        results[thread] = [ledger.claim(h(f"entry {n}"), h(f"thread {thread}")) for n in range(30)]

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert all(result == results[0] for result in results.values())
    again = FileLedger(tmp_path / "ledger")
    assert [again.claim(h(f"entry {n}"), h("late")) for n in range(30)] == results[0]
    again.close()


# One ledger, one store


def moved_away(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replaced(path: Path) -> None:
    path.with_name("older").write_bytes(path.read_bytes()[:-ROW])
    path.with_name("older").replace(path)


def set_back(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-ROW])


@pytest.mark.parametrize("change", [Path.unlink, moved_away, replaced, set_back])
def test_an_open_ledger_that_is_no_longer_at_its_path_takes_no_claim(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "ledger"
    with FileLedger(path) as ledger:
        for text in ("a", "b"):
            ledger.claim(h(text), h(text))
        change(path)
        with pytest.raises(LocalProtocolError, match="deleted, replaced or written to by others"):
            ledger.claim(h("c"), h("c"))
        assert ledger.claim(h("a"), h("x")) == h("a"), "what stands is answered"


def test_control_without_the_check_two_ledgers_tell_two_stories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileLedger, "_is_in_place", lambda self: True)
    path = tmp_path / "ledger"
    with FileLedger(path) as first:
        path.unlink()
        with FileLedger(path) as second:
            assert first.claim(h("entry"), h("one")) == h("one")
            assert second.claim(h("entry"), h("two")) == h("two")


def test_a_ledger_replaced_while_it_is_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "ledger", FileLedger._lock_file

    def slow(self: FileLedger, opening: Path) -> None:
        path.unlink()
        path.touch()
        lock(self, opening)

    monkeypatch.setattr(FileLedger, "_lock_file", slow)
    with pytest.raises(ConfigError, match="replaced while it was opened"):
        FileLedger(path)


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_two_names_of_a_ledger_are_one(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "ledger", tmp_path / "link"
    monkeypatch.chdir(tmp_path)
    with FileLedger("ledger") as ledger:
        make(link, path)
        monkeypatch.chdir("/")
        ledger.claim(h("entry"), h("one"))
        with pytest.raises(ConfigError, match="open already"):
            FileLedger(link)
    with FileLedger(link) as again:
        assert again.claim(h("entry"), h("two")) == h("one")


def test_a_store_behind_a_link_is_the_one_it_points_to(tmp_path: Path) -> None:
    path, link = tmp_path / "state", tmp_path / "link"
    link.symlink_to(path)
    FileStore(link)(1, b"one")
    assert (link.is_symlink(), FileStore(path).load()) == (True, b"one")


def test_a_store_sees_what_another_process_saved(tmp_path: Path) -> None:
    first, second = (FileStore(tmp_path / "state") for _ in range(2))
    first(5, b"newer")
    with pytest.raises(LocalProtocolError, match="state number 4 after 5"):
        second(4, b"older")
    assert second.load() == b"newer"
    second(6, b"newest")

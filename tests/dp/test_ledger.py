"""A budget in a file: what was charged stands whatever dies, and the last of it is spent by one."""

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dp import _files, ledger
from dp.accounting import RDPAccountant
from dp.errors import DPError
from dp.events import GaussianEvent, Release, SelfComposed
from dp.ledger import BudgetExceeded, PrivacyLedger

RELEASE = Release(GaussianEvent(1.0), "client", "distributed")
ONE, TWO = (RDPAccountant(1e-5).compose(RELEASE.event, count).get_epsilon() for count in (1, 2))
FOR_ONE = (ONE + TWO) / 2  # the budget that one release fits into, and no second one


def named(text: str) -> bytes:
    return sha256(text.encode()).digest()


def opened(path: Path, epsilon: float = 8.0, **changes: Any) -> PrivacyLedger:
    return PrivacyLedger.open(path, **({"epsilon": epsilon, "delta": 1e-5, "unit": "client"} | TRUST | changes))


TRUST: dict[str, Any] = {"trust": "distributed"}


def in_memory(epsilon: float = 8.0) -> PrivacyLedger:
    return PrivacyLedger(epsilon, 1e-5, unit="client", trust="distributed")


def together(*targets: Callable[[], object]) -> None:
    """Run every target, each on a thread of its own, to its end."""
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


class Crash(BaseException):
    """The process is gone: no handler of the code under test may run on it."""


# A file


def test_a_charge_outlives_its_process(tmp_path: Path) -> None:
    """The one that charges is killed as soon as the charge has returned."""
    code = (
        "import os, signal, sys\nfrom dp import PrivacyLedger\nfrom dp.events import GaussianEvent, Release\n"
        "book = PrivacyLedger.open(sys.argv[1], 8.0, 1e-5, unit='client', trust='distributed')\n"
        "book.charge(Release(GaussianEvent(1.0), 'client', 'distributed'), once=bytes(32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "budget"
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    again = opened(path)
    assert again.spent == pytest.approx(ONE)
    assert again.charge(RELEASE, once=bytes(32)) == pytest.approx(ONE), "it remembers what that was for"
    assert again.charge(RELEASE) == pytest.approx(TWO)


def test_a_file_is_what_a_ledger_in_memory_saves(tmp_path: Path) -> None:
    book, kept = opened(tmp_path / "budget"), in_memory()
    for at in range(2):
        for each in (book, kept):
            each.charge(RELEASE, once=named(str(at)))
        assert (tmp_path / "budget").read_bytes() == book.to_bytes() == kept.to_bytes()
    assert (
        book.report() == PrivacyLedger.from_bytes(book.to_bytes()).report() == opened(tmp_path / "budget").report()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["budget", "budget.lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("where", ["write", "fsync", "replace", "folder"])
def test_a_crash_leaves_the_old_charges_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "budget"
    book = opened(path)
    book.charge(RELEASE, once=named("first"))
    real, calls = os.fsync, 0

    def crash(*_: Any) -> None:
        raise Crash

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if (where, calls) in (("fsync", 1), ("folder", 2)):
            raise Crash
        real(descriptor)

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(os, "fdopen", crash)
        elif where == "replace":
            patch.setattr(Path, "replace", crash)
        else:
            patch.setattr(os, "fsync", fsync)
        with pytest.raises(Crash):
            book.charge(RELEASE, once=named("second"))
    expected = TWO if where == "folder" else ONE
    assert opened(path).spent == pytest.approx(expected)
    assert book.charge(RELEASE, once=named("second")) == pytest.approx(TWO), "once in all, whether it stood or not"
    assert opened(path).spent == pytest.approx(TWO)


def test_a_charge_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book, happened = opened(tmp_path / "budget"), list[str]()
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    book.charge(RELEASE)
    assert happened == ["file", "rename", "folder"]


@pytest.mark.parametrize("charged", [False, True], ids=["when made", "when charged"])
def test_what_could_not_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charged: bool
) -> None:
    def full(_: int) -> None:
        raise OSError("no room")

    book = opened(tmp_path / "budget") if charged else None
    monkeypatch.setattr(os, "fsync", full)
    if book is None:
        with pytest.raises(DPError, match=r"budget can't be created: no room"):
            opened(tmp_path / "budget")
    else:
        with pytest.raises(OSError, match="no room"):
            book.charge(RELEASE)
    expected = ["budget"] * charged + ["budget.lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_damaged_file_is_refused_and_never_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    book = opened(path)
    book.charge(RELEASE)
    whole = path.read_bytes()
    for data in (b"", whole[:-1], whole + b"\n", bytes([whole[0] ^ 1]) + whole[1:], bytes(1 << 23)):
        path.write_bytes(data)
        for use in (lambda: book.charge(RELEASE), lambda: opened(path), lambda: PrivacyLedger.open(path)):
            with pytest.raises(DPError, match="is damaged"):
                use()
            assert path.read_bytes() == data  # evidence stays as it is
    path.write_bytes(whole)
    assert book.charge(RELEASE) == pytest.approx(TWO)
    path.unlink()
    with pytest.raises(DPError, match="can't be read"):
        book.charge(RELEASE)
    assert not path.exists()


def test_a_budget_that_was_deleted_is_begun_anew_only_where_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    calls: list[Callable[[], PrivacyLedger]] = [
        lambda: opened(path, create=False),
        lambda: PrivacyLedger.open(path),
    ]
    for call in calls:
        with pytest.raises(DPError, match=r"no ledger at .*budget, and .* what was spent is not known"):
            call()
        assert not path.exists()
    opened(path).charge(RELEASE)
    assert [call().spent for call in calls] == pytest.approx([ONE, ONE])
    path.unlink()
    for call in calls:
        with pytest.raises(DPError, match="no ledger at"):
            call()
        assert not path.exists()
    assert opened(path).spent == 0, "the control: a call with a whole budget begins anew"


@pytest.mark.parametrize(
    "fields", [{}, {"unit": "record", "trust": "central", "neighbours": "replace-one", "orders": (2, 3, 64)}]
)
def test_a_path_alone_opens_the_budget_in_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "budget"
    release = Release(RELEASE.event, fields.get("unit", "client"), fields.get("trust", "distributed"))
    first = opened(path, 20.0, **fields)
    first.charge(release, once=bytes(32))
    again = PrivacyLedger.open(path)
    assert again.to_bytes() == first.to_bytes() == path.read_bytes()
    assert again.charge(release, once=bytes(32)) == first.spent, "names come back too"
    assert again.charge(release) == opened(path, 20.0, **fields).spent > first.spent


@pytest.mark.parametrize("part", [{"epsilon": 8.0}, {"epsilon": 8.0, "delta": 1e-5}, {"unit": "client"}])
def test_a_part_of_a_budget_is_refused(tmp_path: Path, part: dict[str, Any]) -> None:
    opened(tmp_path / "budget")
    with pytest.raises(DPError, match="got a part of a budget"):
        PrivacyLedger.open(tmp_path / "budget", **part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 80.0}, "got epsilon=80.0 for the ledger .*created with 8.0"),
        ({"delta": 1e-6}, "got delta=1e-06 for the ledger"),
        ({"unit": "record"}, "got unit='record'"),
        ({"trust": "central"}, "got trust='central'"),
        ({"neighbours": "replace-one"}, "got neighbours='replace-one'"),
        ({"orders": (2, 3)}, "got other orders"),
    ],
)
def test_a_file_holds_one_budget(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    opened(tmp_path / "budget").charge(RELEASE)
    with pytest.raises(DPError, match=message):
        opened(tmp_path / "budget", **change)
    assert opened(tmp_path / "budget").spent == pytest.approx(ONE)


def test_a_larger_budget_is_written_back(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    opened(path, FOR_ONE).charge(RELEASE)
    larger = PrivacyLedger.from_bytes(path.read_bytes())
    larger.epsilon = 8.0
    path.write_bytes(larger.to_bytes())
    assert opened(path).charge(RELEASE) == pytest.approx(TWO)


def test_a_ledger_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DPError, match="can't be locked"):
        opened(tmp_path / "absent" / "budget")


def test_a_ledger_too_large_to_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = opened(tmp_path / "budget")
    monkeypatch.setattr(PrivacyLedger, "_bytes", lambda *_: bytes((1 << 22) + 1))
    with pytest.raises(DPError, match="expected at most 4194304"):
        book.charge(RELEASE)
    monkeypatch.undo()
    assert opened(tmp_path / "budget").spent == 0


# One account


def test_an_open_ledger_takes_no_older_file(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    book = opened(path, FOR_ONE)
    empty = path.read_bytes()
    book.charge(RELEASE, once=named("a"))
    path.write_bytes(empty)
    for other in (named("a"), named("b"), None):
        with pytest.raises(DPError, match="lacks what was charged to it before"):
            book.charge(RELEASE, once=other)
    assert path.read_bytes() == empty
    assert book.spent == pytest.approx(ONE)


def test_control_an_older_file_that_is_taken_is_spent_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dp.ledger._extends", lambda *_: True)
    path = tmp_path / "budget"
    book = opened(path, FOR_ONE)
    empty = path.read_bytes()
    for _ in range(3):
        book.charge(RELEASE)
        path.write_bytes(empty)


def test_what_others_charged_extends_what_was_known(tmp_path: Path) -> None:
    first, second = (opened(tmp_path / "budget", 50.0) for _ in range(2))
    other = Release(GaussianEvent(2.0), "client", "distributed")
    for book, release in ((first, RELEASE), (second, RELEASE), (first, other), (second, RELEASE), (first, other)):
        book.charge(release)
    assert first.report().releases == 5


KNOWN = ((GaussianEvent(1.0), 3), (GaussianEvent(2.0), 2))


@pytest.mark.parametrize(
    ("events", "extends"),
    [
        (KNOWN, True),
        ((*KNOWN, (GaussianEvent(1.0), 1)), True),
        ((KNOWN[0], (GaussianEvent(2.0), 5)), True),
        ((KNOWN[0], (GaussianEvent(2.0), 1)), False),
        ((KNOWN[0], (GaussianEvent(3.0), 2)), False),
        (((GaussianEvent(1.0), 4), KNOWN[1]), False),  # more in all, but not what was charged
        (KNOWN[:1], False),
        ((), False),
    ],
)
def test_events_extend_those_known(events: Any, extends: bool) -> None:
    assert ledger._extends(events, KNOWN) is extends
    assert ledger._extends(events, ())


def test_two_names_of_a_file_are_one_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    path, link = tmp_path / "data" / "budget", tmp_path / "link"
    link.symlink_to(path)
    opened(link, FOR_ONE).charge(RELEASE)  # begun through the link: the file is where it points to
    assert path.is_file()
    assert link.is_symlink()
    monkeypatch.chdir(tmp_path)
    for name in (path, link, Path("link"), Path("data/../link")):
        with pytest.raises(BudgetExceeded):
            opened(name, FOR_ONE).charge(RELEASE)


def test_a_relative_path_is_that_of_the_folder_it_was_opened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    book = opened(Path("budget"))
    monkeypatch.chdir("/")
    book.charge(RELEASE)
    assert opened(tmp_path / "budget").spent == pytest.approx(ONE)


def test_control_a_link_that_is_not_followed_has_two_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "resolve", lambda self: self)
    path, link = tmp_path / "budget", tmp_path / "link"
    opened(path, FOR_ONE)
    link.symlink_to(path)
    for name in (link, path):
        opened(name, FOR_ONE).charge(RELEASE)


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    path, link = tmp_path / "budget", tmp_path / "link"
    book = opened(path, FOR_ONE)
    os.link(path, link)
    with pytest.raises(DPError, match="a file with 2 names"):
        book.charge(RELEASE)
    for name in (path, link):
        for use in (lambda: opened(name, FOR_ONE), lambda: PrivacyLedger.open(name)):  # noqa: B023 - used at once
            with pytest.raises(DPError, match="a file with 2 names"):
                use()
    link.unlink()
    book.charge(RELEASE)


def test_control_a_hard_link_that_is_taken_has_two_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "names_of", lambda _: 1)
    path, link = tmp_path / "budget", tmp_path / "link"
    opened(path, FOR_ONE)
    os.link(path, link)
    for name in (path, link):
        opened(name, FOR_ONE).charge(RELEASE)


def charged_while_the_lock_is_deleted(path: Path, monkeypatch: pytest.MonkeyPatch, patience: float) -> int:
    """How many charges stand: one finds that it fits, the .lock is deleted, another comes, the first goes on."""
    first, second = opened(path), opened(path)
    inside, on, checked = threading.Event(), threading.Event(), PrivacyLedger._after

    def slow(self: PrivacyLedger, release: Release, count: int) -> float:
        epsilon = checked(self, release, count)
        if self is first:
            inside.set()
            on.wait(60)
        return epsilon

    monkeypatch.setattr(PrivacyLedger, "_after", slow)
    threads = [threading.Thread(target=book.charge, args=(RELEASE,)) for book in (first, second)]
    threads[0].start()
    assert inside.wait(60)
    path.with_name("budget.lock").unlink()
    threads[1].start()
    threads[1].join(patience)
    on.set()
    for thread in threads:
        thread.join(60)
    return opened(path).report().releases


def test_a_deleted_lock_loses_no_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert charged_while_the_lock_is_deleted(tmp_path / "budget", monkeypatch, 0.3) == 2


def test_control_where_the_lock_is_all_a_charge_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ledger.locked
    monkeypatch.setattr(ledger, "locked", lambda path, *flags: real(path, *flags) if flags else nullcontext())
    assert charged_while_the_lock_is_deleted(tmp_path / "budget", monkeypatch, 60) == 1


def begun_by_two(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many charges stand: one sees no file, the .lock is deleted, another charges, the first goes on."""
    inside, on, write = threading.Event(), threading.Event(), PrivacyLedger._write
    books = list[PrivacyLedger]()

    def slow(self: PrivacyLedger, *state: Any) -> bytes:
        if threading.current_thread() is first:
            inside.set()
            on.wait(60)
        return write(self, *state)

    monkeypatch.setattr(PrivacyLedger, "_write", slow)
    first = threading.Thread(target=lambda: books.append(opened(path)))
    first.start()
    assert inside.wait(60)
    path.with_name("budget.lock").unlink()
    opened(path).charge(RELEASE)
    on.set()
    first.join(60)
    assert books[0].report() == opened(path).report(), "and the first has taken it in"
    return opened(path).report().releases


def test_a_ledger_that_is_begun_twice_keeps_the_first_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begun_by_two(tmp_path / "budget", monkeypatch) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["budget", "budget.lock"]


def test_control_a_first_write_that_replaces_erases_a_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", os.replace)
    assert begun_by_two(tmp_path / "budget", monkeypatch) == 0


def test_many_who_begin_at_once_without_a_lock_have_one_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivacyLedger, "_alone", nothing_held)
    for at in range(20):
        start, books = threading.Barrier(4), list[PrivacyLedger]()

        def begin(path: Path = tmp_path / str(at), start: threading.Barrier = start) -> None:
            start.wait(60)
            books.append(opened(path))  # noqa: B023 - the threads end in this turn of the loop

        together(*[begin] * 4)
        assert len(books) == 4, "and none raised"
    assert len(list(tmp_path.iterdir())) == 20


def test_a_ledger_whose_making_was_cut_short_is_opened(tmp_path: Path) -> None:
    """A crash between the two names: the one that is left over is removed."""
    path = tmp_path / "budget"
    opened(path)
    for left_over in ("budget.0123456789abcdef.new", "another"):
        os.link(path, tmp_path / left_over)
    with pytest.raises(DPError, match="a file with 2 names"):
        opened(path)
    assert sorted(name.name for name in tmp_path.iterdir()) == ["another", "budget", "budget.lock"]
    (tmp_path / "another").unlink()
    opened(path).charge(RELEASE)


def symlink(path: Path, lock: Path) -> None:
    lock.symlink_to(path)


def folder(_: Path, lock: Path) -> None:
    lock.mkdir()


def pipe(_: Path, lock: Path) -> None:
    os.mkfifo(lock)


@pytest.mark.parametrize("alias", [symlink, os.link, folder, pipe])
def test_a_lock_that_is_something_else_is_an_error_and_no_wait(tmp_path: Path, alias: Callable[..., None]) -> None:
    path, lock = tmp_path / "budget", tmp_path / "budget.lock"
    book = opened(path)
    lock.unlink()
    alias(path, lock)
    for use in (lambda: opened(path), lambda: book.charge(RELEASE)):
        errors = list[Exception]()

        def run(use: Callable[[], object] = use, errors: list[Exception] = errors) -> None:
            try:
                use()
            except DPError as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert "budget.lock" in str(errors[0])
    lock.rmdir() if lock.is_dir() else lock.unlink()
    assert book.charge(RELEASE) == pytest.approx(ONE)


@pytest.mark.parametrize("compared", [True, False], ids=["compared", "control: not compared"])
def test_a_lock_on_a_file_that_was_replaced_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: bool
) -> None:
    """Whoever waits for the old file must not believe to be alone at the new one."""
    path, waiting, held, done = tmp_path / "file", threading.Event(), threading.Event(), threading.Event()
    path.touch()
    if not compared:
        monkeypatch.setattr(_files, "is_at", lambda *_: True)

    def wait() -> None:
        waiting.set()
        with _files.locked(path):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=wait)
    with _files.locked(path):
        thread.start()
        waiting.wait(60)
        time.sleep(0.1)  # it has the old file open
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(path)
    assert held.wait(60)
    with path.open("r+b") as file:
        if compared:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.set()
    thread.join(60)


# Once


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[float], PrivacyLedger]:
    return in_memory if request.param == "memory" else lambda epsilon: opened(tmp_path / "budget", epsilon)


def test_under_one_name_is_charged_once(make: Callable[[float], PrivacyLedger]) -> None:
    book = make(FOR_ONE)
    for _ in range(3):
        assert book.charge(RELEASE, once=named("a")) == pytest.approx(ONE)
    for other in (named("b"), None):
        with pytest.raises(BudgetExceeded):
            book.charge(RELEASE, once=other)
    assert book.charge(RELEASE, once=named("a")) == book.spent == PrivacyLedger.from_bytes(book.to_bytes()).spent


@pytest.mark.parametrize(
    ("other", "count"),
    [
        (Release(GaussianEvent(0.9), "client", "distributed"), 1),  # cheaper first, then what costs more
        (Release(GaussianEvent(1.1), "client", "distributed"), 1),
        (Release(SelfComposed(GaussianEvent(1.0), 1), "client", "distributed"), 1),
        (RELEASE, 2),
    ],
)
def test_a_name_pays_for_the_release_it_was_charged_for_alone(
    make: Callable[[float], PrivacyLedger], other: Release, count: int
) -> None:
    book = make(50.0)
    book.charge(RELEASE, once=named("a"))
    after = book.charge(other, count, once=named("a"))
    assert after > ONE * 1.1
    assert book.report().releases == 1 + count
    assert book.charge(other, count, once=named("a")) == book.charge(RELEASE, once=named("a")) == after
    assert book.report().releases == 1 + count


def test_a_name_that_is_forgotten_is_charged_again() -> None:
    book, small = in_memory(), Release(GaussianEvent(500.0), "client", "distributed")
    for at in range(257):
        book.charge(small, once=named(str(at)))
    book.charge(small, once=named("1"))
    assert book.report().releases == 257
    book.charge(small, once=named("0"))
    assert book.report().releases == 258


@pytest.mark.parametrize("name", [b"", bytes(31), "a" * 32, bytearray(32)])
def test_names_are_hashes(name: Any) -> None:
    with pytest.raises(DPError, match="expected 32 bytes"):
        in_memory().charge(RELEASE, once=name)


# The last of it


@contextmanager
def nothing_held(_: PrivacyLedger) -> Iterator[None]:
    """The control: no lock."""
    yield


def contended(monkeypatch: pytest.MonkeyPatch, *, locked: bool) -> None:
    """A thread whose release fits waits until the other's fits too, if that can be."""
    meet, checked = threading.Barrier(2), PrivacyLedger._after

    def slow(self: PrivacyLedger, release: Release, count: int) -> float:
        epsilon = checked(self, release, count)
        with suppress(threading.BrokenBarrierError):
            meet.wait(0.3 if locked else 60)
        return epsilon

    monkeypatch.setattr(PrivacyLedger, "_after", slow)
    if not locked:
        monkeypatch.setattr(PrivacyLedger, "_alone", nothing_held)


def race(books: list[PrivacyLedger]) -> int:
    """How many of the threads get their release charged."""
    won = list[float]()

    def charge(book: PrivacyLedger) -> None:
        with suppress(BudgetExceeded):
            won.append(book.charge(RELEASE))

    together(*(partial(charge, book) for book in books))
    return len(won)


def test_of_two_threads_one_gets_the_last(
    make: Callable[[float], PrivacyLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    book = make(FOR_ONE)
    contended(monkeypatch, locked=True)
    assert race([book, book]) == 1
    assert book.spent == pytest.approx(ONE)


def test_control_without_the_lock_two_threads_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    book = in_memory(FOR_ONE)
    contended(monkeypatch, locked=False)
    assert race([book, book]) == 2


def test_of_two_ledgers_on_one_file_one_gets_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = [opened(tmp_path / "budget", FOR_ONE) for _ in range(2)]
    contended(monkeypatch, locked=True)
    assert race(books) == 1


RACER = """
import sys, time
from pathlib import Path
from dp.errors import DPError
from dp.ledger import BudgetExceeded, PrivacyLedger
from tests.dp.test_ledger import RELEASE, nothing_held, opened

folder, epsilon, me, other, locked = Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]
book, checked = opened(folder / "budget", epsilon), PrivacyLedger._after

def meet(sign, most):
    (folder / f"{me}.{sign}").touch()
    until = time.monotonic() + most
    while not (folder / f"{other}.{sign}").exists() and time.monotonic() < until:
        time.sleep(0.001)

def slow(self, release, count):
    found = checked(self, release, count)
    meet("checked", 0.5 if locked == "yes" else 60)
    if locked == "no" and me == "b":
        meet("charged", 60)  # what they write is not to clash, for that is another matter
    return found

PrivacyLedger._after = slow
if locked == "no":
    PrivacyLedger._alone = nothing_held
meet("ready", 60)
try:
    book.charge(RELEASE)
except BudgetExceeded:
    sys.exit(17)
(folder / f"{me}.charged").touch()
"""


@pytest.mark.parametrize("locked", ["yes", "no"], ids=["locked", "control: without the lock"])
def test_of_two_processes_one_gets_the_last(tmp_path: Path, locked: str) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path), str(FOR_ONE)]
    racers = [subprocess.Popen([*command, me, other, locked]) for me, other in (("a", "b"), ("b", "a"))]
    codes = sorted(racer.wait(90) for racer in racers)
    if locked == "yes":
        assert codes == [0, 17]
        assert opened(tmp_path / "budget", FOR_ONE).spent == pytest.approx(ONE)
    else:
        assert codes == [0, 0]


FORKED = """
import os, sys, threading
from dp.errors import DPError
from tests.dp.test_ledger import FOR_ONE, RELEASE, in_memory, opened

book = opened(sys.argv[1], FOR_ONE) if sys.argv[1] else in_memory(FOR_ONE)
if sys.argv[2] == "not checked":
    os.getpid = lambda me=os.getpid(): me
held, forked = threading.Event(), threading.Event()

def hold():
    with book._turn, book._accountant._turn:
        held.set()
        forked.wait(60)

if sys.argv[2] != "not checked":
    threading.Thread(target=hold).start()
    held.wait(60)
child = os.fork()
forked.set()
code = 0
try:
    book.to_bytes()
    book._accountant.copy()
    book.charge(RELEASE)
except DPError as error:
    code = 17 if "exceed" in type(error).__name__.lower() else 18
if not child:
    os._exit(code)
print(code, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def forked(path: str, how: str) -> list[int]:
    """How the parent's charge and the child's end: 0, 17 for more than the budget, 18 for a refusal."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, path, how]
    done = subprocess.run(command, check=True, timeout=90, stdout=subprocess.PIPE, text=True)
    return [int(code) for code in done.stdout.split()]


def test_after_a_fork_a_file_is_one_account(tmp_path: Path) -> None:
    """And the child does not wait for a lock that a thread of its parent held."""
    assert sorted(forked(str(tmp_path / "budget"), "checked")) == [0, 17]


def test_after_a_fork_what_is_in_memory_serves_the_process_that_made_it() -> None:
    assert forked("", "checked")[1] == 18


def test_control_a_budget_in_memory_that_a_fork_copies_is_spent_twice() -> None:
    assert forked("", "not checked") == [0, 0]


def test_threads_lose_no_event_of_an_accountant() -> None:
    """Each event differs from the one before it, so that nothing but the lock keeps two from the same place."""
    book, before = RDPAccountant(1e-5), sys.getswitchinterval()
    events = [GaussianEvent(50.0 + at) for at in range(8)]
    for event in events:
        book.epsilon_after(event)  # the curves are found, and only the sums are left

    def compose(first: int) -> None:
        for at in range(100):
            book.compose(events[(first + at) % 8])

    sys.setswitchinterval(1e-6)
    try:
        together(*(partial(compose, first) for first in range(8)))
    finally:
        sys.setswitchinterval(before)
    assert book.num_releases == 800
    alone = RDPAccountant(1e-5)
    for event in events:
        alone.compose(event, 100)
    assert book.get_epsilon() == pytest.approx(alone.get_epsilon())

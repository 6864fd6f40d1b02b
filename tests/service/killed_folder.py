"""A server's use of the database, spool and relays, killed at a chosen write; :mod:`test_killed_folder` runs this.

``python -m tests.service.killed_folder FOLDER MODE STRIDE WITHOUT`` tries one kill after the other, each in a fork
of itself, and restarts after each one. With ``power`` as the mode, a kill also takes back what was not brought to
the disk: a random part of the bytes that no ``fsync`` covered, and names in folders that were not synced. WITHOUT
names one defence that is switched off: for the controls. The last line of the output is the number of kills. A
lost message, or anything else that is wrong, is an exception.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.engine.default import DefaultDialect

from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.service import spool
from secagg.service.database import Database
from secagg.service.spool import Record

TASK, KEY = b"t" * 32, "a" * 64
ROUNDS, BATCHES = 2, (("c1", "c2"), ("c3",))
LAYOUT = Layout.of(np.zeros(1))
CALLS = ("pwritev", "fdatasync", "fsync", "ftruncate", "open", "unlink", "replace", "rmdir", "mkdir")


def message(position: int, sender: str) -> Record:
    data = f"{sender} in {position} ".encode() * (40 * position + 9)
    return Record(sender, hashlib.sha256(data).digest(), data)


class Server:
    """A stand-in for a session's role: it remembers which messages it took in which round."""

    def __init__(self, folder: Path, without: str = "") -> None:
        self.acks, self.folder, self.without = folder / "acks", folder, without
        self.database = Database.open(folder / "service")

    def acknowledged(self, position: int) -> set[str]:
        lines = self.acks.read_text().splitlines() if self.acks.exists() else []
        return {sender for one, sender in map(str.split, lines) if int(one) == position}

    def acknowledge(self, position: int, sender: str) -> None:
        with self.acks.open("a") as file:
            file.write(f"{position} {sender}\n")

    def run(self) -> None:
        """From wherever the last kill left it to the end of the round."""
        database = self.database
        database.add_task(TASK, b"task", "open")
        newest = database.round(TASK)
        if newest is None or newest.state == "open":
            model = database.add_model(b"model")
            database.open_round(TASK, 1, model, "{}")
            if not database.sessions(TASK, 1):
                database.begin_session(KEY, TASK, 1, 1, b"name", ["c1", "c2", "c3"])
            if database.session(KEY).state == "running":
                self.play()
            database.finish_round(TASK, 1, "done")
        assert database.model_path(hashlib.sha256(b"model").digest()).read_bytes() == b"model"
        outcome = database.outcome(KEY, LAYOUT)
        assert outcome is not None
        assert outcome.sum == total()
        database.close()

    def play(self) -> None:
        position, taken = 0, list[list[str]]()
        relays = self.database.relays(KEY)
        store = self.database.store(KEY, lambda: {"position": position, "relays": relays.sync()})
        saved = store.load()
        if saved is None:
            assert not self.acknowledged(0), "a message was acknowledged before the session was saved"
            store(1, json.dumps([0, []]).encode())
        else:
            try:
                position, taken = json.loads(saved)
            except ValueError as error:
                raise AssertionError(f"a state was damaged: {saved!r}") from error
        row = self.database.session(KEY)
        assert row.number == position + 1
        assert row.position == position
        relays.truncate(row.relays)
        while position < ROUNDS:
            with self.database.spool(KEY, position) as file:
                here = list[str]()
                for one in file.replay():
                    assert bytes(one.data) == message(position, one.sender).data, "a damaged message was replayed"
                    here.append(one.sender)
                    relays.append("agg1", position, one.data)
                lost = self.acknowledged(position) - set(here)
                assert not lost, f"lost what was acknowledged in round {position}: {lost}"
                for batch in BATCHES:
                    fresh = [message(position, sender) for sender in batch if sender not in here]
                    if self.without == "spool first":
                        for one in fresh:
                            self.acknowledge(position, one.sender)
                    file.append(fresh)
                    for one in fresh:
                        here.append(one.sender)
                        relays.append("agg1", position, one.data)
                        self.acknowledge(position, one.sender)
                taken.append(here)
                position += 1
                relayed = [bytes(data) for _, data in relays.read("agg1", 0, 99, 1 << 30)]
                wanted = [message(n, sender).data for n, senders in enumerate(taken) for sender in senders]
                assert relayed == wanted, "the relays differ from what was taken"
                store(position + 1, json.dumps([position, taken]).encode())
                file.delete()
        assert [sorted(one) for one in taken] == [["c1", "c2", "c3"]] * ROUNDS
        relays.close()
        value = np.array([total()])
        outcome = Outcome(LAYOUT.restore(value), LAYOUT.restore(value, dtype="float64"), 3, ("c1",), {}, (), 0)
        self.database.finish_session(KEY, "done", outcome=outcome, layout=LAYOUT)


def total() -> float:
    return float(ROUNDS * 3)


class Killer:
    """Counts the calls that write, and kills the process before or after the one with the number ``at``."""

    def __init__(self, folder: Path, at: int, power: bool) -> None:
        self.at, self.power, self.folder, self.calls = at, power, folder, 0
        self.random = random.Random(at)
        self.synced: dict[int, int] = {}  # by inode: how many bytes are on the disk
        self.names: dict[Path, set[str]] = {}  # by folder: the names that are on the disk
        self.real = {name: getattr(os, name) for name in CALLS}
        self.graves, self.acks, self.acknowledged = folder / "graves", folder / "acks", -1
        if power:
            shutil.rmtree(self.graves, ignore_errors=True)
            self.graves.mkdir()
            for one in (folder / "service").rglob("*"):  # what the last power cut left is on the disk
                if one.is_dir():
                    self.names[one] = set(os.listdir(one))
                else:
                    self.synced[one.stat().st_ino] = one.stat().st_size

    def arm(self) -> None:
        for name in CALLS:
            setattr(os, name, self.wrapped(self.real[name], name))
        DefaultDialect.do_commit = self.wrapped(DefaultDialect.do_commit, "commit")  # type: ignore[method-assign]

    def wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            size = self.acks.stat().st_size if self.acks.exists() else 0
            if size != self.acknowledged:  # else the disk and the peers are as after the last call
                self.acknowledged = size
                self.tick()
            if self.power and name == "unlink" and "dir_fd" not in named:
                grave = self.graves / Path(arguments[0]).name
                if os.path.exists(arguments[0]) and not grave.exists():
                    os.link(arguments[0], grave)
            result = call(*arguments, **named)
            if self.power and name in ("fsync", "fdatasync"):
                self.note(arguments[0])
            self.tick()
            return result

        return run

    def note(self, file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.is_dir():
            self.names[path] = set(os.listdir(path))
        else:
            self.synced[os.fstat(file).st_ino] = os.fstat(file).st_size

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            for name, call in self.real.items():
                setattr(os, name, call)
            if self.power:
                self.cut()
            os.kill(os.getpid(), signal.SIGKILL)

    def cut(self) -> None:
        """Take back what is not on the disk."""
        for name in ("states", "spools", "models", "outcomes", f"relays/{KEY}"):
            folder = self.folder / "service" / name
            if not folder.is_dir():
                continue
            durable = self.names.get(folder, set())
            for path in folder.iterdir():
                size, kept = path.stat().st_size, self.synced.get(path.stat().st_ino, 0)
                if path.name not in durable and self.random.random() < 0.5:
                    path.unlink()
                elif size > kept:
                    self.damage(path, kept, size)
            for lost in durable - set(os.listdir(folder)):
                if (self.graves / lost).exists() and self.random.random() < 0.5:
                    os.link(self.graves / lost, folder / lost)

    def damage(self, path: Path, kept: int, size: int) -> None:
        end = self.random.randint(kept, size)
        os.truncate(path, end)
        if self.random.random() < 0.5:  # the file was extended, but not all of it was written
            os.truncate(path, size)
        if end > kept and self.random.random() < 0.5:
            start = self.random.randrange(kept, end)
            with path.open("r+b") as file:
                file.seek(start)
                file.write(bytes(end - start))


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork; returns the signal that ended it, or 0. An exception there ends this process too."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        sys.exit("a server failed after a kill")
    return 0


def switch_off(without: str) -> None:
    """Switch off one defence."""
    real = {"fdatasync": os.fdatasync, "fsync": os.fsync}

    def skip(name: str, fits: Callable[[int], bool]) -> None:
        setattr(os, name, lambda file: None if fits(file) else real[name](file))

    def states(file: int) -> bool:
        return "/states" in os.readlink(f"/proc/self/fd/{file}")

    if without == "spool":
        skip("fdatasync", lambda file: os.fstat(file).st_size > spool._START)  # the head of a new spool is synced
    elif without == "state":
        skip("fsync", lambda file: states(file) and not stat.S_ISDIR(os.fstat(file).st_mode))
    elif without == "name":
        skip("fsync", lambda file: states(file) and stat.S_ISDIR(os.fstat(file).st_mode))


def attempt(folder: Path, at: int, mode: str, without: str) -> bool:
    """A server that is killed at the call ``at``; returns whether it came that far."""

    def work() -> None:
        Killer(folder, at, mode == "power").arm()
        switch_off(without)
        Server(folder, without).run()

    return forked(work) == signal.SIGKILL


def restart(folder: Path) -> None:
    Server(folder).run()
    Database.open(folder / "service").close()  # what a kill after the end left is deleted


def check_ended(folder: Path) -> None:
    for name in ("states", "spools", "relays"):
        left = os.listdir(folder / "service" / name)
        assert not left, f"left in {name}: {left}"


def main(root: Path, mode: str, stride: int, without: str) -> None:
    """Every ``stride``-th call once; every fourth kill is followed by another one in the restart."""
    at = kills = 0
    chosen = random.Random(mode)
    going = True
    while going:
        at += stride if at else 1
        folder = root / str(at)
        (folder / "service").mkdir(parents=True)
        going = attempt(folder, at, mode, without)
        kills += going
        if going and chosen.random() < 0.25:
            kills += attempt(folder, chosen.randrange(1, 60), mode, without)
        forked(partial(restart, folder))
        check_ended(folder)
        shutil.rmtree(folder)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])

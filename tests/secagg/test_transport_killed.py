"""Parties over real sockets, one of which is killed (SIGKILL) once at each of its writes and each of its sends."""

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.identity import PartyRole
from secagg.store import FileLedger, FileStore
from secagg.testing import Parties, Session, parties_for
from tests.secagg.sockets import Caller, Listener
from tests.secagg.stress import PROTOCOLS
from tests.secagg.wires import Awaited

pytestmark = pytest.mark.stacks

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.secagg.warm"])
NAME = b"round 1"
SERVER = "server"
DEADLINE = 120.0


def enrolled(name: str) -> Parties:
    return parties_for(PROTOCOLS[name](), 4)


# The process that is killed


class Killer:
    """Kills this process at each point once; the points where it did so are in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._saving = path, -1

    def at(self, point: str) -> None:
        known = self._path.read_text().splitlines() if self._path.exists() else []
        if point not in known:
            with self._path.open("a") as file:
                file.write(point + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, owner: Any, method: str, point: Callable[..., str], *, before: bool = False) -> None:
        """Kill after each call of a method, or before; ``point`` names the call, by "" if it is no point."""
        original = getattr(owner, method)

        def replaced(*arguments: Any, **named: Any) -> Any:
            name = point(*arguments)
            if name and before:
                self.at(name)
            result = original(*arguments, **named)
            if name and not before:
                self.at(name)
            return result

        setattr(owner, method, replaced)

    def saves(self, _: Any, number: int, __: bytes) -> str:
        """The name of a save."""
        self._saving = number
        return f"save {number}"

    def renames(self, *_: Any) -> str:
        """The name of the point in a save at which the new file is written, and not in its place."""
        return f"written {self._saving}"


def tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def play(folder: Path, name: str, party: str, how: str) -> None:
    """One party's process, from its start to its end, however often it is started."""
    killer, parties = Killer(folder / f"{party}.killed"), enrolled(name)
    killer.after(FileStore, "__call__", killer.saves)
    killer.after(Path, "replace", killer.renames, before=True)
    killer.after(FileStore, "append", lambda _, number, __: f"row {number}")
    killer.after(FileLedger, "claim", lambda _, entry, __: f"claim {tag(entry)}")
    killer.after(Path, "unlink", lambda path: f"unlink {path.name}" if path.parent.name == "sessions" else "")
    with secagg.PartyFolder(folder / party) as own:
        if own.is_over(parties.task, party, NAME):
            return  # it was killed after it had noted the end
        if party == SERVER:
            serve(killer, own, folder, parties, how)
        else:
            answer(killer, own, folder, parties, party, how)


def serve(killer: Killer, own: secagg.PartyFolder, folder: Path, parties: Parties, how: str) -> None:
    killer.after(Listener, "send", lambda _, party, message: f"send {party} {tag(message)}")
    with own.forgetting(own.server(parties.task, parties.cohort, session=NAME, roster=parties.roster)) as server:
        listener = Listener(folder)
        outcome = (
            secagg.run_server(server, listener, deadlines=DEADLINE)
            if how == "threads"
            else asyncio.run(secagg.arun_server(server, Awaited(listener), deadlines=DEADLINE))
        )
        listener.close()
        result = [outcome.survivors, outcome.sum["w"].tolist(), [str(fault) for fault in outcome.faults]]
        (folder / "outcome.new").write_text(json.dumps(result))
        (folder / "outcome.new").replace(folder / "outcome")


def answer(killer: Killer, own: secagg.PartyFolder, folder: Path, parties: Parties, party: str, how: str) -> None:
    killer.after(Caller, "send", lambda _, message: f"send {tag(message)}")
    make = {
        PartyRole.CLIENT: own.client,
        PartyRole.AGGREGATOR: own.aggregator,
        PartyRole.DECRYPTOR: own.decryptor,
    }[parties.roles[party]]
    lent: Any = {"identity": parties.identities.get(party), "key": parties.long_lived.get(party)}
    session = Session(parties, contribute=False)
    with own.forgetting(make(parties.task, party, session=NAME, roster=parties.roster, **lent)) as role:
        caller = Caller(folder, party)

        def contribute() -> None:
            role.contribute(session.updates[party], session.weight(party))  # type: ignore[attr-defined]

        if how == "threads":
            secagg.run_client(role, caller, contribute=contribute)
        else:
            asyncio.run(secagg.arun_client(role, Awaited(caller), contribute=contribute))
        caller.leave()


# The process that looks on


def keep_alive(folder: Path, name: str, party: str, how: str) -> int:
    """Run a party's process until it ends by itself; returns how often it was killed."""
    kills = 0
    while True:
        process = PROCESSES.Process(target=play, args=(folder, name, party, how))
        process.start()
        process.join(DEADLINE)
        if process.exitcode != -signal.SIGKILL:
            with contextlib.suppress(OSError):
                process.kill()
            assert process.exitcode == 0
            return kills
        kills += 1


def run_member(folder: Path, session: Session, party: str) -> None:
    caller = Caller(folder, party)
    secagg.run_client(session.members[party], caller)
    caller.leave()


@pytest.mark.parametrize(
    ("name", "victim", "how", "least"),
    [
        ("SecAgg malicious", "c1", "threads", 30),
        ("AdditiveShares", "aggregator-1", "asyncio", 30),
        ("OneShot", "decryptor-1", "threads", 20),
        ("SecAgg malicious", SERVER, "asyncio", 40),
        ("AdditiveShares", SERVER, "threads", 40),
    ],
)
def test_a_party_that_is_killed_at_each_write_and_send_does_not_change_the_outcome(
    tmp_path: Path, name: str, victim: str, how: str, least: int
) -> None:
    parties = enrolled(name)
    session, undisturbed = Session(parties, session=NAME), Session(parties, session=NAME)
    expected = undisturbed.run()
    with ThreadPoolExecutor(2 + len(session.members)) as pool:
        dying = pool.submit(keep_alive, tmp_path, name, victim, how)
        others = [pool.submit(run_member, tmp_path, session, party) for party in session.members if party != victim]
        if victim != SERVER:
            listener = Listener(tmp_path)
            outcome = secagg.run_server(session.server, listener, deadlines=DEADLINE)
            result: list[Any] = [list(outcome.survivors), outcome.sum["w"].tolist(), list(outcome.faults)]
        assert dying.result() >= least
        wait_for(others)
    if victim == SERVER:
        result = json.loads((tmp_path / "outcome").read_text())
    else:
        listener.close()
        # It said each thing in one way, however often.
        answers = sum(party == victim for party, _ in undisturbed.answers)
        handed = [one for (party, _), all_of in undisturbed.handed.items() if party == victim for one in all_of]
        words = sum(word is not None for _, word in handed)
        assert len(set(listener.received[victim])) == answers + words
    assert result == [list(parties.cohort), expected.sum["w"].tolist(), []]
    assert list((tmp_path / victim / "sessions").iterdir()) == []


def wait_for(futures: list["Future[None]"]) -> None:
    for future in futures:
        future.result()

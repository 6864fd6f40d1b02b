"""OneShot with a party whose process is killed (SIGKILL) in each round, before, during and after each save."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest

import secagg
from secagg._rows import RowFile
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole
from secagg.store import FileLedger, FileStore
from secagg.table import Round
from secagg.testing import Session, parties_for

pytestmark = pytest.mark.stacks

PROTOCOL = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
CLIENTS = ("c1", "c2", "c3", "c4", "c5")
MEMBERS = tuple(f"decryptor-{number}" for number in range(1, 5))
SERVER = "server"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.secagg.warm"])


class Point(NamedTuple):
    """Where a process dies: at the save of the state ``number``, or before it takes its message ``number``."""

    number: int
    when: str


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("outlived SIGKILL")


def begin(**how: Any) -> Session:
    known = parties_for(PROTOCOL, len(CLIENTS))
    assert (known.cohort, known.ids(PartyRole.DECRYPTOR)) == (CLIENTS, list(MEMBERS))
    task = known.make_task(layout=secagg.Layout.of({"w": np.zeros(7)}), min_survivors=3, max_weight=None)
    return Session(known, task=task, **how)


# The process that is killed


class DyingStore(FileStore):
    """Kills its process at one point; ``loses_rows`` makes it keep no row although it says so."""

    def __init__(self, path: Path, point: Point | None, ledger: FileLedger, *, loses_rows: bool) -> None:
        super().__init__(path, ledger=ledger)
        self._point, self._loses_rows, self._state_path = point, loses_rows, path

    def _may_die(self, number: int, when: str) -> None:
        if self._point == Point(number, when):
            die()

    def __call__(self, number: int, state: bytes) -> None:
        self._may_die(number, "before")
        with pytest.MonkeyPatch.context() as patch:
            if self._point == Point(number, "during"):
                patch.setattr(Path, "replace", lambda *_: die())
            if self._point == Point(number, "replaced"):
                patch.setattr(RowFile, "erase", lambda _: die())
            super().__call__(number, state)
        self._may_die(number, "after")

    def append(self, number: int, row: bytes) -> bool:
        self._may_die(number, "before")
        kept = self._loses_rows or super().append(number, row)
        if self._point == Point(number, "during"):
            os.truncate(f"{self._state_path}.rows", os.path.getsize(f"{self._state_path}.rows") - len(row) // 2)
            die()
        self._may_die(number, "after")
        return kept


def take_up(folder: Path, party: str, point: Point | None, loses_rows: bool) -> Any:
    """The role of ``party``, from its files if there are any."""
    known, lent = begin(), dict[str, Any]()
    store = DyingStore(
        folder / f"{party}.state", point, FileLedger(folder / f"{party}.ledger"), loses_rows=loses_rows
    )
    lent = {"roster": known.parties.roster, "save": store}
    if party == SERVER:
        saved = store.load()
        return (
            known.task.server(CLIENTS, session=known.name, **lent)
            if saved is None
            else known.task.restore_server(saved, **lent)
        )
    lent["identity"] = known.parties.identities[party]
    make: Callable[..., Any] = known.task.client if party in CLIENTS else known.task.decryptor
    restore: Callable[..., Any] = known.task.restore_client if party in CLIENTS else known.task.restore_decryptor
    saved = store.load()
    role = make(party, session=known.name, **lent) if saved is None else restore(saved, **lent)
    if party in CLIENTS and saved is None:
        role.contribute(known.updates[party])
    return role


def play(connection: Connection, folder: Path, party: str, point: Point | None, loses_rows: bool) -> None:
    """Call the role's methods for the parent process, until it hangs up."""
    role, taken = take_up(folder, party, point, loses_rows), 0
    with contextlib.suppress(EOFError):
        while True:
            name, *arguments = connection.recv()
            if name == "outcome":
                outcome = role.outcome
                connection.send(outcome and (outcome.survivors, outcome.sum["w"].tolist(), list(role.faults)))
                continue
            taken += name == "receive"
            if point == Point(taken, "received"):
                die()
            try:
                connection.send(getattr(role, name)(*arguments))
            except Aborted as aborted:
                connection.send(aborted)


# The process that looks on


class Killed(Exception):
    """The process of this party was killed while it was called."""


class Remote:
    """A role in a process of its own, which is killed at each of ``points`` in turn, and started again."""

    def __init__(self, folder: Path, party: str, points: Sequence[Point], *, loses_rows: bool = False) -> None:
        self.points, self._how, self._loses_rows = list(points), (folder, party), loses_rows
        self.start_again()

    def start_again(self) -> None:
        point = self.points.pop(0) if self.points else None
        self._connection, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=play, args=(theirs, *self._how, point, self._loses_rows))
        self.process.start()
        theirs.close()

    def call(self, *message: Any) -> Any:
        try:
            self._connection.send(message)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self.hang_up()
            assert self.process.exitcode == -signal.SIGKILL
            raise Killed from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def receive(self, *message: Any) -> Any:
        """Deliver a message; to a process that is killed by it, again after its restart."""
        while True:
            try:
                return self.call("receive", *message)
            except Killed:
                self.start_again()

    def hang_up(self) -> None:
        self._connection.close()
        self.process.join(30)


def drive(session: Session, remote: Remote | None, vanish: Sequence[str] = ()) -> None:
    """Run a session whose server is ``remote``, or ``session``'s own; the clients in ``vanish`` speak once only."""
    spoke, outbox = set[str](), None

    def ask(name: str, *arguments: Any) -> Any:
        if remote is not None:
            return remote.call(name, *arguments)
        return session.server.outcome if name == "outcome" else getattr(session.server, name)(*arguments)

    while ask("outcome") is None:
        try:
            outbox = ask("start") if outbox is None else outbox
            for party, request in outbox.items():
                if party in vanish and party in spoke:
                    continue
                answer = session.members[party].receive(request)
                spoke.add(party)
                if answer is not None:
                    for receiver, message in ask("receive", party, answer).items():
                        session.members[receiver].receive(message)
            outbox = ask("close_round")
        except Killed:
            assert remote is not None
            remote.start_again()
            outbox = None


@pytest.fixture
def started() -> Iterator[list[Remote]]:
    remotes: list[Remote] = []
    yield remotes
    for remote in remotes:
        remote.hang_up()
        remote.process.kill()
        remote.process.join()


def expected(*gone: str) -> list[float]:
    total: list[float] = begin(silent=dict.fromkeys(gone, Round.INPUT)).run().sum["w"].tolist()
    return total


def at_saves(numbers: Mapping[int, Sequence[str]]) -> list[Point]:
    return [Point(number, when) for number, whens in numbers.items() for when in whens]


EACH = ("during", "after")
CONTRIBUTED, ANSWERED = 1, 2
SHOWN, AGREED, RELEASED = 1, 2 + len(CLIENTS), 3 + len(CLIENTS)  # with a row for each client between
ROUNDS = 4


@pytest.mark.parametrize(
    ("party", "points"),
    [
        ("c3", at_saves(dict.fromkeys((CONTRIBUTED, ANSWERED), EACH))),
        (
            "decryptor-2",
            at_saves({SHOWN: EACH, SHOWN + 2: EACH, AGREED: ("during", "replaced"), RELEASED: EACH}),
        ),
    ],
    ids=["client", "member"],
)
def test_a_party_that_is_killed_at_each_of_its_saves_is_resumed(
    tmp_path: Path, started: list[Remote], party: str, points: list[Point]
) -> None:
    session = begin()
    remote = session.members[party] = Remote(tmp_path, party, points)
    started.append(remote)
    drive(session, None)
    assert not remote.points
    outcome = session.server.outcome
    assert outcome is not None
    assert (outcome.survivors, outcome.sum["w"].tolist()) == (CLIENTS, expected())
    assert not outcome.faults
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{party}.ledger", f"{party}.state"]


def test_control_a_member_that_loses_its_rows_can_not_sign(tmp_path: Path, started: list[Remote]) -> None:
    session = begin()
    remote = Remote(tmp_path, "decryptor-2", [Point(AGREED, "before")], loses_rows=True)
    session.members["decryptor-2"] = remote
    started.append(remote)
    drive(session, None)
    assert [(f.sender, f.detail) for f in session.server.faults if f.detail] == [
        ("decryptor-2", "says that the key shares of 5 clients did not reach it")
    ]


def test_a_server_that_is_killed_at_each_of_its_saves_and_in_each_round_is_resumed(
    tmp_path: Path, started: list[Remote]
) -> None:
    points = at_saves(dict.fromkeys(range(1, 1 + ROUNDS), (*EACH, "in the round")) | {1 + ROUNDS: EACH})
    points = [Point(3, "received") if point.when == "in the round" else point for point in points]
    session, remote = begin(), Remote(tmp_path, SERVER, points)
    started.append(remote)
    drive(session, remote)
    assert not remote.points
    assert remote.call("outcome") == (CLIENTS, expected(), [])


def test_inputs_that_a_killed_server_had_not_saved_fall_out_of_the_set(
    tmp_path: Path, started: list[Remote]
) -> None:
    """Two clients have sent their one message and are gone; the members hold their shares."""
    session, remote = begin(), Remote(tmp_path, SERVER, [Point(len(MEMBERS) + 4, "received")])
    started.append(remote)
    drive(session, remote, vanish=("c1", "c2"))
    survivors, total, faults = remote.call("outcome")
    assert (survivors, total) == (CLIENTS[2:], expected("c1", "c2"))
    assert {fault.kind for fault in faults} == {FaultKind.SILENT}
    assert all(len(session.members[member]._state.parts) == len(CLIENTS) for member in MEMBERS)


@pytest.mark.parametrize("number", [SHOWN, AGREED, RELEASED])
def test_one_member_may_stay_away_and_with_more_nothing_is_opened(
    tmp_path: Path, started: list[Remote], number: int
) -> None:
    for away in (1, 2 if number != RELEASED else 3):
        session = begin()
        for member in MEMBERS[:away]:
            (tmp_path / f"{away}").mkdir(exist_ok=True)
            remote = Remote(tmp_path / f"{away}", member, [Point(number, "before")])
            started.append(remote)
            session.members[member] = StaysAway(remote)
        if away == 1:
            drive(session, None)
            assert session.server.outcome is not None
            assert session.server.outcome.sum["w"].tolist() == expected()
            continue
        with pytest.raises(Aborted, match="so nothing is opened"):
            drive(session, None)
        assert session.server.outcome is None


class StaysAway:
    """A party that is not started again after it was killed."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._gone = remote, False

    def receive(self, message: bytes) -> bytes | None:
        if not self._gone:
            try:
                answer: bytes | None = self._remote.call("receive", message)
                return answer
            except Killed:
                self._gone = True
        return None

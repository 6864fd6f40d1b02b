"""Roles that several threads call at once: every public call has its role to itself."""

import contextlib
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import lanes as lanes_module
from secagg.errors import Fault, FaultKind, LocalProtocolError
from secagg.roles import member, server as server_module
from secagg.roles.turn import Turn
from secagg.store import MemoryLedger
from secagg.testing import Session, parties_for
from tests.secagg.stress import PROTOCOLS, NoTurn, parties_of, problems

UPDATE = {"w": np.full(4, 0.5, np.float32)}
IDS = ["c1", "c2", "c3", "c4"]

#: What a caller of a role may use, and what never changes, so that it needs no lock.
SERVER_CALLS = {
    *("aborted", "start", "receive", "receive_all", "take", "took", "absorb", "close_round", "to_bytes"),
    *("outcome", "pending", "faults", "round", "position", "taken"),
}
MEMBER_CALLS = {"aborted", "receive", "contribute", "answer", "contributed", "to_bytes", "session", "finished"}
LISTENER_CALLS = {"receive_all", "faults"}  # besides
CONSTANT = {"read", "read_all", "id", "ledger", "from_bytes", "state_type", "role", "answers", "overhears", "steps"}
#: What protocols use and replace. It runs inside of a call.
INNER = {
    *("erase", "heard", "note", "prepare", "check_restored", "context"),
    *("blame", "need", "proposal", "before_close", "written"),
}


def make_task(protocol: Any = None, **changes: Any) -> secagg.Task:
    arguments: dict[str, Any] = {
        "protocol": protocol or secagg.Clear(),
        "layout": secagg.Layout.of(UPDATE),
        "encoding": secagg.FixedPoint(clip=1.0, rounding="nearest"),
        "max_clients": len(IDS),
        "min_survivors": 2,
    }
    return secagg.Task(**(arguments | changes))


def uploads(task: secagg.Task, outbox: Any, value: float = 0.5) -> dict[str, bytes]:
    """What each client sends in the one round of Clear."""
    sent = {}
    for party in IDS:
        client = task.client(party, session=b"s")
        client.contribute({"w": np.full(4, value, np.float32)})
        sent[party] = client.receive(outbox[party])
    return sent


def use(role: Any, name: str, *arguments: Any) -> None:
    """Look at a property, or make a call."""
    attribute = getattr(role, name)
    if callable(attribute):
        attribute(*arguments)


def at_once(*calls: Any) -> list[Any]:
    """What each call returns, or raises, in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        jobs = [pool.submit(call) for call in calls]
    return [job.exception() or job.result() for job in jobs]


class Recorder(Turn):
    """A lock that says whether it was taken."""

    taken = 0

    def __enter__(self) -> None:
        self.taken += 1
        super().__enter__()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_public_name_of_every_role_takes_the_lock_or_is_constant(name: str) -> None:
    session = Session(parties_for(PROTOCOLS[name](), 6 if name != "SecAggPlus" else 12))
    for role in (session.server, *session.members.values()):
        calls = SERVER_CALLS if role is session.server else MEMBER_CALLS | LISTENER_CALLS
        constant = CONSTANT | ({"session"} if role is session.server else set())
        public = {call for call in dir(role) if not call.startswith("_")}
        assert public <= calls | constant | INNER
        for call in sorted(public & calls):
            role._turn = recorder = Recorder()
            arguments: dict[str, list[Any]] = {"receive": [b""], "receive_all": [[b""]], "contribute": [UPDATE]}
            arguments["answer"] = [b"", UPDATE]
            if role is session.server:
                arguments = {
                    "receive": ["c1", b""],
                    "receive_all": [[("c1", b"")]],
                    "took": ["c1", bytes(32)],
                    "take": [role.read("c1", b"")],
                    "absorb": [b""],
                }
                assert not recorder.taken, "read needs no lock"
            with contextlib.suppress(secagg.SecAggError):
                use(role, call, *arguments.get(call, []))
            assert recorder.taken, f"{type(role).__name__}.{call}"


# --- what goes wrong without the lock


@contextlib.contextmanager
def meeting(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> Iterator[None]:
    """Two threads inside of ``method`` wait for each other, if they can both get there."""
    inside = threading.Barrier(2)
    true = getattr(owner, method)

    def slow(*arguments: Any) -> Any:
        result = true(*arguments)
        with contextlib.suppress(threading.BrokenBarrierError):
            inside.wait(0.3)
        return result

    monkeypatch.setattr(owner, method, slow)
    yield
    monkeypatch.undo()


@pytest.fixture(params=[True, False], ids=["with its lock", "control without"])
def locked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether roles have their locks."""
    if not request.param:
        monkeypatch.setattr(server_module, "Turn", NoTurn)
        monkeypatch.setattr(member, "Turn", NoTurn)
    return bool(request.param)


def test_a_retry_during_the_first_try_is_not_folded_twice(locked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    server = task.server(IDS, session=b"s")
    sent = uploads(task, server.start())
    with meeting(pytest.MonkeyPatch(), server_module.Server, "_refusal"):
        assert at_once(*[lambda: server.receive("c1", sent["c1"])] * 2) == [{}, {}]
    server.receive("c2", sent["c2"])
    server.close_round()
    twice = not np.allclose(server.outcome.sum["w"], 1.0, atol=1e-3)
    assert twice is not locked
    assert (server.outcome.survivors != ("c1", "c2")) is not locked
    assert {fault.kind for fault in server.faults} == {FaultKind.SILENT}


def test_a_timer_drops_nobody_whose_input_is_in_the_sum(locked: bool) -> None:
    task = make_task()
    server = task.server(IDS, session=b"s")
    sent = uploads(task, server.start(), -0.5)
    for party in ("c1", "c2"):
        server.receive(party, sent[party])
    folded, go_on = threading.Event(), threading.Event()
    true = type(server).steps["Input"].take

    def slow(*arguments: Any) -> None:
        true(*arguments)
        folded.set()
        go_on.wait(0.3)

    server.steps = {"Input": server_module.Step(server.steps["Input"].ask, slow, server.steps["Input"].settle)}
    upload = threading.Thread(target=lambda: server.receive("c3", sent["c3"]))
    upload.start()
    folded.wait(10)
    server.close_round()
    go_on.set()
    upload.join()
    total, survivors = server.outcome.sum["w"][0], len(server.outcome.survivors)
    assert np.isclose(total, -0.5 * survivors, atol=1e-3) == locked
    assert ("c3" in server.outcome.survivors) is locked


class Slow:
    """An array whose values are there when they are asked for twice, or never."""

    shape, dtype = (4,), np.dtype("f4")

    def __init__(self, value: float = 0.5) -> None:
        self.value, self.begun, self.go = value, threading.Event(), threading.Event()

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.begun.set()
        assert self.go.wait(30)
        return np.full(4, self.value, np.float32)


def training(client: Any, array: Slow) -> Any:
    """A thread that is encoding, and a function that lets it end and gives what it raised."""
    pool = ThreadPoolExecutor(1)
    job = pool.submit(client.contribute, {"w": array})
    assert array.begun.wait(30)

    def end() -> BaseException | None:
        array.go.set()
        pool.shutdown()
        return job.exception()

    return end


def secagg_task() -> secagg.Task:
    return make_task(secagg.SecAgg(threat_model="semi-honest"), min_survivors=3)


def test_a_round_that_is_answered_while_an_update_is_encoded_stays_answered() -> None:
    task = secagg_task()
    server, client = task.server(IDS, session=b"s"), task.client("c1", session=b"s")
    request = server.start()["c1"]
    end = training(client, Slow())
    answer = client.receive(request)
    assert answer is not None
    assert end() is None
    assert client.receive(request) == answer
    assert client._state.step == 1
    assert client._state.contributed


def test_an_update_that_is_encoded_when_the_session_ends_is_refused_and_leaves_no_trace() -> None:
    task = secagg_task()
    store = type("Store", (), {"ledger": MemoryLedger(), "__call__": lambda *_: None})()
    server, client = task.server(IDS, session=b"s"), task.client("c1", session=b"s", save=store)
    client.receive(server.start()["c1"])
    claimed = dict(store.ledger._entries)
    end = training(client, Slow())
    with pytest.raises(secagg.Aborted) as aborted:
        server.close_round()
    with pytest.raises(secagg.Aborted):
        client.receive(aborted.value.outbox["c1"])
    error = end()
    assert isinstance(error, LocalProtocolError)
    assert "given up" in str(error)
    assert store.ledger._entries == claimed
    assert not client._state.contributed


def test_of_two_updates_at_once_the_first_stands_and_an_equal_one_changes_nothing() -> None:
    client = secagg_task().client("c1", session=b"s")
    ends = [training(client, Slow(value)) for value in (0.5, 0.25, 0.5)]
    assert ends[0]() is None
    state = client.to_bytes()
    assert isinstance(ends[1](), LocalProtocolError)
    assert ends[2]() is None
    assert client.to_bytes() == state


def test_a_timer_that_names_its_round_closes_no_other() -> None:
    task = secagg_task()
    server = task.server(IDS, session=b"s")
    clients = {party: task.client(party, session=b"s") for party in IDS}
    for party, request in server.start().items():
        server.receive(party, clients[party].receive(request))
    outboxes = at_once(*[lambda: server.close_round("AdvertiseKeys")] * 4)
    assert sorted(map(len, outboxes)) == [0, 0, 0, 4]
    assert server.round == "ShareKeys"
    assert server.pending == set(IDS)
    with pytest.raises(secagg.ConfigError, match="AdvertiseKeys, ShareKeys"):
        server.close_round("Sharing")


# --- calls from inside of a call


def test_a_call_from_inside_of_a_call_is_refused_and_changes_nothing() -> None:
    task, seen = make_task(), []

    class Store:
        ledger = None
        role: Any = None

        def __call__(self, number: int, state: bytes) -> None:
            if self.role is None:
                return
            serves = isinstance(self.role, secagg.Server)
            arguments: dict[str, list[Any]] = {"receive": ["c1", b""] if serves else [b""], "contribute": [UPDATE]}
            arguments |= {"receive_all": [[("c1", b"")]], "answer": [b"", UPDATE]}
            for call in SERVER_CALLS if serves else MEMBER_CALLS:
                with pytest.raises(LocalProtocolError, match="from inside another call"):
                    use(self.role, call, *arguments.get(call, []))
                seen.append(call)

    stores = Store(), Store()
    server = task.server(IDS, session=b"s", save=stores[0])
    client = task.client("c1", session=b"s", save=stores[1])
    stores[0].role, stores[1].role = server, client
    request = server.start()["c1"]
    client.contribute(UPDATE)
    assert client.receive(request) is not None
    assert set(seen) == SERVER_CALLS | MEMBER_CALLS


class CallsBack(Executor):
    """Looks at the role that it works for."""

    role: Any = None

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.role.close_round()
        raise AssertionError


def test_an_executor_that_calls_its_role_fails_and_the_round_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "_INLINE_LANES", 0)
    task, executor = secagg_task(), CallsBack()
    executor.role = server = task.server(IDS, session=b"s", executor=executor)
    clients = {party: task.client(party, session=b"s") for party in IDS}
    outbox = server.start()
    while server.round != "Unmasking":
        for party, request in outbox.items():
            with contextlib.suppress(LocalProtocolError):
                clients[party].contribute(UPDATE)
            server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    for party in IDS[:3]:
        server.receive(party, clients[party].receive(outbox[party]))
    before = server.to_bytes()
    with pytest.raises(LocalProtocolError, match="from inside another call"):
        server.close_round()
    assert server.to_bytes() == before
    assert server.pending == {"c4"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_session_inside_of_a_worker_of_its_own_executor_ends(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "_INLINE_LANES", 0)
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(secagg.simulate, secagg_task(), [UPDATE] * 4, executor=pool, session=bytes([number]))
            for number in range(2 * workers)
        ]
        for job in jobs:
            assert np.allclose(job.result(60).mean["w"], 0.5, atol=1e-3)


# --- all at once


@pytest.mark.parametrize("name", PROTOCOLS)
def test_everything_at_once_gives_the_exact_sum(name: str) -> None:
    """Uploads, retries, timers and training in threads, the third round closed too early."""
    rounds = 1 if name == "Paillier" else 3
    assert [wrong for wrong in problems(name, rounds, 20_000) if wrong] == []


def test_uploads_of_three_million_coordinates_at_once() -> None:
    assert [wrong for wrong in problems("Clear", 2, 3_000_000) if wrong] == []


# --- retries, and the last word


@pytest.mark.parametrize("name", ["Clear", "SecAgg malicious", "AdditiveShares", "OneShot", "BFV"])
def test_who_is_dropped_is_told_once_and_the_same_bytes_are_no_fault(name: str) -> None:
    parties = parties_of(name)
    phases = [phase.round for phase in parties.protocol.phases if phase.role is secagg.identity.PartyRole.CLIENT]
    for silent in phases:
        session, messages = Session(parties, silent={"c2": silent}), list[bytes]()
        outbox = session.server.start()
        while session.server.outcome is None:
            session.exchange(outbox)
            outbox = session.server.close_round()
            messages += [data for party, data in outbox.items() if party in session.gone]
            assert session.server.start().keys() >= {party for party in outbox if party in session.gone}
        assert len(messages) == 1
        client = session.members["c2"]
        began = client._state.opening_id
        with pytest.raises(secagg.Aborted if began else secagg.RemoteProtocolError):
            client.receive(messages[0])
        assert client.finished is bool(began)
        if began:
            assert client._state.seed == b""
            assert client.receive(messages[0]) is None


# --- errors go through processes


def _errors() -> list[Exception]:
    import dp.errors
    import he.errors
    import mpc.errors
    import secagg.errors

    errors: list[Exception] = []
    for module in (secagg.errors, he.errors, mpc.errors, dp.errors):
        for kind in vars(module).values():
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                continue
            if kind is secagg.RemoteProtocolError:
                errors.append(kind(Fault("c1", "Input", FaultKind.INVALID, "why")))
            elif kind is secagg.Aborted:
                errors.append(kind("too few", {"c1": b"over"}))
            else:
                errors.append(kind("what went wrong"))
    return errors


@pytest.mark.parametrize("error", _errors(), ids=lambda error: type(error).__name__)
def test_errors_are_pickled_whole(error: Any) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))

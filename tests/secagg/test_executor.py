"""Masks are taken off with the same bits whatever does the work, and however many workers there are."""

import importlib
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

import he._workers
import secagg
from mpc.masks import mask_sum
from secagg import lanes as lanes_module, workers
from secagg.identity import PartyRole
from secagg.lanes import mask_all, mask_lanes, to_lanes
from secagg.testing import Integers, Session, parties_for
from tests.secagg.executors import Counting, Elsewhere, LosesAWorker


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sums are split too: several ranges, and keys by threes."""
    monkeypatch.setattr(lanes_module, "_INLINE_LANES", 0)
    monkeypatch.setattr(lanes_module, "_RANGE_LANES", 1000)
    monkeypatch.setattr(lanes_module, "_KEYS_IN_TASK", 3)
    monkeypatch.setattr(lanes_module, "_IN_FLIGHT", 4)


def make_task(size: int = 2500) -> secagg.Task:
    """Two kinds of lanes: values of 32 bits, a weight of one coordinate, a count."""
    return secagg.Task(
        protocol=secagg.SecAgg(threat_model="semi-honest"),
        layout=secagg.Layout.of(np.zeros(size)),
        encoding=secagg.FixedPoint(clip=1.0, bits=30, rounding="nearest"),
        max_clients=7,
        min_survivors=4,
        max_weight=100,
    )


def drawn_lanes(task: secagg.Task) -> list[Any]:
    rng = np.random.default_rng(1)
    return to_lanes(task, [rng.integers(0, 1 << 30, s.length, dtype=np.uint64) for s in task.segments])


KEYED = [(bytes([number]) * 32, 1 if number % 3 else -1) for number in range(10)]


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_equal_to_one_mask_after_the_other(workers: int) -> None:
    task = make_task()
    expected, masked = drawn_lanes(task), drawn_lanes(task)
    for key, sign in KEYED:
        mask_lanes(expected, [(key, sign)])
    with ThreadPoolExecutor(workers) as executor:
        mask_all(masked, KEYED, executor)
    for mine, theirs in zip(masked, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any((mine != theirs).any() for mine, theirs in zip(masked, drawn_lanes(task), strict=True))


@pytest.mark.usefixtures("split")
def test_split_by_range_and_key() -> None:
    task, executor = make_task(), Counting()
    mask_all(drawn_lanes(task), KEYED, executor)
    assert executor.tasks == 4 * sum(-(-segment.length // 1000) for segment in task.segments)


def test_threads_take_over_where_there_is_much_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Counting()
    monkeypatch.setattr(lanes_module, "threads", lambda: executor)
    task = make_task(100)
    mask_all(drawn_lanes(task), KEYED, None)
    assert executor.tasks == 0
    task = make_task(1 << 19)
    mask_all(drawn_lanes(task), KEYED, None)
    assert executor.tasks > 1


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize(
    "instead",
    [
        lambda mask: None,
        lambda mask: 0,
        lambda mask: np.uint32(0),
        lambda mask: mask[:1],
        lambda mask: mask.astype(np.uint64),
        lambda mask: mask.tolist(),
    ],
)
def test_nothing_but_a_mask_is_taken_for_one(instead: Any) -> None:
    """An input must not leave without masks because an executor returned something that can be added to it."""

    class Wrong(Counting):
        def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(instead(function(*arguments, **named)))
            return done

    with pytest.raises(secagg.ConfigError, match="expected 1000 lanes of uint32"):
        mask_all([np.zeros(2500, np.uint32)], KEYED, Wrong())


def test_any_slice_is_a_slice_of_the_whole() -> None:
    for dtype in ("<u4", "<u8"):
        whole = mask_sum(KEYED, 0, 3000, dtype)
        np.testing.assert_array_equal(mask_sum(KEYED, 1234, 777, dtype), whole[1234 : 1234 + 777])
        parts = mask_sum(KEYED[:4], 0, 3000, dtype) + mask_sum(KEYED[4:], 0, 3000, dtype)
        np.testing.assert_array_equal(parts, whole)


def sums_with(executor: Executor | None) -> Any:
    task = make_task()
    rng = np.random.default_rng(2)
    updates = {f"c{i}": rng.uniform(-1, 1, task.layout.size) for i in range(7)}
    silent = {"c2": secagg.Round.MASKED_INPUT, "c5": secagg.Round.UNMASKING}
    weights = {party: 1 + place for place, party in enumerate(updates)}
    return secagg.simulate(task, updates, weights=weights, dropouts=silent, executor=executor).sum


@pytest.mark.usefixtures("split")
def test_sums_are_the_same_bits() -> None:
    plain = sums_with(None)
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2, mp_context=context) as processes:
        assert sums_with(threads).tobytes() == plain.tobytes()
        assert sums_with(processes).tobytes() == plain.tobytes()


@pytest.mark.usefixtures("split")
def test_server_and_clients_use_what_they_are_given_restored_or_not() -> None:
    of_server, of_client = Counting(), Counting()
    session = Session(parties_for(secagg.SecAgg(threat_model="semi-honest"), 4), contribute=False)
    session.server = session.task.server(session.parties.cohort, session=session.name, executor=of_server)
    for party in session.parties.cohort:
        session.members[party] = session.make(party, executor=of_client if party == "c1" else Counting())
        session.contribute(party)

    def before_answer(party: str, answer: bytes) -> None:
        session.server = session.task.restore_server(session.server.to_bytes(), executor=of_server)

    session.before_answer = before_answer
    session.require_completes("with executors")
    assert of_client.tasks > 0
    assert of_server.tasks > 0


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize(
    ("protocol", "size"),
    [
        (secagg.SecAggPlus(threat_model="semi-honest"), 3000),
        (secagg.AdditiveShares(kem="X25519"), 3000),
        (secagg.OneShot(members=4, corrupt_members=1, kem="X25519"), 420_000),
        (secagg.Paillier(), 900),
        (secagg.BFV(), 300_000),
        (secagg.CKKS(), 300_000),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_workers_need_not_share_memory_with_the_roles(protocol: Any, size: int) -> None:
    """What a worker writes to an argument is lost: all that it did must be in its result."""
    known = parties_for(protocol, 14 if protocol.name == "SecAggPlus" else 4)
    servers, others = Elsewhere(), Elsewhere()
    task = known.make_task(
        layout=secagg.Layout.of({"w": np.zeros(size)}),
        max_weight=None,
        encoding=secagg.FixedPoint(clip=1.0, bits=30, rounding="nearest"),
    )
    session = Session(known, task=task, contribute=False)
    session.server = task.server(known.cohort, roster=known.roster, session=session.name, executor=servers)
    for party in session.members:
        session.members[party] = session.make(party, executor=others)
    for party in known.cohort:
        session.contribute(party)
    session.require_completes("with workers elsewhere")
    assert others.tasks > 0
    assert servers.tasks > 0 or protocol.name in ("AdditiveShares", "Paillier", "BFV", "CKKS")


def stubborn(call: Any, failures: list[str], unchanged: Any) -> Any:
    """What ``call`` returns, tried again if a worker was lost, which leaves what ``unchanged`` gives as it was."""
    before = unchanged()
    try:
        return call()
    except RuntimeError as lost:
        failures.append(str(lost))
        assert unchanged() == before
        return call()


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("lost", [1, 3, 10])
@pytest.mark.parametrize("at", ["server", "client"])
def test_a_lost_worker_costs_a_second_try_and_no_sum(at: str, lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A modular sum decodes whatever it is, so a mask taken off twice would come out as right."""
    encoding = Integers(((500, (1 << 12) - 1, 1 << 12),))
    task = secagg.Task(
        protocol=secagg.SecAgg(threat_model="semi-honest"),
        layout=encoding.layout,
        encoding=encoding,
        max_clients=16,
        min_survivors=14,
    )
    ids = [f"c{i:02}" for i in range(16)]
    flaky, failures = LosesAWorker(lost), list[str]()
    monkeypatch.setattr(lanes_module, "_RANGE_LANES", 100)
    server = task.server(ids, session=b"s", executor=flaky if at == "server" else None)
    clients = {
        c: task.client(c, session=b"s", executor=flaky if (at, c) == ("client", "c01") else None) for c in ids
    }
    for client in clients.values():
        client.contribute({"halves": encoding.halves(list(range(500)))})
    outbox = server.start()
    while server.outcome is None:
        for party, request in outbox.items():
            silent = (("c07", secagg.Round.MASKED_INPUT), ("c09", secagg.Round.UNMASKING))
            if party in server.pending and (party, server.round) not in silent:
                client = clients[party]
                server.receive(party, stubborn(partial(client.receive, request), failures, client.to_bytes))
        outbox = stubborn(server.close_round, failures, lambda: (server.to_bytes(), server.pending, server.faults))
    assert failures == ["worker lost"]
    assert flaky.tasks > lost
    assert server.outcome.sum["halves"][500:].tolist() == [15 * number % (1 << 12) for number in range(500)]
    assert [(fault.sender, fault.round) for fault in server.faults] == [
        ("c07", secagg.Round.MASKED_INPUT),
        ("c09", secagg.Round.UNMASKING),
    ]


@pytest.mark.usefixtures("split")
def test_an_aggregator_whose_worker_is_lost_releases_the_same_share_after_it() -> None:
    protocol = secagg.AdditiveShares(kem="X25519")
    known = parties_for(protocol, 5)
    task = known.make_task(layout=secagg.Layout.of({"w": np.zeros(2500)}), max_weight=None)
    session, flaky, failures = Session(known, task=task), LosesAWorker(3), list[str]()
    for party in known.ids(PartyRole.AGGREGATOR):
        session.members[party] = session.make(party, executor=flaky)

    def before_request(party: str, request: bytes) -> None:
        member = session.members[party]
        stubborn(partial(member.receive, request), failures, member.to_bytes)

    session.before_request = before_request
    session.require_completes("after a worker was lost")
    assert failures == ["worker lost"]


FORKS = """
import os, signal
import numpy as np
from secagg.lanes import mask_all
keyed = [(bytes([number]) * 32, 1) for number in range(10)]
lanes, again = ([np.zeros(1 << 20, np.uint32)] for _ in range(2))
mask_all(lanes, keyed, None)
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
signal.alarm(60)
mask_all(again, keyed, None)
os._exit(0 if (lanes[0] == again[0]).all() and again[0].any() else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """The parent has masked; the child starts with its memory and none of its threads."""
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=120)


ENDED = """
import threading
import numpy as np
from secagg.lanes import mask_all
from secagg.signatures import first_invalid

keyed = [(bytes([number]) * 32, sign) for number in range(5) for sign in (1, -1)]

def go_on():
    threading.main_thread().join()
    lanes = [np.ones(1 << 20, np.uint32)]
    mask_all(lanes, keyed, None)
    assert first_invalid([(bytes(32), bytes(64), bytes(32))] * 100, None) == 0
    print((lanes[0] == 1).all())

threading.Thread(target=go_on).start()
"""


def test_a_thread_that_outlives_the_main_thread_does_the_work_itself() -> None:
    """Python gives no more threads to a pool then."""
    command = [sys.executable, "-c", ENDED]
    assert subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("run_all", [workers.run_all, he._workers.run_all])
def test_an_executor_that_takes_no_more_tasks_gets_back_those_that_it_has(run_all: Any) -> None:
    class TakesTwo(Executor):
        def __init__(self) -> None:
            self.waiting: list[Future[Any]] = []

        def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
            if len(self.waiting) == 2:
                raise RuntimeError("takes no more")
            self.waiting.append(Future())
            return self.waiting[-1]

    executor = TakesTwo()
    with pytest.raises(RuntimeError, match="takes no more"):
        run_all(executor, abs, [(1,), (2,), (3,)])
    assert [task.cancelled() for task in executor.waiting] == [True, True]


def test_without_ray_its_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "secagg.integrations.ray", raising=False)
    with pytest.raises(secagg.ConfigError, match="pip install ray"):
        importlib.import_module("secagg.integrations.ray")

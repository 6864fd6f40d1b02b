"""Masks are taken off with the same bits whatever does the work, and however many workers there are."""

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import secagg
from mpc.masks import mask_sum
from secagg.protocols import lanes as lanes_module
from secagg.protocols.lanes import mask_all, mask_lanes, to_lanes


class Counting(Executor):
    """Runs a task as it comes, and counts."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.tasks += 1
        done: Future[Any] = Future()
        done.set_result(function(*arguments, **named))
        return done


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
    wanted, found = drawn_lanes(task), drawn_lanes(task)
    for key, sign in KEYED:
        mask_lanes(wanted, key, sign=sign)
    with ThreadPoolExecutor(workers) as executor:
        mask_all(found, KEYED, executor)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any((mine != theirs).any() for mine, theirs in zip(found, drawn_lanes(task), strict=True))


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
    task = make_task(2000)
    ids = [f"c{i}" for i in range(4)]
    of_server, of_client = Counting(), Counting()
    server = task.server(ids, session=b"s", executor=of_server)
    clients = {c: task.client(c, session=b"s", executor=of_client if c == "c0" else Counting()) for c in ids}
    for client in clients.values():
        client.contribute(np.zeros(2000), 1)
    outbox = server.start()
    while server.outcome is None:
        server = secagg.Server.from_bytes(server.to_bytes(), task, executor=of_server)
        for party, request in outbox.items():
            server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    assert of_client.tasks > 0
    assert of_server.tasks > 0


@pytest.mark.stacks
def test_dask_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(lanes_module, "_INLINE_LANES", 0)
    monkeypatch.setattr(lanes_module, "_RANGE_LANES", 1000)
    plain = sums_with(None)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        # Masks of the same keys are never asked for twice: pure tasks would only be hashed and kept.
        assert sums_with(client.get_executor(pure=False)).tobytes() == plain.tobytes()

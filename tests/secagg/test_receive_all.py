"""A server gives what arrived to an executor: every split has the sums, the faults and the state of one server."""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import secagg
from secagg.errors import ConfigError, FaultKind, LocalProtocolError
from secagg.roles import sharing
from secagg.table import Round
from tests.secagg.executors import Counting, Elsewhere, LosesAWorker
from tests.secagg.opened import SMALL, Opened

KINDS: dict[str, tuple[Any, str]] = {
    "Clear": (secagg.Clear(), Round.INPUT),
    "SecAgg's shares": (secagg.SecAgg(), Round.SHARE_KEYS),
    "SecAgg": (secagg.SecAgg(), Round.MASKED_INPUT),
    "SecAgg's signatures": (secagg.SecAgg(), Round.CONSISTENCY_CHECK),
    "AdditiveShares": (secagg.AdditiveShares(), Round.REPORT),
    "OneShot": (SMALL, Round.INPUT),
    "BFV": (secagg.BFV(), Round.INPUT),
    "Paillier": (secagg.Paillier(), Round.INPUT),
}


@pytest.fixture(scope="module")
def opened() -> dict[str, Opened]:
    return {name: Opened(*kind) for name, kind in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=6)
@given(data=st.data())
def test_any_split_gives_the_bits_of_one_server(name: str, opened: dict[str, Opened], data: st.DataObject) -> None:
    """In any order, in batches of any size, each in any number of parts."""
    case, executor = opened[name], Elsewhere()
    server, onward = case.restored(executor), list[tuple[str, bytes]]()
    messages = case.messages
    random.Random(data.draw(st.integers(0, 1 << 32))).shuffle(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=3)))
    for start, end in zip([0, *cuts], [*cuts, len(messages)], strict=True):
        onward += server.receive_all(messages[start:end], data.draw(st.integers(1, 12)))
    assert executor.tasks > 0
    case.require_like_alone(server, onward)


@pytest.mark.parametrize("name", ["SecAgg", "OneShot", "BFV"])
def test_threads_share_a_batch(name: str, opened: dict[str, Opened]) -> None:
    with ThreadPoolExecutor(3) as threads:
        server = opened[name].restored(threads)
        opened[name].require_like_alone(server, server.receive_all(opened[name].messages, 3))


@pytest.mark.parametrize("name", ["SecAgg", "OneShot", "BFV"])
@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_lost_worker_changes_nothing_and_the_same_call_again_takes_all(
    name: str, lost: int, opened: dict[str, Opened]
) -> None:
    case = opened[name]
    server = case.restored(LosesAWorker(lost))
    before, pending, faults = server.to_bytes(), server.pending, server.faults
    with pytest.raises(RuntimeError, match="worker lost"):
        server.receive_all(case.messages, 4)
    assert (server.to_bytes(), server.pending, server.faults) == (before, pending, faults)
    case.require_like_alone(server, server.receive_all(case.messages, 4))


class ReturnsOnce(Counting):
    """Runs a task as it comes, and returns something else for the second one."""

    def __init__(self, instead: Any) -> None:
        super().__init__()
        self.instead = instead

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        done = super().submit(function, *arguments, **named)
        if self.tasks == 2:
            state, onward = done.result()
            done = Future()
            done.set_result(self.instead(state, onward))
        return done


@pytest.mark.parametrize(
    "instead",
    [
        lambda state, onward: None,
        lambda state, onward: (None, onward),
        lambda state, onward: (state, None),
        lambda state, onward: (state, [3]),
        lambda state, onward: (state[:-1], onward),
        lambda state, onward: (b"", onward),
    ],
)
def test_what_no_task_returns_changes_nothing(instead: Any, opened: dict[str, Opened]) -> None:
    case = opened["SecAgg"]
    server = case.restored(ReturnsOnce(instead))
    before, pending, faults = server.to_bytes(), server.pending, server.faults
    with pytest.raises(ConfigError):
        server.receive_all(case.messages, 4)
    assert (server.to_bytes(), server.pending, server.faults) == (before, pending, faults)
    case.require_like_alone(server, server.receive_all(case.messages, 1 << 62))


def test_a_part_that_does_not_fit_leaves_the_parts_before_it_out(opened: dict[str, Opened]) -> None:
    """All parts are absorbed, or none is."""
    case = opened["BFV"]
    shards = [case.restored(None) for _ in range(2)]
    for shard, (sender, answer) in zip(shards, case.answers, strict=False):
        shard.receive(sender, answer)
    good, other = (shard.to_bytes() for shard in shards)
    server = case.restored(None)
    before = server.to_bytes()
    for parts in ((good, other, good), (good, b""), (good, opened["SecAgg"].state)):
        with pytest.raises(ConfigError):
            server.absorb(*parts)
        assert server.to_bytes() == before
    server.absorb(other, good)
    server.absorb()
    assert server.pending == {sender for sender, _ in case.answers[2:]}


def test_without_an_executor_and_where_one_server_alone_takes_a_round_nothing_is_given_away() -> None:
    for protocol, name, lent in (
        (secagg.Clear(), Round.INPUT, None),
        (secagg.SecAgg(), Round.ADVERTISE_KEYS, Counting()),
        (secagg.BFV(commit=False), Round.INPUT, Counting()),
        (replace(SMALL, recount=True), Round.INPUT, Counting()),
    ):
        case = Opened(protocol, name)
        server = case.restored(lent)
        assert sorted(server.receive_all(case.messages)) == sorted(case.onward)
        assert lent is None or lent.tasks == 0
        assert server.pending == frozenset()


def test_after_an_answer_that_was_taken_alone_the_others_are_too(opened: dict[str, Opened]) -> None:
    """What the server was when the round opened is not known any more."""
    case, executor = opened["SecAgg"], Counting()
    server = case.restored(executor)
    onward = [*server.receive(*case.answers[0]).items(), *server.receive_all(case.messages)]
    assert executor.tasks == 0
    case.require_like_alone(server, onward)
    shared = case.restored(executor)
    onward = shared.receive_all(case.bad)
    onward += [*shared.receive(*case.answers[0]).items(), *shared.receive_all(case.answers, 2)]
    assert executor.tasks == 4
    case.require_like_alone(shared, onward)


@pytest.mark.parametrize("messages", [3, None, [3], [("c1",)], [("c1", b"", b"")], b"abc"])
def test_what_is_not_a_list_of_messages_is_a_mistake_of_the_caller(
    messages: Any, opened: dict[str, Opened]
) -> None:
    server = opened["Clear"].restored(Counting())
    for call in (server.receive_all, server.read_all):
        with pytest.raises(LocalProtocolError, match="expected pairs of a sender and its bytes"):
            call(messages)


@pytest.mark.parametrize("parts", [0, -1, 1.5, True, "2"])
def test_parts_that_are_not_a_number_are_a_mistake_of_the_caller(parts: Any, opened: dict[str, Opened]) -> None:
    with pytest.raises(LocalProtocolError, match="expected a positive integer"):
        opened["Clear"].restored(Counting()).receive_all([], parts)


def test_hostile_messages_are_faults_as_ever(opened: dict[str, Opened]) -> None:
    executor = Elsewhere()
    server = opened["SecAgg"].restored(executor)
    wrong: list[Any] = [("c1", b""), ("c2", 3), ("c3", memoryview(b"abc")), (7, b""), ("", b"")]
    assert server.receive_all(wrong, 3) == []
    assert {fault.kind for fault in server.faults} == {FaultKind.MALFORMED, FaultKind.UNKNOWN_SENDER}
    assert executor.tasks == 2
    assert server.pending == opened["SecAgg"].restored(None).pending


class TestABatchInWhichAWorkerFails:
    """The parts that came back are not taken without the part that did not."""

    def taken(self, case: Opened) -> frozenset[str]:
        server = case.restored(LosesAWorker(3))
        with pytest.raises(RuntimeError, match="worker lost"):
            server.receive_all(case.answers, 4)
        return frozenset(case.restored(None).pending - server.pending)

    def test_refused(self, opened: dict[str, Opened]) -> None:
        assert not self.taken(opened["SecAgg"])

    def test_control_succeeds(self, opened: dict[str, Opened], monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: where each part is absorbed when it comes, the call fails with half of the batch in the sum."""
        case = opened["SecAgg"]

        def one_by_one(executor: Any, function: Any, calls: list[Any]) -> Any:
            for call in calls:
                server._absorb([executor.submit(function, *call).result()[0]])

        server = case.restored(LosesAWorker(3))
        monkeypatch.setattr(sharing, "run_all", one_by_one)
        with pytest.raises(RuntimeError, match="worker lost"):
            server.receive_all(case.answers, 4)
        assert case.restored(None).pending - server.pending

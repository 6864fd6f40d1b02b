"""A server's work grows with the cohort and not with its square: every item that it goes through is counted."""

from collections.abc import Iterator, MutableSet
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import wire
from secagg.lanes import vectors_size
from secagg.protocols.clear import ClearServer, Input
from secagg.protocols.pairwise.messages import Advert

CLIENTS = 200_000
ANSWERS = 20_000
ITEMS = 40  # that a server may go through for each client of the cohort, in one round from start to end


@pytest.fixture(autouse=True)
def no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """One for each client that is dropped."""
    caplog.set_level("ERROR", "secagg")


class Count:
    """Items of containers that were gone through, or were in a container that was made anew."""

    def __init__(self, most: int) -> None:
        self.items, self.most = 0, most

    def add(self, items: int) -> None:
        self.items += items
        assert self.items <= self.most, "the work grows faster than the cohort"  # at once: all of it takes hours

    def wrap(self, value: Any) -> Any:
        """A list, dict or set that counts what is read of it as a whole; its making counts too."""
        kinds: dict[type, type] = {list: CountedList, dict: CountedDict, set: CountedSet, frozenset: CountedSet}
        if type(value) not in kinds:
            return value
        self.add(len(value))
        wrapped = kinds[type(value)](value)
        wrapped.count = self
        return wrapped


class CountedList(list[Any]):
    """Whatever copies or searches a list of this type comes by here; only an exact list has a faster way."""

    count: Count

    def __iter__(self) -> Iterator[Any]:
        self.count.add(len(self))
        return super().__iter__()

    def __contains__(self, item: object) -> bool:
        self.count.add(len(self))
        return super().__contains__(item)

    def __getitem__(self, place: Any) -> Any:
        item = super().__getitem__(place)
        self.count.add(len(item) if isinstance(place, slice) else 1)
        return item

    def __add__(self, other: Any) -> Any:
        return [*self, *other]

    def copy(self) -> Any:
        return [*self]

    def index(self, *arguments: Any) -> int:
        self.count.add(len(self))
        return super().index(*arguments)

    def remove(self, item: Any) -> None:
        self.count.add(len(self))
        super().remove(item)


class CountedDict(dict[Any, Any]):
    """A dict that is copied, merged or gone through asks for these."""

    count: Count

    def __iter__(self) -> Iterator[Any]:
        self.count.add(len(self))
        return super().__iter__()

    def keys(self) -> Any:
        self.count.add(len(self))
        return super().keys()

    def values(self) -> Any:
        self.count.add(len(self))
        return super().values()

    def items(self) -> Any:
        self.count.add(len(self))
        return super().items()

    def copy(self) -> Any:
        return {**self}

    def __or__(self, other: Any) -> Any:
        return {**self, **other}


class CountedSet(MutableSet[Any]):
    """Not a subclass of set, which C code copies without a word."""

    count: Count

    def __init__(self, items: Any) -> None:
        self._items = set(items)

    @classmethod
    def _from_iterable(cls, items: Any) -> Any:
        return set(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        self.count.add(len(self._items))
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Any) -> None:
        self._items.add(item)

    def discard(self, item: Any) -> None:
        self._items.discard(item)


class CountedState:
    """A server's state, any container of which counts."""

    def __init__(self, state: Any, count: Count) -> None:
        object.__setattr__(self, "count", count)
        for name in state.__struct_fields__:
            setattr(self, name, getattr(state, name))

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, self.count.wrap(value))


def counted(server: Any, most: int) -> Count:
    """Make every container of ``server`` count from now on, those too that take another's place."""
    count = Count(most)

    def set_counted(owner: Any, name: str, value: Any) -> None:
        object.__setattr__(owner, name, count.wrap(value))

    for owner in (server, server.context, server.context.faults):
        owner.__class__ = type("Counted", (type(owner),), {"__setattr__": set_counted})
        for name, value in vars(owner).items():
            setattr(owner, name, value)
    server.context.state = CountedState(server.context.state, count)
    return count


def make_server(protocol: Any, kind: type[Any], min_survivors: int) -> Any:
    """A server that counts, of a cohort of 200,000."""
    task = secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(1, np.float32)),
        encoding=secagg.FixedPoint(clip=1.0, bits=8),
        max_clients=CLIENTS,
        min_survivors=min_survivors,
    )
    server = task.server([f"c{number}" for number in range(CLIENTS)], session=b"s")
    server.__class__ = kind
    server.count = counted(server, ITEMS * CLIENTS)
    return server


def start(server: Any) -> None:
    """Open the first round: one proposal is written for all."""
    outbox = server.start()
    assert len(outbox) == CLIENTS
    assert len({id(request) for request in outbox.values()}) == 1


def hand_in(server: Any, number: int, message: wire.Message, payload: bytes = b"") -> None:
    """An answer, twice. A client is not made for it: each would read the whole cohort, which is quadratic."""
    sealed = wire.seal_envelope(
        message,
        protocol=server.context.task.protocol.ID,
        task=server.context.task.digest,
        session=server.context.state.session_id,
        sender=f"c{number}",
        payload=payload,
    )
    for _ in range(2):
        assert server.receive(f"c{number}", sealed) == {}


def whole_session(kind: type[Any] = ClearServer) -> None:
    """A tenth of the cohort answers, the others are silent."""
    server = make_server(secagg.Clear(), kind, 2)
    start(server)
    payload = bytes(vectors_size(server.context.task))
    for number in range(ANSWERS):
        hand_in(server, number, Input(), payload)
    dismissals = server.close_round()
    assert len(server.outcome.survivors) == ANSWERS
    assert len(dismissals) == len(server.outcome.dropped) == CLIENTS - ANSWERS
    assert len({id(message) for message in dismissals.values()}) == 1


def test_a_session_with_answers_and_silence_goes_through_each_client_a_few_times() -> None:
    whole_session()


def test_a_round_that_aborts_does_too() -> None:
    protocol = secagg.SecAggPlus(threat_model="semi-honest")
    server = make_server(protocol, protocol.server, 180_000)
    start(server)
    for number in range(2000):
        keys = [(9 + 2 * number + use).to_bytes(32, "little") for use in range(2)]
        hand_in(server, number, Advert(*keys))
    assert len(server.pending) == CLIENTS - 2000
    with pytest.raises(secagg.Aborted, match="got 2000 clients that advertised keys") as aborted:
        server.close_round()
    assert len(aborted.value.outbox) == CLIENTS
    assert len(server.faults) == CLIENTS - 2000


class CopiesForEachSilent(ClearServer):
    """Copies a dict for each client that is dropped."""

    def _drop_and_settle(self, phase: Any, silent: Any) -> None:
        for party in silent:
            self.context.state.dropped = {**self.context.state.dropped, party: phase.round}
        super()._drop_and_settle(phase, silent)


class CopiesForEachAnswer(ClearServer):
    """Copies the list of who has answered for each answer."""

    def receive(self, sender: str, data: bytes) -> Any:
        self.context.state.answered = [*self.context.state.answered]
        return super().receive(sender, data)


class Searches(ClearServer):
    """Looks for each sender in a list."""

    def receive(self, sender: str, data: bytes) -> Any:
        return super().receive(sender, data) if sender in self.context.state.cohort else {}


class LooksAtAllWhoArePending(ClearServer):
    """Makes a set of who is pending for each answer."""

    def receive(self, sender: str, data: bytes) -> Any:
        return super().receive(sender, data) if sender in frozenset(self._pending) else {}


@pytest.mark.parametrize("kind", [CopiesForEachSilent, CopiesForEachAnswer, Searches, LooksAtAllWhoArePending])
def test_control_a_server_that_is_quadratic_is_seen(kind: type[Any]) -> None:
    with pytest.raises(AssertionError, match="grows faster than the cohort"):
        whole_session(kind)

"""What a save writes, and how often a client saves."""

from typing import Any

import msgspec
import numpy as np
import pytest

import secagg
from secagg.errors import RemoteProtocolError
from secagg.roles.state import ClientState, pack_fields
from secagg.store import MemoryLedger

IDS = ["c1", "c2", "c3"]
UPDATE = np.linspace(-1, 1, 40_000, dtype=np.float32)


class Store:
    """Keeps every state; refuses to while ``broken``."""

    def __init__(self) -> None:
        self.ledger, self.saved, self.broken = MemoryLedger(), list[tuple[int, bytes]](), False

    def __call__(self, number: int, state: bytes) -> None:
        if self.broken:
            raise OSError("no space left")
        self.saved.append((number, state))


class Wide(msgspec.Struct):
    """More fields than fit into the first byte of a map."""

    f0: bytes = b""
    f1: list[bytes] = []
    f2: dict[str, bytes] = {}
    f3: int = 1
    f4: str = "x"
    f5: bytes = b"y" * (1 << 16)
    f6: bool = True
    f7: int = 0
    f8: int = 0
    f9: int = 0
    f10: int = 0
    f11: int = 0
    f12: int = 0
    f13: int = 0
    f14: int = 0
    f15: None = None


class Renamed(msgspec.Struct, rename="camel"):
    long_field: bytes = bytes(1 << 17)


@pytest.mark.parametrize("length", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16])
def test_the_parts_of_a_state_are_its_messagepack(length: int, count: int) -> None:
    client = ClientState(
        id="c1", seed=bytes(32), contribution=[bytes([7]) * length] * count, last_reply=bytes(length)
    )
    view = [memoryview(bytes([7]) * length)] * count
    for state in (client, Wide(b"x" * length, [b"z", *[bytes(length)] * count]), Renamed(bytes(length))):
        assert b"".join(pack_fields(state)) == msgspec.msgpack.encode(state)
    expected = msgspec.msgpack.encode(client)
    client.contribution = view  # type: ignore[assignment]
    assert b"".join(pack_fields(client)) == expected


def test_a_long_byte_string_is_not_copied() -> None:
    long = bytes(1 << 20)
    assert any(part is long for part in pack_fields(Wide(long)))


class Played:
    """A client of which the input is asked for: itself, its store, the request, and how to make it again."""

    def __init__(self) -> None:
        task = secagg.Task(
            secagg.SecAgg(), secagg.Layout.of(UPDATE), secagg.FixedPoint(1.0), 3, 3, context=b"saves"
        )
        identities, roster = secagg.identity.enrol(IDS)
        server, self.store = task.server(IDS, roster=roster, session=b"s"), Store()
        clients = {one: task.client(one, identity=identities[one], roster=roster, session=b"s") for one in IDS[1:]}
        lent: Any = {"identity": identities["c1"], "roster": roster}
        clients["c1"] = self.client = task.client("c1", session=b"s", save=self.store, **lent)
        outbox = server.start()
        while server.round != secagg.Round.MASKED_INPUT:
            for one in IDS:
                server.receive(one, clients[one].receive(outbox[one]) or b"")
            outbox = server.close_round()
        self.request = outbox["c1"]
        state = self.client.to_bytes()
        self.again = lambda: task.restore_client(state, save=Store(), **lent)


def test_an_answer_with_the_update_is_that_of_two_calls_and_is_saved_once() -> None:
    played = Played()
    twice, once = played.again(), played.client
    before = len(played.store.saved)
    reply = once.answer(played.request, UPDATE)
    assert [number for number, _ in played.store.saved[before - 1 :]] == [before, before + 1]
    twice.contribute(UPDATE)
    assert twice.receive(played.request) == reply == once.receive(played.request)


def test_a_refused_request_leaves_the_update_saved() -> None:
    played = Played()
    before = len(played.store.saved)
    with pytest.raises(RemoteProtocolError):
        played.client.answer(played.request[:-1], UPDATE)
    assert played.client.contributed
    assert len(played.store.saved) == before + 1
    assert played.client.receive(played.request)


def test_a_failed_save_changes_nothing() -> None:
    played = Played()
    state, played.store.broken = played.client.to_bytes(), True
    with pytest.raises(OSError, match="no space left"):
        played.client.answer(played.request, UPDATE)
    assert played.client.to_bytes() == state
    played.store.broken = False
    assert played.client.answer(played.request, UPDATE)

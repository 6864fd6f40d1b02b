"""What a role appends behind its saved state: what stands after a crash, what is refused, and when it is erased."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import wire
from secagg._rows import RowFile, join_rows, split_rows
from secagg.errors import ConfigError, LocalProtocolError
from secagg.identity import PartyRole
from secagg.store import FileStore, MemoryLedger
from secagg.table import Round
from secagg.testing import Session, parties_for

ROWS = [b"one", b"two" * 100, b"three" * 30]
PROTOCOL = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
CLIENTS = 6
MEMBER = "decryptor-2"


def filled(folder: Path, state: bytes = b"state") -> FileStore:
    store = FileStore(folder / "state")
    store(5, state)
    for number, row in enumerate(ROWS, 6):
        assert store.append(number, row)
    return store


def loaded(folder: Path) -> tuple[bytes, list[bytes]]:
    data = FileStore(folder / "state").load()
    assert data is not None
    return split_rows(data)


def test_rows_follow_the_state_until_the_next_one(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert loaded(tmp_path) == (b"state", ROWS)
    assert stat.S_IMODE((tmp_path / "state.rows").stat().st_mode) == 0o600
    again = FileStore(tmp_path / "state")
    assert again.append(9, b"four")
    assert loaded(tmp_path) == (b"state", [*ROWS, b"four"])
    with pytest.raises(LocalProtocolError, match="others wrote to"):
        store.append(9, b"another fourth")
    for late in (store, again):
        with pytest.raises(LocalProtocolError, match="state number 9 after 9"):
            late(9, b"older")
    again(10, b"next")
    assert loaded(tmp_path) == (b"next", [])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("number", [5, 8, 10])
def test_a_row_that_does_not_follow_is_not_kept(tmp_path: Path, number: int) -> None:
    assert not filled(tmp_path).append(number, b"late")
    assert not FileStore(tmp_path / "empty").append(0, b"before any state")
    assert loaded(tmp_path) == (b"state", ROWS)


def test_a_last_row_that_a_crash_damaged_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "state.rows"
    whole = path.read_bytes()
    start = len(whole) - len(ROWS[-1]) - 36
    damaged = [whole[:end] for end in range(start, len(whole))]
    damaged += [whole[:start] + bytes(size) for size in (3, 4, 186, 5000)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(start + 4, len(whole))]
    for data in damaged:
        path.write_bytes(data)
        assert loaded(tmp_path) == (b"state", ROWS[:-1])
    assert FileStore(tmp_path / "state").append(8, b"again")
    assert loaded(tmp_path) == (b"state", [*ROWS[:-1], b"again"])


def test_damage_before_the_last_row_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "state.rows"
    whole = path.read_bytes()
    for at in range(36, len(whole) - len(ROWS[-1]) - 36):
        if at in range(71, 75):  # the second row's length: what follows may be one row that was cut short
            continue
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ConfigError, match="damaged at byte"):
            FileStore(tmp_path / "state")


def test_rows_of_another_state_are_not_taken_and_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "erase", lambda _: None)  # as after a crash there
        store(9, b"state")  # the same bytes under another number
    assert loaded(tmp_path) == (b"state", [])
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_row_that_could_not_be_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)

    def fail(_: int) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no room"):
            store.append(9, b"four")
    assert loaded(tmp_path) == (b"state", ROWS)
    assert store.append(9, b"four")


def test_a_state_with_rows_that_was_cut_short_is_refused() -> None:
    whole = join_rows(b"state", ROWS)
    ends = [len(join_rows(b"state", ROWS[:count])) for count in range(1, 4)]
    start = len(whole) - sum(4 + len(part) for part in (b"state", *ROWS))
    for end in range(start, len(whole)):
        if end not in (*ends, start + 9):  # where a row ends
            with pytest.raises(ConfigError, match="damaged state"):
                split_rows(whole[:end])


# A committee member's shares


class CountingStore(FileStore):
    """Counts what a role saves."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ledger=MemoryLedger())
        self.states: list[int] = []
        self.rows: list[int] = []

    def __call__(self, number: int, state: bytes) -> None:
        super().__call__(number, state)
        self.states.append(len(state))

    def append(self, number: int, row: bytes) -> bool:
        self.rows.append(len(row))
        return super().append(number, row)


def begin(save: Any = None, clients: int = CLIENTS) -> Session:
    known = parties_for(PROTOCOL, clients)
    task = known.make_task(layout=secagg.Layout.of({"w": np.zeros(3)}), max_weight=None)
    session = Session(known, task=task)
    if save is not None:
        session.members[MEMBER] = session.make(MEMBER, save=save)
    return session


@pytest.mark.parametrize("clients", [3, 12])
def test_a_member_writes_each_share_once_more_than_its_rounds_need(tmp_path: Path, clients: int) -> None:
    store = CountingStore(tmp_path / "state")
    session = begin(store, clients)
    session.require_completes("with a member whose store appends")
    share = 4 * PROTOCOL.scheme(session.task).degree
    assert len(store.rows) == clients
    assert max(store.rows) < share + 300
    first, agreed, last = store.states
    assert first < 1500 + 20 * clients
    assert agreed < clients * (share + 300) + 12_000
    assert last < 200 * clients + share + 12_000


def test_control_without_rows_the_whole_state_is_saved_for_each_share(tmp_path: Path) -> None:
    counted = []
    store = FileStore(tmp_path / "state")

    def whole(number: int, state: bytes) -> None:
        counted.append(len(state))
        store(number, state)

    session = begin()
    session.members[MEMBER] = session.make(MEMBER, save=whole, ledger=MemoryLedger())
    session.require_completes("with a store that can't append")
    share = 4 * PROTOCOL.scheme(session.task).degree
    assert len(counted) == 3 + CLIENTS
    assert sum(counted) > CLIENTS * (CLIENTS + 1) // 2 * share


@pytest.mark.parametrize("held", [0, 1, 4, CLIENTS])
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_member_takes_up_its_rows_and_gets_what_it_lost_again(tmp_path: Path, held: int, torn: bool) -> None:
    store = CountingStore(tmp_path / "state")
    session = begin(store)
    shares: list[bytes] = []

    def before_relay(party: str, data: bytes) -> list[bytes] | None:
        if party != MEMBER:
            return None
        shares.append(data)
        return [data] if len(shares) <= held else []

    session.before_relay = before_relay
    session.until(Round.INPUT)
    session.exchange(session.outbox or {})
    path = tmp_path / "state.rows"
    if torn and held:
        path.write_bytes(path.read_bytes()[:-1])
    fresh = CountingStore(tmp_path / "state")
    fresh.ledger = store.ledger
    saved = fresh.load()
    assert saved is not None
    member = session.restore(MEMBER, saved, save=fresh)
    assert len(member._state.parts) == held - (torn and held > 0)
    for data in shares:  # those that were kept change nothing
        assert member.receive(data) is None
    assert len(fresh.rows) == CLIENTS - held + (torn and held > 0)
    assert not fresh.states
    session.close()
    session.require_completes("with a restored member")
    assert not member.faults
    assert not session.server.faults


@pytest.mark.parametrize("end", [Round.AGREEMENT, None], ids=["abort", "end"])
def test_rows_are_deleted_at_an_abort_and_at_the_end(tmp_path: Path, end: str | None) -> None:
    store = CountingStore(tmp_path / "state")
    session = begin(store)
    if end is None:
        session.run()
    else:
        session.until(end)
        assert (tmp_path / "state.rows").exists()
        session.members[MEMBER].receive(session.seal(wire.Abort()))
    assert session.members[MEMBER].finished
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").stat().st_size < 20_000


def test_a_helper_of_additive_shares_appends_reports_and_the_leader_saves_its_sum(tmp_path: Path) -> None:
    session = Session(parties_for(secagg.AdditiveShares(), CLIENTS))
    leader, helper = session.parties.ids(PartyRole.AGGREGATOR)
    stores = {party: CountingStore(tmp_path / party) for party in (leader, helper)}
    lent: dict[str, Any] = {party: {"save": store} for party, store in stores.items()}
    for party in stores:
        session.members[party] = session.make(party, **lent[party])
    session.until(Round.RECOUNT)
    assert (len(stores[helper].states), len(stores[helper].rows)) == (1, CLIENTS)
    assert (len(stores[leader].states), stores[leader].rows) == (1 + CLIENTS, [])
    before = session.members[helper].to_bytes()
    saved = stores[helper].load()
    assert saved is not None
    state, rows = split_rows(saved)
    for forged in ([*rows, rows[0]], [rows[0][:-1]], [b"\xc0"]):
        with pytest.raises(ConfigError, match="reports"):
            session.restore(helper, join_rows(state, forged), **lent[helper])
    assert session.restore(helper, saved, **lent[helper]).to_bytes() == before
    session.require_completes("with a restored helper")
    assert sorted(path.name for path in tmp_path.iterdir()) == [leader, helper]


def test_forged_rows_are_refused(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "state")
    session = begin(store)
    first = session.until(Round.INPUT)
    session.exchange(first)
    state, rows = split_rows(store.load() or b"")
    forged: list[Callable[[], list[bytes]]] = [
        lambda: [*rows, rows[0]],
        lambda: [rows[0][:-1]],
        lambda: [rows[0].replace(b"\xa2c1", b"\xa2c9")],
        lambda: [b"\xc0"],
    ]
    for change in forged:
        with pytest.raises(ConfigError, match="key shares"):
            session.restore(MEMBER, join_rows(state, change()), save=None, ledger=store.ledger)
    client = session.members["c1"].to_bytes()
    with pytest.raises(ConfigError, match="impossible rows"):
        session.restore("c1", join_rows(client, [b"row"]))
    with pytest.raises(ConfigError, match="another task, role"):
        session.restore_server(join_rows(session.server.to_bytes(), [b"row"]))

"""``receive_all``: several messages in one call and one save, for aggregators, decryptors and committee members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import secagg
from secagg._rows import JOINED
from secagg.errors import Aborted, FaultKind, LocalProtocolError
from secagg.identity import PartyRole
from secagg.store import FileStore, MemoryLedger, split_rows
from secagg.testing import MemoryStore, Session, parties_for
from tests.secagg.parts import Splits, Vetting
from tests.secagg.stress import PROTOCOLS

COMMITTEE = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
KINDS: dict[str, Any] = {
    "AdditiveShares": secagg.AdditiveShares(aggregators=3, kem="X25519"),
    "OneShot": COMMITTEE,
    "OneShot with a recount": replace(COMMITTEE, recount=True),
    "BFV": PROTOCOLS["BFV"](),
    "Paillier": PROTOCOLS["Paillier"](),
    "splits": Splits(),
    "vetting": Vetting(),
}
CLIENTS = 5


class Lost(Exception):
    """The process was killed."""


class KilledStore(MemoryStore):
    """A store that keeps what it is given, and fails at one of its writes: before it keeps it, or after."""

    def __init__(self, *, appends: bool = True) -> None:
        super().__init__()
        self.writes, self.fails_at, self.after = 0, 0, False
        if not appends:
            self.append = None  # type: ignore[assignment,method-assign]

    def __call__(self, number: int, state: bytes) -> None:
        self.writes += 1
        if self.writes == self.fails_at and not self.after:
            raise Lost
        super().__call__(number, state)
        if self.writes == self.fails_at:
            raise Lost


def heard_by(session: Session, party: str) -> list[bytes]:
    """What a party got in a whole session, in order: requests and messages handed on."""
    heard: list[bytes] = []
    session.after_request = lambda one, data: heard.append(data) if one == party else None
    before = session.before_relay
    session.before_relay = lambda one, data: (heard.append(data) if one == party else None, before(one, data))[1]
    session.run()
    return heard


def listeners(session: Session) -> list[str]:
    return [party for party, role in session.parties.roles.items() if role is not PartyRole.CLIENT]


def fresh(session: Session, party: str, store: Any) -> Any:
    """The party made anew from the same seed, with a store and a ledger of its own."""
    session.stores[party] = store
    return session.make(party)


def comparable(role: Any) -> Any:
    """The state apart from the number of saves."""
    return msgspec.structs.replace(role._state, number=0)


def in_batches(messages: Sequence[bytes], size: int) -> Iterable[Sequence[bytes]]:
    return (messages[at : at + size] for at in range(0, len(messages), size))


@pytest.fixture(params=KINDS, scope="module")
def played(request: pytest.FixtureRequest) -> tuple[Session, str, list[bytes], list[bytes | None], Any]:
    """A session, one of its listeners, what it heard, what it answered one by one, and what it was then."""
    session = Session(parties_for(KINDS[request.param], CLIENTS), seed=b"batches")
    party = listeners(session)[-1]
    heard = heard_by(session, party)
    role = fresh(session, party, KilledStore())
    answers = [role.receive(data) for data in heard]
    return session, party, heard, answers, role


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("appends", [True, False], ids=["rows", "whole states"])
def test_messages_in_batches_get_the_answers_and_leave_the_state_of_one_by_one(
    played: Any, size: int, appends: bool
) -> None:
    session, party, heard, answers, expected = played
    store = KilledStore(appends=appends)
    role, batches = fresh(session, party, store), list(in_batches(heard, size))
    if session.task.protocol.unseeded:  # the texts that HPKE seals differ, the messages' kinds do not
        assert [len(answer or b"") for batch in batches for answer in role.receive_all(batch)] == [
            len(answer or b"") for answer in answers
        ]
    else:
        assert [answer for batch in batches for answer in role.receive_all(batch)] == answers
        assert comparable(role) == comparable(expected)
    assert store.writes <= len(batches)
    assert role.faults == expected.faults
    assert comparable(session.restore(party, store.state)) == comparable(role)


@pytest.mark.parametrize("after", [False, True], ids=["before it is kept", "after"])
@pytest.mark.parametrize("size", [2, 100])
def test_a_party_killed_at_any_save_goes_on_from_its_store_and_says_the_same(
    played: Any, size: int, after: bool
) -> None:
    session, party, heard, answers, expected = played
    writes = 1
    while True:
        store = KilledStore()
        role, batches, said = fresh(session, party, store), list(in_batches(heard, size)), []
        store.fails_at, store.after, killed = writes, after, 0
        at = 0
        while at < len(batches):
            before, faults = role.to_bytes(), role.faults
            try:
                said += role.receive_all(batches[at])
                at += 1
            except Lost:
                killed += 1
                assert (role.to_bytes(), role.faults) == (before, faults), "nothing has changed"
                role = session.restore(party, store.state) if store.states else session.make(party)
        if not killed:
            break
        assert not role.faults
        assert role.finished == expected.finished
        if not session.task.protocol.unseeded:
            last = [answer for answer in answers if answer][-1]
            assert [answer for answer in said if answer][-1] == last
        writes += 1
    assert writes > 1


def test_a_batch_with_bad_messages_takes_the_good_ones_and_books_the_bad() -> None:
    session = Session(parties_for(KINDS["OneShot"], CLIENTS))
    party = listeners(session)[0]
    heard = heard_by(session, party)
    role = fresh(session, party, MemoryStore())
    mixed = [data for good in heard for data in (good, b"bad", good[:-1] + bytes([good[-1] ^ 1]))]
    role.receive_all(mixed)
    assert role.finished
    assert {fault.kind for fault in role.faults} >= {FaultKind.MALFORMED, FaultKind.UNAUTHENTIC}


def test_an_abort_in_a_batch_ends_the_session_for_what_follows() -> None:
    session = Session(parties_for(KINDS["AdditiveShares"], CLIENTS))
    session.until("Recount")
    party = listeners(session)[0]
    recount = session.outbox[party]  # type: ignore[index]
    with pytest.raises(Aborted) as aborted:
        session.close()
    role = session.members[party]
    assert role.receive_all([aborted.value.outbox[party], recount]) == [None, None]
    assert role.finished
    assert session.restore(party, session.stores[party].state).finished


@pytest.mark.parametrize("wrong", [b"one message", bytearray(3), memoryview(b"one")])
def test_one_message_in_the_place_of_several_is_refused(wrong: Any) -> None:
    session = Session(parties_for(secagg.AdditiveShares(), 4))
    with pytest.raises(LocalProtocolError, match=r"pass \[message\]"):
        session.members["aggregator-1"].receive_all(wrong)
    assert session.members["aggregator-1"].receive_all([]) == []
    assert not session.members["aggregator-1"].faults


# --- what a draft adds is taken back with it


@pytest.fixture(params=[True, False], ids=["taken back", "control: not taken back"])
def taken_back(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether what a refused draft added is taken back."""
    if not request.param:
        monkeypatch.setattr(secagg.roles.Member, "_take_back", lambda self, before=0: self._added.clear())
    return bool(request.param)


@pytest.mark.parametrize("call", ["receive", "receive_all"])
def test_a_report_that_could_not_be_saved_is_taken_when_it_comes_again(taken_back: bool, call: str) -> None:
    session = Session(parties_for(KINDS["OneShot"], CLIENTS))
    party = listeners(session)[0]
    heard = heard_by(session, party)
    store = KilledStore()
    role = fresh(session, party, store)
    role.receive(heard[0])
    store.fails_at = store.writes + 1

    def take() -> Any:
        return role.receive(heard[1]) if call == "receive" else role.receive_all(heard[1:3])

    with pytest.raises(Lost):
        take()
    states = len(store.states)
    take()
    # Without it, the role believes to hold what its store has never seen.
    assert (len(store.states) > states) is taken_back
    assert len(role._state.parts) == (1 if call == "receive" else 2)


def test_an_entry_that_is_added_twice_is_an_error_of_the_protocol() -> None:
    session = Session(parties_for(KINDS["OneShot"], CLIENTS))
    role = session.members[listeners(session)[0]]
    field = {"c1": 1}
    with pytest.raises(secagg.ConfigError, match="adds 'c1' twice"):
        role.add(field, "c1", 2)
    assert field == {"c1": 1}


def test_a_file_keeps_the_rows_of_a_batch_as_one(tmp_path: Path) -> None:
    session = Session(parties_for(KINDS["OneShot"], CLIENTS))
    party = listeners(session)[0]
    heard = heard_by(session, party)
    ledger, path = MemoryLedger(), tmp_path / "state"
    role = fresh(session, party, FileStore(path, ledger=ledger))
    role.receive(heard[0])
    state = path.read_bytes()
    role.receive_all(heard[1:4])
    role.receive(heard[4])
    role.receive_all(heard[5:6])
    assert path.read_bytes() == state, "rows alone were written"
    rows = path.with_name("state.rows").read_bytes()
    for damaged in (rows, rows[:-1]):
        path.with_name("state.rows").write_bytes(damaged)
        store = FileStore(path, ledger=ledger)
        session.stores[party] = store  # type: ignore[assignment]
        again = session.restore(party, store.load())  # type: ignore[arg-type]
        assert len(again._state.parts) == 5 - (damaged != rows)
        again.receive_all(heard[1:])
        assert again.finished
        assert not again.faults
        path.write_bytes(state)


def test_a_row_that_begins_as_joined_rows_do_is_saved_with_the_whole_state() -> None:
    session = Session(parties_for(KINDS["splits"], CLIENTS))
    party = listeners(session)[0]
    heard = heard_by(session, party)
    store = KilledStore()
    role = fresh(session, party, store)
    role.new_row = lambda draft: JOINED + b"\0\0\0\1x"
    for data in heard[:3]:
        role.receive(data)
    assert split_rows(store.state)[1] == []
    assert comparable(session.restore(party, store.state)) == comparable(role)

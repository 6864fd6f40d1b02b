"""OneShot: exact sums by any members that are enough, bad shares and bad sums, and what each role refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from he import kahe
from mpc import packed
from mpc.hpke import Kem, PrivateKey
from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.protocols.oneshot import OneShot
from secagg.protocols.oneshot.member import _SHOWN
from secagg.protocols.oneshot.messages import (
    Agreed,
    Collect,
    Dealing,
    Held,
    KeyedInput,
    KeyedProposal,
    KeyShare,
    Lack,
    Release,
    SessionKey,
    public_seed,
)
from secagg.protocols.oneshot.opening import open_sum
from secagg.protocols.oneshot.parameters import KEY_SIZE
from secagg.protocols.oneshot.spool import left_out
from secagg.protocols.oneshot.states import OneShotServerState
from secagg.roles.state import pack_state, unpack_state
from secagg.store import MemoryLedger
from secagg.table import Round
from secagg.testing import Integers, MemoryStore, Parties, Session, check_protocol, parties_for
from secagg.wire import Envelope

IDS = tuple(f"c{number}" for number in range(1, 9))
SEVEN = OneShot(kem="X25519")
FOUR = OneShot(members=4, corrupt_members=1, kem="X25519")
EIGHT = OneShot(members=8, corrupt_members=2, kem="X25519")  # two secrets in a polynomial
LIMIT = 1 << 20


def make_task(**changes: Any) -> secagg.Task:
    task = secagg.Task(
        protocol=SEVEN,
        layout=secagg.Layout.of({"w": np.zeros(9)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=len(IDS),
        min_survivors=3,
    )
    return replace(task, **changes)


@cache
def parties(protocol: OneShot, clients: int = len(IDS)) -> Parties:
    return parties_for(protocol, clients)


def begin(protocol: OneShot = SEVEN, *, task: secagg.Task | None = None, **how: Any) -> Session:
    """A session of eight clients and the committee."""
    task = replace(task or make_task(), protocol=protocol)
    return Session(parties(protocol), task=task, **{"session": b"round 1", **how})


def member(place: int) -> str:
    return f"decryptor-{place + 1}"


def members(session: Session) -> list[str]:
    return session.parties.ids(PartyRole.DECRYPTOR)


# --- sums


@pytest.mark.parametrize(
    "protocol",
    [OneShot(), replace(EIGHT, threat_model="semi-honest", recount=True)],
    ids=["default", "eight, semi-honest, with Recount"],
)
def test_check_protocol(protocol: OneShot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check_protocol(protocol)
    assert not list(tmp_path.iterdir())


def test_segments_of_zeros_and_segments_with_a_modulus_come_back() -> None:
    encoding = Integers(((4, 0, None), (3, 255, 256), (5, (1 << 40) - 1, None)))
    begin(task=make_task(layout=encoding.layout, encoding=encoding)).require_completes("with such segments")


@pytest.mark.parametrize("protocol", [FOUR, EIGHT], ids=["plain", "packed"])
def test_any_members_that_are_enough_open_the_sum(protocol: OneShot) -> None:
    session = begin(protocol)
    session.until(Round.SUM_OF_KEYS)
    session.exchange(session.outbox or {})
    state, scheme = session.server.context.state, protocol.scheme(session.task)
    answers = {place: state.answers[member(place)] for place in range(protocol.members)}
    total = session.server._adder.total()  # type: ignore[attr-defined]
    how: Any = {"total": total, "count": len(IDS), "public": public_seed(state.session_id), "executor": None}
    whole = open_sum(scheme, protocol.committee, answers=answers, **how).sums
    for places in combinations(answers, protocol.committee.threshold):
        some = open_sum(scheme, protocol.committee, answers={place: answers[place] for place in places}, **how)
        assert all(np.array_equal(a, b) for a, b in zip(whole, some.sums, strict=True))
    session.close()
    assert session.server.outcome is not None
    session.require_exact(session.server.outcome, "in the end")


def test_the_key_bound_is_that_of_the_cipher() -> None:
    assert KEY_SIZE == kahe.MAX_KEY


def test_a_session_costs_what_is_stated_to_the_byte() -> None:
    for protocol in (OneShot(), EIGHT):
        session = begin(protocol)
        session.require_completes("undisturbed")
        cost = protocol.cost(session.task, IDS)
        assert {len(session.answers[party, Round.INPUT]) for party in IDS} == {cost.up[Round.INPUT]}
        proposed = len(session.requests["c1", Round.INPUT])
        assert proposed == cost.down[Round.INPUT] - (32 - len(b"round 1"))  # a session's name may be shorter


# --- silence


@pytest.mark.parametrize("name", [Round.SESSION_KEY, Round.AGREEMENT, Round.SUM_OF_KEYS])
def test_so_many_members_may_be_silent_and_no_more(name: str) -> None:
    needed = SEVEN.committee.threshold if name == Round.SUM_OF_KEYS else SEVEN.needed
    silent = [member(place) for place in range(7 - needed)]
    begin(silent=dict.fromkeys(silent, name)).require_completes(f"with {silent} silent in {name}")
    with pytest.raises(Aborted, match=f"got {needed - 1} .*; {needed} are needed, so nothing is opened"):
        begin(silent=dict.fromkeys([*silent, member(6)], name)).run()


def test_a_late_client_and_a_late_member_change_nothing() -> None:
    session = begin(silent={"c8": Round.INPUT, "decryptor-7": Round.SUM_OF_KEYS})
    recorded = begin()
    recorded.run()
    session.until(Round.AGREEMENT)
    session.server.receive("c8", recorded.answers["c8", Round.INPUT])
    outcome = session.run()
    session.require_exact(outcome, "without the late client")
    session.server.receive("decryptor-7", recorded.answers["decryptor-7", Round.SUM_OF_KEYS])
    assert {kind for _, _, kind in session.faults} == {FaultKind.OUT_OF_TURN}


def test_inputs_that_a_crashed_server_lost_fall_out_of_the_set() -> None:
    """Their clients have vanished, and the members hold their shares: two fewer are in the sum, and all is well."""
    session = begin()
    asked = session.until(Round.INPUT)
    session.exchange({party: asked[party] for party in IDS[:4]})
    session.restore_server(session.stores[wire.SERVER].state)
    session.exchange({party: data for party, data in session.server.start().items() if party not in ("c1", "c2")})
    session.close()
    session.require_sum_of(session.run(), IDS[2:])
    assert not session.faults
    assert not any(session.members[party].faults for party in members(session))


def test_a_member_with_a_ledger_and_no_store_is_held_to_one_set_too() -> None:
    ledgers = {party: MemoryLedger() for party in members(begin())}
    first, again = begin(), begin(seed=b"again")
    for session in (first, again):
        for party, ledger in ledgers.items():
            session.members[party] = session.make(party, save=None, ledger=ledger)
    first.require_completes("without a store")
    with pytest.raises(Aborted, match="got 0 members"):
        again.run()


# --- bad dealings


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def spoil_text(client: Any, places: set[int], change: Callable[[bytes], bytes]) -> None:
    """Let a client seal something else than its shares and salts to the members at ``places``."""
    seal = client._seal
    client._seal = lambda draft, place, key, share: seal(
        draft, place, key, change(share) if place in places else share
    )


def spoil_sealed(client: Any, places: set[int]) -> None:
    """Let a client sign texts that the members at ``places`` can't open."""
    seal = client._seal

    def sealed_otherwise(draft: Any, place: int, key: bytes, share: bytes) -> bytes:
        sealed: bytes = seal(draft, place, key, share)
        return flip(sealed) if place in places else sealed

    client._seal = sealed_otherwise


def spoil_shares(client: Any, places: set[int], change: Callable[[bytes], bytes] = flip) -> None:
    """Let a client commit to other shares than it dealt."""
    deal = client._deal

    def dealt_otherwise(*arguments: Any) -> Any:
        dealt, salts = deal(*arguments)
        shares = tuple(change(s) if place in places else s for place, s in enumerate(dealt.shares))
        return replace(dealt, shares=shares), salts

    client._deal = dealt_otherwise


def above_the_prime(share: bytes) -> bytes:
    return b"\xff" * 4 + share[4:]


BAD_SHARES = {
    Lack.UNOPENED: spoil_sealed,
    Lack.UNCOMMITTED: lambda client, places: spoil_text(client, places, flip),
    Lack.MALFORMED: lambda client, places: spoil_shares(client, places, above_the_prime),
    Lack.MISSES_PROOF: spoil_shares,
}


@pytest.mark.parametrize("lack", BAD_SHARES, ids=lambda lack: lack.name)
def test_a_bad_share_costs_the_members_that_got_it_and_names_both_sides(lack: Lack) -> None:
    session = begin()
    BAD_SHARES[lack](session.members["c5"], {5, 6})
    outcome = session.run()
    session.require_exact(outcome, "by the other members")
    both = "decryptor-6, decryptor-7 refused the key share of c5: the client is at fault, or the members are"
    assert [(f.sender, f.kind, f.detail) for f in outcome.faults] == [
        (party, FaultKind.UNOPENED_SHARE, both) for party in ("c5", "decryptor-6", "decryptor-7")
    ]
    for place in (5, 6):
        refuser = session.members[member(place)]
        assert [f.detail for f in refuser.faults] == [f"got a key share of c5 that {_SHOWN[lack]}"]
        assert refuser.finished
        assert not refuser._state.key
        assert not any(part.share for part in refuser._state.parts.values())


def test_more_bad_shares_than_members_may_be_corrupt_prove_the_client_at_fault() -> None:
    session = begin()
    spoil_shares(session.members["c5"], {4, 5, 6})
    with pytest.raises(Aborted, match="got 4 members with good key shares of all clients; 5 are needed"):
        session.run()
    assert session.faults == [("c5", Round.AGREEMENT, FaultKind.WRONG_DEALING)]


def test_a_seed_that_misses_the_proof_is_refused_too() -> None:
    session = begin()
    spoil_shares(session.members["c5"], {0})
    session.require_exact(session.run(), "by the other members")
    assert {party for party, _, _ in session.faults} == {"c5", "decryptor-1"}


def test_a_member_that_a_share_did_not_reach_says_so_and_the_others_go_on() -> None:
    session = begin()
    session.before_relay = lambda party, data: [] if party == "decryptor-3" else None
    outcome = session.run()
    session.require_exact(outcome, "by the other members")
    assert [(f.sender, f.detail) for f in outcome.faults] == [
        ("decryptor-3", "says that the key shares of 8 clients did not reach it")
    ]


def test_a_member_sees_shares_in_any_order_and_again() -> None:
    session, waiting = begin(), list[tuple[str, bytes]]()

    def before_relay(party: str, data: bytes) -> list[bytes]:
        waiting.append((party, data))
        return []

    session.before_relay = before_relay
    session.until(Round.INPUT)
    session.exchange(session.outbox or {})
    for party, data in [*reversed(waiting), *waiting]:
        assert session.members[party].receive(data) is None
    session.close()
    session.require_completes("with shares that came late")
    assert not any(session.members[party].faults for party in members(session))


# --- with Recount


@pytest.fixture
def recounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    """A session whose inputs wait in a file in ``tempfile.tempdir``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return begin(replace(SEVEN, recount=True))


def test_a_client_with_bad_shares_for_many_is_left_out_alone(recounted: Session, tmp_path: Path) -> None:
    spoil_shares(recounted.members["c5"], {4, 5, 6})
    recounted.require_sum_of(recounted.run(), set(IDS) - {"c5"})
    assert recounted.faults == [("c5", Round.RECOUNT, FaultKind.WRONG_DEALING)]
    assert not list(tmp_path.iterdir())


def test_clients_with_bad_shares_for_few_stay_and_those_members_are_given_up(recounted: Session) -> None:
    spoil_shares(recounted.members["c5"], {5})
    spoil_sealed(recounted.members["c6"], {6})
    recounted.require_exact(recounted.run(), "by the other members")
    assert {party for party, _, _ in recounted.faults} == {"c5", "c6", "decryptor-6", "decryptor-7"}


def test_a_member_that_says_it_holds_nothing_costs_no_client(recounted: Session) -> None:
    recounted.before_answer = lambda party, answer: (
        recounted.changed(answer, lambda message, data: (Held(b"\x02" * len(IDS)), data))
        if (party, recounted.round) == (member(3), Round.RECOUNT)
        else None
    )
    recounted.require_exact(recounted.run(), "by the other members")


@pytest.mark.parametrize("lacking", [b"", bytes(7), b"\x09" * 8], ids=["nothing", "short", "kinds"])
def test_a_malformed_recount_is_its_members_fault(recounted: Session, lacking: bytes) -> None:
    recounted.before_answer = lambda party, answer: (
        recounted.changed(answer, lambda message, data: (Held(lacking), data))
        if (party, recounted.round) == (member(3), Round.RECOUNT)
        else None
    )
    recounted.require_exact(recounted.run(), "by the other members")
    assert recounted.faults == [("decryptor-4", Round.RECOUNT, FaultKind.INVALID)]


def test_inputs_outlive_a_crash_and_a_lost_file_opens_nothing(recounted: Session, tmp_path: Path) -> None:
    recounted.until(Round.RECOUNT)
    state = recounted.stores[wire.SERVER].state
    recounted.restore_server(state)
    recounted.require_completes("after a crash")
    with pytest.raises(ConfigError, match="got a state whose inputs wait in "):
        recounted.restore_server(state)


def test_a_file_of_inputs_that_was_cut_short_aborts(recounted: Session, tmp_path: Path) -> None:
    recounted.until(Round.RECOUNT)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Aborted, match="the file of inputs was damaged"):
        recounted.run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [Round.INPUT, Round.RECOUNT])
def test_no_file_of_inputs_is_left_after_an_abort(recounted: Session, tmp_path: Path, name: str) -> None:
    parties = IDS[:6] if name == Round.INPUT else [member(place) for place in range(3)]
    recounted.silent = dict.fromkeys(parties, name)
    with pytest.raises(Aborted, match="nothing is opened"):
        recounted.run()
    assert not list(tmp_path.iterdir())


def test_as_few_clients_as_possible_are_left_out() -> None:
    good, all_bad, first, second = bytes(3), b"\x02" * 3, b"\x02\0\0", b"\0\x02\0"
    assert left_out([good, good, good], 2) == set()
    assert left_out([good, good, all_bad], 2) == set()
    assert left_out([good, first, second], 2) == {0}
    assert left_out([first, first, first], 2) == {0}
    assert left_out([good, first, all_bad], 3) == {0, 1, 2}


# --- sums of shares that lie


def add_to_answer(session: Session, **amounts: int) -> None:
    """Let members add a number to each column of their sums of shares."""

    def before_answer(party: str, answer: bytes) -> bytes | None:
        def change(message: wire.Message, payload: bytes) -> tuple[wire.Message, bytes]:
            numbers = np.frombuffer(payload, "<u4").astype(np.uint64) + np.uint64(amounts[party.replace("-", "_")])
            return message, (numbers % packed.PRIME).astype("<u4").tobytes()

        lies = session.round == Round.SUM_OF_KEYS and party.replace("-", "_") in amounts
        return session.changed(answer, change) if lies else None

    session.before_answer = before_answer


def test_members_that_lie_in_their_sums_are_outvoted_and_named() -> None:
    session = begin()
    add_to_answer(session, decryptor_2=1, decryptor_6=12345)
    session.require_exact(session.run(), "although two members lie")
    assert session.faults == [
        ("decryptor-2", Round.SUM_OF_KEYS, FaultKind.WRONG_SHARE),
        ("decryptor-6", Round.SUM_OF_KEYS, FaultKind.WRONG_SHARE),
    ]


def test_where_too_few_agree_nobody_is_named() -> None:
    session = begin(silent=dict.fromkeys([member(0), member(1)], Round.SUM_OF_KEYS))
    add_to_answer(session, decryptor_3=1)
    session.require_exact(session.run(), "although a member lies")
    (fault,) = (fault for fault in session.server.faults if fault.kind is FaultKind.WRONG_SHARE)
    assert (fault.sender, fault.detail) == (
        "committee",
        "the sums of decryptor-3 differ from those that open; too few agree to say who is wrong",
    )


def test_too_many_liars_abort_and_open_nothing() -> None:
    session = begin(silent=dict.fromkeys([member(0), member(1)], Round.SUM_OF_KEYS))
    add_to_answer(session, decryptor_3=1, decryptor_4=2, decryptor_5=3)
    with pytest.raises(Aborted, match="no 3 of the 5 sums of key shares open the sum"):
        session.run()


def test_a_ciphertext_under_another_key_than_the_dealt_one_aborts_and_names_nobody() -> None:
    session = begin()
    client = session.members["c5"]
    deal = client._deal
    client._deal = lambda draft, secret, public: deal(draft, bytes(32), public)
    with pytest.raises(Aborted, match="a client encrypted under another key than it dealt"):
        session.run()
    assert session.faults == []
    assert session.server.outcome is None


@pytest.mark.parametrize("payload", [b"", b"\xff" * 64], ids=["short", "above the prime"])
def test_a_malformed_sum_is_its_members_fault(payload: bytes) -> None:
    session = begin()

    def before_answer(party: str, answer: bytes) -> bytes | None:
        if (party, session.round) != (member(0), Round.SUM_OF_KEYS):
            return None
        return session.changed(
            answer, lambda message, data: (message, payload + data[len(payload) :] * bool(payload))
        )

    session.before_answer = before_answer
    session.require_exact(session.run(), "by the other members")
    assert ("decryptor-1", Round.SUM_OF_KEYS, FaultKind.INVALID) in session.faults


# --- agreement


def test_a_member_that_signs_something_else_is_left_out() -> None:
    session = begin()
    session.before_answer = lambda party, answer: (
        session.changed(answer, lambda message, data: (Agreed(bytes(32), b""), data))
        if (party, session.round) == (member(2), Round.AGREEMENT)
        else None
    )
    session.require_exact(session.run(), "by the other members")
    assert session.faults == [("decryptor-3", Round.AGREEMENT, FaultKind.INVALID)]


@pytest.mark.parametrize(
    "lacking", [b"", bytes(8), b"\x01" * 7, b"\x09" * 8], ids=["none", "zeros", "short", "kinds"]
)
def test_an_answer_that_neither_agrees_nor_says_why_is_refused(lacking: bytes) -> None:
    session = begin()
    session.before_answer = lambda party, answer: (
        session.changed(answer, lambda message, data: (Agreed(b"", lacking), data))
        if (party, session.round) == (member(2), Round.AGREEMENT)
        else None
    )
    session.require_exact(session.run(), "by the other members")
    assert session.faults == [("decryptor-3", Round.AGREEMENT, FaultKind.INVALID)]


def test_corrupt_agreements_do_not_void_the_honest_ones() -> None:
    session = begin()
    session.until(Round.SUM_OF_KEYS)
    release = Envelope.parse(session.outbox[member(0)], LIMIT)  # type: ignore[index]
    signed = release.open(Release)[0].agreed
    state = session.members[member(0)].to_bytes()
    foreign = session.seal(Agreed(bytes(32), b""), sender=member(6))
    for agreed, answers in (
        ([foreign, b"garbage", *signed[:5]], True),
        ([foreign, *signed[:4]], False),
        ([signed[0]] * 7, False),
        ([*signed, foreign], False),  # more than there are members
    ):
        honest = session.restore(member(0), state, save=MemoryStore())
        answer = honest.receive(session.seal(Release(agreed)))
        assert (answer is not None) == answers
        assert [f.kind for f in honest.faults] == [FaultKind.INVALID] * (not answers)


def test_a_member_holds_to_one_set_whatever_nonce_comes() -> None:
    first = begin()
    first.require_completes("undisturbed")
    again = begin(seed=b"again", ledgers={party: first.ledgers[party] for party in members(first)})
    with pytest.raises(Aborted, match="got 0 members"):
        again.run()
    assert "holds another agreement" in again.members[member(0)].faults[0].detail


def test_secrets_are_erased_as_soon_as_they_are_needed_no_more() -> None:
    session = begin()
    session.until(Round.AGREEMENT)
    holder = session.members[member(0)]
    seed = holder._state.seed
    assert PrivateKey(Kem.X25519, holder._state.key)
    session.until(Round.SUM_OF_KEYS)
    assert not holder._state.key
    assert holder._state.seed != seed
    session.run()
    assert not holder._state.seed
    assert not any(part.share for part in holder._state.parts.values())
    assert not session.server.context.state.answers


def test_a_member_past_its_first_answer_is_not_restored_without_a_ledger() -> None:
    session = begin()
    session.until(Round.INPUT)
    with pytest.raises(LocalProtocolError, match="got a committee member past its first answer without a ledger"):
        session.restore(member(0), session.members[member(0)].to_bytes(), save=None)


@pytest.mark.parametrize(
    "forged",
    [{"survivors": IDS[:7]}, {"dealings": {}}, {"total": b""}, {"lacking": {member(0): b"\x02"}}],
    ids=["counts another number of clients", "without dealings", "without its sum", "lacks of other clients"],
)
def test_a_server_whose_saved_parts_contradict_each_other_is_not_restored(forged: dict[str, Any]) -> None:
    """A sum of eight inputs that is taken for one of seven would decode to a wrong mean."""
    session = begin()
    session.until(Round.SUM_OF_KEYS)
    task, roster = session.task, session.parties.roster
    state = unpack_state(session.server.to_bytes(), OneShotServerState, task, "server", roster)
    task.restore_server(pack_state(state, task, "server", roster), roster=roster)
    for name, value in forged.items():
        setattr(state, name, value)
    with pytest.raises(ConfigError, match=r"got a (saved )?state .*leave this session out"):
        task.restore_server(pack_state(state, task, "server", roster), roster=roster)


def test_a_client_that_is_rolled_back_deals_anew() -> None:
    """Two challenges on the masks of one dealing would show equations of the key."""
    session = begin()
    session.until(Round.INPUT)
    states = [session.members["c1"].to_bytes(), session.ask("c1")]
    dealings = [opened_dealing(states[1])]
    session.restore("c1", states[0], save=MemoryStore(session.stores["c1"].ledger))
    dealings.append(opened_dealing(session.ask("c1")))
    assert dealings[0][1].commitments != dealings[1][1].commitments
    assert dealings[0][0].proof != dealings[1][0].proof
    assert dealings[0][2] == dealings[1][2]  # the ciphertext is the same


def opened_dealing(answer: bytes) -> tuple[Dealing, KeyedInput, bytes]:
    message, payload = Envelope.parse(answer, LIMIT).open(KeyedInput)
    return Envelope.parse(message.dealing, LIMIT).open(Dealing)[0], message, bytes(payload)


# --- what a client refuses


def keys_of(session: Session) -> list[bytes]:
    (request,) = {session.outbox[party] for party in IDS}  # type: ignore[index]
    return Envelope.parse(request, LIMIT).open(KeyedProposal)[0].keys


BAD_KEYS: dict[str, Callable[[Session, list[bytes]], list[bytes]]] = {
    "too few": lambda session, keys: keys[:4],
    "one twice": lambda session, keys: [*keys[:4], keys[3]],
    "out of order": lambda session, keys: keys[::-1],
    "too many": lambda session, keys: keys + keys,
    "unsigned": lambda session, keys: [keys[0], flip(keys[1]), *keys[2:]],
    "a client's": lambda session, keys: [session.seal(SessionKey(bytes(31) + b"\x09"), sender="c7"), *keys],
    "of small order": lambda session, keys: [session.seal(SessionKey(bytes(32)), sender=member(0)), *keys[1:]],
    "garbage": lambda session, keys: [b"garbage", *keys[1:]],
}


@pytest.mark.parametrize("change", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_client_refuses_session_keys_that_no_committee_has(
    change: Callable[[Session, list[bytes]], list[bytes]],
) -> None:
    session = begin()
    session.until(Round.INPUT)
    proposal = session.server.context.proposal()
    lie = KeyedProposal(proposal.cohort, proposal.session, proposal.nonce, change(session, keys_of(session)))
    before = session.members["c1"].to_bytes()
    with pytest.raises(RemoteProtocolError):
        session.members["c1"].receive(session.seal(lie, session=b""))
    assert session.members["c1"].to_bytes() == before
    session.require_completes("with the true keys")


def test_the_server_takes_no_session_key_that_clients_would_refuse() -> None:
    session = begin()

    def before_answer(party: str, answer: bytes) -> list[bytes] | None:
        if (party, session.round) != (member(3), Round.SESSION_KEY):
            return None
        return [session.seal(SessionKey(key), sender=party) for key in (bytes(32), b"")]

    session.before_answer = before_answer
    session.require_exact(session.run(), "by the other members")
    assert session.faults == [("decryptor-4", Round.SESSION_KEY, FaultKind.INVALID)] * 2


# --- what the server refuses of an input


def changed_input(session: Session, answer: bytes, **fields: Any) -> bytes:
    def change(message: KeyedInput, payload: bytes) -> tuple[wire.Message, bytes]:
        payload = fields.pop("payload", payload)
        whole = {"dealing": message.dealing, "commitments": message.commitments, "sealed": message.sealed}
        return KeyedInput(**whole | fields), payload

    return session.changed(answer, change)


def bad_inputs(session: Session, answer: bytes, others: bytes) -> dict[str, bytes]:
    dealing, message, payload = opened_dealing(answer)
    resigned = session.seal(Dealing(dealing.root, dealing.proof[:-4] + b"\xff" * 4), sender="c5")
    return {
        "another client's dealing": changed_input(session, answer, dealing=opened_dealing(others)[1].dealing),
        "a share too few": changed_input(session, answer, sealed=message.sealed[1:]),
        "a long share": changed_input(session, answer, sealed=[message.sealed[0] + b"\0", *message.sealed[1:]]),
        "another share": changed_input(session, answer, sealed=[flip(message.sealed[0]), *message.sealed[1:]]),
        "another commitment": changed_input(session, answer, commitments=flip(message.commitments)),
        "a proof above the prime": changed_input(session, answer, dealing=resigned),
        "a residue above its prime": changed_input(session, answer, payload=b"\xff" * len(payload)),
        "a short vector": changed_input(session, answer, payload=payload[:-1]),
        "no dealing": changed_input(session, answer, dealing=b""),
    }


def test_the_server_checks_an_input_whole_before_it_adds_any_of_it() -> None:
    session, others = begin(), list[bytes]()

    def before_answer(party: str, answer: bytes) -> None:
        others.append(answer)
        if party == "c5":
            for what, data in bad_inputs(session, answer, next(o for o in others if b"c1" in o[:90])).items():
                session.refused_by_server(party, data, what)

    session.before_answer = before_answer
    session.require_completes("with the true input after all")


# --- what a member refuses of a part


def test_a_member_takes_only_the_part_that_a_client_signed_for_it() -> None:
    session, seen = begin(), dict[tuple[str, str], KeyShare]()

    def before_relay(party: str, data: bytes) -> None:
        part, _ = Envelope.parse(data, LIMIT).open(KeyShare)
        client = Envelope.parse(part.dealing, LIMIT).sender
        seen[client, party] = part
        if len(seen) % 7:
            return
        others = [seen[client, other] for other in members(session)[:6]]
        earlier = [seen[c, party].dealing for c, p in seen if p == party and c != client]
        wrong = {
            "another member's part": others[0],
            "another's text": KeyShare(part.dealing, part.commitment, others[3].sealed, part.path),
            "another commitment": KeyShare(part.dealing, flip(part.commitment), part.sealed, part.path),
            "a short commitment": KeyShare(part.dealing, part.commitment[:-1], part.sealed, part.path),
            "no path": KeyShare(part.dealing, part.commitment, part.sealed, b""),
            "a stranger's dealing": KeyShare(
                session.seal(Dealing(bytes(32), bytes(60)), sender=member(0)),
                part.commitment,
                part.sealed,
                part.path,
            ),
            "a forged dealing": KeyShare(flip(part.dealing), part.commitment, part.sealed, part.path),
        }
        if earlier:
            wrong["a part under an earlier dealing"] = KeyShare(earlier[0], part.commitment, part.sealed, part.path)
        for what, lie in wrong.items():
            session.refused_by(party, session.seal(lie), what)

    session.before_relay = before_relay
    session.require_completes("after parts that nobody signed")


def test_a_part_of_a_client_outside_the_cohort_and_a_second_one_are_refused() -> None:
    session = Session(replace(parties(SEVEN), cohort=IDS[:7]), task=make_task(), session=b"round 1")
    session.until(Round.INPUT)
    answer = session.ask("c1")
    part = session.server._parts(  # type: ignore[attr-defined]
        Envelope.parse(answer, LIMIT), *Envelope.parse(answer, LIMIT).open(KeyedInput)
    )[member(0)][0]
    stranger = session.seal(Dealing(bytes(32), bytes(60)), sender="c8")
    for dealing, kind in ((stranger, FaultKind.UNKNOWN_SENDER), (None, None), (part.dealing + b"", None)):
        lie = KeyShare(dealing or part.dealing, part.commitment, part.sealed, part.path)
        assert session.members[member(0)].receive(session.seal(lie)) is None
        if kind is not None:
            assert session.members[member(0)].faults[-1].kind is kind
    second = session.seal(Dealing(bytes(32), bytes(60)), sender="c1")
    session.refused_by(member(0), session.seal(KeyShare(second, bytes(32), b"", b"")), "a second dealing")
    assert session.members[member(0)].faults[-1].kind is FaultKind.DUPLICATE


def test_a_member_leaves_for_a_set_that_is_too_small() -> None:
    session = begin()
    session.until(Round.AGREEMENT)
    holder = session.members[member(0)]
    assert holder.receive(session.seal(Collect(b"\x03"))) is None
    assert holder.finished
    assert "got a set of 2 clients; 3 are needed" in holder.faults[0].detail


# --- parameters


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"members": 3, "corrupt_members": 1}, "expected at least members=4"),
        ({"members": 4, "corrupt_members": 2}, "expected at least members=5"),
        ({"members": 16, "corrupt_members": 1}, "expected at least corrupt_members=3"),
        ({"members": 1}, "expected at least members=5$"),
        ({"members": 128, "corrupt_members": 126}, "expected at most corrupt_members=125"),
        ({"members": 7, "corrupt_members": 0}, "got corrupt_members=0; expected a number of members, at least 1"),
        ({"members": 7, "corrupt_members": 7}, "expected at least members=10 or at most corrupt_members=4"),
        ({"members": 129, "corrupt_members": 30}, "up to 128"),
        ({"members": 7.5}, "got members=7.5"),
        ({"corruption": 1.0}, "got corruption=1.0"),
        ({"threat_model": "semi-malicious"}, "expected 'malicious' or 'semi-honest'"),
        ({"kem": "RSA"}, "got kem='RSA'"),
    ],
)
def test_parameters_that_can_not_work_are_refused_with_the_least_that_would(arguments: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OneShot(**arguments)


@pytest.mark.parametrize(
    ("members", "corrupt", "per_column", "threshold", "quorum"),
    [
        (4, 1, 1, 2, 3),
        (5, 2, 1, 3, 4),
        (7, 1, 4, 5, 5),
        (7, 2, 1, 3, 5),
        (10, 2, 4, 6, 7),
        (16, 3, 7, 10, 10),
        (31, 6, 13, 19, 19),
        (64, 12, 28, 40, 39),
    ],
)
def test_committees_of_the_documents(
    members: int, corrupt: int, per_column: int, threshold: int, quorum: int
) -> None:
    protocol = OneShot(members=members, corrupt_members=corrupt)
    committee = protocol.committee
    assert (committee.per_column, committee.threshold, protocol.quorum) == (per_column, threshold, quorum)
    assert 2 * protocol.quorum - members > corrupt  # two quorums share an honest member


def test_tasks_that_can_not_be_safe_or_exact_are_refused() -> None:
    with pytest.raises(ConfigError, match="got max_clients=16777216; OneShot adds up keys of at most 16777215"):
        make_task(max_clients=1 << 24)
    with pytest.raises(ConfigError, match="expected at least 3"):
        make_task(min_survivors=2)
    encoding = Integers(((2, 1 << 61, None),))
    with pytest.raises(ConfigError, match=r"got sums of up to 6\d bits"):
        make_task(encoding=encoding, layout=encoding.layout)
    task, four = make_task(), parties(FOUR)
    with pytest.raises(ConfigError, match="got a roster of 4 decryptors; the task has members=7"):
        task.server(IDS, roster=four.roster, session=b"")
    with pytest.raises(ConfigError, match="got no roster; OneShot needs one"):
        task.server(IDS, session=b"")


def test_the_description_says_who_must_collude_and_when_another_protocol_is_cheaper() -> None:
    small = make_task(protocol=OneShot()).describe()
    assert "the server and 3 of 7 committee members" in small
    assert "key shares outweigh the vector" in small
    large = make_task(protocol=OneShot(), layout=secagg.Layout.of(np.zeros(200_000)))
    assert "outweigh" not in large.describe()
    assert large.protocol.cost(large).post_quantum
    assert not make_task().protocol.cost(make_task()).post_quantum


@pytest.mark.parametrize(
    ("clients", "most"), [(100, 3.5), (10_000, 4.3)], ids=["a hundred clients", "ten thousand"]
)
def test_bytes_of_an_upload_of_a_million_coordinates(clients: int, most: float) -> None:
    task = make_task(
        protocol=OneShot(members=16, corrupt_members=3),
        layout=secagg.Layout.of(np.zeros(1_000_000, np.float32)),
        max_clients=clients,
        min_survivors=clients * 4 // 5,
    )
    assert sum(task.protocol.cost(task).up.values()) <= most * 1_000_000

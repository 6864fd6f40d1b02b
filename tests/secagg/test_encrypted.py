"""Paillier, CKKS and BFV as protocols: exact sums, refusals with reasons, and what the decryptor does once."""

import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import secagg
from he import paillier
from secagg import wire
from secagg.errors import Aborted, ConfigError, EncodingError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole, Roster, enrol
from secagg.protocols.base import key_pairs
from secagg.protocols.encrypted.client import EncryptedClient
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import (
    Ciphertexts,
    Commitment,
    EncryptedSum,
    KeyedProposal,
    SessionKey,
    commitment,
)
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier
from secagg.simulation import enrol_for
from secagg.table import contribution_round
from secagg.testing import (
    CHECKS,
    Integers,
    Parties,
    RequirementError,
    Session,
    check_protocol,
    parties_for,
    rng_for_tests,
)
from secagg.wire import Envelope

PROTOCOLS: dict[str, Encrypted] = {
    "Paillier": Paillier(bits=2048),
    "Paillier/run-key": Paillier(bits=2048, key="run"),
    "BFV": BFV(),
    "BFV/clients": BFV(holder="clients"),
    "BFV/uncommitted": BFV(commit=False),
    "CKKS": CKKS(),
    "CKKS/clients": CKKS(holder="clients"),
    "BFV/seal": BFV(engine="seal"),
    "CKKS/seal/clients": CKKS(holder="clients", engine="seal"),
}
COMMITTED = {name: protocol for name, protocol in PROTOCOLS.items() if protocol.commit}
every = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
TIMELY = {name: protocol for name, protocol in PROTOCOLS.items() if name != "Paillier/run-key"}
timely = pytest.mark.parametrize("protocol", TIMELY.values(), ids=TIMELY)
LIMIT = 1 << 24


def make_task(protocol: Any, **changes: Any) -> secagg.Task:
    fields: dict[str, Any] = {
        "protocol": protocol,
        "layout": secagg.Layout.of({"w": np.zeros(5)}),
        "encoding": secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        "max_clients": 4,
        "min_survivors": 3,
    }
    return secagg.Task(**(fields | changes))


@contextmanager
def keys_found_once() -> Iterator[None]:
    """Meanwhile a Paillier key, which takes longer to find than a session takes, is found once for each seed."""
    find = lru_cache(lambda bits, textbook, seed: generate(bits, textbook=textbook, rng=rng_for_tests(seed)))
    generate = paillier.generate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paillier, "generate", lambda bits, *, textbook, rng: find(bits, textbook, rng(32)))
        patch.setattr(paillier.PublicKey, "from_bytes", lru_cache(paillier.PublicKey.from_bytes))
        yield


@timely
def test_check_protocol(protocol: Encrypted) -> None:
    with keys_found_once():
        assert check_protocol(protocol) == list(CHECKS)


@pytest.mark.parametrize("what", ["ciphertexts", "key"])
def test_control_randomness_from_no_seed_is_not_repeated(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that restores every role before every message sees it, of a client and of the decryptor."""
    generate = paillier.Scheme.generate
    if what == "key":
        monkeypatch.setattr(paillier.Scheme, "generate", lambda scheme, rng: generate(scheme))
    else:
        monkeypatch.setattr(EncryptedClient, "_randomness", lambda *_: os.urandom)
    with pytest.raises(RequirementError, match="the same bytes in every"):
        CHECKS["restored_bit_for_bit"](parties(PROTOCOLS["Paillier"], 5))


@timely
def test_a_hundred_thousand_coordinates(protocol: Encrypted) -> None:
    rng = np.random.default_rng(7)
    updates = [rng.uniform(-1, 1, 100_000).astype(np.float32) for _ in range(3)]
    task = make_task(protocol, layout=secagg.Layout.of(updates[0]), max_clients=256)
    outcome = secagg.simulate(task, updates)
    np.testing.assert_array_equal(outcome.sum, secagg.simulate(replace(task, protocol=secagg.Clear()), updates).sum)
    most = {"Paillier": 6.2, "BFV": 16, "BFV/clients": 8, "CKKS": 31, "CKKS/clients": 16}
    scheme = protocol.name.removesuffix("/run-key").removesuffix("/uncommitted").replace("/seal", "")
    assert outcome.bytes_up["c1"]["Input"] <= most[scheme] * 100_000


@pytest.mark.parametrize("engine", ["ring", "seal"])
@pytest.mark.parametrize("kind", [BFV, CKKS])
@given(
    bits=st.integers(8, 32),
    max_clients=st.one_of(st.integers(4, 8), st.integers(4, 4096)),
    heaviest=st.one_of(st.none(), st.integers(1, 2**20)),
    holder=st.sampled_from(["decryptor", "clients"]),
    extremes=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=6)
def test_sums_are_those_in_the_clear_bit_for_bit(
    kind: Any,
    engine: Any,
    bits: int,
    max_clients: int,
    heaviest: int | None,
    holder: Any,
    extremes: bool,
    seed: int,
) -> None:
    """Coordinates of 8 to 32 bits, weights and the count of clipped ones; silent clients too."""
    rng = np.random.default_rng(seed)
    if kind is CKKS and max_clients > 16:
        bits = min(bits, 24)  # as protocols.md says
    drawn = rng.choice([-1.0, 1.0], (5, 40)) if extremes else rng.uniform(-1.2, 1.2, (5, 40))
    updates = [{"w": one[:30].reshape(5, 6), "b": one[30:]} for one in drawn[: min(5, max_clients)]]
    weights = None if heaviest is None else [int(w) for w in rng.integers(1, heaviest + 1, len(updates))]
    task = make_task(
        kind(holder=holder, engine=engine),
        layout=secagg.Layout.of(updates[0]),
        encoding=secagg.FixedPoint(clip=1.0, bits=bits, rounding="nearest"),
        max_clients=max_clients,
        max_weight=heaviest,
    )
    silent = {"c1": secagg.Round.INPUT}
    in_the_clear = secagg.simulate(
        replace(task, protocol=secagg.Clear()), updates, weights=weights, dropouts=silent
    )
    outcome = secagg.simulate(task, updates, weights=weights, dropouts=silent)
    assert outcome.survivors == in_the_clear.survivors
    for one, other in ((outcome.sum, in_the_clear.sum), (outcome.mean, in_the_clear.mean)):
        assert {name: leaf.tobytes() for name, leaf in one.items()} == {
            name: leaf.tobytes() for name, leaf in other.items()
        }
    assert (outcome.total_weight, outcome.clipped) == (in_the_clear.total_weight, in_the_clear.clipped)


@pytest.mark.parametrize("protocol", [BFV(), BFV(engine="seal"), CKKS(), CKKS(engine="seal")], ids=lambda p: p.name)
@given(data=st.data())
@settings(max_examples=3)
def test_sums_of_segments_are_those_in_the_clear_bit_for_bit(protocol: Encrypted, data: st.DataObject) -> None:
    """Segments of several bounds, one of them of interest modulo something only."""
    bits = data.draw(st.integers(8, 20))
    shapes = ((30, 2**bits - 2, None), (3, data.draw(st.integers(1, 2**40)), None), (4, 2**bits - 1, 2**bits))
    encoding = Integers(shapes)
    updates = [
        encoding.halves([data.draw(st.integers(0, bound)) for length, bound, _ in shapes for _ in range(length)])
        for _ in range(4)
    ]
    task = make_task(protocol, layout=encoding.layout, encoding=encoding)
    sums = [
        secagg.simulate(replace(task, protocol=one), [{"halves": update} for update in updates]).sum["halves"]
        for one in (protocol, secagg.Clear())
    ]
    assert sums[0].tobytes() == sums[1].tobytes()


@given(data=st.data())
@settings(max_examples=60)
def test_digits_join_to_the_sum(data: st.DataObject) -> None:
    """Segments of any bounds, in any order, some of them of interest modulo something only."""
    shapes = data.draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, 2**30), st.just(None)), min_size=1, max_size=4)
    )
    modular = data.draw(st.booleans())
    if modular:
        shapes.append((3, 2**9 - 1, 2**9))
    encoding = Integers(tuple(shapes))
    task = secagg.Task(
        protocol=secagg.Clear(), layout=encoding.layout, encoding=encoding, max_clients=5, min_survivors=2
    )
    digits, totals, sums = Digits(task), None, 0
    for _ in range(5):
        terms = [
            np.array(data.draw(st.lists(st.integers(0, bound), min_size=length, max_size=length)), np.uint64)
            for length, bound, _ in shapes
        ]
        slots = digits.split(terms)
        assert slots.size == digits.length
        assert 0 <= slots.min() <= slots.max() <= digits.bound
        sums = sums + slots.astype(np.int64)
        totals = terms if totals is None else [a + b for a, b in zip(totals, terms, strict=True)]
    joined = digits.join(sums, 5)
    assert totals is not None
    for part, total, (_, _, modulus) in zip(joined, totals, shapes, strict=True):
        expected = total if modulus is None else total % np.uint64(modulus)
        np.testing.assert_array_equal(part.astype(np.uint64), expected)


@pytest.mark.parametrize(
    "sums", [[21, 0, 0, 0], [0, 0, 21, 18], [0, 0, 0, 19], [0, 0, 0, pow(11, -1, 2**64) * 1 % 2**64]]
)
def test_digits_join_to_nothing_that_so_many_terms_cant_be(sums: list[int]) -> None:
    """Terms up to 10, two slots of them, and one up to 100 in two digits of base 11; two clients.

    The last is one that 64 bits would wrap into range.
    """
    encoding = Integers(((2, 10, None), (1, 100, None)))
    task = secagg.Task(
        protocol=secagg.Clear(), layout=encoding.layout, encoding=encoding, max_clients=5, min_survivors=2
    )
    digits = Digits(task)
    assert [part.tolist() for part in digits.join(np.array([20, 0, 2, 18]), 2)] == [[20, 0], [200]]
    with pytest.raises(EncodingError, match="got a sum of 2 terms above 2 x"):
        digits.join(np.array(sums), 2)


def test_a_long_count_widens_no_slot() -> None:
    """The count of clipped coordinates needs more bits than a coordinate, and takes digits instead."""
    task = make_task(BFV(), layout=secagg.Layout.of(np.zeros(200_000)), max_weight=1 << 20)
    digits = Digits(task)
    assert digits.bound == 2 * (2**15 - 1)
    assert [segment.bound > digits.bound for segment in task.segments].count(True) == 2
    assert digits.length == 200_000 + 2 + 2


def test_slots_are_as_narrow_as_a_coordinate_and_a_term_above_the_bound_stays_above_it() -> None:
    encoding = Integers(((1000, 65534, None), (1, 2**40, None)))
    task = secagg.Task(
        protocol=secagg.Clear(), layout=encoding.layout, encoding=encoding, max_clients=5, min_survivors=2
    )
    digits, terms = Digits(task), [np.full(1000, 65534, np.uint32), np.array([2**40], np.uint64)]
    slots = digits.split(terms)
    assert (slots.dtype, slots.max()) == (np.uint16, 65534)
    terms[1][:] = 65535**2 * 2**32  # its last digit, 2^32, would be zero in 32 bits
    assert digits.split(terms).max() == 2**32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CKKS(threat_model="malicious"), "a lying server can have a single client's ciphertext"),
        (lambda: BFV(threat_model="malicious"), "use SecAgg\\(\\) against it"),
        (lambda: Paillier(threat_model="semi-malicious"), "expected 'semi-honest'"),
        (lambda: BFV(holder="server"), "expected 'decryptor' or 'clients'"),
        (lambda: Paillier(bits=[3072]), "expected an integer, and True or False"),  # type: ignore[arg-type]
        (lambda: Paillier(textbook="yes"), "expected an integer, and True or False"),  # type: ignore[arg-type]
        (lambda: Paillier(key="day"), "expected 'session' or 'run'"),  # type: ignore[arg-type]
        (lambda: CKKS(commit="no"), "expected True, or False for no round Commit"),  # type: ignore[arg-type]
        (lambda: make_task(Paillier(bits=1024)), "2048"),
        (lambda: make_task(BFV(), min_survivors=2), "expected at least 3"),
        (
            lambda: make_task(
                CKKS(), encoding=secagg.FixedPoint(clip=1.0, bits=32), max_clients=1 << 24, min_survivors=1 << 23
            ),
            "CKKS can't carry this task",
        ),
        (lambda: make_task(BFV()).server(["c1", "c2", "c3"], session=b"s"), "got no roster"),
    ],
)
def test_refused_with_the_reason(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.parametrize(
    ("protocol", "package"),
    [
        (Paillier(bits=2048), "gmpy2"),
        (BFV(engine="seal"), "tenseal"),
        (CKKS(holder="clients", engine="seal"), "tenseal"),
        (CKKS(engine="seal"), "zstandard"),
    ],
)
def test_a_missing_package_shows_when_the_task_is_made(
    protocol: Encrypted, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = (
        rf"the package {package} is missing; .* needs it: pip install 'secagg\[he\]', or pip install .*{package}"
    )
    with pytest.raises(ConfigError, match=message) as refused:
        make_task(protocol)
    assert isinstance(refused.value.__cause__, ImportError)  # what makes the demo leave it out


def test_the_ring_needs_no_package_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tenseal", "zstandard", "gmpy2", "phe"):
        monkeypatch.setitem(sys.modules, package, None)
    for protocol in (BFV(), CKKS(), CKKS(holder="clients")):
        session = begin(protocol)
        assert session.run().survivors


DEC = "decryptor-1"


@cache
def parties(protocol: Encrypted, clients: int) -> Parties:
    return parties_for(protocol, clients)


def begin(
    protocol: Encrypted, *, updates: Mapping[str, Any] | None = None, task: secagg.Task | None = None, **how: Any
) -> Session:
    """A session of all clients of the task, by default four, and a decryptor."""
    task = task or make_task(protocol)
    session = Session(parties(protocol, task.max_clients), task=task, contribute=updates is None, **how)
    for party, update in (updates or {}).items():
        session.updates[party] = {"w": update}
        session.contribute(party)
    return session


@every
def test_when_a_session_is_over_the_decryptor_has_no_secret(protocol: Encrypted) -> None:
    session = begin(protocol)
    session.run()
    assert all(member.finished for member in session.members.values())
    assert session.members[DEC]._state.secret == b""


@every
@pytest.mark.parametrize("damage", ["short", "long", "empty", "digest", "ones"])
def test_a_hostile_ciphertext_costs_its_sender_only(protocol: Encrypted, damage: str) -> None:
    """Whether it committed to those very bytes or not."""
    session = begin(protocol)
    outbox = session.until(contribution_round(protocol))
    session.exchange({party: outbox[party] for party in session.parties.cohort[:3]})
    answer = Envelope.parse(session.members["c4"].receive(outbox["c4"]), LIMIT)
    honest = session.members["c4"]._state.ciphertexts if protocol.commit else bytes(answer.open(Ciphertexts)[1])
    payload = {
        "short": honest[:-1],
        "long": honest + b"\0",
        "empty": b"",
        "digest": bytes([honest[0] ^ 1]) + honest[1:],
        "ones": honest[:32] + b"\xff" * (len(honest) - 32),
    }[damage]
    if protocol.commit:
        digest = commitment(session.server.context.state.session_id, "c4", payload)
        session.server.receive("c4", session.seal(Commitment(digest), b"", "c4"))
        outbox = session.close()
        session.exchange({party: outbox[party] for party in session.parties.cohort[:3]})
    before = session.server._adder.to_bytes()
    session.server.receive("c4", session.seal(Ciphertexts(), payload, "c4"))
    assert session.server._adder.to_bytes() == before
    assert [(fault.sender, fault.kind) for fault in session.server.faults] == [("c4", FaultKind.MALFORMED)]
    session.close()
    session.require_sum_of(session.run(), ("c1", "c2", "c3"))


def opens_nothing_again(session: Session) -> None:
    """The same decryptor in a second session of the name, whose clients forgot the first."""
    second = begin(session.task.protocol, seed=b"again", ledgers={DEC: session.ledgers[DEC]})
    assert second.members[DEC].receive(second.until(secagg.Round.OPENING)[DEC]) is None
    assert "holds another" in second.members[DEC].faults[-1].detail


@every
def test_the_decryptor_opens_once(protocol: Encrypted) -> None:
    """A second sum of a session of the same name is refused, by another role of the same party too."""
    session = begin(protocol)
    outbox = session.until(secagg.Round.OPENING)
    assert session.members[DEC].receive(outbox[DEC]) is not None
    sealed, payload = Envelope.parse(outbox[DEC], LIMIT).open(EncryptedSum)
    again = session.members[DEC].receive(session.seal(EncryptedSum(b"\x07"), bytes(payload)))
    assert again is None
    assert sealed.survivors == b"\x0f"
    opens_nothing_again(session)


@every
def test_a_decryptor_without_a_ledger_is_not_restored_past_its_first_answer(protocol: Encrypted) -> None:
    """Nothing would hold it to one sum."""
    session = begin(protocol)
    session.until(secagg.Round.OPENING)
    state = session.members[DEC].to_bytes()
    with pytest.raises(LocalProtocolError, match="without a ledger"):
        session.restore(DEC, state, save=None)
    again = session.restore(DEC, state)
    assert not again.finished


@every
def test_a_client_that_has_sent_its_ciphertexts_keeps_no_update(protocol: Encrypted) -> None:
    """A client that has committed to them does not either."""
    session = begin(protocol)
    outbox = session.until(contribution_round(protocol))
    client = session.members["c1"]
    assert client._state.contribution
    if protocol.commit:
        session.exchange(outbox)
        assert client._state.ciphertexts
        assert (client._state.contribution, client.finished) == ([], False)
        outbox = session.close()
    client.receive(outbox["c1"])
    assert (client._state.contribution, client._state.seed, client._state.ciphertexts) == ([], b"", b"")


@every
def test_the_decryptor_refuses_too_few(protocol: Encrypted) -> None:
    session = begin(protocol)
    _, payload = Envelope.parse(session.until(secagg.Round.OPENING)[DEC], LIMIT).open(EncryptedSum)
    assert session.members[DEC].receive(session.seal(EncryptedSum(b"\x03"), bytes(payload))) is None
    assert "over 2 clients; 3 are needed" in session.members[DEC].faults[-1].detail
    assert session.members[DEC].finished


@every
def test_the_decryptor_opens_no_impossible_sum(protocol: Encrypted) -> None:
    """More clients in the sum than are stated; nothing of it is shown, and the session is over for it."""
    session = begin(protocol, updates={f"c{number}": np.full(5, 1.0) for number in range(1, 5)})
    _, payload = Envelope.parse(session.until(secagg.Round.OPENING)[DEC], LIMIT).open(EncryptedSum)
    assert session.members[DEC].receive(session.seal(EncryptedSum(b"\x07"), bytes(payload))) is None
    assert "honest clients cannot have this sum" in session.members[DEC].faults[-1].detail
    assert session.members[DEC].finished
    opens_nothing_again(session)


def test_the_decryptor_of_paillier_uses_several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    session = begin(Paillier(bits=2048))
    outbox = session.until(secagg.Round.OPENING)
    passed: list[Any] = []
    opened = paillier.VectorPrivateKey.open

    def watched(*arguments: Any) -> Any:
        passed.extend(arguments[4:])
        return opened(*arguments)

    monkeypatch.setattr(paillier.VectorPrivateKey, "open", watched)
    session.exchange(outbox)
    assert isinstance(passed[0], Executor)


@every
def test_a_malformed_sum_is_refused_and_the_right_one_still_opens(protocol: Encrypted) -> None:
    session = begin(protocol)
    outbox = session.until(secagg.Round.OPENING)
    _, payload = Envelope.parse(outbox[DEC], LIMIT).open(EncryptedSum)
    assert session.members[DEC].receive(session.seal(EncryptedSum(b"\x0f"), bytes(payload)[:-1])) is None
    session.require_exact(session.run(), "after a malformed sum")


@every
@pytest.mark.parametrize("what", ["sum", "key"])
def test_a_servers_state_without_a_key_or_sum_is_refused(protocol: Encrypted, what: str) -> None:
    """Such as another version wrote: its checksum is right."""
    session = begin(protocol)
    session.until(secagg.Round.OPENING)
    server = session.server
    again = session.task.restore_server(server.to_bytes(), roster=session.parties.roster)
    assert again._adder.to_bytes() == server._adder.to_bytes()
    if what == "sum":
        server._adder.to_bytes = lambda: bytes(64)
    elif protocol.shared_key:
        server.context.state.signed_key = b"none"
    else:
        server.context.state.signed_key = session.seal(SessionKey(bytes(256)), sender=DEC)
    with pytest.raises(ConfigError, match="with a damaged session key or sum"):
        session.task.restore_server(server.to_bytes(), roster=session.parties.roster)


@every
def test_a_silent_decryptor_is_an_abort(protocol: Encrypted) -> None:
    session = begin(protocol)
    session.until(secagg.Round.OPENING)
    with pytest.raises(Aborted, match="answers of the decryptor"):
        session.close()


@every
@pytest.mark.parametrize("lie", ["unsigned", "session", "client", "kind"])
def test_clients_take_the_decryptors_key_only(protocol: Encrypted, lie: str) -> None:
    session = begin(protocol)
    proposal, _ = Envelope.parse(session.until(protocol.phases[1].round)["c1"], LIMIT).open(KeyedProposal)
    shown, _ = Envelope.parse(proposal.key, LIMIT).open(SessionKey)
    message: wire.Message = Ciphertexts() if lie == "kind" else SessionKey(shown.key)
    stranger = enrol(["x"])[0]["x"] if lie == "unsigned" else None
    session_id = bytes(32) if lie == "session" else None
    forged = session.seal(message, b"", "c2" if lie == "client" else DEC, session=session_id, identity=stranger)
    asked = session.seal(replaced_key(proposal, forged), session=b"")
    with pytest.raises(RemoteProtocolError):
        session.members["c1"].receive(asked)


def replaced_key(proposal: KeyedProposal, key: bytes) -> KeyedProposal:
    return KeyedProposal(proposal.cohort, proposal.session, proposal.nonce, key)


def test_a_key_that_the_roster_doesnt_pin_is_refused() -> None:
    session = begin(PROTOCOLS["Paillier/run-key"])
    pairs = key_pairs(PROTOCOLS["Paillier/run-key"], {"x": PartyRole.DECRYPTOR})
    with pytest.raises(ConfigError, match="not the one that the roster pins"):
        session.make(DEC, key=pairs["x"][0])
    with pytest.raises(ConfigError, match="needs key="):
        session.make(DEC, key=None)


@pytest.mark.parametrize("name", ["Paillier/run-key", "BFV/clients"])
def test_a_key_that_is_signed_and_not_pinned_is_refused_by_server_and_clients(name: str) -> None:
    """Whoever has the decryptor's identity, and not its key of the run, can't bring in another."""
    protocol = PROTOCOLS[name]
    session = begin(protocol)
    requests = session.server.start()
    private, pinned = key_pairs(protocol, {"x": PartyRole.DECRYPTOR})["x"]
    other = pinned if protocol.shared_key else protocol.scheme(session.task).load_secret(private).public.to_bytes()
    forged = session.seal(SessionKey(other), sender=DEC)
    session.server.receive(DEC, forged)
    (fault,) = session.server.faults
    assert (fault.sender, fault.kind) == (DEC, FaultKind.INVALID)
    assert "that differs from the key in the roster" in fault.detail
    session.exchange(requests)
    proposal, _ = Envelope.parse(session.close()["c1"], LIMIT).open(KeyedProposal)
    asked = session.seal(replaced_key(proposal, forged), session=b"")
    with pytest.raises(RemoteProtocolError, match="that differs from the key in the roster"):
        session.members["c1"].receive(asked)


def test_rosters_that_will_not_do() -> None:
    session = begin(PROTOCOLS["Paillier/run-key"])
    assert session.parties.roster is not None
    listed = session.parties.roster[DEC]
    others = [party for party in session.parties.roster.values() if party.id != DEC]
    more = enrol(["d2"], PartyRole.DECRYPTOR, encryption_keys={"d2": bytes(32)})[1].values()
    for parties, reason in (
        ([], "a roster of 0 decryptors"),
        ([listed, *more], "a roster of 2 decryptors"),
        ([replace(listed, encryption_key=None)], "got no digest for the key of"),
        ([replace(listed, encryption_key=bytes(31))], "got 31 bytes for the key of"),
    ):
        with pytest.raises(ConfigError, match=reason):
            session.task.server(session.parties.cohort, roster=Roster([*others, *parties]), session=b"s")


@pytest.mark.parametrize(
    ("protocol", "option"), [(BFV(holder="clients"), "--shared-he"), (Paillier(key="run"), "--paillier BITS")]
)
def test_a_decryptor_without_a_key_is_enrolled_with_the_option_that_makes_one(protocol: Any, option: str) -> None:
    ids = ["c1", "c2", "c3"]
    task = make_task(protocol, max_clients=3, min_survivors=3)
    roster = Roster([*enrol(ids)[1].values(), *enrol([DEC], PartyRole.DECRYPTOR)[1].values()])
    with pytest.raises(ConfigError, match=f"secagg keygen {DEC} --role decryptor {option}, in a new folder"):
        task.server(ids, roster=roster, session=b"s")


def test_a_floor_that_a_cohort_is_too_large_for() -> None:
    """c is a fraction of the cohort: with 60 of them, three may collude, and four would be one honest client."""
    ids = [f"c{i}" for i in range(60)]
    task = make_task(BFV(), max_clients=60, min_survivors=4)
    roster = enrol_for(task, ids)[1]
    with pytest.raises(ConfigError, match="expected at least 5"):
        task.server(ids, roster=roster, session=b"s")
    assert task.server(ids[:59], roster=roster, session=b"s") is not None


def test_a_client_needs_the_shared_key() -> None:
    session = begin(BFV(holder="clients"))
    with pytest.raises(ConfigError, match="got no key for c1; expected key= of 32 bytes"):
        session.make("c1", key=None)
    session.until(secagg.Round.COMMIT)
    session.members["c1"] = session.make("c1", key=bytes(32), save=None)
    session.contribute("c1")
    with pytest.raises(LocalProtocolError, match="got a key= that differs from the decryptor's"):
        session.ask("c1")


def test_the_shared_key_gives_every_session_its_own() -> None:
    from secagg.protocols.encrypted.client import session_secret

    scheme = BFV(holder="clients").scheme(make_task(BFV(holder="clients")))
    one, other = (session_secret(scheme, bytes(32), session).to_bytes() for session in (b"a", b"b"))
    assert one != other
    assert one == session_secret(scheme, bytes(32), b"a").to_bytes()


@every
def test_what_it_says_of_itself(protocol: Encrypted) -> None:
    text = make_task(protocol).describe()
    assert "semi-honest server" in text
    if protocol.shared_key:
        assert "the server and any one client, because every client holds the key" in text
    else:
        assert "the server and the decryptor" in text
    assert ("malformed ciphertext" in text) == (protocol.post_quantum and not protocol.shared_key)
    assert ("not post-quantum" in text) == isinstance(protocol, Paillier)
    assert ("no round Commit: one client" in text) == (not protocol.commit)
    assert ("shows received ciphertexts to one client that departs from the protocol" in text) == (
        not protocol.commit
    )
    assert ("uploads in one session what it recorded in another" in text) == (protocol.name == "Paillier/run-key")
    assert protocol.shows_terms == (protocol.name not in ("Paillier", "BFV", "CKKS", "BFV/seal"))

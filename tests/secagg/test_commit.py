"""The round Commit of Paillier, CKKS and BFV: what is committed to is what counts, and nothing else."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from mpc.keys import encode_parts
from secagg import Round, wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.protocols.encrypted.messages import Ciphertexts, Commitment, Committed, SessionKey, commitment
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier
from secagg.table import rounds
from secagg.testing import Session, parties_for
from secagg.wire import Envelope
from tests.secagg.test_encrypted import COMMITTED, DEC, LIMIT, PROTOCOLS, begin, make_task

committed = pytest.mark.parametrize("protocol", COMMITTED.values(), ids=COMMITTED)
SIMPLE = BFV()
IDS = ("c1", "c2", "c3", "c4")


def finish(session: Session) -> secagg.Outcome:
    """The outcome, if nobody sends an input any more."""
    session.close()
    return session.run()


def test_what_a_commitment_is() -> None:
    session, data = bytes(range(32)), bytes(1000)
    expected = hashlib.sha256(encode_parts("secagg/v1/he-commitment", session, "c1", data)).digest()
    assert commitment(session, "c1", memoryview(data)) == expected
    others = {
        commitment(bytes(32), "c1", data),
        commitment(session, "c2", data),
        commitment(session, "c1", data[1:]),
    }
    assert len(others | {expected}) == 4


@committed
def test_ciphertexts_leave_when_commit_is_closed_and_not_before(protocol: Encrypted) -> None:
    session = begin(protocol)
    session.exchange(session.until(Round.COMMIT))
    for party in IDS:
        member = session.members[party]
        envelope = Envelope.parse(member._state.last_reply, LIMIT)
        committed, rest = envelope.open(Commitment)
        assert (len(rest), member.finished) == (0, False)
        assert committed.digest == commitment(envelope.session, party, member._state.ciphertexts)
        assert session.server.context.state.commitments[party] == committed.digest
        assert len(envelope.raw) < 256
    outbox = session.close()
    assert set(outbox) == set(IDS)
    session.exchange(outbox)
    session.require_sum_of(finish(session), IDS)


def test_a_client_sends_no_ciphertexts_to_who_has_asked_for_no_commitment() -> None:
    session = begin(SIMPLE)
    session.until(Round.COMMIT)
    with pytest.raises(RemoteProtocolError) as refused:
        session.members["c1"].receive(session.seal(Committed()))
    assert refused.value.fault.kind is FaultKind.OUT_OF_TURN


@committed
@pytest.mark.parametrize("lie", ["another encryption", "another's", "a flipped bit"])
def test_what_does_not_fit_the_commitment_is_not_added_up(protocol: Encrypted, lie: str) -> None:
    """The sender is blamed; and as it is still awaited, what it did commit to is taken after that."""
    session = begin(protocol)
    session.exchange(session.until(Round.COMMIT))
    session.exchange({party: data for party, data in session.close().items() if party != "c4"})
    ciphertexts = {
        "another encryption": lambda: session.members["c4"]._encrypted(
            again(session), session.server.context.state.signed_key
        ),
        "another's": lambda: bytes(
            Envelope.parse(session.members["c1"]._state.last_reply, LIMIT).open(Ciphertexts)[1]
        ),
        "a flipped bit": lambda: flipped(session.members["c4"]._state.ciphertexts),
    }[lie]()
    before = session.server._adder.to_bytes()
    session.server.receive("c4", session.seal(Ciphertexts(), ciphertexts, "c4"))
    assert session.server._adder.to_bytes() == before
    (fault,) = session.server.faults
    assert (fault.sender, fault.kind, fault.round) == ("c4", FaultKind.INVALID, Round.INPUT)
    assert "differ from this client's commitment" in fault.detail
    assert session.server.pending == {"c4"}
    session.server.receive("c4", session.members["c4"].receive(session.server.start()["c4"]))
    session.require_sum_of(finish(session), IDS)


def again(session: Session) -> Any:
    """c4's state before it committed, with its update."""
    client = begin(session.task.protocol).members["c4"]  # only for an update in integers
    draft = session.members["c4"]._state
    return type(draft)(
        id="c4",
        seed=bytes(32),
        session_id=draft.session_id,
        contribution=client._state.contribution,
        contributed=client._state.contributed,
    )


def flipped(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@committed
def test_a_copied_commitment_fits_nobody_else(protocol: Encrypted) -> None:
    """Two equal ones are both taken, or the copier would shut out the one whose it is."""
    session = begin(protocol)
    outbox = session.until(Round.COMMIT)
    session.exchange({party: outbox[party] for party in IDS[1:3]})
    victim = session.members["c1"]
    answer = Envelope.parse(victim.receive(outbox["c1"]), LIMIT)
    session.server.receive("c4", session.seal(answer.open(Commitment)[0], b"", "c4"))
    session.server.receive("c1", answer.raw)
    assert not session.server.faults
    outbox = session.close()
    session.exchange({party: outbox[party] for party in IDS[:3]})
    copied = bytes(Envelope.parse(victim._state.last_reply, LIMIT).open(Ciphertexts)[1])
    session.server.receive("c4", session.seal(Ciphertexts(), copied, "c4"))
    assert [(fault.sender, fault.kind) for fault in session.server.faults] == [("c4", FaultKind.INVALID)]
    session.require_sum_of(finish(session), IDS[:3])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_commitment_of_another_length_is_refused(length: int) -> None:
    session = begin(SIMPLE)
    session.until(Round.COMMIT)
    session.server.receive("c4", session.seal(Commitment(bytes(length)), b"", "c4"))
    session.server.receive("c3", session.seal(Commitment(bytes(32)), b"\0", "c3"))
    kinds = [(fault.sender, fault.kind) for fault in session.server.faults]
    assert kinds == [("c4", FaultKind.MALFORMED), ("c3", FaultKind.MALFORMED)]
    assert session.server.context.state.commitments == {}


def test_who_commits_late_or_sends_early_is_not_heard() -> None:
    session = begin(SIMPLE)
    outbox = session.until(Round.COMMIT)
    late = outbox.pop("c4")
    session.exchange(outbox)
    early = session.members["c3"]
    session.server.receive("c4", session.seal(Ciphertexts(), early._state.ciphertexts, "c4"))
    outbox = session.close()
    assert session.server.pending == {"c1", "c2", "c3"}
    assert Envelope.parse(outbox.pop("c4"), LIMIT).open(wire.Abort)[0] == wire.Abort()
    assert set(outbox) == {"c1", "c2", "c3"}
    session.server.receive("c4", session.members["c4"].receive(late))
    session.server.receive("c4", session.seal(Ciphertexts(), session.members["c4"]._state.ciphertexts, "c4"))
    kinds = [(fault.round, fault.kind) for fault in session.server.faults if fault.sender == "c4"]
    assert kinds == [
        (Round.COMMIT, FaultKind.OUT_OF_TURN),
        (Round.COMMIT, FaultKind.SILENT),
        (Round.INPUT, FaultKind.OUT_OF_TURN),
        (Round.INPUT, FaultKind.OUT_OF_TURN),
    ]
    session.exchange(outbox)
    outcome = finish(session)
    assert (outcome.survivors, dict(outcome.dropped)) == (("c1", "c2", "c3"), {"c4": Round.COMMIT})


@pytest.mark.parametrize("protocol", [BFV(), CKKS(holder="clients")], ids=["BFV", "CKKS/clients"])
@pytest.mark.parametrize(
    "silent", [{"c1": Round.COMMIT}, {"c4": Round.INPUT}, {"c1": Round.COMMIT, "c4": Round.INPUT}]
)
def test_weighted_sums_beside_silence_in_both_rounds(protocol: Encrypted, silent: dict[str, str]) -> None:
    rng = np.random.default_rng(3)
    updates = {f"c{number}": rng.uniform(-1, 1, 2100) for number in range(1, 7)}
    weights = dict(zip(updates, [1, 5000, 17, 3, 400, 2], strict=True))
    layout = secagg.Layout.of(np.zeros(2100))
    task = make_task(protocol, layout=layout, max_clients=6, min_survivors=4, max_weight=5000)
    outcome = secagg.simulate(task, updates, weights=weights, dropouts=silent)
    clear = secagg.simulate(
        replace(task, protocol=secagg.Clear()),
        updates,
        weights=weights,
        dropouts=dict.fromkeys(silent, Round.INPUT),
    )
    np.testing.assert_array_equal(outcome.sum, clear.sum)
    assert (outcome.total_weight, outcome.survivors) == (clear.total_weight, clear.survivors)
    assert dict(outcome.dropped) == silent


@pytest.mark.parametrize(("silent", "what"), [(Round.COMMIT, "commitments to"), (Round.INPUT, "encrypted inputs")])
def test_too_few_commitments_or_inputs_open_nothing(silent: str, what: str) -> None:
    updates = {f"c{number}": {"w": np.full(5, 0.5)} for number in range(1, 5)}
    with pytest.raises(Aborted, match=f"got 2 {what}"):
        secagg.simulate(make_task(SIMPLE), updates, dropouts={"c1": silent, "c2": silent})


def test_below_the_floor_no_ciphertext_has_left() -> None:
    session = begin(SIMPLE)
    outbox = session.until(Round.COMMIT)
    session.exchange({party: outbox[party] for party in ("c1", "c2")})
    with pytest.raises(Aborted, match="got 2 commitments to encrypted inputs; 3 are needed") as aborted:
        session.close()
    assert (session.server.round, session.server.outcome) == (None, None)
    for party in ("c1", "c2"):
        with pytest.raises(Aborted):
            session.members[party].receive(aborted.value.outbox[party])
        assert session.members[party]._state.ciphertexts == b""


def test_no_update_is_taken_after_the_commitment() -> None:
    session = begin(SIMPLE)
    session.exchange(session.until(Round.COMMIT))
    client = session.members["c1"]
    with pytest.raises(LocalProtocolError, match="has this client's input, or a commitment to it"):
        session.contribute("c1")
    assert client.contributed, "so a caller that is refused later need not train again"


@committed
def test_a_client_restored_between_the_rounds_sends_what_it_committed_to(protocol: Encrypted) -> None:
    """And the server, restored there, holds it to that."""
    session = begin(protocol)
    session.exchange(session.until(Round.COMMIT))
    outbox = session.close()
    session.restore_server(session.server.to_bytes())
    assert session.server.start() == outbox
    for party in IDS:
        session.restore(party, session.members[party].to_bytes())
    session.exchange(outbox)
    assert not session.server.faults
    session.require_sum_of(finish(session), IDS)


def test_a_client_commits_in_many_sessions_of_a_name_and_sends_in_one() -> None:
    """A commitment tells nothing, so a session that did not get beyond it costs no upload."""
    session = begin(SIMPLE)
    session.exchange(session.until(Round.COMMIT))
    second = begin(SIMPLE, seed=b"again", ledgers=session.ledgers)
    second.require_exact(second.run(), "after a session of the name that got no further")
    outbox = session.close()
    with pytest.raises(Aborted, match="holds another upload"):
        session.members["c1"].receive(outbox["c1"])


def test_a_budget_is_charged_when_the_input_leaves() -> None:
    noise = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.0, bits=20)
    layout = secagg.Layout.of(np.zeros(50))
    task = make_task(SIMPLE, encoding=noise, layout=layout, max_clients=5, min_survivors=3)
    updates = {f"c{number}": np.full(50, 0.1) for number in range(1, 6)}
    budgets = {party: dp.PrivacyLedger(50.0, 1e-5, unit="client", trust="distributed") for party in updates}
    secagg.simulate(task, updates, budgets=budgets, dropouts={"c1": Round.COMMIT, "c2": Round.INPUT})
    assert {party: held.report().releases for party, held in budgets.items()} == {
        "c1": 0,
        "c2": 0,
        "c3": 1,
        "c4": 1,
        "c5": 1,
    }


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_cost_is_exact_to_the_byte(protocol: Encrypted) -> None:
    session = Session(parties_for(protocol, 4))
    session.run()
    cost = protocol.cost(session.task, list(session.parties.cohort))
    assert list(cost.up) == list(cost.down) == list(rounds(protocol))
    for name in rounds(protocol):
        assert (cost.up[name], cost.down[name]) == (
            len(session.answers["c1", name]),
            len(session.requests["c1", name]),
        )
    if protocol.commit:
        once = replace(protocol, commit=False).cost(session.task, list(IDS))
        more = sum(cost.up.values()) + sum(cost.down.values()) - sum(once.up.values()) - sum(once.down.values())
        assert more <= 350


def test_what_a_commitment_costs_the_server() -> None:
    """Its state grows by the digest of each client, what its message is known by, and its name three times."""
    session = begin(SIMPLE)
    outbox, sizes = session.until(Round.COMMIT), []
    for party in IDS:
        sizes.append(len(session.server.to_bytes()))
        session.exchange({party: outbox[party]})
    assert max(np.diff(sizes)) <= 32 + 16 + 3 * len("c1") + 8


# Keys.


def test_paillier_has_a_key_of_its_own_in_every_session() -> None:
    shown = set()
    for number in range(2):
        session = begin(PROTOCOLS["Paillier"], seed=bytes(number))
        session.until(Round.COMMIT)
        assert session.members[DEC]._state.secret, "it is saved until it is used"
        shown.add(Envelope.parse(session.server.context.state.signed_key, LIMIT).open(SessionKey)[0].key)
    assert len(shown) == 2


def test_a_decryptor_restored_between_its_rounds_still_has_the_sessions_key() -> None:
    session = begin(PROTOCOLS["Paillier"])
    session.until(Round.OPENING)
    session.restore(DEC, session.members[DEC].to_bytes())
    session.require_exact(session.run(), "with a decryptor restored")
    assert session.members[DEC]._state.secret == b"", "and then it is gone"


def test_a_key_that_a_protocol_does_not_use_is_refused() -> None:
    """Whoever passes one expects it to be used."""
    session = begin(PROTOCOLS["Paillier"])
    for party in (DEC, "c1"):
        with pytest.raises(ConfigError, match=f"got key= for .*{party}"):
            session.make(party, key=bytes(32))


# What it is called.


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (Paillier(commit=False), "Paillier/uncommitted"),
        (Paillier(key="run"), "Paillier/run-key"),
        (Paillier(key="run", commit=False), "Paillier/run-key/uncommitted"),
        (CKKS(holder="clients", commit=False), "CKKS/clients/uncommitted"),
        (CKKS(), "CKKS"),
    ],
)
def test_what_is_weaker_says_so_in_its_name(protocol: Encrypted, name: str) -> None:
    assert protocol.name == name
    assert protocol.shows_terms == (name != "CKKS")


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_noise_is_made_for_one_term_where_terms_are_not_independent(protocol: Encrypted) -> None:
    noise = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.0, bits=20)
    task = make_task(protocol, encoding=noise, max_clients=12, min_survivors=10)
    alone = protocol.shared_key or not protocol.commit or protocol.name == "Paillier/run-key"
    assert task.honest == task.encoder.honest == (1 if alone else 9)  # type: ignore[attr-defined]

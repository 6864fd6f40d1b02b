"""Saved state: what a restored role repeats, what it refuses, and what a role that is rolled back gives away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import secagg
from secagg import Aborted, ConfigError, LocalProtocolError, RemoteProtocolError, Round, identity, wire
from secagg.lanes import fold_lanes, reduce_lanes, widths, zero_lanes
from secagg.protocols.pairwise.messages import MaskedInput
from secagg.store import FileLedger, FileStore, Ledger, MemoryLedger
from secagg.testing import MemoryStore, Session, parties_for, rng_for_tests
from secagg.wire import Envelope

VICTIM = "c1"


class Crash(BaseException):
    """The process is gone."""


class Crashing(MemoryStore):
    """A store whose process dies when it is given the state number ``crash_at``."""

    crash_at: int | None = None

    def __call__(self, number: int, state: bytes) -> None:
        if number == self.crash_at:
            raise Crash
        super().__call__(number, state)


def storing(ledger: Ledger | None) -> Crashing:
    """An empty store with that ledger, or without one."""
    store = Crashing()
    store.ledger = ledger
    return store


@dataclass(frozen=True)
class Kind:
    """A protocol, with so many clients of whom as many fall silent as there are rounds, each in another one."""

    protocol: Any
    clients: int
    floor: int
    silent: bool = True
    enrolled: bool = True

    def begin(self, *, weighted: bool = False, rounding: str = "nearest", **how: Any) -> Session:
        """A session over updates of whole numbers, which stand on the grid: an unweighted sum is exact."""
        parties = replace(parties_for(self.protocol, self.clients), min_survivors=self.floor)
        parties = parties.enrolled() if self.enrolled and parties.roster is None else parties
        task = parties.make_task(
            layout=secagg.Layout.of({"w": np.zeros(24)}),
            encoding=secagg.FixedPoint(clip=32767.0, bits=16, rounding=rounding),
            max_weight=9 if weighted else None,
        )
        names = [phase.round for phase in self.protocol.phases]
        if self.silent:
            how = {"silent": dict(zip(["c2", "c3", "c4", "c5", "c6"], names, strict=False)), **how}
        session = Session(parties, task=task, contribute=False, **how)
        for party in parties.cohort:
            whole = np.random.default_rng(int(party[1:])).integers(-500, 500, 24).astype(np.float64)
            session.updates[party] = {"w": whole}
            session.contribute(party)
        return session


KINDS = {
    "Clear": Kind(secagg.Clear(), 5, 3, enrolled=False),
    "Clear, enrolled": Kind(secagg.Clear(), 5, 3),
    "malicious": Kind(secagg.SecAgg(corruption=0.1), 11, 7),
    "semi-honest": Kind(secagg.SecAgg(threat_model="semi-honest"), 9, 5, enrolled=False),
    "Paillier": Kind(secagg.Paillier(bits=2048), 4, 3, silent=False),
}
# Six clients that all stay, one more than would be opened without the victim.
SMALL = {
    "malicious": Kind(secagg.SecAgg(), 6, 4, silent=False),
    "semi-honest": Kind(secagg.SecAgg(threat_model="semi-honest"), 6, 4, silent=False, enrolled=False),
}
both = pytest.mark.parametrize("threat_model", SMALL)


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest) -> Session:
    """A session that has not begun."""
    return KINDS[request.param].begin(weighted=True, rounding="stochastic")


@pytest.fixture
def played(session: Session) -> Session:
    """One that is over."""
    session.run()
    return session


def small(threat_model: str = "malicious", **how: Any) -> Session:
    session = SMALL[threat_model].begin(**how)
    session.run()
    return session


def exchanges_of(session: Session, party: str) -> list[tuple[bytes, bytes]]:
    """The requests to a party and its answers, in their order."""
    names = [phase.round for phase in session.task.protocol.phases]
    at = [(party, name) for name in names if (party, name) in session.answers]
    return [(session.requests[where], session.answers[where]) for where in at]


def restore(session: Session, party: str, state: bytes, ledger: Any = "its own") -> Any:
    """The role that was saved as ``state``, in a new store."""
    ledger = session.stores[party].ledger if ledger == "its own" else ledger
    return session.restore(party, state, save=storing(ledger))


def same_outcome(one: Any, other: Any) -> bool:
    same = np.array_equal(one.sum["w"], other.sum["w"]) and np.array_equal(one.mean["w"], other.mean["w"])
    rest = [(o.total_weight, o.survivors, o.dropped, o.faults, o.clipped) for o in (one, other)]
    return same and rest[0] == rest[1]


# A role repeats itself


def test_a_client_restored_from_any_state_since_contribute_repeats_itself(played: Session) -> None:
    for party in played.parties.cohort:
        states, exchanged = played.stores[party].states, exchanges_of(played, party)
        assert len(states) == 1 + len(exchanged)  # one since contribute, one since each answer
        for answered, state in enumerate(states):
            again = restore(played, party, state)
            for request, reply in exchanged[max(0, answered - 1) :]:
                assert again.receive(request) == reply
            assert again.to_bytes() == states[-1]


def test_a_client_behind_contribute_takes_the_same_update_only(session: Session) -> None:
    ledger = MemoryLedger()
    client = session.make(VICTIM, save=storing(ledger))
    empty, update, weight = client.to_bytes(), session.updates[VICTIM], session.weight(VICTIM)
    client.contribute(update, weight)
    again = restore(session, VICTIM, empty, ledger)
    before = again.to_bytes()
    for other, its_weight in ((session.updates["c2"], 1), ({"w": update["w"] + 9}, weight), (update, 10 - weight)):
        with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
            again.contribute(other, its_weight)
        assert again.to_bytes() == before
    again.contribute(update, weight)
    assert again.to_bytes() == client.to_bytes()


def test_a_client_made_anew_is_held_to_its_update_too(session: Session) -> None:
    """The state is lost and the ledger is not: fresh rounding would be another vector."""
    ledger = session.stores[VICTIM].ledger
    anew = session.make(VICTIM, save=storing(ledger), rng=rng_for_tests(b"fresh"))
    with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
        anew.contribute(session.updates[VICTIM], session.weight(VICTIM))


def test_a_crash_between_ledger_and_state_changes_no_word(played: Session) -> None:
    party = played.server.outcome.survivors[-1]
    for number, (request, reply) in enumerate(exchanges_of(played, party), 1):
        state, store = played.stores[party].states[number - 1], storing(MemoryLedger())
        store.crash_at = number + 1
        with pytest.raises(Crash):
            played.restore(party, state, save=store).receive(request)
        assert restore(played, party, state, store.ledger).receive(request) == reply


def test_a_session_over_files(tmp_path: Path) -> None:
    """Each message finds a new process: files are opened, read, written and closed for it."""
    played = KINDS["malicious"].begin(weighted=True, rounding="stochastic")
    played.run()

    def receive(party: str, request: bytes | None) -> Any:
        with FileLedger(tmp_path / f"{party}.ledger") as ledger:
            store = FileStore(tmp_path / f"{party}.state", ledger=ledger)
            if (state := store.load()) is None:
                client = played.make(party, save=store)
                client.contribute(played.updates[party], played.weight(party))
            else:
                client = played.restore(party, state, save=store)
            return None if request is None else client.receive(request)

    for party in played.parties.cohort:
        receive(party, None)
        assert all(receive(party, request) == reply for request, reply in exchanges_of(played, party))
        assert FileStore(tmp_path / f"{party}.state").load() == played.stores[party].state


# The server asks again


@pytest.mark.parametrize("mid_round", [False, True], ids=["saved at the round's end", "saved mid-round"])
@pytest.mark.parametrize("accepted", [0, 1, 3, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_restored_in_any_round_reaches_the_same_sum(kind: str, accepted: int, mid_round: bool) -> None:
    """It dies in each round, when so many answers came in, and asks those again whose answers it lost."""
    plain, session = (KINDS[kind].begin(weighted=True, rounding="stochastic") for _ in range(2))
    outbox = session.until(session.task.protocol.phases[0].round)
    while session.server.outcome is None:
        answering = [party for party in outbox if session.silent.get(party) != session.round]
        first = [party for party in answering if party in session.server.pending][:accepted]
        session.exchange({party: outbox[party] for party in first})
        state = session.server.to_bytes() if mid_round else session.stores[wire.SERVER].state
        session.stores[wire.SERVER].number = -1
        session.restore_server(state)
        again = session.server.start()
        lost = set() if mid_round else set(first)
        assert again == {party: outbox[party] for party in outbox if party in lost or party not in first}
        assert session.server.pending <= again.keys()
        session.exchange(again)
        outbox = session.close()
    assert same_outcome(session.server.outcome, plain.run())


def test_the_outcome_outlives_the_server(played: Session) -> None:
    outcome, silent = played.server.outcome, played.silent
    played.restore_server(played.stores[wire.SERVER].state)
    again = played.server
    assert same_outcome(again.outcome, outcome)
    assert again.round is None
    last = played.task.protocol.phases[-1].round
    assert again.start().keys() == {party for party, name in silent.items() if name == last}
    assert again.pending == frozenset()
    party = outcome.survivors[0]
    played.ignored_by_server(party, exchanges_of(played, party)[-1][1], "its last answer")
    with pytest.raises(LocalProtocolError):
        again.close_round()
    assert same_outcome(again.outcome, outcome)


def test_an_aborted_server_stays_aborted(session: Session) -> None:
    session.server.start()
    with pytest.raises(Aborted):
        session.server.close_round()
    session.restore_server(session.stores[wire.SERVER].state)
    again = session.server
    assert again.outcome is None
    assert again.round is None
    with pytest.raises(LocalProtocolError, match="aborted"):
        again.start()


# States that are not of this role


Restorers = dict[bytes, Callable[[bytes], Any]]


@pytest.fixture(scope="module", params=["Clear, enrolled", "malicious"])
def saved(request: pytest.FixtureRequest) -> tuple[Session, Restorers]:
    """A session that is over, and a client's state and the server's, each with what restores it."""
    session = KINDS[request.param].begin()
    session.run()
    client, server = session.stores[VICTIM].states[-2], session.stores[wire.SERVER].states[-2]
    task, lent = session.task, session.lent(VICTIM)
    return session, restorers(client, server, task, lent)


def restorers(client: bytes, server: bytes, task: secagg.Task, lent: Any) -> Restorers:
    lent = {**lent, "save": storing(MemoryLedger())}
    return {
        client: lambda data: task.restore_client(data, **lent),
        server: lambda data: task.restore_server(data, roster=lent["roster"]),
    }


def test_the_states_that_are_damaged_below_are_good(saved: tuple[Session, Restorers]) -> None:
    for state, restorer in saved[1].items():
        assert restorer(state).to_bytes() == state


def test_a_damaged_state_is_a_config_error(saved: tuple[Session, Restorers]) -> None:
    for state, restorer in saved[1].items():
        for damaged in damages(state):
            with pytest.raises(ConfigError):
                restorer(damaged)


def damages(state: bytes) -> Iterator[bytes]:
    yield b""
    yield state + b"\0"
    yield state + state
    for at in range(0, len(state), 1 + len(state) // 1500):
        yield state[:at]
        yield state[:at] + bytes([state[at] ^ 1 << at % 8]) + state[at + 1 :]


def test_a_foreign_state_is_a_config_error(
    saved: tuple[Session, Restorers], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, own = saved
    (client, restore_client), (server, restore_server) = own.items()
    for restorer, state in ((restore_client, server), (restore_server, client)):
        with pytest.raises(ConfigError, match="another task, role"):
            restorer(state)
    lent, task = session.lent(VICTIM), session.task
    with pytest.raises(ConfigError, match="not the one the roster lists"):
        task.restore_client(client, identity=session.parties.identities["c2"], roster=session.parties.roster)
    keys, roster = identity.enrol([*session.parties.cohort, "c99"])
    for other, its_own in (
        (replace(task, context=b"another run"), lent),
        (replace(task, min_survivors=task.min_survivors + 1), lent),
        (replace(task, protocol=secagg.Clear(), max_clients=12), lent),
        (task, {**lent, "identity": keys[VICTIM], "roster": roster}),
        (task, {**lent, "identity": None, "roster": None}),  # which would take unsigned adverts for signed ones
    ):
        for state, restorer in restorers(client, server, other, its_own).items():
            with pytest.raises(ConfigError):
                restorer(state)
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    for state, restorer in own.items():
        with pytest.raises(ConfigError):
            restorer(state)


def test_a_client_past_its_first_answer_needs_its_ledger() -> None:
    played = small()
    for answered, state in enumerate(played.stores[VICTIM].states):
        for save in (None, storing(None)):
            if answered in (0, 5):  # nothing was answered, or all
                played.restore(VICTIM, state, save=save)
                continue
            with pytest.raises(LocalProtocolError, match="without a ledger"):
                played.restore(VICTIM, state, save=save)


def test_a_client_that_said_nothing_takes_other_keys_without_its_ledger() -> None:
    """The state may be older than what was said since: the same proposal must not give the same keys."""
    played = small()
    state, proposal = played.stores[VICTIM].states[0], exchanges_of(played, VICTIM)[0][0]
    saves = (None, None, storing(None))
    assert len({played.restore(VICTIM, state, save=save).receive(proposal) for save in saves}) == 3


def test_an_older_state_can_not_go_on_over_a_newer_one(tmp_path: Path) -> None:
    """The state was copied away and the file kept: the store refuses before an answer leaves."""
    played = small()
    store = FileStore(tmp_path / "state", ledger=MemoryLedger())
    requests = [request for request, _ in exchanges_of(played, VICTIM)[:3]]
    client = played.make(VICTIM, save=store)
    client.contribute(played.updates[VICTIM], None)
    for request in requests:
        client.receive(request)
    newest = store.load()
    for request, state in zip(requests, played.stores[VICTIM].states, strict=False):
        behind = played.restore(VICTIM, state, save=store)
        with pytest.raises(LocalProtocolError, match="must not overwrite a newer one"):
            behind.receive(request)
        assert behind.to_bytes() == state
        assert store.load() == newest


# What is left when a role is done


@both
@pytest.mark.parametrize("aborted", [False, True], ids=["finished", "aborted"])
def test_a_role_that_is_done_keeps_no_secret(threat_model: str, aborted: bool) -> None:
    played = small(threat_model, silent={"c6": Round.MASKED_INPUT})
    states = played.stores[VICTIM].states
    contributed = restore(played, VICTIM, states[0])._state.contribution
    last = restore(played, VICTIM, states[-2])
    state = last._state
    secrets = {
        "seed": state.seed,
        "sealing key": last._private_keys(state)[0],
        "masking key": last._private_keys(state)[1],
        "self-mask seed": last.context.derive(state, "self-mask-seed"),
        "digest of the update": state.contributed,
        "update": contributed[0],  # what follows it is a count of clipped coordinates: four zeros
    }
    for dealer, shares in state.held.items():
        # One share of each dealer was revealed on purpose and stands in the last answer.
        unrevealed = shares if aborted else shares[1:] if dealer != "c6" else shares[:1]
        secrets |= {f"share {number} of {dealer}": share for number, share in enumerate(unrevealed)}
    assert len(secrets) == 6 + 6 * (2 if aborted else 1)
    if aborted:
        abort = played.seal(wire.Abort(), session=state.session_id)
        with pytest.raises(Aborted):
            last.receive(abort)
    else:
        last.receive(exchanges_of(played, VICTIM)[-1][0])
        assert last.to_bytes() == states[-1]
    assert last.finished
    left = last.to_bytes()
    assert [name for name, secret in secrets.items() if secret in left] == []
    # The search finds what is there: before the end, all but the keys, which are derived when needed.
    there = [name for name, secret in secrets.items() if secret in states[0] + states[-2]]
    assert set(secrets) - set(there) == {"sealing key", "masking key", "self-mask seed"}
    # Once the input has left, the update is gone, though the session goes on.
    assert contributed[0] in states[2]
    assert contributed[0] not in states[3]


def test_before_a_session_began_there_is_nothing_to_give_up() -> None:
    """Or a message that anyone can write would overwrite what the role's caller keeps."""
    task = SMALL["semi-honest"].begin().task
    saved: list[bytes] = []
    role = task.client("c1", save=lambda number, state: saved.append(state))
    abort = wire.seal_envelope(
        wire.Abort(), protocol=task.protocol.ID, task=task.digest, session=b"", sender=wire.SERVER
    )
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        role.receive(abort)
    assert not role.finished
    assert saved == []


def test_a_server_that_is_done_keeps_no_shares() -> None:
    played = small()
    *_, before, last = played.stores[wire.SERVER].states
    played.stores[wire.SERVER].number = -1
    played.restore_server(before)
    for party in played.parties.cohort:
        played.deliver(party, exchanges_of(played, party)[-1][1])
    middle = played.server
    shares = [share for of_dealer in middle.context.state.shares.values() for share in of_dealer.values()]
    assert len(shares) == 36
    assert all(share in middle.to_bytes() for share in shares)
    assert not any(share in last for share in shares)


# One upload


def exact(values: Any) -> NDArray[np.int64]:
    """Whole numbers that stood on the grid."""
    rounded: NDArray[np.int64] = np.rint(values).astype(np.int64)
    assert np.array_equal(rounded, values)
    return rounded


def second_opening(played: Session, *, ledgers: bool) -> secagg.Outcome:
    """The same session opened again without the victim, by fresh roles of everyone else."""
    others = replace(played.parties, cohort=tuple(party for party in played.parties.cohort if party != VICTIM))
    second = Session(
        others, task=played.task, seed=b"again", contribute=False, ledgers=played.ledgers if ledgers else None
    )
    second.updates = played.updates
    second.refusals = {}
    for party in others.cohort:
        second.contribute(party)
    try:
        return second.run()
    finally:
        refused = {party for party in others.cohort if second.members[party].finished and party in second.refusals}
        assert refused == (set(others.cohort) if ledgers else set())
        assert all("ledger" in str(refusal) for refusal in second.refusals.values())


@both
def test_a_session_opened_again_without_one_client_gets_no_upload(threat_model: str) -> None:
    with pytest.raises(Aborted, match="got 0 masked inputs"):
        second_opening(small(threat_model), ledgers=True)


@both
def test_control_without_ledgers_two_openings_give_the_victim_away(threat_model: str) -> None:
    played = small(threat_model)
    second = second_opening(played, ledgers=False)
    assert np.array_equal(
        exact(played.server.outcome.sum["w"] - second.sum["w"]), exact(played.updates[VICTIM]["w"])
    )


# Another story for a client that was rolled back


class Fork:
    """A second story: from the round that it forks in, the victim seems silent; the server's code is honest."""

    def __init__(self, threat_model: str, name: str) -> None:
        self.played = played = small(threat_model)
        self.outcome = played.server.outcome
        names = [phase.round for phase in played.task.protocol.phases]
        self.answered = names.index(name) + 1  # rounds that the clients have answered where the stories part
        played.stores[wire.SERVER].number = -1
        played.restore_server(played.stores[wire.SERVER].states[self.answered - 1])
        for party in played.parties.cohort:
            if party != VICTIM:
                assert played.server.receive(party, played.answers[party, name]) == {}
        assert played.server.pending == {VICTIM}
        self.outbox = played.close()

    def rolled_back(self, party: str, ledger: Ledger | None) -> Any:
        return restore(self.played, party, self.played.stores[party].states[self.answered], ledger)

    def older_ledger(self, party: str) -> Ledger:
        """The ledger as it was when the state was saved: a client at that point writes it again."""
        store = storing(MemoryLedger())
        client = self.played.make(party, save=store)
        client.contribute(self.played.updates[party], None)
        for request, _ in exchanges_of(self.played, party)[: self.answered]:
            client.receive(request)
        assert store.state == self.played.stores[party].states[self.answered]
        assert store.ledger is not None
        return store.ledger


FORKS = [
    ("malicious", Round.ADVERTISE_KEYS),
    ("malicious", Round.SHARE_KEYS),
    ("malicious", Round.MASKED_INPUT),
    ("malicious", Round.CONSISTENCY_CHECK),
    ("semi-honest", Round.ADVERTISE_KEYS),
    ("semi-honest", Round.SHARE_KEYS),
    ("semi-honest", Round.MASKED_INPUT),
]


@pytest.mark.parametrize(("threat_model", "name"), FORKS)
def test_a_rolled_back_client_refuses_another_story(threat_model: str, name: str) -> None:
    """Another U1, another U2, another survivor list, other signatures: each one's ledger says no."""
    fork = Fork(threat_model, name)
    for party in fork.played.server.pending:
        request, true = fork.outbox[party], exchanges_of(fork.played, party)[fork.answered][0]
        assert request != true
        client = fork.rolled_back(party, fork.played.stores[party].ledger)
        with pytest.raises(Aborted, match="ledger"):
            client.receive(request)
        assert client.finished
        with pytest.raises(secagg.RemoteProtocolError):
            client.receive(true)


@pytest.mark.parametrize(("threat_model", "name"), [fork for fork in FORKS if fork[1] != Round.CONSISTENCY_CHECK])
def test_control_ledgers_rolled_back_too_give_the_victim_away(threat_model: str, name: str) -> None:
    fork = Fork(threat_model, name)
    ledgers = {party: fork.older_ledger(party) for party in fork.played.parties.cohort if party != VICTIM}
    for party, ledger in ledgers.items():
        fork.rolled_back(party, ledger)
    fork.played.silent = {VICTIM: fork.played.round}
    difference = fork.outcome.sum["w"] - fork.played.run().sum["w"]
    assert np.array_equal(exact(difference), exact(fork.played.updates[VICTIM]["w"]))


# Trained again


def lanes_of(session: Session, message: bytes) -> list[NDArray[Any]]:
    """The vectors of an uploaded message, still masked."""
    _, payload = Envelope.parse(message, 1 << 20).open(MaskedInput)
    lanes = zero_lanes(session.task)
    fold_lanes(session.task, payload, lanes)
    return lanes


def upload_again(played: Session, ledger: Ledger | None) -> bytes:
    """The upload that the victim makes when it has trained again, to zeros, with the seed of before."""
    client = played.make(VICTIM, save=storing(ledger))
    client.contribute({"w": np.zeros(24)}, None)
    replies = [client.receive(request) for request, _ in exchanges_of(played, VICTIM)[:3]]
    assert replies[-1] is not None
    return replies[-1]


@both
def test_a_client_that_trained_again_uploads_nothing(threat_model: str) -> None:
    played = small(threat_model)
    with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
        upload_again(played, played.stores[VICTIM].ledger)


@both
def test_control_trained_again_without_its_ledger_it_gives_the_difference(threat_model: str) -> None:
    """One mask over two vectors; the server knows the second, because it chose the model."""
    played = small(threat_model)
    before = lanes_of(played, exchanges_of(played, VICTIM)[2][1])
    after = lanes_of(played, upload_again(played, MemoryLedger()))
    for lane, other in zip(before, after, strict=True):
        lane -= other
    reduce_lanes(played.task, before)
    bits = widths(played.task)[0]
    signed = before[0].astype(np.int64)
    signed[signed >= 1 << (bits - 1)] -= 1 << bits
    assert np.array_equal(signed, exact(played.updates[VICTIM]["w"]))

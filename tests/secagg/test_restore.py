"""Saved state: what a restored role repeats, what it refuses, and what a rolled-back one would give away."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from secagg.task import Task
from secagg.wire import Envelope

SESSION = b"round 7"
VICTIM = "c1"


class Crash(BaseException):
    """The process is gone."""


class Shelf:
    """A store that keeps every state that it was given."""

    def __init__(self, ledger: Ledger | None = None, crash_at: int | None = None) -> None:
        self.ledger, self.crash_at = ledger, crash_at
        self.number = -1
        self.states: list[bytes] = []

    def __call__(self, number: int, state: bytes) -> None:
        if number <= self.number:
            raise LocalProtocolError(f"got state number {number} after {self.number}")
        if number == self.crash_at:
            raise Crash
        self.number = number
        self.states.append(state)


def fixed(name: str) -> Callable[[int], bytes]:
    """A generator that gives a role of this name the same seed in every run. For tests."""
    return lambda count: hashlib.shake_256(name.encode()).digest(count)


@dataclass
class Case:
    """A task, who takes part, and who falls silent before which round's message."""

    task: Task
    cohort: list[str]
    silent: Mapping[str, str] = field(default_factory=dict)
    enrolled: bool = True

    def __post_init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.roster: Any = None
        if self.enrolled:
            self.keys, self.roster = identity.enrol(self.cohort)

    def update(self, party: str) -> NDArray[np.float64]:
        rng = np.random.default_rng(self.cohort.index(party))
        return rng.integers(-500, 500, self.task.layout.size).astype(np.float64)

    def weight(self, party: str) -> int | None:
        return None if self.task.max_weight is None else 1 + self.cohort.index(party) % self.task.max_weight

    def server(self, save: Shelf | None = None, cohort: list[str] | None = None, nonce: str = "server") -> Any:
        return self.task.server(
            cohort or self.cohort, roster=self.roster, session=SESSION, save=save, rng=fixed(nonce)
        )

    def new_client(self, party: str, save: Any = None, seed: str = "") -> Any:
        identities: dict[str, Any] = {"identity": self.keys.get(party), "roster": self.roster}
        return self.task.client(party, session=SESSION, save=save, rng=fixed(party + seed), **identities)

    def client(self, party: str, save: Any = None, seed: str = "") -> Any:
        made = self.new_client(party, save, seed)
        made.contribute(self.update(party), self.weight(party))
        return made

    def restore(self, party: str, state: bytes, save: Any = None) -> Any:
        identities: dict[str, Any] = {"identity": self.keys.get(party), "roster": self.roster}
        return self.task.restore_client(state, save=save, **identities)

    def restore_server(self, state: bytes, save: Any = None) -> Any:
        return self.task.restore_server(state, roster=self.roster, save=save)


def task_of(protocol: Any, clients: int, floor: int, *, weighted: bool = False, rounding: str = "nearest") -> Task:
    """Whole numbers stand on the grid, so an unweighted sum is exact."""
    return Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(24)),
        encoding=secagg.FixedPoint(clip=32767.0, bits=16, rounding=rounding),
        max_clients=clients,
        min_survivors=floor,
        max_weight=9 if weighted else None,
        context=b"restore",
    )


def ids(count: int) -> list[str]:
    return sorted(f"c{number}" for number in range(1, count + 1))


def clear(**options: Any) -> Case:
    return Case(task_of(secagg.Clear(), 5, 3, **options), ids(5), {"c2": Round.INPUT}, enrolled=False)


def enrolled_clear(**options: Any) -> Case:
    return Case(task_of(secagg.Clear(), 5, 3, **options), ids(5), {"c2": Round.INPUT})


def malicious(**options: Any) -> Case:
    """Eleven clients, of whom one falls silent in each round."""
    silent = dict(zip(["c2", "c3", "c4", "c5", "c6"], secagg.SecAgg().phases, strict=True))
    named = {party: phase.round for party, phase in silent.items()}
    return Case(task_of(secagg.SecAgg(corruption=0.1), 11, 7, **options), ids(11), named)


def semi_honest(**options: Any) -> Case:
    """Nine clients, of whom one falls silent in each round."""
    protocol = secagg.SecAgg(threat_model="semi-honest")
    silent = {party: phase.round for party, phase in zip(["c2", "c3", "c4", "c5"], protocol.phases, strict=True)}
    return Case(task_of(protocol, 9, 5, **options), ids(9), silent, enrolled=False)


def small(threat_model: Any = "malicious") -> Case:
    """Six clients that all stay, one more than would be opened without the victim."""
    protocol = secagg.SecAgg(threat_model=threat_model)
    return Case(task_of(protocol, 6, 4), ids(6), enrolled=threat_model == "malicious")


@pytest.fixture(params=[clear, enrolled_clear, malicious, semi_honest])
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param(weighted=True, rounding="stochastic")
    return made


@dataclass
class Transcript:
    """What everyone said in one session, and every state that was saved on the way."""

    outcome: Any = None
    requests: dict[str, list[bytes]] = field(default_factory=dict)  # by client, one a round
    replies: dict[str, list[bytes]] = field(default_factory=dict)
    shelves: dict[str, Shelf] = field(default_factory=dict)  # by party; "server" is the server's
    opened: dict[str, bytes] = field(default_factory=dict)  # by round: the server's state as it opened

    @property
    def said(self) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
        return self.requests, self.replies


def record(case: Case, *, restored: bool = False) -> Transcript:
    """Play a session; if ``restored``, every role is thrown away after every message and made from its bytes."""
    found = Transcript()
    found.shelves = {party: Shelf(MemoryLedger()) for party in case.cohort} | {"server": Shelf()}
    server = case.server(found.shelves["server"])
    members = {party: case.client(party, found.shelves[party]) for party in case.cohort}

    def reload_server(server: Any) -> Any:
        return case.restore_server(server.to_bytes(), found.shelves["server"]) if restored else server

    def reload(party: str) -> None:
        if restored:
            members[party] = case.restore(party, members[party].to_bytes(), found.shelves[party])

    outbox = server.start()
    while server.outcome is None:
        server = reload_server(server)
        assert server.start() == outbox
        found.opened[server.round] = found.shelves["server"].states[-1]
        for party, request in outbox.items():
            if party not in server.pending or case.silent.get(party) == server.round:
                continue
            reload(party)
            reply = members[party].receive(request)
            reload(party)
            assert members[party].receive(request) == reply
            found.requests.setdefault(party, []).append(request)
            found.replies.setdefault(party, []).append(reply)
            assert server.receive(party, reply) == {}
            server = reload_server(server)
        outbox = server.close_round()
    found.outcome = reload_server(server).outcome
    return found


def same_outcome(one: Any, other: Any) -> bool:
    same = np.array_equal(one.sum, other.sum) and np.array_equal(one.mean, other.mean)
    rest = [
        (found.total_weight, found.survivors, found.dropped, found.faults, found.clipped) for found in (one, other)
    ]
    return same and rest[0] == rest[1]


# A role repeats itself


def test_roles_restored_after_every_message_say_the_same(case: Case) -> None:
    plain, restored = record(case), record(case, restored=True)
    assert plain.said == restored.said
    assert same_outcome(plain.outcome, restored.outcome)
    assert set(plain.outcome.survivors) < set(case.cohort)
    expected = sum(case.update(party) * (case.weight(party) or 0) for party in plain.outcome.survivors)
    step = 9 * len(plain.outcome.survivors)  # Δ is 1; stochastic rounding errs by less than max_weight·n·Δ
    assert np.abs(plain.outcome.sum - expected).max() < step


def test_a_client_restored_from_any_state_since_contribute_repeats_itself(case: Case) -> None:
    played = record(case)
    for party, shelf in played.shelves.items():
        requests, replies = played.requests.get(party, []), played.replies.get(party, [])
        if party == "server":
            continue
        assert len(shelf.states) == 1 + len(replies)  # one since contribute, one since each answer
        for answered, state in enumerate(shelf.states):
            again = case.restore(party, state, Shelf(shelf.ledger))
            if answered:
                assert again.receive(requests[answered - 1]) == replies[answered - 1]
            assert [again.receive(request) for request in requests[answered:]] == replies[answered:]
            assert again.to_bytes() == shelf.states[-1]


def test_a_client_behind_contribute_takes_the_same_update_only(case: Case) -> None:
    ledger = MemoryLedger()
    client = case.new_client(VICTIM, Shelf(ledger))
    made = client.to_bytes()
    client.contribute(case.update(VICTIM), case.weight(VICTIM))
    again = case.restore(VICTIM, made, Shelf(ledger))
    before = again.to_bytes()
    for update, weight in ((case.update("c2"), 1), (case.update(VICTIM) + 9, 1), (case.update(VICTIM), 2)):
        with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
            again.contribute(update, weight)
        assert again.to_bytes() == before
    again.contribute(case.update(VICTIM), case.weight(VICTIM))
    assert again.to_bytes() == client.to_bytes()


def test_a_client_made_anew_is_held_to_its_update_too(case: Case) -> None:
    """The state is lost and the ledger is not: fresh rounding would be another vector."""
    ledger = MemoryLedger()
    case.client(VICTIM, Shelf(ledger))
    with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
        case.new_client(VICTIM, Shelf(ledger), seed="fresh").contribute(case.update(VICTIM), case.weight(VICTIM))


def test_a_crash_between_ledger_and_state_changes_no_word(case: Case) -> None:
    played = record(case)
    party = played.outcome.survivors[-1]
    for number, (request, reply) in enumerate(zip(played.requests[party], played.replies[party], strict=True), 1):
        ledger, shelf = MemoryLedger(), played.shelves[party]
        client = case.restore(party, shelf.states[number - 1], Shelf(ledger, crash_at=number + 1))
        with pytest.raises(Crash):
            client.receive(request)
        again = case.restore(party, shelf.states[number - 1], Shelf(ledger))
        assert again.receive(request) == reply


def test_a_session_over_files(tmp_path: Path) -> None:
    """Each message finds a new process: files are opened, read, written and closed for it."""
    case = malicious(weighted=True, rounding="stochastic")
    played = record(case)

    def receive(party: str, request: bytes | None) -> Any:
        with FileLedger(tmp_path / f"{party}.ledger") as ledger:
            store = FileStore(tmp_path / f"{party}.state", ledger=ledger)
            state = store.load()
            client = case.client(party, store) if state is None else case.restore(party, state, store)
            return None if request is None else client.receive(request)

    for party in case.cohort:
        receive(party, None)
        assert [receive(party, request) for request in played.requests.get(party, [])] == played.replies.get(
            party, []
        )
        assert FileStore(tmp_path / f"{party}.state").load() == played.shelves[party].states[-1]


# The server asks again


def survivors_of(case: Case, accepted: int, *, mid_round: bool, crash_in: str) -> Any:
    """A session whose server dies in ``crash_in`` with so many answers in; returns its outcome."""
    shelf = Shelf()
    server = case.server(shelf)
    members = {party: case.client(party, Shelf(MemoryLedger())) for party in case.cohort}
    outbox = server.start()
    while server.outcome is None:
        answering = [party for party in sorted(server.pending) if case.silent.get(party) != server.round]
        if server.round == crash_in:
            for party in answering[:accepted]:
                server.receive(party, members[party].receive(outbox[party]))
            state = server.to_bytes() if mid_round else shelf.states[-1]
            server = case.restore_server(state, shelf)
            again = server.start()
            still = set(answering[:accepted]) if mid_round else set()
            assert again == {party: request for party, request in outbox.items() if party not in still}
            assert server.pending <= again.keys()
            answering = [party for party in answering if party in again]
        for party in answering:
            server.receive(party, members[party].receive(outbox[party]))
        outbox = server.close_round()
    return server.outcome


@pytest.mark.parametrize("mid_round", [False, True], ids=["saved at the round's end", "saved mid-round"])
def test_a_server_restored_in_any_round_reaches_the_same_sum(case: Case, mid_round: bool) -> None:
    plain = record(case).outcome
    for phase in case.task.protocol.phases:
        for accepted in (0, 1, 3, len(case.cohort)):
            outcome = survivors_of(case, accepted, mid_round=mid_round, crash_in=phase.round)
            assert same_outcome(outcome, plain)


def test_the_outcome_outlives_the_server(case: Case) -> None:
    played = record(case)
    again = case.restore_server(played.shelves["server"].states[-1])
    assert same_outcome(again.outcome, played.outcome)
    assert again.round is None
    last = case.task.protocol.phases[-1].round
    assert again.start().keys() == {party for party, name in case.silent.items() if name == last}
    assert again.pending == frozenset()
    party = played.outcome.survivors[0]
    assert again.receive(party, played.replies[party][-1]) == {}
    assert again.faults == played.outcome.faults
    with pytest.raises(LocalProtocolError):
        again.close_round()
    assert same_outcome(again.outcome, played.outcome)


def test_an_aborted_server_stays_aborted(case: Case) -> None:
    shelf = Shelf()
    server = case.server(shelf)
    server.start()
    with pytest.raises(Aborted):
        server.close_round()
    again = case.restore_server(shelf.states[-1])
    assert again.outcome is None
    assert again.round is None
    with pytest.raises(LocalProtocolError, match="aborted"):
        again.start()


# What is no state of this role


@pytest.fixture(scope="module", params=[enrolled_clear, malicious])
def saved(request: pytest.FixtureRequest) -> tuple[Case, bytes, bytes]:
    """A case, a client's state from the middle of a session, and the server's."""
    case: Case = request.param()
    played = record(case)
    return case, played.shelves[VICTIM].states[-2], played.shelves["server"].states[-2]


def restorers(case: Case) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    return lambda data: case.restore(VICTIM, data, Shelf(MemoryLedger())), case.restore_server


def test_the_states_that_are_damaged_below_are_good(saved: tuple[Case, bytes, bytes]) -> None:
    case, *states = saved
    for restore, state in zip(restorers(case), states, strict=True):
        assert restore(state).to_bytes() == state


def test_a_damaged_state_is_a_config_error(saved: tuple[Case, bytes, bytes]) -> None:
    case, *states = saved
    for restore, state in zip(restorers(case), states, strict=True):
        for damaged in damages(state):
            with pytest.raises(ConfigError):
                restore(damaged)


def damages(state: bytes) -> Iterator[bytes]:
    yield b""
    yield state + b"\0"
    yield state + state
    for at in range(0, len(state), 1 + len(state) // 1500):
        yield state[:at]
        yield state[:at] + bytes([state[at] ^ 1 << at % 8]) + state[at + 1 :]


def test_a_foreign_state_is_a_config_error(
    saved: tuple[Case, bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, client, server = saved
    restore_client, restore_server = restorers(case)
    with pytest.raises(ConfigError, match="another task, role"):
        restore_client(server)
    with pytest.raises(ConfigError, match="another task, role"):
        restore_server(client)
    with pytest.raises(ConfigError, match="not the one the roster lists"):
        case.task.restore_client(client, identity=case.keys["c2"], roster=case.roster)

    def elsewhere(**changed: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
        other = copy.copy(case)
        for name, value in changed.items():
            setattr(other, name, value)
        return restorers(other)

    keys, roster = identity.enrol([*case.cohort, "c99"])
    for restorer in (
        elsewhere(task=replace(case.task, context=b"another run")),
        elsewhere(task=replace(case.task, min_survivors=case.task.min_survivors + 1)),
        elsewhere(task=task_of(secagg.Clear(), 12, 7)),
        elsewhere(keys=keys, roster=roster),
        elsewhere(keys={}, roster=None),  # which would take unsigned adverts for signed ones
    ):
        for restore, state in zip(restorer, (client, server), strict=True):
            with pytest.raises(ConfigError):
                restore(state)
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    for restore, state in zip(restorers(case), (client, server), strict=True):
        with pytest.raises(ConfigError):
            restore(state)


def test_a_client_past_its_first_answer_needs_its_ledger() -> None:
    case = small()
    played = record(case)
    for answered, state in enumerate(played.shelves[VICTIM].states):
        for save in (None, Shelf()):
            if answered in (0, 5):  # nothing was answered, or all
                case.restore(VICTIM, state, save)
                continue
            with pytest.raises(LocalProtocolError, match="without a ledger"):
                case.restore(VICTIM, state, save)


def test_a_client_that_said_nothing_takes_other_keys_without_its_ledger() -> None:
    """The state may be older than what was said since: the same proposal must not give the same keys."""
    case = small()
    played = record(case)
    state, proposal = played.shelves[VICTIM].states[0], played.requests[VICTIM][0]
    adverts = {case.restore(VICTIM, state, save).receive(proposal) for save in (None, None, Shelf())}
    assert len(adverts) == 3


def test_an_older_state_can_not_go_on_over_a_newer_one(tmp_path: Path) -> None:
    """The state was copied away and the file kept: the store refuses before an answer leaves."""
    case = small()
    played = record(case)
    store = FileStore(tmp_path / "state", ledger=MemoryLedger())
    client = case.client(VICTIM, store)
    for request in played.requests[VICTIM][:3]:
        client.receive(request)
    newest = store.load()
    for answered, state in enumerate(played.shelves[VICTIM].states[:3]):
        behind = case.restore(VICTIM, state, store)
        with pytest.raises(LocalProtocolError, match="must not overwrite a newer one"):
            behind.receive(played.requests[VICTIM][answered])
        assert behind.to_bytes() == state
        assert store.load() == newest


# What is left when a role is done


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
@pytest.mark.parametrize("aborted", [False, True], ids=["finished", "aborted"])
def test_a_role_that_is_done_keeps_no_secret(threat_model: str, aborted: bool) -> None:
    case = small(threat_model)
    case.silent = {"c6": Round.MASKED_INPUT}
    played = record(case)
    shelf, requests = played.shelves[VICTIM], played.requests[VICTIM]
    last = case.restore(VICTIM, shelf.states[-2], Shelf(shelf.ledger))
    state = last._state
    contributed = case.restore(VICTIM, shelf.states[0], Shelf(shelf.ledger))._state.contribution
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
        abort = wire.seal_envelope(
            wire.Abort(), protocol=case.task.protocol.ID, task=case.task.digest, session=state.session_id, sender=""
        )
        with pytest.raises(Aborted):
            last.receive(abort)
    else:
        last.receive(requests[-1])
        assert last.to_bytes() == shelf.states[-1]
    assert last.finished
    left = last.to_bytes()
    assert [name for name, secret in secrets.items() if secret in left] == []
    # The search finds what is there: before the end, all but the keys, which are derived when needed.
    found = [name for name, secret in secrets.items() if secret in shelf.states[0] + shelf.states[-2]]
    assert set(secrets) - set(found) == {"sealing key", "masking key", "self-mask seed"}
    # Once the input has left, the update is gone, though the session goes on.
    assert contributed[0] in shelf.states[2]
    assert contributed[0] not in shelf.states[3]


def test_before_a_session_began_there_is_nothing_to_give_up() -> None:
    """Or a message that anyone can write would overwrite what the role's caller keeps."""
    task = small("semi-honest").task
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
    case = small()
    played = record(case)
    shelf = played.shelves["server"]
    middle = case.restore_server(shelf.states[-2])
    for party in case.cohort:
        middle.receive(party, played.replies[party][-1])
    shares = [share for of_dealer in middle.context.state.shares.values() for share in of_dealer.values()]
    assert len(shares) == 36
    assert all(share in middle.to_bytes() for share in shares)
    assert not any(share in shelf.states[-1] for share in shares)


# One upload


def exact(values: Any) -> NDArray[np.int64]:
    """Whole numbers that stood on the grid."""
    rounded: NDArray[np.int64] = np.rint(values).astype(np.int64)
    assert np.array_equal(rounded, values)
    return rounded


def second_opening(case: Case, ledgers: Mapping[str, Ledger]) -> Any:
    """The same session opened again without the victim, by fresh roles of everyone else."""
    others = [party for party in case.cohort if party != VICTIM]
    server = case.server(cohort=others, nonce="another nonce")
    members = {party: case.client(party, Shelf(ledgers[party]), seed="again") for party in others}
    outbox = server.start()
    while server.outcome is None:
        if server.round == Round.MASKED_INPUT:
            refused = 0
            for party, request in outbox.items():
                try:
                    server.receive(party, members[party].receive(request))
                except Aborted as aborted:
                    refused += "ledger" in aborted.reason and members[party].finished
            assert refused in (0, len(others))
        else:
            for party, request in outbox.items():
                server.receive(party, members[party].receive(request))
        outbox = server.close_round()
    return server.outcome


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_a_session_opened_again_without_one_client_gets_no_upload(threat_model: str) -> None:
    case = small(threat_model)
    played = record(case)
    with pytest.raises(Aborted, match="got 0 masked inputs"):
        second_opening(case, {party: shelf.ledger for party, shelf in played.shelves.items() if shelf.ledger})


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_control_without_ledgers_two_openings_give_the_victim_away(threat_model: str) -> None:
    case = small(threat_model)
    first = record(case).outcome
    second = second_opening(case, {party: MemoryLedger() for party in case.cohort})
    assert np.array_equal(exact(first.sum - second.sum), exact(case.update(VICTIM)))


# Another story for a client that was rolled back


@dataclass
class Fork:
    """A second story: from the round that it forks in, the victim seems silent; the server's code is honest."""

    case: Case
    played: Transcript
    server: Any
    outbox: dict[str, bytes]
    answered: int  # rounds that the clients have answered where the stories part

    @classmethod
    def at(cls, case: Case, name: str) -> "Fork":
        played = record(case)
        rounds = [phase.round for phase in case.task.protocol.phases]
        server, answered = case.restore_server(played.opened[name]), rounds.index(name) + 1
        for party in case.cohort:
            if party != VICTIM:
                assert server.receive(party, played.replies[party][answered - 1]) == {}
        assert server.pending == {VICTIM}
        return cls(case, played, server, server.close_round(), answered)

    def rolled_back(self, party: str, ledger: Ledger | None) -> Any:
        return self.case.restore(party, self.played.shelves[party].states[self.answered], Shelf(ledger))

    def older_ledger(self, party: str) -> Ledger:
        """The ledger as it was when the state was saved: a client at that point writes it again."""
        shelf = Shelf(MemoryLedger())
        client = self.case.client(party, shelf)
        for request in self.played.requests[party][: self.answered]:
            client.receive(request)
        assert shelf.states[-1] == self.played.shelves[party].states[self.answered]
        assert shelf.ledger is not None
        return shelf.ledger


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
    fork = Fork.at(small(threat_model), name)
    for party in fork.server.pending:
        request = fork.outbox[party]
        assert request != fork.played.requests[party][fork.answered]
        client = fork.rolled_back(party, fork.played.shelves[party].ledger)
        with pytest.raises(Aborted, match="ledger"):
            client.receive(request)
        assert client.finished
        with pytest.raises(secagg.RemoteProtocolError):
            client.receive(fork.played.requests[party][fork.answered])


@pytest.mark.parametrize(("threat_model", "name"), [fork for fork in FORKS if fork[1] != Round.CONSISTENCY_CHECK])
def test_control_ledgers_rolled_back_too_give_the_victim_away(threat_model: str, name: str) -> None:
    fork = Fork.at(small(threat_model), name)
    others = {party: fork.rolled_back(party, fork.older_ledger(party)) for party in fork.outbox}
    server, outbox = fork.server, fork.outbox
    while server.outcome is None:
        for party in sorted(server.pending):
            server.receive(party, others[party].receive(outbox[party]))
        outbox = server.close_round()
    both = fork.played.outcome.sum - server.outcome.sum
    assert np.array_equal(exact(both), exact(fork.case.update(VICTIM)))


# Trained again


def lanes_of(case: Case, message: bytes) -> list[NDArray[Any]]:
    """What an uploaded message carries, still masked."""
    _, payload = Envelope.parse(message, 1 << 20).open(MaskedInput)
    lanes = zero_lanes(case.task)
    fold_lanes(case.task, payload, lanes)
    return lanes


def upload_again(case: Case, ledger: Ledger, update: NDArray[np.float64]) -> tuple[bytes, bytes]:
    """The victim's upload, and the one that it makes when it has trained again with the seed of before."""
    played = record(case)
    requests = played.requests[VICTIM][:3]
    client = case.new_client(VICTIM, Shelf(ledger))
    client.contribute(update)
    return played.replies[VICTIM][2], [client.receive(request) for request in requests][-1]


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_a_client_that_trained_again_uploads_nothing(threat_model: str) -> None:
    case = small(threat_model)
    ledger = MemoryLedger()
    case.client(VICTIM, Shelf(ledger))
    with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
        upload_again(case, ledger, np.zeros(24))


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_control_trained_again_without_its_ledger_it_gives_the_difference(threat_model: str) -> None:
    """One mask over two vectors; the second is one that the server knows, for it chose the model."""
    case = small(threat_model)
    first, second = upload_again(case, MemoryLedger(), np.zeros(24))
    before, after = lanes_of(case, first), lanes_of(case, second)
    for lane, other in zip(before, after, strict=True):
        lane -= other
    reduce_lanes(case.task, before)
    bits = widths(case.task)[0]
    signed = before[0].astype(np.int64)
    signed[signed >= 1 << (bits - 1)] -= 1 << bits
    assert np.array_equal(signed, exact(case.update(VICTIM)))

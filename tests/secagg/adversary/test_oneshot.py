"""OneShot: a server lies to the clients and to honest committee members, with 2 of 7 members and 2 of 7 clients.

Three right answers open a sum, and a set needs five signatures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from he import _kahe_format
from he.errors import HEError
from mpc import packed
from mpc.hpke import Kem, PrivateKey
from secagg import session as session_module
from secagg.errors import FaultKind
from secagg.identity import enrol
from secagg.protocols.oneshot import messages
from secagg.protocols.oneshot.client import OneShotClient
from secagg.protocols.oneshot.member import CommitteeMember
from secagg.protocols.oneshot.messages import SessionKey, public_seed, share_info
from secagg.roles import MemberContext
from secagg.store import MemoryLedger
from secagg.testing import MemoryStore
from secagg.wire import Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    UPDATES,
    VICTIM,
    Vector,
    World,
    has,
    lend,
    make_updates,
    remove,
    step,
)
from tests.secagg.adversary.oneshot import (
    HONEST_MEMBERS,
    LIMIT,
    MEMBERS,
    OTHERS,
    PROTOCOL,
    TASK,
    LyingServer,
    less,
)
from tests.secagg.adversary.registry import attack, refusal

WANTED = UPDATES[VICTIM]


@attack(
    title="The server asks the members twice: for the sum with the victim, then for the sum without it",
    attacker="lying server alone; the members keep no ledger",
    defence="each row of the table is answered once (`Member._answer`)",
    control="with members whose last answers don't change their state: the victim's update",
    source="own; Willow's decryptor has no one-use check",
)
class TestMembersAskedTwice:
    def attack(self) -> tuple[LyingServer, Vector | None]:
        server = LyingServer(World(TASK))
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        whole, rest = (server.collect(chosen) for chosen in (CLIENTS, OTHERS))
        assert whole is not None
        return server, None if rest is None else whole - rest

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        assert server.kinds() == {FaultKind.OUT_OF_TURN}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        commit, states = CommitteeMember._commit, dict[Any, Any]()

        def forgetful(member: Any, draft: Any, row: bytes | None = None) -> None:
            if draft.step == 1:
                states[member] = draft
            commit(member, states[member] if draft.finished else draft)

        monkeypatch.setattr(CommitteeMember, "_commit", forgetful)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="Members are restored from an older state, and the server names another set",
    attacker="lying server, and members that crash and are restored from an old state",
    defence="the ledger's entries for each round, the agreement and the opening (`MemberContext.claim`)",
    control="with the ledger rolled back together with the state: the victim's update",
    source="own; see `limitations.md`",
)
class TestMembersRestored:
    def attack(self, *, ledger_too: bool) -> tuple[LyingServer, Vector | None]:
        world, stores = World(TASK), {party: MemoryStore() for party in MEMBERS}
        server = LyingServer(world, stores=stores)
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        snapshot = {party: (store.states[-1], dict(store.ledger._entries)) for party, store in stores.items()}
        whole = server.collect(CLIENTS)
        assert whole is not None
        for party, (state, entries) in snapshot.items():
            if ledger_too:
                stores[party].ledger._entries = entries
            server.members[party] = world.restore(party, state, stores[party].ledger)
        rest = server.collect(OTHERS)
        return server, None if rest is None else whole - rest

    def test_refused(self) -> None:
        server, recovered = self.attack(ledger_too=False)
        assert recovered is None
        for member in server.members.values():
            assert "the ledger of" in member.faults[0].detail

    def test_control_succeeds(self) -> None:
        assert has(self.attack(ledger_too=True)[1], WANTED, TASK)


@attack(
    title=(
        "Two accounts: three honest members are told of a set with the victim, two of a set without it; corrupt "
        "members sign both and add their shares to both"
    ),
    attacker="lying server, two corrupt members",
    defence="a member gives its sum only for a set that a quorum signed (`CommitteeMember._check_quorum`)",
    control="without the quorum: the victim's update",
    source="own; the consistency check of Bonawitz et al. 2017, section 6.2",
)
class TestTwoAccounts:
    def attack(self) -> tuple[LyingServer, Vector | None]:
        server = LyingServer(World(TASK))
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        opened = []
        for told, chosen in ((HONEST_MEMBERS[:3], CLIENTS), (HONEST_MEMBERS[3:], OTHERS)):
            signed = server.agree(dict.fromkeys(told, chosen)) + server.forged(chosen)
            answers = server.release(signed, told) | server.corrupt_sums(chosen)
            opened.append(server.read(chosen, server.sum_of_keys(answers)))
        whole, rest = opened
        assert whole is not None
        return server, None if rest is None else whole - rest

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        for member in HONEST_MEMBERS[3:]:
            assert (
                "got agreements of 4 members to this set; 5 are needed" in server.members[member].faults[0].detail
            )

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CommitteeMember, "_check_quorum", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="Invented inputs: the server adds inputs to the victim's that it makes in the names of others",
    attacker="lying server alone",
    defence="each member checks the signature under a dealing against its pinned roster "
    "(`MemberContext.check_signature`)",
    control="without the signature check: the victim's update",
    source="own; the Sybils of Bonawitz et al. 2017, section 6.2",
)
class TestInventedInputs:
    updates = make_updates(OTHERS, seed=1)

    def attack(self) -> LyingServer:
        server = LyingServer(World(TASK))
        server.gather([VICTIM])
        strangers, _ = enrol(OTHERS)
        for party, identity in strangers.items():
            server.clients[party] = server.world.join([party], updates=self.updates)[party]
            lend(server.clients[party], identity=identity)
        server.gather(OTHERS)
        server.relay(CLIENTS)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert server.collect(CLIENTS) is None
        assert FaultKind.UNAUTHENTIC in server.kinds()
        assert all(list(member._state.parts) == [VICTIM] for member in server.members.values())

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        assert has(less(self.attack().collect(CLIENTS), OTHERS, self.updates), WANTED, TASK)


@attack(
    title="A small set: the server names only the victim and the colluders, whose updates it knows",
    attacker="lying server, c colluders",
    defence="each member counts the clients of the set, which must reach `min_survivors` "
    "(`CommitteeMember._check_floor`)",
    control="without the floor: the victim's update",
    source="own",
)
class TestSmallSet:
    few = (VICTIM, *COLLUDERS)

    def attack(self) -> Vector | None:
        self.server = LyingServer(World(TASK))
        self.server.gather(CLIENTS)
        self.server.relay(CLIENTS)
        return less(self.server.collect(self.few), COLLUDERS)

    def test_refused(self) -> None:
        assert self.attack() is None
        for member in self.server.members.values():
            assert "got a set of 3 clients; 5 are needed" in member.faults[0].detail

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CommitteeMember, "_check_floor", lambda *_: None)
        assert has(self.attack(), WANTED, TASK)


@attack(
    title="Chosen polynomials: the server wants the public ring elements to be zero, so that they carry no key",
    attacker="lying server alone",
    defence="everyone expands them from the session id, which it computes itself (`public_seed`)",
    control="with polynomials that are zero: the victim's update, read from its ciphertext without any key",
    source="own; the common reference string of ACORN and Willow",
)
class TestChosenPolynomials:
    def attack(self) -> Vector | None:
        server = LyingServer(World(TASK))
        server.gather([VICTIM])
        return server.read([VICTIM], np.zeros(server.scheme.degree, np.int64))

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_kahe_format.Uniform, "write", lambda self, group, k, out: out.fill(0))
        assert has(self.attack(), WANTED, TASK)


@attack(
    title="Replaced session keys: the server shows the victim keys of its own in the members' names",
    attacker="lying server alone",
    defence="a client checks the members' signatures under their session keys (`MemberContext.check_signature`)",
    control="without the signature check: the victim's key, and its update",
    source="own",
)
class TestReplacedKeys:
    def attack(self) -> tuple[LyingServer, Vector | None]:
        server = LyingServer(World(TASK))
        own = {member: PrivateKey(Kem.X25519, bytes([7, place]) * 16) for place, member in enumerate(MEMBERS)}
        strangers, _ = enrol(MEMBERS)
        shown = [server.seal(SessionKey(own[member].public), member, strangers[member]) for member in MEMBERS]
        server.gather([VICTIM], keys=shown)
        if VICTIM not in server.inputs:
            return server, None
        message, _ = server.opened(VICTIM)
        answers = {}
        for place, member in enumerate(MEMBERS):
            text = own[member].open(message.sealed[place], info=share_info(TASK, server.id, VICTIM, member))
            share = packed.read_share(PROTOCOL.committee, server.scheme.degree, place, text[packed.SALT_BYTES :])
            answers[place] = share.kept()
        return server, server.read([VICTIM], server.sum_of_keys(answers))

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        assert server.refusals == {VICTIM: FaultKind.UNAUTHENTIC}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="A later thief: after the session it takes the states of all members, and has recorded the traffic",
    attacker="recorded traffic of one session; later, everything that the members still hold",
    defence="members erase their session keys, and shares, when they are needed no more (`CommitteeMember.erase`)",
    control="with members that erase nothing: the victim's update",
    source="own; forward secrecy",
)
class TestLaterThief:
    def attack(self) -> Vector | None:
        server = LyingServer(World(TASK))
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        assert server.collect(CLIENTS) is not None
        answers = {}
        message, _ = server.opened(VICTIM)
        for place, member in enumerate(MEMBERS):
            state = server.members[member]._state
            held = state.parts[VICTIM].share
            if state.key:
                info = share_info(TASK, server.id, VICTIM, member)
                text = PrivateKey(Kem.X25519, state.key).open(message.sealed[place], info=info)
                share = text[packed.SALT_BYTES :]
                held = packed.read_share(PROTOCOL.committee, server.scheme.degree, place, share).kept()
            if held:
                answers[place] = held
        return server.read([VICTIM], server.sum_of_keys(answers))

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CommitteeMember, "erase", lambda *_: None)
        assert has(self.attack(), WANTED, TASK)


@attack(
    title=(
        "A client that is rolled back: made to encrypt a second update in the same session, with state and ledger "
        "of the time before the first"
    ),
    attacker="lying server; whoever rolls back a client's state and ledger together",
    defence="key and errors follow from the update too (`OneShotClient._secret`)",
    control="with key and errors that follow from seed and session alone: the difference of the two updates",
    source="own; see `limitations.md`",
)
class TestClientRolledBack:
    def attack(self) -> Vector | None:
        server = LyingServer(World(TASK))
        self.second = make_updates([VICTIM], seed=9)[VICTIM]
        state = server.world.role(VICTIM).to_bytes()
        texts = []
        for update in (WANTED, self.second):
            server.clients[VICTIM] = server.world.restore(VICTIM, state, MemoryLedger())
            server.clients[VICTIM].contribute(update)
            server.gather([VICTIM])
            texts.append(server.opened(VICTIM)[1])
        return difference(server, *texts)

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            OneShotClient, "_secret", lambda client, draft: client.context.rng(draft, "one-time-key")(32)
        )
        recovered = self.attack()
        assert recovered is not None
        assert (np.abs(recovered - (WANTED - self.second)) <= step(TASK)).all()


def difference(server: LyingServer, one: bytes, other: bytes) -> Vector | None:
    """The difference of two updates under one key and one error; read under a key of the attacker's own."""
    scheme, public, own = server.scheme, public_seed(server.id), bytes(32)
    tops = [np.full(segment.length, segment.bound, np.uint32) for segment in TASK.segments]
    top = scheme.encrypt(tops, own, public)
    plus, minus = scheme.adder(), scheme.adder()
    for adder, data in ((plus, one), (plus, top), (minus, other)):
        adder.fold(data)
    for mine, theirs in zip(plus._sums, minus._sums, strict=True):
        for residues, taken, prime in zip(mine, theirs, scheme.parameters.primes, strict=True):
            residues[:] = (residues + np.uint64(prime) - taken) % np.uint64(prime)
    try:
        total, _ = scheme.open(plus.total(), scheme.key(own, public).astype(np.int64), 2, public)
    except HEError:
        return None
    return (total - TASK.segments[0].bound) * step(TASK)


@attack(
    title=(
        "A copy: a client sends the victim's ciphertext and key shares as its own, so that the victim counts twice"
    ),
    attacker="one client that sees the victim's upload",
    defence="sealed texts, commitments and challenge name their client (`share_info`, `commitment_context`, "
    "`challenge_context`)",
    control="where they don't name it: a sum is accepted in which the victim's update counts twice",
    source="own; inputs that depend on each other",
)
class TestCopiedInput:
    copier = CLIENTS[1]

    def attack(self) -> tuple[LyingServer, Vector | None]:
        server = LyingServer(World(TASK))
        server.gather(CLIENTS)
        message, ciphertext = server.opened(VICTIM)
        copied, _ = Envelope.parse(message.dealing, LIMIT).open(messages.Dealing)
        signed = server.seal(copied, self.copier)
        copy = messages.KeyedInput(signed, message.commitments, message.sealed)
        server.inputs[self.copier] = Envelope.parse(server.seal(copy, self.copier, payload=ciphertext), LIMIT)
        server.relay(CLIENTS)
        total = server.collect(CLIENTS)
        return server, less(total, set(CLIENTS) - {VICTIM, self.copier})

    def test_refused(self) -> None:
        server, twice = self.attack()
        assert twice is None
        assert FaultKind.UNOPENED_SHARE in server.kinds()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for function in (messages.commitment_context, messages.challenge_context):
            remove(monkeypatch, function, lambda session, client, name=function.__name__: name.encode() + session)
        remove(monkeypatch, messages.share_info, lambda task, session, client, member: session + member.encode())
        twice = self.attack()[1]
        assert has(None if twice is None else twice / 2, WANTED, TASK)


@refusal(
    title="Key shares of an earlier session, handed to members again (`OneShot`)",
    why="the session id is under the dealing's signature, and the text is sealed to a key of the earlier session: "
    "each is enough, and the test takes the first away",
)
def test_shares_of_another_session_are_refused_twice_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for checked in (True, False):
        if not checked:
            remove(monkeypatch, session_module.session_id, lambda **_: bytes(32))
        world = World(TASK)
        first = LyingServer(world)
        first.gather(OTHERS)
        second = LyingServer(world, session=b"round 2")
        second.inputs = first.inputs
        second.relay(OTHERS)
        assert second.collect(OTHERS) is None
        kinds = {FaultKind.FOREIGN_SESSION} if checked else {FaultKind.UNOPENED_SHARE}
        assert kinds <= second.kinds()


@refusal(
    title="A short list of session keys, so that few members hold all shares (`OneShot`)",
    why="how many shares rebuild a key, and at which points, follows from the task; a short list costs liveness",
)
def test_a_short_list_of_session_keys_is_refused() -> None:
    server = LyingServer(World(TASK))
    server.gather([VICTIM], keys=list(server.keys.values())[:4])
    assert server.refusals == {VICTIM: FaultKind.INVALID}


@refusal(
    title="The columns of masks in a sum of key shares (`OneShot`)",
    why="a member drops them before it keeps a share, so no message could carry them; with the proofs, their sum "
    "would give equations between single keys",
)
def test_a_sum_of_shares_has_no_masks() -> None:
    server = LyingServer(World(TASK))
    server.gather(CLIENTS)
    server.relay(CLIENTS)
    answers = server.release(server.agree(dict.fromkeys(MEMBERS, CLIENTS)))
    assert {len(answer) for answer in answers.values()} == {4 * PROTOCOL.committee.columns(server.scheme.degree)}

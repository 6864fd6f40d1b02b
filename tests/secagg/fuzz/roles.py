"""Whole sessions, with lies before every true message and the right sum at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg import wire
from secagg.beacon import SignedBeacon
from secagg.corruption import ThreatModel
from secagg.errors import Aborted, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.protocols.oneshot import OneShot
from secagg.roles.listener import FaultRecorder
from secagg.roles.outcome import Outcome
from secagg.table import Round, contribution_round, rounds
from secagg.testing import MemoryStore, Parties, RequirementError, Session, parties_for, require, rng_for_tests
from tests.secagg.fuzz.dealings import dealt_badly
from tests.secagg.fuzz.mutate import Mutator, take_apart
from tests.secagg.fuzz.tally import Tally

DECRYPTOR = PartyRole.DECRYPTOR
DEALT = (FaultKind.WRONG_DEALING, FaultKind.UNOPENED_SHARE)  # faults that a bad dealing is named for
CERTAIN = (FaultKind.WRONG_DEALING, FaultKind.WRONG_SHARE)  # faults that no honest party is named for
CLIENTS = 5
RESEALS = "c5"  # whose key seals what is changed within a message, if nobody is corrupt
AROUND_A_RING = 8  # clients for whom a graph is sparse, if no more than one of them may drop out
FOR_MEMBER, FOR_SERVER, FOR_RELAYED = 14, 9, 6  # lies before each true message; a server keeps few of a kind
STRANGER = Ed25519PrivateKey.from_private_bytes(rng_for_tests(b"stranger")(32))
OPERATOR = Ed25519PrivateKey.from_private_bytes(rng_for_tests(b"operator")(32))
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)
STRANGERS = ("nobody", "", "c" * 65, "c1\n", "ç", "c66")


def fetch(number: int) -> bytes:
    """The beacon's value of any round: in a fuzzed session all of them are published."""
    return BEACON.publish(OPERATOR, number)


class Pool(list[bytes]):
    """Messages to choose from, and to look one up in."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        super().__init__(messages)
        self._known = frozenset(self)

    def __contains__(self, message: object) -> bool:
        return message in self._known


@dataclass(frozen=True)
class Case:
    """A protocol with its parties, and all messages that three sessions of it consist of."""

    name: str
    parties: Parties

    @cached_property
    def foreign(self) -> Pool:
        """Valid messages of other sessions and of another task: no key of the fuzzed session is in them."""
        other_task = self.parties.make_task(context=b"another run")
        return _messages(
            Session(self.parties, session=b"another", seed=b"another"),
            Session(self.parties, seed=b"again"),
            Session(self.parties, task=other_task),
        )

    @cached_property
    def pool(self) -> Pool:
        """These, and all messages of the fuzzed session itself."""
        fewer = Session(self.parties, silent={"c2": rounds(self.parties.protocol)[0]})
        sessions = [Session(self.parties), fewer]
        if any(phase.relay for phase in self.parties.protocol.phases):
            sessions.append(self._unopened())
        return Pool([*self.foreign, *_messages(*sessions)])

    def _unopened(self) -> Session:
        """A session with a report of c1 that an aggregator can't open, and that therefore comes back."""
        session = Session(self.parties)

        def before_answer(party: str, answer: bytes) -> None:
            if party == "c1":
                frame = take_apart(answer)
                spoilt = frame.structure[:-1] + bytes([frame.structure[-1] ^ 1])
                sealed = replace(frame, structure=spoilt).seal(self.parties.identities[party])
                session.pass_on(session.server.receive(party, sealed))

        session.before_answer = before_answer
        return session


def _messages(*sessions: Session) -> Pool:
    for session in sessions:
        with suppress(Aborted):  # of a protocol that is broken for a test
            session.run()
    return Pool(
        data
        for session in sessions
        for data in (
            *session.requests.values(),
            *session.answers.values(),
            *(part for handed in session.handed.values() for part, _ in handed),
        )
    )


def cases() -> list[Case]:
    """Every protocol, with checksums and with signatures."""
    clear = parties_for(secagg.Clear(), CLIENTS)
    lenient = parties_for(secagg.SecAgg(threat_model="semi-honest"), CLIENTS)
    sparse, ring = _sparse("semi-honest"), _sparse("semi-malicious")
    shares = (
        ("AdditiveShares malicious", secagg.AdditiveShares()),
        ("AdditiveShares semi-honest", secagg.AdditiveShares(threat_model="semi-honest", kem="X25519")),
        ("AdditiveShares of 3 malicious", secagg.AdditiveShares(aggregators=3, kem="X25519")),
        ("AdditiveShares of 3 semi-honest", secagg.AdditiveShares(aggregators=3, threat_model="semi-honest")),
        ("OneShot of 4 malicious", secagg.OneShot(members=4, corrupt_members=1, kem="X25519", recount=True)),
        ("OneShot of 8 malicious", secagg.OneShot(members=8, corrupt_members=2)),
    )
    # To find a key of Paillier's takes longer than a session; BFV shows one of each session.
    encrypted = (secagg.Paillier(bits=2048, key="run"), secagg.BFV(), secagg.CKKS(holder="clients"))
    return [
        Case("Clear", clear),
        Case("Clear signed", clear.enrolled()),
        Case("SecAgg semi-honest", lenient),
        Case("SecAgg semi-honest signed", lenient.enrolled()),
        Case("SecAgg malicious", parties_for(secagg.SecAgg(), CLIENTS)),
        Case("SecAggPlus semi-honest", sparse),
        Case("SecAggPlus semi-honest signed", sparse.enrolled()),
        Case("SecAggPlus semi-malicious", ring),
        Case("SecAggPlus malicious", _sparse("malicious")),
        *(Case(name, parties_for(protocol, CLIENTS)) for name, protocol in shares),
        *(Case(protocol.name, parties_for(protocol, CLIENTS)) for protocol in encrypted),
    ]


def _sparse(threat_model: ThreatModel) -> Parties:
    protocol = secagg.SecAggPlus(threat_model=threat_model, beacon=BEACON if threat_model == "malicious" else None)
    return replace(parties_for(protocol, AROUND_A_RING, beacon=fetch), min_survivors=AROUND_A_RING - 1)


class FuzzedSession:
    """One fuzzed session.

    ``corrupt``, if there is one, is a client or an aggregator that lies under its own valid seal. A client, once
    a lie of it was taken for true, says no more; an aggregator goes on. Everyone else's lies can't be
    sealed and are never taken.
    """

    def __init__(self, case: Case, rng: Random, tally: Tally) -> None:
        self.case, self.rng, self.tally = case, rng, tally
        parties, phases = case.parties, case.parties.protocol.phases
        self.roles, self.opening = parties.roles, phases[0].round
        self.input = next(phase for phase in phases if phase.takes_input)
        self.needs_update = contribution_round(parties.protocol)
        everyone = tuple(self.roles)
        self.corrupt = rng.choice(everyone) if rng.random() < 0.5 else None
        self.mutator = Mutator(rng, case.pool, parties.identities.get(self.corrupt or RESEALS))
        # Before it has heard of anyone's keys, a corrupt client can't copy them. Someone who sees an
        # advert on its way can, and shuts out its client.
        self.newcomer = Mutator(rng, case.foreign, self.mutator.relayed)
        self.silent: dict[str, str] = {}
        if self.corrupt is None and rng.random() < 0.3:
            gone = parties.cohort if rng.random() < 0.1 else (rng.choice(everyone),)
            asked = [phase.round for phase in phases if phase.role is self.roles[gone[0]]]
            self.silent = dict.fromkeys(gone, rng.choice(asked))
        self.late = rng.random() < 0.3  # contributions come when they are asked for
        self.contributed = set[str]() if self.late else set(parties.cohort)
        self.lied: str | None = None  # the first round in which a lie was taken for true
        self.lies = set[str]()  # every such round
        self.dealt_badly = False  # and in it nothing but shares of a key, or a proof, were other ones
        self.session = Session(parties, contribute=not self.late)
        self.session.silent = self.silent
        self.session.before_request = self.before_request
        self.session.before_answer = self.before_answer
        self.session.before_relay = self.before_relay

    def run(self) -> None:
        """Play it; what should not happen becomes a finding."""
        session, target = self.session, f"session {self.case.name}"
        try:
            outcome = session.run()
            self.after_the_end()
            self.check(outcome)
            self.tally.count(target, "exact" if self.lied is None else "over after a lie")
        except Aborted as aborted:
            if self.lied is None and len(self.silent) < 2 and not self.needed(self.silent):
                self.tally.finding(target, "honest session aborted", b"", aborted)
            elif self.lied == self.input.round and self.sealed_whole:
                self.tally.finding(target, "ended by one client", b"", aborted)
            elif self.lied is not None and self.spared:
                self.tally.finding(target, "ended by one member", b"", aborted)
            elif self.dealt_badly and not self.blamed(self.corrupt, *DEALT):
                self.tally.finding(target, "ended by one client, which nobody named", b"", aborted)
            self.after_the_end()
            self.tally.count(target, "aborted")
        except RemoteProtocolError as error:
            self.tally.finding(target, "true bytes refused", b"", error)
        except RequirementError as broken:
            self.tally.finding(target, "wrong sum", b"", broken.args)
        if isinstance(self.case.parties.protocol, OneShot):
            for party in self.roles:
                if party != self.corrupt and self.blamed(party, *CERTAIN):
                    self.tally.finding(target, "an honest party was named", b"", session.server.faults, party)

    @property
    def sealed_whole(self) -> bool:
        """Whether an input is sealed whole to its listeners. What is only encrypted, its own client may change."""
        return self.input.relay is not None and self.input.relayed is None

    @property
    def spared(self) -> bool:
        """Whether the corrupt party is a member of a committee of which so many may lie."""
        return isinstance(self.case.parties.protocol, OneShot) and self.roles.get(self.corrupt or "") is DECRYPTOR

    def needed(self, parties: Iterable[str]) -> bool:
        """Whether a session can't end without one of ``parties``: all but clients are, and members of OneShot."""
        others = [party for party in parties if self.roles[party] is not PartyRole.CLIENT]
        return bool(others) and not isinstance(self.case.parties.protocol, OneShot)

    def blamed(self, party: str | None, *kinds: FaultKind) -> bool:
        """Whether the server has a fault of ``party`` of one of ``kinds``."""
        return any(fault.sender == party and fault.kind in kinds for fault in self.session.server.faults)

    def check(self, outcome: Outcome) -> None:
        """Require the sum that was meant; what nobody can check, a client's input or a share of the sum, apart."""
        others = self.lied != self.input.round and not self.needed([self.corrupt] if self.corrupt else [])
        if self.dealt_badly:  # it may be left out, and nobody else may
            honest = set(self.case.parties.cohort) - {self.corrupt}
            require(honest <= set(outcome.survivors), f"all of {sorted(honest)} to survive", outcome.survivors)
            self.session.require_sum(outcome, "beside a bad dealing")
        elif self.lied is None or others:
            self.session.require_exact(outcome, "beside the fuzzing")
        elif self.lied == self.input.round and self.sealed_whole:
            # A sealed input that was changed doesn't open. It is left out, and nobody else's is.
            honest = set(self.case.parties.cohort) - {self.corrupt}
            require(honest <= set(outcome.survivors), f"all of {sorted(honest)} to survive", outcome.survivors)
            self.session.require_sum(outcome, "beside a client's lies")
        elif self.lied != self.input.round and self.case.parties.protocol.phases[-1].round not in self.lies:
            self.session.require_sum(outcome, "beside an aggregator's lies")

    def after_the_end(self) -> None:
        """Lies to every party that is done."""
        for _ in range(10):
            self.feed_server(self.rng.choice(tuple(self.roles)), self.lie(self.rng.choice(self.case.pool)))
        for party in self.session.members:
            if party not in self.session.gone:
                self.feed_member(party, self.request(self.rng.choice(self.case.pool)))

    def before_request(self, party: str, request: bytes) -> None:
        before = self.session.members[party].to_bytes()
        for _ in range(FOR_MEMBER):
            data = self.request(request)
            if self.feed_member(party, data) not in ("refused", "no contribution"):
                self.take_back(party, before)
            elif self.rng.random() < 0.1 and self.session.members[party].to_bytes() != before:
                self.tally.finding(self.at(party), "changed by refused bytes", data)
        if self.session.members[party].to_bytes() != before:
            self.tally.finding(self.at(party), "changed by refused bytes", b"")
        if self.session.round == self.needs_update and party not in self.contributed:
            self.contributed.add(party)
            self.session.contribute(party)

    def before_answer(self, party: str, answer: bytes) -> None:
        for _ in range(FOR_SERVER):
            if party == self.corrupt and self.rng.random() < 0.3 and (badly := self.dealing(answer)) is not None:
                self.feed_server(party, badly)
                self.dealt_badly = self.dealt_badly or self.lied is not None
            elif party == self.corrupt and self.rng.random() < 0.7:
                mutator = self.newcomer if self.session.round == self.opening else self.mutator
                self.feed_server(party, mutator.message(answer, self.case.parties.identities.get(party)))
            else:
                self.feed_server(self.rng.choice((party, party, *self.senders)), self.lie(answer))

    def dealing(self, answer: bytes) -> bytes | None:
        """An input of OneShot's with the ciphertext as it was, and under its signature other shares or proofs."""
        if not isinstance(self.case.parties.protocol, OneShot) or self.session.round != Round.INPUT or self.lied:
            return None
        places = [int(member.rpartition("-")[2]) - 1 for member in self.session.server.context.state.keys]
        return dealt_badly(self.rng, self.session, answer, sorted(places))

    def before_relay(self, party: str, message: bytes) -> None:
        """What a lying server hands on to an aggregator: the corrupt client's lies too, never anyone else's."""
        before = self.session.members[party].to_bytes()
        for _ in range(FOR_RELAYED):
            data = self.relayed(message)
            result = self.feed_member(party, data)
            if result == "taken" and not self._is_sealed(data, message):
                self.tally.finding(self.at(party), "accepted", data)
            if result != "refused":
                self.take_back(party, before)
        if self.session.members[party].to_bytes() != before:
            self.tally.finding(self.at(party), "changed by refused bytes", b"")

    def take_back(self, party: str, state: bytes) -> None:
        """Restore ``party`` as it was before it took a lie, with a ledger that has not heard it."""
        self.session.stores[party] = MemoryStore()
        self.session.restore(party, state)

    @property
    def senders(self) -> Iterator[str]:
        yield from self.roles
        yield self.rng.choice(STRANGERS)

    @property
    def where(self) -> str:
        return f"{self.case.name} {self.session.round or 'after the end'}"

    def at(self, party: str) -> str:
        """The target that ``party`` is."""
        return f"{self.roles[party]} {self.where}"

    def request(self, request: bytes) -> bytes:
        """What a lying server may send: anything, with a trailer that holds."""
        return self.mutator.message(request) if self.rng.random() < 0.6 else self.lie(request)

    def relayed(self, message: bytes) -> bytes:
        """What a lying server may hand on: as before, and what the corrupt client seals."""
        if self.corrupt is None or self.rng.random() < 0.6:
            return self.request(message)
        identity = self.case.parties.identities[self.corrupt]
        true = self.session.answers.get((self.corrupt, self.session.round), message)
        own = replace(take_apart(true), sender=self.corrupt.encode()).seal(identity)
        return self.mutator.message(own, identity)

    def lie(self, message: bytes) -> bytes:
        """What anyone on the way may send: nothing here has a valid seal of an honest party."""
        chance = self.rng.random()
        if chance < 0.2:
            return self.rng.choice(self.case.pool)
        if chance < 0.3 and self.case.parties.identities:
            return self.mutator.message(message, STRANGER)
        return self.mutator.octets(message if chance < 0.9 else self.rng.choice(self.case.pool))

    def feed_member(self, party: str, data: bytes) -> str:
        """Give ``data`` to a member; what came of it."""
        target, member = self.at(party), self.session.members[party]
        records = isinstance(member, FaultRecorder)
        known, ended = len(member.faults) if records else 0, member.finished
        before = member.to_bytes() if records else b""
        self.tally.trying(data)
        try:
            answer = member.receive(data)
        except RemoteProtocolError as error:
            self.tally.count(target, str(error.fault.kind))
            return "refused"
        except Aborted:
            self.tally.count(target, "aborted")
            return "aborted"
        except LocalProtocolError as error:
            if party in self.contributed or self.session.round not in (self.needs_update, ""):
                self.tally.finding(target, "LocalProtocolError", data, error)
            self.tally.count(target, "no contribution")
            return "no contribution"
        except Exception as error:
            self.tally.finding(target, f"escaped {type(error).__name__}", data, repr(error))
            return "escaped"
        if records and len(member.faults) > known:
            return self._result(target, member, ended, member.to_bytes() != before)
        result = "answered" if answer is not None else "taken"
        self.tally.count(target, result)
        return result

    def _result(self, target: str, member: FaultRecorder[Any], ended: bool, changed: bool) -> str:
        """What a party that never raises made of a message that it found fault with."""
        kind = member.faults[-1].kind
        if member.finished and not ended:
            outcome = "aborted"
        elif changed and kind is FaultKind.UNOPENED_SHARE:
            outcome = "taken"  # to be handed back
        else:
            outcome = "refused"
        self.tally.count(target, str(kind) if outcome == "refused" else f"{outcome}, {kind}")
        return outcome

    def feed_server(self, sender: str, data: bytes) -> None:
        """Give ``data`` to the server as from ``sender``."""
        target, server = f"server {self.where}", self.session.server
        if self._is_true(sender, data):
            return
        pending, faults = server.pending, len(server.faults)
        self.tally.trying(data)
        try:
            outbox = server.receive(sender, data)
        except Exception as error:
            self.tally.finding(target, f"escaped {type(error).__name__}", data, repr(error), sender)
            return
        if server.pending == pending:
            result = server.faults
            self.tally.count(target, str(result[-1].kind) if len(result) > faults else "fault not kept")
            if outbox:
                self.tally.finding(target, "handed on what it refused", data, sender=sender)
        elif sender == self.corrupt and pending - server.pending == {sender}:
            self.tally.count(target, "lie taken")
            self._took(sender)
            self.session.pass_on(outbox)
        else:
            self.tally.finding(target, "accepted", data, sender=sender)

    def _is_true(self, sender: str, data: bytes) -> bool:
        """Whether ``data`` is what ``sender`` itself says in this round, or would if it were not silent."""
        if data == self.session.answers.get((sender, self.session.round)):
            return True  # a change that changed nothing
        if sender not in self.session.server.pending or data not in self.case.pool:
            return False
        asked = next((a for (_, name), a in self.session.answers.items() if name == self.session.round), None)
        return asked is not None and _alike(data, asked)

    def _is_sealed(self, data: bytes, message: bytes) -> bool:
        """Whether the corrupt client sealed ``data``, or an honest one did as an answer beside ``message``.

        A part that is the server's own holds what its client sealed; the mutator seals that as c5 if nobody is
        corrupt.
        """
        if self.corrupt is not None and take_apart(data).sender == self.corrupt.encode():
            return True
        if self.input.relayed is not None and (self.corrupt or RESEALS).encode() in _sealed_inside(data):
            return True
        own = data == message or data in self.session.answers.values() or data in self.case.pool
        return own and _alike(data, message)

    def _took(self, party: str) -> None:
        """A lie of ``party`` was taken for true."""
        self.lied = self.lied or self.session.round
        self.lies.add(self.session.round)
        if self.roles[party] is PartyRole.CLIENT:
            names = rounds(self.case.parties.protocol)
            later = names[names.index(self.session.round) + 1 :]
            if later:
                self.silent[party] = later[0]


def _sealed_inside(data: bytes) -> set[bytes]:
    """The senders of the envelopes in the fields of a message."""
    fields = msgspec.msgpack.decode(bytes(take_apart(data).structure))
    inside = (field for field in fields if isinstance(field, bytes) and field.startswith(wire.MAGIC))
    return {take_apart(field).sender for field in inside}


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two messages are of one kind, task and session."""
    first, second = take_apart(one), take_apart(other)
    return (first.kind, first.task, first.session) == (second.kind, second.task, second.session)

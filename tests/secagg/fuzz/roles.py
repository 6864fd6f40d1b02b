"""Whole sessions, with lies before every true message and the right sum at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg.beacon import SignedBeacon
from secagg.corruption import ThreatModel
from secagg.errors import Aborted, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.roles.listener import Watchful
from secagg.roles.outcome import Outcome
from secagg.table import contribution_round, rounds
from secagg.testing._material import Broken, MemoryStore, require, rng_for_tests
from secagg.testing._session import Casting, Play, cast
from tests.secagg.fuzz.mutate import Mutator, take_apart
from tests.secagg.fuzz.tally import Tally

CLIENTS = 5
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
class Scene:
    """A protocol with its parties, and all messages that three sessions of it consist of."""

    name: str
    casting: Casting

    @cached_property
    def foreign(self) -> Pool:
        """Valid messages of other sessions and of another task: no key of the fuzzed session is in them."""
        other_task = self.casting.make_task(context=b"another run")
        return _messages(
            Play(self.casting, session=b"another", seed=b"another"),
            Play(self.casting, seed=b"again"),
            Play(self.casting, task=other_task),
        )

    @cached_property
    def pool(self) -> Pool:
        """These, and all messages of the fuzzed session itself."""
        fewer = Play(self.casting, silent={"c2": rounds(self.casting.protocol)[0]})
        plays = [Play(self.casting), fewer]
        if any(phase.relay for phase in self.casting.protocol.phases):
            plays.append(self._unopened())
        return Pool([*self.foreign, *_messages(*plays)])

    def _unopened(self) -> Play:
        """A session with a report of c1 that an aggregator can't open, and that therefore comes back."""
        play = Play(self.casting)

        def before_answer(party: str, answer: bytes) -> None:
            if party == "c1":
                frame = take_apart(answer)
                spoilt = frame.structure[:-1] + bytes([frame.structure[-1] ^ 1])
                sealed = replace(frame, structure=spoilt).seal(self.casting.identities[party])
                play.pass_on(play.server.receive(party, sealed))

        play.before_answer = before_answer
        return play


def _messages(*plays: Play) -> Pool:
    for play in plays:
        with suppress(Aborted):  # of a protocol that is broken for a test
            play.run()
    return Pool(data for play in plays for data in (*play.requests.values(), *play.answers.values()))


def scenes() -> list[Scene]:
    """Every protocol, with checksums and with signatures."""
    clear = cast(secagg.Clear(), CLIENTS)
    lenient = cast(secagg.SecAgg(threat_model="semi-honest"), CLIENTS)
    sparse, ring = _sparse("semi-honest"), _sparse("semi-malicious")
    shares = (
        ("AdditiveShares malicious", secagg.AdditiveShares()),
        ("AdditiveShares semi-honest", secagg.AdditiveShares(threat_model="semi-honest", kem="X25519")),
        ("AdditiveShares of 3 malicious", secagg.AdditiveShares(aggregators=3, kem="X25519")),
        ("AdditiveShares of 3 semi-honest", secagg.AdditiveShares(aggregators=3, threat_model="semi-honest")),
    )
    # To find a key of Paillier's takes longer than a session; BFV shows one of each session.
    encrypted = (secagg.Paillier(bits=2048, key="run"), secagg.BFV(), secagg.CKKS(holder="clients"))
    return [
        Scene("Clear", clear),
        Scene("Clear signed", clear.enrolled()),
        Scene("SecAgg semi-honest", lenient),
        Scene("SecAgg semi-honest signed", lenient.enrolled()),
        Scene("SecAgg malicious", cast(secagg.SecAgg(), CLIENTS)),
        Scene("SecAggPlus semi-honest", sparse),
        Scene("SecAggPlus semi-honest signed", sparse.enrolled()),
        Scene("SecAggPlus semi-malicious", ring),
        Scene("SecAggPlus malicious", _sparse("malicious")),
        *(Scene(name, cast(protocol, CLIENTS)) for name, protocol in shares),
        *(Scene(protocol.name, cast(protocol, CLIENTS)) for protocol in encrypted),
    ]


def _sparse(threat_model: ThreatModel) -> Casting:
    protocol = secagg.SecAggPlus(threat_model=threat_model, beacon=BEACON if threat_model == "malicious" else None)
    return replace(cast(protocol, AROUND_A_RING, beacon=fetch), min_survivors=AROUND_A_RING - 1)


class Session:
    """One fuzzed session.

    ``corrupt``, if there is one, is a client or an aggregator that lies under its own valid seal. A client, once
    a lie of it was taken for true, says no more; an aggregator goes on. Everyone else's lies can't be
    sealed and are never taken.
    """

    def __init__(self, scene: Scene, rng: Random, tally: Tally) -> None:
        self.scene, self.rng, self.tally = scene, rng, tally
        casting, phases = scene.casting, scene.casting.protocol.phases
        self.roles, self.opening = casting.roles, phases[0].round
        self.input = next(phase for phase in phases if phase.takes_input)
        self.needs_update = contribution_round(casting.protocol)
        parties = tuple(self.roles)
        self.corrupt = rng.choice(parties) if rng.random() < 0.5 else None
        self.mutator = Mutator(rng, scene.pool, casting.identities.get(self.corrupt or "c5"))
        # Before it has heard of anyone's keys, a corrupt client can't copy them: whoever sees an advert
        # on its way can, and shuts out the client that it is of.
        self.newcomer = Mutator(rng, scene.foreign, self.mutator.relayed)
        self.silent: dict[str, str] = {}
        if self.corrupt is None and rng.random() < 0.3:
            gone = casting.cohort if rng.random() < 0.1 else (rng.choice(parties),)
            asked = [phase.round for phase in phases if phase.role is self.roles[gone[0]]]
            self.silent = dict.fromkeys(gone, rng.choice(asked))
        self.late = rng.random() < 0.3  # contributions come when they are asked for
        self.contributed = set[str]() if self.late else set(casting.cohort)
        self.lied: str | None = None  # the first round in which a lie was taken for true
        self.play = Play(casting, contribute=not self.late)
        self.play.silent = self.silent
        self.play.before_request = self.before_request
        self.play.before_answer = self.before_answer
        self.play.before_relay = self.before_relay

    def run(self) -> None:
        """Play it; what should not happen becomes a finding."""
        play, target = self.play, f"session {self.scene.name}"
        try:
            outcome = play.run()
            self.after_the_end()
            self.check(outcome)
            self.tally.count(target, "exact" if self.lied is None else "over after a lie")
        except Aborted as aborted:
            if self.lied is None and len(self.silent) < 2 and not self.needed(self.silent):
                self.tally.finding(target, "honest session aborted", b"", aborted)
            elif self.lied == self.input.round and self.input.relay is not None:
                self.tally.finding(target, "ended by one client", b"", aborted)
            self.after_the_end()
            self.tally.count(target, "aborted")
        except RemoteProtocolError as error:
            self.tally.finding(target, "true bytes refused", b"", error)
        except Broken as broken:
            self.tally.finding(target, "wrong sum", b"", broken.args)

    def needed(self, parties: Iterable[str]) -> bool:
        """Whether a session can't end without one of ``parties``: all but clients are."""
        return any(self.roles[party] is not PartyRole.CLIENT for party in parties)

    def check(self, outcome: Outcome) -> None:
        """Require the sum that was meant; what nobody can check, a client's input or a share of the sum, apart."""
        if self.lied is None or (self.lied != self.input.round and not self.needed([self.corrupt or ""])):
            self.play.require_exact(outcome, "beside the fuzzing")
        elif self.lied == self.input.round and self.input.relay is not None:
            # A sealed input that was changed doesn't open. It is left out, and nobody else's is.
            honest = set(self.scene.casting.cohort) - {self.corrupt}
            require(honest <= set(outcome.survivors), f"all of {sorted(honest)} to survive", outcome.survivors)
            self.play.require_sum(outcome, "beside a client's lies")
        elif self.lied not in (self.input.round, self.scene.casting.protocol.phases[-1].round):
            self.play.require_sum(outcome, "beside an aggregator's lies")

    def after_the_end(self) -> None:
        """Lies to whoever is done."""
        for _ in range(10):
            self.feed_server(self.rng.choice(tuple(self.roles)), self.lie(self.rng.choice(self.scene.pool)))
        for party in self.play.members:
            if party not in self.play.gone:
                self.feed_member(party, self.request(self.rng.choice(self.scene.pool)))

    def before_request(self, party: str, request: bytes) -> None:
        before = self.play.members[party].to_bytes()
        for _ in range(FOR_MEMBER):
            data = self.request(request)
            if self.feed_member(party, data) not in ("refused", "no contribution"):
                self.take_back(party, before)
            elif self.rng.random() < 0.1 and self.play.members[party].to_bytes() != before:
                self.tally.finding(self.at(party), "changed by refused bytes", data)
        if self.play.members[party].to_bytes() != before:
            self.tally.finding(self.at(party), "changed by refused bytes", b"")
        if self.play.round == self.needs_update and party not in self.contributed:
            self.contributed.add(party)
            self.play.contribute(party)

    def before_answer(self, party: str, answer: bytes) -> None:
        for _ in range(FOR_SERVER):
            if party == self.corrupt and self.rng.random() < 0.7:
                mutator = self.newcomer if self.play.round == self.opening else self.mutator
                self.feed_server(party, mutator.message(answer, self.scene.casting.identities.get(party)))
            else:
                self.feed_server(self.rng.choice((party, party, *self.senders)), self.lie(answer))

    def before_relay(self, party: str, message: bytes) -> None:
        """What a lying server hands on to an aggregator: the corrupt client's lies too, never anyone else's."""
        before = self.play.members[party].to_bytes()
        for _ in range(FOR_RELAYED):
            data = self.relayed(message)
            told = self.feed_member(party, data)
            if told == "taken" and not self._is_sealed(data, message):
                self.tally.finding(self.at(party), "accepted", data)
            if told != "refused":
                self.take_back(party, before)
        if self.play.members[party].to_bytes() != before:
            self.tally.finding(self.at(party), "changed by refused bytes", b"")

    def take_back(self, party: str, state: bytes) -> None:
        """Restore ``party`` as it was before it took a lie, with a ledger that has not heard it."""
        self.play.stores[party] = MemoryStore()
        self.play.restore(party, state)

    @property
    def senders(self) -> Iterator[str]:
        yield from self.roles
        yield self.rng.choice(STRANGERS)

    @property
    def where(self) -> str:
        return f"{self.scene.name} {self.play.round or 'after the end'}"

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
        identity = self.scene.casting.identities[self.corrupt]
        true = self.play.answers.get((self.corrupt, self.play.round), message)
        own = replace(take_apart(true), sender=self.corrupt.encode()).seal(identity)
        return self.mutator.message(own, identity)

    def lie(self, message: bytes) -> bytes:
        """What anyone on the way may send: nothing here has a valid seal of an honest party."""
        chance = self.rng.random()
        if chance < 0.2:
            return self.rng.choice(self.scene.pool)
        if chance < 0.3 and self.scene.casting.identities:
            return self.mutator.message(message, STRANGER)
        return self.mutator.octets(message if chance < 0.9 else self.rng.choice(self.scene.pool))

    def feed_member(self, party: str, data: bytes) -> str:
        """Give ``data`` to a member; what came of it."""
        target, member = self.at(party), self.play.members[party]
        watchful = isinstance(member, Watchful)
        known, ended = len(member.faults) if watchful else 0, member.finished
        before = member.to_bytes() if watchful else b""
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
            if party in self.contributed or self.play.round not in (self.needs_update, ""):
                self.tally.finding(target, "LocalProtocolError", data, error)
            self.tally.count(target, "no contribution")
            return "no contribution"
        except Exception as error:
            self.tally.finding(target, f"escaped {type(error).__name__}", data, repr(error))
            return "escaped"
        if watchful and len(member.faults) > known:
            return self._told(target, member, ended, member.to_bytes() != before)
        told = "answered" if answer is not None else "taken"
        self.tally.count(target, told)
        return told

    def _told(self, target: str, member: Watchful[Any], ended: bool, changed: bool) -> str:
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
        target, server = f"server {self.where}", self.play.server
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
            told = server.faults
            self.tally.count(target, str(told[-1].kind) if len(told) > faults else "fault not kept")
            if outbox:
                self.tally.finding(target, "handed on what it refused", data, sender=sender)
        elif sender == self.corrupt and pending - server.pending == {sender}:
            self.tally.count(target, "lie taken")
            self._took(sender)
            self.play.pass_on(outbox)
        else:
            self.tally.finding(target, "accepted", data, sender=sender)

    def _is_true(self, sender: str, data: bytes) -> bool:
        """Whether ``data`` is what ``sender`` itself says in this round, or would if it were not silent."""
        if data == self.play.answers.get((sender, self.play.round)):
            return True  # a change that changed nothing
        if sender not in self.play.server.pending or data not in self.scene.pool:
            return False
        asked = next((a for (_, name), a in self.play.answers.items() if name == self.play.round), None)
        return asked is not None and _alike(data, asked)

    def _is_sealed(self, data: bytes, message: bytes) -> bool:
        """Whether the corrupt client sealed ``data``, or an honest one did as an answer beside ``message``."""
        if self.corrupt is not None and take_apart(data).sender == self.corrupt.encode():
            return True
        own = data in self.play.answers.values() or data in self.scene.pool
        return own and _alike(data, message)

    def _took(self, party: str) -> None:
        """A lie of ``party`` was taken for true."""
        self.lied = self.lied or self.play.round
        if not self.needed([party]):
            names = rounds(self.scene.casting.protocol)
            later = names[names.index(self.play.round) + 1 :]
            if later:
                self.silent[party] = later[0]


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two messages are of one kind, task and session."""
    first, second = take_apart(one), take_apart(other)
    return (first.kind, first.task, first.session) == (second.kind, second.task, second.session)

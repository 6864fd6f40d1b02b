"""Whole sessions, with lies before every true message and the right sum at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg.errors import Aborted, LocalProtocolError, RemoteProtocolError
from secagg.protocols.base import input_round, rounds
from secagg.testing._play import Broken, Casting, MemoryStore, Play, cast, rng_for_tests
from tests.secagg.fuzz.mutate import Mutator, take_apart
from tests.secagg.fuzz.tally import Tally

CLIENTS = 5
FOR_MEMBER, FOR_SERVER = 14, 9  # lies before each true message; a server keeps few of a kind
STRANGER = Ed25519PrivateKey.from_private_bytes(rng_for_tests(b"stranger")(32))
STRANGERS = ("nobody", "", "c" * 65, "c1\n", "ç", "c6")


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
        return Pool([*self.foreign, *_messages(Play(self.casting), fewer)])


def _messages(*plays: Play) -> Pool:
    for play in plays:
        play.run()
    return Pool(data for play in plays for data in (*play.requests.values(), *play.answers.values()))


def scenes() -> list[Scene]:
    """Every protocol, with checksums and with signatures."""
    clear = cast(secagg.Clear(), CLIENTS)
    lenient = cast(secagg.SecAgg(threat_model="semi-honest"), CLIENTS)
    return [
        Scene("Clear", clear),
        Scene("Clear signed", clear.enrolled()),
        Scene("SecAgg semi-honest", lenient),
        Scene("SecAgg semi-honest signed", lenient.enrolled()),
        Scene("SecAgg malicious", cast(secagg.SecAgg(), CLIENTS)),
    ]


class Session:
    """One fuzzed session.

    ``corrupt``, if there is one, is a client that lies under its own valid seal; once a lie of it
    was taken for true, it says no more. Everyone else's lies can't be sealed and are never taken.
    """

    def __init__(self, scene: Scene, rng: Random, tally: Tally) -> None:
        self.scene, self.rng, self.tally = scene, rng, tally
        cohort, names = scene.casting.cohort, rounds(scene.casting.protocol)
        self.corrupt = rng.choice(cohort) if rng.random() < 0.5 else None
        self.mutator = Mutator(rng, scene.pool, scene.casting.identities.get(self.corrupt or "c5"))
        # Before it has heard of anyone's keys, a corrupt client can't copy them: whoever sees an advert
        # on its way can, and shuts out the client that it is of.
        self.newcomer = Mutator(rng, scene.foreign, self.mutator.relayed)
        self.silent: dict[str, str] = {}
        if self.corrupt is None and rng.random() < 0.3:
            gone = cohort if rng.random() < 0.1 else (rng.choice(cohort),)
            self.silent = dict.fromkeys(gone, rng.choice(names))
        self.late = rng.random() < 0.3  # contributions come when they are asked for
        self.contributed = set[str]() if self.late else set(cohort)
        self.lied: str | None = None  # the first round in which a lie was taken for true
        self.play = Play(scene.casting, contribute=not self.late)
        self.play.silent = self.silent
        self.play.before_request = self.before_request
        self.play.before_answer = self.before_answer

    def run(self) -> None:
        """Play it; what should not happen becomes a finding."""
        play, target = self.play, f"session {self.scene.name}"
        try:
            outcome = play.run()
            self.after_the_end()
            if self.lied != input_round(self.scene.casting.protocol):
                play.require_exact(outcome, "beside the fuzzing")
            self.tally.count(target, "exact" if self.lied is None else "over after a lie")
        except Aborted as aborted:
            if self.lied is None and len(self.silent) < 2:
                self.tally.finding(target, "honest session aborted", b"", aborted)
            self.after_the_end()
            self.tally.count(target, "aborted")
        except RemoteProtocolError as error:
            self.tally.finding(target, "true bytes refused", b"", error)
        except Broken as broken:
            self.tally.finding(target, "wrong sum", b"", broken.args)

    def after_the_end(self) -> None:
        """Lies to whoever is done."""
        for _ in range(10):
            self.feed_server(self.rng.choice(self.scene.casting.cohort), self.lie(self.rng.choice(self.scene.pool)))
        for party in self.play.members:
            if party not in self.play.gone:
                self.feed_member(party, self.request(self.rng.choice(self.scene.pool)))

    def before_request(self, party: str, request: bytes) -> None:
        before = self.play.members[party].to_bytes()
        for _ in range(FOR_MEMBER):
            data = self.request(request)
            if self.feed_member(party, data) not in ("refused", "no contribution"):
                self.play.stores[party] = MemoryStore()  # with a ledger that has not heard the lie
                self.play.restore(party, before)
            elif self.rng.random() < 0.1 and self.play.members[party].to_bytes() != before:
                self.tally.finding(f"client {self.where}", "changed by refused bytes", data)
        if self.play.members[party].to_bytes() != before:
            self.tally.finding(f"client {self.where}", "changed by refused bytes", b"")
        if self.play.round == input_round(self.scene.casting.protocol) and party not in self.contributed:
            self.contributed.add(party)
            self.play.contribute(party)

    def before_answer(self, party: str, answer: bytes) -> None:
        for _ in range(FOR_SERVER):
            if party == self.corrupt and self.rng.random() < 0.7:
                identity = self.scene.casting.identities.get(party)
                first = self.play.round == rounds(self.scene.casting.protocol)[0]
                self.feed_server(party, (self.newcomer if first else self.mutator).message(answer, identity))
            else:
                self.feed_server(self.rng.choice((party, party, *self.senders)), self.lie(answer))

    @property
    def senders(self) -> Iterator[str]:
        yield from self.scene.casting.cohort
        yield self.rng.choice(STRANGERS)

    @property
    def where(self) -> str:
        return f"{self.scene.name} {self.play.round or 'after the end'}"

    def request(self, request: bytes) -> bytes:
        """What a lying server may send: anything, with a trailer that holds."""
        return self.mutator.message(request) if self.rng.random() < 0.6 else self.lie(request)

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
        target, member = f"client {self.where}", self.play.members[party]
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
            wanted = input_round(self.scene.casting.protocol)
            if party in self.contributed or self.play.round != wanted:
                self.tally.finding(target, "LocalProtocolError", data, error)
            self.tally.count(target, "no contribution")
            return "no contribution"
        except Exception as error:
            self.tally.finding(target, f"escaped {type(error).__name__}", data, repr(error))
            return "escaped"
        self.tally.count(target, "answered" if answer is not None else "taken")
        return "answered"

    def feed_server(self, sender: str, data: bytes) -> None:
        """Give ``data`` to the server as from ``sender``."""
        target, server = f"server {self.where}", self.play.server
        if self._is_true(sender, data):
            return
        pending, faults = server.pending, len(server.faults)
        self.tally.trying(data)
        try:
            server.receive(sender, data)
        except Exception as error:
            self.tally.finding(target, f"escaped {type(error).__name__}", data, repr(error), sender)
            return
        if server.pending == pending:
            told = server.faults
            self.tally.count(target, str(told[-1].kind) if len(told) > faults else "fault not kept")
        elif sender == self.corrupt and pending - server.pending == {sender}:
            self.tally.count(target, "lie taken")
            self._fall_silent(sender)
        else:
            self.tally.finding(target, "accepted", data, sender=sender)

    def _is_true(self, sender: str, data: bytes) -> bool:
        """Whether ``data`` is what ``sender`` itself says in this round, or would if it were not silent."""
        if data == self.play.answers.get((sender, self.play.round)):
            return True  # a change that changed nothing
        if sender not in self.play.server.pending or data not in self.scene.pool:
            return False
        asked = next((a for (_, name), a in self.play.answers.items() if name == self.play.round), None)
        frame = take_apart(data)
        same = asked is not None and take_apart(asked)
        return bool(same) and (frame.kind, frame.task, frame.session) == (same.kind, same.task, same.session)

    def _fall_silent(self, party: str) -> None:
        names = rounds(self.scene.casting.protocol)
        self.lied = self.lied or self.play.round
        later = names[names.index(self.play.round) + 1 :]
        if later:
            self.silent[party] = later[0]

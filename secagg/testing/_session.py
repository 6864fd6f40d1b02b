"""The stage of the checks: a protocol with all its parties, played message by message."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from secagg import wire
from secagg.beacon import Fetch
from secagg.errors import Aborted, ConfigError, RemoteProtocolError
from secagg.fixed_point import FixedPoint
from secagg.identity import Party, PartyRole, Roster
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol, key_pairs
from secagg.roles.environment import Environment
from secagg.roles.member import Member
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.table import input_round
from secagg.task import Task
from secagg.testing._material import Broken, Integers, MemoryStore, clock_for_tests, require, rng_for_tests

SESSION = bytes(range(32))

Numbers = dict[str, NDArray[Any]]
Tamper = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Casting:
    """A protocol with enough parties to play it: a cohort and everyone enrolled beside it."""

    protocol: AggregationProtocol
    cohort: tuple[str, ...]
    roles: Mapping[str, PartyRole]
    identities: Mapping[str, Ed25519PrivateKey]
    roster: Roster | None
    min_survivors: int
    long_lived: Mapping[str, bytes] = field(default_factory=dict)  # private keys beside the identities
    beacon: Fetch | None = None

    @cached_property
    def task(self) -> Task:
        """The least task of all: a few weighted coordinates."""
        return self.make_task()

    def make_task(self, **changes: Any) -> Task:
        """The least task with some fields changed."""
        plain: dict[str, Any] = {
            "protocol": self.protocol,
            "layout": Layout.of({"w": np.zeros(5, np.float32)}),
            "encoding": FixedPoint(clip=1.0, bits=12, rounding="nearest"),
            "max_clients": len(self.cohort),
            "min_survivors": self.min_survivors,
            "max_weight": 9,
            "context": b"check_protocol",
        }
        return Task(**(plain | changes))

    def enrolled(self) -> Casting:
        """The same with identities and a roster of everyone."""
        keys = {p: Ed25519PrivateKey.from_private_bytes(rng_for_tests(p.encode())(32)) for p in self.roles}
        pairs = _key_pairs(self.protocol, tuple(self.roles.items()))
        public = {party: pair[1] for party, pair in pairs.items() if self.roles[party] is not PartyRole.CLIENT}
        parties = (
            Party(p, self.roles[p], key.public_key().public_bytes_raw(), public.get(p)) for p, key in keys.items()
        )
        private = {party: pair[0] for party, pair in pairs.items()}
        return replace(self, identities=keys, roster=Roster(parties), long_lived=private)

    def key(self, party: str) -> dict[str, Any]:
        """The argument ``key`` of a party that has one."""
        return {"key": self.long_lived[party]} if party in self.long_lived else {}

    @property
    def silences(self) -> Iterator[tuple[str, PartyRole]]:
        """The rounds of the table, each with the role that it asks."""
        return ((phase.round, phase.role) for phase in self.protocol.phases)


@lru_cache(maxsize=8)
def _key_pairs(
    protocol: AggregationProtocol, roles: tuple[tuple[str, PartyRole], ...]
) -> dict[str, tuple[bytes, bytes]]:
    """A Paillier key takes a tenth of a second to find; the same parties get the same one."""
    return key_pairs(protocol, dict(roles), lambda party: rng_for_tests(b"key of " + party.encode()))


def cast(protocol: AggregationProtocol, clients: int, beacon: Fetch | None = None) -> Casting:
    """No identities where a protocol needs none, and the least ``min_survivors`` from 2 on that it accepts."""
    cohort = tuple(wire.stand_in_ids(clients))
    others = protocol.others
    roles = dict.fromkeys(cohort, PartyRole.CLIENT)
    roles |= {f"{role}-{number}": role for role in sorted(others) for number in range(1, others[role] + 1)}
    refusal: ConfigError | None = None
    for enrolled in (True,) if others else (False, True):
        for least in range(min(2, clients), clients + 1):  # at 1, no floor could be missed
            casting = Casting(protocol, cohort, roles, {}, None, least, beacon=beacon)
            casting = casting.enrolled() if enrolled else casting
            try:
                casting.task.server(cohort, roster=casting.roster, session=SESSION)
            except ConfigError as error:
                refusal = error
                continue
            return casting
    raise ConfigError(f"got no task for {clients} clients that {protocol.name} accepts: {refusal}")


class Play:
    """One session with all its parties, message by message.

    The hooks see each message on its way, before it is delivered and after it was taken; what
    they need they do to ``members`` and ``server`` themselves. ``silent`` maps a party to the round
    before whose message it falls silent.
    """

    def __init__(
        self,
        casting: Casting,
        *,
        task: Task | None = None,
        session: bytes = SESSION,
        seed: bytes = b"",
        silent: Mapping[str, str] | None = None,
        contribute: bool = True,
    ) -> None:
        self.casting, self.task, self.silent = casting, task or casting.task, silent or {}
        self.stores = defaultdict[str, MemoryStore](MemoryStore)
        self._server_rng = rng_for_tests(seed)  # a restored server goes on with it
        self.server: Server[Any] = self.task.server(
            casting.cohort,
            roster=casting.roster,
            session=session,
            save=self.stores[wire.SERVER],
            rng=self._server_rng,
            beacon=casting.beacon,
        )
        makers: dict[PartyRole, Callable[..., Member[Any]]] = {
            PartyRole.CLIENT: self.task.client,
            PartyRole.DECRYPTOR: self.task.decryptor,
            PartyRole.AGGREGATOR: self.task.aggregator,
        }
        self.members: dict[str, Member[Any]] = {
            party: makers[role](
                party,
                identity=casting.identities.get(party),
                roster=casting.roster,
                session=session,
                save=self.stores[party],
                rng=rng_for_tests(seed + party.encode()),
                clock=clock_for_tests,
                **casting.key(party),
            )
            for party, role in casting.roles.items()
        }
        self.updates = updates_for(self.task, casting.cohort)
        if contribute:
            for party in casting.cohort:
                self.contribute(party)
        self.requests: dict[tuple[str, str], bytes] = {}  # by party and round
        self.answers: dict[tuple[str, str], bytes] = {}
        self.gone: dict[str, str] = {}  # who did fall silent, and when
        self._passed_on: set[tuple[str, bytes]] = set()
        self.before_request: Tamper = _nothing
        self.after_request: Tamper = _nothing
        self.before_answer: Tamper = _nothing
        self.after_answer: Tamper = _nothing
        self.before_relay: Tamper = _nothing
        self.order: Callable[[list[str]], list[str]] = list

    @property
    def round(self) -> str:
        """The open round."""
        return self.server.round or ""

    def contribute(self, party: str) -> None:
        """Give a client its update, and its weight where there are weights."""
        weight = None if self.task.max_weight is None else weight_for(self.task, party)
        self.members[party].contribute(self.updates[party], weight)  # type: ignore[attr-defined]

    def run(self) -> Outcome:
        """Play to the end; ``Aborted`` as the server raises it."""
        outbox = self.server.start()
        while self.server.outcome is None:
            self.exchange(outbox)
            outbox = self.server.close_round()
        return self.server.outcome

    def exchange(self, outbox: Outbox) -> None:
        """Deliver requests, then the answers to them."""
        name, answers = self.round, dict[str, bytes]()
        for party, request in outbox.items():
            if self.silent.get(party) == name and party not in self.gone:
                self.gone[party] = name
            if party in self.gone:
                continue
            self.before_request(party, request)
            answer = self.members[party].receive(request)
            self.requests[party, name] = request
            if answer is not None:
                self.answers[party, name] = answers[party] = answer
            self.after_request(party, request)
        for party in self.order(list(answers)):
            self.before_answer(party, answers[party])
            self.pass_on(self.server.receive(party, answers[party]))
            self.after_answer(party, answers[party])

    def pass_on(self, outbox: Outbox) -> None:
        """Deliver what the server hands on, each message once."""
        for party, data in outbox.items():
            if party not in self.gone and (party, data) not in self._passed_on:
                self._passed_on.add((party, data))
                self.before_relay(party, data)
                self.members[party].receive(data)

    def restore(self, party: str, state: bytes) -> None:
        """Put a role that was saved as ``state`` in the place of ``party``'s."""
        self.members[party] = type(self.members[party]).from_bytes(
            state,
            self.task,
            Environment(
                identity=self.casting.identities.get(party),
                roster=self.casting.roster,
                save=self.stores[party],
                clock=clock_for_tests,
                **self.casting.key(party),
            ),
        )

    def _take_up_again(self, party: str, state: bytes) -> None:
        """Restore a role that gave the session up as if it had not, over the state that says so."""
        self.stores[party].number = -1
        self.restore(party, state)

    def restore_server(self, state: bytes) -> None:
        """The same for the server."""
        self.server = self.task.restore_server(
            state,
            roster=self.casting.roster,
            save=self.stores[wire.SERVER],
            beacon=self.casting.beacon,
            rng=self._server_rng,
        )

    def refused_by(self, party: str, data: bytes, what: str) -> None:
        """Require that ``party`` refuses ``data`` and is as it was; a session given up is taken up again."""
        member = self.members[party]
        before, faults = member.to_bytes(), len(getattr(member, "faults", ()))
        try:
            answer = member.receive(data)
        except RemoteProtocolError:
            pass
        except Aborted:
            require(member.finished, f"{party} finished after Aborted", "one that still waits")
            self._take_up_again(party, before)
            return
        else:
            told = answer is None and len(getattr(member, "faults", ())) > faults
            require(told, f"{party} to refuse {what} in {self.round}", "a client that took it")
            if member.finished:
                self._take_up_again(party, before)
                return
        require(member.to_bytes() == before, f"{party} unchanged by {what} in {self.round}", "another state")

    def refused_by_server(self, sender: str, data: bytes, what: str) -> None:
        """Require that the server marks ``sender`` for ``data``, hands nothing on and still awaits the same."""
        server, where = self.server, f"{what} of {sender} in {self.round or 'no round'}"
        pending, faults = server.pending, server.faults
        outbox = server.receive(sender, data)
        marked = len(server.faults) > len(faults) and server.faults[-1].sender == sender
        require(marked, f"a fault for {where}", server.faults[len(faults) :])
        require(not outbox, f"nothing to hand on for {where}", sorted(outbox))
        require(server.pending == pending, f"pending as it was after {where}", sorted(server.pending))

    def ignored_by_server(self, sender: str, data: bytes, what: str) -> None:
        """Require that nothing comes of ``data``, which the server took before: no fault either."""
        server, where = self.server, f"{what} of {sender} in {self.round or 'no round'}"
        before, faults = server.to_bytes(), server.faults
        outbox = server.receive(sender, data)
        require(not outbox, f"nothing to hand on for {where}", sorted(outbox))
        require(server.faults == faults, f"no fault for {where}", server.faults[len(faults) :])
        require(server.to_bytes() == before, f"a server unchanged by {where}", "another state")

    def expected_survivors(self) -> tuple[str, ...]:
        """Who had sent its input when it fell silent, if it did."""
        named = [phase.round for phase in self.casting.protocol.phases]
        early = set(named[: named.index(input_round(self.casting.protocol)) + 1])
        return tuple(sorted(party for party in self.casting.cohort if self.gone.get(party) not in early))

    def require_exact(self, outcome: Outcome, when: str) -> None:
        """Require the exact sum over exactly the survivors."""
        survivors = self.expected_survivors()
        require(outcome.survivors == survivors, f"the survivors {survivors} {when}", outcome.survivors)
        told = {party: outcome.dropped.get(party) for party in self.gone if party in self.casting.cohort}
        gone = {party: name for party, name in self.gone.items() if party in self.casting.cohort}
        require(told == gone, f"{gone} as dropped {when}", dict(outcome.dropped))
        self.require_sum(outcome, when)

    def require_sum(self, outcome: Outcome, when: str) -> None:
        """Require the exact sum over those that ``outcome`` names as survivors, whoever they are."""
        summed, mean, weight = expected_outcome(self.task, self.server.session, self.updates, outcome.survivors)
        for name, expected, got in (
            *(("sum", summed[leaf], outcome.sum[leaf]) for leaf in summed),
            *(("mean", mean[leaf], outcome.mean[leaf]) for leaf in mean),
        ):
            require(np.array_equal(expected, got), f"the exact {name} {when}: {expected!r}", repr(got))
        require(outcome.total_weight == weight, f"total weight {weight} {when}", outcome.total_weight)

    def require_completes(self, when: str) -> None:
        """Play to the end and require the exact sum."""
        try:
            outcome = self.run()
        except Aborted as aborted:
            raise Broken(f"the session to complete {when}", f"Aborted: {aborted}") from aborted
        except RemoteProtocolError as error:
            raise Broken(f"the true bytes to be taken {when}", str(error)) from error
        self.require_exact(outcome, when)


def _nothing(party: str, data: bytes) -> None:
    """The hook that does nothing."""


def updates_for(task: Task, cohort: Iterable[str]) -> dict[str, Numbers]:
    """An update for each client, extremes and clipped coordinates among them."""
    updates: dict[str, Numbers] = {}
    for place, party in enumerate(cohort):
        draw = np.random.default_rng(place)
        if isinstance(task.encoding, Integers):
            numbers: list[int] = []
            for length, bound, _ in task.encoding.shapes:
                numbers += [bound, 0, min(bound, bound // 2 + place)][:length]
                numbers += (int(n) for n in draw.integers(0, bound, max(0, length - 3), endpoint=True))
            updates[party] = {"halves": task.encoding.halves(numbers)}
            continue
        updates[party] = {
            leaf.name: np.asarray(draw.uniform(-1.3, 1.3, leaf.shape)).astype(leaf.dtype)
            for leaf in task.layout.leaves
        }
    return updates


def weight_for(task: Task, party: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(party.encode()).digest()[:4], "big") % (task.max_weight or 1)


def expected_outcome(
    task: Task, session: bytes, updates: Mapping[str, Numbers], survivors: Sequence[str]
) -> tuple[Numbers, Numbers, int]:
    """Sum, mean and total weight by Python's integers, from what each survivor's encoding is."""
    encoder, totals = task.encoder_for(session), [[0] * segment.length for segment in task.segments]
    for party in survivors:
        encoded = encoder.encode(
            task.layout.flatten(updates[party]),
            layout=task.layout,
            weight=None if task.max_weight is None else weight_for(task, party),
            max_weight=task.max_weight,
            rng=rng_for_tests(b"not drawn from: rounding is to nearest"),
        )
        totals = [
            [total + int(term) for total, term in zip(sums, part, strict=True)]
            for sums, part in zip(totals, encoded, strict=True)
        ]
    reduced = [
        np.array([total % (segment.modulus or 1 << 64) for total in sums], np.uint64)
        for sums, segment in zip(totals, task.segments, strict=True)
    ]
    layout = task.layout
    decoded = encoder.decode(reduced, layout=layout, survivors=len(survivors), max_weight=task.max_weight)
    return layout.restore(decoded.sum, dtype="float64"), layout.restore(decoded.mean), decoded.total_weight

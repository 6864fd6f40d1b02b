"""A protocol with all its parties: who is enrolled under which role, with which keys, for which task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import wire
from secagg.beacon import Fetch
from secagg.errors import ConfigError
from secagg.fixed_point import FixedPoint
from secagg.identity import Party, PartyRole, Roster
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol, key_pairs
from secagg.task import Task
from secagg.testing._material import rng_for_tests

SESSION = bytes(range(32))


@dataclass(frozen=True)
class Parties:
    """A ``protocol`` with enough parties to run it: a ``cohort`` of clients, and all others that are enrolled.

    ``roles`` has everyone's role by id. ``identities`` and ``roster`` are empty and None where a protocol runs
    without them; :meth:`enrolled` adds them. ``min_survivors`` is that of the task. ``long_lived`` has the private
    keys that some roles hold besides their identity, and ``beacon`` gives the value of a round of the protocol's
    beacon.
    """

    protocol: AggregationProtocol
    cohort: tuple[str, ...]
    roles: Mapping[str, PartyRole]
    identities: Mapping[str, Ed25519PrivateKey]
    roster: Roster | None
    min_survivors: int
    long_lived: Mapping[str, bytes] = field(default_factory=dict)
    beacon: Fetch | None = None

    @cached_property
    def task(self) -> Task:
        """A small task: five weighted coordinates, rounded to the nearest."""
        return self.make_task()

    def make_task(self, **changes: Any) -> Task:
        """The same task with some fields changed: ``changes`` are those of :class:`secagg.Task`."""
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

    def enrolled(self, seed: bytes = b"") -> Parties:
        """The same parties with identities and a roster of everyone; another ``seed`` gives other keys."""
        keys = {p: Ed25519PrivateKey.from_private_bytes(rng_for_tests(seed + p.encode())(32)) for p in self.roles}
        pairs = _key_pairs(self.protocol, tuple(self.roles.items()), seed)
        public = {party: pair[1] for party, pair in pairs.items() if self.roles[party] is not PartyRole.CLIENT}
        enrolled = (
            Party(p, self.roles[p], key.public_key().public_bytes_raw(), public.get(p)) for p, key in keys.items()
        )
        private = {party: pair[0] for party, pair in pairs.items()}
        return replace(self, identities=keys, roster=Roster(enrolled), long_lived=private)

    def ids(self, role: PartyRole) -> list[str]:
        """The parties of the role ``role``."""
        return [party for party, its in self.roles.items() if its is role]

    @property
    def silences(self) -> Iterator[tuple[str, PartyRole]]:
        """The rounds of the protocol's table, each with a role that answers there, to a request or by a word."""
        for phase in self.protocol.phases:
            yield phase.round, phase.role
            if phase.word is not None and phase.relay is not None:
                yield phase.round, phase.relay


def roles_of(protocol: AggregationProtocol, cohort: Iterable[str]) -> dict[str, PartyRole]:
    """The roles of ``cohort`` and of all other parties of ``protocol``, which are named role-1, role-2, …"""
    roles = dict.fromkeys(cohort, PartyRole.CLIENT)
    others = protocol.party_counts
    return roles | {f"{role}-{number}": role for role in sorted(others) for number in range(1, others[role] + 1)}


@lru_cache(maxsize=16)
def _key_pairs(
    protocol: AggregationProtocol, roles: tuple[tuple[str, PartyRole], ...], seed: bytes
) -> dict[str, tuple[bytes, bytes]]:
    """A Paillier key takes a tenth of a second to find; the same parties get the same one."""
    return key_pairs(protocol, dict(roles), lambda party: rng_for_tests(b"key of " + seed + party.encode()))


def parties_for(protocol: AggregationProtocol, clients: int, beacon: Fetch | None = None) -> Parties:
    """``clients`` clients named c1, c2, …, and as many of other roles as ``protocol`` states.

    They have identities only where a protocol demands them, and the least ``min_survivors`` from 2 on that it
    accepts. ``beacon`` gives the value of a round of the protocol's beacon, if it has one. Raises ``ConfigError``
    if it accepts none up to ``clients``.
    """
    cohort = tuple(wire.stand_in_ids(clients))
    others = protocol.party_counts
    roles = roles_of(protocol, cohort)
    refusal: ConfigError | None = None
    for enrolled in (True,) if others else (False, True):
        for least in range(min(2, clients), clients + 1):  # at 1, no floor could be missed
            parties = Parties(protocol, cohort, roles, {}, None, least, beacon=beacon)
            parties = parties.enrolled() if enrolled else parties
            try:
                parties.task.server(cohort, roster=parties.roster, session=SESSION, beacon=beacon)
            except ConfigError as error:
                refusal = error
                continue
            return parties
    raise ConfigError(f"got no task for {clients} clients that {protocol.name} accepts: {refusal}")

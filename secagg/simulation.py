"""All parties of a session in one process, for experiments, tests and plans.

This code holds every client's plaintext. It is named simulate so that nobody deploys it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import _warnings, identity
from secagg._numbers import is_a
from secagg._reading import is_labelled
from secagg.beacon import Fetch
from secagg.errors import ConfigError, EncodingError, LocalProtocolError, blaming, shown
from secagg.identity import PartyRole, Roster, check_party_id
from secagg.protocols.base import AggregationProtocol, key_pairs
from secagg.roles.client import Client
from secagg.roles.environment import Budget, Environment
from secagg.roles.member import Member
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.store import MemoryLedger
from secagg.table import contribution_round, rounds
from secagg.task import Task

#: Bytes by round.
ByRound = dict[str, int]


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Outcome):
    """An :class:`~secagg.Outcome` with the bytes and the seconds of all parties.

    ``bytes_up``, ``bytes_down`` and ``seconds`` are by party, then by round. The server is ``"server"``; its work
    at the end of a round counts for that round. A comparison of two simulations ignores ``seconds``. The other
    fields are those of :class:`secagg.Outcome`.
    """

    bytes_up: Mapping[str, Mapping[str, int]] = None  # type: ignore[assignment]
    bytes_down: Mapping[str, Mapping[str, int]] = None  # type: ignore[assignment]
    seconds: Mapping[str, Mapping[str, float]] = field(default=None, compare=False)  # type: ignore[arg-type]

    def _summary(self) -> list[tuple[str, str]]:
        """As in ``Outcome``, with the bytes of all parties but the server."""
        lines = super()._summary()
        for name, by_party in (("bytes up", self.bytes_up), ("bytes down", self.bytes_down)):
            parties = [party for party in by_party or {} if party != "server"]
            total = sum(sum(by_party[party].values()) for party in parties)
            lines.append((name, f"{total:,} of {len(parties)} parties"))
        return lines


def simulate(
    task: Task,
    updates: Mapping[str, Any] | Sequence[Any],
    *,
    weights: Mapping[str, int] | Sequence[int] | None = None,
    dropouts: Mapping[str, str] | None = None,
    budgets: Mapping[str, Budget] | Sequence[Budget] | None = None,
    session: bytes = b"simulation",
    progress: Callable[[str], None] | None = None,
    executor: Executor | None = None,
    beacon: Fetch | None = None,
) -> Simulation:
    """Run one session over ``updates`` (by client id; a sequence is c1, c2, …) and return its outcome.

    ``weights`` are integers, and ``budgets`` are the clients' own (see :meth:`secagg.Task.client`), both by the
    same ids or in the same order. ``dropouts`` maps a client to the round in which it falls silent, just before it
    would send its message; a client that does so before its input is not charged. ``progress`` is called with the
    name of each round as it opens. ``executor`` runs heavy work, by default in threads. ``beacon`` returns the
    value of a round of the task's beacon, if it has one; all parties' clocks then stand still.

    Raises ``ConfigError`` for ids, weights, budgets or rounds that don't fit, ``LocalProtocolError`` if a client's
    budget can't pay for its input, and ``Aborted`` as a server would.
    """
    if not is_a(task, (Task,)):
        swapped = "; the arguments are swapped: simulate(task, updates)" if is_a(updates, (Task,)) else ""
        raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task{swapped}")
    if progress is not None and not callable(progress):
        raise ConfigError(f"got progress={shown(progress)}; expected a function that takes a round's name")
    most = task.max_clients + 1  # one more than allowed, which is enough to refuse it
    by_id = _by_id(updates, "updates", most)
    weights_by_id = None if weights is None else _by_id(weights, "weights", most)
    dropouts_by_id = _by_id({} if dropouts is None else dropouts, "dropouts", most)
    silent = {client: _round(task, name) for client, name in dropouts_by_id.items()}
    budgets_by_id = None if budgets is None else _by_id(budgets, "budgets", most)
    for name, clients in (
        ("weights", by_id if weights_by_id is None else weights_by_id),
        ("dropouts", {**by_id, **silent}),
        ("budgets", by_id if budgets_by_id is None else budgets_by_id),
    ):
        if set(clients) != set(by_id):
            differing = ", ".join(sorted(set(clients) ^ set(by_id)))
            raise ConfigError(f"got {name} that don't fit the clients of updates; these differ: {differing}")
    if (weights_by_id is None) != (task.max_weight is None):
        raise ConfigError(
            f"got {'no ' if weights_by_id is None else ''}weights for a task with max_weight={task.max_weight}; "
            "pass weights exactly where the task has a max_weight"
        )
    return Session(
        task,
        sorted(by_id),
        silent,
        session,
        budgets=budgets_by_id,
        progress=progress,
        executor=executor,
        beacon=beacon,
    ).run(by_id, weights_by_id)


class Session:
    """The parties of one simulated session, with counts of the bytes between them.

    :func:`simulate` makes a session and runs it; the benchmarks make their own. ``cohort`` are the ids of the
    clients, and ``session`` is the session's name. ``silent`` maps a client to the round in which it falls silent;
    the other arguments are those of :func:`simulate`. ``server`` is the server, and ``members`` are the other
    parties by id. Before :meth:`run`, each may be replaced by an object with the same methods. Every call of a
    party goes through :meth:`timed`.
    """

    def __init__(
        self,
        task: Task,
        cohort: list[str],
        silent: Mapping[str, str],
        session: bytes,
        *,
        budgets: Mapping[str, Budget] | None = None,
        progress: Callable[[str], None] | None = None,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
    ) -> None:
        identities, self.roster, keys = enrol_for(task, cohort)
        self.server: Server[Any] = task.server(
            cohort, roster=self.roster, session=session, executor=executor, beacon=beacon
        )
        now = time.time()
        roles = dict.fromkeys(cohort, PartyRole.CLIENT) | {p.id: p.role for p in (self.roster or {}).values()}
        self.members: dict[str, Member[Any]] = {
            party: task.protocol.role_classes[role](
                task,
                party,
                Environment(
                    identity=identities.get(party),
                    roster=self.roster,
                    key=keys.get(party),
                    executor=executor,
                    clock=lambda: now,
                    beacon=beacon,
                    budget=(budgets or {}).get(party),
                    ledger=MemoryLedger(),  # a simulation ends with its process, so its ledger needs no file
                ),
                session=session,
            )
            for party, role in roles.items()
        }
        self.task, self.silent, self.progress = task, silent, progress
        self.gone: set[str] = set()
        everyone = [*self.members, "server"]
        self.up: dict[str, ByRound] = {party: {} for party in everyone}
        self.down: dict[str, ByRound] = {party: {} for party in everyone}
        self.seconds: dict[str, dict[str, float]] = {party: defaultdict(float) for party in everyone}

    def run(self, updates: Mapping[str, Any], weights: Mapping[str, int] | None) -> Simulation:
        """Play the session to its end, over ``updates`` and ``weights`` by client; see :func:`simulate`."""
        asks_input = contribution_round(self.task.protocol)
        outbox = self.timed("server", "start", self.server.start)
        while self.server.outcome is None:
            name = self.server.round or ""
            if self.progress is not None:
                self.progress(name)
            if name == asks_input:
                with _warnings.together():
                    for party in outbox:
                        if party in updates and party not in self.gone and self.silent.get(party) != name:
                            weight = None if weights is None else weights[party]
                            self._contribute(party, name, updates[party], weight)
            self._deliver(outbox, name)
            outbox = self.timed("server", name, self.server.close_round)
        values = {field.name: getattr(self.server.outcome, field.name) for field in fields(Outcome)}
        seconds = {party: dict(by_round) for party, by_round in self.seconds.items()}
        return Simulation(**values, bytes_up=self.up, bytes_down=self.down, seconds=seconds)

    def _contribute(self, party: str, name: str, update: Any, weight: int | None) -> None:
        client = cast("Client[Any]", self.members[party])
        try:
            self.timed(party, name, client.contribute, update, weight)
        except EncodingError as error:
            raise EncodingError(f"{party}: {error}") from error

    def _deliver(self, outbox: Outbox, name: str) -> None:
        for party, request in outbox.items():
            if party in self.gone:
                continue  # the message that it was dropped, which a silent party does not read
            if party not in self.members:
                raise ConfigError(f"got a message for {party}, which is not a party of this simulation")
            self._count("server", party, name, len(request))
            if self.silent.get(party) == name:
                del self.members[party]
                self.gone.add(party)
                continue
            try:
                reply = self.timed(party, name, self.members[party].receive, request)
            except LocalProtocolError as error:
                raise LocalProtocolError(f"{party}: {error}") from error
            if reply is not None:
                self._count(party, "server", name, len(reply))
                self._deliver(self.timed("server", name, self.server.receive, party, reply), name)

    def _count(self, sender: str, receiver: str, name: str, size: int) -> None:
        for party, counts in ((sender, self.up), (receiver, self.down)):
            counts[party][name] = counts[party].get(name, 0) + size

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``call`` of ``party`` in the round ``name`` with ``arguments``, and add up its seconds.

        A subclass may measure more.
        """
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds[party][name] += time.perf_counter() - began


def enrol_for(
    task: Task, cohort: Sequence[str]
) -> tuple[dict[str, Ed25519PrivateKey], Roster | None, dict[str, bytes]]:
    """Enrol all parties of a simulated session, if the protocol authenticates them.

    ``cohort`` are the ids of the clients. Returns the identities of all parties, the roster, and their other
    long-lived private keys. Parties other than clients are named by role and number, such as ``aggregator1``.
    """
    others = task.protocol.party_counts
    if task.protocol.threat_model == "semi-honest" and not others:
        return {}, None, {}
    roles = dict.fromkeys(cohort, PartyRole.CLIENT)
    roles |= {f"{role}{number}": role for role, count in others.items() for number in range(1, count + 1)}
    pairs = _key_pairs(task.protocol, tuple(roles.items()))
    identities, roster = identity.enrol(cohort)
    for role in others:
        ids = [party for party in roles if roles[party] is role]
        public = {party: pairs[party][1] for party in ids if party in pairs}
        more, enrolled = identity.enrol(ids, role, encryption_keys=public)
        identities, roster = identities | more, Roster([*roster.values(), *enrolled.values()])
    return identities, roster, {party: pair[0] for party, pair in pairs.items()}


@lru_cache(maxsize=8)
def _key_pairs(
    protocol: AggregationProtocol, roles: tuple[tuple[str, PartyRole], ...]
) -> dict[str, tuple[bytes, bytes]]:
    """Long-lived keys by party. Kept for the next simulation, because a Paillier key takes a tenth of a second."""
    return key_pairs(protocol, dict(roles))


def _by_id(values: Any, what: str, most: int) -> dict[str, Any]:
    expected = "expected a dict by client id, or a list in the clients' order"
    with blaming(ConfigError, f"got {what} that can't be read; {expected}"):
        if is_a(values, (Mapping,)):
            items = [item for _, item in zip(range(most), values.items(), strict=False)]
            ids = {check_party_id(party): item for party, item in items}
            if len(ids) != len(items):
                raise ConfigError(f"got {what} that name a client twice; {expected}")
            return ids
        if is_a(values, str | bytes) or is_labelled(values):
            raise ConfigError(f"got {shown(values)} as {what}; {expected}")
        return {f"c{number}": item for number, item in zip(range(1, most + 1), values, strict=False)}


def _round(task: Task, name: object) -> str:
    known = rounds(task.protocol)
    if not is_a(name, str) or str.__str__(name) not in known:
        raise ConfigError(f"got a dropout in {shown(name)}; {task.protocol.name} has {', '.join(known)}")
    return str.__str__(name)

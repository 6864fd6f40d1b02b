"""All parties of a session in one process, for experiments, tests and plans.

Code that holds every client's plaintext is called simulate, so that nobody takes it for a deployment.
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

ByRound = dict[str, int]


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Outcome):
    """An :class:`~secagg.Outcome` with what only a bystander sees.

    ``bytes_up``, ``bytes_down`` and ``seconds`` are by party, then by round; the server is ``"server"``, and
    what it does at the end of a round counts for the round that ends. Two are compared without ``seconds``.
    """

    bytes_up: Mapping[str, Mapping[str, int]] = None  # type: ignore[assignment]
    bytes_down: Mapping[str, Mapping[str, int]] = None  # type: ignore[assignment]
    seconds: Mapping[str, Mapping[str, float]] = field(default=None, compare=False)  # type: ignore[arg-type]

    def _told(self) -> list[tuple[str, str]]:
        """And the bytes of all clients and other parties."""
        told = super()._told()
        for what, counted in (("bytes up", self.bytes_up), ("bytes down", self.bytes_down)):
            parties = [party for party in counted or {} if party != "server"]
            total = sum(sum(counted[party].values()) for party in parties)
            told.append((what, f"{total:,} of {len(parties)} parties"))
        return told


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

    ``weights`` are integers in the same order or by the same ids, and ``budgets`` the clients' own, as
    :meth:`secagg.Task.client` takes them. ``dropouts`` names clients that fall silent just before they would
    send their message of a round; before their input, they are not charged. ``progress`` is called with each
    round's name as it opens; ``executor`` runs what is heavy, by default threads. ``beacon`` gives the value of a
    round of the task's beacon, where it has one; all clocks then stand still. Raises ``ConfigError``
    for ids, weights, budgets or rounds that don't fit, ``LocalProtocolError`` where a client's budget has no
    room for its input, and ``Aborted`` as a server would.
    """
    if not is_a(task, (Task,)):
        swapped = "; the arguments are swapped: simulate(task, updates)" if is_a(updates, (Task,)) else ""
        raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task{swapped}")
    if progress is not None and not callable(progress):
        raise ConfigError(f"got progress={shown(progress)}; expected a function that takes a round's name")
    most = task.max_clients + 1  # one too many: more would be read for nothing
    plain = _by_id(updates, "updates", most)
    weighted = None if weights is None else _by_id(weights, "weights", most)
    falling = _by_id({} if dropouts is None else dropouts, "dropouts", most)
    silent = {client: _round(task, name) for client, name in falling.items()}
    charged = None if budgets is None else _by_id(budgets, "budgets", most)
    for what, given in (
        ("weights", plain if weighted is None else weighted),
        ("dropouts", {**plain, **silent}),
        ("budgets", plain if charged is None else charged),
    ):
        if set(given) != set(plain):
            odd = ", ".join(sorted(set(given) ^ set(plain)))
            raise ConfigError(f"got {what} that don't fit the clients of updates; these differ: {odd}")
    if (weighted is None) != (task.max_weight is None):
        raise ConfigError(
            f"got {'no ' if weighted is None else ''}weights for a task with max_weight={task.max_weight}; "
            "pass weights exactly where the task has a max_weight"
        )
    return Session(
        task, sorted(plain), silent, session, budgets=charged, progress=progress, executor=executor, beacon=beacon
    ).run(plain, weighted)


class Session:
    """The parties of one simulated session, and what is counted at the wires between them.

    :func:`simulate` makes one and runs it; the benchmarks make their own. ``members`` are the parties by id and
    ``server`` the server: before :meth:`run`, each may be replaced by an object with the same methods. Every call
    of a party goes through :meth:`timed`. ``silent`` maps a client to the round in which it falls silent; the
    other arguments are those of :func:`simulate`.
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
            party: task.protocol.members[role](
                task,
                party,
                Environment(
                    identity=identities.get(party),
                    roster=self.roster,
                    key=keys.get(party),
                    executor=executor,
                    clock=lambda: now,
                    budget=(budgets or {}).get(party),
                    ledger=MemoryLedger(),  # nothing of a simulation outlives it, so its ledger needs no store
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
        wanted = contribution_round(self.task.protocol)
        outbox = self.timed("server", "start", self.server.start)
        while self.server.outcome is None:
            name = self.server.round or ""
            if self.progress is not None:
                self.progress(name)
            if name == wanted:
                with _warnings.together():
                    for party in outbox:
                        if party in updates and party not in self.gone and self.silent.get(party) != name:
                            weight = None if weights is None else weights[party]
                            self._contribute(party, name, updates[party], weight)
            self._deliver(outbox, name)
            outbox = self.timed("server", name, self.server.close_round)
        found = {field.name: getattr(self.server.outcome, field.name) for field in fields(Outcome)}
        seconds = {party: dict(by_round) for party, by_round in self.seconds.items()}
        return Simulation(**found, bytes_up=self.up, bytes_down=self.down, seconds=seconds)

    def _contribute(self, party: str, name: str, update: Any, weight: int | None) -> None:
        client = cast("Client[Any]", self.members[party])
        try:
            self.timed(party, name, client.contribute, update, weight)
        except EncodingError as error:
            raise EncodingError(f"{party}: {error}") from error

    def _deliver(self, outbox: Outbox, name: str) -> None:
        for party, request in outbox.items():
            if party in self.gone:
                continue  # a message that it need not wait, which nobody is there to hear
            if party not in self.members:
                raise ConfigError(f"got a message for {party}, whom simulate doesn't play")
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
        """Call ``call`` of ``party`` in the round ``name``, and count its seconds; a subclass may measure more."""
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds[party][name] += time.perf_counter() - began


def enrol_for(
    task: Task, cohort: Sequence[str]
) -> tuple[dict[str, Ed25519PrivateKey], Roster | None, dict[str, bytes]]:
    """Everyone in a simulated session, where the protocol authenticates them.

    Returns identities, the roster, and the private halves of other long-lived keys. Parties other than clients are
    called by their role and a number: ``aggregator1``.
    """
    others = task.protocol.others
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
    """Kept from one simulation to the next, as in a run: to find a Paillier key takes a tenth of a second."""
    return key_pairs(protocol, dict(roles))


def _by_id(given: Any, what: str, most: int) -> dict[str, Any]:
    expected = "expected a dict by client id, or a list in the clients' order"
    with blaming(ConfigError, f"got {what} that can't be read; {expected}"):
        if is_a(given, (Mapping,)):
            items = [item for _, item in zip(range(most), given.items(), strict=False)]
            ids = {check_party_id(party): item for party, item in items}
            if len(ids) != len(items):
                raise ConfigError(f"got {what} that name a client twice; {expected}")
            return ids
        if is_a(given, str | bytes) or is_labelled(given):
            raise ConfigError(f"got {shown(given)} as {what}; {expected}")
        return {f"c{number}": item for number, item in zip(range(1, most + 1), given, strict=False)}


def _round(task: Task, name: object) -> str:
    known = rounds(task.protocol)
    if not is_a(name, str) or str.__str__(name) not in known:
        raise ConfigError(f"got a dropout in {shown(name)}; {task.protocol.name} has {', '.join(known)}")
    return str.__str__(name)

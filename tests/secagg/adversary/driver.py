"""What the attacks share: seven enrolled clients, a server that lies, and one that doesn't.

``LyingServer`` speaks to real clients in well-formed messages and may say anything to anyone. It keeps all
that it hears, and it knows every secret of ``world.colluders``, who are c of the enrolled clients. If a client
refuses a message, the reason is kept in ``refusals`` and the attack goes on with what it has. So the same attack
code runs against the library, and against the library without one defence.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc import keys, shamir
from secagg import wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind, RemoteProtocolError
from secagg.identity import PartyRole, Roster
from secagg.lanes import fold_lanes, mask_lanes, reduce_lanes, widths, zero_lanes
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    KEY,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    Advert,
    Adverts,
    DealtShares,
    HeldShares,
    MaskedInput,
    Revealed,
    SignedSurvivors,
    Survivors,
    Unmask,
    mask_info,
    pieces,
    self_mask_info,
)
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.roles import Environment
from secagg.roles.client import Client
from secagg.roles.outcome import Outcome
from secagg.roles.server import Server
from secagg.session import Advertised, session_id
from secagg.store import Ledger
from secagg.table import Proposal
from secagg.testing import MemoryStore, Parties, Session, roles_of
from secagg.wire import Envelope

CLIENTS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7")
VICTIM = "c1"
HONEST = CLIENTS[:5]
COLLUDERS = CLIENTS[5:]  # c = 2 of 7 at corruption 0.33: shares rebuild from 5, lists need 5 signatures
SESSION = b"round 1"
SIZE = 12
LIMIT = 1 << 20

Vector = np.ndarray[Any, Any]
SemiHonest = secagg.SecAgg(threat_model="semi-honest")


def make_task(**changes: Any) -> secagg.Task:
    """Seven clients, five survivors at least, twelve coordinates on a grid of 2^-15."""
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(np.zeros(SIZE)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=len(CLIENTS),
        min_survivors=5,
        context=b"adversary",
    )
    return replace(task, **changes)


def make_updates(ids: Iterable[str], seed: int = 0) -> dict[str, Vector]:
    """An update for each id."""
    rng = np.random.default_rng(seed)
    return {party: rng.uniform(-0.9, 0.9, SIZE) for party in ids}


UPDATES = make_updates(CLIENTS)


def step(task: secagg.Task) -> float:
    """The grid step of the task's values."""
    return float(task.encoding.clip / (2 ** (task.encoding.bits - 1) - 1))  # type: ignore[attr-defined]


def has(recovered: Vector | None, wanted: Vector, task: secagg.Task) -> bool:
    """Whether the attacker has what it wanted, within one grid step."""
    return recovered is not None and bool((np.abs(recovered - wanted) <= step(task)).all())


def remove(monkeypatch: pytest.MonkeyPatch, defence: Any, instead: Any) -> None:
    """Put ``instead`` wherever a module of the library, or the attacker, holds the function ``defence``."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("secagg.", "mpc.")) or name == __name__:
            for attribute, value in list(vars(module).items()):
                if value is defence:
                    monkeypatch.setattr(module, attribute, instead)


def unpin(monkeypatch: pytest.MonkeyPatch, *left_out: str) -> None:
    """The digest leaves these fields of the task out, so that a server's other task passes for the pinned one."""
    pinned = {name: getattr(make_task(), name) for name in left_out}

    def digest(task: secagg.Task) -> bytes:
        return hashlib.sha256(replace(task, **pinned).to_bytes()).digest()

    monkeypatch.setattr(secagg.Task, "digest", property(digest))


def lend(role: Any, **changed: Any) -> None:
    """Lend a role something else than it was made with."""
    role.context.environment = replace(role.context.environment, **changed)


class World:
    """Everyone enrolled, their keys, and how they join a session."""

    def __init__(
        self,
        task: secagg.Task | None = None,
        ids: Iterable[str] = CLIENTS,
        colluders: Iterable[str] = COLLUDERS,
        *,
        seed: bytes = b"",
    ) -> None:
        self.task = task or make_task()
        self.ids, self.colluders = tuple(ids), tuple(colluders)
        protocol, floor = self.task.protocol, self.task.min_survivors
        parties = Parties(protocol, self.ids, roles_of(protocol, self.ids), {}, None, floor)
        self.parties = parties.enrolled(seed)
        self.keys, self.sealing = dict(self.parties.identities), self.parties.long_lived
        self.aggregators = tuple(self.parties.ids(PartyRole.AGGREGATOR))
        assert self.parties.roster is not None
        self.roster: Roster = self.parties.roster

    def lent(self, party: str, **changes: Any) -> Environment:
        own = {"identity": self.keys[party], "roster": self.roster, "key": self.sealing.get(party)}
        return Environment(**own | changes)

    def role(
        self, party: str, *, session: bytes | None = SESSION, task: secagg.Task | None = None, **changes: Any
    ) -> Any:
        """A role of a party; a client has not trained yet. Without ``session``, it takes any that is proposed."""
        task = task or self.task
        return task.protocol.role_classes[self.parties.roles[party]](
            task, party, self.lent(party, **changes), session=session
        )

    def restore(self, party: str, state: bytes, ledger: Ledger | None) -> Any:
        """The role that was saved as ``state``."""
        save = None if ledger is None else MemoryStore(ledger)
        kind = self.task.protocol.role_classes[self.parties.roles[party]]
        return kind.from_bytes(state, self.task, self.lent(party, save=save))

    def join(
        self,
        parties: Iterable[str] | None = None,
        *,
        session: bytes = SESSION,
        updates: Mapping[str, Vector] = UPDATES,
        weights: Mapping[str, int] | None = None,
        offered: secagg.Task | None = None,
        stores: Mapping[str, MemoryStore] | None = None,
        **changes: Any,
    ) -> dict[str, Client[Any]]:
        """Clients of one session with their updates.

        They take a task from the server, ``told``, only where its digest is the pinned one.
        """
        task = offered if offered is not None and offered.digest == self.task.digest else self.task
        clients = {}
        for party in parties or self.ids:
            save = (stores or {}).get(party)
            clients[party] = self.role(party, session=session, task=task, save=save, **changes)
            clients[party].contribute(updates[party], None if weights is None else weights[party])
        return clients


class LyingServer:
    """Says what it likes to whom it likes. By default it says what an honest server would."""

    def __init__(
        self,
        world: World,
        clients: Mapping[str, Client[Any]] | None = None,
        *,
        offered: secagg.Task | None = None,
        session: bytes = SESSION,
    ) -> None:
        self.world, self.task = world, offered or world.task
        self.clients = world.join(offered=offered, session=session) if clients is None else dict(clients)
        self.cohort = sorted(self.clients)
        self.session, self.nonce = session, os.urandom(32)
        self.ids: dict[str, bytes] = {}  # the session id that each client is at
        self.names: dict[str, bytes] = {}  # what the session was called towards each client
        self.adverts: dict[str, bytes] = {}
        self.u1: list[str] = []
        self.dealt: dict[str, DealtShares] = {}
        self.told_dealers: dict[str, list[str]] = {}
        self.inputs: dict[str, list[Vector]] = {}
        self.shares: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)  # by dealer and kind
        self.masking_keys: dict[str, bytes] = {}  # private ones
        self.sent: dict[str, list[str]] = defaultdict(list)  # what left each client
        self.refusals: dict[str, FaultKind | str] = {}  # the kind of fault, or why the client aborted

    def ask(self, party: str, message: wire.Message) -> Envelope | None:
        """Send a message; the reply, or None where the client refuses."""
        try:
            reply = self.clients[party].receive(self.seal(party, message))
        except RemoteProtocolError as error:
            self.refusals.setdefault(party, error.fault.kind)
            return None
        except Aborted as aborted:
            self.refusals.setdefault(party, aborted.reason)
            return None
        assert reply is not None
        envelope = Envelope.parse(reply, LIMIT)
        sent = next(phase.reply for phase in self.task.protocol.phases if envelope.kind == phase.reply.TYPE)
        self.sent[party].append(sent.__name__)
        return envelope

    def seal(self, party: str, message: wire.Message) -> bytes:
        """The bytes of a message to a client."""
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=b"" if isinstance(message, Proposal) else self.ids[party],
            sender=wire.SERVER,
        )

    def forge(self, name: str, message: wire.Message, identity: Ed25519PrivateKey | None = None) -> bytes:
        """A message in a client's name, signed with its key (a colluder's) or with another identity."""
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=self.ids[name],
            sender=name,
            identity=identity or self.world.keys[name],
        )

    def _id(self, party: str, adverts: list[bytes] | None = None) -> bytes:
        return session_id(
            task=self.task.digest,
            roster=self.world.roster.digest,
            session=self.names[party],
            nonce=self.nonce,
            cohort=self.cohort,
            advertised=None if adverts is None else Advertised.of(adverts),
        )

    def propose(self, parties: Iterable[str] | None = None, *, session: bytes | None = None) -> None:
        """AdvertiseKeys."""
        for party in parties or self.cohort:
            self.names[party] = self.session if session is None else session
            advert = self.ask(party, Proposal(self.cohort, self.names[party], self.nonce))
            self.ids[party] = self._id(party)
            if advert is None:
                continue
            self.adverts[party] = advert.raw
            if party in self.world.colluders:
                client: Any = self.clients[party]
                self.masking_keys[party] = client._private_keys(client._state)[1]

    def deal(self, parties: Iterable[str] | None = None, adverts: Mapping[str, bytes] | None = None) -> None:
        """ShareKeys: show ``adverts`` (by default all that came) to ``parties``."""
        shown = dict(sorted((self.adverts if adverts is None else adverts).items()))
        self.u1 = list(shown)
        for party in parties or self.u1:
            dealt = self.ask(party, Adverts(list(shown.values())))
            self.ids[party] = self._id(party, list(shown.values()))
            if dealt is not None:
                self.dealt[party], _ = dealt.open(DealtShares)

    def box(self, dealer: str, holder: str) -> tuple[bytes, bytes]:
        """What a dealer sealed to a holder, and the commitments to it."""
        at, own = self.u1.index(holder), self.u1.index(dealer)
        sealed = pieces(self.dealt[dealer].sealed, SEALED_BYTES, len(self.u1) - 1)[at - (own < at)]
        return sealed, pieces(self.dealt[dealer].commitments, COMMITMENT_BYTES, len(self.u1))[at]

    def collect(
        self,
        parties: Iterable[str] | None = None,
        dealers: Collection[str] | None = None,
        box: Callable[[str, str], tuple[bytes, bytes]] | None = None,
    ) -> None:
        """MaskedInput: tell ``parties`` that U2 is ``dealers``, hand them their shares, take their inputs."""
        for party in parties or sorted(self.dealt):
            u2 = sorted(dealers or self.dealt)
            boxes = [(box or self.box)(dealer, party) for dealer in u2 if dealer != party]
            sealed, commitments = (b"".join(part) for part in zip(*boxes, strict=True))
            answer = self.ask(party, HeldShares(to_bitmap(u2, self.u1), commitments, sealed))
            if answer is None:
                continue
            self.told_dealers[party] = u2
            lanes = zero_lanes(self.task)
            fold_lanes(self.task, answer.open(MaskedInput)[1], lanes)
            self.inputs[party] = lanes
            if party in self.world.colluders:
                for dealer, shares in self.clients[party]._state.held.items():
                    for kind, share in zip((SELF, KEY), shares, strict=True):
                        self.keep(dealer, kind, party, share)

    def sign(self, parties: Iterable[str], survivors: Collection[str]) -> list[bytes]:
        """ConsistencyCheck: what ``parties`` sign, as received, when told that U3 is ``survivors``."""
        signed = [self.ask(party, Survivors(to_bitmap(survivors, self.u1))) for party in parties]
        return [envelope.raw for envelope in signed if envelope is not None]

    def unmask(
        self, parties: Iterable[str], survivors: Collection[str], signed: Iterable[bytes] = ()
    ) -> dict[str, Revealed]:
        """Unmasking: keep the shares that ``parties`` reveal; also returns the replies, by holder."""
        replies, request = {}, self.unmask_request(survivors, signed)
        for party in parties:
            answer = self.ask(party, request)
            if answer is None:
                continue
            replies[party], _ = answer.open(Revealed)
            unopened = from_bitmap(replies[party].unopened, self.u1)
            dealers = [dealer for dealer in self.told_dealers[party] if dealer not in unopened]
            for number, dealer in enumerate(dealers):
                share = replies[party].shares[number * SHARE_BYTES : (number + 1) * SHARE_BYTES]
                self.keep(dealer, SELF if dealer in survivors else KEY, party, share)
        return replies

    def unmask_request(self, survivors: Collection[str], signed: Iterable[bytes]) -> Unmask:
        """Unmasking's request, with the signatures of the messages ``signed``."""
        present = to_bitmap(survivors, self.u1)
        if not self.task.protocol.checked:  # type: ignore[attr-defined]
            return Unmask(present, b"", b"")
        signatures = {
            envelope.sender: envelope.trailer for envelope in (Envelope.parse(raw, LIMIT) for raw in signed)
        }
        joined = b"".join(signatures[party] for party in sorted(signatures))
        return Unmask(present, to_bitmap(signatures, self.u1), joined)

    def keep(self, dealer: str, kind: str, holder: str, share: bytes) -> None:
        """Put a share with the others of its secret."""
        self.shares[dealer, kind][self.u1.index(holder) + 1] = share

    def rebuild(self, dealer: str, kind: str) -> bytes | None:
        """A dealer's secret, if enough shares of it are known."""
        protocol: Any = self.task.protocol
        threshold = protocol.threshold(len(self.u1), protocol.corrupt(len(self.cohort), self.world.roster))
        shares = dict(sorted(self.shares[dealer, kind].items())[:threshold])
        return shamir.reconstruct(list(shares), list(shares.values())) if len(shares) == threshold else None

    def learn_key(self, dealer: str) -> None:
        """Rebuild a dealer's private masking key, if it can be."""
        if (private := self.rebuild(dealer, KEY)) is not None:
            self.masking_keys[dealer] = private

    def mask_key(self, one: str, other: str) -> bytes | None:
        """The key of the pairwise mask of two clients, if the masking key of either is known."""
        for mine, theirs in ((one, other), (other, one)):
            if mine in self.masking_keys:
                public = Envelope.parse(self.adverts[theirs], LIMIT).open(Advert)[0].masking_key
                salt, info = self.ids[one], mask_info(one, other)
                return keys.agree(self.masking_keys[mine], public, salt=salt, info=info)
        return None

    def peel(self, victim: str, seed: bytes | None, *, but: Collection[str] = ()) -> list[Vector] | None:
        """A victim's lanes without self mask and without pairwise masks (those with ``but`` stay on);
        None where a secret or the input is missing.
        """
        peers = [dealer for dealer in self.told_dealers.get(victim, ()) if dealer not in (victim, *but)]
        mask_keys = {peer: self.mask_key(victim, peer) for peer in peers}
        if seed is None or victim not in self.inputs or None in mask_keys.values():
            return None
        lanes = [lane.copy() for lane in self.inputs[victim]]
        own = keys.derive(seed, salt=self.ids[victim], info=self_mask_info(victim))
        mask_lanes(lanes, [(own, -1)])
        for peer, key in mask_keys.items():
            assert key is not None
            mask_lanes(lanes, [(key, -1 if victim < peer else 1)])
        reduce_lanes(self.task, lanes)
        return lanes

    def recover(self, victim: str = VICTIM) -> Vector | None:
        """The victim's update, where its seed and all its pairwise masks are known."""
        self.learn_key(victim)
        return as_update(self.peel(victim, self.rebuild(victim, SELF)), self.task)


def opened_sum(server: LyingServer, parties: Collection[str]) -> Vector | None:
    """The sum of inputs whose pairwise masks cancel, where all their seeds are known."""
    lanes = zero_lanes(server.task)
    for party in parties:
        seed = server.rebuild(party, SELF)
        if seed is None or party not in server.inputs:
            return None
        for mine, theirs in zip(lanes, server.inputs[party], strict=True):
            mine += theirs
        mask_lanes(lanes, [(keys.derive(seed, salt=server.ids[party], info=self_mask_info(party)), -1)])
    reduce_lanes(server.task, lanes)
    task = server.task
    decoded = task.encoding.decode(lanes, layout=task.layout, survivors=len(parties), max_weight=task.max_weight)
    summed: Vector = decoded.sum
    return summed


def difference(one: Vector, other: Vector, task: secagg.Task) -> Vector:
    """The difference of two inputs' values, as floats: right where both carry the same masks."""
    width = widths(task)[0]
    gap = (one.astype(np.int64) - other.astype(np.int64)) % 2**width
    return np.where(gap >= 2 ** (width - 1), gap - 2**width, gap) * step(task)


def as_update(lanes: list[Vector] | None, task: secagg.Task) -> Vector | None:
    """One client's update from its integers."""
    if lanes is None:
        return None
    return (lanes[0].astype(np.int64) - (2 ** (task.encoding.bits - 1) - 1)) * step(task)  # type: ignore[attr-defined]


@dataclass
class Played:
    """How a session with an honest server went."""

    server: Server[Any]
    outcome: Outcome | None = None
    aborted: str = ""
    refusals: dict[str, FaultKind | str] = field(default_factory=dict)

    @property
    def faults(self) -> set[tuple[str, FaultKind]]:
        """Who did what wrong, silence apart."""
        return {(f.sender, f.kind) for f in self.server.faults if f.kind is not FaultKind.SILENT}


def play(
    world: World,
    clients: Mapping[str, Client[Any]],
    *,
    offered: secagg.Task | None = None,
    roster: Roster | None = None,
    session: bytes = SESSION,
    tamper: Mapping[tuple[str, str], Callable[[bytes], Iterable[bytes]]] | None = None,
    server_class: type[PairwiseServer] = PairwiseServer,
) -> Played:
    """A session with an honest server. ``tamper`` maps a client's reply of a round to what is sent instead."""
    task = offered or world.task
    parties = replace(world.parties, cohort=tuple(clients), roles={}, roster=roster or world.roster)
    run = Session(parties, task=task, session=session, contribute=False)
    run.server = server_class(task, clients, Environment(roster=parties.roster), session=session)
    run.members, run.refusals = dict(clients), {}

    def before_answer(party: str, answer: bytes) -> list[bytes] | None:
        instead = (tamper or {}).get((party, run.round))
        return None if instead is None else list(instead(answer))

    run.before_answer = before_answer
    try:
        aborted, _ = "", run.run()
    except Aborted as reason:
        aborted = reason.reason
    refusals: dict[str, FaultKind | str] = {
        party: refusal.reason if isinstance(refusal, Aborted) else refusal.fault.kind
        for party, refusal in run.refusals.items()
    }
    return Played(run.server, run.server.outcome, aborted, refusals)


def resign(world: World, honest: bytes, change: Callable[[Any, bytes], tuple[wire.Message, bytes]]) -> bytes:
    """A client's reply with its content changed and signed by the client itself.

    ``change`` maps message and payload to others.
    """
    envelope = Envelope.parse(honest, LIMIT)
    kind = next(phase.reply for phase in world.task.protocol.phases if envelope.kind == phase.reply.TYPE)
    message, rest = envelope.open(kind)
    changed, payload = change(message, bytes(rest))
    return wire.seal_envelope(
        changed,
        protocol=envelope.protocol,
        task=envelope.task,
        session=envelope.session,
        sender=envelope.sender,
        payload=payload,
        identity=world.keys[envelope.sender],
    )


def encoded_sum(parties: Iterable[str], updates: Mapping[str, Vector], task: secagg.Task) -> Vector:
    """The sum of updates as they stand on the grid: what an attacker takes off whose updates these are."""
    return np.sum([np.rint(updates[party] / step(task)) * step(task) for party in parties], axis=0)


def is_right(outcome: Outcome | None, task: secagg.Task, updates: Mapping[str, Vector] = UPDATES) -> bool:
    """Whether an unweighted sum is that of its survivors' updates, as they stand on the grid."""
    assert outcome is not None
    return bool(np.allclose(outcome.sum, encoded_sum(outcome.survivors, updates, task), rtol=0, atol=1e-9))


def signed_by_colluders(server: LyingServer, dealers: Collection[str], survivors: Collection[str]) -> list[bytes]:
    """The colluders' signatures under any story at all."""
    survivor_list = SignedSurvivors(to_bitmap(dealers, server.u1), to_bitmap(survivors, server.u1))
    return [server.forge(colluder, survivor_list) for colluder in server.world.colluders]

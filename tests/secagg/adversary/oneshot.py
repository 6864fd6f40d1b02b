"""What the attacks on OneShot share: a server that lies to a committee, two of whose members tell it everything."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from he.errors import HEError, OpenError
from mpc import packed
from mpc.hpke import Kem
from secagg import session as session_module, wire
from secagg.bitmap import to_bitmap
from secagg.errors import Aborted, FaultKind, RemoteProtocolError
from secagg.merkle import merkle_path
from secagg.protocols.oneshot import OneShot
from secagg.protocols.oneshot.messages import (
    Agreed,
    Collect,
    Dealing,
    KeyedInput,
    KeyedProposal,
    KeyShare,
    Release,
    agreed_digest,
    dealing_digest,
    dealing_tree,
    public_seed,
)
from secagg.table import Proposal
from secagg.testing import MemoryStore
from secagg.wire import Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    SESSION,
    UPDATES,
    Vector,
    World,
    as_update,
    encoded_sum,
    make_task,
)

LIMIT = 1 << 20
PROTOCOL = OneShot(corruption=0.33, kem=Kem.X25519)  # 2 of 7 members may be corrupt; 3 right answers open
TASK = make_task(protocol=PROTOCOL)
MEMBERS = tuple(f"decryptor-{number}" for number in range(1, 8))
HONEST_MEMBERS, CORRUPT_MEMBERS = MEMBERS[:5], MEMBERS[5:]
OTHERS = CLIENTS[1:]


class LyingServer:
    """Speaks to real clients and members in well-formed messages, and may tell anyone anything.

    It has the shares and the signatures of the corrupt members, who otherwise follow the protocol.
    """

    protocol: OneShot = PROTOCOL
    committee: tuple[str, ...] = MEMBERS
    corrupt: tuple[str, ...] = CORRUPT_MEMBERS

    def __init__(
        self, world: World, *, session: bytes = SESSION, stores: Mapping[str, MemoryStore] | None = None
    ) -> None:
        self.world, self.task, self.session = world, world.task, session
        self.nonce, self.cohort = os.urandom(32), list(CLIENTS)
        self.id = session_module.session_id(
            task=self.task.digest, roster=world.roster.digest, session=session, nonce=self.nonce, cohort=self.cohort
        )
        self.scheme = self.protocol.scheme(self.task)
        self.stores = dict(stores or {})
        self.members = {
            party: world.role(party, session=session, save=self.stores.get(party)) for party in self.committee
        }
        self.clients: dict[str, Any] = {}
        self.keys = {party: self.ask(party, self.proposal()).raw for party in self.committee}  # type: ignore[union-attr]
        self.inputs: dict[str, Envelope] = {}
        self.refusals: dict[str, FaultKind] = {}

    def proposal(self) -> Proposal:
        return Proposal(self.cohort, self.session, self.nonce)

    def seal(
        self, message: wire.Message, sender: str = wire.SERVER, identity: Any = None, payload: bytes = b""
    ) -> bytes:
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=b"" if isinstance(message, Proposal) else self.id,
            sender=sender,
            payload=payload,
            identity=identity or self.world.keys.get(sender),
        )

    def ask(self, party: str, message: wire.Message) -> Envelope | None:
        """A member's answer; None where it refuses."""
        answer = self.members[party].receive(self.seal(message))
        return None if answer is None else Envelope.parse(answer, LIMIT)

    def gather(
        self,
        parties: Iterable[str],
        *,
        keys: Collection[bytes] | None = None,
        updates: Mapping[str, Vector] = UPDATES,
    ) -> None:
        """Ask clients for their inputs, under these session keys, by default the members' own."""
        p = self.proposal()
        keyed = KeyedProposal(p.cohort, p.session, p.nonce, list(self.keys.values() if keys is None else keys))
        for party in parties:
            if party not in self.clients:
                self.clients[party] = self.world.join([party], session=self.session)[party]
            try:
                self.inputs[party] = Envelope.parse(self.clients[party].receive(self.seal(keyed)), LIMIT)
            except RemoteProtocolError as error:
                self.refusals[party] = error.fault.kind
            except Aborted:
                self.refusals[party] = FaultKind.INVALID

    def opened(self, client: str) -> tuple[KeyedInput, bytes]:
        message, ciphertext = self.inputs[client].open(KeyedInput)
        return message, bytes(ciphertext)

    def relay(self, parties: Iterable[str], to: Iterable[str] | None = None) -> None:
        """Hand members their shares of what clients sent."""
        for client in parties:
            message, _ = self.opened(client)
            commitments = [message.commitments[at : at + 32] for at in range(0, 32 * len(self.committee), 32)]
            tree = dealing_tree(commitments, dict(enumerate(message.sealed)))
            for member in self.committee if to is None else to:
                place = self.committee.index(member)
                part = KeyShare(
                    message.dealing, commitments[place], message.sealed[place], merkle_path(tree, place)
                )
                assert self.members[member].receive(self.seal(part)) is None

    def agree(self, stories: Mapping[str, Collection[str]]) -> list[bytes]:
        """Agreement: each member is told its own story; what they sign."""
        signed = []
        for member, chosen in stories.items():
            answer = self.ask(member, Collect(to_bitmap(chosen, self.cohort)))
            if answer is not None and answer.open(Agreed)[0].digest:
                signed.append(answer.raw)
        return signed

    def forged(self, chosen: Collection[str]) -> list[bytes]:
        """The corrupt members' agreements, to any set at all."""
        dealings = {
            client: dealing_digest(Envelope.parse(self.opened(client)[0].dealing, LIMIT).open(Dealing)[0])
            for client in chosen
        }
        digest = agreed_digest(self.id, dealings)
        return [self.seal(Agreed(digest, b""), member) for member in self.corrupt]

    def release(self, signed: list[bytes], of: Iterable[str] | None = None) -> dict[int, bytes]:
        """SumOfKeys: what members give away, by place."""
        answers = {}
        for member in self.committee if of is None else of:
            answer = self.ask(member, Release(signed))
            if answer is not None:
                answers[self.committee.index(member)] = bytes(answer.open(self.protocol.phases[-1].reply)[1])
        return answers

    def corrupt_sums(self, parties: Collection[str]) -> dict[int, bytes]:
        """What the corrupt members' shares of any clients add up to, by place."""
        sums = {}
        for member in self.corrupt:
            parts = self.members[member]._state.parts
            shares = [parts[client].share for client in parties]
            sums[self.committee.index(member)] = packed.sum_shares(
                self.protocol.committee, self.scheme.degree, shares
            )
        return sums

    def sum_of_keys(self, answers: Mapping[int, bytes]) -> Vector | None:
        if len(answers) < self.protocol.committee.threshold:
            return None
        return next(packed.recover(self.protocol.committee, self.scheme.degree, answers)).secret

    def read(self, parties: Collection[str], keys: Vector | None) -> Vector | None:
        """The sum of the updates of ``parties``, opened with the sum of their keys."""
        if keys is None:
            return None
        adder = self.scheme.adder()
        for client in parties:
            adder.fold(self.opened(client)[1])
        try:
            sums = self.scheme.open(adder.total(), keys, len(parties), public_seed(self.id))
        except (HEError, OpenError):
            return None
        if len(parties) == 1:
            return as_update(sums, self.task)
        lanes, layout = self.protocol.segments(self.task, sums), self.task.layout
        decoded = self.task.encoding.decode(lanes, layout=layout, survivors=len(parties), max_weight=None)
        summed: Vector = decoded.sum
        return summed

    def collect(self, chosen: Collection[str]) -> Vector | None:
        """The sum over ``chosen``, if enough members give their sum for it."""
        signed = self.agree(dict.fromkeys(self.committee, chosen))
        return self.read(chosen, self.sum_of_keys(self.release(signed)))

    def kinds(self) -> set[FaultKind]:
        """What the members found wrong."""
        return {fault.kind for member in self.members.values() for fault in member.faults}


def less(total: Vector | None, parties: Iterable[str], updates: Mapping[str, Vector] = UPDATES) -> Vector | None:
    """What is left of a sum when updates that the attacker knows are taken off."""
    return None if total is None else total - encoded_sum(parties, updates, TASK)

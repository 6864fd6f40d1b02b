"""A committee member of OneShot: holds shares of the clients' keys, and gives away one sum of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import msgspec

from mpc import packed
from mpc.errors import MPCError
from mpc.hpke import PRIVATE_BYTES, Kem, PrivateKey
from secagg import wire
from secagg.bitmap import from_bitmap
from secagg.errors import Aborted, ConfigError, Fault, FaultKind, LocalProtocolError, blaming
from secagg.identity import PartyRole, is_listed
from secagg.merkle import root_of_path
from secagg.protocols.oneshot.messages import (
    HASH_BYTES,
    Agreed,
    Collect,
    Dealing,
    Held,
    KeyShare,
    KeyShareSum,
    Lack,
    Recount,
    Release,
    SessionKey,
    agreed_digest,
    challenge_context,
    commitment_context,
    dealing_digest,
    leaf,
    share_info,
)
from secagg.protocols.oneshot.parameters import OneShotParameters, check_dealing, committee_of, place_of
from secagg.protocols.oneshot.states import TAKES_SHARES, CommitteeState, Part, check_member_state
from secagg.roles.listener import Decryptor
from secagg.roles.member import Handler, Listener, Reply, method
from secagg.roles.state import hold
from secagg.table import Proposal, Round
from secagg.wire import Envelope, Reject

_SHOWN = {
    Lack.UNOPENED: "does not open",
    Lack.UNCOMMITTED: "is not the one that it committed to",
    Lack.MALFORMED: "has the wrong form",
    Lack.MISSES_PROOF: "misses its proof",
}
_ABSENT = Part(b"", lack=Lack.ABSENT)


class CommitteeMember(Decryptor[CommitteeState]):
    """A committee member of :class:`secagg.OneShot`.

    1. SessionKey: it makes a sealing key for this session, and sends the public half, signed.
    2. Input: it gets its share of each client's key as the client answers. It checks that the client signed the
       share, opens it, and checks it against the client's commitment and proof.
    3. Recount (with ``recount=True``): it takes no more shares, and says whose it holds.
    4. Agreement: it gets the set of clients whose inputs were added up. If it has a good share of each, it signs
       the digest of the set and of the dealings, once. If not, it says what it lacks, and leaves.
    5. SumOfKeys: it gets the agreements of the others. If a quorum signed what it signed itself, it adds up its
       shares, and gives the sum to the server.

    It leaves, and gives nothing away, when the set is smaller than ``min_survivors`` or when the ledger has another
    set of this session. Bytes that break the protocol become a fault and change nothing.
    """

    state_type = CommitteeState
    answers: ClassVar[Mapping[str, Handler]] = {
        Round.SESSION_KEY: method("_show_key"),
        Round.RECOUNT: method("_recount"),
        Round.AGREEMENT: method("_agree"),
        Round.SUM_OF_KEYS: method("_release"),
    }
    overhears: ClassVar[Mapping[str, Listener]] = {Round.INPUT: method("_take_share")}

    @property
    def _protocol(self) -> OneShotParameters:
        protocol = self.context.task.protocol
        assert isinstance(protocol, OneShotParameters)
        return protocol

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Member.prepare`."""
        super().prepare()
        self._key: PrivateKey | None = None

    @cached_property
    def _members(self) -> tuple[str, ...]:
        return committee_of(self.context)

    @cached_property
    def _place(self) -> int:
        return place_of(self._members, self.id)

    def check_restored(self) -> None:
        """See :meth:`secagg.roles.Member.check_restored`."""
        if self._state.step and not self._ended and self.context.environment.ledger is None:
            raise LocalProtocolError(
                "got a committee member past its first answer without a ledger, which alone holds it to one set of "
                "clients; pass save= a store that has one, or leave this session out"
            )
        if not self._ended:
            check_member_state(self._state, self._protocol, self.context.task)

    def _show_key(self, draft: CommitteeState, message: Proposal, payload: memoryview) -> Reply:
        """SessionKey: make this session's sealing key. Only a member of the committee has one."""
        if draft.id not in self._members:
            raise Reject(FaultKind.INVALID, f"got a proposal for {draft.id}, who is not a member of this committee")
        draft.key = self.context.rng(draft, "session-key")(PRIVATE_BYTES)
        return SessionKey(PrivateKey(Kem(self._protocol.kem), draft.key).public), b""

    def heard(self, envelope: Envelope) -> bool:
        """See :meth:`Member.heard`."""
        message, _ = envelope.open(KeyShare)
        part = self._state.parts.get(Envelope.parse(message.dealing, self.context.limit).sender)
        return part is not None and part.message == envelope.digest

    def _take_share(
        self, draft: CommitteeState, envelope: Envelope, message: KeyShare, payload: memoryview
    ) -> None:
        """Input: take one share of each client of the cohort."""
        if draft.step != TAKES_SHARES:
            raise Reject(FaultKind.OUT_OF_TURN, "got a key share before SessionKey, or too late")
        signed = self.context.relayed(message.dealing, Dealing, draft.session_id, PartyRole.CLIENT)
        client = signed.sender
        if not is_listed(client, draft.cohort):
            raise Reject(FaultKind.UNKNOWN_SENDER, f"got a key share of {client}, who is not in the cohort")
        if client in draft.parts:
            raise Reject(FaultKind.DUPLICATE, f"got a second key share of {client}")
        dealing, rest = signed.open(Dealing)
        wire.no_vectors(rest)
        check_dealing(self._protocol, dealing)
        self._check_sealed(message)
        self._check_path(message, dealing)
        # From here on these are the client's words: it signed whatever is wrong with them, or this member errs.
        share, lack = self._opened(draft, client, message, dealing)
        if lack:
            detail = f"got a key share of {client} that {_SHOWN[lack]}"
            self.note(Fault(client, Round.INPUT, FaultKind.UNOPENED_SHARE, detail))
        part = Part(envelope.digest, dealing_digest(dealing), share, lack)
        self.add(draft.parts, client, part)

    def _check_sealed(self, message: KeyShare) -> None:
        """``Reject`` a part without a text: nobody showed its client this member's session key.

        The leaf of such a member stands for an empty text, which is on the client's signed tree. It does not open,
        and that is not the client's fault.
        """
        if not message.sealed:
            raise Reject(FaultKind.INVALID, "got a key share without a sealed text, of a client that sealed none")

    def new_row(self, draft: CommitteeState) -> bytes:
        """See :meth:`secagg.roles.MemberHooks.new_row`."""
        client = next(reversed(draft.parts))
        return msgspec.msgpack.encode((client, draft.parts[client]))

    def take_rows(self, draft: CommitteeState, rows: Sequence[bytes]) -> None:
        """See :meth:`secagg.roles.MemberHooks.take_rows`."""
        hold(not rows or (draft.step == TAKES_SHARES and not draft.aborted), "key shares")
        for row in rows:
            with blaming(ConfigError, "got a saved state with key shares that can't be read"):
                client, part = msgspec.msgpack.decode(row, type=tuple[str, Part])
            hold(is_listed(client, draft.cohort) and client not in draft.parts, "key shares")
            draft.parts[client] = part

    def _check_path(self, message: KeyShare, dealing: Dealing) -> None:
        """``Reject`` what the client didn't sign for this member: the server, or who sent it on, changed it."""
        committed = leaf(message.commitment, message.sealed)
        root = root_of_path(committed, self._place, self._protocol.members, message.path)
        if len(message.commitment) != HASH_BYTES or root != dealing.root:
            raise Reject(FaultKind.INVALID, "got a key share that is not the one its client signed for this member")

    def _opened(
        self, draft: CommitteeState, client: str, message: KeyShare, dealing: Dealing
    ) -> tuple[bytes, Lack]:
        """The share in a sealed text, as it is kept, or empty and why it can't be added up."""
        committee, length = self._protocol.committee, self._degree
        info = share_info(self.context.task, draft.session_id, client, draft.id)
        try:
            text = self._private(draft).open(message.sealed, info=info)
        except MPCError:
            return b"", Lack.UNOPENED
        salt, share = text[: packed.SALT_BYTES], text[packed.SALT_BYTES :]
        if len(share) != committee.share_bytes(length, self._place):
            return b"", Lack.MALFORMED
        context = commitment_context(draft.session_id, client)
        if packed.commitment(context, self._place, salt, share) != message.commitment:
            return b"", Lack.UNCOMMITTED
        try:
            read = packed.read_share(committee, length, self._place, share)
        except MPCError:
            return b"", Lack.MALFORMED
        challenge = packed.challenge_key(challenge_context(draft.session_id, client), dealing.root)
        try:
            read.check(challenge, dealing.proof)
        except MPCError:
            return b"", Lack.MISSES_PROOF
        return read.kept(), Lack.NOTHING

    def _private(self, draft: CommitteeState) -> PrivateKey:
        if self._key is None:
            self._key = PrivateKey(Kem(self._protocol.kem), draft.key)
        return self._key

    @cached_property
    def _degree(self) -> int:
        return self._protocol.scheme(self.context.task).degree

    def _agree(self, draft: CommitteeState, message: Collect, payload: memoryview) -> Reply:
        """Agreement: sign one set of clients of each of whom a good share is here, or say what is lacking."""
        chosen = from_bitmap(message.clients, draft.cohort)
        self._check_floor(len(chosen))
        parts = {client: draft.parts.get(client, _ABSENT) for client in chosen}
        lacking = bytes(part.lack for part in parts.values())
        if any(lacking):
            draft.aborted = f"lacks good key shares of {sum(map(bool, lacking))} clients in the set"
            self.erase(draft)
            return Agreed(b"", lacking), b""
        draft.agreed = agreed_digest(draft.session_id, {client: part.dealing for client, part in parts.items()})
        self._claim(draft, "agreement")
        draft.parts = {client: parts.get(client) or Part(part.message) for client, part in draft.parts.items()}
        self._forget_key(draft)
        return Agreed(draft.agreed, b""), b""

    def _recount(self, draft: CommitteeState, message: Recount, payload: memoryview) -> Reply:
        """Recount: say whose shares are here, and take no more."""
        self._forget_key(draft)
        return Held(bytes(draft.parts.get(client, _ABSENT).lack for client in draft.cohort)), b""

    def _forget_key(self, draft: CommitteeState) -> None:
        """Forget the session key, which is needed no more, and the seed that it follows from."""
        draft.key, draft.seed = b"", self.context.derive(draft, "seed-after-shares")
        self._key = None

    def _check_floor(self, present: int) -> None:
        """``Aborted`` for too few clients. They come as a bitmap over the cohort, so each counts once."""
        if present < self.context.task.min_survivors:
            raise Aborted(f"got a set of {present} clients; {self.context.task.min_survivors} are needed")

    def _release(self, draft: CommitteeState, message: Release, payload: memoryview) -> Reply:
        """SumOfKeys: give away the sum of the shares of the set that was agreed on.

        With a ledger this happens once ever; without one, once for this object.
        """
        self._check_quorum(draft, message.agreed)
        self._claim(draft, "opening")
        shares = (part.share for part in draft.parts.values() if part.share)
        return KeyShareSum(), packed.sum_shares(self._protocol.committee, self._degree, shares)

    def _check_quorum(self, draft: CommitteeState, agreed: Sequence[bytes]) -> None:
        """``Reject`` unless a quorum of distinct members signed the digest that this member signed.

        Other agreements are left out of the count, because one corrupt member must not be able to void the rest.
        """
        if len(agreed) > self._protocol.members:
            raise Reject(FaultKind.INVALID, f"got {len(agreed)} agreements of {self._protocol.members} members")
        needed, signers = self._protocol.quorum, set[str]()
        for data in agreed:
            envelope = self._agreement(draft, data)
            if envelope is not None:
                signers.add(envelope.sender)
            if len(signers) == needed:
                return
        raise Reject(
            FaultKind.INVALID, f"got agreements of {len(signers)} members to this set; {needed} are needed"
        )

    def _agreement(self, draft: CommitteeState, data: bytes) -> Envelope | None:
        """A member's signed agreement to this member's own digest; None for anything else, or of anyone else."""
        try:
            envelope = self.context.relayed(data, Agreed, draft.session_id, PartyRole.DECRYPTOR)
            signed, rest = envelope.open(Agreed)
            wire.no_vectors(rest)
            place_of(self._members, envelope.sender)
        except Reject:
            return None
        return envelope if signed.digest == draft.agreed else None

    def _claim(self, draft: CommitteeState, entry: str) -> None:
        """Hold this member to one set in a task's session, whatever nonce the server draws and state comes back."""
        value = hashlib.sha256(draft.session_id + draft.agreed).digest()
        self.context.claim(value, entry, self.context.task.digest, draft.session or b"")

    def erase(self, draft: CommitteeState) -> None:
        """Forget the session key and all shares; only the digests of messages stay, to know them again."""
        super().erase(draft)
        draft.key, self._key = b"", None
        draft.parts = {client: Part(part.message) for client, part in draft.parts.items()}

"""The client of OneShot: one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

from he.errors import HEError
from mpc import hpke, packed
from mpc.errors import MPCError
from secagg import wire
from secagg.errors import FaultKind, LocalProtocolError
from secagg.identity import PartyRole
from secagg.protocols.oneshot.messages import (
    Dealing,
    KeyedInput,
    KeyedProposal,
    SessionKey,
    challenge_context,
    commitment_context,
    dealing_tree,
    public_seed,
    share_info,
)
from secagg.protocols.oneshot.parameters import OneShotParameters, carried, committee_of, place_of
from secagg.roles.client import Client
from secagg.roles.member import Handler, Reply, method
from secagg.roles.state import ClientState
from secagg.session import draw
from secagg.table import Round
from secagg.wire import Reject

_SEED_BYTES = 32


class OneShotClient(Client[ClientState]):
    """A client of :class:`secagg.OneShot`.

    Input: the server proposes the session and shows the session keys that the committee's members signed. The
    client encrypts its update under a key that it uses once, shares this key among the members, seals each share to
    its member, and answers with all of it in one message. Then it has finished.

    It refuses a proposal that does not fit its task or its roster, one with too few session keys, and one with a
    session key that nobody signed or that can't be used; then it sends nothing.
    """

    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {Round.INPUT: method("_input")}

    @property
    def _protocol(self) -> OneShotParameters:
        protocol = self.context.task.protocol
        assert isinstance(protocol, OneShotParameters)
        return protocol

    @cached_property
    def _members(self) -> tuple[str, ...]:
        return committee_of(self.context)

    def _input(self, draft: ClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        """Encrypt the update, deal the key, and forget both."""
        keys = self._member_keys(draft, message.keys)
        scheme, public = self._protocol.scheme(self.context.task), public_seed(draft.session_id)
        encoded = zip(self.context.task.segments, self.context.contribution(draft), strict=True)
        values = [part for segment, part in encoded if carried(segment)]
        secret = self._secret(draft)
        try:
            ciphertext = scheme.encrypt(values, secret, public, self.context.executor)
        except HEError as error:
            raise LocalProtocolError(f"the encoded update can't be encrypted: {error}") from error
        dealt, salts = self._deal(draft, secret, public)
        commitments = dealt.commitments(commitment_context(draft.session_id, draft.id), salts)
        sealed = {
            place: self._seal(draft, place, key, salts[place] + dealt.shares[place]) for place, key in keys.items()
        }
        root = dealing_tree(commitments, sealed)[-1][0]
        proof = dealt.prove(packed.challenge_key(challenge_context(draft.session_id, draft.id), root))
        dealing = self.context.seal(draft, Dealing(root, proof))
        return KeyedInput(dealing, b"".join(commitments), [sealed[place] for place in sorted(sealed)]), ciphertext

    def _secret(self, draft: ClientState) -> bytes:
        """The seed of key and errors, which belongs to this contribution.

        Two vectors under one key would reveal their difference. A client whose state and ledger were rolled back
        together can be brought to encrypt another vector in the same session.
        """
        return self.context.rng(draft, "one-time-key", draft.contributed)(_SEED_BYTES)

    def _deal(self, draft: ClientState, secret: bytes, public: bytes) -> tuple[packed.Dealing, list[bytes]]:
        """The shares of the key, and a salt for the commitment to each.

        A client that is restored from before this answer deals the same key anew. HPKE can't be seeded, so the root
        over the sealed texts would be another one, and so would the challenge of the proof. Two challenges on one
        dealing give equations of the key, so each dealing has randomness of its own.
        """
        protocol = self._protocol
        fresh = draw(self.context.environment.rng, _SEED_BYTES)
        rng = self.context.rng(draft, "dealing", fresh)
        seeds = [rng(packed.SEED_BYTES) for _ in range(protocol.corrupt_members)]
        mask_key = rng(packed.SEED_BYTES)
        salts = [rng(packed.SALT_BYTES) for _ in range(protocol.members)]
        key = protocol.scheme(self.context.task).key(secret, public)
        return packed.deal(protocol.committee, key, seeds, mask_key), salts

    def _member_keys(self, draft: ClientState, signed: Sequence[bytes]) -> dict[int, bytes]:
        """The members' session keys, by the members' places in the roster."""
        if len(signed) > self._protocol.members:
            raise Reject(FaultKind.INVALID, f"got {len(signed)} session keys of {self._protocol.members} members")
        keys: dict[int, bytes] = {}
        for data in signed:
            envelope = self.context.relayed(data, SessionKey, draft.session_id, PartyRole.DECRYPTOR)
            shown, rest = envelope.open(SessionKey)
            wire.no_vectors(rest)
            place = place_of(self._members, envelope.sender)
            if keys and place <= max(keys):
                raise Reject(FaultKind.INVALID, f"got the session key of {envelope.sender} twice or out of order")
            keys[place] = shown.key
        if len(keys) < (needed := self._protocol.needed):
            raise Reject(FaultKind.INVALID, f"got {len(keys)} session keys; {needed} members are needed")
        return keys

    def _seal(self, draft: ClientState, place: int, key: bytes, share: bytes) -> bytes:
        member = self._members[place]
        info = share_info(self.context.task, draft.session_id, draft.id, member)
        try:
            return hpke.seal(hpke.Kem(self._protocol.kem), key, share, info=info)
        except MPCError as error:
            raise Reject(FaultKind.INVALID, f"got a session key of {member} that can't be used: {error}") from error

"""The server of SecAgg: what it asks, what it takes, and how it settles each round."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import ClassVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg import wire
from secagg._machine import Reply
from secagg._server import Server, ServerState, Step
from secagg.errors import Aborted, FaultKind
from secagg.protocols.base import Round
from secagg.protocols.lanes import fold_lanes, mask_lanes, reduce_lanes, zero_lanes
from secagg.protocols.pairwise import (
    COMMITMENT_BYTES,
    HASH_BYTES,
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
    SecAgg,
    SignedSurvivors,
    Survivors,
    Unmask,
    check_advert,
    commit_seed,
    commit_share,
    from_bitmap,
    mask_info,
    pieces,
    self_mask_info,
    to_bitmap,
)
from secagg.session import roster_digest, session_id
from secagg.wire import Envelope, Reject


class PairwiseServerState(ServerState):
    """What a SecAgg server keeps between rounds, the sum apart."""

    adverts: dict[str, bytes] = {}  # U1: the signed envelopes, as received
    public_keys: dict[str, tuple[bytes, bytes]] = {}  # sealing key, masking key
    u1: list[str] = []
    u2: list[str] = []
    seed_commitments: dict[str, bytes] = {}
    commitments: dict[str, bytes] = {}  # by dealer, for U1 in order
    sealed: dict[str, bytes] = {}  # by dealer, for U1 without the dealer, in order
    signed: dict[str, bytes] = {}  # the signed survivor lists, as received
    shares: dict[str, dict[int, bytes]] = {}  # by dealer: evaluation point to revealed share


class PairwiseServer(Server[PairwiseServerState]):
    """A SecAgg server; see :class:`secagg.SecAgg`."""

    state_type = PairwiseServerState

    @property
    def _protocol(self) -> SecAgg:
        protocol = self._task.protocol
        assert isinstance(protocol, SecAgg)
        return protocol

    @property
    def _corrupt(self) -> int:
        return self._protocol.corrupt(len(self._state.cohort), self._roster)

    @property
    def _floor(self) -> int:
        return self._protocol.floor(self._task, len(self._state.u1), self._corrupt)

    @property
    def _threshold(self) -> int:
        return self._protocol.threshold(len(self._state.u1), self._corrupt)

    # AdvertiseKeys

    def _propose(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self._state.cohort, (self.proposal(), b""))

    def _take_advert(self, envelope: Envelope, advert: Advert, payload: memoryview) -> None:
        wire.no_vectors(payload)
        check_advert(advert)
        state = self._state
        known = {key for pair in state.public_keys.values() for key in pair}
        if known & {advert.sealing_key, advert.masking_key}:
            raise Reject(FaultKind.INVALID, "got a key that another client advertised")
        try:
            for key in (advert.sealing_key, advert.masking_key):
                keys.agree(secrets.token_bytes(32), key, salt=b"", info=b"")
        except MPCError as error:
            raise Reject(FaultKind.INVALID, "got a key of small order") from error
        state.adverts = state.adverts | {envelope.sender: envelope.raw}
        state.public_keys = state.public_keys | {envelope.sender: (advert.sealing_key, advert.masking_key)}

    def _settle_adverts(self) -> None:
        state = self._state
        state.u1 = sorted(state.adverts)
        self.need(len(state.u1), self._floor, "clients that advertised keys")
        state.session_id = session_id(
            task=self._task.digest,
            roster=roster_digest(self._roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
            adverts=[state.adverts[party] for party in state.u1],
        )

    # ShareKeys

    def _send_adverts(self) -> Mapping[str, Reply]:
        state = self._state
        return dict.fromkeys(state.u1, (Adverts([state.adverts[party] for party in state.u1]), b""))

    def _take_dealt(self, envelope: Envelope, dealt: DealtShares, payload: memoryview) -> None:
        wire.no_vectors(payload)
        state, n = self._state, len(self._state.u1)
        if len(dealt.self_mask_commitment) != HASH_BYTES:
            raise Reject(FaultKind.INVALID, "got a commitment that is not 32 bytes")
        pieces(dealt.commitments, COMMITMENT_BYTES, n)
        pieces(dealt.sealed, SEALED_BYTES, n - 1)
        state.seed_commitments = state.seed_commitments | {envelope.sender: dealt.self_mask_commitment}
        state.commitments = state.commitments | {envelope.sender: dealt.commitments}
        state.sealed = state.sealed | {envelope.sender: dealt.sealed}

    def _settle_dealt(self) -> None:
        self._state.u2 = sorted(self._state.sealed)
        self.need(len(self._state.u2), self._floor, "clients that dealt shares")
        self._sums = zero_lanes(self._task)

    # MaskedInput

    def _send_shares(self) -> Mapping[str, Reply]:
        return {holder: (self._shares_for(holder), b"") for holder in self._state.u2}

    def _shares_for(self, holder: str) -> HeldShares:
        state = self._state
        place = {party: index for index, party in enumerate(state.u1)}
        at = place[holder]
        committed, sealed = [], []
        for dealer in state.u2:
            if dealer == holder:
                continue
            committed.append(state.commitments[dealer][at * COMMITMENT_BYTES : (at + 1) * COMMITMENT_BYTES])
            # A dealer seals nothing to itself: those after it have moved up by one.
            box = at - (place[dealer] < at)
            sealed.append(state.sealed[dealer][box * SEALED_BYTES : (box + 1) * SEALED_BYTES])
        return HeldShares(to_bitmap(state.u2, state.u1), b"".join(committed), b"".join(sealed))

    def _take_input(self, envelope: Envelope, message: MaskedInput, payload: memoryview) -> None:
        fold_lanes(self._task, payload, self._sums)

    def _settle_input(self) -> None:
        state = self._state
        state.survivors = sorted(state.answered)
        self.need(len(state.survivors), self._floor, "masked inputs")
        state.sealed = {}
        state.shares = {dealer: {} for dealer in state.u2}

    # ConsistencyCheck

    def _send_survivors(self) -> Mapping[str, Reply]:
        state = self._state
        return dict.fromkeys(state.survivors, (Survivors(to_bitmap(state.survivors, state.u1)), b""))

    def _take_signed(self, envelope: Envelope, told: SignedSurvivors, payload: memoryview) -> None:
        wire.no_vectors(payload)
        state = self._state
        if told != SignedSurvivors(to_bitmap(state.u2, state.u1), to_bitmap(state.survivors, state.u1)):
            raise Reject(FaultKind.INVALID, "got a signature under another survivor list")
        state.signed = state.signed | {envelope.sender: envelope.raw}

    def _settle_signed(self) -> None:
        self.need(len(self._state.signed), self._threshold, "signatures under the survivor list")

    # Unmasking

    def _send_unmask(self) -> Mapping[str, Reply]:
        state = self._state
        signers = sorted(state.signed) or state.survivors
        request = Unmask(
            to_bitmap(state.survivors, state.u1), [state.signed[party] for party in sorted(state.signed)]
        )
        return dict.fromkeys(signers, (request, b""))

    def _take_revealed(self, envelope: Envelope, revealed: Revealed, payload: memoryview) -> None:
        """Sort a holder's shares to their dealers; a share that misses its hash is its holder's fault."""
        wire.no_vectors(payload)
        state, holder = self._state, envelope.sender
        unopened = from_bitmap(revealed.unopened, state.u1)
        if holder in unopened or not set(unopened) <= set(state.u2):
            raise Reject(FaultKind.INVALID, "got unopened shares of clients that dealt none")
        dealers = [party for party in state.u2 if party not in unopened]
        shares = pieces(revealed.shares, SHARE_BYTES, len(dealers))
        at = state.u1.index(holder)
        for dealer in unopened:
            self.blame(dealer, FaultKind.UNOPENED_SHARE, f"{holder} says that the share didn't open")
        survivors = set(state.survivors)
        for dealer, share in zip(dealers, shares, strict=True):
            kind = SELF if dealer in survivors else KEY
            start = at * COMMITMENT_BYTES + (HASH_BYTES if kind == KEY else 0)
            expected = state.commitments[dealer][start : start + HASH_BYTES]
            if commit_share(state.session_id, dealer, holder, kind, share) != expected:
                self.blame(holder, FaultKind.WRONG_SHARE, f"its share of {dealer} is not the one dealt")
                continue
            state.shares[dealer][at + 1] = share

    def _settle_revealed(self) -> None:
        """Rebuild one secret of each client of U2, then take the masks off the sum."""
        state, threshold, survivors = self._state, self._threshold, set(self._state.survivors)
        for dealer in state.u2:
            self.need(len(state.shares[dealer]), threshold, f"good shares of {dealer}'s secret")
        secret = {
            dealer: self._rebuild(dealer, SELF if dealer in survivors else KEY, threshold) for dealer in state.u2
        }
        for client in state.survivors:
            key = keys.derive(secret[client], salt=state.session_id, info=self_mask_info(client))
            mask_lanes(self._sums, key, sign=-1)
        for gone in sorted(set(state.u2) - survivors):
            for client in state.survivors:
                info = mask_info(gone, client)
                key = keys.agree(secret[gone], state.public_keys[client][1], salt=state.session_id, info=info)
                mask_lanes(self._sums, key, sign=-1 if client < gone else 1)
        reduce_lanes(self._task, self._sums)
        state.shares = {}

    def _rebuild(self, dealer: str, kind: str, threshold: int) -> bytes:
        """A dealer's secret, held to what it committed to; shares that match and rebuild another are its fault."""
        state = self._state
        shares = dict(sorted(state.shares[dealer].items())[:threshold])
        try:
            secret = shamir.reconstruct(list(shares), list(shares.values()))
            if kind == SELF:
                right = commit_seed(state.session_id, dealer, secret) == state.seed_commitments[dealer]
            else:
                right = keys.public_key(secret) == state.public_keys[dealer][1]
        except MPCError:
            right = False
        if not right:
            self.blame(dealer, FaultKind.WRONG_DEALING, "its shares rebuild another secret than it committed to")
            raise Aborted(f"{dealer} dealt shares of a wrong secret; leave it out of the next session")
        return secret

    steps: ClassVar[Mapping[str, Step]] = {
        Round.ADVERTISE_KEYS: Step(_propose, _take_advert, _settle_adverts),
        Round.SHARE_KEYS: Step(_send_adverts, _take_dealt, _settle_dealt),
        Round.MASKED_INPUT: Step(_send_shares, _take_input, _settle_input),
        Round.CONSISTENCY_CHECK: Step(_send_survivors, _take_signed, _settle_signed),
        Round.UNMASKING: Step(_send_unmask, _take_revealed, _settle_revealed),
    }

"""The client of SecAgg: five answers, each a method that follows its round in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg import wire
from secagg._machine import Client, ClientState, Handler, Reply
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole
from secagg.protocols.base import Proposal, Round
from secagg.protocols.lanes import mask_lanes, pack_lanes, to_lanes
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
    commit_seed,
    commit_share,
    from_bitmap,
    mask_info,
    open_advert,
    pieces,
    seal_info,
    self_mask_info,
    share_context,
    to_bitmap,
)
from secagg.session import roster_digest, session_id
from secagg.wire import Envelope, Reject


class PairwiseClientState(ClientState):
    """What a SecAgg client keeps between its rounds."""

    opening_id: bytes = b""  # the session id before any keys, from which this client's own are drawn
    corrupt: int = 0
    u1: list[str] = []
    adverts: dict[str, tuple[bytes, bytes]] = {}  # sealing key, masking key
    dealers: bytes = b""  # U2
    held: dict[str, tuple[bytes, bytes]] = {}  # the shares dealt to this client: of the seed, of the key
    survivors: bytes = b""  # U3


class PairwiseClient(Client[PairwiseClientState]):
    """A SecAgg client; see :class:`secagg.SecAgg`."""

    state_type = PairwiseClientState

    @property
    def _protocol(self) -> SecAgg:
        protocol = self._task.protocol
        assert isinstance(protocol, SecAgg)
        return protocol

    def _advertise_keys(self, draft: PairwiseClientState, message: Proposal, payload: memoryview) -> Reply:
        """Round 0: fresh keys for this session."""
        wire.no_vectors(payload)
        draft.opening_id = draft.session_id
        draft.corrupt = self._protocol.corrupt(len(draft.cohort), self._roster)
        sealing, masking = self._private_keys(draft)
        return Advert(keys.public_key(sealing), keys.public_key(masking)), b""

    def _share_keys(self, draft: PairwiseClientState, message: Adverts, payload: memoryview) -> Reply:
        """Round 1: check who is there, then deal the self-mask seed and the masking key to all of U1."""
        wire.no_vectors(payload)
        adverts = self._open_adverts(draft, message.adverts)
        draft.u1 = list(adverts)
        self._require(draft, len(draft.u1), "clients that advertised keys")
        draft.adverts = {party: (a.sealing_key, a.masking_key) for party, a in adverts.items()}
        draft.session_id = session_id(
            task=self._task.digest,
            roster=roster_digest(self._roster),
            session=draft.session or b"",
            nonce=draft.nonce,
            cohort=draft.cohort,
            adverts=message.adverts,
        )
        session, u1 = draft.session_id, draft.u1
        sealing, masking = self._private_keys(draft)
        seed = self.derive(draft, "self-mask-seed")
        threshold, points = self._protocol.threshold(len(u1), draft.corrupt), range(1, len(u1) + 1)
        of_seed = shamir.share_values(seed, threshold, points, self.rng(draft, "self-mask-polynomial"))
        of_key = shamir.share_values(masking, threshold, points, self.rng(draft, "masking-key-polynomial"))
        sealed, commitments = [], []
        for point, holder, *shares in zip(points, u1, of_seed, of_key, strict=True):
            for kind, share in zip((SELF, KEY), shares, strict=True):
                commitments.append(commit_share(session, draft.id, holder, kind, share))
            if holder == draft.id:
                draft.held = {draft.id: (shares[0], shares[1])}
                continue
            key = self._agree(sealing, draft.adverts[holder][0], session, seal_info(draft.id, holder))
            context = share_context(session, draft.id, holder, point)
            sealed.append(keys.seal(key, b"".join(shares), associated_data=context))
        return DealtShares(commit_seed(session, draft.id, seed), b"".join(commitments), b"".join(sealed)), b""

    def _masked_input(self, draft: PairwiseClientState, message: HeldShares, payload: memoryview) -> Reply:
        """Round 2: keep the shares that the others dealt; upload the input under all masks."""
        wire.no_vectors(payload)
        u2 = from_bitmap(message.dealers, draft.u1)
        if draft.id not in u2:
            raise Reject(FaultKind.INVALID, "got a set of dealers without this client")
        self._require(draft, len(u2), "clients that dealt shares")
        others = [party for party in u2 if party != draft.id]
        sealing, masking = self._private_keys(draft)
        sealed = pieces(message.sealed, SEALED_BYTES, len(others))
        commitments = pieces(message.commitments, COMMITMENT_BYTES, len(others))
        lanes = to_lanes(self._task, self.contribution(draft))
        draft.dealers = message.dealers
        opened = {
            dealer: self._open_shares(draft, sealing, dealer, box, committed)
            for dealer, box, committed in zip(others, sealed, commitments, strict=True)
        }
        draft.held = draft.held | {dealer: shares for dealer, shares in opened.items() if shares}
        self_key = keys.derive(
            self.derive(draft, "self-mask-seed"), salt=draft.session_id, info=self_mask_info(draft.id)
        )
        mask_lanes(lanes, self_key, sign=1)
        for other in others:
            info = mask_info(draft.id, other)
            shared = self._agree(masking, draft.adverts[other][1], draft.session_id, info)
            mask_lanes(lanes, shared, sign=1 if draft.id < other else -1)
        packed = pack_lanes(self._task, lanes)
        draft.contribution = []
        return MaskedInput(), packed

    def _consistency_check(self, draft: PairwiseClientState, message: Survivors, payload: memoryview) -> Reply:
        """Round 3: sign the one story about who survived that this client will act on."""
        wire.no_vectors(payload)
        self._accept_survivors(draft, message.survivors)
        return SignedSurvivors(draft.dealers, draft.survivors), b""

    def _unmask(self, draft: PairwiseClientState, message: Unmask, payload: memoryview) -> Reply:
        """Round 4: reveal one share for each client of U2: of its seed if it survived, else of its key."""
        wire.no_vectors(payload)
        if self._protocol.threat_model == "malicious":
            self._check_quorum(draft, message)
        else:
            if message.signed:
                raise Reject(FaultKind.INVALID, "got signed lists in a protocol that has none")
            self._accept_survivors(draft, message.survivors)
        survivors = set(from_bitmap(draft.survivors, draft.u1))
        u2 = from_bitmap(draft.dealers, draft.u1)
        revealed = [draft.held[dealer][0 if dealer in survivors else 1] for dealer in u2 if dealer in draft.held]
        unopened = to_bitmap((dealer for dealer in u2 if dealer not in draft.held), draft.u1)
        return Revealed(unopened, b"".join(revealed)), b""

    answers: ClassVar[Mapping[str, Handler]] = {
        Round.ADVERTISE_KEYS: _advertise_keys,
        Round.SHARE_KEYS: _share_keys,
        Round.MASKED_INPUT: _masked_input,
        Round.CONSISTENCY_CHECK: _consistency_check,
        Round.UNMASKING: _unmask,
    }

    def erase(self, draft: PairwiseClientState) -> None:
        """Forget keys, shares and update."""
        super().erase(draft)
        draft.held, draft.adverts = {}, {}

    def _open_adverts(self, draft: PairwiseClientState, raw: list[bytes]) -> dict[str, Advert]:
        """The adverts of U1, each checked as its sender's own; this client's among them, unchanged."""
        if len(raw) > len(draft.cohort):
            raise Reject(FaultKind.INVALID, f"got {len(raw)} adverts from a cohort of {len(draft.cohort)}")
        adverts: dict[str, Advert] = {}
        previous = ""
        for data in raw:
            envelope = self._relayed(data, Advert, draft.opening_id)
            if envelope.sender not in draft.cohort or envelope.sender <= previous:
                raise Reject(FaultKind.INVALID, "got adverts out of order, twice, or from outside the cohort")
            previous = envelope.sender
            adverts[envelope.sender] = open_advert(envelope)
        if draft.last_reply not in raw:
            raise Reject(FaultKind.INVALID, "got adverts without this client's own")
        everyone = [key for advert in adverts.values() for key in (advert.sealing_key, advert.masking_key)]
        if len(set(everyone)) != len(everyone):
            raise Reject(FaultKind.INVALID, "got one key in two adverts")
        return adverts

    def _relayed(self, data: bytes, kind: type[wire.Message], session: bytes) -> Envelope:
        """Another client's message that came through the server, with its signature checked."""
        envelope = Envelope.parse(data, self._limit)
        if envelope.protocol != self._task.protocol.ID or envelope.task != self._task.digest:
            raise Reject(FaultKind.FOREIGN_TASK, "got another client's message for another protocol or task")
        if envelope.kind != kind.TYPE:
            raise Reject(FaultKind.INVALID, f"got message type {envelope.kind} where {kind.__name__} is relayed")
        if envelope.session != session:
            raise Reject(FaultKind.FOREIGN_SESSION, "got another client's message of another session")
        self.check_signature(envelope, PartyRole.CLIENT)
        return envelope

    def _open_shares(
        self, draft: PairwiseClientState, sealing: bytes, dealer: str, sealed: bytes, committed: bytes
    ) -> tuple[bytes, bytes] | None:
        """Both shares from a dealer; None if they don't open or aren't those it committed to."""
        key = self._agree(sealing, draft.adverts[dealer][0], draft.session_id, seal_info(dealer, draft.id))
        context = share_context(draft.session_id, dealer, draft.id, draft.u1.index(draft.id) + 1)
        try:
            opened = keys.open_sealed(key, sealed, associated_data=context)
        except MPCError:
            return None
        if len(opened) != 2 * SHARE_BYTES:
            return None
        shares = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
        hashes = committed[:HASH_BYTES], committed[HASH_BYTES:]
        for kind, share, expected in zip((SELF, KEY), shares, hashes, strict=True):
            if commit_share(draft.session_id, dealer, draft.id, kind, share) != expected:
                return None
        return shares

    def _accept_survivors(self, draft: PairwiseClientState, bitmap: bytes) -> None:
        """Hold U3 to U2 and to the floors; a client that is left out of it leaves."""
        survivors = from_bitmap(bitmap, draft.u1)
        if not set(survivors) <= set(from_bitmap(draft.dealers, draft.u1)):
            raise Reject(FaultKind.INVALID, "got survivors that dealt no shares")
        if draft.id not in survivors:
            raise Aborted("the server says that this client's input is not in the sum")
        self._require(draft, len(survivors), "survivors")
        draft.survivors = bitmap

    def _check_quorum(self, draft: PairwiseClientState, message: Unmask) -> None:
        """Go on only if more than (|U1| + c)/2 of U1 signed this client's own story, byte for byte."""
        if message.survivors != draft.survivors:
            raise Aborted("the server tells this client two stories about who survived")
        if len(message.signed) > len(draft.u1):
            raise Reject(FaultKind.INVALID, f"got {len(message.signed)} signed lists of {len(draft.u1)} clients")
        survivors, signers = set(from_bitmap(draft.survivors, draft.u1)), set()
        for data in message.signed:
            envelope = self._relayed(data, SignedSurvivors, draft.session_id)
            told, rest = envelope.open(SignedSurvivors)
            wire.no_vectors(rest)
            if envelope.sender not in survivors or envelope.sender in signers:
                raise Reject(FaultKind.INVALID, "got a list signed twice or by someone who did not survive")
            if (told.dealers, told.survivors) != (draft.dealers, draft.survivors):
                raise Aborted(f"{envelope.sender} was told another story about who survived")
            signers.add(envelope.sender)
        quorum = (len(draft.u1) + draft.corrupt) // 2 + 1
        if len(signers) < quorum:
            raise Aborted(f"got {len(signers)} signatures under the survivor list; {quorum} are needed")

    def _require(self, draft: PairwiseClientState, present: int, what: str) -> None:
        floor = self._protocol.floor(self._task, len(draft.u1), draft.corrupt)
        if present < floor:
            raise Aborted(f"got {present} {what}; {floor} are needed, so this client reveals nothing more")

    def _private_keys(self, draft: PairwiseClientState) -> tuple[bytes, bytes]:
        """The private halves of this session's advert: sealing key, masking key."""
        salt = draft.opening_id
        return (
            keys.derive(draft.seed, salt=salt, info=keys.encode_parts("secagg/v1/role", "sealing-key")),
            keys.derive(draft.seed, salt=salt, info=keys.encode_parts("secagg/v1/role", KEY)),
        )

    def _agree(self, private: bytes, peer: bytes, session: bytes, info: bytes) -> bytes:
        try:
            return keys.agree(private, peer, salt=session, info=info)
        except MPCError as error:
            raise Reject(FaultKind.INVALID, "got an advert whose key is of small order") from error

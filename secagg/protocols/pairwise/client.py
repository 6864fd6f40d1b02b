"""The client of SecAgg: Bonawitz et al., "Practical Secure Aggregation", figure 4, a method for each round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg import wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole, is_listed
from secagg.lanes import mask_all, pack_lanes, to_lanes
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    KEY,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    commit_seed,
    commit_share,
    mask_info,
    open_advert,
    pieces,
    seal_info,
    self_mask_info,
    share_context,
    share_dealer,
    share_holder,
)
from secagg.protocols.pairwise.neighbours import Graph, Shape
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.pairwise.states import PairwiseClientState, check_client_graph, check_client_state
from secagg.roles.client import Client
from secagg.roles.member import Handler, Reply, method
from secagg.roles.state import hold
from secagg.session import Advertised, roster_digest, session_id
from secagg.table import Proposal, Round
from secagg.wire import SIGNATURE_BYTES, Reject


class PairwiseClient(Client[PairwiseClientState]):
    """A client of :class:`secagg.SecAgg`.

    0. AdvertiseKeys: it makes two fresh key pairs, one to seal shares with and one to mask with.
    1. ShareKeys: it gets the adverts of U1, checks them, and deals shares of its self mask's seed and of its
       private masking key to all holders, each pair of shares sealed to its holder.
    2. MaskedInput: it gets the shares of the others in U2, and uploads its input under all masks.
    3. ConsistencyCheck (not under ``"semi-honest"``): it gets U3, and signs it together with its U2.
    4. Unmasking: it gets the others' signatures under the same U2 and U3, and reveals one share for each client of
       U2: of the seed if that client is in U3, else of the masking key.

    It leaves, and reveals nothing more, when U1, U2 or U3 is smaller than the floor, when U3 doesn't hold it, or
    when too few clients signed. Bytes that break the protocol, such as a signature under another U2 or U3, are
    refused and change nothing. A client does not leave because of a share that doesn't open: the client reports its
    dealer in round 4.

    SecAggPlus replaces how a client learns U1 (``_enter``), what it sends with its input (``_message``), and what
    it checks about the survivors (``_check_survivors``).
    """

    state_type = PairwiseClientState
    answers: ClassVar[Mapping[str, Handler]] = {
        Round.ADVERTISE_KEYS: method("_advertise_keys"),
        Round.SHARE_KEYS: method("_share_keys"),
        Round.MASKED_INPUT: method("_masked_input"),
        Round.CONSISTENCY_CHECK: method("_consistency_check"),
        Round.UNMASKING: method("_unmask"),
    }

    def prepare(self) -> None:
        """Check a restored state against all that a client can have saved; ``ConfigError`` if it differs."""
        super().prepare()
        self._sealing: keys.PrivateKey | None = None
        self._agreed: dict[bytes, bytes] = {}  # by sealing key: not saved, but agreed again where it is missing
        state = self._state
        check_client_state(state)
        if self._ended or not state.step:
            return
        answered = [phase.round for phase in self._phases[: state.step]]
        hold(state.corrupt == self._protocol.corrupt(len(state.cohort), self.context.roster), "number of corrupt")
        hold(bool(state.u1) == (Round.SHARE_KEYS in answered), "U1")
        hold(bool(state.dealers) == (Round.MASKED_INPUT in answered), "U2")
        hold(bool(state.survivors) == (Round.CONSISTENCY_CHECK in answered), "U3")
        if state.u1:
            check_client_graph(state, self._graph(state))

    # Round 0

    def _advertise_keys(self, draft: PairwiseClientState, message: Proposal, payload: memoryview) -> Reply:
        """Advertise fresh keys for this session."""
        draft.corrupt = self._protocol.corrupt(len(draft.cohort), self.context.roster)
        sealing, masking = self._private_keys(draft)
        return messages.Advert(keys.public_key(sealing), keys.public_key(masking)), b""

    # Round 1

    def _share_keys(self, draft: PairwiseClientState, message: Any, payload: memoryview) -> Reply:
        """Check the adverts of U1, then deal this client's two secrets."""
        # Bonawitz et al., round 1: |U1| >= t, all keys differ, all signatures hold.
        adverts = self._open_adverts(draft, message.adverts)
        draft.adverts = {party: (a.sealing_key, a.masking_key) for party, a in adverts.items()}
        graph = self._enter(draft, message, list(adverts))
        # Sample b_u; share s_u^SK and b_u with threshold t among all holders.
        _, masking = self._private_keys(draft)
        seed = self.context.derive(draft, "self-mask-seed")
        holders, threshold = graph.holders(draft.id), graph.shape.threshold
        points = range(1, len(holders) + 1)
        of_seed = shamir.share_values(seed, threshold, points, self.context.rng(draft, "self-mask-polynomial"))
        of_key = shamir.share_values(masking, threshold, points, self.context.rng(draft, "masking-key-polynomial"))
        # Encrypt both shares of each holder under the key agreed with it. Not in the paper: commit to every share,
        # so that the server knows a wrong share, and whose fault it is.
        session, dealer = draft.session_id, share_dealer(draft.session_id, draft.id)
        sealed, commitments = [], []
        for point, holder, one, other in zip(points, holders, of_seed, of_key, strict=True):
            commitments.append(commit_share(dealer, share_holder(holder, SELF), one))
            commitments.append(commit_share(dealer, share_holder(holder, KEY), other))
            if holder == draft.id:
                draft.held = {draft.id: (one, other)}
                continue
            secret = self._sealing_secret(draft, holder)
            key = keys.derive(secret, salt=session, info=seal_info(draft.id, holder))
            context = share_context(session, draft.id, holder, point)
            sealed.append(keys.seal(key, one + other, associated_data=context))
        return messages.DealtShares(
            commit_seed(session, draft.id, seed), b"".join(commitments), b"".join(sealed)
        ), b""

    def _open_adverts(self, draft: PairwiseClientState, raw: list[bytes]) -> dict[str, messages.Advert]:
        """The adverts in ``raw``, each checked as its sender's own; this client's is among them, unchanged."""
        if len(raw) > len(draft.cohort):
            raise Reject(FaultKind.INVALID, f"got {len(raw)} adverts from a cohort of {len(draft.cohort)}")
        adverts: dict[str, messages.Advert] = {}
        previous = ""
        for data in raw:
            envelope = self.context.relayed(data, messages.Advert, draft.opening_id, PartyRole.CLIENT)
            if envelope.sender <= previous or not is_listed(envelope.sender, draft.cohort):
                raise Reject(FaultKind.INVALID, "got adverts out of order, twice, or from outside the cohort")
            previous = envelope.sender
            adverts[envelope.sender] = open_advert(envelope)
        if draft.own_advert not in raw:
            raise Reject(FaultKind.INVALID, "got adverts without this client's own")
        all_keys = [key for advert in adverts.values() for key in (advert.sealing_key, advert.masking_key)]
        if len(set(all_keys)) != len(all_keys):
            raise Reject(FaultKind.INVALID, "got one key in two adverts")
        return adverts

    def _enter(self, draft: PairwiseClientState, message: messages.Adverts, senders: list[str]) -> Graph:
        """Learn U1, and the session id that follows from it; returns the graph over U1."""
        draft.u1 = senders
        shape = self._shape(draft)
        self._require(shape, len(senders), "clients that advertised keys")
        return self._stand(draft, Advertised.of(message.adverts), shape)

    def _stand(self, draft: PairwiseClientState, advertised: Advertised, shape: Shape) -> Graph:
        draft.session_id = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=draft.session or b"",
            nonce=draft.nonce,
            cohort=draft.cohort,
            advertised=advertised,
        )
        return Graph(draft.u1, shape, draft.session_id)

    # Round 2

    def _masked_input(self, draft: PairwiseClientState, message: messages.HeldShares, payload: memoryview) -> Reply:
        """Keep the shares that the others dealt; upload the input under all masks."""
        # Bonawitz et al., round 2: |U2| >= t; store the ciphertexts. Here they are opened at once.
        u2 = set(from_bitmap(message.dealers, draft.u1))
        if draft.id not in u2:
            raise Reject(FaultKind.INVALID, "got a set of dealers without this client")
        graph = self._graph(draft)
        self._require(graph.shape, len(u2), "clients that dealt shares")
        holders = zip(graph.holders(draft.id), graph.points(draft.id), strict=True)
        others = {party: point for party, point in holders if party in u2 and party != draft.id}
        sealed = pieces(message.sealed, SEALED_BYTES, len(others))
        commitments = pieces(message.commitments, COMMITMENT_BYTES, len(others))
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        draft.dealers = message.dealers
        held, secrets = dict(draft.held), {}
        for (dealer, point), box, committed in zip(others.items(), sealed, commitments, strict=True):
            secrets[dealer] = self._sealing_secret(draft, dealer)
            if shares := self._open_shares(draft, secrets[dealer], dealer, point, box, committed):
                held[dealer] = shares
        draft.held = held
        self._sealing, self._agreed = None, {}  # if this answer is not saved, the next one agrees again
        # y_u = x_u + PRG(b_u) + sum over v in U2 of ±PRG(s_uv).
        masks = [(self._self_mask_key(draft), 1), *self._pairwise_masks(draft, others)]
        mask_all(lanes, masks, self.context.executor)
        return self._message(draft, secrets), pack_lanes(self.context.task, lanes)

    def _pairwise_masks(self, draft: PairwiseClientState, others: Iterable[str]) -> Iterator[tuple[bytes, int]]:
        """The keys of the masks that this client shares with ``others``, each with its sign."""
        masking = keys.PrivateKey(self._private_keys(draft)[1])
        for other in others:
            secret = self._exchange(masking, draft.adverts[other][1])
            shared = keys.derive(secret, salt=draft.session_id, info=mask_info(draft.id, other))
            yield shared, 1 if draft.id < other else -1

    def _self_mask_key(self, draft: PairwiseClientState) -> bytes:
        seed = self.context.derive(draft, "self-mask-seed")
        return keys.derive(seed, salt=draft.session_id, info=self_mask_info(draft.id))

    def _sealing_secret(self, draft: PairwiseClientState, other: str) -> bytes:
        """What the sealing keys of this client and ``other`` agree on: it seals what each deals to the other."""
        public = draft.adverts[other][0]
        if public not in self._agreed:
            self._sealing = self._sealing or keys.PrivateKey(self._private_keys(draft)[0])
            self._agreed[public] = self._exchange(self._sealing, public)
        return self._agreed[public]

    def _open_shares(
        self, draft: PairwiseClientState, secret: bytes, dealer: str, point: int, sealed: bytes, committed: bytes
    ) -> tuple[bytes, bytes] | None:
        """Both shares from ``dealer``; None if they don't open, or don't match its commitments."""
        key = keys.derive(secret, salt=draft.session_id, info=seal_info(dealer, draft.id))
        context = share_context(draft.session_id, dealer, draft.id, point)
        try:
            opened = keys.open_sealed(key, sealed, associated_data=context)
        except MPCError:
            return None
        if len(opened) != 2 * SHARE_BYTES:
            return None
        of_seed, of_key = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
        start, (as_seed, as_key) = share_dealer(draft.session_id, dealer), self._as_holder
        hashes = commit_share(start, as_seed, of_seed) + commit_share(start, as_key, of_key)
        return (of_seed, of_key) if hashes == committed else None

    @cached_property
    def _as_holder(self) -> tuple[bytes, bytes]:
        """What the commitments to this client's shares of seeds and of keys have in common."""
        return share_holder(self._state.id, SELF), share_holder(self._state.id, KEY)

    def _message(self, draft: PairwiseClientState, secrets: Mapping[str, bytes]) -> wire.Message:
        """The message that carries the input; ``secrets`` are this client's with each of its neighbours in U2."""
        return messages.MaskedInput()

    # Round 3

    def _consistency_check(self, draft: PairwiseClientState, message: Any, payload: memoryview) -> Reply:
        """Sign the one U3 that this client will act on."""
        # Bonawitz et al., round 3: U3 ⊆ U2, |U3| >= t. U2 is signed too, for the masks depend on it.
        self._accept_survivors(draft, message, self._graph(draft))
        return messages.SignedSurvivors(draft.dealers, draft.survivors), b""

    def _accept_survivors(self, draft: PairwiseClientState, message: Any, graph: Graph) -> None:
        """Hold U3 to U2 and to the floor; ``Aborted`` if U3 leaves this client out."""
        survivors = from_bitmap(message.survivors, draft.u1)
        if not set(survivors) <= set(from_bitmap(draft.dealers, draft.u1)):
            raise Reject(FaultKind.INVALID, "got survivors that dealt no shares")
        if draft.id not in survivors:
            raise Aborted("the server says that this client's input is not in the sum")
        self._require(graph.shape, len(survivors), "survivors")
        self._check_survivors(draft, message, set(survivors), graph)
        draft.survivors = message.survivors

    def _check_survivors(
        self,
        draft: PairwiseClientState,
        message: messages.Survivors | messages.Unmask,
        survivors: set[str],
        graph: Graph,
    ) -> None:
        """Check U3 further; on the complete graph there is nothing more to check."""

    # Round 4

    def _unmask(self, draft: PairwiseClientState, message: messages.Unmask, payload: memoryview) -> Reply:
        """Reveal one share for each client of U2: of its seed if it survived, else of its masking key."""
        # Bonawitz et al., round 4: t signatures under this client's own U3.
        graph = self._graph(draft)
        if self._protocol.checked:
            self._check_quorum(draft, message, graph.shape.quorum)
        elif message.signers or message.signatures:
            raise Reject(FaultKind.INVALID, "got signatures under a threat model without any")
        else:
            self._accept_survivors(draft, message, graph)
        # Send the share of b_v for v in U3, of s_v^SK for v in U2 without U3; never both of one v.
        survivors = set(from_bitmap(draft.survivors, draft.u1))
        u2 = set(from_bitmap(draft.dealers, draft.u1))
        dealers = [dealer for dealer in graph.holders(draft.id) if dealer in u2]
        revealed = [
            draft.held[dealer][0 if dealer in survivors else 1] for dealer in dealers if dealer in draft.held
        ]
        unopened = to_bitmap((dealer for dealer in dealers if dealer not in draft.held), draft.u1)
        return messages.Revealed(unopened, b"".join(revealed)), b""

    def _check_quorum(self, draft: PairwiseClientState, message: messages.Unmask, quorum: int) -> None:
        """Go on only if at least ``quorum`` clients of U3 signed this client's own U2 and U3, byte for byte."""
        if message.survivors != draft.survivors:
            raise Aborted("the server tells this client two stories about who survived")
        signers = from_bitmap(message.signers, draft.u1)
        if not set(signers) <= set(from_bitmap(draft.survivors, draft.u1)):
            raise Reject(FaultKind.INVALID, "got the signature of a client that did not survive")
        signatures = dict(zip(signers, pieces(message.signatures, SIGNATURE_BYTES, len(signers)), strict=True))
        own = messages.SignedSurvivors(draft.dealers, draft.survivors)
        self.context.check_signatures(own, draft.session_id, PartyRole.CLIENT, signatures)
        if len(signers) < quorum:
            raise Aborted(f"got {len(signers)} signatures under the survivor list; {quorum} are needed")

    # In every round

    @property
    def _protocol(self) -> Pairwise:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Pairwise)
        return protocol

    def _shape(self, draft: PairwiseClientState) -> Shape:
        return self._protocol.shape(self.context.task, len(draft.u1), draft.corrupt)

    def _graph(self, draft: PairwiseClientState) -> Graph:
        return Graph(draft.u1, self._shape(draft), draft.session_id)

    def _require(self, shape: Shape, present: int, what: str) -> None:
        floor = self._protocol.floor(self.context.task, shape)
        if present < floor:
            raise Aborted(f"got {present} {what}; {floor} are needed, so this client reveals nothing more")

    def _private_keys(self, draft: PairwiseClientState) -> tuple[bytes, bytes]:
        """The private halves of this session's advert: sealing key, masking key."""
        salt = draft.opening_id
        return (
            keys.derive(draft.seed, salt=salt, info=keys.encode_parts("secagg/v1/role", "sealing-key")),
            keys.derive(draft.seed, salt=salt, info=keys.encode_parts("secagg/v1/role", KEY)),
        )

    def _exchange(self, private: keys.PrivateKey, peer: bytes) -> bytes:
        try:
            return private.exchange(peer)
        except MPCError as error:
            raise Reject(FaultKind.INVALID, "got an advert whose key is of small order") from error

    def erase(self, draft: PairwiseClientState) -> None:
        """Forget keys, shares and update."""
        super().erase(draft)
        draft.held, draft.adverts = {}, {}
        self._sealing, self._agreed = None, {}

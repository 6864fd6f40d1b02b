"""The client of SecAgg and SecAggPlus: up to six answers, each a method that follows its round in the paper."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg import wire
from secagg.beacon import SLACK_BITS, Beacon
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole
from secagg.lanes import mask_all, pack_lanes, to_lanes
from secagg.merkle import root_of_path
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    HASH_BYTES,
    KEY,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    VOUCHER_BYTES,
    Advert,
    Adverts,
    DealtShares,
    DrawnAdverts,
    Frozen,
    HeldShares,
    MaskedInput,
    NearAdverts,
    NextRound,
    Revealed,
    ShownAdverts,
    SignedSurvivors,
    Survivors,
    Unmask,
    VouchedInput,
    VouchedSurvivors,
    commit_seed,
    commit_share,
    mask_info,
    open_advert,
    pieces,
    seal_info,
    self_mask_info,
    share_context,
    voucher_info,
)
from secagg.protocols.pairwise.neighbours import Graph, Shape
from secagg.protocols.pairwise.protocol import Pairwise, SecAggPlus
from secagg.relay import relayed
from secagg.roles.client import Client
from secagg.roles.member import Handler, Reply
from secagg.roles.state import ClientState
from secagg.session import NONCE_BYTES, roster_digest, session_id
from secagg.table import Proposal, Round
from secagg.wire import Envelope, Reject


class PairwiseClientState(ClientState):
    """What a client keeps between its rounds."""

    corrupt: int = 0
    frozen: tuple[bytes, bytes] = (b"", b"")  # who is in U1, and the root over their adverts
    advert: bytes = b""  # this client's, once other answers followed it
    next_round: int = 0  # of the beacon, when U1 was frozen
    u1: list[str] = []
    adverts: dict[str, tuple[bytes, bytes]] = {}  # its own and its neighbours': sealing key, masking key
    dealers: bytes = b""  # U2
    held: dict[str, tuple[bytes, bytes]] = {}  # the shares dealt to this client: of the seed, of the key
    vouchers: dict[str, bytes] = {}  # what each neighbour has to show if it masked under the same U2
    survivors: bytes = b""  # U3


class PairwiseClient(Client[PairwiseClientState]):
    """A client; see :class:`secagg.SecAgg` and :class:`secagg.SecAggPlus`."""

    state_type = PairwiseClientState

    @property
    def _protocol(self) -> Pairwise:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Pairwise)
        return protocol

    def _shape(self, draft: PairwiseClientState) -> Shape:
        return self._protocol.shape(self.context.task, len(draft.u1), draft.corrupt)

    def _graph(self, draft: PairwiseClientState) -> Graph:
        return Graph(draft.u1, self._shape(draft), draft.session_id)

    def _advertise_keys(self, draft: PairwiseClientState, message: Proposal, payload: memoryview) -> Reply:
        """Round 0: fresh keys for this session."""
        draft.corrupt = self._protocol.corrupt(len(draft.cohort), self.context.roster)
        sealing, masking = self._private_keys(draft)
        return Advert(keys.public_key(sealing), keys.public_key(masking)), b""

    def _freeze_keys(self, draft: PairwiseClientState, message: Frozen, payload: memoryview) -> Reply:
        """Between the two, where a beacon draws the graph: what is still unknown now that U1 stands."""
        present = from_bitmap(message.present, draft.cohort)
        self._require(draft, len(present), "clients that advertised keys", among=len(present))
        if draft.id not in present or len(message.root) != HASH_BYTES:
            raise Reject(FaultKind.INVALID, "got frozen keys without this client's own, or a root that is no hash")
        draft.frozen, draft.advert = (message.present, message.root), draft.last_reply
        draft.next_round = self._beacon.next_round(self.context.environment.clock())
        return NextRound(draft.next_round), b""

    @property
    def _beacon(self) -> Beacon:
        protocol = self._protocol
        assert isinstance(protocol, SecAggPlus)
        assert protocol.beacon is not None
        return protocol.beacon

    def _check_draw(self, draft: PairwiseClientState, message: DrawnAdverts, root: bytes) -> None:
        """Take no graph that the server could have known before this client saw U1 frozen."""
        if (message.present, root) != draft.frozen:
            raise Reject(FaultKind.INVALID, "got other adverts than were frozen")
        self._check_unknown(draft, message.number)
        if not self._beacon.verify(message.number, message.value):
            raise Reject(FaultKind.INVALID, f"got a value that the beacon didn't publish in round {message.number}")

    def _check_unknown(self, draft: PairwiseClientState, number: int) -> None:
        """Only rounds that nobody knew yet, and so few of them that waiting for a good one is no way."""
        if not 0 <= number - draft.next_round < 1 << SLACK_BITS:
            raise Aborted(
                f"the server draws the graph from round {number} of the beacon; the first one after this client "
                f"saw the keys frozen is {draft.next_round}"
            )

    def _share_keys(
        self, draft: PairwiseClientState, message: Adverts | ShownAdverts, payload: memoryview
    ) -> Reply:
        """Round 1: check who is there, then deal the self-mask seed and the masking key to all who hold shares."""
        adverts = self._open_adverts(draft, message.adverts)
        draft.adverts = {party: (a.sealing_key, a.masking_key) for party, a in adverts.items()}
        if isinstance(message, ShownAdverts):
            self._enter_near(draft, message, list(adverts))
        else:
            self._enter_all(draft, message, list(adverts))
        session, shape, graph = draft.session_id, self._shape(draft), self._graph(draft)
        holders = graph.holders(draft.id)
        sealing, masking = self._private_keys(draft)
        sealing_key = keys.PrivateKey(sealing)
        seed = self.context.derive(draft, "self-mask-seed")
        points = range(1, len(holders) + 1)
        of_seed = shamir.share_values(
            seed, shape.threshold, points, self.context.rng(draft, "self-mask-polynomial")
        )
        of_key = shamir.share_values(
            masking, shape.threshold, points, self.context.rng(draft, "masking-key-polynomial")
        )
        sealed, commitments = [], []
        for point, holder, *shares in zip(points, holders, of_seed, of_key, strict=True):
            for kind, share in zip((SELF, KEY), shares, strict=True):
                commitments.append(commit_share(session, draft.id, holder, kind, share))
            if holder == draft.id:
                draft.held = {draft.id: (shares[0], shares[1])}
                continue
            secret = self._exchange(sealing_key, draft.adverts[holder][0])
            key = keys.derive(secret, salt=session, info=seal_info(draft.id, holder))
            context = share_context(session, draft.id, holder, point)
            sealed.append(keys.seal(key, b"".join(shares), associated_data=context))
        return DealtShares(commit_seed(session, draft.id, seed), b"".join(commitments), b"".join(sealed)), b""

    def _enter(self, draft: PairwiseClientState, **standing: Any) -> None:
        """Go over to the id that ``standing`` gives: what U1 is known by, and what the graph is drawn from."""
        draft.session_id = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=draft.session or b"",
            nonce=draft.nonce,
            cohort=draft.cohort,
            **standing,
        )

    def _enter_all(self, draft: PairwiseClientState, message: Adverts, senders: list[str]) -> None:
        """The complete graph: U1 is whose advert is there."""
        draft.u1 = senders
        self._require(draft, len(draft.u1), "clients that advertised keys")
        self._enter(draft, adverts=message.adverts)

    def _enter_near(self, draft: PairwiseClientState, message: ShownAdverts, senders: list[str]) -> None:
        """A sparse graph: U1 is what the server says, if every advert shown stands in its place of one tree.

        The id that follows from tree, cohort and U1 decides who the neighbours are; those must be shown.
        """
        draft.u1 = from_bitmap(message.present, draft.cohort)
        self._require(draft, len(draft.u1), "clients that advertised keys")
        places = {party: place for place, party in enumerate(draft.u1)}
        if not places.keys() >= set(senders) or len(message.paths) != len(senders):
            raise Reject(FaultKind.INVALID, "got adverts from outside U1, or not one path for each")
        roots = {
            root_of_path(advert, places[sender], len(places), path)
            for sender, advert, path in zip(senders, message.adverts, message.paths, strict=True)
        }
        root = roots.pop()
        if roots or root is None:
            raise Reject(FaultKind.INVALID, "got adverts whose paths don't lead to one root")
        seeds: dict[str, Any] = {}
        if isinstance(message, DrawnAdverts):
            self._check_draw(draft, message, root)
            seeds["drawn"] = message.number, message.value
        elif isinstance(message, NearAdverts):
            if len(message.graph_nonce) != NONCE_BYTES or message.graph_nonce == draft.nonce:
                raise Reject(FaultKind.INVALID, "got no 32 fresh bytes to draw the graph from")
            seeds["graph_nonce"] = message.graph_nonce
        self._enter(draft, tree=(len(places), root), present=message.present, **seeds)
        if sorted([draft.id, *self._graph(draft).neighbours(draft.id)]) != senders:
            raise Reject(FaultKind.INVALID, "got other adverts than this client's and its neighbours'")

    def _masked_input(self, draft: PairwiseClientState, message: HeldShares, payload: memoryview) -> Reply:
        """Round 2: keep the shares that the others dealt; upload the input under all masks."""
        u2 = set(from_bitmap(message.dealers, draft.u1))
        if draft.id not in u2:
            raise Reject(FaultKind.INVALID, "got a set of dealers without this client")
        self._require(draft, len(u2), "clients that dealt shares")
        graph = self._graph(draft)
        others = [party for party in graph.neighbours(draft.id) if party in u2]
        sealing, masking = map(keys.PrivateKey, self._private_keys(draft))
        sealed = pieces(message.sealed, SEALED_BYTES, len(others))
        commitments = pieces(message.commitments, COMMITMENT_BYTES, len(others))
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        draft.dealers = message.dealers
        held, vouchers, expected = dict(draft.held), [], {}
        for dealer, box, committed in zip(others, sealed, commitments, strict=True):
            secret = self._exchange(sealing, draft.adverts[dealer][0])
            shares = self._open_shares(draft, secret, dealer, graph.point(dealer, draft.id), box, committed)
            if shares:
                held[dealer] = shares
            vouchers.append(self._voucher(draft, secret, draft.id, dealer))
            expected[dealer] = self._voucher(draft, secret, dealer, draft.id)
        draft.held = held
        self_key = keys.derive(
            self.context.derive(draft, "self-mask-seed"), salt=draft.session_id, info=self_mask_info(draft.id)
        )
        masks = [(self_key, 1)]
        for other in others:
            secret = self._exchange(masking, draft.adverts[other][1])
            shared = keys.derive(secret, salt=draft.session_id, info=mask_info(draft.id, other))
            masks.append((shared, 1 if draft.id < other else -1))
        mask_all(lanes, masks, self.context.executor)
        packed = pack_lanes(self.context.task, lanes)
        if not self._vouched:
            return MaskedInput(), packed
        draft.vouchers = expected
        return VouchedInput(b"".join(vouchers)), packed

    @property
    def _vouched(self) -> bool:
        return any(phase.request is VouchedSurvivors for phase in self._phases)

    def _voucher(self, draft: PairwiseClientState, secret: bytes, client: str, neighbour: str) -> bytes:
        """What only ``client`` can show ``neighbour``, and only that one can check: the U2 that it masked under."""
        info = voucher_info(client, neighbour, draft.dealers)
        return keys.derive(secret, salt=draft.session_id, info=info, length=VOUCHER_BYTES)

    def _consistency_check(
        self, draft: PairwiseClientState, message: Survivors | VouchedSurvivors, payload: memoryview
    ) -> Reply:
        """Round 3: sign the one story about who survived that this client will act on."""
        self._accept_survivors(draft, message.survivors)
        if isinstance(message, VouchedSurvivors):
            self._check_vouchers(draft, message.vouchers)
        return SignedSurvivors(draft.dealers, draft.survivors), b""

    def _unmask(self, draft: PairwiseClientState, message: Unmask, payload: memoryview) -> Reply:
        """Round 4: reveal one share for each client of U2: of its seed if it survived, else of its key."""
        if self._protocol.checked:
            self._check_quorum(draft, message)
        else:
            if message.signed:
                raise Reject(FaultKind.INVALID, "got signed lists in a protocol that has none")
            self._accept_survivors(draft, message.survivors)
        survivors = set(from_bitmap(draft.survivors, draft.u1))
        u2 = set(from_bitmap(draft.dealers, draft.u1))
        dealers = [dealer for dealer in self._graph(draft).holders(draft.id) if dealer in u2]
        revealed = [
            draft.held[dealer][0 if dealer in survivors else 1] for dealer in dealers if dealer in draft.held
        ]
        unopened = to_bitmap((dealer for dealer in dealers if dealer not in draft.held), draft.u1)
        return Revealed(unopened, b"".join(revealed)), b""

    answers: ClassVar[Mapping[str, Handler]] = {
        Round.ADVERTISE_KEYS: _advertise_keys,
        Round.FREEZE_KEYS: _freeze_keys,
        Round.SHARE_KEYS: _share_keys,
        Round.MASKED_INPUT: _masked_input,
        Round.CONSISTENCY_CHECK: _consistency_check,
        Round.UNMASKING: _unmask,
    }

    def erase(self, draft: PairwiseClientState) -> None:
        """Forget keys, shares and update."""
        super().erase(draft)
        draft.held, draft.adverts, draft.vouchers = {}, {}, {}

    def _open_adverts(self, draft: PairwiseClientState, raw: list[bytes]) -> dict[str, Advert]:
        """The adverts shown, each checked as its sender's own; this client's among them, unchanged."""
        if len(raw) > len(draft.cohort):
            raise Reject(FaultKind.INVALID, f"got {len(raw)} adverts from a cohort of {len(draft.cohort)}")
        adverts: dict[str, Advert] = {}
        previous, cohort = "", set(draft.cohort)
        for data in raw:
            envelope = self._relayed(data, Advert, draft.opening_id)
            if envelope.sender not in cohort or envelope.sender <= previous:
                raise Reject(FaultKind.INVALID, "got adverts out of order, twice, or from outside the cohort")
            previous = envelope.sender
            adverts[envelope.sender] = open_advert(envelope)
        if (draft.advert or draft.last_reply) not in raw:
            raise Reject(FaultKind.INVALID, "got adverts without this client's own")
        everyone = [key for advert in adverts.values() for key in (advert.sealing_key, advert.masking_key)]
        if len(set(everyone)) != len(everyone):
            raise Reject(FaultKind.INVALID, "got one key in two adverts")
        return adverts

    def _relayed(self, data: bytes, kind: type[wire.Message], session: bytes) -> Envelope:
        """Another client's message that came through the server, with its signature checked."""
        envelope = relayed(data, self.context.task, session, kind, self.context.limit)
        self.context.check_signature(envelope, PartyRole.CLIENT)
        return envelope

    def _open_shares(
        self, draft: PairwiseClientState, secret: bytes, dealer: str, point: int, sealed: bytes, committed: bytes
    ) -> tuple[bytes, bytes] | None:
        """Both shares from a dealer; None if they don't open or aren't those it committed to."""
        key = keys.derive(secret, salt=draft.session_id, info=seal_info(dealer, draft.id))
        context = share_context(draft.session_id, dealer, draft.id, point)
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
        if self._graph(draft).is_cut(survivors):
            raise Aborted("the server says that nearly all of this ring's clients dropped out in one place")
        draft.survivors = bitmap

    def _check_vouchers(self, draft: PairwiseClientState, joined: bytes) -> None:
        """Keep the share of a survivor's self mask only if it masked under the same U2.

        One that was told of another U2 may share masks with nobody who is in this sum: its self mask alone
        would then hide its input.
        """
        survivors = set(from_bitmap(draft.survivors, draft.u1))
        others = [party for party in draft.vouchers if party in survivors]
        shown = zip(others, pieces(joined, VOUCHER_BYTES, len(others)), strict=True)
        doubtful = {party for party, shown in shown if not hmac.compare_digest(shown, draft.vouchers[party])}
        draft.held = {dealer: shares for dealer, shares in draft.held.items() if dealer not in doubtful}

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
        quorum = self._shape(draft).quorum
        if len(signers) < quorum:
            raise Aborted(f"got {len(signers)} signatures under the survivor list; {quorum} are needed")

    def _require(self, draft: PairwiseClientState, present: int, what: str, *, among: int = 0) -> None:
        floor = self._protocol.floor(self.context.task, among or len(draft.u1), draft.corrupt)
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

"""The server of SecAgg and SecAggPlus: what it asks, what it takes, and how it settles each round."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg.beacon import CLOCK_ROUNDS, LATEST_ROUND
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind, LocalProtocolError
from secagg.lanes import fold_lanes, mask_all, reduce_lanes, zero_lanes
from secagg.merkle import merkle_levels, merkle_path, merkle_root
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
    SignedSurvivors,
    Survivors,
    Unmask,
    VouchedInput,
    VouchedSurvivors,
    check_advert,
    commit_seed,
    commit_share,
    mask_info,
    pieces,
    self_mask_info,
)
from secagg.protocols.pairwise.neighbours import Graph, Shape
from secagg.protocols.pairwise.protocol import Pairwise, SecAggPlus
from secagg.roles.member import Reply
from secagg.roles.server import Server, Step
from secagg.roles.state import ServerState
from secagg.session import NONCE_BYTES, roster_digest, session_id
from secagg.table import Phase, Round
from secagg.wire import Envelope, Reject


class PairwiseServerState(ServerState):
    """What a server keeps between rounds, the sum apart."""

    adverts: dict[str, bytes] = {}  # U1: the signed envelopes, as received
    public_keys: dict[str, tuple[bytes, bytes]] = {}  # sealing key, masking key
    u1: list[str] = []
    next_rounds: dict[str, int] = {}  # of the beacon, as the clients told
    drawn: tuple[int, bytes] | None = None  # the round that the graph hangs on, and its value
    graph_nonce: bytes = b""  # drawn when U1 stood, on a sparse graph that no beacon draws
    u2: list[str] = []
    seed_commitments: dict[str, bytes] = {}
    commitments: dict[str, bytes] = {}  # by dealer, for its holders in order
    sealed: dict[str, bytes] = {}  # by dealer, for its holders without itself, in order
    vouchers: dict[str, bytes] = {}  # by client, for its neighbours in U2, in order
    signed: dict[str, bytes] = {}  # the signed survivor lists, as received
    shares: dict[str, dict[int, bytes]] = {}  # by dealer: evaluation point to revealed share


class PairwiseServer(Server[PairwiseServerState]):
    """A server; see :class:`secagg.SecAgg` and :class:`secagg.SecAggPlus`."""

    state_type = PairwiseServerState

    @property
    def _protocol(self) -> Pairwise:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Pairwise)
        return protocol

    @property
    def _corrupt(self) -> int:
        return self._protocol.corrupt(len(self.context.state.cohort), self.context.roster)

    @property
    def _floor(self) -> int:
        return self._protocol.floor(self.context.task, len(self.context.state.u1), self._corrupt)

    @cached_property
    def _shape(self) -> Shape:
        """Of the graph, once U1 stands."""
        return self._protocol.shape(self.context.task, len(self.context.state.u1), self._corrupt)

    @cached_property
    def _graph(self) -> Graph:
        """Who is whose neighbour, once U1 stands."""
        return Graph(self.context.state.u1, self._shape, self.context.state.session_id)

    # AdvertiseKeys

    @cached_property
    def _advertised(self) -> set[bytes]:
        """Every key in ``public_keys``."""
        return {key for pair in self.context.state.public_keys.values() for key in pair}

    def _propose(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.state.cohort, (self.context.proposal(), b""))

    def _take_advert(self, envelope: Envelope, advert: Advert, payload: memoryview) -> None:
        check_advert(advert)
        state = self.context.state
        fresh = {advert.sealing_key, advert.masking_key}
        if self._advertised & fresh:
            raise Reject(FaultKind.INVALID, "got a key that another client advertised")
        state.adverts[envelope.sender] = envelope.raw
        state.public_keys[envelope.sender] = advert.sealing_key, advert.masking_key
        self._advertised.update(fresh)

    def _settle_adverts(self) -> None:
        state = self.context.state
        state.u1 = sorted(state.adverts)
        self.context.need(len(state.u1), self._floor, "clients that advertised keys")
        if self._protocol.sparse and not self._protocol.drawn:
            # Not before: who advertises last could try keys until the graph that follows suits it.
            state.graph_nonce = self.context.draw(NONCE_BYTES)
        if not self._protocol.drawn:
            self._enter()

    def _enter(self) -> None:
        """Everything stands that the graph hangs on."""
        state = self.context.state
        state.session_id = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
            adverts=[state.adverts[party] for party in state.u1],
            present=to_bitmap(state.u1, state.cohort) if self._protocol.sparse else b"",
            graph_nonce=state.graph_nonce,
            drawn=state.drawn,
        )

    # FreezeKeys

    def _freeze(self) -> Mapping[str, Reply]:
        state = self.context.state
        root = merkle_root([state.adverts[party] for party in state.u1])
        return dict.fromkeys(state.u1, (Frozen(to_bitmap(state.u1, state.cohort), root), b""))

    def _take_next_round(self, envelope: Envelope, told: NextRound, payload: memoryview) -> None:
        if not 0 < told.number <= LATEST_ROUND:
            raise Reject(FaultKind.INVALID, f"got round {told.number} of a beacon")
        self.context.state.next_rounds[envelope.sender] = told.number

    def _drawn_from(self) -> int:
        """The earliest round that nobody knew when it saw the keys frozen, but for c whose clocks are ahead.

        At most c of the clients lie, so the (n - c)-th smallest number is no later than an honest client's. Honest
        clocks differ by a period or two, and no client may be lost for that.
        """
        told = sorted(self.context.state.next_rounds.values())
        most = told[max(0, len(told) - self._corrupt - 1)] + CLOCK_ROUNDS
        return max(number for number in told if number <= most)

    def before_close(self, phase: Phase) -> None:
        """``LocalProtocolError`` while the beacon hasn't published the value that the graph hangs on."""
        if phase.round != Round.FREEZE_KEYS or not self.context.state.next_rounds:
            return
        if self.context.environment.beacon is None:
            raise LocalProtocolError("got no beacon=; pass what gets a round's value from the task's beacon")
        number = self._drawn_from()
        value = self.context.environment.beacon(number)
        if value is None:
            raise LocalProtocolError(
                f"round {number} of the beacon is not published; wait, then close_round() again"
            )
        assert isinstance(self._protocol, SecAggPlus)
        if not self._protocol.beacon or not self._protocol.beacon.verify(number, value):
            raise LocalProtocolError(f"got a value for round {number} that is not the beacon's; look at beacon=")
        self.context.state.drawn = number, value

    def _settle_frozen(self) -> None:
        self.context.need(len(self.context.state.next_rounds), self._floor, "clients that saw the keys frozen")
        self._enter()

    # ShareKeys

    def _send_adverts(self) -> Mapping[str, Reply]:
        state = self.context.state
        adverts = [state.adverts[party] for party in state.u1]
        if not self._protocol.sparse:
            return dict.fromkeys(state.u1, (Adverts(adverts), b""))
        levels = merkle_levels(adverts)
        paths = {party: merkle_path(levels, place) for place, party in enumerate(state.u1)}
        present = to_bitmap(state.u1, state.cohort)
        requests: dict[str, Reply] = {}
        for client in state.next_rounds if state.drawn else state.u1:
            shown = sorted([client, *self._graph.neighbours(client)])
            raw, proofs = [state.adverts[party] for party in shown], [paths[party] for party in shown]
            drawn = DrawnAdverts(present, raw, proofs, *state.drawn) if state.drawn else None
            requests[client] = drawn or NearAdverts(present, raw, proofs, state.graph_nonce), b""
        return requests

    def _take_dealt(self, envelope: Envelope, dealt: DealtShares, payload: memoryview) -> None:
        state = self.context.state
        if len(dealt.self_mask_commitment) != HASH_BYTES:
            raise Reject(FaultKind.INVALID, "got a commitment that is not 32 bytes")
        pieces(dealt.commitments, COMMITMENT_BYTES, len(self._graph.holders(envelope.sender)))
        pieces(dealt.sealed, SEALED_BYTES, self._shape.degree)
        state.seed_commitments[envelope.sender] = dealt.self_mask_commitment
        state.commitments[envelope.sender] = dealt.commitments
        state.sealed[envelope.sender] = dealt.sealed

    def _settle_dealt(self) -> None:
        self.context.state.u2 = sorted(self.context.state.sealed)
        self.context.need(len(self.context.state.u2), self._floor, "clients that dealt shares")
        self.context.sums = zero_lanes(self.context.task)

    # MaskedInput

    def _send_shares(self) -> Mapping[str, Reply]:
        u2, told = set(self.context.state.u2), to_bitmap(self.context.state.u2, self.context.state.u1)
        return {holder: (self._shares_for(holder, u2, told), b"") for holder in self.context.state.u2}

    def _shares_for(self, holder: str, u2: set[str], told: bytes) -> HeldShares:
        state = self.context.state
        committed, sealed = [], []
        for dealer in self._graph.neighbours(holder):
            if dealer not in u2:
                continue
            at = self._graph.point(dealer, holder) - 1
            committed.append(state.commitments[dealer][at * COMMITMENT_BYTES : (at + 1) * COMMITMENT_BYTES])
            # Where a dealer is among its holders, it seals nothing to itself: those after it have moved up by one.
            box = at - (self._shape.complete and dealer < holder)
            sealed.append(state.sealed[dealer][box * SEALED_BYTES : (box + 1) * SEALED_BYTES])
        return HeldShares(told, b"".join(committed), b"".join(sealed))

    def _take_input(self, envelope: Envelope, message: MaskedInput | VouchedInput, payload: memoryview) -> None:
        if isinstance(message, VouchedInput):
            pieces(message.vouchers, VOUCHER_BYTES, len(self._near_dealers(envelope.sender)))
        fold_lanes(self.context.task, payload, self.context.sums)
        if isinstance(message, VouchedInput):
            self.context.state.vouchers[envelope.sender] = message.vouchers

    def _near_dealers(self, client: str) -> list[str]:
        """The neighbours of ``client`` that dealt shares: with whom it shares masks."""
        return [party for party in self._graph.neighbours(client) if party in self.context.state.seed_commitments]

    def _settle_input(self) -> None:
        state = self.context.state
        state.survivors = sorted(state.answered)
        self.context.need(len(state.survivors), self._floor, "masked inputs")
        state.sealed = {}
        state.shares = {dealer: {} for dealer in state.u2}

    # ConsistencyCheck

    def _send_survivors(self) -> Mapping[str, Reply]:
        state = self.context.state
        told = to_bitmap(state.survivors, state.u1)
        if not self._protocol.sparse:
            return dict.fromkeys(state.survivors, (Survivors(told), b""))
        shown: dict[str, list[bytes]] = {party: [] for party in state.survivors}
        for client in state.survivors:  # in order, and so are the vouchers that each gets
            near = self._near_dealers(client)
            for other, voucher in zip(near, pieces(state.vouchers[client], VOUCHER_BYTES, len(near)), strict=True):
                if other in shown:
                    shown[other].append(voucher)
        return {party: (VouchedSurvivors(told, b"".join(vouchers)), b"") for party, vouchers in shown.items()}

    def _take_signed(self, envelope: Envelope, told: SignedSurvivors, payload: memoryview) -> None:
        state = self.context.state
        if told != SignedSurvivors(to_bitmap(state.u2, state.u1), to_bitmap(state.survivors, state.u1)):
            raise Reject(FaultKind.INVALID, "got a signature under another survivor list")
        state.signed[envelope.sender] = envelope.raw

    def _settle_signed(self) -> None:
        self.context.need(len(self.context.state.signed), self._shape.quorum, "signatures under the survivor list")

    # Unmasking

    def _send_unmask(self) -> Mapping[str, Reply]:
        state = self.context.state
        signers = sorted(state.signed)
        # More than the quorum say no more, and every client checks each of them.
        lists = [state.signed[party] for party in signers[: self._shape.quorum]]
        request = Unmask(to_bitmap(state.survivors, state.u1), lists)
        return dict.fromkeys(signers or state.survivors, (request, b""))

    def _take_revealed(self, envelope: Envelope, revealed: Revealed, payload: memoryview) -> None:
        """Sort a holder's shares to their dealers; a share that misses its hash is its holder's fault."""
        state, holder = self.context.state, envelope.sender
        unopened = set(from_bitmap(revealed.unopened, state.u1))
        dealt = [party for party in self._graph.holders(holder) if party in state.seed_commitments]
        if holder in unopened or not unopened <= set(dealt):
            raise Reject(FaultKind.INVALID, "got unopened shares of clients that dealt none")
        dealers = [party for party in dealt if party not in unopened]
        shares = pieces(revealed.shares, SHARE_BYTES, len(dealers))
        told = "didn't open, or it vouched for another U2" if state.vouchers else "didn't open"
        for dealer in sorted(unopened):
            self.context.blame(dealer, FaultKind.UNOPENED_SHARE, f"{holder} says that the share {told}")
        survivors = set(state.survivors)
        for dealer, share in zip(dealers, shares, strict=True):
            kind = SELF if dealer in survivors else KEY
            point = self._graph.point(dealer, holder)
            start = (point - 1) * COMMITMENT_BYTES + (HASH_BYTES if kind == KEY else 0)
            expected = state.commitments[dealer][start : start + HASH_BYTES]
            if commit_share(state.session_id, dealer, holder, kind, share) != expected:
                self.context.blame(holder, FaultKind.WRONG_SHARE, f"its share of {dealer} is not the one dealt")
                continue
            state.shares[dealer][point] = share

    def _settle_revealed(self) -> None:
        """Rebuild one secret of each client of U2, then take the masks off the sum."""
        state, survivors = self.context.state, set(self.context.state.survivors)
        for dealer in state.u2:
            self.context.need(len(state.shares[dealer]), self._shape.threshold, f"good shares of {dealer}'s secret")
        secret = {dealer: self._rebuild(dealer, SELF if dealer in survivors else KEY) for dealer in state.u2}
        masks = []
        for client in state.survivors:
            key = keys.derive(secret[client], salt=state.session_id, info=self_mask_info(client))
            masks.append((key, -1))
        for gone in sorted(set(state.u2) - survivors):
            private = keys.PrivateKey(secret[gone])
            for client in self._graph.neighbours(gone):
                if client in survivors:
                    shared = private.exchange(state.public_keys[client][1])
                    key = keys.derive(shared, salt=state.session_id, info=mask_info(gone, client))
                    masks.append((key, -1 if client < gone else 1))
        # A worker may be lost on the way: the sum is not touched until all of the masks are there.
        taken_off = zero_lanes(self.context.task)
        mask_all(taken_off, masks, self.context.executor)
        for total, mask in zip(self.context.sums, taken_off, strict=True):
            total += mask
        reduce_lanes(self.context.task, self.context.sums)
        state.shares = {}

    def _rebuild(self, dealer: str, kind: str) -> bytes:
        """A dealer's secret, held to what it committed to; shares that match and rebuild another are its fault."""
        state = self.context.state
        shares = dict(sorted(state.shares[dealer].items())[: self._shape.threshold])
        try:
            secret = shamir.reconstruct(list(shares), list(shares.values()))
            if kind == SELF:
                right = commit_seed(state.session_id, dealer, secret) == state.seed_commitments[dealer]
            else:
                right = keys.public_key(secret) == state.public_keys[dealer][1]
        except MPCError:
            right = False
        if not right:
            self.context.blame(
                dealer, FaultKind.WRONG_DEALING, "its shares rebuild another secret than it committed to"
            )
            raise Aborted(f"{dealer} dealt shares of a wrong secret; leave it out of the next session")
        return secret

    steps: ClassVar[Mapping[str, Step]] = {
        Round.ADVERTISE_KEYS: Step(_propose, _take_advert, _settle_adverts),
        Round.FREEZE_KEYS: Step(_freeze, _take_next_round, _settle_frozen),
        Round.SHARE_KEYS: Step(_send_adverts, _take_dealt, _settle_dealt),
        Round.MASKED_INPUT: Step(_send_shares, _take_input, _settle_input),
        Round.CONSISTENCY_CHECK: Step(_send_survivors, _take_signed, _settle_signed),
        Round.UNMASKING: Step(_send_unmask, _take_revealed, _settle_revealed),
    }

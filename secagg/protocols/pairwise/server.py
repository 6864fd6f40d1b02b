"""The server of SecAgg: Bonawitz et al., "Practical Secure Aggregation", figure 4, three methods for each round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

from mpc import keys
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.lanes import fold_lanes, mask_all, reduce_lanes, zero_lanes
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    HASH_BYTES,
    KEY,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    check_advert,
    check_pieces,
    commit_seed,
    commit_share,
    pieces,
    self_mask_info,
    share_dealer,
    share_holder,
)
from secagg.protocols.pairwise.neighbours import Graph, Shape
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.pairwise.recovery import masks_of_gone, rebuild, spread
from secagg.protocols.pairwise.states import PairwiseServerState, check_server_graph, check_server_state
from secagg.roles.member import Reply, method
from secagg.roles.server import Server, Step
from secagg.roles.state import hold
from secagg.session import Advertised, roster_digest, session_id
from secagg.table import Round
from secagg.wire import Envelope, Reject


class PairwiseServer(Server[PairwiseServerState]):
    """The server of :class:`secagg.SecAgg`. It knows no input, only the sum.

    0. AdvertiseKeys: it asks the cohort for fresh keys. The clients that answer are U1.
    1. ShareKeys: it shows all adverts to U1. The clients that deal shares are U2.
    2. MaskedInput: it hands each client of U2 the shares dealt to it, and adds up the masked inputs. The clients
       that send one are U3.
    3. ConsistencyCheck (not under ``"semi-honest"``): it shows U3 to U3, and collects signatures under U2 and U3.
    4. Unmasking: it shows the signatures to the signers, and gets shares: of the self mask's seed for each client
       of U3, of the masking key for the others of U2. It rebuilds these secrets and subtracts the masks from the
       sum.

    It gives up, and opens nothing, when U1, U2 or U3 is smaller than the floor, when too few clients sign, when
    shares are missing, or when shares that match their commitments rebuild a wrong secret.

    SecAggPlus replaces how U1 is fixed (``_enter``), what comes with an input (``_take_input``), what is shown of
    the survivors (``_send_survivors``), which clients get which adverts (``_send_adverts``), and what may be wrong
    with a share that its holder reports (``_unopened``).
    """

    state_type = PairwiseServerState
    # Only one server can take AdvertiseKeys, in which all keys must differ, and Unmasking, in which the shares of
    # one client come from many.
    steps: ClassVar[Mapping[str, Step]] = {
        Round.ADVERTISE_KEYS: Step(method("propose"), method("_take_advert"), method("_settle_adverts")),
        Round.SHARE_KEYS: Step(
            method("_send_adverts"),
            method("_take_dealt"),
            method("_settle_dealt"),
            merge=("seed_commitments", "commitments", "sealed"),
        ),
        Round.MASKED_INPUT: Step(
            method("_send_shares"), method("_take_input"), method("_settle_input"), merge=("sums", "vouchers")
        ),
        Round.CONSISTENCY_CHECK: Step(
            method("_send_survivors"), method("_take_signed"), method("_settle_signed"), merge=("signatures",)
        ),
        Round.UNMASKING: Step(method("_send_unmask"), method("_take_revealed"), method("_settle_revealed")),
    }

    def prepare(self) -> None:
        """Check a restored state against all that a server can have saved; ``ConfigError`` if it differs."""
        state = self.context.state
        check_server_state(state)
        if state.position < 0 or state.finished or state.aborted:
            return
        closed = [phase.round for phase in self._phases[: state.position]]
        hold(bool(state.u1) == (Round.ADVERTISE_KEYS in closed), "U1")
        hold(bool(state.u2) == (Round.SHARE_KEYS in closed), "U2")
        hold(bool(state.survivors) == (Round.MASKED_INPUT in closed), "U3")
        hold(bool(state.shares) == (Round.MASKED_INPUT in closed), "revealed shares")
        hold(bool(self.context.sums) == (Round.SHARE_KEYS in closed), "sums")
        if (state.u1 and state.asked_under != state.session_id) or Round.SHARE_KEYS in closed:
            check_server_graph(state, self._graph)

    # Round 0

    @cached_property
    def _advertised(self) -> set[bytes]:
        """Every key in ``public_keys``."""
        return {key for pair in self.context.state.public_keys.values() for key in pair}

    def _take_advert(self, envelope: Envelope, advert: messages.Advert, payload: memoryview) -> None:
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
        self._enter()

    def _enter(self) -> None:
        """Change to the session id that follows from U1."""
        self._stand(Advertised.of([self.context.state.adverts[party] for party in self.context.state.u1]))

    def _stand(self, advertised: Advertised) -> None:
        state = self.context.state
        state.session_id = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
            advertised=advertised,
        )

    # Round 1

    def _send_adverts(self) -> Mapping[str, Reply]:
        state = self.context.state
        return dict.fromkeys(state.u1, (messages.Adverts([state.adverts[party] for party in state.u1]), b""))

    def _take_dealt(self, envelope: Envelope, dealt: messages.DealtShares, payload: memoryview) -> None:
        state = self.context.state
        if len(dealt.self_mask_commitment) != HASH_BYTES:
            raise Reject(FaultKind.INVALID, "got a commitment that is not 32 bytes")
        check_pieces(dealt.commitments, COMMITMENT_BYTES, len(self._graph.holders(envelope.sender)))
        check_pieces(dealt.sealed, SEALED_BYTES, self._shape.degree)
        state.seed_commitments[envelope.sender] = dealt.self_mask_commitment
        state.commitments[envelope.sender] = dealt.commitments
        state.sealed[envelope.sender] = dealt.sealed

    def _settle_dealt(self) -> None:
        self.context.state.u2 = sorted(self.context.state.sealed)
        self.context.need(len(self.context.state.u2), self._floor, "clients that dealt shares")
        self.context.sums = zero_lanes(self.context.task)

    # Round 2

    def _send_shares(self) -> Mapping[str, Reply]:
        marked = to_bitmap(self.context.state.u2, self.context.state.u1)
        return {holder: (self._shares_for(holder, marked), b"") for holder in self.context.state.u2}

    def _shares_for(self, holder: str, marked: bytes) -> messages.HeldShares:
        all_sealed, all_committed = self.context.state.sealed, self.context.state.commitments
        complete, committed, sealed = self._shape.complete, [], []
        for dealer, point in zip(self._graph.holders(holder), self._graph.points(holder), strict=True):
            if dealer == holder or (boxes := all_sealed.get(dealer)) is None:
                continue
            at = (point - 1) * COMMITMENT_BYTES
            committed.append(all_committed[dealer][at : at + COMMITMENT_BYTES])
            # A dealer seals nothing to itself, so on the complete graph the boxes after its own place move up.
            at = (point - 1 - (complete and dealer < holder)) * SEALED_BYTES
            sealed.append(boxes[at : at + SEALED_BYTES])
        return messages.HeldShares(marked, b"".join(committed), b"".join(sealed))

    def _take_input(self, envelope: Envelope, message: Any, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_input(self) -> None:
        state = self.context.state
        self.context.need(len(state.survivors), self._floor, "masked inputs")
        state.sealed = {}
        state.shares = {dealer: {} for dealer in state.u2}

    # Round 3

    def _send_survivors(self) -> Mapping[str, Reply]:
        state = self.context.state
        return dict.fromkeys(state.survivors, (messages.Survivors(to_bitmap(state.survivors, state.u1)), b""))

    @cached_property
    def _agreed(self) -> messages.SignedSurvivors:
        """What every client signs, once U3 is known."""
        state = self.context.state
        return messages.SignedSurvivors(to_bitmap(state.u2, state.u1), to_bitmap(state.survivors, state.u1))

    def _take_signed(self, envelope: Envelope, signed: messages.SignedSurvivors, payload: memoryview) -> None:
        if signed != self._agreed:
            raise Reject(FaultKind.INVALID, "got a signature under another survivor list")
        self.context.state.signatures[envelope.sender] = self.context.bare_signature(envelope, signed)

    def _settle_signed(self) -> None:
        self.context.need(
            len(self.context.state.signatures), self._shape.quorum, "signatures under the survivor list"
        )

    # Round 4

    def _send_unmask(self) -> Mapping[str, Reply]:
        state, marked = self.context.state, to_bitmap(self.context.state.survivors, self.context.state.u1)
        if not self._protocol.checked:
            return dict.fromkeys(state.survivors, (messages.Unmask(marked, b"", b""), b""))
        signed = sorted(state.signatures)
        # More signatures than the quorum prove nothing more, and every client checks each of them.
        shown = signed[: self._shape.quorum]
        signatures = b"".join(state.signatures[party] for party in shown)
        request = messages.Unmask(marked, to_bitmap(shown, state.u1), signatures)
        return dict.fromkeys(signed, (request, b""))

    def _take_revealed(self, envelope: Envelope, revealed: messages.Revealed, payload: memoryview) -> None:
        """Sort a holder's shares by dealer; a share that differs from its commitment is the holder's fault."""
        state, holder = self.context.state, envelope.sender
        unopened = set(from_bitmap(revealed.unopened, state.u1))
        points = zip(self._graph.holders(holder), self._graph.points(holder), strict=True)
        dealt = {party: point for party, point in points if party in state.seed_commitments}
        if holder in unopened or not unopened <= dealt.keys():
            raise Reject(FaultKind.INVALID, "got unopened shares of clients that dealt no shares")
        for dealer in unopened:
            del dealt[dealer]
        shares = pieces(revealed.shares, SHARE_BYTES, len(dealt))
        for dealer in sorted(unopened):
            self.context.blame(dealer, FaultKind.UNOPENED_SHARE, f"{holder} says that the share {self._unopened()}")
        of_seed, of_key = share_holder(holder, SELF), share_holder(holder, KEY)
        survivors, dealers, all_committed, all_shares = self._u3, self._dealers, state.commitments, state.shares
        for (dealer, point), share in zip(dealt.items(), shares, strict=True):
            kind, at = (of_seed, 0) if dealer in survivors else (of_key, HASH_BYTES)
            at += (point - 1) * COMMITMENT_BYTES
            if commit_share(dealers[dealer], kind, share) != all_committed[dealer][at : at + HASH_BYTES]:
                self.context.blame(holder, FaultKind.WRONG_SHARE, f"its share of {dealer} is not the one dealt")
                continue
            all_shares[dealer][point] = share

    @cached_property
    def _dealers(self) -> dict[str, bytes]:
        """What the commitments of each client of U2 begin with, once the session id holds U1."""
        return {dealer: share_dealer(self.context.state.session_id, dealer) for dealer in self.context.state.u2}

    @cached_property
    def _u3(self) -> frozenset[str]:
        """The survivors, once the round of the inputs is closed."""
        return frozenset(self.context.state.survivors)

    def _unopened(self) -> str:
        """What may be wrong with a share that its holder reports."""
        return "didn't open"

    def _settle_revealed(self) -> None:
        """Rebuild one secret of each client of U2, then subtract the masks from the sum."""
        # Bonawitz et al., round 4: s_v^SK for v in U2 without U3, b_v for v in U3; then subtract all these masks.
        state = self.context.state
        for dealer in state.u2:
            self.context.need(len(state.shares[dealer]), self._shape.threshold, f"good shares of {dealer}'s secret")
        secrets = dict(zip(state.u2, self._rebuild(), strict=True))
        # The executor may lose a worker, so the sum stays unchanged until all masks are computed.
        negated = zero_lanes(self.context.task)
        masks = [*self._self_masks(secrets), *self._pairwise_masks(secrets)]
        mask_all(negated, masks, self.context.executor)
        for total, mask in zip(self.context.sums, negated, strict=True):
            total += mask
        reduce_lanes(self.context.task, self.context.sums)
        state.shares = {}

    def _rebuild(self) -> Iterator[bytes]:
        """The secret of each client of U2. One that its dealer did not commit to is the dealer's fault."""
        state, threshold = self.context.state, self._shape.threshold
        calls = (tuple(zip(*sorted(state.shares[dealer].items())[:threshold], strict=True)) for dealer in state.u2)
        for dealer, secret in zip(state.u2, spread(self.context.executor, rebuild, calls), strict=True):
            if secret is None or not self._is_committed(dealer, secret):
                detail = "its shares rebuild another secret than it committed to"
                self.context.blame(dealer, FaultKind.WRONG_DEALING, detail)
                raise Aborted(f"{dealer} dealt shares of a wrong secret; leave it out of the next session")
            yield secret

    def _is_committed(self, dealer: str, secret: bytes) -> bool:
        state = self.context.state
        if dealer in self._u3:
            return commit_seed(state.session_id, dealer, secret) == state.seed_commitments[dealer]
        return keys.public_key(secret) == state.public_keys[dealer][1]

    def _self_masks(self, secrets: Mapping[str, bytes]) -> Iterator[tuple[bytes, int]]:
        """The keys of the survivors' self masks, each with the sign that takes it off the sum."""
        salt = self.context.state.session_id
        for client in self.context.state.survivors:
            yield keys.derive(secrets[client], salt=salt, info=self_mask_info(client)), -1

    def _pairwise_masks(self, secrets: Mapping[str, bytes]) -> Iterator[tuple[bytes, int]]:
        """The keys of the masks between a survivor and a client of U2 that is gone, with the same signs."""
        state, survivors, public_keys = self.context.state, self._u3, self.context.state.public_keys
        calls = (
            (
                state.session_id,
                gone,
                secrets[gone],
                {near: public_keys[near][1] for near in self._graph.neighbours(gone) if near in survivors},
            )
            for gone in state.u2
            if gone not in survivors
        )
        return chain.from_iterable(spread(self.context.executor, masks_of_gone, calls))

    # In every round

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
        return self._protocol.floor(self.context.task, self._shape)

    @cached_property
    def _shape(self) -> Shape:
        """The numbers of the graph, once U1 is known."""
        return self._protocol.shape(self.context.task, len(self.context.state.u1), self._corrupt)

    @cached_property
    def _graph(self) -> Graph:
        """The graph, once the session id holds U1."""
        return Graph(self.context.state.u1, self._shape, self.context.state.session_id)

"""The client of SecAggPlus: what a sparse graph adds to SecAgg's client (Bell et al., CCS 2020)."""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from mpc import keys
from secagg import wire
from secagg.beacon import SLACK_BITS, Beacon
from secagg.bitmap import from_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.identity import is_listed
from secagg.merkle import root_of_path
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.messages import HASH_BYTES, VOUCHER_BYTES, pieces, voucher_info
from secagg.protocols.pairwise.neighbours import Graph
from secagg.protocols.pairwise.sparse_parameters import Sparse
from secagg.protocols.pairwise.states import PairwiseClientState
from secagg.roles.member import Handler, Reply, method
from secagg.session import NONCE_BYTES, Advertised, one_list
from secagg.table import Round
from secagg.wire import Reject


class SparseClient(PairwiseClient):
    """A client of :class:`secagg.SecAggPlus`; its rounds are SecAgg's, with these differences.

    - FreezeKeys (only under ``"malicious"``), between rounds 0 and 1: it gets U1 and the Merkle root over all
      adverts, and answers which round of the beacon comes next by its own clock.
    - Round 1: it sees its own advert and those of its neighbours, each with a path to one root. It computes from
      the session id who its neighbours are, and refuses any others. It leaves if the graph is drawn from a round of
      the beacon whose value the server may have known, or could have waited for.
    - Round 2 (not under ``"semi-honest"``): it adds a voucher for each neighbour in U2, by which that neighbour can
      tell under which U2 the input was masked.
    - Round 3: it leaves if too few clients of some window of the ring survived. It drops its shares of a survivor
      whose voucher is for another U2, so that it reveals none of them in round 4.
    """

    answers: ClassVar[Mapping[str, Handler]] = {
        **PairwiseClient.answers,
        Round.FREEZE_KEYS: method("_freeze_keys"),
    }

    # FreezeKeys

    def _freeze_keys(self, draft: PairwiseClientState, message: messages.Frozen, payload: memoryview) -> Reply:
        """Keep U1 as it is frozen; answer the beacon's first round that is still unknown."""
        present = from_bitmap(message.present, draft.cohort)
        shape = self._protocol.shape(self.context.task, len(present), draft.corrupt)
        self._require(shape, len(present), "clients that advertised keys")
        if draft.id not in present or len(message.root) != HASH_BYTES:
            raise Reject(
                FaultKind.INVALID, "got frozen keys without this client's own, or a root that is not a hash"
            )
        draft.frozen, draft.advert = (message.present, message.root), draft.last_reply
        draft.next_round = self._beacon.next_round(self.context.environment.clock())
        return messages.NextRound(draft.next_round), b""

    # Round 1

    def _enter(self, draft: PairwiseClientState, message: Any, senders: list[str]) -> Graph:
        """Take up the U1 that the server states, if every advert shown stands in its place of one tree.

        The session id follows from tree, cohort and U1, and decides who the neighbours are; those must be shown.
        """
        draft.u1 = one_list(from_bitmap(message.present, draft.cohort))
        shape = self._shape(draft)
        self._require(shape, len(draft.u1), "clients that advertised keys")
        root = self._root(draft, message, senders)
        advertised = Advertised(len(draft.u1), root, message.present)
        if isinstance(message, messages.DrawnAdverts):
            self._check_draw(draft, message, root)
            advertised = replace(advertised, beacon_output=(message.number, message.value))
        elif isinstance(message, messages.NearAdverts):
            if len(message.graph_nonce) != NONCE_BYTES or message.graph_nonce == draft.nonce:
                raise Reject(FaultKind.INVALID, "the value to draw the graph from is not 32 fresh bytes")
            advertised = replace(advertised, graph_nonce=message.graph_nonce)
        graph = self._stand(draft, advertised, shape)
        if sorted([draft.id, *graph.neighbours(draft.id)]) != senders:
            raise Reject(FaultKind.INVALID, "got other adverts than this client's and its neighbours'")
        return graph

    def _root(self, draft: PairwiseClientState, message: messages.ShownAdverts, senders: list[str]) -> bytes:
        """The one root to which the paths of all adverts shown lead."""
        if not all(is_listed(sender, draft.u1) for sender in senders) or len(message.paths) != len(senders):
            raise Reject(FaultKind.INVALID, "got adverts from outside U1, or not one path for each")
        known: dict[bytes, bytes] = {}
        roots = {
            root_of_path(advert, bisect_left(draft.u1, sender), len(draft.u1), path, known)
            for sender, advert, path in zip(senders, message.adverts, message.paths, strict=True)
        }
        root = roots.pop()
        if roots or root is None:
            raise Reject(FaultKind.INVALID, "got adverts whose paths don't lead to one root")
        return root

    def _check_draw(self, draft: PairwiseClientState, message: messages.DrawnAdverts, root: bytes) -> None:
        """Refuse a graph that the server could have known before this client saw U1 frozen."""
        if (message.present, root) != draft.frozen:
            raise Reject(FaultKind.INVALID, "got other adverts than were frozen")
        self._check_unknown(draft, message.number)
        if not self._beacon.verify(message.number, message.value):
            raise Reject(FaultKind.INVALID, f"got a value that the beacon didn't publish in round {message.number}")

    def _check_unknown(self, draft: PairwiseClientState, number: int) -> None:
        """Accept only rounds that nobody knew, and few of them, so that the server can't wait for a good one."""
        if not 0 <= number - draft.next_round < 1 << SLACK_BITS:
            raise Aborted(
                f"the server draws the graph from round {number} of the beacon; the first one after this client "
                f"saw the keys frozen is {draft.next_round}"
            )

    # Round 2

    def _message(self, draft: PairwiseClientState, secrets: Mapping[str, bytes]) -> wire.Message:
        """A voucher for each neighbour; what each of them has to show in turn is kept for round 3."""
        if not self._protocol.checked:
            return super()._message(draft, secrets)
        draft.vouchers = {other: self._voucher(draft, secret, other, draft.id) for other, secret in secrets.items()}
        return messages.VouchedInput(
            b"".join(self._voucher(draft, secret, draft.id, other) for other, secret in secrets.items())
        )

    def _voucher(self, draft: PairwiseClientState, secret: bytes, client: str, neighbour: str) -> bytes:
        """What only ``client`` can make, and only ``neighbour`` can check: the U2 that ``client`` masked under."""
        info = voucher_info(client, neighbour, draft.dealers)
        return keys.derive(secret, salt=draft.session_id, info=info, length=VOUCHER_BYTES)

    # Round 3

    def _check_survivors(self, draft: PairwiseClientState, message: Any, survivors: set[str], graph: Graph) -> None:
        """Check every window of the ring, then the vouchers."""
        if graph.is_cut(survivors):
            raise Aborted("the server says that nearly all of this ring's clients dropped out in one place")
        if isinstance(message, messages.VouchedSurvivors):
            self._check_vouchers(draft, message.vouchers, survivors)

    def _check_vouchers(self, draft: PairwiseClientState, joined: bytes, survivors: set[str]) -> None:
        """Drop the shares of each survivor that masked under another U2.

        Such a client may share no mask with any client in this sum: its self mask alone would then hide its input.
        """
        others = [party for party in draft.vouchers if party in survivors]
        shown = zip(others, pieces(joined, VOUCHER_BYTES, len(others)), strict=True)
        doubtful = {party for party, voucher in shown if not hmac.compare_digest(voucher, draft.vouchers[party])}
        draft.held = {dealer: shares for dealer, shares in draft.held.items() if dealer not in doubtful}

    # In every round

    def erase(self, draft: PairwiseClientState) -> None:
        """Forget keys, shares, vouchers and update."""
        super().erase(draft)
        draft.vouchers = {}

    @property
    def _beacon(self) -> Beacon:
        protocol = self._protocol
        assert isinstance(protocol, Sparse)
        assert protocol.beacon is not None
        return protocol.beacon

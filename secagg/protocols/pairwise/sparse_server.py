"""The server of SecAggPlus: what a sparse graph adds to SecAgg's server (Bell et al., CCS 2020)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from typing import Any, ClassVar

from secagg.beacon import CLOCK_ROUNDS, LATEST_ROUND
from secagg.bitmap import to_bitmap
from secagg.errors import FaultKind, LocalProtocolError
from secagg.merkle import merkle_levels, merkle_path, merkle_root
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.messages import VOUCHER_BYTES, check_pieces, pieces
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.protocols.pairwise.sparse_parameters import Sparse
from secagg.roles.member import Reply, method
from secagg.roles.server import Step
from secagg.roles.state import hold
from secagg.session import NONCE_BYTES, Advertised
from secagg.table import Phase, Round
from secagg.wire import Envelope, Reject


class SparseServer(PairwiseServer):
    """The server of :class:`secagg.SecAggPlus`; its rounds are SecAgg's, with these differences.

    - FreezeKeys (only under ``"malicious"``), between rounds 0 and 1: it shows U1 and the Merkle root over all
      adverts, and asks each client for the beacon's next round. It can't close this round before the beacon has
      published the value from which the graph is drawn.
    - Round 1: it shows each client the adverts of its neighbours only, with their paths to the root.
    - Round 2 (not under ``"semi-honest"``): it takes a client's vouchers for its neighbours with the input.
    - Round 3: it hands these vouchers on, each to the neighbour that can check it.
    """

    steps: ClassVar[Mapping[str, Step]] = {
        **PairwiseServer.steps,
        Round.FREEZE_KEYS: Step(
            method("_freeze"), method("_take_next_round"), method("_settle_frozen"), merge=("next_rounds",)
        ),
    }

    def prepare(self) -> None:
        """See :meth:`PairwiseServer.prepare`; each client whose input was taken also sent vouchers."""
        super().prepare()
        state = self.context.state
        if self._protocol.checked and self.context.open:
            taken = state.answered if self.context.round == Round.MASKED_INPUT else state.survivors
            hold(state.vouchers.keys() == set(taken), "vouchers")

    # Round 0

    def _enter(self) -> None:
        """Draw what the graph is drawn from, unless a beacon will publish it."""
        if self._sparse.uses_beacon:
            return
        # Not before U1 stands, or the last client to advertise could try keys until the graph suits it.
        self.context.state.graph_nonce = self.context.draw(NONCE_BYTES)
        self._stand(self._advertised_keys())

    def _advertised_keys(self) -> Advertised:
        state = self.context.state
        root = merkle_root([state.adverts[party] for party in state.u1])
        return Advertised(
            len(state.u1),
            root,
            present=to_bitmap(state.u1, state.cohort),
            graph_nonce=state.graph_nonce,
            beacon_output=state.beacon_output,
        )

    # FreezeKeys

    def _freeze(self) -> Mapping[str, Reply]:
        advertised = self._advertised_keys()
        return dict.fromkeys(self.context.state.u1, (messages.Frozen(advertised.present, advertised.root), b""))

    def _take_next_round(self, envelope: Envelope, answer: messages.NextRound, payload: memoryview) -> None:
        if not 0 < answer.number <= LATEST_ROUND:
            raise Reject(FaultKind.INVALID, f"got round {answer.number} of a beacon; expected 1 to 2^63 - 1")
        self.context.state.next_rounds[envelope.sender] = answer.number

    def _drawn_from(self) -> int:
        """The latest round that any client named, without clients whose clocks are far ahead.

        At most c of the clients lie, so the (n - c)-th smallest number is no later than that of some honest client.
        Honest clocks differ by a period or two, and no client may be lost for that.
        """
        numbers = sorted(self.context.state.next_rounds.values())
        most = numbers[max(0, len(numbers) - self._corrupt - 1)] + CLOCK_ROUNDS
        return max(number for number in numbers if number <= most)

    def before_close(self, phase: Phase) -> None:
        """``LocalProtocolError`` while the beacon hasn't published the value that the graph is drawn from."""
        if phase.round != Round.FREEZE_KEYS or not self.context.state.next_rounds:
            return
        if self.context.environment.beacon is None:
            raise LocalProtocolError("got no beacon=; pass a function that returns the value of a beacon's round")
        number = self._drawn_from()
        value = self.context.environment.beacon(number)
        if value is None:
            raise LocalProtocolError(
                f"round {number} of the beacon is not published; wait, then close_round() again"
            )
        if not self._sparse.beacon or not self._sparse.beacon.verify(number, value):
            raise LocalProtocolError(f"got a value for round {number} that is not the beacon's; look at beacon=")
        self.context.state.beacon_output = number, value

    def _settle_frozen(self) -> None:
        self.context.need(len(self.context.state.next_rounds), self._floor, "clients that saw the keys frozen")
        self._stand(self._advertised_keys())

    # Round 1

    def _send_adverts(self) -> Mapping[str, Reply]:
        state = self.context.state
        levels = merkle_levels([state.adverts[party] for party in state.u1])
        paths = {party: merkle_path(levels, place) for place, party in enumerate(state.u1)}
        present, adverts = to_bitmap(state.u1, state.cohort), state.adverts
        requests: dict[str, Reply] = {}
        for client in state.next_rounds if state.beacon_output else state.u1:
            shown = [*self._graph.neighbours(client)]
            insort(shown, client)
            raw, proofs = [adverts[party] for party in shown], [paths[party] for party in shown]
            if state.beacon_output:
                request: messages.ShownAdverts = messages.DrawnAdverts(present, raw, proofs, *state.beacon_output)
            else:
                request = messages.NearAdverts(present, raw, proofs, state.graph_nonce)
            requests[client] = request, b""
        return requests

    # Round 2

    def _take_input(self, envelope: Envelope, message: Any, payload: memoryview) -> None:
        if not isinstance(message, messages.VouchedInput):
            super()._take_input(envelope, message, payload)
            return
        check_pieces(message.vouchers, VOUCHER_BYTES, len(self._near_dealers(envelope.sender)))
        super()._take_input(envelope, message, payload)
        self.context.state.vouchers[envelope.sender] = message.vouchers

    def _near_dealers(self, client: str) -> list[str]:
        """The neighbours of ``client`` that dealt shares: those with which it shares masks."""
        return [party for party in self._graph.neighbours(client) if party in self.context.state.seed_commitments]

    # Round 3

    def _send_survivors(self) -> Mapping[str, Reply]:
        state = self.context.state
        shown: dict[str, list[bytes]] = {party: [] for party in state.survivors}
        for client in state.survivors:  # sorted, so each client gets its vouchers in the order of their senders
            near = self._near_dealers(client)
            for other, voucher in zip(near, pieces(state.vouchers[client], VOUCHER_BYTES, len(near)), strict=True):
                if other in shown:
                    shown[other].append(voucher)
        marked = to_bitmap(state.survivors, state.u1)
        return {
            party: (messages.VouchedSurvivors(marked, b"".join(vouchers)), b"") for party, vouchers in shown.items()
        }

    # Round 4

    def _unopened(self) -> str:
        return "didn't open, or it vouched for another U2" if self.context.state.vouchers else super()._unopened()

    # In every round

    @property
    def _sparse(self) -> Sparse:
        protocol = self._protocol
        assert isinstance(protocol, Sparse)
        return protocol

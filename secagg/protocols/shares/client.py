"""The client of AdditiveShares: one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mpc import additive, hpke
from mpc.errors import MPCError
from secagg.errors import LocalProtocolError
from secagg.identity import PartyRole
from secagg.lanes import pack_lanes, stream_offsets, to_lanes
from secagg.protocols.shares.messages import Report, share_info
from secagg.protocols.shares.parameters import ShareParameters
from secagg.roles.client import Client
from secagg.roles.member import Handler, Reply
from secagg.roles.state import ClientState
from secagg.table import Proposal, Round


class ShareClient(Client[ClientState]):
    """A client of AdditiveShares; see :class:`secagg.AdditiveShares`."""

    state_type = ClientState

    def _report(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        """Shard the update, seal an input share to each aggregator, and forget it.

        The shares repeat themselves for a client that is restored from before this answer; the sealing, whose
        randomness can't be seeded, doesn't. Other ciphertexts of the same shares tell nothing more, and
        aggregators take the first report only.
        """
        protocol, roster = self.context.task.protocol, self.context.roster
        assert isinstance(protocol, ShareParameters)
        assert roster is not None
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        leader, *helpers = roster.ids(PartyRole.AGGREGATOR)
        rng = self.context.rng(draft, "input-shares")
        seeds = [rng(additive.SEED_BYTES) for _ in helpers]
        for lane, offset in stream_offsets(lanes):
            additive.shard(lane, seeds, offset=offset)
        sealed = {
            aggregator: self._seal(draft, aggregator, share)
            for aggregator, share in zip(
                [*helpers, leader], [*seeds, pack_lanes(self.context.task, lanes)], strict=True
            )
        }
        return Report([sealed[helper] for helper in helpers]), sealed[leader]

    def _seal(self, draft: ClientState, aggregator: str, share: bytes) -> bytes:
        protocol, roster = self.context.task.protocol, self.context.roster
        assert isinstance(protocol, ShareParameters)
        assert roster is not None
        public = roster[aggregator].encryption_key or b""
        info = share_info(self.context.task, draft.session_id, draft.id, aggregator)
        try:
            return hpke.seal(hpke.Kem(protocol.kem), public, share, info=info)
        except MPCError as error:
            raise LocalProtocolError(f"the roster's sealing key of {aggregator} can't be used: {error}") from error

    answers: ClassVar[Mapping[str, Handler]] = {Round.REPORT: _report}

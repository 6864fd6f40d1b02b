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
from secagg.roles.member import Handler, Reply, method
from secagg.roles.state import ClientState
from secagg.table import Proposal, Round


class ShareClient(Client[ClientState]):
    """A client of :class:`secagg.AdditiveShares`.

    Report: the server proposes the session. The client shards its encoded update into one input share for each
    aggregator of its roster, seals each share to its aggregator, and answers with all of them in one signed report.
    Then it has finished.

    It refuses a proposal that does not fit its task or its roster, and sends nothing.
    """

    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {Round.REPORT: method("_report")}

    def _report(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        """Shard the update, seal an input share to each aggregator, and forget the update.

        A client that is restored from before this answer makes the same shares again. It seals them differently,
        because no seed determines the randomness of HPKE. Other ciphertexts of the same shares reveal nothing more,
        and aggregators take the first report only.
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

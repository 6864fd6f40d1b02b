"""AdditiveShares: clients split their updates between m servers, of which one honest server is enough.

Client u shards x_u into m *input shares* that add up to it modulo 2^k, and seals one to each *aggregator* in a
single signed *report*. Each aggregator adds up the shares of the same reports and releases one *aggregate
share*; the *collector*, this library's server, adds those (*unshard*). The words, and the shares written as
seeds, are those of VDAF and DAP (draft-irtf-cfrg-vdaf, draft-ietf-ppm-dap) without their proofs.

The first aggregator by id is the *leader*, whose share is a whole vector. The others are *helpers*, whose shares
are seeds. The leader adds up the shares as it opens them, and keeps no report. A helper keeps 32 bytes of each
report, and adds up at the end. A client can seal garbage to one aggregator, which only that aggregator can see.
This must not end the session. If the leader can't open its share, it does not take the report, and the helpers drop
their seeds. If a helper can't open its share, it keeps the signed report and hands it back in the recount, so that
the leader can subtract what it added. Memory is O(vector), because a helper keeps at most ``MAX_UNOPENED`` such
reports.

The parameters are in ``parameters``, the messages in ``messages``, the roles in ``client``, ``aggregator`` and
``collector``; this module puts them together. Sets of reports travel as bitmaps over the cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from secagg.identity import PartyRole
from secagg.protocols.shares.aggregator import ShareAggregator
from secagg.protocols.shares.client import ShareClient
from secagg.protocols.shares.collector import Collector
from secagg.protocols.shares.messages import AggregateShare, Agreed, Collect, Held, Ready, Recount, Release, Report
from secagg.protocols.shares.parameters import ShareParameters
from secagg.table import Phase, Proposal, Round

if TYPE_CHECKING:
    from secagg.roles.member import Member
    from secagg.roles.server import Server


@dataclass(frozen=True)
class AdditiveShares(ShareParameters):
    """Additive shares between ``aggregators`` servers, of which one must be honest; one message from each client.

    ``corruption`` is the fraction of clients that may collude with the collector and with all aggregators
    but one: of everyone enrolled (``threat_model="malicious"``) or of the cohort (``"semi-honest"``: the
    collector picks it honestly). ``kem`` is what input shares are sealed by: "MLKEM768-X25519" (X-Wing), under
    which recorded reports stay confidential against a quantum computer, or "X25519". The roster lists exactly
    ``aggregators`` aggregators, each with a sealing key of that kind.

    Ideal functionality: the collector learns which clients of the cohort reported, and the sum over the agreed
    reports: at least ``min_survivors``, one from each of as many enrolled clients. The aggregators learn which
    clients reported, and nothing of any update if one of the aggregators is honest. If at most c clients collude,
    every opened sum holds at least ``min_survivors - c`` honest updates. An honest aggregator that keeps a ledger
    takes part in only one sum under one (task, session); without a ledger, this holds until it is started anew.
    Clients learn the cohort. An abort before AggregateShare reveals nothing; after that, the collector may have the
    sum, whatever it claims. A client or an aggregator can spoil the sum, but can't read it. A silent client is left
    out; a silent aggregator ends the session.
    """

    ID: ClassVar[int] = 4
    #: Rounds with messages that depend on randomness of HPKE, which no seed governs.
    unseeded: ClassVar[tuple[str, ...]] = (Round.REPORT, Round.AGREEMENT, Round.AGGREGATE_SHARE)
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase(Round.PREPARATION, PartyRole.AGGREGATOR, Proposal, Ready),
        Phase(
            Round.REPORT,
            PartyRole.CLIENT,
            Proposal,
            Report,
            takes_input=True,
            reply_vectors=True,
            relay=PartyRole.AGGREGATOR,
        ),
        Phase(Round.RECOUNT, PartyRole.AGGREGATOR, Recount, Held),
        Phase(Round.AGREEMENT, PartyRole.AGGREGATOR, Collect, Agreed),
        Phase(Round.AGGREGATE_SHARE, PartyRole.AGGREGATOR, Release, AggregateShare, reply_vectors=True),
    )

    @property
    def role_classes(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The classes of the clients and the aggregators."""
        return {PartyRole.CLIENT: ShareClient, PartyRole.AGGREGATOR: ShareAggregator}

    @property
    def server(self) -> type[Server[Any]]:
        """The class of the collector."""
        return Collector

"""The protocols, each in a file to be read beside its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secagg.protocols.base import AggregationProtocol


def named() -> dict[str, AggregationProtocol]:
    """This library's protocols at their defaults, by the name that the command line knows."""
    from secagg.protocols.clear import Clear
    from secagg.protocols.encrypted import BFV, CKKS, Paillier
    from secagg.protocols.pairwise import SecAgg, SecAggPlus
    from secagg.protocols.shares import AdditiveShares

    protocols = (
        Clear(),
        SecAgg(),
        SecAggPlus(),
        AdditiveShares(),
        Paillier(),
        BFV(),
        CKKS(),
        CKKS(holder="clients"),
    )
    return {protocol.name: protocol for protocol in protocols}

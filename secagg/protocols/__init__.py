"""The protocols, each in a file to be read beside its paper."""

from secagg.protocols.base import AggregationProtocol
from secagg.protocols.clear import Clear
from secagg.protocols.pairwise import SecAgg

__all__ = ["Clear", "SecAgg", "named"]


def named() -> dict[str, AggregationProtocol]:
    """This library's protocols at their defaults, by the name that the command line knows."""
    return {protocol.name: protocol for protocol in (Clear(), SecAgg())}

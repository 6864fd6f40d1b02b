"""AdditiveShares: clients split their updates between several servers."""

from secagg.protocols.shares.protocol import AdditiveShares

__all__ = ["AdditiveShares"]

"""SecAgg and SecAggPlus: pairwise masks that cancel in the sum."""

from secagg.protocols.pairwise.protocol import SecAgg, SecAggPlus

__all__ = ["SecAgg", "SecAggPlus"]

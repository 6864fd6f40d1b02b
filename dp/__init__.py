"""Differential privacy on integers. No mechanism has landed here yet; the package knows no other core."""

from dp.errors import DPError

__all__ = ["DPError"]

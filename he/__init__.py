"""Homomorphic encryption for sums. No scheme has landed here yet; the package knows no other core."""

from he.errors import HEError

__all__ = ["HEError"]

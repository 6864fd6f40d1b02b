"""Homomorphic encryption for sums of integer vectors: Paillier, CKKS and BFV.

This package knows nothing of federated learning. Import the module that is wanted (``from he import bfv``);
nothing heavy is loaded before that. All three have the same interface, ``Scheme``: keys that encrypt vectors
and open sums, and an adder that needs no secret.
"""

from he.errors import HEError

__distribution__ = "secagg/he"  # by which secagg knows its own: others install a package 'he' too

__all__ = ["HEError"]

"""Homomorphic encryption for sums of integer vectors: Paillier, CKKS and BFV.

This package knows nothing of federated learning. Import the module that you need
(``from he import bfv``); nothing heavy is loaded before that. All three schemes have the same
interface, :mod:`he.scheme`: keys that encrypt vectors and open sums, and a sum that needs no secret.
:mod:`he.kahe` sums vectors under one-time keys instead, of which only the sum is ever needed.
"""

from he.errors import HEError

__distribution__ = "secagg/he"  # secagg checks it, since other distributions also install a package 'he'

__all__ = ["HEError"]

"""Arithmetic of polynomials modulo x^N + 1, under BFV, CKKS and other sums over rings.

Polynomials are in *groups* of eight, side by side: an array (N, 8) of 64-bit words, one row for each
coefficient. No loop then needs a shuffle, whatever the CPU's vectors are. :mod:`he.ring.fields` has the
transform and products modulo one prime, :mod:`he.ring.residues` several primes together,
:mod:`he.ring.sampling` and :mod:`he.ring.streams` randomness, :mod:`he.ring.slots` the places of values.

Primes below 2^50 use AVX-512 IFMA where the CPU has it, all others 64-bit products. Both have the same
results, bit for bit. ``SECAGG_RING=ifma`` or ``word`` forces one.
"""

from he._rows import LANES, has_ifma
from he.ring.fields import Factor, Field, arithmetic, field, lanes

__all__ = ["LANES", "Factor", "Field", "arithmetic", "field", "has_ifma", "lanes"]

"""Polynomials drawn from keystreams: uniform ones, and secret ones with small coefficients.

Group g of a stream begins at word g * :data:`GROUP`. Secret samples take the same words for each
coefficient, whatever its value, and use no branch and no table: a binomial counts bits, a ternary
coefficient is the upper part of a product.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from he._rows import LANES
from he.ring import _lanes
from he.ring.fields import Field, lanes
from he.ring.streams import Stream

Words = NDArray[np.uint64]
Small = NDArray[np.int8]

GROUP = 1 << 33
"""Words of a stream between the beginnings of two groups: more than a group ever takes."""

_PIECE = 1 << 13  # coefficients: two words of each are 128 KiB, a part of a second-level cache


class Sampler:
    """Draws small polynomials of ``degree`` N. It reuses its arrays: a result holds until the next call."""

    def __init__(self, degree: int) -> None:
        self._small = np.empty((3, degree, LANES), dtype=np.int8)
        self._drawn = lanes(-(-2 * min(_PIECE, degree * LANES) // LANES)).reshape(-1)

    def binomial(self, stream: Stream, group: int) -> Small:
        """Eight polynomials (N, 8) of centred binomials: the heads of 21 coins minus those of 21 others."""
        return self._one(stream, group, _lanes.binomial)

    def ternary(self, stream: Stream, group: int) -> Small:
        """Eight polynomials (N, 8) with coefficients uniform in -1, 0, 1, up to 2^-61."""
        return self._one(stream, group, _lanes.ternary)

    def encryption(self, stream: Stream, group: int) -> Small:
        """What eight encryptions with a public key draw, (3, N, 8).

        It is a ternary polynomial, uniform up to 2^-44, and two errors with binomial coefficients. -1 has the
        largest probability, (1 + 2^-43) / 3. So any event about 2^30 coefficients is likelier than with
        exactly uniform ones by a factor of at most (1 + 2^-43)^(2^30) < 1 + 2^-12.
        """
        return self._fill(self._small, stream, group, 2, _lanes.encryption)

    def _one(self, stream: Stream, group: int, kernel: Callable[..., None]) -> Small:
        small: Small = self._fill(self._small[:1], stream, group, 1, kernel)[0]
        return small

    def _fill(self, out: Small, stream: Stream, group: int, words: int, kernel: Callable[..., None]) -> Small:
        """Let ``kernel`` fill ``out`` from ``words`` words of the stream for each place."""
        flat, first = out.reshape(len(out), -1), group * GROUP
        for at in range(0, flat.shape[1], _PIECE):
            parts = flat[:, at : at + _PIECE]
            drawn = self._drawn[: words * parts.shape[1]]
            stream(drawn, first + words * at)
            kernel(drawn, *parts)
        return out


def uniform(stream: Stream, group: int, field: Field, out: Words) -> None:
    """Fill ``out`` (N, 8) with residues that are exactly uniform below the field's prime. They are public.

    A residue is as many low bits of a word as the prime has. Those that are not below the prime are
    replaced, in order, by the next such bits of words that follow the group's first 8 N.
    """
    flat, bits, prime = out.reshape(-1), field.prime.bit_length(), np.uint64(field.prime)
    first = group * GROUP
    stream(flat, first)
    if not _lanes.cut(flat, bits, prime):
        return
    refused, following = np.flatnonzero(flat >= prime), first + flat.size
    while refused.size:
        more = np.empty(2 * refused.size, dtype=np.uint64)
        stream(more, following)
        following += more.size
        _lanes.cut(more, bits, prime)
        good = more[more < prime][: refused.size]
        flat[refused[: good.size]] = good
        refused = refused[good.size :]

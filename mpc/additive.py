"""Additive secret sharing: a vector in m shares that add up to it modulo 2^k, of which any m - 1 tell nothing.

All shares but one are seeds of 32 bytes: what a seed stands for is its mask stream
(:mod:`mpc.masks`), uniform modulo any power of two. The explicit share is the vector less all streams.
Shares of many vectors add up like the vectors, so each holder can add first and hand out one share of the
sum.

``shard``, ``input share``, ``unshard`` are the words of VDAF (draft-irtf-cfrg-vdaf), as is the compression of
all shares but one.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc._numbers import whole
from mpc.errors import MPCError
from mpc.masks import KEY_BYTES, add_mask

Lanes = NDArray[np.unsignedinteger[Any]]

SEED_BYTES = KEY_BYTES
"""Bytes of every share but the explicit one."""


def shard(vector: Lanes, seeds: Sequence[bytes], *, offset: int = 0) -> None:
    """Turn ``vector``, in place, into the explicit share beside the shares ``seeds``.

    ``vector`` is one-dimensional, C-contiguous and writable, of uint32 or uint64, and stands modulo any 2^k
    that its lanes hold. ``seeds`` are fresh, distinct, of 32 random bytes each, and never used for another
    vector; ``offset`` is the lane of their streams that meets ``vector[0]``. Raises :class:`MPCError` on
    anything else, with ``vector`` untouched.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise MPCError(
            f"got {len(seeds)} seeds, {len(set(seeds))} of them distinct; expected at least 1, all distinct"
        )
    for seed in seeds:
        add_mask(vector[:0], seed, offset=offset)  # refuses whatever the loop below would
    for seed in seeds:
        add_mask(vector, seed, sign=-1, offset=offset)


def add_share(total: Lanes, seed: bytes, *, offset: int = 0) -> None:
    """Add the share that ``seed`` stands for to ``total``, in place. Arguments and errors as in :func:`shard`."""
    add_mask(total, seed, offset=offset)


def unshard(shares: Iterable[Lanes], bits: int) -> Lanes:
    """The vector modulo 2^``bits`` whose shares are ``shares``, all of one shape and dtype, each written out.

    Raises :class:`MPCError` if there are none, if they differ in shape or dtype, or if their lanes have fewer
    than ``bits`` bits.
    """
    written = list(shares)
    kinds = {(share.shape, share.dtype) for share in written}
    if len(kinds) != 1:
        raise MPCError(f"got {len(written)} shares of {len(kinds)} shapes and dtypes; expected shares all alike")
    width = 8 * written[0].itemsize
    kept = whole(bits)
    if written[0].dtype.kind != "u" or kept is None or not 1 <= kept <= width:
        raise MPCError(f"got {bits} bits in lanes of {written[0].dtype}; expected 1 to {width} in unsigned lanes")
    total = written[0].copy()
    for share in written[1:]:
        total += share
    total &= total.dtype.type((1 << kept) - 1)
    return total

"""Additive secret sharing: m shares add up to a vector modulo 2^k, and any m - 1 of them say nothing about it.

All shares but one are seeds of 32 bytes. A seed stands for its mask stream (:mod:`mpc.masks`), which
is uniform modulo any power of two. The *explicit share* is the vector minus all streams. Shares of
many vectors add up like the vectors, so that each holder can first add its shares and then release
one share of the sum. To add the share of a seed, call :func:`mpc.masks.add_mask`.

``shard`` is a word of VDAF (draft-irtf-cfrg-vdaf), which also compresses all shares but one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc.errors import MPCError
from mpc.masks import KEY_BYTES, add_mask

#: A vector of unsigned integers, which are residues modulo a power of two.
Lanes = NDArray[np.unsignedinteger[Any]]

SEED_BYTES = KEY_BYTES
"""Bytes of every share except the explicit share."""


def shard(vector: Lanes, seeds: Sequence[bytes], *, offset: int = 0) -> None:
    """Turn ``vector``, in place, into the explicit share; ``seeds`` are the other shares.

    ``vector`` is one-dimensional, C-contiguous and writable, of uint32 or uint64; it is shared modulo
    any 2^k that its lanes hold. ``seeds`` are fresh and distinct, of 32 random bytes each, and never
    used for another vector. ``offset`` is the lane of their streams that is subtracted from
    ``vector[0]``. Raises :class:`MPCError` for any other argument, and then leaves ``vector`` unchanged.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise MPCError(
            f"got {len(seeds)} seeds, {len(set(seeds))} of them distinct; expected at least 1, all distinct"
        )
    for seed in seeds:
        add_mask(vector[:0], seed, offset=offset)  # refuses before the loop below changes anything
    for seed in seeds:
        add_mask(vector, seed, sign=-1, offset=offset)

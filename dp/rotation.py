"""A random rotation from a public seed: random signs, then Hadamard's matrix. Anyone with the seed can undo it."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from dp.errors import DPError

Floats = NDArray[np.float64]

_SEED_LABEL = b"secagg/v1/dp-rotation"


def rotate(vector: Floats, seed: bytes) -> None:
    """Replace ``vector``, of 2^m float64 coordinates, by H·diag(±1)·``vector``/√(2^m), in place.

    H is Sylvester's Hadamard matrix. The signs are bits of AES-256-CTR, whose key is the SHA-256 of a label and
    the public ``seed``; a set bit stands for -1. The rotation keeps norms, and spreads the weight of single
    coordinates over all. Raises :class:`DPError` for any other vector.
    """
    from dp import _rotation

    signs = _signs(vector, seed)
    _rotation.flip(vector, signs, vector.size**-0.5)
    _rotation.hadamard(vector)


def unrotate(vector: Floats, seed: bytes) -> None:
    """Undo :func:`rotate`, in place."""
    from dp import _rotation

    signs = _signs(vector, seed)
    _rotation.hadamard(vector)
    _rotation.flip(vector, signs, vector.size**-0.5)


def _signs(vector: Floats, seed: bytes) -> NDArray[np.uint8]:
    size = vector.size
    if vector.dtype != np.float64 or vector.shape != (size,) or not vector.flags.c_contiguous:
        raise DPError(
            f"got a vector of dtype {vector.dtype} and shape {vector.shape} to rotate; expected float64, "
            "one-dimensional and contiguous"
        )
    if not size or size & (size - 1):
        raise DPError(f"got {size} coordinates to rotate; expected a power of two: pad with zeros")
    key = hashlib.sha256(_SEED_LABEL + seed).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(-(-size // 8))), np.uint8)

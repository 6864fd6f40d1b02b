"""The rotation, against the double loop, the matrix, and itself turned round."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st

from dp import _rotation
from dp.errors import DPError
from dp.rotation import rotate, unrotate
from tests.reference import dp_rotation as twin

SEED = b"round 3"


def vector(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


@pytest.mark.parametrize("levels", range(15))  # past the block of 2^12, with an odd and an even rest
def test_hadamard_is_the_double_loop_bit_for_bit(levels: int) -> None:
    x = vector(1 << levels)
    expected = twin.hadamard(x)
    _rotation.hadamard(x)
    assert x.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1, 2, 8, 64, 512])
def test_rotation_is_signs_then_the_matrix(size: int) -> None:
    x = vector(size)
    key = hashlib.sha256(b"secagg/v1/dp-rotation" + SEED).digest()
    bits = np.frombuffer(Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(64)), np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(bits, bitorder="little")[:size]
    expected = twin.matrix(size) @ (signs * x) / np.sqrt(size)
    rotate(x, SEED)
    assert np.allclose(x, expected, rtol=0, atol=1e-13)
    assert size < 64 or -8 * np.sqrt(size) < signs.sum() < 8 * np.sqrt(size)


@given(st.integers(0, 13), st.binary(max_size=8), st.integers(0, 2**32))
def test_rotation_keeps_norms_and_is_undone(levels: int, seed: bytes, draw: int) -> None:
    x = vector(1 << levels, draw)
    turned = x.copy()
    rotate(turned, seed)
    assert np.isclose(np.linalg.norm(turned), np.linalg.norm(x), rtol=1e-12)
    unrotate(turned, seed)
    assert np.allclose(turned, x, rtol=0, atol=1e-12)


def test_another_seed_doesnt_undo_it() -> None:
    x = vector(1024)
    turned = x.copy()
    rotate(turned, b"one")
    unrotate(turned, b"another")
    assert np.abs(turned - x).max() > 0.5


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros(0), np.zeros(4, np.float32), np.zeros((2, 2)), np.zeros(8)[::2]]
)
def test_other_vectors_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DPError, match="to rotate"):
        rotate(bad, SEED)


def test_rounding_is_the_floor_or_one_more() -> None:
    x, random = vector(1000) * 10, np.random.default_rng(1).integers(0, 2**32, 1000, dtype=np.uint32)
    out = np.empty(1000, np.int64)
    squares = _rotation.round_stochastic(x, 2.5, random, 1 << 40, out)
    scaled = x * 2.5
    expected = np.floor(scaled) + (random < (scaled - np.floor(scaled)) * 2.0**32)
    assert (out == expected).all()
    assert squares == (out**2).sum()
    assert _rotation.round_stochastic(x, 2.5, random, 3, out) == (np.clip(expected, -3, 3) ** 2).sum()
    assert (out == np.clip(expected, -3, 3)).all()

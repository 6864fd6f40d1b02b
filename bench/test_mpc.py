"""Shamir compared with Flower's, mask streams with a memory copy and raw AES: ``pytest bench``."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mpc import masks, shamir

CLIENTS = 100
THRESHOLD = 67
SECRET = bytes(range(32))
KEY = bytes(range(32))
PIECE = 64 * 1024

Benchmark = Callable[..., Any]

# The second-level cache of a core, and more than any cache.
lanes = pytest.mark.parametrize("size", [3 << 16, 1 << 24], ids=["768KiB", "64MiB"])
paths = pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "openssl"])
held = pytest.mark.parametrize("count", [THRESHOLD, CLIENTS], ids=["t-shares", "all-shares"])


@pytest.fixture(scope="module")
def flower() -> Any:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[peers]'")
    from flwr.common.secure_aggregation.crypto import shamir as theirs

    return theirs


@pytest.mark.benchmark(group="shamir split, n=100, t=67")
def test_split(benchmark: Benchmark) -> None:
    assert len(benchmark(shamir.split, SECRET, THRESHOLD, CLIENTS)) == CLIENTS


@pytest.mark.benchmark(group="shamir split, n=100, t=67")
def test_split_flower(benchmark: Benchmark, flower: Any) -> None:
    assert len(benchmark(flower.create_shares, SECRET, THRESHOLD, CLIENTS)) == CLIENTS


@held
@pytest.mark.benchmark(group="shamir combine, n=100, t=67")
def test_combine(benchmark: Benchmark, count: int) -> None:
    """The same points as before, as for every secret but the first that a server rebuilds."""
    shares = shamir.split(SECRET, THRESHOLD, CLIENTS)[:count]
    assert benchmark(shamir.combine, shares) == SECRET


@held
@pytest.mark.benchmark(group="shamir combine, n=100, t=67")
def test_combine_new_points(benchmark: Any, count: int) -> None:
    shares = shamir.split(SECRET, THRESHOLD, CLIENTS)[:count]

    def forget() -> None:
        shamir._weights.cache_clear()
        shamir._spreads.cache_clear()

    assert benchmark.pedantic(shamir.combine, (shares,), setup=forget, rounds=50) == SECRET


@held
@pytest.mark.benchmark(group="shamir combine, n=100, t=67")
def test_combine_flower(benchmark: Benchmark, flower: Any, count: int) -> None:
    """Flower's server combines all the shares that it was sent, which may be more than t."""
    shares = flower.create_shares(SECRET, THRESHOLD, CLIENTS)[:count]
    assert benchmark(flower.combine_shares, shares) == SECRET


@pytest.fixture
def path(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel and not masks.compiled():
        pytest.skip("no compiler, or no AES instructions")
    if not kernel:
        monkeypatch.setattr(masks, "width", lambda: 0)


@lanes
@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="mask")
def test_add_mask(benchmark: Benchmark, size: int) -> None:
    vector = np.zeros(size, dtype=np.uint32)
    masks.add_mask(vector, KEY)
    benchmark(masks.add_mask, vector, KEY)
    assert vector.any()


@lanes
@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="mask")
def test_keystream(benchmark: Benchmark, size: int) -> None:
    vector = np.zeros(size, dtype=np.uint32)
    masks.keystream(KEY, vector)
    benchmark(masks.keystream, KEY, vector)
    assert vector.any()


@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="mask of 100 lanes")
def test_add_short_mask(benchmark: Benchmark) -> None:
    """What a call costs: the key schedule, and getting there."""
    vector = np.zeros(100, dtype=np.uint32)
    masks.add_mask(vector, KEY)
    benchmark(masks.add_mask, vector, KEY)
    assert vector.any()


@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="64 masks of 2^18 lanes")
def test_mask_sum(benchmark: Benchmark) -> None:
    """What one task of a server's unmasking is."""
    keyed = [(os.urandom(32), 1 if number % 2 else -1) for number in range(64)]
    masks.mask_sum(keyed, 0, 100, "<u4")
    assert benchmark(masks.mask_sum, keyed, 0, 1 << 18, "<u4").any()


@lanes
@pytest.mark.benchmark(group="mask")
def test_memory_copy(benchmark: Benchmark, size: int) -> None:
    vector = np.frombuffer(os.urandom(4 * size), dtype=np.uint32)
    copy = np.zeros_like(vector)
    benchmark(np.copyto, copy, vector)
    assert np.array_equal(copy, vector)


@lanes
@pytest.mark.benchmark(group="mask")
def test_raw_aes(benchmark: Benchmark, size: int) -> None:
    """AES-256-CTR of as many bytes, into one buffer, which is all that OpenSSL itself costs."""
    zeros, buffer = bytes(PIECE), bytearray(PIECE + 15)
    pieces, rest = divmod(4 * size, PIECE)

    def stream() -> None:
        aes = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor()
        for _ in range(pieces):
            aes.update_into(zeros, buffer)
        aes.update_into(zeros[:rest], buffer)

    benchmark(stream)
    assert any(buffer)

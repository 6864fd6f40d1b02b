"""Additive shares: they add up, each alone is uniform, and nothing malformed is taken."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mpc import MPCError, additive
from mpc.masks import add_mask
from tests.reference import masks as twin

DTYPES = st.sampled_from([np.uint32, np.uint64])
SEEDS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True)
SEED = bytes(range(32))


def written_out(seeds: list[bytes], like: Any, offset: int = 0) -> list[Any]:
    shares = []
    for seed in seeds:
        shares.append(np.zeros_like(like))
        add_mask(shares[-1], seed, offset=offset)
    return shares


def total(shares: list[Any], bits: int) -> list[int]:
    """The sum of ``shares`` modulo 2^bits."""
    return [sum(column) % (1 << bits) for column in zip(*(share.tolist() for share in shares), strict=True)]


@given(SEEDS, DTYPES, st.data())
def test_shares_add_up(seeds: list[bytes], dtype: Any, data: st.DataObject) -> None:
    width = 8 * np.dtype(dtype).itemsize
    bits = data.draw(st.integers(1, width))
    numbers = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))
    offset = data.draw(st.integers(0, 1 << 40))
    vector = np.array(numbers, dtype)
    explicit = vector.copy()
    additive.shard(explicit, seeds, offset=offset)
    assert total([explicit, *written_out(seeds, vector, offset)], bits) == numbers


@given(SEEDS, DTYPES)
def test_the_explicit_share_is_the_vector_less_the_streams(seeds: list[bytes], dtype: Any) -> None:
    width = np.dtype(dtype).itemsize
    vector = np.arange(7, dtype=dtype)
    explicit = vector.copy()
    additive.shard(explicit, seeds, offset=3)
    streams = [twin.lanes(seed, width, 3, 7) for seed in seeds]
    expected = [(int(v) - sum(column)) % (1 << 8 * width) for v, *column in zip(vector, *streams, strict=True)]
    assert explicit.tolist() == expected


def test_shares_of_a_sum_are_sums_of_shares() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.integers(0, 1 << 20, (5, 50), np.uint32)
    seeds = [[rng.bytes(32), rng.bytes(32)] for _ in vectors]
    leader, helpers = np.zeros(50, np.uint32), np.zeros((2, 50), np.uint32)
    for vector, own in zip(vectors, seeds, strict=True):
        explicit = vector.copy()
        additive.shard(explicit, own)
        leader += explicit
        for helper, seed in zip(helpers, own, strict=True):
            add_mask(helper, seed)
    assert total([leader, *helpers], 23) == vectors.sum(axis=0).tolist()
    assert total([leader, helpers[0]], 23) != vectors.sum(axis=0).tolist()


@pytest.mark.parametrize("left_out", range(3))
def test_all_shares_but_one_look_random(left_out: int) -> None:
    """The mean of what m - 1 shares of zeros add up to is that of uniform lanes, within six deviations."""
    size = 1 << 16
    vector = np.zeros(size, np.uint32)
    seeds = [bytes([number]) * 32 for number in (1, 2)]
    shares = written_out(seeds, vector)
    additive.shard(vector, seeds)
    rest = [share for place, share in enumerate([vector, *shares]) if place != left_out]
    seen = total(rest, 8)
    assert abs(float(np.mean(seen)) - 127.5) < 6 * 73.9 / size**0.5


@pytest.mark.parametrize(
    ("vector", "seeds"),
    [
        (np.zeros(3, np.uint32), []),
        (np.zeros(3, np.uint32), [SEED, SEED]),
        (np.zeros(3, np.uint32), [SEED, bytes(31)]),
        (np.zeros(3, np.uint32), [SEED, None]),
        (np.zeros(3, np.int32), [SEED]),
        (np.zeros((3, 3), np.uint32), [SEED]),
        (np.zeros(6, np.uint32)[::2], [SEED]),
        ([0, 0, 0], [SEED]),
    ],
)
def test_what_can_not_be_shared_is_refused_untouched(vector: Any, seeds: Any) -> None:
    with pytest.raises(MPCError):
        additive.shard(vector, seeds)
    assert not np.any(vector)

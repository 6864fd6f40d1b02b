"""Mask streams: the bits of AES-256-CTR, whole or in slices, added or taken away.

Every test runs on the kernel for each width of vectors that the CPU has, and on OpenSSL. ``test_aes`` runs them
with the instructions of older CPUs too.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st

from mpc import MPCError, _aes, masks
from tests.reference import masks as twin

KEYS = st.binary(min_size=32, max_size=32)
DTYPES = st.sampled_from([np.uint32, np.uint64])
PIECE = masks._PIECE_BYTES
PATHS = {"openssl": 0} | {f"kernel{bits}": bits for bits in _aes.WIDTHS if bits <= _aes.widest()}


@pytest.fixture(scope="module", autouse=True, params=PATHS.values(), ids=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "width", lambda: request.param)
        yield


def stream(key: bytes, dtype: Any, count: int, offset: int = 0) -> np.ndarray[Any, Any]:
    out = np.empty(count, dtype=dtype)
    masks.keystream(key, out, offset=offset)
    return out


def one_shot(key: bytes, size: int, block: int = 0) -> bytes:
    """AES-256-CTR of ``size`` bytes from counter ``block`` on, in one call."""
    return Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor().update(bytes(size))


def test_published_blocks() -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "aes256_ctr.json").read_text())
    key, blocks = bytes.fromhex(vector["key"]), "".join(vector["blocks"])
    for dtype in (np.uint32, np.uint64):
        lanes = stream(key, dtype, 48 // np.dtype(dtype).itemsize)
        assert lanes.tobytes().hex() == blocks
    assert int(stream(key, np.uint32, 1)[0]) == 0x78C095DC, "lanes are little-endian"
    assert stream(key, np.uint64, 2, offset=2).tobytes().hex() == vector["blocks"][1]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("size", [PIECE - 8, PIECE, PIECE + 8, 3 * PIECE + 16])
def test_streams_longer_than_a_piece_equal_one_shot(dtype: Any, size: int) -> None:
    key = bytes(range(32))
    lanes = stream(key, dtype, size // np.dtype(dtype).itemsize)
    assert lanes.tobytes() == one_shot(key, size)
    vector = np.ones_like(lanes)
    masks.add_mask(vector, key)
    assert np.array_equal(vector, lanes + np.ones_like(lanes))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("end", [16, 128, 256, 512, 1024])  # the pieces of kernels have 128, 256 or 512 bytes
def test_streams_may_start_and_end_anywhere(dtype: Any, end: int) -> None:
    width = np.dtype(dtype).itemsize
    for first in range(16 // width + 1):
        for last in range((end - 8) // width, (end + 8) // width + 1):
            key = bytes([first, last % 256]) * 16  # no other has left its stream in memory
            expected = np.frombuffer(one_shot(key, end + 16), dtype)
            around = np.ones(expected.size, dtype)
            masks.add_mask(around[first:last], key, offset=first)
            assert np.array_equal(around[first:last], expected[first:last] + dtype(1))
            assert (around[:first] == 1).all()
            assert (around[last:] == 1).all()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_vector_may_lie_anywhere_in_memory(dtype: Any) -> None:
    vector = np.frombuffer(bytearray(1 + 80), np.uint8)[1:].view(dtype)
    assert not vector.flags.aligned
    masks.add_mask(vector, bytes(32))
    assert vector.tobytes() == one_shot(bytes(32), 80)


@given(KEYS, DTYPES, st.integers(0, 2**40), st.integers(0, 60))
def test_stream_equals_its_twin(key: bytes, dtype: Any, offset: int, count: int) -> None:
    width = np.dtype(dtype).itemsize
    assert stream(key, dtype, count, offset).tolist() == twin.lanes(key, width, offset, count)


@given(KEYS, DTYPES, st.sampled_from([1, -1]), st.integers(0, 9), st.data())
def test_add_equals_its_twin(key: bytes, dtype: Any, sign: int, offset: int, data: st.DataObject) -> None:
    width = np.dtype(dtype).itemsize
    top = 2 ** (8 * width) - 1
    values = data.draw(st.lists(st.one_of(st.just(0), st.just(top), st.integers(0, top)), max_size=20))
    vector = np.array(values, dtype=dtype)
    masks.add_mask(vector, key, sign=sign, offset=offset)
    assert vector.tolist() == twin.add_mask(values, key, width, sign, offset)


@given(
    st.lists(st.tuples(KEYS, st.sampled_from([1, -1])), max_size=5),
    DTYPES,
    st.integers(0, 1200),
    st.one_of(st.integers(0, 9), st.integers(2**34 - 600, 2**34 + 2), st.integers(0, 2**62)),
    st.integers(0, 70),
)
def test_many_streams_equal_openssl_anywhere(
    keyed: list[tuple[bytes, int]], dtype: Any, count: int, offset: int, place: int
) -> None:
    """Every sum, length and place in memory and in the stream; lanes beside the vector stay as they are."""
    width = np.dtype(dtype).itemsize
    block, skipped = offset * width // 16, offset * width % 16
    memory = bytearray(np.random.default_rng(count).bytes(count * width + 150))
    vector = np.frombuffer(memory, np.uint8)[place : place + count * width].view(dtype)
    expected, before = vector.copy(), bytes(memory)
    for key, sign in keyed:
        stream = np.frombuffer(one_shot(key, skipped + count * width, block)[skipped:], dtype)
        expected += stream if sign == 1 else -stream
    masks.add_masks(vector, keyed, offset=offset)
    assert np.array_equal(vector, expected)
    assert memory[:place] == before[:place]
    assert memory[place + count * width :] == before[place + count * width :]
    begun = np.frombuffer(before, np.uint8)[place : place + count * width].view(dtype)
    assert np.array_equal(masks.mask_sum(keyed, offset, count, vector.dtype.str), expected - begun)


@given(
    KEYS,
    DTYPES,
    st.lists(st.integers(0, 100), max_size=6),
    st.integers(0, 2**35),
    st.randoms(use_true_random=False),
)
def test_slices_equal_the_whole(key: bytes, dtype: Any, cuts: list[int], offset: int, order: Any) -> None:
    vector = np.arange(100, dtype=dtype)
    whole = vector.copy()
    masks.add_mask(whole, key, offset=offset)
    bounds = [0, *sorted(cuts), 100]
    slices = list(pairwise(bounds))
    order.shuffle(slices)
    for first, last in slices:
        masks.add_mask(vector[first:last], key, offset=offset + first)
    assert np.array_equal(vector, whole)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_slices_of_many_pieces_equal_the_whole(dtype: Any) -> None:
    key, count = b"k" * 32, 3 * PIECE // np.dtype(dtype).itemsize + 5
    whole = stream(key, dtype, count)
    for cut in (1, 3, count // 2 + 1, count - 1):
        parts = [stream(key, dtype, cut), stream(key, dtype, count - cut, offset=cut)]
        assert np.array_equal(np.concatenate(parts), whole)


@given(KEYS, DTYPES, st.integers(0, 300), st.integers(0, 2**30))
def test_subtracting_undoes_adding(key: bytes, dtype: Any, count: int, offset: int) -> None:
    vector = np.arange(count, dtype=dtype)
    masks.add_mask(vector, key, offset=offset)
    masks.add_mask(vector, key, sign=-1, offset=offset)
    assert np.array_equal(vector, np.arange(count, dtype=dtype))


@pytest.mark.parametrize("bits", [32, 40, 48])
def test_the_counter_carries_beyond_32_bits(bits: int) -> None:
    """16 bytes before and after block 2^bits, where a 32-bit counter would come round."""
    key = b"c" * 32
    lanes = stream(key, np.uint32, 8, offset=4 * (2**bits - 1))
    assert lanes.tobytes() == one_shot(key, 32, 2**bits - 1)
    assert lanes[4:].tobytes() == one_shot(key, 16, 2**bits)
    assert lanes[4:].tobytes() != one_shot(key, 16, 0)


def test_the_last_lanes() -> None:
    key = b"e" * 32
    assert stream(key, np.uint64, 2, offset=2**64 - 2).tobytes() == one_shot(key, 16, 2**63 - 1)
    with pytest.raises(MPCError, match="expected a slice of lanes 0 to 2"):
        stream(key, np.uint64, 2, offset=2**64 - 1)


def test_a_big_endian_or_foreign_order_is_not_the_same_stream() -> None:
    """Control: the order of bytes matters, so the published vector does test it."""
    lanes = stream(bytes(32), np.uint32, 4)
    assert not np.array_equal(lanes, lanes.byteswap())


def test_lanes_are_spread_evenly() -> None:
    """Chi-square over 256 bins of 2^16 lanes: 255 degrees of freedom, 6 standard deviations."""
    lanes = stream(b"d" * 32, np.uint32, 2**16)
    for shift in (0, 24):
        counts = np.bincount((lanes >> np.uint32(shift)) & np.uint32(255), minlength=256)
        statistic = float(((counts - 256.0) ** 2 / 256).sum())
        assert abs(statistic - 255) < 6 * (2 * 255) ** 0.5


@given(KEYS, st.integers(0, 255))
def test_every_bit_of_the_key_counts(key: bytes, bit: int) -> None:
    other = (int.from_bytes(key, "big") ^ 1 << bit).to_bytes(32, "big")
    different = np.bitwise_count(stream(key, np.uint32, 64) ^ stream(other, np.uint32, 64)).sum()
    assert abs(int(different) - 1024) < 200  # 2048 fair coins: 9 standard deviations


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_an_empty_vector_may_lie_behind_the_last_lane(dtype: Any) -> None:
    masks.add_mask(np.zeros(0, dtype), bytes(32), offset=2**64)
    assert stream(bytes(32), dtype, 0, 2**64).size == 0


def test_keys_that_can_be_read_once_are_added() -> None:
    vector, again = np.zeros(5, np.uint32), np.zeros(5, np.uint32)
    keyed = [(bytes(32), 1), (bytes(range(32)), -1)]
    masks.add_masks(vector, keyed)
    masks.add_masks(again, (one for one in keyed))  # type: ignore[arg-type]
    assert vector.any()
    assert (vector == again).all()


def test_empty_vector() -> None:
    masks.add_mask(np.empty(0, dtype=np.uint32), bytes(32))


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2],
        np.zeros(4, dtype=np.int32),
        np.zeros(4, dtype=np.float32),
        np.zeros(4, dtype=">u4"),
        np.zeros(4, dtype=np.uint16),
    ],
)
def test_another_dtype_is_refused(vector: Any) -> None:
    with pytest.raises(MPCError, match="expected a NumPy array of little-endian uint32 or uint64"):
        masks.add_mask(vector, bytes(32))
    with pytest.raises(MPCError, match="expected a NumPy array of little-endian uint32 or uint64"):
        masks.keystream(bytes(32), vector)


def test_another_shape_is_refused() -> None:
    read_only = np.zeros(4, dtype=np.uint32)
    read_only.flags.writeable = False
    for vector in (np.zeros((2, 2), dtype=np.uint32), np.zeros(8, dtype=np.uint32)[::2], read_only):
        before = vector.copy()
        with pytest.raises(MPCError, match="expected one dimension, contiguous and writable"):
            masks.add_mask(vector, bytes(32))
        assert np.array_equal(vector, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(
            ({"key": key}, "got a mask key of .*; expected 32 bytes")
            for key in (bytes(16), bytes(31), bytes(33), "k" * 32, bytearray(32))
        ),
        *(
            ({"sign": sign}, "expected 1 to add the mask or -1")
            for sign in (0, 2, -2, None, True, 1.0, np.array([1]))
        ),
        ({"offset": -1}, "got offset -1 for 4 lanes"),
    ],
)
def test_another_argument_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(MPCError, match=reason):
        masks.add_mask(**{"vector": np.zeros(4, dtype=np.uint32), "key": bytes(32)} | change)

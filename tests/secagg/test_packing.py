import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from secagg import _bits
from secagg.errors import ConfigError, EncodingError
from secagg.packing import lane_dtype, pack, pack_all, packed_size, unpack_add
from tests.reference import packing as naive

WIDTHS = st.integers(1, 64)
LENGTHS = st.one_of(st.integers(0, 130), st.sampled_from([255, 257, 511]))


@pytest.fixture(autouse=True, scope="module", params=["eights", "words"])
def loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs with the loops that AVX2 makes possible, and with those of any other machine."""
    if request.param == "eights" and not _bits.available():
        pytest.skip("no compiler, or no AVX2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bits, "available", lambda: request.param == "eights")
        yield


def lanes(length: int, dtype: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2**64, length, np.uint64).astype(dtype)


@settings(deadline=None)  # the first example compiles
@given(bits=WIDTHS, length=LENGTHS, wide=st.booleans(), seed=st.integers(0, 2**32))
def test_packs_and_adds_as_python_integers_do(bits: int, length: int, wide: bool, seed: int) -> None:
    dtype = np.dtype(np.uint64 if wide else lane_dtype(bits))
    vector, into = lanes(length, dtype, seed), lanes(length, dtype, seed + 1)
    data = pack(vector, bits)
    assert data == naive.pack(vector.tolist(), bits)
    assert len(data) == packed_size(length, bits)
    modulus = 2 ** (8 * dtype.itemsize)
    expected = [(a + b) % modulus for a, b in zip(into.tolist(), naive.unpack(data, bits, length), strict=True)]
    unpack_add(data, bits, into)
    assert into.tolist() == expected


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width(bits: int) -> None:
    vector = lanes(131, lane_dtype(bits), bits)
    into = np.zeros_like(vector)
    data = pack(vector, bits)
    assert data == naive.pack(vector.tolist(), bits)
    unpack_add(data, bits, into)
    assert into.tolist() == [value % 2**bits for value in vector.tolist()]


@pytest.mark.parametrize("bits", [1, 23, 32, 45, 64])
@pytest.mark.parametrize("length", [8191, 8192, 8193])
def test_the_seams_between_pieces(bits: int, length: int) -> None:
    vector = lanes(length, lane_dtype(bits))
    into = np.zeros_like(vector)
    unpack_add(memoryview(b"\xff" + pack(vector, bits))[1:], bits, into)
    assert into.tolist() == [value % 2**bits for value in vector.tolist()]


def test_bit_order_is_little_endian() -> None:
    assert pack(np.array([1, 2, 3], np.uint32), 3) == bytes([0b11_010_001, 0b0])
    assert pack(np.array([0xABC, 0xDEF], np.uint32), 12) == bytes.fromhex("bcfade")


def test_vectors_of_several_widths_follow_each_other() -> None:
    vectors, widths = (
        [lanes(9, np.uint32), lanes(0, np.uint32), lanes(130, np.uint64), lanes(2, np.uint32)],
        [5, 7, 40, 32],
    )
    assert pack_all(vectors, widths) == b"".join(pack(one, bits) for one, bits in zip(vectors, widths, strict=True))


def test_a_strided_vector_packs_like_its_copy() -> None:
    vector = lanes(200, np.uint32)
    assert pack(vector[::2], 17) == pack(vector[::2].copy(), 17)


@pytest.mark.parametrize("change", [lambda d: d + b"\0", lambda d: d[:-1], lambda d: b""])
def test_a_wrong_length_leaves_the_sum_alone(change: Any) -> None:
    into = lanes(9, np.uint32)
    before = into.copy()
    with pytest.raises(EncodingError, match="expected 21 for 9 coordinates of 18 bits"):
        unpack_add(change(pack(into, 18)), 18, into)
    assert (into == before).all()


@pytest.mark.parametrize("bit", range(2, 8))
def test_a_set_padding_bit_leaves_the_sum_alone(bit: int) -> None:
    into = lanes(9, np.uint32)
    before = into.copy()
    data = bytearray(pack(into, 18))  # 162 bits: six of the last byte are unused
    data[-1] |= 1 << bit
    with pytest.raises(EncodingError, match="unused last bits"):
        unpack_add(bytes(data), 18, into)
    assert (into == before).all()
    data[-1] ^= 1 << bit
    unpack_add(bytes(data), 18, into)
    assert (into != before).any()


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_widths_outside_1_to_64_are_refused(bits: int) -> None:
    for call in (lambda: packed_size(1, bits), lambda: lane_dtype(bits), lambda: pack(lanes(1, np.uint64), bits)):
        with pytest.raises(ConfigError, match="expected 1 to 64"):
            call()


@pytest.mark.parametrize(
    "array",
    [np.zeros(4, np.int32), np.zeros(4, np.uint16), np.zeros((2, 2), np.uint64), np.zeros(4, np.float64)],
)
def test_only_lanes_are_packed(array: Any) -> None:
    with pytest.raises(ConfigError, match="expected 1-D lanes of uint32 or uint64"):
        pack(array, 16)
    with pytest.raises(ConfigError, match="expected 1-D lanes of uint32 or uint64"):
        unpack_add(bytes(8), 16, array)


def test_lanes_must_hold_the_width() -> None:
    with pytest.raises(ConfigError, match="expected 1-D lanes of uint64"):
        pack(np.zeros(4, np.uint32), 33)


def test_a_sum_that_cannot_be_written_is_refused() -> None:
    into = np.zeros(4, np.uint32)
    into.flags.writeable = False
    for target in (into, np.zeros(8, np.uint32)[::2]):
        with pytest.raises(ConfigError, match="read-only or not contiguous"):
            unpack_add(bytes(8), 16, target)


def test_memory_is_that_of_the_bytes() -> None:
    vector = lanes(100_000, np.uint32)
    data = pack(vector, 20)  # 250 kB
    unpack_add(data, 20, vector)  # compiles
    for call, allowed in ((lambda: pack(vector, 20), len(data)), (lambda: unpack_add(data, 20, vector), 0)):
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < allowed + 70_000


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        packed_size(-1, 8)

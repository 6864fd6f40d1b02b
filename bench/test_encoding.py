"""Encoding and packing of 10^6 coordinates, against Flower's quantization, raw AES and a memory copy."""

import os
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mpc import masks
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout
from secagg.packing import lane_dtype, pack, unpack_add

SIZE = 10**6
DTYPES = [np.float32, np.float64]
WIDTHS = [16, 23, 32, 45]


def update(dtype: Any) -> Any:
    return np.random.default_rng(0).normal(0, 0.4, SIZE).astype(dtype)


@pytest.mark.benchmark(group="quantize")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rounding", "kernel"),
    [("stochastic", True), ("stochastic", False), ("nearest", None)],
    ids=["stochastic-kernel", "stochastic-openssl", "nearest"],
)
def test_fixed_point(
    benchmark: Any, rounding: str, kernel: bool | None, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel and not masks.compiled():
        pytest.skip("no compiler, or no AES instructions")
    if not kernel:
        monkeypatch.setattr(masks, "width", lambda: 0)
    vector = update(dtype)
    layout, grid = Layout.of(vector), FixedPoint(1.0, 16, rounding)

    def encode() -> Any:
        return grid.encode(vector, layout=layout, weight=None, max_weight=None, rng=os.urandom)

    encode()
    values, _ = benchmark(encode)
    assert abs((values - 32767.0) / 32767 - np.clip(vector, -1, 1)).max() <= 1 / 32767


@pytest.mark.benchmark(group="quantize")
def test_raw_aes(benchmark: Any) -> None:
    """The random bits alone, by OpenSSL into one buffer: AES-256-CTR of 32 bits a coordinate."""
    zeros, buffer = bytes(64_000), bytearray(64_000 + 15)

    def stream() -> None:
        aes = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
        for _ in range(4 * SIZE // len(zeros)):
            aes.update_into(zeros, buffer)

    benchmark(stream)
    assert any(buffer)


@pytest.mark.benchmark(group="quantize")
def test_flower_quantize(benchmark: Any) -> None:
    flower = pytest.importorskip(
        "flwr.common.secure_aggregation.quantization", reason="needs Flower: pip install 'secagg[peers]'"
    )
    vector = update(np.float32)
    (values,) = benchmark(flower.quantize, [vector], 1.0, 65534)
    assert abs(values / 32767 - 1 - np.clip(vector, -1, 1)).max() <= 1.01 / 32767


@pytest.mark.benchmark(group="quantize")
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_copy(benchmark: Any, dtype: Any) -> None:
    vector = update(dtype)
    copy = np.empty_like(vector)
    benchmark(np.copyto, copy, vector)


@pytest.mark.benchmark(group="decode")
def test_decode(benchmark: Any) -> None:
    vector = update(np.float32)
    layout, grid = Layout.of(vector), FixedPoint(1.0)
    sums = grid.encode(vector, layout=layout, weight=None, max_weight=None, rng=os.urandom)
    benchmark(lambda: grid.decode(sums, layout=layout, survivors=1, max_weight=None))


@pytest.mark.benchmark(group="pack")
@pytest.mark.parametrize("bits", WIDTHS)
def test_pack(benchmark: Any, bits: int) -> None:
    lanes: Any = np.arange(SIZE, dtype=lane_dtype(bits))
    pack(lanes, bits)
    benchmark(pack, lanes, bits)


@pytest.mark.benchmark(group="pack")
@pytest.mark.parametrize("bits", WIDTHS)
def test_unpack_add(benchmark: Any, bits: int) -> None:
    lanes: Any = np.arange(SIZE, dtype=lane_dtype(bits))
    data, total = pack(lanes, bits), np.zeros_like(lanes)
    unpack_add(data, bits, total)
    benchmark(unpack_add, data, bits, total)


@pytest.mark.benchmark(group="pack")
@pytest.mark.parametrize("bits", [32, 64])
def test_copy_of_lanes(benchmark: Any, bits: int) -> None:
    lanes: Any = np.arange(SIZE, dtype=lane_dtype(bits))
    copy = np.empty_like(lanes)
    benchmark(np.copyto, copy, lanes)

"""The kernels of ``mpc``, ``dp`` and ``secagg`` with secrets: what :mod:`tests.constant_time` runs."""

from typing import Any

import numpy as np

from dp import _kernels as dp_kernels, _rotation
from mpc import _aes, _kernels as mpc_kernels, _limbs, _mersenne, _packed
from secagg import _bits
from tests.constant_time import wrappers
from tests.constant_time.case import Case, Secret, integers, reals, signed, words, zeros

#: The clip, the scale, the share and the top of a quantizer.
GRID = (1.5, 2**20 / 1.5, 0.75, 2.0**20)
COUNTS = (
    "how many coordinates are clipped, and how many are not finite: integers of Python on the client, which "
    "refuses an update that is not finite, and warns of a leaf that is clipped as a whole"
)


def mpc() -> list[Case]:
    """Masks, Shamir's shares, packed shares."""
    limbs = {"low": 0, "high": 2**32}
    prime, proof = _mersenne.PRIME, {"below": _mersenne.PRIME, "kind": np.uint32}
    cases = [
        Case(
            "mpc._kernels.evaluate",
            mpc_kernels.evaluate,
            (signed(4, _limbs.LIMBS, **limbs), np.arange(1, 21), zeros(20, _limbs.LIMBS, kind=np.int64)),
        ),
        Case(
            "mpc._kernels.weigh",
            mpc_kernels.weigh,
            (
                np.random.default_rng(1).integers(0, 1 << 13, (12, _limbs.DIGITS), np.uint16),
                signed(12, _limbs.LIMBS, **limbs),
                zeros(_limbs.DIGITS, _limbs.LIMBS, kind=np.int64),
            ),
        ),
        Case(
            "mpc._packed.cut",
            wrappers.cut,
            (words(999, kind=np.uint32), zeros(1, kind=np.int64)),
            declassified="how many words are drawn again: they are not used",
        ),
        Case(
            "mpc._packed.transform",
            _packed.transform,
            (
                np.random.default_rng(2).integers(0, prime, (6, 5), np.uint32),
                words(5, 130, **proof),
                zeros(6, 130, kind=np.uint32),
            ),
        ),
        Case(
            "mpc._packed.products",
            _packed.products,
            (words(2, 90, **proof), words(7, 95, **proof), zeros(2, 7, kind=np.uint32)),
        ),
        Case(
            "mpc._packed.misses",
            wrappers.misses,
            (
                words(2, 90, **proof),
                words(92, **proof),
                np.arange(1, 5, dtype=np.uint32),
                words(2, 4, **proof),
                zeros(1, kind=np.bool_),
            ),
            declassified="whether a dealer's proof is wrong: the dealer broke the protocol",
        ),
    ]
    return cases + _masks()


def _masks() -> list[Case]:
    """The kernel for vectors of 128 bits, and those for wider ones where this CPU has them."""
    cases = []
    for bits in (bits for bits in _aes.WIDTHS if bits <= _aes.widest()):
        for size in (4, 8):
            rows = _aes.schedules([(bytes(32), 1), (bytes(32), -1), (bytes(32), 1)])
            keys = tuple(row[:32] for row in rows.reshape(3, -1))
            vector = words(size * 401, kind=np.uint8)  # neither begins nor ends with a whole piece
            cases.append(
                Case(
                    "mpc._aes.add",
                    _aes.kernel(bits),
                    (vector, size, Secret(rows, integers(0, 256), keys), 5, size),
                    f"{bits} bits, lanes of {size} bytes",
                )
            )
    return cases


def dp() -> list[Case]:
    """Samplers, the rotation and stochastic rounding."""
    table = np.sort(np.random.default_rng(3).integers(-(2**63), 2**63, 40))
    steep = np.sort(np.random.default_rng(4).integers(0, 2**64, 40, np.uint64))
    steep[-1] = 2**64 - 1
    guide = np.searchsorted(steep, np.arange(16, dtype=np.uint64) << np.uint64(60))
    equal = "how many words equal a threshold, and need more bits: 2^-64 for each threshold"
    return [
        Case(
            "dp._kernels.invert",
            wrappers.invert,
            (words(503), steep, guide, 60, zeros(503, kind=np.int64), zeros(1, kind=np.int64)),
        ),
        Case(
            "dp._kernels.invert_evenly",
            wrappers.invert_evenly,
            (signed(503, low=-(2**63), high=2**63 - 1), table, zeros(503, kind=np.int64), zeros(1, kind=np.int64)),
            declassified=equal,
        ),
        Case("dp._kernels.attach_signs", dp_kernels.attach_signs, (words(8), signed(503, low=-99, high=100))),
        Case(
            "dp._kernels.place",
            wrappers.place,
            (
                words(303),
                words(303),
                signed(303, low=0, high=50),
                6,
                zeros(303, kind=np.int64),
                zeros(303, kind=np.uint8),
                zeros(1, kind=np.int64),
            ),
        ),
        Case("dp._rotation.flip", _rotation.flip, (reals(1003), words(126, kind=np.uint8), 0.5)),
        Case("dp._rotation.hadamard", _rotation.hadamard, (reals(2 * _rotation.BLOCK),)),
        Case("dp._rotation.hadamard", _rotation.hadamard, (reals(4),), "short"),
        Case(
            "dp._rotation.round_stochastic",
            wrappers.round_stochastic,
            (
                reals(1003),
                100.0,
                words(1003, kind=np.uint32),
                150,
                zeros(1003, kind=np.int64),
                zeros(1, kind=np.int64),
            ),
            declassified="the sum of squares, which decides whether the vector is rounded again",
        ),
    ]


def secagg() -> list[Case]:
    """Quantizing, and lanes as bits."""
    return _bitwise(np.uint32, (21, 32)) + _bitwise(np.uint64, (21, 63)) + _quantized()


def _bitwise(kind: Any, widths: tuple[int, ...]) -> list[Case]:
    cases = []
    for bits in widths:
        name, wide = f"{kind.__name__}, {bits} bits", kind is np.uint64
        full, octets = 999 * bits // 64, 125 * bits + _bits.ROOM
        lanes, eights = words(999, kind=kind), words(1000, kind=kind)
        cases += [
            Case("secagg._bits.pack", wrappers.pack, (lanes, bits, zeros(full), zeros(1)), name),
            Case("secagg._bits.unpack_add", wrappers.unpack_add, (words(full), words(1), bits, lanes), name),
        ]
        if _bits.available() and bits <= 32:
            into = (words(octets, kind=np.uint8), bits, _bits.unpacking(bits, wide), eights)
            cases.append(Case("secagg._bits.unpack_add_eights", _bits.unpack_add_eights, into, name))
        if _bits.available() and not wide:
            of = (eights, bits, _bits.packing(bits), zeros(octets, kind=np.uint8))
            cases.append(Case("secagg._bits.pack_eights", _bits.pack_eights, of, name))
    return cases


def _quantized() -> list[Case]:
    cases = []
    for kind in (np.uint32, np.uint64):
        sums, (out, mean) = words(999, below=2**27, kind=kind), (zeros(999, kind=np.float64) for _ in range(2))
        cases.append(
            Case(
                "secagg._kernels.dequantize",
                wrappers.dequantize,
                (sums, 2**25, 0.25, 10.0, out, mean, zeros(1, kind=np.int64)),
                kind.__name__,
                "how many sums are too large: the server learns the sums",
            )
        )
    for kind in (np.float32, np.float64):
        vector, out, counts = reals(5033, kind=kind), zeros(5033, kind=np.uint32), zeros(2, kind=np.int64)
        name, random = kind.__name__, words(5033, kind=np.uint32)
        stochastic, nearest = (vector, random, GRID, out, counts), (vector, GRID, out, counts)
        cases += [
            Case("secagg._kernels.quantize_stochastic", wrappers.quantize_stochastic, stochastic, name, COUNTS),
            Case("secagg._kernels.quantize_nearest", wrappers.quantize_nearest, nearest, name, COUNTS),
        ]
    return cases


def controls() -> list[Case]:
    """Kernels with a branch and an address that depend on a secret. A run that misses one proves nothing."""
    table = np.arange(1 << 20, dtype=np.uint64)  # larger than a first-level cache, so that the clock notices too
    return [
        Case("control: a branch", wrappers.compare, (words(4096), np.zeros(4096, np.uint64), zeros(1))),
        Case("control: a look-up", wrappers.look_up, (words(4096), table, zeros(4096))),
    ]

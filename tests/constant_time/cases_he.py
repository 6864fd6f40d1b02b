"""The kernels of ``he`` with secrets: what :mod:`tests.constant_time` runs."""

from typing import Any

import numpy as np

from he import _blake2, _kahe_kernels, _slot_kernels, params
from he._rows import has_ifma
from he.ring import _fourier, _lanes, _packing, _transforms
from he.ring._vectors import Ifma, Word
from he.ring.fields import Field
from tests.constant_time import wrappers
from tests.constant_time.case import Case, Secret, reals, signed, words, zeros

DEGREE = 1024  # an even number of levels; 2048 is an odd one, and larger than a block
BITS = 49
PRIME = params.ntt_primes(2 * DEGREE, BITS, 1)[0]
P = np.uint64(PRIME)
KINDS = (np.uint8, np.uint16, np.uint32, np.uint64)


def he() -> list[Case]:
    """Rings, samplers, packing, slots."""
    return _transformed() + _sampled() + _lanewise() + _packed() + _complex() + _values()


def _group(below: int = PRIME, degree: int = DEGREE) -> Secret:
    return words(degree, 8, below=below, lanes=True)


def _transformed() -> list[Case]:
    cases = []
    for arithmetic in (Ifma, Word) if has_ifma() else (Word,):
        field, name = Field(DEGREE, PRIME, arithmetic), arithmetic.__name__
        rng = np.random.default_rng(5)
        public = field.factor(rng.integers(0, PRIME, DEGREE, np.uint64)).pairs
        factors = Secret(np.zeros((DEGREE, 2), np.uint64), _pairs(field))
        for degree in (DEGREE, 2 * DEGREE):
            wide = Field(degree, PRIME, arithmetic)
            size = f"{name}, N = {degree}"
            group = _group(degree=degree)
            cases += [
                Case("he.ring._transforms.forward", _transforms.forward, (group, wide._roots, wide.modulus), size),
                Case(
                    "he.ring._transforms.backward",
                    _transforms.backward,
                    (group, wide._inverse_roots, wide._last, wide.modulus),
                    size,
                ),
            ]
        cases += [
            Case("he.ring._transforms.multiply", _transforms.multiply, (_group(), factors, field.modulus), name),
            Case(
                "he.ring._transforms.add_product",
                _transforms.add_product,
                (_group(), _group(), factors, field.modulus),
                name,
            ),
            Case(
                "he.ring._transforms.scale", _transforms.scale, (_group(), public[:1].copy(), field.modulus), name
            ),
        ]
    return cases


def _pairs(field: Field) -> Any:
    """Draws secret factors with their quotients: the transform of a key."""

    def draw(rng: np.random.Generator, out: Any) -> None:
        out[...] = field.factor(rng.integers(0, field.prime, len(out), np.uint64)).pairs

    return draw


def _sampled() -> list[Case]:
    small = zeros(8 * DEGREE, kind=np.int8)
    return [
        Case("he.ring._lanes.binomial", _lanes.binomial, (words(8 * DEGREE), small)),
        Case("he.ring._lanes.ternary", _lanes.ternary, (words(8 * DEGREE), small)),
        Case(
            "he.ring._lanes.encryption",
            _lanes.encryption,
            (words(2048), *(zeros(1024, kind=np.int8) for _ in range(3))),
        ),
        Case("he._kahe_kernels.coins", _kahe_kernels.coins, (words(2048), zeros(1024, kind=np.int8))),
        Case("he._blake2.tree_nodes", _blake2.tree_nodes, (words(2, 8), 4096, zeros(2, 64, 8))),
    ]


def _lanewise() -> list[Case]:
    shift = PRIME.bit_length() - 1
    inverse, quotient = np.uint64((1 << 64 + shift) // PRIME), np.uint64((1 << 64) // PRIME)
    small = signed(DEGREE, 8, low=-128, high=128, kind=np.int8)
    group, places = _group(), np.random.default_rng(6).permutation(DEGREE)
    out = Secret(_group().array, group.draw)
    cases = [
        Case(
            "he.ring._lanes.quotients",
            _lanes.quotients,
            (words(DEGREE, below=PRIME), P, inverse, (shift, 64), zeros(DEGREE, 2)),
        ),
        Case("he.ring._lanes.reduce", _lanes.reduce, (_group(0), P, quotient)),
        Case("he.ring._lanes.add", _lanes.add, (group, _group(), P)),
        Case("he.ring._lanes.subtract", _lanes.subtract, (group, _group(), P)),
        Case("he.ring._lanes.add_small", _lanes.add_small, (group, small, P)),
        Case("he.ring._lanes.lift", _lanes.lift, (small, P, out)),
        Case("he.ring._lanes.centre", _lanes.centre, (group, P)),
        Case("he.ring._lanes.add_upper", _lanes.add_upper, (group, _group(), np.uint64(PRIME // 2), P)),
        Case(
            "he.ring._lanes.round_to",
            _lanes.round_to,
            (reals(DEGREE, 8), 2.0**30, np.uint64((2**40 // PRIME + 1) * PRIME), P, quotient, out),
        ),
        Case(
            "he.ring._lanes.scatter",
            _lanes.scatter,
            (_group(2**62), places, zeros(8, DEGREE, kind=np.int64)),
        ),
        Case("he._kahe_kernels.add_constant", _kahe_kernels.add_constant, (group, np.uint64(12345), P)),
    ]
    for kind in KINDS:
        values = words(8, DEGREE, kind=kind)
        cases.append(Case("he.ring._lanes.gather", _lanes.gather, (values, places, out), kind.__name__))
    return cases


def _packed() -> list[Case]:
    size = DEGREE * BITS // 64
    return [
        Case("he.ring._packing.pack", _packing.pack, (_group(), BITS, words(size, 8, lanes=True))),
        Case("he.ring._packing.unpack", _packing.unpack, (words(size, 8, lanes=True), BITS, _group())),
        Case("he.ring._packing.fold", _packing.fold, (words(size, 8, lanes=True), BITS, P, _group())),
        Case(
            "he.ring._packing.largest",
            _packing.largest,
            (words(size, 8, lanes=True), BITS, words(1, 8, lanes=True)),
        ),
        Case("he._slot_kernels.pack", _slot_kernels.pack, (words(70, below=2**37), 13, 37, zeros(6, 9))),
        Case("he._slot_kernels.unpack", _slot_kernels.unpack, (words(6, 9), 13, 37, zeros(78))),
    ]


def _complex() -> list[Case]:
    angles = np.linspace(0, 3, DEGREE // 2)
    roots = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    numbers, places = reals(DEGREE, 8), np.random.default_rng(7).permutation(DEGREE)
    digits = signed(DEGREE, 8, low=-(2**45), high=2**45)
    cases = [
        Case("he.ring._fourier.forward", _fourier.forward, (numbers, roots)),
        Case("he.ring._fourier.backward", _fourier.backward, (numbers, roots)),
        Case("he.ring._fourier.convert", _fourier.convert, (digits, zeros(DEGREE, 8, kind=np.float64))),
        Case("he.ring._fourier.add", _fourier.add, (numbers, digits, 2.0**40)),
        Case(
            "he.ring._fourier.scatter",
            wrappers.scatter,
            (
                reals(DEGREE, 8, spread=1e6),
                1.5,
                places,
                3,
                zeros(8, DEGREE, kind=np.int64),
                zeros(1, kind=np.float64),
            ),
            declassified="how far a sum is from the grid, at most: whoever opens the sum learns the sum",
        ),
    ]
    for kind in KINDS:
        values, out = words(8, DEGREE, kind=kind), zeros(DEGREE, 8, kind=np.float64)
        cases.append(Case("he.ring._fourier.gather", _fourier.gather, (values, places, out), kind.__name__))
    return cases


def _values() -> list[Case]:
    digits = np.array([[(0, 255, 3), (3, 31, 5)], [(1, 127, 7), (0, 1, 1)]], np.uint64)
    return [
        Case(
            "he._kahe_kernels.add_values",
            _kahe_kernels.add_values,
            (words(999, kind=kind), 0, 400, digits, words(700, below=PRIME)),
            kind.__name__,
        )
        for kind in KINDS
    ]

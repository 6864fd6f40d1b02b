"""Calls of the kernels of ``he``, ``dp`` and ``mpc``, on arrays that :mod:`tests.secagg.guarded` puts at guards.

They are the calls of :mod:`tests.constant_time`, and calls with the sizes at which a loop may go one step too far.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from dp import _kernels as dp_kernels, _rotation
from he import _blake2, _kahe_kernels, _montgomery, _slot_kernels, kahe_params, params
from he._powers import Ring
from he._rows import has_ifma
from he.ring import _fourier, _lanes, _packing, _transforms
from he.ring._vectors import Ifma, Word
from he.ring.fields import Field
from mpc import _kernels as mpc_kernels, _limbs, _mersenne, _packed
from tests.constant_time import cases_he, cases_small
from tests.constant_time.case import Output, Secret

Call = tuple[Callable[..., Any], tuple[Any, ...]]

SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 17, 63, 64, 65, 127)
LONG = (*SIZES, 511, 512, 513, 1025)  # around the places that a loop takes at once
LANES = 8
RANDOM = np.random.default_rng(0)


def calls() -> Iterator[Call]:
    """All calls: kernels, or wrappers of kernels, with their arguments."""
    for case in cases_small.mpc() + cases_small.dp() + cases_he.he():
        case.fill(RANDOM)
        yield case.call, tuple(a.array if isinstance(a, Secret | Output) else a for a in case.arguments)
    for edges in (_mpc, _dp, _sampled, _lanewise, _transformed, _packed_rows, _slots, _opened, _multiplied):
        yield from edges()


def _words(*shape: int, below: int = 2**64, kind: Any = np.uint64) -> Any:
    return RANDOM.integers(0, min(below, np.iinfo(kind).max + 1), shape, kind)


def _mpc() -> Iterator[Call]:
    for rows, count in product((0, 1, 2, 5), (0, 1, 3, 8, 9)):
        values, out = (np.empty((size, _limbs.LIMBS), np.int64) for size in (rows, count))
        values[:] = _words(*values.shape, below=2**32)
        yield mpc_kernels.evaluate, (values, np.arange(1, count + 1), out + 1)
        sums = np.ones((_limbs.DIGITS, _limbs.LIMBS), np.int64)
        yield mpc_kernels.weigh, (_words(rows, _limbs.DIGITS, below=1 << 13, kind=np.uint16), values, sums)

    def numbers(*shape: int) -> Any:
        return _words(*shape, below=_mersenne.PRIME, kind=np.uint32)

    for size, rows, count in product(SIZES, (1, 3), (1, 4)):
        yield _packed.cut, (_words(size, kind=np.uint32),)
        yield _packed.transform, (numbers(count, rows), numbers(rows, size), numbers(count, size))
        yield _packed.products, (numbers(rows, size), numbers(count, size + 1), numbers(rows, count))
        share = numbers(size + count)
        yield _packed.misses, (numbers(count, size), share, numbers(rows), numbers(count, rows))


def _dp() -> Iterator[Call]:
    table = np.sort(_words(40))
    table[-1] = 2**64 - 1
    guide = np.searchsorted(table, np.arange(16, dtype=np.uint64) << np.uint64(60))
    for size in SIZES:
        integers, reals, words = np.arange(size), RANDOM.normal(size=size), _words(size)
        yield dp_kernels.invert, (words, table, guide, 60, integers)
        yield dp_kernels.invert_evenly, (words.view(np.int64), table.view(np.int64), integers)
        yield dp_kernels.attach_signs, (_words(-(-size // 64)), integers)
        status = np.ones(size, np.uint8)
        floats = (1e-4, 1e-7, dp_kernels.MARGIN)
        yield dp_kernels.place, (words, words, integers, 6, *floats, integers + 1, status)
        yield _rotation.flip, (reals, _words(-(-size // 8), kind=np.uint8), 0.5)
        yield _rotation.round_stochastic, (reals, 100.0, _words(size, kind=np.uint32), 150, integers)
    for level in range(15):
        yield _rotation.hadamard, (RANDOM.normal(size=1 << level),)


def _sampled() -> Iterator[Call]:
    for size in SIZES:
        small = [np.ones(size, np.int8) for _ in range(3)]
        for sample in (_lanes.binomial, _lanes.ternary):
            yield sample, (_words(size), small[0])
        yield _kahe_kernels.coins, (_words(2 * size), small[0])
        yield _lanes.encryption, (_words(2 * size), *small)
    for roots, leaves in product((0, 1, 3), (8, 24)):
        yield _blake2.tree_nodes, (_words(roots, 8), 64 * leaves, _words(roots, leaves, 8))


def _lanewise() -> Iterator[Call]:
    p, prime, shift = cases_he.P, cases_he.PRIME, cases_he.PRIME.bit_length() - 1
    inverse, quotient = np.uint64((1 << 64 + shift) // prime), np.uint64((1 << 64) // prime)
    above = np.uint64((2**40 // prime + 1) * prime)
    for rows in SIZES:
        group, other = _words(2, rows, LANES, below=prime)
        small, places = _words(rows, LANES, kind=np.uint8).view(np.int8), RANDOM.permutation(rows)
        reals, integers = RANDOM.normal(size=(rows, LANES)), _words(rows, LANES, below=2**40).view(np.int64)
        yield _lanes.quotients, (_words(rows, below=prime), p, inverse, (shift, 64), _words(rows, 2))
        yield _lanes.reduce, (_words(rows, LANES), p, quotient)
        yield _lanes.cut, (_words(rows, LANES), cases_he.BITS, p)
        for change in (_lanes.add, _lanes.subtract):
            yield change, (group, other, p)
        yield _lanes.add_small, (group, small, p)
        yield _lanes.lift, (small, p, group)
        yield _lanes.centre, (group, p)
        yield _lanes.add_upper, (group, other, np.uint64(prime // 2), p)
        yield _lanes.round_to, (reals, 2.0**30, above, p, quotient, group)
        yield _kahe_kernels.add_constant, (group, np.uint64(12345), p)
        yield _fourier.convert, (integers, reals)
        yield _fourier.add, (reals, integers, 2.0**40)
        for kind in cases_he.KINDS:
            values = _words(LANES, rows, kind=kind)
            yield _lanes.gather, (values, places, group)
            yield _fourier.gather, (values, places, reals)
        for lanes in (1, 3, LANES):
            yield _lanes.scatter, (group, places, _words(lanes, rows).view(np.int64))
            yield _fourier.scatter, (reals, 1.5, places, 3, _words(lanes, rows).view(np.int64))


def _transformed() -> Iterator[Call]:
    for arithmetic, level in product((Ifma, Word) if has_ifma() else (Word,), (2, 3, 4, 5, 9, 10, 11, 12)):
        degree = 1 << level
        prime = params.ntt_primes(2 * degree, cases_he.BITS, 1)[0]
        field = Field(degree, prime, arithmetic)
        group, other = _words(2, degree, LANES, below=prime)
        factors = field.factor(_words(degree, below=prime)).pairs
        yield _transforms.forward, (group, field._roots, field.modulus)
        yield _transforms.backward, (group, field._inverse_roots, field._last, field.modulus)
        yield _transforms.scale, (group, factors[:1], field.modulus)
        yield _transforms.multiply, (group, factors, field.modulus)
        yield _transforms.add_product, (group, other, factors, field.modulus)
        for transform in (_fourier.forward, _fourier.backward):
            yield transform, (RANDOM.normal(size=(degree, LANES)), RANDOM.normal(size=(degree // 2, 2)))


def _packed_rows() -> Iterator[Call]:
    for rows, bits in product((1, 2, 3, 7, 8, 9, 63, 64, 65), (1, 2, 31, 32, 33, 49, 50, 61)):
        size = kahe_params.words(rows, bits)
        group, packed = _words(rows, LANES, below=2**bits), _words(size, LANES)
        yield _packing.pack, (group, bits, packed)
        yield _packing.unpack, (packed, bits, group)
        yield _packing.fold, (packed, bits, np.uint64(2**bits - 1), group)
        yield _packing.largest, (packed, bits, _words(1, LANES))


def _slots() -> Iterator[Call]:
    for slots, width, count in product((1, 5, 16, 64), (1, 31, 37, 52, 63), (1, 7, 64, 65)):
        rows, words = -(-count // slots), -(-slots * width // 64)
        values, packed = _words(count, below=2**width), np.zeros((rows, words), np.uint64)
        yield _slot_kernels.pack, (values, slots, width, packed)
        fixed = _words(rows, words)
        fixed.flags.writeable = False  # as he._powers passes it
        yield _slot_kernels.unpack, (fixed, slots, width, _words(rows * slots))


def _opened() -> Iterator[Call]:
    for places, primes in product(LONG[1:], (1, 2, 3)):
        moduli = np.array(params.ntt_primes(2048, cases_he.BITS, primes), np.uint64)
        half = int(moduli.min()) // 2
        for width in (1, 13, 32, 48):
            shift, stride = 7, places + 1
            count = max(1, (cases_he.BITS * primes - shift) // width)
            for outside in (0, 1, places - 1, places):  # how many of the last field's values there are
                size = (count - 1) * stride + outside
                digits = RANDOM.integers(-half, half, (primes, places))
                work, seen = np.zeros((primes + 2, _kahe_kernels.CHUNK), np.uint64), np.zeros(4, np.uint64)
                out = np.ones(size, np.int64)
                yield _kahe_kernels.read, (digits, moduli, (shift, width, count), (0, stride), work, out, seen)
    digits = np.array([[(0, 255, 3), (3, 31, 5)], [(1, 127, 7), (0, 1, 1)]], np.uint64)
    for size, places, kind in product(LONG, (1, 9, 512, 513), cases_he.KINDS):
        for first in (0, size // 2, size):
            sums = _words(places, below=cases_he.PRIME)
            yield _kahe_kernels.add_values, (_words(size, kind=kind), first, places, digits, sums)


def _multiplied() -> Iterator[Call]:
    if not has_ifma():
        return
    for limbs in (10, 15, 20):
        ring = Ring((1 << 52 * limbs - 5) - 1)
        assert ring.limbs == limbs
        for steps in ([(0, 0, 0)], [(1, 0, 1)], [(0, 1, 1), (1, 1, 0)], [(2, 2, 2), (2, 0, 2), (0, 1, 2)]):
            batches = _words(2 * (np.max(steps) + 1), limbs * LANES, below=2**52)
            batches.reshape(-1, limbs, LANES)[:, -1] &= np.uint64(2**46 - 1)  # below N
            scratch = np.zeros((4, (limbs + 5) * LANES), np.uint64)
            yield _montgomery._follow, (batches, np.array(steps, np.int64), ring.constants, scratch)

"""The transform and products: every arithmetic equals every other, and the definition."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba import njit

from he.errors import HEError
from he.ring import _plain, _transforms, fields, lanes
from he.ring._vectors import Ifma, Word, gather2, gather4, settle, spread2, spread4, times
from he.ring.fields import Field
from tests.he.ring.groups import BITS, KINDS, Words, extremes, least_prime, needs_compiler, needs_ifma, prime_of
from tests.reference import rlwe as twin

SMALL = (4, 8, 16, 64)
LARGE = (1024, 2048, 4096, 8192, 16384)
ALL_BITS = (20, 30, 43, 49, 50, 60, 61, 62)


def versions(degree: int, prime: int) -> list[tuple[Field, ModuleType]]:
    """Fields of each arithmetic that the prime allows, and the loops in NumPy."""
    made = [Field(degree, prime, kind) for kind in KINDS if not prime >> BITS[kind]]
    return [(field, field._steps) for field in made] + [(Field(degree, prime, Word), _plain)]


def run(field: Field, steps: ModuleType, name: str, group: Words, *arguments: Any) -> Words:
    out = lanes(field.degree)
    out[:] = group
    field._steps = steps
    getattr(field, name)(out, *arguments)
    return out


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("degree", SMALL)
def test_transform_is_the_values_at_the_odd_powers_of_the_least_root(degree: int, bits: int) -> None:
    prime = prime_of(degree, bits)
    group, root = extremes(degree, prime), fields._least_root(degree, prime)
    assert root == min(pow(root, odd, prime) for odd in range(1, 2 * degree, 2))
    assert pow(root, degree, prime) == prime - 1
    expected = np.transpose([twin.values(lane, root, prime) for lane in group.T.tolist()])
    for field, steps in versions(degree, prime):
        values = run(field, steps, "forward", group)
        assert (values == expected.astype(np.uint64)).all()
        assert (run(field, steps, "backward", values) == group).all()
        times_5 = run(field, steps, "backward", values, 5 - prime)
        assert times_5.tolist() == [[5 * x % prime for x in row] for row in group.tolist()]


@pytest.mark.parametrize("bits", [20, 49, 62])
@pytest.mark.parametrize("degree", [4, 16])
def test_the_way_back_is_interpolation(degree: int, bits: int) -> None:
    prime = prime_of(degree, bits)
    values, root = extremes(degree, prime, 6), fields._least_root(degree, prime)
    expected = np.transpose([twin.plain_coefficients(lane, root, prime) for lane in values.T.tolist()])
    for field, steps in versions(degree, prime):
        assert (run(field, steps, "backward", values) == expected.astype(np.uint64)).all()


@pytest.mark.parametrize("degree", [4, 64])
def test_the_root_is_the_least_of_its_order(degree: int) -> None:
    prime = prime_of(degree, 13)
    assert fields._least_root(degree, prime) == twin.least_root(degree, prime)


@needs_compiler
@pytest.mark.parametrize("bits", [30, 49, 50, 62])
@pytest.mark.parametrize("degree", LARGE)
def test_large_transforms_agree_and_are_right_at_drawn_places(degree: int, bits: int) -> None:
    prime = prime_of(degree, bits)
    group, root = extremes(degree, prime, bits), fields._least_root(degree, prime)
    first, *others = [run(field, steps, "forward", group) for field, steps in versions(degree, prime)]
    for other in others:
        assert (other == first).all()
    places = np.random.default_rng(degree + bits).integers(0, degree, 2).tolist()
    for place in (degree - 1, *places):
        exponent = 2 * twin.reversed_bits(place, degree.bit_length() - 1) + 1
        for lane in (0, 7):
            assert first[place, lane] == twin.at(group[:, lane].tolist(), pow(root, exponent, prime), prime)
    for field, steps in versions(degree, prime):
        assert (run(field, steps, "backward", first) == group).all()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_products_and_multiples(bits: int) -> None:
    degree = 16
    for prime in (prime_of(degree, bits), least_prime(degree, bits)):
        group, other = extremes(degree, prime, 1), extremes(degree, prime, 2)[:, 7].copy()
        expected = np.transpose([twin.product(lane, other.tolist(), prime) for lane in group.T.tolist()])
        for field, steps in versions(degree, prime):
            values = run(field, steps, "forward", group)
            wide = lanes(degree)
            wide[:] = other[:, None]
            factor = field.factor(run(field, steps, "forward", wide)[:, 0].copy())
            got = run(field, steps, "backward", run(field, steps, "multiply", values, factor))
            assert (got == expected.astype(np.uint64)).all()
            added = run(field, steps, "add_product", group, values, factor)
            product = run(field, steps, "multiply", values, factor)
            assert added.tolist() == ((group.astype(object) + product) % prime).tolist()
            for number in (0, 1, 2, -1, prime - 1, prime // 2, 2 * prime + 3):
                scaled = run(field, steps, "scale", group, number)
                assert scaled.tolist() == [[x * number % prime for x in row] for row in group.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_all_words_of_the_arithmetic(kind: type) -> None:
    """``multiply`` and ``scale`` take any words below 2^52, or 2^64, not residues alone."""
    degree = 16
    for bits in (20, BITS[kind]):
        prime, limit = prime_of(degree, bits), 2 ** (52 if kind is Ifma else 64)
        field, rng = Field(degree, prime, kind), np.random.default_rng(bits)
        words = lanes(degree)
        words[:] = rng.integers(0, limit, words.shape, dtype=np.uint64)
        words[:, 0], words[::2, 1] = limit - 1, limit // 2
        factors = rng.integers(0, prime, degree, dtype=np.uint64)
        factors[:4] = prime - 1, 0, 1, prime // 2
        got = words.copy()
        field.multiply(got, field.factor(factors))
        rows = zip(words.tolist(), factors.tolist(), strict=True)
        assert got.tolist() == [[x * w % prime for x in row] for row, w in rows]
        got = words.copy()
        field.scale(got, -3)
        assert got.tolist() == [[x * -3 % prime for x in row] for row in words.tolist()]


@njit
def one_step(which: int, rows: Words, factors: Words, modulus: Any) -> None:  # pragma: no cover
    if which == 0:
        spread2(rows, 0, 1, factors, 1, modulus)
    elif which == 1:
        gather2(rows, 0, 1, factors, 1, modulus)
    elif which == 2:
        spread4(rows, 0, 1, factors, 1, modulus)
    elif which == 3:
        gather4(rows, 0, 1, factors, 1, modulus)
    elif which == 4:
        settle(rows, 0, modulus)
    else:
        times(rows, 0, factors, 1, modulus)


def off_bounds(kind: type, prime: int) -> set[str]:
    """The steps with a wrong residue, or one above its bound, at inputs at and around their own bounds."""
    modulus, bits, wrong = kind(np.uint64(prime)), 52 if kind is Ifma else 64, set()
    rng = np.random.default_rng(prime % 1000)
    steps = {"spread2": 4, "gather2": 2, "spread4": 4, "gather4": 2, "settle": 4, "times": 0}
    for which, (name, below) in enumerate(steps.items()):
        largest = min(below * prime or 1 << bits, 1 << 64)
        for w in (prime - 1, prime // 2 + 1, 1, *rng.integers(0, prime, 20).tolist()):
            factors = np.array([[0, 0]] + 3 * [[w, (w << bits) // prime]], dtype=object)
            if (factors >= 1 << 64).any():
                return {"quotients"}
            rows = rng.integers(0, largest - 1, (4, 8), dtype=np.uint64, endpoint=True)
            rows[:, :4] = np.array([[largest - 1], [0], [largest // 2], [largest - 2]], dtype=np.uint64)
            rows[:, 1] = rows[::-1, 0]
            rows[:, 2] = largest - 1
            before = rows.astype(object)
            one_step(which, rows, factors.astype(np.uint64), modulus)
            after = rows.astype(object)
            if (after % prime != expected(name, before, w) % prime).any():
                wrong.add(name)
            if after[: changed(name)].max() >= (1 if name in ("settle", "times") else below) * prime:
                wrong.add(name)
    return wrong


def changed(name: str) -> int:
    return int(name[-1]) if name[-1].isdigit() else 1


def expected(name: str, rows: Words, w: int) -> Words:
    """The rows after a step, up to multiples of the prime."""
    x, y, z, t = rows
    out = rows.copy()
    if name == "spread2":
        out[:2] = x + w * y, x - w * y
    elif name == "gather2":
        out[:2] = x + y, w * (x - y)
    elif name == "spread4":
        (x, z), (y, t) = (x + w * z, x - w * z), (y + w * t, y - w * t)
        out[:] = x + w * y, x - w * y, z + w * t, z - w * t
    elif name == "gather4":
        (x, y), (z, t) = (x + y, w * (x - y)), (z + t, w * (z - t))
        out[:] = x + z, y + t, w * (x - z), w * (y - t)
    elif name == "times":
        out[0] = w * x
    return out


@needs_compiler
def test_words_hold_every_step_of_every_prime_below_2_to_the_62() -> None:
    """At the largest inputs of each step: 4p forward, 2p backward. A prime above is refused, and would go wrong."""
    assert off_bounds(Word, prime_of(16, 62)) == set()
    assert off_bounds(Word, prime_of(16, 20)) == set()
    above = least_prime(16, 63)
    with pytest.raises(HEError, match=r"below 2\^62 that is 1"):
        Field(16, above, Word)
    assert {"spread2", "gather2", "spread4", "gather4"} <= off_bounds(Word, prime_of(16, 63))


@needs_ifma
def test_52_bits_hold_every_step_of_every_prime_below_2_to_the_50() -> None:
    """As for words. A prime above is refused, and would go wrong."""
    assert off_bounds(Ifma, prime_of(16, 50)) == set()
    assert off_bounds(Ifma, prime_of(16, 20)) == set()
    above = least_prime(16, 51)
    with pytest.raises(HEError, match=r"below 2\^50 that is 1"):
        Field(16, above, Ifma)
    assert {"spread2", "gather2", "spread4", "gather4"} <= off_bounds(Ifma, prime_of(16, 51))


@pytest.mark.parametrize(("degree", "prime"), [(2, 5), (12, 97), (16, 101), (16, 2**62 + 1)])
def test_a_degree_or_prime_without_a_transform_is_refused(degree: int, prime: int) -> None:
    with pytest.raises(HEError, match=f"got degree {degree} and prime {prime}; expected a power of 2 from 4 on"):
        Field(degree, prime, Word)


def test_blocks_are_smaller_than_large_transforms() -> None:
    """Otherwise no test would reach the passes over more than a block."""
    assert LARGE[0] > _transforms.BLOCK

"""Numbers from their residues, and the places of slots, against definitions and against SEAL."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numba import config

from he import bfv, ckks, params
from he.ring import Field, lanes, slots
from he.ring._vectors import Word
from he.ring.residues import balanced_digits, reduced
from tests.he.ring.groups import KINDS, needs_compiler, prime_of
from tests.reference import rlwe as twin

DEGREE = 16
PRIMES = {bits: params.ntt_primes(DEGREE, bits, 5) for bits in (17, 29, 50)}
PRIMES[0] = (PRIMES[50][0], PRIMES[17][0], PRIMES[29][0], PRIMES[17][1], PRIMES[50][1])  # of all lengths


def residues(numbers: list[int], primes: list[int]) -> np.ndarray:
    groups = lanes(len(primes), DEGREE)
    groups[:] = 0
    for group, prime in zip(groups, primes, strict=True):
        group.reshape(-1)[: len(numbers)] = [number % prime for number in numbers]
    return groups


@settings(max_examples=8 if config.DISABLE_JIT else 60)
@given(bits=st.sampled_from(list(PRIMES)), count=st.integers(1, 5), turned=st.booleans(), seed=st.integers(0, 99))
def test_digits_are_those_of_the_number_between_the_halves(bits: int, count: int, turned: bool, seed: int) -> None:
    primes = list(PRIMES[bits][:count])[:: -1 if turned else 1]
    half = prod(primes) // 2
    rng = np.random.default_rng(seed)
    numbers = [0, 1, -1, half, -half, half - 1, 1 - half, primes[0] // 2, primes[0] // 2 + 1, -(primes[0] // 2) - 1]
    numbers += [int.from_bytes(rng.bytes(40), "little") % (2 * half + 1) - half for _ in range(8 * DEGREE - 10)]
    for kind in KINDS:
        groups = residues(numbers, primes)
        fields = [Field(DEGREE, prime, kind) for prime in primes]
        found = [digit.reshape(-1).tolist() for digit in balanced_digits(groups, fields, lanes(DEGREE))]
        for place, number in enumerate(numbers):
            mine = [digit[place] for digit in found]
            assert mine == twin.digits(number, primes)
            whole = sum(digit * prod(primes[:i]) for i, digit in enumerate(mine))
            assert whole == twin.balanced(number, prod(primes))


@pytest.mark.parametrize("bits", [17, 30, 50, 61])
def test_signed_numbers_are_reduced(bits: int) -> None:
    prime = prime_of(DEGREE, bits)
    for bound in (1, prime - 1, 2**49, 2**61):
        numbers = np.random.default_rng(bits).integers(-bound, bound, (DEGREE, 8), endpoint=True)
        numbers[0, :3] = -bound, bound, 0
        group = lanes(DEGREE)
        group[:] = numbers.view(np.uint64)
        assert reduced(group, bound, Field(DEGREE, prime, Word)).tolist() == [
            [x % prime for x in row] for row in numbers.tolist()
        ]


@pytest.mark.parametrize("degree", [4, 8, 64])
def test_slots_are_at_powers_of_three(degree: int) -> None:
    """Slot j of the first half at the exponent 3^j, of the second half at -3^j. CKKS has those that are 1 mod 4."""
    rows = [2 * twin.reversed_bits(row, degree.bit_length() - 1) + 1 for row in range(degree)]
    places = slots.modular_places(degree)
    for row, slot in enumerate(places.tolist()):
        sign = 1 if slot < degree // 2 else -1
        assert rows[row] == sign * pow(3, slot % (degree // 2), 2 * degree) % (2 * degree)
    assert sorted(places) == list(range(degree))
    half, values = degree // 2, slots.complex_places(degree)
    for row in range(half):
        exponent = 4 * twin.reversed_bits(row, half.bit_length() - 1) + 1
        power = pow(3, int(values[row]), 2 * degree)
        assert exponent in (power, 2 * degree - power)
        assert values[half + row] == values[row] + half
    assert sorted(values) == list(range(degree))


@pytest.mark.parametrize("degree", [4, 8, 64, 1024])
def test_complex_values_are_those_at_the_roots(degree: int) -> None:
    """Within 2^-49 of the sum of all coefficients' sizes, which is what double precision can do."""
    if degree == 1024 and config.DISABLE_JIT:
        pytest.skip("takes long where nothing is compiled")
    reals = np.random.default_rng(degree).uniform(-1000, 1000, (degree, 8))
    reals[:, 0], reals[1:, 1] = 1000, 0
    got = reals.copy()
    slots.to_slots(got)
    half = degree // 2
    exponents = [4 * twin.reversed_bits(row, half.bit_length() - 1) + 1 for row in range(half)]
    angles = np.pi / degree * (np.outer(exponents, np.arange(degree)) % (2 * degree))
    close = np.abs(reals).sum(0) * 2.0**-49
    assert (np.abs(got[:half] - np.cos(angles) @ reals) <= close).all()
    assert (np.abs(got[half:] - np.sin(angles) @ reals) <= close).all()
    slots.from_slots(got)
    assert (np.abs(got / half - reals) <= close / degree * 8 * degree.bit_length()).all()


@pytest.mark.parametrize("degree", [4, 16, 2048, 4096])
def test_roots_are_the_nearest_doubles(degree: int) -> None:
    """So they are the same on every machine. Control: the C library's cosines of rounded angles are others."""
    gmpy2 = pytest.importorskip("gmpy2", reason="needs gmpy2: pip install 'secagg[he]'")
    nodes, groups = [], 1
    while groups < degree // 2:
        nodes += [int(f"{2 * groups + g:0{degree.bit_length() - 1}b}"[::-1], 2) for g in range(groups)]
        groups <<= 1
    with gmpy2.context(precision=300):
        angles = [gmpy2.const_pi() * node / degree for node in nodes]
        expected = [[float(gmpy2.cos(angle)), float(gmpy2.sin(angle))] for angle in angles]
    roots = slots._roots(degree)[1:]
    assert roots.tolist() == expected
    assert degree < 2048 or (roots[:, 0] != np.cos(np.pi / degree * np.array(nodes))).any()


def test_complex_values_of_one_polynomial_are_the_definition() -> None:
    reals = np.random.default_rng(3).uniform(-1, 1, (32, 8))
    got = reals.copy()
    slots.to_slots(got)
    order = [twin.reversed_bits(j, 4) for j in range(16)]
    for lane in (0, 7):
        expected = twin.complex_slots(reals[:, lane].tolist())
        values = np.concatenate([got[order, lane], got[[16 + j for j in order], lane]])
        assert np.allclose(values, expected, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("bound", [2, 2**24])
def test_exact_slots_are_in_seals_order(bound: int) -> None:
    """SEAL's BatchEncoder makes the same polynomial, of a small and of a large plain modulus."""
    pytest.importorskip("tenseal")
    from he import _seal

    scheme = bfv.Scheme(bound, 16)
    p = scheme.parameters
    values = np.random.default_rng(bound).integers(0, p.plain_modulus, p.degree, dtype=np.uint64)
    at = _seal.context(p)
    plain = at.api.Plaintext()
    at.api.BatchEncoder(at.seal).encode(values.tolist(), plain)
    encoded = [plain.data(i) if i < plain.coeff_count() else 0 for i in range(p.degree)]
    group = lanes(p.degree)
    group[:] = values[slots.modular_places(p.degree)][:, None]
    scheme._plain.backward(group)
    assert group[:, 5].tolist() == encoded


@needs_compiler
def test_complex_slots_are_in_seals_order() -> None:
    pytest.importorskip("tenseal")
    from he import _seal

    scheme = ckks.Scheme(1000, 16)
    p = scheme.parameters
    numbers = np.random.default_rng(4).integers(-1000, 1000, p.degree).astype(float)
    at = _seal.context(p)
    plain = at.api.Plaintext()
    half = p.degree // 2
    signs = np.where(np.arange(half) % 2, -1, 1)  # 3^j is 3 modulo 4 for odd j: our rows hold the conjugates
    parts = numbers[:half] + 1j * signs * numbers[half:]
    at.api.CKKSEncoder(at.seal).encode(parts.tolist(), float(p.step), plain)
    encoded = np.array([plain.data(i) for i in range(len(p.primes) * p.degree)], dtype=np.uint64)
    reals = np.repeat(numbers[slots.complex_places(p.degree)][:, None], 8, axis=1)
    slots.from_slots(reals)
    field, group = scheme._fields[0], lanes(p.degree)
    group[:] = encoded[: p.degree, None]
    field.backward(group)
    ours = np.rint(reals[:, 3] / half * p.step).astype(np.int64)
    off = (group[:, 3].astype(object) - ours) % field.prime
    assert all(min(x, field.prime - x) <= 1 for x in off)  # SEAL's double precision rounds otherwise

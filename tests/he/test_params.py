"""Parameters: secure, exact with the probability that they claim, and as small as that allows."""

import math

import numpy as np
import pytest

from he import _seal, bfv, ckks, params, security
from he.errors import HEError
from he.ring import lanes
from he.ring.slots import complex_places, from_slots
from tests.reference import rlwe as twin

SCHEMES = {"ckks": ckks.Scheme, "bfv": bfv.Scheme}
CASES = [(2**bits - 2, clients) for bits in (8, 16, 24, 32) for clients in (16, 256, 4096)]
TAIL = 2.0**-params.FAILURE_BITS / (2 * params.MAX_LENGTH)
"""What one place may fail with."""

cases = pytest.mark.parametrize(("bound", "clients"), CASES)
seeded = pytest.mark.parametrize("seeded", [True, False], ids=["seeded", "public"])


def normal_quantile(tail: float) -> float:
    """z such that a normal variable is beyond it, on either side, with probability ``tail``."""
    low, high = 0.0, 40.0
    for _ in range(200):
        z = (low + high) / 2
        low, high = (z, high) if math.erfc(z / math.sqrt(2)) > tail else (low, z)
    return z


def slot_tail(deviations: float, degree: int) -> float:
    """The chance that one part of a public-key slot's error is so many standard deviations from zero.

    Given the key, it is normal; its variance goes with |e(root)|^2 and |s(root)|^2, each exponential: a sum
    that has the density g exp(-g).
    """
    share = 4 * degree / 3 + 1
    g = np.linspace(1e-3, 200, 400_000)
    variance = (1 + g * (2 * degree / 3)) / share
    tails = np.array([math.erfc(x) for x in deviations / np.sqrt(2 * variance)])
    return float(np.sum(g * np.exp(-g) * tails) * (g[1] - g[0]))


@seeded
@cases
@pytest.mark.parametrize("name", ["ckks", "bfv"])
def test_rings_are_of_the_guidelines_and_primes_are_primes(
    name: str, bound: int, clients: int, seeded: bool
) -> None:
    try:
        p = getattr(params, name)(bound, clients, seeded)
    except HEError:
        assert (name, bound) == ("ckks", 2**32 - 2)
        return
    classical, quantum = {2048: 53, 4096: 106}, {2048: 50, 4096: 101}
    assert math.prod(p.primes).bit_length() <= min(classical[p.degree], quantum[p.degree])
    assert p.modulus_bits == pytest.approx(math.log2(math.prod(p.primes)), abs=1e-9)
    assert "128 bits of security" in SCHEMES[name](bound, clients, seeded).describe()
    assert len(set(p.primes)) == len(p.primes) <= 5
    for prime in p.primes:
        assert (prime % (2 * p.degree), prime.bit_length()) == (1, p.bits)
        assert prime < 2**50, "the kernels of 52-bit products take 4p"
        assert _seal.context(p).api.Modulus(prime).is_prime()
    assert _seal.context(p).seal.parameters_set()


@seeded
@cases
def test_bfv_opens_right_and_shows_what_is_malformed(bound: int, clients: int, seeded: bool) -> None:
    p = params.bfv(bound, clients, seeded)
    fresh = 3.24 * (1 if seeded else math.sqrt(4 * p.degree / 3 + 1))
    z = normal_quantile(TAIL)
    assert p.error - 1 <= params.error_bound("coefficient", p.degree, clients, seeded) < p.error
    room = math.prod(p.primes) / (2 * p.plain_modulus)
    assert room >= z * math.sqrt(clients) * fresh + clients / 2
    assert p.plain_modulus >= 2**8 * clients * bound
    assert p.plain_modulus % (2 * p.degree) == 1
    assert params.is_prime(p.plain_modulus)
    assert p.plain_modulus.bit_length() <= 60
    assert p.plain_modulus not in p.primes
    if p.degree == 4096:  # and so 2048 would not have done
        assert 2 * p.plain_modulus * (z * math.sqrt(clients) * fresh / math.sqrt(2) + clients / 2) > 2**49


@seeded
@pytest.mark.parametrize(("bound", "clients"), CASES[:9])
def test_ckks_opens_right_and_shows_what_is_malformed(bound: int, clients: int, seeded: bool) -> None:
    p = params.ckks(bound, clients, seeded)
    error = params.error_bound("slot", p.degree, clients, seeded)
    assert error < p.error <= p.tolerance <= p.step / 2**9
    assert p.step * bound < params.MAX_COEFFICIENT
    assert math.sqrt(2) * p.step * (clients * bound + 2) < math.prod(p.primes)
    # 9.4 standard deviations, as a normal error at 10^6 slots might be given, are well inside.
    assert p.tolerance > 9.4 * twin.standard_deviation("slot", p.degree, clients, seeded)


@seeded
@pytest.mark.parametrize("bits", range(1, 42))
def test_no_ring_is_without_its_margin(bits: int, seeded: bool) -> None:
    """Long values and few clients too, where what limits the step is how long an encoding may be."""
    for clients in (1, 2, 8, 64, 4096):
        for ring in (params.ckks, params.bfv):
            try:
                p = ring(2**bits - 1, clients, seeded)
            except HEError:
                continue
            if isinstance(p, params.CKKSParameters):
                assert p.step >= 2**9 * p.tolerance
            else:
                assert p.plain_modulus >= 2**8 * clients * (2**bits - 1)


@seeded
@pytest.mark.parametrize("bits", range(1, 34))
def test_encodings_stay_inside_signed_words(bits: int, seeded: bool) -> None:
    """In integers without end: no step overflows for the largest coefficient there can be, of either sign."""
    for clients in (1, 2, 24, 256, 4096):
        try:
            p = params.ckks(2**bits, clients, seeded)
        except HEError:
            continue
        largest = p.step * 2**bits + 2**20  # and what double precision moves it by
        assert largest < params.MAX_COEFFICIENT
        for prime in p.primes:
            above = ckks._multiple_above(prime)
            assert above % prime == 0
            assert 0 < above - params.MAX_COEFFICIENT <= prime
            assert above + largest < 2**63


def test_no_coefficient_is_larger_than_the_largest_slot() -> None:
    """Each coefficient is made as large as it can be, of either sign: every slot's part is 0 or the bound."""
    degree, bound = 64, 1.0
    units = np.eye(degree)
    # Column j of the effect: what one part of a slot adds to each coefficient.
    effect = np.concatenate([coefficients_of(units[:, at : at + 8]) for at in range(0, degree, 8)], axis=1)
    largest = np.maximum(effect, 0).sum(axis=1) * bound
    least = np.minimum(effect, 0).sum(axis=1) * bound
    assert largest.max() == pytest.approx(bound)
    assert -least.min() <= math.sqrt(0.5) * bound * (1 + 1e-12)
    assert sorted(np.argsort(largest)[-2:]) == [0, degree // 2]
    assert np.sort(largest)[-3] <= math.sqrt(0.5) * bound * (1 + 1e-12)


WIDEST = {
    "32 bits": ckks.Scheme(2**32 - 2, 16),
    "31 bits": ckks.Scheme(2**31, 24),
    "33 bits": ckks.Scheme(2**33 - 1, 4, True),
}


@pytest.mark.parametrize("scheme", WIDEST.values(), ids=WIDEST)
def test_the_longest_encodings_are_exact(scheme: ckks.Scheme) -> None:
    """Against integers without end, for coefficients near the largest of either sign, and those that slots have."""
    p = scheme.parameters
    largest = scheme.bound
    extremes = [largest, -largest, largest / 3, -largest / 3, 0.0, -0.7 * largest, 1.0, -1.0]
    numbers, rounded = np.array([extremes], dtype=np.float64), lanes(1)
    slots = np.full((8, scheme.slots), scheme.bound, np.uint64)
    rows, spare = lanes(len(p.primes), scheme.slots), lanes(scheme.slots)
    scheme._encode(slots, rows, spare)
    wanted = [round(value * float(p.step)) for value in coefficients_of(slots.T.astype(float))[:, 0]]
    for prime, field, row in zip(p.primes, scheme._fields, rows, strict=True):
        ckks._round_to(numbers, float(p.step), field, rounded)
        assert rounded.reshape(-1).tolist() == [round(x * float(p.step)) % prime for x in numbers.reshape(-1)]
        assert row[:, 0].tolist() == [value % prime for value in wanted]


def coefficients_of(slots: np.ndarray) -> np.ndarray:
    """The coefficients (N, 8) of eight real polynomials with ``slots`` (N, 8)."""
    group = slots[complex_places(len(slots))].copy()
    from_slots(group)
    return group / (len(slots) // 2)


def test_the_widest_scheme_uses_all_of_a_word() -> None:
    p = WIDEST["32 bits"].parameters
    assert p.step * (2**32 - 2) > 0.99 * params.MAX_COEFFICIENT


def test_what_no_encoding_holds_is_refused() -> None:
    with pytest.raises(HEError, match=r"more than 62 bits; take he\.bfv"):
        params.ckks(2**34 - 1, 4, False)
    assert params.ckks(2**33 - 1, 4, True).step <= 2**62 // (2**33 - 1)


def test_public_key_slots_have_an_exponential_tail() -> None:
    """The bound is right against the exact tail, and not loose; the normal one is wrong."""
    deviation = twin.standard_deviation("slot", 4096, 256, False)
    ours = params.error_bound("slot", 4096, 256, False) / deviation
    assert slot_tail(ours, 4096) < TAIL
    assert slot_tail(0.85 * ours, 4096) > TAIL
    assert slot_tail(normal_quantile(TAIL), 4096) > 2**20 * TAIL


@pytest.mark.parametrize(
    "error", [("slot", 2048, 1, True), ("coefficient", 2048, 1, True), ("coefficient", 2048, 256, False)]
)
def test_errors_without_an_exponential_tail_are_bounded_as_normal_ones(error: tuple[str, int, int, bool]) -> None:
    ours = params.error_bound(*error) / twin.standard_deviation(*error)
    assert normal_quantile(TAIL) < ours < 1.05 * normal_quantile(TAIL)


def test_clients_with_equal_values_round_alike() -> None:
    """So that the rounding of seeded encodings grows with their number: its root would not do."""
    few, many = (params.error_bound("slot", 2048, clients, True) for clients in (1, 4096))
    assert many > 4 * 64 * few


def test_least_rings_of_sixteen_bits_and_256_clients() -> None:
    ring = [getattr(params, name)(65534, 256, seeded) for name in ("ckks", "bfv") for seeded in (True, False)]
    assert [(p.degree, len(p.primes), p.bits) for p in ring] == [
        (2048, 1, 49),
        (4096, 2, 29),
        (2048, 1, 43),
        (2048, 1, 48),
    ]


def test_as_few_primes_as_possible_and_then_as_short_ones() -> None:
    """For every length of q in every ring, up to the longest that its primes or the tables allow."""
    for degree, allowed in params.RING_BITS.items():
        for bits in range(degree.bit_length() + 3, allowed + 8):
            least = (1 << bits) - (1 << (bits - 4))
            chosen = params._primes_for(degree, least)
            if chosen is None:
                assert bits > min(allowed, 5 * 50) - 5, "a ring is refused only near its limit"
                continue
            primes, length = chosen
            assert least <= math.prod(primes) < 1 << min(allowed, len(primes) * 50)
            fewer = len(primes) - 1
            assert math.prod(params.ntt_primes(degree, min(50, allowed // max(fewer, 1)), fewer)) < least
            assert math.prod(params.ntt_primes(degree, length - 1, len(primes))) < least
            assert length * len(primes) - least.bit_length() < max(len(primes), degree.bit_length() + 3)
    assert len(params._primes_for(8192, 1 << 197)[0]) == 4
    assert len(params._primes_for(16384, 1 << 245)[0]) == 5
    assert params._primes_for(16384, 1 << 250) is None


@pytest.mark.parametrize("name", ["ckks", "bfv"])
def test_other_rings_carry_no_more_sums_in_no_fewer_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def length(degrees: tuple[int, ...], *sums: object) -> float:
        monkeypatch.setattr(params, "SUM_DEGREES", degrees)
        try:
            p = getattr(params, name).__wrapped__(*sums)
        except HEError:
            return math.inf
        return len(p.primes) * p.bits

    for bits in (1, 4, 10, 11, 24, 32, 34, 44, 50):
        for clients in (1, 2, 16, 2**10, 2**20, 2**38 - 1):
            for seeded in (True, False):
                sums = (2**bits - 1, clients, seeded)
                ours = length((2048, 4096), *sums)
                assert ours <= length((8192,), *sums)
                small = length((1024,), *sums)
                assert small >= ours - 2
                assert small == math.inf or (seeded and sums[0] * clients <= 2**10)


@seeded
@pytest.mark.parametrize("name", ["ckks", "bfv"])
def test_parameters_say_what_they_are(name: str, seeded: bool) -> None:
    p = getattr(params, name)(65534, 256, seeded)
    text = p.describe()
    assert f"ring degree {p.degree}, log2 q = {math.log2(math.prod(p.primes)):.2f}" in text
    assert all(str(prime) in text for prime in p.primes)
    assert "secrets uniform in -1, 0, 1; errors centred binomials of 21 + 21 coins" in text
    bound = params.error_bound("slot" if name == "ckks" else "coefficient", p.degree, 256, seeded)
    assert f"error of a full sum, proven: at most 2^{math.log2(bound):.1f}" in text
    cost = security.core_svp(p.degree, p.modulus_bits, math.sqrt(2 / 3), math.sqrt(21 / 2))
    for figure in (cost.classical, cost.quantum, cost.quantum_walks):
        assert f"{figure:.1f}" in text
    for source in ("eprint 2024/463", "Homomorphic Encryption Standard, 2018", "Laarhoven", "Chailloux and Loyer"):
        assert source in text
    assert text.count("(kept)") == 4
    assert "EXCEEDED" not in text
    assert (f"plain modulus {p.plain_modulus}" if name == "bfv" else "encoding step 2^") in text
    line = p.summary()
    assert "\n" not in line
    assert line.startswith(f"ring degree {p.degree}, modulus {len(p.primes)} x {p.bits} bits, 128 bits of")
    assert f"core-SVP: {cost.classical:.0f} classical, {cost.quantum_walks:.0f} quantum" in line


@pytest.mark.parametrize(
    "arguments",
    [(0, 16, True), (-1, 16, True), (10, 0, True), (1.5, 16, True), (True, 16, True), (10, "16", True)],
)
@pytest.mark.parametrize("name", ["ckks", "bfv"])
def test_nonsense_is_refused(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(HEError, match="expected an integer of at least 1"):
        getattr(params, name)(*arguments)


def test_what_no_ring_carries_is_refused() -> None:
    with pytest.raises(HEError, match="no ring of degree up to 4096"):
        params.bfv(2**40, 2**16, False)
    with pytest.raises(HEError, match="take he"):
        params.ckks(2**32 - 2, 256, False)
    with pytest.raises(HEError):
        params.bfv(2**2000, 2, False)


def test_primes() -> None:
    sieve = [all(n % d for d in range(2, math.isqrt(n) + 1)) and n > 1 for n in range(3000)]
    assert [params.is_prime(n) for n in range(3000)] == sieve
    # Composites that fool the test with the first bases, and Carmichael's: from OEIS A014233.
    for strong in (2047, 1373653, 25326001, 3215031751, 2152302898747, 3474749660383, 341550071728321, 561):
        assert not params.is_prime(strong)
    assert params.is_prime(2**61 - 1)
    primes = params.ntt_primes(64, 12, 100)
    assert list(primes) == sorted(
        (p for p in range(2048, 4096) if p % 128 == 1 and params.is_prime(p)), reverse=True
    )

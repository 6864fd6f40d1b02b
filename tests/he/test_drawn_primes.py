"""The primes of Paillier's keys: what is tested, in which order, and how often."""

import math
import random
from collections.abc import Callable
from concurrent.futures import Executor

import gmpy2
import pytest
from gmpy2 import mpz

from he import _primes
from he._primes import SMALL, WINDOW, draw_prime, rounds
from he.paillier import generate

MERSENNE = mpz(2) ** 1031 - 1
"""Composite, and still it passes the strong test of base 2, as all 2^p - 1 do whose p is prime."""


def repeatable(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@pytest.mark.parametrize("bits", [1024, 1028])
def test_a_window_offers_just_what_has_no_small_factor(bits: int) -> None:
    candidates = _primes._window(bits, repeatable(1))
    start = mpz.from_bytes(repeatable(1)(-(-bits // 8)), "little") % (mpz(1) << bits) | mpz(3) << bits - 2 | 3
    primorial = gmpy2.primorial(SMALL)
    window = [start + 4 * i for i in range(WINDOW)]
    assert set(candidates) == {number for number in window if gmpy2.gcd(number, primorial) == 1}
    assert len(set(candidates)) == len(candidates)
    assert candidates != sorted(candidates), "in the order of a window, primes behind large gaps would come first"
    assert all(number % 4 == 3 and number >> bits - 2 == 3 for number in candidates)


def test_a_window_ends_where_numbers_become_longer() -> None:
    assert all(number.bit_length() == 1024 for number in _primes._window(1024, lambda size: bytes([255]) * size))


def test_a_key_is_the_first_pair_that_goes_together() -> None:
    """Against the rule in a few lines; this seed's first prime for q shares a factor 3 with p."""
    rng = repeatable(2)
    passed_over = 0

    def first(fits: Callable[[mpz], bool]) -> mpz:
        nonlocal passed_over
        for number in _primes._window(1024, rng):
            if gmpy2.is_prime(number):
                if fits(number):
                    rng((1024 // 8 + 8) * rounds(1024))  # the bases
                    return number
                passed_over += 1
        raise AssertionError("no prime in the window")

    p = first(lambda number: True)
    q = first(lambda number: math.gcd(int(p) - 1, int(number) - 1) == 2)
    key = generate(2048, rng=repeatable(2))
    assert (key.p, key.q) == (p, q)
    assert passed_over > 0


def test_threads_do_not_choose_the_prime(threads: Executor) -> None:
    primes = {draw_prime(512, repeatable(9), threads, count) for count in (1, 3, 3, 3)}
    assert len(primes) == 1
    assert gmpy2.is_prime(primes.pop())


def test_the_error_bound_sets_the_number_of_tests() -> None:
    """FIPS 186-5, table B.1, has 5 tests for 2^-112 at 1024 bits, 4 for 2^-128 at 1536 and 4 for 2^-144 at 2048."""
    assert [rounds(bits) for bits in (1024, 1536, 2048, 8192)] == [7, 5, 4, 3]
    with pytest.raises(ValueError, match="at least 256"):
        rounds(128)


def test_what_passes_base_two_alone_is_passed_over(threads: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    prime = gmpy2.next_prime(MERSENNE)
    while prime % 4 != 3:
        prime = gmpy2.next_prime(prime)
    monkeypatch.setattr(_primes, "_window", lambda bits, rng: [MERSENNE, prime])
    assert _primes._passes(MERSENNE, mpz(2))
    assert draw_prime(1031, repeatable(1), threads, 1) == prime


def test_control_without_random_bases_a_composite_comes_out(
    threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_primes, "_window", lambda bits, rng: [MERSENNE])
    monkeypatch.setattr(_primes, "_confirmed", lambda number, rng, executor: True)
    assert not gmpy2.is_prime(draw_prime(1031, repeatable(1), threads, 1))


def test_after_a_window_without_a_prime_comes_another(threads: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = iter([[], [MERSENNE], [mpz(2) ** 1031 - 1, mpz(2) ** 1279 - 1]])
    monkeypatch.setattr(_primes, "_window", lambda bits, rng: next(windows))
    assert draw_prime(1279, repeatable(1), threads, 2) == mpz(2) ** 1279 - 1


def test_primes_are_tested_without_the_interpreter_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """gmpy2 gives it up in powmod, and only in a context that says so; in is_prime it never does."""
    assert gmpy2.get_context().allow_release_gil is False
    seen = []
    real = gmpy2.powmod

    class Watched:
        @staticmethod
        def powmod(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
            seen.append(gmpy2.get_context().allow_release_gil)
            return real(base, exponent, modulus)

        def __getattr__(self, name: str) -> object:
            return getattr(gmpy2, name)

    monkeypatch.setattr(_primes, "gmpy2", Watched())
    generate(2048, rng=repeatable(2))
    assert len(seen) > 2 * rounds(1024)
    assert all(seen)

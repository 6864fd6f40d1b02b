"""Primes for Paillier's keys: random candidates from sieved windows, tested on all cores.

A candidate has its two highest bits set and is 3 modulo 4. :func:`draw_prime` chooses at random where a
window of 2^14 candidates starts, removes the multiples of all primes below 2^16, and tests the others
in a random order. The first candidate that passes is the prime.

**How uniform it is.** A prime can come only from the 2^14 windows that contain it. So its probability
is at most 2^14 times that of a uniform candidate: a prime of k bits has at least k - 18 bits of
min-entropy.

**How certain it is.** Each candidate, taken by itself, is uniform, and only this process chooses it.
So the average case counts, not the worst: Damgård, Landrock and Pomerance, "Average case error
estimates for the strong probable prime test" (Mathematics of Computation 61, 1993; also fact 4.48 of
the *Handbook of Applied Cryptography*). :func:`rounds` says how many tests with fresh random bases
bring their bound below 2^-128, including what the choice of candidates adds to it: candidates are a
quarter of the odd numbers of their length (2 bits), and a window offers up to 2^14 of them, less than
2^7 times as many as one prime takes on average (7 bits). The first test, of base 2, is not counted.

The only heavy step is GMP's modular power. gmpy2 can release the interpreter's lock for it (but not
for its own primality tests), so that threads save time.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import cache
from math import log2, sqrt
from typing import Any

import gmpy2  # type: ignore[import-untyped]
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from he._powers import released

SMALL = 1 << 16
"""Candidates with a prime factor below this are never tested."""

WINDOW = 1 << 14
"""Candidates in a window."""

ERROR_BITS = 128
"""A composite number is returned with probability below 2^-128."""

_CHOICE_BITS = 2 + 7  # of error, added by the restriction of candidates and their number


def rounds(bits: int) -> int:
    """How many tests with random bases leave a random candidate of ``bits`` bits composite below 2^-128.

    The bound for t tests of k bits is k^(3/2) 2^t t^(-1/2) 4^(2 - sqrt(t k)), for 3 <= t <= k / 9.
    """
    for tests in range(3, bits // 9):
        error = 1.5 * log2(bits) + tests - log2(tests) / 2 + 2 * (2 - sqrt(tests * bits))
        if error + _CHOICE_BITS <= -ERROR_BITS:
            return tests
    raise ValueError(f"got {bits} bits of a prime; expected at least 256")


def draw_prime(
    bits: int,
    rng: Callable[[int], bytes],
    executor: Executor,
    threads: int,
    fits: Callable[[mpz], bool] = lambda number: True,
) -> mpz:
    """A random prime of ``bits`` bits, 3 modulo 4 and with its two highest bits set, that ``fits`` accepts.

    ``rng(k)`` returns k random bytes. The result depends on them alone. ``executor`` runs ``threads``
    threads, whose timing changes nothing.
    """
    while True:
        candidates = _window(bits, rng)
        at = 0
        while (at := _first(candidates, at, fits, executor, threads)) < len(candidates):
            if _confirmed(candidates[at], rng, executor):
                return candidates[at]
            at += 1


def _window(bits: int, rng: Callable[[int], bytes]) -> list[mpz]:
    """The candidates of a random window that have no factor below ``SMALL``, in random order."""
    number = mpz.from_bytes(rng(-(-bits // 8)), "little") % (mpz(1) << bits)
    start = number | mpz(3) << bits - 2 | 3
    primes = _small_primes()
    # Candidate i is start + 4 i. Prime r divides candidate -start / 4 modulo r, and every r-th after it.
    first = (primes - _residues(start, primes)) * _quarters() % primes
    divided = np.zeros(WINDOW, np.bool_)
    often = int(np.searchsorted(primes, WINDOW))
    for prime, place in zip(primes[:often].tolist(), first[:often].tolist(), strict=True):
        divided[place::prime] = True
    once = first[often:]
    divided[once[once < WINDOW]] = True
    places = np.flatnonzero(~divided)
    order = np.argsort(np.frombuffer(rng(8 * places.size), "<u8"), kind="stable")
    numbers = [start + 4 * place for place in places[order].tolist()]
    return [number for number in numbers if not number >> bits]  # a window may end above the length


def _first(
    candidates: Sequence[mpz], start: int, fits: Callable[[mpz], bool], executor: Executor, threads: int
) -> int:
    """The index of the first candidate from ``start`` on that fits and passes base 2; else their number."""
    lock = threading.Lock()
    following, first = start, len(candidates)

    def work() -> None:
        nonlocal following, first
        with released():
            while True:
                with lock:
                    at, following = following, following + 1
                    if at >= first:  # some thread has each earlier candidate, and finishes it
                        return
                if fits(candidates[at]) and _passes(candidates[at], mpz(2)):
                    with lock:
                        first = min(first, at)

    for task in [executor.submit(work) for _ in range(threads)]:
        task.result()
    return first


def _confirmed(number: mpz, rng: Callable[[int], bytes], executor: Executor) -> bool:
    """Whether ``number`` passes :func:`rounds` tests with random bases."""
    size = number.bit_length() // 8 + 8  # 64 bits more than the number has: within 2^-64 of uniform

    def test(base: mpz) -> bool:
        with released():
            return _passes(number, base)

    numbers = [mpz.from_bytes(rng(size), "little") for _ in range(rounds(number.bit_length()))]
    return all(executor.map(test, [2 + random % (number - 3) for random in numbers]))


def _passes(number: mpz, base: mpz) -> bool:
    """The strong test. It needs no squaring: ``number`` is 3 modulo 4, so half of ``number - 1`` is odd."""
    power = gmpy2.powmod(base, number >> 1, number)
    return bool(power == 1 or power == number - 1)


def _residues(number: mpz, primes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``number`` modulo each of ``primes``, which are below 2^16: by Horner's rule, 32 bits at a time."""
    size = -(-number.bit_length() // 32)
    residues = np.zeros_like(primes)
    for word in np.frombuffer(number.to_bytes(4 * size, "big"), ">u4").tolist():
        residues = ((residues << np.uint64(32)) | np.uint64(word)) % primes
    return residues


@cache
def _small_primes() -> NDArray[np.uint64]:
    """The odd primes below ``SMALL``."""
    odd = np.ones(SMALL // 2, np.bool_)  # place i stands for 2 i + 1
    odd[0] = False
    for number in range(3, int(sqrt(SMALL)) + 1, 2):
        if odd[number // 2]:
            odd[number * number // 2 :: number] = False
    return 2 * np.flatnonzero(odd).astype(np.uint64) + np.uint64(1)


@cache
def _quarters() -> NDArray[np.uint64]:
    """The inverse of 4 modulo every small prime."""
    inverses: list[Any] = [pow(4, -1, prime) for prime in _small_primes().tolist()]
    return np.array(inverses, np.uint64)

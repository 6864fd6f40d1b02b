"""Rings for sums: the smallest that are secure, exact and safe to open.

**Security.** :data:`RING_BITS` is how many bits the ciphertext modulus q may have, all its primes
counted, for :data:`SECURITY_BITS` with a ternary secret, both classical and quantum. Two tables are
published:

- The *Homomorphic Encryption Standard* (M. Albrecht et al., 2018, version 1.1), which SEAL enforces:
  classical 54 bits at N = 2048 and 109 at 4096; quantum 51 and 101.
- *Security guidelines for implementing homomorphic encryption* (J.-P. Bossuat et al., eprint
  2024/463): classical 53 and 106 (table 5.2); quantum 50 and 101 (first version; later versions print
  classical figures only).

Rings keep to the least of all these figures, the quantum row of the second table. Both quantum rows
assume that quantum sieving costs 2^(0.265 b) for blocks of b (T. Laarhoven, M. Mosca and J. van de Pol,
2015), times the polynomial factors of the classical rows. A later algorithm needs 2^(0.257 b)
(A. Chailloux and J. Loyer, ASIACRYPT 2021). If the polynomial factors are left out as well, the script
of the guidelines allows only 40 and 80 bits. By our estimate of the primal attack, the largest q here
then has about 95 bits of security. This is the lowest figure that any of these assumptions leads to.

Sums need no key switching. So there are no relinearization or Galois keys, and no prime for them.

**The error of a sum.** SEAL's errors are centred binomials, the difference of two sums of 21 coins:
variance 21/2, standard deviation 3.24. A symmetric encryption has one such error. An encryption with a
public key (b = -(a s + e), a) is (b u + e', a u + e''), where u and the secret s are ternary. It opens
with the error e' - e u + e'' s, whose coefficients have the variance

    (21/2) (1 + N * 2/3 + N * 2/3) = (21/2) (4 N / 3 + 1).

The errors of n ciphertexts add up, so the standard deviation of a sum's error is sqrt(n) * 3.24 if
seeded, and sqrt(n) * 3.24 * sqrt(4 N / 3 + 1) with a public key. If coefficients were normal, a multiple
of it would bound them all. They are not: e and s are the same in all n terms, and given e and s, the
variance depends on the squares of their norms. Chernoff's bound needs no normality, and is used
instead. A centred binomial and a ternary coefficient are strictly sub-Gaussian
(E exp(h x) <= exp(h^2 var / 2)), and so are their sums with fixed weights. For such an x,
E exp(h x^2) <= (1 - 2 h var)^(-1/2). Hence, with A = n 21/2 the variance of the fresh errors and
B = 2/3 A,

    coefficient (BFV):  E exp(h x) <= exp(h^2 A / 2) * (1 - h^2 B)^(-N),

because N squares of e and N squares of s appear. The error of a *slot* (CKKS) is the value of the error
polynomial at a root of unity. It contains the product of two such values, e(root) u(root), not an
average of products:

    slot, real part:    E exp(h x) <= exp(h^2 (A N / 2 + n^2 N / 24) / 2) * (1 - h^2 B N^2 / 4)^(-2).

The summand n^2 N / 24 is the rounding of CKKS's encodings, uniform in each coefficient. Clients with
equal values round alike, so it grows with n and not with the root of n.

A slot has an exponential tail: its bound is 37 standard deviations, where a normal variable would have
11. :func:`error_bound` is the least t such that P(|x| > t) stays below 2^-64 for all values of the
longest vector together (2^30, and as many again in its last ciphertext).

**Safe to open.** A client may add something to its ciphertext that puts the key into the sum. Then
slots hold numbers that no sum can be. At most one value in 2^8 may pass by chance, so that most slots
show it: BFV's plaintext modulus is at least 2^8 times the largest sum, and half of CKKS's grid step is
2^8 times the error's bound. This holds only because the noise of a decrypted sum never leaves the
decryptor: the noise would reveal the key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log, prod, sqrt

from he._numbers import whole
from he.errors import HEError

SECURITY_BITS = 128
"""Bits of security of every ring, classical and quantum; the module's docstring names the tables."""

CLASSICAL_ROW = {2048: 53, 4096: 106}
"""Ring degree N -> bits of q at 128 bits of classical security."""

QUANTUM_ROW = {2048: 50, 4096: 101}
"""The same at 128 bits of quantum security."""

RING_BITS = {degree: min(CLASSICAL_ROW[degree], QUANTUM_ROW[degree]) for degree in CLASSICAL_ROW}
"""Ring degree N -> the most bits of q that are used here. Larger rings would carry no more sums."""

FAILURE_BITS = 64
"""A sum's errors leave their bound, in any of a vector's slots, with probability below 2^-64."""

MARGIN_BITS = 8
"""A slot that holds anything but an honest sum passes for one with probability about 2^-8."""

MAX_LENGTH = 2**30
"""The longest vector for which :data:`FAILURE_BITS` holds."""

ERROR_VARIANCE = 21 / 2
"""The variance of a coefficient of SEAL's fresh error."""

MAX_PRIME_BITS = 60
"""The longest prime that SEAL accepts."""

MAX_COEFFICIENT = 3 << 61
"""The size of the largest coefficient of CKKS's encodings, at most.

Each part of a slot is at most bound * step <= 2^62, so a slot is at most sqrt(2) * 2^62 in size.
Coefficients are averages of slots turned by roots of unity. This is 1.5 * 2^62, with room for rounding.
"""

_ENCODING_BITS = 62  # of an encoding's slots at most, so that coefficients fit 64-bit integers


@dataclass(frozen=True, slots=True)
class CKKSParameters:
    """A ring for complex slots.

    ``degree`` is N (slots have N parts in all). ``primes`` are those of the ciphertext modulus, each
    ``bits`` long. A value v is encoded as ``step`` * v. Each part of a sum's slot is within ``tolerance``
    of a multiple of ``step``.
    """

    degree: int
    primes: tuple[int, ...]
    bits: int
    step: int
    tolerance: int


@dataclass(frozen=True, slots=True)
class BFVParameters:
    """A ring for slots modulo ``plain_modulus``: ``degree`` N of them; ``primes``, each ``bits`` long."""

    degree: int
    primes: tuple[int, ...]
    bits: int
    plain_modulus: int


Parameters = CKKSParameters | BFVParameters


@lru_cache(maxsize=64)
def ckks(bound: int, max_clients: int, seeded: bool) -> CKKSParameters:
    """The least ring for sums of ``max_clients`` vectors of integers in 0..``bound``, two in a complex slot.

    The slots of a sum, minus their middle value, are at most step * sum / sqrt(2) in size. So are the
    coefficients, which are averages of slots; they must stay below q/2. The step is as long as q allows.

    Raises :class:`HEError` if no ring is large enough.
    """
    largest = _checked(bound, max_clients)
    for degree, allowed in RING_BITS.items():
        rounding = _rounding(degree, bound, max_clients)
        if rounding > 2.0 ** -(MARGIN_BITS + 2):
            raise HEError(
                f"got {max_clients} clients with values up to {bound}: double precision moves their sum by up "
                f"to {rounding:.1g} steps; at most {2.0 ** -(MARGIN_BITS + 2):.1g} are allowed: take he.bfv"
            )
        error = error_bound("slot", degree, max_clients, seeded)
        least = int(error / (2.0 ** -(MARGIN_BITS + 1) - rounding)) + 1
        longest = (1 << _ENCODING_BITS) // bound
        if least > longest:
            raise HEError(
                f"got {max_clients} clients with values up to {bound}: with a step above the noise, an encoding "
                f"takes more than {_ENCODING_BITS} bits; take he.bfv"
            )
        span = largest * 3 // 2 + 4  # 3/2 is a little more than the root of two
        modulus = _primes_for(degree, least * span, allowed)
        if modulus is None:
            continue
        primes, bits = modulus
        step = (prod(primes) - 1) // span
        step = min(step, longest)
        return CKKSParameters(degree, primes, bits, step, int(error + rounding * step) + 1)
    raise HEError(_too_much(bound, max_clients))


@lru_cache(maxsize=64)
def bfv(bound: int, max_clients: int, seeded: bool) -> BFVParameters:
    """The least ring for sums of ``max_clients`` vectors of integers in 0..``bound``, in slots modulo a prime.

    The plaintext modulus t is a prime that is 1 modulo 2N, so that polynomials have N slots. A
    plaintext m is encrypted as q m / t, rounded, which adds half a unit a client. A sum opens correctly
    if its error is below q / 2t.

    Raises :class:`HEError` if no ring is large enough.
    """
    largest = _checked(bound, max_clients)
    for degree, allowed in RING_BITS.items():
        plain_modulus = _prime_from(largest << MARGIN_BITS, 2 * degree)
        if plain_modulus.bit_length() > MAX_PRIME_BITS:
            break
        error = int(error_bound("coefficient", degree, max_clients, seeded)) + 1
        modulus = _primes_for(degree, plain_modulus * (2 * error + max_clients), allowed)
        if modulus is not None:
            return BFVParameters(degree, *modulus, plain_modulus)
    raise HEError(_too_much(bound, max_clients))


@lru_cache(maxsize=256)
def error_bound(place: str, degree: int, clients: int, seeded: bool) -> float:
    """An upper bound of the error of a sum of ``clients`` ciphertexts, in units of the ciphertext.

    ``place`` is ``"slot"`` or ``"coefficient"``. With probability 1 - 2^-64 the bound holds everywhere at
    once, for 2^30 values and as many imaginary parts. The module's docstring derives it.
    """
    fresh, product = clients * ERROR_VARIANCE, clients * ERROR_VARIANCE * 2 / 3
    factors = degree
    if place == "slot":
        fresh, product, factors = fresh * degree / 2 + clients**2 * degree / 24, product * degree**2 / 4, 2
    demand = log(2) * (FAILURE_BITS + 1 + (2 * MAX_LENGTH).bit_length())
    if seeded:
        return sqrt(2 * fresh * demand)

    def bound(h: float) -> float:
        return (h * h * fresh / 2 - factors * log(1 - h * h * product) + demand) / h

    return bound(_least(bound, 1 / sqrt(product)))


def ntt_primes(degree: int, bits: int, count: int) -> tuple[int, ...]:
    """The ``count`` largest primes of ``bits`` bits that are 1 modulo 2 * ``degree``; fewer if there are fewer."""
    primes: list[int] = []
    candidate = (1 << bits) - 2 * degree + 1
    while len(primes) < count and candidate >> (bits - 1):
        if is_prime(candidate):
            primes.append(candidate)
        candidate -= 2 * degree
    return tuple(primes)


def is_prime(number: int) -> bool:
    """Whether ``number``, below 2^64, is prime: Miller and Rabin's test with enough bases for that range."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    odd, twos = number - 1, 0
    while not odd & 1:
        odd, twos = odd >> 1, twos + 1
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _checked(bound: int, max_clients: int) -> int:
    """The largest sum, once both arguments are integers of at least 1."""
    numbers = []
    for name, value in (("bound", bound), ("max_clients", max_clients)):
        number = whole(value)
        if number is None or number < 1:
            raise HEError(f"got {name}={value!r}; expected an integer of at least 1")
        numbers.append(number)
    return numbers[0] * numbers[1]  # NumPy's integers would wrap


def _rounding(degree: int, bound: int, clients: int) -> float:
    """How far rounding in double precision moves a slot of a sum from the grid, in steps.

    The transforms to and from slots have log2 N levels, each with a relative error of about 2^-53. Four
    such units a level are many times the measured error. Clients with equal values have equal errors,
    so that errors add up and do not average out.
    """
    return bound * clients * 4 * (degree.bit_length() - 1) * 2.0**-53


def _primes_for(degree: int, least: int, allowed: int) -> tuple[tuple[int, ...], int] | None:
    """As few and as short primes as possible whose product is at least ``least``, and their bits; or None."""
    count = -(-least.bit_length() // MAX_PRIME_BITS)
    for bits in range(max(least.bit_length() // count, degree.bit_length() + 2), allowed // count + 1):
        primes = ntt_primes(degree, bits, count) if bits <= MAX_PRIME_BITS else ()
        if len(primes) == count and prod(primes) >= least:
            return primes, bits
    return None


def _prime_from(least: int, modulus: int) -> int:
    """The least prime above ``least`` that is 1 modulo ``modulus``; a number above 2^60 if there is none below."""
    candidate = least - least % modulus + modulus + 1
    while not candidate >> MAX_PRIME_BITS and not is_prime(candidate):
        candidate += modulus
    return candidate


def _least(function: Callable[[float], float], top: float) -> float:
    """The place in (0, ``top``) at which a function that first falls and then rises is least."""
    low, high = 0.0, top
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if function(left) < function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _too_much(bound: int, clients: int) -> str:
    return (
        f"got {clients} clients with values up to {bound}; no ring of degree up to {max(RING_BITS)} carries their "
        f"sum exactly at {SECURITY_BITS} bits of security: take fewer bits, or fewer clients"
    )

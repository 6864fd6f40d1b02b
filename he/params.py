"""Rings for sums: the smallest that are secure, exact and safe to open.

**Security.** Rings keep to :data:`RING_BITS`, the least of all figures that two published tables give for
:data:`SECURITY_BITS` against classical and quantum computers. :mod:`he.security` states the tables, and
what their figures count. Without the polynomial factors that they count, the largest q here has 94 bits of
security: the lowest estimate to which any published assumption leads. ``describe`` of a set of parameters
prints the tables' rows, and that estimate for its own q.

Sums need no key switching. So there are no relinearization or Galois keys, and no prime for them.

**The error of a sum.** Secrets are uniform in -1, 0, 1. Errors are centred binomials, the difference of
two sums of 21 coins: variance 21/2, standard deviation 3.24. SEAL draws from these distributions, and so
does every engine here: the bounds hold for each. A symmetric encryption has one such error. An encryption
with a public key (b = -(a s + e), a) is (b u + e', a u + e''), where u and the secret s are ternary. It
opens with the error e' - e u + e'' s, whose coefficients have the variance

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

**Several primes.** q is a product of k different primes p_i. A polynomial is kept as its residues modulo
each, which add and multiply prime by prime. By the Chinese remainder theorem, they stand for one
polynomial modulo q, and uniform residues for a uniform one. Errors, secrets and encodings are integers that
are reduced modulo every prime. So all of the above is about one integer x, an encoding plus an error, of
which the decryptor knows x mod q. No bound depends on k, only on q.

|x| < q/2 holds by the choice of q. So x is the representative of x mod q between -q/2 and q/2, and as q is
odd, no integer lies on the border. The primes must be joined before the centring: the sign of a residue says
nothing. Mixed radix (H. L. Garner, 1959) joins them without long integers: the representative in [0, q) is
d_1 + p_1 (d_2 + p_2 (d_3 + ...)) with 0 <= d_i < p_i. The digits of (q - 1)/2 are (p_i - 1)/2, because
those of q - 1 are p_i - 1. So x is negative if and only if the highest digit that differs from
(p_i - 1)/2 is above it.

**Safe to open.** A client may add something to its ciphertext that puts the key into the sum. Then
slots hold numbers that no sum can be. At most one value in 2^8 may pass by chance, so that most slots
show it: BFV's plaintext modulus is at least 2^8 times the largest sum, and half of CKKS's grid step is
2^8 times the error's bound. This holds only because the noise of a decrypted sum never leaves the
decryptor: the noise would reveal the key, and so would partial decryptions that still contain it. An honest
sum that opened wrong would show noise as well (eprint 2024/116 and 2024/127): :func:`error_bound` is why
none does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log, log2, prod, sqrt

from he import security
from he._numbers import whole
from he.errors import HEError
from he.security import RING_BITS as RING_BITS, SECURITY_BITS as SECURITY_BITS

SUM_DEGREES = (2048, 4096)
"""The ring degrees that :func:`ckks` and :func:`bfv` try, the least first.

A value takes log2 q / 8 bytes if seeded and twice as many with a public key, whatever the degree. A larger
ring has larger errors, and so a q that is no shorter. It could pay only by carrying sums that these refuse,
and carries none of fewer than 2^38 clients: what limits such sums is not q but, for CKKS, double precision
and the length of encodings, and for BFV the plaintext modulus. The ring of degree 1024 (25 bits of q)
carries only seeded sums of at most 2^10 or so, and saves at most two bits of q.
"""

FAILURE_BITS = 64
"""A sum's errors leave their bound, in any of a vector's slots, with probability below 2^-64."""

MARGIN_BITS = 8
"""A slot that holds anything but an honest sum passes for one with probability about 2^-8."""

MAX_LENGTH = 2**30
"""The longest vector for which :data:`FAILURE_BITS` holds."""

ERROR_VARIANCE = 21 / 2
"""The variance of a coefficient of a fresh error."""

SECRET_VARIANCE = 2 / 3
"""The variance of a coefficient of a secret."""

MAX_PRIME_BITS = 50
"""The longest prime of a ciphertext modulus: with vectors of 52-bit products, 4p must stay below 2^52.

SEAL accepts 60 bits, and the kernels of 64-bit products take 61.
"""

MAX_PRIMES = 5
"""The most primes of a ciphertext modulus."""

MAX_PLAIN_BITS = 60
"""The longest plaintext modulus that SEAL accepts."""

MAX_COEFFICIENT = (1 << 62) - (1 << 56)
"""The size of the largest coefficient of CKKS's encodings, at most.

The parts of slots are in 0..B, where B = bound * step. A coefficient is the mean of the slots' real parts
after a turn of each by some angle. For the coefficients 0 and N/2, these are the parts themselves, in 0..B.
For others, the angles are spread evenly round the circle, and pairs of opposite angles contribute half the
difference of two slots, at most sqrt(2) B / 2. So the largest coefficient is B, and B is kept a little
below this constant.

Twice this constant and a prime are below 2^63. So a coefficient fits a signed 64-bit integer, and still does
once a multiple of a prime is added that makes every coefficient positive.
"""

_LONGEST_ENCODING = MAX_COEFFICIENT - (1 << 24)  # double precision moves coefficients by less than 2^20


@dataclass(frozen=True, slots=True)
class _Ring:
    """What the parameters of both schemes have in common.

    ``degree`` is N (slots have N parts in all). ``primes`` are those of the ciphertext modulus q, each
    ``bits`` long. ``error`` bounds the error of a full sum, as :func:`error_bound` does.
    """

    degree: int
    primes: tuple[int, ...]
    bits: int
    error: int

    @property
    def modulus_bits(self) -> float:
        """log2 q."""
        return sum(log2(prime) for prime in self.primes)

    def summary(self) -> str:
        """The ring and its security in one phrase: "ring degree 2048, modulus 1 x 43 bits, 128 bits of ..."."""
        stated = security.summary(self.degree, self.modulus_bits, sqrt(SECRET_VARIANCE), sqrt(ERROR_VARIANCE))
        return f"ring degree {self.degree}, modulus {len(self.primes)} x {self.bits} bits, {stated}"

    def _describe(self, place: str, encoding: str) -> str:
        count = f"{len(self.primes)} prime{'s' if len(self.primes) > 1 else ''}"
        deviation = sqrt(ERROR_VARIANCE)
        return "\n".join(
            [
                f"ring degree {self.degree}, log2 q = {self.modulus_bits:.2f}: {count} of {self.bits} bits "
                f"({', '.join(map(str, self.primes))})",
                f"secrets uniform in -1, 0, 1; errors centred binomials of 21 + 21 coins, standard deviation "
                f"{deviation:.2f}",
                f"error of a full sum, proven: at most 2^{log2(self.error):.1f} in {place}, for vectors of up to "
                f"2^{log2(MAX_LENGTH):.0f} values, except with probability 2^-{FAILURE_BITS}",
                encoding,
                *security.describe(self.degree, self.modulus_bits, sqrt(SECRET_VARIANCE), deviation),
            ]
        )


@dataclass(frozen=True, slots=True)
class CKKSParameters(_Ring):
    """A ring for complex slots.

    A value v is encoded as ``step`` * v. Each part of a sum's slot is within ``tolerance`` of a multiple of
    ``step``: ``error``, and the rounding of double precision.
    """

    step: int
    tolerance: int

    def describe(self) -> str:
        """Ring, modulus, errors, encoding and security with its sources, in lines for people."""
        return self._describe(
            "each part of every slot",
            f"encoding step 2^{log2(self.step):.1f}; parts of a sum's slots lie within "
            f"2^{log2(self.tolerance):.1f} of its multiples, or the sum stays closed",
        )


@dataclass(frozen=True, slots=True)
class BFVParameters(_Ring):
    """A ring for N slots modulo ``plain_modulus``."""

    plain_modulus: int

    def describe(self) -> str:
        """Ring, modulus, errors, encoding and security with its sources, in lines for people."""
        room = prod(self.primes) // (2 * self.plain_modulus)
        return self._describe(
            "every coefficient",
            f"plain modulus {self.plain_modulus} ({self.plain_modulus.bit_length()} bits); a sum opens right with "
            f"errors below q/2t = 2^{log2(room):.1f}, less half a unit for each client",
        )


#: The parameters of either scheme.
Parameters = CKKSParameters | BFVParameters


@lru_cache(maxsize=64)
def ckks(bound: int, max_clients: int, seeded: bool) -> CKKSParameters:
    """The least ring for sums of ``max_clients`` vectors of integers in 0..``bound``, two in a complex slot.

    The slots of a sum, minus their middle value, are at most step * sum / sqrt(2) in size. So are the
    coefficients, which are averages of slots; they must stay below q/2. The step is as long as q allows.

    Raises :class:`HEError` if no ring is large enough.
    """
    largest = _checked(bound, max_clients)
    for degree in SUM_DEGREES:
        rounding = _rounding(degree, bound, max_clients)
        if rounding > 2.0 ** -(MARGIN_BITS + 2):
            raise HEError(
                f"got {max_clients} clients with values up to {bound}: double precision moves their sum by up "
                f"to {rounding:.1g} steps; at most {2.0 ** -(MARGIN_BITS + 2):.1g} are allowed: take he.bfv"
            )
        error = error_bound("slot", degree, max_clients, seeded)
        least = int(error / (2.0 ** -(MARGIN_BITS + 1) - rounding)) + 1
        longest = _LONGEST_ENCODING // bound
        if least > longest:
            raise HEError(
                f"got {max_clients} clients with values up to {bound}: with a step above the noise, encodings "
                "take more than 62 bits; take he.bfv"
            )
        span = largest * 3 // 2 + 4  # 3/2 is a little more than the root of two
        modulus = _primes_for(degree, least * span)
        if modulus is None:
            continue
        primes, bits = modulus
        step = (prod(primes) - 1) // span
        step = min(step, longest)
        return CKKSParameters(degree, primes, bits, int(error) + 1, step, int(error + rounding * step) + 1)
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
    for degree in SUM_DEGREES:
        plain_modulus = _prime_from(largest << MARGIN_BITS, 2 * degree)
        if plain_modulus.bit_length() > MAX_PLAIN_BITS:
            break
        error = int(error_bound("coefficient", degree, max_clients, seeded)) + 1
        modulus = _primes_for(degree, plain_modulus * (2 * error + max_clients))
        if modulus is not None:
            return BFVParameters(degree, *modulus, error, plain_modulus)
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


def _primes_for(degree: int, least: int) -> tuple[tuple[int, ...], int] | None:
    """As few primes as possible, then as short ones, whose product is at least ``least``, and their bits; or None.

    All have the same length, and their product at most RING_BITS[degree] bits.
    """
    for count in range(1, MAX_PRIMES + 1):
        shortest = max(-(-least.bit_length() // count), degree.bit_length() + 2)
        for bits in range(shortest, min(MAX_PRIME_BITS, RING_BITS[degree] // count) + 1):
            primes = ntt_primes(degree, bits, count)
            if len(primes) == count and prod(primes) >= least:
                return primes, bits
    return None


def _prime_from(least: int, modulus: int) -> int:
    """The least prime above ``least`` that is 1 modulo ``modulus``; a number above 2^60 if there is none below."""
    candidate = least - least % modulus + modulus + 1
    while not candidate >> MAX_PLAIN_BITS and not is_prime(candidate):
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
        f"got {clients} clients with values up to {bound}; no ring of degree up to {max(SUM_DEGREES)} carries "
        f"their sum exactly at {SECURITY_BITS} bits of security: take fewer bits, or fewer clients"
    )

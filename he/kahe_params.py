"""Rings for sums under keys that add up (:mod:`he.kahe`): the ones with the fewest bytes that are secure and exact.

**Distributions.** Every coefficient of a key s and of an error e is the number of heads in 128 coins, minus
64: a centred binomial of variance 32, at most 64 in size.

**Security.** The party that opens a sum learns the sum S of the keys and, for each coefficient of the ciphertexts,
the sum E of the errors. What this says of one honest client's s and e follows exactly. Let T of the 256 coins of
two honest clients be heads. Given T, the heads of one client are *hypergeometric*: the heads among 128 coins
out of 256, of which T are heads. The mean T/2 is public. The variance is 128 T/256 (1 - T/256) 128/255: 16.06 if
T = 128, 16 on average, and 14.6 at the rarest T of 10^6 coefficients. With h honest clients, it is 32 (h - 1)/h
on average. The known sums contain no product of the ring, so different coefficients stay independent. The problem
that is left is learning with errors over the ring with known centres and a standard deviation of 4.0, for s and e
alike: :data:`HINTED_DEVIATION`. :data:`MODULUS_BITS` states the most bits of q for which its core-SVP
(:func:`he.security.core_svp`) is at least 128 bits on a classical computer. It still is if the standard deviation
is 3.8 everywhere. Published tables for homomorphic encryption (:mod:`he.security`) allow a longer q.

**Exactness.** One of the 128 coins, minus its mean, is 1/2 or -1/2, and E exp(h x) = cosh(h / 2) <= exp(h^2 / 8).
So e is strictly sub-Gaussian, E exp(h e) <= exp(32 h^2 / 2), and so is a sum of n errors, with 32 n in place of
32. By Chernoff's bound, P(|E| > t) <= 2 exp(-t^2 / 64 n). Together, the at most 2^31 coefficients of a vector
leave the bound t with a probability below 2^-64 if t^2 = 64 n ln 2 (64 + 1 + 31): t = 65.3 sqrt(n). Of course
E never exceeds 64 n. :func:`error_bound` is the smaller one.

**Encoding.** A coefficient holds v values of b = bit_length(max_clients * bound) bits each, above w bits for the
error, 2^w > 2 t:  m = 2^w (x_0 + 2^b x_1 + 2^2b x_2 + ...). For a sum of up to max_clients vectors,

    m + E + 2^(w-1) lies in [0, q)    if    q > 2^w max_clients bound (1 + 2^b + ... + 2^(b (v-1))) + 2^(w-1) + t.

Value i + l * places of a segment is x_l of its coefficient i (``places`` is how many coefficients the segment
takes). So all loops run over neighbouring values.

**Guards.** At least g = ceil(64 / (log2 q - w)) coefficients after the last value hold nothing. If the key of a
sum is wrong, they are uniform modulo q, and all pass for empty with a probability of at most 2^-64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log2, prod, sqrt

from he import security
from he.errors import HEError
from he.params import FAILURE_BITS, MAX_LENGTH, MAX_PRIME_BITS, ntt_primes
from he.ring import LANES

MODULUS_BITS = {2048: 47, 4096: 91, 8192: 179}
"""Ring degree N -> the most bits of q with a classical core-SVP of 128 bits, at :data:`HINTED_DEVIATION`."""

COINS = 128
"""Coins of a coefficient of a key or an error."""

VARIANCE = COINS / 4
"""The variance of a coefficient of a key or an error."""

MAX_KEY = COINS // 2
"""The size of a key's coefficients, at most."""

HINTED_DEVIATION = 4.0
"""The standard deviation of a coefficient for those who know its sum with one other honest client's."""

MAX_CLIENTS = 1 << 24
"""The most vectors in a sum: the sum of their keys is below 2^30 in size."""

MAX_WIDTH = 62
"""Bits of the widest field, so that sums fit signed 64-bit integers."""

GUARD_BITS = 64
"""An opening with a wrong key passes for right with probability below 2^-64."""


@dataclass(frozen=True, slots=True)
class Plane:
    """The coefficients of one segment: ``places`` of them, from place ``first`` on.

    Each holds ``per_coefficient`` fields of ``width`` bits. A segment is ``length`` values in 0..``bound``.
    """

    length: int
    bound: int
    width: int
    per_coefficient: int
    first: int
    places: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """A ring of ``degree`` N modulo the product of ``primes``, and where the values of ``planes`` lie in it.

    The errors of a full sum are at most ``error`` in size, and fields begin at bit ``shift``. In all, ``places``
    coefficients are sent, a multiple of eight, of which at least ``guards`` hold nothing.
    """

    degree: int
    primes: tuple[int, ...]
    shift: int
    error: int
    planes: tuple[Plane, ...]
    guards: int
    places: int

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of each prime."""
        return tuple(prime.bit_length() for prime in self.primes)

    @property
    def modulus_bits(self) -> float:
        """log2 q."""
        return sum(log2(prime) for prime in self.primes)

    @property
    def core_svp(self) -> security.CoreSVP:
        """The cost of reading one honest client's vector, for those who open a sum with one other in it."""
        return security.core_svp(self.degree, self.modulus_bits, HINTED_DEVIATION, HINTED_DEVIATION)

    @property
    def rows(self) -> tuple[int, ...]:
        """For each group of eight polynomials, the rows of eight coefficients that are sent."""
        full, rest = divmod(self.places // LANES, self.degree)
        return (self.degree,) * full + ((rest,) if rest else ())

    @property
    def size(self) -> int:
        """Bytes of an encrypted vector, or of a sum."""
        return sum(8 * LANES * words(rows, bits) for rows in self.rows for bits in self.bits)

    def summary(self) -> str:
        """Ring, modulus, fields and security in one phrase."""
        fields = ", ".join(f"{plane.per_coefficient} of {plane.width} bits" for plane in self.planes)
        cost = self.core_svp
        return (
            f"ring degree {self.degree}, modulus of {self._modulus()}; fields in a coefficient: {fields}; core-SVP "
            f"{cost.classical:.0f} bits classical, {cost.quantum:.0f} quantum"
        )

    def describe(self) -> str:
        """Ring, modulus, errors, encoding and security with its sources, in lines for people."""
        return "\n".join(
            [
                f"ring degree {self.degree}, log2 q = {self.modulus_bits:.2f}: {self._modulus()} "
                f"({', '.join(map(str, self.primes))})",
                f"keys and errors centred binomials of {COINS} coins, standard deviation {sqrt(VARIANCE):.2f}; to "
                f"those who know the sum with one other honest client's, {HINTED_DEVIATION}",
                f"error of a full sum, proven: at most {self.error} in every coefficient, except with probability "
                f"2^-{FAILURE_BITS}; fields begin at bit {self.shift}",
                *(
                    f"segment of {plane.length} values in 0..{plane.bound}: {plane.per_coefficient} fields of "
                    f"{plane.width} bits in each of {plane.places} coefficients"
                    for plane in self.planes
                ),
                f"empty coefficients: {self.places - sum(plane.places for plane in self.planes)}; {self.guards} of "
                f"them show a wrong key except with probability 2^-{GUARD_BITS}",
                *security.describe(self.degree, self.modulus_bits, HINTED_DEVIATION, HINTED_DEVIATION),
            ]
        )

    def _modulus(self) -> str:
        count = len(self.primes)
        return f"{count} prime{'s' if count > 1 else ''} of {' and '.join(map(str, sorted(set(self.bits))))} bits"


def words(rows: int, bits: int) -> int:
    """64-bit words of one lane that hold ``rows`` residues of ``bits`` bits."""
    return -(-rows * bits // 64)


def error_bound(clients: int) -> int:
    """The size of a coefficient of the sum of ``clients`` errors, at most, except with probability 2^-64 in all."""
    demand = log(2) * (FAILURE_BITS + 1 + (2 * MAX_LENGTH).bit_length() - 1)
    return min(MAX_KEY * clients, int(sqrt(2 * VARIANCE * clients * demand)))


@lru_cache(maxsize=64)
def choose(segments: tuple[tuple[int, int], ...], max_clients: int, key_bytes: int) -> Parameters:
    """The ring with the fewest bytes for ``segments``, each a length and the largest value of one vector.

    What counts is an encrypted vector, and ``key_bytes`` for each coefficient of a key. Of equals, the least
    ring degree is chosen, then the shortest modulus. Raises :class:`HEError` if no ring carries the sums.
    """
    if sum(length for length, _ in segments) > MAX_LENGTH:
        raise HEError(f"got segments of more than {MAX_LENGTH} values in all; expected at most that many")
    widths = [(max_clients * bound).bit_length() for _, bound in segments]
    if max(widths) > MAX_WIDTH:
        raise HEError(
            f"got sums of {max(widths)} bits ({max_clients} clients with values up to "
            f"{max(bound for _, bound in segments)}); expected at most {MAX_WIDTH} bits: take fewer bits, or "
            "fewer clients"
        )
    candidates = []
    for degree, limit in MODULUS_BITS.items():
        for bits in range(1, limit + 1):
            primes = _primes(degree, bits)
            candidate = primes and _parameters(degree, primes, segments, max_clients)
            if candidate:
                cost = candidate.size + key_bytes * degree
                candidates.append(((cost, degree, bits), candidate))
    # The largest ring holds one field of any allowed width, so there are candidates.
    return min(candidates, key=lambda pair: pair[0])[1]


def _parameters(
    degree: int, primes: tuple[int, ...], segments: Sequence[tuple[int, int]], max_clients: int
) -> Parameters | None:
    """These primes as parameters; None if a field does not fit."""
    q, error = prod(primes), error_bound(max_clients)
    shift = error.bit_length() + 1
    planes: list[Plane] = []
    first = 0
    for length, bound in segments:
        width = (max_clients * bound).bit_length()
        count = _fields(q, shift, error, max_clients * bound)
        if count == 0:
            return None
        count = min(count, length)
        places = -(-length // count)
        planes.append(Plane(length, bound, width, count, first, places))
        first += places
    guards = ceil(GUARD_BITS / (log2(q) - shift))
    places = -(-(first + guards) // LANES) * LANES
    return Parameters(degree, primes, shift, error, tuple(planes), guards, places)


def _fields(q: int, shift: int, error: int, largest: int) -> int:
    """How many fields of sums up to ``largest`` a coefficient holds."""
    count, taken, width = 0, (1 << shift - 1) + error, largest.bit_length()
    while taken + (largest << width * count + shift) < q:
        taken += largest << width * count + shift
        count += 1
    return count


@lru_cache(maxsize=512)
def _primes(degree: int, bits: int) -> tuple[int, ...]:
    """As few primes as possible, whose lengths differ by at most one bit and are ``bits`` together; () if none."""
    count = -(-bits // MAX_PRIME_BITS)
    short, longer = divmod(bits, count)
    if short < degree.bit_length() + 2:
        return ()
    shorter = ntt_primes(degree, short, count - longer)
    primes = (*(ntt_primes(degree, short + 1, longer) if longer else ()), *shorter)
    return primes if len(primes) == count else ()

"""How hard lattice ciphertexts are to read: two published tables, and an estimate of our own.

An encryption hides its message as long as nobody solves *learning with errors* for its ring degree N,
its modulus q, its secret and its errors. There is no proof of how long that takes. There are attacks,
and estimates of their cost, which differ in what they count.

**Tables.** :data:`TABLES` are the two that are published for homomorphic encryption, with ternary
secrets and errors of standard deviation 3.2. They say how many bits q may have, all its primes counted,
if the best known attack shall cost 2^128 steps. Both count polynomial factors: the steps of a sieve
that finds a short vector, and how often it runs. :data:`RING_BITS` is the least of their figures.

**Core-SVP** leaves out all polynomial factors and is meant as a floor. For the same attack it is lower
than the tables: where they say 128 bits, it is 94 to 107 classical and 91 to 99 quantum. Lattice schemes
are usually compared by it, and a few lines compute it for any parameters (:func:`core_svp`). To demand
128 bits of core-SVP, quantum as well, would allow q 20 bits at N = 1024, 40 at 2048 and 80 at 4096. The
script of the 2024 guidelines gives the same limits if its quantum costs are set so.

The attack is *primal*: the secret and the errors of m samples are an unusually short vector of a lattice
of dimension k = N + m + 1, and reduction in blocks of b vectors finds it. The coordinates of the secret
are scaled to the size of the errors (S. Bai and S. D. Galbraith, 2014), so that the lattice has the
volume V = q^m (E/S)^N for errors and secrets of the standard deviations E and S. By the estimate of 2016
(E. Alkim, L. Ducas, T. Pöppelmann and P. Schwabe, *Post-quantum key exchange: a new hope*, section 6),
the least b is enough for which

    E sqrt(b) <= d^(2b - k - 1) V^(1/k),    d = ((pi b)^(1/b) b / (2 pi e))^(1 / (2b - 2)).

An upload has more samples than any attacker needs, so the attacker chooses m. In logarithms, the right
side is ln q + (2b - 1) ln d - (A / k + k ln d), where A = (N + 1) ln q - N ln(E/S). The bracket is least
at k = sqrt(A / ln d), where it is 2 sqrt(A ln d).

One sieve in a block then costs 2^(c b): c = 0.292 on a classical computer (A. Becker, L. Ducas, N. Gama
and T. Laarhoven, 2016), 0.265 with Grover's search (T. Laarhoven, M. Mosca and J. van de Pol, 2015), and
0.257 with quantum walks (A. Chailloux and J. Loyer, 2021). All of them need a memory of about 2^(0.208 b)
vectors. The quantum ones must also read this memory in superposition, which is not counted either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import e, isfinite, log, pi, sqrt

from he._numbers import real, whole
from he.errors import HEError

SECURITY_BITS = 128
"""Bits of security for which both tables are read, against classical and quantum computers."""

_LEAST_BLOCK, _LARGEST_BLOCK = 60, 1 << 17  # the formula for d holds in blocks of more than about 50


@dataclass(frozen=True, slots=True)
class Table:
    """Ring degree N -> the most bits of q, for ternary secrets and :data:`SECURITY_BITS` bits of security.

    ``source`` is the publication, and ``classical`` and ``quantum`` are its rows for the two kinds of attackers.
    """

    source: str
    classical: Mapping[int, int]
    quantum: Mapping[int, int]


TABLES = (
    Table(
        "Security Guidelines for Implementing Homomorphic Encryption, 2024 (eprint 2024/463)",
        {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430},
        {1024: 25, 2048: 50, 4096: 101, 8192: 203, 16384: 409},
    ),
    Table(
        "Homomorphic Encryption Standard, 2018 (which SEAL enforces)",
        {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438},
        {1024: 25, 2048: 51, 4096: 101, 8192: 202, 16384: 411},
    ),
)
"""The newer table first.

Its classical row is table 5.2. Its quantum row was printed in the first version of the paper; the rows are
also in the authors' repository, as the output of their script. Later versions print classical rows only.
"""

RING_BITS = {
    degree: min(min(table.classical[degree], table.quantum[degree]) for table in TABLES)
    for degree in TABLES[0].classical
}
"""Ring degree N -> the most bits of q that all four rows allow."""


@dataclass(frozen=True, slots=True)
class CoreSVP:
    """The cost of the primal attack without polynomial factors: each property is its base-2 logarithm.

    ``block`` is the length of the blocks with which the attack succeeds. 60 stands for 60 or less.
    """

    block: int

    @property
    def classical(self) -> float:
        """On a classical computer: 0.292 a block."""
        return 0.292 * self.block

    @property
    def quantum(self) -> float:
        """With the quantum sieve of 2015, on which the tables' quantum rows rest: 0.265 a block."""
        return 0.265 * self.block

    @property
    def quantum_walks(self) -> float:
        """With the quantum sieve of 2021, the fastest that is known: 0.257 a block."""
        return 0.257 * self.block


def core_svp(degree: int, modulus_bits: float, secret_deviation: float, error_deviation: float) -> CoreSVP:
    """The primal attack on samples (a, a s + e) of a ring of ``degree`` N, as many as the attacker wants.

    ``modulus_bits`` is log2 q. The coefficients of s and e have the mean 0, and the standard deviations
    ``secret_deviation`` and ``error_deviation``. A module's rank counts into N: Kyber512 has N = 512. The module's
    docstring states the estimate and its sources. Raises :class:`HEError` on arguments that are not positive
    numbers.
    """
    n = whole(degree)
    numbers = [real(value) for value in (modulus_bits, secret_deviation, error_deviation)]
    if n is None or n < 1 or not all(isfinite(number) and number > 0 for number in numbers):
        raise HEError(
            f"got degree={degree!r}, modulus_bits={modulus_bits!r}, secret_deviation={secret_deviation!r}, "
            f"error_deviation={error_deviation!r}; expected an integer of at least 1 and three positive numbers"
        )
    bits, secret, error = numbers
    low, high = _LEAST_BLOCK, _LARGEST_BLOCK
    while low < high:
        block = (low + high) // 2
        if _succeeds(block, n, bits * log(2), log(secret), log(error)):
            high = block
        else:
            low = block + 1
    return CoreSVP(low)


def _succeeds(block: int, degree: int, modulus: float, secret: float, error: float) -> bool:
    """Whether blocks of that length are enough; the last three are natural logarithms."""
    root = log((pi * block) ** (1 / block) * block / (2 * pi * e)) / (2 * block - 2)  # ln d
    demand = (degree + 1) * modulus - degree * (error - secret)  # A
    return error + log(block) / 2 <= modulus + (2 * block - 1) * root - 2 * sqrt(max(demand, 0.0) * root)


def summary(degree: int, modulus_bits: float, secret_deviation: float, error_deviation: float) -> str:
    """The security of a ring in one phrase: what the tables say, and :func:`core_svp`."""
    cost = core_svp(degree, modulus_bits, secret_deviation, error_deviation)
    core = f"core-SVP: {cost.classical:.0f} classical, {cost.quantum_walks:.0f} quantum"
    if modulus_bits <= RING_BITS.get(degree, 0):
        return f"{SECURITY_BITS} bits of security by published tables, also against quantum computers ({core})"
    return f"no published {SECURITY_BITS} bits of security ({core})"


def describe(degree: int, modulus_bits: float, secret_deviation: float, error_deviation: float) -> list[str]:
    """The security of a ring in full, with sources and with what the figures count, in lines for people.

    The arguments are those of :func:`core_svp`.
    """
    lines = []
    for table in TABLES:
        rows = [
            f"{name} up to {row[degree]} bits of q ({'kept' if modulus_bits <= row[degree] else 'EXCEEDED'})"
            for name, row in (("classical", table.classical), ("quantum", table.quantum))
            if degree in row
        ]
        stated = ", ".join(rows) or f"no row for ring degree {degree}"
        lines.append(f"{SECURITY_BITS} bits of security by the {table.source}: {stated}")
    cost = core_svp(degree, modulus_bits, secret_deviation, error_deviation)
    lines.append(
        f"core-SVP of these very parameters (our computation: primal attack, estimate of 2016, blocks of "
        f"{cost.block}): {cost.classical:.1f} bits classical (2^0.292b), {cost.quantum:.1f} quantum (2^0.265b, "
        f"Laarhoven, Mosca and van de Pol) or {cost.quantum_walks:.1f} (2^0.257b, Chailloux and Loyer)"
    )
    if degree in RING_BITS:
        limit = core_svp(degree, RING_BITS[degree], secret_deviation, error_deviation)
        lines.append(
            f"why they differ: the tables count the polynomial factors of an attack, core-SVP leaves them out as "
            f"a floor. Where the tables say {SECURITY_BITS} bits for this ring degree, at {RING_BITS[degree]} bits "
            f"of q, core-SVP is {limit.classical:.1f} classical and {limit.quantum_walks:.1f} to "
            f"{limit.quantum:.1f} quantum"
        )
    return lines

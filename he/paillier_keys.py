"""Paillier's keys, which encrypt and open single integers. :mod:`he.paillier` has vectors of small values."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from he.errors import INSTALL, CiphertextError, HEError
from he.scheme import Random

try:
    import gmpy2  # type: ignore[import-untyped]
    from gmpy2 import mpz

    from he._paillier_encryption import Encryptor, exponent_bits
    from he._powers import FixedBase, Ring, spread
    from he._primes import SMALL, draw_prime
    from he._rows import LANES
except ImportError as missing:
    needed = f"he.paillier needs gmpy2: {INSTALL}"
    raise ImportError(needed, name="gmpy2") from missing

if TYPE_CHECKING:
    import phe  # type: ignore[import-untyped]

DEFAULT_BITS = 3072
"""Bits of a modulus by default: 128 bits of security (NIST SP 800-57, part 1, table 2)."""

MIN_BITS = 2048
"""The shortest modulus that is accepted: 112 bits of security."""

MAX_BITS = 16384
"""The longest modulus that is accepted. It limits the work that another party's key can cause."""

_BASE_LABEL = b"secagg/v1/paillier-base"
_KEY_LABEL = b"secagg/v1/paillier-key"
_ROUNDS = 40  # of the test of a factor from outside, which anybody may have chosen
_MOST_THREADS = 8


class PublicKey(Encryptor):
    """The modulus ``n``, with which anybody encrypts and adds.

    A ciphertext is (1 + m n) h^α mod n² with a fresh α of |n| / 2 uniform bits. If ``textbook``, it is
    (1 + m n) r^n mod n² with r uniform (Paillier, EUROCRYPT 1999). See :mod:`he.paillier` for h, and
    for the assumption behind short exponents. Ciphertexts of both kinds, and of phe, can be added.

    Raises :class:`HEError` unless ``n`` has 2048 to 16384 bits, is neither a prime nor a power, and
    has no factor below 2^16. That does not prove that n is a product of two primes, or that its owner
    knows them.
    """

    def __init__(self, n: int, *, textbook: bool = False) -> None:
        _check_modulus(n)
        self._hold(int(n), textbook)

    def _hold(self, n: int, textbook: bool) -> None:
        self.n, self.textbook = n, textbook
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return _public, (self.n, self.textbook)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and (self.n, self.textbook) == (other.n, other.textbook)

    def __hash__(self) -> int:
        return hash((self.n, self.textbook))

    def __repr__(self) -> str:
        return f"PublicKey(bits={self.bits}, digest={self.digest.hex()[:16]}, textbook={self.textbook})"

    @property
    def bits(self) -> int:
        """Bits of the modulus."""
        return self.n.bit_length()

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the modulus, by which to pin the key."""
        return hashlib.sha256(_KEY_LABEL + self.to_bytes()).digest()

    @classmethod
    def from_phe(cls, key: "phe.PaillierPublicKey", *, textbook: bool = False) -> "PublicKey":
        """This package's key with the modulus of ``key``, which is phe's.

        Raises :class:`HEError` as the constructor does.
        """
        return cls(key.n, textbook=textbook)

    def to_phe(self) -> "phe.PaillierPublicKey":
        """phe's key with this modulus."""
        from phe import PaillierPublicKey

        return PaillierPublicKey(self.n)

    def to_bytes(self) -> bytes:
        """The modulus, big-endian, in as few bytes as possible."""
        return self.n.to_bytes(-(-self.bits // 8), "big")

    @classmethod
    def from_bytes(cls, data: bytes, bits: int = DEFAULT_BITS, *, textbook: bool = False) -> "PublicKey":
        """The key of ``bits`` bits in ``data``, from any sender. Raises :class:`HEError` if it is not one."""
        return cls(_integers(data, bits, [bits])[0], textbook=textbook)

    @cached_property
    def _ring(self) -> Ring:
        return Ring(self.n)

    @cached_property
    def _base(self) -> FixedBase:
        h = gmpy2.powmod(_seed(self.n), 2 * self.n, self.n**2)
        return FixedBase(self._ring, h, exponent_bits(self.n))

    def _obfuscators(self, count: int, executor: Executor | None, rng: Random) -> list[mpz]:
        if self.textbook:
            return self._ring.raise_all(self._units(count, rng), mpz(self.n), executor)
        exponents = self._exponents(count, rng)
        with self._lock:
            base = self._base
            return base.raise_base(exponents, executor)


class PrivateKey(Encryptor):
    """The primes ``p`` and ``q``. They open ciphertexts, and make them at about half the cost.

    Raises :class:`HEError` unless p and q are primes of equally many bits that do not share most of
    their leading bits, and p q is a modulus that :class:`PublicKey` accepts. phe's keys are accepted;
    the keys of :func:`generate` meet further conditions.
    """

    def __init__(self, p: int, q: int, *, textbook: bool = False) -> None:
        p, q = int(p), int(q)
        half = p.bit_length()
        if min(p, q) < 3 or half != q.bit_length() or not MIN_BITS <= (p * q).bit_length() <= MAX_BITS:
            raise HEError(
                f"got primes of {half} and {q.bit_length()} bits; expected primes of equal length "
                f"whose product has {MIN_BITS} to {MAX_BITS} bits"
            )
        if p == q or abs(p - q).bit_length() <= half - 100:  # FIPS 186-5, A.1.3
            raise HEError("the primes are too close to each other; generate another key")
        if not (gmpy2.is_prime(mpz(p), _ROUNDS) and gmpy2.is_prime(mpz(q), _ROUNDS)):
            raise HEError("a factor of the modulus is not prime; the key is damaged or was never valid")
        self._hold(p, q, PublicKey(p * q, textbook=textbook))

    @classmethod
    def _of_new_primes(cls, p: int, q: int, textbook: bool) -> "PrivateKey":
        """The key of two primes from :func:`generate`, which need no second test."""
        public = PublicKey.__new__(PublicKey)
        public._hold(p * q, textbook)
        key = cls.__new__(cls)
        key._hold(p, q, public)
        return key

    def _hold(self, p: int, q: int, public: PublicKey) -> None:
        self.p, self.q, self.public = p, q, public
        self.n, self.textbook = public.n, public.textbook
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return _private, (self.p, self.q, self.textbook)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and (self.p, self.q, self.textbook) == (
            other.p,
            other.q,
            other.textbook,
        )

    def __hash__(self) -> int:
        return hash((self.n, self.textbook))

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public!r})"

    @classmethod
    def from_phe(cls, key: "phe.PaillierPrivateKey", *, textbook: bool = False) -> "PrivateKey":
        """This package's key with the primes of ``key``, which is phe's.

        Raises :class:`HEError` as the constructor does.
        """
        return cls(key.p, key.q, textbook=textbook)

    def to_phe(self) -> "phe.PaillierPrivateKey":
        """phe's key with these primes."""
        from phe import PaillierPrivateKey

        return PaillierPrivateKey(self.public.to_phe(), self.p, self.q)

    def to_bytes(self) -> bytes:
        """The key, secret: n, p and q, big-endian, each in as few bytes as possible."""
        half = -(-self.p.bit_length() // 8)
        return self.public.to_bytes() + self.p.to_bytes(half, "big") + self.q.to_bytes(half, "big")

    @classmethod
    def from_bytes(cls, data: bytes, bits: int = DEFAULT_BITS, *, textbook: bool = False) -> "PrivateKey":
        """The key of ``bits`` bits that :meth:`to_bytes` wrote as ``data``.

        Raises :class:`HEError` for other bytes.
        """
        n, p, q = _integers(data, bits, [bits, -(-bits // 2), -(-bits // 2)])
        if p * q != n:
            raise HEError("the modulus is not the product of the primes; the key is damaged")
        return cls(p, q, textbook=textbook)

    def decrypt_integers(self, ciphertexts: Iterable[int], executor: Executor | None = None) -> list[int]:
        """The plaintext in [0, n) of each of ``ciphertexts``.

        The work is split over ``executor``, where threads save time; the default is this thread.
        Raises :class:`CiphertextError`, and opens none, if one is outside (1, n²) or shares a factor
        with n.
        """
        return spread(executor, _decrypt, check_ciphertexts(ciphertexts, self.n), *self._rings, step=LANES)

    @cached_property
    def _rings(self) -> tuple[Ring, Ring]:
        return Ring(self.p), Ring(self.q)

    @cached_property
    def _bases(self) -> list[FixedBase]:
        x, bits = _seed(self.n), exponent_bits(self.n)
        powers = (
            gmpy2.powmod(x, 2 * self.n % (prime * (prime - 1)), ring.modulus)
            for prime, ring in zip((self.p, self.q), self._rings, strict=True)
        )
        return [FixedBase(ring, h, bits) for ring, h in zip(self._rings, powers, strict=True)]

    def _obfuscators(self, count: int, executor: Executor | None, rng: Random) -> list[mpz]:
        if self.textbook:
            units = self._units(count, rng)
            halves = [
                ring.raise_all(
                    [unit % ring.modulus for unit in units], mpz(self.n % (prime * (prime - 1))), executor
                )
                for prime, ring in zip((self.p, self.q), self._rings, strict=True)
            ]
        else:
            exponents = self._exponents(count, rng)
            with self._lock:
                halves = [base.raise_base(exponents, executor) for base in self._bases]
        p_square, q_square = (ring.modulus for ring in self._rings)
        inverse = gmpy2.invert(p_square, q_square)
        return [x + p_square * ((y - x) * inverse % q_square) for x, y in zip(*halves, strict=True)]


def generate(bits: int = DEFAULT_BITS, *, textbook: bool = False, rng: Random = os.urandom) -> PrivateKey:
    """A fresh key with a modulus of ``bits`` bits that meets the conditions of Damgård, Jurik and Nielsen.

    The decryptor runs it, as often as once a session. p ≡ q ≡ 3 mod 4 and gcd(p - 1, q - 1) = 2. So the squares of
    n-th powers modulo n² form a cyclic group, and h generates it except with negligible probability. p is a random
    prime, q a random prime among those that fit p. Each is composite with probability below 2^-128
    (:mod:`he._primes`). It uses all cores, by threads of its own. ``textbook`` is that of :class:`PublicKey`.
    ``rng(k)`` returns k random bytes, from which the key follows however many cores there are. Raises
    :class:`HEError` unless ``bits`` is an even number from 2048 to 16384.
    """
    if bits % 2 or not MIN_BITS <= bits <= MAX_BITS:
        raise HEError(f"got {bits} bits of modulus; expected an even number from {MIN_BITS} to {MAX_BITS}")
    half, threads = bits // 2, min(os.cpu_count() or 1, _MOST_THREADS)
    with ThreadPoolExecutor(threads, "paillier-primes") as executor:
        p = draw_prime(half, rng, executor, threads)
        q = draw_prime(half, rng, executor, threads, lambda q: _fit(p, q))
    return PrivateKey._of_new_primes(int(p), int(q), textbook)


def check_ciphertexts(ciphertexts: Iterable[int], n: int) -> list[mpz]:
    """``ciphertexts`` as GMP's integers, once each is an integer in (1, n²) that shares no factor with ``n``.

    Raises :class:`CiphertextError`, naming the first that is not.
    """
    modulus = mpz(n)
    square = modulus * modulus
    numbers: list[mpz] = []
    for i, ciphertext in enumerate(ciphertexts):
        if isinstance(ciphertext, bool) or not isinstance(ciphertext, (int, type(modulus))):
            raise CiphertextError(f"ciphertext {i} is of {type(ciphertext).__name__}; expected an integer")
        number = mpz(ciphertext)
        if not 1 < number < square:
            raise CiphertextError(f"ciphertext {i} is out of range; expected more than 1 and less than n²")
        numbers.append(number)
    # One gcd for all: a factor of n that divides one of them divides their product.
    product = mpz(1)
    for number in numbers:
        product = product * number % modulus
    if gmpy2.gcd(product, modulus) != 1:
        i = next(i for i, number in enumerate(numbers) if gmpy2.gcd(number, modulus) != 1)
        raise CiphertextError(f"ciphertext {i} shares a factor with the modulus; expected a unit modulo n²")
    return numbers


def _decrypt(numbers: Sequence[mpz], modulo_p: Ring, modulo_q: Ring) -> list[int]:
    """The plaintext of each of ``numbers``, which were checked."""
    p, q = modulo_p.root, modulo_q.root
    halves = []
    for prime, other, ring in ((p, q, modulo_p), (q, p, modulo_q)):
        powers = ring.raise_all([number % ring.modulus for number in numbers], prime - 1)
        # (1 + n)^(p-1) = 1 + (p-1) n, whose L is -q modulo p.
        scale = gmpy2.invert(-other, prime)
        halves.append([(power - 1) // prime * scale % prime for power in powers])
    inverse = gmpy2.invert(p, q)
    return [int(x + p * ((y - x) * inverse % q)) for x, y in zip(*halves, strict=True)]


def _fit(p: mpz, q: mpz) -> bool:
    """Whether p and q are far apart (FIPS 186-5, A.1.3), and p - 1 and q - 1 share only the factor 2."""
    return bool(abs(p - q).bit_length() > p.bit_length() - 100 and gmpy2.gcd(p - 1, q - 1) == 2)


def _seed(n: int) -> mpz:
    """x = SHAKE-256(label ‖ n) modulo n, read big-endian. 128 bits more than n has make it uniform."""
    size = -(-n.bit_length() // 8)
    x = mpz.from_bytes(hashlib.shake_256(_BASE_LABEL + n.to_bytes(size, "big")).digest(size + 16), "big") % n
    if gmpy2.gcd(x, n) != 1:
        raise HEError("the modulus shares a factor with a number computed from it; generate another key")
    return x


def _check_modulus(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, (int, type(mpz()))):
        raise HEError(f"got a modulus of {type(n).__name__}; expected an integer")
    bits = n.bit_length()
    if n < 0 or not MIN_BITS <= bits <= MAX_BITS:
        raise HEError(f"got a modulus of {bits} bits; expected {MIN_BITS} to {MAX_BITS}, positive")
    number = mpz(n)
    if gmpy2.gcd(number, _primorial()) != 1:
        raise HEError(f"the modulus has a factor below {SMALL}; expected a product of two large primes")
    if gmpy2.is_prime(number) or gmpy2.is_power(number):
        raise HEError("the modulus is a prime or a power; expected a product of two distinct primes")


@cache
def _primorial() -> mpz:
    return gmpy2.primorial(SMALL)


def _integers(data: bytes, bits: int, widths: Sequence[int]) -> list[int]:
    """The big-endian integers of exactly ``widths`` bits each that make up ``data``, one after the other."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise HEError(f"got {bits} bits of modulus; expected {MIN_BITS} to {MAX_BITS}")
    sizes = [-(-width // 8) for width in widths]
    if not isinstance(data, bytes) or len(data) != sum(sizes):
        raise HEError(f"got a key of {_length(data)}; expected {sum(sizes)} bytes for {bits} bits of modulus")
    integers, at = [], 0
    for width, size in zip(widths, sizes, strict=True):
        integer = int.from_bytes(data[at : at + size], "big")
        if integer.bit_length() != width:
            raise HEError(f"got a number of {integer.bit_length()} bits in a key; expected {width}")
        integers.append(integer)
        at += size
    return integers


def _length(data: object) -> str:
    return f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__


def _public(n: int, textbook: bool) -> PublicKey:
    return PublicKey(n, textbook=textbook)


def _private(p: int, q: int, textbook: bool) -> PrivateKey:
    return PrivateKey(p, q, textbook=textbook)

"""What encrypts for CKKS and BFV: the interface of engines, and the engine of this package's kernels.

An encryption of m with a public key (b, a), b = -(a s + e), is (b u + e' + m, a u + e''), with u ternary and
the errors e, e' and e'' centred binomials. With the secret key itself it is (e + m - a s, a), with a drawn
from a public seed. These are SEAL's distributions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he._buffer import Buffer, Part
from he._rlwe_format import DIGEST_BYTES, SEED_BYTES, Format, blocks
from he._workers import run_all
from he.errors import HEError
from he.ring import LANES, Factor, Field, _lanes, lanes, sampling
from he.ring.streams import Stream, aes_ctr, derive
from he.scheme import Random

Words = NDArray[np.uint64]
Small = NDArray[np.int8]

BLOCK = 16
"""Ciphertexts in one piece of work: so few that its memory is used again for the next piece."""


@dataclass(frozen=True, eq=False, repr=False)
class EncryptionKey:
    """What encrypts: the packed rows of a public key, or the coefficients (N) of a secret. The other is None."""

    scheme: Format
    public: Words | None
    secret: Small | None

    @cached_property
    def factors(self) -> list[tuple[Factor, ...]]:
        """For each prime, the values of a public key's two polynomials, or of the secret."""
        fields = self.scheme._fields
        if self.public is None:
            assert self.secret is not None
            return [(field.factor(values_of(self.secret, field)),) for field in fields]
        firsts, seconds = np.split(self.rows, 2)
        return [(f.factor(b.copy()), f.factor(a.copy())) for f, b, a in zip(fields, firsts, seconds, strict=True)]

    @property
    def rows(self) -> Words:
        """The residues (2 * primes, N) of the public key."""
        assert self.public is not None
        (group,) = self.scheme._groups(self.public, 2 * len(self.scheme._fields))
        return np.ascontiguousarray(self.scheme._unpacked([group])[0, :, :, 0])


class Engine(ABC):
    """Draws keys, and encrypts."""

    deterministic: ClassVar[bool]
    """Whether keys and ciphertexts follow from what ``rng`` returns."""

    on_threads: ClassVar[bool]
    """Whether a pool of threads makes encryption faster."""

    @abstractmethod
    def generate(self, scheme: Format, rng: Random) -> tuple[Small, Words | None]:
        """A secret (N coefficients in -1, 0, 1) and, unless seeded, the packed rows of its public key."""

    @abstractmethod
    def seed(self, rng: Random) -> bytes:
        """The seed of one vector's encryption."""

    @abstractmethod
    def encrypt_block(
        self, key: EncryptionKey, seed: bytes, first: int, values: NDArray[Any], part: Part[np.uint64]
    ) -> tuple[Words, bytes]:
        """Write the ciphertexts of ``values`` (k, slots) to ``part``: ciphertext ``first`` and those after it.

        Returns the words of ``part``, and seeds to send.
        """

    @abstractmethod
    def second(self, scheme: Format, seeds: bytes) -> Callable[[int], Words]:
        """A function that returns the second polynomials (primes, N, 8) of a group, for a vector with ``seeds``."""


def encrypt(
    engine: Engine, key: EncryptionKey, values: NDArray[Any], executor: Executor | None, rng: Random
) -> bytes:
    """``values``, integers in 0..``bound``, as an encrypted vector; the work is split over ``executor``."""
    scheme = key.scheme
    rows, seed = _padded(scheme, values), engine.seed(rng)
    out, end = Buffer(scheme.size(len(values))), DIGEST_BYTES + 8 * len(rows) * scheme._stride
    out.write(0, scheme._tag(b""))
    out.write(end, _written(engine, key, seed, rows, out, executor))
    return out.contents()


def _written(
    engine: Engine, key: EncryptionKey, seed: bytes, rows: NDArray[Any], out: Buffer, executor: Executor | None
) -> bytes:
    """Write the ciphertexts of ``rows`` (k, slots) to ``out``. Returns the seeds to send."""
    calls, first, stride = [], 0, key.scheme._stride
    for block in blocks(rows, BLOCK):
        part = Part(out.words(DIGEST_BYTES + 8 * first * stride, len(block) * stride))
        calls.append((key, seed, first, block, part))
        first += len(block)
    written: Iterable[tuple[Words, bytes]]
    if executor is None or len(calls) == 1:
        written = (engine.encrypt_block(*call) for call in calls)
    else:
        written = run_all(executor, engine.encrypt_block, calls)
    seeds = []
    for (*_, part), (words, drawn) in zip(calls, written, strict=True):
        part.take(words)
        seeds.append(drawn)
    return b"".join(seeds)


def _padded(scheme: Format, values: NDArray[Any]) -> NDArray[Any]:
    """``values``, checked, as rows of slots, padded with zeros, in the narrowest words that hold them."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise HEError(f"got an array of {array.dtype} with shape {array.shape}; expected a flat one of integers")
    count = scheme._ciphertexts(array.size)
    if array.min() < 0 or array.max() > scheme.bound:
        at = int(np.argmax((array < 0) | (array > scheme.bound)))
        raise HEError(f"the value at {at} is {array[at]}; expected integers in 0..{scheme.bound}")
    rows = np.zeros(count * scheme.slots, dtype=np.min_scalar_type(scheme.bound))
    rows[: array.size] = array
    return rows.reshape(count, scheme.slots)


class RingEngine(Engine):
    """Keys and ciphertexts by the kernels of :mod:`he.ring`, all drawn from a seed of 32 bytes."""

    deterministic, on_threads = True, True

    def generate(self, scheme: Format, rng: Random) -> tuple[Small, Words | None]:
        """See :meth:`Engine.generate`."""
        seed, p = self.seed(rng), scheme.parameters
        sampler = sampling.Sampler(p.degree)
        secret = sampler.ternary(_stream(scheme, seed, b"secret"), 0).copy()
        if scheme.seeded:
            return secret[:, 0], None
        error = sampler.binomial(_stream(scheme, seed, b"error of the key"), 0)
        key, product = lanes(1, 2 * len(p.primes), p.degree), lanes(p.degree)
        seconds = key[0, len(p.primes) :]
        _uniform(scheme, _public_seed(scheme, seed))(0, seconds)
        for first, second, field in zip(key[0], seconds, scheme._fields, strict=False):
            _lift(error, field, first)
            product[:] = second
            field.multiply(product, field.factor(values_of(secret[:, 0], field)))
            field.add(first, product)
            field.scale(first, -1)
        return secret[:, 0], scheme._packed(key, 1)

    def seed(self, rng: Random) -> bytes:
        """See :meth:`Engine.seed`."""
        seed = rng(SEED_BYTES)
        if type(seed) is not bytes or len(seed) != SEED_BYTES:
            got = (
                f"{len(seed)} bytes" if type(seed) is bytes else type(seed).__name__
            )  # not the bytes: they are secret
            raise HEError(f"got {got} from rng({SEED_BYTES}); expected {SEED_BYTES} bytes")
        return seed

    def encrypt_block(
        self, key: EncryptionKey, seed: bytes, first: int, values: NDArray[Any], part: Part[np.uint64]
    ) -> tuple[Words, bytes]:
        """See :meth:`Engine.encrypt_block`."""
        scheme = key.scheme
        encryptor = (_SecretEncryptor if scheme.seeded else _PublicEncryptor)(key, seed)
        groups = zip(blocks(values, LANES), scheme._groups(part.array, scheme._rows), strict=True)
        for place, (group, words) in enumerate(groups, start=first // LANES):
            scheme._pack(encryptor.encrypted(place, eight_rows(group)), words)
        sent = _public_seed(scheme, seed) if scheme.seeded and not first else b""
        return part.array, sent

    def second(self, scheme: Format, seeds: bytes) -> Callable[[int], Words]:
        """See :meth:`Engine.second`."""
        fill, out = _uniform(scheme, seeds), lanes(len(scheme._fields), scheme.parameters.degree)
        return lambda group: fill(group, out)


class _Encryptor(ABC):
    """Encrypts group after group, in arrays that all of them share and that stay in a second-level cache."""

    def __init__(self, key: EncryptionKey, seed: bytes) -> None:
        self._scheme, self._factors = key.scheme, key.factors
        degree, primes = self._scheme.parameters.degree, len(self._scheme.parameters.primes)
        self._stream = _stream(self._scheme, seed, b"encryption")
        self._sampler = sampling.Sampler(degree)
        self._rows = lanes((1 if self._scheme.seeded else 2) * primes, degree)
        self._firsts, self._seconds = self._rows[:primes], self._rows[primes:]
        self._spare = lanes(degree)

    @abstractmethod
    def encrypted(self, group: int, values: NDArray[Any]) -> Words:
        """The rows to send of encryptions of ``values`` (8, slots). The next call overwrites them."""

    def _with_error(self, row: Words, error: Small, field: Field) -> None:
        """Add ``error`` to a message, and transform both."""
        _lanes.add_small(row, error, np.uint64(field.prime))
        field.forward(row)


class _SecretEncryptor(_Encryptor):
    """Encryptions (e + m - a s, a)."""

    def __init__(self, key: EncryptionKey, seed: bytes) -> None:
        super().__init__(key, seed)
        self._uniform = _uniform(self._scheme, _public_seed(self._scheme, seed))
        self._products = lanes(len(self._scheme._fields), self._scheme.parameters.degree)

    def encrypted(self, group: int, values: NDArray[Any]) -> Words:
        """See :meth:`_Encryptor.encrypted`."""
        self._scheme._encode(values, self._firsts, self._spare)
        error, products = self._sampler.binomial(self._stream, group), self._uniform(group, self._products)
        for field, (secret,), row, product in zip(
            self._scheme._fields, self._factors, self._firsts, products, strict=True
        ):
            self._with_error(row, error, field)
            field.multiply(product, secret)
            field.subtract(row, product)
        return self._rows


class _PublicEncryptor(_Encryptor):
    """Encryptions (b u + e' + m, a u + e'')."""

    def encrypted(self, group: int, values: NDArray[Any]) -> Words:
        """See :meth:`_Encryptor.encrypted`."""
        self._scheme._encode(values, self._firsts, self._spare)
        carrier, error, other = self._sampler.encryption(self._stream, group)
        carried = self._spare
        for field, (b, a), first, second in zip(
            self._scheme._fields, self._factors, self._firsts, self._seconds, strict=True
        ):
            _lift(carrier, field, carried)
            self._with_error(first, error, field)
            field.add_product(first, carried, b)
            _lift(other, field, second)
            field.add_product(second, carried, a)
        return self._rows


def values_of(small: Small, field: Field) -> Words:
    """The values (N) of a polynomial with small coefficients (N)."""
    group, values = np.zeros((small.size, LANES), dtype=np.int8), lanes(small.size)
    group[:, 0] = small
    _lift(group, field, values)
    return values[:, 0].copy()


def _lift(small: Small, field: Field, out: Words) -> None:
    """Write the values of eight polynomials with small coefficients (N, 8) to ``out``."""
    _lanes.lift(small, np.uint64(field.prime), out)
    field.forward(out)


def eight_rows(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` (k, slots), padded with rows of zeros to eight."""
    if len(values) == LANES:
        return values
    padded = np.zeros((LANES, values.shape[1]), dtype=values.dtype)
    padded[: len(values)] = values
    return padded


def _stream(scheme: Format, seed: bytes, purpose: bytes) -> Stream:
    return aes_ctr(derive(seed, b"he/v2/ring", scheme.digest, purpose))


def _public_seed(scheme: Format, seed: bytes) -> bytes:
    """The seed of an upload's second polynomials, which the server gets."""
    return derive(seed, b"he/v2/ring", scheme.digest, b"second polynomials")


def _uniform(scheme: Format, seed: bytes) -> Callable[[int, Words], Words]:
    """A function that fills an array with the uniform polynomials (primes, N, 8) of a group, and returns it."""
    streams = [_stream(scheme, seed, b"uniform/%d" % field.prime) for field in scheme._fields]

    def fill(group: int, out: Words) -> Words:
        for field, stream, part in zip(scheme._fields, streams, out, strict=True):
            sampling.uniform(stream, group, field, part)
        return out

    return fill

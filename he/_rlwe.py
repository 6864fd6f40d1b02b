"""What CKKS and BFV have in common: a scheme makes and loads keys, and begins sums.

:mod:`he._rlwe_format` has the byte formats, :mod:`he._rlwe_keys` the keys and sums.
"""

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from he import _rlwe_keys, scheme
from he._rlwe_format import DIGEST_BYTES, SEED_BYTES, Format
from he._rlwe_keys import COUNTS, NAME_BYTES, Adder, PublicKey, SecretKey, engine_of, polynomials, upload
from he.errors import CiphertextError, HEError


@dataclass(frozen=True)
class Scheme(Format):
    """Sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    ``seeded=False``: clients encrypt with a public key; another party holds its secret key.
    ``seeded=True``: clients share the secret key, for half the bytes. Then one client that colludes
    with the server reads every client's vector.

    ``engine="ring"``: this package's kernels draw keys and encrypt. ``engine="seal"``: SEAL does, through
    TenSEAL. Sums are added up and opened in the same way, and all distributions are the same.

    Raises :class:`he.errors.HEError` if no ring of 128 bits of security, classical and quantum,
    carries the sums.
    """

    @property
    def encrypts_on_threads(self) -> bool:
        """Whether a pool of threads makes encryption faster. Under ``engine="seal"`` it doesn't."""
        return engine_of(self).on_threads

    @property
    def deterministic(self) -> bool:
        """Whether keys and ciphertexts follow from ``rng``. Under ``engine="seal"`` they don't."""
        return engine_of(self).deterministic

    def generate(self, rng: scheme.Random = os.urandom) -> SecretKey:
        """A fresh secret key, with its public key unless the scheme is seeded.

        It follows from ``rng``, which is asked for 32 bytes; under ``engine="seal"`` SEAL draws it.
        """
        secret, words = engine_of(self).generate(self, rng)
        return SecretKey(self, secret, None if words is None else PublicKey(self, words))

    def secret_from_seed(self, seed: bytes) -> SecretKey:
        """The secret key of ``seed`` (32 uniform, secret bytes): the same for all who know the seed.

        Each coefficient is uniform in -1, 0, 1: two bits of SHAKE-256(label, digest, seed); pairs of
        bits that are both set are passed over. Raises :class:`HEError` unless the scheme is seeded
        and the seed has 32 bytes.
        """
        if not self.seeded or len(seed) != SEED_BYTES:
            raise HEError(f"got a seed of {len(seed)} bytes; expected {SEED_BYTES}, and a seeded scheme")
        degree = self.parameters.degree
        # Twice as many pairs of bits as coefficients: too few remain once in 2^400.
        octets = hashlib.shake_256(b"he/v1/secret-key" + self.digest + seed).digest(degree // 2)
        pairs = (np.frombuffer(octets, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
        kept = pairs.reshape(-1)[pairs.reshape(-1) < 3][:degree]
        return SecretKey(self, kept.astype(np.int8) - 1, None)

    def load_secret(self, data: bytes) -> SecretKey:
        """The key that :meth:`SecretKey.to_bytes` wrote as ``data``.

        Raises :class:`HEError` for any other bytes.
        """
        return _rlwe_keys.load_secret(self, data)

    def load_public(self, data: bytes) -> PublicKey:
        """The public key in ``data``, from any sender. Raises :class:`HEError` if it is not a key."""
        return _rlwe_keys.load_public(self, data)

    def adder(self, length: int, public: scheme.PublicKey | None = None) -> Adder:
        """An empty sum of vectors of ``length`` values. Lattice sums need no key; ``public`` is for Paillier's."""
        return Adder(self, length, self._empty(length), set())

    def load_adder(self, data: bytes, length: int, public: scheme.PublicKey | None = None) -> Adder:
        """The sum that :meth:`Adder.to_bytes` wrote as ``data``; see :meth:`he.scheme.Scheme.load_adder`.

        Raises :class:`HEError` for any other bytes.
        """
        # The count comes first, and says how long the rest is.
        count = (
            int.from_bytes(data[DIGEST_BYTES + 8 : DIGEST_BYTES + 16], "little") if isinstance(data, bytes) else 0
        )
        expected = self.total_size(length) + COUNTS.size + min(count, self.max_clients) * NAME_BYTES
        body = self._body(data, b"running sum", expected, HEError)
        stated, count = COUNTS.unpack_from(body)
        if stated != length or count > self.max_clients:
            raise HEError(
                f"got the state of a sum of {count} vectors of {stated} values; expected up to {self.max_clients} "
                f"vectors of {length}"
            )
        end = COUNTS.size + count * NAME_BYTES
        seen = {bytes(body[at : at + NAME_BYTES]) for at in range(COUNTS.size, end, NAME_BYTES)}
        if len(seen) != count:
            raise HEError("got the state of a sum that names a vector twice: the bytes are damaged")
        groups = self._reduced(body[end:], 2 * len(self._fields), "sum", HEError)
        return Adder(self, length, self._unpacked(groups), seen)

    def secret_from_tenseal(self, context: bytes) -> SecretKey:
        """The secret key in a context of TenSEAL's: ``context.serialize(save_secret_key=True)``.

        The context is one that :meth:`SecretKey.to_tenseal` wrote or, where ``parameters`` have several
        primes, one that TenSEAL made with the same. Raises :class:`HEError` on any other.
        """
        from he import _tenseal_keys

        return _tenseal_keys.secret_key(self, context)

    def public_from_tenseal(self, context: bytes) -> PublicKey:
        """The public key in a context of TenSEAL's, serialized, from any sender, as :meth:`secret_from_tenseal`."""
        from he import _tenseal_keys

        return _tenseal_keys.public_key(self, context)

    def to_tenseal(self, data: bytes, length: int) -> bytes:
        """An encrypted vector or sum of ``length`` values as a vector of TenSEAL's, serialized.

        ``tenseal.bfv_vector_from`` or ``ckks_vector_from`` loads it in a context with its key. ``decrypt()``
        there returns the values, and zeros up to a multiple of ``slots``; from CKKS as floats that are
        within 2^-8 of an integer. Round them; their fractions are noise, which reveals the key.

        ``data`` may come from any sender. Raises :class:`he.errors.CiphertextError` unless it is an encrypted
        vector or sum.
        """
        from he import _tenseal_vectors

        count = self._ciphertexts(length)
        if isinstance(data, bytes) and data[:DIGEST_BYTES] == self._tag(b"sum"):
            body = self._body(data, b"sum", self.total_size(length), CiphertextError)
            groups, seeds = self._reduced(body, 2 * len(self._fields), "sum", CiphertextError), b""
        else:
            groups, seeds = upload(self, data, length)
        return _tenseal_vectors.vector_bytes(self, polynomials(self, groups, seeds), count)

    def from_tenseal(self, data: bytes, length: int) -> bytes:
        """A vector or sum of TenSEAL's, serialized, from any sender, as an encrypted sum of ``length`` values.

        :meth:`SecretKey.open` opens it. :meth:`Adder.fold_tenseal` says which vectors are accepted, and
        adds single ones. Raises :class:`he.errors.CiphertextError` on any others.
        """
        from he import _tenseal_vectors

        return self._tag(b"sum") + _tenseal_vectors.vector_words(self, data, self._ciphertexts(length)).tobytes()

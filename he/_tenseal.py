"""TenSEAL's serialized contexts, and keys of CKKS and BFV. Neither TenSEAL nor SEAL runs here.

What is read comes from any sender: every length, number and header is compared with what the parameters
demand, residues with their primes, and what is compressed states its exact size first. What is written is laid
out anew, from numbers that were checked.

**Primes.** TenSEAL's contexts set the last of several primes apart, for switching keys, which no sum
needs. Where this package's parameters have several primes, a context gets one more, of
:data:`SPECIAL_BITS` bits. The primes are in the order in which ``tenseal.context`` makes them.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from he import _protobuf, _seal_bytes
from he._rlwe_encryption import values_of
from he._rlwe_format import Format
from he._seal_bytes import Layout
from he.errors import HEError
from he.params import RING_BITS, CKKSParameters, ntt_primes
from he.ring import LANES, Field, field, lanes, sampling
from he.ring.streams import aes_ctr, derive

Words = NDArray[np.uint64]
Small = NDArray[np.int8]
Data = bytes | memoryview

SPECIAL_BITS = 17
"""Bits of the prime that a context sets apart if there are several: short, since the modulus with it is bounded."""

MINOR = 3
"""SEAL 4.3 is written, as TenSEAL 0.3.17 and 0.3.18 have it. SEAL refuses any other version than its own."""

_LABEL = b"he/v2/tenseal"
_ASYMMETRIC, _SYMMETRIC = 0, 1
_AUTO_FLAGS = 7  # TenSEAL's default; they concern products only


@dataclass(frozen=True, eq=False, repr=False)
class ContextKeys:
    """What a context holds: a secret (N coefficients) or None, and a public key (2 * primes, N) or None."""

    secret: Small | None
    public: Words | None


@dataclass(frozen=True, eq=False)
class Chain:
    """The primes of a context, and where this package has them."""

    primes: tuple[int, ...]
    order: tuple[int, ...]  # the place in this package's parameters of each prime that ciphertexts have
    key: bytes  # SEAL's identifier of all primes
    data: bytes  # of those that ciphertexts have

    def layout(self, degree: int, minor: int, *, key: bool) -> Layout:
        """The layout of keys, or of ciphertexts."""
        count = len(self.primes) if key else len(self.order)
        return Layout(self.key if key else self.data, degree, count, minor)


@lru_cache(maxsize=16)
def chain_of(scheme: Format) -> Chain:
    """The primes of a context for ``scheme``. Raises :class:`HEError` if they are too long together."""
    p = scheme.parameters
    order = tuple(sorted(range(len(p.primes)), key=lambda i: p.primes[i]))
    ordered = tuple(p.primes[i] for i in order)
    special = ntt_primes(p.degree, SPECIAL_BITS, 1) if len(ordered) > 1 else ()
    primes = ordered + special
    if sum(map(log2, primes)) > RING_BITS[p.degree]:
        raise HEError(
            f"the ciphertext modulus of {p.modulus_bits:.0f} bits leaves no room for the {SPECIAL_BITS} bits that "
            f"TenSEAL needs as well: take fewer bits, or fewer clients"
        )
    return Chain(primes, order, _seal_bytes.identifier(p, primes), _seal_bytes.identifier(p, ordered))


def scale_of(scheme: Format) -> float:
    """The scale at which TenSEAL encrypts: the step, or 1 under BFV."""
    p = scheme.parameters
    return float(p.step) if isinstance(p, CKKSParameters) else 1.0


def context_bytes(scheme: Format, secret: Small | None, public: Words | None) -> bytes:
    """A context with a secret (N coefficients), a public key (2 * primes, N), or both."""
    p, chain = scheme.parameters, chain_of(scheme)
    layout = chain.layout(p.degree, MINOR, key=True)
    fields = [field(p.degree, prime) for prime in chain.primes]
    values = None if secret is None else np.stack([values_of(secret, f) for f in fields])
    shared = _protobuf.double(3, scale_of(scheme) if isinstance(p, CKKSParameters) else -1.0)
    shared = _protobuf.number(2, _AUTO_FLAGS) + shared
    if public is not None:
        rows = public if len(chain.primes) == 1 else _public_rows(secret, chain, fields)
        members = layout.ciphertext(True, rows.size) + rows.tobytes()
        shared = _protobuf.octets(1, layout.framed(members)) + shared
    stated = layout.framed(_seal_bytes.parameters(p, chain.primes, MINOR))
    out = _protobuf.octets(1, stated) + _protobuf.octets(2, shared)
    if values is not None:
        out += _protobuf.octets(3, _protobuf.octets(1, layout.framed(layout.plain(values.size) + values.tobytes())))
    return out + (_protobuf.number(4, _SYMMETRIC) if scheme.seeded else b"")


def _seed_of(secret: Small, chain: Chain) -> bytes:
    """The randomness of the public key of ``secret`` in a context."""
    return hashlib.sha256(_LABEL + chain.key + secret.tobytes()).digest()


def _public_rows(secret: Small | None, chain: Chain, fields: list[Field]) -> Words:
    """A public key (2 * primes, N) of ``secret`` modulo all primes of a context. It follows from the secret.

    It is a new one, with an error of its own. The scheme's public key, taken modulo the prime set apart as
    well, would keep its error; and two such keys, ours and one that TenSEAL made, would differ by (a - a') s, an
    equation without noise.
    """
    if secret is None:
        raise HEError(
            "the public key of a context of several primes can be made by the holder of the secret key only: take "
            "SecretKey.to_tenseal, and let TenSEAL serialize its context without the secret key"
        )
    degree, label, seed = len(secret), _LABEL, _seed_of(secret, chain)
    error = sampling.Sampler(degree).binomial(aes_ctr(derive(seed, label, b"error")), 0)[:, 0].copy()
    firsts, seconds = [], []
    for modulo in fields:
        second, first = lanes(degree), lanes(degree)
        sampling.uniform(aes_ctr(derive(seed, label, b"uniform/%d" % modulo.prime)), 0, modulo, second)
        first[:] = second
        modulo.multiply(first, modulo.factor(values_of(secret, modulo)))
        modulo.add(first, np.repeat(values_of(error, modulo)[:, None], LANES, axis=1))
        modulo.scale(first, -1)
        firsts.append(first[:, 0])
        seconds.append(second[:, 0])
    return np.stack(firsts + seconds)


def read_context(scheme: Format, data: bytes) -> ContextKeys:
    """The keys in a context that TenSEAL serialized, from any sender.

    Raises :class:`HEError` unless its parameters are the scheme's, and its keys well-formed.
    """
    p, chain = scheme.parameters, chain_of(scheme)
    if not isinstance(data, bytes):
        raise HEError(f"got a context of type {type(data).__name__}; expected the bytes of its serialize()")
    outer = _protobuf.fields(data, "a TenSEAL context", {1: 2, 2: 2, 3: 2, 4: 0})
    if outer.get(4, _ASYMMETRIC) != (_SYMMETRIC if scheme.seeded else _ASYMMETRIC):
        kind = "symmetric" if scheme.seeded else "public-key"
        raise HEError(f"got a TenSEAL context of another kind of encryption; expected a {kind} one")
    stated = outer.get(1, b"")
    expected = _seal_bytes.parameters(p, chain.primes, 0)
    members, minor = _seal_bytes.members(stated, len(expected), "TenSEAL's parameters", HEError)
    if members != _seal_bytes.parameters(p, chain.primes, minor):
        raise HEError(
            "got a TenSEAL context of other parameters; expected those of a context that to_tenseal wrote for the "
            f"same scheme: degree {p.degree}, primes {', '.join(map(str, chain.primes))}"
        )
    shared = _protobuf.fields(outer.get(2, b""), "a TenSEAL context", {1: 2, 2: 0, 3: 1, 4: 2, 5: 2})
    private = _protobuf.fields(outer.get(3, b""), "a TenSEAL context's secret part", {1: 2, 2: 0, 3: 0})
    if isinstance(p, CKKSParameters) and shared.get(3, 0.0) != scale_of(scheme):
        raise HEError(
            f"got a TenSEAL context of scale {shared.get(3, 0.0)}; expected global_scale = {scale_of(scheme)}"
        )
    public = None if scheme.seeded or 1 not in shared else _read_public(scheme, chain, shared[1])
    return ContextKeys(None if 1 not in private else _read_secret(scheme, chain, private[1]), public)


def _read_public(scheme: Format, chain: Chain, data: Data) -> Words:
    degree, count = scheme.parameters.degree, len(chain.primes)
    rows = read_rows(
        data, chain.layout(degree, 0, key=True), True, 1.0, chain.primes, "a TenSEAL public key", HEError
    )
    firsts, seconds = rows[: len(chain.order)], rows[count : count + len(chain.order)]
    back = np.argsort(chain.order)
    return np.concatenate([firsts[back], seconds[back]])


def _read_secret(scheme: Format, chain: Chain, data: Data) -> Small:
    degree, what = scheme.parameters.degree, "a TenSEAL secret key"
    words = len(chain.primes) * degree
    size = len(chain.layout(degree, 0, key=True).plain(words)) + 8 * words
    members, minor = _seal_bytes.members(data, size, what, HEError)
    front = chain.layout(degree, minor, key=True).plain(words)
    if members[: len(front)] != front:
        raise HEError(f"got {what} of other parameters")
    rows = np.frombuffer(members, dtype="<u8", offset=len(front)).reshape(-1, degree)
    _require_reduced(rows, chain.primes, what, HEError)
    fields = [field(degree, prime) for prime in chain.primes]
    group = lanes(degree)
    group[:] = rows[0][:, None]
    fields[0].backward(group)
    numbers = group[:, 0].astype(np.int64)
    numbers -= fields[0].prime * (numbers > 1)
    if numbers.min() < -1:
        raise HEError(f"got {what} with a coefficient other than -1, 0 or 1")
    secret = numbers.astype(np.int8)
    if any((values_of(secret, f) != row).any() for f, row in zip(fields, rows, strict=True)):
        raise HEError(f"got {what} that is not the same modulo all its primes")
    return secret


def read_rows(
    data: Data,
    layout: Layout,
    transformed: bool,
    scale: float,
    primes: tuple[int, ...],
    what: str,
    error: type[HEError],
) -> Words:
    """The rows (2 * primes, N) of a ciphertext or public key, from any sender, once all about it is right."""
    words = 2 * len(primes) * layout.degree
    members, minor = _seal_bytes.members(data, _seal_bytes.FRONT + 8 * words, what, error)
    front = Layout(layout.identifier, layout.degree, layout.primes, minor).ciphertext(transformed, words, scale)
    if members[: len(front)] != front:
        raise error(f"got {what} of other parameters, another form, scale or number of polynomials")
    rows: Words = np.frombuffer(members, dtype="<u8", offset=len(front)).reshape(-1, layout.degree)
    _require_reduced(rows, primes, what, error)
    return rows


def _require_reduced(rows: Words, primes: tuple[int, ...], what: str, error: type[HEError]) -> None:
    for row, values in enumerate(rows):
        prime = primes[row % len(primes)]
        if (values >= np.uint64(prime)).any():
            raise error(f"got {what} with a residue in row {row} that is not below {prime}")

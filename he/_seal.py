"""SEAL through ``tenseal.sealapi``: keys, encryptions of zero, and SEAL's bytes in both directions.

SEAL draws all secrets. Its bindings read and write only files, so everything passes through files: pipes
and files in memory or, on systems without these, files in a private directory that are emptied as soon
as they are read. SEAL compresses what it writes. Only bytes that SEAL wrote in this process are
decompressed. Of the bytes of others, only the residues of a public key reach SEAL, after they were
checked and laid out again.

SEAL's generator is never seeded: it would restart at every encryption, and two ciphertexts of one
upload would share their randomness.
"""

import fcntl
import os
import shutil
import struct
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from he._seal_bytes import FRONT, HEADER, MAGIC, MAJOR, PLAINLY, ZSTD, Layout
from he._seal_generator import SEED_WORDS
from he.errors import INSTALL, HEError
from he.params import BFVParameters, Parameters
from he.ring import field, lanes

Words = NDArray[np.uint64]

_BLAKE2XB = 1
_SEED_BYTES = SEED_WORDS * 8
_SEED_TAIL = HEADER.size + 1 + _SEED_BYTES  # a header, the kind of generator, its seed
_LARGEST = 1 << 20  # bytes; SEAL writes nothing larger here
_INSTALL_TESTED = "install a version of TenSEAL that this package was tested with"
_LOCAL = threading.local()


@dataclass(frozen=True, eq=False)
class Context:
    """SEAL's context for one set of parameters. :func:`context` makes one in each process."""

    api: Any
    seal: Any
    parameters: Parameters
    identifier: list[int]  # of the parameters with all primes; no prime is reserved for key switching
    minor: int  # of SEAL's version

    @cached_property
    def layout(self) -> Layout:
        """How this SEAL lays out what it writes."""
        p = self.parameters
        return Layout(struct.pack("<4Q", *self.identifier), p.degree, len(p.primes), self.minor)


def transformed(parameters: Parameters) -> bool:
    """Whether SEAL keeps ciphertexts as values rather than coefficients."""
    return not isinstance(parameters, BFVParameters)


@lru_cache(maxsize=16)
def context(parameters: Parameters) -> Context:
    """SEAL's context for ``parameters``. Raises :class:`HEError` if TenSEAL is missing or SEAL refuses them."""
    try:
        import tenseal.sealapi as api
        import zstandard  # noqa: F401  (a missing package is noticed here, not at the first ciphertext)
    except ImportError as error:
        raise HEError(f"the package {error.name} is missing; CKKS and BFV need it: {INSTALL}") from error
    exact = isinstance(parameters, BFVParameters)
    settings = api.EncryptionParameters(api.SCHEME_TYPE.BFV if exact else api.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(parameters.degree)
    settings.set_coeff_modulus([api.Modulus(prime) for prime in parameters.primes])
    if isinstance(parameters, BFVParameters):
        settings.set_plain_modulus(parameters.plain_modulus)
    seal = api.SEALContext(settings, False, api.SEC_LEVEL_TYPE.TC128)
    if not seal.parameters_set():
        raise HEError(f"SEAL refuses the parameters {parameters}: {seal.parameters_error_message()}")
    header = api.Serialization.SEALHeader()
    return Context(api, seal, parameters, list(seal.key_parms_id()), header.version_minor)


class Scratch:
    """A private file that SEAL can open by ``path``, in a ``with`` statement. It is in memory where possible."""

    path: str

    def __enter__(self) -> Self:
        self._directory: str | None = None
        self._descriptor = _in_memory()
        self.path = f"/proc/self/fd/{self._descriptor}"
        if self._descriptor < 0 or not os.path.exists(self.path):
            self._close()
            self._directory = tempfile.mkdtemp(prefix="he-")  # mode 0700
            self._descriptor, self.path = tempfile.mkstemp(dir=self._directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close()
        if self._directory is not None:
            shutil.rmtree(self._directory)

    def read(self) -> bytes:
        """Return what SEAL wrote last, and empty the file."""
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if self._directory is not None:
            os.ftruncate(self._descriptor, 0)
        return data

    def write(self, data: bytes) -> None:
        """Write ``data``, for SEAL to read."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _in_memory() -> int:
    """The descriptor of a file in memory, or -1 if there is no such file here."""
    with suppress(AttributeError, OSError):
        return os.memfd_create("he")
    return -1


class Channel(Scratch):
    """A private file for SEAL's output, at most ``most`` bytes at a time; each output is read before the next.

    It is a pipe if a pipe can hold that much: faster than a file in memory, and empty once it is read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ends: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._ends = _pipe(2 * self._most)
        if self._ends is None:
            return super().__enter__()
        self.path = f"/proc/self/fd/{self._ends[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._ends is None:
            return super().__exit__(kind, error, at)
        for end in self._ends:
            os.close(end)
        return None

    def read(self) -> bytes:
        """Return what SEAL wrote last, and keep nothing of it."""
        return super().read() if self._ends is None else os.read(self._ends[0], self._most)


def _pipe(capacity: int) -> tuple[int, int] | None:
    """The two ends of a pipe that holds ``capacity`` bytes, or None if there is no such pipe here."""
    if not hasattr(fcntl, "F_SETPIPE_SZ") or not hasattr(os, "memfd_create") or not os.path.exists("/proc/self/fd"):
        return None
    ends = os.pipe()
    with suppress(OSError):  # more than the system allows a user
        if fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, capacity) >= capacity:
            return ends
    for end in ends:
        os.close(end)
    return None


def generate(parameters: Parameters, public: bool) -> tuple[NDArray[np.int8], Words | None]:
    """A fresh secret (N coefficients in -1, 0, 1) and, if ``public``, its public key (2 * primes, N) as values."""
    at = context(parameters)
    maker = at.api.KeyGenerator(at.seal)
    with Scratch() as scratch:
        maker.secret_key().save(scratch.path)
        values = _plain_rows(scratch.read(), at)
        key = None
        if public:
            created = at.api.PublicKey()
            maker.create_public_key(created)
            created.save(scratch.path)
            key = ciphertext_rows(scratch.read(), at, transformed=True, seeded=False)[0].copy()
    first = lanes(parameters.degree)
    first[:] = values[0][:, None]
    field(parameters.degree, parameters.primes[0]).backward(first)
    secret = first[:, 0].astype(np.int64)
    secret -= parameters.primes[0] * (secret > 1)
    return secret.astype(np.int8), key


class Zeros:
    """Encryptions of zero under one key, one at a time. Use it in a ``with`` statement.

    With ``secret`` (primes, N), as values, encryptions are symmetric, with a seed in place of the second
    polynomial. With ``public`` (2 * primes, N) they have both polynomials.
    """

    def __init__(self, parameters: Parameters, *, secret: Words | None = None, public: Words | None = None) -> None:
        self._at = context(parameters)
        # Both polynomials, SEAL's headers, and the few bytes by which zstd may lengthen random data.
        self._channel = Channel(16 * len(parameters.primes) * parameters.degree + 4096)
        self._secret, self._public = secret, public
        self.transformed = transformed(parameters)

    def __enter__(self) -> Self:
        api, seal = self._at.api, self._at.seal
        with Scratch() as scratch:
            if self._secret is not None:
                key = api.SecretKey()
                scratch.write(_plain_bytes(self._at, self._secret))
            else:
                assert self._public is not None
                key = api.PublicKey()
                scratch.write(ciphertext_bytes(self._at, self._public, transformed=True))
            key.load(seal, scratch.path)
        self._encryptor = api.Encryptor(seal, key)
        self._into = api.Ciphertext(seal)
        self._channel.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._channel.__exit__(kind, error, at)

    def next(self) -> tuple[Words, Words | None]:
        """One encryption: rows (primes, N) and a seed (8 words), or rows (2 * primes, N) and None. Read only."""
        seeded = self._secret is not None
        if seeded:
            self._encryptor.encrypt_zero_symmetric(self._at.identifier).save(self._channel.path)
        else:
            self._encryptor.encrypt_zero(self._at.identifier, self._into)
            self._into.save(self._channel.path)
        return ciphertext_rows(self._channel.read(), self._at, self.transformed, seeded)


def ciphertext_rows(data: bytes, at: Context, transformed: bool, seeded: bool) -> tuple[Words, Words | None]:
    """The residues of a ciphertext or public key as SEAL saved it and, if ``seeded``, the second polynomial's seed.

    Rows are (primes, N) with a seed and (2 * primes, N) without. They are read only, and not aligned to
    words, as in SEAL's layout. The bytes are trusted: any other layout means another version of SEAL,
    and raises :class:`HEError`.
    """
    degree = at.parameters.degree
    words = len(at.parameters.primes) * degree * (1 if seeded else 2)
    end = FRONT + 8 * words
    members = _members(data)
    if len(members) != end + seeded * _SEED_TAIL or not members.startswith(
        at.layout.ciphertext(transformed, words)
    ):
        raise HEError(
            f"SEAL wrote a ciphertext of {len(members)} bytes that isn't laid out as expected: {_INSTALL_TESTED}"
        )
    rows = np.frombuffer(members, dtype=np.uint64, count=words, offset=FRONT).reshape(-1, degree)
    if not seeded:
        return rows, None
    if members[-_SEED_BYTES - 1] != _BLAKE2XB:
        raise HEError(f"SEAL drew a polynomial from a generator other than BLAKE2Xb: {_INSTALL_TESTED}")
    return rows, np.frombuffer(members, dtype=np.uint64, offset=len(members) - _SEED_BYTES)


def ciphertext_bytes(at: Context, rows: Words, transformed: bool) -> bytes:
    """A ciphertext or public key with ``rows`` (2 * primes, N), in the bytes that SEAL loads."""
    front = at.layout.ciphertext(transformed, rows.size)
    return at.layout.framed(front + np.ascontiguousarray(rows).tobytes())


def _plain_rows(data: bytes, at: Context) -> Words:
    """The residues (primes, N) of a secret key as SEAL saved it."""
    parameters = at.parameters
    words = len(parameters.primes) * parameters.degree
    front = at.layout.plain(words)
    members = _members(data)
    if not members.startswith(front) or len(members) != len(front) + 8 * words:
        raise HEError(
            f"SEAL wrote a secret key of {len(members)} bytes that isn't laid out as expected: {_INSTALL_TESTED}"
        )
    return np.frombuffer(members, dtype=np.uint64, offset=len(front)).reshape(-1, parameters.degree)


def _plain_bytes(at: Context, rows: Words) -> bytes:
    """A secret key in the bytes that SEAL loads."""
    return at.layout.framed(at.layout.plain(rows.size) + rows.tobytes())


def _members(data: bytes) -> bytes:
    """The bytes after SEAL's header, decompressed."""
    magic, own, major, _, compression, _, size = HEADER.unpack_from(data)
    if (magic, own, major, size) != (MAGIC, HEADER.size, MAJOR, len(data)) or compression not in (PLAINLY, ZSTD):
        raise HEError(
            f"SEAL wrote a header of version {major}, compression {compression}, for {size} of {len(data)} bytes: "
            + _INSTALL_TESTED
        )
    body = memoryview(data)[HEADER.size :]
    return bytes(body) if compression == PLAINLY else _decompress(body)


def _decompress(body: memoryview) -> bytes:
    """Decompress trusted bytes. Each thread keeps its decompressor, since making one costs as much as using it."""
    try:
        decompress = _LOCAL.decompress
    except AttributeError:
        import zstandard

        decompress = _LOCAL.decompress = zstandard.ZstdDecompressor().decompress
    return cast(bytes, decompress(body, max_output_size=_LARGEST))

"""The layout of SEAL's serialized objects (version 4). Nothing here runs SEAL.

An object is a header and its members. SEAL compresses members; it also reads them uncompressed, as they are
written here.
"""

import hashlib
import struct
from dataclasses import dataclass

from he.errors import INSTALL, HEError
from he.params import BFVParameters, Parameters

HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, version, compression, reserved, total size
COUNT = struct.Struct("<Q")
_PLAIN = struct.Struct("<32sQd")  # parameters, coefficients, scale
_CIPHERTEXT = struct.Struct("<32sBQQQdQ")  # parameters, transformed, polynomials, degree, primes, scale, correction
MAGIC, MAJOR, PLAINLY, ZSTD = 0xA15E, 4, 0, 2
FRONT = _CIPHERTEXT.size + HEADER.size + COUNT.size
"""The offset of a ciphertext's residues in its members."""

_LARGEST_WINDOW = 1 << 23  # bytes that a zstd frame may ask its reader to keep


@dataclass(frozen=True)
class Layout:
    """The layout of ciphertexts and keys over ``primes`` primes, as version 4.``minor`` of SEAL writes them.

    ``identifier`` is of the parameters (:func:`identifier`).
    """

    identifier: bytes
    degree: int
    primes: int
    minor: int

    def header(self, size: int) -> bytes:
        """The header of an uncompressed object of ``size`` bytes, its header included."""
        return HEADER.pack(MAGIC, HEADER.size, MAJOR, self.minor, PLAINLY, 0, size)

    def framed(self, members: bytes) -> bytes:
        """``members`` after SEAL's header, uncompressed."""
        return self.header(HEADER.size + len(members)) + members

    def ciphertext(self, transformed: bool, words: int, scale: float = 1.0) -> bytes:
        """The members of a ciphertext of two polynomials before its ``words`` words."""
        front = _CIPHERTEXT.pack(self.identifier, transformed, 2, self.degree, self.primes, scale, 1)
        return front + self._array(words)

    def plain(self, words: int) -> bytes:
        """The members of a secret key before its ``words`` words."""
        return _PLAIN.pack(self.identifier, words, 1.0) + self._array(words)

    def _array(self, words: int) -> bytes:
        return self.header(HEADER.size + COUNT.size + 8 * words) + COUNT.pack(words)


def identifier(parameters: Parameters, primes: tuple[int, ...]) -> bytes:
    """SEAL's identifier of ``parameters`` with these primes: a hash that is part of each ciphertext and key."""
    scheme, plain_modulus = _kind(parameters)
    numbers = [scheme, parameters.degree, *primes, plain_modulus]
    return hashlib.blake2b(struct.pack(f"<{len(numbers)}Q", *numbers), digest_size=32).digest()


def parameters(parameters: Parameters, primes: tuple[int, ...], minor: int) -> bytes:
    """The members of the parameters themselves."""
    scheme, plain_modulus = _kind(parameters)
    layout = Layout(b"", parameters.degree, len(primes), minor)
    moduli = [layout.framed(COUNT.pack(modulus)) for modulus in (*primes, plain_modulus)]
    return struct.pack("<BQQ", scheme, parameters.degree, len(primes)) + b"".join(moduli)


def _kind(parameters: Parameters) -> tuple[int, int]:
    """SEAL's number of the scheme, and the plaintext modulus or 0."""
    return (1, parameters.plain_modulus) if isinstance(parameters, BFVParameters) else (2, 0)


def members(data: bytes | memoryview, size: int, what: str, error: type[HEError]) -> tuple[memoryview, int]:
    """The ``size`` bytes of members of a serialized object, from any sender, and the minor version of SEAL.

    A compressed object must state this size itself: it takes no more memory than that. Raises ``error``.
    """
    if len(data) < HEADER.size:
        raise error(f"got {len(data)} bytes for {what}; expected SEAL's header of {HEADER.size} bytes and more")
    magic, own, major, minor, compression, reserved, stated = HEADER.unpack_from(data)
    if (magic, own, major, reserved, stated) != (MAGIC, HEADER.size, MAJOR, 0, len(data)) or compression not in (
        PLAINLY,
        ZSTD,
    ):
        raise error(
            f"got {what} of {len(data)} bytes whose header states version {major}, compression {compression} and "
            f"{stated} bytes; expected SEAL's version {MAJOR}, compression {PLAINLY} or {ZSTD}, and its own size"
        )
    body = memoryview(data)[HEADER.size :]
    if compression == ZSTD:
        body = memoryview(_decompressed(body, size, what, error))
    if len(body) != size:
        raise error(f"got {what} of {len(body)} bytes; expected {size} bytes, for these parameters")
    return body, minor


def _decompressed(body: memoryview, size: int, what: str, error: type[HEError]) -> bytes:
    try:
        import zstandard
    except ImportError as missing:
        raise HEError(f"the package zstandard is missing; what TenSEAL compressed needs it: {INSTALL}") from missing
    try:
        frame = zstandard.get_frame_parameters(body)
        if frame.content_size != size or frame.window_size > max(size, _LARGEST_WINDOW):
            raise error(
                f"got {what} that states {frame.content_size} bytes, compressed with a window of "
                f"{frame.window_size}; expected {size} bytes, for these parameters"
            )
        out: bytes = zstandard.ZstdDecompressor().decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as fault:
        raise error(f"got {what} that can't be decompressed: {fault}") from fault
    return out

"""TenSEAL's serialized vectors of CKKS and BFV, and this package's ciphertexts. :mod:`he._tenseal` has the rest.

**CKKS.** TenSEAL puts one value in each slot, as its real part; this package puts a second one in the imaginary
part. Times X^(N/2), a slot turns by a right angle. So a ciphertext c of this package is a pair of
TenSEAL's, c and -X^(N/2) c, whose imaginary parts are left over; and a pair c, d of TenSEAL's, whose imaginary
parts are zero, is c + X^(N/2) d. The product permutes coefficients and changes signs: errors stay as
long as they are, but c + X^(N/2) d has the errors of both.

The two kinds of pairs must not be taken for each other: a pair made here would come back as 2c. So it is
*marked*, by a scale that is larger by 2^-50. SEAL refuses to add ciphertexts of unequal scale. A marked
pair is read as its first half, once its second is found to follow from it.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from he import _protobuf
from he._rlwe_encryption import values_of
from he._rlwe_format import Format
from he._tenseal import MINOR, chain_of, read_rows, scale_of
from he.errors import CiphertextError
from he.params import CKKSParameters
from he.ring import LANES, Factor, Field, lanes

Words = NDArray[np.uint64]

_MARK = 1 + 2.0**-50
"""What a marked scale is larger by: four times what SEAL takes for equal; 2^-13 of a step in the largest sum."""


def vector_bytes(scheme: Format, groups: Iterable[Words], ciphertexts: int) -> bytes:
    """A vector of TenSEAL's with ``ciphertexts`` of this package's, in groups (2 * primes, N, 8) of values."""
    p, chain, paired = scheme.parameters, chain_of(scheme), _parts(scheme) == 2
    scale = scale_of(scheme) * (_MARK if paired else 1)
    layout = chain.layout(p.degree, MINOR, key=False)
    front = layout.ciphertext(paired, 2 * len(chain.order) * p.degree, scale)
    order = [*chain.order, *(len(chain.order) + i for i in chain.order)]
    out = [_sizes(scheme, ciphertexts)]
    for place, group in enumerate(groups):
        kinds = [group]
        if paired:
            kinds.append(group.copy())
            _turn(scheme, kinds[1], -1)
        else:
            for row, polynomials in enumerate(group):
                scheme._fields[row % len(p.primes)].backward(polynomials)
        for lane in range(min(LANES, ciphertexts - place * LANES)):
            for rows in kinds:
                words = np.ascontiguousarray(rows[order, :, lane])
                out.append(_protobuf.octets(2, layout.framed(front + words.tobytes())))
    return b"".join(out) + (_protobuf.double(3, scale) if paired else b"")


def vector_words(scheme: Format, data: bytes, ciphertexts: int) -> Words:
    """The words of ``ciphertexts`` packed ciphertexts, whole ones, from a vector of TenSEAL's, from any sender.

    Raises :class:`CiphertextError` unless it is a vector under the scheme's parameters, with this many
    full ciphertexts.
    """
    p, per = scheme.parameters, _parts(scheme)
    blobs, scale = _ciphertexts(scheme, data, per * ciphertexts)
    out = np.empty(ciphertexts * 2 * scheme._half, dtype=np.uint64)
    kinds = [lanes(2 * len(p.primes), p.degree) for _ in range(per)]
    for place, words in enumerate(scheme._groups(out, 2 * len(p.primes))):
        first, count = place * LANES, words.shape[2]
        for part, group in enumerate(kinds):
            group[:] = 0
            for lane in range(count):
                at = per * (first + lane) + part
                group[:, :, lane] = _read(scheme, blobs[at], scale, f"ciphertext {at} of a TenSEAL vector")
        if per == 2:
            _join(scheme, *kinds, marked=scale != scale_of(scheme))
        else:
            for row, polynomials in enumerate(kinds[0]):
                scheme._fields[row % len(p.primes)].forward(polynomials)
        scheme._pack(kinds[0], words)
    return out


def _join(scheme: Format, firsts: Words, seconds: Words, *, marked: bool) -> None:
    """Make ``firsts`` the ciphertexts of this package that are pairs of TenSEAL's. ``seconds`` is overwritten."""
    _turn(scheme, seconds, 1)
    if marked:
        if (firsts != seconds).any():
            raise CiphertextError(
                "got a TenSEAL vector with the scale of one that to_tenseal wrote, but with pairs of ciphertexts "
                "of which the second does not follow from the first"
            )
        return
    for row, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        scheme._fields[row % len(scheme._fields)].add(first, second)


def _turn(scheme: Format, group: Words, sign: int) -> None:
    """Multiply ``group`` (2 * primes, N, 8) of values by X^(N/2) and ``sign``, in place."""
    for row, polynomials in enumerate(group):
        modulo = scheme._fields[row % len(scheme._fields)]
        modulo.multiply(polynomials, _right_angle(modulo, sign))


@lru_cache(maxsize=32)
def _right_angle(modulo: Field, sign: int) -> Factor:
    power = np.zeros(modulo.degree, dtype=np.int8)
    power[modulo.degree // 2] = sign
    return modulo.factor(values_of(power, modulo))


def _parts(scheme: Format) -> int:
    """Ciphertexts of TenSEAL's for one of this package's."""
    return 2 if isinstance(scheme.parameters, CKKSParameters) else 1


def _sizes(scheme: Format, ciphertexts: int) -> bytes:
    """The counts of values at the front of a vector: every ciphertext is full."""
    per = _parts(scheme)
    return _protobuf.octets(1, _protobuf.varint(scheme.slots // per) * (per * ciphertexts))


def _ciphertexts(scheme: Format, data: bytes, count: int) -> tuple[list[memoryview], float]:
    """The serialized ciphertexts of a vector, ``count`` of them, once all around them is right, and their scale."""
    if not isinstance(data, bytes):
        raise CiphertextError(
            f"got a TenSEAL vector of type {type(data).__name__}; expected the bytes of its serialize()"
        )
    each = scheme.slots // _parts(scheme)
    front, scale, end = _sizes(scheme, count // _parts(scheme)), scale_of(scheme), len(data)
    if not data.startswith(front):
        raise CiphertextError(
            f"got a TenSEAL vector that doesn't begin with {count} counts of {each} values; expected full "
            f"ciphertexts only: pad the vector with zeros to {count * each} values before TenSEAL encrypts it, "
            "because it fills what is free with copies"
        )
    if isinstance(scheme.parameters, CKKSParameters):
        scales = {_protobuf.double(3, number): number for number in (scale, scale * _MARK)}
        end -= len(next(iter(scales)))
        if data[end:] not in scales:
            raise CiphertextError(f"got a TenSEAL vector of another scale; expected global_scale = {scale}")
        scale = scales[data[end:]]
    reader = _protobuf.Reader(memoryview(data)[len(front) : max(end, 0)], CiphertextError)
    blobs: list[memoryview] = []
    while reader.left and len(blobs) < count:
        if reader.varint() != 2 << 3 | 2:
            raise CiphertextError("got a TenSEAL vector with a field that is not a ciphertext")
        blobs.append(reader.take(reader.varint()))
    if reader.left or len(blobs) != count:
        raise CiphertextError(f"got a TenSEAL vector with fewer or more than {count} ciphertexts")
    return blobs, scale


def _read(scheme: Format, data: memoryview, scale: float, what: str) -> Words:
    """The rows (2 * primes, N) of one ciphertext of TenSEAL's, in this package's order."""
    p, chain = scheme.parameters, chain_of(scheme)
    layout, ordered = chain.layout(p.degree, 0, key=False), tuple(p.primes[i] for i in chain.order)
    rows = read_rows(data, layout, _parts(scheme) == 2, scale, ordered, what, CiphertextError)
    if not rows[len(ordered) :].any():
        raise CiphertextError(
            f"got {what} that is transparent: its second polynomial is zero, and it hides nothing"
        )
    back = np.argsort(chain.order)
    return np.concatenate([half[back] for half in np.split(rows, 2)])

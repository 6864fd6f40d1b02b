"""Single polynomials of encrypted vectors, for tests to read and change; kernels take them eight at a time."""

import numpy as np

from he import bfv, ckks
from he._rlwe_format import DIGEST_BYTES
from he.ckks import SecretKey
from he.ring import Field, lanes, packing

Scheme = ckks.Scheme | bfv.Scheme


def read(scheme: Scheme, data: bytes) -> np.ndarray:
    """The rows (k, rows, N), as values, of the k ciphertexts of an encrypted vector or a sum."""
    is_sum = data[:DIGEST_BYTES] == scheme._tag(b"sum")
    rows = 2 * len(scheme._fields) if is_sum else scheme._rows
    stride = rows * packing.words_of(scheme.slots, scheme.parameters.bits)
    count = (len(data) - DIGEST_BYTES) // (8 * stride)
    words = np.frombuffer(data, dtype="<u8", offset=DIGEST_BYTES, count=count * stride)
    groups = scheme._unpacked(scheme._groups(words, rows))  # (groups, rows, N, 8)
    return groups.transpose(0, 3, 1, 2).reshape(-1, *groups.shape[1:3])[:count].copy()


def written(scheme: Scheme, data: bytes, rows: np.ndarray) -> bytes:
    """``data`` with ``rows`` (k, rows, N) in place of its own; what follows them, seeds, stays."""
    groups = lanes(-(-len(rows) // 8), *rows.shape[1:])
    groups[:] = 0
    for c, ciphertext in enumerate(rows):
        groups[c // 8, :, :, c % 8] = ciphertext
    body = scheme._packed(groups, len(rows)).tobytes()
    return data[:DIGEST_BYTES] + body + data[DIGEST_BYTES + len(body) :]


def values(field: Field, coefficients: np.ndarray) -> np.ndarray:
    """The values of one polynomial (N)."""
    group = lanes(len(coefficients))
    group[:] = coefficients.astype(np.uint64)[:, None]
    field.forward(group)
    return group[:, 0].copy()


def coefficients(field: Field, values: np.ndarray, factor: int = 1) -> np.ndarray:
    """The coefficients of one polynomial (N), times ``factor``."""
    group = lanes(len(values))
    group[:] = values[:, None]
    field.backward(group, factor)
    return group[:, 0].copy()


def phases(scheme: Scheme, key: SecretKey, data: bytes) -> list[np.ndarray]:
    """c0 + c1 s of each ciphertext of a sum, as coefficients: for each prime (k, N)."""
    rows = read(scheme, data)
    out = []
    for j, field in enumerate(scheme._fields):
        secret = key._key.factors[j][0].values.astype(object)
        first, second = rows[:, j].astype(object), rows[:, j + len(scheme._fields)].astype(object)
        phase = ((first + second * secret) % field.prime).astype(np.uint64)
        out.append(np.stack([coefficients(field, row) for row in phase]))
    return out


def decoded(scheme: Scheme, rows: list[np.ndarray], count: int) -> np.ndarray:
    """The slots (k, N) of phases, at most eight for each prime (k, N), of a sum of ``count`` vectors."""
    k, degree = rows[0].shape
    group = lanes(len(rows), degree)
    group[:] = 0
    for j, row in enumerate(rows):
        group[j, :, :k] = row.T
    sums = np.empty((k, degree), dtype=np.int64)
    scheme._decode(group, lanes(degree), count, sums)
    return sums


def encoded(scheme: Scheme, slots: np.ndarray) -> np.ndarray:
    """The coefficients (primes, k, N) of encodings of ``slots`` (k, N), k at most eight."""
    out = lanes(len(scheme._fields), scheme.slots)
    padded = np.zeros((8, scheme.slots), dtype=np.uint64)
    padded[: len(slots)] = slots
    scheme._encode(padded, out, lanes(scheme.slots))
    return out.transpose(0, 2, 1)[:, : len(slots)].copy()

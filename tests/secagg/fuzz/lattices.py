"""Decoders of CKKS and BFV: this package's formats, and what comes from TenSEAL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import zstandard

from he import _protobuf, _seal_bytes, bfv, ckks
from he.errors import HEError
from tests.secagg.fuzz.decoders import Decoder
from tests.secagg.fuzz.mutate import Mutator

LENGTH = 5
FRONT = 256
"""Bytes in which headers, counts and lengths are, at the front of a message and of each ciphertext."""


def lattice_decoders() -> list[Decoder]:
    """Of one prime and of two, with a public key and seeded."""
    listed = []
    for scheme in (bfv.Scheme(254, 8), ckks.Scheme(2**20, 8), ckks.Scheme(254, 8, True)):
        name = f"{scheme.name}{' seeded' if scheme.seeded else ''}"
        key = scheme.generate()
        adder = scheme.adder(LENGTH)
        upload = key.encrypt(np.arange(LENGTH))
        adder.fold(upload)
        vector, context = scheme.to_tenseal(adder.total(), LENGTH), key.to_tenseal()
        vectors = [vector, _compressed(vector, (2,)), scheme.to_tenseal(upload, LENGTH)]
        contexts = [context, _compressed(context, (1,))]
        reads: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
            "upload": (_folding(scheme, "fold"), [upload]),
            "sum": (lambda data, key=key: key.open(data, LENGTH, 1), [adder.total()]),
            "running sum": (lambda data, scheme=scheme: scheme.load_adder(data, LENGTH), [adder.to_bytes()]),
            "secret key": (scheme.load_secret, [key.to_bytes()]),
            "TenSEAL upload": (_folding(scheme, "fold_tenseal"), vectors),
            "TenSEAL vector": (lambda data, scheme=scheme: scheme.from_tenseal(data, LENGTH), vectors),
            "TenSEAL secret": (scheme.secret_from_tenseal, contexts),
            "to TenSEAL": (lambda data, scheme=scheme: scheme.to_tenseal(data, LENGTH), [upload, adder.total()]),
        }
        if key.public is not None:
            reads["public key"] = scheme.load_public, [key.public.to_bytes()]
            reads["TenSEAL public key"] = scheme.public_from_tenseal, contexts
        listed += [Decoder(f"{name} {what}", read, s, (HEError,), _fronts) for what, (read, s) in reads.items()]
    return listed


def _folding(scheme: bfv.Scheme | ckks.Scheme, method: str) -> Callable[[bytes], object]:
    """Fold into an empty sum, which a refused upload must leave empty."""
    empty = scheme.adder(LENGTH).to_bytes()

    def read(data: bytes) -> None:
        adder = scheme.adder(LENGTH)
        try:
            getattr(adder, method)(data)
        except HEError:
            if adder.to_bytes() != empty:
                raise AssertionError("a refused upload was added") from None
            raise

    return read


def _fronts(mutator: Mutator, data: bytes) -> bytes:
    """``data`` with a fault near the front, near its end, or near a header of SEAL's."""
    rng = mutator.rng
    magic = _seal_bytes.MAGIC.to_bytes(2, "little") + b"\x10"
    places = [0, max(len(data) - 32, 0)]
    at = data.find(magic)
    while at >= 0 and len(places) < 20:
        places.append(at)
        at = data.find(magic, at + 1)
    start = rng.choice(places)
    return data[:start] + mutator.octets(data[start : start + FRONT]) + data[start + FRONT :]


def _compressed(message: bytes, fields: tuple[int, ...]) -> bytes:
    """A message whose ``fields`` hold objects of SEAL's, with these compressed as SEAL does it."""
    reader, out = _protobuf.Reader(message, HEError), b""
    while reader.left:
        key = reader.varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            out += _protobuf.number(number, reader.varint())
        elif kind == 1:
            out += _protobuf.varint(key) + bytes(reader.take(8))
        else:
            data = bytes(reader.take(reader.varint()))
            out += _protobuf.octets(number, _packed(data) if number in fields else data)
    return out


def _packed(data: bytes) -> bytes:
    if data[:2] != _seal_bytes.MAGIC.to_bytes(2, "little"):  # the counts of a vector, field 1
        return data
    body = zstandard.compress(data[_seal_bytes.HEADER.size :])
    size = _seal_bytes.HEADER.size + len(body)
    return _seal_bytes.HEADER.pack(_seal_bytes.MAGIC, 16, 4, 3, _seal_bytes.ZSTD, 0, size) + body

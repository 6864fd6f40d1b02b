"""The engine of CKKS and BFV that draws keys and encrypts by SEAL, through TenSEAL."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he import _seal, _seal_generator
from he._buffer import Part
from he._rlwe_encryption import EncryptionKey, Engine, eight_rows, values_of
from he._rlwe_format import SEAL_SEED_BYTES, Format, blocks
from he.ring import LANES, lanes
from he.scheme import Random

Words = NDArray[np.uint64]
Small = NDArray[np.int8]


class SealEngine(Engine):
    """Keys and encryptions of zero by SEAL, from its own generator. Messages are added to the encryptions."""

    deterministic, on_threads = False, False  # TenSEAL holds the interpreter's lock

    def generate(self, scheme: Format, rng: Random) -> tuple[Small, Words | None]:
        """See :meth:`Engine.generate`. ``rng`` is not asked."""
        secret, public = _seal.generate(scheme.parameters, public=not scheme.seeded)
        return secret, None if public is None else scheme._packed(_grouped([public]), 1)

    def seed(self, rng: Random) -> bytes:
        """No bytes. Seeded, SEAL's generator would begin anew at every encryption."""
        return b""

    def encrypt_block(
        self, key: EncryptionKey, seed: bytes, first: int, values: NDArray[Any], part: Part[np.uint64]
    ) -> tuple[Words, bytes]:
        """See :meth:`Engine.encrypt_block`."""
        scheme = key.scheme
        fields, degree = scheme._fields, scheme.parameters.degree
        seeds: list[bytes] = []
        message, spare = lanes(len(fields), degree), lanes(degree)
        with _zeros(key) as source:
            for group, words in zip(blocks(values, LANES), scheme._groups(part.array, scheme._rows), strict=True):
                scheme._encode(eight_rows(group), message, spare)
                drawn = [source.next() for _ in group]
                seeds += [seed.tobytes() for _, seed in drawn if seed is not None]
                rows = _grouped([rows for rows, _ in drawn])[0]
                for r, row in enumerate(rows):
                    if not source.transformed:
                        fields[r % len(fields)].forward(row)
                    if r < len(fields):
                        fields[r].forward(message[r])
                        fields[r].add(row, message[r])
                scheme._pack(rows, words)
        return part.array, b"".join(seeds)

    def second(self, scheme: Format, seeds: bytes) -> Callable[[int], Words]:
        """See :meth:`Engine.second`."""
        words = np.frombuffer(seeds, dtype="<u8").reshape(-1, SEAL_SEED_BYTES // 8)
        p = scheme.parameters

        def group(number: int) -> Words:
            part = words[number * LANES : (number + 1) * LANES]
            rows: Words = _grouped(list(_seal_generator.expand(part, p.degree, p.primes)))[0]
            if not _seal.transformed(p):
                for field, row in zip(scheme._fields, rows, strict=True):
                    field.forward(row)
            return rows

        return group


def _zeros(key: EncryptionKey) -> _seal.Zeros:
    parameters = key.scheme.parameters
    if key.secret is None:
        return _seal.Zeros(parameters, public=key.rows)
    values = [values_of(key.secret, field) for field in key.scheme._fields]
    return _seal.Zeros(parameters, secret=np.stack(values))


def _grouped(polynomials: list[Words]) -> Words:
    """A group (1, rows, N, 8) of at most eight polynomials' rows (rows, N)."""
    group = lanes(1, *polynomials[0].shape)
    group[:] = 0
    for lane, rows in enumerate(polynomials):
        group[0, :, :, lane] = rows
    return group

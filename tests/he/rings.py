"""Rings far too small to be secure, so that tests of one-time keys can compare them with schoolbook products."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from he import kahe, kahe_params
from tests.reference import kahe as twin


@contextmanager
def small_rings(bits: int, degree: int = 64) -> Iterator[None]:
    """Let schemes choose this ring degree, with so many bits of q and no others."""
    choice, primes = kahe_params.MODULUS_BITS, kahe_params._primes
    kahe_params.choose.cache_clear()
    with (
        mock.patch.dict(choice, {degree: bits}, clear=True),
        mock.patch.object(kahe_params, "_primes", lambda n, b: primes(n, b) if b == bits else ()),
    ):
        yield
    kahe_params.choose.cache_clear()


def ring(scheme: kahe.Scheme) -> twin.Ring:
    """The same for the twin."""
    p = scheme.parameters
    segments = tuple(twin.Segment(plane.length, plane.width, plane.per_coefficient) for plane in p.planes)
    return twin.Ring(p.degree, p.primes, p.shift, segments, p.places, scheme.digest)


def seed(number: int) -> bytes:
    return number.to_bytes(32, "little")


def summed(scheme: kahe.Scheme, vectors: list[list[np.ndarray]], public: bytes) -> tuple[kahe.Adder, np.ndarray]:
    """The sum of one vector for each client, and the sum of their keys."""
    adder, keys = scheme.adder(), np.zeros(scheme.degree, dtype=np.int64)
    for i, vector in enumerate(vectors):
        adder.fold(scheme.encrypt(vector, seed(i), public))
        keys += scheme.key(seed(i), public)
    return adder, keys

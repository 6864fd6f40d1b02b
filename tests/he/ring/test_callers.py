"""What CKKS and BFV hand to the kernels: residues only, so that no product of 52 bits overflows."""

from math import prod
from typing import Any

import numpy as np
import pytest

from he import bfv, ckks
from he.ring import Field, lanes, slots
from tests.he.ring.groups import needs_compiler, needs_ifma
from tests.reference import rlwe as twin

pytestmark = needs_compiler

BOUNDS = {"14 bits": (2, 16), "41 bits": (2**16, 2**16), "59 bits": (2**32 - 2, 2**19)}
"""Bounds and clients for plain moduli below the primes, above them, and far above 2^52."""


def off_by(bound: int, clients: int) -> int:
    """How many residues of an encoding are not q m / t, rounded."""
    scheme = bfv.Scheme(bound, clients)
    p, q, wrong = scheme.parameters, prod(scheme.parameters.primes), 0
    values = np.random.default_rng(bound).integers(0, bound, (8, p.degree), endpoint=True).astype(np.uint64)
    out, spare, group = lanes(len(p.primes), p.degree), lanes(p.degree), lanes(p.degree)
    scheme._encode(values, out, spare)
    group[:] = values.T[slots.modular_places(p.degree)]
    scheme._plain.backward(group)
    for lane in (0, 7):
        scaled = twin.scaled(group[:, lane].tolist(), q, p.plain_modulus)
        for row, prime in zip(out, p.primes, strict=True):
            wrong += sum(x != y % prime for x, y in zip(row[:, lane].tolist(), scaled, strict=True))
    return wrong


@pytest.mark.parametrize("name", BOUNDS)
def test_exact_encoding_is_q_over_t_times_the_message_rounded(name: str) -> None:
    scheme = bfv.Scheme(*BOUNDS[name])
    assert scheme.parameters.plain_modulus.bit_length() == int(name.split()[0])
    assert off_by(*BOUNDS[name]) == 0


@needs_ifma
def test_a_message_of_59_bits_is_encoded_wrongly_unless_it_is_reduced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Field, "reduce", lambda self, group: None)
    assert off_by(*BOUNDS["59 bits"]) > 1000


@pytest.mark.parametrize("seeded", [False, True], ids=["public", "seeded"])
@pytest.mark.parametrize("kind", [bfv.Scheme, ckks.Scheme], ids=["bfv", "ckks"])
@pytest.mark.parametrize("size", [(2, 16), (2**16, 2**8), (2**24 - 2, 4096)])
def test_every_polynomial_that_is_transformed_or_multiplied_is_reduced(
    kind: Any, seeded: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At encryption, folding and opening, with the largest values."""
    calls = dict.fromkeys(("forward", "backward", "multiply", "add_product", "scale", "add", "subtract"), 0)
    for name in calls:
        inner = getattr(Field, name)

        def checked(self: Field, group: np.ndarray, *rest: Any, inner: Any = inner, name: str = name) -> None:
            calls[name] += 1
            assert group.max() < self.prime
            if name in ("add", "add_product", "subtract"):
                assert rest[0].max() < self.prime
            inner(self, group, *rest)
            assert group.max() < self.prime

        monkeypatch.setattr(Field, name, checked)
    scheme = kind(*size, seeded=seeded)
    key = scheme.generate()
    values = np.full(scheme.slots + 3, scheme.bound)
    values[::5] = 0
    adder = scheme.adder(values.size)
    for _ in range(2):
        adder.fold(key.encrypt(values))
    assert (key.open(adder.total(), values.size, 2) == 2 * values).all()
    assert all(calls[name] for name in ("forward", "backward", "add_product"))

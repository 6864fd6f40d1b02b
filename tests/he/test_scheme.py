"""Paillier, CKKS and BFV satisfy the same types, and one piece of code runs with each of them."""

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

from he import bfv, ckks, paillier
from he.errors import CiphertextError, HEError, OpenError
from he.scheme import Scheme, SecretKey, SeededScheme

SCHEMES: dict[str, Scheme] = {
    "paillier": paillier.Scheme(bound=255, max_clients=3, bits=2048),
    "ckks": ckks.Scheme(bound=255, max_clients=3),
    "ckks-seeded": ckks.Scheme(bound=255, max_clients=3, seeded=True),
    "bfv": bfv.Scheme(bound=255, max_clients=3),
}
"""mypy checks this file, and so these assignments."""

LENGTH = 5000

every = pytest.mark.parametrize("name", SCHEMES)


@cache
def key_of(name: str) -> SecretKey:
    return SCHEMES[name].generate()


@every
def test_one_client_server_and_decryptor_run_with_every_scheme(name: str) -> None:
    scheme, vectors = SCHEMES[name], [np.arange(LENGTH) % (i + 7) for i in range(3)]
    secret = scheme.load_secret(scheme.generate().to_bytes())
    public = None if secret.public is None else scheme.load_public(secret.public.to_bytes())
    assert scheme.public_size == (0 if public is None else len(public.to_bytes()))
    adder = scheme.adder(LENGTH, public)
    with ThreadPoolExecutor(2) as threads:
        for vector in vectors:
            key = secret if public is None else public
            encrypted = key.encrypt(vector, threads if scheme.encrypts_on_threads else None)
            assert len(encrypted) == scheme.size(LENGTH)
            adder.fold(encrypted)
        total = scheme.load_adder(adder.to_bytes(), LENGTH, public).total()
        assert len(total) == scheme.total_size(LENGTH)
        for executor in (None, threads):
            assert secret.open(total, LENGTH, adder.count, executor).tolist() == np.sum(vectors, axis=0).tolist()


@every
def test_keys_and_ciphertexts_follow_from_the_generator_if_the_scheme_says_so(name: str) -> None:
    """Whatever the executor and its number of threads. Other bytes give other keys and ciphertexts."""
    scheme, values = SCHEMES[name], np.arange(LENGTH) % 256

    def made(seed: int, threads: int) -> tuple[bytes, bytes]:
        rng = random.Random(seed).randbytes
        key = scheme.generate(rng)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            executor = pool if threads and scheme.encrypts_on_threads else None
            return key.to_bytes(), (key.public or key).encrypt(values, executor, rng)

    first, *again = (made(1, threads) for threads in (0, 1, 3))
    assert [one == first for one in again] == [scheme.deterministic] * 2
    assert not set(made(2, 0)) & set(first)


@every
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", ">u4", "<i8", "u8"])
def test_integers_of_any_type_are_encrypted(name: str, dtype: str) -> None:
    scheme, key, values = SCHEMES[name], key_of(name), np.array([127, 1, 0], dtype)[::-1]
    adder = scheme.adder(3, key.public)
    adder.fold(key.encrypt(values))
    assert key.open(adder.total(), 3, 1).tolist() == [0, 1, 127]


@every
def test_a_vector_is_added_once(name: str) -> None:
    """A second time would count its client twice. A restored sum knows the vector too."""
    scheme, key = SCHEMES[name], key_of(name)
    data, adder = key.encrypt(np.arange(50)), scheme.adder(50, key.public)
    adder.fold(data)
    before = adder.to_bytes()
    for again in (adder, scheme.load_adder(before, 50, key.public)):
        with pytest.raises(CiphertextError, match="in the sum already"):
            again.fold(data)
        assert again.to_bytes() == before


@every
def test_a_sum_takes_no_more_vectors_than_it_may(name: str) -> None:
    scheme, key, ones = SCHEMES[name], key_of(name), np.ones(3, int)
    adder = scheme.adder(3, key.public)
    for _ in range(scheme.max_clients):
        adder.fold(key.encrypt(ones))
    before = adder.to_bytes()
    with pytest.raises(CiphertextError, match="the sum holds 3 vectors, as many as"):
        adder.fold(key.encrypt(ones))
    assert adder.to_bytes() == before
    counts: list[Any] = [0, 4, -1, 1.0, True, None, "1"]
    for count in counts:
        with pytest.raises(OpenError, match="expected 1 to 3"):
            key.open(adder.total(), 3, count)
    assert key.open(adder.total(), 3, 3).tolist() == [3, 3, 3]


def test_only_lattice_schemes_derive_keys_from_a_seed() -> None:
    seeded = {name for name, scheme in SCHEMES.items() if isinstance(scheme, SeededScheme)}
    assert seeded == SCHEMES.keys() - {"paillier"}


def test_a_paillier_sum_without_its_public_key_is_refused() -> None:
    with pytest.raises(HEError, match="got a public key of type NoneType"):
        SCHEMES["paillier"].adder(LENGTH)

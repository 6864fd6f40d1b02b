"""Paillier, CKKS and BFV satisfy the same types, and one piece of code runs with each of them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from he import bfv, ckks, paillier
from he.errors import HEError
from he.scheme import Scheme, SeededScheme

SCHEMES: dict[str, Scheme] = {
    "paillier": paillier.Scheme(bound=255, max_clients=3, bits=2048),
    "ckks": ckks.Scheme(bound=255, max_clients=3),
    "ckks-seeded": ckks.Scheme(bound=255, max_clients=3, seeded=True),
    "bfv": bfv.Scheme(bound=255, max_clients=3),
}
"""mypy checks this file, and so these assignments."""

LENGTH = 5000


@pytest.mark.parametrize("name", SCHEMES)
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


def test_only_lattice_schemes_derive_keys_from_a_seed() -> None:
    seeded = {name for name, scheme in SCHEMES.items() if isinstance(scheme, SeededScheme)}
    assert seeded == SCHEMES.keys() - {"paillier"}


def test_a_paillier_sum_without_its_public_key_is_refused() -> None:
    with pytest.raises(HEError, match="got a public key of type NoneType"):
        SCHEMES["paillier"].adder(LENGTH)

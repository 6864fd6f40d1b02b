"""Paillier, CKKS and BFV satisfy the same types, and one piece of code runs with each of them."""

import random
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
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
def test_sums_that_several_servers_made_are_added_up(name: str) -> None:
    scheme, vectors = SCHEMES[name], [np.arange(LENGTH) % (i + 7) for i in range(3)]
    secret = key_of(name)
    encrypted = [(secret.public or secret).encrypt(vector) for vector in vectors]
    whole = scheme.adder(LENGTH, secret.public)
    for one in encrypted:
        whole.fold(one)
    for split in ([[0, 1, 2]], [[0], [1, 2]], [[0], [], [1], [2]], [[], [2, 0], [1]]):
        parts = [scheme.adder(LENGTH, secret.public) for _ in split]
        for part, numbers in zip(parts, split, strict=True):
            for number in numbers:
                part.fold(encrypted[number])
        before = [part.to_bytes() for part in parts[1:]]
        for part in parts[1:]:
            parts[0].merge(part)
        assert [part.to_bytes() for part in parts[1:]] == before
        assert (parts[0].total(), parts[0].count) == (whole.total(), 3)
        with pytest.raises(CiphertextError):  # what it knows, it still knows
            parts[0].fold(encrypted[2])
    assert secret.open(parts[0].total(), LENGTH, 3).tolist() == np.sum(vectors, axis=0).tolist()


@every
def test_sums_that_do_not_belong_together_are_refused_and_unchanged(name: str) -> None:
    scheme, secret = SCHEMES[name], key_of(name)
    key: Any = secret.public or secret
    ours, theirs, longer = (scheme.adder(length, secret.public) for length in (50, 50, 51))
    shared, *others = (key.encrypt(np.arange(50)) for _ in range(4))
    for one in (shared, *others[:1]):
        ours.fold(one)
    theirs.fold(shared)
    full = scheme.adder(50, secret.public)
    for one in others[1:]:
        full.fold(one)
    elsewhere = next(other.adder(50, key_of(known).public) for known, other in SCHEMES.items() if known != name)
    before = ours.to_bytes()
    for wrong in (ours, longer, full, elsewhere, None):
        with pytest.raises(HEError):
            ours.merge(wrong)  # type: ignore[arg-type]
        assert ours.to_bytes() == before
    ours.merge(theirs)  # from two senders, it counts twice
    again = scheme.load_adder(ours.to_bytes(), 50, secret.public)
    assert (again.count, again.total()) == (ours.count, ours.total()) == (3, ours.total())
    expected = 3 * np.arange(50)
    assert secret.open(ours.total(), 50, 3).tolist() == expected.tolist()


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


def folded_at_once(name: str, threads: Executor, *, locked: bool) -> tuple[int, int, list[int]]:
    """How often two threads together add one vector to one sum, the sum's count, and what it opens to.

    Neither goes on until both have seen that the vector is not in the sum, or a fifth of a second is over. Then
    one goes first.
    """
    scheme, key = SCHEMES[name], key_of(name)
    adder: Any = scheme.adder(3, key.public)
    if not locked:
        adder._lock = nullcontext()
    both, kind = threading.Barrier(2, timeout=0.2), type(adder._seen)

    def known(seen: Any, vector: bytes) -> bool:
        found = kind.__contains__(seen, vector)
        with suppress(threading.BrokenBarrierError):
            time.sleep(both.wait() / 10)
        return bool(found)

    adder._seen = type("Slow", (kind,), {"__contains__": known})(adder._seen)
    data = key.encrypt(np.arange(3))
    taken = sum(task.exception() is None for task in [threads.submit(adder.fold, data) for _ in range(2)])
    return taken, adder.count, key.open(adder.total(), 3, scheme.max_clients).tolist()


@every
def test_two_threads_add_a_vector_once(name: str, threads: Executor) -> None:
    assert folded_at_once(name, threads, locked=True) == (1, 1, [0, 1, 2])


def test_control_without_its_lock_a_sum_holds_a_vector_twice_and_counts_it_once(threads: Executor) -> None:
    assert folded_at_once("bfv", threads, locked=False) == (2, 1, [0, 2, 4])


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

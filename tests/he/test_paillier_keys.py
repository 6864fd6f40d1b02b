"""Paillier's keys: against phe and the papers' formulas, what is refused, and obfuscators made ahead."""

import copy
import math
import os
import pickle
import random
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import gmpy2
import numpy as np
import pytest

from he import paillier_keys
from he.errors import CiphertextError, HEError
from he.paillier import PrivateKey, PublicKey, generate
from tests.he.paillier_primes import KEY, OTHER, PHE_P, PHE_Q, P, Q
from tests.reference import paillier as reference

phe = pytest.importorskip("phe", reason="needs phe: pip install 'secagg[he]'")

PHE = PrivateKey(PHE_P, PHE_Q)
N = KEY.n
PLAIN = [0, 1, 2**24, N // 3, N - 1]

encryptors = pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
kinds = pytest.mark.parametrize("textbook", [False, True], ids=["short", "textbook"])


def fresh(private: bool, textbook: bool = False) -> PublicKey | PrivateKey:
    return PrivateKey(P, Q, textbook=textbook) if private else PublicKey(N, textbook=textbook)


def repeatable(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@encryptors
@kinds
@pytest.mark.parametrize("count", [1, 5, 40])
def test_ciphertexts_open_here_and_in_phe(private: bool, textbook: bool, count: int, threads: Executor) -> None:
    plain = (PLAIN * count)[:count]
    ciphertexts = fresh(private, textbook).encrypt_integers(plain, threads)
    assert all(type(ciphertext) is int and 1 < ciphertext < N**2 for ciphertext in ciphertexts)
    assert len(set(ciphertexts)) == count, "equal plaintexts, one ciphertext"
    assert KEY.decrypt_integers(ciphertexts, threads) == plain
    theirs = KEY.to_phe()
    assert [theirs.raw_decrypt(ciphertext) for ciphertext in ciphertexts[:5]] == plain[:5]
    assert reference.decrypt(P, Q, ciphertexts[-1]) == plain[-1]


@encryptors
@kinds
def test_ciphertexts_are_the_papers(private: bool, textbook: bool) -> None:
    ours = fresh(private, textbook).encrypt_integers(PLAIN, rng=repeatable(3))
    rng = repeatable(3)
    if textbook:
        units: list[int] = []
        while len(units) < len(PLAIN):
            r = int.from_bytes(rng(256), "little")
            units += [r] if r < N else []
        theirs = [reference.encrypt_textbook(N, m, r) for m, r in zip(PLAIN, units, strict=True)]
    else:
        data = rng(128 * len(PLAIN))
        exponents = [int.from_bytes(data[at : at + 128], "little") for at in range(0, len(data), 128)]
        theirs = [reference.encrypt(N, m, exponent) for m, exponent in zip(PLAIN, exponents, strict=True)]
    assert ours == theirs


@encryptors
def test_executors_and_tables_change_nothing(private: bool, threads: Executor) -> None:
    plain = PLAIN * 10
    alone = fresh(private).encrypt_integers(plain, rng=repeatable(5))
    assert fresh(private).encrypt_integers(plain, threads, rng=repeatable(5)) == alone
    used = fresh(private)
    used.encrypt_integers(plain)  # now it holds a table
    used.prepare(3)
    assert used.encrypt_integers(plain, rng=repeatable(5)) == alone
    assert used.prepared == 3, "they do not follow from this generator"


def test_opening_is_split_into_equal_pieces() -> None:
    """So that all threads of an executor work until the end, on both primes."""
    sizes = []

    class Watched(ThreadPoolExecutor):
        def submit(self, function: Any, numbers: Any, /, *rest: Any) -> Any:
            sizes.append(len(numbers))
            return super().submit(function, numbers, *rest)

    ciphertexts = KEY.encrypt_integers(range(64 * (os.cpu_count() or 1)))
    with Watched(2) as threads:
        assert KEY.decrypt_integers(ciphertexts, threads) == list(range(len(ciphertexts)))
    assert sizes == [16] * (len(ciphertexts) // 16)


def test_exponents_have_half_the_bits_of_an_odd_modulus_too() -> None:
    key = PublicKey(int(gmpy2.next_prime(1 << 1024) * gmpy2.next_prime(1 << 1030)))
    bits = paillier_keys.exponent_bits(key.n)
    exponents = key._exponents(1000, lambda size: bytes([255]) * size)
    assert key.bits == 2055
    assert bits == 1028
    assert {int.from_bytes(row.tobytes(), "little") for row in exponents} == {2**bits - 1}


def test_phes_ciphertexts_add_to_ours() -> None:
    theirs = PHE.to_phe()
    public = PublicKey.from_phe(theirs.public_key)
    assert public == PHE.public
    assert public.to_phe() == theirs.public_key
    assert PrivateKey.from_phe(theirs) == PHE
    total = public.encrypt_integers([40])[0] * theirs.public_key.raw_encrypt(2) % public.n**2
    assert theirs.raw_decrypt(total) == 42
    assert PHE.decrypt_integers([total]) == [42]


def test_another_key_opens_something_else() -> None:
    ciphertexts = KEY.public.encrypt_integers([42])
    assert KEY.decrypt_integers(ciphertexts) == [42]
    assert OTHER.decrypt_integers([ciphertexts[0] % OTHER.n**2]) != [42]


@pytest.mark.parametrize("value", [-1, N, 2**3000, 1.0, "1", None, True], ids=range(7))
def test_plaintexts_that_are_refused(value: Any) -> None:
    with pytest.raises(HEError, match="plaintext 1 is"):
        KEY.public.encrypt_integers([0, value])


def test_numpys_integers_are_integers() -> None:
    assert KEY.decrypt_integers(KEY.public.encrypt_integers(np.array([7, 8]))) == [7, 8]


HOSTILE = {
    "zero": 0,
    "one": 1,
    "negative": -1,
    "square": N**2,
    "above": N**2 + 1,
    "a million bits": 1 << 10**6,
    "modulus": N,
    "prime": P,
    "multiple of the modulus": N * 17,
    "multiple of a prime": Q * 5,
    "float": 2.5,
    "text": "2",
    "none": None,
    "bool": True,
}


@pytest.mark.parametrize("ciphertext", HOSTILE.values(), ids=HOSTILE.keys())
def test_ciphertexts_that_are_refused(ciphertext: Any) -> None:
    good = KEY.public.encrypt_integers([1, 2])
    with pytest.raises(CiphertextError, match="ciphertext 1 "):
        KEY.decrypt_integers([good[0], ciphertext, good[1]])


def test_control_without_the_check_zero_is_taken_and_wipes_a_sum_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiple of n, too, is opened: to what nobody encrypted."""
    monkeypatch.setattr(paillier_keys, "check_ciphertexts", lambda numbers, n: [gmpy2.mpz(c) for c in numbers])
    good = KEY.public.encrypt_integers([41])[0]
    assert KEY.decrypt_integers([good]) == [41]
    assert KEY.decrypt_integers([good * 0]) == KEY.decrypt_integers([good * N % N**2]) != [41]


# Keys.


def test_generated_keys_meet_the_papers_conditions() -> None:
    for key in (generate(2048), generate(2048, rng=repeatable(1))):
        assert key.public.bits == 2048
        assert key.p % 4 == key.q % 4 == 3
        assert math.gcd(key.p - 1, key.q - 1) == 2
        assert math.gcd(key.n, (key.p - 1) * (key.q - 1)) == 1
        assert gmpy2.is_prime(key.p) and gmpy2.is_prime(key.q)  # noqa: PT018
        assert key != generate(2048)
        assert PrivateKey(key.p, key.q) == key, "what needs no second test passes it"


def test_generation_repeats_itself_only_in_tests() -> None:
    assert (
        generate(2048, rng=repeatable(1)) == generate(2048, rng=repeatable(1)) != generate(2048, rng=repeatable(2))
    )


@pytest.mark.parametrize("bits", [0, 1024, 2047, 2049, 16386, -2048])
def test_sizes_that_are_refused(bits: int) -> None:
    with pytest.raises(HEError, match="2048 to 16384"):
        generate(bits)


@kinds
def test_keys_come_back_from_bytes(textbook: bool) -> None:
    key = fresh(True, textbook)
    assert isinstance(key, PrivateKey)
    assert len(key.to_bytes()) == 512
    assert PrivateKey.from_bytes(key.to_bytes(), 2048, textbook=textbook) == key
    assert PublicKey.from_bytes(key.public.to_bytes(), 2048, textbook=textbook) == key.public
    assert len(key.public.to_bytes()) == 256


PRIME = int(gmpy2.next_prime(1 << 2047))
ROOT = int(gmpy2.next_prime(0xC0 << 1016))
MODULI = {
    "even": (N + 1, "factor below"),
    "three": ((2**2049 // 3 | 1) // 3 * 3 | 1 << 2047, "factor below|prime or a power"),
    "small factor": (65521 * int(gmpy2.next_prime(1 << 2032)), "factor below"),
    "prime": (PRIME, "prime or a power"),
    "square": (ROOT**2, "prime or a power"),
    "short": (N >> 1, "number of 2047 bits"),
    "zero": (0, "number of 0 bits"),
}


@pytest.mark.parametrize("name", MODULI)
def test_moduli_that_are_refused(name: str) -> None:
    modulus, reason = MODULI[name]
    with pytest.raises(HEError, match=reason):
        PublicKey.from_bytes(modulus.to_bytes(256, "big"), 2048)
    with pytest.raises(HEError):
        PublicKey(modulus)


@pytest.mark.parametrize(
    "data", [b"", bytes(255), KEY.public.to_bytes() + b"\0", 256, None, "x" * 256], ids=range(6)
)
def test_bytes_that_are_no_modulus(data: Any) -> None:
    with pytest.raises(HEError, match="expected 256 bytes"):
        PublicKey.from_bytes(data, 2048)


@pytest.mark.parametrize("modulus", [-N, True, 3.0, "n", 1 << 20000], ids=range(5))
def test_numbers_that_are_no_modulus(modulus: Any) -> None:
    with pytest.raises(HEError, match="got a modulus of"):
        PublicKey(modulus)


CLOSE = int(gmpy2.next_prime(P))
PRIVATE = {
    "other modulus": (N, P, OTHER.q, "not the product"),
    "composite": ((P * (Q + 2)), P, Q + 2, "is not prime|factor below"),
    "twice": (P * P, P, P, "too close"),
    "close": (P * CLOSE, P, CLOSE, "too close"),
    "one": (N, 1, N, "number of 1 bits|bytes"),
}


@pytest.mark.parametrize("name", PRIVATE)
def test_private_keys_that_are_refused(name: str) -> None:
    n, p, q, reason = PRIVATE[name]
    data = n.to_bytes(256, "big") + p.to_bytes(128, "big") + (q % 2**1024).to_bytes(128, "big")
    with pytest.raises(HEError, match=reason):
        PrivateKey.from_bytes(data, 2048)


@pytest.mark.parametrize(("p", "q"), [(P, 3), (3, P), (-P, Q), (P, P), (P, CLOSE), (0, 0)], ids=range(6))
def test_primes_that_are_refused(p: int, q: int) -> None:
    with pytest.raises(HEError):
        PrivateKey(p, q)


def test_nothing_secret_is_shown() -> None:
    assert str(P) not in repr(KEY)
    assert f"{P:x}" not in repr(KEY)


# Obfuscators made ahead.


@encryptors
@kinds
def test_prepared_obfuscators_are_used_once(private: bool, textbook: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    key = fresh(private, textbook)
    key.prepare(3)
    key.prepare(2)
    assert key.prepared == 5
    monkeypatch.setattr(key, "_obfuscators", lambda count, *rest: pytest.fail("made anew"))
    ciphertexts = key.encrypt_integers([7, 7]) + key.encrypt_integers([7, 7, 7])
    assert key.prepared == 0
    assert len(set(ciphertexts)) == 5
    assert KEY.decrypt_integers(ciphertexts) == [7] * 5


def test_what_was_not_prepared_is_made() -> None:
    key = PublicKey(N)
    key.prepare(2)
    assert KEY.decrypt_integers(key.encrypt_integers(range(5))) == list(range(5))
    assert key.prepared == 0


def test_a_negative_number_of_obfuscators() -> None:
    with pytest.raises(HEError, match="expected 0 or more"):
        PublicKey(N).prepare(-1)


@encryptors
@pytest.mark.parametrize("double", [copy.copy, copy.deepcopy, lambda key: pickle.loads(pickle.dumps(key))])
def test_copies_get_no_obfuscators(private: bool, double: Callable[[Any], Any]) -> None:
    key = fresh(private)
    key.prepare(2)
    twin = double(key)
    assert twin == key
    assert hash(twin) == hash(key)
    assert (key.prepared, twin.prepared) == (2, 0)


def in_child(key: PublicKey) -> int:
    """The ciphertext of 0 that a forked process makes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, key.encrypt_integers([0])[0].to_bytes(512, "big"))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return int.from_bytes(data, "big")


def test_a_forked_process_gets_no_obfuscators() -> None:
    key = PublicKey(N)
    key.prepare(1)
    theirs, ours = in_child(key), key.encrypt_integers([0])[0]
    assert KEY.decrypt_integers([theirs, ours]) == [0, 0]
    assert theirs != ours


def test_control_one_obfuscator_twice_gives_the_difference_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the process check, the fork's ciphertext and ours differ by (1 + n)^difference."""
    key = PublicKey(N)
    key.prepare(1)
    monkeypatch.setattr(os, "getpid", lambda: key._owner)
    theirs, ours = in_child(key), key.encrypt_integers([1234])[0]
    assert (ours * pow(theirs, -1, N**2) % N**2 - 1) // N == 1234

"""Vectors under Paillier: exact sums, what is not added, what is not opened, and the controls of these."""

import random
from concurrent.futures import Executor
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from he import _paillier_sums, paillier
from he.errors import CiphertextError, HEError, OpenError
from he.paillier import Adder, Scheme, VectorPrivateKey, VectorPublicKey
from tests.he.paillier_primes import KEY, OTHER, PHE_P, PHE_Q, P, Q
from tests.reference import paillier as reference

BOUND, CLIENTS = 65534, 256
SCHEME = Scheme(bound=BOUND, max_clients=CLIENTS, bits=2048)
SECRET = VectorPrivateKey(SCHEME, KEY)
PUBLIC = SECRET.public
LENGTH = 100  # two ciphertexts, of 85 slots
SIZE = 512


def under(scheme: Scheme) -> VectorPrivateKey:
    """The test key under ``scheme``, with the tables and the h that it has already."""
    return VectorPrivateKey(scheme, KEY)


def encrypted(vectors: list[NDArray[Any]], secret: VectorPrivateKey) -> bytes:
    adder = secret.scheme.adder(vectors[0].size, secret.public)
    for vector in vectors:
        adder.fold(secret.encrypt(vector))
    return adder.total()


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Scheme, list[list[int]]]:
    clients = draw(st.integers(1, 8))
    scheme = Scheme(draw(st.integers(1, 1 << 20)), draw(st.integers(clients, 300)), bits=2048)
    length = draw(st.sampled_from([1, 2, scheme.slots.count, scheme.slots.count + 1]) | st.integers(1, 300))
    rng = random.Random(draw(st.integers(0, 99)))
    kinds = {
        "zeros": lambda: [0] * length,
        "tops": lambda: [scheme.bound] * length,
        "any": lambda: [rng.randint(0, scheme.bound) for _ in range(length)],
    }
    return scheme, [kinds[draw(st.sampled_from(sorted(kinds)))]() for _ in range(clients)]


@given(cohorts())
@settings(max_examples=40)
def test_sums_are_exact(cohort: tuple[Scheme, list[list[int]]]) -> None:
    scheme, vectors = cohort
    secret = under(scheme)
    total = encrypted([np.array(vector) for vector in vectors], secret)
    opened = secret.open(total, len(vectors[0]), len(vectors))
    assert opened.dtype == np.int64
    assert opened.tolist() == [sum(column) for column in zip(*vectors, strict=True)]


def test_a_full_cohort_at_the_top_of_the_range() -> None:
    adder, vector = SCHEME.adder(LENGTH, PUBLIC), np.full(LENGTH, BOUND)
    for _ in range(CLIENTS):
        adder.fold(SECRET.encrypt(vector))
    assert adder.count == CLIENTS
    assert (SECRET.open(adder.total(), LENGTH, CLIENTS) == CLIENTS * BOUND).all()


def test_a_long_vector_on_threads(threads: Executor) -> None:
    values = np.arange(30_000) % (BOUND + 1)
    data = PUBLIC.encrypt(values, threads)
    assert len(data) == SCHEME.size(values.size) == SCHEME.total_size(values.size)
    assert (SECRET.open(data, values.size, 1, threads) == values).all()


def test_sums_of_62_bits() -> None:
    secret = under(Scheme(bound=(1 << 55) - 1, max_clients=256, bits=2048))
    vectors = [np.array([(1 << 55) - 1, 0, 12345], dtype=np.uint64)] * 3
    opened = secret.open(encrypted(vectors, secret), 3, 3)
    assert opened.tolist() == [3 * ((1 << 55) - 1), 0, 3 * 12345]


def test_textbook_sums_are_exact_too() -> None:
    scheme = replace(SCHEME, textbook=True)
    secret = scheme.load_secret(KEY.to_bytes())
    adder = scheme.adder(5, secret.public)
    for key in (secret, secret.public):
        adder.fold(key.encrypt(np.arange(5)))
    assert secret.open(adder.total(), 5, 2).tolist() == [0, 2, 4, 6, 8]


def test_bytes_are_the_papers_and_do_not_depend_on_who_encrypts(threads: Executor) -> None:
    values = np.arange(LENGTH)
    data = PUBLIC.encrypt(values, rng=random.Random(1).randbytes)
    assert data == SECRET.encrypt(values, threads, rng=random.Random(1).randbytes)
    exponents = random.Random(1).randbytes(2 * 128)
    expected = SCHEME.digest[:16] + PUBLIC.digest[:16]
    for i, row in enumerate((range(85), range(85, LENGTH))):
        exponent = int.from_bytes(exponents[128 * i : 128 * (i + 1)], "little")
        expected += reference.encrypt(KEY.n, reference.pack(row, 24), exponent).to_bytes(SIZE, "big")
    assert data == expected


def test_equal_vectors_differ_in_every_ciphertext() -> None:
    uploads = [PUBLIC.encrypt(np.zeros(LENGTH, int)) for _ in range(3)]
    pieces = {upload[at : at + SIZE] for upload in uploads for at in (32, 32 + SIZE)}
    assert len(pieces) == 6


def test_prepared_uploads() -> None:
    secret = VectorPrivateKey(SCHEME, paillier.PrivateKey(P, Q))
    for key in (secret, secret.public):
        key.prepare(SCHEME.ciphertexts(LENGTH))
        assert key.key.prepared == 2
        assert secret.open(key.encrypt(np.arange(LENGTH)), LENGTH, 1).tolist() == list(range(LENGTH))
        assert key.key.prepared == 0


# Parameters.


def test_the_reference_parameters() -> None:
    scheme = Scheme(bound=65534, max_clients=256)
    assert (scheme.width, scheme.slots.count) == (24, 127)
    assert scheme.size(10**6) / 10**6 <= 6.2
    assert scheme.describe() == (
        "Paillier, 3072-bit modulus, h^α, short exponents; 127 slots of 24 bits, 6.05 bytes a value"
    )
    assert "r^n" in replace(scheme, textbook=True).describe()


def test_the_digest_stands_for_all_parameters() -> None:
    changes: list[dict[str, Any]] = [{}, {"bound": 65533}, {"max_clients": 255}, {"bits": 3072}, {"textbook": True}]
    schemes = [replace(SCHEME, **change) for change in changes]
    assert len({scheme.digest for scheme in schemes}) == 5
    assert len(SCHEME.digest) == 32
    with pytest.raises(FrozenInstanceError):
        SCHEME.bound = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"bound": 0},
        {"bound": -1},
        {"bound": 1 << 62},
        {"bound": 2.0},
        {"max_clients": 0},
        {"max_clients": True},
        {"bits": 1024},
        {"bits": 2040},
        {"bits": 2056},
        {"bits": 1 << 20},
        {"textbook": "yes"},
        {"textbook": 1},
    ],
    ids=str,
)
def test_parameters_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(HEError, match=r"expected|Python's own"):
        replace(SCHEME, **change)


def test_keys_of_a_scheme() -> None:
    scheme = Scheme(bound=1, max_clients=2, bits=2048)
    secret = scheme.generate()
    assert scheme.load_secret(secret.to_bytes()) == secret
    assert scheme.load_public(secret.public.to_bytes()) == secret.public
    assert secret.public.digest == secret.key.public.digest != PUBLIC.digest
    assert secret.open(secret.public.encrypt(np.array([1, 0])), 2, 1).tolist() == [1, 0]


def test_a_key_of_another_size_or_kind() -> None:
    for scheme in (replace(SCHEME, bits=3072), replace(SCHEME, textbook=True)):
        with pytest.raises(HEError, match="the scheme has"):
            VectorPublicKey(scheme, KEY.public)
        with pytest.raises(HEError, match="the scheme has"):
            VectorPrivateKey(scheme, KEY)
    with pytest.raises(HEError, match="expected 384 bytes"):
        replace(SCHEME, bits=3072).load_public(PUBLIC.to_bytes())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([0, -1]), "value 1 is out of range"),
        (np.array([0, 0, BOUND + 1]), "value 2 is out of range"),
        (np.array([2**64 - 1], np.uint64), "value 0 is out of range"),
        (np.array([-128], np.int8), "value 0 is out of range"),
        (np.array([1.0]), "a row of integers"),
        (np.array([True]), "a row of integers"),
        (np.array([], int), "at least one"),
        (np.zeros((2, 2), int), "a row of integers"),
        (np.array(3), "a row of integers"),
        (np.array(["1"]), "a row of integers"),
    ],
)
def test_values_that_are_refused(values: NDArray[Any], reason: str) -> None:
    with pytest.raises(HEError, match=reason):
        PUBLIC.encrypt(values)


def test_a_vector_of_nothing_has_no_size() -> None:
    for length in (0, -1):
        with pytest.raises(HEError, match="expected at least 1"):
            SCHEME.size(length)
        with pytest.raises(HEError, match="expected at least 1"):
            SCHEME.adder(length, PUBLIC)


# Hostile ciphertexts.

GOOD = PUBLIC.encrypt(np.arange(LENGTH))


def with_second(number: int) -> bytes:
    """An upload whose second ciphertext is ``number``."""
    return GOOD[: 32 + SIZE] + number.to_bytes(SIZE, "big")


HOSTILE: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "got 0 bytes; expected 1056"),
    "header alone": (GOOD[:32], "got 32 bytes"),
    "one byte short": (GOOD[:-1], "got 1055 bytes"),
    "one byte more": (GOOD + b"\0", "got 1057 bytes"),
    "one ciphertext less": (GOOD[:-SIZE], "got 544 bytes"),
    "one ciphertext more": (GOOD + GOOD[-SIZE:], "got 1568 bytes"),
    "another length": (PUBLIC.encrypt(np.arange(10)), "got 544 bytes"),
    "text": (GOOD.hex(), "of type str; expected bytes"),
    "none": (None, "of type NoneType; expected bytes"),
    "other parameters": (under(replace(SCHEME, bound=65533)).encrypt(np.arange(LENGTH)), "under other parameters"),
    "foreign modulus": (VectorPrivateKey(SCHEME, OTHER).encrypt(np.arange(LENGTH)), "under another public key"),
    "zero": (with_second(0), "ciphertext 1 is out of range"),
    "one": (with_second(1), "ciphertext 1 is out of range"),
    "n squared": (with_second(KEY.n**2), "ciphertext 1 is out of range"),
    "all ones": (GOOD[:32] + b"\xff" * SIZE + GOOD[-SIZE:], "ciphertext 0 is out of range"),
    "n": (with_second(KEY.n), "ciphertext 1 shares a factor"),
    "multiple of n": (with_second(KEY.n * 12345), "ciphertext 1 shares a factor"),
    "p": (with_second(P), "ciphertext 1 shares a factor"),
    "multiple of q": (with_second(Q * 12345), "ciphertext 1 shares a factor"),
    "p and q apart": (
        GOOD[:32] + P.to_bytes(SIZE, "big") + Q.to_bytes(SIZE, "big"),
        "ciphertext 0 shares a factor",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_leave_the_sum_alone_and_are_not_opened(name: str) -> None:
    data, reason = HOSTILE[name]
    adder = SCHEME.adder(LENGTH, PUBLIC)
    with pytest.raises(CiphertextError, match=reason):
        adder.fold(data)
    assert adder.count == 0
    adder.fold(GOOD)
    before = adder.to_bytes()
    with pytest.raises(CiphertextError, match=reason):
        adder.fold(data)
    assert adder.to_bytes() == before
    assert SECRET.open(adder.total(), LENGTH, 1).tolist() == list(range(LENGTH))
    with pytest.raises(CiphertextError, match=reason):
        SECRET.open(data, LENGTH, 1)


def test_bytes_changed_anywhere_are_refused_or_open_to_nothing_possible() -> None:
    rng = random.Random(4)
    adder = SCHEME.adder(LENGTH, PUBLIC)
    for at in [0, 15, 16, 31, 32, 33, *(rng.randrange(len(GOOD)) for _ in range(20))]:
        data = bytearray(GOOD)
        data[at] ^= 1 << rng.randrange(8)
        try:
            SCHEME.adder(LENGTH, PUBLIC).fold(bytes(data))
        except CiphertextError:
            continue
        with pytest.raises(OpenError):
            SECRET.open(bytes(data), LENGTH, 1)
    assert adder.count == 0


@pytest.mark.parametrize("name", ["zero", "n", "multiple of q"])
def test_control_without_validation_one_upload_spoils_the_sum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ciphertext that is not a unit destroys all clients' values: nobody can open the sum."""
    monkeypatch.setattr(paillier, "check_ciphertexts", lambda numbers, n: list(numbers))
    adder = SCHEME.adder(LENGTH, PUBLIC)
    adder.fold(GOOD)
    adder.fold(HOSTILE[name][0])
    monkeypatch.undo()
    with pytest.raises(CiphertextError, match="ciphertext 1 "):
        SECRET.open(adder.total(), LENGTH, 2)


# What is not opened.


def add(*vectors: bytes) -> bytes:
    """What a server that counts nothing makes of ``vectors``."""
    numbers = [1] * ((len(vectors[0]) - 32) // SIZE)
    for vector in vectors:
        for i in range(len(numbers)):
            piece = vector[32 + i * SIZE : 32 + (i + 1) * SIZE]
            numbers[i] = numbers[i] * int.from_bytes(piece, "big") % KEY.n**2
    return vectors[0][:32] + b"".join(number.to_bytes(SIZE, "big") for number in numbers)


def forged(*plain: int) -> bytes:
    """Valid ciphertexts of any plaintexts, as one who holds the public key can make them."""
    ciphertexts = KEY.encrypt_integers(plain)
    return GOOD[:32] + b"".join(ciphertext.to_bytes(SIZE, "big") for ciphertext in ciphertexts)


IMPOSSIBLE = {
    "a slot above the largest sum": (forged((2 * BOUND + 1) << 24 * 3, 0), "slot 3 is above the largest sum of 2"),
    "an unused slot": (forged(0, 1 << 24 * (LENGTH - 85)), "an unused slot is not zero"),
    "the last unused slot": (forged(0, 1 << 24 * 84), "an unused slot is not zero"),
    "the bit above the slots": (forged(1 << 24 * 85, 0), "bits above the slots"),
    "half the plaintexts": (forged(0, KEY.n // 2), "bits above the slots"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_sums_are_not_opened(name: str) -> None:
    data, reason = IMPOSSIBLE[name]
    with pytest.raises(OpenError, match=reason):
        SECRET.open(data, LENGTH, 2)
    with pytest.raises(OpenError, match=reason):
        SECRET.open(add(data, GOOD), LENGTH, 2)


def test_control_without_the_check_an_impossible_sum_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = SCHEME.slots.unpack
    monkeypatch.setattr(
        paillier, "_checked", lambda scheme, plain, length, count: unpack(plain)[:length].astype(np.int64)
    )
    opened = SECRET.open(add(IMPOSSIBLE["a slot above the largest sum"][0], GOOD), LENGTH, 2)
    assert opened[3] == 2 * BOUND + 1 + 3 > 2 * BOUND


def test_a_count_below_the_number_of_vectors() -> None:
    top = PUBLIC.encrypt(np.full(LENGTH, BOUND))
    with pytest.raises(OpenError, match="above the largest sum of 1"):
        SECRET.open(add(top, GOOD), LENGTH, 1)


SMALL = under(Scheme(bound=3, max_clients=5, bits=2048))  # slots of 4 bits, for 15


def overflowed(monkeypatch: pytest.MonkeyPatch, vectors: list[list[int]]) -> bytes:
    """The sum of more vectors than fit, by an adder whose one check is removed."""
    monkeypatch.setattr(Adder, "count", property(lambda self: 0))
    return encrypted([np.array(vector) for vector in vectors], SMALL)


def test_overflow_that_reaches_a_bound_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    length = SMALL.scheme.slots.count
    total = overflowed(monkeypatch, [[3] * length] * 6)
    with pytest.raises(OpenError, match="bits above the slots"):
        SMALL.open(total, length, 5)
    with pytest.raises(OpenError, match="an unused slot"):
        SMALL.open(overflowed(monkeypatch, [[0, 3]] * 6), 2, 5)


def test_control_other_overflow_is_a_wrong_sum_that_nobody_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """18 in 4 bits is 2, and 1 for the neighbour: only the adder's count stands against it."""
    assert SMALL.open(overflowed(monkeypatch, [[3, 0]] * 6), 2, 5).tolist() == [2, 1]


# Keys and order.


def test_another_key_opens_nothing() -> None:
    other = VectorPrivateKey(SCHEME, OTHER)
    with pytest.raises(CiphertextError, match="another public key"):
        other.open(GOOD, LENGTH, 1)
    # With the mark of its own key forged on top, it does not open to a possible sum.
    with pytest.raises((OpenError, CiphertextError)):
        other.open(other.encrypt(np.arange(LENGTH))[:32] + GOOD[32:], LENGTH, 1)


def test_control_ciphertexts_swapped_are_values_swapped() -> None:
    """Nothing in a sum tells positions apart: an upload's integrity is the envelope's to keep."""
    values = np.arange(2 * 85)
    data = PUBLIC.encrypt(values)
    swapped = data[:32] + data[-SIZE:] + data[32:-SIZE]
    assert SECRET.open(data, values.size, 1).tolist() == values.tolist()
    assert SECRET.open(swapped, values.size, 1).tolist() == [*values[85:], *values[:85]]


def test_swapped_slots_of_a_short_last_ciphertext_are_seen() -> None:
    swapped = GOOD[:32] + GOOD[-SIZE:] + GOOD[32:-SIZE]
    with pytest.raises(OpenError, match="an unused slot"):
        SECRET.open(swapped, LENGTH, 1)


def test_phes_ciphertexts_in_a_sum() -> None:
    pytest.importorskip("phe", reason="needs phe: pip install 'secagg[he]'")
    key = paillier.PrivateKey(PHE_P, PHE_Q)
    secret = VectorPrivateKey(SCHEME, key)
    ours = secret.public.encrypt(np.array([1, 2]))
    number = key.to_phe().public_key.raw_encrypt(reference.pack([10, 20], 24))
    adder = SCHEME.adder(2, secret.public)
    adder.fold(ours)
    adder.fold(ours[:32] + number.to_bytes(SIZE, "big"))
    assert secret.open(adder.total(), 2, 2).tolist() == [11, 22]


# A saved sum.


def test_a_saved_sum_goes_on() -> None:
    adder = SCHEME.adder(LENGTH, PUBLIC)
    empty = adder.to_bytes()
    assert SCHEME.load_adder(empty, LENGTH, PUBLIC).count == 0
    adder.fold(GOOD)
    restored = SCHEME.load_adder(adder.to_bytes(), LENGTH, PUBLIC)
    assert restored.to_bytes() == adder.to_bytes()
    assert len(adder.to_bytes()) == len(empty) + 32 + LENGTH // 50 * SIZE
    upload = PUBLIC.encrypt(np.arange(LENGTH))
    restored.fold(upload)
    assert restored.count == 2
    assert SECRET.open(restored.total(), LENGTH, 2).tolist() == [2 * i for i in range(LENGTH)]


def test_an_empty_sum_has_no_total() -> None:
    with pytest.raises(HEError, match="the sum is empty"):
        SCHEME.adder(LENGTH, PUBLIC).total()


def test_a_sum_under_a_key_of_another_scheme() -> None:
    with pytest.raises(HEError, match="another scheme"):
        SCHEME.adder(LENGTH, under(replace(SCHEME, bound=5)).public)


@pytest.mark.parametrize("folded", [False, True])
def test_damaged_saved_sums(folded: bool) -> None:
    adder = SCHEME.adder(LENGTH, PUBLIC)
    if folded:
        adder.fold(GOOD)
    state = adder.to_bytes()
    for at in (0, 16, 19, 25, len(state) - 1):
        with pytest.raises(HEError, match="damaged"):
            SCHEME.load_adder(state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :], LENGTH, PUBLIC)
    for data in (b"", state[:-1], state + b"\0", None):
        with pytest.raises(HEError, match="damaged"):
            SCHEME.load_adder(data, LENGTH, PUBLIC)  # type: ignore[arg-type]
    other = VectorPrivateKey(SCHEME, OTHER).public
    with pytest.raises(HEError, match=r"another key|another public key"):
        SCHEME.load_adder(state, LENGTH, other)


def test_saved_sums_that_contradict_themselves() -> None:
    adder = SCHEME.adder(LENGTH, PUBLIC)
    adder.fold(GOOD)
    body = adder.to_bytes()[16:]
    count, name, total = body[:4], body[4:36], body[36:]
    names = b"".join(i.to_bytes(32, "big") for i in range(257))
    for wrong, reason in (
        ((2).to_bytes(4, "big") + name + total, "which is damaged"),
        ((2).to_bytes(4, "big") + name + name + total, "names a vector twice"),
        (
            (257).to_bytes(4, "big") + names + total,
            "which is damaged",
        ),
        (count + name + with_second(0), "out of range"),
    ):
        with pytest.raises(HEError, match=reason):
            SCHEME.load_adder(_paillier_sums._checksum(wrong) + wrong, LENGTH, PUBLIC)

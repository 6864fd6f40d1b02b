"""A ciphertext that parses and holds the key: (0, K) added to an upload puts K s into the sum.

With the check of slots on, such a sum isn't opened. With that one check off, the published sum gives a network
that has seen the uploads the key, and with it every client's vector.
"""

from dataclasses import replace

import numpy as np
import pytest

from he import _rlwe, bfv, ckks, params
from he.ckks import SecretKey
from he.errors import HEError, OpenError
from he.ring.slots import modular_places
from tests.he.polynomials import coefficients, decoded, phases, read, values, written
from tests.he.test_ckks import coefficients_of, slots_of

Scheme = ckks.Scheme | bfv.Scheme
HONEST = 20

models = pytest.mark.parametrize("seeded", [False, True], ids=["public", "seeded"])
engines = pytest.mark.parametrize("engine", ["ring", "seal"])


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one defence removed: the look at the slots before they are shown."""
    monkeypatch.setattr(_rlwe.Scheme, "_require_possible", lambda *_: None)


def added(scheme: Scheme, data: bytes, polynomials: list[list[np.ndarray]], part: int) -> bytes:
    """``data`` with polynomials[ciphertext][prime], as values, added to polynomial ``part``."""
    rows = read(scheme, data)
    for ciphertext, multiples in zip(rows, polynomials, strict=True):
        for j, (prime, multiple) in enumerate(zip(scheme.parameters.primes, multiples, strict=True)):
            row = ciphertext[part * len(multiples) + j]
            row[:] = (row + multiple) % np.uint64(prime)
    return written(scheme, data, rows)


def honest(scheme: Scheme, length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, scheme.bound, length, endpoint=True) for _ in range(HONEST)]


def attacked(
    scheme: Scheme, key: SecretKey, vectors: list[np.ndarray], polynomials: list[list[np.ndarray]]
) -> tuple[bytes, list[bytes]]:
    """The sum of honest uploads and an attacker's, and the honest uploads as the network saw them.

    The attacker's is a vector of zeros with ``polynomials`` added to its second half. A seeded upload has
    no second half that could be chosen: there they are added to the sum, as if it had been.
    """
    adder = scheme.adder(len(vectors[0]))
    uploads = [key.encrypt(vector) for vector in vectors]
    own = key.encrypt(np.zeros(len(vectors[0]), dtype=int))
    for data in uploads:
        adder.fold(data)
    adder.fold(own if scheme.seeded else added(scheme, own, polynomials, 1))
    total = adder.total()
    return added(scheme, total, polynomials, 1) if scheme.seeded else total, uploads


def read_with(scheme: Scheme, secret: np.ndarray, upload: bytes, length: int) -> np.ndarray:
    """The values in one client's upload, for an attacker that recovered ``secret``."""
    adder = scheme.adder(length)
    adder.fold(upload)
    return SecretKey(scheme, secret.astype(np.int8), None).open(adder.total(), length, 1)


# BFV: slot i of ciphertext j holds S + c_j s_i modulo t, with c_j chosen and S below t / 2^8 for a client to read.


def digits_of_slots(scheme: bfv.Scheme, count: int) -> list[list[np.ndarray]]:
    """For ciphertext j, the encoding's multiple 2^(7j): q / t * 2^(7j), so that the sum's slots gain 2^(7j) s."""
    t, q = scheme.parameters.plain_modulus, int(np.prod([int(p) for p in scheme.parameters.primes], dtype=object))
    out = []
    for j in range(count):
        constant = q * pow(2, 7 * j) // t
        primes, degree = scheme.parameters.primes, scheme.parameters.degree
        out.append([np.full(degree, constant % prime, dtype=np.uint64) for prime in primes])
    return out


def slots_of_the_key(scheme: bfv.Scheme, sums: np.ndarray) -> np.ndarray:
    """Each slot of s, narrowed down by seven bits a ciphertext: sums (k, N) are S + 2^(7j) s modulo t."""
    t = scheme.parameters.plain_modulus
    largest = (HONEST + 1) * scheme.bound
    slots = []
    for column in sums.T.tolist():
        low, high = column[0] - largest, column[0]  # s itself, but for a multiple of t
        for j, value in enumerate(column[1:], start=1):
            factor = 2 ** (7 * j)
            wraps = round((factor * (low + high) / 2 - value) / t)
            low = max(low, -(-(value - largest + wraps * t) // factor))
            high = min(high, (value + wraps * t) // factor)
        slots.append(low % t)
    return np.array(slots, dtype=np.uint64)


def bfv_case(seeded: bool, engine: str = "ring") -> tuple[bfv.Scheme, int]:
    scheme = bfv.Scheme(254, 256, seeded, engine)
    return scheme, 5  # ciphertexts: 7 bits each, of a plaintext modulus of 24 bits


def polynomial(scheme: bfv.Scheme, slots: np.ndarray) -> np.ndarray:
    """The coefficients (N), modulo the plaintext modulus, of the polynomial with ``slots`` (N)."""
    return coefficients(scheme._plain, slots[modular_places(scheme.slots)])


@models
@engines
@pytest.mark.usefixtures("unchecked")
def test_control_unchecked_bfv_slots_give_away_the_key(seeded: bool, engine: str) -> None:
    scheme, count = bfv_case(seeded, engine)
    key, length = scheme.generate(), count * scheme.slots
    vectors = honest(scheme, length)
    total, uploads = attacked(scheme, key, vectors, digits_of_slots(scheme, count))
    sums = key.open(total, length, HONEST + 1).reshape(count, -1)
    secret = polynomial(scheme, slots_of_the_key(scheme, sums)).astype(np.int64)
    secret -= scheme.parameters.plain_modulus * (secret > 1)
    assert (secret == key._secret).all()
    assert (read_with(scheme, secret, uploads[3], length) == vectors[3]).all()


@models
@engines
def test_bfv_slots_with_the_key_in_them_are_not_opened(seeded: bool, engine: str) -> None:
    scheme, count = bfv_case(seeded, engine)
    key, length = scheme.generate(), count * scheme.slots
    vectors = honest(scheme, length)
    total, _ = attacked(scheme, key, vectors, digits_of_slots(scheme, count))
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(total, length, HONEST + 1)


def share_that_pass(scheme: bfv.Scheme, key: SecretKey, factor: int) -> float:
    """Of the slots of a sum with ``factor`` times the key in it, those that could be a sum's."""
    multiple = factor * int(np.prod([int(p) for p in scheme.parameters.primes], dtype=object))
    rows = []
    for prime in scheme.parameters.primes:
        constant = multiple // scheme.parameters.plain_modulus % prime
        rows.append(np.full(scheme.parameters.degree, constant, dtype=np.uint64))
    vectors = honest(scheme, scheme.slots)
    total, _ = attacked(scheme, key, vectors, [rows])
    slots = decoded(scheme, phases(scheme, key, total), HONEST + 1)
    return float(np.mean((slots >= 0) & (slots <= (HONEST + 1) * scheme.bound)))


@pytest.mark.parametrize("factor", [1, 2, 2**7, 2**15, 2**23 // 3])
def test_few_slots_pass_whatever_the_multiple(factor: int) -> None:
    """A slot of the key is anywhere in the plaintext modulus, so that about one in 2^8 passes by chance.

    (0, 1) alone keeps the slots of s as they are, which is as wide.
    """
    scheme = bfv.Scheme(254, 256)
    assert share_that_pass(scheme, scheme.generate(), factor) < 2 / 2**params.MARGIN_BITS


@pytest.mark.parametrize("clients", [HONEST + 1])
def test_control_with_no_margin_all_slots_may_pass(clients: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plaintext modulus no larger than the largest sum, most slots with the key in them are possible sums:
    for the length of a vector that fills its ciphertexts no check of range can tell."""
    scheme = bfv.Scheme(254, clients)
    key = scheme.generate()
    assert share_that_pass(scheme, key, 1) < 2 / 2**8
    monkeypatch.setattr(params, "MARGIN_BITS", 0)
    params.bfv.cache_clear()
    try:
        narrow = bfv.Scheme(254, clients)
        assert narrow.parameters.plain_modulus < 2 * clients * 254 + 10**5
        share = share_that_pass(narrow, narrow.generate(), 1)
        expected = (HONEST + 1) * 254 / narrow.parameters.plain_modulus
    finally:
        params.bfv.cache_clear()  # and nothing asks for parameters again before the margin is back
    assert abs(share - expected) < 0.1
    assert share > 10 * 2 / 2**8


def test_what_remains_is_one_slot_of_the_key_by_chance() -> None:
    """A client that puts the key into a single slot is refused but for about once in 2^8, when that slot of the key
    happens to be a possible sum. Then the sum is opened, and it knows one slot, of one session's key."""
    scheme = bfv.Scheme(254, HONEST + 1)
    p, length = scheme.parameters, scheme.slots
    key = scheme.generate(lambda size: bytes(size))  # one whose slots are possible sums in some places
    slots = np.empty(length, dtype=np.uint64)
    slots[modular_places(length)] = values(scheme._plain, key._secret.astype(np.int64) % p.plain_modulus)
    vectors = honest(scheme, length)
    sums = sum(vectors)
    possible = np.flatnonzero(slots + sums.astype(np.uint64) <= (HONEST + 1) * scheme.bound)
    assert 0 < len(possible) / length < 2 / 2**params.MARGIN_BITS

    def opened(slot: int) -> np.ndarray:
        one = np.zeros(length, dtype=np.uint64)
        one[slot] = 1
        (prime,) = p.primes
        multiple = (polynomial(scheme, one).astype(object) * prime + p.plain_modulus // 2) // p.plain_modulus
        total, _ = attacked(scheme, key, vectors, [[values(scheme._fields[0], multiple)]])
        return key.open(total, length, HONEST + 1)

    lucky = possible[0]
    assert opened(lucky)[lucky] - sums[lucky] == slots[lucky]
    unlucky = next(slot for slot in range(length) if slot not in possible)
    with pytest.raises(OpenError, match="not a possible sum"):
        opened(unlucky)


# Coefficients: where a decryptor opened them, in place of slots, the key would lie there plainly, in range.


def packed_in_coefficients(
    scheme: bfv.Scheme, rows: np.ndarray, spare: np.ndarray, count: int, sums: np.ndarray
) -> bool:
    """Exactly one defence removed: coefficients are opened, not slots."""
    p = scheme.parameters
    phase, (prime,) = rows[0].T[: len(sums)].astype(object), p.primes
    sums[:] = (phase * p.plain_modulus + prime // 2) // prime % p.plain_modulus
    return True


def test_control_coefficients_give_away_the_key_with_every_one_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of range is on, and finds nothing: updates lie near the middle, as they do, and a sum of 21
    has room for K more or K less."""
    scheme = bfv.Scheme(65534, 256)
    length, factor = scheme.slots, 600_000
    vectors = [32767 + vector % 5000 - 2500 for vector in honest(scheme, length)]
    constant = factor * scheme.parameters.primes[0] // scheme.parameters.plain_modulus
    row = np.full(scheme.parameters.degree, constant, dtype=np.uint64)
    with monkeypatch.context() as patch:
        patch.setattr(bfv.Scheme, "_decode", packed_in_coefficients)
        patch.setattr(bfv.Scheme, "_encode", in_coefficients)
        key = scheme.generate()
        total, uploads = attacked(scheme, key, vectors, [[row]])
        opened = key.open(total, length, HONEST + 1)  # no OpenError: every coefficient is a possible sum
        secret = np.rint((opened - HONEST * 32767) / factor).astype(int)
        assert (secret == key._secret).all()
        assert (read_with(scheme, secret, uploads[3], length) == vectors[3]).all()
    total, _ = attacked(scheme, key, vectors, [[row]])
    with pytest.raises(OpenError):
        key.open(total, length, HONEST + 1)


def in_coefficients(scheme: bfv.Scheme, values: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    t, (prime,) = scheme.parameters.plain_modulus, scheme.parameters.primes
    out[0] = ((values.astype(object) * prime + t // 2) // t).astype(np.uint64).T


# CKKS: slots, both parts of them, say what the coefficients are; and K s lies on top of a small honest sum there.


def ckks_multiple(scheme: ckks.Scheme) -> list[list[np.ndarray]]:
    """K = q / 8, as values."""
    return [[np.full(scheme.parameters.degree, scheme.parameters.primes[0] // 8, dtype=np.uint64)]]


@models
@engines
@pytest.mark.usefixtures("unchecked")
def test_control_unchecked_ckks_slots_give_away_the_key(seeded: bool, engine: str) -> None:
    scheme = ckks.Scheme(254, 256, seeded, engine)
    key, length, p = scheme.generate(), scheme.slots, scheme.parameters
    vectors = honest(scheme, length)
    total, uploads = attacked(scheme, key, vectors, ckks_multiple(scheme))
    sums = key.open(total, length, HONEST + 1).astype(float)
    secret = np.rint(coefficients_of(scheme, sums) * p.step / (p.primes[0] // 8)).astype(int)
    assert (secret == key._secret).all()
    assert (read_with(scheme, secret, uploads[3], length) == vectors[3]).all()


@models
@engines
def test_ckks_slots_with_the_key_in_them_are_not_opened(seeded: bool, engine: str) -> None:
    scheme = ckks.Scheme(254, 256, seeded, engine)
    key, length = scheme.generate(), scheme.slots
    total, _ = attacked(scheme, key, honest(scheme, length), ckks_multiple(scheme))
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(total, length, HONEST + 1)


@models
@pytest.mark.parametrize("multiple", [2**-12, 2**-4, 0.3, 1.0, 17.0, 1000.0])
def test_few_ckks_slots_pass_whatever_the_multiple(seeded: bool, multiple: float) -> None:
    """A multiple large enough to show the key moves slots off the grid; a smaller one lies below the noise."""
    scheme = ckks.Scheme(254, 256, seeded)
    p = scheme.parameters
    key = scheme.generate()
    row = np.full(p.degree, max(1, int(multiple * p.step)), dtype=np.uint64)
    vectors = honest(scheme, scheme.slots)
    total, _ = attacked(scheme, key, vectors, [[row]])
    slots = slots_of(scheme, phases(scheme, key, total)) / p.step
    largest, tolerance = (HONEST + 1) * scheme.bound, p.tolerance / p.step
    passing = np.mean((np.abs(slots - np.rint(slots)) <= tolerance) & (slots > -0.5) & (slots < largest + 0.5))
    assert passing < (2 / 2**8 if multiple > 2**-8 else 0.3)
    with pytest.raises(OpenError):
        key.open(total, scheme.slots, HONEST + 1)


@models
def test_unused_slots_are_looked_at_too(seeded: bool) -> None:
    """A vector of one value leaves its whole ciphertext to look at: any other slot that isn't zero shows it."""
    for scheme in (bfv.Scheme(254, 256, seeded), ckks.Scheme(254, 256, seeded)):
        key = scheme.generate()
        upload = key.encrypt(np.array([7, *([0] * (scheme.slots - 2)), 1]))
        adder = scheme.adder(1)
        adder.fold(upload)
        with pytest.raises(OpenError, match="not a possible sum"):
            key.open(adder.total(), 1, 1)
        full = scheme.adder(scheme.slots)
        full.fold(upload)
        assert key.open(full.total(), scheme.slots, 1)[[0, -1]].tolist() == [7, 1]


def test_refusals_say_nothing_of_what_was_in_the_slots() -> None:
    scheme = replace(bfv.Scheme(254, 256), max_clients=7)
    messages = set()
    for seed in range(3):
        key = scheme.generate()
        adder = scheme.adder(5)
        adder.fold(key.encrypt(np.full(5, seed)))
        with pytest.raises(HEError) as refusal:
            scheme.generate().open(adder.total(), 5, 1)
        messages.add(str(refusal.value))
    assert len(messages) == 1

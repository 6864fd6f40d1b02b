"""What CKKS lets out: sums on the grid and no noise; how much room the noise has."""

from dataclasses import replace

import numpy as np
import pytest

from he import _rlwe_encryption, ckks, params
from he.ckks import SecretKey
from he.errors import OpenError
from he.ring import lanes, slots
from tests.he.polynomials import coefficients, encoded, phases, read, values, written
from tests.he.test_ckks_and_bfv import total
from tests.reference import rlwe as twin

SCHEMES = {
    "seeded": ckks.Scheme(65534, 256, seeded=True),
    "public": ckks.Scheme(65534, 256),
    "two-primes": ckks.Scheme(2**24 - 2, 256),
    "longest": ckks.Scheme(2**24 - 2, 4096, seeded=True),
}
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def slots_of(scheme: ckks.Scheme, rows: list[np.ndarray]) -> np.ndarray:
    """The slots (k, N), in units of the ciphertext, of polynomials' residues: for each prime (k, N)."""
    out = np.empty(rows[0].shape)
    for first in range(0, len(out), 8):
        parts = [row[first : first + 8] for row in rows]
        group = lanes(len(rows), scheme.slots)
        group[:] = 0
        for j, part in enumerate(parts):
            group[j, :, : len(part)] = part.T
        numbers = ckks._numbers(group, scheme._fields, lanes(scheme.slots))
        slots.to_slots(numbers)
        out[first : first + 8, slots.complex_places(scheme.slots)] = numbers.T[: len(parts[0])]
    return out


def coefficients_of(scheme: ckks.Scheme, wanted: np.ndarray) -> np.ndarray:
    """The coefficients (N) of the real polynomial with the slots ``wanted`` (N)."""
    numbers = lanes(scheme.slots).view(np.float64)
    numbers[:] = wanted[slots.complex_places(scheme.slots)][:, None]
    slots.from_slots(numbers)
    return numbers[:, 0] / (scheme.slots // 2)


def raw_slots(scheme: ckks.Scheme, key: SecretKey, data: bytes) -> np.ndarray:
    """What the decryptor has before it rounds: slots in units of the ciphertext."""
    return slots_of(scheme, phases(scheme, key, data))


def moved(scheme: ckks.Scheme, data: bytes, slot: int, by: float) -> bytes:
    """The sum ``data`` with ``by`` steps added to one slot of its first ciphertext."""
    p, (field, *_) = scheme.parameters, scheme._fields
    wanted = np.zeros(p.degree)
    wanted[slot] = by * p.step
    part = np.rint(coefficients_of(scheme, wanted)).astype(np.int64) % p.primes[0]
    rows = read(scheme, data)
    rows[0, 0] = (rows[0, 0] + values(field, part)) % np.uint64(p.primes[0])
    return written(scheme, data, rows)


@every
def test_errors_of_slots_are_those_that_were_derived(scheme: ckks.Scheme) -> None:
    """Standard deviation of the derived size, far inside the tolerance, which is far inside half a step."""
    clients, p = 16, scheme.parameters
    measured = []
    for _ in range(4):  # the key is the same in all terms, so that one key's errors are not those of all
        key = scheme.generate()
        terms = [np.random.default_rng(c).integers(0, scheme.bound, 2 * scheme.slots) for c in range(clients)]
        opened = raw_slots(scheme, key, total(scheme, key, terms))
        exact = sum(terms).reshape(opened.shape)
        measured.append((opened - exact * float(p.step)).reshape(-1))
    errors = np.concatenate(measured)
    derived = twin.standard_deviation("slot", p.degree, clients, scheme.seeded)
    assert 0.8 < errors.std() / derived < 1.2
    assert np.abs(errors).max() < p.tolerance
    all_clients = derived * np.sqrt(scheme.max_clients / clients)
    assert p.step / 2 >= 2**8 * p.tolerance > 2**8 * 9.4 * all_clients


@pytest.mark.parametrize("name", ["two-primes", "longest"])
def test_double_precision_is_as_good_as_it_is_taken_for(name: str) -> None:
    """Encoding and decoding without any noise: ten times inside what is set aside for them."""
    scheme = SCHEMES[name]
    p = scheme.parameters
    worst = 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        terms = rng.integers(0, scheme.bound, (1, scheme.slots), endpoint=True).astype(np.uint64)
        terms[0, : 200 * seed] = scheme.bound
        middle = scheme.max_clients * scheme.bound // 2
        rows = []
        for prime, row in zip(p.primes, encoded(scheme, terms), strict=True):
            summed = row.astype(object) * scheme.max_clients
            summed[:, [0, p.degree // 2]] -= p.step * middle
            rows.append((summed % prime).astype(np.uint64))
        opened = slots_of(scheme, rows) / p.step + middle
        worst = max(worst, float(np.abs(opened - terms.astype(float) * scheme.max_clients).max()))
    # All clients have the same values here, so that their rounding errors add up instead of averaging out.
    rounding = params._rounding(p.degree, scheme.bound, scheme.max_clients)
    integers = 12 * scheme.max_clients * np.sqrt(p.degree / 24) / p.step  # what rounding to integers does
    assert worst < rounding / 5 + integers
    assert worst < p.tolerance / p.step
    assert rounding < 2**-10


def solved(scheme: ckks.Scheme, data: bytes, opened: np.ndarray) -> np.ndarray:
    """The s with c0 + c1 s = ``opened``, as coefficients: a linear equation, in values place by place."""
    field, prime = scheme._fields[0], scheme.parameters.primes[0]
    first, second = read(scheme, data)[0].astype(object)
    right = values(field, opened % prime).astype(object) - first
    inverses = np.array([pow(int(x), -1, prime) for x in second], dtype=object)
    secret = coefficients(field, (right * inverses % prime).astype(np.uint64)).astype(np.int64)
    return secret - prime * (secret > prime // 2)


def test_rounding_keeps_the_key_in() -> None:
    """Li and Micciancio: an observer of a ciphertext and its unrounded opening solves for the key. Rounded, the
    equation has an error in it, and what comes out is nothing like a key."""
    scheme = ckks.Scheme(254, 16, seeded=True)
    key, vector = scheme.generate(), np.arange(2048) % 255
    data = total(scheme, key, [vector])
    opened = key.open(data, 2048, 1)
    again = np.rint(coefficients_of(scheme, opened.astype(float)) * scheme.parameters.step).astype(np.int64)
    assert np.mean(np.abs(solved(scheme, data, again)) <= 1) < 0.01


def test_control_without_rounding_the_key_is_out() -> None:
    """Exactly one defence removed: slots leave as CKKS libraries give them to their callers, unrounded."""
    scheme = ckks.Scheme(254, 16, True)
    key, vector = scheme.generate(), np.arange(2048) % 255
    data = total(scheme, key, [vector])
    leaked = coefficients_of(scheme, raw_slots(scheme, key, data)[0])
    assert (solved(scheme, data, np.rint(leaked).astype(np.int64)) == key._secret).all()


@pytest.mark.parametrize("seeded", [True, False])
def test_control_without_rounding_equal_inputs_open_unequal(seeded: bool) -> None:
    vector, scheme = np.arange(300), ckks.Scheme(65534, 256, seeded)
    secret = scheme.generate()
    raw, out = [], []
    for _ in range(2):
        data = total(scheme, secret, [vector])
        out.append(secret.open(data, 300, 1))
        raw.append(raw_slots(scheme, secret, data)[0, :300] / scheme.parameters.step)
    assert (out[0] == out[1]).all()
    assert (raw[0] != raw[1]).all()
    assert np.abs(raw[0] - raw[1]).max() < 2**-8


@pytest.mark.parametrize(
    "slot", [3, 1000, 1024, 2047], ids=["real", "unused real", "imaginary", "unused imaginary"]
)
@pytest.mark.parametrize("by", [1.0, 0.5, 2**-7, -1.0, 300.0])
def test_every_part_of_every_slot_is_looked_at(slot: int, by: float) -> None:
    """Each alone, off the grid, or on it where there is no value, keeps a sum shut. A vector of 1500 values leaves
    the last imaginary parts unused; one of 900, some real parts too."""
    scheme = ckks.Scheme(254, 16, seeded=True)
    length = 900 if slot < 1024 else 1500
    key = scheme.generate()
    data = total(scheme, key, [np.full(length, 7)])
    assert key.open(data, length, 1).tolist() == [7] * length
    wrong = moved(scheme, data, slot, by)
    honest = slot < length and by in (1.0, -1.0)  # another sum that a client might have asked for
    if honest:
        assert key.open(wrong, length, 1)[slot] == 7 + by
        return
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(wrong, length, 1)


@pytest.mark.parametrize("ciphertexts", [2, _rlwe_encryption.BLOCK + 1], ids=["one block", "two blocks"])
def test_the_first_ciphertext_is_looked_at_whatever_follows(ciphertexts: int) -> None:
    """Off the grid by less than half a step, a slot rounds to what it was: only the grid shows it."""
    scheme = ckks.Scheme(254, 16, seeded=True)
    key, length = scheme.generate(), ciphertexts * scheme.slots
    data = total(scheme, key, [np.full(length, 7)])
    assert (key.open(data, length, 1) == 7).all()
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(moved(scheme, data, 3, 0.25), length, 1)


def test_nothing_below_zero_is_opened() -> None:
    scheme = ckks.Scheme(254, 16, seeded=True)
    key = scheme.generate()
    data = total(scheme, key, [np.arange(5)])
    assert key.open(moved(scheme, data, 1, -1.0), 5, 1).tolist() == [0, 0, 2, 3, 4]
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(moved(scheme, data, 0, -1.0), 5, 1)


def test_schemes_differ_by_model_only_in_keys_and_rings() -> None:
    public = SCHEMES["public"]
    assert replace(public, seeded=True) == SCHEMES["seeded"]
    assert "one shared secret key" in SCHEMES["seeded"].describe()
    assert "public key" in public.describe()

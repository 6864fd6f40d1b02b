"""What CKKS lets out: sums on the grid and no noise; how much room the noise has."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from he import _ring, _rlwe_format, _rlwe_keys, ckks, params
from he.ckks import SecretKey
from he.errors import OpenError
from tests.he.test_ckks_and_bfv import total
from tests.reference import rlwe as twin

SCHEMES = {
    "seeded": ckks.Scheme(65534, 256, seeded=True),
    "public": ckks.Scheme(65534, 256),
    "two-primes": ckks.Scheme(2**24 - 2, 256),
    "longest": ckks.Scheme(2**24 - 2, 4096, seeded=True),
}
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def raw_slots(scheme: ckks.Scheme, key: SecretKey, data: bytes) -> np.ndarray:
    """What the decryptor has before it rounds: slots in units of the ciphertext."""
    return ckks.slots_of(ckks._centred(key._phases(residues(scheme, data), True), scheme.parameters))


def residues(scheme: ckks.Scheme, data: bytes) -> np.ndarray:
    p = scheme.parameters
    words = np.frombuffer(data[16:], dtype=np.uint64)
    out = np.empty((len(words) // (2 * scheme._half), 2 * len(p.primes), p.degree), dtype=np.uint64)
    ckks._ring_kernels.unpack(words, p.bits, out.reshape(-1))
    return out


def moved(scheme: ckks.Scheme, data: bytes, slot: int, by: float) -> bytes:
    """The sum ``data`` with ``by`` steps added to one slot of its first ciphertext."""
    p = scheme.parameters
    slots = np.zeros((1, p.degree))
    slots[0, slot] = by * p.step
    part = (np.rint(ckks.coefficients_of(slots)).astype(np.int64) % p.primes[0]).astype(np.uint64)
    scheme._fields[0].forward(part)
    rows = residues(scheme, data)
    scheme._fields[0].add(rows[0, :1], part)
    return data[:16] + _rlwe_format.packed(rows, p.bits).tobytes()


@every
def test_errors_of_slots_are_those_that_were_derived(scheme: ckks.Scheme) -> None:
    """Standard deviation of the derived size, far inside the tolerance, which is far inside half a step."""
    clients, p = 16, scheme.parameters
    measured = []
    for _ in range(4):  # the key is the same in all terms, so that one key's errors are not those of all
        key = scheme.generate()
        terms = [np.random.default_rng(c).integers(0, scheme.bound, 2 * scheme.slots) for c in range(clients)]
        slots = raw_slots(scheme, key, total(scheme, key, terms))
        exact = sum(terms).reshape(slots.shape)
        measured.append((slots - exact * float(p.step)).reshape(-1))
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
        values = rng.integers(0, scheme.bound, (1, scheme.slots), endpoint=True).astype(np.uint64)
        values[0, : 200 * seed] = scheme.bound
        rows = scheme._encode(values)
        for field, row in zip(scheme._fields, rows, strict=True):
            field.scale(row, scheme.max_clients)
            field.backward(row)
        middle = scheme.max_clients * scheme.bound // 2
        for field, row in zip(scheme._fields, rows, strict=True):
            row[:, [0, p.degree // 2]] += np.uint64(-p.step * middle % int(field.prime))
            field.reduce(row)
        slots = ckks.slots_of(ckks._centred(rows, p)) / p.step + middle
        worst = max(worst, float(np.abs(slots - values.astype(float) * scheme.max_clients).max()))
    # All clients have the same values here, so that their rounding errors add up instead of averaging out.
    rounding = params._rounding(p.degree, scheme.bound, scheme.max_clients)
    integers = 12 * scheme.max_clients * np.sqrt(p.degree / 24) / p.step  # what rounding to integers does
    assert worst < rounding / 5 + integers
    assert worst < p.tolerance / p.step
    assert rounding < 2**-10


@dataclass(frozen=True)
class Unrounded(ckks.Scheme):
    """Exactly one defence removed: the coefficients that come from the slots leave unrounded."""

    def _decode(self, rows: list[np.ndarray], count: int) -> tuple[np.ndarray, bool]:
        """Slots in units of the ciphertext, as many as there are: what CKKS libraries give their callers."""
        slots = ckks.slots_of(ckks._centred(rows, self.parameters))
        object.__setattr__(self, "leaked", slots)
        return np.zeros((len(slots), self.slots), dtype=np.int64), True


def solved(scheme: ckks.Scheme, data: bytes, coefficients: np.ndarray) -> np.ndarray:
    """The s with c0 + c1 s = ``coefficients``: a linear equation, in values place by place."""
    field, prime = scheme._fields[0], scheme.parameters.primes[0]
    first, second = residues(scheme, data)[0]
    right = (coefficients % prime).astype(np.uint64)[None]
    field.forward(right)
    right = (right + (np.uint64(prime) - first)) % np.uint64(prime)
    inverses = [pow(int(x), -1, prime) for x in second]
    field.multiply(right, _ring.Factor(inverses, prime))
    field.backward(right)
    secret = right[0].astype(np.int64)
    return secret - prime * (secret > prime // 2)


def test_rounding_keeps_the_key_in() -> None:
    """Li and Micciancio: an observer of a ciphertext and its unrounded opening solves for the key. Rounded, the
    equation has an error in it, and what comes out is nothing like a key."""
    scheme = ckks.Scheme(254, 16, seeded=True)
    key, values = scheme.generate(), np.arange(2048) % 255
    data = total(scheme, key, [values])
    opened = key.open(data, 2048, 1)
    encoded = np.rint(ckks.coefficients_of(opened[None].astype(float))[0] * scheme.parameters.step).astype(np.int64)
    guess = solved(scheme, data, encoded)
    assert np.mean(np.abs(guess) <= 1) < 0.01


def test_control_without_rounding_the_key_is_out() -> None:
    scheme = Unrounded(254, 16, True)
    key, values = scheme.generate(), np.arange(2048) % 255
    data = total(scheme, key, [values])
    key.open(data, 2048, 1)
    guess = solved(scheme, data, np.rint(ckks.coefficients_of(scheme.leaked)[0]).astype(np.int64))
    assert (guess == key._secret).all()


@pytest.mark.parametrize("seeded", [True, False])
def test_control_without_rounding_equal_inputs_open_unequal(seeded: bool) -> None:
    values = np.arange(300)
    scheme = Unrounded(65534, 256, seeded)
    rounded = ckks.Scheme(65534, 256, seeded)
    secret = rounded.generate()
    raw, out = [], []
    for _ in range(2):
        data = total(rounded, secret, [values])
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


@pytest.mark.parametrize("ciphertexts", [2, _rlwe_keys._BLOCK + 1], ids=["one block", "two blocks"])
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

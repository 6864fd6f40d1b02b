"""SEAL's bytes, its generator, its encoders and its decryptor, against ours."""

import math
import os
import stat
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from he import _ring, _seal, bfv, ckks, params
from he.ckks import SecretKey
from he.errors import HEError
from tests.reference import rlwe as twin

SCHEMES = {
    "ckks-one-prime": ckks.Scheme(254, 16, False),
    "ckks-two-primes": ckks.Scheme(2**24 - 2, 256, False),
    "ckks-seeded": ckks.Scheme(65534, 256, True),
    "ckks-seeded-two-primes": ckks.Scheme(2**24 - 2, 4096, True),
    "bfv-one-prime": bfv.Scheme(65534, 256, False),
    "bfv-two-primes": bfv.Scheme(2**24 - 2, 4096, False),
    "bfv-seeded": bfv.Scheme(65534, 256, True),
    "bfv-seeded-two-primes": bfv.Scheme(2**32 - 2, 4096, True),
}
seeded = pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES.values() if s.seeded], ids=[n for n in SCHEMES if "seeded" in n]
)
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
Scheme = ckks.Scheme | bfv.Scheme


def zero(scheme: Scheme, source: _seal.Zeros) -> np.ndarray:
    """Both polynomials of an encryption of zero."""
    rows, seed = source.next()
    if seed is None:
        return rows.copy()
    p = scheme.parameters
    return np.concatenate([rows, _ring.expand(seed[None], p.degree, p.primes)[0]])


def zeros(scheme: Scheme, key: SecretKey) -> _seal.Zeros:
    if scheme.seeded:
        return _seal.Zeros(scheme.parameters, secret=key._values())
    return _seal.Zeros(scheme.parameters, public=key.public._rows())


def for_seal(scheme: Scheme, key: SecretKey) -> tuple[_seal.Context, Any]:
    """A context in which SEAL itself opens, and its secret key.

    It sets the last of several primes aside for key switching: for two it is given a third.
    """
    p = at_keys = scheme.parameters
    if len(p.primes) > 1:
        at_keys = replace(p, primes=params.ntt_primes(p.degree, p.bits, 3))
        assert at_keys.primes[:2] == p.primes
    outer = _seal.context(at_keys)
    rows = np.empty((len(at_keys.primes), p.degree), dtype=np.uint64)
    for row, prime in zip(rows, at_keys.primes, strict=True):
        row[:] = key._secret.astype(np.int64) % prime
        _ring.field(p.degree, prime).forward(row[None])
    secret = outer.api.SecretKey()
    with _seal.Scratch() as scratch:
        scratch.write(_seal._plain_bytes(outer, rows))
        secret.load(outer.seal, scratch.path)
    return _seal.Context(outer.api, outer.seal, p, list(outer.seal.first_parms_id()), outer.version), secret


def loaded(at: _seal.Context, rows: np.ndarray, transformed: bool) -> Any:
    ciphertext = at.api.Ciphertext()
    with _seal.Scratch() as scratch:
        scratch.write(_seal.ciphertext_bytes(at, rows, transformed))
        ciphertext.load(at.seal, scratch.path)
    return ciphertext


def saved(at: _seal.Context, ciphertext: Any) -> np.ndarray:
    with _seal.Scratch() as scratch:
        ciphertext.save(scratch.path)
        return _seal.ciphertext_rows(scratch.read(), at, at.transformed, False)[0]


@every
def test_what_we_lay_out_is_what_seal_reads(scheme: Scheme) -> None:
    at = _seal.context(scheme.parameters)
    p = scheme.parameters
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, prime, p.degree, dtype=np.uint64) for prime in p.primes * 2])
    public = at.api.PublicKey()
    with _seal.Scratch() as scratch:
        scratch.write(_seal.ciphertext_bytes(at, rows, True))
        public.load(at.seal, scratch.path)
        public.save(scratch.path)
        back, _ = _seal.ciphertext_rows(scratch.read(), at, True, False)
    assert (back == rows).all()


@seeded
def test_second_polynomial_is_drawn_as_seal_draws_it(scheme: Scheme) -> None:
    at, secret = for_seal(scheme, scheme.generate())
    encryptor = at.api.Encryptor(at.seal, secret)
    for _ in range(5):
        with _seal.Scratch() as scratch:
            encryptor.encrypt_zero_symmetric(at.identifier).save(scratch.path)
            short, seed = _seal.ciphertext_rows(scratch.read(), at, at.transformed, True)
            full = at.api.Ciphertext()
            full.load(at.seal, scratch.path)
        ours = _ring.expand(seed[None], scheme.parameters.degree, scheme.parameters.primes)
        assert (saved(at, full) == np.concatenate([short, ours[0]])).all()


def test_words_too_large_are_drawn_anew_as_seal_does() -> None:
    """A prime of which 2^64 is far from a multiple: some words in a hundred are too large."""
    awkward = next(p for p in range(2**65 // 33 // 8192 * 8192 + 1, 2**60, 8192) if params.is_prime(p))
    at = _seal.context(params.CKKSParameters(4096, (awkward,), 60, error=1, step=1, tolerance=1))
    encryptor = at.api.Encryptor(at.seal, at.api.KeyGenerator(at.seal).secret_key())
    with _seal.Scratch() as scratch:
        encryptor.encrypt_zero_symmetric().save(scratch.path)
        _, seed = _seal.ciphertext_rows(scratch.read(), at, True, True)
        full = at.api.Ciphertext()
        full.load(at.seal, scratch.path)
    assert (_ring.stream(seed, 0, 8) >= _ring._limit(awkward)).sum() > 20
    assert (saved(at, full)[1] == _ring.expand(seed[None], 4096, (awkward,))[0, 0]).all()


def test_generator_is_seals() -> None:
    import tenseal.sealapi as api

    seed = np.random.default_rng(1).integers(0, 2**64, 8, dtype=np.uint64)
    theirs = api.Blake2xbPRNG(seed.tolist())
    assert _ring.stream(seed, 0, 2).view(np.uint32).tolist() == [theirs.generate() for _ in range(2048)]


@pytest.mark.parametrize("name", [name for name in SCHEMES if "bfv" in name])
def test_bfv_is_seals(name: str) -> None:
    """SEAL adds the same polynomial for the same slots, and its decryptor reads what ours reads."""
    scheme = SCHEMES[name]
    key = scheme.generate()
    at, secret = for_seal(scheme, key)
    t, degree = scheme.parameters.plain_modulus, scheme.parameters.degree
    slots = np.random.default_rng(2).integers(0, t, degree, dtype=np.uint64)
    ours = scheme._encode(slots[None].copy())
    order = seal_order(degree)
    plain = at.api.Plaintext()
    at.api.BatchEncoder(at.seal).encode(slots[order].tolist(), plain)
    with zeros(scheme, key) as source:
        rows = zero(scheme, source)
    ciphertext = loaded(at, rows, False)
    at.api.Evaluator(at.seal).add_plain_inplace(ciphertext, plain)
    theirs = saved(at, ciphertext)
    expected = rows.copy()
    for field, row, part in zip(scheme._fields, expected, ours, strict=False):
        field.add(row[None], part)
    assert (theirs == expected).all()

    opened = at.api.Plaintext()
    at.api.Decryptor(at.seal, secret).decrypt(ciphertext, opened)
    read = at.api.BatchEncoder(at.seal).decode_uint64(opened)
    got, _ = scheme._decode(key._phases(theirs[None], False), 1)
    assert got[0][order].tolist() == read == slots[order].tolist()


@pytest.mark.parametrize("name", [name for name in SCHEMES if "ckks" in name])
def test_ckks_is_seals(name: str) -> None:
    """SEAL encodes the same numbers within a unit of rounding, and its decoder reads the same slots."""
    scheme = SCHEMES[name]
    key, p = scheme.generate(), scheme.parameters
    at, secret = for_seal(scheme, key)
    slots = np.random.default_rng(3).integers(0, scheme.bound, scheme.slots, endpoint=True)
    ours = scheme._encode(slots[None].astype(np.uint64))
    half = p.degree // 2
    wanted = []
    for i in range(
        half
    ):  # SEAL's slot i is the value at zeta^(3^i); ours have exponents 4j + 1, or are its conjugate
        exponent = pow(3, i, 2 * p.degree)
        conjugate = exponent % 4 == 3
        j = ((2 * p.degree - exponent if conjugate else exponent) - 1) // 4
        wanted.append(complex(slots[j], -slots[half + j] if conjugate else slots[half + j]))
    plain = at.api.Plaintext()
    at.api.CKKSEncoder(at.seal).encode(wanted, float(p.step), plain)
    with zeros(scheme, key) as source:
        rows = zero(scheme, source)
    ciphertext = loaded(at, rows, True)
    ciphertext.scale = float(p.step)
    at.api.Evaluator(at.seal).add_plain_inplace(ciphertext, plain)
    with _seal.Scratch() as scratch:
        ciphertext.save(scratch.path)
        members = _seal._members(scratch.read())
    theirs = np.frombuffer(members[-8 * rows.size :], dtype=np.uint64).reshape(rows.shape)
    for row, field, part in zip(range(len(p.primes)), scheme._fields, ours, strict=True):
        prime = np.uint64(p.primes[row])
        difference = (theirs[row : row + 1] + (prime - rows[row])) % prime
        field.add(difference, (prime - part) % prime)
        field.backward(difference)
        off = difference.astype(np.int64)
        off -= p.primes[row] * (off > p.primes[row] // 2)
        assert np.abs(off).max() <= 1 + p.step * scheme.bound * 2.0**-52
        assert p.step * scheme.bound > 2**50 or np.count_nonzero(off) < p.degree / 8

    opened = at.api.Plaintext()
    at.api.Decryptor(at.seal, secret).decrypt(ciphertext, opened)
    read = at.api.CKKSEncoder(at.seal).decode_complex(opened)
    got, on_grid = scheme._decode(key._phases(theirs[None], True), 1)
    assert on_grid
    assert np.round(read).tolist() == wanted
    assert (got[0] == slots).all()


def seal_order(degree: int) -> list[int]:
    """SEAL's slot i is our slot order[i]: its rows go through the powers of 3, and their negatives."""
    bits = degree.bit_length() - 1
    order = []
    for sign in (1, -1):
        for i in range(degree // 2):
            exponent = sign * pow(3, i, 2 * degree) % (2 * degree)
            order.append(int(f"{(exponent - 1) // 2:0{bits}b}"[::-1], 2))
    return order


@every
def test_errors_are_those_that_the_parameters_are_derived_for(scheme: Scheme) -> None:
    """Centred binomials of 42 coins, standard deviation 3.24; 3.24 sqrt(4N/3 + 1) with a public key."""
    key, p = scheme.generate(), scheme.parameters
    errors = []
    with zeros(scheme, key) as source:
        for _ in range(8):
            rows = zero(scheme, source)
            first = key._phases(rows[None], scheme.transformed)[0][0].astype(np.int64)
            errors.append(first - p.primes[0] * (first > p.primes[0] // 2))
    error = np.concatenate(errors)
    expected = twin.standard_deviation("coefficient", p.degree, 1, scheme.seeded)
    assert math.isclose(expected, 3.24 * (1 if scheme.seeded else math.sqrt(4 * p.degree / 3 + 1)), rel_tol=1e-3)
    assert abs(error.std() / expected - 1) < 0.12
    assert abs(error.mean()) < 0.1 * expected
    if scheme.seeded:
        assert np.abs(error).max() <= 21


@every
def test_secrets_are_ternary_and_fresh(scheme: Scheme) -> None:
    keys = [scheme.generate()._secret for _ in range(3)]
    for key in keys:
        shares = np.bincount(key + 1, minlength=3) / key.size
        assert shares.size == 3
        assert np.abs(shares - 1 / 3).max() < 0.06
    assert (keys[0] != keys[1]).any()
    assert (keys[1] != keys[2]).any()


def without_memory_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(_seal.tempfile, "tempdir", str(tmp_path))


def test_without_files_in_memory_a_private_one_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_memory_files(monkeypatch, tmp_path)
    with _seal.Scratch() as scratch:
        directory = Path(scratch.path).parent
        assert directory.parent == tmp_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(scratch.path).stat().st_mode) == 0o600
        Path(scratch.path).write_bytes(b"secret")
        assert scratch.read() == b"secret"
        assert Path(scratch.path).read_bytes() == b""
        scratch.write(b"abc")
        assert Path(scratch.path).read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), _seal.Scratch() as scratch:
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_files_in_memory_are_used_where_there_are_any() -> None:
    with _seal.Scratch() as scratch:
        assert scratch.path.startswith("/proc/self/fd/") == hasattr(os, "memfd_create")


@pytest.mark.parametrize("name", ["ckks-seeded", "bfv-one-prime"])
def test_all_goes_as_well_by_temporary_files(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_memory_files(monkeypatch, tmp_path)
    scheme = SCHEMES[name]
    key = scheme.generate()
    adder = scheme.adder(3)
    adder.fold(key.encrypt(np.array([1, 2, 3])))
    assert key.open(adder.total(), 3, 1).tolist() == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_pipes_take_the_longest_ciphertext_or_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that held less would block SEAL for good: a file in memory serves where one can't be had."""
    longest = SCHEMES["bfv-two-primes"]
    key, values = longest.generate(), np.arange(50)
    data = {}
    for pipe in (True, False):
        if not pipe:
            monkeypatch.setattr(_seal.fcntl, "fcntl", refuse)
        with zeros(longest, key) as source:
            assert (source._channel._ends is not None) == pipe
            before = len(os.listdir("/proc/self/fd"))
            zero(longest, source)
        assert len(os.listdir("/proc/self/fd")) < before
        adder = longest.adder(50)
        adder.fold(key.encrypt(values))
        data[pipe] = key.open(adder.total(), 50, 1).tolist()
    assert data[True] == data[False] == values.tolist()


def refuse(*_: object) -> int:
    raise PermissionError


def test_another_seal_is_refused() -> None:
    scheme = SCHEMES["ckks-seeded"]
    at = _seal.context(scheme.parameters)
    with zeros(scheme, scheme.generate()) as source:
        source._encryptor.encrypt_zero_symmetric(at.identifier).save(source._channel.path)
        data = source._channel.read()
    for place, value in ((0, 0), (3, 5), (5, 1), (5, 7), (8, data[8] ^ 1)):
        wrong = bytearray(data)
        wrong[place] = value
        with pytest.raises(HEError, match="install a version of TenSEAL"):
            _seal.ciphertext_rows(bytes(wrong), at, True, True)
    with pytest.raises(HEError, match="laid out as expected"):
        _seal.ciphertext_rows(data, at, False, True)
    with pytest.raises(HEError, match="laid out as expected"):
        _seal.ciphertext_rows(data, at, True, False)
    members = bytearray(_seal._members(data))
    members[-65] = 2  # the other generator
    framed = _seal._framed(at, bytes(members))
    with pytest.raises(HEError, match="other than BLAKE2Xb"):
        _seal.ciphertext_rows(framed, at, True, True)
    plain = _seal._plain_bytes(at, np.zeros((1, 2048), dtype=np.uint64))
    with pytest.raises(HEError, match="secret key"):
        _seal._plain_rows(_seal._framed(at, plain[16:-8]), at)


def test_parameters_that_seal_refuses_are_refused() -> None:
    with pytest.raises(HEError, match="SEAL refuses"):
        _seal.context(replace(SCHEMES["ckks-seeded"].parameters, primes=(15,)))


@pytest.mark.parametrize("package", ["tenseal.sealapi", "zstandard"])
def test_without_a_package_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HEError, match=r"pip install 'secagg\[he\]'"):
        _seal.context(params.ckks(3, 5, True))


def test_header_is_seals() -> None:
    at = _seal.context(SCHEMES["ckks-seeded"].parameters)
    header = at.api.Serialization.SEALHeader()
    assert struct.calcsize("<HBBBBHQ") == header.header_size
    assert header.magic == 0xA15E

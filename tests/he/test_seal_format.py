"""SEAL is the oracle: it opens what we encrypt and add up, and we open what it encrypts."""

import math
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from he import _rlwe_seal, _seal, _seal_bytes, _seal_generator, bfv, ckks, params
from he._rlwe_format import ENGINES
from he._rlwe_keys import polynomials, upload
from he._rows import has_ifma
from he.ckks import PublicKey, SecretKey
from he.errors import HEError
from he.params import error_bound
from he.ring import field
from tests.he.polynomials import coefficients, encoded, phases, read, values, written
from tests.reference import rlwe as twin

SCHEMES = {
    "bfv": bfv.Scheme(65534, 256),
    "bfv-two-primes": bfv.Scheme(2**24 - 2, 4096),
    "bfv-seeded": bfv.Scheme(65534, 256, True),
    "bfv-seeded-two-primes": bfv.Scheme(2**32 - 2, 4096, True),
    "ckks": ckks.Scheme(30, 4),
    "ckks-two-primes": ckks.Scheme(2**24 - 2, 256),
    "ckks-seeded": ckks.Scheme(65534, 256, True),
    "ckks-seeded-two-primes": ckks.Scheme(2**24 - 2, 4096, True),
}
seeded = pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES.values() if s.seeded], ids=[n for n in SCHEMES if "seeded" in n]
)
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
ifma = pytest.param("ifma", marks=pytest.mark.skipif(not has_ifma(), reason="needs AVX-512 IFMA"))
Scheme = ckks.Scheme | bfv.Scheme


def test_rings_of_one_prime_and_of_two_are_among_the_schemes() -> None:
    rings = {(s.name, s.seeded, s.parameters.degree, len(s.parameters.primes)) for s in SCHEMES.values()}
    assert rings == {
        (name, seeds, *ring)
        for name in ("bfv", "ckks")
        for seeds in (False, True)
        for ring in ((2048, 1), (4096, 2))
    }


def zero(scheme: Scheme, source: _seal.Zeros) -> np.ndarray:
    """Both polynomials of an encryption of zero, as SEAL has them."""
    rows, seed = source.next()
    if seed is None:
        return rows.copy()
    p = scheme.parameters
    return np.concatenate([rows, _seal_generator.expand(seed[None], p.degree, p.primes)[0]])


def zeros(scheme: Scheme, key: SecretKey) -> _seal.Zeros:
    return _rlwe_seal._zeros(key._key if key.public is None else key.public._key)


def for_seal(scheme: Scheme, key: SecretKey) -> tuple[_seal.Context, Any]:
    """A context in which SEAL itself opens, and its secret key.

    It sets the last of several primes aside for key switching: for two it is given a third.
    """
    p = at_keys = scheme.parameters
    if len(p.primes) > 1:
        at_keys = replace(p, primes=params.ntt_primes(p.degree, p.bits, 3))
        assert at_keys.primes[:2] == p.primes
    outer = _seal.context(at_keys)
    rows = np.stack([values(field(p.degree, q), key._secret.astype(np.int64) % q) for q in at_keys.primes])
    secret = outer.api.SecretKey()
    with _seal.Scratch() as scratch:
        scratch.write(_seal._plain_bytes(outer, rows))
        secret.load(outer.seal, scratch.path)
    return _seal.Context(outer.api, outer.seal, p, list(outer.seal.first_parms_id()), outer.minor), secret


def loaded(at: _seal.Context, rows: np.ndarray, transformed: bool) -> Any:
    ciphertext = at.api.Ciphertext()
    with _seal.Scratch() as scratch:
        scratch.write(_seal.ciphertext_bytes(at, rows, transformed))
        ciphertext.load(at.seal, scratch.path)
    return ciphertext


def saved(at: _seal.Context, ciphertext: Any) -> np.ndarray:
    """The rows (2 * primes, N) of a ciphertext, as SEAL has them."""
    with _seal.Scratch() as scratch:
        ciphertext.save(scratch.path)
        members = _seal._members(scratch.read())
    return np.frombuffer(members, dtype=np.uint64, offset=_seal_bytes.FRONT).reshape(-1, at.parameters.degree)


def ours(scheme: Scheme, rows: np.ndarray) -> np.ndarray:
    """SEAL's rows of a ciphertext as values."""
    if _seal.transformed(scheme.parameters):
        return rows
    primes = len(scheme._fields)
    return np.stack([values(scheme._fields[r % primes], row) for r, row in enumerate(rows)])


def theirs(scheme: Scheme, rows: np.ndarray) -> np.ndarray:
    """Rows of values as SEAL has them."""
    if _seal.transformed(scheme.parameters):
        return rows
    primes = len(scheme._fields)
    return np.stack([coefficients(scheme._fields[r % primes], row) for r, row in enumerate(rows)])


def plaintext(scheme: Scheme, at: _seal.Context, slots: np.ndarray) -> Any:
    """SEAL's encoding of one ciphertext's slots (N), in this package's order."""
    plain, half = at.api.Plaintext(), scheme.slots // 2
    if scheme.name == "bfv":
        at.api.BatchEncoder(at.seal).encode(slots.tolist(), plain)
    else:
        numbers = slots[:half] + 1j * signs(half) * slots[half:]
        at.api.CKKSEncoder(at.seal).encode(numbers.tolist(), float(scheme.parameters.step), plain)
    return plain


def signs(half: int) -> np.ndarray:
    """Of the imaginary parts: a slot at an exponent that is 3 modulo 4 is one that we have the conjugate of."""
    return np.array([1 if pow(3, j, 4) == 1 else -1 for j in range(half)])


def opened_by_seal(scheme: Scheme, key: SecretKey, rows: np.ndarray) -> np.ndarray:
    """The slots of ciphertexts (k, 2 * primes, N) of values, by SEAL's decryptor and decoder."""
    at, secret = for_seal(scheme, key)
    decryptor, slots = at.api.Decryptor(at.seal, secret), []
    for ciphertext in rows:
        plain, cipher = at.api.Plaintext(), loaded(at, theirs(scheme, ciphertext), _seal.transformed(at.parameters))
        if scheme.name == "ckks":
            cipher.scale = float(scheme.parameters.step)
        decryptor.decrypt(cipher, plain)
        if scheme.name == "bfv":
            slots += at.api.BatchEncoder(at.seal).decode_uint64(plain)
        else:
            numbers = np.array(at.api.CKKSEncoder(at.seal).decode_complex(plain))
            assert np.abs(numbers - np.round(numbers)).max() < 2.0**-8
            slots += [*np.round(numbers.real), *np.round(numbers.imag) * signs(len(numbers))]
    return np.array(slots).astype(np.int64)


def encrypted_by_seal(scheme: Scheme, key: SecretKey, slots: np.ndarray, symmetric: bool) -> np.ndarray:
    """One ciphertext (2 * primes, N) of values, by SEAL's encoder and encryptor."""
    at, secret = for_seal(scheme, key)
    into = at.api.Ciphertext()
    if symmetric:
        at.api.Encryptor(at.seal, secret).encrypt_symmetric(plaintext(scheme, at, slots), into)
    else:
        public = at.api.PublicKey()
        at.api.KeyGenerator(at.seal, secret).create_public_key(public)
        at.api.Encryptor(at.seal, public).encrypt(plaintext(scheme, at, slots), into)
    return ours(scheme, saved(at, into))


def sum_of(scheme: Scheme, ciphertexts: list[np.ndarray]) -> bytes:
    """An encrypted sum of vectors of ciphertexts (k, 2 * primes, N), each."""
    length = len(ciphertexts[0]) * scheme.slots
    primes = np.array(scheme.parameters.primes * 2, dtype=np.uint64)[:, None]
    added = sum(ciphertexts[1:], ciphertexts[0].copy()) % primes  # a few words below 2^50 each
    return written(scheme, scheme.adder(length).total(), added)


@pytest.mark.parametrize("arithmetic", [ifma, "word"])
@every
def test_seal_opens_what_we_encrypt_and_add_up(
    scheme: Scheme, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECAGG_RING", arithmetic)
    scheme = replace(scheme)  # with tables of this arithmetic
    key, length = scheme.generate(), scheme.slots + scheme.slots // 2 + 3
    vectors = np.random.default_rng(4).integers(0, scheme.bound, (3, length), endpoint=True)
    adder = scheme.adder(length)
    for vector in vectors:
        adder.fold(key.encrypt(vector))
    opened = opened_by_seal(scheme, key, read(scheme, adder.total()))
    assert (opened[:length] == vectors.sum(axis=0)).all()
    assert not opened[length:].any()
    assert (key.open(adder.total(), length, 3) == vectors.sum(axis=0)).all()


@pytest.mark.parametrize(
    ("name", "symmetric"),
    [(name, True) for name in SCHEMES] + [(name, False) for name in SCHEMES if not SCHEMES[name].seeded],
)
def test_we_open_what_seal_encrypts(name: str, symmetric: bool) -> None:
    """Not a public key's ciphertexts under a seeded scheme, whose tolerance is for shorter errors."""
    scheme = SCHEMES[name]
    key = scheme.generate()
    slots = np.random.default_rng(5).integers(0, scheme.bound, scheme.slots, endpoint=True)
    rows = encrypted_by_seal(scheme, key, slots, symmetric)
    assert (key.open(sum_of(scheme, [rows[None]]), scheme.slots, 1) == slots).all()


@every
def test_ciphertexts_of_both_engines_and_of_seal_itself_add_up_under_one_key(scheme: Scheme) -> None:
    """Their digests differ, so that no adder mixes them: this adds their polynomials."""
    key, other = scheme.generate(), replace(scheme, engine="seal")
    public = None if key.public is None else PublicKey(other, key.public.words)
    keys = {scheme: key, other: SecretKey(other, key._secret, public)}
    slots = np.random.default_rng(6).integers(0, scheme.bound, (3, scheme.slots), endpoint=True)
    ciphertexts = [encrypted_by_seal(scheme, key, slots[2], symmetric=True)[None]]
    for (s, k), vector in zip(keys.items(), slots, strict=False):
        group = next(polynomials(s, *upload(s, k.encrypt(vector), scheme.slots)))
        ciphertexts.append(group[None, :, :, 0].copy())
    total = sum_of(scheme, ciphertexts)
    assert (key.open(total, scheme.slots, 3) == slots.sum(axis=0)).all()
    assert (opened_by_seal(scheme, key, read(scheme, total)) == slots.sum(axis=0)).all()


@pytest.mark.parametrize("bits", [45, 50, 60])
def test_values_are_seals_over_primes_of_either_arithmetic(bits: int) -> None:
    """SEAL keeps a secret as values: the same as ours, in the same order, also over primes of 60 bits."""
    prime = params.ntt_primes(4096, bits, 1)[0]
    at = _seal.context(params.CKKSParameters(4096, (prime,), bits, error=1, step=1, tolerance=1))
    with _seal.Scratch() as scratch:
        at.api.KeyGenerator(at.seal).secret_key().save(scratch.path)
        (row,) = _seal._plain_rows(scratch.read(), at)
    small = coefficients(field(4096, prime), row)
    assert set(small.tolist()) == {0, 1, prime - 1}
    assert (values(field(4096, prime), small) == row).all()


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
            short, seed = _seal.ciphertext_rows(scratch.read(), at, _seal.transformed(at.parameters), True)
            full = at.api.Ciphertext()
            full.load(at.seal, scratch.path)
        ours = _seal_generator.expand(seed[None], scheme.parameters.degree, scheme.parameters.primes)
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
    assert (_seal_generator.stream(seed, 0, 8) >= _seal_generator._limit(awkward)).sum() > 20
    assert (saved(at, full)[1] == _seal_generator.expand(seed[None], 4096, (awkward,))[0, 0]).all()


def test_generator_is_seals() -> None:
    import tenseal.sealapi as api

    seed = np.random.default_rng(1).integers(0, 2**64, 8, dtype=np.uint64)
    theirs = api.Blake2xbPRNG(seed.tolist())
    assert _seal_generator.stream(seed, 0, 2).view(np.uint32).tolist() == [theirs.generate() for _ in range(2048)]


@pytest.mark.parametrize("name", [name for name in SCHEMES if "bfv" in name])
def test_bfv_encodes_as_seal_does(name: str) -> None:
    """SEAL adds the same polynomial for the same slots, in the same order."""
    scheme = SCHEMES[name]
    key, t = scheme.generate(), scheme.parameters.plain_modulus
    at, _ = for_seal(scheme, key)
    slots = np.random.default_rng(2).integers(0, t, scheme.slots, dtype=np.uint64)
    with zeros(scheme, key) as source:
        rows = zero(scheme, source)
    ciphertext = loaded(at, rows, False)
    at.api.Evaluator(at.seal).add_plain_inplace(ciphertext, plaintext(scheme, at, slots))
    expected, primes = rows.copy(), np.array(scheme.parameters.primes, dtype=np.uint64)[:, None]
    expected[: len(primes)] = (rows[: len(primes)] + encoded(scheme, slots[None])[:, 0]) % primes
    assert (saved(at, ciphertext) == expected).all()


@pytest.mark.parametrize("name", [name for name in SCHEMES if "ckks" in name])
def test_ckks_encodes_as_seal_does(name: str) -> None:
    """SEAL encodes the same numbers in the same order, within a unit of rounding and double precision."""
    scheme = SCHEMES[name]
    key, p = scheme.generate(), scheme.parameters
    at, _ = for_seal(scheme, key)
    slots = np.random.default_rng(3).integers(0, scheme.bound, scheme.slots, endpoint=True)
    with zeros(scheme, key) as source:
        rows = zero(scheme, source)
    ciphertext = loaded(at, rows, True)
    ciphertext.scale = float(p.step)
    at.api.Evaluator(at.seal).add_plain_inplace(ciphertext, plaintext(scheme, at, slots))
    for modulo, before, after, part in zip(
        scheme._fields, rows, saved(at, ciphertext), encoded(scheme, slots[None])[:, 0], strict=False
    ):
        prime = np.uint64(modulo.prime)
        off = (coefficients(modulo, (after + (prime - before)) % prime) + (prime - part)) % prime
        off = off.astype(np.int64)
        off -= modulo.prime * (off > modulo.prime // 2)
        assert np.abs(off).max() <= 1 + p.step * scheme.bound * 2.0**-52
        assert p.step * scheme.bound > 2**50 or np.count_nonzero(off) < p.degree / 8


@every
def test_errors_of_both_engines_are_those_that_the_parameters_are_derived_for(scheme: Scheme) -> None:
    """Centred binomials of 42 coins, standard deviation 3.24; 3.24 sqrt(4N/3 + 1) with a public key.

    The encodings of zero are zero, so that a sum of one encryption of zeros opens to its error.
    """
    p, zeros = scheme.parameters, np.zeros(8 * scheme.slots, dtype=np.int64)
    expected = twin.standard_deviation("coefficient", p.degree, 1, scheme.seeded)
    assert math.isclose(expected, 3.24 * (1 if scheme.seeded else math.sqrt(4 * p.degree / 3 + 1)), rel_tol=1e-3)
    for engine in ENGINES:
        one = replace(scheme, engine=engine)
        errors = []
        for _ in range(2):  # one key's errors are not those of all
            key, adder = one.generate(), one.adder(len(zeros))
            adder.fold(key.encrypt(zeros))
            first = phases(one, key, adder.total())[0].reshape(-1).astype(np.int64)
            errors.append(first - p.primes[0] * (first > p.primes[0] // 2))
        error = np.concatenate(errors)
        assert abs(error.std() / expected - 1) < 0.12
        assert abs(error.mean()) < 0.1 * expected
        assert np.abs(error).max() <= (21 if scheme.seeded else error_bound("coefficient", p.degree, 1, False))


@every
def test_secrets_of_seal_are_ternary_and_fresh(scheme: Scheme) -> None:
    keys = [replace(scheme, engine="seal").generate()._secret for _ in range(3)]
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


@pytest.mark.parametrize("name", ["ckks-seeded", "bfv"])
def test_all_goes_as_well_by_temporary_files(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_memory_files(monkeypatch, tmp_path)
    scheme = replace(SCHEMES[name], engine="seal")
    key = scheme.generate()
    adder = scheme.adder(3)
    adder.fold(key.encrypt(np.array([1, 2, 3])))
    assert key.open(adder.total(), 3, 1).tolist() == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_pipes_take_the_longest_ciphertext_or_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that held less would block SEAL for good: a file in memory serves where one can't be had."""
    longest = replace(SCHEMES["bfv-two-primes"], engine="seal")
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
    framed = at.layout.framed(bytes(members))
    with pytest.raises(HEError, match="other than BLAKE2Xb"):
        _seal.ciphertext_rows(framed, at, True, True)
    plain = _seal._plain_bytes(at, np.zeros((1, 2048), dtype=np.uint64))
    with pytest.raises(HEError, match="secret key"):
        _seal._plain_rows(at.layout.framed(plain[16:-8]), at)


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
    assert _seal_bytes.HEADER.size == header.header_size
    assert header.magic == _seal_bytes.MAGIC
    assert header.version_major == _seal_bytes.MAJOR

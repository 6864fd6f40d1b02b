"""Sums of encrypted vectors are exact; keys, states and formats; only a possible sum is opened."""

import hashlib
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from he import _rlwe_encryption, _seal, _tenseal, bfv, ckks, params
from he._buffer import Part
from he.ckks import SecretKey
from he.errors import CiphertextError, HEError, OpenError
from he.ring import sampling
from tests.he.polynomials import coefficients, decoded, read, written

SCHEMES = {
    "ckks": ckks.Scheme(65534, 256),
    "ckks-seeded": ckks.Scheme(65534, 256, seeded=True),
    "ckks-two-primes": ckks.Scheme(2**24 - 2, 4096),
    "bfv": bfv.Scheme(65534, 256),
    "bfv-seeded": bfv.Scheme(65534, 256, seeded=True),
    "bfv-two-primes": bfv.Scheme(2**32 - 2, 4096),
    "ckks-seal": ckks.Scheme(65534, 256, engine="seal"),
    "bfv-seal-seeded": bfv.Scheme(65534, 256, seeded=True, engine="seal"),
}
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
one_of_each = pytest.mark.parametrize("scheme", [SCHEMES["ckks"], SCHEMES["bfv-seeded"]], ids=["ckks", "bfv"])
Scheme = ckks.Scheme | bfv.Scheme
Vectors = list[np.ndarray]


@lru_cache
def key_of(scheme: Scheme) -> SecretKey:
    return scheme.generate()


def total(scheme: Scheme, key: SecretKey, vectors: Vectors) -> bytes:
    adder = scheme.adder(len(vectors[0]), key.public)
    for vector in vectors:
        data = key.encrypt(vector)
        assert len(data) == scheme.size(len(vector))
        adder.fold(data)
    assert adder.count == len(vectors)
    data = adder.total()
    assert len(data) == scheme.total_size(len(vectors[0]))
    return data


def vectors(scheme: Scheme, count: int, length: int, seed: int, kind: str) -> Vectors:
    rng = np.random.default_rng(seed)
    if kind == "extremes":
        return [rng.choice([0, scheme.bound], length) for _ in range(count)]
    if kind == "largest":
        return [np.full(length, scheme.bound)] * count
    if kind == "zero":
        return [np.zeros(length, dtype=np.int64)] * count
    return [rng.integers(0, scheme.bound, length, endpoint=True) for _ in range(count)]


@every
@settings(max_examples=8)
@given(
    count=st.integers(1, 6),
    length=st.one_of(st.integers(1, 10), st.integers(1, 10_000)),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["uniform", "extremes", "largest", "zero"]),
)
def test_sums_are_exact(scheme: Scheme, count: int, length: int, seed: int, kind: str) -> None:
    terms = vectors(scheme, count, length, seed, kind)
    key = key_of(scheme)
    opened = key.open(total(scheme, key, terms), length, count)
    assert opened.dtype == np.int64
    assert (opened == sum(term.astype(np.int64) for term in terms)).all()


@given(
    bound=st.one_of(st.integers(1, 300), st.integers(1, 2**24)),
    clients=st.integers(1, 5000),
    exact=st.booleans(),
    seeded=st.booleans(),
    engine=st.sampled_from(["ring", "ring", "seal"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25)
def test_sums_are_exact_whatever_the_parameters(
    bound: int, clients: int, exact: bool, seeded: bool, engine: str, seed: int
) -> None:
    scheme = (bfv if exact else ckks).Scheme(bound, clients, seeded, engine)
    terms = vectors(scheme, min(clients, 2), 100, seed, "extremes")
    key = scheme.generate()
    assert (key.open(total(scheme, key, terms), 100, len(terms)) == sum(terms)).all()


@pytest.mark.parametrize("kind", ["largest", "extremes"])
@pytest.mark.parametrize("name", ["ckks", "ckks-seeded", "bfv", "bfv-seeded", "ckks-seal", "bfv-seal-seeded"])
def test_sums_of_as_many_as_there_may_be(name: str, kind: str) -> None:
    as_many_as_there_may_be(SCHEMES[name], kind)


@pytest.mark.parametrize(
    "scheme",
    [
        ckks.Scheme(2**32 - 2, 2),
        bfv.Scheme(2**32 - 2, 2),
        ckks.Scheme(254, 4096, seeded=True),
        bfv.Scheme(2**32 - 2, 4096, seeded=True),
    ],
    ids=lambda scheme: scheme.describe().split(":")[0] + f" {scheme.bound} x {scheme.max_clients}",
)
def test_sums_of_two_and_of_4096(scheme: Scheme) -> None:
    as_many_as_there_may_be(scheme, "largest")


def as_many_as_there_may_be(scheme: Scheme, kind: str) -> None:
    length = 1500
    terms = vectors(scheme, scheme.max_clients, length, 5, kind)
    key = key_of(scheme)
    assert (key.open(total(scheme, key, terms), length, scheme.max_clients) == sum(terms)).all()


@pytest.mark.parametrize(
    ("module", "bound", "clients", "longest", "primes"),
    [
        (bfv, 4094, 16, 50, 1),
        (ckks, 4094, 16, 50, 1),
        (bfv, 4094, 16, 30, 2),
        (ckks, 4094, 16, 30, 2),
        (bfv, 4094, 16, 19, 3),
        (ckks, 4094, 16, 19, 3),
        (bfv, 2**32 - 2, 4096, 19, 4),
        (ckks, 65534, 256, 19, 4),
    ],
)
def test_sums_are_exact_over_one_to_four_primes(
    module: Any, bound: int, clients: int, longest: int, primes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter primes make more of them: with up to 50 bits, a sum takes two at most."""
    derive = getattr(params, module.Scheme.name)
    monkeypatch.setattr(params, "MAX_PRIME_BITS", longest)
    derive.cache_clear()
    try:
        scheme = module.Scheme(bound, clients)
        assert len(scheme.parameters.primes) == primes
        terms = vectors(scheme, 5, 9 * scheme.slots + 5, 9, "extremes")
        key = scheme.generate()
        assert (key.open(total(scheme, key, terms), 9 * scheme.slots + 5, 5) == sum(terms)).all()
    finally:
        derive.cache_clear()


@every
def test_sizes_are_what_they_say(scheme: Scheme) -> None:
    p = scheme.parameters
    polynomial = p.degree * p.bits * len(p.primes) // 8
    one = polynomial if scheme.seeded else 2 * polynomial
    seeds = [0, 0] if not scheme.seeded else [32, 32] if scheme.engine == "ring" else [64, 128]
    assert scheme.slots == p.degree
    assert scheme.size(1) == scheme.size(scheme.slots) == 16 + one + seeds[0]
    assert scheme.size(scheme.slots + 1) == 16 + 2 * one + seeds[1]
    assert scheme.total_size(scheme.slots) == 16 + 2 * polynomial
    assert scheme.name.upper() in scheme.describe()
    assert f"degree {p.degree}" in scheme.describe()
    for length in (0, -1, 2**30 + 1, 1.0):
        with pytest.raises(HEError, match="length"):
            scheme.size(length)


def test_bytes_a_value() -> None:
    """Sixteen bits, 256 clients, a million values; NVFlare's defaults take 57.4."""
    limits = {"ckks-seeded": 8, "ckks": 16, "bfv-seeded": 8, "bfv": 16}
    for name, limit in limits.items():
        assert SCHEMES[name].size(10**6) / 10**6 <= limit


def test_a_digest_is_of_all_that_counts() -> None:
    base = SCHEMES["bfv"]
    others = [
        replace(base, bound=65533),
        replace(base, max_clients=255),
        replace(base, seeded=True),
        replace(base, engine="seal"),
        SCHEMES["ckks"],
    ]
    digests = {scheme.digest for scheme in [base, *others]}
    assert len(digests) == 6
    assert {len(digest) for digest in digests} == {32}
    assert bfv.Scheme(65534, 256).digest == base.digest
    assert key_of(base).encrypt(np.array([1]))[:16] == base.digest[:16]
    with pytest.raises(FrozenInstanceError):
        base.bound = 3  # type: ignore[misc]
    with pytest.raises(HEError, match="seeded"):
        bfv.Scheme(1, 2, "yes")  # type: ignore[arg-type]
    for engine in ("SEAL", "", None, 1):
        with pytest.raises(HEError, match="expected one of ring, seal"):
            bfv.Scheme(1, 2, engine=engine)  # type: ignore[arg-type]


def test_a_digest_is_the_same_everywhere() -> None:
    """Parameters come from logarithms and roots: a platform that rounds them otherwise would show here."""
    assert {name: scheme.digest.hex()[:16] for name, scheme in SCHEMES.items()} == {
        "ckks": "e36e549cc0c81437",
        "ckks-seeded": "faa402e80badbc9b",
        "ckks-two-primes": "fc825bce3eaacf16",
        "bfv": "0b47fe33b1d8412a",
        "bfv-seeded": "b36fa465c263ffa4",
        "bfv-two-primes": "d068f8171b51b69d",
        "ckks-seal": "4436d6d3018576cc",
        "bfv-seal-seeded": "1cbc375f373cd4be",
    }


@every
def test_keys_go_through_bytes(scheme: Scheme) -> None:
    key = scheme.generate()
    data = key.to_bytes()
    again = scheme.load_secret(data)
    assert again.to_bytes() == data
    assert repr(again) == f"SecretKey({scheme!r})"
    values = np.arange(5)
    assert (again.open(total(scheme, key, [values]), 5, 1) == values).all()
    if scheme.seeded:
        assert key.public is None
        with pytest.raises(HEError, match="seeded"):
            scheme.load_public(data)
        return
    assert key.public is not None
    assert again.public is not None
    public = scheme.load_public(key.public.to_bytes())
    assert public.digest == again.public.digest == hashlib.sha256(key.public.to_bytes()).digest()
    adder = scheme.adder(5, public)
    adder.fold(public.encrypt(values))
    assert (key.open(adder.total(), 5, 1) == values).all()


@every
def test_damaged_keys_are_refused(scheme: Scheme) -> None:
    key, other = scheme.generate(), scheme.generate()
    data = key.to_bytes()
    cases = [data[:-1], data + b"\0", b"", b"\0" * 16 + data[16:], data[:16] + b"\xff" + data[17:], bytearray(data)]
    if not scheme.seeded:
        end = 16 + scheme.parameters.degree // 4
        cases += [data[:end] + other.to_bytes()[end:], data[:-8] + b"\xff" * 8]
        # One bit of the last prime's row alone, in the public key's first half.
        at = end + 8 * scheme._half - 8
        cases += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]]
        assert key.public is not None
        public = key.public.to_bytes()
        for wrong in (public[:-1], public + b"\0", b"\0" * 16 + public[16:], public[:-8] + b"\xff" * 8, data):
            with pytest.raises(HEError, match="public key"):
                scheme.load_public(wrong)
    for wrong in cases:
        with pytest.raises(HEError, match=r"got \w+ .*key"):
            scheme.load_secret(wrong)


@every
def test_a_sum_goes_on_from_its_state(scheme: Scheme) -> None:
    key, (a, b) = key_of(scheme), vectors(scheme, 2, 3000, 3, "uniform")
    adder = scheme.adder(3000, key.public)
    adder.fold(key.encrypt(a))
    state = adder.to_bytes()
    again = scheme.load_adder(state, 3000, key.public)
    again.fold(key.encrypt(b))
    assert (key.open(again.total(), 3000, again.count) == a + b).all()
    too_many = state[:24] + (scheme.max_clients + 1).to_bytes(8, "little") + state[32:]
    other_length = state[:16] + (2999).to_bytes(8, "little") + state[24:]
    adder.fold(key.encrypt(b))
    two = adder.to_bytes()
    twice = two[:32] + two[32:64] * 2 + two[96:]
    for wrong, reason in (
        (state[:-1], "bytes for a running sum"),
        (state + b"\0", "bytes for a running sum"),
        (state[:-8] + b"\xff" * 8, "a sum with a residue"),
        (adder.total(), "bytes for a running sum"),
        (too_many, "bytes for a running sum"),
        (too_many[:32] + bytes(32 * (scheme.max_clients - 1)) + too_many[32:], "expected up to"),
        (other_length, "vectors of 2999 values"),
        (twice, "names a vector twice"),
    ):
        with pytest.raises(HEError, match=reason):
            scheme.load_adder(wrong, 3000, key.public)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([0, 1, 65535, 1]), "the value at 2 is 65535"),
        (np.array([-1]), "the value at 0 is -1"),
        (np.array([2**63], dtype=np.uint64), "the value at 0 is 9223372036854775808"),
        (np.array([1.0]), "float64"),
        (np.array([[1]]), "shape"),
        (np.array([], dtype=np.int64), "length of 0"),
        (np.array([True]), "bool"),
    ],
)
@one_of_each
def test_values_out_of_range_are_not_encrypted(scheme: Scheme, values: np.ndarray, reason: str) -> None:
    with pytest.raises(HEError, match=reason):
        key_of(scheme).encrypt(values)


@every
def test_control_another_key_opens_nothing(scheme: Scheme) -> None:
    key, values = key_of(scheme), np.arange(50)
    data = total(scheme, key, [values])
    with pytest.raises(OpenError, match="not a possible sum"):
        scheme.generate().open(data, 50, 1)
    assert (key.open(data, 50, 1) == values).all()


@every
def test_control_ciphertexts_that_change_places_give_another_sum(scheme: Scheme) -> None:
    """Nothing ties a ciphertext to its place: that is the layer's above. A last one that isn't full shows it."""
    key, slots = key_of(scheme), scheme.slots
    values = np.random.default_rng(4).integers(1, scheme.bound, 2 * slots, endpoint=True)
    data = key.encrypt(values)
    adder = scheme.adder(2 * slots)
    adder.fold(data)
    summed = adder.total()
    swapped = written(scheme, summed, read(scheme, summed)[::-1])
    opened = key.open(swapped, 2 * slots, 1)
    assert (opened == np.roll(values, slots)).all()
    assert (opened != values).any()
    with pytest.raises(OpenError):
        key.open(swapped, 2 * slots - 1, 1)


@every
def test_control_more_than_was_allowed_for_does_not_open(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that doesn't check its values puts a slot out of range; unless honest room hides it."""
    key = key_of(scheme)
    with monkeypatch.context() as patch:
        patch.setattr(_rlwe_encryption, "_padded", unchecked)
        data = key.encrypt(np.array([1, scheme.bound + 1]))
    adder = scheme.adder(2)
    adder.fold(data)
    with pytest.raises(OpenError, match="not a possible sum"):
        key.open(adder.total(), 2, 1)
    adder.fold(key.encrypt(np.array([1, 5])))  # now it is a sum that two honest clients could make
    assert key.open(adder.total(), 2, 2).tolist() == [2, scheme.bound + 6]


def unchecked(scheme: Scheme, values: np.ndarray) -> np.ndarray:
    rows = np.zeros((1, scheme.slots), dtype=np.int64)
    rows[0, : len(values)] = values
    return rows


@one_of_each
def test_executors_change_nothing(scheme: Scheme) -> None:
    key, values = key_of(scheme), np.random.default_rng(5).integers(0, 65534, 100 * scheme.slots)
    with (
        ThreadPoolExecutor(2) as threads,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes,
    ):
        adder = scheme.adder(len(values))
        uploads = {key.encrypt(values, executor, rng=lambda n: bytes(n)) for executor in (None, threads, processes)}
        assert len(uploads) == 1
        for executor in (None, threads, processes):
            adder.fold(key.encrypt(values, executor))
        for executor in (None, threads, processes):
            assert (key.open(adder.total(), len(values), 3, executor) == 3 * values).all()


def test_what_another_process_is_sent_is_small() -> None:
    scheme = SCHEMES["bfv"]
    _ = scheme._fields
    assert len(pickle.dumps(scheme)) < 200
    assert pickle.loads(pickle.dumps(scheme)) == scheme


def test_threads_of_tenseal_are_not_started() -> None:
    """TenSEAL's own contexts start a thread a core each, and print; ours do neither."""
    code = (
        "import os, numpy as np, he.ckks, he.bfv\n"
        "for m in (he.ckks, he.bfv):\n"
        "    s = m.Scheme(3, 4, True, engine='seal'); k = s.generate()\n"
        "    a = s.adder(9); a.fold(k.encrypt(np.arange(9) % 4))\n"
        "    k.open(a.total(), 9, 1)\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kernel = (
        "import os, numpy as np, he.ckks\n"
        "he.ring._lanes.add(*np.zeros((2, 8), dtype=np.uint64), np.uint64(5))\n"  # the compiler has a thread too
    )
    count = "print(len(os.listdir('/proc/self/task')))\n"
    base = subprocess.run([sys.executable, "-c", kernel + count], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == (base.stdout, "")
    theirs = "import tenseal as ts; c = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40])\n"
    control = subprocess.run(
        [sys.executable, "-c", kernel + theirs + count], capture_output=True, text=True, check=True
    )
    assert int(control.stdout) > int(base.stdout)


def second_polynomials(scheme: Scheme, data: bytes, length: int) -> list[bytes]:
    """The second polynomials of all ciphertexts of an upload, as the server has them when it has folded it."""
    adder = scheme.adder(length)
    adder.fold(data)
    rows = read(scheme, adder.total())
    return [row.tobytes() for row in rows[:, len(scheme._fields)]]


def shared(scheme: Scheme, key: SecretKey, uploads: int = 2, groups: int = 3) -> int:
    """How many of the second polynomials of some uploads of zeros occur twice."""
    length = (8 * groups - 3) * scheme.slots
    data = [key.encrypt(np.zeros(length, dtype=int)) for _ in range(uploads)]
    seconds = [second for upload in data for second in second_polynomials(scheme, upload, length)]
    return len(seconds) - len(set(seconds))


@every
def test_no_two_ciphertexts_share_their_randomness(scheme: Scheme) -> None:
    assert shared(scheme, key_of(scheme)) == 0


@pytest.mark.parametrize("name", ["ckks-seeded", "bfv", "ckks-two-primes"])
def test_control_groups_that_begin_at_one_word_share_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "GROUP", 0)
    assert shared(SCHEMES[name], key_of(SCHEMES[name]), uploads=1) > 8


def difference(scheme: Scheme, data: bytes) -> np.ndarray:
    """What the server sees: the first ciphertext less the second, its encoding read as if it were a sum."""
    rows = read(scheme, data)
    less = [
        coefficients(field, (rows[0, j] + (np.uint64(field.prime) - rows[1, j])) % np.uint64(field.prime))
        for j, field in enumerate(scheme._fields)
    ]
    slots = decoded(scheme, [row[None] for row in less], 0)[0]
    modulus = getattr(scheme.parameters, "plain_modulus", 2**62)
    return np.where(slots > modulus // 2, slots - modulus, slots)


@pytest.mark.parametrize("name", ["ckks-seeded", "ckks", "bfv", "bfv-seeded"])
def test_control_two_vectors_from_the_same_bytes_give_their_difference_in_the_clear(name: str) -> None:
    """Why no generator may give the same bytes for two vectors: an observer of both reads their difference."""
    scheme, key = SCHEMES[name], key_of(SCHEMES[name])
    one, two = (np.random.default_rng(seed).integers(0, scheme.bound, scheme.slots) for seed in (6, 7))

    def seen(second: bytes) -> np.ndarray:
        first = read(scheme, key.encrypt(one, rng=lambda size: bytes(size)))
        other = read(scheme, key.encrypt(two, rng=lambda size: second[:size]))
        both = np.concatenate([first, other])
        return difference(scheme, written(scheme, scheme._tag(b"sum" if not scheme.seeded else b""), both))

    assert np.mean(seen(b"1" * 32) == one - two) < 0.01
    assert (seen(bytes(32)) == one - two).all()


@pytest.mark.parametrize("name", ["ckks-seal", "bfv-seal-seeded"])
def test_control_a_seeded_generator_gives_differences_in_the_clear(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SEAL's seeded factory restarts its stream at every encryption: an observer of an upload reads differences."""
    scheme = SCHEMES[name]
    at = _seal.context(scheme.parameters)
    key = key_of(scheme)
    values = np.random.default_rng(6).integers(0, scheme.bound, 2 * scheme.slots)
    truth = values[: scheme.slots] - values[scheme.slots :]
    assert np.mean(difference(scheme, key.encrypt(values)) == truth) < 0.01
    monkeypatch.setattr(_seal, "context", lambda parameters: with_seed(at))
    broken = key.encrypt(values)
    assert len(set(second_polynomials(scheme, broken, len(values)))) == 1
    assert (difference(scheme, broken) == truth).all()


def with_seed(at: _seal.Context) -> _seal.Context:
    api, p = at.api, at.parameters
    wanted = api.EncryptionParameters(api.SCHEME_TYPE.CKKS if _seal.transformed(p) else api.SCHEME_TYPE.BFV)
    wanted.set_poly_modulus_degree(p.degree)
    wanted.set_coeff_modulus([api.Modulus(prime) for prime in p.primes])
    if not _seal.transformed(p):
        wanted.set_plain_modulus(p.plain_modulus)
    wanted.set_random_generator(api.Blake2xbPRNGFactory([1, 2, 3, 4, 5, 6, 7, 8]))
    seal = api.SEALContext(wanted, False, api.SEC_LEVEL_TYPE.TC128)
    return _seal.Context(api, seal, p, at.identifier, at.minor)


@lru_cache
def tenseal_vectors() -> dict[str, bytes]:
    """TenSEAL's own bytes for two values, and three changes of them on which it dies or reads beyond its memory."""
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[40, 40], n_threads=1)
    context.global_scale = 2**20
    vector = tenseal.ckks_vector(context, [1.0, 2.0]).serialize()
    sizes, scale = vector[:3], vector[-9:]  # one count, which is 2, and a double
    assert sizes == b"\x0a\x01\x02"
    return {
        "honest": vector,
        "counts without ciphertexts": sizes + scale,
        "ciphertexts without counts": vector[3:],
        "over-long counts": b"\x0a\x02\x88\x27" + vector[3:],
    }


@pytest.mark.parametrize(
    ("name", "use", "ends"),
    [
        ("honest", "own.add_(given); print(given.decrypt()[:2])", (0,)),
        ("counts without ciphertexts", "own.add_(given)", (-signal.SIGSEGV, -signal.SIGABRT)),
        ("ciphertexts without counts", "given.decrypt()", (-signal.SIGSEGV, -signal.SIGABRT)),
    ],
)
def test_control_tenseals_parser_takes_them_and_dies(name: str, use: str, ends: tuple[int, ...]) -> None:
    """What would reach the server's or the decryptor's process if bytes of others went to TenSEAL."""
    code = (
        "import sys, tenseal\n"
        "c = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[40, 40], n_threads=1)\n"
        "c.global_scale = 2**20\n"
        "own = tenseal.ckks_vector(c, [1.0, 2.0])\n"
        "given = tenseal.ckks_vector_from(c, sys.stdin.buffer.read())\n"
    )
    run = subprocess.run([sys.executable, "-c", code + use], input=tenseal_vectors()[name], capture_output=True)
    assert run.returncode in ends


def hostile(scheme: Scheme, data: bytes) -> dict[str, Any]:
    """What a client might send instead of ``data``, an upload of two ciphertexts."""
    p = scheme.parameters
    bits, one = p.bits, 8 * scheme._stride
    cases: dict[str, Any] = {
        "empty": b"",
        "digest alone": data[:16],
        "one byte short": data[:-1],
        "one byte more": data + b"\0",
        "one ciphertext short": data[:16] + data[16 + one :],
        "one ciphertext more": data[: 16 + one] + data[16:],
        "twice": data + data[16:],
        "no digest": data[16:] + bytes(16),
        "zero digest": bytes(16) + data[16:],
        "flipped digest": bytes([data[0] ^ 1]) + data[1:],
        "of another scheme": replace(scheme, bound=scheme.bound - 1).digest[:16] + data[16:],
        "all ones": data[:16] + b"\xff" * (len(data) - 16),
        "a SEAL header": b"\x5e\xa1\x10\x04\x03\x02\0\0" + data[8:],
        "pickle": pickle.dumps(data),
        **{f"TenSEAL, {name}": vector for name, vector in tenseal_vectors().items()},
        "bytearray": bytearray(data),
        "text": "a" * len(data),
        "nothing": None,
        "a number": 7,
    }
    honest = read(scheme, data)
    for ciphertext in range(2):
        for row in range(scheme._rows):
            for place in (0, 1, p.degree - 1):
                for residue in (p.primes[row % len(p.primes)], 2**bits - 1):
                    rows = honest.copy()
                    rows[ciphertext, row, place] = residue
                    cases[f"residue {residue} at {ciphertext}, {row}, {place}"] = written(scheme, data, rows)
    return cases


@every
def test_hostile_uploads_are_refused_and_touch_nothing(scheme: Scheme) -> None:
    key, length = key_of(scheme), scheme.slots + 1
    values = np.random.default_rng(7).integers(0, scheme.bound, length)
    data = key.encrypt(values)
    adder = scheme.adder(length, key.public)
    adder.fold(data)
    before = adder.to_bytes()
    cases = hostile(scheme, data)
    assert len(cases) >= 30
    for name, wrong in cases.items():
        with pytest.raises(CiphertextError):
            adder.fold(wrong)
        assert adder.to_bytes() == before, name
    with pytest.raises(CiphertextError, match="expected"):
        adder.fold(adder.total())
    assert (key.open(adder.total(), length, 1) == values).all()


@every
def test_hostile_totals_are_not_opened(scheme: Scheme) -> None:
    key, length = key_of(scheme), scheme.slots + 1
    data = total(scheme, key, [np.arange(length) % scheme.bound])
    wide = data[:16] + b"\xff" * (len(data) - 16)
    for wrong in (
        b"",
        data[:-1],
        data + b"\0",
        bytes(16) + data[16:],
        wide,
        key.encrypt(np.zeros(length, int)),
        None,
    ):
        with pytest.raises(OpenError):
            key.open(wrong, length, 1)
    for wrong_length in (length - 2, length + scheme.slots, 0):
        with pytest.raises(HEError):
            key.open(data, wrong_length, 1)


@every
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_whatever_residues_say_only_our_errors_come_out(scheme: Scheme, seed: int) -> None:
    """Uniform residues, and one flipped bit: both fold, being ciphertexts, and neither is a possible sum."""
    rng = np.random.default_rng(seed)
    key, p = key_of(scheme), scheme.parameters
    values = np.arange(100)
    data = bytearray(key.encrypt(values))
    start = int(rng.integers(16, 16 + 8 * scheme._half))
    data[start] ^= 1 << int(rng.integers(8))
    rows = [rng.integers(0, prime, p.degree, dtype=np.uint64) for prime in p.primes * 2][: scheme._rows]
    uniform = written(scheme, bytes(data), np.stack(rows)[None])
    for wrong in (bytes(data), uniform):
        adder = scheme.adder(100)
        try:
            adder.fold(wrong)
        except CiphertextError:
            continue
        with pytest.raises(OpenError):
            key.open(adder.total(), 100, 1)


@pytest.mark.parametrize("seeded", [False, True], ids=["public", "seeded"])
def test_no_secret_is_in_a_representation_or_an_error(seeded: bool) -> None:
    """Either may be logged, such as with the arguments of a failed task of an executor."""
    scheme = bfv.Scheme(254, 16, seeded)
    key = scheme.generate()
    for holder in (key, key._key, _tenseal.ContextKeys(key._secret, None), Part(key._secret)):
        assert "array" not in repr(holder)
    for drawn in (b"secret" * 5, bytearray(b"secret" * 5 + b"12")):
        with pytest.raises(HEError, match=r"got (30 bytes|bytearray) from rng\(32\)") as refused:
            key.encrypt(np.ones(3, int), rng=lambda n, drawn=drawn: drawn)  # type: ignore[misc]
        assert "secret" not in str(refused.value)

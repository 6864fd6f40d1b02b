"""Sums under one-time keys: exact, closed unless every coefficient is possible, and what protects one vector."""

import pickle
import threading
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from math import comb, prod
from typing import Any

import numpy as np
import pytest

from he import _kahe_format, _kahe_sums, kahe, kahe_params
from he.errors import CiphertextError, HEError, OpenError
from he.ring import sampling
from tests.he.rings import ring, seed, small_rings, summed

PUBLIC = seed(2**200)


def vector_of(scheme: kahe.Scheme, number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, bound, length, endpoint=True) for length, bound in scheme.segments]


def moved(scheme: kahe.Scheme, total: bytes, amounts: dict[int, int]) -> bytes:
    """``total`` with integers added to the coefficients at some places."""
    plain = ring(scheme)
    numbers = plain.unpacked(total)
    for place, amount in amounts.items():
        numbers[place] = (numbers[place] + amount) % plain.q
    return plain.packed(numbers)


@pytest.mark.parametrize(
    ("segments", "clients"),
    [
        (((20_000, 254),), 2),
        (((20_001, 65534), (1, 5000), (300, 1)), 3),
        (((150_000, 65534), (2, 10**6)), 10),
        (((3000, 2**20 - 2),), 100),
        (((2000, 2**32 - 2), (2000, 254)), 30),
        (((60, 65534), (1, 100)), 1000),
    ],
)
def test_sums_are_exact(segments: tuple[tuple[int, int], ...], clients: int, threads: Executor) -> None:
    scheme = kahe.Scheme(segments, clients, 28)
    vectors = [vector_of(scheme, i) for i in range(clients)]
    adder, keys = summed(scheme, vectors, PUBLIC)
    expected = [np.sum(parts, axis=0) for parts in zip(*vectors, strict=True)]
    sums = scheme.open(adder.total(), keys, clients, PUBLIC)
    assert all((a == b).all() for a, b in zip(sums, expected, strict=True))
    by_threads = scheme.open(adder.total(), keys, clients, PUBLIC, threads)
    assert all((a == b).all() for a, b in zip(by_threads, sums, strict=True))
    assert scheme.opens(adder.total(), keys, clients, PUBLIC)
    assert scheme.encrypt(vectors[0], seed(0), PUBLIC, threads) == scheme.encrypt(vectors[0], seed(0), PUBLIC)


@pytest.mark.parametrize("bound", [1, 254, 65534, 2**32 - 2, 2**60 - 1])
def test_extreme_sums_are_exact(bound: int) -> None:
    """A full sum of the largest values, and of zeros: no field carries into the next, no error out of its bits."""
    scheme = kahe.Scheme(((5000, bound), (7, 65534)), 4)
    for share in (0, 1):
        vector = [np.full(length, share * largest, dtype=np.uint64) for length, largest in scheme.segments]
        adder, keys = summed(scheme, [vector] * 4, PUBLIC)
        sums = scheme.open(adder.total(), keys, 4, PUBLIC)
        assert [set(array.tolist()) for array in sums] == [{4 * share * bound}, {4 * share * 65534}]


def test_an_independent_script_opens_a_sum_in_a_real_ring() -> None:
    """By schoolbook products, and nothing of this package."""
    scheme = kahe.Scheme(((6000, 254), (1, 1000)), 10)
    assert scheme.degree == 2048
    vectors = [vector_of(scheme, i) for i in range(2)]
    adder, keys = summed(scheme, vectors, PUBLIC)
    sums, errors = ring(scheme).opened(adder.total(), keys.tolist(), PUBLIC)
    assert sums == [sum(parts).tolist() for parts in zip(*vectors, strict=True)]
    assert max(map(abs, errors)) <= kahe_params.error_bound(2)


def test_both_arithmetics_have_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> tuple[bytes, bytes, list[list[int]]]:
        scheme = kahe.Scheme(((9000, 65534), (40, 2**32 - 2)), 100, 28)  # without the fields of another scheme
        vectors = [vector_of(scheme, i) for i in range(2)]
        adder, keys = summed(scheme, vectors, PUBLIC)
        sums = scheme.open(adder.total(), keys, 2, PUBLIC)
        return scheme.encrypt(vectors[0], seed(0), PUBLIC), adder.total(), [array.tolist() for array in sums]

    as_chosen = results()
    monkeypatch.setenv("SECAGG_RING", "word")
    assert results() == as_chosen


def test_keys_and_errors_have_the_binomials_distribution() -> None:
    """Of 2^18 coefficients each, against the exact mass of 128 coins: a chi-square of about as many cells."""
    scheme = kahe.Scheme(((2**18, 65534),), 2)
    stream = scheme._coins(seed(5), PUBLIC, b"error")
    for sample in (
        scheme._binomials(stream, 0, np.empty(2**18, dtype=np.int8)),
        np.concatenate([scheme.key(seed(i), PUBLIC) for i in range(2**18 // scheme.degree)]),
    ):
        counts = np.bincount(sample.astype(np.int64) + 64, minlength=129)
        cells = [x for x in range(129) if comb(128, x) * 2**18 >= 10 * 2**128]
        expected = np.array([comb(128, x) * 2**18 / 2**128 for x in cells])
        rest = 2**18 - counts[cells].sum()
        assert abs(rest - (2**18 - expected.sum())) < 40
        chi_square = ((counts[cells] - expected) ** 2 / expected).sum()
        assert abs(chi_square - len(cells)) < 6 * (2 * len(cells)) ** 0.5


# What is not a possible sum stays closed.


def test_errors_beyond_their_bound_are_refused() -> None:
    with small_rings(47):
        scheme = kahe.Scheme(((900, 254),), 8)
    vectors = [vector_of(scheme, i) for i in range(5)]
    adder, keys = summed(scheme, vectors, PUBLIC)
    total, bound = adder.total(), kahe_params.error_bound(5)
    _, errors = ring(scheme).opened(total, keys.tolist(), PUBLIC)
    sums = scheme.open(total, keys, 5, PUBLIC)
    for place in (0, 77, scheme.parameters.places - 1):
        for side in (1, -1):
            last = side * bound - errors[place]
            same = scheme.open(moved(scheme, total, {place: last}), keys, 5, PUBLIC)
            assert (same[0] == sums[0]).all(), "the largest error that honest clients can have"
            with pytest.raises(OpenError, match="stays closed"):
                scheme.open(moved(scheme, total, {place: last + side}), keys, 5, PUBLIC)


@pytest.mark.parametrize("what", ["field", "above", "top", "padding", "guard"])
def test_impossible_coefficients_are_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same error and one bit that no client can set. Control: without the look at them, it opens."""
    with small_rings(81):
        scheme = kahe.Scheme(((901, 200), (2, 200)), 8)
    p = scheme.parameters
    plane, short = p.planes
    assert plane.places * plane.per_coefficient > plane.length
    vectors = [[np.zeros(901, dtype=np.uint8), np.zeros(2, dtype=np.uint8)]] * 3
    adder, keys = summed(scheme, vectors, PUBLIC)
    place, bit = {
        "field": (5, plane.width * (plane.per_coefficient - 1)),
        "above": (5, plane.width * plane.per_coefficient),
        "top": (short.first, 79 - p.shift),  # a word of 64 bits above the fields
        "padding": (plane.places - 1, plane.width * (plane.per_coefficient - 1)),
        "guard": (p.places - 1, 0),
    }[what]
    amount = (3 * 200 + 1 if what == "field" else 1) << p.shift + bit
    assert amount + (1 << p.shift) < prod(p.primes)
    total = moved(scheme, adder.total(), {place: amount})
    with pytest.raises(OpenError, match="not a possible sum of 3 vectors"):
        scheme.open(total, keys, 3, PUBLIC)
    if what == "field":
        assert scheme.open(moved(scheme, adder.total(), {place: amount - (1 << p.shift + bit)}), keys, 3, PUBLIC)
    monkeypatch.setattr(_kahe_sums.Opening, "_possible", lambda *_: True)
    sums = scheme.open(total, keys, 3, PUBLIC)
    assert any(array.any() for array in sums) == (what == "field")


def test_wrong_keys_are_refused() -> None:
    """One coefficient off by one is enough; control: without the checks, noise is taken for sums."""
    scheme = kahe.Scheme(((10_000, 65534),), 100, 28)
    adder, keys = summed(scheme, [vector_of(scheme, i) for i in range(3)], PUBLIC)
    total = adder.total()
    for wrong, public, count in (
        (keys + (np.arange(scheme.degree) == 9), PUBLIC, 3),
        (np.roll(keys, 1), PUBLIC, 3),
        (keys - scheme.key(seed(0), PUBLIC), PUBLIC, 2),
        (keys, seed(1), 3),
    ):
        assert not scheme.opens(total, wrong, count, public)
        with pytest.raises(OpenError, match="stays closed"):
            scheme.open(total, wrong, count, public)
    for beyond in (-193, 193):
        with pytest.raises(OpenError, match=r"beyond 192; no keys"):
            scheme.open(total, np.where(np.arange(scheme.degree) == 9, beyond, keys), 3, PUBLIC)
    for count in (0, 101, True):
        with pytest.raises(OpenError, match="expected 1 to 100"):
            scheme.open(total, keys, count, PUBLIC)
    for keys_of_another_form in (keys[:-1], keys.astype(np.int32), keys.tolist()[:1]):
        with pytest.raises(OpenError, match="numbers of int64"):
            scheme.open(total, keys_of_another_form, 3, PUBLIC)  # type: ignore[arg-type]
    for data in (b"", total[:-1], total + b"\0", bytearray(total)):
        with pytest.raises(OpenError, match="for an encrypted vector or sum; expected"):
            scheme.open(data, keys, 3, PUBLIC)  # type: ignore[arg-type]
    with pytest.raises(OpenError, match="not below"):
        scheme.open(b"\xff" * scheme.size, keys, 3, PUBLIC)


def test_the_test_of_one_group_reads_the_empty_coefficients() -> None:
    with small_rings(47):
        scheme = kahe.Scheme(((2000, 254),), 8)
    adder, keys = summed(scheme, [vector_of(scheme, i) for i in range(2)], PUBLIC)
    last = scheme.parameters.places - 1
    assert len(scheme.parameters.rows) == 2
    assert scheme.opens(adder.total(), keys, 2, PUBLIC)
    assert scheme.opens(moved(scheme, adder.total(), {0: 2**46}), keys, 2, PUBLIC), "only open reads all"
    assert not scheme.opens(moved(scheme, adder.total(), {last: 2**20}), keys, 2, PUBLIC)


def test_control_unchecked_wrong_keys_open_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = kahe.Scheme(((10_000, 65534),), 100)
    vectors = [vector_of(scheme, i) for i in range(3)]
    adder, keys = summed(scheme, vectors, PUBLIC)
    keys[9] += 1
    monkeypatch.setattr(_kahe_sums.Opening, "_possible", lambda *_: True)
    (sums,) = scheme.open(adder.total(), keys, 3, PUBLIC)
    assert (sums != np.sum(vectors, axis=0)[0]).mean() > 0.99


# What hides one vector.


def test_an_upload_is_uniform_without_its_key() -> None:
    """Equal vectors under different seeds agree nowhere; bits of residues are set half of the time."""
    scheme = kahe.Scheme(((100_000, 65534),), 100)
    vector = [np.zeros(100_000, dtype=np.uint16)]
    one, other = (np.frombuffer(scheme.encrypt(vector, seed(i), PUBLIC), dtype=np.uint8) for i in range(2))
    assert abs(np.unpackbits(one).mean() - 0.5) < 0.003
    assert abs(np.unpackbits(one ^ other).mean() - 0.5) < 0.003


def test_control_without_a_an_upload_is_read_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server could choose a, it would choose 0."""
    monkeypatch.setattr(_kahe_format.Uniform, "write", lambda self, group, k, out: out.fill(0))
    scheme = kahe.Scheme(((10_000, 65534),), 100)
    vector = vector_of(scheme, 1)
    no_keys = np.zeros(scheme.degree, dtype=np.int64)
    (read,) = scheme.open(scheme.encrypt(vector, seed(1), PUBLIC), no_keys, 1, PUBLIC)
    assert (read == vector[0]).all()


def difference(scheme: kahe.Scheme, one: bytes, other: bytes) -> list[int]:
    """Of two uploads, place by place, in -q/2 to q/2."""
    plain = ring(scheme)
    numbers = [(a - b) % plain.q for a, b in zip(plain.unpacked(one), plain.unpacked(other), strict=True)]
    return [x - plain.q if x > plain.q // 2 else x for x in numbers]


def test_another_public_seed_has_other_keys_and_errors() -> None:
    """A client that repeats its secret seed in another session gives no difference away."""
    scheme = kahe.Scheme(((100, 65534),), 100)
    assert (scheme.key(seed(1), PUBLIC) != scheme.key(seed(1), seed(9))).any()
    assert ring(scheme).errors(seed(1), PUBLIC) != ring(scheme).errors(seed(1), seed(9))


def test_control_a_secret_seed_used_twice_shows_the_difference_of_two_vectors() -> None:
    with small_rings(47):
        scheme = kahe.Scheme(((600, 254),), 8)
    first, second = vector_of(scheme, 1), vector_of(scheme, 2)
    one, other = (scheme.encrypt(vector, seed(1), PUBLIC) for vector in (first, second))
    plain = ring(scheme)
    messages = zip(plain.encoded([first[0].tolist()]), plain.encoded([second[0].tolist()]), strict=True)
    assert difference(scheme, one, other) == [a - b for a, b in messages]
    fresh = difference(scheme, one, scheme.encrypt(second, seed(3), PUBLIC))
    assert np.abs(fresh).mean() > prod(scheme.parameters.primes) / 5


def test_control_streams_that_begin_anew_show_differences_within_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are counted through all groups and segments. With a counter for each group, groups share all noise."""
    with small_rings(47):
        scheme = kahe.Scheme(((2000, 254), (5, 65534)), 8)
    vector, size = vector_of(scheme, 1), 8 * scheme.degree
    plain = ring(scheme)
    messages = plain.encoded([array.tolist() for array in vector])

    def between_groups() -> np.ndarray:
        numbers = np.array(plain.unpacked(scheme.encrypt(vector, seed(1), PUBLIC)), dtype=object)
        return (numbers[size:] - numbers[: len(numbers) - size]) % plain.q

    expected = [(b - a) % plain.q for a, b in zip(messages, messages[size:], strict=False)]
    assert (between_groups() != expected).all()
    binomials, uniform = kahe.Scheme._binomials, sampling.uniform
    monkeypatch.setattr(kahe.Scheme, "_binomials", lambda self, stream, first, out: binomials(self, stream, 0, out))
    monkeypatch.setattr(sampling, "uniform", lambda stream, group, field, out: uniform(stream, 0, field, out))
    assert (between_groups() == expected).all()


# The adder, and bytes from others.


def test_bad_uploads_leave_the_sum_as_it_was() -> None:
    scheme = kahe.Scheme(((520, 254),), 3)
    vectors = [vector_of(scheme, i) for i in range(3)]
    uploads = [scheme.encrypt(vector, seed(i), PUBLIC) for i, vector in enumerate(vectors)]
    adder = scheme.adder()
    adder.fold(uploads[0])
    before = adder.to_bytes()
    spare = bytearray(uploads[1])
    assert scheme.parameters.places // 8 * scheme.parameters.bits[-1] % 64
    spare[-1] |= 0x80
    prime = scheme.parameters.primes[0]
    unreduced = bytearray(uploads[1])  # the first residue of the first lane becomes the prime
    width = prime.bit_length()
    word = int.from_bytes(unreduced[:8], "little")
    unreduced[:8] = (word >> width << width | prime).to_bytes(8, "little")
    for data, error in (
        (b"", "got 0 bytes"),
        (uploads[1][:-1], "expected"),
        (uploads[1] + b"\0", "expected"),
        (bytearray(uploads[1]), "bytearray"),
        (memoryview(uploads[1]), "memoryview"),
        (bytes(spare), "bits after the last one"),
        (bytes(unreduced), "not below"),
        (b"\xff" * scheme.size, "not below"),
    ):
        for refuse in (adder.fold, scheme.check):
            with pytest.raises(CiphertextError, match=error):
                refuse(data)  # type: ignore[arg-type]
        assert adder.to_bytes() == before
        assert adder.count == 1
    adder.fold(uploads[1])
    adder.fold(uploads[2])
    full = adder.to_bytes()
    with pytest.raises(CiphertextError, match="begin another"):
        adder.fold(uploads[2])
    assert adder.to_bytes() == full


def test_two_threads_fill_a_sum_with_no_more_than_it_may_hold(threads: Executor) -> None:
    """Neither goes on until both add, or a fifth of a second is over. Control: without its lock it takes both."""
    scheme = kahe.Scheme(((10, 3),), 2)
    upload = scheme.encrypt(vector_of(scheme, 1), seed(0), PUBLIC)
    locks: list[Any] = [threading.RLock(), nullcontext()]
    for lock, most in zip(locks, (2, 3), strict=True):
        adder, both = scheme.adder(), threading.Barrier(2, timeout=0.2)
        adder.fold(upload)
        adder._lock = lock
        add = adder._add

        def slow(groups: Any, both: threading.Barrier = both, add: Any = add) -> None:
            with suppress(threading.BrokenBarrierError):
                both.wait()
            add(groups)

        adder._add = slow  # type: ignore[method-assign]
        done = [threads.submit(adder.fold, upload) for _ in range(2)]
        assert 1 + sum(task.exception() is None for task in done) == adder.count == most


def test_sums_are_restored_from_every_state() -> None:
    scheme = kahe.Scheme(((3000, 65534), (1, 9)), 5)
    vectors = [vector_of(scheme, i) for i in range(5)]
    straight, keys = summed(scheme, vectors, PUBLIC)
    adder = scheme.adder()
    for i, vector in enumerate(vectors):
        adder = scheme.load_adder(adder.to_bytes())
        assert adder.count == i
        adder.fold(scheme.encrypt(vector, seed(i), PUBLIC))
        adder.total()  # changes nothing
    assert adder.to_bytes() == straight.to_bytes()
    assert (scheme.open(adder.total(), keys, 5, PUBLIC)[0] == np.sum([v[0] for v in vectors], axis=0)).all()

    state, empty = adder.to_bytes(), scheme.adder().to_bytes()
    other = kahe.Scheme(((3000, 65534), (1, 9)), 6)
    assert other.size == scheme.size
    for data, error in (
        (b"", "got 0 bytes"),
        (state[:-1], "expected"),
        (state + b"\0", "expected"),
        (other.adder().to_bytes(), "other parameters"),
        (state[:16] + (6).to_bytes(8, "little") + state[24:], "of 6 vectors"),
        (empty[:24] + b"\1" + empty[25:], "of 0 vectors"),
        (state[:24] + b"\xff" * scheme.size, "not below"),
    ):
        with pytest.raises(HEError, match=error):
            scheme.load_adder(data)


@pytest.mark.parametrize("split", [[5], [2, 3], [0, 4, 1, 0]])
def test_sums_that_several_servers_made_are_added_up(split: list[int]) -> None:
    scheme = kahe.Scheme(((3000, 65534), (1, 9)), 5)
    vectors = [vector_of(scheme, i) for i in range(5)]
    straight, keys = summed(scheme, vectors, PUBLIC)
    rest = iter(scheme.encrypt(vector, seed(i), PUBLIC) for i, vector in enumerate(vectors))
    parts = [scheme.adder() for _ in split]
    for part, count in zip(parts, split, strict=True):
        for _ in range(count):
            part.fold(next(rest))
    for part in parts[1:]:
        before = part.to_bytes()
        parts[0].merge(part)
        assert part.to_bytes() == before
    assert parts[0].to_bytes() == straight.to_bytes()
    assert (scheme.open(parts[0].total(), keys, 5, PUBLIC)[0] == np.sum([v[0] for v in vectors], axis=0)).all()
    for wrong in (straight, parts[0], kahe.Scheme(((3000, 65534), (1, 9)), 6).adder(), None):
        with pytest.raises(HEError):
            parts[0].merge(wrong)  # type: ignore[arg-type]
        assert parts[0].to_bytes() == straight.to_bytes()


def test_bad_values_and_seeds_are_refused() -> None:
    scheme = kahe.Scheme(((5, 9), (2, 300)), 3)
    good = [np.arange(5), np.array([300, 0])]
    for values, error in (
        ([np.arange(5)], "got 1 arrays; expected 2"),
        ([np.arange(6), good[1]], r"shape \(6,\) for segment 0; expected 5 integers"),
        ([good[0], np.array([1.0, 2.0])], "float64"),
        ([good[0], np.array([[1], [2]])], r"shape \(2, 1\)"),
        ([good[0], np.array([0, 301])], r"value at 1 of segment 1 is 301; expected integers in 0\.\.300"),
        ([np.array([0, 0, 0, -1, 0]), good[1]], "value at 3 of segment 0 is -1"),
    ):
        with pytest.raises(HEError, match=error):
            scheme.encrypt(values, seed(1), PUBLIC)
    for secret, public, error in (
        (b"short", PUBLIC, "5 bytes for a secret seed"),
        (seed(1), b"short", "5 bytes for a public seed"),
        (bytearray(32), PUBLIC, "bytearray for a secret seed"),
    ):
        for call in (scheme.key, lambda s, p: scheme.encrypt(good, s, p)):
            with pytest.raises(HEError, match=error):
                call(secret, public)  # type: ignore[arg-type]


def test_schemes_are_values() -> None:
    scheme = kahe.Scheme([[5, 9]], np.int64(3))  # type: ignore[arg-type]
    assert scheme == kahe.Scheme(((5, 9),), 3) == pickle.loads(pickle.dumps(scheme))
    assert hash(scheme) == hash(kahe.Scheme(((5, 9),), 3))
    assert len({kahe.Scheme(((5, 9),), n).digest for n in (3, 4, 5)}) == 3
    assert "ring degree 2048" in scheme.describe()
    assert "bits classical" in scheme.describe()

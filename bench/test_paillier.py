"""Paillier at 3072 bits compared with phe and pypaillier, two threads: ``pytest bench/test_paillier.py``.

Each of our rounds starts from a bare modulus: computing h, tables and obfuscators is timed too. Rates are in
``extra_info``, because calls of different sizes are compared.
"""

import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from he import _powers, paillier
from he.paillier import Scheme, VectorPrivateKey, VectorPublicKey

BITS = 3072
SCHEME = Scheme(bound=65534, max_clients=256, bits=BITS)
SIZES = [100, 1000]
SLOTS = SCHEME.slots.count

Benchmark = Any

sizes = pytest.mark.parametrize("count", SIZES, ids=[f"{size}-ciphertexts" for size in SIZES])
paths = pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "gmp"])


@pytest.fixture(scope="module")
def key() -> paillier.PrivateKey:
    return paillier.generate(BITS)


@pytest.fixture(scope="module")
def phe_key(key: paillier.PrivateKey) -> Any:
    pytest.importorskip("phe", reason="needs phe: pip install 'secagg[he]'")
    return key.to_phe()


@pytest.fixture(scope="module")
def pypaillier() -> tuple[Any, Any, Any]:
    module = pytest.importorskip("paillier", reason="needs pypaillier: pip install 'secagg[peers]'")
    return module, *module.generate_keypair(BITS)


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def path(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel and not _powers.compiled():
        pytest.skip("no compiler, or no AVX-512 IFMA")
    monkeypatch.setattr(_powers, "compiled", lambda: kernel)


def rate(benchmark: Benchmark, count: int) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["per second"] = round(count / benchmark.stats.stats.median, 1)


@pytest.mark.benchmark(group="paillier, keys made")
def test_generate(benchmark: Benchmark) -> None:
    """What a decryptor spends on a session before anything arrives. How long luck takes varies twofold."""
    pair = benchmark.pedantic(paillier.generate, (BITS,), rounds=20)
    assert pair.public.bits == BITS


@pytest.mark.benchmark(group="paillier, keys made")
def test_generate_phe(benchmark: Benchmark) -> None:
    phe = pytest.importorskip("phe", reason="needs phe: pip install 'secagg[he]'")
    public, _ = benchmark.pedantic(phe.generate_paillier_keypair, kwargs={"n_length": BITS}, rounds=5)
    assert public.n.bit_length() == BITS


@pytest.mark.parametrize("count", [1, 8, 80, 800], ids=lambda count: f"{count}-ciphertexts")
@pytest.mark.benchmark(group="paillier, a client's session under a new key")
def test_first_vector_under_a_key(
    benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor, count: int
) -> None:
    """From the key's bytes to the ciphertexts. ``extra_info`` says what of it the key costs, not the vector."""
    data, values = key.public.to_bytes(), np.zeros(count * SLOTS, int)

    def session() -> VectorPublicKey:
        public = SCHEME.load_public(data)
        public.encrypt(values, threads)
        return public

    session()  # compiles
    public = benchmark.pedantic(session, rounds=5)
    if benchmark.stats is not None:
        again = statistics.median(_seconds(lambda: public.encrypt(values, threads)) for _ in range(5))
        benchmark.extra_info["of it for the key"] = round(max(0.0, benchmark.stats.stats.median - again), 4)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@sizes
@pytest.mark.benchmark(group="paillier, values encrypted")
def test_encrypt_vector(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor, count: int) -> None:
    values = np.arange(count * SLOTS) % 65535
    VectorPublicKey(SCHEME, key.public).encrypt(values[:SLOTS], threads)  # compiles

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (VectorPublicKey(SCHEME, paillier.PublicKey(key.n)), values), {}

    data = benchmark.pedantic(lambda public, plain: public.encrypt(plain, threads), setup=fresh, rounds=5)
    rate(benchmark, values.size)
    assert len(data) / values.size <= 6.2
    assert (VectorPrivateKey(SCHEME, key).open(data, values.size, 1, threads) == values).all()


@pytest.mark.benchmark(group="paillier, values encrypted")
def test_encrypt_values_phe(benchmark: Benchmark, phe_key: Any) -> None:
    ciphertexts = benchmark.pedantic(lambda: [phe_key.public_key.encrypt(i) for i in range(10)], rounds=5)
    rate(benchmark, 10)
    assert [phe_key.decrypt(ciphertext) for ciphertext in ciphertexts] == list(range(10))


def plaintexts(count: int) -> list[int]:
    """As long as full slots are."""
    return [secrets.randbits(SLOTS * SCHEME.width) for _ in range(count)]


def encrypted(benchmark: Benchmark, make: Callable[[], Any], count: int, executor: Executor) -> Any:
    plain = plaintexts(count)
    ciphertexts = benchmark.pedantic(
        lambda key: key.encrypt_integers(plain, executor), setup=lambda: ((make(),), {}), rounds=5
    )
    rate(benchmark, count)
    return plain, ciphertexts


@sizes
@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="paillier, ciphertexts made")
def test_encrypt(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor, count: int) -> None:
    plain, ciphertexts = encrypted(benchmark, lambda: paillier.PublicKey(key.n), count, threads)
    assert key.decrypt_integers(ciphertexts[:9]) == plain[:9]


@sizes
@pytest.mark.benchmark(group="paillier, ciphertexts made")
def test_encrypt_private(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor, count: int) -> None:
    plain, ciphertexts = encrypted(benchmark, lambda: paillier.PrivateKey(key.p, key.q), count, threads)
    assert key.decrypt_integers(ciphertexts[:9]) == plain[:9]


@pytest.mark.benchmark(group="paillier, ciphertexts made")
def test_encrypt_textbook(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor) -> None:
    plain, ciphertexts = encrypted(benchmark, lambda: paillier.PublicKey(key.n, textbook=True), 100, threads)
    assert key.decrypt_integers(ciphertexts[:9]) == plain[:9]


@sizes
@pytest.mark.benchmark(group="paillier, ciphertexts made")
def test_encrypt_prepared(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor, count: int) -> None:
    """What is left to do when the update is there."""
    public, plain = paillier.PublicKey(key.n), plaintexts(count)
    public.prepare(5 * count, threads)
    ciphertexts = benchmark.pedantic(public.encrypt_integers, (plain,), rounds=5)
    rate(benchmark, count)
    assert public.prepared == 0
    assert key.decrypt_integers(ciphertexts[:9]) == plain[:9]


@sizes
@pytest.mark.benchmark(group="paillier, ciphertexts made")
def test_encrypt_pypaillier(benchmark: Benchmark, pypaillier: tuple[Any, Any, Any], count: int) -> None:
    """One call for the batch, which uses all cores."""
    module, public, secret = pypaillier
    plain = [integer >> 128 for integer in plaintexts(count)]  # it keeps some bits to itself
    ciphertexts = benchmark.pedantic(module.encrypt_integers, (public, plain), rounds=5)
    rate(benchmark, count)
    opened = module.decrypt_exact_many(secret, [bytes(ciphertext) for ciphertext in ciphertexts[:9]])
    assert [number for number, _ in opened] == plain[:9]


@paths
@pytest.mark.usefixtures("path")
@pytest.mark.benchmark(group="paillier, 100 ciphertexts opened")
def test_decrypt(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor) -> None:
    plain = plaintexts(100)
    ciphertexts = key.encrypt_integers(plain, threads)
    assert benchmark.pedantic(key.decrypt_integers, (ciphertexts, threads), rounds=5) == plain


@pytest.mark.benchmark(group="paillier, 100 ciphertexts opened")
def test_decrypt_phe(benchmark: Benchmark, key: paillier.PrivateKey, phe_key: Any, threads: Executor) -> None:
    plain = plaintexts(100)
    ciphertexts = key.encrypt_integers(plain, threads)
    assert benchmark.pedantic(lambda: [phe_key.raw_decrypt(c) for c in ciphertexts], rounds=3) == plain


@pytest.mark.benchmark(group="paillier, 1000 ciphertexts folded in")
def test_fold(benchmark: Benchmark, key: paillier.PrivateKey, threads: Executor) -> None:
    length = 1000 * SLOTS
    public = VectorPublicKey(SCHEME, key.public)
    adder = SCHEME.adder(length, public)
    adder.fold(public.encrypt(np.zeros(length, int), threads))
    uploads = iter([public.encrypt(np.ones(length, int), threads) for _ in range(3)])
    benchmark.pedantic(adder.fold, setup=lambda: ((next(uploads),), {}), rounds=3)
    rate(benchmark, length)
    assert adder.count == 4

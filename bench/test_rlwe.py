"""CKKS and BFV compared with NVFlare's defaults, and their addition with SEAL's: ``pytest bench``.

All are for 16 bits and 256 clients, and a model of 2^18 values (2^20 in parallel). Divide the medians of a group
by the number of values, ``values``, before you compare them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from he import _seal, bfv, ckks

Benchmark = Any
VALUES = 2**18
PARALLEL = 2**20
BOUND = 65534

tenseal = pytest.importorskip("tenseal", reason="needs TenSEAL: pip install 'secagg[he]'")

schemes = pytest.mark.parametrize("module", [ckks, bfv], ids=["ckks", "bfv"])
models = pytest.mark.parametrize("seeded", [True, False], ids=["seeded", "public"])


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, BOUND, PARALLEL, endpoint=True)


@pytest.fixture(scope="module")
def two_cores() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.benchmark(group="encrypt and serialise, one core")
def test_nvflare_defaults(benchmark: Benchmark) -> None:
    """CKKS of degree 8192, 60 + 40 + 40 bits, scale 2^40, symmetric; vectors of 4096 values."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2**40
    update = np.random.default_rng(0).uniform(-1, 1, VALUES)

    def encrypt() -> int:
        return sum(
            len(tenseal.ckks_vector(context, update[i : i + 4096]).serialize()) for i in range(0, VALUES, 4096)
        )

    benchmark.extra_info["values"] = VALUES
    benchmark.extra_info["bytes a value"] = benchmark(encrypt) / VALUES


@schemes
@models
@pytest.mark.benchmark(group="encrypt and serialise, one core")
def test_encrypt(benchmark: Benchmark, module: Any, seeded: bool, values: np.ndarray) -> None:
    scheme = module.Scheme(BOUND, 256, seeded)
    key = scheme.generate()
    key.encrypt(values[:10])
    benchmark.extra_info["values"] = VALUES
    benchmark.extra_info["bytes a value"] = len(benchmark(key.encrypt, values[:VALUES])) / VALUES


@schemes
@pytest.mark.benchmark(group="encrypt and serialise, two cores")
def test_encrypt_in_parallel(
    benchmark: Benchmark, module: Any, values: np.ndarray, two_cores: ProcessPoolExecutor
) -> None:
    scheme = module.Scheme(BOUND, 256, True)
    key = scheme.generate()
    key.encrypt(values, two_cores)
    benchmark.extra_info["values"] = PARALLEL
    benchmark(key.encrypt, values, two_cores)


@schemes
@models
@pytest.mark.benchmark(group="from bytes to sum")
def test_fold(benchmark: Benchmark, module: Any, seeded: bool, values: np.ndarray) -> None:
    """Validation included; the seeded ones' second polynomials are drawn."""
    scheme = module.Scheme(BOUND, 256, seeded)
    key = scheme.generate()
    data = key.encrypt(values[:VALUES])
    adder = scheme.adder(VALUES, key.public)

    def fold() -> None:
        adder._seen.clear()  # or it would refuse the same vector a second time
        adder.fold(data)

    benchmark.extra_info["values"] = VALUES
    benchmark(fold)


@schemes
@pytest.mark.benchmark(group="from bytes to sum")
def test_fold_by_seal(benchmark: Benchmark, module: Any) -> None:
    """SEAL's own load and add of as many public-key ciphertexts, its range check included."""
    scheme = module.Scheme(BOUND, 256, False)
    at = _seal.context(scheme.parameters)
    key = at.api.PublicKey()
    at.api.KeyGenerator(at.seal).create_public_key(key)
    encryptor, evaluator = at.api.Encryptor(at.seal, key), at.api.Evaluator(at.seal)
    total = at.api.Ciphertext()
    encryptor.encrypt_zero(at.identifier, total)
    with _seal.Scratch() as scratch:
        total.save(scratch.path)

        def fold() -> None:
            for _ in range(-(-VALUES // scheme.slots)):
                received = at.api.Ciphertext()
                received.load(at.seal, scratch.path)
                evaluator.add_inplace(total, received)

        benchmark.extra_info["values"] = VALUES
        benchmark(fold)


@pytest.mark.benchmark(group="from bytes to sum")
def test_memory_copy(benchmark: Benchmark, values: np.ndarray) -> None:
    """The floor of a fold: as many bytes as BFV's ciphertext has, copied."""
    scheme = bfv.Scheme(BOUND, 256, False)
    data = np.frombuffer(scheme.generate().encrypt(values[:VALUES]), np.uint8)
    copy = np.empty_like(data)
    benchmark.extra_info["bytes"] = data.size
    benchmark(np.copyto, copy, data)


@schemes
@models
@pytest.mark.benchmark(group="open")
def test_open(benchmark: Callable[..., Any], module: Any, seeded: bool, values: np.ndarray) -> None:
    scheme = module.Scheme(BOUND, 256, seeded)
    key = scheme.generate()
    adder = scheme.adder(VALUES, key.public)
    adder.fold(key.encrypt(values[:VALUES]))
    opened = benchmark(key.open, adder.total(), VALUES, 1)
    assert (opened == values[:VALUES]).all()

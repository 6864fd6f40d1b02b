"""Exact noise compared with OpenDP's integer samplers and with random bytes: ``pytest bench/test_dp_sampling.py``.

Rates are in ``extra_info``, since calls of different sizes are compared. OpenDP draws as many integers
in one call as its input has zeros.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.peer_dp import THEIR_NOISE, opendp_sampler
from dp import sampling

COUNT = 1_000_000
FLOOR = 10e6
RATIO = 100

Benchmark = Any

narrow_and_wide = pytest.mark.parametrize("sigma", [4.0, 1000.0], ids=["4", "1000"])


@pytest.fixture(scope="module")
def opendp() -> None:
    pytest.importorskip("opendp.prelude", reason="needs OpenDP: pip install 'secagg[peers]'")


def rate(benchmark: Benchmark, count: int) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["per second"] = round(count / benchmark.stats.stats.median)


def fastest(function: Callable[[int], Any], count: int, rounds: int = 5) -> float:
    """Draws a second in the best of ``rounds``, after one that compiles and makes the tables."""
    function(count)
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function(count)
        seconds.append(time.perf_counter() - begin)
    return count / min(seconds)


@pytest.mark.benchmark(group="discrete Gaussian, 1e6")
@pytest.mark.parametrize("sigma", [1.0, 4.0, 27.0, 100.0, 1000.0, 1e5, 1e9])
def test_discrete_gaussian(benchmark: Benchmark, sigma: float) -> None:
    sampling.sample_discrete_gaussian(sigma, 1)
    noise = benchmark(sampling.sample_discrete_gaussian, sigma, COUNT)
    rate(benchmark, COUNT)
    assert abs(noise.std() / sigma - 1) < 0.05


@pytest.mark.benchmark(group="discrete Gaussian, 1e6, by look-up")
def test_discrete_gaussian_looked_up(benchmark: Benchmark) -> None:
    sampling.sample_discrete_gaussian(4, 1)
    benchmark(sampling.sample_discrete_gaussian, 4, COUNT, constant_time=False)
    rate(benchmark, COUNT)


@pytest.mark.benchmark(group="discrete Laplace, 1e6")
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
def test_discrete_laplace(benchmark: Benchmark, scale: float) -> None:
    sampling.sample_discrete_laplace(scale, 1)
    benchmark(sampling.sample_discrete_laplace, scale, COUNT)
    rate(benchmark, COUNT)


@pytest.mark.benchmark(group="Skellam, 1e6")
@pytest.mark.parametrize("variance", [16.0, 1e6, 1e9])
def test_skellam(benchmark: Benchmark, variance: float) -> None:
    sampling.sample_skellam(variance, 1)
    benchmark(sampling.sample_skellam, variance, COUNT)
    rate(benchmark, COUNT)


@narrow_and_wide
@pytest.mark.usefixtures("opendp")
@pytest.mark.benchmark(group="discrete Gaussian, OpenDP")
def test_discrete_gaussian_opendp(benchmark: Benchmark, sigma: float) -> None:
    noise = benchmark.pedantic(opendp_sampler(sigma), (THEIR_NOISE,), rounds=5)
    rate(benchmark, THEIR_NOISE)
    assert abs(np.std(noise) / sigma - 1) < 0.1


@pytest.mark.benchmark(group="random bytes of 1e6 words")
def test_random_bytes(benchmark: Benchmark) -> None:
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    benchmark(cipher.update, bytes(8 * COUNT))
    rate(benchmark, COUNT)


@narrow_and_wide
def test_ten_million_a_second_on_one_core(sigma: float) -> None:
    assert fastest(lambda count: sampling.sample_discrete_gaussian(sigma, count), COUNT) >= FLOOR


@narrow_and_wide
@pytest.mark.usefixtures("opendp")
def test_a_hundred_times_opendp(sigma: float) -> None:
    theirs = fastest(opendp_sampler(sigma), THEIR_NOISE)
    ours = fastest(lambda count: sampling.sample_discrete_gaussian(sigma, count), COUNT)
    print(f"\nsigma {sigma:g}: {ours:.3g} a second, OpenDP {theirs:.3g}: {ours / theirs:.0f} times as many")
    assert ours >= RATIO * theirs

"""The samplers: the laws they promise, refinement, replay, and what they refuse.

Statistical tests run on fixed seeds, so they pass or fail the same way each time; the bound on p is 10^-6.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray
from scipy import stats

from dp import DPError, _tables, sampling
from dp._tables import Gaussian, Laplace
from dp.sampling import sample_discrete_gaussian, sample_discrete_laplace, sample_skellam
from tests.reference import dp_sampling as twin

COUNT = 300_000
LEAST_P = 1e-6

Integers = NDArray[np.int64]


def kind(value: object) -> str:
    return type(value).__name__


def seeded(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def chi_square(sample: Integers, law: NDArray[np.float64]) -> float:
    """The p-value of ``sample`` under probabilities of -r, ..., r, in at most 500 ranges of 20 or more expected."""
    reach = law.size // 2
    counts = np.bincount(np.clip(sample, -reach, reach) + reach, minlength=law.size)
    ranges = (np.cumsum(law) * min(500, sample.size // 40)).astype(int)
    expected, observed = np.bincount(ranges, law * sample.size), np.bincount(ranges, counts)
    likely = expected >= 20
    observed = np.append(observed[likely], observed[~likely].sum())
    expected = np.append(expected[likely], sample.size - expected[likely].sum())
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert observed.size > 1
    return float(stats.chisquare(observed, expected).pvalue)


def kolmogorov(sample: Integers, law: NDArray[np.float64]) -> float:
    """An upper bound on the p-value, by Dvoretzky, Kiefer, Wolfowitz and Massart: valid for discrete laws."""
    reach = law.size // 2
    counts = np.bincount(np.clip(sample, -reach, reach) + reach, minlength=law.size)
    distance = np.abs(np.cumsum(counts) / sample.size - np.cumsum(law)).max()
    return float(min(1.0, 2 * math.exp(-2 * sample.size * distance**2)))


def fits(sample: Integers, law: NDArray[np.float64]) -> bool:
    return chi_square(sample, law) > LEAST_P and kolmogorov(sample, law) > LEAST_P


def gaussian(sigma: float) -> NDArray[np.float64]:
    k = np.arange(-math.ceil(10 * sigma) - 2, math.ceil(10 * sigma) + 3)
    weights = np.exp(-((k / sigma) ** 2) / 2)
    exact: NDArray[np.float64] = weights / weights.sum()
    return exact


def laplace(scale: float) -> NDArray[np.float64]:
    return twin.probabilities(twin.laplace(Fraction(scale)), math.ceil(30 * scale) + 2)


def skellam(variance: float) -> NDArray[np.float64]:
    return twin.probabilities(twin.skellam(Fraction(variance)), math.ceil(10 * math.sqrt(variance)) + 10)


CASES: list[tuple[Any, float, Any]] = [
    *((sample_discrete_gaussian, sigma, gaussian) for sigma in (0.25, 1.0, 4.0, 37.5, 1000.0, 3000.0, 40_000.0)),
    *((sample_discrete_laplace, scale, laplace) for scale in (0.2, 1.0, 4.0, 30.5, 1500.0)),
    *((sample_skellam, variance, skellam) for variance in (0.1, 1.0, 16.0, 900.5)),
]
NAMES = [f"{sampler.__name__}-{parameter:g}" for sampler, parameter, _ in CASES]

cases = pytest.mark.parametrize(("sampler", "parameter", "law"), CASES, ids=NAMES)
samplers = pytest.mark.parametrize("sampler", [sample_discrete_gaussian, sample_discrete_laplace, sample_skellam])


@cases
def test_samples_follow_the_law(sampler: Any, parameter: float, law: Any) -> None:
    assert fits(sampler(parameter, COUNT, rng=seeded(1)), law(parameter))


@cases
def test_samples_are_symmetric_and_independent(sampler: Any, parameter: float, law: Any) -> None:
    sample = sampler(parameter, COUNT, rng=seeded(2))
    nonzero = sample[sample != 0]
    assert stats.binomtest(int((nonzero > 0).sum()), nonzero.size).pvalue > LEAST_P
    reach = law(parameter).size // 2
    variance = float((law(parameter) * np.arange(-reach, reach + 1.0) ** 2).sum())
    scaled = sample / math.sqrt(variance)
    for lag in (1, 2, 3, 63, 64, 65, 2**14):
        assert abs((scaled[lag:] * scaled[:-lag]).mean()) * math.sqrt(sample.size - lag) < 5
        signs, magnitudes = np.sign(scaled[lag:]), np.abs(scaled[:-lag])
        assert abs((signs * magnitudes).mean()) * math.sqrt(sample.size - lag) < 5
    # Fourth moments stay below 6 variances² for Laplace noise, whatever the scale above 1.
    kurtosis = float((law(parameter) * np.arange(-reach, reach + 1.0) ** 4).sum()) / variance**2
    assert abs((scaled**2).mean() - 1) * math.sqrt(sample.size / (kurtosis - 1)) < 5


@pytest.mark.parametrize("constant_time", [True, False])
@pytest.mark.parametrize(("sampler", "parameter", "law"), CASES[:5] + CASES[7:11] + CASES[12:], ids=kind)
def test_both_ways_of_looking_up_give_the_same(
    sampler: Any, parameter: float, law: Any, constant_time: bool
) -> None:
    one = sampler(parameter, 40_000, rng=seeded(3), constant_time=constant_time)
    assert (one == sampler(parameter, 40_000, rng=seeded(3))).all()
    assert fits(one, law(parameter))


def test_control_half_the_noise_is_caught() -> None:
    assert not fits(sample_discrete_gaussian(4, COUNT, rng=seeded(1)), gaussian(8))
    assert not fits(sample_discrete_gaussian(8, COUNT, rng=seeded(1)), gaussian(4))
    assert not fits(sample_skellam(8, COUNT, rng=seeded(1)), skellam(16))
    assert not fits(sample_discrete_laplace(1500, COUNT, rng=seeded(1)), laplace(3000))


def test_control_a_rounded_float_gaussian_is_told_from_the_discrete_one() -> None:
    rounded = np.rint(np.random.default_rng(1).normal(0, 0.5, COUNT)).astype(np.int64)
    assert not fits(rounded, gaussian(0.5))
    assert fits(sample_discrete_gaussian(0.5, COUNT, rng=seeded(1)), gaussian(0.5))


@pytest.mark.parametrize("width", [3e5, 1e9, 2.0**52])
@pytest.mark.parametrize(
    ("sampler", "law"), [(sample_discrete_gaussian, stats.norm), (sample_discrete_laplace, stats.laplace)], ids=kind
)
def test_very_wide_noise_follows_the_law(sampler: Any, law: Any, width: float) -> None:
    """By 500 equally likely ranges: at this width the continuous law is the same to 10^-11."""
    sample = sampler(width, COUNT, rng=seeded(4))
    cells = np.bincount((law.cdf((sample + 0.5) / width) * 500).astype(int), minlength=500)
    assert stats.chisquare(cells).pvalue > LEAST_P
    assert stats.chisquare(np.bincount(sample % 64, minlength=64)).pvalue > LEAST_P


def test_sums_of_skellam_parts_follow_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_SKELLAM_TABLE_VARIANCE", 3)
    assert fits(sample_skellam(16, COUNT, rng=seeded(5)), skellam(16))


def test_wide_skellam_noise_has_its_variance() -> None:
    variance = 2.0**33 + 2**32
    sample = sample_skellam(variance, 50_000, rng=seeded(6))
    assert abs((sample / math.sqrt(variance)).var() - 1) < 5 * math.sqrt(2 / sample.size)
    assert stats.kstest(sample / math.sqrt(variance), "norm").pvalue > LEAST_P


class Scripted(sampling._Stream):
    """A stream whose first words and bits are given."""

    def __init__(self, words: list[int], bits: list[int] | None = None) -> None:
        super().__init__(lambda count: bytes(count))
        self.words_left, self.bits_left, self.asked = words, bits or [], 0

    def words(self, count: int) -> NDArray[np.uint64]:
        if self.words_left:
            words, self.words_left = self.words_left, []
            assert len(words) == count
            return np.array(words, dtype=np.uint64)
        return np.zeros(count, dtype=np.uint64)

    def bits(self, count: int) -> int:
        self.asked += 1
        return self.bits_left.pop(0) if self.bits_left else super().bits(count)


@pytest.mark.parametrize("constant_time", [True, False])
@pytest.mark.parametrize("k", [0, 1, 7, 30, 37])
def test_a_forced_tie_is_decided_by_the_next_bits(k: int, constant_time: bool) -> None:
    law = Gaussian(Fraction(16))
    tie = int(_tables.table(law, 64)[k])
    finer = _tables.thresholds(law, 128)[k] - (tie << 64)
    below, above = Scripted([tie], [finer - 1]), Scripted([tie], [finer + 1])
    assert sampling._invert(law, 1, below, constant_time).tolist() == [k]
    assert sampling._invert(law, 1, above, constant_time).tolist() == [k + 1]
    finest = _tables.thresholds(law, 256)[k] - ((tie << 64 | finer) << 128)
    again = Scripted([tie], [finer, finest + 1])
    assert sampling._invert(law, 1, again, constant_time).tolist() == [k + 1]
    assert (below.asked, above.asked, again.asked) == (1, 1, 2)


@pytest.mark.parametrize("constant_time", [True, False])
@pytest.mark.parametrize("law", [Gaussian(Fraction(4)), Laplace(Fraction(3, 2)), _tables.Skellam(Fraction(5))])
def test_every_tie_of_eight_bits_splits_as_sixteen_bits_say(law: Any, constant_time: bool) -> None:
    """All 2^16 words, by their first byte and, where that ties, their second: the exact law of 16 bits."""
    counts = [0] * 64
    fine = _tables.thresholds(law, 16)
    ties = set(_tables.thresholds(law, 8))
    for first in range(256):
        for second in range(256) if first in ties else (0,):
            if first in ties and first << 8 | second in fine:
                continue  # a second tie: decided by 32 bits
            stream = Scripted([first << 56], [second])
            (value,) = sampling._invert(law, 1, stream, constant_time, bits=8).tolist()
            assert stream.asked == (first in ties)
            counts[value] += 1 if first in ties else 256
    for k, threshold in enumerate(fine):
        assert sum(counts[: k + 1]) == threshold - sum(entry < threshold for entry in set(fine))


def tied(monkeypatch: pytest.MonkeyPatch) -> Integers:
    """Drawn from a table of eight bits, where one word in nine is a tie."""
    monkeypatch.setattr(_tables, "thresholds", cache(_tables.thresholds))
    return sampling._invert(Gaussian(Fraction(9)), 100_000, sampling._Stream(seeded(7)), None, bits=8)


def test_with_ties_everywhere_the_law_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits(tied(monkeypatch), gaussian(3))


def test_control_ties_that_are_not_refined_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unrefined(law: Any, word: int, bits: int, stream: Any) -> int:
        return _tables.thresholds(law, bits).index(word)

    monkeypatch.setattr(sampling, "_refine", unrefined)
    assert not fits(tied(monkeypatch), gaussian(3))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_blocks_give_the_same_law_as_tables(width: int) -> None:
    """Blocks far too coarse, so that most coins are decided in integers and many proposals refused."""
    sigma, scale = Fraction(11, 2), Fraction(13, 2)
    blocks = Gaussian(sigma**2 / 4**width, one_sided=True)
    sample = sampling._draw_wide(blocks, width, Fraction(0), 1 / (2 * sigma**2), 20_000, seeded(8))
    assert fits(sample, gaussian(5.5))
    sample = sampling._draw_wide(
        Laplace(scale / 2**width, one_sided=True), width, 1 / scale, Fraction(0), 20_000, seeded(8)
    )
    assert fits(sample, laplace(6.5))


def test_control_blocks_without_the_coin_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_keeps", lambda x, coin, stream: True)
    sigma = Fraction(11, 2)
    blocks = Gaussian(sigma**2 / 16, one_sided=True)
    sample = sampling._draw_wide(blocks, 2, Fraction(0), 1 / (2 * sigma**2), 20_000, seeded(8))
    assert not fits(sample, gaussian(5.5))


def test_integers_decide_coins_as_floats_do() -> None:
    sigma = Fraction(5000)
    blocks = Gaussian(sigma**2 / 4**2, one_sided=True)
    arguments = (blocks, 2, Fraction(0), 1 / (2 * sigma**2), 5_000)
    fast = sampling._place(*arguments, sampling._Stream(seeded(9)), 2.0**-40)
    slow = sampling._place(*arguments, sampling._Stream(seeded(9)), 2.0**80)
    assert (fast == slow).all()


@given(x=st.fractions(0, 3, max_denominator=10**6), offset=st.integers(-3, 3), deeper=st.integers(-3, 3))
def test_a_coin_near_its_probability_is_decided_exactly(x: Fraction, offset: int, deeper: int) -> None:
    with mpmath.workprec(300):
        exact = 1 - mpmath.exp(-mpmath.mpf(x.numerator) / x.denominator)
        first = int(mpmath.floor(exact * mpmath.mpf(2) ** 64))
        coin = min(max(first + offset, 0), 2**64 - 1)
        second = min(
            max(int(mpmath.floor((exact * mpmath.mpf(2) ** 64 - first) * mpmath.mpf(2) ** 64)) + deeper, 0),
            2**64 - 1,
        )
        third = 2**63
        expected = mpmath.mpf((coin << 64 | second) << 64 | third) >= exact * mpmath.mpf(2) ** 192
    if x == 0:
        assert sampling._keeps(x, coin, Scripted([], [second, third]))
    else:
        assert sampling._keeps(x, coin, Scripted([], [second, third])) == expected


def test_the_generator_is_asked_once_and_the_same_bytes_give_the_same_noise() -> None:
    asked: list[int] = []

    def rng(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    for sampler, parameter in ((sample_discrete_gaussian, 4), (sample_discrete_gaussian, 1e6), (sample_skellam, 9)):
        one = sampler(parameter, 2**15 + 7, rng=rng)
        assert asked == [32]
        assert (one == sampler(parameter, 2**15 + 7, rng=rng)).all()
        assert (one != sampler(parameter, 2**15 + 7)).any()
        asked.clear()


def test_noise_is_pinned() -> None:
    """A state that was saved replays its noise: these integers may not change."""
    assert sample_discrete_gaussian(4, 8, rng=bytes).tolist() == [-3, 3, -4, -3, -2, 0, -2, -3]
    assert sample_discrete_laplace(5000, 5, rng=bytes).tolist() == [3855, 3754, -6425, 3933, -2817]
    assert sample_skellam(900, 5, rng=bytes).tolist() == [-22, -22, -33, 22, 17]


@pytest.mark.parametrize(
    ("sampler", "parameter", "law", "argument"),
    [(sample_discrete_gaussian, 4, twin.gaussian, 16), (sample_skellam, 9, twin.skellam, 9)],
    ids=kind,
)
def test_noise_is_that_of_the_twin(sampler: Any, parameter: int, law: Any, argument: int) -> None:
    key = bytes(range(32))
    with mpmath.workprec(300):
        expected = twin.draw(law(Fraction(argument)), key, 20_000, 2**14)
    assert sampler(parameter, 20_000, rng=lambda count: key).tolist() == expected


@samplers
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 2**14 - 1, 2**14, 2**14 + 1, 50_001])
def test_sizes(sampler: Any, size: int) -> None:
    sample = sampler(4.0, size)
    assert sample.shape == (size,)
    assert sample.dtype == np.int64
    assert sampler(3000, size).shape == (size,)


@samplers
def test_parameters_are_taken_exactly(sampler: Any) -> None:
    for same in ((0.1, Fraction(0.1)), (3, 3.0), (np.int64(7), 7), (np.float32(1.5), Fraction(3, 2))):
        one, other = (sampler(value, 1000, rng=seeded(10)) for value in same)
        assert (one == other).all()
    assert sampler(2.0**-64, 100).tolist() == [0] * 100


@samplers
@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, -0.5, math.nan, math.inf, 1e-30, 2.0**53, 10**5000, Fraction(1, 10**5000)),
        *("4", None, True, 1j, [4.0], b"4"),
    ],
    ids=kind,
)
def test_parameters_out_of_range_are_refused(sampler: Any, value: Any) -> None:
    with pytest.raises(DPError, match=r"expected (2\^-64 to 2|a finite number)"):
        sampler(value, 1)


@samplers
@pytest.mark.parametrize("parameter", [4, 1e5])
@pytest.mark.parametrize("size", [-1, 2**30 + 1, 2**63, 10**5000, 1.0, None, True, "5"], ids=kind)
def test_sizes_out_of_range_are_refused(sampler: Any, parameter: float, size: Any) -> None:
    with pytest.raises(DPError, match=r"size.*expected"):
        sampler(parameter, size)


@pytest.mark.parametrize("result", [b"", bytes(31), bytes(33), "0" * 32, None, 7])
def test_generators_that_give_something_else_are_refused(result: Any) -> None:
    with pytest.raises(DPError, match="expected 32 bytes"):
        sample_discrete_gaussian(4, 1, rng=lambda count: result)


def test_constant_time_is_refused_where_there_is_no_table() -> None:
    with pytest.raises(DPError, match="expected sigma below 2048"):
        sample_discrete_gaussian(2048, 1, constant_time=True)
    with pytest.raises(DPError, match="expected scale below 1024"):
        sample_discrete_laplace(1024, 1, constant_time=True)
    assert sample_discrete_gaussian(2047.9, 10, constant_time=True).size == 10


def test_numba_is_loaded_by_the_first_draw_only_and_not_for_planning() -> None:
    code = (
        "import sys, dp, dp.sampling, dp.mechanisms, dp.clipping\n"
        "dp.distributed_gaussian_epsilon(bits=16, clients=9, dimension=99, noise_multiplier=1.0)\n"
        "assert not {'numba', 'scipy', 'mpmath', 'dp_accounting', 'secagg', 'mpc', 'he'} & set(sys.modules)\n"
        "dp.sampling.sample_skellam(4, 1)\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_compiler_the_noise_is_the_same() -> None:
    code = (
        "from dp import sampling as s\n"
        "print([f(p, 300, rng=bytes).tolist() for f in (s.sample_discrete_gaussian, s.sample_discrete_laplace,"
        " s.sample_skellam) for p in (4, 9000)])\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "NUMBA_DISABLE_JIT": jit},
            capture_output=True,
            check=True,
        ).stdout
        for jit in ("0", "1")
    ]
    assert runs[0] == runs[1]

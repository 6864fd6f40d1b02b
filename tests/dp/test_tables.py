"""Thresholds against mpmath's theta function, exponential and Bessel functions, to the last bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dp import _tables
from dp._tables import Gaussian, Laplace, Skellam
from tests.reference import dp_sampling as twin

NARROW = [Fraction(1, 4), Fraction(1), Fraction(7, 3), Fraction(16), Fraction(0.1), Fraction(2500)]

LAWS: dict[str, tuple[Callable[[Fraction], Any], Callable[[Fraction], twin.Pmf]]] = {
    "gaussian": (Gaussian, twin.gaussian),
    "laplace": (lambda x: Laplace(min(x, Fraction(100))), lambda x: twin.laplace(min(x, Fraction(100)))),
    "skellam": (Skellam, twin.skellam),
}

laws = pytest.mark.parametrize("name", LAWS)


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    with mpmath.workprec(700):
        yield


@laws
@pytest.mark.parametrize("bits", [8, 64, 128])
@pytest.mark.parametrize("parameter", NARROW, ids=str)
def test_thresholds_are_those_of_mpmath(name: str, parameter: Fraction, bits: int) -> None:
    law, pmf = LAWS[name]
    ours = _tables.thresholds(law(parameter), bits)
    assert ours[-1] == 2**bits - 1
    assert ours == twin.thresholds(pmf(parameter), bits, len(ours))


@pytest.mark.parametrize(("name", "parameter"), [("gaussian", 1000**2), ("laplace", 100)])
def test_large_tables_are_those_of_mpmath(name: str, parameter: int) -> None:
    law, pmf = LAWS[name]
    with mpmath.workprec(300):
        ours = _tables.table(law(Fraction(parameter)), 64).tolist()
        assert ours == twin.thresholds(pmf(Fraction(parameter)), 64, len(ours))


@pytest.mark.parametrize("k", [0, 1, 500, 1000, 3000, 6000, 9000])
def test_a_large_skellam_table_is_that_of_mpmath(k: int) -> None:
    """By steps, since a Bessel function of a great argument takes long."""
    law = Skellam(Fraction(10) ** 6)
    finer = _tables.thresholds(law, 192)
    step = finer[k] - (finer[k - 1] if k else 0)
    expected = twin.skellam(law.variance)(k) * (2 if k else 1) * mpmath.mpf(2) ** 192
    assert abs(step - expected) <= 1
    assert [entry >> 128 for entry in finer[: len(_tables.table(law, 64))]] == _tables.table(law, 64).tolist()


def test_one_sided_tables_count_every_weight_once() -> None:
    q = mpmath.exp(-mpmath.mpf(1) / 5)
    ours = _tables.thresholds(Laplace(Fraction(5), one_sided=True), 64)
    assert ours == [int(mpmath.floor((1 - q ** (k + 1)) * 2**64)) for k in range(len(ours))]
    weights = [mpmath.exp(-mpmath.mpf(k * k) / 50) for k in range(150)]
    total = mpmath.fsum(weights)
    ours = _tables.thresholds(Gaussian(Fraction(25), one_sided=True), 64)
    assert ours == [int(mpmath.floor(mpmath.fsum(weights[: k + 1]) / total * 2**64)) for k in range(len(ours))]


parameters = st.fractions(Fraction(1, 50), Fraction(400), max_denominator=10**6) | st.floats(0.02, 400).map(
    Fraction
)


@laws
@given(parameter=parameters, bits=st.sampled_from([8, 16, 64]))
def test_more_bits_only_add_bits(name: str, parameter: Fraction, bits: int) -> None:
    law = LAWS[name][0](parameter)
    coarse, fine = _tables.thresholds(law, bits), _tables.thresholds(law, 3 * bits)
    assert [entry >> 2 * bits for entry in fine[: len(coarse)]] == coarse
    assert coarse == sorted(coarse)


@settings(max_examples=20)
@given(variance=parameters)
def test_any_skellam_table_is_that_of_mpmath(variance: Fraction) -> None:
    ours = _tables.thresholds(Skellam(variance), 64)
    with mpmath.workprec(400):
        assert ours == twin.thresholds(twin.skellam(variance), 64, len(ours))


@laws
@given(parameter=parameters)
def test_weights_fall_and_the_slack_is_as_small_as_promised(name: str, parameter: Fraction) -> None:
    weights, slack = LAWS[name][0](parameter).weights(128)
    assert weights == sorted(weights, reverse=True)
    assert slack < sum(weights) >> 126


@given(x=st.fractions(0, 300, max_denominator=10**9), bits=st.integers(1, 300))
def test_exponentials_are_below_by_three_units_at_most(x: Fraction, bits: int) -> None:
    exact = mpmath.exp(-mpmath.mpf(x.numerator) / x.denominator) * mpmath.mpf(2) ** bits
    below = _tables.exp_below(x, bits)
    assert below <= exact <= below + 3


@laws
@pytest.mark.parametrize("guard", [1, 4, 8, 16])
def test_a_guard_too_short_to_decide_is_lengthened(name: str, guard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    law = LAWS[name][0](Fraction(50))
    expected = _tables.thresholds(law, 64)
    monkeypatch.setattr(_tables, "_GUARD_BITS", guard)
    assert _tables.thresholds(law, 64) == expected


@dataclass(frozen=True)
class Coarse:
    """A law whose weights come with fewer bits than are asked for, and with their slack or without."""

    law: _tables.Law
    fewer: int
    bounded: bool = True
    one_sided: bool = False

    def weights(self, bits: int) -> tuple[list[int], int]:
        weights, slack = self.law.weights(bits - self.fewer)
        return weights, slack if self.bounded else 0


@laws
@given(parameter=parameters, fewer=st.integers(60, 120))
def test_with_too_few_bits_entries_are_undecided_and_never_wrong(
    name: str, parameter: Fraction, fewer: int
) -> None:
    law = LAWS[name][0](parameter)
    expected = _tables.thresholds(law, 64)
    entries = list(_tables._thresholds(Coarse(law, fewer), 64, 64))
    if entries[-1] < 0:
        entries.pop()
    assert entries == expected[: len(entries)]


@laws
def test_control_without_the_slack_they_are_wrong(name: str) -> None:
    law = LAWS[name][0](Fraction(50))
    entries = list(_tables._thresholds(Coarse(law, 120, bounded=False), 64, 64))
    assert any(entry not in (-1, right) for entry, right in zip(entries, _tables.thresholds(law, 64), strict=False))


def test_the_guide_begins_at_or_before_every_answer() -> None:
    law = Gaussian(Fraction(100))
    entries = _tables.table(law, 64).tolist()
    starts, shift = _tables.guide(law, 64)
    for j, start in enumerate(starts.tolist()):
        assert start == sum(entry < j << shift for entry in entries)
    assert not starts.flags.writeable
    assert not _tables.table(law, 64).flags.writeable
    assert starts.dtype == np.int64

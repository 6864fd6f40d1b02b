"""The mechanisms: calibration against mpmath, exact divergences, the grid, and what leaves it."""

import inspect
import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from dp import DPError, PrivacyLedger
from dp.mechanisms import GaussianMechanism, LaplaceMechanism, gaussian_delta, gaussian_sigma

Floats = NDArray[np.float64]


def test_published_calibrations() -> None:
    assert f"{gaussian_sigma(1, 1e-5):.5f}" == "3.73063"
    assert f"{gaussian_sigma(10, 1e-5):.6f}" == "0.499889"
    assert gaussian_sigma(1, 1e-5, 2.5) == pytest.approx(2.5 * 3.730632, rel=1e-6)


def balle_wang(epsilon: float, sigma: mpmath.mpf) -> mpmath.mpf:
    """Theorem 8 as it stands, for a sensitivity of 1."""
    a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
    return mpmath.ncdf(a) - mpmath.exp(epsilon) * mpmath.ncdf(b)


@pytest.mark.parametrize("epsilon", [2.0**-20, 1e-3, 0.1, 1, 3.5, 10, 100, 1e4, 1e6])
@pytest.mark.parametrize("delta", [1e-200, 1e-30, 1e-12, 1e-5, 0.1, 0.9, 1 - 1e-9])
def test_the_calibration_is_enough_and_hardly_more(epsilon: float, delta: float) -> None:
    with mpmath.workdps(300):
        sigma = mpmath.mpf(gaussian_sigma(epsilon, delta))
        assert balle_wang(epsilon, sigma) <= delta
        assert balle_wang(epsilon, sigma * (1 - mpmath.mpf(2) ** -30)) > delta * (1 - mpmath.mpf(2) ** -35)
        assert gaussian_delta(epsilon, float(sigma)) == pytest.approx(float(balle_wang(epsilon, sigma)), rel=1e-12)


def test_the_classic_calibration_fails_above_one() -> None:
    """It claims (10, 1e-5) for a noise that gives more than twice that delta."""
    classic = math.sqrt(2 * math.log(1.25 / 1e-5)) / 10
    assert gaussian_delta(10, classic) > 2e-5
    assert gaussian_delta(1, 10 * classic) < 1e-5


def divergence(epsilon: float, sigma: float, apart: int) -> float:
    """The exact delta at ``epsilon`` of two discrete Gaussians that many steps apart: the hockey-stick sum."""
    total, reach = 0.0, math.ceil(14 * sigma)
    weight = math.fsum(np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2))
    for begin in range(-reach, reach + apart, 2**20):
        y = np.arange(begin, min(begin + 2**20, reach + apart), dtype=np.float64)
        p, q = np.exp(-((y / sigma) ** 2) / 2), np.exp(-(((y - apart) / sigma) ** 2) / 2)
        total += float(np.maximum(0, q - math.exp(epsilon) * p).sum())
    return total / weight


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (10.0, 1e-5), (8.0, 1e-9)])
def test_the_integers_that_are_added_keep_the_promise(epsilon: float, delta: float) -> None:
    mechanism = GaussianMechanism(epsilon, delta, 1.0)
    apart = math.floor(1.0 / mechanism.grid) + 1
    sigma = float(mechanism.noise_sigma)
    assert delta * (1 - 1e-3) < divergence(epsilon, sigma, apart) <= delta
    assert divergence(epsilon, sigma / 2, apart) > 2 * delta  # the control: half the noise


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (10.0, 1e-9), (2.0**-20, 1e-6), (50.0, 1e-100)])
def test_what_integers_cost_is_set_aside(epsilon: float, delta: float, size: int) -> None:
    """The chain of the docstring, at any size: P <= e^up R, R is (e0, d0), R <= e^near P + beta."""
    mechanism = GaussianMechanism(epsilon, delta, 1.0, size)
    with mpmath.workdps(100):
        s = mpmath.mpf(mechanism.noise_sigma.numerator) / mechanism.noise_sigma.denominator
        unit = s / (1 / mpmath.mpf(mechanism.grid) + mpmath.sqrt(size))
        beta = mpmath.mpf(delta) * mpmath.exp(-epsilon) / 2**20
        up = size / (8 * s**2)
        near = (mpmath.sqrt(size) * (1 + 1 / (2 * s)) + mpmath.sqrt(-2 * mpmath.log(beta))) ** 2 / (8 * s**2)
        middle = epsilon - up - near
        assert mpmath.exp(up) * (balle_wang(middle, unit) + mpmath.exp(middle) * beta) <= delta


@given(
    epsilon=st.floats(0.01, 20),
    sensitivity=st.floats(1e-3, 1e3),
    start=st.floats(-1000, 1000),
    part=st.floats(-1, 1),
)
def test_neighbours_on_the_grid_stay_within_what_the_noise_was_made_for(
    epsilon: float, sensitivity: float, start: float, part: float
) -> None:
    mechanism = LaplaceMechanism(epsilon, sensitivity)
    other = start + part * sensitivity
    if abs(Fraction(other) - Fraction(start)) > Fraction(sensitivity):
        return
    apart = abs(int(np.rint(start / mechanism.grid)) - int(np.rint(other / mechanism.grid)))
    assert apart <= mechanism.noise_scale * Fraction(epsilon)


def test_control_without_widening_neighbours_may_part_too_far() -> None:
    mechanism = LaplaceMechanism(1.0, 1.0)
    step = mechanism.grid
    apart = np.rint((1.0 + step * 0.75) / step) - np.rint(step * 0.25 / step)
    assert apart * step > 1 - step / 2 + step
    assert apart <= mechanism.noise_scale


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_noise_is_hardly_wider_than_without_a_grid(size: int) -> None:
    laplace = LaplaceMechanism(0.5, 2.0, size)
    gaussian = GaussianMechanism(0.5, 1e-6, 2.0, size)
    assert 4.0 <= laplace.scale < 4.0 * (1 + 1 / 30_000)
    assert 1 <= gaussian.sigma / gaussian_sigma(0.5, 1e-6, 2.0) < 1 + 1 / 30_000
    for mechanism in (laplace, gaussian):
        assert math.frexp(mechanism.grid)[0] == 0.5


@given(d=st.integers(1, 64), seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_rounded_vectors_part_by_no_more_than_the_sensitivity_in_steps(d: int, seed: int, scale: float) -> None:
    mechanism = GaussianMechanism(1.0, 1e-5, scale, d)
    rng = np.random.default_rng(seed)
    one, direction = rng.normal(0, 10, d), rng.normal(0, 1, d)
    other = one + direction / np.linalg.norm(direction) * scale * (1 - 1e-12)
    apart = np.rint(one / mechanism.grid) - np.rint(other / mechanism.grid)
    unit = Fraction(gaussian_sigma(1.0, 1e-5))
    assert float((apart**2).sum()) <= float(mechanism.noise_sigma / unit) ** 2


MECHANISMS = [LaplaceMechanism(0.1, 1.0, 1000), GaussianMechanism(0.1, 1e-6, 1.0, 1000)]

mechanisms = pytest.mark.parametrize("mechanism", MECHANISMS, ids=["laplace", "gaussian"])


def off_grid(outputs: Floats, grid: float) -> float:
    return float((np.fmod(outputs, grid) != 0).mean())


@mechanisms
def test_what_is_released_lies_on_the_grid_whatever_the_value(mechanism: Any) -> None:
    rng = np.random.default_rng(1)
    for values in (np.zeros(1000), np.ones(1000), rng.normal(0, 1, 1000), rng.normal(0, 1e-9, 1000)):
        assert off_grid(mechanism.release(values, rng=rng.bytes), mechanism.grid) == 0


def test_control_float_noise_tells_its_centre_by_the_grid() -> None:
    """Mironov (2012): around 1 a sum of floats is a multiple of 2^-53; around 0 it need not be."""
    noise = np.random.default_rng(1).laplace(0, 1.0, 100_000)
    assert off_grid(0 + noise, 2.0**-53) > 0.2
    assert off_grid(1 + noise, 2.0**-53) == 0


@mechanisms
def test_noise_has_its_width_and_its_centre(mechanism: Any) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 1000)
    errors = np.concatenate([mechanism.release(values, rng=rng.bytes) - values for _ in range(200)])
    laplace = isinstance(mechanism, LaplaceMechanism)
    std = mechanism.scale * math.sqrt(2) if laplace else mechanism.sigma
    assert abs(errors.mean()) < 5 * std / math.sqrt(errors.size)
    assert abs(errors.var() / std**2 - 1) < 5 * math.sqrt((5 if laplace else 2) / errors.size)


@given(epsilon=st.floats(0.01, 100), sensitivity=st.floats(1e-6, 1e6), value=st.floats(-1e3, 1e3))
def test_numbers_come_back_as_numbers(epsilon: float, sensitivity: float, value: float) -> None:
    for mechanism in (LaplaceMechanism(epsilon, sensitivity), GaussianMechanism(epsilon, 1e-6, sensitivity)):
        released = mechanism.release(value)
        assert type(released) is float
        assert math.fmod(released, mechanism.grid) == 0


def test_arrays_keep_their_shape() -> None:
    mechanism = LaplaceMechanism(Fraction(1, 3), 2, 6)
    for values in (np.zeros((2, 3)), np.zeros((3, 2), dtype=np.float32), np.zeros((6,), dtype=np.int64)):
        released = mechanism.release(values)
        assert released.shape == values.shape
        assert released.dtype == np.float64
    assert mechanism.noise_scale * Fraction(1, 3) == math.floor(2 / Fraction(mechanism.grid)) + 6


@mechanisms
def test_what_lies_beyond_the_limit_is_released_as_if_at_it(mechanism: Any) -> None:
    key = np.random.default_rng(3).bytes(32)
    at = mechanism.release(np.full(1000, mechanism.limit), rng=lambda count: key)
    beyond = mechanism.release(np.full(1000, 1e308), rng=lambda count: key)
    assert (at == beyond).all()
    assert np.isfinite(at).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_great_integers_are_not_rounded_twice(dtype: Any) -> None:
    """On a grid above 1, float64 would round 2^53 + 1 away before the grid rounds."""
    mechanism = LaplaceMechanism(1.0, 2.0**40)
    assert mechanism.limit > 2**60
    at = mechanism.release(float(2**53), rng=bytes)
    for value in (2**53, 2**53 + 2**24, 2**62):
        assert mechanism.release(np.array([value], dtype=dtype), rng=bytes).tolist() == [at]
    assert mechanism.release(float(2**54), rng=bytes) > at


@mechanisms
def test_the_same_bytes_give_the_same_release(mechanism: Any) -> None:
    one, other = (mechanism.release(np.zeros(1000), rng=bytes) for _ in range(2))
    assert (one == other).all()
    assert (one != mechanism.release(np.zeros(1000))).any()


GOOD = {"epsilon": 1.0, "delta": 1e-5, "sensitivity": 1.0, "size": 1, "sigma": 1.0}
BAD: dict[str, list[Any]] = {
    "epsilon": [0, -1, math.nan, math.inf, 2e6, 1e-9, "1", None, True, 10**400],
    "delta": [0, 1, -1e-5, 1.5, math.nan, 1e-250, None, "0"],
    "sensitivity": [0, -1.0, math.nan, math.inf, 1e-200, 1e200, None, [1.0]],
    "size": [0, -1, 2**30 + 1, 2**70, 1.0, None, True],
    "sigma": [0, -1.0, math.nan],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_parameters_out_of_range_are_refused(name: str, value: Any) -> None:
    for make in (LaplaceMechanism, GaussianMechanism, gaussian_sigma, gaussian_delta):
        takes = inspect.signature(make).parameters
        if name in takes and (make, name) != (gaussian_delta, "epsilon"):  # which may be zero there
            with pytest.raises(DPError, match=rf"{name}.*expected"):
                make(**{field: (GOOD | {name: value})[field] for field in takes})


def test_noise_too_wide_for_the_grid_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(DPError, match="expected a larger epsilon, or fewer coordinates"):
        LaplaceMechanism(1e-6, 1.0, 2**25)
    assert GaussianMechanism(2.0**-20, 1e-6, 1.0).noise_sigma > 2**16


@mechanisms
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(999), "got a value of 999 coordinates; expected 1000"),
        (0.0, "got a value of 1 coordinates"),
        (np.full(1000, np.nan), "not finite"),
        (np.full(1000, -np.inf), "not finite"),
        (np.zeros(1000, dtype=np.complex128), "dtype complex128"),
        (np.zeros(1000, dtype=np.longdouble), "at most 64 bits"),
        (np.array(["1"] * 1000), "dtype <U1"),
        (np.array([None] * 1000), "dtype object"),
    ],
)
def test_values_that_do_not_fit_are_refused(mechanism: Any, value: Any, reason: str) -> None:
    with pytest.raises(DPError, match=reason):
        mechanism.release(value)


# What it costs


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_release_costs_what_its_noise_does(size: int) -> None:
    laplace, gaussian = LaplaceMechanism(0.5, 2.0, size), GaussianMechanism(1.0, 1e-5, 3.0, size)
    book = PrivacyLedger(50.0, 1e-5, unit="record", trust="central")
    assert 0.5 <= book.charge(laplace.cost(unit="record", trust="central")) < 0.51
    alone = PrivacyLedger(50.0, 1e-5, unit="record", trust="central")
    once = alone.charge(gaussian.cost(unit="record", trust="central"))
    assert 0.9999 < once <= 1.0, "what it was made for"
    event: Any = gaussian.cost(unit="record", trust="central").event
    assert event.sigma / event.l2 == pytest.approx(gaussian_sigma(1.0, 1e-5), rel=1e-3)
    assert Fraction(event.sigma) < gaussian.noise_sigma
    assert Fraction(event.l2) * Fraction(gaussian.grid) > Fraction(gaussian.sensitivity)
    assert alone.charge(gaussian.cost(unit="record", trust="central"), 9) < 6.0, "ten cost less than ten times one"
    with pytest.raises(DPError, match="keep a ledger for each"):
        book.charge(laplace.cost(unit="record", trust="local"))

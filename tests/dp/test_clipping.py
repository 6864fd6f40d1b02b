"""Clipping: bounds that hold exactly, layers, and a clip that finds the median."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dp import DPError
from dp.clipping import AdaptiveClip, clip_l2, clip_layers, clip_linf
from dp.sampling import sample_discrete_gaussian

Floats = NDArray[np.float64]

vectors = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(allow_nan=False, allow_infinity=False))
bounds = st.floats(1e-100, 1e100)


def square(vector: Floats) -> Fraction:
    return sum((Fraction(x) ** 2 for x in vector.tolist()), Fraction(0))


@given(vector=vectors, bound=bounds)
def test_the_l2_bound_holds_exactly(vector: Floats, bound: float) -> None:
    before = vector.copy()
    clipped = clip_l2(vector, bound)
    assert square(clipped) <= Fraction(bound) ** 2
    assert (vector == before).all()
    if square(vector) <= (Fraction(bound) * (1 - Fraction(1, 2**38))) ** 2:
        assert (clipped == vector).all()
    elif vector.any():
        assert square(clipped) >= (Fraction(bound) * (1 - Fraction(1, 2**38))) ** 2
        assert (np.sign(clipped) * np.sign(vector) >= 0).all()


@pytest.mark.parametrize("vector", [[1e308] * 50, [5e-324] * 50, [1e200, 1e-200], [-1e308, 1e308]])
def test_extremes_are_clipped_without_overflow(vector: list[float]) -> None:
    clipped = clip_l2(np.array(vector), 1.0)
    assert square(clipped) <= 1
    scaled = np.array(vector) / max(map(abs, vector))
    expected = vector if abs(vector[0]) < 1 else scaled / np.linalg.norm(scaled)
    assert clipped.tolist() == pytest.approx(list(expected), rel=1e-11)


def test_control_dividing_by_the_norm_exceeds_the_bound() -> None:
    rng = np.random.default_rng(1)
    samples = [rng.normal(0, 1, 100) for _ in range(50)]
    assert any(square(v * min(1.0, 1.0 / float(np.linalg.norm(v)))) > 1 for v in samples)
    assert all(square(clip_l2(v, 1.0)) <= 1 for v in samples)


@given(vector=vectors, bound=bounds)
def test_the_linf_bound_holds(vector: Floats, bound: float) -> None:
    clipped = clip_linf(vector, bound)
    assert all(c == max(-bound, min(bound, v)) for c, v in zip(clipped.tolist(), vector.tolist(), strict=True))


def test_integers_and_singles_are_clipped_as_doubles() -> None:
    for dtype in (np.int32, np.float32, np.float16, np.uint8, np.bool_):
        clipped = clip_l2(np.ones(4, dtype=dtype), 1.0)
        assert clipped.dtype == np.float64
        assert np.allclose(clipped, 0.5)


@given(vector=vectors, cuts=st.lists(st.integers(0, 40), max_size=4), norm=st.sampled_from(["l2", "linf"]))
def test_every_layer_is_clipped_by_itself(vector: Floats, cuts: list[int], norm: str) -> None:
    edges = sorted({0, vector.size, *(min(cut, vector.size) for cut in cuts)})
    slices = [slice(a, b) for a, b in pairwise(edges)]
    limits = [1.5 + i for i in range(len(slices))]
    clipped = clip_layers(vector, slices, limits, norm=norm)
    clip = clip_l2 if norm == "l2" else clip_linf
    assert clipped.shape == vector.shape
    for part, limit in zip(slices, limits, strict=True):
        assert (clipped[part] == clip(vector[part], limit)).all()
    if norm == "l2" and limits:
        assert square(clipped) <= sum(Fraction(limit) ** 2 for limit in limits)
    assert (
        clip_layers(vector, slices, 2.0, norm=norm) == clip_layers(vector, slices, [2.0] * len(slices), norm=norm)
    ).all()


@pytest.mark.parametrize(
    ("slices", "limits", "reason"),
    [
        ([slice(0, 3), slice(4, 6)], 1.0, r"slice\(4, 6, None\) after coordinate 3"),
        ([slice(0, 3), slice(2, 6)], 1.0, "after coordinate 3"),
        ([slice(0, 3)], 1.0, "slices of 3 coordinates in all; expected 6, the size of the vector"),
        ([slice(0, 7)], 1.0, "slices of 7"),
        ([slice(0, 6, 2)], 1.0, "without a gap or overlap"),
        ([slice(0, -1)], 1.0, "without a gap or overlap"),
        ([slice(None, 6)], 1.0, "without a gap or overlap"),
        ([slice(0, None)], 1.0, "without a gap or overlap"),
        ([slice(0, 6)], [1.0, 2.0], "2 bounds for 1 slices"),
        ([slice(0, 6)], [0.0], "clip=0.0; expected"),
        ([], 1.0, "slices of 0"),
    ],
)
def test_slices_that_do_not_cover_the_vector_are_refused(slices: Any, limits: Any, reason: str) -> None:
    with pytest.raises(DPError, match=reason):
        clip_layers(np.ones(6), slices, limits)


@pytest.mark.parametrize("bound", [0, -1, math.nan, math.inf, 1e-200, 10**400, "1", None, True])
def test_bounds_out_of_range_are_refused(bound: Any) -> None:
    for clip in (
        lambda: clip_l2(np.ones(2), bound),
        lambda: clip_linf(np.ones(2), bound),
        lambda: AdaptiveClip(1.0, 5.0, clip=bound),
    ):
        with pytest.raises(DPError, match=r"clip.*expected"):
            clip()
    with pytest.raises(DPError, match="norm 'l1'; expected 'l2' or 'linf'"):
        clip_layers(np.ones(2), [slice(0, 2)], 1.0, norm="l1")


@pytest.mark.parametrize(
    "vector", [np.ones((2, 2)), np.float64(1), [1j], ["a"], [math.nan], [math.inf], [-math.inf, 0], None]
)
def test_vectors_that_are_none_are_refused(vector: Any) -> None:
    for clip in (clip_l2, clip_linf):
        with pytest.raises(DPError, match="expected"):
            clip(vector, 1.0)


@given(
    vector=vectors,
    z=st.floats(0.01, 100),
    ratio=st.floats(0.51, 1000),
    clip=st.floats(1e-6, 1e6),
)
def test_the_encoded_vector_has_a_norm_of_at_most_one(vector: Floats, z: float, ratio: float, clip: float) -> None:
    assert square(AdaptiveClip(z, z * ratio, clip=clip).encode(vector)) <= 1


def test_noise_is_split_as_the_paper_says() -> None:
    """(z^-2 - (2 sigma_b)^-2)^(-1/2) on the update, sigma_b on the bits, z on the whole."""
    adaptive = AdaptiveClip(1.0, 5.0, clip=0.3)
    assert adaptive.update_noise_multiplier == pytest.approx((1 - 1 / 100) ** -0.5)
    noise = np.zeros(3)
    noise[[0, 2]] = adaptive.noise_multiplier  # one standard deviation
    update, after = adaptive.decode(noise, 10)
    assert update[0] == pytest.approx(adaptive.update_noise_multiplier * adaptive.clip)
    _, silent = adaptive.decode(np.zeros(3), 10)
    assert math.log(silent.clip / after.clip) == pytest.approx(0.2 * 5.0 / 10)


def test_sums_and_bits_come_back() -> None:
    adaptive = AdaptiveClip(0.8, 2.0, clip=1.0, quantile=0.25, learning_rate=0.5)
    updates = [np.array([0.3, 0.4]), np.array([3.0, 4.0]), np.array([0.0, 0.1]), np.array([-0.6, 0.0])]
    total = np.sum([adaptive.encode(update) for update in updates], axis=0)
    summed, after = adaptive.decode(total, 4)
    assert np.allclose(summed, [0.3 + 0.6 - 0.6, 0.4 + 0.8 + 0.1])
    assert after.clip == pytest.approx(math.exp(-0.5 * (0.75 - 0.25)))
    assert after == replace(adaptive, clip=after.clip)


def rounds(adaptive: AdaptiveClip, norms: Floats, count: int, sign: int = 1) -> float:
    """The clip after ``count`` rounds over a sum that every client's share of discrete noise is in."""
    rng, grid = np.random.default_rng(1), 2.0**-16
    for _ in range(count):
        vectors = np.array([adaptive.encode(np.array([norm, 0.0])) for norm in norms])
        local = adaptive.noise_multiplier / math.sqrt(norms.size) / grid
        noise = sample_discrete_gaussian(local, vectors.size, rng=rng.bytes).reshape(vectors.shape)
        total = (np.rint(vectors / grid) + noise).sum(axis=0) * grid
        total[-1] *= sign
        _, adaptive = adaptive.decode(total, norms.size)
    return adaptive.clip


NORMS = np.random.default_rng(7).lognormal(0.04, 0.25, 200)


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 0.1), (0.5, 1.1), (0.5, 30.0), (0.2, 1.0), (0.8, 1.0)])
def test_the_clip_finds_the_quantile(quantile: float, start: float) -> None:
    adaptive = AdaptiveClip(1.0, NORMS.size / 20, clip=start, quantile=quantile)
    assert rounds(adaptive, NORMS, 150) == pytest.approx(float(np.quantile(NORMS, quantile)), rel=0.1)


def test_control_with_the_sign_turned_round_the_clip_runs_away() -> None:
    """The bit says the opposite of what happened to the update: then no start comes back to the median."""
    for start in (0.1, 1.1):
        adaptive = AdaptiveClip(1.0, NORMS.size / 20, clip=start)
        assert not 0.01 < rounds(adaptive, NORMS, 100, sign=-1) < 100


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_multiplier": 0}, "noise_multiplier=0; expected"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0; expected"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan; expected"),
        ({"bit_noise": 0.0}, "bit_noise=0.0; expected"),
        ({"bit_noise": 0.5}, "expected more than half the multiplier, 0.5"),
        ({"quantile": 0.0}, "quantile=0.0; expected"),
        ({"quantile": 1}, "quantile=1; expected"),
        ({"learning_rate": 0}, "learning_rate=0; expected"),
        ({"learning_rate": -0.2}, "learning_rate=-0.2; expected"),
        ({"learning_rate": "fast"}, "learning_rate='fast'; expected a number"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DPError, match=reason):
        AdaptiveClip(**{"noise_multiplier": 1.0, "bit_noise": 5.0} | change)


@pytest.mark.parametrize("clients", [0, -1, 1.0, None, True, 2**41])
def test_a_number_of_clients_that_is_none_is_refused(clients: Any) -> None:
    with pytest.raises(DPError, match="an int from 1 to 2\\^40"):
        AdaptiveClip(1.0, 5.0).decode(np.zeros(3), clients)


def test_sums_that_make_no_sense_are_refused() -> None:
    adaptive = AdaptiveClip(1.0, 5.0)
    with pytest.raises(DPError, match="empty sum"):
        adaptive.decode(np.zeros(0), 5)
    with pytest.raises(DPError, match="not finite"):
        adaptive.decode(np.array([0.0, math.nan]), 5)
    for hostile in (1e6, -1e6, 1e308):
        with pytest.raises(DPError, match="expected about 0 to 1"):
            adaptive.decode(np.array([0.0, hostile]), 5)

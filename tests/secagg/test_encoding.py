import fnmatch
import itertools
import logging
import math
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

import secagg
from mpc import masks
from secagg import _clips, _kernels, fixed_point, lanes
from secagg.encoding import Encoding, Segment
from secagg.errors import ConfigError, EncodingError
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout
from tests.reference import encoding as naive

KEY = bytes(range(32))
ENCODING: Encoding = FixedPoint(1.0)  # a type checker holds FixedPoint to the protocol


@pytest.fixture(scope="module", autouse=True, params=["kernel", "openssl"] if masks.compiled() else ["openssl"])
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "openssl":
            patch.setattr(masks, "width", lambda: 0)
        yield


def rng(length: int) -> bytes:
    return KEY[:length]


def flat(size: int, dtype: Any = np.float64) -> Layout:
    return Layout.of(np.zeros(size, dtype))


def encode(grid: FixedPoint, vector: Any, **changes: Any) -> list[Any]:
    arguments = {"layout": flat(len(vector)), "weight": None, "max_weight": None, "rng": rng} | changes
    return grid.encode(vector, **arguments)


def decode(grid: FixedPoint, sums: Any, layout: Layout, survivors: int, max_weight: int | None = None) -> Any:
    return grid.decode(sums, layout=layout, survivors=survivors, max_weight=max_weight)


def add(encoded: list[list[Any]]) -> list[Any]:
    return [np.sum(parts, axis=0, dtype=np.uint64) for parts in zip(*encoded, strict=True)]


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


VALUES = st.floats(-3, 3, width=32)
CLIPS = st.floats(1e-3, 1e3)
BITS = st.integers(2, 32)


@st.composite
def cohorts(draw: Any) -> Any:
    size, clients, max_weight = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 9_000))
    vectors = [draw(st.lists(VALUES, min_size=size, max_size=size)) for _ in range(clients)]
    weights = [draw(st.integers(1, max_weight)) for _ in range(clients)]
    return vectors, weights, max_weight


@settings(deadline=None)
@given(cohorts(), CLIPS, BITS)
@example(([[1.0, -1.0, 0.0]] * 3, [1, 7, 9], 9), 1.0, 32)
@example(([[1.5, -1.5, 0.0]] * 3, [1, 1, 1], 9_000), 1.0, 2)
def test_nearest_rounding_errs_by_half_a_step_a_client(cohort: Any, clip: float, bits: int) -> None:
    vectors, weights, max_weight = cohort
    layout, grid = flat(len(vectors[0])), FixedPoint(clip, bits, "nearest")
    encoded = [
        encode(grid, np.array(vector), weight=weight, max_weight=max_weight)
        for vector, weight in zip(vectors, weights, strict=True)
    ]
    got = decode(grid, add(encoded), layout, len(vectors), max_weight)
    step = Fraction(clip) / (2 ** (bits - 1) - 1)
    bound = max_weight * len(vectors) * step / 2
    for i in range(layout.size):
        exact = sum(
            weight * max(-Fraction(clip), min(Fraction(clip), Fraction(vector[i])))
            for vector, weight in zip(vectors, weights, strict=True)
        )
        rounding = max_weight * len(vectors) * Fraction(clip) / 2**50  # of float64
        assert abs(Fraction(float(got.sum[i])) - exact) <= bound + rounding
        assert got.mean[i] == got.sum[i] / got.total_weight
    assert got.total_weight == sum(weights)
    assert got.clipped == sum(abs(x) > clip for vector in vectors for x in vector)


def test_the_half_step_is_reached() -> None:
    """The bound above is tight: half a step less would fail."""
    grid = FixedPoint(1.0, 8, "nearest")
    got = decode(grid, encode(grid, np.array([0.5 / 127])), flat(1), 1)
    assert abs(got.sum[0] - 0.5 / 127) == pytest.approx(0.5 / 127)


@settings(deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=70),
    CLIPS,
    BITS,
    st.floats(1e-4, 1),
    st.sampled_from(fixed_point.ROUNDINGS),
    st.sampled_from([np.float32, np.float64]),
)
def test_equals_the_naive_twin(
    vector: list[float], clip: float, bits: int, share: float, rounding: str, dtype: Any
) -> None:
    weight = max(1, round(share * 1000))
    array = np.array(vector, dtype)
    values, own, clipped = encode(FixedPoint(clip, bits, rounding), array, weight=weight, max_weight=1000)
    expected = naive.quantize(
        array.tolist(), [clip] * len(vector), bits, weight / 1000, KEY if rounding == "stochastic" else None
    )
    assert (values.tolist(), int(clipped[0])) == expected
    assert own.tolist() == [weight]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), CLIPS, BITS, st.integers(1, 1000), st.integers(1, 50))
def test_decoding_equals_the_naive_twin(
    parts: list[float], clip: float, bits: int, survivors: int, max_weight: int
) -> None:
    layout, grid = flat(len(parts)), FixedPoint(clip, bits)
    sums = [int(part * survivors * (2**bits - 2)) for part in parts]
    lanes = [np.array(part, np.uint64) for part in (sums, [survivors * max_weight], [1])]
    got = decode(grid, lanes, layout, survivors, max_weight)
    expected = naive.dequantize(sums, [clip] * len(sums), bits, survivors, max_weight)
    assert got.sum.tolist() == expected
    assert got.mean.tolist() == [value / (survivors * max_weight) for value in expected]


@pytest.mark.parametrize("rounding", fixed_point.ROUNDINGS)
@pytest.mark.parametrize("bits", [2, 3, 8, 16, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_and_both_extremes_are_exact(rounding: str, bits: int, dtype: Any) -> None:
    grid, top = FixedPoint(0.3, bits, rounding), 2 ** (bits - 1) - 1
    vector = np.array([0.0, -0.0, 0.31, -0.31, 3e38, -3e38], dtype)
    values, clipped = encode(grid, vector)
    assert values.dtype == np.uint32
    assert values.tolist() == [top, top, 2 * top, 0, 2 * top, 0]
    assert clipped.tolist() == [4]
    got = decode(grid, [values, clipped], flat(6), 1)
    np.testing.assert_allclose(got.sum, [0, 0, 0.3, -0.3, 0.3, -0.3], rtol=1e-15)
    assert got.sum[0] == 0
    values, clipped = encode(grid, np.array([0.3, -0.3]))
    assert (values.tolist(), clipped.tolist()) == ([2 * top, 0], [0])


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), st.sampled_from(fixed_point.ROUNDINGS))
def test_float32_and_float64_agree(vector: list[float], rounding: str) -> None:
    grid = FixedPoint(1.0, 16, rounding)
    single, double = encode(grid, np.array(vector, np.float32)), encode(grid, np.array(vector))
    assert [part.tolist() for part in single] == [part.tolist() for part in double]


def bias(vector: Any, grid: FixedPoint) -> float:
    """How far the mean of the rounded vector is off, in standard errors of fair rounding."""
    top = 2 ** (grid.bits - 1) - 1
    values, _ = encode(grid, vector)
    exact = vector * top
    fraction = exact - np.floor(exact)
    spread = math.sqrt(float((fraction * (1 - fraction)).sum()))
    return abs(float((values.astype(np.float64) - top - exact).sum())) / spread


VECTORS = [np.full(20_000, 0.3 / 127), np.full(20_000, -0.02 / 127), np.linspace(-0.9, 0.9, 20_000)]


@pytest.mark.parametrize("vector", VECTORS)
def test_stochastic_rounding_is_unbiased(vector: Any) -> None:
    assert bias(vector, FixedPoint(1.0, 8)) < 4


@pytest.mark.parametrize("vector", VECTORS)
def test_control_truncation_is_found_to_be_biased(vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def largest(key: bytes, out: Any, *, offset: int = 0) -> None:
        out[:] = 2**32 - 1

    monkeypatch.setattr(masks, "keystream", largest)
    assert bias(vector, FixedPoint(1.0, 8)) > 4


def test_stochastic_rounding_follows_the_key() -> None:
    vector = np.linspace(-1, 1, 1000)
    first, again = encode(FixedPoint(1.0), vector), encode(FixedPoint(1.0), vector)
    other = encode(FixedPoint(1.0), vector, rng=lambda length: bytes(length))
    assert (first[0] == again[0]).all()
    assert (first[0] != other[0]).any()
    with pytest.raises(ConfigError, match="got 31 bytes from rng; expected 32"):
        encode(FixedPoint(1.0), vector, rng=lambda length: bytes(31))


@pytest.mark.parametrize(
    ("x", "random", "up"),
    [
        (0.5, 2**31 - 1, True),
        (0.5, 2**31, False),
        (0.0, 0, False),
        (-0.0, 0, False),
        (5e-324, 0, True),
        (5e-324, 1, False),
        (-5e-324, 2**32 - 1, True),
        (2**-54 - 0.25, 3 * 2**30, True),  # 0.75 and a little, which float64 can't hold
        (-0.25, 3 * 2**30, False),
        (1.0, 0, False),
        (-1.0, 0, False),
    ],
)
def test_rounding_up_is_decided_exactly(x: float, random: int, up: bool) -> None:
    values = np.empty(1, np.uint32)
    _kernels.quantize_stochastic(np.array([x]), np.array([random], np.uint32), 1.0, 1.0, 1.0, 1.0, values)
    assert int(values[0]) - 1 == math.floor(x) + up


@pytest.mark.parametrize("rounding", fixed_point.ROUNDINGS)
@pytest.mark.parametrize("clip", [0.3, 1 / 3, 0.5, 1e-45, 1e-50, 3e38, 1e50])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_edge_of_the_clip_is_exact(clip: float, rounding: str, dtype: Any) -> None:
    """Also where the vector's type doesn't hold the clip, or nothing near it."""
    with np.errstate(over="ignore", under="ignore"):
        near = dtype(clip)
        edge = np.array([np.nextafter(near, dtype(0)), near, np.nextafter(near, dtype(np.inf))], dtype)
    vector = np.concatenate([edge[np.isfinite(edge)], [dtype(0)]])
    vector = np.concatenate([vector, -vector])
    values, clipped = encode(FixedPoint(clip, 16, rounding), vector)
    expected = naive.quantize(
        vector.tolist(), [clip] * vector.size, 16, key=KEY if rounding == "stochastic" else None
    )
    assert (values.tolist(), int(clipped[0])) == expected


def layered() -> tuple[Layout, FixedPoint, Any]:
    update = {name: np.linspace(-2, 2, size) for name, size in (("a", 5), ("b", 130), ("c", 0), ("d", 66))}
    layout = Layout.of(update)
    return layout, FixedPoint({"a": 0.5, "b": 2, "d": 1.5, "c": 1.0}, 12), layout.flatten(update)


@pytest.mark.parametrize("piece", [7, 64, 1 << 16])
def test_pieces_and_leaves_may_fall_anywhere(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_point, "_PIECE", piece)
    layout, grid, vector = layered()
    values, clipped = encode(grid, vector, layout=layout)
    clips = [0.5] * 5 + [2.0] * 130 + [1.5] * 66
    expected, count = naive.quantize(vector.tolist(), clips, 12, key=KEY)
    assert values.tolist() == expected
    assert int(clipped[0]) == count > 0
    strided = np.repeat(vector, 2)[::2]
    assert encode(grid, strided, layout=layout)[0].tolist() == expected


@pytest.mark.parametrize("end", [64, 512])  # the pieces of kernels have 32 or 64 coordinates
def test_leaves_may_start_and_end_anywhere_in_the_stream(end: int) -> None:
    for first in range(4):
        for size in range(end - 4, end + 2):
            update = {"a": np.linspace(-1, 1, first), "b": np.linspace(-1.9, 1.9, size)}
            layout, vector = Layout.of(update), np.concatenate(list(update.values()))
            key = bytes([first, size % 256]) * 16  # no other has left its stream in memory
            values, _ = encode(FixedPoint({"a": 1, "b": 2}), vector, layout=layout, rng=lambda length, key=key: key)
            assert values.tolist() == naive.quantize(vector.tolist(), [1.0] * first + [2.0] * size, 16, key=key)[0]


def test_every_leaf_has_its_own_grid() -> None:
    layout, grid, vector = layered()
    got = decode(grid, encode(grid, vector, layout=layout), layout, 1)
    clips = np.array([0.5] * 5 + [2.0] * 130 + [1.5] * 66)
    assert (abs(got.sum - np.clip(vector, -clips, clips)) < clips / 2047).all()
    assert grid.steps(layout) == {"a": 0.5 / 2047, "b": 2 / 2047, "c": 1 / 2047, "d": 1.5 / 2047}


def test_memory_is_that_of_the_results() -> None:
    size = 100_000
    layout, grid, vector = flat(size), FixedPoint(1.0), np.zeros(size)
    slack = 4 * (1 << 16) + 200_000  # one piece of random bits, AES buffers
    values = encode(grid, vector)
    assert peak(lambda: encode(grid, vector, layout=layout)) < 4 * size + slack
    assert peak(lambda: decode(grid, values, layout, 1)) < 2 * 8 * size + 50_000


def test_clips_are_kept_sorted_and_hashable() -> None:
    grid = FixedPoint({"b": 2, "a": 1})
    assert grid.clip == (("a", 1.0), ("b", 2.0))
    assert grid == FixedPoint((("b", 2.0), ("a", 1.0)))
    assert hash(grid) == hash(FixedPoint({"a": 1.0, "b": 2.0}))
    assert FixedPoint(1) == FixedPoint(1.0)
    assert type(FixedPoint(np.float32(1)).clip) is float  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        grid.bits = 8  # type: ignore[misc]


def test_segments() -> None:
    layout = flat(10)
    assert FixedPoint(1.0).segments(layout, None) == (Segment(10, 65_534), Segment(1, 10))
    assert FixedPoint(1.0, 2).segments(layout, 7) == (Segment(10, 2), Segment(1, 7), Segment(1, 10))
    assert all(segment.modulus is None for segment in FixedPoint(1.0).segments(layout, 7))


@pytest.mark.parametrize(("max_weight", "lane"), [(2**32 - 1, np.uint32), (2**32, np.uint64)])
def test_the_weight_travels_exactly(max_weight: int, lane: Any) -> None:
    grid = FixedPoint(1.0, 32)
    encoded = [encode(grid, np.zeros(2), weight=weight, max_weight=max_weight) for weight in (max_weight, 3 << 26)]
    assert [part.dtype for part in encoded[0]] == [np.uint32, lane, np.uint32]
    assert decode(grid, add(encoded), flat(2), 2, max_weight).total_weight == max_weight + (3 << 26)


@pytest.mark.parametrize("weight", [0, -1, 11, 2**70, 1.0, True, np.True_, "1", None, np.float64(3)])
def test_a_weight_outside_its_range_is_refused(weight: Any) -> None:
    with pytest.raises(EncodingError, match="expected an integer from 1 to 10"):
        encode(FixedPoint(1.0), np.zeros(1), weight=weight, max_weight=10)


def test_numpy_integers_are_weights() -> None:
    assert encode(FixedPoint(1.0), np.zeros(1), weight=np.int64(10), max_weight=10)[1].tolist() == [10]


def test_a_weight_needs_a_weighted_task() -> None:
    with pytest.raises(EncodingError, match="the task is unweighted"):
        encode(FixedPoint(1.0), np.zeros(1), weight=1)


@pytest.mark.parametrize("max_weight", [0, -1, 2**53 + 1, 1.0, True])
def test_max_weight_is_checked(max_weight: Any) -> None:
    with pytest.raises(ConfigError, match="max_weight"):
        FixedPoint(1.0).segments(flat(1), max_weight)
    with pytest.raises(ConfigError, match="max_weight"):
        encode(FixedPoint(1.0), np.zeros(1), weight=1, max_weight=max_weight)


@pytest.mark.parametrize(("weight", "warns"), [(255, True), (256, False)])
def test_a_weight_that_leaves_few_bits_warns(weight: int, warns: bool, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "secagg"):
        encode(FixedPoint(1.0, 16), np.array([0.123]), weight=weight, max_weight=1 << 16)
    assert [record.message for record in caplog.records] == [
        "a weight leaves this update fewer than 8 of its 16 bits; raise bits or lower max_weight"
    ] * warns


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rounding", fixed_point.ROUNDINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_refused(value: float, rounding: str, dtype: Any) -> None:
    update = {"a": np.zeros(3, dtype), "b": np.zeros(4, dtype), "c": np.zeros(2, dtype)}
    update["b"][2] = update["c"][0] = value
    layout = Layout.of(update)
    with pytest.raises(EncodingError, match="got 2 coordinates that are not finite, the first in leaf 'b'"):
        encode(FixedPoint(1.0, 16, rounding), layout.flatten(update), layout=layout)


@pytest.mark.parametrize(
    "vector", [np.zeros(3), np.zeros((2, 2)), np.zeros(4, int), np.zeros(4, np.float16), np.zeros(4, ">f4")]
)
def test_a_vector_that_does_not_fit_is_refused(vector: Any) -> None:
    with pytest.raises(EncodingError, match=r"expected float32 or float64, shape \(4,\)"):
        encode(FixedPoint(1.0), vector, layout=flat(4))


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda clip=clip: FixedPoint(clip)
            for clip in (0, -1, math.nan, math.inf, 1e101, 1e-101, True, "1", None)
        ),
        *(lambda bits=bits: FixedPoint(1.0, bits) for bits in (1, 33, 16.0, True)),
        lambda: FixedPoint(1.0, 16, "up"),
        lambda: FixedPoint({"a": 0}),
        lambda: FixedPoint({1: 1.0}),  # type: ignore[dict-item]
        lambda: FixedPoint((("a", 1.0), ("a", 2.0))),
        lambda: FixedPoint((("a", 1.0, 2.0),)),  # type: ignore[arg-type]
        lambda: FixedPoint(("a",)),  # type: ignore[arg-type]
    ],
)
def test_fields_out_of_range_are_refused(make: Callable[[], FixedPoint]) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"a": 1.0}, "no clip for the leaves 'b', 'c'"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "z": 1.0}, "a clip for leaves that the layout lacks: 'z'"),
    ],
)
def test_clips_must_name_every_leaf(clip: Any, message: str) -> None:
    layout = Layout.of({"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)})
    with pytest.raises(ConfigError, match=message):
        FixedPoint(clip).segments(layout, None)
    with pytest.raises(ConfigError, match=message):
        encode(FixedPoint(clip), np.zeros(3), layout=layout)


def sums(values: list[int], weight: int = 12, clipped: int = 0) -> list[Any]:
    return [np.array(part, np.uint64) for part in (values, [weight], [clipped])]


def test_the_largest_possible_sums_decode() -> None:
    got = decode(FixedPoint(1.0, 8), sums([3 * 254, 0], 30, 6), flat(2), 3, 10)
    np.testing.assert_allclose(got.sum, [30, -30])
    assert (got.total_weight, got.clipped) == (30, 6)


def mean_at_the_clip(protocol: Any) -> Any:
    """What a session opens if all clients send the largest coordinate and the smallest."""
    update = np.array([1.0, -1.0])
    task = secagg.Task(protocol, Layout.of(update), FixedPoint(1.0, 8), max_clients=5, min_survivors=5)
    return secagg.simulate(task, {f"c{number}": update for number in range(5)}).mean


@pytest.mark.parametrize("protocol", [secagg.SecAgg(), secagg.AdditiveShares()], ids=lambda one: one.name)
def test_a_sum_of_all_clients_at_the_clip_does_not_wrap(protocol: Any) -> None:
    np.testing.assert_allclose(mean_at_the_clip(protocol), [1.0, -1.0])


@pytest.mark.parametrize("protocol", [secagg.SecAgg(), secagg.AdditiveShares()], ids=lambda one: one.name)
def test_control_with_one_bit_less_the_sum_wraps(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = lanes.mask_bits
    monkeypatch.setattr(lanes, "mask_bits", lambda segment, clients: enough(segment, clients) - 1)
    assert abs(mean_at_the_clip(protocol)[0] - 1.0) > 0.5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sums([3 * 254 + 1, 2**64 - 1]), r"got 2 sums beyond 3·254"),
        (sums([0, 0], weight=2), "got 2 total weight; expected 3 to 30"),
        (sums([0, 0], weight=31), "got 31 total weight"),
        (sums([0, 0], clipped=7), "got 7 clipped coordinates; expected 0 to 6"),
        (sums([0, 0])[:2], "sums of 2 segments; expected 3"),
        (sums([0]), r"shape \(2,\)"),
        ([np.zeros(2, np.int64), *sums([0, 0])[1:]], "expected uint32 or uint64"),
    ],
)
def test_impossible_sums_are_refused(bad: Any, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        decode(FixedPoint(1.0, 8), bad, flat(2), 3, 10)


@pytest.mark.parametrize("survivors", [0, -1, 2**40])
def test_survivors_are_checked(survivors: int) -> None:
    with pytest.raises(ConfigError, match="survivors; expected 1 to"):
        decode(FixedPoint(1.0, 32), sums([0])[::2], flat(1), survivors)


def test_without_weights_the_total_is_the_survivors() -> None:
    grid = FixedPoint(1.0, 20)
    encoded = [encode(grid, np.array([x], np.float32)) for x in (0.5, -0.25, 0.5)]
    got = decode(grid, add(encoded), flat(1), 3)
    assert got.total_weight == 3
    assert got.sum == pytest.approx(0.75, abs=3 * 2**-19)
    assert got.mean == pytest.approx(0.25, abs=2**-19)
    assert got.epsilon_guaranteed is got.epsilon_realised is None


# What one update moves


def longest(grid: FixedPoint, sizes: list[int], norm: float) -> float:
    """The largest norm of any rounding of any vector within ``norm``, by trying all integers in each coordinate."""
    layout = Layout.of([np.zeros(size) for size in sizes])
    steps = [
        step
        for leaf, step in zip(layout.leaves, grid.steps(layout).values(), strict=True)
        for _ in range(leaf.size)
    ]
    lost, top = (0.5, 1.0)[grid.rounding == "stochastic"], (1 << (grid.bits - 1)) - 1
    best = 0.0
    for ks in itertools.product(range(top + 1), repeat=len(steps)):
        before = sum((step * max(k - lost, 0)) ** 2 for step, k in zip(steps, ks, strict=True))
        if before < norm**2 * (1 + 1e-12):
            best = max(best, sum((step * k) ** 2 for step, k in zip(steps, ks, strict=True)))
    return math.sqrt(best)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("clip", [1.0, {"0": 1.0, "1": 0.6}], ids=["one clip", "two"])
def test_no_update_moves_the_sum_further_than_the_sensitivity(rounding: str, clip: Any) -> None:
    """All integers of three coordinates. It is reached where the norm takes all from one step to the next."""
    sizes, grid = [2, 1], FixedPoint(clip, 4, rounding)
    layout = Layout.of([np.zeros(size) for size in sizes])
    whole = math.sqrt(sum(size * step**2 for size, step in zip(sizes, grid.steps(layout).values(), strict=True)))
    for norm in (0.01, 0.07, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2, 5.0):
        assert longest(grid, sizes, norm) <= grid.l2_sensitivity(layout, norm)
    for k in (1, 2, 3):
        norm = max(whole * (k - (0.5 if rounding == "nearest" else 1.0)), 1e-9)
        assert longest(grid, sizes, norm) == pytest.approx(grid.l2_sensitivity(layout, norm), rel=1e-6)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("max_weight", [None, 7])
def test_the_sensitivity_holds_for_what_is_encoded(rounding: str, max_weight: int | None) -> None:
    grid, layout, generator = FixedPoint(1.0, 6, rounding), flat(40), np.random.default_rng(0)
    step, most = 1 / 31, 0.0
    for _ in range(200):
        vector = generator.normal(size=40) * generator.choice([0.02, 1.0], 40)
        vector *= 0.5 / max(0.5, np.linalg.norm(vector))
        values = encode(grid, vector, weight=max_weight, max_weight=max_weight, rng=generator.bytes)[0]
        zero = encode(grid, np.zeros(40), weight=max_weight, max_weight=max_weight, rng=generator.bytes)[0]
        most = max(most, np.linalg.norm(values.astype(float) - zero) * step * (max_weight or 1))
    assert most <= grid.l2_sensitivity(layout, 0.5, max_weight)
    assert most > 0.5 * (max_weight or 1), "the control: the update's own norm is not a bound"


def test_rounding_doubles_what_an_update_of_halves_moves() -> None:
    """Four in every step squared: each coordinate is half a step, and becomes a whole one."""
    layout, grid = flat(10**6), FixedPoint(1.0, 8, "nearest")
    update = np.zeros(10**6)
    update[: 4 * 127**2 - 100] = 0.5000001 / 127
    assert np.linalg.norm(update) < 1
    moved = np.linalg.norm(encode(grid, update)[0].astype(float) - 127) / 127
    assert 1.99 < moved < grid.l2_sensitivity(layout, 1.0) < 2.0001
    assert grid.l2_sensitivity(layout, 1.0, 50) == pytest.approx(100)
    assert FixedPoint(1.0, 8).l2_sensitivity(layout, 1.0) == pytest.approx(math.sqrt(10**6 / 127**2 + 3))
    line = grid.describe(layout, None)[-1]
    assert "L2 norm 1 up to 2 times as long: it moves the sum by up to 2. " in line
    for bad in (0.0, -1.0, math.nan, "1"):
        with pytest.raises(ConfigError):
            grid.l2_sensitivity(layout, bad)  # type: ignore[arg-type]


LENGTHENS = re.compile(
    r"L2 norm (\S+)( .the least clip.)? up to (\S+) times as long: (.*)it moves the sum by up to (\S+)\. "
)


@pytest.mark.parametrize("max_weight", [None, 1, 5000])
@pytest.mark.parametrize(
    ("clip", "bits", "size"),
    [(1.0, 16, 10**6), ({"*": 0.2, "*.n": 1e4}, 8, 10**6), ({"*": 3.0, "*.n": 0.5}, 12, 1), (1e-3, 24, 5)],
)
def test_what_rounding_adds_is_stated_where_it_adds_the_most_and_apart_from_the_weight(
    clip: Any, bits: int, size: int, max_weight: int | None
) -> None:
    layout, grid = Layout.of({"a": {"w": np.broadcast_to(0.0, size), "n": np.zeros(1)}}), FixedPoint(clip, bits)
    sentence = LENGTHENS.search(grid.describe(layout, max_weight)[-1])
    assert sentence is not None
    clips = [clip] if isinstance(clip, float) else list(clip.values())
    norm, least, factor, weight, moved = sentence.groups()
    assert float(norm) == min(clips)
    assert (least is not None) == (len(clips) > 1)
    assert float(factor) == pytest.approx(grid.l2_sensitivity(layout, min(clips)) / min(clips), rel=1e-5)
    assert float(moved) == pytest.approx(grid.l2_sensitivity(layout, min(clips), max_weight), rel=1e-5)
    assert weight == ("" if max_weight is None else f"with the weight {max_weight} ")
    larger = [grid.l2_sensitivity(layout, other) / other for other in clips]
    assert float(factor) >= max(larger) * (1 - 1e-5), "nothing larger is hidden"


def test_a_large_clip_hides_nothing_of_what_rounding_adds() -> None:
    layout = Layout.of({"a": {"w": np.broadcast_to(0.0, 10**6), "n": np.zeros(1)}})
    line = FixedPoint({"*": 0.2, "*.n": 1e4}, 8).describe(layout, None)[-1]
    assert "L2 norm 0.2 (the least clip) up to 393.783 times as long: it moves the sum by up to 78.7567. " in line


def test_clips_by_pattern_the_longest_first_and_a_name_before_all() -> None:
    names = ["bn.num_batches_tracked", "bn.weight", "fc.bias", "fc.weight", "bn.bias"]
    layout = Layout.of({name: np.zeros(2) for name in names})
    clip = {"*": 0.2, "*.num_batches_tracked": 1e4, "bn.*": 3, "*.bias": 5, "fc.bias": 7, "bn*bias": 9}
    steps = FixedPoint(clip, bits=2).steps(layout)  # L = 1, so a step is a clip
    assert steps == {
        "bn.num_batches_tracked": 1e4, "bn.weight": 3, "fc.bias": 7, "fc.weight": 0.2, "bn.bias": 9,
    }  # fmt: skip
    assert FixedPoint(clip) == FixedPoint(dict(reversed(clip.items())))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"*.w": 1.0, "a.*": 2.0}, r"the patterns '\*\.w' and 'a\.\*', as long as each other, for leaf 'a\.w'"),
        ({"a.*": 1.0, "z*": 2.0}, r"a clip for leaves that the layout lacks: 'z\*'"),
        ({"b*": 1.0}, "no clip for the leaves 'a.w'"),
        ({"a.w*w": 1.0}, "no clip for the leaves 'a.w'"),
        ({"*": "much"}, r"got clip='much' for '\*'"),
    ],
)
def test_clips_that_leave_a_leaf_in_doubt(clip: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FixedPoint(clip).segments(Layout.of({"a": {"w": np.zeros(1)}}), None)


PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@given(PATTERNS, st.lists(st.text("ab", min_size=1, max_size=7), min_size=1, max_size=5, unique=True))
def test_patterns_keptas_the_shell_has_them(patterns: list[str], names: list[str]) -> None:
    wild = [pattern for pattern in patterns if "*" in pattern]
    kept = _clips._Patterns(wild)
    for name in names:
        expected = {pattern for pattern in wild if fnmatch.fnmatchcase(name, pattern)}
        assert {pattern for _, pattern in kept.matching(name)} == expected
        assert kept.matching(name) == sorted((len(pattern.replace("*", "")), pattern) for pattern in expected)


@pytest.mark.parametrize("clip", [{f"{n}*": 1.0 for n in range(257)}, {"*a" * 17: 1.0, "*": 1.0}])
def test_patterns_are_few_and_short(clip: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected at most 256 patterns of at most 16 '\*'"):
        FixedPoint(clip)


def test_a_name_meets_few_patterns_and_a_task_resolves_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    update = {f"block{n}.weight": np.zeros(1, np.float32) for n in range(2000)}
    clip = {f"block{n}*": 1.0 for n in range(500, 756)} | dict.fromkeys(update, 2.0)
    compared, resolved = [], []
    compare, resolve = _clips._holds_in_order, _clips._resolve

    def counted(*arguments: Any) -> bool:
        compared.append(arguments)
        return compare(*arguments)

    def counted_resolve(*arguments: Any) -> tuple[float, ...]:
        resolved.append(arguments)
        return resolve(*arguments)

    monkeypatch.setattr(_clips, "_holds_in_order", counted)
    monkeypatch.setattr(_clips, "_resolve", counted_resolve)
    task = secagg.Task(
        protocol=secagg.Clear(),
        layout=Layout.of(update),
        encoding=FixedPoint(clip),
        max_clients=3,
        min_survivors=2,
    )
    secagg.simulate(task, [update] * 3)
    assert task.describe()
    assert len(resolved) == 1
    assert len(compared) == 256, "not 256 for each of 2000 names"


def test_clips_of_some_layouts_are_kept_and_never_mistaken() -> None:
    layouts = [Layout.of({name: np.zeros(1)}) for name in "abcdefg"]
    encodings = [FixedPoint({"*": float(n + 1)}, bits=2) for n in range(3)]
    for _ in range(2):
        for layout in layouts:
            for n, encoding in enumerate(encodings):
                assert encoding.steps(layout) == {layout.leaves[0].name: n + 1}
    assert len(_clips._known) <= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_leaf_that_was_clipped_whole_is_named(dtype: Any, caplog: pytest.LogCaptureFixture) -> None:
    update = {
        "bn": np.array(1500),
        "empty": np.zeros((0, 2)),
        "part": np.array([5, 0.5], dtype),
        "w": np.zeros(3, dtype),
    }
    update["edge"] = np.full(2, 0.1, dtype)
    layout = Layout.of(update)
    encoding = FixedPoint({"*": 1.0, "edge": 0.1})
    encoding.encode(layout.flatten(update), layout=layout, weight=None, max_weight=None, rng=bytes)
    lost = ["'bn'"] + ["'edge'"] * bool(dtype(0.1) > np.float64(0.1))
    (warning,) = caplog.messages
    assert warning.startswith(f"every coordinate was clipped in {len(lost)} of 5 leaves: {', '.join(lost)};")
    assert "1500" not in warning
    caplog.clear()
    FixedPoint({"*": 1.0, "bn": 1e4, "edge": 0.2}).encode(
        layout.flatten(update), layout=layout, weight=None, max_weight=None, rng=bytes
    )
    assert not caplog.messages


def test_a_suggested_encoding_cuts_little() -> None:
    rng = np.random.default_rng(1)
    updates = [
        {"w": rng.normal(0, 0.01, 5000), "steps": np.array(1500 + i), "zero": np.zeros(3), "none": np.zeros((0, 1))}
        for i in range(5)
    ]
    encoding = FixedPoint.suggest(updates, bits=np.int64(12))
    clips = dict(encoding.clip)  # type: ignore[arg-type]
    assert encoding.bits == 12
    assert clips["steps"] == 2 * 1504
    assert clips["zero"] == clips["none"] == clips["steps"]
    assert 0.05 < clips["w"] < 0.08
    assert FixedPoint.suggest(dict(enumerate(updates)), bits=12) == encoding  # type: ignore[arg-type]
    tight = FixedPoint.suggest(updates, quantile=0.5, headroom=1)
    assert dict(tight.clip)["steps"] == 1502  # type: ignore[arg-type]
    for bad in ({"quantile": 0}, {"quantile": 1.1}, {"headroom": 0.5}, {"bits": 40}):
        with pytest.raises(ConfigError):
            FixedPoint.suggest(updates, **bad)  # type: ignore[arg-type]
    for wrong in ([{"w": np.array([np.nan])}], [updates[0], updates[0] | {"w": np.zeros(1)}]):
        with pytest.raises(EncodingError):
            FixedPoint.suggest(wrong)


@pytest.mark.parametrize("empty", [{}, [], iter([])], ids=["dict", "list", "iterator"])
def test_no_clip_is_suggested_from_no_updates_or_too_many(empty: Any) -> None:
    with pytest.raises(ConfigError, match="got no updates; expected at least one"):
        FixedPoint.suggest(empty)
    with pytest.raises(ConfigError, match="got more than 4096 updates"):
        FixedPoint.suggest(itertools.repeat({"w": np.ones(1)}))


def test_a_clip_that_is_a_guess_is_a_warning_that_names_a_leaf(caplog: pytest.LogCaptureFixture) -> None:
    assert FixedPoint.suggest([{"w": np.zeros(3), "b": np.zeros(1)}] * 2).clip == (("b", 1.0), ("w", 1.0))
    assert FixedPoint.suggest([{"w": np.zeros(3), "b": np.ones(1)}]).clip == (("b", 2.0), ("w", 2.0))
    FixedPoint.suggest([{"w": np.ones(3), "none": np.zeros((0, 1))}])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(", are zero")[0] for text in warnings] == [
        "2 of 2 leaves, such as 'b'",
        "1 of 2 leaves, such as 'w'",
    ]
    assert "They get 1, which is a guess" in warnings[0]
    assert "They get 2, the largest of the other clips" in warnings[1]

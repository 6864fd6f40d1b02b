"""Rules over group means: liars in a minority of groups can't steer them, and what each rule promises."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dp
import secagg
from secagg.errors import Aborted, ConfigError, EncodingError
from secagg.federated import (
    CoordinateMedian,
    GeometricMedian,
    GroupRule,
    NormClippedMean,
    TrimmedMean,
    draw_groups,
    group_task,
    simulate_groups,
)
from secagg.federated.robust import named

RULES = [
    CoordinateMedian(bad=2),
    TrimmedMean(2, bad=2),
    TrimmedMean(2, bad=1),
    GeometricMedian(bad=2),
    NormClippedMean(3.0, bad=2),
]
TASK = secagg.Task(
    protocol=secagg.SecAgg(corruption=0.05),
    layout=secagg.Layout.of(np.zeros(6)),
    encoding=secagg.FixedPoint(clip=20.0, bits=20),
    max_clients=20,
    min_survivors=15,
)
COHORT = [f"c{number}" for number in range(20)]
DRAWN = b"thirty-two bytes that are public"

Plain = np.ndarray[Any, np.dtype[np.float64]]


def ids(rule: GroupRule) -> str:
    return f"{rule.label}, {rule.bad}"


@st.composite
def lying_minorities(draw: st.DrawFn) -> tuple[int, list[Plain], list[Plain]]:
    """f, the means of good groups, and as many as f that are whatever an attacker likes."""
    bad = draw(st.integers(0, 3))
    count = draw(st.integers(2 * bad + 1, 2 * bad + 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    good = [rng.normal(draw(st.integers(-3, 3)), 1.0, 7) for _ in range(count - bad)]
    scale = draw(st.sampled_from([0.0, 1.0, 1e3, 1e30, 1e140]))
    lies = [scale * rng.standard_normal(7) for _ in range(bad)]
    if bad > 1 and draw(st.booleans()):
        lies = [lies[0]] * bad  # all in one place
    return bad, good, lies


@settings(max_examples=150, deadline=None)
@given(lying_minorities())
def test_liars_in_a_minority_of_groups_move_nothing_beyond_the_honest_spread(
    groups: tuple[int, list[Plain], list[Plain]],
) -> None:
    bad, good, lies = groups
    means, spread = [*lies, *good], np.stack(good)
    slack = 1e-9 * (1 + np.abs(spread).max())
    for rule in (CoordinateMedian(bad=bad), TrimmedMean(bad, bad=bad)):
        combined = rule.combine(means)
        assert np.all(spread.min(axis=0) - slack <= combined)
        assert np.all(combined <= spread.max(axis=0) + slack)
    middle = spread.mean(axis=0)
    farthest = np.linalg.norm(spread - middle, axis=1).max()
    distance = np.linalg.norm(GeometricMedian(bad=bad).combine(means) - middle)
    assert distance <= 2 * (len(means) - bad) / (len(means) - 2 * bad) * farthest + slack
    clipped = NormClippedMean(3.0, bad=bad)
    truthful = (
        clipped.combine([*good, *good][: len(means)]) if bad == 0 else clipped.combine([*[middle] * bad, *good])
    )
    assert np.linalg.norm(clipped.combine(means) - truthful) <= 2 * 3.0 * bad / len(means) + slack


def test_control_a_plain_mean_is_moved_as_far_as_the_liar_likes() -> None:
    good = [np.full(7, 0.1)] * 4
    lie = np.full(7, -1e6)
    assert np.mean([*good, lie], axis=0).max() < -1e5
    assert TrimmedMean(0, bad=0).combine([*good, lie]).max() < -1e5  # a rule that expects no liar
    for rule in (CoordinateMedian(bad=1), TrimmedMean(1, bad=1), GeometricMedian(bad=1)):
        assert rule.combine([*good, lie]) == pytest.approx(good[0])


def test_control_liars_in_a_majority_of_groups_decide() -> None:
    means = [np.zeros(3)] * 2 + [np.full(3, 1e6)] * 3
    for rule in (CoordinateMedian(bad=1), TrimmedMean(1, bad=1), GeometricMedian(bad=1)):
        assert rule.combine(means).min() > 1e5


@pytest.mark.parametrize("rule", [TrimmedMean(2, bad=2), GeometricMedian(bad=2)], ids=ids)
def test_two_clients_that_send_ten_times_the_opposite_are_outvoted(rule: GroupRule) -> None:
    """Whole sessions of SecAgg: the liars keep to the encoding, whose clip has room for their lies."""
    rng = np.random.default_rng(3)
    honest = {party: 1.0 + 0.1 * rng.standard_normal(6) for party in COHORT}
    sent = {party: -10.0 * update if party in ("c3", "c11") else update for party, update in honest.items()}
    results = simulate_groups(group_task(TASK, 5), sent, draw_groups(COHORT, 5, DRAWN), session=b"round 1")
    means = [result.mean for result in results if isinstance(result, secagg.Simulation)]
    assert len(means) == 5
    truth = np.mean(list(honest.values()), axis=0)
    assert np.abs(rule.combine(means) - truth).max() < 0.2
    assert np.abs(np.mean(means, axis=0) - truth).max() > 1.0  # control: the mean is off by more than itself


def test_groups_whose_session_ends_badly_are_left_out_while_enough_remain() -> None:
    groups = draw_groups(COHORT, 5, DRAWN)
    updates = dict.fromkeys(COHORT, np.ones(6))
    silent = dict.fromkeys((*groups[0][:2], *groups[1][:2]), secagg.Round.MASKED_INPUT)
    results = simulate_groups(group_task(TASK, 5), updates, groups, dropouts=silent)
    means = [result.mean for result in results if isinstance(result, secagg.Simulation)]
    assert [type(result) for result in results[:2]] == [Aborted, Aborted]
    assert CoordinateMedian(bad=1).combine(means) == pytest.approx(np.ones(6), abs=1e-3)
    with pytest.raises(Aborted, match="3 groups have a sum, and the coordinate median needs 5 if 2 of them"):
        CoordinateMedian(bad=2).combine(means)
    with pytest.raises(Aborted, match="the trimmed mean needs 5"):
        TrimmedMean(2, bad=1).combine(means)


@pytest.mark.parametrize("rule", RULES, ids=ids)
def test_rules_keep_structure_and_refuse_what_does_not_fit(rule: GroupRule) -> None:
    mean = {"w": np.ones((2, 2), np.float32), "b": [np.zeros(3)]}
    combined = rule.combine(iter([mean] * 5))
    assert combined["w"].dtype == np.float32
    assert combined["w"].shape == (2, 2)
    assert combined["b"][0] == pytest.approx(np.zeros(3))
    for other in (np.zeros(7), {"w": np.ones((4, 1)), "b": [np.zeros(3)]}):
        with pytest.raises(EncodingError):
            rule.combine([mean, mean, mean, mean, other])
    for value, said in ((math.nan, "not finite"), (math.inf, "not finite"), (1e200, "beyond 1e\\+150")):
        with pytest.raises(EncodingError, match=said):
            rule.combine([*[np.zeros(3)] * 4, np.full(3, value)])
    for few in range(5):
        with pytest.raises(Aborted):
            rule.combine([np.zeros(3)] * few)
    for strange in (7, None, [None] * 5, ["a"] * 5):
        with pytest.raises((EncodingError, ConfigError)):
            rule.combine(strange)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="more than 4096 means"):
        rule.combine(np.zeros(1) for _ in range(10_000))


def test_a_rule_changes_nothing_that_it_is_given() -> None:
    means = [np.random.default_rng(seed).standard_normal(4) for seed in range(5)]
    before = [mean.copy() for mean in means]
    for rule in RULES:
        first = rule.combine(means)
        assert rule.combine(means[::-1]) == pytest.approx(first, abs=1e-9)
        assert all(np.array_equal(one, other) for one, other in zip(means, before, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 6), st.booleans(), st.sampled_from([1e-9, 1.0, 1e9])
)
def test_no_other_point_is_nearer_than_the_geometric_median(
    seed: int, count: int, size: int, far: bool, unit: float
) -> None:
    rng = np.random.default_rng(seed)
    points = unit * rng.standard_normal((count, size))
    if far and count > 2:
        points[0] *= 1e6
    median = GeometricMedian(bad=(count - 1) // 2).combine(points.copy())
    scale = np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1))

    def total(place: Plain) -> float:
        return float(np.linalg.norm(points - place, axis=1).sum())

    others = [
        *points,
        *(median + step * rng.standard_normal(size) for step in (1e-4, 1e-2, 1.0) for _ in range(20)),
    ]
    assert all(total(median) <= total(other) + 1e-6 * count * scale for other in others)


def test_the_geometric_median_of_equal_points_is_that_point() -> None:
    for points in ([np.ones(3)] * 3, [np.ones(3)] * 3 + [np.full(3, 1e9)] * 2, [np.zeros(2)]):
        assert GeometricMedian(bad=(len(points) - 1) // 2).combine(points) == pytest.approx(points[0])


def test_what_a_rule_promises_is_said_in_numbers() -> None:
    promised = CoordinateMedian(bad=2).guarantee(TASK, 5, liars=2)
    assert (promised.groups, promised.bad, promised.group_size, promised.min_survivors) == (5, 2, 4, 3)
    assert (promised.colluders, promised.anonymity, promised.epsilon, promised.noise_std) == (1, 2, None, None)
    assert promised.likelihood == 1.0
    alone = CoordinateMedian(bad=1).guarantee(TASK, 5, liars=2)
    assert alone.likelihood == pytest.approx(30 / 190)  # both in one group: 5·C(4, 2) of C(20, 2)
    text = alone.describe()
    for said in (
        "with probability 0.1579",
        "at least 3 updates, at least 2 of them honest",
        "binds honest clients only",
    ):
        assert said in text
    assert "probability" not in CoordinateMedian(bad=1).guarantee(TASK, 5).describe()
    assert CoordinateMedian(bad=1).guarantee(replace(TASK, protocol=secagg.Clear()), 5).anonymity == 1
    for rule in RULES:
        assert rule.promise in rule.guarantee(TASK, 5).describe()
    assert NormClippedMean(0.25).promise == "a bad group moves the result by at most 0.5/G in L2 norm"


def test_a_group_has_the_noise_of_a_whole_cohort_to_itself() -> None:
    """Each group's sum reaches the full ε, and so a mean over groups has √G times as much noise, or more."""
    noise = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.1, bits=20, k_stddevs=5.0)
    task = replace(TASK, encoding=noise, protocol=secagg.SecAgg(corruption=0.0), min_survivors=20)
    promised = CoordinateMedian(bad=2).guarantee(task, 5)
    whole, group = task.encoder, group_task(task, 5).encoder
    assert isinstance(whole, dp.DistributedGaussian)
    assert isinstance(group, dp.DistributedGaussian)
    assert (whole.honest, group.honest) == (19, 3)
    assert promised.epsilon == group.epsilon(6)
    assert promised.epsilon == pytest.approx(whole.epsilon(6), rel=0.02)
    assert promised.noise_std == pytest.approx(1.1 * math.sqrt(4 / 3) / 4, rel=1e-3)
    assert promised.noise_growth == pytest.approx(5 * math.sqrt((4 / 3) / (20 / 19)), rel=1e-3)
    assert promised.noise_growth / math.sqrt(5) > math.sqrt(5)
    assert f"epsilon {promised.epsilon:.4g} at delta 1e-05 a round" in promised.describe()
    updates = dict.fromkeys(COHORT, np.zeros(6))
    groups = draw_groups(COHORT, 5, DRAWN)
    measured = [
        result.mean
        for number in range(12)
        for result in simulate_groups(group_task(task, 5), updates, groups, session=b"%d" % number)
        if isinstance(result, secagg.Simulation)
    ]
    assert np.std(measured) == pytest.approx(promised.noise_std, rel=0.25)  # of 360 values
    central = replace(TASK, encoding=dp.CentralGaussian(l2_clip=1.0, noise_multiplier=1.1))
    assert CoordinateMedian(bad=1).guarantee(central, 5).noise_growth == pytest.approx(5.0, rel=1e-3)


def test_rules_that_cant_hold_are_refused() -> None:
    for bad in (-1, 1.5, None, True, 10**9):
        for make in (CoordinateMedian, GeometricMedian, partial(TrimmedMean, 3), partial(NormClippedMean, 1.0)):
            with pytest.raises(ConfigError, match="bad="):
                make(bad=bad)
    for rule in RULES:
        with pytest.raises(ConfigError, match=f"expected at least 5 if {rule.bad} may be bad"):
            rule.guarantee(TASK, 4)
    for trim in (0, 1, -1, 2.5, None):
        with pytest.raises(ConfigError, match="one that is not cut off"):
            TrimmedMean(trim, bad=2)  # type: ignore[arg-type]
    for clip in (0.0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(ConfigError, match="clip"):
            NormClippedMean(clip, bad=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="updates that all count the same"):
        replace(TASK, encoding=dp.DistributedGaussian(1.0, 1.1, 20), max_weight=10)


def test_a_command_line_names_rules_and_hears_why_others_are_refused() -> None:
    assert named("median", bad=2) == CoordinateMedian(bad=2)
    assert named("trimmed-mean", bad=2) == TrimmedMean(2, bad=2)
    assert named("geometric-median") == GeometricMedian(bad=1)
    assert named("norm-clipped-mean", clip=0.5) == NormClippedMean(0.5, bad=1)
    assert named("norm-clipped-mean") == NormClippedMean(1.0, bad=1)
    for name in ("krum", "multi-krum", "bulyan", "fltrust", "Krum"):
        with pytest.raises(ConfigError, match="it needs single updates, and secure aggregation is there"):
            named(name)
    for name in ("mode", None):
        with pytest.raises(ConfigError, match="expected median, trimmed-mean"):
            named(name)  # type: ignore[arg-type]

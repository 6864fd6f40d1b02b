"""Public linear maps: the rule they are drawn by, no bias, every protocol, DP, bytes, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dp
import secagg
from secagg.errors import ConfigError, EncodingError
from secagg.federated import Compression, CountSketch, Pruned, PublicMask, RandomK, compression, union_density
from secagg.federated.masks import named
from tests.reference import compression as naive

MODEL = {"w": np.zeros((8, 5), np.float32), "b": np.zeros(10)}
LAYOUT = secagg.Layout.of(MODEL)
PROTOCOLS = [
    secagg.Clear(),
    secagg.SecAgg(corruption=0.05),
    secagg.SecAggPlus(),
    secagg.AdditiveShares(),
    secagg.Paillier(),
    secagg.CKKS(),
    secagg.BFV(),
]


def an_update(seed: int, scale: float = 0.2) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"w": (scale * rng.standard_normal((8, 5))).astype(np.float32), "b": scale * rng.standard_normal(10)}


UPDATES = {f"c{number}": an_update(number) for number in range(4)}


def flat(update: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    return LAYOUT.flatten(update, dtype="float64").astype(np.float64)


def maps() -> list[Compression]:
    return [
        RandomK(LAYOUT, 12),
        CountSketch(LAYOUT, 12),
        CountSketch(LAYOUT, 8, rows=3),
        PublicMask(LAYOUT, 12).after(an_update(9)),
        Pruned(LAYOUT, an_update(9), 12),
    ]


def names(public_map: Any) -> str:
    return str(public_map.label if isinstance(public_map, Compression) else public_map.name)


def test_a_session_chooses_the_same_for_ever() -> None:
    """The vector: who changes the rule breaks runs between two versions."""
    session = RandomK(LAYOUT, 12).session(b"round 3")
    assert session[:7] == b"round 3"
    assert session[7:].hex() == "ba5d1a89ced978617728c048c52bebed916100ee0de97993d37a2c709d8b0453"
    assert RandomK(LAYOUT, 12).coordinates(session).tolist() == [2, 14, 17, 19, 28, 30, 33, 36, 40, 41, 43, 47]


@settings(max_examples=30)
@given(size=st.integers(1, 60), data=st.data(), name=st.binary(max_size=20))
def test_maps_are_those_of_the_rule(size: int, data: st.DataObject, name: bytes) -> None:
    layout = secagg.Layout.of(np.zeros(size))
    k, rows = data.draw(st.integers(1, size)), data.draw(st.integers(1, min(3, size)))
    values = data.draw(st.lists(st.integers(-4, 4).map(float), min_size=size, max_size=size))
    random = RandomK(layout, k)
    session = random.session(name)
    assert random.coordinates(session).tolist() == naive.random_k(size, k, session)
    mask = PublicMask(layout, k, explore=0.3, threshold=1.0)
    session = mask.session(name)
    assert mask.coordinates(session).tolist() == naive.public_mask([0.0] * size, k, k, 1.0, session)
    mask = mask.after(np.array(values))
    session = mask.session(name)
    assert mask.coordinates(session).tolist() == naive.public_mask(values, k, math.ceil(0.3 * k), 1.0, session)
    sketch = CountSketch(layout, size // rows, rows)
    session = sketch.session(name)
    sent = sketch.compress(np.array(values), session)
    assert sent.tolist() == naive.count_sketch(values, size // rows, rows, session)
    expanded = naive.expanded_sketch(sent.tolist(), size, size // rows, session)
    assert sketch.expand(sent, session).tolist() == expanded


def test_a_sketch_is_the_same_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = CountSketch(LAYOUT, 8, rows=3)
    session = sketch.session(b"r")
    sent = sketch.compress(an_update(1), session)
    whole = flat(sketch.expand(sent, session))
    monkeypatch.setattr(compression, "_PIECE", 7)
    assert np.allclose(sketch.compress(an_update(1), session), sent, atol=1e-12)
    assert np.array_equal(flat(sketch.expand(sent, session)), whole)


@pytest.mark.parametrize(
    "public_map", [RandomK(LAYOUT, 10), CountSketch(LAYOUT, 10), CountSketch(LAYOUT, 5, 3)], ids=names
)
def test_expanded_updates_have_no_bias(public_map: Compression) -> None:
    """Over 4000 sessions the mean of each coordinate is within five standard errors."""
    update, rounds = flat(an_update(3)), 4000
    expanded = np.empty((rounds, LAYOUT.size))
    for number in range(rounds):
        session = public_map.session(b"round %d" % number)
        expanded[number] = public_map._expand(public_map._compress(update, session), session)
    error = expanded.mean(axis=0) - update
    assert np.all(np.abs(error) < 5 * expanded.std(axis=0) / math.sqrt(rounds) + 1e-12)
    squares = ((expanded - update) ** 2).sum(axis=1).mean()
    if isinstance(public_map, RandomK):
        assert squares == pytest.approx((LAYOUT.size / 10 - 1) * (update @ update), rel=0.1)
    elif public_map.rows == 1:
        variances = (update @ update - update**2) / public_map.width
        assert expanded.var(axis=0) == pytest.approx(variances, rel=0.2)
        assert squares == pytest.approx(variances.sum(), rel=0.1)


def test_control_without_the_scale_random_k_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomK, "scale", 1.0)
    with pytest.raises(AssertionError):
        test_expanded_updates_have_no_bias(RandomK(LAYOUT, 10))


def test_the_smallest_of_many_values_are_taken_and_of_equal_ones_the_first() -> None:
    rng = np.random.default_rng(2)
    for values in (rng.integers(0, 50, 3000), rng.standard_normal(3000)):
        order = np.argsort(values, kind="stable")
        for count in (0, 1, 2, 77, 1500, 2999, 3000):
            assert compression.smallest(values, count).tolist() == sorted(order[:count].tolist())


def test_every_coordinate_is_chosen_as_often() -> None:
    public_map = RandomK(LAYOUT, 10)
    counts = np.zeros(LAYOUT.size)
    for number in range(4000):
        counts[public_map.coordinates(public_map.session(b"%d" % number))] += 1
    assert np.all(np.abs(counts - 800) < 5 * math.sqrt(800 * 0.8))  # binomial: 4000 rounds, 10 of 50


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=names)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_the_sum_of_what_is_sent_is_the_map_of_the_sum(protocol: Any, weighted: bool) -> None:
    weights = {party: number + 1 for number, party in enumerate(UPDATES)} if weighted else None
    mean = np.average([flat(u) for u in UPDATES.values()], axis=0, weights=list((weights or {}).values()) or None)
    for public_map in maps() if isinstance(protocol, secagg.SecAgg) else maps()[:2]:
        session = public_map.session(b"round 1")
        task = secagg.Task(
            protocol=protocol,
            layout=public_map.compressed,
            encoding=secagg.FixedPoint(clip=4.0, bits=24),
            max_clients=4,
            min_survivors=4,
            max_weight=4 if weighted else None,
        )
        sent = {party: public_map.compress(update, session) for party, update in UPDATES.items()}
        outcome = secagg.simulate(task, sent, weights=weights, session=session)
        expected = public_map._expand(public_map._compress(mean, session), session)
        got = public_map.expand(outcome.mean, session)
        assert got["w"].dtype == np.float32
        assert flat(got) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("public_map", maps(), ids=names)
def test_noise_is_made_for_what_is_sent(public_map: Compression) -> None:
    """The clip comes after the map, so a sketch that is longer than its update is shortened too."""
    session = public_map.session(b"round 1")
    task = secagg.Task(
        protocol=secagg.SecAgg(corruption=0.05),
        layout=public_map.compressed,
        encoding=dp.DistributedGaussian(l2_clip=0.3, noise_multiplier=0.01, bits=24, k_stddevs=6.0),
        max_clients=4,
        min_survivors=4,
    )
    sent = {party: public_map.compress(update, session) for party, update in UPDATES.items()}
    outcome = secagg.simulate(task, sent, session=session)
    assert outcome.epsilon_guaranteed == task.encoder.epsilon(public_map.size)  # type: ignore[attr-defined]
    short = [vector * min(1.0, 0.3 / np.linalg.norm(vector)) for vector in sent.values()]
    assert min(np.linalg.norm(vector) for vector in sent.values()) > 0.3  # all are clipped
    assert np.linalg.norm(outcome.mean - np.mean(short, axis=0)) < 0.05
    assert np.isfinite(flat(public_map.expand(outcome.mean, session))).all()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=names)
def test_a_tenth_of_the_coordinates_saves_most_bytes(protocol: Any) -> None:
    def up(layout: secagg.Layout) -> int:
        task = secagg.Task(protocol, layout, secagg.FixedPoint(clip=1.0, bits=16), 20, 15)
        return sum(protocol.cost(task).up.values())

    large = secagg.Layout.of(np.zeros(100_000))
    for public_map in (RandomK(large, 10_000), CountSketch(large, 10_000), PublicMask(large, 10_000)):
        assert up(large) >= 8.5 * up(public_map.compressed)
    if not isinstance(protocol, secagg.Clear):  # below 10^4 coordinates keys outweigh the model
        small = secagg.Layout.of(np.zeros(1_000))
        assert up(small) < 6 * up(RandomK(small, 100).compressed)


@pytest.mark.parametrize("public_map", maps(), ids=names)
def test_what_does_not_fit_is_refused(public_map: Compression) -> None:
    session = public_map.session(b"r")
    for update in ({"w": np.zeros((5, 8)), "b": np.zeros(10)}, np.zeros(50), {"w": np.zeros((8, 5))}):
        with pytest.raises(EncodingError):
            public_map.compress(update, session)
    for position in range(LAYOUT.size):  # in coordinates that are not sent, too
        bad = np.zeros(LAYOUT.size)
        bad[position] = [math.nan, math.inf, -math.inf][position % 3]
        with pytest.raises(EncodingError, match="1 coordinates that are not finite"):
            public_map.compress(LAYOUT.restore(bad), session)
    size = public_map.size
    for mean in (np.zeros(size + 1), np.full(size, math.nan), {"a": np.zeros(size)}):
        with pytest.raises(EncodingError):
            public_map.expand(mean, session)
    with pytest.raises(EncodingError, match="too large for their dtype"):  # no float32, which leaf w is
        public_map.expand(np.full(size, 1e300), session)
    for name in ("r", None, 3, b"x" * 1000):
        with pytest.raises(ConfigError):
            public_map.session(name)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            public_map.compress(MODEL, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [RandomK, CountSketch, PublicMask, lambda layout, k: Pruned(layout, MODEL, k)])
@pytest.mark.parametrize("k", [0, 51, -1, 2.5, True, "9", None])
def test_k_beyond_the_vector_is_refused(kind: Any, k: object) -> None:
    with pytest.raises(ConfigError, match="expected an integer from 1 to 50"):
        kind(LAYOUT, k)


def test_a_sketch_of_numbers_that_add_up_beyond_a_float_is_refused() -> None:
    sketch = CountSketch(secagg.Layout.of(np.zeros(9)), 1)
    session = sketch.session(b"r")
    _, signs = sketch._hashes(slice(0, 9), 0, session)
    with pytest.raises(EncodingError, match="not finite"):
        sketch.compress(signs * 1e308, session)


def test_other_parameters_are_refused() -> None:
    for rows in (0, 51, 1.5):
        with pytest.raises(ConfigError, match="rows"):
            CountSketch(LAYOUT, 1, rows)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width"):
        CountSketch(LAYOUT, 26, rows=2)
    with pytest.raises(ConfigError, match=r"expected secagg\.Layout\.of"):
        RandomK(MODEL, 3)  # type: ignore[arg-type]


def test_a_command_line_names_maps_and_hears_why_others_are_refused() -> None:
    for public_map in (named(name, MODEL, 7) for name in ("random-k", "count-sketch", "public-mask", "pruned")):
        assert public_map.size == 7
        assert f"{public_map.label}: 7 of 50 coordinates" in "\n".join(public_map.describe())
    assert "by 4 times the mean's squared norm" in "\n".join(RandomK(LAYOUT, 10).describe())
    assert "of which the median is taken" in "\n".join(CountSketch(LAYOUT, 8, rows=3).describe())
    assert "median" not in "\n".join(CountSketch(LAYOUT, 8).describe())
    with pytest.raises(ConfigError, match="which ones it sends reveals something of its update"):
        named("top-k", MODEL, 7)
    for name in ("zip", None, 7):
        with pytest.raises(ConfigError, match="expected one of random-k, count-sketch, public-mask, pruned"):
            named(name, MODEL, 7)  # type: ignore[arg-type]


def test_the_union_of_own_choices_is_dense() -> None:
    rng = np.random.default_rng(1)
    union = np.zeros(100_000, np.bool_)
    for _ in range(100):
        union[rng.choice(union.size, 1000, replace=False)] = True
    assert union.mean() == pytest.approx(union_density(0.01, 100), abs=0.01)
    assert union_density(0.01, 100) == pytest.approx(0.634, abs=1e-3)
    assert (union_density(1.0, 3), union_density(0.5, 0), union_density(0.0, 9)) == (1.0, 0.0, 0.0)
    for share, clients in ((1.1, 3), (-0.1, 3), (math.nan, 3), (0.5, -1), (0.5, 1.5), (0.5, 10**400)):
        with pytest.raises(ConfigError, match="got a share"):
            union_density(share, clients)  # type: ignore[arg-type]

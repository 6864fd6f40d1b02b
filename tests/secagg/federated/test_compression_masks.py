"""Masks from public data: how they follow aggregates, residuals, and a server that tells clients different ones."""

from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import ConfigError, EncodingError
from secagg.federated import CountSketch, Pruned, PublicMask, RandomK, Residual
from secagg.federated.compression import Compression

LAYOUT = secagg.Layout.of(np.zeros(40))
RNG = np.random.default_rng(5)
CLIENTS = ("c1", "c2", "c3", "c4")


def a_task(public_map: Compression) -> secagg.Task:
    return secagg.Task(
        protocol=secagg.SecAgg(threat_model="semi-honest", corruption=0.05),
        layout=public_map.compressed,
        encoding=secagg.FixedPoint(clip=1.0, bits=20),
        max_clients=4,
        min_survivors=4,
    )


def test_the_largest_changes_are_sent_and_the_others_explored() -> None:
    mask = PublicMask(LAYOUT, 10, explore=0.4, threshold=0.5)
    aggregate = np.zeros(40)
    aggregate[[3, 17, 30]] = [-2.0, 1.0, 0.5]  # the last is not above the threshold
    after = mask.after(aggregate)
    sent = [set(after.coordinates(after.session(b"%d" % number)).tolist()) for number in range(200)]
    assert all(len(coordinates) == 10 and {3, 17} <= coordinates for coordinates in sent)
    assert set.intersection(*sent) == {3, 17}
    assert set.union(*sent) == set(range(40))  # exploring reaches every coordinate
    many = mask.after(np.arange(40.0))
    top = set.intersection(*(set(many.coordinates(many.session(b"%d" % n)).tolist()) for n in range(200)))
    assert top == {34, 35, 36, 37, 38, 39}  # six of ten: four explore


def test_a_mask_without_an_exploring_share_is_refused() -> None:
    for explore in (0, 0.0, -0.1, 1.01, float("nan"), None, "half"):
        with pytest.raises(ConfigError, match="a share above 0"):
            PublicMask(LAYOUT, 10, explore=explore)  # type: ignore[arg-type]
    for threshold in (-1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(ConfigError, match="threshold"):
            PublicMask(LAYOUT, 10, threshold=threshold)  # type: ignore[arg-type]
    assert PublicMask(LAYOUT, 10, explore=1e-9).exploring == 1
    assert PublicMask(LAYOUT, 10, explore=0.1).exploring == 1  # of floats, 0.1 times 10 may be more than 1
    assert PublicMask(LAYOUT, 10, explore=1).exploring == 10


def test_control_without_exploring_nothing_new_is_ever_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicMask, "exploring", 0)
    aggregate = np.zeros(40)
    aggregate[:10] = 1.0
    after = PublicMask(LAYOUT, 10).after(aggregate)
    assert {tuple(after.coordinates(after.session(b"%d" % n))) for n in range(50)} == {tuple(range(10))}


def test_a_clients_own_coordinates_are_refused_with_the_reason() -> None:
    for own in (np.arange(40), np.arange(10), np.ones(40, np.bool_), [1, 2, 3]):
        with pytest.raises(ConfigError, match="which ones it sends reveals something of its update") as refused:
            PublicMask(LAYOUT, 10).after(own)
        assert "100 clients fill 63 %" in str(refused.value)
    with pytest.raises(EncodingError):
        PublicMask(LAYOUT, 10).after(np.zeros(39))
    with pytest.raises(EncodingError, match="not finite"):
        PublicMask(LAYOUT, 10).after(np.full(40, np.nan))


def test_pruned_maps_follow_the_global_model() -> None:
    model = RNG.standard_normal(40)
    pruned = Pruned(LAYOUT, model, 10)
    kept = np.sort(np.argsort(-np.abs(model))[:10])
    assert pruned.coordinates(pruned.session(b"1")).tolist() == kept.tolist()
    with pytest.raises(ValueError, match="read-only"):  # the digest names these
        pruned.coordinates(pruned.session(b"1"))[:] = 0
    small = pruned.prune(model)
    assert np.array_equal(np.flatnonzero(small), kept)
    assert np.array_equal(small[kept], model[kept])
    assert pruned.after(model) is pruned
    zeros = Pruned(LAYOUT, np.zeros(40), 3)
    assert zeros.coordinates(zeros.session(b"")).tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="does not name this pruned"):
        Pruned(LAYOUT, -model[::-1], 10).compress(model, pruned.session(b"1"))


def test_maps_that_differ_have_other_sessions() -> None:
    model, other = RNG.standard_normal(40), RNG.standard_normal(40)
    mask = PublicMask(LAYOUT, 10)
    maps = [
        RandomK(LAYOUT, 10),
        RandomK(LAYOUT, 11),
        RandomK(secagg.Layout.of({"a": np.zeros(40)}), 10),
        CountSketch(LAYOUT, 10),
        CountSketch(LAYOUT, 5, 2),
        mask,
        PublicMask(LAYOUT, 10, explore=0.4),
        PublicMask(LAYOUT, 10, threshold=0.1),
        mask.after(model),
        mask.after(other),
        Pruned(LAYOUT, model, 10),
        Pruned(LAYOUT, other, 10),
    ]
    assert len({one.session(b"r") for one in maps}) == len(maps)
    assert mask.after(model).session(b"r") == mask.after(-model).session(b"r")  # only sizes matter
    assert PublicMask(LAYOUT, 10, threshold=-0.0).session(b"r") == mask.session(b"r")


def test_server_and_clients_expand_the_mean_to_one_mask() -> None:
    """With leaves of float32, too; a difference of two models is another aggregate, with another digest."""
    layout = secagg.Layout.of({"w": np.zeros(40, np.float32)})
    mask = PublicMask(layout, 10)
    session = mask.session(b"1")
    mean = RNG.standard_normal(10)
    server, client = mask.after(mask.expand(mean, session)), mask.after(mask.expand(mean.copy(), session))
    assert server.session(b"2") == client.session(b"2")
    model = RNG.standard_normal(40).astype(np.float32)
    moved = {"w": (model + mask.expand(mean, session)["w"]) - model}
    assert mask.after(moved).session(b"2") != server.session(b"2")


def test_a_residual_loses_nothing_but_what_is_clipped() -> None:
    """Over many rounds, what was sent and what is left is all that the client had."""
    mask, residual, had, sent = PublicMask(LAYOUT, 8), Residual(LAYOUT), np.zeros(40), np.zeros(40)
    for number in range(30):
        update = RNG.standard_normal(40)
        session = mask.session(b"round %d" % number)
        vector, after = residual.compress(mask, update, session)
        again, _ = residual.compress(mask, update, session)
        assert np.array_equal(vector, again)  # an aborted session changed nothing
        aggregate = mask.expand(vector, session)
        had, sent, residual, mask = had + update, sent + aggregate, after, mask.after(aggregate)
    assert sent + residual.vector == pytest.approx(had)
    assert np.count_nonzero(residual.vector) == 32


def test_a_residual_is_saved_and_erased() -> None:
    mask = PublicMask(LAYOUT, 8)
    _, residual = Residual(LAYOUT).compress(mask, RNG.standard_normal(40), mask.session(b"1"))
    data = residual.to_bytes()
    assert Residual.from_bytes(data, LAYOUT).to_bytes() == data
    nan = data[:-8] + np.array([np.nan], "<f8").tobytes()
    for bad in (data[:-1], data + b"\0", b"", nan, data[:30] + b"!" + data[31:], 7):
        with pytest.raises(ConfigError):
            Residual.from_bytes(bad, LAYOUT)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not the residual of this layout"):
        Residual.from_bytes(data, secagg.Layout.of({"a": np.zeros(40)}))
    with pytest.raises(ConfigError, match=r"expected secagg\.Layout\.of"):
        Residual(np.zeros(40))  # type: ignore[arg-type]
    memory = residual._vector
    residual.erase()
    assert not memory.any()
    assert not residual.vector.any()
    assert repr(residual) == "<Residual of 40 coordinates>"


def test_a_residual_needs_a_public_mask() -> None:
    for public_map in (RandomK(LAYOUT, 8), CountSketch(LAYOUT, 8), Pruned(LAYOUT, np.ones(40), 8)):
        with pytest.raises(ConfigError, match="expected a PublicMask"):
            Residual(LAYOUT).compress(public_map, np.zeros(40), public_map.session(b"1"))  # type: ignore[arg-type]
    mask = PublicMask(secagg.Layout.of([np.zeros(40)]), 8)
    with pytest.raises(ConfigError, match="another layout"):
        Residual(LAYOUT).compress(mask, np.zeros(40), mask.session(b"1"))
    good = PublicMask(LAYOUT, 8)
    for update in (np.full(40, np.inf), np.zeros(41)):
        with pytest.raises(EncodingError):
            Residual(LAYOUT).compress(good, update, good.session(b"1"))


def test_what_waits_stays_finite() -> None:
    """Otherwise one round of huge updates would make every later one of this client useless."""
    mask, huge = PublicMask(LAYOUT, 1), np.full(40, 1.7e308)
    _, residual = Residual(LAYOUT).compress(mask, huge, mask.session(b"1"))
    before = residual.to_bytes()
    with pytest.raises(EncodingError, match="not finite with what was held back"):
        residual.compress(mask, huge, mask.session(b"2"))
    assert residual.to_bytes() == before
    residual.compress(mask, np.zeros(40), mask.session(b"2"))


def test_an_update_with_its_residual_is_clipped_like_any_other() -> None:
    """What waits is added before the clip: a client that kept back for long has no larger share in a sum."""
    mask, residual = PublicMask(LAYOUT, 8), Residual(LAYOUT)
    for number in range(20):
        vector, residual = residual.compress(mask, np.full(40, 0.9), mask.session(b"%d" % number))
    assert vector.max() > 1.0
    updates: dict[str, Any] = dict.fromkeys(CLIENTS[1:], np.zeros(8)) | {"c1": vector}
    outcome = secagg.simulate(a_task(mask), updates)
    assert outcome.sum.max() == pytest.approx(1.0, abs=1e-4)
    assert outcome.clipped == np.count_nonzero(vector > 1.0)

"""Graph parameters equal the published table and a naive twin, and fail as rarely as they say."""

import json
from dataclasses import FrozenInstanceError
from fractions import Fraction
from math import floor, log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mpc import graph
from mpc.errors import MPCError
from tests.reference import graph as reference

PUBLISHED = json.loads(
    (Path(__file__).parent.parent / "vectors" / "harary_parameters.json").read_text(encoding="utf-8")
)
SERVERS = ("curious", "semi-malicious")
RING_OF_12 = [5, 9, 4, 0, 7, 11, 2, 1, 10, 8, 3, 6]


LARGER = {
    (1000, 0.45, 0.45, "curious"): (824, 418),
    (10_000, 0.45, 0.45, "curious"): (3498, 1773),
    (100_000, 0.45, 0.45, "curious"): (5510, 2789),
    (10_000, 0.3, 0.3, "semi-malicious"): (4828, 3234),
    (1000, 0.0, 0.33, "semi-malicious"): (230, 116),
}
"""Where a client's neighbours are drawn from the others; the published table draws them from all n."""


@pytest.mark.parametrize("row", PUBLISHED["rows"], ids=lambda row: "-".join(map(str, row[:4])))
def test_published_table(row: list, monkeypatch: pytest.MonkeyPatch) -> None:
    n, corruption, dropout, server, *published = row
    parameters = graph.harary_parameters(n, corruption=corruption, dropout=dropout, server=server)
    assert parameters == LARGER.get((n, corruption, dropout, server), tuple(published))
    monkeypatch.setattr(graph, "most_neighbours", graph.most_marked)
    numbers = floor(Fraction(str(corruption)) * n), floor(Fraction(str(dropout)) * n)
    arguments = dict(zip(("corrupt", "dropping"), numbers, strict=True))
    assert graph.sparse_parameters.__wrapped__(n, **arguments, server=server) == tuple(published)


def test_control_other_security_is_not_in_the_table() -> None:
    assert graph.harary_parameters(1000, corruption=0.05, dropout=0.33, security=50) != (72, 24)
    assert graph.harary_parameters(
        1000, corruption=0.05, dropout=0.33, server="semi-malicious", correctness=30
    ) != (
        398,
        223,
    )


@settings(max_examples=150)
@given(
    n=st.integers(2, 60),
    corruption=st.integers(0, 60),
    dropout=st.integers(0, 60),
    server=st.sampled_from(SERVERS),
    security=st.sampled_from([1, 4, 8, 20, 40]),
    correctness=st.sampled_from([1, 4, 8, 20]),
    windows=st.booleans(),
)
def test_equal_to_the_naive_twin(
    n: int, corruption: int, dropout: int, server: str, security: int, correctness: int, windows: bool
) -> None:
    a, d = min(corruption, n), min(dropout, n)
    wanted = reference.harary_parameters(
        n, Fraction(a, n), Fraction(d, n), server, security, correctness, windows=windows
    )
    ours = graph.sparse_parameters(
        n, corrupt=a, dropping=d, server=server, security=security, correctness=correctness, windows=windows
    )
    assert ours == wanted


def test_a_tie_is_within_the_limit() -> None:
    """Pr[X > 0] = 1/4 where one of four is drawn and one is marked; so is the limit 2^-bits/n, at no bits."""
    assert graph.most_marked(4, 1, 1, 1) == 1
    assert graph._is_rare(4, 1, 1, 0, 0, 4)
    assert not graph._is_rare(4, 1, 1, 0, 1, 4)
    assert not graph._is_rare(4, 1, 1, 0, 0, 5)
    assert graph._is_rare(8, 1, 1, 0, 0, 8)


@settings(max_examples=100)
@given(data=st.data())
def test_most_marked_is_the_least_bound(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 200))
    marked, sampled, bits = (
        data.draw(st.integers(0, n)),
        data.draw(st.integers(0, n)),
        data.draw(st.integers(1, 50)),
    )
    least = graph.most_marked(n, marked, sampled, bits)
    tails = [Fraction(0)]
    for x in range(sampled, -1, -1):
        tails.append(tails[-1] + reference.probability(n, marked, sampled, x))
    tails = tails[::-1]  # tails[x] = Pr[X >= x]
    limit = Fraction(1, n << bits)
    assert tails[least + 1] <= limit
    assert least == 0 or tails[least] > limit


@settings(max_examples=60)
@given(data=st.data())
def test_one_clients_neighbours_are_drawn_from_the_others(data: st.DataObject) -> None:
    """By the exact tail: with n - 1 to draw from, the marked ones all among them."""
    n = data.draw(st.integers(4, 200))
    marked, degree = data.draw(st.integers(0, n - 1)), 2 * data.draw(st.integers(1, (n - 1) // 2))
    bits = data.draw(st.integers(1, 50))
    least = graph.most_neighbours(n, marked, degree, bits)

    def tail(x: int) -> Fraction:
        return sum((reference.probability(n - 1, marked, degree, j) for j in range(x + 1, degree + 1)), Fraction(0))

    limit = Fraction(1, n << bits)
    assert tail(least) <= limit
    assert least == max(0, degree + marked - (n - 1)) or tail(least - 1) > limit


def test_control_drawn_from_all_of_them_the_odds_are_over_the_limit() -> None:
    """As the published finder counts: half a bit over for one client of 1,000, nearly half of them corrupt."""
    n, marked, degree = 1000, 450, 822
    least = graph.most_marked(n, marked, degree, 41)
    chance = sum(reference.probability(n - 1, marked, degree, x) for x in range(least + 1, degree + 1))
    over = log2(float(chance)) + 41 + log2(n)
    assert 0.5 < over < 0.6
    assert graph.most_neighbours(n, marked, degree, 41) == least + 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n": 0}, "at least 1"),
        ({"corruption": 1.0}, "below 1"),
        ({"dropout": -0.1}, "at least 0"),
        ({"corruption": "many"}, "fraction such as"),
        ({"server": "honest"}, "'curious' or"),
        ({"security": 0}, "got security=0"),
        ({"correctness": 2000}, "got correctness=2000"),
        ({"corruption": 0.5, "dropout": 0.5}, "take the complete graph"),
        (
            {"corruption": 0.34, "dropout": 0.34, "server": "semi-malicious"},
            "340 may be corrupt and 340 may drop out",
        ),
    ],
)
def test_refused(changes: dict, match: str) -> None:
    arguments = {"n": 1000, "corruption": 0.05, "dropout": 0.05} | changes
    with pytest.raises(MPCError, match=match):
        graph.harary_parameters(arguments.pop("n"), **arguments)


@pytest.mark.parametrize(
    ("n", "corrupt", "dropping", "server"),
    [
        *((100, 5, 33, "curious"), (54, 1, 23, "curious"), (40, 10, 10, "curious")),
        *((100, 5, 20, "semi-malicious"), (100, 5, 33, "semi-malicious")),
    ],
)
def test_whole_numbers_decide_as_the_logarithms_do(
    n: int, corrupt: int, dropping: int, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for close, every comparison is made by counting. In the first rows connectivity is what binds."""
    monkeypatch.setattr(graph, "_CLOSE", float("inf"))
    ours = graph.sparse_parameters.__wrapped__(n, corrupt=corrupt, dropping=dropping, server=server)
    wanted = reference.harary_parameters(n, Fraction(corrupt, n), Fraction(dropping, n), server, 40, 20)
    assert ours == wanted is not None
    degree, removed = ours[0], corrupt + dropping
    if server == "curious":
        assert degree == graph._least_connected(n, removed, 40)
        assert not graph._stays_connected(n, removed, degree - 2, 40)


@pytest.mark.parametrize(("n", "corrupt", "window"), [(100, 5, 22), (200, 10, 12), (200, 20, 46), (200, 40, 30)])
@pytest.mark.parametrize("security", [39, 40, 46])
def test_window_floor_equals_the_naive_twin(n: int, corrupt: int, window: int, security: int) -> None:
    """In these but the first, a bit more or less of security is another floor."""
    floor = graph.window_floor(n, corrupt=corrupt, window=window, security=security)
    assert floor == reference.most_corrupt(n, corrupt, window, security)


def test_the_ring_that_a_seed_draws() -> None:
    """Every party draws it for itself, so it can't change. The transcripts' independent script draws it too."""
    assert graph.draw_ring(12, bytes(range(32))).order.tolist() == RING_OF_12


@settings(max_examples=60)
@given(n=st.integers(3, 70), seed=st.binary(min_size=32, max_size=32), data=st.data())
def test_ring_equals_the_naive_twin(n: int, seed: bytes, data: st.DataObject) -> None:
    ring = graph.draw_ring(n, seed)
    order = ring.order.tolist()
    assert sorted(order) == list(range(n))
    degree = 2 * data.draw(st.integers(1, max(1, (n - 2) // 2)))
    members = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    for node in range(n):
        assert ring.neighbours(node, min(degree, n - 1)) == reference.neighbours(order, node, min(degree, n - 1))
        near = ring.neighbours(node, degree)
        assert ring.ranks(node, degree) == [ring.neighbours(other, degree).index(node) for other in near]
    assert ring.least_in_window(members, degree // 2) == reference.least_in_window(order, members, degree // 2)


def test_rings_are_uniform() -> None:
    """All 24 orders of four nodes, equally often: chi-square at a chance of 10^-6."""
    counts: dict[tuple, int] = {}
    for number in range(24 * 200):
        order = tuple(graph.draw_ring(4, number.to_bytes(32, "big")).order.tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 73


REUSED = 4
"""Casts played on each ring: drawing rings takes the longest, and a fresh cast alone makes trials independent."""


def trials(n: int, corrupt: int, dropping: int, degree: int, count: int) -> dict[str, Any]:
    """On drawn rings with corrupt and dropping clients at random: how often each bad event happens."""
    rng = np.random.default_rng(7)
    half = degree // 2
    kinds = np.zeros((count, n), np.int8)
    kinds[:, :corrupt] = 1
    kinds[:, corrupt : corrupt + dropping] = 2  # the worst case: nobody is both
    kinds = rng.permuted(kinds, axis=1)
    rings = [graph.draw_ring(n, rng.bytes(32)).order for _ in range(count // REUSED)]
    seats = np.concatenate([kinds[i * REUSED : (i + 1) * REUSED, order] for i, order in enumerate(rings)])

    def running(members: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((count, 1), np.int16), members.cumsum(axis=1, dtype=np.int16)], axis=1)

    def around(members: np.ndarray) -> np.ndarray:
        sums = running(np.concatenate([members[:, -half:], members, members[:, :half]], axis=1))
        return sums[:, degree + 1 :] - sums[:, : -degree - 1] - members

    removed = seats > 0
    sums = running(np.concatenate([removed, removed[:, :half]], axis=1))
    full = (sums[:, half:-1] - sums[:, : -half - 1]) == half  # a run of k/2 neighbours, all removed
    cuts = (full & ~np.roll(full, 1, axis=1)).sum(axis=1)
    return {
        "corrupt": np.where(seats == 1, 0, around(seats == 1)).max(axis=1),
        "surviving": np.where(seats == 2, degree, around(seats != 2)).min(axis=1),
        "cut": (cuts >= 2).mean(),
    }


@pytest.mark.parametrize(
    ("server", "n", "corrupt", "dropping", "bits", "count"),
    [
        ("curious", 100, 10, 20, 8, 80_000),
        ("curious", 60, 6, 6, 8, 80_000),
        ("curious", 200, 40, 20, 7, 48_000),
        ("curious", 100, 10, 20, 4, 20_000),
        ("semi-malicious", 60, 6, 6, 4, 20_000),
    ],
)
def test_failures_are_as_rare_as_predicted(
    server: Any, n: int, corrupt: int, dropping: int, bits: int, count: int
) -> None:
    """At few bits of each: the rates are those of the tails and within the limits; one notch off, they are not."""
    degree, threshold = graph.sparse_parameters(
        n, corrupt=corrupt, dropping=dropping, server=server, security=bits, correctness=bits
    )
    least = graph.most_neighbours(n, corrupt, degree, bits + 1)
    most = degree - graph.most_neighbours(n, dropping, degree, bits)
    outcomes = trials(n, corrupt, dropping, degree, count)
    for rate, predicted, limit in (
        (
            (outcomes["corrupt"] > least).mean(),
            (n - corrupt)
            * sum(reference.probability(n - 1, corrupt, degree, x) for x in range(least + 1, degree + 1)),
            2.0 ** -(bits + 1),
        ),
        (
            (outcomes["surviving"] < most).mean(),
            (n - dropping) * sum(reference.probability(n - 1, n - dropping - 1, degree, x) for x in range(most)),
            2.0**-bits,
        ),
    ):
        high = float(predicted)
        assert high <= limit
        # The union bound counts a trial once for each client it fails for, and neighbours fail together.
        low = high / 4
        lowest = low - 4 * (low / count) ** 0.5
        assert 0 < lowest <= rate <= high + 4 * (high / count) ** 0.5
    # What the threshold is for: corrupt neighbours alone, or in two stories, hold too few shares; survivors enough.
    breaks = threshold if server == "curious" else 2 * threshold - degree
    assert (outcomes["corrupt"] >= breaks).mean() <= 2.0 ** -(bits + 1)
    assert (outcomes["surviving"] < threshold).mean() <= 2.0**-bits
    assert outcomes["cut"] <= 2.0 ** -(bits + 1) + 4 * (2.0 ** -(bits + 1) / count) ** 0.5
    assert (outcomes["corrupt"] > least - 1).mean() > 2.0 ** -(bits + 1)
    assert (outcomes["surviving"] < most + 1).mean() > 2.0**-bits


def test_control_a_degree_that_is_too_low_falls_apart() -> None:
    """Two steps below the least connected degree, rings are cut more often than allowed."""
    n, removed, security = 100, 30, 8
    degree = graph._least_connected(n, removed, security)
    limit = 2.0 ** -(security + 1)
    assert trials(n, 10, 20, degree, 20_000)["cut"] <= limit
    assert trials(n, 10, 20, degree - 4, 20_000)["cut"] > limit


def test_windows_hold_in_honest_rounds() -> None:
    """With ``windows``, each run of k/2 keeps more survivors than the floor; without, some sets don't."""
    n, corrupt, dropping = 100, 5, 20
    degree, _ = graph.sparse_parameters(
        n, corrupt=corrupt, dropping=dropping, server="semi-malicious", windows=True
    )
    rng = np.random.default_rng(3)
    floor = graph.window_floor(n, corrupt=corrupt, window=degree // 2)
    for _ in range(2000):
        survivors = rng.permutation(n) >= dropping
        assert graph.draw_ring(n, rng.bytes(32)).least_in_window(survivors, degree // 2) > floor
    plain, _ = graph.sparse_parameters(20, corrupt=1, dropping=2, server="semi-malicious")
    checked, _ = graph.sparse_parameters(20, corrupt=1, dropping=2, server="semi-malicious", windows=True)
    assert plain < checked


def test_a_ring_is_frozen() -> None:
    """Clients share one ring: a client that could move a node would choose their neighbours."""
    ring = graph.Ring(np.arange(3), np.arange(3))
    with pytest.raises(FrozenInstanceError):
        ring.order = np.arange(3)[::-1]  # type: ignore[misc]

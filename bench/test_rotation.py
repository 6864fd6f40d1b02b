"""Rotation of 2^20 doubles beside copies of the same vector: ``pytest bench/test_rotation.py``."""

from typing import Any

import numpy as np
import pytest

from dp.rotation import rotate, unrotate

SIZE = 1 << 20
MOST_COPIES = 30


def best(function: Any, rounds: int = 20) -> float:
    from time import perf_counter

    times = []
    for _ in range(rounds):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)


@pytest.mark.benchmark(group="rotation, 2^20 doubles")
@pytest.mark.parametrize("turn", [rotate, unrotate])
def test_rotation(benchmark: Any, turn: Any) -> None:
    vector = np.random.default_rng(0).normal(size=SIZE)
    turn(vector, b"seed")
    benchmark(turn, vector, b"seed")


@pytest.mark.benchmark(group="rotation, 2^20 doubles")
def test_copy(benchmark: Any) -> None:
    vector = np.random.default_rng(0).normal(size=SIZE)
    copy = np.empty_like(vector)
    benchmark(np.copyto, copy, vector)
    assert (copy == vector).all()


def test_rotation_costs_at_most_thirty_copies() -> None:
    """Signs from AES included; the best of twenty each, in one run."""
    vector = np.random.default_rng(0).normal(size=SIZE)
    copy = np.empty_like(vector)
    rotate(vector, b"seed")
    ratio = best(lambda: rotate(vector, b"seed")) / best(lambda: np.copyto(copy, vector))
    assert ratio <= MOST_COPIES, f"{ratio:.1f} copies"

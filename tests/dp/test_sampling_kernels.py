"""The kernels against their naive twins, and what the constant-time one reads."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dp import _kernels, _tables
from tests.reference import dp_sampling as twin

words_of_64 = st.integers(0, 2**64 - 1)
OFFSET = np.uint64(1 << 63)


def biased(values: Any) -> Any:
    return (np.array(values, dtype=np.uint64) ^ OFFSET).view(np.int64)


@given(data=st.data(), sigma=st.sampled_from([Fraction(1, 3), Fraction(4), Fraction(40)]))
def test_both_inversions_equal_their_twin(data: st.DataObject, sigma: Fraction) -> None:
    law = _tables.Gaussian(sigma**2)
    table = _tables.table(law, 64)
    guide, shift = _tables.guide(law, 64)
    near = st.sampled_from(table.tolist()).flatmap(lambda t: st.integers(max(0, t - 1), min(t + 1, 2**64 - 1)))
    words = data.draw(st.lists(words_of_64 | near, min_size=1, max_size=50))
    expected = twin.invert(words, table.tolist(), _kernels.UNDECIDED)
    for even in (True, False):
        out = np.zeros(len(words), dtype=np.int64)
        if even:
            undecided = _kernels.invert_evenly(biased(words), biased(table), out)
        else:
            undecided = _kernels.invert(np.array(words, dtype=np.uint64), table, guide, shift, out)
        assert out.tolist() == expected
        assert undecided == expected.count(_kernels.UNDECIDED)


@given(values=st.lists(st.integers(0, 2**60), min_size=1, max_size=130), data=st.data())
def test_signs_equal_their_twin(values: list[int], data: st.DataObject) -> None:
    count = -(-len(values) // 64)
    signs = data.draw(st.lists(words_of_64, min_size=count, max_size=count))
    out = np.array(values, dtype=np.int64)
    _kernels.attach_signs(np.array(signs, dtype=np.uint64), out)
    assert out.tolist() == twin.signed(values, signs)


@given(
    proposals=st.lists(
        st.tuples(words_of_64, st.integers(0, 10_000), words_of_64 | st.sampled_from([-(2.0**-38), 2.0**-38, 0.0])),
        min_size=1,
        max_size=30,
    ),
    sigma=st.fractions(2048, 2**40),
    gaussian=st.booleans(),
    steep=st.integers(0, 9),
)
def test_placing_equals_its_twin(
    proposals: list[tuple[int, int, int | float]], sigma: Fraction, gaussian: bool, steep: int
) -> None:
    """A coin is any word, or its probability within a part in 2^38, which is decided, or that very number."""
    width = max(1, int(sigma).bit_length() - 11) + steep
    slope, curve = (Fraction(0), 1 / (2 * sigma**2)) if gaussian else (1 / sigma, Fraction(0))
    words, blocks, coins = [], [], []
    for word, block, coin in proposals:
        words.append(word)
        blocks.append(block)
        refused = twin.refusal(word % 2**width, block << width, slope, curve)
        coins.append(coin if isinstance(coin, int) else min(int(refused * 2**64 * (1 + coin)), 2**64 - 1))
    out, status = np.zeros(len(words), dtype=np.int64), np.zeros(len(words), dtype=np.uint8)
    undecided = _kernels.place(
        np.array(words, dtype=np.uint64),
        np.array(coins, dtype=np.uint64),
        np.array(blocks, dtype=np.int64),
        width,
        float(slope),
        float(curve),
        _kernels.MARGIN,
        out,
        status,
    )
    assert undecided == (status == _kernels.OPEN).sum()
    expected = twin.place(words, coins, blocks, width, slope, curve)
    for value, state, exact, (_, _, coin) in zip(out.tolist(), status.tolist(), expected, proposals, strict=True):
        if state != _kernels.OPEN:
            assert exact == (value if state == _kernels.KEPT else None)
        else:
            assert steep > 0 or coin == 0.0  # in blocks as the samplers choose them the series reaches


class Watched:
    """An array that writes down which of its entries are read."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, array.shape
        self.read: list[int] = []

    def __getitem__(self, k: int) -> Any:
        self.read.append(int(k))
        return self.array[k]


def reads(kernel: Any, words: list[int]) -> list[list[int]]:
    """The entries of table and guide that ``kernel`` reads, as Python runs it."""
    law = _tables.Gaussian(Fraction(16))
    table = _tables.table(law, 64)
    guide, shift = _tables.guide(law, 64)
    run, out = getattr(kernel, "py_func", kernel), np.zeros(len(words), dtype=np.int64)
    watched = [Watched(biased(table)), Watched(guide)]
    if kernel is _kernels.invert_evenly:
        run(biased(words), watched[0], out)
    else:
        watched[0] = Watched(table)
        run(np.array(words, dtype=np.uint64), *watched, shift, out)
    return [array.read for array in watched]


@pytest.fixture
def pairs() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 2**64, 5, dtype=np.uint64).tolist() for _ in range(4)]


def test_the_constant_time_kernel_reads_the_same_entries_for_all_words(pairs: list[list[int]]) -> None:
    assert all(reads(_kernels.invert_evenly, words) == reads(_kernels.invert_evenly, pairs[0]) for words in pairs)


def test_control_the_look_up_reads_others(pairs: list[list[int]]) -> None:
    assert any(reads(_kernels.invert, words) != reads(_kernels.invert, pairs[0]) for words in pairs)

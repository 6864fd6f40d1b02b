"""Packed residues, of one to eight polynomials: their bits, their check and their sum against definitions."""

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numba import config

from he.ring import _packing, _plain, lanes, packing
from tests.he.ring.groups import Words, extremes, least_prime, prime_of
from tests.reference import rlwe as twin

DEGREE = 64
LOOPS = [_plain] if config.DISABLE_JIT else [_packing, _plain]
every = pytest.mark.parametrize("loops", LOOPS, ids=lambda loops: loops.__name__)
parameters = given(bits=st.integers(17, 62), count=st.integers(1, 8), seed=st.integers(0, 99))


@pytest.fixture
def loops(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def within(bits: int, count: int, fill: int) -> tuple[Words, Words]:
    """A place for packed words, and the larger array that it is a part of."""
    around = np.full((DEGREE * bits // 64 + 2, count), fill, dtype=np.uint64)
    return around[1:-1], around


@every
def test_words_of_polynomials_take_turns(loops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_loops", loops)

    @settings(max_examples=60)
    @parameters
    def check(bits: int, count: int, seed: int) -> None:
        group = extremes(DEGREE, 1 << bits, seed)
        words, around = within(bits, count, 7)
        assert len(words) == packing.words_of(DEGREE, bits)
        packing.pack(group, bits, words)
        assert [lane.tobytes() for lane in words.T] == [
            twin.packed(lane, bits) for lane in group.T.tolist()[:count]
        ]
        assert (around[[0, -1]] == 7).all()
        for fill in (0, 2**64 - 1):
            around[[0, -1]] = fill
            back = lanes(DEGREE)
            back[:] = 9
            packing.unpack(words, bits, back)
            assert (back[:, :count] == group[:, :count]).all()
            assert not back[:, count:].any()

    check()


@every
def test_packed_residues_are_added(loops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_loops", loops)

    @settings(max_examples=60)
    @parameters
    def check(bits: int, count: int, seed: int) -> None:
        for prime in (prime_of(DEGREE, bits), least_prime(DEGREE, bits)):
            group, total = extremes(DEGREE, prime, seed), extremes(DEGREE, prime, seed + 1)[:, ::-1].copy()
            words, _ = within(bits, count, 0)
            packing.pack(group, bits, words)
            group[:, count:] = 0
            expected = (total.astype(object) + group) % prime
            packing.fold(words, bits, prime, total)
            assert (total == expected).all()

    check()


@every
@pytest.mark.parametrize("bits", [*range(17, 64, 5), 32, 50, 62])
def test_a_residue_that_is_not_below_its_prime_is_noticed_anywhere(
    loops: ModuleType, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_loops", loops)
    for prime, count in ((prime_of(DEGREE, bits), 8), (least_prime(DEGREE, bits), 3)):
        group = lanes(DEGREE)
        group[:] = prime - 1
        words, _ = within(bits, count, 0)
        packing.pack(group, bits, words)
        assert packing.all_below(words, bits, prime)
        for place in ((0, 0), (DEGREE - 1, count - 1), (DEGREE - 1, 0), (17, 1)):
            for wrong in (prime, 2**bits - 1):
                group[place] = wrong
                packing.pack(group, bits, words)
                assert not packing.all_below(words, bits, prime)
                group[place] = prime - 1

"""Samplers against their exact mass functions, and uniform residues against their definition.

Each chi-square test is of a fixed keystream: it cannot fail by chance. ``make samples`` draws 10^8 of each.
"""

import os
from itertools import count as count_from, pairwise
from math import ceil, comb

import numpy as np
import pytest
from scipy import stats

from he import params
from he.ring import Field, _lanes, lanes, sampling
from he.ring._vectors import Word
from he.ring.sampling import GROUP, Sampler
from he.ring.streams import Stream, aes_ctr, derive
from tests.he.ring.groups import least_prime, needs_compiler, prime_of
from tests.reference import rlwe as twin

DRAWS = int(os.environ.get("SECAGG_DRAWS", 10_000_000))
LEAST_P = 1e-4
KEY = b"a fixed key of thirty-two bytes!"
Counts = np.ndarray

COINS = np.array([comb(42, 21 + k) / 2**42 for k in range(-21, 22)])
"""The mass of -21 to 21."""


def thirds(bits: int) -> Counts:
    """The mass of -1, 0 and 1, exactly: the numbers below 2^bits in each third."""
    edges = [-(-(2**bits) * third // 3) for third in range(4)]
    return np.diff(np.array(edges, dtype=object)).astype(float) / 2**bits


def p_value(counts: Counts, law: Counts, least: float = 5.0) -> float:
    """Chi-square; all cells in which fewer than five draws are expected count as one."""
    expected = counts.sum() * law.reshape(-1)
    observed, rare = counts.reshape(-1), expected < least
    assert observed[expected == 0].sum() == 0
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < least:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    return float(stats.chisquare(observed, expected).pvalue)


def stream(name: str) -> Stream:
    return aes_ctr(derive(KEY, name.encode()))


def counted(name: str, draws: int) -> Counts:
    """How often each value from -21 to 21 is drawn by a sampler."""
    sampler, counts = Sampler(16384), np.zeros(256, dtype=np.int64)
    draw, drawn_from = getattr(sampler, name), stream(name)
    for group in range(ceil(draws / (8 * 16384))):
        counts += np.bincount(draw(drawn_from, group).reshape(-1).view(np.uint8), minlength=256)
    around = np.roll(counts, 21)
    assert around[43:].sum() == 0
    return around[:43]


@needs_compiler
def test_binomial_has_the_exact_mass_function() -> None:
    counts = counted("binomial", DRAWS)
    assert report("binomial", p_value(counts, COINS)) > LEAST_P
    variance = (counts * np.arange(-21, 22) ** 2).sum() / counts.sum()
    assert abs(variance - params.ERROR_VARIANCE) < 6 * 21 / counts.sum() ** 0.5
    # Control: twenty coins a side are noticed.
    narrow = np.array([comb(40, 20 + k) / 2**40 if abs(k) <= 20 else 0 for k in range(-21, 22)])
    drawn = np.random.default_rng(1).multinomial(DRAWS, narrow)
    assert p_value(drawn, COINS) < 1e-30


@needs_compiler
def test_ternary_has_the_exact_mass_function() -> None:
    counts = counted("ternary", DRAWS)
    assert counts.sum() == counts[20:23].sum()
    assert report("ternary", p_value(counts[20:23], thirds(62))) > LEAST_P
    # Control: three numbers from two bits, the fourth of which is 1, are noticed.
    assert p_value(np.array([1, 1, 2]) * (DRAWS // 4), thirds(62)) < 1e-30


@needs_compiler
def test_what_encryption_draws_is_independent() -> None:
    """The joint table of carrier and both errors has the product of their exact masses."""
    sampler, drawn_from = Sampler(16384), stream("encryption")
    table = np.zeros(3 * 43 * 43, dtype=np.int64)
    for group in range(ceil(DRAWS / (8 * 16384))):
        carrier, first, second = sampler.encryption(drawn_from, group).reshape(3, -1).astype(np.int32)
        table += np.bincount((carrier + 1) * 43 * 43 + (first + 21) * 43 + second + 21, minlength=table.size)
    joint = table.reshape(3, 43, 43)
    law = thirds(44)[:, None, None] * COINS[:, None] * COINS
    for name, axes in (("carrier", (1, 2)), ("first error", (0, 2)), ("second error", (0, 1)), ("joint", ())):
        assert report(name, p_value(joint.sum(axes), law.sum(axes))) > LEAST_P
    for axis, name in enumerate(("of the errors", "of carrier and second", "of carrier and first")):
        assert report(name, p_value(joint.sum(axis), law.sum(axis))) > LEAST_P
    # Control: a carrier that takes its upper bits from the first error's coins is noticed.
    words = np.random.default_rng(2).integers(0, 2**64, 1 << 20, dtype=np.uint64)
    tied = (3 * (words & np.uint64(2**20 - 1)).astype(np.int64)) >> 20
    error = np.empty(words.size, dtype=np.int8)
    _lanes.binomial(words, error)
    cells = np.bincount(tied * 43 + error + 21, minlength=3 * 43).reshape(3, 43)
    assert p_value(cells, law.sum(2)) < 1e-30


@needs_compiler
def test_residues_are_uniform() -> None:
    """Over 64 equal cells, of a prime of which three quarters of the words are kept."""
    prime = next(p for p in range(3 * 2**48 + 1, 2**50, 32768) if params.is_prime(p))
    field, out = Field(16384, prime, Word), lanes(16384)
    cells, drawn_from = np.zeros(64, dtype=np.int64), stream("uniform")
    for group in range(ceil(DRAWS / (8 * 16384))):
        sampling.uniform(drawn_from, group, field, out)
        assert out.max() < prime
        cells += np.bincount(out.reshape(-1) // np.uint64(prime // 64 + 1), minlength=64)
    law = np.diff(np.minimum(np.arange(65) * (prime // 64 + 1), prime)) / prime
    assert report("uniform", p_value(cells, law)) > LEAST_P
    # Control: words reduced modulo the prime, without rejection.
    words = np.random.default_rng(3).integers(0, 2**50, 1_000_000, dtype=np.uint64) % np.uint64(prime)
    assert p_value(np.bincount(words // np.uint64(prime // 64 + 1), minlength=64), law) < 1e-30


def report(name: str, p: float) -> float:
    print(f"{name}: p = {p:.3g} of {DRAWS} draws")
    return p


def test_samples_are_what_the_words_say() -> None:
    """Every coefficient, with words at the edges of the thirds and of the coins."""
    edges = [-(-(2**62) * k // 3) * 4 for k in (1, 2)] + [(2**62 * k // 3) * 4 + 3 for k in (1, 2)]
    words = [0, 2**64 - 1, 2**21 - 1, (2**21 - 1) << 21, 2**42 - 1, 2**42, *edges]
    words += np.random.default_rng(4).integers(0, 2**64, 130, dtype=np.uint64).tolist()
    drawn = np.array(words, dtype=np.uint64)
    small = np.empty(drawn.size, dtype=np.int8)
    _lanes.binomial(drawn, small)
    assert small.tolist() == [twin.coins(word) for word in words]
    _lanes.ternary(drawn, small)
    assert small.tolist() == [twin.third(word >> 2, 62) for word in words]
    # The carrier's edges: the upper 22 bits of a first and of a second word.
    for number in [-(-(2**44) * k // 3) + off for k in (1, 2) for off in (-1, 0)]:
        words += [number >> 22 << 42, (number & (2**22 - 1)) << 42]
    drawn = np.array(words, dtype=np.uint64)
    parts = np.empty((3, drawn.size // 2), dtype=np.int8)
    _lanes.encryption(drawn, *parts)
    ones, twos = words[::2], words[1::2]
    assert parts[1].tolist() == [twin.coins(word) for word in ones]
    assert parts[2].tolist() == [twin.coins(word) for word in twos]
    carriers = [twin.third((one >> 42 << 22) + (two >> 42), 44) for one, two in zip(ones, twos, strict=True)]
    assert parts[0].tolist() == carriers
    assert parts[0, -4:].tolist() == [-1, 0, 0, 1]


@pytest.mark.parametrize("degree", [4, 64])
def test_a_group_reads_its_own_words_in_order(degree: int) -> None:
    sampler, size = Sampler(degree), 8 * degree
    for group in (0, 3):
        words = twin.counter_words(derive(KEY, b"binomial"), group * GROUP, 2 * size)
        drawn = sampler.binomial(stream("binomial"), group)
        assert drawn.reshape(-1).tolist() == [twin.coins(word) for word in words[:size]]
        drawn = sampler.ternary(stream("binomial"), group)
        assert drawn.reshape(-1).tolist() == [twin.third(word >> 2, 62) for word in words[:size]]
        drawn = sampler.encryption(stream("binomial"), group)
        assert drawn[1].reshape(-1).tolist() == [twin.coins(word) for word in words[::2]]
        assert drawn[2].reshape(-1).tolist() == [twin.coins(word) for word in words[1::2]]


@pytest.mark.parametrize("degree", [4, 64])
@pytest.mark.parametrize("bits", [20, 50, 62])
def test_uniform_residues_are_words_below_the_prime_and_then_words_that_follow(degree: int, bits: int) -> None:
    """The largest prime, of which almost all words are kept, and the least, of which about half are."""
    for prime in (prime_of(degree, bits), least_prime(degree, bits)):
        field, out = Field(degree, prime, Word), lanes(degree)
        for group in (0, 5):
            sampling.uniform(stream("uniform"), group, field, out)
            key, first = derive(KEY, b"uniform"), group * GROUP
            source = (twin.counter_words(key, first + i, 1)[0] for i in count_from())
            assert out.reshape(-1).tolist() == twin.kept(source, 8 * degree, prime)


def test_the_prime_itself_is_refused_and_one_less_is_kept() -> None:
    """Among the first words, and among those that follow; whatever the bits above are."""
    degree, bits = 4, 20
    prime, above = prime_of(degree, bits), 2**64 - 2**bits
    words = [prime] + [prime - 1 | above] * (8 * degree - 1) + [prime | above, 2**bits - 1, 7, 8]
    field, out = Field(degree, prime, Word), lanes(degree)

    def stream(out: np.ndarray, first: int) -> None:
        out[:] = [words[first + i] for i in range(out.size)]

    sampling.uniform(stream, 0, field, out)
    assert out.reshape(-1).tolist() == [7] + [prime - 1] * (8 * degree - 1)


@needs_compiler
def test_no_word_is_drawn_twice() -> None:
    """Of all groups of a stream, also where half of the words are refused, and in pieces."""
    reads: list[tuple[int, int]] = []

    def recorded(out: np.ndarray, first: int) -> None:
        reads.append((first, first + out.size))
        aes_ctr(KEY)(out, first)

    degree = 16384
    field, out, sampler = Field(degree, least_prime(degree, 50), Word), lanes(degree), Sampler(degree)
    for draw in (
        lambda group: sampling.uniform(recorded, group, field, out),
        lambda group: sampler.binomial(recorded, group),
        lambda group: sampler.ternary(recorded, group),
        lambda group: sampler.encryption(recorded, group),
    ):
        reads.clear()
        for group in (0, 1, 2, 2**20):
            before = len(reads)
            draw(group)
            assert min(start for start, _ in reads[before:]) == group * GROUP
            assert max(end for _, end in reads[before:]) <= (group + 1) * GROUP
        reads.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(reads))
        assert len(reads) > 4  # in more than one piece

"""Members that lie about their sum: the right sum is found, and nobody honest is ever named."""

import itertools
import os
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mpc import MPCError, _reed_solomon, packed
from mpc.packed import PRIME, Candidate, Committee
from tests.reference import packed as twin

LENGTH = 9


def honest_answers(committee: Committee, secret: Sequence[int]) -> dict[int, list[int]]:
    """What every member would answer: its numbers, by place."""
    seeds = [os.urandom(32) for _ in range(committee.corrupt)]
    dealing = packed.deal(committee, np.array(secret), seeds, os.urandom(32))
    shares = [packed.read_share(committee, len(secret), j, share) for j, share in enumerate(dealing.shares)]
    return {j: np.frombuffer(share.kept(), "<u4").tolist() for j, share in enumerate(shares)}


def small_secret() -> list[int]:
    return [random.randint(-64, 64) for _ in range(LENGTH)]


def octets(numbers: Sequence[int]) -> bytes:
    return np.array([number % PRIME for number in numbers], "<u4").tobytes()


def recovered(committee: Committee, answers: dict[int, list[int]]) -> list[Candidate]:
    candidates = packed.recover(committee, LENGTH, {j: octets(numbers) for j, numbers in answers.items()})
    return list(itertools.islice(candidates, 300))  # at (16, 3) there may be 8008


def garbled(answers: dict[int, list[int]], liars: Sequence[int]) -> dict[int, list[int]]:
    """Each liar answers something of its own."""
    columns = len(next(iter(answers.values())))
    return answers | {j: [random.randrange(PRIME) for _ in range(columns)] for j in liars}


def framed(
    committee: Committee, answers: dict[int, list[int]], liars: Sequence[int], spared: Sequence[int]
) -> dict[int, list[int]]:
    """The liars add one polynomial that is zero at the points of ``spared``: at most r - 1 places.

    So their answers agree with those of the spared members, and all others differ.
    """
    assert len(spared) < committee.threshold
    factors = [random.randrange(1, PRIME) for _ in next(iter(answers.values()))]

    def shifted(place: int) -> list[int]:
        offset = 1
        for other in spared:
            offset = offset * (place - other) % PRIME
        return [(number + factor * offset) % PRIME for number, factor in zip(answers[place], factors, strict=True)]

    return answers | {place: shifted(place) for place in liars}


def accepted(candidates: Sequence[Candidate], secret: Sequence[int]) -> Candidate:
    """The candidate that passes the caller's check, which here compares with what was dealt."""
    (candidate,) = [c for c in candidates if c.secret.tolist() == list(secret)]
    return candidate


# --- at most c liars -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("committee", "answering", "liars", "named"),
    [
        ((4, 1), 4, 1, True),
        ((5, 2), 5, 1, False),  # (5, 2) names nobody: five answers would have to agree
        ((5, 2), 5, 2, False),
        ((7, 1), 7, 1, True),
        ((7, 1), 6, 1, False),
        ((7, 2), 7, 2, True),
        ((7, 2), 6, 1, True),
        ((7, 2), 5, 2, False),
        ((10, 2), 10, 2, True),
        ((10, 2), 8, 1, False),
        ((16, 3), 16, 3, True),
        ((16, 3), 14, 2, False),
        ((16, 3), 13, 3, False),
        ((31, 6), 31, 6, True),
    ],
)
def test_liars_that_answer_garbage_are_outvoted_and_named_where_enough_agree(
    committee: tuple[int, int], answering: int, liars: int, named: bool
) -> None:
    scheme, secret = Committee(*committee), small_secret()
    answers = honest_answers(scheme, secret)
    places = random.sample(sorted(answers), answering)
    lying = sorted(random.sample(places, liars))
    told = garbled({place: answers[place] for place in places}, lying)
    candidate = accepted(recovered(scheme, told), secret)
    assert candidate.differing == tuple(lying)
    assert candidate.agreeing == tuple(sorted(set(places) - set(lying)))
    assert candidate.settled is named is (answering - liars >= scheme.naming_threshold)
    assert candidate.liars == (tuple(lying) if named else ())


@pytest.mark.parametrize(
    ("committee", "answering", "liars"),
    [((5, 2), 5, 2), ((10, 2), 8, 2), ((16, 3), 13, 3), ((7, 1), 6, 1), ((7, 2), 7, 2), ((16, 3), 16, 3)],
)
def test_liars_that_agree_with_each_other_get_nobody_honest_named(
    committee: tuple[int, int], answering: int, liars: int
) -> None:
    """Control: naming whoever differs from the sum that most answers agree on names honest members at (5, 2)."""
    scheme, secret = Committee(*committee), small_secret()
    lying, honest = list(range(liars)), list(range(liars, answering))
    answers = honest_answers(scheme, secret)
    told = framed(scheme, {j: answers[j] for j in range(answering)}, lying, honest[: scheme.threshold - 1])
    candidates = recovered(scheme, told)
    assert all(set(candidate.liars) <= set(lying) for candidate in candidates)
    right = accepted(candidates, secret)
    assert right.agreeing == tuple(honest)
    assert all(not candidate.settled for candidate in candidates if candidate is not right)
    sizes = [len(candidate.agreeing) for candidate in candidates]
    assert sizes == sorted(sizes, reverse=True)
    if committee in [(5, 2), (10, 2)]:  # what naming by the first candidate would do
        assert candidates[0].secret.tolist() != secret
        assert set(candidates[0].differing) <= set(honest)
        assert candidates[0].differing


def test_the_published_case_of_two_liars_in_five() -> None:
    """The liars at places 0 and 1 add f (x - 3) (x - 4): places 0 to 3 agree, and the honest member 4 differs."""
    committee, secret = Committee(5, 2), small_secret()
    told = framed(committee, honest_answers(committee, secret), [0, 1], [2, 3])
    first, *others = recovered(committee, told)
    assert (first.agreeing, first.differing, first.liars) == ((0, 1, 2, 3), (4,), ())
    right = accepted(others, secret)
    assert (right.agreeing, right.differing, right.liars) == ((2, 3, 4), (0, 1), ())


@given(st.sampled_from([(4, 1), (5, 2), (7, 1), (7, 2), (10, 2)]), st.data())
def test_whatever_c_members_answer_the_sum_is_a_candidate_and_nobody_honest_is_named(
    committee: tuple[int, int], data: st.DataObject
) -> None:
    scheme, secret = Committee(*committee), small_secret()
    answers = honest_answers(scheme, secret)
    lying = data.draw(st.permutations(range(scheme.members)))[: scheme.corrupt]
    honest = data.draw(st.permutations(sorted(set(answers) - set(lying))))
    present = honest[: data.draw(st.integers(scheme.threshold, len(honest)))]
    told = {j: answers[j] for j in [*lying, *present]}
    spared = present[: data.draw(st.integers(0, scheme.threshold - 1))]
    told = data.draw(st.sampled_from([garbled(told, lying), framed(scheme, told, lying, spared)]))
    candidates = recovered(scheme, told)
    right = accepted(candidates, secret)
    assert set(right.agreeing) == {j for j in told if told[j] == answers[j]}
    for candidate in candidates:
        assert set(candidate.liars) <= set(lying)
        assert not candidate.settled or candidate is right
    found = twin.candidates(scheme.members, scheme.corrupt, told)
    assert {frozenset(c.agreeing): c.secret.tolist() for c in candidates} == {
        places: numbers[:LENGTH] for places, numbers in found.items()
    }


def test_dealers_that_put_other_shares_into_the_sum_are_told_apart_from_lying_members() -> None:
    """All agree, and yet it is not the sum that the dealer claimed: the caller learns that a dealer is at fault."""
    committee, secret = Committee(7, 2), small_secret()
    (candidate,) = recovered(committee, honest_answers(committee, [number + 1 for number in secret]))
    assert candidate.settled
    assert candidate.secret.tolist() != secret


def test_control_combinations_known_before_the_last_answer_hide_a_liar() -> None:
    """A liar that knows both combinations answers what they don't see: it seems to agree, and the sum is wrong."""
    committee, secret = Committee(4, 1), small_secret()
    answers = honest_answers(committee, secret)
    key = os.urandom(32)
    drawn = twin.numbers(twin.keystream(key, 256), 2 * LENGTH)
    combinations = [drawn[:LENGTH], drawn[LENGTH:]]
    first, second = twin.solve([line[:2] for line in combinations], [-line[2] for line in combinations])
    change = [first, second, 1, *[0] * (LENGTH - 3)]
    told = answers | {0: [a + b for a, b in zip(answers[0], change, strict=True)]}
    octets_told = {j: octets(numbers) for j, numbers in told.items()}
    (seen_as_right,) = packed.recover(committee, LENGTH, octets_told, lambda size: key[:size])
    assert (seen_as_right.differing, seen_as_right.secret.tolist() == secret) == ((), False)
    assert accepted(recovered(committee, told), secret).liars == (0,)


# --- more liars, and fewer answers -----------------------------------------------------------


def test_r_right_answers_open_the_sum_however_many_lie() -> None:
    committee, secret = Committee(16, 3), small_secret()
    told = garbled(honest_answers(committee, secret), range(10, 16))
    right = accepted(recovered(committee, told), secret)
    assert (right.agreeing, right.settled) == (tuple(range(10)), False)


def test_a_large_committee_beyond_the_radius_has_no_candidate() -> None:
    """(31, 6) has 141 million subsets of r answers: they are not tried."""
    committee = Committee(31, 6)
    told = garbled(honest_answers(committee, small_secret()), range(7))
    assert recovered(committee, told) == []


def test_too_few_answers_and_malformed_ones_are_refused_at_once() -> None:
    committee = Committee(5, 2)
    answers = {j: octets(numbers) for j, numbers in honest_answers(committee, small_secret()).items()}
    with pytest.raises(MPCError, match="got 2 answers; expected at least 3 of 5: ask more members"):
        packed.recover(committee, LENGTH, {j: answers[j] for j in (0, 1)})
    with pytest.raises(MPCError, match="got an answer of 37 bytes; expected 36 bytes"):
        packed.recover(committee, LENGTH, answers | {0: answers[0] + b"\0"})
    with pytest.raises(MPCError, match="got place 5; expected 0 to 4"):
        packed.recover(committee, LENGTH, answers | {5: answers[0]})


# --- the decoder alone -----------------------------------------------------------------------


@given(st.data())
def test_reed_solomon_corrects_up_to_half_of_the_surplus(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(1, count))
    number = st.one_of(st.sampled_from([0, 1, PRIME - 1]), st.integers(0, PRIME - 1))
    polynomial = data.draw(st.lists(number, min_size=threshold, max_size=threshold))
    points = data.draw(st.lists(st.integers(1, 256), min_size=count, max_size=count, unique=True))
    word = [sum(c * x**i for i, c in enumerate(polynomial)) % PRIME for x in points]
    wrong = data.draw(st.integers(0, (count - threshold) // 2))
    for i in data.draw(st.permutations(range(count)))[:wrong]:
        word[i] = (word[i] + data.draw(st.integers(1, PRIME - 1))) % PRIME
    decoded = _reed_solomon.decode(points, word, threshold)
    assert decoded is not None
    assert [*decoded, *[0] * (threshold - len(decoded))] == polynomial


def test_reed_solomon_corrects_the_zero_polynomial() -> None:
    assert _reed_solomon.decode(range(1, 8), [0, 5, 0, 0, 0, PRIME - 1, 0], 3) == [0]


def test_answers_that_differ_on_two_words_beyond_half_of_the_surplus_are_not_decoded() -> None:
    """Each word alone is decoded. Four answers differ on one of them, and the surplus is four."""
    words = [[1, 2, 0, 0, 0, 0], [0, 0, 3, 4, 0, 0]]
    assert [_reed_solomon.decode(range(1, 7), word, 2) for word in words] == [[0], [0]]
    assert _reed_solomon._decoded(range(1, 7), words, 2) is None
    assert _reed_solomon._decoded(range(1, 7), words[:1], 2) == {2, 3, 4, 5}


@given(st.data())
def test_patterns_equal_those_of_every_subset(data: st.DataObject) -> None:
    """Also where answers agree on one word alone, or on several polynomials at once."""
    count = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(2, count))
    few = st.integers(0, 2)
    words = data.draw(st.lists(st.lists(few, min_size=count, max_size=count), min_size=2, max_size=2))
    points = list(range(1, count + 1))
    expected = set()
    for subset in itertools.combinations(range(count), threshold):
        chosen = [points[i] for i in subset]
        rows = [[word[i] for word in words] for i in subset]
        expected.add(
            frozenset(
                i
                for i, point in enumerate(points)
                if twin.interpolate(chosen, rows, point) == [word[i] for word in words]
            )
        )
    patterns = list(_reed_solomon.agreements(points, words, threshold))
    assert len(patterns) == len(set(patterns))
    assert set(patterns) == expected
    assert [len(pattern) for pattern in patterns] == sorted(map(len, patterns), reverse=True)

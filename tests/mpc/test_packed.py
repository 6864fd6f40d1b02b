"""Packed Shamir: any r members rebuild, any c learn nothing, and each member sees whether its share is right."""

import itertools
import os
import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, strategies as st
from mpmath.libmp import isprime

from mpc import MPCError, _mersenne, _packed, packed
from mpc.packed import MASK_COLUMNS, MAX_SUM, PRIME, Committee, Dealing
from tests.reference import packed as twin

SMALL = [Committee(2, 1), Committee(3, 1), Committee(4, 1), Committee(5, 2), Committee(7, 1), Committee(7, 2)]
LARGER = [Committee(10, 2), Committee(16, 3)]
committees = pytest.mark.parametrize("committee", SMALL, ids=lambda c: f"{c.members}-{c.corrupt}")
CHALLENGE = b"c" * 32

EDGES = [0, 1, 2**30 - 1, 2**30, PRIME - 2, PRIME - 1]
NUMBER = st.one_of(st.sampled_from(EDGES), st.integers(0, PRIME - 1))
KEY = st.binary(min_size=32, max_size=32)


def keys(count: int) -> list[bytes]:
    return [os.urandom(32) for _ in range(count)]


def small_secret(length: int) -> list[int]:
    """Numbers as an encryption key has them: within 64 of zero."""
    return [random.randint(-64, 64) for _ in range(length)]


def dealt(committee: Committee, secret: Sequence[int]) -> Dealing:
    return packed.deal(committee, np.array(secret), keys(committee.corrupt), os.urandom(32))


def kept(committee: Committee, length: int, dealing: Dealing) -> list[bytes]:
    """What each member keeps of a dealing, unchecked."""
    return [packed.read_share(committee, length, j, share).kept() for j, share in enumerate(dealing.shares)]


def rebuilt(committee: Committee, length: int, answers: dict[int, bytes]) -> list[int]:
    """The first candidate's sum."""
    first = next(packed.recover(committee, length, answers))
    assert first.fits(MAX_SUM)
    return first.secret.tolist()


def row(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u4").tolist()


def octets(numbers: Sequence[int]) -> bytes:
    return np.array([number % PRIME for number in numbers], "<u4").tobytes()


# --- kernels and numbers equal their twins ---------------------------------------------------


def test_the_order_of_the_field_is_prime() -> None:
    assert isprime(PRIME)
    assert (PRIME, MASK_COLUMNS) == (twin.PRIME, twin.MASKS)


@pytest.mark.parametrize("number", [*EDGES, PRIME, PRIME + 1, 2**31 + 1, 2**62 - 1, 2**62, 2**63 - 1])
def test_reduced_at_the_edges(number: int) -> None:
    assert _packed.reduced(np.int64(number)) == number % PRIME
    assert _mersenne.reduced(np.array([number])).tolist() == [number % PRIME]


@given(st.data())
def test_kernels_equal_their_twins(data: st.DataObject) -> None:
    width, rows, count = (data.draw(st.integers(1, most)) for most in (6, 4, 3))

    def table(height: int, width: int) -> list[list[int]]:
        line = st.lists(NUMBER, min_size=width, max_size=width)
        return data.draw(st.lists(line, min_size=height, max_size=height))

    weights, values, challenge = table(count, rows), table(rows, width + count), table(count, width)
    out = np.empty((count, width + count), np.uint32)
    _packed.transform(np.array(weights, np.uint32), np.array(values, np.uint32), out)
    expected = [
        [sum(a * b for a, b in zip(w, c, strict=True)) % PRIME for c in zip(*values, strict=True)] for w in weights
    ]
    assert out.tolist() == expected
    out = np.empty((count, rows), np.uint32)
    _packed.products(np.array(challenge, np.uint32), np.array(values, np.uint32), out)
    zeros = [line[:width] + [0] * count for line in values]
    assert out.T.tolist() == [twin.combined(line, challenge) for line in zeros]


@pytest.mark.parametrize("number", [0, PRIME - 1])
def test_long_rows_of_extreme_numbers_do_not_overflow(number: int) -> None:
    line = np.full((1, 1000), number, np.uint32)
    out = np.empty((1, 1), np.uint32)
    _packed.products(line, line, out)
    assert out[0, 0] == 1000 * number**2 % PRIME


@given(KEY, st.lists(st.integers(0, 11), max_size=6), st.integers(1, 6))
def test_words_that_are_the_prime_are_skipped_and_the_stream_goes_on(
    key: bytes, refused: list[int], count: int
) -> None:
    stream = bytearray(twin.keystream(key, 200))
    for word in refused:
        stream[4 * word : 4 * word + 4] = random.choice((PRIME, 2**32 - 1)).to_bytes(4, "little")

    def keystream(key: bytes, out: np.ndarray, *, offset: int = 0) -> None:
        out[:] = np.frombuffer(stream, "<u4")[offset : offset + out.size]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "keystream", keystream)
        assert packed._numbers(key, count).tolist() == twin.numbers(bytes(stream), count)


@given(st.sampled_from(SMALL + LARGER), st.integers(1, 12), st.data())
def test_dealings_proofs_and_checks_equal_their_twins(
    committee: Committee, length: int, data: st.DataObject
) -> None:
    m, c = committee.members, committee.corrupt
    number = st.one_of(st.sampled_from([-MAX_SUM, -64, 0, 64, MAX_SUM]), st.integers(-64, 64))
    secret = data.draw(st.lists(number, min_size=length, max_size=length))
    *seeds, mask_key, key = data.draw(st.lists(KEY, min_size=c + 2, max_size=c + 2, unique=True))
    dealing = packed.deal(committee, np.array(secret), seeds, mask_key)
    rows = twin.rows_of(m, c, secret, seeds, mask_key)
    assert list(dealing.shares[:c]) == seeds
    assert [row(share) for share in dealing.shares[c:]] == [twin.share(m, c, rows, j) for j in range(c, m)]
    proof = dealing.prove(key)
    assert proof == b"".join(map(octets, twin.prove(rows, key)))
    assert len(proof) == committee.proof_bytes == 20 * committee.threshold
    for place, share in enumerate(dealing.shares):
        assert len(share) == committee.share_bytes(length, place)
        read = packed.read_share(committee, length, place, share)
        read.check(key, proof)
        assert row(read.kept()) == twin.share(m, c, rows, place)[:-MASK_COLUMNS]
        assert len(read.kept()) == committee.answer_bytes(length)


def test_points_columns_and_bytes_of_committees() -> None:
    shapes = {(4, 1): (1, 2), (5, 2): (1, 3), (7, 1): (4, 5), (7, 2): (1, 3), (10, 2): (4, 6), (16, 3): (7, 10)}
    shapes |= {(31, 6): (13, 19), (61, 20): (1, 21), (64, 12): (28, 40), (100, 26): (22, 48)}
    for (members, corrupt), (k, r) in shapes.items():
        committee = Committee(members, corrupt)
        assert (committee.per_column, committee.threshold, committee.naming_threshold) == (k, r, r + corrupt)
    committee = Committee(16, 3)
    assert (committee.columns(4096), committee.share_bytes(4096, 3), committee.share_bytes(4096, 2)) == (
        586,
        2364,
        32,
    )


# --- any r members rebuild, and sums of shares are shares of the sum -------------------------


@committees
def test_every_subset_of_r_members_rebuilds_the_sum_of_many_dealings(committee: Committee) -> None:
    length, count = 9, 5
    secrets = [small_secret(length) for _ in range(count)]
    held = [kept(committee, length, dealt(committee, secret)) for secret in secrets]
    answers = [packed.sum_shares(committee, length, column) for column in zip(*held, strict=True)]
    expected = np.sum(secrets, axis=0).tolist()
    for places in itertools.combinations(range(committee.members), committee.threshold):
        (candidate,) = packed.recover(committee, length, {place: answers[place] for place in places})
        assert (candidate.secret.tolist(), candidate.agreeing) == (expected, places)
        assert (candidate.differing, candidate.fits(64 * count)) == ((), True)


@pytest.mark.parametrize("committee", [*LARGER, Committee(31, 6), Committee(61, 20)], ids=str)
def test_larger_committees_rebuild_from_any_drawn_members(committee: Committee) -> None:
    secret = small_secret(33)
    answers = kept(committee, 33, dealt(committee, secret))
    for _ in range(5):
        places = random.sample(range(committee.members), committee.threshold)
        assert rebuilt(committee, 33, {place: answers[place] for place in places}) == secret


@committees
@pytest.mark.parametrize("largest", [64, 64 * (2**24 - 1), MAX_SUM])
def test_extreme_sums_up_to_those_of_sixteen_million_dealings(committee: Committee, largest: int) -> None:
    secret = [largest, -largest, 0, 0, largest, -largest, 1]
    answers = kept(committee, 7, dealt(committee, secret))
    candidate = next(packed.recover(committee, 7, dict(enumerate(answers))))
    assert candidate.secret.tolist() == secret
    assert (candidate.fits(largest), candidate.fits(largest - 1)) == (True, False)


def test_control_a_sum_beyond_the_largest_wraps() -> None:
    """2^24 dealings of 64: one more than the module's limit allows."""
    committee = Committee(4, 1)
    halves = [kept(committee, 1, dealt(committee, [2**29])) for _ in range(2)]
    answers = {j: packed.sum_shares(committee, 1, column) for j, column in enumerate(zip(*halves, strict=True))}
    assert rebuilt(committee, 1, answers) == [2**30 - PRIME]


def test_a_member_adds_thousands_of_extreme_shares() -> None:
    committee = Committee(4, 1)
    share = octets([PRIME - 1, 0, 1])
    total = packed.sum_shares(committee, 3, itertools.repeat(share, 5000))
    assert row(total) == [-5000 % PRIME, 0, 5000]
    assert row(packed.sum_shares(committee, 3, [])) == [0, 0, 0]


def test_a_candidate_whose_padding_is_not_zero_does_not_fit() -> None:
    committee = Committee(7, 1)
    answers = kept(committee, 8, dealt(committee, [*small_secret(7), 1]))
    (candidate,) = packed.recover(committee, 7, dict(enumerate(answers)))
    assert (candidate.secret.size, candidate.settled, candidate.fits(64)) == (7, True, False)


# --- any c members learn nothing, c + 1 often everything -------------------------------------


@pytest.mark.parametrize("committee", [*SMALL, *LARGER], ids=str)
def test_the_shares_of_any_c_members_are_uniform_whatever_the_secrets(committee: Committee) -> None:
    """For fixed secrets, random values and the shares of c members are in bijection: the matrix has full rank."""
    weights = packed._weights_of_members(committee)[:, committee.per_column :].astype(object)
    for places in itertools.combinations(range(committee.members), committee.corrupt):
        assert twin.rank(weights[list(places)].tolist()) == committee.corrupt


def test_control_each_member_more_than_c_narrows_small_secrets_down() -> None:
    """(7, 1) has four secrets in a column. Of 6561 columns two shares leave a few, and three leave one."""
    committee, secret = Committee(7, 1), (3, -4, 0, 2)
    shares = [row(share)[0] for share in kept(committee, 4, dealt(committee, secret))]
    weights = packed._weights_of_members(committee).astype(object)
    fitting = list(itertools.product(range(-4, 5), repeat=4))
    counts = []
    for place in (3, 5):  # with the share at place 1, it cancels the random number of the column
        (factor,) = twin.solve([[weights[1, 4]]], [-weights[place, 4] % PRIME])
        equation = (weights[place, :4] + factor * weights[1, :4]) % PRIME
        known = (shares[place] + factor * shares[1]) % PRIME
        fitting = [candidate for candidate in fitting if (equation @ candidate - known) % PRIME == 0]
        counts.append(len(fitting))
    assert counts[0] < 6561 / 50
    assert fitting == [secret]


@pytest.mark.parametrize("committee", [Committee(5, 2), Committee(7, 2), Committee(4, 1)], ids=str)
def test_control_with_one_secret_in_a_column_c_plus_1_members_rebuild(committee: Committee) -> None:
    secret = small_secret(6)
    answers = kept(committee, 6, dealt(committee, secret))
    assert rebuilt(committee, 6, {j: answers[j] for j in range(committee.corrupt + 1)}) == secret


# --- the proof: who dealt badly is known before anything is summed ---------------------------


def accepting(committee: Committee, length: int, shares: Sequence[bytes], proof: bytes, key: bytes) -> list[int]:
    """The places whose members accept their share."""
    refused = []
    for place, share in enumerate(shares):
        read = packed.read_share(committee, length, place, share)
        try:
            read.check(key, proof)
        except MPCError as error:
            refused.append(place)
            reason = f"the share at place {place} misses its dealer's proof: leave this dealing out"
            if str(error) != reason:
                raise
    return [place for place in range(committee.members) if place not in refused]


@committees
@pytest.mark.parametrize("column", [0, 2, -1], ids=["first", "last", "mask"])
def test_a_bad_dealing_is_refused_by_exactly_the_members_it_misleads(committee: Committee, column: int) -> None:
    """Control: without the check, answers that contain bad shares rebuild a wrong sum, and nobody is named."""
    length = 3 * committee.per_column
    secret = small_secret(length)
    dealing = dealt(committee, secret)
    shares = list(dealing.shares)
    misled = sorted(random.sample(range(committee.corrupt, committee.members), committee.corrupt))
    for place in misled:
        numbers = row(shares[place])
        numbers[column] += random.randrange(1, PRIME)
        shares[place] = octets(numbers)
    commitments = [packed.commitment(b"dealer", j, bytes(16), share) for j, share in enumerate(shares)]
    key = packed.challenge_key(b"dealer", b"".join(commitments))
    expected = [place for place in range(committee.members) if place not in misled]
    assert accepting(committee, length, shares, dealing.prove(key), key) == expected
    if column != -1:
        places = [*misled, *expected][: committee.threshold]
        unchecked = {j: packed.read_share(committee, length, j, shares[j]).kept() for j in places}
        (candidate,) = packed.recover(committee, length, unchecked)
        assert candidate.secret.tolist() != secret
        assert candidate.liars == ()


def test_a_polynomial_of_too_high_a_degree_is_refused() -> None:
    """All shares lie on one polynomial, of degree r: no proof suits more than r members."""
    committee = Committee(7, 2)
    dealing = dealt(committee, small_secret(4))
    numbers = [
        packed.read_share(committee, 4, j, share)._numbers.tolist() for j, share in enumerate(dealing.shares)
    ]
    for j in range(committee.members):  # x^r, or what is left of it on the points of the seeds
        offset = (j + 1) * (j + 1 - 1) * (j + 1 - 2)
        numbers[j][0] = (numbers[j][0] + offset) % PRIME
    shares = [*dealing.shares[:2], *map(octets, numbers[2:])]
    assert accepting(committee, 4, shares, dealing.prove(CHALLENGE), CHALLENGE) == [0, 1]


def test_control_who_knows_the_challenge_before_dealing_passes_with_a_bad_dealing() -> None:
    """The challenge comes from the commitments. If it is known before, the dealer solves for a change it misses."""
    committee, length = Committee(4, 1), 6
    secret = small_secret(length)
    dealing = dealt(committee, secret)
    combinations = twin.challenge(CHALLENGE, length)
    change = [*twin.solve([line[:-1] for line in combinations], [-line[-1] for line in combinations]), 1]
    shares = list(dealing.shares)
    shares[2] = octets([a + b for a, b in zip(row(shares[2]), [*change, *[0] * MASK_COLUMNS], strict=True)])
    assert accepting(committee, length, shares, dealing.prove(CHALLENGE), CHALLENGE) == [0, 1, 2, 3]
    answers = {j: packed.read_share(committee, length, j, shares[j]).kept() for j in (1, 2)}
    assert rebuilt(committee, length, answers) != secret
    other = packed.challenge_key(b"dealer", b"".join(shares))  # what the commitments would have led to
    fresh = packed.Dealing(dealing.shares, dealing._values)
    assert accepting(committee, length, shares, fresh.prove(other), other) == [0, 1, 3]


@committees
def test_any_c_shares_and_the_proof_fit_every_secret(committee: Committee) -> None:
    """For any c members and any other secret, one choice of random numbers gives what they see: write it down."""
    m, c, k = committee.members, committee.corrupt, committee.per_column
    secret, other = (small_secret(2 * k) for _ in range(2))
    seeds, mask_key = keys(c), os.urandom(32)
    proof = packed.deal(committee, np.array(secret), seeds, mask_key).prove(CHALLENGE)
    rows = np.array(twin.rows_of(m, c, secret, seeds, mask_key), object)
    rows_of_other = np.array(twin.rows_of(m, c, other, seeds, mask_key), object)
    combinations = twin.challenge(CHALLENGE, 2)
    change = rows_of_other - rows
    for line in change[:k]:  # the masks make up for the secrets in the proof
        line[2:] -= np.array(twin.combined(line.tolist(), combinations), object)
    weights = packed._weights_of_members(committee).astype(object)
    for places in map(list, itertools.combinations(range(m), c)):
        for column in range(2 + MASK_COLUMNS):  # the random numbers make up for both in the shares
            known = -(weights[places, :k] @ change[:k, column]) % PRIME
            change[k:, column] = twin.solve(weights[places, k:].tolist(), known.tolist())
        fitting = ((rows + change) % PRIME).tolist()
        assert [twin.share(m, c, fitting, j) for j in places] == [
            twin.share(m, c, rows.tolist(), j) for j in places
        ]
        assert b"".join(map(octets, twin.prove(fitting, CHALLENGE))) == proof


def test_masks_are_used_once() -> None:
    """Control: two proofs on the same masks are five equations between the secrets, here enough for all of them."""
    committee, secret = Committee(7, 2), small_secret(MASK_COLUMNS)
    seeds, mask_key = keys(2), os.urandom(32)
    dealing = packed.deal(committee, np.array(secret), seeds, mask_key)
    other = b"d" * 32
    first = dealing.prove(CHALLENGE)
    assert dealing.prove(CHALLENGE) == first
    with pytest.raises(MPCError, match="got a second challenge for one dealing"):
        dealing.prove(other)
    second = packed.deal(committee, np.array(secret), seeds, mask_key).prove(other)
    at_secret = [np.array(row(proof), object).reshape(MASK_COLUMNS, -1)[:, 0] for proof in (first, second)]
    combinations = [np.array(twin.challenge(key, MASK_COLUMNS), object) for key in (CHALLENGE, other)]
    equations = (combinations[0] - combinations[1]).tolist()
    assert twin.solve(equations, (at_secret[0] - at_secret[1]).tolist()) == secret


def test_masks_do_not_reach_a_sum() -> None:
    """Control: with the sum of masks, the sum of proofs shows the secrets of each dealer, here of two."""
    committee, length = Committee(7, 2), 2
    secrets = [small_secret(length) for _ in range(2)]
    dealings = [dealt(committee, secret) for secret in secrets]
    challenges = [b"1" * 32, b"2" * 32]
    proofs = sum(
        np.array(row(dealing.prove(key)), object).reshape(MASK_COLUMNS, -1)[:, 0]
        for dealing, key in zip(dealings, challenges, strict=True)
    )
    shares = [packed.read_share(committee, length, j, d.shares[j]) for j in range(3) for d in dealings]
    assert all(len(share.kept()) == 4 * length for share in shares)
    pairs = zip(shares[::2], shares[1::2], strict=True)
    sums = [(a._numbers.astype(object) + b._numbers).tolist() for a, b in pairs]
    masks = np.array(twin.interpolate([1, 2, 3], sums, -1)[length:], object)
    equations = np.hstack([np.array(twin.challenge(key, length), object) for key in challenges])
    assert twin.solve(equations.tolist(), (proofs - masks).tolist()) == secrets[0] + secrets[1]


def test_commitments_bind_every_part_and_are_the_same_for_both_sides() -> None:
    committee = Committee(4, 1)
    dealing = dealt(committee, [1, 2, 3])
    salts = [os.urandom(16) for _ in range(4)]
    made = dealing.commitments(b"context", salts)
    assert made == [packed.commitment(b"context", j, salts[j], dealing.shares[j]) for j in range(4)]
    variants = [(b"other", 0, salts[0], 0), (b"context", 1, salts[0], 0), (b"context", 0, salts[1], 0)]
    variants.append((b"context", 0, salts[0], 1))
    assert made[0] not in [packed.commitment(c, j, salt, dealing.shares[i]) for c, j, salt, i in variants]
    assert packed.challenge_key(b"a", b"b") != packed.challenge_key(b"ab", b"")


# --- hostile bytes and arguments out of range ------------------------------------------------


READERS: list[tuple[Callable[[bytes], object], int, str]] = [
    (partial(packed.read_share, Committee(7, 2), 9, 2), 4 * 14, "a share"),
    (partial(packed.check_proof, Committee(7, 2)), 4 * 15, "a proof"),
    (partial(packed.check_answer, Committee(7, 2), 9), 4 * 9, "an answer"),
    (lambda data: packed.sum_shares(Committee(7, 2), 9, [data]), 4 * 9, "a kept share"),
]


@pytest.mark.parametrize(("read", "size", "what"), READERS, ids=[what for _, _, what in READERS])
def test_hostile_bytes_are_refused(read: Callable[[bytes], object], size: int, what: str) -> None:
    read(bytes(size))
    read(octets([-1] * (size // 4)))
    for wrong in (0, 1, size - 4, size - 1, size + 1, size + 4, 2 * size):
        with pytest.raises(MPCError, match=f"got {what} of {wrong} bytes; expected {size} bytes"):
            read(bytes(wrong))
    for place in (0, size - 4):
        for number in (PRIME, PRIME + 1, 2**32 - 1):
            data = bytearray(size)
            data[place : place + 4] = number.to_bytes(4, "little")
            with pytest.raises(MPCError, match=f"got {what} with a number that is not below 2\\^31 - 1"):
                read(bytes(data))
    with pytest.raises(MPCError, match=f"got {what} of bytearray"):
        read(bytearray(size))  # type: ignore[arg-type]


@given(st.binary(max_size=80))
def test_whatever_is_read_is_refused_or_used_to_the_last_byte(data: bytes) -> None:
    committee = Committee(4, 1)
    for place in range(4):
        try:
            share = packed.read_share(committee, 4, place, data)
        except MPCError:
            assert len(data) != committee.share_bytes(4, place) or place > 0
            continue
        assert len(data) == committee.share_bytes(4, place)
        with pytest.raises(MPCError):
            share.check(CHALLENGE, bytes(committee.proof_bytes))
        assert place == 0 or share.kept() == data[: -4 * MASK_COLUMNS]


def test_nothing_secret_is_shown() -> None:
    committee = Committee(4, 1)
    dealing = dealt(committee, [7] * 3)
    share = packed.read_share(committee, 3, 1, dealing.shares[1])
    candidate = next(packed.recover(committee, 3, dict(enumerate(kept(committee, 3, dealing)))))
    assert repr(dealing) == "Dealing()"
    assert repr(share) == "Share(committee=Committee(members=4, corrupt=1), place=1)"
    assert repr(candidate) == "Candidate(agreeing=(0, 1, 2, 3), differing=(), settled=True)"


SECRET = np.zeros(4, np.int64)
SEEDS = [b"a" * 32, b"b" * 32]
DEAL = partial(packed.deal, Committee(5, 2), SECRET, SEEDS, b"m" * 32)
REFUSED: list[tuple[Callable[[], object], str]] = [
    *(
        (partial(Committee, m, c), f"got a committee of {m} members, {c} of them corrupt; expected at least 1")
        for m, c in [(4, 0), (4, -1), (2, 2), (0, 1), (257, 3)]
    ),
    (partial(Committee, 4.0, 1), "got a committee of float and int"),
    (partial(Committee, 4, True), "got a committee of int and bool"),
    *((partial(Committee(4, 1).columns, n), f"got {n} secrets; expected 1 to") for n in (0, -1, 2**31, 1.5)),
    *((partial(Committee(4, 1).share_bytes, 9, j), f"got place {j}; expected 0 to 3") for j in (-1, 4, "1")),
    (partial(packed.read_share, Committee(4, 1), 9, 4, b""), "got place 4; expected 0 to 3"),
    (
        partial(packed.read_share, Committee(4, 1), 9, 0, bytes(31)),
        "got a share of 31 bytes at place 0; expected a",
    ),
    *(
        (partial(packed.deal, Committee(5, 2), secret, SEEDS, b"m" * 32), "got a secret of .*; expected a one-dim")
        for secret in (
            [1, 2],
            np.zeros(4),
            np.zeros(4, np.uint32),
            np.zeros((2, 2), np.int64),
            np.zeros(0, np.int64),
        )
    ),
    *(
        (
            partial(packed.deal, Committee(5, 2), np.array([0, n]), SEEDS, b"m" * 32),
            "with a number beyond 1073741823",
        )
        for n in (MAX_SUM + 1, -MAX_SUM - 1, -(2**63))
    ),
    (partial(packed.deal, Committee(5, 2), SECRET, SEEDS[:1], b"m" * 32), "got 1 seeds; expected 2"),
    (partial(packed.deal, Committee(5, 2), SECRET, SEEDS[:1] * 2, b"m" * 32), "got equal seeds"),
    (partial(packed.deal, Committee(5, 2), SECRET, SEEDS, SEEDS[1]), "got equal seeds"),
    (partial(packed.deal, Committee(5, 2), SECRET, [*SEEDS[:1], b"b"], b"m" * 32), "got a mask key of 1 bytes"),
    (partial(packed.commitment, b"", 0, bytes(15), b""), "got a salt of 15 bytes; expected 16 random bytes"),
    (partial(packed.commitment, b"", 0, None, b""), "got a salt of NoneType; expected 16 random bytes"),
    (lambda: DEAL().commitments(b"", [bytes(16)] * 4), "got 4 salts; expected 5"),
    (lambda: DEAL().commitments(b"", [bytes(16)] * 5), "got equal salts"),
    (lambda: DEAL().prove(bytes(31)), "got a mask key of 31 bytes"),
]


@pytest.mark.parametrize(("call", "reason"), REFUSED)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(MPCError, match=reason):
        call()


def test_a_refused_challenge_leaves_the_masks_unused() -> None:
    dealing = DEAL()
    with pytest.raises(MPCError, match="got a mask key"):
        dealing.prove(b"short")
    assert len(dealing.prove(CHALLENGE)) == 60

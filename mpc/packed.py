"""Packed Shamir sharing of a vector of small numbers with a committee, and the proof that a dealing is right.

Shamir's scheme (CACM 1979) with several secrets in one polynomial (M. Franklin and M. Yung, *Communication
complexity of secure multi-party computation*, STOC 1992), modulo p = 2^31 - 1. A :class:`Committee` has m members,
of whom any c may be corrupt. A *column* is one polynomial of degree below r = k + c. It has k = max(1, m - 3c)
secrets at the points -1, ..., -k. The member at place j (counted from 0) has its value at the point j + 1. The
shares of the first c members are pseudorandom: each is a seed of 32 bytes, whose numbers are those of its mask
stream (:mod:`mpc.masks`). They and the secrets fix the polynomial, and with it all other shares.

- Any r members rebuild the secrets. Any c members learn nothing about them. **Privacy ends there at once**: c + 1
  shares give an equation between the secrets of a column, to which few columns of small secrets are solutions.
- Shares of many vectors add up like the vectors. So members add up first, and rebuild only the sum
  (:func:`sum_shares`, :func:`recover`).
- A dealer proves that its shares lie on polynomials of degree below r (:meth:`Dealing.prove`), and each member
  checks its own share (:meth:`Share.check`).

**The proof.** Every share has five more columns, which are random masks. The dealer commits to each share
(:func:`commitment`). A hash over the commitments yields five random combinations of all columns
(:func:`challenge_key`). The dealer publishes each combination plus one mask: a polynomial of degree below r, by its
values at r points. Each member compares the value at its own point. Suppose that the shares of the honest members
that accept fit no polynomial of degree below r in some column. Then those of r + 1 of them already fit none, and a
random combination hides that with probability 1/p. So an attempt of the dealer, which is one hash, succeeds with
probability at most C(m - c, r + 1) / p^5: the proof has 155 - log2 C(m - c, r + 1) bits. Since each mask is used
once, the proof says nothing about the secrets. A second challenge on the same masks would show five equations
between them. The proof protects the sum, not the secrets: they stay secret without it.

No branch and no memory address depends on the secrets or shares of a dealer or member, except that a secret out of
range is refused. Points and weights are public. On the wire every number is a little-endian uint32 below p.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc import _mersenne, _reed_solomon
from mpc._committee import MASK_COLUMNS, MAX_MEMBERS, SEED_BYTES, Committee
from mpc._mersenne import Numbers, from_bytes, to_bytes
from mpc.errors import MPCError
from mpc.keys import encode_parts
from mpc.masks import KEY_BYTES, keystream

__all__ = [
    "MASK_COLUMNS",
    "MAX_MEMBERS",
    "MAX_SUM",
    "PRIME",
    "SALT_BYTES",
    "SEED_BYTES",
    "Candidate",
    "Committee",
    "Dealing",
    "Share",
    "challenge_key",
    "check_answer",
    "check_proof",
    "commitment",
    "deal",
    "read_share",
    "recover",
    "sum_shares",
]

PRIME = _mersenne.PRIME
"""The order of the field: a Mersenne prime."""

MAX_SUM = (PRIME - 1) // 2
"""The largest secret or sum of secrets; the least is its negative."""

SALT_BYTES = 16
"""Bytes of the salt of a commitment."""


@dataclass(frozen=True, slots=True, eq=False)
class Dealing:
    """One vector, shared: what its dealer keeps until the shares are sealed and the proof is made.

    ``shares`` are the members' shares by place, each to be sealed to its member. Nothing of a dealing is public
    but :meth:`commitments` and :meth:`prove`.
    """

    shares: tuple[bytes, ...] = field(repr=False)
    _values: Numbers = field(repr=False)
    _proven: list[bytes] = field(default_factory=list, repr=False)

    def commitments(self, context: bytes, salts: Sequence[bytes]) -> list[bytes]:
        """The :func:`commitment` to each share, by place; one of ``salts`` for each.

        Raises :class:`MPCError` for another number of salts, equal salts, and salts that don't have 16 bytes.
        """
        if len(salts) != len(self.shares):
            raise MPCError(f"got {len(salts)} salts; expected {len(self.shares)}, one for each share")
        made = [commitment(context, j, salts[j], share) for j, share in enumerate(self.shares)]
        if len(set(salts)) != len(salts):
            raise MPCError("got equal salts; expected fresh random bytes for each share")
        return made

    def prove(self, key: bytes) -> bytes:
        """The proof for the challenge of ``key``, from :func:`challenge_key`: r values of each combination.

        The values are those at the points -1, ..., -k and 1, ..., c. Raises :class:`MPCError` for a second
        challenge, since the masks hide the secrets only once. For the same reason, never deal with the same keys
        twice unless the commitments, and so the challenge, are the same too.
        """
        from mpc import _packed

        columns = self._values.shape[1] - MASK_COLUMNS
        challenge = _challenge(key, columns)
        if self._proven and self._proven != [key]:
            raise MPCError(
                "got a second challenge for one dealing; expected the first again: two proofs with the same masks "
                "reveal equations between the secrets, so deal afresh, with new keys"
            )
        self._proven[:] = [key]
        out = np.empty((MASK_COLUMNS, len(self._values)), np.uint32)
        _packed.products(challenge, self._values, out)
        return to_bytes(_mersenne.reduced(out.astype(np.int64) + self._values[:, columns:].T))


def deal(committee: Committee, secret: NDArray[Any], seeds: Sequence[bytes], mask_key: bytes) -> Dealing:
    """Share ``secret`` with a committee. The dealer runs it.

    ``secret`` is a non-empty one-dimensional array of signed integers, each within ``MAX_SUM`` of zero. Secret t of
    column l is ``secret[t * columns + l]``, and zeros follow the last. ``seeds`` are c distinct keys of 32 random
    bytes: the shares of the first c members. ``mask_key``, another one, gives the masks at the points of the
    secrets: number t * 5 + i of its stream is the value of mask i at -1 - t.

    The numbers of a key are the little-endian 32-bit words of its mask stream without their top bits; a word that
    is then 2^31 - 1 is skipped. The same arguments give the same dealing. A key is never used for anything else.
    Raises :class:`MPCError` for any other argument.
    """
    from mpc import _packed

    residues = _residues(secret)
    columns, k = committee.columns(residues.size), committee.per_column
    if len(seeds) != committee.corrupt:
        raise MPCError(f"got {len(seeds)} seeds; expected {committee.corrupt}: one for each of the first members")
    values = np.zeros((committee.threshold, columns + MASK_COLUMNS), np.uint32)
    padded = np.zeros(k * columns, np.uint32)
    padded[: residues.size] = residues
    values[:k, :columns] = padded.reshape(k, columns)
    values[:k, columns:] = _numbers(mask_key, k * MASK_COLUMNS).reshape(k, MASK_COLUMNS)
    for row, seed in zip(values[k:], seeds, strict=True):
        row[:] = _numbers(seed, row.size)
    if len({*seeds, mask_key}) != len(seeds) + 1:
        raise MPCError(
            "got equal seeds, or a seed that is also the key of the masks; expected a fresh key for each"
        )
    others = np.empty((committee.members - committee.corrupt, values.shape[1]), np.uint32)
    _packed.transform(_weights_of_members(committee)[committee.corrupt :], values, others)
    return Dealing((*seeds, *map(to_bytes, others)), values)


def commitment(context: bytes, place: int, salt: bytes, share: bytes) -> bytes:
    """The dealer's commitment (32 bytes) to the ``share`` of the member at ``place``, as it is sealed.

    SHA-256 of the :func:`~mpc.keys.encode_parts` of the arguments. ``context`` names purpose, session and dealer.
    ``salt`` (16 random bytes, of this share alone) hides the share: it is sealed with it. Raises :class:`MPCError`
    for a salt of another size.
    """
    if not isinstance(salt, bytes) or len(salt) != SALT_BYTES:
        got = f"{len(salt)} bytes" if isinstance(salt, bytes) else type(salt).__name__
        raise MPCError(f"got a salt of {got}; expected {SALT_BYTES} random bytes")
    return hashlib.sha256(encode_parts(context, place, salt, share)).digest()


def challenge_key(context: bytes, root: bytes) -> bytes:
    """The key (32 bytes) of a dealing's challenge, by SHA-256 from ``root``, a hash over all its commitments.

    ``context`` names purpose, session and dealer; it is not that of the commitments.
    """
    return hashlib.sha256(encode_parts(context, root)).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A member's share of one dealing, from :func:`read_share`: well-formed, but not yet checked."""

    committee: Committee
    place: int
    _numbers: Numbers = field(repr=False)

    def check(self, key: bytes, proof: bytes) -> None:
        """Check the share against its dealer's ``proof``. The member runs it before it keeps the share.

        ``key`` is the challenge of the dealing, by :func:`challenge_key`. Check the commitment to the share first.
        Raises :class:`MPCError` if the share misses the proof, and for a proof that :func:`check_proof` refuses.
        """
        from mpc import _packed

        rows = _read_proof(self.committee, proof)
        challenge = _challenge(key, self._numbers.size - MASK_COLUMNS)
        if _packed.misses(challenge, self._numbers, _weights_of_members(self.committee)[self.place], rows):
            raise MPCError(f"the share at place {self.place} misses its dealer's proof: leave this dealing out")

    def kept(self) -> bytes:
        """What the member keeps of a share that it has checked: 4 bytes for each column but those of masks.

        The masks must not reach a sum. With the proofs, a sum of masks would show equations between single secrets.
        """
        return to_bytes(self._numbers[:-MASK_COLUMNS])


def read_share(committee: Committee, length: int, place: int, data: bytes) -> Share:
    """The share of a dealing of ``length`` secrets that the member at ``place`` has unsealed, as ``data``.

    Raises :class:`MPCError` for bytes of another length than :meth:`Committee.share_bytes`, and for a number that
    is not below p.
    """
    columns = committee.columns(length)
    place = committee.checked_place(place)
    if place >= committee.corrupt:
        return Share(committee, place, from_bytes(data, columns + MASK_COLUMNS, "a share"))
    if not isinstance(data, bytes) or len(data) != SEED_BYTES:
        raise MPCError(
            f"got a share of {_mersenne.size(data)} at place {place}; expected a seed of {SEED_BYTES} bytes"
        )
    return Share(committee, place, _numbers(data, columns + MASK_COLUMNS))


def check_proof(committee: Committee, proof: bytes) -> None:
    """Check the form of a dealer's ``proof``, which any party can do.

    Raises :class:`MPCError` for bytes of another length than ``committee.proof_bytes``, and for a number that is
    not below p.
    """
    _read_proof(committee, proof)


def sum_shares(committee: Committee, length: int, shares: Iterable[bytes]) -> bytes:
    """A member's share of the sum of many dealings, each of ``length`` secrets: its answer.

    ``shares`` are from :meth:`Share.kept`, one a dealing, at most 2^32; they are read one after the other. Raises
    :class:`MPCError` for bytes of another length, and for a number that is not below p.
    """
    columns = committee.columns(length)
    total = np.zeros(columns, np.int64)
    for share in shares:
        total += from_bytes(share, columns, "a kept share")
    return to_bytes(_mersenne.reduced(total))


def check_answer(committee: Committee, length: int, answer: bytes) -> None:
    """Check the form of a member's ``answer``. The party that collects the answers runs it on each as it comes.

    The answer is to sums of ``length`` numbers. Raises :class:`MPCError` for bytes of another length than
    :meth:`Committee.answer_bytes`, and for a number that is not below p.
    """
    from_bytes(answer, committee.columns(length), "an answer")


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A sum that enough answers agree on.

    - ``secret``: the sum, ``length`` int64 within ``MAX_SUM`` of zero.
    - ``agreeing``: the places of the members whose answers agree, in order.
    - ``differing``: the places of the others that answered, in order.
    - ``settled``: whether r + c answers agree or more. Then r of them are from honest members, so this *is* the sum
      of what was dealt. If it is not the sum that was expected, a dealer is at fault.
    """

    secret: NDArray[np.int64] = field(repr=False)
    agreeing: tuple[int, ...]
    differing: tuple[int, ...]
    settled: bool
    _padding: NDArray[np.int64] = field(repr=False)

    @property
    def liars(self) -> tuple[int, ...]:
        """The places of members whose answers are certainly wrong: ``differing`` if ``settled``, otherwise none.

        Where fewer than r + c answers agree, corrupt members can make them agree on a wrong sum, from which an
        honest member differs.
        """
        return self.differing if self.settled else ()

    def fits(self, bound: int) -> bool:
        """Whether every number is within ``bound`` of zero, and whatever follows the last number is zero."""
        return bool(np.abs(self.secret).max() <= bound) and not self._padding.any()


def recover(
    committee: Committee, length: int, answers: Mapping[int, bytes], rng: Callable[[int], bytes] = os.urandom
) -> Iterator[Candidate]:
    """The sums of ``length`` numbers that ``answers``, by place, may stand for: most agreeing answers first.

    Whoever collected the answers runs it, after the last of them, and takes the first candidate that passes its own
    check of the sum. **Agreement alone proves nothing** below r + c answers. The first candidate is that of
    Reed-Solomon decoding, if at most half of the answers beyond r differ. All others that at least r answers agree
    on follow, unless there are more than 10,000 subsets of r answers. Then r right answers among them suffice, as
    each sum is tried.

    Which answers agree is decided on two random combinations of the columns, from 32 bytes of ``rng``, a
    cryptographic generator: an answer that differs seems to agree with probability 2^-62. Raises :class:`MPCError`
    for fewer than r answers, for a place out of range, and for an answer that :func:`check_answer` refuses.
    """
    if len(answers) < committee.threshold:
        raise MPCError(
            f"got {len(answers)} answers; expected at least {committee.threshold} of {committee.members}: ask more "
            "members"
        )
    places = sorted(committee.checked_place(place) for place in answers)
    rows = np.stack([from_bytes(answers[place], committee.columns(length), "an answer") for place in places])
    return _candidates(committee, length, places, rows, rng(KEY_BYTES))


def _candidates(
    committee: Committee, length: int, places: Sequence[int], rows: Numbers, key: bytes
) -> Iterator[Candidate]:
    from mpc import _packed

    columns, secrets = rows.shape[1], tuple(-1 - t for t in range(committee.per_column))
    words = np.empty((2, len(places)), np.uint32)
    _packed.products(_numbers(key, 2 * columns).reshape(2, columns), rows, words)
    points = [place + 1 for place in places]
    for pattern in _reed_solomon.agreements(points, words.tolist(), committee.threshold):
        chosen = sorted(pattern)[: committee.threshold]
        out = np.empty((committee.per_column, columns), np.uint32)
        _packed.transform(_mersenne.weights([points[i] for i in chosen], secrets), rows[chosen], out)
        numbers = out.reshape(-1).astype(np.int64)
        numbers -= PRIME * (numbers > MAX_SUM)
        yield Candidate(
            numbers[:length],
            tuple(place for i, place in enumerate(places) if i in pattern),
            tuple(place for i, place in enumerate(places) if i not in pattern),
            len(pattern) >= committee.naming_threshold,
            numbers[length:],
        )


@lru_cache(maxsize=64)
def _weights_of_members(committee: Committee) -> Numbers:
    """A row for each member: the weights of the values at -1, ..., -k and 1, ..., c in its share."""
    secrets, seeded = range(-1, -1 - committee.per_column, -1), range(1, 1 + committee.corrupt)
    return _mersenne.weights((*secrets, *seeded), range(1, 1 + committee.members))


def _read_proof(committee: Committee, proof: bytes) -> Numbers:
    """A row of r values for each of the five combinations."""
    return from_bytes(proof, MASK_COLUMNS * committee.threshold, "a proof").reshape(MASK_COLUMNS, -1)


def _challenge(key: bytes, columns: int) -> Numbers:
    return _numbers(key, MASK_COLUMNS * columns).reshape(MASK_COLUMNS, columns)


def _numbers(key: bytes, count: int) -> Numbers:
    """The first ``count`` numbers of the stream of ``key``, each uniform below p, in a read-only array."""
    from mpc import _packed

    words: Numbers = np.empty(count, "<u4")
    keystream(key, words)
    drawn = count
    # Which words are skipped says nothing about those that stay.
    while _packed.cut(words):
        words = words[words != PRIME]
        more: Numbers = np.empty(count - words.size, "<u4")
        keystream(key, more, offset=drawn)
        drawn += more.size
        words = np.concatenate([words, more])
    words.flags.writeable = False  # as arrays of received bytes are, so that each kernel is compiled once
    return words


def _residues(secret: NDArray[Any]) -> NDArray[np.int64]:
    """``secret`` modulo p, once it is what :func:`deal` takes."""
    if not isinstance(secret, np.ndarray) or secret.ndim != 1 or secret.dtype.kind != "i" or not secret.size:
        got = f"{secret.dtype} of shape {secret.shape}" if isinstance(secret, np.ndarray) else type(secret).__name__
        raise MPCError(f"got a secret of {got}; expected a one-dimensional array of signed integers, not empty")
    signed = secret.astype(np.int64)
    if signed.max() > MAX_SUM or signed.min() < -MAX_SUM:
        raise MPCError(f"got a secret with a number beyond {MAX_SUM} in size; expected smaller numbers")
    return _mersenne.non_negative(signed)

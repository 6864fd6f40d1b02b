"""Keystreams are AES-CTR at any place, and each purpose has a key of its own."""

import hashlib
import hmac
from collections import defaultdict
from concurrent.futures import Executor
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings, strategies as st

from he import _rlwe_encryption, bfv, ckks
from he.ring import sampling
from he.ring.streams import _ZEROS, Stream, aes_ctr, derive
from mpc import masks
from tests.he.ring.groups import needs_compiler
from tests.reference import rlwe as twin

KEY = bytes(range(32))


@settings(max_examples=60)
@given(
    first=st.one_of(st.integers(0, 9), st.integers(0, 2**64), st.integers(1, 2**30).map(sampling.GROUP.__mul__)),
    count=st.integers(1, 40),
    key=st.binary(min_size=32, max_size=32),
)
def test_words_at_any_place_are_blocks_of_the_counter(first: int, count: int, key: bytes) -> None:
    out = np.full(count, 7, dtype=np.uint64)
    aes_ctr(key)(out, first)
    assert out.tolist() == twin.counter_words(key, first, count)


def test_long_streams_cross_pieces_at_every_alignment() -> None:
    piece = len(_ZEROS) // 8
    long = 3 * piece + 9
    encryptor = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor()
    expected = np.frombuffer(encryptor.update(bytes(8 * (long + 5))), dtype="<u8")
    stream = aes_ctr(KEY)
    for first in range(4):
        for count in (long, piece - 1, piece, piece + 1, piece + 2, piece + 3, 2 * piece + 4):
            out = np.zeros(count, dtype=np.uint64)
            stream(out, first)
            assert (out == expected[first : first + count]).all()


def test_nothing_is_written_beyond_the_end() -> None:
    """OpenSSL's binding wants more room than it writes: the room must be the array's own."""
    for count in range(1, 12):
        whole = np.full(count + 8, 9, dtype=np.uint64)
        aes_ctr(KEY)(whole[4:-4], 3)
        assert (whole[:4] == 9).all()
        assert (whole[-4:] == 9).all()
        assert whole[4:-4].tolist() == twin.counter_words(KEY, 3, count)


def test_the_stream_is_that_of_masks() -> None:
    for first, count in ((0, 1000), (1, 70_000), (123_457, 33)):
        ours, theirs = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=np.uint64)
        aes_ctr(KEY)(ours, first)
        masks.keystream(KEY, theirs, offset=first)
        assert (ours == theirs).all()


def test_derived_keys_are_hkdf_expand_of_all_parts_with_their_lengths() -> None:
    info = b"\0\0\0\2ab\0\0\0\0\0\0\0\1c"
    assert derive(KEY, b"ab", b"", b"c") == hmac.new(KEY, info + b"\1", hashlib.sha256).digest()


PARTS = st.lists(st.binary(max_size=3), max_size=4)


@given(one=PARTS, other=PARTS)
def test_different_purposes_have_different_keys(one: list[bytes], other: list[bytes]) -> None:
    assert (derive(KEY, *one) == derive(KEY, *other)) == (one == other)


def test_without_lengths_two_purposes_would_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: these purposes are the same bytes, one after another."""
    purposes = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"", b"abc")]
    assert len({derive(KEY, *purpose) for purpose in purposes}) == 4

    class Nothing(int):
        def to_bytes(self, *_: object) -> bytes:  # type: ignore[override]
            return b""

    monkeypatch.setitem(derive.__globals__, "len", lambda part: Nothing())
    assert len({derive(KEY, *purpose) for purpose in purposes}) == 1


@needs_compiler
@pytest.mark.parametrize("separate", [True, False], ids=["as it is", "control: one key for all purposes"])
@pytest.mark.parametrize("seeded", [False, True], ids=["public", "seeded"])
@pytest.mark.parametrize("kind", [bfv.Scheme, ckks.Scheme], ids=["bfv", "ckks"])
def test_no_word_serves_twice_in_a_key_and_its_uploads(
    kind: type[bfv.Scheme | ckks.Scheme],
    seeded: bool,
    separate: bool,
    threads: Executor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under several primes, in several groups and pieces of work, with and without threads."""
    scheme = kind(2**24 - 2, 4096, seeded)
    reads: dict[bytes, list[tuple[int, int]]] = defaultdict(list)

    def recorded(key: bytes) -> Stream:
        def stream(out: np.ndarray, first: int) -> None:
            reads[key].append((first, first + out.size))
            aes_ctr(key)(out, first)

        return stream

    monkeypatch.setattr(_rlwe_encryption, "aes_ctr", recorded)
    if not separate:
        monkeypatch.setattr(_rlwe_encryption, "derive", lambda seed, *_: derive(seed))
    key, values = scheme.generate(), np.zeros(19 * scheme.slots, dtype=np.int64)
    for executor in (None, threads):
        key.encrypt(values, executor)
    spans = [sorted(of_key) for of_key in reads.values()]
    assert sum(len(of_key) for of_key in spans) > 4 * len(spans)
    assert all(end <= start for of_key in spans for (_, end), (start, _) in pairwise(of_key)) == separate

"""The envelope: its bytes by hand, what it refuses, and the ids that are computed beside it."""

import hashlib
from collections import Counter
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from secagg import wire
from secagg.errors import FaultKind
from secagg.merkle import merkle_levels, merkle_path, merkle_root, path_lengths
from secagg.session import Advertised, session_id

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
TASK, SESSION = bytes(32), bytes([7]) * 32
LIMIT = 10_000


class Note(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 9
    words: list[str]
    seal: bytes


NOTE = Note(["a", "b"], b"\1\2")
STRUCTURE = b"\x92\x92\xa1a\xa1b\xc4\x02\x01\x02"  # MessagePack: [["a", "b"], 0x0102]


def sealed(
    message: wire.Message = NOTE,
    *,
    session: bytes = SESSION,
    sender: str = "c1",
    payload: bytes = b"vectors",
    identity: Ed25519PrivateKey | None = KEY,
) -> bytes:
    return wire.seal_envelope(
        message, protocol=2, task=TASK, session=session, sender=sender, payload=payload, identity=identity
    )


def by_hand(
    *, version: int = 2, session: bytes = SESSION, sender: bytes = b"c1", body: bytes | None = None
) -> bytes:
    """What stands before the trailer, spelt out."""
    inner = len(STRUCTURE).to_bytes(4, "big") + STRUCTURE + b"vectors" if body is None else body
    return b"".join(
        (
            b"SECAGG",
            bytes([version]),
            b"\x00\x02",
            b"\x09",
            TASK,
            bytes([len(session)]) + session,
            bytes([len(sender)]) + sender,
            len(inner).to_bytes(4, "big") + inner,
        )
    )


def kind_of(data: object, limit: int = LIMIT) -> FaultKind:
    with pytest.raises(wire.Reject) as refused:
        wire.Envelope.parse(data, limit)  # type: ignore[arg-type]
    return refused.value.kind


def test_bytes_are_as_documented() -> None:
    signed = by_hand()
    digest = hashlib.sha256(signed).digest()
    assert sealed(identity=None) == signed + digest[:16]
    assert sealed() == signed + KEY.sign(b"secagg/v1/envelope" + digest)


@pytest.mark.parametrize("identity", [KEY, None])
@pytest.mark.parametrize("session", [SESSION, b""])
def test_what_is_sealed_is_opened(identity: Ed25519PrivateKey | None, session: bytes) -> None:
    data = sealed(identity=identity, session=session)
    envelope = wire.Envelope.parse(data, LIMIT)
    envelope.verify(PUBLIC if identity else None)
    message, payload = envelope.open(Note)
    assert (message, bytes(payload)) == (NOTE, b"vectors")
    assert (envelope.protocol, envelope.kind, envelope.task) == (2, 9, TASK)
    assert (envelope.session, envelope.sender, envelope.raw) == (session, "c1", data)


def test_bytes_and_read_only_views_are_not_copied_and_what_can_change_is() -> None:
    data = sealed()
    for one in (data, memoryview(data), memoryview(bytearray(data)).toreadonly()):
        envelope = wire.Envelope.parse(one, LIMIT)
        assert (envelope.received is one) or memoryview(envelope.received).obj is memoryview(one).obj
        assert (type(envelope.raw), envelope.raw) == (bytes, data)
        assert [type(part) for part in (envelope.task, envelope.session, envelope.trailer)] == [bytes] * 3
    changing = bytearray(data)
    spread = memoryview(bytes(byte for one in data for byte in (one, 0)))[::2]
    for one in (changing, memoryview(changing), spread):
        assert type(wire.Envelope.parse(one, LIMIT).received) is bytes  # type: ignore[arg-type]


def test_an_owned_envelope_is_the_same_without_the_callers_buffer() -> None:
    data = sealed()
    buffer = bytearray(data)
    envelope = wire.Envelope.parse(memoryview(buffer).toreadonly(), LIMIT)
    owned = envelope.owned()
    assert owned == envelope
    buffer[:] = bytes(len(buffer))
    assert (owned.raw, bytes(owned.body)) == (data, bytes(wire.Envelope.parse(data, LIMIT).body))
    owned.verify(PUBLIC)
    assert owned.owned() is owned


@pytest.mark.parametrize("identity", [KEY, None])
@pytest.mark.parametrize("session", [SESSION, b""])
@pytest.mark.parametrize("sender", ["", "c1", "c" * 64])
def test_overhead_is_exact(identity: Ed25519PrivateKey | None, session: bytes, sender: str) -> None:
    size = wire.overhead(sender, session=bool(session), signed=identity is not None) + wire.structure_size(NOTE) + 7
    assert len(sealed(identity=identity, session=session, sender=sender)) == size


@pytest.mark.parametrize("identity", [KEY, None])
def test_every_flipped_bit_is_noticed(identity: Ed25519PrivateKey | None) -> None:
    data = sealed(identity=identity)
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(wire.Reject):
            wire.Envelope.parse(damaged, LIMIT).verify(PUBLIC if identity else None)


@pytest.mark.parametrize("identity", [KEY, None])
def test_every_length_but_its_own_is_refused(identity: Ed25519PrivateKey | None) -> None:
    data = sealed(identity=identity)
    lengths = [data[:end] for end in range(len(data))] + [data + bytes(extra) for extra in (1, 16, 48, 64)]
    for other in lengths:
        # 48 bytes make the difference of one kind of trailer to the other: the frame is whole then.
        with pytest.raises(wire.Reject):
            wire.Envelope.parse(other, LIMIT).verify(PUBLIC if identity else None)


def test_a_checksum_is_no_signature() -> None:
    envelope = wire.Envelope.parse(sealed(identity=None), LIMIT)
    with pytest.raises(wire.Reject, match="signature"):
        envelope.verify(PUBLIC)
    signed = wire.Envelope.parse(sealed(), LIMIT)
    with pytest.raises(wire.Reject, match="checksum"):
        signed.verify(None)


@pytest.mark.parametrize("key", [bytes(32), bytes(31), b"", b"\xff" * 32])
def test_a_key_that_is_none_verifies_nothing(key: bytes) -> None:
    with pytest.raises(wire.Reject) as refused:
        wire.Envelope.parse(sealed(), LIMIT).verify(key)
    assert refused.value.kind is FaultKind.UNAUTHENTIC


TRAILER = bytes(16)
BAD = {
    "text": ("a message", FaultKind.MALFORMED),
    "nothing": (None, FaultKind.MALFORMED),
    "empty": (b"", FaultKind.MALFORMED),
    "another magic": (b"SECAGE" + by_hand()[6:] + TRAILER, FaultKind.MALFORMED),
    "another version": (by_hand(version=1) + TRAILER, FaultKind.VERSION),
    "session of 31 bytes": (by_hand(session=bytes(31)) + TRAILER, FaultKind.MALFORMED),
    "sender with a space": (by_hand(sender=b"c 1") + TRAILER, FaultKind.MALFORMED),
    "sender with a line's end": (by_hand(sender=b"c1\n") + TRAILER, FaultKind.MALFORMED),
    "sender beyond ASCII": (by_hand(sender="ç".encode()) + TRAILER, FaultKind.MALFORMED),
    "sender too long": (by_hand(sender=b"c" * 65) + TRAILER, FaultKind.MALFORMED),
    "trailer of 17 bytes": (by_hand() + bytes(17), FaultKind.MALFORMED),
    "no trailer": (by_hand(), FaultKind.MALFORMED),
    "body longer than the rest": (by_hand()[:-22] + b"\xff\xff\xff\xff" + TRAILER, FaultKind.MALFORMED),
}


@pytest.mark.parametrize(("data", "kind"), BAD.values(), ids=BAD)
def test_what_no_honest_party_sends_is_refused(data: object, kind: FaultKind) -> None:
    assert kind_of(data) is kind


def test_size_comes_first() -> None:
    data = sealed()
    assert wire.Envelope.parse(data, len(data)).sender == "c1"
    assert kind_of(bytes(len(data) + 1), len(data)) is FaultKind.OVERSIZED


BODIES = {
    "empty": b"",
    "cut in its length": b"\0\0\0",
    "shorter than it says": b"\0\0\0\x20" + STRUCTURE,
    "no MessagePack": b"\0\0\0\1\xc1",
    "no list": b"\0\0\0\1\x80",
    "a field too few": b"\0\0\0\3\x91\x91\xa0",
    "a field too many": b"\0\0\0\5\x93\x90\xc4\0\xc0",
    "a field of another type": b"\0\0\0\3\x92\x90\x05",
    "text that is not UTF-8": b"\0\0\0\6\x92\x91\xa1\xff\xc4\0",
    "bytes behind the structure": b"\0\0\0\x0c" + STRUCTURE + b"\0\0",
    "a list of four thousand million": b"\0\0\0\6\x92\xdd\xff\xff\xff\xff",
    "bytes of four thousand million": b"\0\0\0\7\x92\x90\xc6\xff\xff\xff\xff",
    "nested a thousand times": (1001).to_bytes(4, "big") + b"\x92" + b"\x91" * 1000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_such_message_is_refused(body: bytes) -> None:
    envelope = wire.Envelope.parse(by_hand(body=body) + TRAILER, LIMIT)
    with pytest.raises(wire.Reject) as refused:
        envelope.open(Note)
    assert refused.value.kind is FaultKind.MALFORMED


def test_no_vectors() -> None:
    wire.no_vectors(memoryview(b""))
    with pytest.raises(wire.Reject, match="got 3 bytes after the end"):
        wire.no_vectors(memoryview(b"abc"))


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_merkle_root_is_that_of_rfc_9162(leaves: list[bytes]) -> None:
    def root(entries: list[bytes]) -> bytes:
        if len(entries) < 2:
            return hashlib.sha256(b"\0" + entries[0] if entries else b"").digest()
        split = 1
        while 2 * split < len(entries):
            split *= 2
        return hashlib.sha256(b"\1" + root(entries[:split]) + root(entries[split:])).digest()

    assert merkle_root(leaves) == root(leaves)


def test_session_id_by_hand() -> None:
    def joined(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    names = {"task": b"t" * 32, "roster": b"r" * 32, "session": b"round 3", "nonce": b"n" * 32}
    opening = joined(b"secagg/v1/session", *names.values(), joined(b"c1", b"c2"))
    names["cohort"] = ["c1", "c2"]
    assert session_id(**names) == hashlib.sha256(opening).digest()
    adverts = [b"one", b"two"]
    keyed = opening + joined((2).to_bytes(8, "big"), merkle_root(adverts))
    assert session_id(**names, advertised=Advertised.of(adverts)) == hashlib.sha256(keyed).digest()
    assert session_id(**names, advertised=Advertised.of([])) != session_id(**names)


@pytest.mark.parametrize("changed", ["task", "roster", "session", "nonce", "cohort", "advertised"])
def test_everything_is_in_the_session_id(changed: str) -> None:
    names = {name: bytes(32) for name in ("task", "roster", "session", "nonce")} | {"cohort": ["c1"]}
    others = {"advertised": Advertised.of([b"x"]), "cohort": ["c1", "c2"]}
    other = {changed: others.get(changed, bytes(31) + b"\1")}
    assert session_id(**(names | other)) != session_id(**names)  # type: ignore[arg-type]


def test_strangers_ids_are_as_many_as_asked_for_and_sorted():
    assert wire.stand_in_ids(2) == ["c1", "c2"]
    assert wire.stand_in_ids(10) == ["c1", "c10", *(f"c{number}" for number in range(2, 10))]
    for count in (1, 9, 10, 11, 1000):
        assert Counter(map(len, wire.stand_in_ids(count))) == Counter(wire.stand_in_lengths(count))


@pytest.mark.parametrize("count", [0, 1, 15, 16, (1 << 16) - 1, 1 << 16])
def test_a_list_that_is_counted_is_as_long_as_one_that_is_built(count: int):
    built = Note(["c"] * count + ["x" * 40] * 3, b"\1")
    assert wire.structure_size(Note([], b"\1"), {"c": count, "x" * 40: 3}) == wire.structure_size(built)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33])
def test_lengths_of_inclusion_proofs_are_those_of_the_tree(size: int):
    levels = merkle_levels([bytes([at]) for at in range(size)])
    assert Counter(len(merkle_path(levels, at)) // 32 for at in range(size)) == Counter(path_lengths(size))

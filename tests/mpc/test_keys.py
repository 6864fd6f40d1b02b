"""Keys: what RFC 7748 and RFC 5869 publish, and everything tampered with is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, strategies as st

from mpc import MPCError, keys

VECTORS = Path(__file__).parents[1] / "vectors"
X25519 = json.loads((VECTORS / "x25519.json").read_text())
HKDF = json.loads((VECTORS / "hkdf_sha256.json").read_text())["vectors"]

KEY = st.binary(min_size=32, max_size=32)
PARTS = st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=5), st.integers(0, 2**64 - 1)), max_size=5)


# --- encode_parts ----------------------------------------------------------------------------


def test_parts_are_written_as_documented() -> None:
    written = keys.encode_parts("é", b"ab", 258, b"")
    assert written.hex() == "00000002c3a9" + "000000026162" + "000000080000000000000102" + "00000000"
    assert keys.encode_parts() == b""


def octets(part: bytes | str | int) -> bytes:
    """The bytes that a part stands for."""
    if isinstance(part, str):
        return part.encode()
    return part if isinstance(part, bytes) else part.to_bytes(8, "big")


@given(PARTS)
def test_parts_can_be_told_apart(parts: list[bytes | str | int]) -> None:
    written, read = keys.encode_parts(*parts), []
    while written:
        size = int.from_bytes(written[:4], "big")
        read.append(written[4 : 4 + size])
        written = written[4 + size :]
    assert read == [octets(part) for part in parts]


@pytest.mark.parametrize("part", [-1, 2**64, True, None, 1.0, ["a"]])
def test_other_parts_are_refused(part: Any) -> None:
    with pytest.raises(MPCError, match=r"as a part; expected|a part of type"):
        keys.encode_parts("label", part)


# --- HKDF and X25519 -------------------------------------------------------------------------


@pytest.mark.parametrize("vector", HKDF)
def test_hkdf_as_published(vector: dict[str, str]) -> None:
    secret, salt, info, derived = (bytes.fromhex(vector[k]) for k in ("secret", "salt", "info", "derived"))
    assert keys.derive(secret, salt=salt, info=info, length=len(derived)) == derived
    assert keys.derive(secret, salt=salt, info=info) == derived[:32]


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_a_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(MPCError, match=f"got a length of {length} bytes to derive; expected 1 to 8160"):
        keys.derive(bytes(32), salt=b"", info=b"", length=length)


@pytest.mark.parametrize("vector", X25519["shared"])
def test_x25519_as_published(vector: dict[str, str]) -> None:
    """RFC 7748 and Wycheproof agree with keys in any encoding; those in another than their own are refused."""
    private, peer, secret = (bytes.fromhex(vector[k]) for k in ("private", "peer", "secret"))
    if int.from_bytes(peer, "little") >= 2**255 - 19:
        with pytest.raises(MPCError, match="another encoding of a key"):
            keys.agree(private, peer, salt=b"s", info=b"i")
        peer = (int.from_bytes(peer, "little") % 2**255 % (2**255 - 19)).to_bytes(32, "little")
    assert keys.agree(private, peer, salt=b"s", info=b"i") == keys.derive(secret, salt=b"s", info=b"i")


@pytest.mark.parametrize("vector", X25519["public"])
def test_public_keys_as_published(vector: dict[str, str]) -> None:
    assert keys.public_key(bytes.fromhex(vector["private"])).hex() == vector["public"]


@given(KEY, KEY)
def test_both_sides_agree(ours: bytes, theirs: bytes) -> None:
    key = keys.agree(ours, keys.public_key(theirs), salt=b"session", info=b"seal")
    assert key == keys.agree(theirs, keys.public_key(ours), salt=b"session", info=b"seal")
    assert key != keys.agree(theirs, keys.public_key(ours), salt=b"another", info=b"seal")
    assert key != keys.agree(theirs, keys.public_key(ours), salt=b"session", info=b"mask")


@pytest.mark.parametrize("top_bit", [0, 0x80])
@pytest.mark.parametrize("point", X25519["small_order"])
def test_points_of_small_order_are_refused(point: str, top_bit: int) -> None:
    """With the bit that X25519 ignores clear and set; the last two are encodings of 0 and 1 above the prime.

    Every one of them agrees on zero by the primitive itself, which refuses that.
    """
    peer = bytearray.fromhex(point)
    peer[31] |= top_bit
    for private in (bytes(range(32)), b"\xff" * 32):
        with pytest.raises(ValueError):
            X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(bytes(peer)))
        whole = int.from_bytes(peer, "little") < 2**255 - 19
        with pytest.raises(MPCError, match="a point of small order" if whole else "another encoding"):
            keys.agree(private, bytes(peer), salt=b"", info=b"")


@given(KEY)
def test_one_key_has_one_encoding(private: bytes) -> None:
    key = keys.public_key(private)
    assert keys.check_public_key(key) == key
    flipped = key[:31] + bytes([key[31] | 0x80])
    assert keys.PrivateKey(private)._key.exchange(X25519PublicKey.from_public_bytes(flipped)) == keys.PrivateKey(
        private
    ).exchange(key)
    with pytest.raises(MPCError, match="another encoding"):
        keys.check_public_key(flipped)


@pytest.mark.parametrize("above", range(19))
def test_values_from_the_prime_on_are_refused(above: int) -> None:
    with pytest.raises(MPCError, match="another encoding"):
        keys.check_public_key((2**255 - 19 + above).to_bytes(32, "little"))
    if above > 1:  # not of small order
        keys.check_public_key(above.to_bytes(32, "little"))


@pytest.mark.parametrize("key", [bytes(31), bytes(33), b"", "k" * 32, None])
def test_keys_of_another_size_are_refused(key: Any) -> None:
    good = keys.public_key(bytes(range(32)))
    with pytest.raises(MPCError, match="for an X25519 private key; expected 32 bytes"):
        keys.public_key(key)
    with pytest.raises(MPCError, match="for an X25519 private key; expected 32 bytes"):
        keys.agree(key, good, salt=b"", info=b"")
    with pytest.raises(MPCError, match="for an X25519 public key; expected 32 bytes"):
        keys.agree(bytes(range(32)), key, salt=b"", info=b"")
    with pytest.raises(MPCError, match="for a sealing key; expected 32 bytes"):
        keys.seal(key, b"", associated_data=b"")
    with pytest.raises(MPCError, match="for a sealing key; expected 32 bytes"):
        keys.open_sealed(key, bytes(16), associated_data=b"")
    with pytest.raises(MPCError, match="for a seed; expected 32 bytes"):
        keys.seeded_rng(key, salt=b"", info=b"")


# --- sealing ---------------------------------------------------------------------------------


def test_seal_as_published() -> None:
    """McGrew and Viega, test case 14: zero key, zero nonce, one zero block."""
    sealed = keys.seal(bytes(32), bytes(16), associated_data=b"")
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"


@given(KEY, st.binary(max_size=80), st.binary(max_size=20))
def test_what_is_sealed_opens(key: bytes, plaintext: bytes, associated: bytes) -> None:
    sealed = keys.seal(key, plaintext, associated_data=associated)
    assert len(sealed) == len(plaintext) + keys.TAG_BYTES
    assert keys.open_sealed(key, sealed, associated_data=associated) == plaintext


@given(KEY, st.binary(max_size=40), st.binary(min_size=1, max_size=20), st.data())
def test_one_flipped_bit_anywhere_is_refused(
    key: bytes, plaintext: bytes, associated: bytes, data: st.DataObject
) -> None:
    whole = {"key": key, "sealed": keys.seal(key, plaintext, associated_data=associated), "associated": associated}
    name = data.draw(st.sampled_from(sorted(whole)))
    flipped = bytearray(whole[name])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    whole[name] = bytes(flipped)
    with pytest.raises(MPCError, match="sealed bytes that do not open"):
        keys.open_sealed(whole["key"], whole["sealed"], associated_data=whole["associated"])


@given(st.integers(1, 48))
def test_cut_and_lengthened_texts_are_refused(cut: int) -> None:
    sealed = keys.seal(b"k" * 32, b"p" * 32, associated_data=b"a")
    for text in (sealed[:-cut], sealed[cut:], sealed + bytes(cut)):
        with pytest.raises(MPCError, match="sealed bytes that do not open"):
            keys.open_sealed(b"k" * 32, text, associated_data=b"a")


def test_control_two_plaintexts_under_one_key_reveal_their_difference() -> None:
    """Why a key seals one plaintext only."""
    first, second = b"attack at dawn!!", b"retreat at dusk!"
    a, b = (keys.seal(b"k" * 32, text, associated_data=b"") for text in (first, second))
    difference = bytes(x ^ y for x, y in zip(a, b, strict=True))[:16]
    assert difference == bytes(x ^ y for x, y in zip(first, second, strict=True))


# --- seeded randomness -----------------------------------------------------------------------


@given(KEY, st.lists(st.integers(0, 50), max_size=6))
def test_how_a_stream_is_cut_does_not_matter(seed: bytes, sizes: list[int]) -> None:
    rng = keys.seeded_rng(seed, salt=b"s", info=b"i")
    stream = b"".join(rng(size) for size in sizes)
    key = keys.derive(seed, salt=b"s", info=b"i")
    expected = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(sum(sizes)))
    assert stream == expected


def test_seed_salt_and_info_each_give_another_stream() -> None:
    streams = {
        keys.seeded_rng(seed, salt=salt, info=info)(32)
        for seed in (bytes(32), b"\x01" * 32)
        for salt in (b"", b"s")
        for info in (b"", b"i")
    }
    assert len(streams) == 8


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(MPCError, match="a request for -1 random bytes"):
        keys.seeded_rng(bytes(32), salt=b"", info=b"")(-1)

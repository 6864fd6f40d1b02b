"""One-way sealing: published vectors, the text of the RFC, and tampering with every input."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke as theirs
from cryptography.hazmat.primitives.asymmetric import mlkem

from mpc import MPCError, hpke
from mpc.hpke import Kem, PrivateKey, seal
from tests.reference import hpke as twin

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "hpke.json").read_text())["vectors"]
PRIVATE = bytes(range(32))
INFO = b"who, what, to whom"


@pytest.fixture(params=list(Kem))
def kem(request: pytest.FixtureRequest) -> Kem:
    return request.param


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_published(vector: dict[str, str]) -> None:
    """The key is ours, the suite and the associated data are the vector's."""
    octets = {name: bytes.fromhex(vector[name]) for name in vector if name not in ("source", "kem", "kdf", "aead")}
    key = PrivateKey(Kem(vector["kem"]), octets["private"])
    assert key.public == octets["public"]
    suite = theirs.Suite(
        getattr(theirs.KEM, Kem(vector["kem"]).name),
        getattr(theirs.KDF, vector["kdf"]),
        getattr(theirs.AEAD, vector["aead"]),
    )
    sealed = octets["enc"] + octets["ciphertext"]
    opened = openssl.hpke._decrypt_with_aad(suite, sealed, key._key, octets["info"], octets["aad"])
    assert opened == octets["plaintext"]


@pytest.mark.parametrize("text", [b"", b"x", bytes(range(256)) * 300])
def test_what_is_sealed_opens_as_the_rfc_says(kem: Kem, text: bytes) -> None:
    key = PrivateKey(kem, PRIVATE)
    sealed = seal(kem, key.public, text, info=INFO)
    assert (len(key.public), len(sealed)) == (kem.public_bytes, len(text) + kem.overhead)
    assert key.open(sealed, info=INFO) == text
    assert twin.open_sealed(kem, PRIVATE, sealed, INFO) == text


def test_the_same_text_sealed_twice_has_nothing_in_common(kem: Kem) -> None:
    public = PrivateKey(kem, PRIVATE).public
    one, other = (seal(kem, public, bytes(64), info=INFO) for _ in range(2))
    assert not {one[at : at + 16] for at in range(0, len(one), 16)} & {
        other[at : at + 16] for at in range(0, len(other), 16)
    }


def test_any_other_bit_does_not_open(kem: Kem) -> None:
    key = PrivateKey(kem, PRIVATE)
    sealed = seal(kem, key.public, b"secret", info=INFO)
    for place in {*range(0, len(sealed), 31), len(sealed) - 1}:
        changed = bytearray(sealed)
        changed[place] ^= 1 << place % 8
        with pytest.raises(MPCError, match="do not open"):
            key.open(bytes(changed), info=INFO)
    for cut in (b"", sealed[:-1], sealed[1:], sealed + b"\0", bytes(len(sealed)), sealed[: kem.overhead - 17]):
        with pytest.raises(MPCError, match="do not open"):
            key.open(cut, info=INFO)


def test_another_info_or_key_does_not_open(kem: Kem) -> None:
    key = PrivateKey(kem, PRIVATE)
    sealed = seal(kem, key.public, b"secret", info=INFO)
    for info in (b"", INFO + b"\0", INFO[:-1]):
        with pytest.raises(MPCError, match="do not open"):
            key.open(sealed, info=info)
    with pytest.raises(MPCError, match="do not open"):
        PrivateKey(kem, bytes(32)).open(sealed, info=INFO)


@pytest.mark.parametrize("bad", ["text", None, 5, bytearray(64)])
def test_what_is_not_bytes_is_refused(kem: Kem, bad: Any) -> None:
    key = PrivateKey(kem, PRIVATE)
    sealed = seal(kem, key.public, b"secret", info=INFO)
    named = f"of type {type(bad).__name__}; expected bytes"
    with pytest.raises(MPCError, match=f"got sealed {named}"):
        key.open(bad, info=INFO)
    with pytest.raises(MPCError, match=f"got info {named}"):
        key.open(sealed, info=bad)
    with pytest.raises(MPCError, match=f"got plaintext {named}"):
        seal(kem, key.public, bad, info=INFO)
    with pytest.raises(MPCError, match=f"got info {named}"):
        seal(kem, key.public, b"secret", info=bad)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33), "k" * 32, None])
def test_a_private_key_of_another_kind_is_refused(kem: Kem, bad: Any) -> None:
    with pytest.raises(MPCError, match="for a private sealing key; expected 32 bytes"):
        PrivateKey(kem, bad)


def test_a_public_key_that_is_none_is_refused(kem: Kem) -> None:
    for bad in (b"", bytes(kem.public_bytes - 1), bytes(kem.public_bytes + 1), bytearray(kem.public_bytes), None):
        with pytest.raises(MPCError, match=f"expected {kem.public_bytes} bytes"):
            seal(kem, bad, b"secret", info=INFO)  # type: ignore[arg-type]
    good = PrivateKey(kem, bytes(range(32))).public
    for curve, why in (
        (bytes(32), "a point of small order"),
        (good[-32:-1] + bytes([good[-1] | 0x80]), "another enc"),
    ):
        with pytest.raises(MPCError, match=why):
            seal(kem, good[:-32] + curve, b"secret", info=INFO)


def test_a_lattice_key_out_of_range_is_refused() -> None:
    with pytest.raises(MPCError, match="refuse its holder"):
        seal(Kem.MLKEM768_X25519, b"\xff" * 1184 + bytes(range(32)), b"secret", info=INFO)


def test_where_cryptography_has_no_lattices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mlkem, "MLKEM768PrivateKey")
    assert not Kem.MLKEM768_X25519.available
    assert Kem.X25519.available
    with pytest.raises(MPCError, match="install cryptography 47 or later"):
        PrivateKey(Kem.MLKEM768_X25519, PRIVATE)


def test_where_cryptography_has_no_hpke(monkeypatch: pytest.MonkeyPatch) -> None:
    public = PrivateKey(Kem.X25519, PRIVATE).public
    monkeypatch.delattr(theirs, "Suite")
    assert not any(kem.available for kem in Kem)
    with pytest.raises(MPCError, match=r"got X25519, which cryptography .* does not have here"):
        seal(Kem.X25519, public, b"secret", info=INFO)


def test_what_the_names_promise() -> None:
    assert [kem for kem in Kem if kem.post_quantum] == [Kem.MLKEM768_X25519]
    assert all(kem.available for kem in Kem), "the tests run with a cryptography that has both"
    assert hpke.PRIVATE_BYTES == 32

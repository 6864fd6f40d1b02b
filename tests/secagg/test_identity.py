"""Identities: what the roster accepts, what its digest covers, and how keys lie on the disk."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

import secagg
from mpc.hpke import Kem, PrivateKey
from secagg.errors import ConfigError
from secagg.identity import (
    Party,
    PartyRole,
    Roster,
    check_party_id,
    enrol,
    load_identity,
    load_roster,
    load_sealing_key,
)
from secagg.keygen import write_identities

CLIENT, DECRYPTOR = PartyRole.CLIENT, PartyRole.DECRYPTOR


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.mark.parametrize("name", ["c1", "a" * 64, "_x", "Hospital-3.ward:2@north+1", "0"])
def test_party_ids(name: str) -> None:
    assert check_party_id(name) == name


@pytest.mark.parametrize("name", ["", "a" * 65, "-c", ".c", "c 1", "c1\n", "ç", "a/b", "\0", None, 7, b"c1"])
def test_what_is_no_party_id(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"got party id .*; expected 1 to 64"):
        check_party_id(name)


@pytest.mark.parametrize("bad", [bytes(31), bytes(33), b"", "a" * 32, None])
def test_a_signing_key_is_32_bytes(bad: Any) -> None:
    with pytest.raises(ConfigError, match="signing key of c1 that is not 32 bytes"):
        Party("c1", CLIENT, bad)


def order_of(encoded: bytes) -> int:
    """The order of the Ed25519 point that 32 bytes encode, up to 8, by doubling; 0 where it is more."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    y = (int.from_bytes(encoded, "little") & ((1 << 255) - 1)) % p
    squared = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    x = pow(squared, (p + 3) // 8, p)
    x = x if x * x % p == squared else x * pow(2, (p - 1) // 4, p) % p
    if x * x % p != squared:
        return 0
    point = x, y
    for order in (1, 2, 4, 8):
        if point == (0, 1):
            return order
        x, y = point
        product = d * x * x * y * y % p
        point = 2 * x * y * pow(1 + product, -1, p) % p, (y * y + x * x) * pow(1 - product, -1, p) % p
    return 0


EIGHTH = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
OTHER_EIGHTH = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
SMALL = {1: "01" + "00" * 31, 2: "ec" + "ff" * 30 + "7f", 4: "00" * 32, 8: EIGHTH, -8: OTHER_EIGHTH}


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("order", SMALL)
def test_a_signing_key_of_small_order_is_refused(order: int, sign: int) -> None:
    point = bytearray.fromhex(SMALL[order])
    assert order_of(bytes(point)) == abs(order)
    point[31] |= sign
    with pytest.raises(ConfigError, match="got a key of small order as the signing key of c1"):
        Party("c1", CLIENT, bytes(point))


@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_a_signing_key_has_one_encoding(sign: int) -> None:
    """A y from the prime on is y - p; 2 to 18 are small enough to have a second one, and are of no small order."""
    for above in range(19):
        with pytest.raises(ConfigError, match="got a key in a second encoding"):
            Party("c1", CLIENT, (2**255 - 19 + above + sign).to_bytes(32, "little"))
        if above > 1:
            assert order_of(above.to_bytes(32, "little")) == 0
            Party("c1", CLIENT, (above + sign).to_bytes(32, "little"))


def test_a_roster_is_read_by_id_and_role() -> None:
    parties = [Party("c2", CLIENT, key(2)), Party("d", DECRYPTOR, key(3), b"digest"), Party("c1", CLIENT, key(1))]
    roster = Roster(parties)
    assert list(roster) == ["c1", "c2", "d"]
    assert len(roster) == 3
    assert roster.ids(CLIENT) == ("c1", "c2")
    assert roster.ids(DECRYPTOR) == ("d",)
    assert roster.ids(PartyRole.AGGREGATOR) == ()
    assert roster["d"].encryption_key == b"digest"
    assert roster.get("c3") is None
    assert Roster(reversed(parties)).digest == roster.digest
    with pytest.raises(TypeError):
        roster["c3"] = parties[0]  # type: ignore[index]


def test_the_digest_by_hand() -> None:
    def node(tag: bytes, body: bytes) -> bytes:
        return tag + len(body).to_bytes(4, "big") + body

    party = node(b"s", b"Party") + node(b"s", b"c1") + node(b"s", b"client") + node(b"y", key(1)) + node(b"N", b"")
    expected = hashlib.sha256(b"secagg/v1/roster" + node(b"t", node(b"d", party))).digest()
    assert Roster([Party("c1", CLIENT, key(1))]).digest == expected


@pytest.mark.parametrize(
    "other",
    [
        [Party("c2", CLIENT, key(1))],
        [Party("c1", DECRYPTOR, key(1))],
        [Party("c1", CLIENT, key(2))],
        [Party("c1", CLIENT, key(1), b"")],
        [Party("c1", CLIENT, key(1)), Party("c2", CLIENT, key(2))],
        [],
    ],
)
def test_everything_is_in_the_digest(other: list[Party]) -> None:
    assert Roster(other).digest != Roster([Party("c1", CLIENT, key(1))]).digest


def test_one_entry_a_party_and_one_party_a_key() -> None:
    with pytest.raises(ConfigError, match="lists an id twice"):
        Roster([Party("c1", CLIENT, key(1)), Party("c1", CLIENT, key(2))])
    with pytest.raises(ConfigError, match="two ids share a signing key"):
        Roster([Party("c1", CLIENT, key(1)), Party("c2", CLIENT, key(1))])


def test_json_round_trip() -> None:
    roster = Roster([Party("c1", CLIENT, key(1)), Party("d", DECRYPTOR, key(2), key(9))])
    again = Roster.from_json(roster.to_json())
    assert dict(again) == dict(roster)
    assert again.digest == roster.digest


ROW = {"role": "client", "signing_key": base64.b64encode(key(1)).decode()}
BAD = {
    "no JSON": "{",
    "no object": "[]",
    "a number": "7",
    "no version": json.dumps({"parties": {}}),
    "another version": json.dumps({"version": 2, "parties": {}}),
    "unknown field": json.dumps({"version": 1, "parties": {}, "admin": True}),
    "parties no object": json.dumps({"version": 1, "parties": [ROW]}),
    "row no object": json.dumps({"version": 1, "parties": {"c1": 5}}),
    "no role": json.dumps({"version": 1, "parties": {"c1": {"signing_key": ROW["signing_key"]}}}),
    "unknown role": json.dumps({"version": 1, "parties": {"c1": ROW | {"role": "server"}}}),
    "unknown field of a row": json.dumps({"version": 1, "parties": {"c1": ROW | {"admin": True}}}),
    "key no base64": json.dumps({"version": 1, "parties": {"c1": ROW | {"signing_key": "%"}}}),
    "key no text": json.dumps({"version": 1, "parties": {"c1": ROW | {"signing_key": 5}}}),
    "key short": json.dumps({"version": 1, "parties": {"c1": ROW | {"signing_key": "AAAA"}}}),
    "bad id": json.dumps({"version": 1, "parties": {"c 1": ROW}}),
    "shared key": json.dumps({"version": 1, "parties": {"c1": ROW, "c2": ROW}}),
    "an id twice": f'{{"version": 1, "parties": {{"c1": {json.dumps(ROW)}, "c1": {json.dumps(ROW)}}}}}',
    "nested too deeply": "[" * 100_000,
    "a number too long": '{"version": ' + "1" * 5000 + "}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_roster_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^got "):
        Roster.from_json(text)
    path = tmp_path / "roster.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^got "):
        load_roster(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_roster_file_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"got no roster at .*secagg keygen"):
        load_roster(path)


def test_enrol_gives_keys_and_their_public_halves() -> None:
    keys, roster = enrol(["c2", "c1"])
    assert sorted(keys) == list(roster) == ["c1", "c2"]
    for name, private in keys.items():
        assert roster[name].signing_key == private.public_key().public_bytes_raw()


def test_written_identities_are_read(tmp_path: Path) -> None:
    path = write_identities(["c1", "c2"], tmp_path)
    assert write_identities(["d1"], tmp_path, DECRYPTOR) == path
    roster = load_roster(path)
    assert {party.id: party.role for party in roster.values()} == {"c1": CLIENT, "c2": CLIENT, "d1": DECRYPTOR}
    for name in roster:
        pem = tmp_path / f"{name}.pem"
        assert pem.stat().st_mode & 0o777 == 0o600
        assert load_identity(pem).public_key().public_bytes_raw() == roster[name].signing_key


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = write_identities(["c1"], tmp_path)
    before = path.read_bytes(), (tmp_path / "c1.pem").read_bytes()
    with pytest.raises(ConfigError, match=r"got ids that .* has already: c1"):
        write_identities(["c0", "c1"], tmp_path)
    (tmp_path / "c9.pem").write_text("another's")
    with pytest.raises(ConfigError, match="c9"):
        write_identities(["c9"], tmp_path)
    with pytest.raises(ConfigError, match="got party id"):
        write_identities(["c5", "c 6"], tmp_path)
    assert (path.read_bytes(), (tmp_path / "c1.pem").read_bytes()) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c1.enrol", "c1.pem", "c9.pem", "roster.json"]


PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8)
ED25519 = Ed25519PrivateKey.from_private_bytes(key(5))
# An X448 key of 32 bytes, at which OpenSSL fails in its own way.
SHORT_X448 = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VvBCIEIAABAgMEBQYHiAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (None, "got no private key"),
        (b"", "got no private key"),
        (b"-----BEGIN PRIVATE KEY-----\n", "got no private key"),
        (SHORT_X448, "got no private key"),
        (ED25519.private_bytes(*PKCS8, BestAvailableEncryption(b"secret")), "got no private key"),
        (ec.derive_private_key(5, ec.SECP256R1()).private_bytes(*PKCS8, NoEncryption()), "identities are Ed25519"),
    ],
    ids=["no file", "empty", "cut short", "short X448", "encrypted", "another curve"],
)
def test_a_key_that_is_no_identity_is_refused(pem: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "c1.pem"
    if pem is not None:
        path.write_bytes(pem)
    with pytest.raises(ConfigError, match=says):
        load_identity(path)


KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("kem", list(Kem))
def test_a_written_sealing_key_is_read_and_is_the_rosters(kem: Kem, tmp_path: Path) -> None:
    path = write_identities(["a1"], tmp_path, PartyRole.AGGREGATOR, kem=kem)
    private = load_sealing_key(tmp_path / "a1.sealing.json")
    assert PrivateKey(kem, private).public == load_roster(path)["a1"].encryption_key
    assert (tmp_path / "a1.sealing.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "a1.sealing.json").read_text())["kem"] == kem


@pytest.mark.parametrize(
    "written",
    [
        None,
        "",
        "[]",
        "{}",
        "[" * 100_000,
        "\N{PILE OF POO}" * 3,
        '{"version": 2, "kem": "X25519", "key": ""}',
        '{"version": 1, "kem": "X25519", "key": ""}',
        '{"version": 1, "kem": "X25519", "key": 7}',
        json.dumps({"version": 1, "kem": "RSA", "key": KEY}),
        json.dumps({"version": 1, "kem": "X25519", "key": KEY[4:]}),
        json.dumps({"version": 1, "kem": "X25519", "key": KEY, "more": 0}),
        json.dumps({"version": 1, "kem": ["X25519"], "key": KEY}),
    ],
)
def test_a_sealing_key_that_can_not_be_read_is_refused(written: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a1.sealing.json"
    if written is not None:
        path.write_text(written, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"got no sealing key at .*secagg keygen --role aggregator"):
        load_sealing_key(path)


def test_ids_from_numpy_are_text_everywhere() -> None:
    ids = np.array(["north", "south", "west"])
    update = {"w": np.full(4, 0.5, np.float32)}
    task = secagg.Task(
        protocol=secagg.Clear(),
        layout=secagg.Layout.of(update),
        encoding=secagg.FixedPoint(clip=1.0),
        max_clients=3,
        min_survivors=2,
    )
    result = secagg.simulate(task, dict.fromkeys(ids, update), dropouts={ids[2]: np.str_("Input")})
    assert result.survivors == ("north", "south")
    assert result.dropped == {"west": "Input"}
    assert {type(party) for party in [*result.survivors, *result.dropped, *result.bytes_up]} == {str}
    server = task.server(ids, session=np.bytes_(b"1"))
    outbox = server.start()
    for party in ids:
        client = task.client(party, session=np.bytes_(b"1"))
        client.contribute(update)
        server.receive(party, client.receive(outbox[party]) or b"")
    assert type(task.restore_server(server.to_bytes()).session) is bytes
    assert not server.pending
    keys, roster = enrol(ids)
    assert {type(party) for party in [*keys, *roster]} == {str}
    assert Roster.from_json(roster.to_json()).digest == roster.digest


@pytest.mark.parametrize("cohort", ["c0", b"c0", 7, None])
def test_one_id_is_no_list_of_ids(cohort: Any) -> None:
    with pytest.raises(ConfigError, match=r"where ids are listed; expected a list, such as \['c1', 'c2'\]"):
        enrol(cohort)


def test_what_an_id_may_be_is_said_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"got party id 7; .* write a number as str\(node_id\)"):
        enrol([7])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"no space or umlaut, and not 'server'$"):
        enrol(["Köln"])

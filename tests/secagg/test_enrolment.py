"""Requests to be enrolled, the roster that is built from them, and its signature by a registrar."""

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from secagg import _canonical, registrar as registrar_module, wire
from secagg.enrolment import REQUEST_LABEL, build_roster, load_request, read_request, request_enrolment
from secagg.errors import ConfigError
from secagg.identity import Party, PartyRole, Roster, enrol
from secagg.registrar import (
    SIGNATURE_LABEL,
    load_registrar,
    newest_version,
    sign_roster,
    verify_roster,
    verify_signature,
)
from secagg.store import FileLedger, MemoryLedger

NOW = 1_800_000_000
REGISTRAR = Ed25519PrivateKey.from_private_bytes(b"registrar".rjust(32))
PUBLIC = REGISTRAR.public_key().public_bytes_raw()


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def party(name: str, *, role: PartyRole = PartyRole.CLIENT, seed: str = "", seals: bytes | None = None) -> Party:
    return Party(name, role, public(identity(seed or name)), seals)


def identity(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed.encode().rjust(32))


ROSTER = Roster([party("c1"), party("c2")])


def signed(roster: Roster = ROSTER, version: int = 1, **changes: Any) -> str:
    return sign_roster(
        roster, REGISTRAR, **{"version": version, "expires": NOW + 60.0, "ledger": MemoryLedger()} | changes
    )


# --- requests


@pytest.mark.parametrize("seals", [None, b"sealing key"])
def test_a_request_is_read_as_the_party_that_wrote_it(tmp_path: Path, seals: bytes | None) -> None:
    asking = party("agg1", role=PartyRole.AGGREGATOR, seals=seals)
    (tmp_path / "agg1.enrol").write_text(request_enrolment(asking, identity("agg1")))
    assert load_request(tmp_path / "agg1.enrol") == asking


def test_a_request_needs_the_private_key_of_the_public_one() -> None:
    with pytest.raises(ConfigError, match="not the signing key of c1"):
        request_enrolment(party("c1"), identity("c2"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "c9"),
        ("role", "decryptor"),
        ("signing_key", base64.b64encode(public(identity("other"))).decode()),
        ("encryption_key", base64.b64encode(b"another key").decode()),
        ("encryption_key", None),
        ("signature", base64.b64encode(bytes(64)).decode()),
        ("signature", base64.b64encode(bytes(63)).decode()),
    ],
)
def test_a_request_with_any_field_changed_is_refused(field: str, value: str | None) -> None:
    asking = party("c1", seals=b"sealing key")
    fields = json.loads(request_enrolment(asking, identity("c1")))
    with pytest.raises(ConfigError, match="whose signature is wrong"):
        read_request(json.dumps(fields | {field: value}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-3], "not JSON"),
        (lambda text: text.replace('"id"', '"name"'), "unknown field"),
        (lambda text: text.replace('"role"', '"id": "c1", "role"'), "a field twice"),
        (lambda text: text.replace("client", "king"), "king"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version"),
        (lambda text: "[" * 10_000, "request to be enrolled"),
        (lambda text: text + " " * (1 << 16), "at most 65,536"),
        (lambda text: b"\xff\xfe", "not JSON"),
        (lambda text: text.replace("c1", "\ud800"), "not JSON"),
        (lambda text: 7, "got 7"),
    ],
)
def test_what_is_not_a_request_is_refused(change: Callable[[str], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_request(change(request_enrolment(party("c1"), identity("c1"))))


def test_a_missing_or_large_request_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got no file at .*none.enrol"):
        load_request(tmp_path / "none.enrol")
    (tmp_path / "large").write_bytes(bytes(1 << 17))
    with pytest.raises(ConfigError, match=r"got more than 65,536 bytes at .*large"):
        load_request(tmp_path / "large")


def test_no_signature_of_one_kind_is_one_of_another() -> None:
    """Every message that a party or registrar signs begins with a label, none of which begins another."""
    labels = [REQUEST_LABEL, SIGNATURE_LABEL, wire.SIGNATURE_LABEL, b"eyJ"]  # the last: a JSON Web Token
    assert not [(one, other) for one in labels for other in labels if one is not other and one.startswith(other)]


# --- building


def test_a_roster_is_built_extended_rotated_and_shrunk() -> None:
    roster = build_roster([party("c2"), party("c1"), party("c1")])
    assert roster.digest == ROSTER.digest
    more = build_roster([party("c3"), party("c1")], base=roster)
    assert sorted(more) == ["c1", "c2", "c3"]
    fresh = party("c2", seed="fresh")
    rotated = build_roster([fresh], base=more, replace=["c2"])
    assert (rotated["c2"], rotated["c1"], len(rotated)) == (fresh, more["c1"], 3)
    assert sorted(build_roster([], base=rotated, remove=["c1", "c3"])) == ["c2"]


@pytest.mark.parametrize(
    ("requests", "options", "says"),
    [
        ([party("c1"), party("c1", seed="x")], {}, "two requests of c1"),
        ([party("c1"), party("c3", seed="c1")], {}, "share a signing key"),
        ([party("c3", seed="c1")], {"base": ROSTER}, "share a signing key"),
        ([party("c1", seals=b"key"), party("c2", seals=b"key")], {}, "c1 and c2 with one encryption key"),
        ([party("c1", seed="x")], {"base": ROSTER}, "another key than the one that is enrolled"),
        ([party("c1", seals=b"key")], {"base": ROSTER}, "another key than the one that is enrolled"),
        ([party("c1", role=PartyRole.DECRYPTOR)], {"base": ROSTER}, "enrolled as a client"),
        (
            [party("c1", role=PartyRole.DECRYPTOR, seed="x")],
            {"base": ROSTER, "replace": ["c1"]},
            "enrolled as a client",
        ),
        ([party("c1")], {"base": ROSTER, "replace": ["c1"]}, "no request of it with a new key"),
        ([], {"base": ROSTER, "replace": ["c1"]}, "no request of it with a new key"),
        ([party("c3")], {"base": ROSTER, "replace": ["c3"]}, "doesn't list"),
        ([], {"base": ROSTER, "remove": ["c3"]}, "doesn't list"),
        ([party("c1")], {"base": ROSTER, "remove": ["c1"]}, "pass one of both"),
        ([], {"base": ROSTER, "remove": ["c1", "c2"]}, "without a party"),
        ([], {}, "without a party"),
    ],
)
def test_a_roster_that_is_doubtful_is_not_built(requests: list[Party], options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_roster(requests, **options)


# --- signatures


def test_a_signed_roster_is_accepted_again_and_again() -> None:
    ledger = MemoryLedger()
    for _ in range(3):
        roster = verify_roster(ROSTER.to_json(), signed(), registrar=PUBLIC, ledger=ledger, now=NOW)
        assert roster.digest == ROSTER.digest
    assert newest_version(ledger, PUBLIC) == 1
    assert verify_signature(ROSTER.to_json(), signed(), registrar=PUBLIC, now=NOW).expires == NOW + 60


def test_the_signed_bytes_by_hand() -> None:
    expected = b"secagg/v1/roster-signature" + _canonical.encode((ROSTER.digest, 1, NOW + 60))
    signature = base64.b64decode(json.loads(signed())["signature"])
    REGISTRAR.public_key().verify(signature, expected)


def test_a_pinned_digest_is_enough_and_with_the_registrar_both_must_hold() -> None:
    text, other = ROSTER.to_json(), Roster([party("c1")])
    assert verify_roster(text, None, digest=ROSTER.digest, ledger=None).digest == ROSTER.digest
    both = {"registrar": PUBLIC, "digest": ROSTER.digest, "ledger": MemoryLedger(), "now": NOW}
    assert verify_roster(text, signed(), **both).digest == ROSTER.digest
    for pinned in (other.digest, bytes(32), b"\xff" * 32):
        with pytest.raises(ConfigError, match="this party pinned"):
            verify_roster(text, None, digest=pinned, ledger=None)
    with pytest.raises(ConfigError, match="this party pinned"):
        verify_roster(other.to_json(), signed(other, 2), **both)
    assert newest_version(both["ledger"], PUBLIC) == 1, "a refused roster is not remembered"


def test_a_roster_that_nothing_vouches_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"registrar=.*digest="):
        verify_roster(ROSTER.to_json(), signed(), ledger=MemoryLedger(), now=NOW)
    with pytest.raises(ConfigError, match="without a signature"):
        verify_roster(ROSTER.to_json(), None, registrar=PUBLIC, ledger=MemoryLedger(), now=NOW)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"roster_digest": "00" * 32}, "did not sign"),
        ({"roster_version": 2}, "did not sign"),
        ({"expires": "2099-01-01T00:00:00Z"}, "did not sign"),
        ({"signature": base64.b64encode(bytes(64)).decode()}, "did not sign"),
        ({"signature": ""}, "did not sign"),
        ({"roster_digest": "00"}, "not of 32 bytes"),
        ({"roster_digest": "zz"}, "not hexadecimal"),
        ({"roster_version": 0}, "impossible"),
        ({"roster_version": 1 << 40}, "impossible"),
        ({"expires": "soon"}, "got expiry 'soon'"),
        ({"expires": 7}, "can't be read"),
        ({"version": 2}, "can't be read"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_signature_with_any_field_changed_is_refused(change: dict[str, Any], says: str) -> None:
    ledger = MemoryLedger()
    text = json.dumps(json.loads(signed()) | change)
    with pytest.raises(ConfigError, match=says):
        verify_roster(ROSTER.to_json(), text, registrar=PUBLIC, ledger=ledger, now=NOW)
    assert newest_version(ledger, PUBLIC) == 0


def test_another_roster_another_key_and_a_time_that_has_passed_are_refused() -> None:
    def verify(roster: Roster = ROSTER, key: bytes = PUBLIC, now: float = NOW) -> None:
        verify_roster(roster.to_json(), signed(), registrar=key, ledger=MemoryLedger(), now=now)

    with pytest.raises(ConfigError, match="not the one that the registrar signed"):
        verify(Roster([party("c1")]))
    with pytest.raises(ConfigError, match="did not sign"):
        verify(key=public(identity("another registrar")))
    with pytest.raises(ConfigError, match="of small order"):
        verify(key=bytes([1, *bytes(31)]))
    verify(now=NOW + 59.9)
    for late in (60, 61, 1e9):
        with pytest.raises(
            ConfigError, match=r"expired at 2027-01-15T08:01:00Z, and it is .* by this machine's clock"
        ):
            verify(now=NOW + late)
    for key in (PUBLIC[:31], "key"):
        with pytest.raises(ConfigError, match="expected 32 bytes of Ed25519 public key"):
            verify(key=key)  # type: ignore[arg-type]


def test_an_older_version_is_refused_for_good_and_a_second_roster_under_one_version_too(tmp_path: Path) -> None:
    smaller = Roster([party("c1")])
    rosters = {1: ROSTER, 3: smaller, 7: ROSTER}

    def verify(version: int, roster: Roster) -> None:
        with FileLedger(tmp_path / "ledger") as ledger:  # opened anew each time, as after a restart
            verify_roster(roster.to_json(), signed(roster, version), registrar=PUBLIC, ledger=ledger, now=NOW)

    for version in (1, 3):
        verify(version, rosters[version])
    for version, roster in ((1, ROSTER), (2, smaller)):
        with pytest.raises(ConfigError, match=f"version {version} of the roster after version 3"):
            verify(version, roster)
    with pytest.raises(ConfigError, match="second, different roster as version 3"):
        verify(3, ROSTER)
    verify(3, smaller)
    verify(7, ROSTER)
    with pytest.raises(ConfigError, match="after version 7"):
        verify(3, smaller)
    with FileLedger(tmp_path / "ledger") as ledger:
        other = identity("another registrar")
        text = sign_roster(smaller, other, version=1, expires=NOW + 1, ledger=MemoryLedger())
        verify_roster(smaller.to_json(), text, registrar=public(other), ledger=ledger, now=NOW)


def test_threads_that_accept_versions_at_once_never_lose_the_highest() -> None:
    for _ in range(20):
        ledger, barrier = MemoryLedger(), threading.Barrier(4)

        def accept(version: int, ledger: MemoryLedger = ledger, barrier: threading.Barrier = barrier) -> None:
            text = signed(version=version)
            barrier.wait()
            try:
                verify_roster(ROSTER.to_json(), text, registrar=PUBLIC, ledger=ledger, now=NOW)
            except ConfigError:
                assert version < 4, "the highest is never refused"

        threads = [threading.Thread(target=accept, args=(version,)) for version in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert newest_version(ledger, PUBLIC) == 4


def test_a_place_that_another_thread_took_meanwhile_is_looked_at_again() -> None:
    """The other thread claims between this one's look and its claim."""

    class Contended(MemoryLedger):
        contender = 9

        def claim(self, entry: bytes, value: bytes) -> bytes:
            if self.contender and value == (5).to_bytes(32, "big"):
                other, self.contender = self.contender, 0
                registrar_module._check_newest(self, PUBLIC, other, ROSTER.digest)
            return super().claim(entry, value)

    ledger = Contended()
    with pytest.raises(ConfigError, match="version 5 of the roster after version 9"):
        verify_roster(ROSTER.to_json(), signed(version=5), registrar=PUBLIC, ledger=ledger, now=NOW)
    ledger = Contended()
    ledger.contender = 4
    verify_roster(ROSTER.to_json(), signed(version=5), registrar=PUBLIC, ledger=ledger, now=NOW)
    assert newest_version(ledger, PUBLIC) == 5


def test_a_registrar_signs_no_second_roster_under_one_version_and_no_lower_version() -> None:
    ledger = MemoryLedger()
    signed(ROSTER, 2, ledger=ledger)
    renewed = signed(ROSTER, 2, ledger=ledger, expires=NOW + 3600.5)
    assert verify_signature(ROSTER.to_json(), renewed, registrar=PUBLIC, now=NOW + 100).expires == NOW + 3600
    with pytest.raises(ConfigError, match="second, different roster"):
        signed(Roster([party("c1")]), 2, ledger=ledger)
    with pytest.raises(ConfigError, match="after version 2"):
        signed(ROSTER, 1, ledger=ledger)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 0}, "got version 0"),
        ({"version": 1 << 32}, "expected an integer from 1"),
        ({"version": "1"}, "expected an integer from 1"),
        ({"expires": float("nan")}, "got expiry nan"),
        ({"expires": 0.0}, "got expiry 0.0"),
        ({"expires": 1e30}, "got expiry"),
        ({"roster": Roster([party("c1"), Party("r", PartyRole.CLIENT, PUBLIC)])}, "a key of its own"),
    ],
)
def test_what_no_registrar_signs(change: dict[str, Any], says: str) -> None:
    ledger = MemoryLedger()
    with pytest.raises(ConfigError, match=says):
        signed(**{"ledger": ledger} | change)
    assert newest_version(ledger, PUBLIC) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"\xff", "not text"), ("{}", "can't be read"), (7, "expected the JSON"), (b" " * ((1 << 26) + 1), "at most")],
)
def test_what_is_not_a_roster_is_refused(text: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        verify_roster(text, None, digest=bytes(32), ledger=None)


def test_a_registrars_key_is_read_from_its_public_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "registrar.pub"
    formats = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(REGISTRAR.public_key().public_bytes(*formats))
    assert load_registrar(path) == PUBLIC
    path.write_bytes(REGISTRAR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="private key, which stays with the registrar"):
        load_registrar(path)
    path.write_bytes(ec.derive_private_key(5, ec.SECP256R1()).public_key().public_bytes(*formats))
    with pytest.raises(ConfigError, match="is an Ed25519 key"):
        load_registrar(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="got no public key"):
        load_registrar(path)


def test_the_roster_of_a_simulation_can_be_signed_too() -> None:
    _, roster = enrol(["c1", "c2", "c3"])
    text = signed(roster, version=5)
    assert verify_roster(roster.to_json(), text, registrar=PUBLIC, ledger=MemoryLedger(), now=NOW) == roster

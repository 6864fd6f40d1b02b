"""Kits: what a party pins, and what it refuses from a server."""

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import secagg
from secagg.errors import ConfigError
from secagg.identity import PartyRole, enrol
from secagg.kit import Kit, check_url
from secagg.registrar import sign_roster
from secagg.store import MemoryLedger

REGISTRAR = Ed25519PrivateKey.from_private_bytes(b"registrar".rjust(32))
PUBLIC = REGISTRAR.public_key().public_bytes_raw()
NOW = 1_800_000_000


def task(protocol: Any = None) -> secagg.Task:
    protocol = protocol or secagg.SecAgg()
    return secagg.Task(protocol, secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)


def certificate() -> str:
    name, key = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")]), REGISTRAR
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start + dt.timedelta(days=1))
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


def kit(**changes: Any) -> Kit:
    fields: dict[str, Any] = {"party": "c1", "url": "https://agg.example.org:8443", "task": task().digest.hex()}
    return Kit(**fields | {"registrar": PUBLIC} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"roster": "ab" * 32, "registrar": None},
        {"roster": "ab" * 32, "role": PartyRole.AGGREGATOR, "ca": certificate() * 2},
        {"registrar": None, "trust": "semi-honest"},
        {"registrar": None, "auth": "tokens", "url": "http://localhost:8080"},
        {"registrar": None, "auth": "open", "party": None},
    ],
)
def test_a_kit_is_read_as_it_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    written = kit(**changes)
    (tmp_path / "c1.kit").write_text(written.to_json())
    read = Kit.load(tmp_path / "c1.kit")
    assert (read, read.fingerprint) == (written, written.fingerprint)
    assert json.loads(written.to_json())["version"] == 1


def test_every_field_is_in_the_fingerprint() -> None:
    changes: dict[str, Any] = {
        "party": "c2",
        "role": "decryptor",
        "url": "https://other.example.org",
        "task": "ab" * 32,
        "registrar": Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
        "roster": "ab" * 32,
        "ca": certificate(),
    }
    others = [kit(**{name: value}) for name, value in changes.items()]
    others += [kit(registrar=None, auth="tokens"), kit(registrar=None, trust="semi-honest")]
    assert len({one.fingerprint for one in [kit(), *others]}) == len(others) + 1
    assert {*changes, "auth", "trust"} == {field.name for field in dataclasses.fields(Kit)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"party": "c 1"}, "got party id 'c 1'"),
        ({"party": None}, "got party id None"),
        ({"party": "c1", "auth": "open", "registrar": None}, "the server draws the ids"),
        ({"role": "king"}, "got role='king'"),
        ({"url": "http://agg.example.org"}, "http only to this machine"),
        ({"task": "ab"}, "got task='ab'; expected a SHA-256 digest"),
        ({"task": "AB" * 32}, "in lower case"),
        ({"task": 7}, "got task=7"),
        ({"roster": "ab"}, "got roster='ab'"),
        ({"auth": "none"}, "got auth='none'"),
        ({"registrar": bytes(31)}, "as a registrar's key"),
        ({"registrar": bytes(32)}, "of small order"),
        ({"registrar": None}, "pin the registrar's public key .* or the digest of the roster"),
        ({"registrar": None, "trust": "malicious"}, "got trust='malicious'"),
        ({"trust": "semi-honest"}, "choose"),
        ({"auth": "tokens"}, "under which there is no roster"),
        ({"auth": "tokens", "registrar": None, "trust": "semi-honest"}, "under which there is no roster"),
        ({"ca": "no certificate"}, "expected certificates in PEM"),
        ({"ca": 7}, "got a int as ca"),
        ({"ca": certificate() * 17}, "got 17 certificates"),
        ({"ca": certificate(), "url": "http://localhost"}, "use https"),
    ],
)
def test_a_kit_that_can_not_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kit(**changes)


def test_a_kit_holds_no_private_key() -> None:
    secret = REGISTRAR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ConfigError, match="a kit holds no secret"):
        kit(ca=certificate() + secret)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "secret"}, "unknown field"),
        ({"version": 2}, "version"),
        ({"registrar": "%%"}, "registrar"),
        ({"url": None}, "url"),
        ({"role": "king"}, "king"),
    ],
)
def test_a_file_that_is_not_a_kit_is_refused_with_its_path(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "c1.kit"
    path.write_text(json.dumps(json.loads(kit().to_json()) | change))
    with pytest.raises(ConfigError, match=says) as refused:
        Kit.load(path)
    path.write_bytes(b"{" + b" " * (1 << 16))
    with pytest.raises(ConfigError, match="got more than 65,536 bytes"):
        Kit.load(path)
    assert "got" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://agg:8443/", "https://agg:8443"),
        ("HTTPS://Agg.Example.org/secagg/", "https://agg.example.org/secagg"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://127.8.0.1/x", "http://127.8.0.1/x"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://agg:443/x", "https://agg/x"),
        ("https://agg:80", "https://agg:80"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_urls(url: str, kept: str) -> None:
    assert check_url(url) == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
        "https://user:password@agg",
        "https://agg?x=1",
        "https://agg#x",
        "https://agg/../x",
        "https://agg//x",
        "https://a b",
        "https://agg\n",
        "https://",
        "https://agg:99999",
        "https://ägg",
        "https://[::1%25eth0]",
        "ftp://agg",
        "agg:8443",
        "https://agg/" + "a" * 2000,
        None,
        b"https://agg",
    ],
)
def test_what_is_not_a_services_url(url: Any) -> None:
    with pytest.raises(ConfigError, match="got url"):
        check_url(url)


# --- what a party believes


def test_only_the_pinned_task_is_accepted() -> None:
    kit().check_task(task())
    with pytest.raises(ConfigError, match="this kit pins"):
        kit().check_task(dataclasses.replace(task(), context=b"another run"))


@pytest.mark.parametrize("protocol", [secagg.SecAgg(), secagg.SecAggPlus()], ids=lambda one: one.threat_model)
@pytest.mark.parametrize("unpinned", [{"trust": "semi-honest"}, {"auth": "tokens"}])
def test_a_task_against_a_server_that_lies_needs_who_vouches_for_the_roster(
    protocol: Any, unpinned: dict[str, Any]
) -> None:
    strict = dataclasses.replace(task(), protocol=protocol, max_clients=100, min_survivors=90)
    pins = {"task": strict.digest.hex(), "registrar": None} | unpinned
    with pytest.raises(ConfigError, match=r"--registrar registrar.pub\) or the digest .*--roster-digest"):
        kit(**pins).check_task(strict)
    trusting = task(secagg.SecAgg(threat_model="semi-honest"))
    kit(**pins | {"task": trusting.digest.hex()}).check_task(trusting)
    kit(task=strict.digest.hex()).check_task(strict)


def test_the_roster_is_the_one_that_was_vouched_for() -> None:
    _, roster = enrol(["c1", "c2"])
    _, other = enrol(["c1", "c2"])
    signature = sign_roster(roster, REGISTRAR, version=1, expires=NOW + 1, ledger=MemoryLedger())
    for pins, needed in (({}, signature), ({"registrar": None, "roster": roster.digest.hex()}, None)):
        one, ledger = kit(**pins), MemoryLedger()
        assert one.check_roster(roster.to_json(), needed, ledger=ledger, now=NOW) == roster
        with pytest.raises(ConfigError, match=r"not the one|this party pinned"):
            one.check_roster(other.to_json(), needed, ledger=ledger, now=NOW)
    believing = kit(registrar=None, trust="semi-honest")
    assert believing.check_roster(other.to_json(), None, ledger=MemoryLedger()) == other


def test_a_roster_must_list_the_party_in_its_role() -> None:
    _, roster = enrol(["c1", "c2"])
    pins: dict[str, Any] = {"registrar": None, "roster": roster.digest.hex()}
    for changes in ({"party": "c9"}, {"role": "decryptor"}):
        with pytest.raises(ConfigError, match="ask the registrar to enrol it"):
            kit(**pins | changes).check_roster(roster.to_json(), None, ledger=MemoryLedger())
    with pytest.raises(ConfigError, match="under which there is none"):
        kit(registrar=None, auth="tokens").check_roster(roster.to_json(), None, ledger=MemoryLedger())

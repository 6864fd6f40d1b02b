"""From keys to kits at the command line, by the commands alone."""

import json
import ssl
import stat

import numpy as np
import pytest
from cryptography import x509

import secagg
from secagg.certificates import write_certificates
from secagg.errors import ConfigError
from secagg.identity import PartyRole, load_identity, load_roster
from secagg.kit import Kit
from secagg.registrar import load_registrar, verify_roster
from secagg.store import MemoryLedger
from tests.secagg.test_cli_roster import python


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def run(command):
    """Runs commands that must succeed."""

    def call(*arguments):
        code, out, err = command(*arguments)
        assert (code, err) == (0, ""), (arguments, err)
        return out

    return call


@pytest.fixture
def refused(command, tmp_path):
    """Runs commands that must end in one line and change no file; returns the line."""

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def call(*arguments):
        before = files()
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), (arguments, err)
        assert files() == before
        return err

    return call


@pytest.fixture
def enrolled(run, tmp_path):
    """Two clients and an aggregator made their keys, each in a folder; the registrar has theirs and its own."""
    for party, role in (("c1", "client"), ("c2", "client"), ("agg1", "aggregator")):
        run("keygen", party, "--role", role, "--out", party)
    run("keygen", "--registrar", "registrar")
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)
    (tmp_path / "task.bin").write_bytes(task.to_bytes())
    return ["c1/c1.enrol", "c2/c2.enrol", "agg1/agg1.enrol"]


def verify(ledger, path="registrar.pub"):
    with open("roster.json") as roster, open("roster.sig") as signature:
        return verify_roster(roster.read(), signature.read(), registrar=load_registrar(path), ledger=ledger)


def test_parties_are_enrolled_signed_rotated_and_revoked(run, refused, tmp_path, enrolled):
    ledger = MemoryLedger()
    out = run("roster", "build", *enrolled)
    built = load_roster("roster.json")
    assert built.ids(PartyRole.CLIENT) == ("c1", "c2")
    for party in ("c1", "c2", "agg1"):
        assert built[party] == load_roster(tmp_path / party / "roster.json")[party]
        own = run("roster", "list", f"{party}/roster.json").splitlines()[1]
        assert own.split() in [line.split() for line in out.splitlines()], "the fingerprints to compare by voice"
    assert "version 1 of roster.json" in run("roster", "sign", "roster.json", "--key", "registrar.pem")
    assert verify(ledger) == built

    run("keygen", "c2", "--out", "new")
    assert "another key" in refused("roster", "build", "new/c2.enrol", "--extend", "roster.json")
    out = run("roster", "build", "new/c2.enrol", "--extend", "roster.json", "--replace", "c2")
    assert next(line for line in out.splitlines() if ": " in line) == "replaced: c2"
    assert "not the one that the registrar signed" in refused(
        "roster", "verify", "roster.json", "--registrar", "registrar.pub"
    )
    run("roster", "sign", "roster.json", "--key", "registrar.pem")
    key = load_identity("new/c2.pem").public_key().public_bytes_raw()
    assert verify(ledger)["c2"].signing_key == key
    old = (tmp_path / "roster.json").read_text(), (tmp_path / "roster.sig").read_text()

    assert "\nremoved: c1\n" in run("roster", "build", "--extend", "roster.json", "--remove", "c1")
    out = run("roster", "sign", "roster.json", "--key", "registrar.pem", "--version", 7, "--expires", 30)
    assert "version 7" in out
    assert sorted(verify(ledger)) == ["agg1", "c2"]
    with pytest.raises(ConfigError, match="version 2 of the roster after version 7"):
        verify_roster(*old, registrar=load_registrar("registrar.pub"), ledger=ledger)


def test_a_registrar_is_kept_from_signing_two_rosters_under_one_version(run, refused, enrolled):
    run("roster", "build", *enrolled)
    for days in (0, -1, "nan", 4000):
        assert "got --expires" in refused(
            "roster", "sign", "roster.json", "--key", "registrar.pem", "--expires", days
        )
    run("roster", "sign", "roster.json", "--key", "registrar.pem", "--version", 3)
    run("roster", "build", "--extend", "roster.json", "--remove", "c1")
    sign = ("roster", "sign", "roster.json", "--key", "registrar.pem", "--version")
    assert "second, different roster as version 3" in refused(*sign, 3)
    assert "version 2 of the roster after version 3" in refused(*sign, 2)
    assert "version 4" in run(*sign[:-1])


def test_the_registrars_key_is_private_and_is_no_partys(run, refused, tmp_path, enrolled):
    assert mode(tmp_path / "registrar.pem") == 0o600
    assert "already: registrar" in refused("keygen", "--registrar", "registrar")
    assert "one key: pass one name" in refused("keygen", "--registrar", "a", "b")
    run("roster", "build", *enrolled)
    assert "a key of its own" in refused("roster", "sign", "roster.json", "--key", "c1/c1.pem")
    run("keygen", "--registrar", "other", "--out", "other")
    run("roster", "sign", "roster.json", "--key", "registrar.pem")
    assert "did not sign" in refused("roster", "verify", "roster.json", "--registrar", "other/other.pub")
    run("roster", "verify", "roster.json", "--registrar", "registrar.pub")


def test_no_file_is_overwritten_that_is_not_extended(run, refused, enrolled):
    run("roster", "build", *enrolled)
    assert "--extend roster.json" in refused("roster", "build", enrolled[0])
    assert "exists and is a request" in refused(
        "roster", "sign", "roster.json", "--key", "registrar.pem", "--out", enrolled[0]
    )
    run("keygen", "new", "--out", "new")
    (line,) = (line for line in run("roster", "build", "new/new.enrol", "--extend", "roster.json").splitlines()
               if line.startswith("roster.json"))  # fmt: skip
    assert line.startswith("roster.json: 4 parties.")
    run("roster", "build", "--extend", "roster.json", "--remove", "new")
    out = run("roster", "build", "new/new.enrol", "--extend", "roster.json")
    assert "\nnew: new\n" in out, "who returns by an old request is seen"


# --- kits


def test_a_kit_pins_what_the_options_say_and_is_shown(run, refused, enrolled):
    run("tls", "localhost", "127.0.0.1")
    options = ("--task", "task.bin", "--url", "https://agg:8443/", "--registrar", "registrar.pub")
    out = run("kit", "agg1", *options, "--ca", "tls/ca.crt", "--role", "aggregator")
    kit = Kit.load("agg1.kit")
    assert (kit.party, kit.role, kit.url) == ("agg1", PartyRole.AGGREGATOR, "https://agg:8443")
    assert kit.registrar == load_registrar("registrar.pub")
    assert kit.fingerprint in out
    assert kit.fingerprint in run("kit", "--show", "agg1.kit")
    assert "is the kit of another party" in refused("kit", "c1", *options, "--out", "agg1.kit")
    run("kit", "agg1", *options, "--roster-digest", "AB" * 32)
    assert Kit.load("agg1.kit").roster == "ab" * 32


def test_kits_of_many_go_into_a_folder(run, refused, tmp_path, enrolled):
    options = ("--task", "task.bin", "--url", "https://agg", "--registrar", "registrar.pub", "--out", "kits")
    assert "expected a folder that exists" in refused("kit", "c1", "c2", *options)
    (tmp_path / "kits").mkdir()
    run("kit", "c1", "c2", *options)
    assert sorted(path.name for path in (tmp_path / "kits").iterdir()) == ["c1.kit", "c2.kit"]
    assert Kit.load("kits/c2.kit").party == "c2"


def test_a_kit_that_nothing_vouches_for_needs_a_name_and_a_semi_honest_task(run, refused, tmp_path, enrolled):
    bare = ("--task", "task.bin", "--url", "https://agg")
    for more in ((), ("--trust", "semi-honest"), ("--auth", "tokens")):
        line = refused("kit", "c1", *bare, *more)
        assert "--registrar registrar.pub" in line
        assert "--roster-digest HEX" in line
    protocol = secagg.SecAgg(threat_model="semi-honest")
    task = secagg.Task(protocol, secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)
    (tmp_path / "task.bin").write_bytes(task.to_bytes())
    assert "name it trust='semi-honest'" in refused("kit", "c1", *bare)
    run("kit", "c1", *bare, "--trust", "semi-honest")
    run("kit", "c1", *bare, "--auth", "tokens")
    assert "the server draws them" in refused("kit", "c1", *bare, "--auth", "open")
    run("kit", *bare, "--auth", "open")
    assert Kit.load("open.kit").party is None
    assert "no ID" in refused("kit", *bare)


SERVICE = """
[service]
url = "https://agg.example.org:8443"
ca = "../tls/ca.crt"
listen = "0.0.0.0:8443"
[[task]]
file = "../task.bin"
roster = "../roster.json"
registrar = "../registrar.pub"
[[task]]
file = "other.bin"
auth = "tokens"
"""


def test_what_the_options_leave_out_is_read_from_the_services_settings(
    run, refused, tmp_path, enrolled, monkeypatch
):
    run("roster", "build", *enrolled)
    run("tls", "agg.example.org")
    (tmp_path / "service").mkdir()
    settings = tmp_path / "service" / "service.toml"
    settings.write_text(SERVICE)
    assert "got 2 tasks in service/service.toml" in refused(
        "kit", "c1", "--service", settings.relative_to(tmp_path)
    )
    here = ("--service", "service/service.toml", "--task", "task.bin")
    run("kit", "agg1", *here)
    kit = Kit.load("agg1.kit")
    assert (kit.role, kit.url) == (PartyRole.AGGREGATOR, "https://agg.example.org:8443")
    assert (kit.registrar, kit.roster) == (load_registrar("registrar.pub"), None)
    assert kit.ca == (tmp_path / "tls" / "ca.crt").read_text()
    assert "enrol it first" in refused("kit", "c9", *here)
    assert "lists as a client" in refused("kit", "c1", *here, "--role", "decryptor")
    run("kit", "c1", *here, "--roster-digest", "ab" * 32)
    assert Kit.load("c1.kit").registrar is None, "a pin on the command line stands alone"
    settings.write_text(SERVICE.replace('registrar = "../registrar.pub"\n', ""))
    run("kit", "c1", *here)
    assert Kit.load("c1.kit").roster == load_roster("roster.json").digest.hex()
    monkeypatch.chdir(tmp_path / "service")
    run("kit", "c2", "--task", "../task.bin")
    assert Kit.load("c2.kit").roster == load_roster("../roster.json").digest.hex()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[", "not TOML"),
        ("service = 7", "expected a table"),
        ("task = 7", "write double brackets"),
        ("[[task]]\nfile = 7", "got file = 7"),
        ("[service]\nurl = 7\n[[task]]\nfile = 'task.bin'", "got url = 7"),
        ("[[task]]\nfile = 'task.bin'", "got no --url"),
        ("[service]\nurl = 'https://agg'", "got no --task"),
        ("[service]\nurl = 'https://agg'\n[[task]]\nfile = 'registrar.pub'", "key in PEM at registrar.pub"),
        ("[service]\nurl = 'https://agg'\nca = 'binary'\n[[task]]\nfile = 'task.bin'", "no certificates in PEM"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(refused, tmp_path, enrolled, settings, says):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "service.toml").write_text(settings)
    assert says in refused("kit", "c1")


# --- certificates


def handshake(folder, name, ca):
    """A TLS handshake in memory: the server has the certificate in ``folder``, the client trusts ``ca``."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cadata=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13 has it by default
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


def test_a_certificate_is_for_its_names_and_authority_alone(run, tmp_path):
    out = run("tls", "localhost", "agg.example.org", "127.0.0.1", "::1", "--days", 3)
    folder = tmp_path / "tls"
    ca = (folder / "ca.crt").read_text()
    assert mode(folder / "server.key") == 0o600
    assert "valid for 3 days" in out
    for name in ("localhost", "agg.example.org", "127.0.0.1", "::1"):
        assert handshake(folder, name, ca) == "TLSv1.3"
    run("tls", "localhost", "--out", "other")
    other = (tmp_path / "other" / "ca.crt").read_text()
    for name, trusted in (("example.org", ca), ("127.0.0.2", ca), ("localhost", other)):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(folder, name, trusted)
    assert handshake(folder, "localhost", other + ca) == "TLSv1.3", "an old and a new authority at a time"
    leaf, authority = (
        x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("server.crt", "ca.crt")
    )
    use = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (use.key_cert_sign, use.digital_signature, use.content_commitment) == (True, False, False)
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False), "the server's key signs no certificate"
    assert not [path for path in tmp_path.rglob("*.key") if path.name != "server.key"], (
        "the authority's key is gone"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a b",), "got 'a b'"),
        (("-".join(["a"] * 40) + ".",), "expected a host name"),
        (("1.2.3",), "got '1.2.3'"),
        (("*.example.org",), "expected a host name"),
        (("localhost", "--days", "0"), "got 0 days"),
        (("localhost", "--days", "10000"), "expected an integer from 1"),
        (("localhost", "--out", "/proc/nowhere"), "choose a folder that can be written"),
        (["h"] * 101, "expected 1 to 100"),
    ],
)
def test_a_certificate_that_can_not_be_is_one_line(refused, arguments, says):
    assert says in refused("tls", *arguments)


def test_no_certificate_or_key_is_overwritten(run, refused):
    run("tls", "localhost")
    assert "no file is overwritten" in refused("tls", "localhost")
    with pytest.raises(ConfigError, match=r"got 3\.5 days"):
        write_certificates(["localhost"], "new", 3.5)


# --- all of it beside a service that starts


def test_a_kit_of_the_commands_alone_is_read_in_a_fresh_interpreter(run, tmp_path, enrolled):
    run("kit", "c1", "--task", "task.bin", "--url", "https://agg", "--registrar", "registrar.pub")
    code = "from secagg.kit import Kit; print(Kit.load('c1.kit').to_json())"
    done = python(code, cwd=tmp_path, stdout=-1)
    assert json.loads(done.stdout) == json.loads((tmp_path / "c1.kit").read_text())

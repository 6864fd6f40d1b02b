import os
import stat
import subprocess
import sys

import numpy as np
import pytest

import secagg
from mpc.hpke import Kem, PrivateKey
from secagg.errors import SecAggError
from secagg.identity import PartyRole, load_he_key, load_identity, load_roster, load_sealing_key
from secagg.testing import Parties, Session


def python(code, *flags):
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --- keygen


def test_keygen_writes_keys_that_only_their_owner_reads_and_a_roster(command, tmp_path):
    code, out, err = command("keygen", "h1", "h2", "--out", "keys")
    keys = tmp_path / "keys"
    assert (code, err) == (0, "")
    assert sorted(path.name for path in keys.iterdir()) == [
        "h1.enrol",
        "h1.pem",
        "h2.enrol",
        "h2.pem",
        "roster.json",
    ]
    roster = load_roster(keys / "roster.json")
    assert roster.ids(PartyRole.CLIENT) == ("h1", "h2")
    for party in ("h1", "h2"):
        assert mode(keys / f"{party}.pem") == 0o600
        public = load_identity(keys / f"{party}.pem").public_key().public_bytes_raw()
        assert roster[party].signing_key == public
        assert f"keys/{party}.pem: private key of {party}; it stays with its owner" in out
    assert "keys/roster.json" in out


def test_keygen_gives_aggregators_sealing_keys_that_the_roster_lists(command, tmp_path):
    code, out, _ = command("keygen", "a1", "--role", "aggregator")
    assert code == 0
    assert "a1.sealing.json: private sealing key of a1; it stays with its owner" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a1.enrol",
        "a1.pem",
        "a1.sealing.json",
        "roster.json",
    ]
    assert mode(tmp_path / "a1.sealing.json") == 0o600
    private = PrivateKey(Kem.MLKEM768_X25519, load_sealing_key(tmp_path / "a1.sealing.json"))
    assert load_roster(tmp_path / "roster.json")["a1"].encryption_key == private.public


def test_keygen_makes_sealing_keys_of_the_kem_that_was_asked_for(command, tmp_path):
    assert command("keygen", "a1", "--role", "aggregator", "--kem", "X25519")[0] == 0
    assert len(load_roster(tmp_path / "roster.json")["a1"].encryption_key) == 32


def test_keygen_keys_are_private_whatever_the_umask(command, tmp_path):
    before = os.umask(0)
    try:
        assert command("keygen", "h1")[0] == 0
    finally:
        os.umask(before)
    assert mode(tmp_path / "h1.pem") == 0o600


@pytest.mark.parametrize("role", list(PartyRole))
def test_keygen_enrols_in_the_role_that_was_asked_for(command, tmp_path, role):
    assert command("keygen", "party", "--role", role)[0] == 0
    assert load_roster(tmp_path / "roster.json").ids(role) == ("party",)


def test_keygen_adds_to_the_roster_and_never_overwrites(command, tmp_path):
    command("keygen", "h1")
    first = (tmp_path / "h1.pem").read_bytes()
    command("keygen", "d1", "--role", "decryptor")
    code, out, err = command("keygen", "h2", "h1")
    assert (code, out) == (2, "")
    assert err == "secagg: got ids that . has already: h1; choose others or another folder\n"
    assert (tmp_path / "h1.pem").read_bytes() == first
    assert sorted(load_roster(tmp_path / "roster.json")) == ["d1", "h1"]
    assert not (tmp_path / "h2.pem").exists()


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("party.pem", []),
        ("party.sealing.json", ["--role", "aggregator"]),
        ("shared.he.json", ["--role", "decryptor", "--shared-he"]),
    ],
)
def test_keygen_never_overwrites_a_key_that_no_roster_lists(command, tmp_path, file, options):
    (tmp_path / file).write_text("precious")
    code, _, err = command("keygen", "party", *options)
    assert (code, "exists" in err or "already" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == "precious"


def test_keygen_refuses_an_id_that_is_none(command, tmp_path):
    code, out, err = command("keygen", "../h1")
    assert (code, out) == (2, "")
    assert err.startswith("secagg: got party id '../h1'; expected")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["keygen"], ["keygen", "h1", "--role", "king"], ["fly"], ["roster"], ["describe", "--jsn"]]
)
def test_usage_errors_are_one_line_and_exit_with_2(command, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("secagg: ")
    assert err.endswith("--help\n")
    assert err.count("\n") == 1


# --- describe, --version, imports


def test_describe_says_what_a_task_means(command, tmp_path):
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0),
        max_clients=10,
        min_survivors=7,
    )
    (tmp_path / "task").write_bytes(task.to_bytes())
    assert command("describe", "task") == (0, task.describe() + "\n", "")


def test_describe_refuses_what_is_no_task(command, tmp_path):
    (tmp_path / "task").write_bytes(b"no task")
    code, out, err = command("describe", "task")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert command("describe", "none") == (2, "", "secagg: got no task at none: No such file or directory\n")


def test_version(command):
    assert command("--version") == (0, "secagg 0.1.0\n", "")


def test_the_package_runs_as_the_command_does(command):
    run = [sys.executable, "-m", "secagg", "--version"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == command("--version")


def test_help_names_every_command(command):
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in ("demo", "keygen", "roster", "describe", "--version"))
    assert command() == (2, "", out)


def test_the_command_line_loads_nothing_heavy_until_it_is_needed():
    done = python(
        "import sys, secagg.cli, secagg._commands\n"
        "print([name for name in ('numba', 'sklearn', 'scipy', 'matplotlib', 'rich') if name in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("missing", ["rich", "sklearn", "matplotlib"])
def test_a_missing_package_is_one_line_that_says_what_to_install(missing):
    done = python(
        f"import sys; sys.modules['{missing}'] = None\n"
        "from secagg.cli import main; main(['demo', '--rounds', '1', '--protocol', 'Clear'])"
    )
    message = f"secagg: got no {missing}, which this command needs: pip install 'secagg[demo]', or pip install "
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("serve", "structlog"),
        ("serve", "starlette"),
        ("serve", "jwt"),
        ("backup", "sqlalchemy"),
        ("backup", "alembic"),
    ],
)
def test_a_missing_package_of_the_service_is_named_with_all_that_it_needs(command, missing):
    words = [command, *(["folder", "out"] if command == "backup" else [])]
    done = python(f"import sys; sys.modules['{missing}'] = None\nfrom secagg.cli import main; main({words})")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"secagg: got no {missing}, which this command needs: pip install 'secagg[service]'"
    )
    assert done.stderr.count("\n") == 1


def test_a_missing_package_that_no_extra_brings_is_not_hidden():
    done = python(
        "import sys; sys.modules['cryptography'] = None\nfrom secagg.cli import main; main(['--version'])"
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


# --- keygen for decryptors


def parties_in(folder, protocol, key):
    """The parties whose identities and keys are in ``folder``."""
    roster, clients = load_roster(folder / "roster.json"), ("c1", "c2", "c3")
    identities = {party: load_identity(folder / f"{party}.pem") for party in (*clients, "dec")}
    roles = {party: roster[party].role for party in identities}
    holders = () if key is None else identities if protocol.shared_key else ("dec",)
    return Parties(protocol, clients, roles, identities, roster, 3, dict.fromkeys(holders, key))


@pytest.mark.parametrize(
    ("options", "file", "protocol"),
    [
        (("--paillier", "2048"), "dec.he.json", secagg.Paillier(bits=2048, key="run")),
        (("--shared-he",), "shared.he.json", secagg.CKKS(holder="clients")),
        ((), None, secagg.BFV()),
    ],
)
def test_keygen_writes_what_a_decryptor_needs(command, tmp_path, options, file, protocol):
    assert command("keygen", "c1", "c2", "c3")[0] == 0
    code, out, err = command("keygen", "dec", "--role", "decryptor", *options)
    assert (code, err) == (0, "")
    key = None
    if file is not None:
        assert file in out
        assert mode(tmp_path / file) == 0o600
        key = load_he_key(tmp_path / file)
    Session(parties_in(tmp_path, protocol, key)).require_completes("with the keys that were written")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("h1", "h1"), "an id twice"),
        (("c1", "--paillier", "3072"), "--role decryptor"),
        (("c1", "--shared-he"), "--role decryptor"),
        (("d1", "d2", "--role", "decryptor", "--shared-he"), "--role decryptor"),
        (("d1", "--role", "decryptor", "--shared-he", "--paillier", "3072"), "--role decryptor"),
        (("d1", "--role", "decryptor", "--paillier", "1024"), "2048"),
    ],
)
def test_keygen_refuses_what_does_not_fit(command, tmp_path, arguments, says):
    code, _, err = command("keygen", *arguments)
    assert code == 2
    assert says in err
    assert not [*tmp_path.iterdir()]


def test_keygen_names_the_package_that_a_paillier_key_lacks(command, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = command("keygen", "d1", "--role", "decryptor", "--paillier", "2048")
    assert code == 2
    assert err.startswith("secagg: the package gmpy2 is missing")
    assert "pip install 'secagg[he]'" in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1, "scheme": "elgamal", "key": "AA=="}', "[" * 10_000])
def test_a_bad_homomorphic_key_file_is_refused(tmp_path, text):
    (tmp_path / "key.json").write_text(text)
    with pytest.raises(SecAggError, match="secagg keygen --role decryptor"):
        load_he_key(tmp_path / "key.json")

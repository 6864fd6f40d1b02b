"""Files with secrets: made for their owner alone, without a moment in which others can read them, and read so."""

import ast
import logging
import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import secagg
from dp import PrivacyLedger
from secagg import cli
from secagg.certificates import write_certificates
from secagg.errors import ConfigError
from secagg.identity import PartyRole, load_he_key, load_identity, load_roster, load_sealing_key
from secagg.keygen import write_identities, write_registrar
from secagg.kit import Kit
from secagg.remote.settings import Settings
from secagg.remote.state import State
from secagg.service.listener import server_context
from secagg.store import FileLedger
from tests.secagg.plain_sites import PlainSites

ROOT = Path(__file__).parents[2]
PACKAGES = ("secagg", "he", "mpc", "dp")

#: Functions that make files which others may read, and why they may.
FOR_ALL = {
    "secagg/_enrolment_commands.py write_text": "rosters, their signatures and kits, in which nothing is secret",
    "secagg/certificates.py write_certificates": "two certificates; its test finds mode 0600 of the key",
    "secagg/demo/served.py enrol": "a task and settings",
    "secagg/demo/served.py main": "the demo's folder; keygen makes the keys in it",
    "secagg/demo/served.py start": "the logs of the demo's processes",
    "secagg/demo/served.py train": "the result of the demo",
    "secagg/keygen.py write_identities": "requests to be enrolled and the roster; _write_secret writes the keys",
    "secagg/keygen.py write_registrar": "a public key; _write_secret writes the private one",
    "secagg/service/outcomes.py write": "an array into a file that write_file has made",
    "secagg/service/command.py _average": "an array into a file that write_file has made",
    "secagg/warming.py check_folder": "the folder of compiled kernels",
}
_BY_PATH = {"write_text", "write_bytes", "touch", "makedirs", "savez", "savez_compressed", "tofile", "copyfile"}
_BY_PATH |= {"copy2", "copytree", "chmod", "fchmod", "lchmod"}  # after chmod there was a moment with another mode
_OPENS_ONLY = {f"os.O_{name}" for name in ("RDONLY", "WRONLY", "RDWR", "CLOEXEC")}


def open_to_others(source: str) -> set[str]:
    """The functions in ``source`` that make a file or folder not for their owner alone from the start."""
    found: set[str] = set()

    def look(node: ast.AST, within: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            within = node.name
        if isinstance(node, ast.Call) and _makes_for_all(node):
            found.add(within)
        for child in ast.iter_child_nodes(node):
            look(child, within)

    look(ast.parse(source), "")
    return found


def _makes_for_all(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "mkdir":
        return "mode=448" not in ast.unparse(call)  # 0o700
    if name == "open" and ast.unparse(call.func) == "os.open":
        flags, mode = ast.unparse(call.args[1]), ast.unparse(call.args[-1])
        return mode != "384" and not set(flags.split(" | ")) <= _OPENS_ONLY  # 0o600
    if name == "open":
        texts = [
            node.value for node in (*call.args, *(k.value for k in call.keywords)) if isinstance(node, ast.Constant)
        ]
        return any(isinstance(text, str) and len(text) < 4 and set(text) & set("wxa+") for text in texts)
    return name in _BY_PATH and isinstance(call.func, ast.Attribute)


def test_every_file_that_the_library_makes_is_its_owners_or_has_a_reason_not_to_be() -> None:
    found = {
        f"{path.relative_to(ROOT)} {function}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for function in open_to_others(path.read_text(encoding="utf-8"))
    }
    assert found == set(FOR_ALL)


@pytest.mark.parametrize(
    "line",
    [
        "path.write_bytes(key)",
        "open(path, 'wb').write(key)",
        "path.open('x')",
        "path.open(mode='ab')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)",
        "os.open(path, os.O_RDWR | flags)",
        "path.mkdir(parents=True)",
        "os.chmod(path, 0o600)",
    ],
)
def test_a_file_that_others_may_read_is_noticed(line: str) -> None:
    """The control."""
    assert open_to_others(f"def keep(path, key):\n    {line}\n") == {"keep"}


def test_a_file_of_its_owner_is_not_noticed() -> None:
    lines = [
        "os.open(path, os.O_RDWR | os.O_CREAT, 0o600)",
        "os.open(path, os.O_RDONLY)",
        "path.mkdir(mode=0o700)",
        "open(path, 'rb')",
    ]
    assert not open_to_others("\n".join(lines))


@pytest.fixture
def any_umask() -> Iterator[None]:
    """No bit is taken from the mode with which a file is made."""
    before = os.umask(0)
    yield
    os.umask(before)


PUBLIC = {".enrol", ".pub", ".crt", "roster.json"}


@pytest.mark.usefixtures("any_umask")
def test_no_secret_is_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    sites = PlainSites(tmp_path, secagg.AdditiveShares())
    assert sites.play(sites.rounds(), 0) is not None
    write_identities(["d1"], tmp_path / "more", PartyRole.DECRYPTOR, shared_he=True)
    write_registrar("registrar", tmp_path)
    write_certificates(["localhost"], tmp_path)
    PrivacyLedger.open(tmp_path / "budget", epsilon=1.0, delta=1e-6, unit="client", trust="central")
    with FileLedger(tmp_path / "registrar.versions"):
        made = {path for path in tmp_path.rglob("*") if path.is_file()}
    secret = {path for path in made if not {path.suffix, path.name} & PUBLIC}
    expected = {"s1.pem", "a1.sealing.json", "shared.he.json", "registrar.pem", "server.key", "ledger", "budget"}
    assert expected <= {path.name for path in secret}
    assert any(path.suffix == ".state" for path in secret)
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    holders = {path.parent for path in secret} - {tmp_path}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o700}
    sites.close()


def token(path: Path) -> None:
    kit = Kit(party="c1", role=PartyRole.CLIENT, url="https://localhost", task="ab" * 32, auth="tokens")
    State(path.parent, kit, Settings()).close()


#: What reads each kind of private key, and the name of its file below ``secrets``.
READERS: dict[str, Callable[[Path], object]] = {
    "s1.pem": load_identity,
    "a1.sealing.json": load_sealing_key,
    "shared.he.json": load_he_key,
    "server.key": lambda path: server_context(path.parent / "server.crt", path),
    "token": token,
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("it's private")
    write_identities(["s1"], folder)
    write_identities(["a1"], folder, PartyRole.AGGREGATOR)
    write_identities(["d1"], folder, PartyRole.DECRYPTOR, shared_he=True)
    write_certificates(["localhost"], folder)
    (folder / "token").write_text("abc\n")
    return folder


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return lines


@pytest.mark.parametrize("name", READERS)
def test_a_secret_that_others_can_read_is_one_line_with_what_to_run(
    name: str, secrets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, read = secrets / name, READERS[name]
    for mode in (0o644, 0o440, 0o620, 0o604):
        path.chmod(mode)
        for _ in range(2):
            read(path)
        (line,) = warned(caplog)
        says, _, what = line.partition("; run: ")
        assert says == f"{path} holds a secret, and its mode {mode:04o} lets other users read or change it"
        subprocess.run(shlex.split(what), check=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", READERS)
def test_a_secret_of_its_owner_is_no_line(name: str, secrets: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The control: the line is about the mode."""
    for mode in (0o600, 0o400, 0o700):
        (secrets / name).chmod(mode)
        READERS[name](secrets / name)
    assert warned(caplog) == []


def test_a_file_without_a_secret_is_no_line(secrets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (secrets / "roster.json").chmod(0o666)
    load_roster(secrets / "roster.json")
    with pytest.raises(ConfigError):
        load_identity(secrets / "roster.json")
    assert warned(caplog) == []


def test_a_pipe_is_no_line(caplog: pytest.LogCaptureFixture, secrets: Path, tmp_path: Path) -> None:
    """A secret may come through a pipe, as in ``--key <(decrypt registrar.pem.age)``; its mode says nothing."""
    os.mkfifo(pipe := tmp_path / "pipe", 0o666)
    with subprocess.Popen(["/bin/sh", "-c", f"cat '{tmp_path}/key' > '{pipe}'"]) as writer:
        (tmp_path / "key").write_bytes((secrets / "s1.pem").read_bytes())
        load_identity(pipe)
        writer.wait()
    assert warned(caplog) == []


def test_the_command_line_shows_the_line(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(secrets)
    write_registrar("registrar", ".")
    (secrets / "registrar.pem").chmod(0o640)
    with pytest.raises(SystemExit) as end:
        cli.main(["roster", "sign", "roster.json", "--key", "registrar.pem"])
    assert end.value.code == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("secagg: registrar.pem holds a secret")
    assert len(logging.getLogger("secagg").handlers) == 1  # the command takes its handler away again


def test_stacks_that_send_errors_to_the_server_do_not_send_the_line(
    secrets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a path, and adapters read keys of a site's settings: whatever the level, it is no error."""
    (secrets / "s1.pem").chmod(0o666)
    load_identity(secrets / "s1.pem")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

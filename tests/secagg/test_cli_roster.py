"""Rosters at the command line; that it needs no extra; and that whatever it is given wrongly is one line."""

import json
import os
import subprocess
import sys
import textwrap
from hashlib import sha256

import numpy as np
import pytest

import secagg
from secagg.cli import main
from secagg.identity import PartyRole, load_identity, load_roster


def python(code, *, cwd, stdout=None, env=None):
    """A fresh interpreter in ``cwd``, which finds this source tree."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {})
    run = [sys.executable, "-c", code]
    return subprocess.run(
        run, cwd=cwd, env=variables, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.fixture
def enrolled(command, tmp_path):
    """Three parties that enrolled themselves, each in a folder of its own."""
    for party, role in (("c1", "client"), ("c2", "client"), ("agg1", "aggregator")):
        assert command("keygen", party, "--role", role, "--out", party)[0] == 0
    return [tmp_path / party / "roster.json" for party in ("c1", "c2", "agg1")]


def test_each_party_enrols_itself_and_one_merges_what_they_send(command, tmp_path, enrolled):
    code, out, err = command("roster", "merge", *enrolled)
    merged = load_roster(tmp_path / "roster.json")
    assert (code, err) == (0, "")
    assert out == f"roster.json: 3 parties. Digest, to compare with every party: {merged.digest.hex()}\n"
    assert merged.ids(PartyRole.CLIENT) == ("c1", "c2")
    for party in ("c1", "c2", "agg1"):
        key = load_identity(tmp_path / party / f"{party}.pem").public_key().public_bytes_raw()
        assert merged[party].signing_key == key
    assert merged["agg1"] == load_roster(enrolled[2])["agg1"]


def test_a_roster_can_be_extended_and_no_other_file_is_overwritten(command, tmp_path, enrolled):
    assert command("roster", "merge", enrolled[0])[0] == 0
    assert command("roster", "merge", "roster.json", enrolled[1])[0] == 0
    assert sorted(load_roster("roster.json")) == ["c1", "c2"]
    code, _, err = command("roster", "merge", enrolled[2])
    assert (code, err.count("\n")) == (2, 1)
    assert "exists and isn't among the files" in err
    assert sorted(load_roster("roster.json")) == ["c1", "c2"]


def test_one_id_with_two_keys_is_refused(command, tmp_path, enrolled):
    assert command("keygen", "c1", "--out", "impostor")[0] == 0
    code, out, err = command("roster", "merge", enrolled[0], "impostor/roster.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"got c1 in {enrolled[0]} and, with another role or key, in impostor/roster.json" in err
    assert not (tmp_path / "roster.json").exists()


def test_one_key_under_two_ids_is_refused(command, tmp_path, enrolled):
    renamed = enrolled[0].read_text().replace('"c1"', '"c9"')
    (tmp_path / "renamed.json").write_text(renamed)
    code, _, err = command("roster", "merge", enrolled[0], "renamed.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "two ids share a signing key" in err


def test_list_shows_fingerprints_of_every_key_and_the_digest(command, enrolled):
    for path in enrolled:
        roster = load_roster(path)
        (party,) = roster.values()
        code, out, err = command("roster", "list", path)
        assert (code, err) == (0, "")
        head, row, last = out.splitlines()
        assert head.split()[:2] == ["id", "role"]
        sealing = "-" if party.encryption_key is None else sha256(party.encryption_key).hexdigest()[:32]
        assert row.split() == [party.id, party.role, sha256(party.signing_key).hexdigest()[:32], sealing]
        assert last.endswith(roster.digest.hex())
        listed = json.loads(command("roster", "list", path, "--json")[1])
        assert listed["digest"] == roster.digest.hex()
        assert listed["parties"][party.id]["signing_key_sha256"] == sha256(party.signing_key).hexdigest()
        assert (listed["parties"][party.id]["encryption_key_sha256"] or "")[:32] == sealing.strip("-")


# --- without the extras


def test_all_but_the_demo_needs_no_extra(tmp_path, monkeypatch):
    """Each command in one fresh interpreter that can't import what only extras bring."""
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)
    (tmp_path / "task").write_bytes(task.to_bytes())
    code = """
        import sys
        extras = "typer click rich sklearn scipy matplotlib tenseal phe gmpy2 argcomplete"
        sys.modules.update(dict.fromkeys(extras.split()))
        from secagg.cli import main
        for line in ("keygen c1 c2", "keygen a --role aggregator --out x", "roster merge roster.json x/roster.json",
                     "roster list", "roster list --json", "describe task", "keygen --registrar registrar",
                     "roster build c1.enrol x/a.enrol --out built.json",
                     "roster sign built.json --key registrar.pem",
                     "roster verify built.json --registrar registrar.pub", "tls localhost",
                     "kit c1 --task task --url https://agg --registrar registrar.pub", "kit --show c1.kit",
                     "--version", "--help", "demo --help"):
            try:
                main(line.split())
            except SystemExit as left:
                assert not left.code, line
    """
    run = python(textwrap.dedent(code), cwd=tmp_path, stdout=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (0, "")
    assert task.describe() in run.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("secagg roster ", {"build", "sign", "verify", "list", "merge"}),
        ("secagg keygen c1 --role ", {*map(str, PartyRole)}),
    ],
)
def test_the_shell_completes(tmp_path, line, offered):
    """By argcomplete's own protocol, as its function for bash speaks it: the words offered come on descriptor 8."""
    code = (
        "import os, sys\nos.dup2(os.open('offered', os.O_WRONLY | os.O_CREAT), 8)\n"
        "sys.argv[0] = 'secagg'\nfrom secagg.cli import main; main()"
    )
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    assert python(code, cwd=tmp_path, env=asked | {"COMP_TYPE": "9"}).returncode == 0
    assert offered <= {word.strip() for word in (tmp_path / "offered").read_text().split("\n")}


# --- what is wrong is one line


@pytest.fixture
def files(command, tmp_path):
    """A folder with one file of each kind; names of what may be given in place of another."""
    command("keygen", "c1")
    command("keygen", "agg1", "--role", "aggregator")
    command("keygen", "dec", "--role", "decryptor", "--shared-he")
    command("keygen", "--registrar", "registrar")
    command("roster", "sign", "roster.json", "--key", "registrar.pem")
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)
    (tmp_path / "task").write_bytes(task.to_bytes())
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "other.json").write_text('{"version": 1}')
    (tmp_path / "list.json").write_text("[1, [2]]")
    (tmp_path / "number.json").write_text("7")
    (tmp_path / "version9.json").write_text('{"version": 9, "parties": {}}')
    (tmp_path / "parties.json").write_text('{"version": 1, "parties": 7}')
    (tmp_path / "role.json").write_text('{"version": 1, "parties": {"a": {"role": "king", "signing_key": "AA=="}}}')
    (tmp_path / "key.json").write_text('{"version": 1, "parties": {"a": {"role": "client", "signing_key": "%%"}}}')
    (tmp_path / "cut").write_bytes(task.to_bytes()[:-1])
    (tmp_path / "folder").mkdir()
    return [*sorted(path.name for path in tmp_path.iterdir()), "missing", "task/inside", "/dev/zero"]


def test_a_file_of_another_kind_is_one_line_that_names_it(command, tmp_path, files):
    for words, good in (
        (("describe",), {"task"}),
        (("roster", "list"), {"roster.json"}),
        (("roster", "merge"), {"roster.json"}),
        (("roster", "build", "--out", "new.json"), {"c1.enrol", "agg1.enrol", "dec.enrol"}),
        (("roster", "sign", "--key", "registrar.pem", "--out", "new.sig"), {"roster.json"}),
        (
            ("roster", "sign", "roster.json", "--out", "new.sig", "--key"),
            {"c1.pem", "agg1.pem", "dec.pem", "registrar.pem"},
        ),
        (("roster", "verify", "roster.json", "--registrar"), {"registrar.pub"}),
        (("kit", "--show"), set()),
    ):
        for name in files:
            if name in good:
                continue
            code, out, err = command(*words, name)
            assert (code, out, err.count("\n")) == (2, "", 1), (words, name, err)
            assert err.startswith("secagg: "), (words, name, err)
            assert name in err, (words, name, err)
    assert "got a roster" in command("describe", "roster.json")[2]
    assert "key in PEM" in command("describe", "c1.pem")[2]
    assert "private sealing key" in command("roster", "list", "agg1.sealing.json")[2]
    assert "private homomorphic key" in command("roster", "list", "shared.he.json")[2]


@pytest.mark.parametrize(
    ("words", "out"),
    [
        *((("keygen", "new"), out) for out in ("task", "task/inside", "/proc/nowhere")),
        *((("roster", "merge", "roster.json"), out) for out in ("folder", "missing/roster.json", "task")),
        (("roster", "merge", "roster.json"), "/proc/nowhere"),
    ],
)
def test_where_a_command_cannot_write_is_one_line(command, files, words, out):
    code, printed, err = command(*words, "--out", out)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    if (words[0], out) == ("keygen", "task"):
        assert err == "secagg: got --out task: File exists; choose a folder that can be written\n"


def test_keygen_beside_a_broken_roster_writes_no_key(command, tmp_path, files):
    (tmp_path / "roster.json").write_text("{")
    code, out, err = command("keygen", "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("secagg: got a roster that can't be read")
    assert err.endswith("(in roster.json)\n")
    assert not (tmp_path / "new.pem").exists()


def test_a_full_disk_is_one_line_and_a_reader_that_left_is_none(command, tmp_path):
    command("keygen", "c1")
    code = "from secagg.cli import main; main(['roster', 'list'])"
    with open("/dev/full", "w") as full:
        done = python(code, cwd=tmp_path, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = python(code, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_interrupted_command_is_one_line(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secagg._enrolment_commands.write_identities", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["keygen", "c1"])
    assert (left.value.code, capsys.readouterr().err) == (130, "secagg: interrupted\n")

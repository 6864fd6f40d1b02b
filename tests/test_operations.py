"""The commands of docs/operations.md, run in order, each on the machine that its prompt names: a folder here.

A file that a command names comes from the machine that has it. Only public files travel.
"""

import io
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import secagg
from secagg.cli import main
from secagg.kit import Kit
from secagg.registrar import load_registrar, newest_version, verify_roster
from secagg.store import MemoryLedger

DOCUMENT = Path(__file__).parent.parent / "docs" / "operations.md"
HOSPITALS = [f"h{number}" for number in range(1, 11)]
PUBLIC = (".enrol", ".pub", ".sig", ".kit", ".crt", "roster.json", "task.bin")
PRIVATE = (".pem", ".key", ".versions", ".sealing.json", ".he.json")


class Step(NamedTuple):
    machine: str
    command: str
    output: str


def steps(text: str) -> list[Step]:
    """What the document's console blocks show."""
    listed = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for machine, command, output in re.findall(
            r"^(\w+)\$ (secagg .*)\n((?:(?!\w+\$ ).*\n)*)", block, re.MULTILINE
        ):
            listed.append(Step(machine, command, output))
    return listed


def test_no_command_of_the_document_is_passed_over() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = [
        line
        for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert [f"{step.machine}$ {step.command}" for step in steps(text)] == [line for line in shown if "$ " in line]
    assert (
        steps("```console\n$ secagg keygen\n```") == []
    )  # a machine has to be named, or the test would not run it


class Machines:
    """A folder for each machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = MemoryLedger()  # of a party that sees every roster

    def run(self, step: Step, patch: pytest.MonkeyPatch) -> str:
        """What a command prints; ``AssertionError`` unless it succeeds."""
        here = self.root / step.machine
        here.mkdir(exist_ok=True)
        patch.chdir(here)
        arguments = []
        for word in shlex.split(step.command)[1:]:
            if arguments[-1:] != ["--out"]:
                for name in (word, "roster.sig") if word == "roster.json" else (word,):
                    self.carry(here, name)
            arguments += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        printed, wrong = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(wrong), pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0, (step, wrong.getvalue())
        return printed.getvalue()

    def carry(self, here: Path, name: str) -> None:
        """Bring the public files of this name from other machines: those that are newer here, or missing."""
        if not name.endswith(PUBLIC):
            return
        for machine in self.root.iterdir():
            for found in machine.rglob(Path(name).name):
                place = here / (found.relative_to(machine) if "*" not in name else found.name)
                same = "*" in name or place == here / name
                target = place if same else here / name
                newer = not target.exists() or (same and found.stat().st_mtime_ns > target.stat().st_mtime_ns)
                if machine != here and newer:
                    target.parent.mkdir(exist_ok=True)
                    shutil.copy2(found, target)

    def private(self) -> set[tuple[str, str]]:
        """Every private file, with its machine."""
        return {
            (path.relative_to(self.root).parts[0], path.name)
            for path in self.root.rglob("*")
            if path.name.endswith(PRIVATE)
        }

    def check_roster(self, key: str) -> None:
        """A party that has seen all before takes what was signed last, by the key of this name."""
        registrar = self.root / "registrar"
        text, signature = (registrar / "roster.json").read_text(), (registrar / "roster.sig").read_text()
        verify_roster(text, signature, registrar=load_registrar(registrar / f"{key}.pub"), ledger=self.ledger)


def played(text: str, root: Path, patch: pytest.MonkeyPatch) -> tuple[Machines, list[tuple[Step, str]]]:
    """Every step with what it prints here; what h1 does first, the other nine hospitals do too."""
    machines, shown = Machines(root), []
    protocol = secagg.SecAgg(threat_model="malicious")
    task = secagg.Task(protocol, secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(1.0), 10, 7)
    (root / "operator").mkdir()
    (root / "operator" / "task.bin").write_bytes(task.to_bytes())
    for number, step in enumerate(steps(text)):
        shown.append((step, machines.run(step, patch)))
        if number == 0:
            for hospital in HOSPITALS[1:]:
                machines.run(Step(*(re.sub(r"\bh1\b", hospital, part) for part in step)), patch)
        if step.command.startswith("secagg roster sign"):
            machines.check_roster(step.command.partition("--key ")[2].partition(".pem")[0])
    return machines, shown


def same(text: str) -> str:
    """Without what differs from run to run: digests and times."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", re.sub(r"\b[0-9a-f]{32,}\b", "HEX", text))


def test_the_commands_print_what_the_document_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines, shown = played(DOCUMENT.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    for step, output in shown:
        assert same(output) == same(step.output), step.command
    assert len(shown) > 10
    registrar = load_registrar(tmp_path / "registrar" / "registrar.pub")
    assert newest_version(machines.ledger, registrar) >= 3, "enrolled, then a key replaced, then a party removed"
    for machine, name in machines.private():
        owner = {"server.key": "server"}.get(name, "registrar" if "registrar" in name else name.partition(".")[0])
        assert machine == owner, f"{name} was carried to {machine}"
    assert {kit.parent.name for kit in tmp_path.rglob("*.kit")} >= {"registrar", "h1"}
    assert Kit.load(tmp_path / "h1" / "h1.kit").party == "h1"


def test_control_another_output_is_noticed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (first, *_), changed = steps(text), steps(text.replace("private key of h1", "public key of h1"))
    assert same(first.output) != same(changed[0].output)

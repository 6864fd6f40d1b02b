"""The commands and Python blocks of README and of docs/driving.md run as pasted, in order, in empty folders."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.cli import main, parser
from secagg.identity import PartyRole, load_identity, load_roster, load_sealing_key
from secagg.testing import Parties, Session

ROOT = Path(__file__).parent.parent
README, DRIVING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/driving.md"))


def blocks(document: str) -> list[tuple[str, str]]:
    """The kind and the text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


COMMANDS = [line for kind, block in blocks(README + DRIVING) if not kind for line in block.splitlines()]


def command(*arguments: str) -> None:
    """Run ``secagg`` in this folder."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0


def paste(document: str, folder: Path) -> dict[str, Any]:
    """The names of an interpreter into which every block was pasted, in order with the commands of ``secagg``."""
    names: dict[str, Any] = {"__name__": "pasted"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, block in blocks(document):
            if kind == "python":
                exec(compile(block, "pasted", "exec"), names)
                continue
            for line in block.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                if program == "secagg":
                    command(*arguments)
    return names


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What README leaves behind."""
    return paste(README, tmp_path_factory.mktemp("readme"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``driven`` runs."""
    return tmp_path_factory.mktemp("driving")


@pytest.fixture(scope="module")
def driven(folder: Path) -> dict[str, Any]:
    """What docs/driving.md leaves behind."""
    return paste(DRIVING, folder)


def mean(names: dict[str, Any], survivors: Any) -> np.ndarray:
    """The weighted mean of the clear updates of ``survivors``."""
    weights = [names["weights"][client] for client in survivors]
    return np.average([names["updates"][client]["w"] for client in survivors], axis=0, weights=weights)


def test_sum_in_one_process(pasted: dict[str, Any]) -> None:
    result = pasted["result"]
    assert set(result.survivors) == set(pasted["updates"]) - {"c7"}
    step = 5_000 * len(result.survivors) * 2**-14 / result.total_weight
    np.testing.assert_allclose(result.mean["w"], mean(pasted, result.survivors), atol=step)


def test_other_protocol_and_noise(pasted: dict[str, Any]) -> None:
    assert pasted["sparse"].protocol == secagg.SecAggPlus()
    assert pasted["noised"].encoding.noise_multiplier == 1.1


def test_server_and_clients_over_your_own_transport(driven: dict[str, Any]) -> None:
    outcome = driven["server"].outcome
    assert list(outcome.survivors) == driven["cohort"]
    assert not driven["server"].faults
    assert [client.result() for client in driven["running"]] == [None] * 4
    step = 5_000 * len(outcome.survivors) * 2**-14 / outcome.total_weight
    np.testing.assert_allclose(outcome.mean["w"], mean(driven, outcome.survivors), atol=step)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parties of the ``keygen`` lines, each enrolled on a machine, and so in a folder, of its own."""
    machines = tmp_path_factory.mktemp("apart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(machines)
        for line in COMMANDS:
            if line.startswith("secagg keygen"):
                asked = parser().parse_args(shlex.split(line, comments=True)[1:])
                for party in asked.ids:
                    command("keygen", party, "--role", asked.role, "--out", party)
        command("roster", "merge", *map(str, Path().glob("*/roster.json")), "--out", "roster.json")
    return machines


def test_the_digest_that_everyone_compares_is_one(
    apart: Path, driven: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digest does not depend on the order of the merge; other keys of the same parties have another one."""
    monkeypatch.chdir(apart)
    digest = load_roster("roster.json").digest.hex()
    backwards = sorted((str(path) for path in Path().glob("*/roster.json")), reverse=True)
    command("roster", "merge", *backwards, "--out", "again.json")
    command("roster", "list", "roster.json")
    merged, *_, listed = capsys.readouterr().out.splitlines()
    assert merged.startswith(f"again.json: {len(backwards)} parties. ")
    assert merged.endswith(digest)
    assert listed.endswith(digest)
    other = driven["roster"]
    assert list(other) == list(load_roster("roster.json"))
    assert other.digest.hex() != digest


@pytest.mark.parametrize("protocol", [secagg.SecAgg(), secagg.AdditiveShares(), secagg.BFV()], ids=lambda p: p.name)
@pytest.mark.parametrize("layout", ["as written", "one folder a party"])
def test_what_was_enrolled_runs_a_session(
    protocol: Any, layout: str, apart: Path, folder: Path, driven: dict[str, Any]
) -> None:
    """For each kind of protocol, with the keys in the files and the merged roster."""
    machines = apart if layout == "one folder a party" else folder
    roster, cohort = load_roster(machines / "roster.json"), driven["cohort"]
    needed = PartyRole.CLIENT, *protocol.party_counts
    roles = {party.id: party.role for party in roster.values() if party.role in needed}
    identities = {party: load_identity(*machines.glob(f"*/{party}.pem")) for party in roles}
    sealing = {
        party: load_sealing_key(*machines.glob(f"*/{party}.sealing.json"))
        for party, role in roles.items()
        if role is PartyRole.AGGREGATOR
    }
    parties = Parties(protocol, tuple(cohort), roles, identities, roster, len(cohort) - 1, sealing)
    Session(parties).require_completes(f"with the roster {layout}")


def test_commands_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    programs = set()
    for line in COMMANDS:
        program, command, *rest = shlex.split(line, comments=True)
        programs.add(program)
        if program == "make":
            assert command in targets
        elif program == "pip":
            assert (command, rest[0][0]) == ("install", ".")
        else:
            parser().parse_args([command, *rest])
    assert programs == {"make", "pip", "secagg"}


def test_the_costs_that_it_names_are_those_measured() -> None:
    least, most, paillier, fewest, bytes_each, clear, clear_bytes = map(
        float,
        re.search(  # type: ignore[union-attr]
            r"in (\S+) to (\S+) ms \(Paillier: (\S+) ms\), and sends (\S+) to (\S+)\s"
            r"bytes per coordinate; `Clear` takes (\S+) ms and (\S+) bytes",
            README,
        ).groups(),
    )
    rows = json.loads((ROOT / "bench/results/run.json").read_text(encoding="utf-8"))["rows"]
    seconds = {row["protocol"]: row["client_seconds"]["median"] for row in rows}
    sent = {row["protocol"]: row["up_per_coordinate"] for row in rows}
    assert (clear, clear_bytes) == (round(1e3 * seconds.pop("Clear"), 1), round(sent.pop("Clear"), 1))
    assert paillier == round(1e3 * seconds.pop("Paillier"))
    assert (least, most) == (round(1e3 * min(seconds.values())), round(1e3 * max(seconds.values())))
    assert (fewest, bytes_each) == (round(min(sent.values()), 1), round(max(sent.values()), 1))


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_extras_exist() -> None:
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    (named,) = re.findall(r"Extras: (.*?)\. The", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`(?=[ ,.]|$)", re.sub(r"\([^)]*\)", "", named))) <= set(declared)


def test_exported_names_in_the_readme_exist() -> None:
    for name in set(re.findall(r"\bsecagg\.([A-Z]\w+)", README + DRIVING)):
        assert name in secagg.__all__

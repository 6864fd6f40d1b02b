"""The README's blocks run as they are pasted: commands and Python, in their order, in an empty folder."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.cli import main, parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names of an interpreter into which every block was pasted, the commands run before."""
    names: dict[str, Any] = {"__name__": "pasted"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        for kind, block in BLOCKS:
            if kind == "python":
                exec(compile(block, "README.md", "exec"), names)
                continue
            for line in block.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                if program == "secagg":
                    with pytest.raises(SystemExit) as left:
                        main(arguments)
                    assert left.value.code == 0
    return names


def mean(names: dict[str, Any], survivors: Any) -> np.ndarray:
    """What the clear updates of ``survivors`` have as their weighted mean."""
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


def test_server_and_clients_over_ones_own_transport(pasted: dict[str, Any]) -> None:
    outcome = pasted["server"].outcome
    assert list(outcome.survivors) == pasted["cohort"]
    assert not pasted["server"].faults
    assert [client.result() for client in pasted["running"]] == [None] * 4
    step = 5_000 * len(outcome.survivors) * 2**-14 / outcome.total_weight
    np.testing.assert_allclose(outcome.mean["w"], mean(pasted, outcome.survivors), atol=step)


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


def test_extras_exist() -> None:
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    (named,) = re.findall(r"Extras: (.*?)\. The", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`(?=[ ,.]|$)", re.sub(r"\([^)]*\)", "", named))) <= set(declared)


def test_exported_names_in_the_readme_exist() -> None:
    for name in set(re.findall(r"\bsecagg\.([A-Z]\w+)", README)):
        assert name in secagg.__all__

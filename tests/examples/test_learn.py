"""The training loops of the book run as pasted, and learn."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "learn" / "your_training_loop.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
BLOCKS = {
    section.partition("\n")[0]: code
    for section in SECTIONS
    for code in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
}
OWN, NOISE = "Your own data", "Dropouts and noise"
NEEDS = {
    "scikit-learn": ("sklearn",),
    "PyTorch": ("sklearn", "torch"),
    "Keras": ("sklearn", "keras", "torch"),
    OWN: ("sklearn",),
    NOISE: ("sklearn", "torch"),
}


def played(section: str, folder: Path, changed: tuple[str, str] = ("", "")) -> str:
    """What the loop of a section prints, after a change of its text."""
    if missing := [package for package in NEEDS[section] if importlib.util.find_spec(package) is None]:
        pytest.skip(f"make test-stacks installs {', '.join(missing)}")
    script = folder / "loop.py"
    assert changed[0] in BLOCKS[section]
    script.write_text(BLOCKS[section].replace(*changed) if changed[0] else BLOCKS[section], encoding="utf-8")
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(printed: str) -> float:
    return float(re.search(r"accuracy (\d\.\d+), ", printed)[1])  # type: ignore[index]


def test_the_page_has_a_loop_for_each_framework() -> None:
    assert set(BLOCKS) == set(NEEDS)
    assert PAGE.read_text(encoding="utf-8").count("```python") == len(BLOCKS), "one block in each section"
    assert all(sum(bool(line.strip()) for line in block.splitlines()) <= 38 for block in BLOCKS.values())


@pytest.mark.stacks
@pytest.mark.parametrize("section", [name for name in NEEDS if name != NOISE])
def test_a_loop_runs_as_pasted_and_clips_nothing(section: str, tmp_path: Path) -> None:
    printed = played(section, tmp_path)
    assert accuracy(printed) > 0.84
    assert ", 0 values clipped" in printed


@pytest.mark.stacks
def test_control_without_the_scaling_own_data_teach_nothing(tmp_path: Path) -> None:
    assert accuracy(played(OWN, tmp_path, ("(rows / most - mean) / np.sqrt(square - mean**2)", "rows"))) < 0.6


@pytest.mark.stacks
def test_the_loop_with_noise_spends_its_epsilon_and_no_more_while_clients_fall_silent(tmp_path: Path) -> None:
    printed = played(NOISE, tmp_path)
    assert accuracy(printed) > 0.6
    assert ", 18 of 20 in the last sum" in printed
    spent = float(re.search(r"epsilon (\d\.\d+)", printed)[1])  # type: ignore[index]
    assert 7.9 < spent <= 8

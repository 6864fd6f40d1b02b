"""The training loops of the book run as pasted, and learn."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "learn" / "your_training_loop.md"
BLOCKS = dict(
    re.findall(r"^## (\S+)\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
)
NEEDS = {"scikit-learn": ("sklearn",), "PyTorch": ("sklearn", "torch"), "Keras": ("sklearn", "keras", "torch")}


def test_the_page_has_a_loop_for_each_framework() -> None:
    assert set(BLOCKS) == set(NEEDS)
    assert PAGE.read_text(encoding="utf-8").count("```python") == len(BLOCKS), "one block in each section"
    assert all(sum(bool(line.strip()) for line in block.splitlines()) <= 32 for block in BLOCKS.values())


@pytest.mark.stacks
@pytest.mark.parametrize("framework", NEEDS)
def test_a_loop_runs_as_pasted_and_clips_nothing(framework: str, tmp_path: Path) -> None:
    if missing := [package for package in NEEDS[framework] if importlib.util.find_spec(package) is None]:
        pytest.skip(f"make test-stacks installs {', '.join(missing)}")
    script = tmp_path / "loop.py"
    script.write_text(BLOCKS[framework], encoding="utf-8")
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    accuracy, clipped = re.search(r"accuracy (\d\.\d+), (\d+) values clipped", done.stdout).groups()  # type: ignore[union-attr]
    assert float(accuracy) > 0.84
    assert clipped == "0"

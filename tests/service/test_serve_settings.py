"""What ``secagg serve`` notices in its settings before it listens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import secagg
from secagg.errors import ConfigError
from secagg.service.command import serve

MODEL = {"w": np.zeros(4, np.float32)}
SETTINGS = """
[service]
url = "http://127.0.0.1:9"
[[task]]
file = "task.bin"
auth = "open"
model = "{model}"
"""


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("missing.npz", "no model at"),
        ("nowhere/model.npz", "a folder that can't be written to: No such file or directory"),
        ("/proc/model.npz", "a folder that can't be written to"),
    ],
)
def test_a_model_that_could_not_be_read_or_written_back_is_refused_before_the_first_round(
    model: str, says: str, tmp_path: Path
) -> None:
    task = secagg.Task(secagg.Clear(), secagg.Layout.of(MODEL), secagg.FixedPoint(clip=1.0, bits=16), 3, 2)
    (tmp_path / "task.bin").write_bytes(task.to_bytes())
    (tmp_path / "service.toml").write_text(SETTINGS.format(model=model))
    with pytest.raises(ConfigError, match=says):
        serve(tmp_path / "service.toml", None)
    assert not (tmp_path / "state" / "service.db").exists()


def test_the_process_leaves_no_core_file_and_is_not_read_by_others() -> None:
    code = (
        "import ctypes, resource; from secagg.service.command import keep_out_of_core_files as keep; keep(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 (0, 0)\n"

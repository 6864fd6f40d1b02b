"""What ``secagg serve`` notices in its settings before it listens."""

from __future__ import annotations

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

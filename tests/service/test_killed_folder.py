"""A server killed at each of its writes, and at power cuts there: nothing that was acknowledged is lost."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # a disk's fsync takes long, and the tests take back themselves what was not synced


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield Path(name)


def killed(folder: Path, mode: str, stride: int, without: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.service.killed_folder", str(folder), mode, str(stride), without]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(("mode", "stride"), [("kill", 1), ("power", 2)])
def test_a_server_that_is_killed_at_any_write_loses_nothing(folder: Path, mode: str, stride: int) -> None:
    done = killed(folder, mode, stride)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 100 // stride


@pytest.mark.parametrize(
    ("mode", "without", "loses"),
    [
        ("kill", "spool first", "lost what was acknowledged"),
        ("power", "spool", "lost what was acknowledged"),
        ("power", "state", "a state was damaged"),
        ("power", "name", "which can't be read"),
    ],
)
def test_control_without_one_write_in_its_place_a_message_or_a_state_is_lost(
    folder: Path, mode: str, without: str, loses: str
) -> None:
    done = killed(folder, mode, 3, without)
    assert done.returncode == 1
    assert loses in done.stderr

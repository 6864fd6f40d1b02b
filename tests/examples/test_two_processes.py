"""The example with real processes: the killed process really dies, and the sums are exact."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# One worker, so that kernels are compiled once.
pytestmark = [pytest.mark.stacks, pytest.mark.xdist_group("two processes")]

SCRIPT = Path(__file__).parents[2] / "examples" / "two_processes.py"
EVERYONE = ["c1", "c2", "c3", "c4", "c5"]


def update_of(client: str) -> dict[str, list[int]]:
    """The update that the script's ``client`` contributes, computed here again."""
    rng = np.random.default_rng(EVERYONE.index(client))
    return {name: rng.integers(-1000, 1000, size).tolist() for name, size in (("bias", 4), ("weights", 60))}


@pytest.fixture(scope="module")
def scenes() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, SCRIPT, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize(
    ("scene", "victim", "survivors", "dropped"),
    [
        (0, "c2", ["c1", "c3", "c4", "c5"], {"c2": "MaskedInput"}),
        (1, "c4", EVERYONE, {}),
        (2, "server", EVERYONE, {}),
    ],
)
def test_a_killed_process_and_the_sum(
    scenes: list[dict[str, Any]], scene: int, victim: str, survivors: list[str], dropped: dict[str, str]
) -> None:
    result = scenes[scene]
    assert (result["victim"], result["killed"]) == (victim, -signal.SIGKILL)
    # A process that was restarted ends with 0, too; the client that stayed away has no exit code.
    remaining = {"server", *EVERYONE} - set(dropped)
    assert result["exit_codes"] == dict.fromkeys(remaining, 0)
    assert result["survivors"] == survivors
    assert result["dropped"] == dropped
    updates = [update_of(client) for client in survivors]
    assert result["sum"] == {
        name: [float(sum(column)) for column in zip(*(update[name] for update in updates), strict=True)]
        for name in updates[0]
    }


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_script(tmp_path: Path, how: signal.Signals) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    script = subprocess.Popen([sys.executable, SCRIPT], stderr=subprocess.PIPE, text=True, env=environment)
    assert script.stderr is not None
    try:
        for line in script.stderr:
            if "AdvertiseKeys" in line:
                break
        assert len(processes_in(tmp_path)) == 6
        script.send_signal(how)
        script.stderr.read()  # to the end: no process that could write there is left
        assert script.wait(timeout=20) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    finally:
        script.kill()
        script.wait()
        script.stderr.close()
    patience = time.monotonic() + 10
    while (left := processes_in(tmp_path)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not left


def processes_in(folder: Path) -> list[str]:
    """The command lines of processes that name ``folder``."""
    commands = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/" in command:
            commands.append(command)
    return commands

"""The example's deployment as a user starts it: SuperLink and SuperNodes are processes, one of them is killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

LOOPBACK = Path(__file__).parents[2] / "examples" / "flower_app" / "loopback.py"


# A process that starts another one in a session of its own, as Flower's SuperLink does.
STARTS = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
# The example, interrupted while it deploys.
INTERRUPTED = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("loopback", {str(LOOPBACK)!r})
loopback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loopback)
def deploy(deployment):
    deployment.start("superlink", "python", "-c", {STARTS!r})
    time.sleep(600)
loopback.deploy = deploy
loopback.play(loopback.Path(sys.argv[1]), 1, False)
"""


def load() -> Any:
    spec = importlib.util.spec_from_file_location("loopback", LOOPBACK)
    assert spec is not None
    assert spec.loader is not None
    loopback = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loopback)
    return loopback


def wait_for(there: Any) -> Any:
    end = time.monotonic() + 60
    while not (result := there()) and time.monotonic() < end:
        time.sleep(0.05)
    assert result
    return result


def test_the_example_ends_what_has_left_its_group(tmp_path: Path) -> None:
    deployment = load().Deployment(tmp_path)
    deployment.start("superlink", "python", "-c", STARTS)
    wait_for(lambda: len(deployment.remaining()) == 2)
    group = os.getpgid(deployment.running["superlink"].pid)
    assert [os.getpgid(pid) == group for pid in sorted(deployment.remaining())].count(False) == 1, "the control"
    deployment.end()
    assert not deployment.remaining()


def test_the_example_cleans_up_when_it_is_terminated(tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(folder)], stderr=subprocess.DEVNULL)
    (tmp_path / "other").mkdir()
    seen = load().Deployment(tmp_path / "other")
    seen.mark = f"FLWR_HOME={folder / 'flwr'}".encode()
    wait_for(lambda: len(seen.remaining()) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert not seen.remaining()


@pytest.mark.stacks
def test_a_round_outlives_a_killed_node(tmp_path: Path) -> None:
    """TLS, node authentication, a new process for each message; the fourth node is killed as it should train."""
    loopback = load()
    log = loopback.play(tmp_path, rounds=1, spare=False)
    assert "in the sum: hospital-1, hospital-2, hospital-3; fell silent: hospital-4 in MaskedInput" in log
    accuracy = float(log.rsplit("accuracy ", 1)[1].split()[0])
    assert accuracy > 0.8
    for hospital in loopback.HOSPITALS:
        assert (tmp_path / hospital / "ledger").exists()
        assert "Start `flwr-clientapp` process" in (tmp_path / f"{hospital}.log").read_text()
    for hospital in loopback.HOSPITALS[:-1]:
        assert len(list((tmp_path / hospital).glob("*.state*"))) == 1
    left = {path.name.split(".", 1)[1] for path in (tmp_path / loopback.VICTIM).glob("*.state*")}
    assert left <= {"state", "state.new"}  # what it was about to save when it was killed

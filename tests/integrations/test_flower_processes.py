"""The example's deployment as a user starts it: SuperLink and SuperNodes are processes, one of them is killed."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

LOOPBACK = Path(__file__).parents[2] / "examples" / "flower_app" / "loopback.py"


@pytest.mark.stacks
def test_a_round_outlives_a_killed_node(tmp_path: Path) -> None:
    """TLS, node authentication, a new process for each message; the fourth node is killed as it should train."""
    spec = importlib.util.spec_from_file_location("loopback", LOOPBACK)
    assert spec is not None
    assert spec.loader is not None
    loopback: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loopback)
    told = loopback.play(tmp_path, rounds=1, spare=False)
    assert "in the sum: hospital-1, hospital-2, hospital-3; fell silent: hospital-4 in MaskedInput" in told
    accuracy = float(told.rsplit("accuracy ", 1)[1].split()[0])
    assert accuracy > 0.8
    for hospital in loopback.HOSPITALS:
        assert (tmp_path / hospital / "ledger").exists()
        assert "Start `flwr-clientapp` process" in (tmp_path / f"{hospital}.log").read_text()
    for hospital in loopback.HOSPITALS[:-1]:
        assert len(list((tmp_path / hospital).glob("*.state*"))) == 1
    left = {path.name.split(".", 1)[1] for path in (tmp_path / loopback.VICTIM).glob("*.state*")}
    assert left <= {"state", "state.new"}  # what it was about to save when it was killed

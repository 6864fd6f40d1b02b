"""``make service-demo``: real processes over TLS, two of which die, and the model of a single process."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.stacks


def test_the_demo_survives_two_deaths_and_has_the_exact_model() -> None:
    command = [sys.executable, "-m", "secagg.demo.served", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    result = json.loads(done.stdout)
    assert result["same_model"]
    assert result["killed"] == ["hospital-07", "server"]
    assert result["correct"] > 0.8 * result["tested"]
    assert "$ secagg kit" in done.stderr

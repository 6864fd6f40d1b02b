"""examples/nvflare_job as it is shipped: in the simulator, plain and secure, against a server that may lie."""

from __future__ import annotations

import difflib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from tests.flare.harness import SECONDS
from tests.flare.processes import ROOT, Processes

EXAMPLE = ROOT / "examples" / "nvflare_job"
SITES = [f"site-{number}" for number in range(1, 5)]
QUANTIZED = 5e-4  # three rounds, each to 16 bits of 2 * 2.0; training carries the differences on


def play(folder: Path, script: str) -> Processes:
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    environment = {
        "NVFLARE_SIMULATOR_WORKSPACE_ROOT": f"{folder}/workspace",
        "SECAGG_SITE": f"{folder}/sites",
    }
    processes = Processes(folder, environment)
    if script.endswith("_secure.py"):
        assert processes.start("enrol", sys.executable, "enrol.py").wait(SECONDS) == 0, processes.log("enrol")
    processes.start("job", sys.executable, script)
    return processes


@pytest.mark.parametrize(
    ("name", "secure_name", "most", "result"),
    [
        ("job.py", "job_secure.py", 3, "models/server.npy"),
        ("collab_job.py", "collab_secure.py", 7, "server/model.npy"),
    ],
)
def test_the_secure_job_differs_in_few_lines_and_gives_the_same_model(
    name: str, secure_name: str, most: int, result: str, tmp_path: Path
) -> None:
    plain, secure = ((EXAMPLE / script).read_text().splitlines() for script in (name, secure_name))
    changed = [line for line in difflib.ndiff(plain, secure) if line.startswith("+ ") and line[2:].strip()]
    assert len(changed) <= most, changed
    models = []
    with play(tmp_path / "plain", name) as one, play(tmp_path / "secure", secure_name) as other:
        for processes in (one, other):
            assert processes.running["job"].wait(SECONDS) == 0, processes.log("job")[-4000:]
            (path,) = processes.folder.rglob(result)
            models.append(np.load(path))
        log = other.log("job")
    assert all(f"secagg: round {number}: 4 updates in the sum" in log for number in range(3)), log[-4000:]
    assert ": silent" not in log  # of the small sessions that compile kernels, in which a client falls silent
    assert {path.parent.name for path in (tmp_path / "secure" / "sites").glob("*/ledger")} == set(SITES)
    assert np.abs(models[0]).max() > 0.1
    np.testing.assert_allclose(models[1], models[0], rtol=0, atol=QUANTIZED)

"""What leaves a site in NVFlare: the protocol's messages and a placeholder, and no update.

All that a site's processes send is searched, and all files of the server, for what the site had to hide.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from tests.flare.harness import play

FORMS = {0: "full:<f4", 1: "diff:<f8", 2: "diff:>f4", 3: "full:>f8"}
METRICS_FILE = "simulate_job/metrics/round_metrics.jsonl"


def test_control_in_the_plain_job_everything_is_found(tmp_path: Path) -> None:
    """Weights and differences, in each type and byte order; NVFlare writes metrics and weights to a file too."""
    job = play(tmp_path, "tests.flare.jobs:plain", sites=3, rounds=len(FORMS), forms=",".join(FORMS.values()))
    assert job.returncode == 0, job.log[-4000:]
    finds = job.finds()
    sent = {f"site-{site}, round {number}, in frames" for site in (1, 2, 3) for number in FORMS}
    assert finds["metric"] >= sent
    assert finds["weight"] >= sent
    assert finds["metric"] & finds["weight"] >= {find.replace("frames", METRICS_FILE) for find in sent}
    for what, kind in (("model", "full"), ("update", "diff")):
        rounds = {number for number, form in FORMS.items() if form.startswith(kind)}
        assert finds[what] == {find for find in sent if int(find.split()[2].strip(",")) in rounds}

"""What leaves a site in NVFlare: the protocol's messages and a placeholder, and no update.

All that a site's processes send is searched, and all files of the server, for what the site had to hide.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

import numpy as np

from secagg.integrations.flare import with_metrics
from tests.flare.harness import play
from tests.flare.jobs import METRICS, make_task

FORMS = {0: "full:<f4", 1: "diff:<f8", 2: "diff:>f4", 3: "full:>f8"}
TRAINING_SECONDS = 25  # the sites start in this time too
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


ANSWERS = {"SecAgg": 6}  # of a site in a round, with the introduction


@pytest.mark.parametrize("protocol", ANSWERS)
def test_nothing_leaves_but_the_protocols_messages(protocol: str, tmp_path: Path) -> None:
    """In the last of three rounds, one of four sites dies before its input: three go on."""
    kill = f"site-4:{2 * ANSWERS[protocol] + 4}"
    job = play(tmp_path, "tests.flare.jobs:secure", sites=4, rounds=3, protocol=protocol, kill=kill)
    assert job.returncode == 0, job.log[-4000:]
    assert job.finds(with_metrics(make_task(protocol), METRICS)) == {}
    # The search had what to look for, and where.
    assert {(note.site, note.round) for note in job.notes} == {
        (f"site-{s}", n) for s in range(1, 5) for n in range(3)
    }
    frames = b"".join(data for where, data in job.left() if where == "frames")
    assert frames.count(b"attempt") == 3 * 4 * ANSWERS[protocol] - 3
    mean = job.mean(2, {"site-1", "site-2", "site-3"})
    np.testing.assert_allclose(job.model, mean["numpy_key"], rtol=0, atol=1e-5)
    assert "secagg: round 2 went on, without site-4: " in job.log


def test_control_in_the_clear_the_integers_are_found(tmp_path: Path) -> None:
    """One site dies while it trains: the server waits for it as long as a training may take, and three go on."""
    options = {"protocol": "Clear", "dies": "site-4", "training_seconds": TRAINING_SECONDS}
    job = play(tmp_path, "tests.flare.jobs:secure", sites=4, rounds=1, **options)
    assert job.returncode == 0, job.log[-4000:]
    finds = job.finds(with_metrics(make_task("Clear"), METRICS))
    others = {"site-1", "site-2", "site-3"}
    assert finds == {"integers": {f"{site}, round 0, in frames" for site in others}}
    np.testing.assert_allclose(job.model, job.mean(0, others)["numpy_key"], rtol=0, atol=1e-5)
    assert "secagg: round 0 went on, without site-4: no result of the training" in job.log

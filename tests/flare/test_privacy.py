"""A filter in a site's ``privacy.json``, with provisioned processes: no job takes it off."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from secagg.integrations.flare import SecureFilter, with_metrics
from tests.flare.document import policy
from tests.flare.harness import deploy
from tests.flare.jobs import METRICS, make_task


def test_a_site_with_the_filter_answers_a_job_without_ours_by_an_error(tmp_path: Path) -> None:
    """The third site has no such file, and is the control: its model is found. Then all play a job with ours."""
    task = SecureFilter(make_task("SecAgg"), metrics=METRICS).task
    privacy = {site: policy(task) for site in ("site-1", "site-2")}
    makers = ["tests.flare.jobs:tolerant", "tests.flare.jobs:secure"]
    job = deploy(tmp_path, *makers, sites=3, rounds=1, privacy=privacy)
    assert job.returncode == 0, job.log[-4000:]
    finds = job.finds(with_metrics(make_task("SecAgg"), METRICS))
    assert finds.keys() == {"model", "metric", "weight"}
    assert all(find.startswith("site-3, ") for found in finds.values() for find in found)
    assert all("site-3, round 0, in frames" in found for found in finds.values())
    plain, secure = (job.folder / "results" / str(number) / "workspace" for number in (0, 1))
    log = (plain / "log.txt").read_text()
    for site in ("site-1", "site-2"):
        assert re.search(f"peer={site},.*peer_rc=TASK_RESULT_FILTER_ERROR", log)
    everyone = job.mean(0, {"site-1", "site-2", "site-3"})["numpy_key"]
    np.testing.assert_allclose(np.load(secure / "models" / "server.npy"), everyone, rtol=0, atol=1e-5)
    # NVFlare sends a site's error log to the server; it says why, and nothing of the site's own.
    sent = b"".join(data for where, data in job.left() if where == "frames")
    assert b"got a job without SecureFilter, so its server expects updates in the clear" in sent

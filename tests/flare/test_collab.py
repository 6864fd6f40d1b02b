"""Collab jobs: every protocol equals the plain job, a site may fail or be killed, and no error leaves a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")


from tests.flare import collab_jobs
from tests.flare.collab_jobs import CLIP, FAULTY, MAX_WEIGHT, METRICS, MODEL, ROUNDS
from tests.flare.harness import Job, play
from tests.flare.protocols import PROTOCOLS, SITES

FAULTS = ["SecAgg_fails", "SecAgg_dies"]  # the last one is killed, so it comes last


def test_every_protocol_equals_the_plain_job_and_a_site_that_fails_is_named(tmp_path: Path) -> None:
    """One job plays them all, so that one test has it: several workers would each play a job of their own."""
    job = play(tmp_path, "tests.flare.collab_jobs:every_protocol", sites=len(SITES), faults=FAULTS)
    assert job.returncode == 0, job.log[-4000:]
    for name in PROTOCOLS:
        check_equal_to_the_plain_job(name, job)
    for name in FAULTS:
        check_that_the_others_went_on(name, job)
    check_that_the_error_stayed_in_the_sites_log(job)


def results(job: Job, name: str, number: int) -> dict[str, Any]:
    with np.load(job.folder / "results.npz") as file:
        return {leaf: file[f"{name}.{number}.{leaf}"] for leaf in (*MODEL, *METRICS)}


def report(job: Job, name: str) -> Any:
    return json.loads((job.folder / "report.json").read_text())[name]


def close(found: dict[str, Any], expected: dict[str, Any], *, sites: list[str], rounds: int) -> None:
    """Equal up to a grid step for each site and round, in the scale of the weighted mean; float32 adds its own."""
    total = sum(10 * int(site.rpartition("-")[2]) for site in sites)
    for leaf, array in expected.items():
        clip, many = (METRICS[leaf], 1) if leaf in METRICS else (CLIP, rounds)
        step = clip / 32_767 * MAX_WEIGHT * len(sites) / total
        np.testing.assert_allclose(found[leaf], array, rtol=0, atol=many * (step + 1e-7))


def check_equal_to_the_plain_job(name: str, job: Job) -> None:
    for number in range(ROUNDS):
        close(results(job, name, number), results(job, "plain", number), sites=SITES, rounds=number + 1)
        assert results(job, name, number)["w"].dtype == np.float32
    expected = {"survivors": [SITES] * ROUNDS, "dropped": [{}] * ROUNDS, "failures": []}
    assert report(job, name) == expected, name


def check_that_the_others_went_on(name: str, job: Job) -> None:
    others = [site for site in SITES if site != FAULTY]
    before = {leaf: results(job, name, 0)[leaf] for leaf in MODEL}
    expected = collab_jobs.weighted_mean({site: collab_jobs.trained(site, before, 1) for site in others})
    close(results(job, name, 1), expected, sites=others, rounds=1)
    assert report(job, name)["survivors"] == [SITES, others, others]
    assert report(job, name)["dropped"][1] == {FAULTY: "MaskedInput"}
    assert f"secagg: round 1 went on, without {FAULTY}: " in job.log


def check_that_the_error_stayed_in_the_sites_log(job: Job) -> None:
    server = job.folder / "workspace" / "job" / "server"
    texts = [path.read_bytes() for path in server.rglob("*") if path.is_file()]
    assert any(b"this site can't take part; its log says why" in text for text in texts)
    assert not any(b"a secret of site-2" in text for text in texts)
    assert "a secret of site-2" in job.log

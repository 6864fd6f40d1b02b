"""A site's privacy budget in NVFlare: it pays for each input, and a site that has spent it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

import dp
from tests.flare.federation import MODEL
from tests.flare.scenes import SITES, VICTIM, make_federation, make_task

DELTA = 1e-5


def test_a_site_leaves_when_its_budget_is_spent_and_its_numbers_stay(tmp_path: Path, caplog: Any) -> None:
    task = make_task(encoding=dp.DistributedGaussian(l2_clip=2.0, noise_multiplier=1.1, bits=18))
    budget = {"secagg-epsilon": task.encoder.epsilon(MODEL["numpy_key"].size, rounds=1) * 1.001}  # type: ignore[attr-defined]

    def give(folder: Path, settings: dict[str, Any]) -> None:
        settings |= budget | {"secagg-delta": DELTA}

    federation = make_federation(tmp_path, task, mistake=give)
    first = federation.round(0)
    assert federation.aggregator.outcomes[0].survivors == tuple(SITES)
    federation.round(1, {"numpy_key": MODEL["numpy_key"] + first.params["numpy_key"]})
    assert federation.aggregator.outcomes[1].survivors == tuple(site for site in SITES if site != VICTIM)
    assert (
        f"round 1 went on, without {VICTIM}: got a request for a session, and this node's privacy budget"
        in caplog.text
    )
    sent = b"".join(federation.sites[VICTIM].sent)
    assert f"{budget['secagg-epsilon']:.4g}".encode() not in sent
    assert str(tmp_path).encode() not in sent

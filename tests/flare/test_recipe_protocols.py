"""The NumPy recipe in the simulator, by every protocol: each round is the plain one, computed from sites' notes.

Nothing that a site had to hide has left it; ``test_wire.py`` has the controls of this search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from secagg.integrations.flare import with_metrics
from tests.flare.harness import play
from tests.flare.protocols import SITES
from tests.flare.recipe_jobs import BITS, CLIP, MAX_WEIGHT, METRICS, task_of

ROUNDS = 3


@pytest.mark.parametrize(
    ("protocol", "external"), [("SecAggPlus", True), ("OneShot", False), ("BFV", False), ("Paillier", False)]
)
def test_a_protocol_equals_the_plain_job(protocol: str, external: bool, tmp_path: Path) -> None:
    """One job runs its scripts in processes of their own: what they send stays in the site, tracked metrics too."""
    options = {"protocol": protocol, "external": external}
    job = play(tmp_path, "tests.flare.recipe_jobs:by_secured", sites=len(SITES), rounds=ROUNDS, **options)
    assert job.returncode == 0, job.log[-4000:]
    assert {note.site for note in job.notes if note.is_in(job.sent_by_script(note.site))} == set(
        SITES if external else ()
    )
    assert job.finds(with_metrics(task_of(protocol), METRICS)) == {}
    total = sum(note.steps for note in job.notes if note.round == 0)
    step = CLIP / 2 ** (BITS - 1) * MAX_WEIGHT * len(SITES) / total
    for number in range(ROUNDS):
        expected = job.mean(number, set(SITES))
        later = [note.before for note in job.notes if note.round == number + 1]
        for found in later or [{"numpy_key": job.model}]:
            np.testing.assert_allclose(found["numpy_key"], expected["numpy_key"], rtol=0, atol=step + 1e-6)
        assert f"round {number}: {len(SITES)} updates in the sum" in job.log

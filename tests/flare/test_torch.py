"""NVFlare's recipe for PyTorch, with the filter and the aggregator put into a job by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")
pytest.importorskip("torch", reason="needs PyTorch")

import torch

from tests.flare.harness import play


def test_a_model_with_a_batch_norm_comes_back_as_the_mean_in_its_own_dtypes(tmp_path: Path) -> None:
    job = play(tmp_path, "tests.flare.torch_job:make", torch=True, sites=3, rounds=1)
    assert job.returncode == 0, job.log[-4000:]
    (path,) = (tmp_path / "workspace" / "job" / "server").rglob("FL_global_model.pt")
    model = torch.load(path, weights_only=True)["model"]
    mean = job.mean(0, {"site-1", "site-2", "site-3"})
    assert set(model) == set(mean)
    for name, value in model.items():
        assert value.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)
        exact = np.rint(mean[name]) if value.dtype == torch.int64 else mean[name]
        np.testing.assert_allclose(np.asarray(value), exact, rtol=0, atol=1e-5)
    assert model["layers.1.num_batches_tracked"] == 2  # the mean of 1, 2 and 3 batches with these weights is 14/6

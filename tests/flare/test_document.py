"""The blocks of docs/nvflare.md run as they are pasted, with the files that ``secagg keygen`` writes.

``test_privacy.py`` runs the ``privacy.json``.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

from secagg.integrations.flare import SecureAggregator, SecureFilter
from tests.flare import protocols
from tests.flare.document import block
from tests.flare.jobs import SCRIPT
from tests.flare.scenes import SITES, VICTIM, make_federation

EXAMPLE = Path(__file__).parents[2] / "examples" / "nvflare_job"


def changed(lines: list[str]) -> list[str]:
    """The lines of a difference that are taken away or added, sorted, but for empty ones."""
    return sorted(
        line for line in lines if line[:1] in "+-" and line[1:].strip() and line[:3] not in ("+++", "---")
    )


def test_the_difference_is_that_of_the_example() -> None:
    before, after = ((EXAMPLE / name).read_text().splitlines() for name in ("job.py", "job_secure.py"))
    assert changed(block("diff", "secured").splitlines()) == changed([*difflib.unified_diff(before, after)])


def test_a_job_by_hand_has_the_aggregator_and_the_filter(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("python", "TASK = "), names)
    usual = {"name": "job", "model": np.zeros((65, 10)), "min_clients": 4, "train_script": str(SCRIPT)}
    names |= {"SecureAggregator": SecureAggregator, "SecureFilter": SecureFilter}
    names["FedAvgRecipe"] = lambda *_, **named: NumpyFedAvgRecipe(**usual, **named)
    exec(block("python", "add_client_output_filter"), names)
    names["recipe"].export(str(tmp_path))
    configs = {path.name: path.read_text() for path in tmp_path.rglob("config_fed_*.json")}
    assert "secagg.integrations.flare.SecureAggregator" in configs["config_fed_server.json"]
    assert "secagg.integrations.flare.SecureFilter" in configs["config_fed_client.json"]


def test_a_site_with_the_settings_takes_part(tmp_path: Path) -> None:
    written = json.loads(block("json", '"secagg-key": "/keys/site-1.pem"'))

    def paste(folder: Path, settings: dict[str, Any]) -> None:
        assert written.keys() == settings.keys()
        for name, path in written.items():
            assert Path(path).is_absolute()
            own = Path(path).name.replace("site-1", VICTIM)
            settings[name] = str(folder / ("keys" if path.startswith("/keys") else "") / own)

    federation = make_federation(tmp_path, mistake=paste)
    federation.round(0)
    assert federation.aggregator.outcomes[0].survivors == tuple(SITES)
    assert (tmp_path / "secagg" / "ledger").exists()


def test_the_settings_of_a_host_are_those_of_the_jobs(tmp_path: Path) -> None:
    """``test_recipe_protocols.py`` plays such jobs."""
    written = json.loads(block("json", '"dec": {'))
    ((host, site),) = protocols.enrol(protocols.PROTOCOLS["BFV"], tmp_path / "keys", tmp_path / "sites").items()
    settings = json.loads((tmp_path / "sites" / f"{site}.json").read_text())
    assert written["parties"]["dec"].keys() == settings["parties"][host].keys()
    assert written["parties"]["dec"]["role"] == settings["parties"][host]["role"]
    assert written.keys() <= settings.keys()

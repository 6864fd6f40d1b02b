"""The blocks of docs/flower.md run as they are pasted, with the files that ``secagg keygen`` writes."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from bench.loopback import LoopbackGrid
from secagg import store
from secagg.identity import PartyRole
from secagg.integrations import _flower_client
from secagg.keygen import write_identities
from secagg.store import FileLedger
from tests.integrations.apps import close_to, record, start, training_reply

DOCUMENT = (Path(__file__).parents[2] / "docs" / "flower.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
TASK, CLIENT_APP, SERVER_APP, HOST, PARTIES, SIMULATED = BLOCKS
NODES, MEMBERS = 10, [f"m{number}" for number in range(1, 8)]


def node_config(client: str) -> dict[str, str]:
    """The document's ``--node-config`` for another client, with files of the current folder."""
    (text,) = re.findall(r"--node-config '([^']*)'", DOCUMENT)
    config = dict(entry.split("=", 1) for entry in shlex.split(text))
    folder = config.pop("secagg-dir")
    assert config.pop("secagg-id") == "h1"
    assert Path(folder).is_absolute()
    paths = {name: Path(path.replace("h1", client)).name for name, path in config.items()}
    return {"secagg-id": client, "secagg-dir": f"{client}-kept", **paths}


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of an interpreter in a folder in which ten nodes and seven members are enrolled."""
    monkeypatch.chdir(tmp_path)
    clients = [f"h{number}" for number in range(1, NODES + 1)]
    write_identities(clients, tmp_path)
    write_identities(MEMBERS, tmp_path, PartyRole.DECRYPTOR)
    names: dict[str, Any] = {"first_model": record, "ClientApp": ClientApp, "members": MEMBERS}
    paste(TASK, names)
    return names | {"configs": [node_config(client) for client in clients]}


def paste(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "flower.md", "exec"), names)


def training(app: ClientApp) -> ClientApp:
    @app.train()
    def train(message: Any, context: Any) -> Any:
        client, number = context.node_id, message.content["config"]["server-round"]
        metrics = {"num-examples": 500 * client, "train_loss": client / number}
        return training_reply(message, client, number=number, **metrics)

    return app


def equals_the_plain_run(names: dict[str, Any], block: str) -> None:
    """The ServerApp's ``block`` over nodes with the ``app`` that was pasted, against the same app in the clear."""
    grid = LoopbackGrid([training(names["app"])] * NODES, names["configs"])
    strategy = SimpleNamespace(start=partial(FedAvg(fraction_evaluate=0.0).start, num_rounds=2))
    names |= {"grid": grid, "context": grid.nodes[1].context, "strategy": strategy}
    paste(block, names)
    expected = start(LoopbackGrid([training(ClientApp())] * NODES), rounds=2)
    assert [len(outcome.survivors) for outcome in names["secure"].outcomes] == [NODES] * 2
    close_to(names["result"].arrays, expected.arrays, atol=1e-3)
    for number, metrics in expected.train_metrics_clientapp.items():
        loss = names["result"].train_metrics_clientapp[number]["train_loss"]
        assert loss == pytest.approx(metrics["train_loss"], abs=1e-2)


def test_the_two_sides(names: dict[str, Any]) -> None:
    paste(CLIENT_APP, names)
    equals_the_plain_run(names, SERVER_APP)


def test_a_committee_of_hosted_members(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of OneShot; each member has the files of the document, so its ledger is on disk."""
    with ExitStack() as processes:  # of the members, each of which would keep its ledger open until its end
        monkeypatch.setattr(store, "FileLedger", lambda path: processes.enter_context(FileLedger(path)))
        paste(HOST, names)
        names["ask"] = names["host"]  # in one process
        paste(CLIENT_APP.replace("TASK", "ONE_SHOT"), names)
        equals_the_plain_run(names, PARTIES)
    assert all(len([*Path().glob(f"{member}-*.state")]) == 2 for member in MEMBERS)


def test_a_task_for_simulations(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flower_client, "is_simulated", lambda: True)
    names |= {"replace": replace, "configs": None}
    paste(SIMULATED, names)
    equals_the_plain_run(names, SERVER_APP.replace("TASK", "weak").replace('roster="roster.json"', "roster=None"))

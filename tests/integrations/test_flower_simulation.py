"""The example in Flower's simulation, by the lines of its README; and which nodes play the simulation's task."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from flwr.superlink.grid import InMemoryGrid
from sklearn.datasets import load_digits

from bench.loopback import LoopbackGrid
from secagg.integrations.flower import SecureGrid, client_mod
from tests.integrations.apps import (
    CLIENTS,
    MODEL,
    TASK,
    enrol,
    error_texts,
    make_app,
    make_task,
    secure,
    start,
    step,
)
from tests.integrations.test_flower_processes import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "flower_app"
PORTS = "39791", "39793"  # in the README
VICTIM, WEIGHT = 1, 10  # the weight of client 1
STRONG = make_task(secagg.SecAgg(corruption=0.1), min_survivors=4)


def plain_run(monkeypatch: pytest.MonkeyPatch, rounds: int) -> tuple[list[float], float]:
    """The losses of the rounds, and the accuracy at the end, of the example without secure aggregation."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    training, task = importlib.import_module("digits.client_app"), importlib.import_module("digits.task")
    app = ClientApp()
    app.train()(training.train)
    configs = [{"partition-id": part, "num-partitions": task.CLIENTS} for part in range(task.CLIENTS)]
    grid = LoopbackGrid([app] * task.CLIENTS, configs)
    result = start(grid, FedAvg(fraction_evaluate=0.0), rounds, task.first_model())
    pictures, labels = load_digits(return_X_y=True)
    scores = pictures / 16 @ result.arrays["weights"].numpy().T + result.arrays["bias"].numpy()
    losses = [metrics["train_loss"] for _, metrics in sorted(result.train_metrics_clientapp.items())]
    return losses, float(np.mean(scores.argmax(axis=1) == labels))


def commands(home: Path, ports: dict[str, int]) -> str:
    """The README's lines for a simulation, without the installation, with a home and ports of their own."""
    (block,) = re.findall(r"```\n([^`]*FLWR_LOCAL_SUPERLINK[^`]*)```", (EXAMPLE / "README.md").read_text())
    install, *lines = block.splitlines()
    assert install.startswith("pip install ")
    script = "\n".join(lines).replace("$PWD/.flwr", str(home))
    script = script.replace("rounds=2", "rounds=2 round-seconds=300.0 training-seconds=300.0")  # on a busy machine
    for port in PORTS:
        assert port in script
        script = script.replace(port, str(ports[port]))
    return script


@pytest.mark.stacks
def test_the_example_runs_in_a_simulation_by_the_lines_of_its_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'flwr[simulation]'")
    loopback = load()
    deployment = loopback.Deployment(tmp_path)
    (tmp_path / "flwr" / "config.toml").unlink()  # Flower writes its own, of which ":local:" is the default
    script = commands(tmp_path / "flwr", {port: loopback.free_port() for port in PORTS})
    environment = deployment.environment | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    del environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"]  # the README sets it
    try:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        log = done.stdout + done.stderr
        outlives = deployment.remaining()
    finally:
        deployment.end()
    assert done.returncode == 0, log
    assert outlives, "the SuperLink, which deployment.end() had to end"
    assert not deployment.remaining()
    assert len(re.findall(r"in the sum: (?:node-\d+, ){3}node-\d+; fell silent: nobody", log)) == 2, log
    losses, accuracy = plain_run(monkeypatch, rounds=2)
    sums = [float(loss) for loss in re.findall(r"Aggregated MetricRecord: \{'train_loss': ([\d.]+)\}", log)]
    assert sums == pytest.approx(losses, abs=1e-3)
    assert float(log.rsplit("accuracy ", 1)[1].split()[0]) == pytest.approx(accuracy, abs=0.002)
    assert accuracy > 0.9


def downgraded_round() -> SecureGrid:
    """The server opens a round of the task for simulations. All nodes but the victim's are its own, and idle."""

    def idle(message: Any, context: Any, call_next: Any) -> Any:
        model = dict(message.content["arrays"])
        reply = call_next(message, context)
        reply.content["arrays"] = ArrayRecord(model)
        return reply

    victim = make_app(VICTIM, [client_mod(STRONG, simulated=TASK)])
    grid = LoopbackGrid([victim, *(make_app(c, [client_mod(TASK), idle]) for c in range(2, CLIENTS + 1))])
    start(secure_grid := secure(grid))
    return secure_grid


def has_the_victims_update(secure_grid: SecureGrid) -> bool:
    (outcome,) = secure_grid.outcomes
    return all(
        np.allclose(outcome.sum[name] / WEIGHT, step(VICTIM, 1, name, array), rtol=0, atol=1e-5)
        for name, array in MODEL.items()
    )


def test_an_enrolled_node_refuses_the_task_of_simulations_too(tmp_path: Path) -> None:
    _, configs, _ = enrol(STRONG, tmp_path)
    grid = LoopbackGrid([make_app(c, [client_mod(STRONG, simulated=TASK)]) for c in range(1, CLIENTS + 1)], configs)
    reasons = error_texts(grid)
    start(secure_grid := secure(grid))
    assert not secure_grid.outcomes
    assert len(reasons) == CLIENTS
    assert all("the task for simulations, and a node outside of Flower's simulation" in text for text in reasons)
    assert all("arrays" not in content for node in grid.nodes.values() for content in node.requests)


def test_a_simulation_has_the_time_that_ray_needs_to_start() -> None:
    grid = InMemoryGrid(state_factory=SimpleNamespace(state=lambda: None))

    def usual(grid: Any, deadlines: Any = None) -> float:
        return SecureGrid(grid, TASK, deadlines=deadlines)._rounds.seconds("Introduction")

    assert [usual(grid, named) for named in (None, {"ShareKeys": 1.0}, 5)] == [600.0, 600.0, 5.0]
    assert usual(LoopbackGrid([])) == 60.0


def test_an_empty_roster_is_no_path() -> None:
    with pytest.raises(secagg.ConfigError, match="got an empty roster path; expected the path of a file"):
        SecureGrid(LoopbackGrid([]), STRONG, roster="")

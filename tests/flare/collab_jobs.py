"""A Collab job that plays every protocol beside the same training without us; its parties are hosted on sites."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.collab import CollabRecipe, collab

import secagg
from secagg import FixedPoint
from secagg.integrations.flare import SecureClient, SecureServer
from tests.flare.protocols import PROTOCOLS, enrol, make_task, protocol_of

ROUNDS = 3
MODEL = {"w": np.full((4, 5), 0.5, np.float32), "b": np.zeros(3)}
METRICS = {"loss": 4.0}
CLIP, BITS, MAX_WEIGHT = 0.25, 16, 100
FAULTY = "site-2"  # in a session whose name has a fault


def task_of(name: str) -> secagg.Task:
    return make_task(name, secagg.Layout.of(MODEL), FixedPoint(clip=CLIP, bits=BITS), MAX_WEIGHT)


def trained(site: str, model: Any, number: int) -> tuple[Any, dict[str, float]]:
    """What a site's training returns."""
    own = int(site.rpartition("-")[2])
    rng = np.random.default_rng([own, number])
    after = {name: (a + rng.uniform(-0.2, 0.2, a.shape)).astype(a.dtype) for name, a in model.items()}
    return after, {"loss": own / (number + 1), "accuracy": 0.5, "num-examples": 10 * own}


def weighted_mean(answers: dict[str, tuple[Any, dict[str, float]]]) -> dict[str, Any]:
    """The mean of models and losses, as a plain server computes it."""
    weights = {site: metrics["num-examples"] for site, (_, metrics) in answers.items()}
    total = sum(weights.values())
    mean = {
        name: (
            sum(weights[site] * model[name].astype(float) for site, (model, _) in answers.items()) / total
        ).astype(array.dtype)
        for name, array in MODEL.items()
    }
    return mean | {"loss": sum(weights[site] * metrics["loss"] for site, (_, metrics) in answers.items()) / total}


class Plain:
    """A client without us."""

    @collab.publish
    def train(self, model, number):
        return trained(collab.site_name, model, number)


class Client(SecureClient):
    """A client with us. From the second round on, one site has the fault that its name says."""

    def __init__(self, task: Any, name: str) -> None:
        super().__init__(task, metrics=METRICS)
        self.name = name

    @collab.init
    def secagg_open(self):
        os.environ["SECAGG_SITE"] = f"{os.environ['FLARE_TEST']}/sites/{self.name}"
        super().secagg_open()

    def train(self, model, number):
        fault = self.name.partition("_")[2]
        if fault and number and collab.site_name == FAULTY:
            self._site.party.contribute = getattr(self, fault)
        return trained(collab.site_name, model, number)

    def fails(self, *arguments):
        raise RuntimeError(f"a secret of {FAULTY}")

    def dies(self, *arguments):
        os.kill(os.getpid(), signal.SIGKILL)


class Server:
    """Plays the plain job, then each protocol's, and writes what comes out."""

    def __init__(self, folder: str, tasks: dict, parties: dict) -> None:
        self.folder, self.tasks, self.parties = folder, tasks, parties

    @collab.main
    def run(self):
        results: dict[str, Any] = {}
        model = MODEL
        for number in range(ROUNDS):
            answers = dict(collab.clients(timeout=60.0, target="plain").train(model, number))
            results[f"plain.{number}"] = model = weighted_mean(answers)
            model = {name: model[name] for name in MODEL}
        report = {}
        for name, task in self.tasks.items():
            server = SecureServer(
                task,
                roster=f"{self.folder}/keys/{name}/roster.json",
                metrics=METRICS,
                parties=self.parties[name],
                deadlines={"MaskedInput": 10.0} if name.endswith("dies") else 60.0,
                target=name,
            )
            model = MODEL
            for number in range(ROUNDS):
                model, metrics = server.aggregate(model, number=number)
                results[f"{name}.{number}"] = model | metrics
            report[name] = {
                "survivors": [outcome.survivors for outcome in server.outcomes],
                "dropped": [{party: str(where) for party, where in o.dropped.items()} for o in server.outcomes],
                "failures": server.failures,
            }
        flat = {f"{name}.{leaf}": a for name, arrays in results.items() for leaf, a in arrays.items()}
        np.savez(f"{self.folder}/results.npz", **flat)
        Path(f"{self.folder}/report.json").write_text(json.dumps(report))


def every_protocol(folder: Path, *, sites: int, faults: list[str]) -> Any:
    """All protocols, then a session for each fault, such as ``SecAgg_fails``."""
    clients: dict[str, Any] = {name: Client(task_of(name), name) for name in [*PROTOCOLS, *faults]}
    parties = {name: enrol(protocol_of(name), folder / "keys" / name, folder / "sites" / name) for name in clients}
    return CollabRecipe(
        job_name="job",
        server=Server(str(folder), {name: client.task for name, client in clients.items()}, parties),
        client=Plain(),
        client_objects=clients | {"plain": Plain()},
        min_clients=sites,
        sync_task_timeout=240,  # the sites' processes start one by one on a busy machine
    )

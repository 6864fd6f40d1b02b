"""Logistic regression over ten hospitals: scikit-learn's ``coef_``, TLS on every wire, differential privacy.

    pip install "secagg[client]" scikit-learn
    python examples/logistic_tls.py

The 569 patients come with scikit-learn. Each hospital has a key, a connection, a share of the noise, and a ledger
that holds the whole run to ε = 8. The transport is that of ``two_processes.py``, which also shows each party in a
process of its own, and what happens when one dies. The same training in the clear is printed beside it.
"""

import asyncio
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import SGDClassifier
from two_processes import ADDRESS, Line, Lines, listen

import dp
import secagg
from secagg.certificates import write_certificates
from secagg.demo.hospitals import Hospital, load
from secagg.identity import load_identity
from secagg.keygen import write_identities

ROUNDS, CLIP, EPSILON, DELTA = 20, 0.1, 8.0, 1e-5
STUDY = load(10, np.random.default_rng(1), plausible=True)  # features are scaled by public constants
CLIENTS = [hospital.id for hospital in STUDY.hospitals]


def make_task() -> secagg.Task:
    noise = dp.DistributedGaussian(CLIP, noise_multiplier=1.0, bits=20, delta=DELTA)
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(np.zeros(31)), noise, max_clients=10, min_survivors=10)
    assert isinstance(task.encoder, dp.DistributedGaussian)  # the noise, calibrated to the task's clients
    return replace(task, encoding=task.encoder.with_epsilon(EPSILON, 31, rounds=ROUNDS))


def local_change(weights: np.ndarray, hospital: Hospital) -> np.ndarray:
    """What five epochs change in ``coef_`` and ``intercept_``, cut to the clip; this runs at the hospital."""
    model = SGDClassifier("log_loss", alpha=1e-4, learning_rate="constant", eta0=0.005, random_state=1)
    model.partial_fit(hospital.features[:1], hospital.labels[:1], classes=[0.0, 1.0])  # makes coef_
    model.coef_[:], model.intercept_[:] = weights[None, :30], weights[30:]
    for _ in range(5):
        model.partial_fit(hospital.features, hospital.labels)
    return dp.clip_l2(np.concatenate([model.coef_[0], model.intercept_]) - weights, CLIP)


async def run_hospital(folder: Path, task: secagg.Task, hospital: Hospital) -> float:
    """All rounds of one hospital; the ε that they cost it."""
    budget = dp.PrivacyLedger(EPSILON, DELTA, unit="client", trust="distributed")
    roster = secagg.load_roster(folder / "roster.json")
    own: Any = {"identity": load_identity(folder / f"{hospital.id}.pem"), "roster": roster, "budget": budget}
    line = Line(folder, hospital.id, task)
    for _ in range(ROUNDS):
        model = await line.receive()  # its hash names the session: hospitals with other models get no sum
        client = task.client(hospital.id, session=hashlib.sha256(model).digest(), **own)
        client.contribute(local_change(np.frombuffer(model), hospital))
        await secagg.arun_client(client, line)
    return budget.spent


async def train(folder: Path) -> tuple[np.ndarray, float]:
    """The server: the weights after all rounds, and the most that a hospital spent."""
    write_identities(CLIENTS, folder)
    write_certificates([ADDRESS], folder)
    task, lines = make_task(), Lines()
    listener = await listen(folder, task, lines.welcome)
    hospitals = asyncio.gather(*(run_hospital(folder, task, hospital) for hospital in STUDY.hospitals))
    while len(lines.connected) < len(CLIENTS):
        await asyncio.sleep(0.05)
    weights, roster = np.zeros(31), secagg.load_roster(folder / "roster.json")
    for _ in range(ROUNDS):
        model = weights.tobytes()
        for client in CLIENTS:
            await lines.send(client, model)
        server = task.server(CLIENTS, roster=roster, session=hashlib.sha256(model).digest())
        weights = weights + (await secagg.arun_server(server, lines, deadlines=60)).mean
    spent = await hospitals
    listener.close()
    return weights, max(spent)


def main() -> None:
    weights = np.zeros(31)
    for _ in range(ROUNDS):
        weights = weights + np.mean([local_change(weights, hospital) for hospital in STUDY.hospitals], axis=0)
    with tempfile.TemporaryDirectory() as folder:
        noised, spent = asyncio.run(train(Path(folder)))
    for name, trained in (("in the clear:        ", weights), ("of noised sums, TLS: ", noised)):
        positive = STUDY.test.features @ trained[:30] + trained[30] > 0
        print(f"accuracy {name} {np.mean(positive == STUDY.test.labels):.1%}")
    print(f"epsilon {spent:.2f} for each hospital, at delta {DELTA:g}")


if __name__ == "__main__":
    main()

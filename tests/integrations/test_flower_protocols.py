"""Every protocol and every encoding in Flower: FedAvg's run, equal to the plain one, or noised as stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import dp
import secagg
from secagg.beacon import SignedBeacon

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bench.loopback import LoopbackGrid
from secagg.integrations.flower import SecureGrid, client_mod, layout_of, with_metrics
from tests.integrations.apps import (
    CLIENTS,
    METRICS,
    close_to,
    enrol,
    make_grid,
    make_task,
    plain_grid,
    secure,
    silent_in,
    start,
    the_error,
)

OPERATOR = Ed25519PrivateKey.generate()
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)
PROTOCOLS: dict[str, Any] = {
    "Clear": secagg.Clear(),
    "SecAgg": secagg.SecAgg(corruption=0.1),
    "SecAggPlus": secagg.SecAggPlus(),
    "SecAggPlus with a beacon": secagg.SecAggPlus(threat_model="malicious", beacon=BEACON),
    "AdditiveShares": secagg.AdditiveShares(),
    "OneShot": secagg.OneShot(),
}
ENCRYPTED: dict[str, Any] = {
    "Paillier": lambda: secagg.Paillier(bits=2048),
    "BFV": lambda: secagg.BFV(),
    "BFV/clients": lambda: secagg.BFV(holder="clients"),
    "CKKS": lambda: secagg.CKKS(),
    "CKKS/clients": lambda: secagg.CKKS(holder="clients"),
}


class Operator:
    """Has published the value only when it is asked for it again."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, number: int) -> bytes | None:
        self.asked.append(number)
        return BEACON.publish(OPERATOR, number) if len(self.asked) % 2 == 0 else None


def equals_the_plain_run(protocol: Any, folder: Path, **named: Any) -> SecureGrid:
    """Two rounds with metrics, one client silent in the second."""
    task = with_metrics(make_task(protocol, min_survivors=4), METRICS)
    roster, configs, parties = enrol(task, folder)
    plain, grid = plain_grid(), make_grid(task, configs)
    plain.spoil = grid.spoil = silent_in(2, 5)
    secure_grid = secure(grid, task, roster=roster, parties=parties, **named)
    result, expected = start(secure_grid, rounds=2), start(plain, rounds=2)
    close_to(result.arrays, expected.arrays)
    for number, metrics in expected.train_metrics_clientapp.items():
        assert dict(result.train_metrics_clientapp[number])["train_loss"] == pytest.approx(
            metrics["train_loss"], abs=1e-6
        )
    assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [5, 4]
    assert not secure_grid.outcomes[0].faults
    return secure_grid


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol(name: str, tmp_path: Path) -> None:
    operator = Operator()
    equals_the_plain_run(PROTOCOLS[name], tmp_path, beacon=operator, deadlines=60.0 if "beacon" in name else 0.0)
    assert len(operator.asked) == (4 if "beacon" in name else 0)


@pytest.mark.parametrize("name", ENCRYPTED)
def test_every_encrypted_protocol(name: str, tmp_path: Path) -> None:
    if name == "Paillier":
        pytest.importorskip("gmpy2", reason="needs homomorphic encryption: pip install 'secagg[he]'")
    equals_the_plain_run(ENCRYPTED[name](), tmp_path)


@pytest.mark.parametrize("scheme", ["BFV", "CKKS"])
def test_a_node_without_the_shared_key_is_left_out(scheme: str, tmp_path: Path, caplog: Any) -> None:
    task = make_task(ENCRYPTED[f"{scheme}/clients"]())
    roster, configs, parties = enrol(task, tmp_path)
    del configs[3]["secagg-he-key"]
    start(secure_grid := secure(make_grid(task, configs), task, roster=roster, parties=parties))
    assert secure_grid.outcomes[0].survivors == ("c1", "c2", "c3", "c5")


def test_without_its_beacon_a_round_ends_in_one_line(tmp_path: Path, caplog: Any) -> None:
    task = make_task(PROTOCOLS["SecAggPlus with a beacon"], min_survivors=4)
    roster, configs, _ = enrol(task, tmp_path)
    start(secure_grid := secure(make_grid(task, configs), task, roster=roster, beacon=lambda number: None))
    assert "of the beacon is not published" in the_error(caplog)
    assert not secure_grid.outcomes


# Noise.

SIZE = 300
NOISED: dict[str, Any] = {
    "gaussian": dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.1, bits=18),
    "skellam": dp.DistributedSkellam(l2_clip=1.0, noise_multiplier=1.1, bits=18),
}


def directions() -> Any:
    vectors = np.random.default_rng(5).normal(size=(CLIENTS, SIZE))
    return 0.9 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def noised_run(encoding: Any) -> tuple[secagg.Task, SecureGrid, Any]:
    """One round of clients whose updates have a norm of 0.9; the model that comes of it."""
    model = ArrayRecord({"w": Array(np.zeros(SIZE))})
    task = make_task(layout=layout_of(model), encoding=encoding, max_weight=None, min_survivors=4)

    def make(update: Any) -> ClientApp:
        app = ClientApp(mods=[client_mod(task)])

        @app.train()
        def train(message: Any, context: Any) -> Any:
            arrays = ArrayRecord({"w": Array(message.content["arrays"]["w"].numpy() + update)})
            metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

        return app

    grid = LoopbackGrid(make(update) for update in directions())
    secure_grid = secure(grid, task)
    return task, secure_grid, start(secure_grid, model=model).arrays["w"].numpy()


@pytest.mark.parametrize("name", NOISED)
def test_a_noised_run_has_the_noise_and_says_what_it_guarantees(name: str) -> None:
    """Five clients' shares of noise that h of them would make 1.1 wide: sqrt(5/h) as wide, within six sigma."""
    task, secure_grid, result = noised_run(NOISED[name])
    (outcome,) = secure_grid.outcomes
    width = 1.1 * np.sqrt(CLIENTS / task.honest)
    seen = np.std(result * CLIENTS - directions().sum(axis=0))
    assert abs(seen / width - 1) < 6 / np.sqrt(2 * SIZE)
    assert outcome.epsilon_guaranteed == task.encoder.epsilon(SIZE)  # type: ignore[attr-defined]
    assert outcome.epsilon_realised is not None
    assert outcome.epsilon_realised < outcome.epsilon_guaranteed < 10
    assert (outcome.clipped, outcome.total_weight) == (None, CLIENTS)


def test_control_with_next_to_no_noise_the_mean_is_right() -> None:
    _, _, result = noised_run(dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1e-4, bits=24))
    np.testing.assert_allclose(result, directions().mean(axis=0), rtol=0, atol=0.01)


@pytest.mark.parametrize("name", NOISED)
def test_metrics_beside_a_noised_sum_are_refused(name: str) -> None:
    task = make_task(encoding=NOISED[name], max_weight=None, min_survivors=4)
    for make in (lambda: client_mod(task, metrics=METRICS), lambda: SecureGrid(make_grid(), task, metrics=METRICS)):
        with pytest.raises(secagg.ConfigError, match="every epsilon"):
            make()

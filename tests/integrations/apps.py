"""Clients that train and grids over them, in the clear and secure, for the tests of the Flower adapter."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import secagg
from bench import loopback
from bench.loopback import LoopbackGrid
from secagg.integrations import _flower_records
from secagg.integrations.flower import SecureGrid, client_mod, hosted, layout_of
from secagg.simulation import enrol_for
from secagg.store import MemoryLedger

Mods = list[Any]
CLIENTS = 5
MODEL = {"conv": np.linspace(-1, 1, 24).reshape(4, 6), "bias": np.zeros(3, np.float32)}
METRICS = {"train_loss": 10.0}


def record(model: Mapping[str, Any] = MODEL) -> Any:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in model.items()})


def make_task(protocol: Any = None, **changes: Any) -> secagg.Task:
    fields: dict[str, Any] = {
        "protocol": protocol or secagg.SecAgg(threat_model="semi-honest"),
        "layout": layout_of(record()),
        "encoding": secagg.FixedPoint(clip=1.0, bits=30, rounding="nearest"),
        "max_clients": CLIENTS,
        "min_survivors": 3,
        "max_weight": 100,
    }
    return secagg.Task(**(fields | changes))


TASK = make_task()


def step(client: int, number: int, name: str, array: Any) -> Any:
    """What a client's training changes: another thing for each client, round and array."""
    rng = np.random.default_rng([client, number, *name.encode()])
    return rng.uniform(-0.2, 0.2, array.shape)


def training_reply(message: Any, client: int, rate: float = 1.0, *, number: int = 1, **metrics: Any) -> Any:
    """The answer of a client that trains: the model moved by ``rate`` steps, and metrics that are not None."""
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    fresh = {name: (a + rate * step(client, number, name, a)).astype(a.dtype) for name, a in model.items()}
    metrics = {name: value for name, value in ({"num-examples": 10} | metrics).items() if value is not None}
    return Message(RecordDict({"arrays": record(fresh), "metrics": MetricRecord(metrics)}), reply_to=message)


def make_app(
    client: int,
    mods: Mods | None = None,
    own: Mods | None = None,
    *,
    extra: Mapping[str, Any] | None = None,
    **metrics: Any,
) -> ClientApp:
    """A client that trains, in the clear unless a mod is among ``mods``.

    ``metrics`` change those that training returns; ``extra`` has more records for evaluations.
    """
    app = ClientApp(mods=mods or [])

    @app.train(mods=own)
    def train(message: Any, context: Any) -> Any:
        number = message.content["config"]["server-round"]
        usual = {"num-examples": 10 * client, "train_loss": client / number, "accuracy": 0.5}
        return training_reply(message, client, number=number, **usual | metrics)

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        own = {"metrics": MetricRecord({"num-examples": 1, "loss": float(client)})}
        return Message(RecordDict(own | dict(extra or {})), reply_to=message)

    return app


def make_grid(task: secagg.Task = TASK, configs: Any = None, **named: Any) -> LoopbackGrid:
    return LoopbackGrid([make_app(c, [client_mod(task, **named)]) for c in range(1, CLIENTS + 1)], configs)


def plain_grid() -> LoopbackGrid:
    return LoopbackGrid([make_app(c) for c in range(1, CLIENTS + 1)])


def start(grid: Any, strategy: Any = None, rounds: int = 1, model: Any = None) -> Any:
    chosen = strategy or FedAvg(fraction_evaluate=0.0)
    return chosen.start(grid=grid, initial_arrays=model or record(), num_rounds=rounds, timeout=0.0)


def secure(grid: LoopbackGrid, task: secagg.Task = TASK, deadlines: float = 0.0, **named: Any) -> SecureGrid:
    """It doesn't wait: on a :class:`LoopbackGrid` a node that answers has answered when its message is pushed."""
    return SecureGrid(grid, task, deadlines=deadlines, poll=0.01, **named)


def silent_in(number: int, node: int) -> Callable[[int, Any], Any]:
    """Drops a node's trained answer of one round."""

    def spoil(receiver: int, request: Any) -> Any:
        config = request.content.get("config")
        return None if config and config["server-round"] == number and receiver == node else request

    return spoil


def close_to(result: Any, expected: Any, atol: float = 1e-6) -> None:
    assert list(result) == list(expected)
    for name in expected:
        actual, wanted = result[name].numpy(), expected[name].numpy()
        assert actual.dtype == wanted.dtype
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=atol)


def the_error(caplog: Any) -> str:
    """The one line that an aborted round ends in."""
    (line,) = [entry.getMessage() for entry in caplog.records if entry.module == "rounds" and entry.levelno == 40]
    assert "\n" not in line
    return str(line)


def nodes_with_the_model(grid: LoopbackGrid) -> list[int]:
    return [number for number, node in grid.nodes.items() if any("arrays" in content for content in node.requests)]


def enrol(
    task: secagg.Task, folder: Path, make_party: Any = None
) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    """A roster, a config with a folder for each node, and parties that live in this process."""
    cohort = [f"c{number}" for number in range(1, CLIENTS + 1)]
    keys, roster, others = enrol_for(task, cohort)
    if roster is None:
        return None, [{} for _ in cohort], {}
    (folder / "roster.json").write_text(roster.to_json())
    configs = []
    for party in cohort:
        pem = keys[party].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{party}.pem").write_bytes(pem)
        paths = {"secagg-key": str(folder / f"{party}.pem"), "secagg-roster": str(folder / "roster.json")}
        if getattr(task.protocol, "shared_key", False):
            key = {"version": 1, "scheme": "shared", "key": base64.b64encode(others[party]).decode()}
            (folder / "shared.he.json").write_text(json.dumps(key))
            paths["secagg-he-key"] = str(folder / "shared.he.json")
        (folder / party).mkdir(exist_ok=True)
        configs.append({"secagg-id": party, "secagg-dir": str(folder / party), **paths})
    make_party, parties = make_party or lasting_party, {}
    for party in set(roster) - set(cohort):
        make = {"aggregator": task.aggregator, "decryptor": task.decryptor}[roster[party].role]
        arguments = {"identity": keys[party], "roster": roster, "key": others.get(party)}
        parties[party] = hosted(make_party(party, partial(make_role, make, party, arguments)))
    return roster, configs, parties


class OnlyLedger:
    """A store whose state dies with the process, as :func:`hosted`'s role does."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    def __call__(self, number: int, state: bytes) -> None:
        pass


def make_role(make: Any, party: str, arguments: Mapping[str, Any], session: bytes, store: Any) -> Any:
    return make(party, session=session, save=store, **arguments)


def lasting_party(party: str, role: Callable[[bytes, Any], Any]) -> Callable[[bytes], Any]:
    """What :func:`hosted` takes, with one ledger for all sessions."""
    store = OnlyLedger()
    return lambda session: role(session, store)


def train_messages(grid: LoopbackGrid, model: Any = None) -> list[Any]:
    content = RecordDict({"arrays": model or record(), "config": ConfigRecord({"server-round": 1})})
    return [Message(content, node, "train") for node in grid.nodes]


def in_run(monkeypatch: Any, run: int) -> None:
    """Grids and messages made from now on are of this run."""
    monkeypatch.setattr(loopback, "RUN", run)
    monkeypatch.setattr(loopback.TaskIdentity, "_run_id", run)


def change_fields(**fields: Any) -> Callable[[int, Any], Any]:
    def change(node: int, message: Any) -> Any:
        if message.has_content() and _flower_records.FIELDS in message.content:
            message.content[_flower_records.FIELDS].update(fields)
        return message

    return change


logging.getLogger("flwr").propagate = True


def error_texts(grid: Any) -> list[str]:
    """The errors that the server hears from now on, as Flower sends them."""
    reasons: list[str] = []

    def tamper(node: int, reply: Any) -> Any:
        if reply.has_error():
            reasons.append(reply.error.reason)
        return reply

    grid.tamper = tamper
    return reasons

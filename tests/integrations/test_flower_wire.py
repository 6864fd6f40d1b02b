"""What leaves a node in Flower: the records of the adapter's format, the protocol's message in them, and no update.

Each message up of a run is held against the format, and its bytes are searched for what its node had to hide. The
controls are mods that leak: the same check finds each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from bench.loopback import LoopbackGrid, on_the_wire
from secagg.integrations import _flower_client, _flower_records
from secagg.integrations._shared.metrics import metric_key
from secagg.integrations.flower import client_mod, with_metrics
from secagg.session import roster_digest
from secagg.wire import Envelope, Reject
from tests.integrations.apps import (
    CLIENTS,
    METRICS,
    TASK,
    close_to,
    enrol,
    make_app,
    make_grid,
    make_task,
    plain_grid,
    record,
    secure,
    silent_in,
    start,
    train_messages,
)
from tests.integrations.encoded import integers, rows

FLOATS = [">f4", "<f4", ">f8", "<f8"]
PROTOCOLS = {
    "SecAgg": secagg.SecAgg(corruption=0.1),
    "SecAgg without a roster": secagg.SecAgg(threat_model="semi-honest"),
    "SecAggPlus": secagg.SecAggPlus(),
    "AdditiveShares": secagg.AdditiveShares(),
    "OneShot": secagg.OneShot(),
}
Secrets = dict[str, list[bytes]]


@dataclass
class Run:
    """A run whose messages up are recorded, and what each node had to hide meanwhile."""

    task: secagg.Task
    grid: Any
    secure_grid: Any
    ids: list[str]
    up: list[tuple[int, Any]] = field(default_factory=list)
    hidden: dict[int, Secrets] = field(default_factory=dict)  # by node
    trained: dict[str, Any] = field(default_factory=dict)  # content of its last reply, by party

    def listen(self, node: int, reply: Any) -> Any:
        self.up.append((node, reply))
        return reply

    def play(self, rounds: int = 3) -> Any:
        self.grid.tamper = self.listen
        return start(self.secure_grid, FedAvg(), rounds=rounds)

    def beside(self, message: Any, context: Any, call_next: Any) -> Any:
        """A mod on the inside of ours: it notes what ours has to hide."""
        reply = call_next(message, context)
        if message.metadata.message_type == "train":
            node = context.node_id
            self.trained[self.ids[node - 1]] = reply.content
            result = self.hidden.setdefault(node, {})
            for what, secret in secrets(self.task, message.content["arrays"], reply.content):
                result.setdefault(what, []).append(secret)
        return reply


def secrets(task: secagg.Task, before: Any, content: Any) -> Iterator[tuple[str, bytes]]:
    """What nobody else may see of a node's training, in every form that a leak might give it."""
    model = {name: array.numpy().astype(np.float64) for name, array in before.items()}
    after = {name: array.numpy().astype(np.float64) for name, array in content["arrays"].items()}
    update: dict[str, Any] = {name: after[name] - old for name, old in model.items()}
    for what, arrays in (("update", update), ("model", after)):
        for array in arrays.values():
            for values in rows(array):
                yield from ((what, values.astype(form).tobytes()) for form in FLOATS)
    riding = {metric_key(name): content["metrics"][name] for name in METRICS}
    yield from (("metric", np.array(value, form).tobytes()) for value in riding.values() for form in (">f8", "<f8"))
    for secret in integers(task, update | riding, content["metrics"]["num-examples"]):
        yield "integers", secret


def leaks(run: Run) -> set[str]:
    """What is wrong with the messages up of a run."""
    return {result for node, reply in run.up for result in (*misfits(run, node, reply), *finds(run, reply))}


def finds(run: Run, reply: Any) -> Iterator[str]:
    """Secrets of anybody in the bytes of a message."""
    data = b"\0".join(on_the_wire(reply).values())
    for hidden in run.hidden.values():
        yield from (what for what, values in hidden.items() if any(secret in data for secret in values))


def misfits(run: Run, node: int, reply: Any) -> Iterator[str]:
    """What a message has that the format does not, or has otherwise."""
    if reply.has_error():
        yield "error"
        return
    content = dict(reply.content)
    if reply.metadata.message_type == "evaluate":
        if set(content) != {"metrics"} or dict(content["metrics"]) != {"num-examples": 1, "loss": float(node)}:
            yield "evaluation"
        return
    fields = content.pop(_flower_records.FIELDS)
    expected = {
        "version": _flower_records.VERSION,
        "task": run.task.digest,
        "party": run.ids[node - 1],
    }
    introduction = expected | {"roster": roster_digest(run.secure_grid.roster)}
    message = content.pop(_flower_records.MESSAGE, None)
    if dict(fields) != (introduction if message is None else expected):
        yield "fields"
    if content:
        yield "records"
    if message is not None:
        if list(message) != ["message"]:
            yield "arrays"
        array = message["message"]
        if (array.dtype, array.stype, array.shape) != ("uint8", "secagg.envelope", (len(array.data),)):
            yield "array"
        try:
            envelope = Envelope.parse(array.data, max(run.task.protocol.cost(run.task, run.ids).up.values()))
            if envelope.sender != run.ids[node - 1]:
                yield "sender"
        except Reject:
            yield "message"


def make_run(protocol: Any = None, folder: Path | None = None, **changes: Any) -> Run:
    task = with_metrics(make_task(protocol, **changes), METRICS)
    roster, configs, parties = (None, None, {}) if folder is None else enrol(task, folder)
    ids = [f"{'node-' if roster is None else 'c'}{number}" for number in range(1, CLIENTS + 1)]
    run = Run(task, None, None, ids)
    losses = {number: 0.123456789 * number for number in range(1, CLIENTS + 1)}
    apps = [make_app(c, [client_mod(task), run.beside], train_loss=losses[c]) for c in range(1, CLIENTS + 1)]
    run.grid = LoopbackGrid(apps, configs)
    run.secure_grid = secure(run.grid, task, roster=roster, parties=parties)
    return run


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_leaves_but_the_protocols_messages(name: str, tmp_path: Path) -> None:
    """Three rounds with metrics and evaluations, one client silent in the second."""
    run = make_run(PROTOCOLS[name], tmp_path, min_survivors=4)
    run.grid.spoil = silent_in(2, 3)
    run.play()
    assert [len(outcome.survivors) for outcome in run.secure_grid.outcomes] == [5, 4, 5]
    assert leaks(run) == set()
    # The search had what to look for, and where: a message for each node, round and row of the protocol's table.
    assert set(run.hidden) == set(range(1, CLIENTS + 1))
    assert all(set(result) == {"update", "model", "metric", "integers"} for result in run.hidden.values())
    kinds = [reply.metadata.message_type for _, reply in run.up]
    assert kinds.count("evaluate") == 3 * CLIENTS - 1
    assert kinds.count("train") > 3 * CLIENTS


def test_control_in_the_clear_the_integers_are_found() -> None:
    run = make_run(secagg.Clear())
    run.play()
    assert len(run.secure_grid.outcomes) == 3
    assert leaks(run) == {"integers"}


def test_control_without_the_mod_everything_is_found() -> None:
    run = make_run()
    apps = [make_app(c, [run.beside], train_loss=0.123456789) for c in range(1, CLIENTS + 1)]
    run.grid = LoopbackGrid(apps)
    run.grid.tamper = run.listen
    start(run.grid, FedAvg(fraction_evaluate=0.0))
    assert len(run.up) == CLIENTS
    assert {result for _, reply in run.up for result in finds(run, reply)} == {"update", "model", "metric"}


def difference(trained: Any, form: Any = np.float64) -> bytes:
    """The first round's update of the bigger array, if the model began as the tests' does."""
    return bytes((trained["arrays"]["conv"].numpy() - record()["conv"].numpy()).astype(form).tobytes())


def with_array(trained: Any, records: dict[str, Any], name: str) -> dict[str, Any]:
    if _flower_records.MESSAGE in records:
        records[_flower_records.MESSAGE][name] = trained["arrays"]["conv"]
    return records


def with_tail(tail: bytes, records: dict[str, Any]) -> dict[str, Any]:
    """The protocol's own message, and something behind it."""
    if _flower_records.MESSAGE not in records:
        return records
    data = records[_flower_records.MESSAGE]["message"].data + tail
    return records | _flower_records.write(TASK, data) | {_flower_records.FIELDS: records[_flower_records.FIELDS]}


def with_field(records: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    records[_flower_records.FIELDS][name] = value
    return records


Leak = Callable[[Any, dict[str, Any]], dict[str, Any]]
LEAKS: dict[str, tuple[Leak, set[str]]] = {
    "the app's arrays": (lambda t, r: r | {"arrays": t["arrays"]}, {"records", "model"}),
    "the update in float32": (
        lambda t, r: r | {"u": ArrayRecord({"w": Array(np.frombuffer(difference(t, np.float32), np.float32))})},
        {"records", "update"},
    ),
    "an array beside the message": (lambda t, r: with_array(t, r, "w"), {"arrays", "model"}),
    "an array in the message's place": (lambda t, r: with_array(t, r, "message"), {"array", "message", "model"}),
    "a metric": (
        lambda t, r: r | {"m": MetricRecord({"train_loss": t["metrics"]["train_loss"]})},
        {"records", "metric"},
    ),
    "a weight": (lambda t, r: r | {"m": MetricRecord({"n": t["metrics"]["num-examples"]})}, {"records"}),
    "a field": (lambda t, r: with_field(r, "w", difference(t)), {"fields", "update"}),
    "a field that is ours": (lambda t, r: with_field(r, "roster", difference(t)), {"fields", "update"}),
    "a text": (lambda t, r: with_field(r, "party", f"{t['metrics']['train_loss']}"), {"fields"}),
    "behind the message": (lambda t, r: with_tail(difference(t), r), {"message", "update"}),
}


def leaking(monkeypatch: Any, run: Run, leak: Leak) -> None:
    """The adapter's mod as it would be if it let something out once its node has trained."""
    write = _flower_client.write

    def leaky(task: secagg.Task, data: bytes = b"", **fields: Any) -> Any:
        records = write(task, data, **fields)
        trained = run.trained.get(fields["party"])
        return records if trained is None else leak(trained, records)

    monkeypatch.setattr(_flower_client, "write", leaky)


@pytest.mark.parametrize("name", LEAKS)
def test_control_a_mod_that_leaks_is_caught(name: str, monkeypatch: Any) -> None:
    run = make_run()
    leak, expected = LEAKS[name]
    leaking(monkeypatch, run, leak)
    run.play(rounds=1)
    assert expected <= leaks(run)


SURPLUS: dict[str, Leak] = {name: leak for name, (leak, _) in LEAKS.items() if name != "behind the message"}


@pytest.mark.parametrize("name", SURPLUS)
def test_a_node_that_sends_more_than_the_format_has_is_left_out_by_name(name: str, caplog: Any) -> None:
    """Its update is on the server by then; that somebody hears of it is what is left to do."""
    grid, plain = make_grid(metrics=METRICS), plain_grid()
    plain.spoil = silent_in(1, 2)
    trained = plain.nodes[2].answer(train_messages(plain)[1]).content

    def tamper(node: int, reply: Any) -> Any:
        if node == 2 and _flower_records.MESSAGE in reply.content:
            reply.content = RecordDict(SURPLUS[name](trained, dict(reply.content)))
        return reply

    grid.tamper = tamper
    result = start(secure_grid := secure(grid, metrics=METRICS))
    assert secure_grid.outcomes[0].survivors == ("node-1", "node-3", "node-4", "node-5")
    close_to(result.arrays, start(plain).arrays)
    inside = name in ("an array beside the message", "an array in the message's place", "a field")
    why = (
        "secagg's records with unexpected fields" if inside else "a reply with records that secagg does not protect"
    )
    assert f"went on, without node-2: got {why}" in caplog.text

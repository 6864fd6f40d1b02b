"""What the adapters read: messages of the other side, and the files of a site's operator."""

from __future__ import annotations

import base64
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import secagg
from secagg.errors import ConfigError
from secagg.integrations._shared import statements
from secagg.integrations._shared.party import RefusalError, _Memory
from secagg.integrations._shared.settings import read_settings
from tests.secagg.fuzz.decoders import Decoder, json_tree
from tests.secagg.fuzz.mutate import Mutator

TASK = secagg.Task(
    secagg.SecAgg(),
    secagg.Layout.of({"w": np.zeros((2, 2), np.float32)}),
    secagg.FixedPoint(clip=1.0, bits=16),
    max_clients=8,
    min_survivors=4,
)

# What a stack's serializer makes of bytes beside plain values; in these tests, texts stand for it.
_OBJECTS = {"<array>": np.ones(2), "<nan>": float("nan"), "<number>": np.int64(1), "<flag>": np.bool_(True)}


def adapter_decoders(folder: Path) -> list[Decoder]:
    """Those of Flower's records too where Flower is installed."""
    texts = [base64.b64encode(TASK.to_bytes())]
    listed = [
        Decoder("statement", _statement, _statements(), (RefusalError,), packed_tree),
        Decoder("text of a task", _task_text, texts, (ConfigError,), _text),
        Decoder("settings of a site", _settings(folder), _site_settings(), (ConfigError,), json_tree),
        Decoder("memory of a node", _memory, [bytes(64), bytes(range(128))], ()),
    ]
    if find_spec("flwr") is not None:
        from tests.secagg.fuzz.flower import flower_decoders

        listed += flower_decoders(TASK)
    return listed


def packed_tree(mutator: Mutator, data: bytes) -> bytes:
    """A MessagePack tree with a node changed, perhaps into what stands for an object."""
    tree = msgspec.msgpack.decode(data)
    if isinstance(tree, dict) and tree and mutator.rng.random() < 0.3:
        key = mutator.rng.choice(list(tree))
        tree[key] = mutator.rng.choice((*_OBJECTS, [*_OBJECTS], "x" * 4000, {"a": [b""]}))
    else:
        tree = mutator.tree(tree)
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, TypeError, msgspec.MsgspecError):
        return mutator.octets(data)


def plain(data: bytes) -> Any:
    """The value that ``data`` carries; None if it carries none, which a stack would not deliver."""
    try:
        return _with_objects(msgspec.msgpack.decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, TypeError):
        return None


def _with_objects(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_objects(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_objects(part) for part in value]
    return _OBJECTS.get(value, value) if isinstance(value, str) else value


def _statements() -> list[bytes]:
    messages = [
        statements.write(TASK, number=2, attempt=1, session=bytes(32)),
        statements.write(TASK, number=2, attempt=1, session=bytes(32), data=b"message", party="a1"),
        statements.write(TASK, roster=bytes(32)),
        statements.refuse("got a reason"),
    ]
    return [msgspec.msgpack.encode(message) for message in messages]


def _statement(data: bytes) -> None:
    """A message is a dict of plain values: stacks deliver nothing else to the adapter."""
    message = plain(data)
    if isinstance(message, dict):
        read = statements.read(message, TASK)
        fields = {name: value for name, value in read._asdict().items() if name != "task"}
        if statements.read(statements.write(TASK, **fields), TASK) != read:
            raise AssertionError("one statement in two ways")


def _task_text(data: bytes) -> None:
    task, text = statements.task_text(data.decode("latin-1"), None)
    if statements.task_text(text, None)[0] != task:
        raise AssertionError("one task in two ways")


def _text(mutator: Mutator, data: bytes) -> bytes:
    return base64.b64encode(mutator.octets(base64.b64decode(data)))


def _site_settings() -> list[bytes]:
    own = b'{"secagg-key": "/k/s1.pem", "secagg-roster": "/k/roster.json", "secagg-dir": "/d", '
    own += b'"secagg-epsilon": 8.0, "secagg-delta": 1e-6, "secagg-evaluate": true, '
    return [own + b'"parties": {"a1": {"role": "aggregator", "secagg-key": "/k/a1.pem"}}}', b"{}"]


def _settings(folder: Path) -> Any:
    (folder / "local").mkdir(exist_ok=True)

    def read(data: bytes) -> None:
        (folder / "local" / "secagg.json").write_bytes(data)
        settings = read_settings("s1", folder / "local")
        for name in ("secagg-key", "secagg-roster", "secagg-dir"):
            if not str(settings.get(name, "/")).startswith("/"):
                raise AssertionError("a path that means another file in each folder")

    return read


def _memory(data: bytes) -> None:
    """The ledger in a stack's memory, which a job before may have left: whatever it is, a claim is kept."""
    record: dict[str, Any] = {"ledger": data, "session": b"s", "number": 1, "state": data}
    memory = _Memory(record, b"s")
    if memory.load() != data or memory.claim(b"\1" * 32, b"\2" * 32) != memory.claim(b"\1" * 32, b"\3" * 32):
        raise AssertionError("a claim was lost")

"""Flower's records of the adapter's messages; needs Flower."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from secagg.errors import ConfigError, EncodingError
from secagg.integrations import _flower_client, _flower_records as records
from secagg.task import Task
from tests.secagg.fuzz.adapters import packed_tree, plain
from tests.secagg.fuzz.decoders import Decoder
from tests.secagg.fuzz.mutate import Mutator

_KINDS: dict[str, Any] = {"config": ConfigRecord, "metrics": MetricRecord}


def flower_decoders(task: Task) -> list[Decoder]:
    """Messages to nodes, their replies, and the arrays of models."""
    messages = [
        records.write(task, number=1, attempt=1),
        records.write(task, b"message", session=bytes(32), number=1, attempt=1),
        records.write(task, party="c1", roster=bytes(32)),
        records.write(task, b"answer", party="c1"),
    ]
    requests = [message | {"config": ConfigRecord({"lr": 0.1, "server-round": 1})} for message in messages]
    samples = [_packed(RecordDict(message)) for message in (*messages, *requests)]

    def message(data: bytes) -> None:
        content = _content(data)
        if content is not None:
            _flower_client._read(content, task, None)
            records.read(content, task)

    def reply(data: bytes) -> None:
        content = _content(data)
        if content is not None:
            for party in (None, "c1"):
                records.reply_of(SimpleNamespace(has_error=lambda: False, content=content), task, party)

    def request(data: bytes) -> None:
        """Any content of a request has a digest, and its own."""
        content = _content(data)
        if content is not None:
            digest = records.request_digest("train", content, {"a": 1})
            content["one-more"] = ConfigRecord()
            if records.request_digest("train", content, {"a": 1}) == digest:
                raise AssertionError("two requests have one digest")

    def array(data: bytes) -> None:
        record = ArrayRecord({"w": Array(dtype="float32", shape=(2, 2), stype="numpy.ndarray", data=data)})
        records.model_digest(record)
        array = records.arrays_of(record)["w"]
        if Array(np.asarray(array)).data != data and not array.flags.f_contiguous:
            raise AssertionError("one array in two ways")

    arrays = [np.zeros((2, 2), np.float32), np.asfortranarray(np.ones((3, 2))), np.zeros((), np.int64), np.zeros(0)]
    return [
        Decoder("Flower message", message, samples, (ConfigError,), packed_tree),
        Decoder("Flower reply", reply, samples, (ConfigError,), packed_tree),
        Decoder("Flower request", request, samples, (), packed_tree),
        Decoder("Flower array", array, [Array(one).data for one in arrays], (EncodingError,), _header),
    ]


def _packed(content: RecordDict) -> bytes:
    """The records as a MessagePack tree."""
    tree: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            values = {key: [a.dtype, list(a.shape), a.stype, a.data] for key, a in record.items()}
            tree[name] = {"kind": "arrays", "values": values}
        else:
            kind = "config" if isinstance(record, ConfigRecord) else "metrics"
            tree[name] = {"kind": kind, "values": dict(record)}
    return msgspec.msgpack.encode(tree)


def _content(data: bytes) -> RecordDict | None:
    """The records of a tree; None for what Flower itself does not hold."""
    tree = plain(data)
    try:
        return RecordDict({name: _record(**part) for name, part in tree.items()})
    except Exception:
        return None


def _record(kind: str, values: dict[str, Any]) -> Any:
    if kind in _KINDS:
        return _KINDS[kind](values)
    return ArrayRecord(
        {key: Array(dtype=d, shape=tuple(s), stype=t, data=b) for key, (d, s, t, b) in values.items()}
    )


def _header(mutator: Mutator, data: bytes) -> bytes:
    """An array in NumPy's format with another text as its header, of a length that is right."""
    rng = mutator.rng
    size = int.from_bytes(data[8:10], "little")
    text = data[10 : 10 + size].decode("latin-1")
    for _ in range(rng.choice((1, 1, 2))):
        old = rng.choice(("'<f4'", "False", "(2, 2)", "'descr'", "{", "}", "'", "(", ")", ",", " ", "2"))
        new = rng.choice(
            (
                *(
                    "'O'",
                    "'V0'",
                    "'S0'",
                    "'<f4",
                    "[('a', '<f4')]",
                    "[('a', ('<f4', (2, 2)))]",
                    "'>u8'",
                    "'M8[ns]'",
                    "{}",
                ),
                *(
                    "True",
                    "(-1,)",
                    "(10**30,)",
                    "(2**62, 4)",
                    "(2L, 2L)",
                    "(0,)",
                    "(1.5,)",
                    "((2,),)",
                    "()",
                    "1e999",
                ),
                *(
                    "-" * 9000 + "1",
                    "(" * 250,
                    "[" * 99,
                    "#",
                    "\n",
                    "\\",
                    '"""',
                    "\0",
                    "lambda: 0",
                    "9" * 5000,
                    "é",
                ),
            )
        )
        text = text.replace(old, new, rng.choice((1, -1)))
    header = text.encode("latin-1")[:65535]
    version = rng.choice((data[6:8], data[6:8], data[6:8], b"\2\0", b"\3\0", b"\1\1"))
    width = 2 if version[:1] == b"\1" else 4
    return data[:6] + version + len(header).to_bytes(width, "little") + header + data[10 + size :]

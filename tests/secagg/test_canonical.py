"""The canonical encoding: one spelling for every value, and the published digests of two tasks."""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import secagg
from secagg import _canonical
from secagg.errors import ConfigError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "task-digest.json").read_text())["tasks"]

TASKS = [
    secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(
            {
                "n": np.zeros((), np.int64),
                "layers": [{"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float16)}],
            }
        ),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=100,
        min_survivors=80,
        max_weight=5000,
        context=b"run17",
    ),
    secagg.Task(
        protocol=secagg.Clear(),
        layout=secagg.Layout.of(np.zeros(4)),
        encoding=secagg.FixedPoint(clip={"update": 0.25}, bits=8, rounding="nearest"),
        max_clients=300,
        min_survivors=1,
    ),
]


def written(value: Any) -> bytes:
    """The format once more, from its description alone, for values as they stand in the vectors' JSON."""
    if value is None:
        tag, body = b"N", b""
    elif isinstance(value, bool):
        tag, body = b"b", b"\1" if value else b"\0"
    elif isinstance(value, int):
        size = 1
        while not -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1):
            size += 1
        tag, body = b"i", (value % (1 << (8 * size))).to_bytes(size, "big")
    elif isinstance(value, float):
        tag, body = b"f", struct.pack(">d", value)
    elif isinstance(value, str):
        tag, body = b"s", value.encode("utf-8")
    elif isinstance(value, list):
        tag, body = b"t", b"".join(written(item) for item in value)
    elif "bytes" in value:
        tag, body = b"y", bytes.fromhex(value["bytes"])
    else:
        tag, body = b"d", b"".join(written(item) for item in [value["class"], *value["fields"].values()])
    return tag + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(("vector", "task"), list(zip(VECTORS, TASKS, strict=True)), ids=["SecAgg", "Clear"])
def test_published_task_digest(vector: dict[str, Any], task: secagg.Task) -> None:
    independent = written(["secagg/v1/task", 2, vector["task"]])
    assert independent.hex() == vector["bytes"]
    assert hashlib.sha256(independent).hexdigest() == vector["sha256"]
    assert task.to_bytes() == independent
    assert task.digest.hex() == vector["sha256"]
    assert secagg.Task.from_bytes(independent) == task


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 127), (1 << 127) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.builds(Pair, inner, inner),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    data = _canonical.encode(value)
    again = _canonical.decode(data, {"Pair": Pair})
    assert repr(again) == repr(value)  # and not only equal: True differs from 1, and 0.0 from -0.0


@given(VALUES, VALUES)
def test_no_two_values_are_written_alike(one: Any, other: Any) -> None:
    assert (_canonical.encode(one) == _canonical.encode(other)) == (repr(one) == repr(other))


@given(VALUES, st.data())
def test_any_other_bytes_are_refused_or_another_value(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(_canonical.encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = _canonical.decode(bytes(encoded), {"Pair": Pair})
    except ConfigError:
        return
    assert _canonical.encode(other) == encoded
    assert repr(other) != repr(value)


def node(tag: bytes, body: bytes) -> bytes:
    return tag + len(body).to_bytes(4, "big") + body


DEEP = node(b"N", b"")
for _ in range(13):
    DEEP = node(b"t", DEEP)

BAD = {
    "empty": b"",
    "cut short in the head": b"N\0\0",
    "cut short in the body": b"s\0\0\0\5abc",
    "left over": node(b"N", b"") + b"\0",
    "unknown tag": node(b"x", b""),
    "None with a body": node(b"N", b"\0"),
    "bool of 2": node(b"b", b"\2"),
    "bool of two bytes": node(b"b", b"\0\1"),
    "int of no bytes": node(b"i", b""),
    "int with a leading zero": node(b"i", b"\0\1"),
    "int with a leading one": node(b"i", b"\xff\xff"),
    "int of 17 bytes": node(b"i", b"\1" + bytes(16)),
    "float of 4 bytes": node(b"f", bytes(4)),
    "not a number": node(b"f", struct.pack(">d", float("nan"))),
    "infinity": node(b"f", struct.pack(">d", float("inf"))),
    "text that is not UTF-8": node(b"s", b"\xff"),
    "text of a surrogate": node(b"s", b"\xed\xa0\x80"),
    "item longer than its tuple": b"t\0\0\0\5s\0\0\0\1a",
    "nested too deeply": DEEP,
    "class without a name": node(b"d", b""),
    "class with a number for a name": node(b"d", node(b"i", b"\1")),
    "class that nobody knows": node(b"d", node(b"s", b"os")),
    "class with a field too few": node(b"d", node(b"s", b"Pair") + node(b"N", b"")),
    "class with a field too many": node(b"d", node(b"s", b"Pair") + 3 * node(b"N", b"")),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_encode_never_writes_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^got "):
        _canonical.decode(data, {"Pair": Pair})


def test_size_is_capped() -> None:
    with pytest.raises(ConfigError, match="expected at most"):
        _canonical.decode(bytes(_canonical.MAX_BYTES + 1), {})


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, 1j, Pair, object(), float("nan"), float("-inf"), (1, [2])])
def test_what_has_no_bytes_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="in a task; expected"):
        _canonical.encode(value)

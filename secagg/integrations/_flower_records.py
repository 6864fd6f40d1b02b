"""The messages between the two sides of the Flower adapter, in Flower's containers.

A request or an answer is a ``ConfigRecord`` of a few fields, and an ``ArrayRecord`` with the protocol's message:
Flower sends arrays in chunks, and does not copy them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray

from mpc.keys import encode_parts
from secagg.errors import ConfigError, EncodingError, shown
from secagg.integrations._shared.digests import typed
from secagg.integrations._shared.statements import VERSION, Statement, check_version
from secagg.layout import Layout
from secagg.task import Task

FIELDS = "secagg"
MESSAGE = "secagg.message"

_STYPE = "secagg.envelope"  # tells other code that this array does not hold numbers
_APP_ERRORS = (2, 6)  # Flower's codes for an exception in a ClientApp, and for a refusal by one of Flower's mods
_KINDS = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}
# The header that numpy.save writes. NumPy's own reader takes any literal of Python, and ends in a MemoryError or a
# TokenError for some.
_HEADER = re.compile(
    rb"\{'descr': '([<>](?:[iu][248]|f(?:[248]|16)|c(?:8|16|32))|\|[biu]1)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, )*[0-9]{0,18},?)\), \} *\n"
)
_WIDTHS = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}  # bytes of the header's length


def write(task: Task, data: bytes = b"", **fields: Any) -> dict[str, Any]:
    """The records of one message, for a ``RecordDict``."""
    records: dict[str, Any] = {FIELDS: ConfigRecord({"version": VERSION, "task": task.digest} | fields)}
    if data:
        array = Array(dtype="uint8", shape=(len(data),), stype=_STYPE, data=data)
        records[MESSAGE] = ArrayRecord({"message": array})
    return records


def read(content: Any, task: Task) -> Statement:
    """The other side's message; ``ConfigError`` unless it is of this version and this task."""
    record = content.get(FIELDS)
    if not isinstance(record, ConfigRecord):
        raise ConfigError("got a message without secagg's records; both sides need secagg.integrations.flower")
    fields = dict(record)
    check_version(fields.pop("version", None))
    if "data" in fields or MESSAGE in content:
        fields["data"] = None if "data" in fields else _message(content[MESSAGE])
    return Statement.of(fields, task)


def _message(record: Any) -> bytes | None:
    """The protocol's message; None if there is anything else in the record."""
    array = record.get("message") if isinstance(record, ArrayRecord) and len(record) == 1 else None
    return array.data if array is not None and array.stype == _STYPE else None


def announces(content: Any, task: Task) -> bool:
    """Whether the other side's message is about this task."""
    fields = content.get(FIELDS)
    return isinstance(fields, ConfigRecord) and fields.get("task") == task.digest


def reply_of(reply: Any, task: Task, party: str | None = None) -> Statement:
    """A node's introduction, or its answer as ``party``; ``ConfigError`` if there is anything else in the reply.

    If a node's mods or app sent an update in the clear, the server has it by then, but the error reports it.
    """
    content = _content(reply, introducing=party is None)
    stated = read(content, task)
    introduction = Statement(task.digest, stated.party, stated.roster)
    allowed = introduction if party is None else Statement(task.digest, party, data=stated.data)
    if stated != allowed or content.keys() - {FIELDS, MESSAGE}:
        raise ConfigError(
            "got a reply with records that secagg does not protect; check the mods and the app of that node"
        )
    return stated


def _content(reply: Any, *, introducing: bool) -> Any:
    """The reply's records; ``ConfigError`` with the first line of Flower's error if there is one.

    The error mentions the mod only if an app raised at its introduction: a node that is gone may well have the mod.
    """
    if not reply.has_error():
        return reply.content
    reason = (str(reply.error.reason).strip().splitlines() or [""])[0][:300]
    own = re.fullmatch(r"<class 'secagg\.[\w.]+'>:<'(.*)'>", reason)
    if own:
        raise ConfigError(own[1])
    hint = ""
    if introducing and reply.error.code in _APP_ERRORS:
        hint = "; does its ClientApp have client_mod(task) first in mods?"
    raise ConfigError(f"error {reply.error.code}: {reason}{hint}")


def strip(content: Any) -> None:
    """Remove secagg's records, so that the app gets what its strategy sent."""
    for name in (FIELDS, MESSAGE):
        if name in content:
            del content[name]


def is_train(message: Any) -> bool:
    """Whether this message asks a node to train."""
    return bool(message.metadata.message_type.split(".")[0] == "train")


def rounds_in(message: Any) -> list[int]:
    """The strategy's round, once for each record that has it; ``ConfigError`` unless it is a whole number."""
    records = message.content.config_records.values()
    numbers = [record["server-round"] for record in records if "server-round" in record]
    for number in numbers:
        if type(number) is not int:
            raise ConfigError(f"got server-round={shown(number)} in a train message; expected a whole number")
    return numbers


def model_digest(record: Any) -> bytes:
    """SHA-256 over the names, types and bytes of a model's arrays, in their order."""
    hashed = hashlib.sha256(b"secagg/v1/flower-model")
    for name, array in record.items():
        head = encode_parts(name, array.dtype, str(tuple(array.shape)), array.stype, str(len(array.data)))
        hashed.update(len(head).to_bytes(8, "big") + head)
        hashed.update(array.data)
    return hashed.digest()


def request_digest(message_type: str, content: Any, run_config: Mapping[str, Any]) -> bytes:
    """SHA-256 over a train request without its model, and over the run's config.

    It covers the message's type and all records, in their order, with the types of their values. A server that can
    make one node train and the others not, for example by a learning rate of 0, reads that node's update off the
    sum.
    """
    parts: list[bytes | str] = ["secagg/v1/flower-request", message_type]
    records: list[tuple[str, str, Mapping[str, Any]]] = [("run", "config", dict(sorted(run_config.items())))]
    for name, record in content.items():
        kind = next(kind for kind, known in _KINDS.items() if isinstance(record, known))
        records.append((name, kind, {} if kind == "arrays" else record))
    for name, kind, record in records:
        parts += [name, kind, str(len(record))]
        for key, value in record.items():
            parts += [key, *typed(value)]
    return hashlib.sha256(encode_parts(*parts)).digest()


def only_record(records: Mapping[str, Any], what: str) -> Any:
    """The only record of a kind; ``ConfigError`` if there are none or several."""
    if len(records) != 1:
        raise ConfigError(f"got {len(records)} {what}; expected one")
    return next(iter(records.values()))


def arrays_of(record: Any) -> dict[str, NDArray[Any]]:
    """The arrays of an ``ArrayRecord`` by name, read-only, without copies; ``EncodingError`` if not NumPy's."""
    return {name: _view(name, array) for name, array in record.items()}


def _view(name: str, array: Any) -> NDArray[Any]:
    if array.stype != "numpy.ndarray":
        raise EncodingError(f"got array {name!r} of type {array.stype!r:.40}; expected numpy.ndarray")
    data = array.data
    width = _WIDTHS.get(bytes(data[:8]), 0)
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    header = _HEADER.fullmatch(data, 8 + width, start) if width and start <= len(data) else None
    if header is None:
        raise EncodingError(f"got array {name!r:.80} that can't be read as numbers that NumPy has written")
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    try:
        flat = np.frombuffer(data, np.dtype(header[1].decode()), offset=start)
        return flat.reshape(shape, order="F" if header[2] == b"True" else "C")
    except (ValueError, TypeError, OverflowError) as error:
        raise EncodingError(f"got array {name!r:.80} that can't be read as NumPy's: {error}") from error


def layout_of(model: Any) -> Layout:
    """The layout, for the task, of ``model``: an ``ArrayRecord``, or what Flower makes one of.

    That is a list of NumPy arrays, a dict of ``Array``, or a ``state_dict`` of PyTorch. ``ConfigError`` for others.
    """
    if not isinstance(model, ArrayRecord):
        try:
            model = ArrayRecord(model)
        except (TypeError, ValueError):
            raise ConfigError(
                f"got {shown(model)} as a model; expected an ArrayRecord, a list of NumPy arrays, or a "
                "PyTorch module's state_dict()"
            ) from None
    return Layout.of(arrays_of(model))

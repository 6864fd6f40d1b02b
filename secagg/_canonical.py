"""Canonical bytes of frozen dataclasses: equal values have equal bytes, and so equal digests, everywhere.

A value is written as a tag, a 4-byte big-endian length and that many bytes::

    N  None           (empty)
    b  bool           1 byte, 0 or 1
    i  int            two's complement, big-endian, as short as it can be
    f  float          8 bytes, IEEE 754 binary64, big-endian
    s  str            UTF-8
    y  bytes          as they are
    t  tuple          its items, one after the other
    d  dataclass      its class's name (an ``s``), then its fields in declared order

There is one encoding only: bytes that decode to a value are the bytes that the value encodes to.
"""

import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from secagg._numbers import is_a
from secagg.errors import ConfigError, SecAggError, blaming, kind_of, shown

MAX_BYTES = 1 << 24
MAX_DEPTH = 12


def encode(value: object) -> bytes:
    """The canonical bytes of ``value``; ``ConfigError`` for a type that has none."""
    tag, body = _body(value)
    return tag + struct.pack(">I", len(body)) + body


def _body(value: object) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"N", b""
        case bool():
            return b"b", bytes([value])
        case int():
            return b"i", value.to_bytes(_int_length(value), "big", signed=True)
        case float():
            if not math.isfinite(value):
                raise ConfigError(f"got {value} in a task; expected a finite number")
            return b"f", struct.pack(">d", value)
        case StrEnum() | str():
            return b"s", str(value).encode()
        case bytes():
            return b"y", value
        case tuple():
            return b"t", b"".join(map(encode, value))
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = [type(value).__name__, *(getattr(value, f.name) for f in dataclasses.fields(value))]
            return b"d", b"".join(map(encode, parts))
        case _:
            raise ConfigError(
                f"got a {type(value).__name__} in a task; expected None, bool, int, float, str, bytes, "
                "a tuple or a frozen dataclass of these"
            )


def _int_length(value: int) -> int:
    return (value + (value < 0)).bit_length() // 8 + 1


def decode(data: bytes, classes: Mapping[str, type]) -> object:
    """The value that :func:`encode` wrote; ``classes`` are the dataclasses that may occur, by name.

    Raises ``ConfigError`` if a byte is missing, left over, or not as :func:`encode` writes it.
    """
    data = plain_bytes(data, "a task")
    if len(data) > MAX_BYTES:
        raise ConfigError(f"got a task of {len(data)} bytes; expected at most {MAX_BYTES}")
    value, end = _decode(data, 0, len(data), classes, 0)
    if end != len(data) or encode(value) != data:
        raise ConfigError(
            f"got a task with bytes left over, or not in canonical form, at byte {end} of {len(data)}"
        )
    return value


def _decode(data: bytes, at: int, limit: int, classes: Mapping[str, type], depth: int) -> tuple[object, int]:
    if at + 5 > limit or depth > MAX_DEPTH:
        raise ConfigError(f"got a task that is cut short or nested too deeply at byte {at}")
    tag, start = data[at : at + 1], at + 5
    end = start + int.from_bytes(data[at + 1 : start], "big")
    if end > limit:
        raise ConfigError(f"got a task that is cut short: the value at byte {at} should end at byte {end}")
    body = data[start:end]
    match tag:
        case b"N" if not body:
            return None, end
        case b"b" if len(body) == 1:
            return body != b"\0", end
        case b"i" if 1 <= len(body) <= 16:
            return int.from_bytes(body, "big", signed=True), end
        case b"f" if len(body) == 8:
            return float(struct.unpack(">d", body)[0]), end
        case b"s":
            try:
                return body.decode(), end
            except UnicodeDecodeError as error:
                raise ConfigError(f"got text that is not UTF-8 at byte {at} of a task") from error
        case b"y":
            return body, end
        case b"t" | b"d":
            items = []
            position = start
            while position < end:
                item, position = _decode(data, position, end, classes, depth + 1)
                items.append(item)
            return (tuple(items) if tag == b"t" else _build(items, classes)), end
        case _:
            raise ConfigError(
                f"got tag {tag!r} with {len(body)} bytes at byte {at} of a task; expected what to_bytes() writes"
            )


def differences(one: object, other: object, name: str) -> Iterator[str]:
    """Say where two values differ, one line per field or item; equal values give no line.

    Items of a tuple that have a ``path`` are compared with the items of the same path.
    """
    fields = [field.name for field in dataclasses.fields(one)] if dataclasses.is_dataclass(one) else []
    if type(one) is type(other) and fields:
        for field in fields:
            label = f"{name}.{field}" if name else field
            yield from differences(getattr(one, field), getattr(other, field), label)
    elif isinstance(one, tuple) and isinstance(other, tuple) and (one or other):
        mine, theirs = _by_path(one), _by_path(other)
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            if key in mine and key in theirs:
                yield from differences(mine[key], theirs[key], f"{name}[{key}]")
            else:
                yield f"{name}[{key}]: only {'here' if key in mine else 'there'}"
    elif type(one) is not type(other) or one != other:
        yield f"{name}: {shown(one)} here, {shown(other)} there"


def _by_path(items: tuple[object, ...]) -> dict[str, object]:
    """Items by their path as text; pairs by their first item; others by position."""
    by_path = {}
    for position, item in enumerate(items):
        path = getattr(item, "path", None)
        is_pair = is_a(item, tuple) and len(item) == 2 and is_a(item[0], str)
        key = ".".join(map(str, path)) if path is not None else item[0] if is_pair else position  # type: ignore[index]
        by_path[str(key)] = item
    return by_path


def plain_bytes(data: Any, what: str) -> bytes:
    """``data`` as bytes; ``ConfigError`` unless it is bytes, a bytearray or a memoryview."""
    if not is_a(data, bytes | bytearray | memoryview):
        raise ConfigError(f"got {shown(data)} as {what}; expected the bytes of to_bytes()")
    with blaming(ConfigError, f"got {what} whose bytes can't be read"):
        return data if type(data) is bytes else bytes(memoryview(data))


def _build(items: list[object], classes: Mapping[str, type]) -> object:
    name, *values = items or [None]
    kind = classes.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"got an unknown class {shown(name)} in a task; known are {', '.join(sorted(classes))}")
    fields = dataclasses.fields(kind)
    if len(values) != len(fields):
        raise ConfigError(f"got {len(values)} fields of {name}; this version has {len(fields)}")
    try:
        return kind(**{field.name: value for field, value in zip(fields, values, strict=True)})
    except SecAggError:
        raise
    except Exception as error:  # of another package, or of a class that is not ours
        raise ConfigError(f"got fields that {name} does not accept: {kind_of(error)}: {error}") from error

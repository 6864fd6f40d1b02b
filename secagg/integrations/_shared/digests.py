"""Digests of what a training gets. A session's name includes them, so a server can't give one client another."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc.keys import encode_parts
from secagg import _reading
from secagg.errors import ConfigError

_MOST_NESTED = 16


def arrays_of(params: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a model by name.

    ``ConfigError`` unless each name is text, and each value an array, a tensor or a number.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in params.items():
        if not isinstance(name, str):  # 1 and "1" would be one name
            raise ConfigError(f"got a model with a name that is a {type(name).__name__:.80}; expected text")
        array = _reading.read(value, (name,), ConfigError).array
        if _reading.is_tensor(array):
            _reading.check_storage(array)
            array = array.cpu()
            array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
        arrays[str.__str__(name)] = array
    return arrays


def dtypes_of(params: Mapping[str, Any]) -> list[str]:
    """The dtypes of a model's values as they were sent, in their order; numbers have ``float`` or ``int``.

    A training that gets bfloat16 loses the steps that float32 keeps, though both begin with the same numbers.
    """
    return [_reading.read(value, (name,), ConfigError).dtype for name, value in params.items()]


def arrays_digest(stack: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 over the names, types, shapes and bytes of a model's arrays, in their order.

    ``ConfigError`` for an array of objects, whose bytes are addresses.
    """
    hashed = hashlib.sha256(f"secagg/v1/{stack}-model".encode())
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ConfigError(f"got array {name!r:.80} of Python objects; expected numbers")
        head = encode_parts(name, array.dtype.str, str(array.shape), str(array.nbytes))
        hashed.update(len(head).to_bytes(8, "big") + head)
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.digest()


def arguments_digest(stack: str, job: str, model: Mapping[str, Any], request: Mapping[str, Any]) -> bytes:
    """SHA-256 over what a training gets besides the model's numbers: the job, dtypes, and all arguments by name.

    ``ConfigError`` for a value of a type that has no bytes of its own.
    """
    return hashlib.sha256(
        encode_parts(f"secagg/v1/{stack}-call", job, *typed([dtypes_of(model), dict(request)]))
    ).digest()


def typed(value: Any) -> Iterator[bytes | str]:
    """A value as parts that determine the value and its type, for :func:`mpc.keys.encode_parts`.

    None, booleans, integers, floats, texts, bytes, NumPy's scalars and arrays of numbers, and dicts, lists and
    tuples of such values. A dict's order counts. ``ConfigError`` for a value of another type: what this function
    can't write, no session can be bound to.
    """
    yield from _typed(value, 0)


def _typed(value: Any, depth: int) -> Iterator[bytes | str]:
    if depth > _MOST_NESTED:
        raise ConfigError(f"got a train request nested more than {_MOST_NESTED} deep; send flat records")
    if isinstance(value, bool | int):  # a bool is an int
        kind = bool if isinstance(value, bool) else int
        yield from (kind.__name__, str(kind(value)))
    elif isinstance(value, str):
        yield from ("str", str.__str__(value))  # the text itself, also of an enumeration's member
    elif isinstance(value, float):
        yield from ("float", struct.pack(">d", value))
    elif isinstance(value, bytes):
        yield from ("bytes", value)
    elif value is None:
        yield "none"
    elif isinstance(value, list | tuple):
        yield from ("list" if isinstance(value, list) else "tuple", str(len(value)))
        for item in value:
            yield from _typed(item, depth + 1)
    elif isinstance(value, Mapping):
        yield from ("dict", str(len(value)))
        for key, item in value.items():
            yield from _typed(key, depth + 1)
            yield from _typed(item, depth + 1)
    elif isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biufcSUMm":  # objects have no bytes; of records, those of the names would miss
            raise ConfigError(f"got an array of dtype {array.dtype!s:.80} in a train request; expected numbers")
        yield from ("array", array.dtype.str, str(array.shape), array.tobytes())
    else:
        raise ConfigError(
            f"got a {type(value).__name__} in a train request; expected numbers, texts, bytes, and lists or dicts "
            "of them"
        )

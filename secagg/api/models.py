"""A model as bytes: its layout, then its values as one flat vector."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np

from secagg import _canonical
from secagg.errors import ConfigError
from secagg.layout import Branch, Layout, Leaf

_MAGIC: Final = b"secagg/v1/model\n"
_CLASSES: Final = {"Layout": Layout, "Leaf": Leaf, "Branch": Branch}


def write_model(model: Any) -> bytes:
    """``model`` as bytes: nested dicts, lists and tuples of arrays, as :meth:`secagg.Layout.of` takes them.

    The same values give the same bytes. Values travel as float32, or as float64 if the model has an array of it or
    an integer that float32 can't hold. ``ConfigError`` for what has no layout.
    """
    layout = Layout.of(model)
    vector = layout.flatten(model)
    head = _canonical.encode(layout)
    width = vector.dtype.itemsize
    values = np.ascontiguousarray(vector, vector.dtype.newbyteorder("<"))
    return b"".join((_MAGIC, bytes([width]), len(head).to_bytes(4, "big"), head, values.tobytes()))


def read_model(data: bytes | bytearray, like: Any = None) -> Any:
    """The model that :func:`write_model` wrote as ``data``.

    With ``like`` it comes in the containers, dtypes and kinds of array of that. ``ConfigError`` for any other
    bytes, and ``EncodingError`` if ``like`` has another structure.
    """
    start = len(_MAGIC) + 5
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ConfigError("got bytes that are not a model of this version; expected what the service serves")
    width, length = data[len(_MAGIC)], int.from_bytes(data[len(_MAGIC) + 1 : start], "big")
    layout = _canonical.decode(bytes(data[start : start + length]), _CLASSES)
    values = memoryview(data)[start + length :]
    if not isinstance(layout, Layout) or width not in (4, 8) or len(values) != width * layout.size:
        raise ConfigError("got a model whose values don't fit its layout; download it again")
    vector = np.frombuffer(values, f"<f{width}")
    return layout.restore(vector, like=like, dtype=None if like is None else "like")


def model_digest(data: bytes) -> bytes:
    """SHA-256 of ``data``, the bytes of a model."""
    return hashlib.sha256(data).digest()

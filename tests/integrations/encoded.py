"""What a client's encoded update may look like in a message: the bytes for which the wire tests search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import secagg
from secagg.lanes import to_lanes, widths
from secagg.packing import pack

INTEGERS = [">u4", "<u4", ">u8", "<u8"]
VALUES = 4  # so many in a row are a find: no four of them stand anywhere by chance


def rows(array: Any) -> Iterator[Any]:
    """All runs of neighbours in an array, each as long as a find."""
    flat = np.asarray(array).ravel()
    size = min(VALUES, flat.size)
    return (flat[at : at + size] for at in range(flat.size - size + 1))


def integers(task: secagg.Task, update: Any, weight: int | None) -> Iterator[bytes]:
    """The encoded update without its mask, as arrays and packed as in a message."""
    encoded = task.encoder.encode(
        task.layout.flatten(update), layout=task.layout, weight=weight, max_weight=task.max_weight, rng=bytes
    )
    for values in rows(encoded[0]):
        yield from (values.astype(form).tobytes() for form in INTEGERS)
    for lanes, bits in zip(to_lanes(task, encoded), widths(task), strict=True):
        if lanes.size > VALUES:
            data = pack(lanes, bits)
            yield from (data[at : at + 16] for at in range(len(data) - 15))

"""What the clients of a test contribute, and what must come of it, by Python's integers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.task import Task
from secagg.testing._material import Integers, rng_for_tests

Numbers = dict[str, NDArray[Any]]


def updates_for(task: Task, cohort: Iterable[str]) -> dict[str, Numbers]:
    """An update for each client, extremes and clipped coordinates among them."""
    updates: dict[str, Numbers] = {}
    for place, party in enumerate(cohort):
        draw = np.random.default_rng(place)
        if isinstance(task.encoding, Integers):
            numbers: list[int] = []
            for length, bound, _ in task.encoding.shapes:
                numbers += [bound, 0, min(bound, bound // 2 + place)][:length]
                numbers += (int(n) for n in draw.integers(0, bound, max(0, length - 3), endpoint=True))
            updates[party] = {"halves": task.encoding.halves(numbers)}
            continue
        updates[party] = {
            leaf.name: np.asarray(draw.uniform(-1.3, 1.3, leaf.shape)).astype(leaf.dtype)
            for leaf in task.layout.leaves
        }
    return updates


def weight_for(task: Task, party: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(party.encode()).digest()[:4], "big") % (task.max_weight or 1)


def expected_outcome(
    task: Task, session: bytes, updates: Mapping[str, Numbers], survivors: Sequence[str]
) -> tuple[Numbers, Numbers, int]:
    """Sum, mean and total weight by Python's integers, from what each survivor's encoding is."""
    encoder, totals = task.encoder_for(session), [[0] * segment.length for segment in task.segments]
    for party in survivors:
        encoded = encoder.encode(
            task.layout.flatten(updates[party]),
            layout=task.layout,
            weight=None if task.max_weight is None else weight_for(task, party),
            max_weight=task.max_weight,
            rng=rng_for_tests(b"not drawn from: rounding is to nearest"),
        )
        totals = [
            [total + int(term) for total, term in zip(sums, part, strict=True)]
            for sums, part in zip(totals, encoded, strict=True)
        ]
    reduced = [
        np.array([total % (segment.modulus or 1 << 64) for total in sums], np.uint64)
        for sums, segment in zip(totals, task.segments, strict=True)
    ]
    layout = task.layout
    decoded = encoder.decode(reduced, layout=layout, survivors=len(survivors), max_weight=task.max_weight)
    return layout.restore(decoded.sum, dtype="float64"), layout.restore(decoded.mean), decoded.total_weight

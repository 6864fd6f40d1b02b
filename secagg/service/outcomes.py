"""An outcome as a JSON document and one file of arrays, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np

from secagg.errors import ConfigError, Fault, FaultKind
from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.service.folder import write_file

_ARRAYS: Final = ("mean", "sum")


class _Fault(msgspec.Struct, frozen=True):
    sender: str
    round: str
    kind: str
    detail: str


class _Document(msgspec.Struct, frozen=True):
    total_weight: int
    survivors: list[str]
    dropped: dict[str, str]
    faults: list[_Fault]
    clipped: int | None
    epsilon_guaranteed: float | None
    epsilon_realised: float | None


def write_outcome(path: Path, outcome: Outcome, layout: Layout) -> str:
    """Write the arrays of ``outcome`` to the file ``path``, on the disk; returns all else as a JSON text."""
    vectors = {name: layout.flatten(getattr(outcome, name), dtype="float64") for name in _ARRAYS}

    def write(file: BinaryIO) -> None:
        np.savez(file, allow_pickle=False, **vectors)

    write_file(path, write)
    document = _Document(
        outcome.total_weight,
        list(outcome.survivors),
        dict(outcome.dropped),
        [_Fault(one.sender, one.round, str(one.kind), one.detail) for one in outcome.faults],
        outcome.clipped,
        outcome.epsilon_guaranteed,
        outcome.epsilon_realised,
    )
    return msgspec.json.encode(document).decode()


def read_outcome(path: Path, document: str, layout: Layout) -> Outcome:
    """The outcome that :func:`write_outcome` wrote, in the structure of ``layout``; ``ConfigError`` if damaged."""
    try:
        stated = msgspec.json.decode(document, type=_Document)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            mean, total = (file[name] for name in _ARRAYS)
        faults = tuple(Fault(one.sender, one.round, FaultKind(one.kind), one.detail) for one in stated.faults)
    except Exception as error:
        raise ConfigError(
            f"got outcome {path}, which is damaged ({error!s:.200}); restore it from a backup"
        ) from error
    return Outcome(
        mean=layout.restore(mean),
        sum=layout.restore(total, dtype="float64"),
        total_weight=stated.total_weight,
        survivors=tuple(stated.survivors),
        dropped=stated.dropped,
        faults=faults,
        clipped=stated.clipped,
        epsilon_guaranteed=stated.epsilon_guaranteed,
        epsilon_realised=stated.epsilon_realised,
    )


def describe_outcome(document: str) -> dict[str, Any]:
    """The JSON document of an outcome, for the status page: all but the arrays."""
    stated: dict[str, Any] = msgspec.json.decode(document)
    return stated

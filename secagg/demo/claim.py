"""One session as its server sees it: a client's update, what the server got for it, and the mean that it opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.demo import baseline
from secagg.lanes import vectors_size, widths
from secagg.packing import lane_dtype, packed_size, unpack_add
from secagg.simulation import Session
from secagg.table import input_round
from secagg.task import Task
from secagg.wire import Envelope

Floats = NDArray[np.float64]
_ENOUGH = 16  # coordinates for a correlation that says something


@dataclass(frozen=True, eq=False)
class Claim:
    """What the picture shows of one session of ``protocol``; vectors are flat.

    ``received`` is what the client's message holds for the server: an integer below ``modulus`` for each coordinate
    if ``by_coordinate``, else the bytes of a ciphertext or of sealed shares. ``opened`` is the mean that the server
    decoded, ``exact`` the same mean in float64.
    """

    protocol: str
    client: str
    clients: int
    update: Floats
    received: NDArray[np.integer[Any]]
    modulus: int
    by_coordinate: bool
    opened: Floats
    exact: Floats
    hides: bool  # whether the protocol hides it from the server

    @property
    def correlation(self) -> float | None:
        """Of the update with what the server received for it; None without coordinates, or with few of them."""
        if not self.by_coordinate or self.update.size < _ENOUGH or not self.update.any():
            return None
        return float(np.corrcoef(self.update, self.received.astype(np.float64))[0, 1])

    @property
    def error(self) -> float:
        """The largest difference between a coordinate of the opened mean and the exact one."""
        return float(np.abs(self.opened - self.exact).max())


class _Watched(Session):
    """A session that keeps what one client sends in the round that carries inputs."""

    victim = ""
    upload = b""

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        if party == "server" and name == input_round(self.task.protocol) and arguments[:1] == (self.victim,):
            self.upload = arguments[1]
        return super().timed(party, name, call, *arguments)


def watch(
    task: Task,
    terms: Mapping[str, Any],
    weights: Mapping[str, int] | None,
    session: bytes,
    victim: str | None = None,
) -> Claim:
    """Run one session over ``terms`` by client, and keep what the ``victim``, by default the first, sends."""
    watched = _Watched(task, sorted(terms), {}, session)
    watched.victim = min(terms) if victim is None else victim
    outcome = watched.run(terms, weights)
    layout = task.layout
    shares = [1 if weights is None else weights[client] for client in terms]
    received, modulus, by_coordinate = _read(task, watched.upload)
    return Claim(
        protocol=task.protocol.name,
        client=watched.victim,
        clients=len(terms),
        update=layout.flatten(terms[watched.victim], dtype="float64").astype(np.float64),
        received=received,
        modulus=modulus,
        by_coordinate=by_coordinate,
        hides=not task.shows_terms,
        opened=layout.flatten(outcome.mean, dtype="float64").astype(np.float64),
        exact=layout.flatten(baseline.mean(list(terms.values()), shares), dtype="float64").astype(np.float64),
    )


def _read(task: Task, upload: bytes) -> tuple[NDArray[np.integer[Any]], int, bool]:
    """The values of the message, their modulus, and whether there is one for each coordinate."""
    phase = next(phase for phase in task.protocol.phases if phase.takes_input)
    _, vectors = Envelope.parse(upload, len(upload)).open(phase.reply)
    if len(vectors) != vectors_size(task):
        return np.frombuffer(vectors, np.uint8), 256, False
    bits = widths(task)[0]
    values: Any = np.zeros(task.layout.size, lane_dtype(bits))
    unpack_add(vectors[: packed_size(values.size, bits)], bits, values)
    return values, 1 << bits, True

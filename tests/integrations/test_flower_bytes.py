"""What a round in Flower costs its nodes: bytes, as Flower sends them, counted and not timed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bench.loopback import LoopbackGrid
from secagg.integrations.flower import client_mod, layout_of
from tests.integrations.apps import make_task, secure, start

SIZE, BITS, COHORT = 100_000, 22, 16
SUM_BITS = BITS + 4  # of 16 updates of 22 bits
VECTOR = SIZE * SUM_BITS // 8


def bytes_up(protocol: Any) -> float:
    """Of a node in a round: introduction, keys, shares, masked update and what unmasks it."""
    model = ArrayRecord({"w": Array(np.zeros(SIZE, np.float32))})
    task = make_task(
        protocol,
        layout=layout_of(model),
        encoding=secagg.FixedPoint(clip=1.0, bits=BITS),
        max_clients=COHORT,
        min_survivors=11,
        max_weight=None,
    )
    app = ClientApp(mods=[client_mod(task)])

    @app.train()
    def train(message: Any, context: Any) -> Any:
        arrays = ArrayRecord({"w": Array(np.full(SIZE, 0.5, np.float32))})
        return Message(RecordDict({"a": arrays, "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    grid = LoopbackGrid([app] * COHORT)
    result = start(secure_grid := secure(grid, task), model=model).arrays["w"].numpy()
    assert len(secure_grid.outcomes[0].survivors) == COHORT
    np.testing.assert_allclose(result, 0.5, rtol=0, atol=1e-5)
    return grid.up / COHORT


@pytest.mark.parametrize(
    "protocol",
    [
        secagg.Clear(),
        secagg.SecAgg(threat_model="semi-honest"),
        secagg.SecAggPlus(threat_model="semi-honest", corruption=0.33),
    ],
    ids=lambda protocol: protocol.name,
)
def test_a_node_sends_its_vector_once_and_little_else(protocol: Any) -> None:
    """In 26 bits a coordinate, where Flower without us sends 32; keys and shares of 15 neighbours are the rest."""
    assert VECTOR <= bytes_up(protocol) <= VECTOR * 1.01 + 8192

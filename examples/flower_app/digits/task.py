"""What the server and the clients agree on: the model's shapes, the protocol, and the encoding."""

import numpy as np
from flwr.app import Array, ArrayRecord

import secagg
from secagg.corruption import ThreatModel
from secagg.integrations.flower import layout_of

CLIENTS = 4
METRICS = {"train_loss": 10.0}  # name → bound; averaged in the same sum as the updates


def first_model() -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.zeros((10, 64))), "bias": Array(np.zeros(10))})


def make_task(threat_model: ThreatModel = "malicious") -> secagg.Task:
    """The task of SuperNodes, each with a key and the roster; or "semi-honest", for Flower's simulation only."""
    return secagg.Task(
        protocol=secagg.SecAgg(corruption=0.25, threat_model=threat_model),  # one client may help the server
        layout=layout_of(first_model()),
        encoding=secagg.FixedPoint(clip=4.0, bits=20),  # no coordinate moves by more than 4 in a round
        max_clients=CLIENTS,
        min_survivors=3,  # a sum of fewer updates is never opened
        max_weight=2000,  # examples
        context=b"digits",
    )

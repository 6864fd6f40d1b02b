"""What is logged: a line a round, a line a fault, and nothing that anyone should keep."""

import logging

import numpy as np
import pytest

import secagg
from secagg.identity import enrol
from secagg.table import rounds

CLIENTS = [f"c{i}" for i in range(6)]
SECRET = 0.123456789


def test_rounds_and_faults_are_logged_and_secrets_are_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="secagg")
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=6,
        min_survivors=4,
    )
    keys, roster = enrol(CLIENTS)
    server = task.server(CLIENTS, roster=roster, session=b"s")
    clients = {c: task.client(c, identity=keys[c], roster=roster, session=b"s") for c in CLIENTS}
    for client in clients.values():
        client.contribute(np.full(3, SECRET))
    seeds = [client._state.seed for client in clients.values()]
    encoded = [client._state.contribution[0] for client in clients.values()]
    outbox = server.start()
    while server.outcome is None:
        server.receive("c0", b"SECAGG and then nonsense")
        with pytest.raises(secagg.RemoteProtocolError):
            clients["c1"].receive(b"nonsense")
        for party, request in outbox.items():
            server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    told = [record.getMessage() for record in caplog.records]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == len(rounds(task.protocol))
    assert sum("c0 in " in line and "malformed" in line for line in told) == len(rounds(task.protocol))
    everything = "\n".join(told)
    assert str(SECRET) not in everything
    for secret in [*seeds, *encoded]:
        assert secret.hex() not in everything
        assert repr(secret) not in everything
    assert repr(clients["c1"]).count("0x") <= 1  # no state in a repr

"""A client's core, which has no sockets: a whole session, restarts, retries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import secagg
from tests.remote.double import Double
from tests.remote.playing import MODEL, Client, parties_for, play, update_of

PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()


def test_a_session_of_several_rounds_ends_with_the_exact_mean(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, list(PARTIES.cohort))
    session = double.offer(MODEL, config={"epochs": 2})
    clients = [Client(PARTIES, party, tmp_path / party, double) for party in PARTIES.cohort]
    play(clients, double)
    mean = np.mean([update_of(PARTIES, party)["w"] for party in PARTIES.cohort], axis=0)
    np.testing.assert_allclose(session.outcome.mean["w"], mean, atol=1e-6)
    assert all(client.core.session is not None and client.core.session.in_sum for client in clients)
    assert not session.server.faults
    assert not list(tmp_path.glob("*/sessions/*"))
    assert all(len(set(digests)) == 1 for digests in double.uploads.values())
    for client in clients:
        client.close()

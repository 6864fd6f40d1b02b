"""The cores of clients and members, which have no sockets: whole sessions of each protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import secagg
from secagg.protocols.base import AggregationProtocol
from secagg.testing._parties import parties_for
from tests.remote.double import Double
from tests.remote.playing import MODEL, closed_folders, everyone, expected_mean, play

__all__ = ["closed_folders"]

PROTOCOLS = {
    "SecAgg": secagg.SecAgg(),
    "AdditiveShares": secagg.AdditiveShares(),
    "OneShot": secagg.OneShot(members=4, corrupt_members=1, kem="X25519"),
    "Paillier": secagg.Paillier(bits=2048),
    "BFV": secagg.BFV(),
}


@pytest.mark.usefixtures("closed_folders")
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_session_ends_with_the_exact_mean_and_nothing_secret_is_left(name: str, tmp_path: Path) -> None:
    protocol: AggregationProtocol = PROTOCOLS[name]
    parties = parties_for(protocol, 5).enrolled()
    double = Double(parties.task, parties.roster, parties.cohort)
    session = double.offer(MODEL, config={"epochs": 2})
    all_parties = everyone(parties, tmp_path, double)
    play(all_parties, double)
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(parties), atol=1e-6)
    assert not session.server.faults
    assert not list(tmp_path.glob("*/sessions/*"))
    assert not list(tmp_path.glob("*/offer.json"))
    assert all(len(set(digests)) == 1 for digests in double.uploads.values())

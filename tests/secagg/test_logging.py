"""What is logged: a line a round, a line a fault, and nothing that anyone should keep."""

import logging
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.table import rounds
from secagg.testing import MemoryStore, Session, parties_for

SECRET = 0.123456789


def test_rounds_and_faults_are_logged_and_secrets_are_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="secagg")
    session = Session(parties_for(secagg.SecAgg(), 6), contribute=False)
    for party in session.parties.cohort:
        session.updates[party] = {"w": np.full(5, SECRET)}
        session.contribute(party)
    task, clients = session.task, session.members
    seeds = [client._state.seed for client in clients.values()]
    encoded = [client._state.contribution[0] for client in clients.values()]

    def after_request(party: str, request: bytes) -> None:
        if party == "c1":
            session.server.receive("c2", b"SECAGG and then nonsense")
            with pytest.raises(secagg.RemoteProtocolError):
                clients["c1"].receive(b"nonsense")

    session.after_request = after_request
    session.run()
    lines = [record.getMessage() for record in caplog.records]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == len(rounds(task.protocol))
    assert sum("c2 in " in line and "malformed" in line for line in lines) == len(rounds(task.protocol))
    everything = "\n".join(lines)
    assert str(SECRET) not in everything
    for secret in [*seeds, *encoded]:
        assert secret.hex() not in everything
        assert repr(secret) not in everything
    assert repr(clients["c1"]).count("0x") <= 1  # no state in a repr


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return lines


@pytest.mark.parametrize(
    ("protocol", "warned"),
    [(secagg.Clear(), False), (secagg.SecAgg(threat_model="semi-honest"), True), (secagg.SecAgg(), True)],
    ids=["Clear", "SecAgg/semi-honest", "SecAgg"],
)
def test_a_client_without_a_ledger_warns_when_it_joins_and_then_no_more(
    protocol: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """But not where the server reads each input by itself: there, a second one tells it nothing new."""
    session, lines = Session(parties_for(protocol, 5)), list[str]()
    *others, _ = session.parties.cohort
    for party in others:
        session.members[party] = session.make(party, save=None)
        session.contribute(party)
    assert warnings(caplog) == []
    session.until(rounds(protocol)[0])
    while session.server.outcome is None:
        session.exchange(session.outbox)
        lines += warnings(caplog)
        session.close()
    assert len(lines) == (len(others) if warned else 0)
    for party, line in zip(others, lines, strict=False):
        assert line.startswith(f"{party} has no ledger: if it is made anew, it would upload again in session ")
        assert "save= a store that has one" in line


@pytest.mark.parametrize(
    ("protocol", "party", "warned"),
    [
        (secagg.SecAgg(threat_model="semi-honest"), "c1", False),
        (secagg.SecAgg(), "c1", True),
        (secagg.AdditiveShares(), "c1", True),
        (secagg.AdditiveShares(), "aggregator-1", True),
        (secagg.OneShot(), "decryptor-1", True),
    ],
    ids=["SecAgg/semi-honest", "SecAgg", "AdditiveShares", "its aggregator", "a member of OneShot"],
)
def test_a_store_without_a_ledger_is_warned_of_under_a_server_that_may_lie(
    protocol: Any, party: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(parties_for(protocol, 5))
    for save in (None, MemoryStore()):
        session.make(party, save=save)
        assert warnings(caplog) == []
    store = MemoryStore()
    store.ledger = None
    role = session.make(party, save=store)
    lines = warnings(caplog)
    assert len(lines) == warned
    session.restore(party, role.to_bytes(), save=store)
    assert warnings(caplog) == lines, "a restored one says so again"
    for line in lines:
        assert line.startswith(f"{party} has a store without a ledger under a malicious server")
        assert "save= a store that has one" in line

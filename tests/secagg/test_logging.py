"""What is logged: a line a round, a line a fault, and nothing that anyone should keep."""

import logging
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.identity import PartyRole, enrol
from secagg.store import Ledger, MemoryLedger
from secagg.table import rounds
from secagg.testing import Parties, parties_for

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


class Kept:
    """A store, with a ledger or without."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger
        self.last = b""

    def __call__(self, number: int, state: bytes) -> None:
        self.last = state


def made(parties: Parties, task: secagg.Task, party: str, save: Kept | None) -> Any:
    """A role of a session, with an update if it is a client."""
    roster, identity = parties.roster, parties.identities.get(party)
    make = task.client if parties.roles[party] is PartyRole.CLIENT else task.aggregator
    role = make(party, identity=identity, roster=roster, session=b"s", save=save, key=parties.long_lived.get(party))
    if isinstance(role, secagg.Client):
        role.contribute(np.zeros(3), weight=1)
    return role


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


@pytest.mark.parametrize(
    ("protocol", "warned"),
    [(secagg.Clear(), False), (secagg.SecAgg(threat_model="semi-honest"), True), (secagg.SecAgg(), True)],
    ids=["Clear", "SecAgg/semi-honest", "SecAgg"],
)
def test_a_client_without_a_ledger_warns_when_it_joins_and_then_no_more(
    protocol: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """But not where the server reads each input by itself: there, a second one tells it nothing new."""
    parties = parties_for(protocol, 5)
    task = parties.make_task(layout=secagg.Layout.of(np.zeros(3)))
    server = task.server(parties.cohort, roster=parties.roster, session=b"s")
    clients = {party: made(parties, task, party, None) for party in parties.cohort[:-1]}
    last = parties.cohort[-1]
    clients[last] = made(parties, task, last, Kept(MemoryLedger()))
    assert warnings(caplog) == []
    outbox, told = server.start(), list[str]()
    while server.outcome is None:
        for party, request in outbox.items():
            server.receive(party, clients[party].receive(request))
        told += warnings(caplog)
        outbox = server.close_round()
    assert len(told) == (len(parties.cohort) - 1 if warned else 0)
    for party, line in zip(parties.cohort, told, strict=False):
        assert line.startswith(f"{party} has no ledger: if it is made anew, it would upload again in session ")
        assert "save= a store that has one" in line


@pytest.mark.parametrize(
    ("protocol", "party", "warned"),
    [
        (secagg.SecAgg(threat_model="semi-honest"), "c1", False),
        (secagg.SecAgg(), "c1", True),
        (secagg.AdditiveShares(), "c1", True),
        (secagg.AdditiveShares(), "aggregator-1", True),
    ],
    ids=["SecAgg/semi-honest", "SecAgg", "AdditiveShares", "its aggregator"],
)
def test_a_store_without_a_ledger_is_warned_of_under_a_server_that_may_lie(
    protocol: Any, party: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parties = parties_for(protocol, 5)
    task = parties.make_task(layout=secagg.Layout.of(np.zeros(3)))
    for save in (None, Kept(MemoryLedger())):
        made(parties, task, party, save)
        assert warnings(caplog) == []
    store = Kept()
    role = made(parties, task, party, store)
    told = warnings(caplog)
    assert len(told) == warned
    restore = task.restore_client if isinstance(role, secagg.Client) else task.restore_aggregator
    restore(
        role.to_bytes(),
        identity=parties.identities.get(party),
        roster=parties.roster,
        save=store,
        key=parties.long_lived.get(party),
    )
    assert warnings(caplog) == told, "a restored one says so again"
    for line in told:
        assert line.startswith(f"{party} has a store without a ledger under a malicious server")
        assert "save= a store that has one" in line

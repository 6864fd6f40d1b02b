"""Central differential privacy as an encoding: one noise of the server's on the sum of every protocol."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from secagg.errors import ConfigError, LocalProtocolError
from secagg.testing import rng_for_tests
from tests.secagg.test_noise import CLIENTS, SIZE, make_task, make_updates

NOISED = dp.CentralGaussian(l2_clip=1.0, noise_multiplier=1.1)
EXACT = replace(NOISED, noise_multiplier=1e-6)
IDS = [f"c{i:02}" for i in range(CLIENTS)]
UPDATES = dict(zip(IDS, make_updates(), strict=True))


@pytest.mark.parametrize(
    "protocol", [secagg.Clear(), secagg.SecAgg(corruption=0.1), secagg.BFV()], ids=lambda protocol: protocol.name
)
def test_the_sum_has_one_noise_under_every_protocol(protocol: Any) -> None:
    task = make_task(protocol=protocol, encoding=NOISED)
    outcome = secagg.simulate(task, UPDATES)
    noise = np.std(outcome.sum - np.sum(list(UPDATES.values()), axis=0))
    assert abs(noise / 1.1 - 1) < 6 / np.sqrt(2 * SIZE)
    assert outcome.epsilon_guaranteed == outcome.epsilon_realised == NOISED.epsilon(SIZE)
    assert "central trust: the server sees the exact sum" in task.describe()
    assert secagg.Task.from_bytes(task.to_bytes()) == task


def test_without_noise_the_sum_is_that_of_the_roundings() -> None:
    outcome = secagg.simulate(make_task(encoding=EXACT), UPDATES)
    step = 1 / (2**15 - 1)
    assert np.abs(outcome.sum / step - np.rint(outcome.sum / step)).max() < 1e-6
    assert np.abs(outcome.sum - np.sum(list(UPDATES.values()), axis=0)).max() < CLIENTS * step


def server_after(received: list[str], encoding: Any = NOISED) -> tuple[secagg.Server[Any], Any]:
    """A server in the clear that was sent the updates of ``received``, and what its other clients would send."""
    task = make_task(protocol=secagg.Clear(), encoding=encoding)
    server = task.server(IDS, session=b"1", rng=rng_for_tests(b"server"))
    outbox, replies = server.start(), {}
    for number, party in enumerate(IDS):
        client = task.client(party, session=b"1", rng=rng_for_tests(b"%d" % number))
        client.contribute(UPDATES[party])
        replies[party] = client.receive(outbox[party])
    for party in received:
        server.receive(party, replies[party])
    return server, replies


def restored(server: secagg.Server[Any]) -> secagg.Server[Any]:
    return server.context.task.restore_server(server.to_bytes())


def test_a_server_that_is_restored_shows_the_same_noise() -> None:
    server, _ = server_after(IDS)
    server.close_round()
    again = [restored(server).outcome for _ in range(3)]
    assert all((outcome.sum == server.outcome.sum).all() for outcome in again)  # type: ignore[union-attr]


def test_control_fresh_noise_at_every_decoding_averages_away(monkeypatch: pytest.MonkeyPatch) -> None:
    real, rng = dp.CentralGaussian.for_server, np.random.default_rng(0)
    monkeypatch.setattr(dp.CentralGaussian, "for_server", lambda self, key: real(self, rng.bytes(32)))
    server, _ = server_after(IDS)
    server.close_round()
    mean = np.mean([restored(server).outcome.sum for _ in range(300)], axis=0)  # type: ignore[union-attr]
    assert np.std(mean - np.sum(list(UPDATES.values()), axis=0)) < 0.1


def test_two_ends_of_one_session_differ_by_more_than_the_last_update() -> None:
    """The server is set back to before the last input came, and closes with and without it."""
    server, replies = server_after(IDS[:-1])
    early = restored(server)
    server.close_round()
    early.receive(IDS[-1], replies[IDS[-1]])
    early.close_round()
    difference = early.outcome.sum - server.outcome.sum  # type: ignore[union-attr]
    assert np.std(difference - UPDATES[IDS[-1]]) > 1.1


def test_no_key_is_drawn_where_clients_add_the_noise_or_nobody() -> None:
    for encoding in (secagg.FixedPoint(1.0), dp.DistributedGaussian(1.0, 1.0, 18)):
        task = make_task(protocol=secagg.Clear(), encoding=encoding)
        assert task.server(IDS, session=b"1").context.state.noise_key == b""
    keys = {
        make_task(encoding=NOISED, protocol=secagg.Clear()).server(IDS, session=b"1").context.state.noise_key
        for _ in "ab"
    }
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}


def test_a_client_may_charge_it_to_a_ledger_of_central_trust() -> None:
    task = make_task(encoding=NOISED)
    ledgers = {party: dp.PrivacyLedger(5.0, 1e-5, unit="client", trust="central") for party in IDS}
    outcome = secagg.simulate(task, UPDATES, budgets=ledgers)
    assert {ledger.spent for ledger in ledgers.values()} == {outcome.epsilon_guaranteed}
    with pytest.raises(LocalProtocolError, match="the budget is 5"):
        secagg.simulate(task, UPDATES, budgets=ledgers)
    other = {party: dp.PrivacyLedger(5.0, 1e-5, unit="client", trust="distributed") for party in IDS}
    with pytest.raises(LocalProtocolError, match="trust 'central'"):
        secagg.simulate(task, UPDATES, budgets=other)


def test_weights_and_noise_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="all count the same"):
        make_task(encoding=NOISED, max_weight=3)

"""One loop drives every shape of protocol: masks, a decryptor, two aggregators, a committee."""

import numpy as np
import pytest

import secagg
from secagg.protocols.base import AggregationProtocol
from secagg.simulation import enrol_for
from secagg.table import input_round
from tests.secagg.shapes import AggregatorsShape, CommitteeShape, DecryptorShape

SHAPES = [
    secagg.Clear(),
    secagg.SecAgg(),
    secagg.SecAgg(threat_model="semi-honest"),
    DecryptorShape(),
    secagg.AdditiveShares(),
    AggregatorsShape(),
    CommitteeShape(),
]


@pytest.fixture(params=SHAPES, ids=lambda protocol: f"{protocol.name} {getattr(protocol, 'threat_model', '')}")
def protocol(request: pytest.FixtureRequest) -> AggregationProtocol:
    return request.param


def make_task(protocol: AggregationProtocol) -> secagg.Task:
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of({"w": np.zeros((3, 5)), "b": np.zeros(2, np.float32)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=8,
        min_survivors=5,
        max_weight=10,
    )


def make_updates(seed: int, clients: int = 7) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, int]]:
    rng = np.random.default_rng(seed)
    ids = [f"c{i}" for i in range(clients)]
    updates = {c: {"w": rng.uniform(-1, 1, (3, 5)), "b": rng.uniform(-1, 1, 2).astype("f4")} for c in ids}
    return updates, {c: int(rng.integers(1, 11)) for c in ids}


def test_sum_equals_that_of_clear(protocol: AggregationProtocol) -> None:
    updates, weights = make_updates(1)
    dropouts = {"c3": input_round(protocol)}
    result = secagg.simulate(make_task(protocol), updates, weights=weights, dropouts=dropouts)
    clear = secagg.simulate(
        make_task(secagg.Clear()), updates, weights=weights, dropouts={"c3": secagg.Round.INPUT}
    )
    assert result.survivors == clear.survivors == ("c0", "c1", "c2", "c4", "c5", "c6")
    assert dict(result.dropped) == {"c3": input_round(protocol)}
    for leaf in ("w", "b"):
        np.testing.assert_array_equal(result.sum[leaf], clear.sum[leaf])
        np.testing.assert_array_equal(result.mean[leaf], clear.mean[leaf])


def test_too_few_open_nothing(protocol: AggregationProtocol) -> None:
    updates, weights = make_updates(2)
    dropouts = dict.fromkeys(["c0", "c1", "c2"], input_round(protocol))
    with pytest.raises(secagg.Aborted, match=r"got 4 .*; 5 are needed"):
        secagg.simulate(make_task(protocol), updates, weights=weights, dropouts=dropouts)


def test_everyone_but_the_server_talks_to_the_server_only(protocol: AggregationProtocol) -> None:
    updates, weights = make_updates(3)
    result = secagg.simulate(make_task(protocol), updates, weights=weights)
    for parties in (result.bytes_up, result.bytes_down):
        others = sum(sum(by_round.values()) for party, by_round in parties.items() if party != "server")
        assert others > 0
    assert sum(result.bytes_down["server"].values()) == sum(
        sum(by_round.values()) for party, by_round in result.bytes_up.items() if party != "server"
    )
    assert sum(result.bytes_up["server"].values()) == sum(
        sum(by_round.values()) for party, by_round in result.bytes_down.items() if party != "server"
    )


def test_a_client_that_named_no_session_looks_at_the_proposed_one_first(protocol: AggregationProtocol) -> None:
    """It takes part in any protocol, be the proposal the request for its input or not."""
    task, (updates, weights) = make_task(protocol), make_updates(4)
    identities, roster, keys = enrol_for(task, sorted(updates))
    server = task.server(updates, roster=roster, session=b"round 9")
    make = {"client": task.client, "decryptor": task.decryptor, "aggregator": task.aggregator}
    roles = dict.fromkeys(updates, "client") | {p.id: str(p.role) for p in (roster or {}).values()}
    members = {
        party: make[role](
            party, identity=identities.get(party), roster=roster, **({"key": keys[party]} if party in keys else {})
        )
        for party, role in roles.items()
    }
    for client in updates:
        assert members[client].session is None
        with pytest.raises(secagg.LocalProtocolError, match="before the session is known"):
            members[client].contribute(updates[client], weight=weights[client])

    def deliver(outbox: dict[str, bytes]) -> None:
        for party, request in outbox.items():
            try:
                reply = members[party].receive(request)
            except secagg.LocalProtocolError:
                assert members[party].session == b"round 9"
                members[party].contribute(updates[party], weight=weights[party])
                reply = members[party].receive(request)
            if reply is not None:
                deliver(server.receive(party, reply))

    outbox = server.start()
    while server.outcome is None:
        deliver(outbox)
        outbox = server.close_round()
    assert server.outcome.total_weight == sum(weights.values())

"""A server's last round on the complete graph, beside Flower's: ``pytest bench/test_unmask.py``.

A hundred clients, 10^6 coordinates, ten of the clients gone after they dealt their shares. Ours is timed
from the first reveal that arrives to the decoded sum, signatures and commitments included; Flower's from
the collected shares to the unmasked integers, by the functions that its workflow calls, as it calls them.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import secagg

CLIENTS, GONE, SIZE, THRESHOLD = 100, 10, 10**6, 67
IDS = [f"c{number:02}" for number in range(CLIENTS)]

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def recorded() -> tuple[Any, Any, bytes, dict[str, bytes]]:
    """The server's state when Unmasking opens, and what the survivors then answer."""
    update = np.linspace(-0.9, 0.9, SIZE, dtype=np.float32)
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(update),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=CLIENTS,
        min_survivors=CLIENTS - GONE,
    )
    identities, roster = secagg.identity.enrol(IDS)
    server = task.server(IDS, roster=roster, session=b"bench")
    clients = {c: task.client(c, identity=identities[c], roster=roster, session=b"bench") for c in IDS}
    outbox = server.start()
    while server.round != secagg.Round.UNMASKING:
        for party, request in outbox.items():
            if server.round == secagg.Round.MASKED_INPUT:
                if party in IDS[:GONE]:
                    continue
                clients[party].contribute(update)
            reply = clients[party].receive(request)
            assert reply is not None
            server.receive(party, reply)
        outbox = server.close_round()
    answers = {party: clients[party].receive(request) for party, request in outbox.items()}
    return task, roster, server.to_bytes(), {party: answer for party, answer in answers.items() if answer}


@pytest.mark.benchmark(group="unmask, n=100, d=1e6, 10 gone", warmup=False)
def test_unmask(benchmark: Any, recorded: Any) -> None:
    task, roster, state, answers = recorded

    def restored() -> tuple[tuple[Any], dict[str, Any]]:
        return (secagg.Server.from_bytes(state, task, roster=roster),), {}

    def unmask(server: Any) -> secagg.Outcome:
        for party, answer in answers.items():
            server.receive(party, answer)
        server.close_round()
        outcome: secagg.Outcome = server.outcome
        return outcome

    outcome = benchmark.pedantic(unmask, setup=restored, rounds=5)
    assert len(outcome.survivors) == CLIENTS - GONE
    np.testing.assert_allclose(outcome.mean, np.linspace(-0.9, 0.9, SIZE), atol=1e-4)


@pytest.mark.benchmark(group="unmask, n=100, d=1e6, 10 gone", warmup=False)
def test_unmask_flower(benchmark: Any) -> None:
    pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[peers]'")
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.supercore.primitives import asymmetric

    modulus = 1 << 32
    vector = [np.zeros(SIZE, dtype=np.int64)]
    pairs = [asymmetric.generate_key_pairs() for _ in range(CLIENTS)]
    public = [asymmetric.public_key_to_bytes(key) for _, key in pairs]
    secrets = [
        asymmetric.private_key_to_bytes(pairs[node][0]) if node < GONE else os.urandom(32)
        for node in range(CLIENTS)
    ]
    shares = [shamir.create_shares(secret, THRESHOLD, CLIENTS)[GONE:] for secret in secrets]

    def unmask() -> list[Any]:
        masked = vector
        for node in range(CLIENTS):
            secret = shamir.combine_shares(shares[node])
            if node >= GONE:
                mask = pseudo_rand_gen(secret, modulus, arithmetic.get_parameters_shape(masked))
                masked = arithmetic.parameters_subtraction(masked, mask)
                continue
            for other in set(range(CLIENTS)) - {node}:
                shared = generate_shared_key(
                    asymmetric.bytes_to_private_key(secret), asymmetric.bytes_to_public_key(public[other])
                )
                mask = pseudo_rand_gen(shared, modulus, arithmetic.get_parameters_shape(masked))
                change = arithmetic.parameters_addition if node > other else arithmetic.parameters_subtraction
                masked = change(masked, mask)
        found: list[Any] = arithmetic.parameters_mod(masked, modulus)
        return found

    assert benchmark.pedantic(unmask, rounds=1)[0].any()

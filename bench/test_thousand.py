"""One and two thousand clients on a sparse graph, and a server that may lie: ``pytest bench/test_thousand.py``.

A tenth of them fall silent before their input. All parties are in one process, and every client checks for itself.
What is timed is the work of all clients and a server; most of it is the clients' checking of signatures.
"""

from typing import Any

import numpy as np
import pytest

import secagg


@pytest.mark.benchmark(group="session on a sparse graph, a tenth gone", warmup=False)
@pytest.mark.parametrize(("clients", "size"), [(1000, 10_000), (2000, 1000)])
def test_thousands(benchmark: Any, clients: int, size: int) -> None:
    gone = clients // 10
    task = secagg.Task(
        protocol=secagg.SecAggPlus(threat_model="semi-malicious"),
        layout=secagg.Layout.of(np.zeros(size)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=clients,
        min_survivors=clients - gone,
    )
    rng = np.random.default_rng(0)
    updates = {f"c{number:04}": rng.uniform(-1, 1, size) for number in range(clients)}
    silent = dict.fromkeys(list(updates)[::10], secagg.Round.MASKED_INPUT)
    result: secagg.Simulation = benchmark.pedantic(secagg.simulate, (task, updates), {"dropouts": silent}, rounds=1)
    assert set(result.survivors) == set(updates) - set(silent)
    assert len(silent) == gone
    units = sum(np.rint(updates[party] * 32767).astype(np.int64) for party in result.survivors)
    np.testing.assert_array_equal(np.rint(np.asarray(result.sum) * 32767).astype(np.int64), units)

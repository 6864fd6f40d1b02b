"""A thousand clients on a sparse graph, against a server that may lie: ``pytest bench/test_thousand.py``.

A hundred of them fall silent before their input. All parties are in one process, so what is timed is the
work of a thousand clients and a server; most of it is the clients' checking of signatures.
"""

from typing import Any

import numpy as np
import pytest

import secagg

CLIENTS, GONE, SIZE = 1000, 100, 10_000


@pytest.mark.benchmark(group="session, n=1,000, d=10,000, 100 gone", warmup=False)
def test_thousand(benchmark: Any) -> None:
    task = secagg.Task(
        protocol=secagg.SecAggPlus(threat_model="semi-malicious"),
        layout=secagg.Layout.of(np.zeros(SIZE)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=CLIENTS,
        min_survivors=CLIENTS - GONE,
    )
    rng = np.random.default_rng(0)
    updates = {f"c{number:04}": rng.uniform(-1, 1, SIZE) for number in range(CLIENTS)}
    silent = dict.fromkeys(list(updates)[::10], secagg.Round.MASKED_INPUT)
    result: secagg.Simulation = benchmark.pedantic(secagg.simulate, (task, updates), {"dropouts": silent}, rounds=1)
    assert set(result.survivors) == set(updates) - set(silent)
    assert len(silent) == GONE
    units = sum(np.rint(updates[party] * 32767).astype(np.int64) for party in result.survivors)
    np.testing.assert_array_equal(np.rint(np.asarray(result.sum) * 32767).astype(np.int64), units)

"""The last round of a server on the complete graph, compared with Flower's: ``pytest bench/test_unmask.py``.

A hundred clients, 10^6 coordinates, ten of the clients gone after they dealt their shares: the comparison of
``python -m bench peers`` at a larger size, which takes Flower two minutes.
"""

from typing import Any

import pytest

from bench import peer_mpc

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[peers]'")


@pytest.fixture(scope="module")
def pair() -> Any:
    return peer_mpc.unmask(clients=100, gone=10, threshold=67, size=10**6)


@pytest.mark.benchmark(group="unmask, n=100, d=1e6, 10 gone", warmup=False)
def test_unmask(benchmark: Any, pair: Any) -> None:
    benchmark.pedantic(pair.ours.run, setup=lambda: ((pair.ours.setup(),), {}), rounds=5)


@pytest.mark.benchmark(group="unmask, n=100, d=1e6, 10 gone", warmup=False)
def test_unmask_flower(benchmark: Any, pair: Any) -> None:
    benchmark.pedantic(pair.theirs.run, rounds=1)

"""The Python of docs/federated.md runs as it stands, in its order."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.federated import DPSGD, RandomK, likelihood

TEXT = (Path(__file__).parents[3] / "docs" / "federated.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pasted() -> dict[str, Any]:
    """The names of an interpreter into which the blocks were pasted."""
    names: dict[str, Any] = {"__name__": "pasted"}
    for section in ("Algorithms", "Clients and DP-SGD", "Compression", "Robustness"):
        body = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        blocks = re.findall(r"^```python\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
        assert blocks
        for block in blocks:
            exec(compile(block, "federated.md", "exec"), names)
    return names


def test_the_documents_train(pasted: dict[str, Any]) -> None:
    assert pasted["state"].rounds == 4
    assert pasted["noise"] == 0
    assert pasted["model"]["b"] == pytest.approx(0.168, abs=1e-3)  # as far as stochastic rounding has it
    assert 3.99 < pasted["ledger"].spent <= 4


def test_the_documents_compress_and_expand(pasted: dict[str, Any]) -> None:
    truth = np.mean([pasted["layout"].flatten(update) for update in pasted["updates"].values()], axis=0)
    sent = pasted["outcome"].mean
    chosen = pasted["compression"].coordinates(pasted["compression"].session(b"round 3"))
    assert sent == pytest.approx(truth[chosen], abs=1e-4)
    assert not pasted["residual"].vector.any()  # erased
    assert len(pasted["vector"]) == 256


def test_the_documents_combine_groups(pasted: dict[str, Any]) -> None:
    assert len(pasted["means"]) == 3
    flat = [secagg.Layout.of(mean).flatten(mean) for mean in pasted["means"]]
    assert pasted["layout"].flatten(pasted["mean"]) == pytest.approx(np.median(flat, axis=0))


def test_the_table_of_bytes_is_what_protocols_cost() -> None:
    protocols = [
        secagg.SecAgg(corruption=0.05),
        secagg.SecAggPlus(),
        secagg.AdditiveShares(),
        secagg.Paillier(),
        secagg.CKKS(),
        secagg.BFV(),
    ]
    for protocol in protocols:
        cells = []
        for size, bits in ((10**3, 16), (10**4, 16), (10**5, 16), (10**5, 8)):
            layout = secagg.Layout.of(np.zeros(size))
            for sent in (layout, RandomK(layout, size // 10).compressed):
                task = secagg.Task(protocol, sent, secagg.FixedPoint(1.0, bits), max_clients=20, min_survivors=15)
                cells.append(f"{sum(protocol.cost(task).up.values()):,}")
        assert f"| {protocol.name} | {' | '.join(cells)} |\n" in TEXT


def test_the_table_of_likelihoods_is_what_draws_give() -> None:
    for clients, groups, bad in ((20, 5, 2), (100, 11, 5), (100, 21, 10)):
        chances = [likelihood(clients, groups, liars, bad) for liars in (2, 3, 4, 6, 8, 10, 15)]
        cells = ["1" if p == 1 else f"{p:.3f}" if p >= 0.0005 else "< 0.001" for p in chances]
        assert f"| {clients} | {groups} | {bad} | {' | '.join(cells)} |\n" in TEXT


def test_figures_in_sentences_are_what_is_counted() -> None:
    def upload(clients: int, size: int) -> int:
        layout = secagg.Layout.of(np.zeros(size))
        task = secagg.Task(secagg.SecAgg(), layout, secagg.FixedPoint(0.5, 16), clients, clients)
        return sum(task.protocol.cost(task).up.values())

    text = " ".join(TEXT.split())
    less = [upload(20, 10_000) / upload(20, 1000), upload(20, 2410) / upload(20, 241)]
    assert (
        "is {:.1f} times less to send under `SecAgg`, and of the 2,410 of this network {:.1f}".format(*less) in text
    )
    assert f"at 100,000 coordinates {upload(100, 100_000) / upload(100, 10_000):.1f} times less" in text
    assert f"costs {upload(20, 1):,} bytes a client for a single coordinate, {upload(20, 100):,} for 100" in text
    many, once = (DPSGD(1.0, 1.0).epsilon(1e-5, rate=rate, steps=400) for rate in (1.0, 0.01))
    assert f"of one batch would cost ε = {many:.0f} where the ledger says {once:.1f}" in text
    assert f"four are in one group with probability {likelihood(20, 5, 2, 1):.3f}" in text

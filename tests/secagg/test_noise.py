"""Distributed differential privacy as an encoding: with every protocol, calibrated by the task, and charged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from secagg.errors import ConfigError, EncodingError, LocalProtocolError
from secagg.table import input_round
from secagg.testing import rng_for_tests

SIZE, CLIENTS = 300, 12
GAUSSIAN = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.1, bits=18)
SKELLAM = dp.DistributedSkellam(l2_clip=1.0, noise_multiplier=1.1, bits=18)
PROTOCOLS: list[Any] = [
    secagg.Clear(),
    secagg.SecAgg(corruption=0.1),
    secagg.SecAggPlus(),
    secagg.AdditiveShares(),
    secagg.OneShot(kem="X25519"),
    secagg.Paillier(bits=2048),
    secagg.BFV(),
    secagg.CKKS(),
    secagg.BFV(holder="clients"),
    secagg.CKKS(holder="clients"),
]
#: Where the server reads each term: by itself, or with the key that any one client could give it.
SHOWN = [protocol for protocol in PROTOCOLS if protocol.name in ("Clear", "BFV/clients", "CKKS/clients")]


def make_task(**changes: Any) -> secagg.Task:
    fields: dict[str, Any] = {
        "protocol": secagg.SecAgg(corruption=0.1),
        "layout": secagg.Layout.of(np.zeros(SIZE)),
        "encoding": GAUSSIAN,
        "max_clients": CLIENTS,
        "min_survivors": CLIENTS - 1,
    }
    return secagg.Task(**(fields | changes))


def make_updates(norm: float = 0.9) -> list[Any]:
    normal = np.random.default_rng(5).normal(size=(CLIENTS, SIZE))
    return [norm * update / np.linalg.norm(update) for update in normal]


@pytest.mark.parametrize("encoding", [GAUSSIAN, SKELLAM], ids=["gaussian", "skellam"])
def test_no_term_is_reduced(encoding: Any) -> None:
    """OneShot and the ciphertexts add over the integers, so a sum of reduced terms would show how many are.

    Reduced, the term of a small update would be near zero or near the modulus.
    """
    task = make_task(encoding=encoding)
    (term,) = task.encoder_for(b"round 1").encode(
        np.zeros(SIZE), layout=task.layout, weight=None, max_weight=None, rng=rng_for_tests(b"terms")
    )
    modulus = task.segments[0].modulus
    assert modulus is not None
    assert (np.abs(term.astype(np.int64) - modulus // 2) < modulus // 4).all()


@pytest.mark.parametrize("encoding", [GAUSSIAN, SKELLAM], ids=["gaussian", "skellam"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_the_sum_has_the_noise_that_was_asked_for(protocol: Any, encoding: Any) -> None:
    """12 clients' shares of noise that h of them would make 1.1 wide: sqrt(12/h) as wide, within six sigma."""
    task, updates = make_task(protocol=protocol, encoding=encoding), make_updates()
    outcome = secagg.simulate(task, updates)
    width = 1.1 * np.sqrt(CLIENTS / task.honest)
    measured = np.std(outcome.sum - np.sum(updates, axis=0))
    assert abs(measured / width - 1) < 6 / np.sqrt(2 * SIZE)
    assert outcome.epsilon_guaranteed == task.encoder.epsilon(SIZE)  # type: ignore[attr-defined]
    assert outcome.epsilon_realised is not None
    assert outcome.epsilon_guaranteed is not None
    assert outcome.epsilon_guaranteed < 5.5
    if protocol in SHOWN:
        assert task.honest == 1
        assert outcome.epsilon_realised == outcome.epsilon_guaranteed, "others' noise hides no term"
    else:
        assert task.honest == 10
        assert outcome.epsilon_realised < outcome.epsilon_guaranteed
    assert (outcome.clipped, outcome.total_weight) == (None, CLIENTS)


def test_without_noise_to_speak_of_the_sum_is_right() -> None:
    """The control: what the noise hides is the sum itself, and not something else."""
    encoding = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1e-4, bits=24)
    updates = make_updates()
    outcome = secagg.simulate(make_task(encoding=encoding), updates)
    assert np.max(np.abs(outcome.sum - np.sum(updates, axis=0))) < 0.01


def rotation(task: secagg.Task, session: bytes, seed: bytes) -> Any:
    """What the server gets of one client's update, which nothing to speak of was added to, as it was rotated."""
    server = task.server(["c00"], session=session)
    client: Any = task.client("c00", session=session, rng=rng_for_tests(seed))
    client.contribute(make_updates()[0])
    server.receive("c00", client.receive(server.start()["c00"]))
    return server.context.sums[0].astype(np.int64)


def test_every_session_has_a_rotation_of_its_own() -> None:
    """So that an update that one rotation spreads badly is not spread badly in every round of the run."""
    quiet = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1e-4, bits=24, k_stddevs=24.0)
    task = make_task(protocol=secagg.Clear(), encoding=quiet, max_clients=1, min_survivors=1)
    first, again, second = (rotation(task, name, seed) for name, seed in ((b"1", b"x"), (b"1", b"y"), (b"2", b"x")))
    length = np.linalg.norm(first - (1 << 23))
    assert np.linalg.norm(first - again) < 0.01 * length, "all clients of a session rotate alike"
    assert np.linalg.norm(first - second) > 0.5 * length
    seeds = {task.encoder_for(name).seed for name in (b"", b"1", b"2")}  # type: ignore[attr-defined]
    other = replace(task, encoding=replace(quiet, seed=b"1")).encoder_for(b"").seed  # type: ignore[attr-defined]
    assert len(seeds | {other, b""}) == 5
    assert task.encoder_for(b"1").grid(SIZE) is task.encoder_for(b"2").grid(SIZE)  # type: ignore[attr-defined]
    plain = replace(task, encoding=secagg.FixedPoint(clip=1.0))
    assert plain.encoder_for(b"1") is plain.encoding


def test_dropouts_cost_privacy_no_more_than_the_task_allows_for() -> None:
    task, updates = make_task(), make_updates()
    all_there = secagg.simulate(task, updates)
    one_gone = secagg.simulate(task, updates, dropouts={"c3": input_round(task.protocol)})
    assert all_there.epsilon_guaranteed == one_gone.epsilon_guaranteed
    assert all_there.epsilon_realised is not None
    assert one_gone.epsilon_realised is not None
    assert one_gone.epsilon_guaranteed is not None
    assert all_there.epsilon_realised < one_gone.epsilon_realised <= one_gone.epsilon_guaranteed


def test_the_task_carries_the_encoding_as_it_was_written() -> None:
    task = make_task()
    again = secagg.Task.from_bytes(task.to_bytes())
    assert again == task
    assert (again.encoding.clients, again.encoder.clients) == (0, CLIENTS)  # type: ignore[attr-defined]
    assert again.encoder.honest == task.honest == CLIENTS - 2  # type: ignore[attr-defined]
    assert "epsilon" in task.describe()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"max_weight": 10}, "expected max_weight=None"),
        ({"encoding": replace(GAUSSIAN, bits=3)}, "bits"),
        ({"encoding": replace(GAUSSIAN, clients=20, honest=5, corrupt=1)}, "expected clients=12"),
        ({"encoding": replace(GAUSSIAN, clients=12, honest=11, corrupt=1)}, "guarantees 10 honest"),
    ],
)
def test_what_doesnt_fit_is_a_config_error(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make_task(**changes)


def test_a_bad_update_is_an_encoding_error() -> None:
    updates = make_updates()
    updates[4][7] = np.nan
    with pytest.raises(EncodingError, match="not finite"):
        secagg.simulate(make_task(), updates)


class ClearSession:
    """One session of Clear, whose clients have a budget."""

    def __init__(self, budget: Any, session: bytes) -> None:
        self.task = make_task(protocol=secagg.Clear())
        ids = [f"c{i:02}" for i in range(CLIENTS)]
        self.server = self.task.server(ids, session=session)
        self.client = self.task.client("c00", session=session, budget=budget)
        self.client.contribute(make_updates()[0])
        self.request = self.server.start()["c00"]


def test_the_guaranteed_epsilon_is_charged_when_the_input_leaves() -> None:
    budget = dp.PrivacyLedger(9.0, 1e-5, unit="client", trust="local")
    first = ClearSession(budget, b"1")
    assert budget.spent == 0
    reply = first.client.receive(first.request)
    once = budget.spent
    assert once == pytest.approx(first.task.encoder.epsilon(SIZE), rel=1e-6)  # type: ignore[attr-defined]
    assert first.client.receive(first.request) == reply
    assert budget.spent == once  # the same bytes again are not a second release
    second = ClearSession(budget, b"2")
    second.client.receive(second.request)
    assert budget.spent > once


def test_past_the_budget_nothing_leaves() -> None:
    budget = dp.PrivacyLedger(5.0, 1e-5, unit="client", trust="local")
    first, second = ClearSession(budget, b"1"), ClearSession(budget, b"2")
    first.client.receive(first.request)
    before, spent = second.client.to_bytes(), budget.spent
    with pytest.raises(LocalProtocolError, match=r"this input does not leave: .* the budget is 5"):
        second.client.receive(second.request)
    assert second.client.to_bytes() == before
    assert budget.spent == spent


def test_a_ledger_of_another_trust_model_is_refused() -> None:
    """Clear needs local trust: no other client's noise hides a term from the server."""
    for unit, trust in (("record", "central"), ("client", "distributed")):
        budget = dp.PrivacyLedger(100.0, 1e-5, unit=unit, trust=trust)  # type: ignore[arg-type]
        session = ClearSession(budget, b"1")
        with pytest.raises(LocalProtocolError, match="keep a ledger for each"):
            session.client.receive(session.request)


@pytest.mark.parametrize("stated", [False, True])
def test_a_roster_with_more_colluders_than_the_noise_was_made_for_is_refused(stated: bool) -> None:
    """Whether the task told the encoding, or the encoding states it for itself, as one from with_epsilon does."""
    ids = [f"c{i:02}" for i in range(60)]
    _, many = secagg.identity.enrol(ids)
    _, few = secagg.identity.enrol(ids[:12])
    protocol = secagg.SecAgg(corruption=0.1)
    task = make_task(protocol=protocol, min_survivors=11)
    if stated:
        enough = task.encoder.with_epsilon(8.0, SIZE)  # type: ignore[attr-defined]
        task = replace(task, encoding=enough)
        assert task.encoder is task.encoding
    task.server(ids[:12], roster=few, session=b"s")
    with pytest.raises(ConfigError, match=r"6 of|honest"):
        task.server(ids[:12], roster=many, session=b"s")


@pytest.mark.parametrize("protocol", SHOWN, ids=lambda protocol: protocol.name)
def test_where_terms_are_seen_every_clients_own_noise_has_to_do(protocol: Any) -> None:
    """The server reads each term there, or could with one client's key, so nobody else's noise hides it."""
    task = make_task(protocol=protocol)
    assert (task.shows_terms, task.honest, task.encoder.honest) == (True, 1, 1)  # type: ignore[attr-defined]
    assert "local trust: each client's own noise" in task.describe()
    assert task.encoder.release(SIZE).trust == "local"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="guarantees 1 honest"):
        make_task(protocol=protocol, encoding=replace(GAUSSIAN, clients=12, honest=5, corrupt=1))
    stated = make_task(protocol=protocol, encoding=replace(GAUSSIAN, clients=12, honest=1, corrupt=0))
    assert stated.encoder.trust == "local", "whatever the encoding says"  # type: ignore[attr-defined]
    with pytest.raises(dp.DPError, match="expected honest=1"):
        replace(task.encoder, honest=2)  # type: ignore[type-var]


def test_where_only_sums_are_seen_trust_is_distributed() -> None:
    for protocol in PROTOCOLS:
        if protocol not in SHOWN:
            task = make_task(protocol=protocol)
            assert task.encoder.release(SIZE).trust == "distributed"  # type: ignore[attr-defined]
            assert "distributed trust: 10 honest survivors' noise" in task.describe()
    stated = replace(GAUSSIAN, clients=12, honest=1, corrupt=2, trust="local")
    assert make_task(encoding=stated).encoder.trust == "distributed"  # type: ignore[attr-defined]
    with pytest.raises(dp.DPError, match="distributed, local"):
        replace(GAUSSIAN, trust="central")


def test_a_budget_without_noise_is_refused() -> None:
    budget = dp.PrivacyLedger(9.0, 1e-5, unit="client", trust="distributed")
    task = make_task(protocol=secagg.Clear(), encoding=secagg.FixedPoint(clip=1.0))
    with pytest.raises(ConfigError, match="without noise"):
        task.client("c00", session=b"1", budget=budget)

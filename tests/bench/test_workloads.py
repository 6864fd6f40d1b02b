import numpy as np
import pytest

from bench.workloads import Expected, Workload, check_memory, memory_needed
from secagg import ConfigError, simulate
from secagg.protocols import chosen, named


@pytest.mark.parametrize("clients", [4, 5, 7, 10, 33, 100])
def test_every_protocol_accepts_the_floor(clients):
    workload = Workload(clients, 100, 0.0)
    for protocol in named().values():
        workload.task(protocol)


@pytest.mark.parametrize(
    ("numbers", "range_"),
    [
        ({"clients": 0}, "expected 4 to"),
        ({"clients": 3}, "expected 4 to"),
        ({"coordinates": 0}, "expected 1 to"),
        ({"bits": 33}, "expected 2 to 32"),
        ({"clients": 20, "dropout": 0.5}, "expected 0 to 0.3"),
        ({"clients": 20, "dropout": -0.1}, "expected 0 to 0.3"),
        ({"clients": 20, "dropout": float("nan")}, "expected 0 to 0.3"),
    ],
)
def test_bad_numbers_are_refused_with_the_valid_range(numbers, range_):
    with pytest.raises(ConfigError, match=range_):
        Workload(**numbers)


def test_the_largest_dropout_of_the_refusal_is_accepted():
    assert Workload(clients=20, dropout=0.3).gone == 6


def test_names_of_protocols_ignore_case_and_default_to_all():
    assert list(chosen(["secaggplus"])) == ["SecAggPlus"]
    assert list(chosen([])) == list(named())
    assert list(chosen(["paillier/RUN-KEY"])) == ["Paillier/run-key"]


def test_sizes_beyond_the_memory_are_refused_before_anything_is_allocated():
    workload = Workload(clients=1000, coordinates=1 << 30)  # 8 TB
    with pytest.raises(ConfigError, match=r"GB under Clear.*expected --coordinates of at most [\d,]+"):
        check_memory(workload, named())


def test_the_size_that_the_refusal_names_fits():
    clear = chosen(["Clear"])
    with pytest.raises(ConfigError, match="at most") as refused:
        check_memory(Workload(coordinates=1 << 24), clear, free=10**9)
    most = int(str(refused.value).split("at most ")[1].split(", or")[0].replace(",", ""))
    check_memory(Workload(coordinates=most), clear, free=10**9)
    with pytest.raises(ConfigError):
        check_memory(Workload(coordinates=int(most * 1.02)), clear, free=10**9)


def test_more_clients_than_one_process_can_run_are_refused():
    with pytest.raises(ConfigError, match="expected 4 to 16,384"):
        check_memory(Workload(clients=10**6, coordinates=1), chosen(["SecAggPlus"]))


def test_encryption_needs_more_memory_than_masks():
    workload = Workload(coordinates=10_000)
    needed = {name: memory_needed(workload, protocol) for name, protocol in named().items()}
    assert needed["CKKS"] > needed["BFV"] > 1.5 * needed["SecAgg"] > 1.5 * needed["Clear"]


def test_silent_clients_are_spread_over_the_cohort():
    workload = Workload(clients=20, dropout=0.2)
    assert workload.silent == ["c01", "c06", "c11", "c16"]
    assert len(workload.survivors) == 16


def test_the_expected_sum_is_that_of_the_simulation_and_one_step_more_is_noticed():
    workload = Workload(clients=5, coordinates=50, dropout=0.2)
    updates = workload.updates()
    protocol = chosen(["Clear"])["Clear"]
    expected = Expected.of(workload, updates)
    outcome = simulate(workload.task(protocol), updates, dropouts=workload.dropouts(protocol))
    assert expected.differs(outcome.sum) == 0
    assert expected.differs(outcome.sum + np.eye(50)[3] / expected.scale) == 1
    assert expected.differs(outcome.sum + 0.4 / expected.scale) == 50
    np.testing.assert_allclose(outcome.mean, expected.mean, atol=0.6 / expected.scale)


def test_updates_depend_on_the_seed_and_differ_between_clients():
    first, again, other = (Workload(clients=4, coordinates=9, dropout=0, seed=s).updates() for s in (0, 0, 1))
    assert (first["c1"] == again["c1"]).all()
    assert (first["c1"] != other["c1"]).any()
    assert (first["c1"] != first["c2"]).any()

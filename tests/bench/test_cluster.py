import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bench import cluster, plan_command, workers
from bench.cluster import (
    Cluster,
    Overheads,
    Work,
    checked_cluster,
    masks_removed,
    opening_of,
)
from bench.cluster_tables import as_checked, checked_cluster_grid, cluster_grid
from bench.commands import app
from bench.rates import ALL_MASKS, FIXED, PAIRWISE, Counts, Formula, Rates
from bench.workloads import Workload
from docs import benchmark_tables
from mpc.masks import mask_sum
from secagg import Clear, ConfigError, OneShot, SecAgg, SecAggPlus, lanes
from tests.bench.test_plan import flat

FREE = Overheads(0.0, 0.0)
TEN = Workload(clients=10, coordinates=300_000, dropout=0.2)


def rates_of(masks=1e-9, folds=1e-9, fixed=1.0):
    """Rates of a pairwise server that has only a fixed part, inputs and masks."""
    terms = (*PAIRWISE["server"], ALL_MASKS)
    given = {str(FIXED): fixed, "n·d": folds, str(ALL_MASKS): masks}
    return Rates({"server": Formula(terms, tuple(given.get(str(term), 0.0) for term in terms))}, 16)


def planned(protocol, workload, size, overheads=FREE, **rates):
    (result,) = cluster.cluster({"P": protocol}, {"P": rates_of(**rates)}, workload, size, overheads)
    return result


def test_pieces_are_those_that_the_server_gives_out():
    assert (cluster.KEYS_IN_PIECE, cluster.LANES_IN_PIECE) == (lanes._KEYS_IN_TASK, lanes._RANGE_LANES)
    assert cluster.IN_FLIGHT == lanes._IN_FLIGHT


class Counted(workers.Here):
    """Does the work, and keeps what goes out and comes back."""

    def __init__(self):
        self.pieces = []

    def submit(self, fn, /, *args, **named):
        future = super().submit(fn, *args, **named)
        if fn is mask_sum:
            self.pieces.append((args[0], future.result().nbytes))
        return future


@pytest.mark.parametrize("workload", [Workload(30, 300_000, 0.1), Workload(24, 530_000, 0.25)])
def test_pieces_keys_and_bytes_are_exact_counts_of_a_real_last_round(workload):
    last = workers.recorded(SecAgg(), workload, workload.updates())
    counted = Counted()
    workers.timed("SecAgg", last, counted)
    work = opening_of(last.task, Counts.of(SecAgg(), workload), {})
    assert work.tasks == len(counted.pieces)
    assert work.from_bytes == sum(returned for _, returned in counted.pieces)
    assert work.to_bytes == cluster.KEY_BYTES * sum(len(keyed) for keyed, _ in counted.pieces)


def test_masks_of_survivors_and_between_survivors_and_silent_clients_are_removed():
    assert masks_removed(Counts.of(SecAgg(), TEN)) == 8 + 2 * 8
    assert masks_removed(Counts.of(SecAgg(), replace(TEN, dropout=0.0))) == 10


@pytest.mark.parametrize("protocol", [SecAgg(), SecAggPlus(), OneShot(), Clear()], ids=lambda one: one.name)
def test_the_state_of_a_part_is_that_of_a_real_session(protocol):
    """Within a fifth, of a session that is twice as large as those from which it is told."""
    workload = Workload(clients=72, coordinates=16, dropout=0.0)
    ratio = cluster.state_of(protocol, workload) / workers.input_state(protocol, workload)
    assert 0.8 < ratio < 1.2


def test_work_takes_as_long_as_its_slowest_part():
    work = Work(core_seconds=10.0, tasks=4, to_bytes=10, from_bytes=1000)
    assert work.seconds(5, FREE, 8e6) == {"cores": 2.0, "results": 0.0, "link": 1e-3}
    slow = work.seconds(5, Overheads(1.0, 1e-3), 800.0)
    assert slow == {"cores": pytest.approx(4.004), "results": pytest.approx(5.01), "link": 10.0}


def test_more_machines_shorten_all_but_the_serial_part():
    few, many = (planned(SecAgg(), TEN, Cluster(machines, 4, 1e12)) for machines in (1, 1000))
    alone = rates_of().formulas["server"].seconds(Counts.of(SecAgg(), TEN))
    assert few.alone_seconds == many.alone_seconds == pytest.approx(alone)
    assert few.serial_seconds == many.serial_seconds == pytest.approx(1.0)
    assert few.inputs_seconds == pytest.approx(10 * 300_000 * 1e-9 / 5)
    assert many.cluster_seconds < few.cluster_seconds < alone
    assert many.cluster_seconds == pytest.approx(1.0, abs=1e-3)
    assert few.parts == 4
    assert 4 < many.parts < 4000  # more partial sums would take longer than they save
    assert many.most_speedup == pytest.approx(alone)
    assert many.bottleneck == "serial part of the server"


@pytest.mark.parametrize(
    ("size", "overheads", "rates", "bottleneck"),
    [
        (Cluster(1, 1, 1e12), FREE, {"masks": 1e-6, "fixed": 0.0}, "opening: cores"),
        (Cluster(1, 1, 1e12), FREE, {"folds": 1e-6, "fixed": 0.0}, "inputs: cores"),
        (Cluster(3, 16, 1e6), FREE, {"fixed": 0.0}, "inputs: clients' uploads"),
        (Cluster(1000, 16, 1e6), FREE, {"fixed": 0.0}, "inputs: link"),
        (Cluster(3, 16, 1e12), Overheads(1.0, 0.0), {"fixed": 0.0}, "opening: results"),
        (Cluster(3, 16, 1e12), FREE, {"fixed": 9.0}, "serial part of the server"),
    ],
)
def test_the_bottleneck_is_named(size, overheads, rates, bottleneck):
    assert planned(SecAgg(), TEN, size, overheads, **rates).bottleneck == bottleneck


def test_inputs_arrive_as_fast_as_the_cores_take_them_at_the_stated_bandwidth():
    result = planned(SecAgg(), TEN, Cluster(2, 2, 1e15))
    cores = 10 * 300_000 * 1e-9 / 5
    assert result.bytes_in == 10 * sum(SecAgg().cost(TEN.task(SecAgg())).up.values())
    assert result.parts == 4
    assert result.inbound == pytest.approx(8 * result.bytes_in / cores)


def test_every_kind_of_protocol_is_reckoned_and_a_refused_one_says_why():
    protocols = {"Clear": Clear(), "SecAgg": SecAgg(), "SecAggPlus": SecAggPlus(), "OneShot": OneShot()}
    workload = Workload(70_000, 1000, 0.1)
    size = Cluster(3, 16, 1e10)
    results = {one.protocol: one for one in cluster.cluster(protocols, flat(protocols), workload, size, FREE)}
    assert "65,535" in results["SecAgg"].refused
    assert results["OneShot"].bytes_to > 1000
    assert results["Clear"].tasks == results["Clear"].parts == 1  # a partial sum takes longer than all inputs
    assert math.isclose(results["SecAggPlus"].serial_seconds, 1e-3)
    grid = cluster_grid(list(results.values()), workload, size, FREE)
    assert [row[0] for row in grid.rows] == list(protocols)


@pytest.mark.parametrize(("machines", "cores"), [(0, 1), (1, 0), (10_001, 1), (1, 1025)])
def test_clusters_out_of_range_are_refused(machines, cores):
    with pytest.raises(ConfigError, match=r"got --(machines|cores)"):
        Cluster(machines, cores, 1e9)


def test_results_of_worker_processes_are_measured():
    """A result of a megabyte takes longer than an empty one."""
    cost = cluster.overheads()
    assert 0 < cost.task_seconds < 0.1
    assert 0 <= cost.byte_seconds < 1e-6


def test_a_last_round_on_worker_processes_opens_the_same_sum_in_the_planned_pieces(monkeypatch):
    monkeypatch.setattr(cluster, "CHECKED", Workload(30, 300_000, 0.1))
    check = checked_cluster(lambda name, doing: None, Overheads(1e-4, 1e-9))
    assert check.tasks == check.planned_tasks
    assert check.planned > 0 < check.measured
    assert as_checked(check).role == "server, 2 processes"
    assert checked_cluster_grid(check, True).rows[0][-1] == "holds"
    # The control: with a rate of masks that is a thousand times as high, the plan is far above the measurement.
    wrong = checked_cluster(lambda name, doing: None, FREE, lambda: 3e-7)
    assert not as_checked(wrong).holds


def test_control_pieces_that_are_counted_wrong_fail_the_plan(tmp_path, monkeypatch):
    right = cluster.CheckedCluster("here", 2, 1.0, 0.6, 0.6, 18, 18)
    target = tmp_path / "plan.json"
    arguments = ["--clients", "10", "--coordinates", "1000", "--machines", "2", "--protocol", "Clear", "--check"]
    monkeypatch.setattr(plan_command.planning, "checked", lambda name, one, rates: [])
    monkeypatch.setattr(plan_command, "overheads", lambda: Overheads(1e-4, 1e-9))
    for check, code in ((right, 0), (replace(right, tasks=19), 1), (replace(right, measured=0.9), 1)):
        monkeypatch.setattr(plan_command, "checked_cluster", lambda step, cost, found=check: found)
        result = CliRunner().invoke(app, ["plan", *arguments, "--json", str(target)])
        assert result.exit_code == code, result.output
    document = json.loads(target.read_text())
    assert document["clustered"][0]["cluster_seconds"] > 0
    assert "\n| `Clear` |" in benchmark_tables.cluster(document)
    assert "planned\n600 ms, measured 900 ms; 18 pieces, 18 planned." in benchmark_tables.cluster(document)
    assert document["cluster"] == {"machines": 2, "cores": 16, "bandwidth": 1e10}
    assert document["checked_cluster"]["measured"] == 0.9

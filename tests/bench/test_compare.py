import copy
import json

import pytest
from typer.testing import CliRunner

from bench import report
from bench.commands import app
from bench.measure import Bench
from bench.workloads import Workload
from secagg.protocols import chosen


@pytest.fixture(scope="module")
def result():
    workload = Workload(clients=4, coordinates=20, dropout=0.0)
    bench = Bench(workload, chosen(["Clear", "AdditiveShares"]))
    for name in bench.protocols:
        bench.measure(name)
    rows = [report.plain(row) for row in bench.rows()]
    for row in rows:
        for figure in ("client_seconds", "server_seconds", "other_seconds"):
            if row[figure]:
                row[figure] = {"median": 0.1, "least": 0.1, "most": 0.1}
    return report.document(report.Kind.RUN, "bench run", finished=True, workload=workload, rows=rows)


def compare(tmp_path, old, new, *options):
    for name, document in (("old", old), ("new", new)):
        report.write_json(tmp_path / f"{name}.json", document)
    return CliRunner().invoke(app, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options])


def changed(result, **figures):
    copied = copy.deepcopy(result)
    copied["rows"][1].update(figures)
    return copied


def slower(result, seconds):
    return changed(result, server_seconds={"median": seconds, "least": seconds, "most": seconds})


def test_an_equal_result_is_not_worse(tmp_path, result):
    compared = compare(tmp_path, result, result)
    assert compared.exit_code == 0
    assert "0 of 13 figures got worse" in compared.output


@pytest.mark.parametrize(("seconds", "code"), [(0.12, 0), (0.13, 1), (0.01, 0)])
def test_slower_past_the_tolerance_fails(tmp_path, result, seconds, code):
    compared = compare(tmp_path, result, slower(result, seconds))
    assert compared.exit_code == code
    assert ("AdditiveShares" in compared.output and "worse" in compared.output.split("figures got")[0]) == bool(
        code
    )


def test_the_tolerance_is_an_option(tmp_path, result):
    assert compare(tmp_path, result, slower(result, 0.13), "--tolerance", "0.5").exit_code == 0


def test_a_difference_within_the_noise_of_the_clock_is_accepted(tmp_path, result):
    assert compare(tmp_path, slower(result, 0.0001), slower(result, 0.0004)).exit_code == 0


def test_more_bytes_fail_however_few(tmp_path, result):
    assert compare(tmp_path, result, changed(result, bytes_up=result["rows"][1]["bytes_up"] + 200)).exit_code == 1


def test_a_missing_row_fails(tmp_path, result):
    compared = compare(tmp_path, result, {**result, "rows": result["rows"][:1]})
    assert compared.exit_code == 1
    assert "missing" in compared.output


def test_a_new_row_is_accepted(tmp_path, result):
    assert compare(tmp_path, {**result, "rows": result["rows"][:1]}, result).exit_code == 0


def test_a_lower_ratio_over_a_peer_fails(tmp_path):
    def peers(ratio):
        one = {"peer": "phe", "work": "encrypt", "ratio": {"median": ratio}, "our_bytes": 6.1}
        return report.document(report.Kind.PEERS, "bench peers", finished=True, compared=[one], absent={})

    assert compare(tmp_path, peers(100.0), peers(85.0)).exit_code == 0
    assert compare(tmp_path, peers(100.0), peers(70.0)).exit_code == 1


@pytest.mark.parametrize(
    ("figure", "by", "code"),
    [("client_seconds", 1.2, 0), ("client_seconds", 1.3, 1), ("server_memory", 1.3, 1), ("bytes_up", 1.02, 1)],
)
def test_points_of_a_sweep_are_compared_one_by_one(tmp_path, figure, by, code):
    point = {
        "protocol": "SecAgg",
        "client_seconds": 0.1,
        "server_memory": 10**7,
        "other_memory": None,
        "bytes_up": 900,
    }

    def sweep(factor):
        points = [{**point, "at": 8}, {**point, "at": 16, figure: point[figure] * factor}]
        return report.document(
            report.Kind.SWEEP, "bench sweep", finished=True, over="clients", held={"clients": 8}, points=points
        )

    compared = compare(tmp_path, sweep(1), sweep(by))
    assert compared.exit_code == code
    assert ("SecAgg at 16" in compared.output) == bool(code) or "0 of 6" in compared.output
    other = {**sweep(1), "held": {"clients": 9}}
    assert "expected the same for both" in str(compare(tmp_path, sweep(1), other).exception)


def test_a_plan_that_got_slower_fails(tmp_path):
    def plan(seconds):
        planned = [{"protocol": "SecAgg", "wire_seconds": 3.0, "client_seconds": seconds, "refused": ""}]
        return report.document(
            report.Kind.PLAN, "bench plan", finished=True, workload={"clients": 9}, link={"up": 1}, planned=planned
        )

    assert compare(tmp_path, plan(2.0), plan(2.4)).exit_code == 0
    assert compare(tmp_path, plan(2.0), plan(2.6)).exit_code == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sweep"}, "expected two results of one command"),
        ({"finished": False}, "run the command to its end"),
        ({"workload": {"clients": 5}}, "expected the same for both"),
        ({"schema": 99}, "not a result of schema 1"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(tmp_path, result, changes, message):
    assert message in str(compare(tmp_path, result, {**result, **changes}).exception)


def test_a_larger_error_or_fewer_dropouts_fail(tmp_path, result):
    row = result["rows"][1]
    assert compare(tmp_path, result, changed(result, largest_error=2 * row["largest_error"])).exit_code == 1
    assert compare(tmp_path, result, changed(result, most_dropouts=row["most_dropouts"] - 1)).exit_code == 1


def test_a_figure_that_is_not_a_number_fails(tmp_path, result):
    assert compare(tmp_path, result, slower(result, float("nan"))).exit_code == 1


@pytest.mark.parametrize("part", ["rows", "workload"])
def test_a_result_with_parts_missing_is_refused(tmp_path, result, part):
    compared = compare(tmp_path, result, {key: value for key, value in result.items() if key != part})
    assert "parts missing" in str(compared.exception)


def test_a_file_that_is_not_a_result_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([1]))
    compared = CliRunner().invoke(app, ["compare", str(tmp_path / "x.json"), str(tmp_path / "missing.json")])
    assert "not a result of schema" in str(compared.exception)

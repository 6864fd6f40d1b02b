import itertools
import json
import re
import threading

import pytest
from typer.testing import CliRunner

from bench import memory, report, workers
from bench.amounts import duration, size
from bench.commands import app
from bench.estimates import Estimates
from bench.measure import Bench, WrongSum
from bench.plots import MEMORY_FLOOR, growth, spread
from bench.points import Playing, too_large
from bench.sweep import HELD, Over, Point, Sweep, Sweeping, points_of, slope, workload_at
from bench.workloads import Workload
from docs import benchmark_tables
from mpc.masks import mask_sum
from secagg import Clear, ConfigError, SecAgg
from secagg.errors import SecAggError
from secagg.protocols import chosen
from tests.bench.broken import ClearOffByOne


def point(protocol, at, seconds, memory=10**7):
    return Point(seconds, seconds, None, seconds, seconds, 100, 100, memory, memory, None, protocol, at)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_slope_is_the_exponent_of_a_power(power):
    fitted = slope([(x, 3 * x**power) for x in (2, 4, 16, 100)])
    assert (fitted.value, fitted.margin, fitted.noise) == (pytest.approx(power), pytest.approx(0, abs=1e-9), False)


def test_slope_needs_three_points():
    assert slope([(1, 1), (2, 2)]) is None


def test_the_margin_is_the_greatest_difference_from_the_growth_between_neighbours():
    """From 1 to 2 the power is log2(1.1) = 0.1375, from 2 to 4 it is log2(0.95/1.1) = -0.2115."""
    fitted = slope([(1, 1.0), (2, 1.1), (4, 0.95)])
    assert (fitted.value, fitted.margin) == (pytest.approx(-0.037, abs=1e-3), pytest.approx(0.1745, abs=1e-3))
    assert not fitted.noise
    assert str(fitted) == "−0.04 ± 0.17"


def test_three_noisy_points_are_marked_as_noise():
    fitted = slope([(1, 1.0), (2, 2.5), (4, 1.1)])
    assert fitted.noise
    assert report.grows(fitted) == "noise"
    points = tuple(point("A", x, y) for x, y in ((1, 1.0), (2, 2.5), (4, 1.1)))
    sweep = Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ())
    assert "(noise)" in growth(sweep).axes[0].texts[0].get_text()
    assert "1.1 s\nnoise" in report.sweep_grid(sweep).rows[0]


def test_the_power_is_fitted_to_the_end_of_the_curve():
    """A fixed cost hides growth at the beginning."""
    points = tuple(point("A", x, max(1e-2, 1e-3 * x)) for x in (1, 2, 4, 8, 100, 1000, 10_000))
    assert Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ()).power("A", "client_seconds").value == pytest.approx(
        1.0
    )


def test_no_power_is_fitted_to_noise_of_the_allocator():
    points = tuple(point("A", x, x, memory=0 if x == 1 else 10**6 * x) for x in (1, 10, 100))
    assert Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ()).power("A", "client_memory") is None
    large = (*points, point("A", 1000, 1000, memory=10**9), point("A", 10_000, 1, memory=0))
    assert Sweep(Over.CLIENTS, HELD[Over.CLIENTS], large, ()).power("A", "client_memory").value == pytest.approx(
        1.0
    )
    assert len(Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ()).curve("A", "client_memory")) == 3


def test_names_are_apart_in_order_and_inside():
    places = spread([0.1, 0.5, 0.5, 0.51, 0.99, 1.0], 0.06)
    assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 1
    assert places[0] == 0.1  # nothing pushes it
    assert spread([0.2, 0.8], 0.06) == [0.2, 0.8]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.00012, "120 µs"),
        (0.0999, "99.9 ms"),
        (0.9999, "1 s"),
        (75.3, "75.3 s"),
        (1234, "1,234 s"),
        (21_197, "5.89 h"),
        (837_108, "9.69 days"),
        (0, "0 s"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_sizes_in_words():
    assert [size(value) for value in (12, 999, 1000, 262_500, 1.31e11)] == [
        "12 B",
        "999 B",
        "1 kB",
        "262 kB",
        "131 GB",
    ]


@pytest.mark.parametrize("text", ["8,x", "8,-1", "0,8", "8.5", "nan", "8,inf", "8,,9"])
def test_texts_that_are_not_points_are_refused(text):
    with pytest.raises(ConfigError, match=r"got --points .*expected"):
        points_of(Over.CLIENTS, text)


def test_points_are_sorted_and_each_once():
    assert points_of(Over.CLIENTS, "32,8,8") == [8, 32]
    assert points_of(Over.DROPOUT, None) == [0, 0.05, 0.1, 0.2, 0.3]


def test_points_out_of_range_are_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="expected 4 to"):
        Sweeping(Over.CLIENTS, HELD[Over.CLIENTS], [2, 8], chosen(["Clear"]))


def test_dropout_is_varied_over_the_held_cohort():
    assert workload_at(Over.DROPOUT, HELD[Over.DROPOUT], 0.3).gone == 30


def test_a_dropout_of_nobody_is_a_point_and_is_left_out_of_the_power():
    points = tuple(point("A", x, 1 + x) for x in (0, 0.1, 0.2, 0.3))
    sweep = Sweep(Over.DROPOUT, HELD[Over.DROPOUT], points, ())
    axes = growth(sweep).axes[0]
    assert axes.get_xscale() == "linear"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "10", "20", "30"]
    assert sweep.power("A", "client_seconds") == slope([(x, 1 + x) for x in (0.1, 0.2, 0.3)])


def test_a_session_that_would_take_too_long_is_left_out_and_named():
    sweeping = Sweeping(Over.COORDINATES, HELD[Over.COORDINATES], [10, 10**7], chosen(["Clear"]))
    playing = Playing(sweeping.protocols, 1, 0.1, lambda name, doing: None)
    assert set(playing.at(sweeping.workloads[0][1], "small")) == {"Clear"}
    assert playing.at(sweeping.workloads[1][1], "large") == {}
    assert re.match(
        r"Clear at large, because a session would take about .* m?s \(--most-seconds 0.1\)", playing.left_out[0]
    )


def test_a_session_that_needs_more_than_the_memory_is_left_out_and_named(monkeypatch):
    large = Workload(clients=1000, coordinates=10**6, dropout=0.0)
    assert not too_large(Workload(clients=8, coordinates=1000, dropout=0.0), Clear())
    monkeypatch.setattr("bench.points.memory_free", lambda: 2**30)
    playing = Playing(chosen(["Clear"]), 1, 1e9, lambda name, doing: None)
    assert playing.at(large, "large") == {}
    assert "need 8 GB, with 376 MB available" in playing.left_out[0]
    assert too_large(Workload(100_000, 10, 0.0), SecAgg()).startswith("it is refused: got --clients 100000")


def test_an_estimate_is_of_the_size_of_a_session():
    """Within a factor of three, for a session longer than the small ones."""
    protocols = chosen(["SecAgg"])
    estimates = Estimates(protocols)

    def seconds(workload):
        bench = Bench(workload, protocols)
        return min(sum(bench.measure("SecAgg").seconds.values()) for _ in range(2))

    assert estimates.seconds("SecAgg", Workload(60, 2000, 0.0)) == 0.0
    estimates.probe("SecAgg", seconds)
    large = Workload(clients=40, coordinates=20_000, dropout=0.0)
    assert 1 / 3 < estimates.seconds("SecAgg", large) / seconds(large) < 3


def test_sweep_draws_and_writes(tmp_path):
    arguments = ["--over", "coordinates", "--points", "100,10000", "--protocol", "Clear", "--clients", "4"]
    files = [
        "--out",
        str(tmp_path / "grown"),
        "--json",
        str(tmp_path / "s.json"),
        "--html",
        str(tmp_path / "s.html"),
    ]
    result = CliRunner().invoke(app, ["sweep", *arguments, *files])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "grown.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "grown.svg").read_text()
    assert "<svg" in (tmp_path / "s.html").read_text()
    document = json.loads((tmp_path / "s.json").read_text())
    assert [point["at"] for point in document["points"]] == [100, 10000]
    assert document["held"]["clients"] == 4
    assert document["points"][1]["bytes_up"] > 10 * document["points"][0]["bytes_up"]
    assert document["powers"]["Clear"]["bytes_up"] is None  # two points make no power


@pytest.mark.parametrize("name", ["grown.svg", "grown.PNG", "grown.pdf"])
def test_sweep_draws_the_picture_that_out_names(tmp_path, name):
    arguments = ["--over", "coordinates", "--points", "100", "--protocol", "Clear", "--clients", "4"]
    result = CliRunner().invoke(app, ["sweep", *arguments, "--out", str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    (picture,) = tmp_path.iterdir()
    kind = {".svg": b"<?xml", ".PNG": b"\x89PNG", ".pdf": b"%PDF"}[picture.suffix]
    assert (picture.name, picture.read_bytes().startswith(kind)) == (name, True)


@pytest.mark.parametrize("protocol", ["SecAgg", "SecAggPlus", "OneShot"])
def test_the_last_round_opens_the_same_sum_on_every_number_of_workers(protocol, tmp_path):
    arguments = ["--over", "workers", "--clients", "8", "--coordinates", "530000", "--points", "1,2,3"]
    target = tmp_path / "workers.json"
    files = ["--out", str(tmp_path / "workers.png"), "--json", str(target)]
    result = CliRunner().invoke(app, ["sweep", *arguments, "--protocol", protocol, *files])
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    points = document["points"]
    assert benchmark_tables.workers(document).count(f"\n| `{protocol}` |") == 3
    assert [one["at"] for one in points] == [1, 2, 3]
    assert all(one["last_round_seconds"] > 0 < one["last_round_cpu_seconds"] for one in points)
    assert (tmp_path / "workers.png").exists()
    assert CliRunner().invoke(app, ["compare", str(target), str(target)]).exit_code == 0


def test_one_worker_is_the_thread_that_calls_and_two_are_that_and_another():
    used, together = set(), threading.Barrier(3, timeout=60)

    def work():
        used.add(threading.get_ident())
        together.wait()

    with workers.workers(3) as executor:
        others = [executor.submit(work) for _ in range(2)]
        work()
        for one in others:
            one.result()
    assert len(used) == 3
    assert threading.get_ident() in used
    with workers.workers(1) as executor:
        assert executor.submit(threading.get_ident).result() == threading.get_ident()


def test_control_a_worker_that_returns_wrong_lanes_is_noticed():
    class Wrong(workers.Here):
        def submit(self, fn, /, *args, **named):
            future = super().submit(fn, *args, **named)
            if fn is mask_sum:
                future.result()[0] += 1
            return future

    workload = Workload(clients=8, coordinates=530_000, dropout=0.0)
    last = workers.recorded(SecAgg(), workload, workload.updates())
    assert workers.timed("SecAgg", last, workers.Here())[0] > 0
    with pytest.raises(WrongSum, match="another sum on another executor"):
        workers.timed("SecAgg", last, Wrong())


def test_a_server_with_nothing_to_split_has_no_workers():
    for arguments, words in (
        (["--protocol", "Clear"], "Clear, whose server gives no work to an executor"),
        (["--points", "1000"], "expected 1 to 256"),
    ):
        result = CliRunner().invoke(app, ["sweep", "--over", "workers", *arguments])
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)


def test_memory_below_the_floor_does_not_invert_the_axis():
    points = tuple(point("A", x, x, memory=x) for x in (1, 10, 100))
    for axes in growth(Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ())).axes:
        bottom, top = axes.get_ylim()
        assert bottom < top
        assert all(bottom <= y <= top for line in axes.lines for y in line.get_ydata())


def test_every_curve_is_named_at_its_end():
    points = tuple(point(f"P{i}", x, (1 + i / 100) * x) for i in range(8) for x in (1, 10, 100))
    figure = growth(Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ()))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(text.split(" ")[0] for text in texts) == [f"P{i}" for i in range(8)]
    markers = {line.get_marker() for line in figure.axes[0].lines}
    assert len(markers) == 8  # readable without colour
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_a_curve_that_ends_early_is_named_where_it_ends():
    points = tuple(point("A", x, x) for x in (1, 10, 100)) + tuple(point("B", x, 2 * x) for x in (1, 10))
    axes = growth(Sweep(Over.CLIENTS, HELD[Over.CLIENTS], points, ())).axes[0]
    (named,) = [text for text in axes.texts if text.get_text() == "B"]
    assert named.xy == (10, 20)


def test_peaks_are_of_each_kind_of_party():
    """A server holds at least one sum, an aggregator its own; a client at least its integers."""
    size = 10**6
    peaks = memory.peaks("AdditiveShares", Workload(clients=4, coordinates=size, dropout=0.0))
    assert 4 * size <= peaks.client < 200 * size
    assert 4 * size <= peaks.server < 200 * size
    assert peaks.other is not None
    assert 4 * size <= peaks.other < 200 * size
    assert 4 * size > MEMORY_FLOOR


def test_control_a_broken_protocol_has_no_peaks():
    with pytest.raises(WrongSum, match="ClearOffByOne"):
        memory.session(ClearOffByOne(), Workload(clients=4, coordinates=20, dropout=0.0))


def test_a_process_that_dies_is_not_a_wrong_sum(monkeypatch):
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(
        SecAggError, match="Clear: the process that measures memory exited with 1: it printed no error"
    ):
        memory.peaks("Clear", Workload(clients=4, coordinates=20, dropout=0.0))

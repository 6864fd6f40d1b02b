import itertools
import json

import pytest
from typer.testing import CliRunner

from bench import memory, report
from bench.commands import app
from bench.measure import WrongSum
from bench.plots import MEMORY_FLOOR, duration, growth, size, spread
from bench.sweep import HELD, Over, Point, Sweep, Sweeping, points_of, slope, workload_at
from bench.workloads import Workload
from secagg import ConfigError
from secagg.errors import SecAggError
from secagg.protocols import chosen
from tests.bench.broken import ClearOffByOne


def point(protocol, at, seconds, memory=10**7):
    return Point(protocol, at, seconds, seconds, None, 100, 100, memory, memory, None)


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
    assert points_of(Over.DROPOUT, None) == [n / 48 for n in (1, 2, 4, 8, 15)]


def test_points_out_of_range_are_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="expected 4 to"):
        Sweeping(Over.CLIENTS, HELD[Over.CLIENTS], [2, 8], chosen(["Clear"]))


def test_dropout_is_varied_over_the_held_cohort():
    assert workload_at(Over.DROPOUT, HELD[Over.DROPOUT], 15 / 48).gone == 15


def test_a_session_that_would_take_too_long_is_left_out_and_named():
    sweeping = Sweeping(Over.COORDINATES, HELD[Over.COORDINATES], [10, 1000, 10**6], chosen(["Clear", "SecAgg"]))
    sweeping._took["SecAgg"] = [(10, 0.5)]
    assert sweeping._affordable("SecAgg", 500, 40.0)
    assert not sweeping._affordable("SecAgg", 10**6, 40.0)
    assert sweeping._affordable("Clear", 10**6, 40.0)  # it was not measured yet
    (left_out,) = sweeping.result().left_out
    assert left_out.startswith("SecAgg at coordinates 1,000,000, because a session would take about 158,114 s")


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

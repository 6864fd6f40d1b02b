import json

import pytest
from typer.testing import CliRunner

from bench import report, scale
from bench.commands import app
from bench.memory import Peaks
from bench.scale import Session
from bench.sizes import sizes
from docs import benchmark_tables
from secagg import ConfigError


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """Peaks of memory, for which other tests start processes, are those of a small session."""
    monkeypatch.setattr("bench.memory.peaks", lambda name, workload: Peaks(10**6, 10**7, None))


def sweep(*arguments):
    return CliRunner().invoke(app, ["sweep", "--protocol", "Clear", "--protocol", "SecAgg", *map(str, arguments)])


def test_every_combination_is_measured_and_kept_by_resume(tmp_path, monkeypatch):
    target, picture = tmp_path / "scale.json", tmp_path / "scale.png"
    sizes_of = ["--clients", "5,8", "--coordinates", "100", "--dropout", "0,0.2"]
    files = ["--json", target, "--out", picture, "--html", tmp_path / "scale.html"]
    first = sweep(*sizes_of, *files)
    assert first.exit_code == 0, first.output
    document = json.loads(target.read_text())
    assert document["finished"]
    assert not document["left_out"]
    assert benchmark_tables.scale(document).count("\n| `SecAgg` | 8 | 100 |") == 2
    assert "| SecAgg at large | it is long |" in benchmark_tables.scale(
        document | {"left_out": ["SecAgg at large, because it is long"]}
    )
    places = [(one["protocol"], one["clients"], one["dropout"]) for one in document["sessions"]]
    assert len(set(places)) == len(places) == 8
    assert all(one["server_cpu_seconds"] > 0 < one["client_seconds"] for one in document["sessions"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Costs by size" in (tmp_path / "scale.html").read_text()
    monkeypatch.setattr("bench.points.Bench", None)  # nothing is played again
    again = sweep(*sizes_of, *files, "--resume")
    assert again.exit_code == 0, again.output
    assert json.loads(target.read_text())["sessions"] == document["sessions"]


def test_what_was_measured_is_written_when_the_run_is_interrupted(tmp_path, monkeypatch):
    target = tmp_path / "scale.json"
    played = scale.Playing.at

    def interrupted(self, workload, label):
        if workload.clients > 5:
            raise KeyboardInterrupt
        return played(self, workload, label)

    monkeypatch.setattr(scale.Playing, "at", interrupted)
    result = sweep(
        "--clients", "5,8", "--coordinates", 100, "--dropout", 0, "--json", target, "--out", tmp_path / "s"
    )
    assert result.exit_code == 130
    document = json.loads(target.read_text())
    assert not document["finished"]
    assert [one["protocol"] for one in document["sessions"]] == ["Clear", "SecAgg"]


def test_a_result_of_another_command_cannot_be_resumed(tmp_path):
    target = tmp_path / "other.json"
    report.write_json(target, report.document(report.Kind.RUN, "bench run", finished=True, rows=[]))
    with pytest.raises(ConfigError, match="--resume with the file of another command"):
        scale.earlier(report.read_json(target))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points", "3"], "got --points without --over"),
        (["--clients", "5,x"], "expected numbers separated by commas"),
        (["--clients", "5.5"], "expected whole numbers"),
        (["--clients", "nan"], "expected whole numbers"),
        (["--clients", "inf"], "expected whole numbers"),
        (["--resume"], "got --resume without --json"),
        (["--over", "clients", "--large"], "got --over clients with --large"),
        (["--over", "clients", "--clients", "8,16"], "got --clients with --over clients; list"),
        (["--over", "clients", "--dropout", "0,0.1"], "expected one number"),
        (["--clients", "10", "--dropout", "0.9"], "got --dropout 0.9"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, words):
    result = sweep(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert words in str(result.exception)


def test_panels_of_a_row_have_the_same_axes_and_say_what_was_left_out():
    places = (("A", 10, 100, 0.0), ("A", 100, 100, 0.0), ("A", 10, 100, 0.3), ("B", 10, 900, 0.0))
    measured = [
        Session(0.1, 0.2, None, 0.1, 0.3, 9, 9, 9, 9, None, name, clients, size, rate)
        for name, clients, size, rate in places
    ]
    axes = sizes(measured).axes
    assert len(axes) == 2 * 3
    for left, right in zip(axes[::2], axes[1::2], strict=True):
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    texts = [[text.get_text() for text in one.texts] for one in axes]
    assert texts[1] == ["left out"]
    assert texts[2] == ["A 200 ms"]
    assert texts[3] == ["B 200 ms"]

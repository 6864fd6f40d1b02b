import json
import re
import signal

import pytest
from typer.testing import CliRunner

import secagg.protocols
from bench import report
from bench.__main__ import main
from bench.commands import app
from bench.measure import Bench, WrongSum, most_dropouts
from bench.workloads import Workload
from secagg import Clear, Round
from secagg.protocols import chosen, named
from secagg.table import rounds
from tests.bench.broken import ClearForgetful, ClearOffByOne, ClearRounding

SMALL = ["--clients", "6", "--coordinates", "200", "--dropout", "0.15", "--repeats", "1"]
QUICK = ["Clear", "SecAgg", "AdditiveShares", "BFV"]


def run(*arguments):
    return CliRunner().invoke(app, ["run", *SMALL, *arguments])


def only(*names):
    return [part for name in names for part in ("--protocol", name)]


def failed(capsys, *arguments):
    """The exit code of the program, and what it wrote to stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *SMALL, *arguments])
    return ended.value.code, capsys.readouterr().err.strip()


def test_each_protocol_has_a_row_that_agrees_with_its_cost(tmp_path):
    result = run("--json", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html"), *only(*QUICK))
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["finished"]
    assert [row["protocol"] for row in document["rows"]] == QUICK
    workload = Workload(**document["workload"])
    assert workload.gone == 1
    for row in document["rows"]:
        protocol = named()[row["protocol"]]
        cost = protocol.cost(workload.task(protocol), workload.ids)
        # With one client silent, a survivor receives and sends a little less than with nobody silent.
        assert 0.8 * sum(cost.up.values()) < row["bytes_up"] <= sum(cost.up.values())
        assert row["expansion"] == row["bytes_up"] / (4 * workload.coordinates)
        assert (row["client_rounds"], row["all_rounds"]) == (len(rounds(protocol)), len(protocol.phases))
        assert 0 < row["largest_error"] <= 0.5 / 32767
        assert row["collusion"] == cost.collusion
        assert row["client_seconds"]["median"] > 0 < row["server_seconds"]["median"]
        assert (row["other_seconds"] is None) == (not protocol.party_counts)
        assert row["protocol"] in result.output


def test_the_page_is_self_contained_and_names_its_command(tmp_path):
    page = tmp_path / "run.html"
    assert run("--html", str(page), *only("Clear", "SecAgg")).exit_code == 0
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "<svg" in text
    assert "python -m bench" in text
    assert f"numpy {report.versions()['numpy']}" in text
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", text)
    assert len(headings) == len(set(headings)) >= 2
    assert not re.search(r"\d (s|ms|µs|B|kB|MB|GB)\b", re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("1.5 ms", "1.5\u00a0ms"),
        ("7 of 10 clients", "7\u00a0of 10\u00a0clients"),
        ("12 kB\n/ 2.6 B", "12\u00a0kB\n/\u00a02.6\u00a0B"),
        ("1.5e-05", "1.5\u00a0·\u00a010<sup>−5</sup>"),
        ("3 s  x^−0.04 ± 0.17", "3\u00a0s  x<sup>−0.04\u00a0±\u00a00.17</sup>"),
        ("quantize 10^6 float32", "quantize 10<sup>6</sup> float32"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("2 ns·k·k", "2\u00a0ns·k²"),
        ("c1e5f is a name", "c1e5f is a name"),
    ],
)
def test_a_page_has_superscripts_and_no_break_before_a_unit(text, page):
    assert report.typeset(text) == page


def test_a_new_protocol_is_measured_by_default(monkeypatch):
    class Later(Clear):
        name = "Later"

    monkeypatch.setattr(secagg.protocols, "named", lambda: {"Clear": Clear(), "Later": Later()})
    result = run()
    assert result.exit_code == 0
    assert "Later" in result.output


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ClearOffByOne(), "1 of 3,000 coordinates of the sum are wrong"),
        (ClearForgetful(), "the survivors are not those of the workload; these differ: c2"),
        (ClearRounding(), "the mean is not the sum divided by the 5 survivors"),
    ],
)
def test_control_a_broken_protocol_fails_the_run(monkeypatch, capsys, tmp_path, broken, message):
    monkeypatch.setattr(secagg.protocols, "named", lambda: {"Clear": Clear(), broken.name: broken})
    code, words = failed(capsys, "--json", str(tmp_path / "run.json"))
    assert code == 1
    assert re.search(message, words), words
    document = json.loads((tmp_path / "run.json").read_text())
    assert not document["finished"]
    assert broken.name not in [row["protocol"] for row in document["rows"]]


def test_a_protocol_that_breaks_after_the_warm_up_leaves_the_finished_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(
        secagg.protocols, "named", lambda: {"Clear": Clear(), "ClearOffByOne": ClearOffByOne(), "Last": Clear()}
    )
    monkeypatch.setattr(Bench, "warm", lambda self, name: None)
    result = run("--json", str(tmp_path / "run.json"))
    assert isinstance(result.exception, WrongSum)
    document = json.loads((tmp_path / "run.json").read_text())
    assert [row["protocol"] for row in document["rows"]] == ["Clear"]
    assert "Clear" in result.output


def test_interrupt_leaves_the_finished_rows_and_the_json(tmp_path, monkeypatch):
    measure = Bench.measure

    def interrupted(self, name):
        if name == "AdditiveShares":
            signal.raise_signal(signal.SIGINT)
        return measure(self, name)

    monkeypatch.setattr(Bench, "measure", interrupted)
    result = run("--json", str(tmp_path / "run.json"), *only("Clear", "SecAgg", "AdditiveShares"))
    assert result.exit_code == 130
    document = json.loads((tmp_path / "run.json").read_text())
    assert not document["finished"]
    assert [row["protocol"] for row in document["rows"]] == ["Clear", "SecAgg"]
    assert "SecAgg" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "Nobody"], "Nobody; expected any of Clear, SecAgg, SecAggPlus"),
        (["--clients", "0"], "expected 4 to 16,384"),
        (["--json", "/dev/full"], "not a plain file"),
        (["--json", "/tmp/" + 252 * "x"], "cannot be written"),
        (["--json", "/tmp/x.out", "--html", "/tmp/x.out"], "expected two files"),
        (["--dropout", "0.5"], "is opened; expected 0 to 0.333"),
        (["--coordinates", "2000000000"], "expected --coordinates of at most"),
        (["--json", "/nowhere/at/all.json"], "cannot be written"),
    ],
)
def test_a_request_that_is_not_possible_is_refused_in_one_line(capsys, arguments, message):
    code, words = failed(capsys, *arguments)
    assert code == 2
    assert message in words
    assert "\n" not in words


def test_most_dropouts_is_the_greatest_number_that_is_accepted():
    workload, secagg = Workload(clients=10, coordinates=1, dropout=0.0), chosen(["SecAgg"])["SecAgg"]
    assert most_dropouts(workload, secagg) == 3  # t = (10 + 3) // 2 + 1 = 7
    assert most_dropouts(workload, Clear()) == 9


def test_dropouts_fall_silent_in_the_round_that_carries_inputs():
    workload = Workload(clients=10, coordinates=1, dropout=0.2)
    assert set(workload.dropouts(chosen(["SecAgg"])["SecAgg"]).values()) == {Round.MASKED_INPUT}
    assert set(workload.dropouts(Clear())) == set(workload.silent)


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_no_word_of_the_table_is_lost_where_it_is_narrow(width):
    from rich.console import Console

    workload = Workload(clients=4, coordinates=20, dropout=0.0)
    measured = Bench(workload, chosen(["Clear"]))
    measured.measure("Clear")
    console = Console(width=width)
    with console.capture() as captured:
        console.print(report.to_table(report.run_grid(measured.rows(), workload), width))
    shown = {word.strip(".,;") for word in captured.get().split()}
    words = [*measured.rows()[0].collusion.split(), "Clear", "3", "4", "no"]
    assert {word.strip(".,;") for word in words} <= shown
    assert ("─" * 20 in captured.get()) == (width > 80)  # a table, while it fits


def test_a_protocol_that_is_right_only_the_first_time_has_no_row(monkeypatch):
    workload = Workload(clients=4, coordinates=20, dropout=0.0)
    measured = Bench(workload, {"Clear": chosen(["Clear"])["Clear"]})
    measured.measure("Clear")
    assert measured.rows()

    def wrong(*_):
        raise WrongSum("the second time")

    monkeypatch.setattr("bench.measure.check", wrong)
    with pytest.raises(WrongSum):
        measured.measure("Clear")
    assert not measured.rows()


def test_a_symbolic_link_is_followed_and_stays(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    report.write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_ctrl_c_before_anything_runs_is_one_line(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.commands.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "bench: interrupted before anything was measured\n"

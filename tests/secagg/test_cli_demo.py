import contextlib
import json
import os
import subprocess
import sys

import pytest

from secagg.demo.screen import progress
from secagg.errors import SecAggError
from secagg.protocols import named, variants


def test_demo_prints_the_table_and_draws_the_picture_in_this_folder(command, tmp_path):
    code, out, err = command("demo", "--rounds", 1)
    assert code == 0
    # Nobody watches a terminal: a line as each protocol comes up.
    lines = [f"secagg demo: training under {name}, {at} of {len(named())}" for at, name in enumerate(named(), 1)]
    assert err.splitlines() == lines
    assert all(name in out for name in named())
    assert out.splitlines()[-1] == "Picture: demo.png"
    assert (tmp_path / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_json_is_all_that_reaches_stdout(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from secagg.cli import main; main()", "demo", "--json", "--rounds", "2"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    printed = json.loads(done.stdout)
    assert [row["name"] for row in printed["protocols"]] == [*named()]
    assert done.stderr.splitlines()[-1] == "Picture: demo.png"


def test_demo_takes_all_its_options(command, tmp_path):
    settings = {"clients": 6, "rounds": 2, "dropouts": 1, "seed": 9}
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    code, out, _ = command(
        "demo", "--json", "--protocol", "secagg", "--protocol", "Clear", "--plot", "my.png", *options
    )
    printed = json.loads(out)
    assert code == 0
    assert {name: printed[name] for name in settings} == settings
    assert [row["name"] for row in printed["protocols"]] == ["SecAgg", "Clear"]
    assert len(printed["shards"]) == 6
    assert all(len(row["dropped"]) == 1 for row in printed["protocols"][0]["rounds"])
    assert [path.name for path in tmp_path.iterdir()] == ["my.png"]


def test_no_plot_writes_nothing(command, tmp_path):
    code, out, _ = command("demo", "--rounds", 1, "--protocol", "Clear", "--no-plot", "--dropouts", 0)
    assert code == 0
    assert "no hospital falls silent in any round." in " ".join(out.split())
    assert "Picture" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "Nothing"], f"got --protocol Nothing; expected any of {', '.join(named() | variants())}"),
        (["--protocol", "Paillier,BFV"], f"got --protocol Paillier,BFV; expected any of "
         f"{', '.join(named() | variants())}; for several, repeat --protocol"),
        (["--dropouts", 4], "got --clients 10 --dropouts 4, and SecAgg opens no sum over 6 of 10; "
         "expected --dropouts 0 to 3, or --clients 12 to 50"),
        (["--clients", 2, "--dropouts", 2], "got --dropouts 2; expected 0 to 1"),
        (["--clients", 2], "got --clients 2, and SecAgg opens no sum over 2 of 2; expected --clients 3 to 50"),
        (["--plot", "demo.jpg"], "got --plot demo.jpg; expected a name that ends in .png, .svg, .pdf"),
        (["--plot", "demo"], "got --plot demo; expected a name that ends in .png, .svg, .pdf"),
        (["--rounds", 0], "got --rounds 0; expected 1 to 1000"),
        (["--seed", -1], "got --seed -1; expected 0 or more"),
        (["--plot", "no/such/folder.png"], "got --plot no/such/folder.png, which can't be written; "
         "name a file in a folder that exists"),
        (["--plot", "folder.svg"], "got --plot folder.svg, which can't be written; "
         "name a file in a folder that exists"),
    ],
)  # fmt: skip
def test_what_the_demo_cannot_do_is_one_line(command, tmp_path, options, message):
    (tmp_path / "folder.svg").mkdir()
    assert command("demo", *options) == (2, "", f"secagg: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_an_option_that_is_no_number_is_a_usage_error(command):
    code, out, err = command("demo", "--rounds", "many")
    assert (code, out) == (2, "")
    assert err == "secagg: argument --rounds: invalid int value: 'many'; see secagg demo --help\n"


def test_an_error_of_the_library_is_one_line_and_no_traceback(command, monkeypatch):
    def fail(*_):
        raise SecAggError("it went wrong")

    monkeypatch.setattr("secagg.demo.show.run", fail)
    assert command("demo", "--no-plot") == (1, "", "secagg: it went wrong\n")


def test_demo_trains_once_more_under_a_budget(command):
    code, out, _ = command("demo", "--epsilon", 8, "--rounds", 3, "--protocol", "secagg", "--no-plot", "--json")
    assert code == 0
    plain, noised = json.loads(out)["protocols"]
    assert (plain["epsilon"], noised["name"], noised["delta"]) == (None, "SecAgg, noised", 1e-5)
    assert 7.9 < noised["epsilon"] <= 8
    assert noised["clipped"] is None
    assert plain["difference_from_float64"] < 1e-3 < noised["difference_from_float64"]


def test_demo_says_what_privacy_costs(command):
    code, out, _ = command("demo", "--epsilon", 8, "--rounds", 2, "--protocol", "secagg", "--no-plot")
    assert code == 0
    assert "points of accuracy" in out.replace("\n", " ")
    assert "8.00" in out


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf"])
def test_demo_refuses_a_budget_that_is_none(command, epsilon):
    code, _, err = command("demo", "--epsilon", epsilon, "--no-plot")
    assert code == 2
    assert "expected a number above 0" in err


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")]
)  # fmt: skip
def test_the_picture_is_of_the_kind_that_its_name_says(command, tmp_path, name, begins):
    assert command("demo", "--rounds", 1, "--protocol", "Clear", "--plot", name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(("clients", "fallen"), [(3, 0), (4, 1), (10, 2)])
def test_no_more_fall_silent_than_the_protocols_can_do_without(command, clients, fallen):
    options = ("--rounds", 1, "--no-plot", "--json", "--protocol", "SecAgg", "--clients", clients)
    assert json.loads(command("demo", *options)[1])["dropouts"] == fallen


@pytest.mark.parametrize(("columns", "width"), [("120", 120), ("64", 64), ("0", 80), ("many", 80), (None, 80)])
def test_the_table_is_as_wide_as_columns_says(command, monkeypatch, columns, width):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    out = command("demo", "--rounds", 1, "--protocol", "BFV", "--no-plot")[1]
    assert max(map(len, out.splitlines())) == width


def test_on_a_terminal_the_bar_moves_before_anything_has_begun():
    """A child in a terminal of its own: frames differ while it sleeps, as it does where kernels are compiled."""
    code = (
        "import time\nfrom secagg.demo.screen import progress\n"
        "with progress('x', 3) as begin:\n    time.sleep(0.6)\n    begin('Clear', 'warm-up')\n    time.sleep(0.3)"
    )
    leader, follower = os.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=follower, env=os.environ | {"TERM": "xterm"})
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal whose other side is closed
        while piece := os.read(leader, 4096):
            shown += piece
    os.close(leader)
    assert child.wait(30) == 0
    loading = {line for line in shown.decode().replace("\r", "\n").split("\n") if "loading" in line}
    assert len(loading) >= 3
    assert "Clear: warm-up" in shown.decode()


def test_without_a_terminal_a_line_comes_with_each_name_and_every_ten_seconds(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 12.5, 13.0])
    monkeypatch.setattr("secagg.demo.screen.monotonic", lambda: next(clock))
    with progress("bench", 5) as begin:
        for name, doing in (("A", "warm-up"), ("A", "1"), ("B", "1"), ("B", "2"), ("B", "3")):
            begin(name, doing)
    assert capsys.readouterr().err.splitlines() == [f"bench: {line}" for line in (
        "A: warm-up, 1 of 5", "B: 1, 3 of 5", "B: 2, 4 of 5")
    ]  # fmt: skip

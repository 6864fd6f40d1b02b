"""The commands that hold masks, first sessions and large cohorts to bounds, at small sizes."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import cold, crowd, crowd_round, first_session, masks
from bench.__main__ import main
from bench.cold import First
from bench.commands import app
from bench.crowd import QUICK, THOUSAND, Played, played
from bench.measure import Spread, WrongSum
from docs import benchmark_tables
from mpc import masks as streams
from secagg import ConfigError
from secagg.errors import SecAggError
from tests.bench.broken import ClearOffByOne


def invoked(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))


def test_masks_are_compared_with_openssl_and_with_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(masks.Measuring.__init__, "__defaults__", ((1 << 18, 1 << 12),))
    target = tmp_path / "masks.json"
    result = invoked("masks", "--repeats", 3, "--seconds", 1, "--json", target)
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert len(document["compared"]) == 2 * 4
    assert len(document["bounds"]) == (2 if streams.width() in masks.OVER_RAW else 0)
    assert {one["work"] for one in document["compared"]} == {"1 MiB", "16 KiB"}
    assert benchmark_tables.masks(document).count("\n| 1 MiB |") == 4
    assert invoked("compare", target, target).exit_code == 0


def test_a_kernel_that_is_not_here_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv(streams.VARIABLE, "64")
    streams.width.cache_clear()
    try:
        with pytest.raises(SystemExit, match="2"):
            main(["masks", "--repeats", "3"])
    finally:
        streams.width.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench: got SECAGG_KERNEL='64'")


def test_control_a_wrong_stream_has_no_figures(monkeypatch):
    right = streams.add_mask
    monkeypatch.setattr("mpc.masks.add_mask", lambda vector, key: right(vector, key[::-1]))
    with pytest.raises(WrongSum, match="add_mask"):
        masks.calls(1 << 12)


@pytest.mark.parametrize(("width", "raw", "copy", "holds"), [
    (512, 1.6, 0.1, [True, False]), (512, 1.4, 0.1, [False, False]), (512, 1.4, 0.9, [True, False]),
    (256, 1.3, 0.1, [True, False]), (256, 1.8, 0.1, [True, True]), (128, 9.0, 9.0, []), (0, 9.0, 9.0, []),
])  # fmt: skip
def test_bounds_of_masks_depend_on_the_width_of_aes_instructions(width, raw, copy, holds):
    measuring = masks.Measuring()
    measuring.width = width
    for size in measuring.sizes:
        for side, ratio in ((masks.RAW, raw), (masks.COPY, copy)):
            spread = Spread(ratio, ratio, ratio)
            measuring.compared.append(masks.Compared(masks.work_of(size), side, spread, 1.0, spread))
    assert [one.holds for one in measuring.bounds()] == holds


def test_a_first_session_compiles_with_an_empty_cache_and_loads_from_a_warm_one(tmp_path):
    """Clear compiles the least."""
    cache = tmp_path / "cache"
    cache.mkdir()
    first, second = cold.child("Clear", cache), cold.child("Clear", cache)
    assert (first.cache, second.cache) == ("empty", "warm")
    assert first.compiled > 0 == second.compiled
    assert first.whole_cpu_seconds > first.session_cpu_seconds > 0 < first.import_cpu_seconds


def test_cold_says_which_bounds_are_missed(tmp_path, monkeypatch):
    took = {"empty": 3.5, "warm": 0.2}
    states = iter(["empty"] + 2 * ["empty", "warm"])  # the first process is not counted

    def child(what, cache):
        state = next(states)
        return First(what, state, 0.1, took[state], 4.0, 7)

    monkeypatch.setattr(cold, "child", child)
    target = tmp_path / "cold.json"
    result = invoked("cold", "--session", "SecAgg", "--session", "BFV", "--json", target)
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert [one["holds"] for one in document["bounds"]] == [False, True, True, True, True]
    assert "1 of 5 bounds are missed" in result.output
    assert "| `SecAgg` | empty | 100 ms | 3.5 s | 4 s | 7 |" in benchmark_tables.cold(document)
    assert invoked("compare", target, target).exit_code == 0


def test_an_unknown_first_session_is_refused():
    with pytest.raises(ConfigError, match="got --session Nobody; expected any of SecAgg"):
        cold.known(["Nobody"])
    assert cold.known([])[-1] == first_session.GAUSSIAN


def test_a_process_of_a_first_session_that_fails_says_why(tmp_path):
    with pytest.raises(SecAggError, match="Nobody: the process exited with 1: AttributeError"):
        cold.child("Nobody", tmp_path)


def test_rounds_of_a_crowd_have_figures_of_every_party(tmp_path):
    target = tmp_path / "crowd.json"
    result = invoked("crowd", "--quick", "--json", target)
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    rounds = document["rounds"]
    assert all(f"| {one.what} |" in benchmark_tables.crowd(document) for one in QUICK)
    assert [one["what"] for one in rounds] == [one.what for one in QUICK]
    assert rounds[0]["server_memory"] > 0
    assert all(one["whole_seconds"] > one["server_seconds"] > 0 < one["client_seconds"] for one in rounds)
    assert all(one["server_cpu_seconds"] > 0 < one["bytes_up"] < one["bytes_down"] * 100 for one in rounds)
    assert invoked("compare", target, target).exit_code == 0


def test_bounds_are_of_the_rounds_that_were_played():
    sizes = (THOUSAND, replace(THOUSAND, clients=10_000, apart=False))
    measuring = crowd.Measuring(sizes)
    assert measuring.bounds() == []
    measuring.rounds = [
        Played(sizes[0].what, 30.0, 1.1, 2.0, 16e-3, 9, 9, 90_000_000),
        Played(sizes[1].what, 700.0, 9.0, 9.0, 0.1, 9, 9, None),
    ]
    assert [one.holds for one in measuring.bounds()] == [True, True, False, False]
    measuring.rounds[:] = measuring.rounds[:1]
    assert len(measuring.bounds()) == 3


def test_control_a_wrong_sum_of_a_crowd_has_no_figures(monkeypatch):
    monkeypatch.setattr(crowd_round, "protocol_of", lambda one: ClearOffByOne())
    with pytest.raises(WrongSum, match=r"1 of 1,000 coordinates"):
        crowd_round.figures(QUICK[1])


@pytest.mark.parametrize(("code", "error"), [(crowd.WRONG, WrongSum), (1, SecAggError)])
def test_a_process_of_a_crowd_that_fails_says_why(monkeypatch, code, error):
    script = f"import sys; sys.stderr.write('the reason'); sys.exit({code})"
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **named: run([sys.executable, "-c", script], **named))
    with pytest.raises(error, match="the reason"):
        played(QUICK[0])


def test_the_least_survivors_of_a_crowd_are_an_option():
    assert crowd_round.Crowd(1000, 10, 0.1).floor == 666
    assert crowd_round.Crowd(1000, 10, 0.1, least=900).task(crowd_round.protocol_of(THOUSAND)).min_survivors == 900
    assert np.isclose(THOUSAND.dropout, 0.1)

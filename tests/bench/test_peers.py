import io
import json
import re
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import peer_he, peer_mpc, peer_upload, report
from bench.commands import app
from bench.measure import Call, Spread, Turns, WrongSum
from bench.peer_calls import COMPARISONS, LARGE_UNMASKING, NVFLARE
from bench.peers import Comparing, Comparison, Pair, Part, Peer, compare, peers_grid, require, selected, verdict
from docs import benchmark_tables
from secagg import ConfigError

ROOT = Path(__file__).parent.parent.parent

HERE = Peer("numpy", "numpy")
NOWHERE = Peer("nobody", "nobody_has_this")


def pair():
    slow, fast = np.arange(200_000), np.arange(1000)
    return Pair(Call(lambda: np.sort(slow)[::-1].sum()), Call(lambda: fast.sum()), our_bytes=2.5, their_bytes=5000)


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(21, 30, "holds"), (19, 30, "not supported: the spread crosses it"), (10, 19, "fails")],
)
def test_a_claim_holds_only_with_its_whole_spread(least, most, expected):
    assert verdict(Spread(25, least, most), 20) == expected


def test_a_ratio_without_a_claim_has_no_verdict():
    assert verdict(Spread(25, 1, 30), None) == ""


def test_calls_take_turns_and_setup_is_not_timed():
    order = []

    def call(name):
        return Call(lambda ready: order.append((name, ready)), lambda: order.append(("setup", name)) or "ready")

    turns = Turns.of({"a": call("a"), "b": call("b")}, repeats=4, most_seconds=600.0)
    runs = [name for name, ready in order if ready == "ready"]
    per_turn = [name for at, name in enumerate(runs) if at == 0 or runs[at - 1] != name]
    assert per_turn == ["a", "b"] * 5  # the warm-up, and four turns
    assert len(turns.seconds["a"]) == len(turns.seconds["b"]) == 4


def test_ratios_are_taken_turn_by_turn():
    turns = Turns({"slow": [4.0, 40.0, 6.0], "fast": [2.0, 10.0, 1.0]})
    assert turns.ratio("slow", "fast") == Spread(4.0, 2.0, 6.0)


def test_long_calls_take_three_turns():
    import time

    turns = Turns.of({"a": Call(lambda: time.sleep(0.02))}, repeats=50, most_seconds=0.05)
    assert len(turns.seconds["a"]) == 3


def test_a_call_that_takes_longer_than_all_turns_may_is_made_once():
    import time

    calls = []
    slow = Call(lambda: (calls.append(1), time.sleep(0.06)))
    turns = Turns.of({"slow": slow, "fast": Call(lambda: None)}, repeats=4, most_seconds=0.05)
    assert len(calls) == 1
    assert len(turns.seconds["slow"]) == len(turns.seconds["fast"]) >= 3
    assert len(set(turns.seconds["slow"])) == 1
    assert turns.ratio("slow", "fast").least > 1


def test_a_comparison_is_made_per_unit_of_the_work():
    compared = compare(Comparison("sum", "value", HERE, pair, claim=2), 3, 5.0)
    assert compared.verdict == "holds"
    assert compared.peer_version == np.__version__
    doubled = Pair(**{**pair().__dict__, "their_units": 1000})
    assert (
        compare(Comparison("sum", "value", HERE, lambda: doubled), 3, 5.0).theirs.median
        < compared.theirs.median / 50
    )


def test_a_missing_peer_is_named_with_its_package():
    works = [("sum", NOWHERE), ("sort", NOWHERE), ("sum", HERE)]
    comparing = Comparing([Comparison(work, "value", peer, pair) for work, peer in works])
    comparing.run(3, 1.0, lambda name, work: None)
    assert [one.peer for one in comparing.compared] == ["numpy"]
    reason = "nobody is not installed: pip install nobody"
    assert comparing.absent == {"nobody, sum": reason, "nobody, sort": reason}
    note = f"Not compared: nobody, sum; nobody, sort: {reason}."
    assert note in peers_grid(comparing.compared, comparing.absent).notes


@pytest.mark.parametrize(("require", "code"), [([], 0), (["--require"], 1)])
def test_a_missing_peer_fails_a_run_that_requires_all(monkeypatch, require, code):
    monkeypatch.setattr("bench.peer_calls.COMPARISONS", (Comparison("sum", "value", NOWHERE, pair),))
    assert CliRunner().invoke(app, ["peers", *require]).exit_code == code


@pytest.mark.parametrize(("most", "verdict", "code"), [(5e-4, "holds", 0), (4e-4, "fails", 1)])
def test_a_run_fails_if_ours_sends_more_than_the_claimed_share_of_bytes(monkeypatch, tmp_path, most, verdict, code):
    def in_parts():
        parts = [Part("theirs", "sort", seconds=2e-3), Part("theirs", "sum", seconds=1e-6)]
        sizes = [Part("theirs", "upload", bytes=5e3), Part("ours", "upload", bytes=2.5)]
        return replace(pair(), parts=lambda: [*parts, *sizes])

    comparison = Comparison("sum", "value", HERE, in_parts, most_bytes=most)
    monkeypatch.setattr("bench.peer_calls.COMPARISONS", (comparison,))
    monkeypatch.setenv("COLUMNS", "160")
    result = CliRunner().invoke(app, ["peers", "--repeats", "3", "--seconds", "1", "--json", str(tmp_path / "a")])
    assert result.exit_code == code, result.output
    assert ("ours sends more bytes than claimed: numpy, sum" in result.output) is bool(code)
    document = json.loads((tmp_path / "a").read_text())
    assert document["compared"][0]["bytes_verdict"] == verdict
    table = benchmark_tables.peers(document)
    assert f"≤ {most:g} of the bytes: {verdict}" in table
    rows = ["sum | numpy | sort 2 ms, sum 1 µs | upload 5 kB", "sum | secagg | | upload 2.5 B"]
    assert all(f"| {row} |" in benchmark_tables.parts(document) for row in rows)
    assert "numpy sort 2 ms, sum 1 µs upload 5 kB" in re.sub(" +", " ", result.output)


def test_below_a_narrow_table_each_side_has_its_name_and_no_empty_place():
    rows = [("sum", "numpy", "sort 2 ms"), ("sum", "secagg", ""), ("sort", "numpy", "swap 1 ms")]
    grid = report.Grid("Work", ("work", "whose", "seconds"), rows, words=(2,))
    console = Console(width=60, file=io.StringIO())
    console.print(report.to_table(grid, 60))
    assert "Seconds: sum, numpy, sort 2 ms; sort, numpy, swap 1 ms." in console.file.getvalue()


def test_a_claim_on_bytes_needs_the_bytes_of_both_sides():
    with pytest.raises(ConfigError, match="counts no bytes of both sides"):
        compare(Comparison("sum", "value", HERE, lambda: replace(pair(), our_bytes=None), most_bytes=1), 3, 1.0)


def test_control_a_wrong_answer_fails_the_run():
    def wrong():
        require(np.arange(3).sum() == 4, "numpy")
        return pair()

    with pytest.raises(WrongSum, match="numpy gave a wrong answer"):
        compare(Comparison("sum", "value", HERE, wrong), 3, 1.0)


def test_an_unknown_peer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"got --peer phe,tenseal; .*; for several, repeat --peer"):
        selected(COMPARISONS, ["phe,tenseal"])
    with pytest.raises(ConfigError, match=r"got --peer somebody; expected one of .*phe.*tenseal"):
        selected(COMPARISONS, ["somebody"])


def test_every_peer_is_installed_by_its_name_and_no_two_comparisons_are_alike():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [*extras["peers"], *extras["he"], *extras["pld"]]
    assert {one.peer.name for one in COMPARISONS} <= {re.split(r"[<>=\[]", name)[0] for name in wanted}
    assert len({(one.peer.name, one.work) for one in COMPARISONS}) == len(COMPARISONS)


def test_sizes_of_nvflares_upload_hold_a_context_for_each_tensor():
    pytest.importorskip("tenseal")
    upload = peer_he._nvflare_upload()
    assert len(upload) == peer_he.TENSORS
    assert all(len(context) > 100_000 for _, context in upload)


def test_a_real_peer_on_the_command_line(tmp_path):
    pytest.importorskip("tenseal")
    result = CliRunner().invoke(
        app,
        ["peers", "--peer", "tenseal", "--repeats", "3", "--seconds", "1", "--json", str(tmp_path / "peers.json")],
    )
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "peers.json").read_text())
    assert [one["peer"] for one in document["compared"]] == ["tenseal"] * 3
    upload = document["compared"][0]
    table = benchmark_tables.peers(document, {"compared": [upload | {"peer": "flwr"}]})
    assert (table.count("\n| flwr "), table.count("\n| tenseal ")) == (1, 3)
    assert upload["their_bytes"] > 2 * upload["our_bytes"]
    assert upload["ratio"]["least"] <= upload["ratio"]["median"] <= upload["ratio"]["most"]


def built_or_skipped(comparison):
    """Build the comparison, which checks both answers; skip the test if the peer is not installed."""
    if comparison.peer.version is None:
        pytest.skip(f"needs {comparison.peer.name}")
    return comparison.build()


LARGE = (LARGE_UNMASKING, peer_upload.masked_input)
SMALL = [one for one in COMPARISONS if one.build not in LARGE and one.peer != NVFLARE]  # test_peer_nvflare.py


@pytest.mark.stacks
@pytest.mark.parametrize("comparison", SMALL, ids=lambda one: f"{one.peer.name}: {one.work}")
def test_both_answers_of_every_comparison_are_right(comparison):
    built = built_or_skipped(comparison)
    for call in (built.theirs, built.ours):
        assert call.seconds() > 0


@pytest.mark.stacks
@pytest.mark.parametrize(
    "build",
    [
        partial(peer_mpc.unmask, clients=12, gone=1, threshold=8, size=1000),
        partial(peer_upload.masked_input, clients=12, size=1000),
    ],
)
def test_both_answers_of_the_large_comparisons_are_right_at_a_small_size(build):
    pytest.importorskip("flwr")
    built = build()
    for call in (built.theirs, built.ours):
        assert call.seconds() > 0


@pytest.mark.stacks
def test_control_wrong_masks_of_an_upload_are_noticed(monkeypatch):
    pytest.importorskip("flwr")
    from flwr.common.secure_aggregation import secaggplus_utils

    build = partial(peer_upload.masked_input, clients=6, size=500)
    with monkeypatch.context() as patched:
        none = lambda seed, most, shapes: [np.zeros(shape, np.int64) for shape in shapes]  # noqa: E731
        patched.setattr(secaggplus_utils, "pseudo_rand_gen", none)
        with pytest.raises(WrongSum, match="flwr's masked vector"):
            build()
    right, other = peer_upload.Here.submit, iter(range(10**6))

    def wrong(self, fn, /, *args, **named):
        return right(self, lambda: fn(*args, **named) + np.uint32(next(other) + 1))

    build()
    monkeypatch.setattr("secagg.lanes._INLINE_LANES", 0)
    monkeypatch.setattr(peer_upload.Here, "submit", wrong)
    with pytest.raises(WrongSum, match="SecAgg's masked input"):
        build()


MASKING = [one for one in COMPARISONS if one.build in (peer_mpc.mask, peer_mpc.fate_mix)]


@pytest.mark.stacks
@pytest.mark.parametrize("comparison", MASKING, ids=lambda one: one.peer.name)
def test_control_masks_that_hide_nothing_are_noticed(comparison, monkeypatch):
    built_or_skipped(comparison)
    monkeypatch.setattr("mpc.masks.add_mask", lambda *arguments, **named: None)
    monkeypatch.setattr("secagg.lanes.mask_all", lambda *arguments: None)
    with pytest.raises(WrongSum, match=r"add_mask|masks"):
        comparison.build()


@pytest.mark.stacks
def test_control_a_wrong_answer_of_flower_is_noticed(monkeypatch):
    pytest.importorskip("flwr")
    from flwr.common.secure_aggregation.crypto import shamir

    monkeypatch.setattr(shamir, "combine_shares", lambda shares: bytes(32))
    for build in (peer_mpc.split, peer_mpc.combine):
        with pytest.raises(WrongSum):
            build()


@pytest.mark.stacks
def test_a_whole_round_takes_two_fifths_of_flowers_bytes():
    pytest.importorskip("flwr")
    built = peer_mpc.whole_round()
    assert built.our_bytes <= 0.42 * built.their_bytes


def test_a_peer_with_another_interface_is_named():
    def moved():
        from numpy import nothing_of_this_name  # noqa: F401

    comparing = Comparing([Comparison("sum", "value", HERE, moved), Comparison("sum again", "value", HERE, pair)])
    comparing.run(3, 1.0, lambda name, work: None)
    assert "another version is installed" in comparing.absent["numpy, sum"]
    assert len(comparing.compared) == 1


AS_NVFLARE = [peer_he.nvflare_encrypt, peer_he.nvflare_add, peer_he.nvflare_decrypt]


@pytest.mark.parametrize("build", AS_NVFLARE)
def test_control_a_wrong_answer_of_a_peer_is_noticed(build, monkeypatch):
    """Every tensor is changed before it is encrypted."""
    tenseal = pytest.importorskip("tenseal")
    encrypt = tenseal.ckks_vector
    build()
    monkeypatch.setattr(tenseal, "ckks_vector", lambda context, values: encrypt(context, np.asarray(values) + 0.01))
    with pytest.raises(WrongSum, match="tenseal"):
        build()


@pytest.mark.parametrize("build", AS_NVFLARE)
def test_control_a_wrong_answer_of_ours_is_noticed(build, monkeypatch):
    """The coordinates of the opened sum are rotated by one place."""
    pytest.importorskip("tenseal")
    key = type(peer_he._shared()[1])
    opened = key.open
    monkeypatch.setattr(key, "open", lambda *arguments: np.roll(opened(*arguments), 1))
    with pytest.raises(WrongSum, match=r"he\.ckks"):
        build()


@pytest.mark.parametrize(("shown", "hidden"), [(1000, False), (1, True)])
def test_a_mask_that_lets_values_through_hides_nothing(shown, hidden):
    values = np.arange(10_000)
    masked = values + np.random.default_rng(1).integers(0, 1 << 32, values.size)
    masked[:shown] = values[:shown]
    assert peer_mpc.is_hidden(masked, values) is hidden
    assert not peer_mpc.is_hidden(values + 1, values)

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import memory, oneshot, oneshot_calls
from bench.commands import app
from bench.measure import Turns, WrongSum
from bench.memory import Peaks
from bench.oneshot import ONESHOT, SECAGG, SHARES, VECTORS, Measuring, bounds, figures, grids
from bench.oneshot_calls import COUNTS, ENCRYPT, FOLD, Large, Upload, opening_of, play, protocol, upload
from bench.workers import Here
from bench.workloads import Expected
from secagg import Clear, Round
from tests.bench.broken import ClearOffByOne

SIZE = 2000
PEAKS = {VECTORS[0]: (40, 1), VECTORS[1]: (41, 1), SHARES[0]: (1, 10**6), SHARES[1]: (1, 4 * 10**6)}


@pytest.fixture
def short(monkeypatch):
    """The command's own work on a small scale; no process is started to measure memory."""
    monkeypatch.setattr(Measuring.__init__, "__defaults__", (SIZE, 10))
    monkeypatch.setattr(oneshot_calls, "COUNTS", (7, 10))
    monkeypatch.setattr(oneshot, "COUNTS", (7, 10))
    monkeypatch.setattr(memory, "peaks", lambda name, held: Peaks(1, *PEAKS[held]))


def test_every_bound_is_measured_in_one_run(tmp_path, short):
    target = tmp_path / "one.json"
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["oneshot", "--repeats", "1", "--json", str(target)])
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert document["finished"]
    held = {one["what"]: one for one in document["bounds"]}
    exact = [one for what, one in held.items() if "cost states" in what or "for a column" in what]
    assert [one["measured"] for one in exact] == [0, 0, 4]
    assert len(held) == 14
    assert all(one["measured"] > 0 for one in held.values() if one["most"] != 0)
    assert all(one["what"] in result.output for one in document["figures"])
    document["figures"][-1]["peak_memory"] *= 2
    (tmp_path / "worse.json").write_text(json.dumps(document))
    for new, code in (("one.json", 0), ("worse.json", 1)):
        assert CliRunner().invoke(app, ["compare", str(target), str(tmp_path / new)]).exit_code == code


def test_a_session_counts_every_call_of_every_party_once():
    workload, one = Large(6, 300, 1 / 6), protocol()
    session = play(one, workload, workload.updates(), Expected.of(workload, workload.updates()))
    calls = {key: len(seconds) for key, seconds in session.calls.items()}
    assert calls["server", Round.INPUT, "receive"] == len(workload.survivors) == 5
    assert calls["decryptor1", Round.INPUT, "receive"] == 5
    assert calls["c6", Round.INPUT, "receive"] == calls["c6", Round.INPUT, "contribute"] == 1
    whole, without = (session.spent(["decryptor1"], leaving_out=name)[0] for name in ("", Round.SESSION_KEY))
    assert whole - without == pytest.approx(sum(session.calls["decryptor1", Round.SESSION_KEY, "receive"]))
    assert 0 < session.of_server(Round.SUM_OF_KEYS) < sum(map(sum, session.calls.values()))


def test_updates_are_each_clients_own():
    updates = Large(4, 1000, 0.0).updates()
    assert (updates["c1"] == updates["c1"]).all()
    assert (updates["c1"] != updates["c2"]).mean() > 0.99
    assert -1 <= updates["c4"].min() < updates["c4"].max() <= 1


def test_control_a_wrong_sum_has_no_figures(monkeypatch):
    workload = Large(4, 300, 0.0)
    with pytest.raises(WrongSum, match="1 of 300 coordinates"):
        play(ClearOffByOne(), workload, workload.updates(), Expected.of(workload, workload.updates()))
    from he import kahe

    right = kahe.Scheme.open
    monkeypatch.setattr(kahe.Scheme, "open", lambda *how: [one + 1 for one in right(*how)])
    with pytest.raises(WrongSum, match="opened sum of 7 clients is wrong"):
        oneshot_calls.opening_calls(300)


def test_work_for_an_executor_runs_in_the_thread_that_submits_it():
    assert Here().submit(lambda: 7).result() == 7
    with pytest.raises(ZeroDivisionError):
        Here().submit(lambda: 1 / 0).result()


def test_an_upload_for_more_clients_has_wider_fields():
    few, many = (upload(SIZE, most) for most in (100, 10_000))
    assert few.sent == few.stated < many.sent == many.stated
    assert few.answer == 4 * few.columns


def test_the_bounds_are_of_ratios_within_one_run():
    measuring = Measuring(SIZE, 10)
    assert not bounds(measuring)
    assert not figures(measuring)
    assert not grids(measuring, "a processor")
    measuring.uploads = [Upload(100, 3 * SIZE, 3 * SIZE, 40, 10), Upload(10_000, 5 * SIZE, 5 * SIZE - 1, 50, 10)]
    measuring.played.client.update({ONESHOT: [2.0], SECAGG: [8.0]})
    measuring.played.last_round.update({ONESHOT: [1.0], SECAGG: [14.0]})
    measuring.played.member, measuring.played.taking = [349e-6], [3e-3]
    measuring.arithmetic = "ifma"
    seconds = {ENCRYPT: [SIZE / 41e6], FOLD: [0.5e-3], oneshot.HASH: [1.6e-3]}
    measuring.turns = Turns(seconds | {opening_of(count): [3.1 * SIZE / 41e6] for count in COUNTS})
    measuring.peaks = {held: Peaks(1, *of) for held, of in PEAKS.items()}
    assert [one.holds for one in bounds(measuring)] == [
        *(True, True, False, False, True),  # of uploads
        *(True, False, True),  # of sessions
        *(True, False, True, True),  # of openings
        *(True, True),  # of memory
    ]
    assert np.isclose(bounds(measuring)[11].measured, 900)
    (table,) = grids(measuring, "a processor")
    assert len(table.rows) == len(figures(measuring)) == 3 + 4 + 2 + 3 + len(COUNTS) + 4
    assert "a processor, core" in table.notes[0]
    assert Clear.name not in str(table)

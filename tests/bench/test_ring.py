import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import kahe_calls, ring, rlwe_calls
from bench.commands import app
from bench.measure import Spread, WrongSum
from bench.ring import BEFORE, KEYSTREAM, NVFLARE, RING, SEAL, TRANSFORM, Comparing, Elsewhere, Timed, grids
from bench.rlwe_calls import ENCRYPT, FOLD, OPEN
from secagg import ConfigError
from secagg.errors import SecAggError

ROOT = Path(__file__).parent.parent.parent
SEEDED = {"BFV, seeded": rlwe_calls.SCHEMES["BFV, seeded"]}


def timed(work, peer, ratio):
    return Timed(
        work, peer, Spread(1e-6 * ratio, 1e-7, 1e-5), 2048.0, 5.4, Spread(ratio, ratio / 2, 2 * ratio), ratio
    )


def test_all_sides_are_timed_in_turn_on_one_core(tmp_path, monkeypatch):
    monkeypatch.setattr(ring, "SCHEMES", SEEDED)
    target, allowed = tmp_path / "ring.json", os.sched_getaffinity(0)
    arguments = ["--repeats", "3", "--seconds", "1", "--before", str(ROOT), "--json", str(target)]
    result = CliRunner().invoke(app, ["ring", *arguments])
    assert result.exit_code == 0, result.output
    assert os.sched_getaffinity(0) == allowed
    document = json.loads(target.read_text())
    assert document["finished"]
    assert document["core"] in allowed
    sides = [RING, SEAL, BEFORE, NVFLARE]
    by_work = {}
    for one in document["timed"]:
        by_work.setdefault(one["work"], []).append(one)
    assert [one["peer"] for one in by_work.pop(TRANSFORM)] == [RING, SEAL, KEYSTREAM]
    one_time = by_work.pop(kahe_calls.NAME)
    assert [one["peer"] for one in one_time] == [ENCRYPT, FOLD, OPEN, kahe_calls.COPY]
    assert 3.0 < one_time[0]["our_bytes"] < 3.33
    assert list(by_work) == [f"BFV, seeded: {work}" for work in (ENCRYPT, FOLD, OPEN)]
    for work, of in by_work.items():
        assert [one["peer"] for one in of] == sides
        assert of[0]["ratio"] == {"median": 1.0, "least": 1.0, "most": 1.0}
        assert all(0 < one["seconds"]["least"] <= one["seconds"]["median"] for one in of)
        assert all((one["our_bytes"] is not None) == work.endswith(ENCRYPT) for one in of)
        assert all(work in result.output and one["peer"] in result.output for one in of)
    assert 5 < by_work[f"BFV, seeded: {ENCRYPT}"][0]["our_bytes"] < 6
    document["timed"][-1]["ratio"]["median"] /= 2
    (tmp_path / "worse.json").write_text(json.dumps(document))
    for new, code in (("ring.json", 0), ("worse.json", 1)):
        assert CliRunner().invoke(app, ["compare", str(target), str(tmp_path / new)]).exit_code == code


def test_control_an_engine_that_opens_other_values_has_no_figures(monkeypatch):
    from he import bfv

    monkeypatch.setattr(bfv.SecretKey, "open", lambda *_: np.zeros(rlwe_calls.VALUES, np.int64))
    comparing = Comparing()
    monkeypatch.setattr(ring, "SCHEMES", SEEDED)
    monkeypatch.setattr(comparing, "_compare", lambda *_: None)
    with pytest.raises(WrongSum, match=r"BFV, seeded.*opened other values than it encrypted"):
        comparing.run(3, 1.0, lambda name, doing: None)


def test_control_one_time_keys_that_open_another_sum_have_no_figures(monkeypatch):
    from he import kahe

    monkeypatch.setattr(kahe.Scheme, "open", lambda *_: [np.zeros(kahe_calls.VALUES, np.int64)])
    with pytest.raises(WrongSum, match="opened another sum"):
        ring._one_time()


def test_a_call_is_timed_after_an_untimed_one_of_its_own():
    order = []
    rlwe_calls.seconds((lambda: order.append("run"), None), 3)
    assert order == 4 * ["run"]
    order.clear()
    rlwe_calls.seconds((order.append, lambda: order.append("setup") or "run"), 2)
    assert order == 3 * ["setup", "run"]


def test_the_bounds_are_of_our_engine_and_the_older_checkout():
    comparing = Comparing()
    comparing.timed = [
        timed(f"BFV, seeded: {ENCRYPT}", SEAL, 9.0),
        timed(f"BFV, seeded: {ENCRYPT}", BEFORE, 11.0),
        timed(f"BFV, seeded: {ENCRYPT}", NVFLARE, 26.0),
        timed(f"BFV, seeded: {FOLD}", BEFORE, 0.9),
        timed(TRANSFORM, SEAL, 3.1),
        timed(TRANSFORM, KEYSTREAM, 1 / 60_000),
    ]
    comparing.arithmetic = "ifma"
    assert [(one.measured, one.holds) for one in comparing.bounds()] == [
        (9.0, False),
        (26.0, True),
        (3.1, True),
        (pytest.approx(60.0), False),
    ]
    comparing.timed += [
        timed(kahe_calls.NAME, work, ratio) for work, ratio in ((ENCRYPT, 0.02), (FOLD, 0.01), (OPEN, 3.5))
    ]
    assert [(one.measured, one.holds) for one in comparing.bounds()][4:] == [
        (pytest.approx(50.0), True),
        (3.5, False),
    ]
    comparing.timed = comparing.timed[:-3]
    comparing.before = ROOT
    assert [(one.measured, one.holds) for one in comparing.bounds()][:4] == [
        (11.0, True),
        (26.0, True),
        (3.1, True),
        (0.9, False),
    ]
    comparing.arithmetic, comparing.before = "word", None
    assert [(one.least, one.holds) for one in comparing.bounds()] == [(5.0, True)]


def test_the_table_names_each_side_and_the_core():
    comparing = Comparing()
    assert not grids(comparing, "a processor")
    comparing.timed = [timed("BFV, seeded: open", side, ratio) for side, ratio in ((RING, 1.0), (SEAL, 2.0))]
    _, table = grids(comparing, "a processor")
    assert table.rows[1][:2] == ("BFV, seeded: open", SEAL)
    assert f"a processor, core {comparing.core} alone" in table.notes[0]


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_a_folder_that_is_not_a_checkout_is_refused(tmp_path, folder):
    with pytest.raises(ConfigError, match="expected a folder with a checkout"):
        Comparing(tmp_path / folder)


def test_an_older_checkout_that_fails_is_an_error_in_words(tmp_path, capfd):
    (tmp_path / "he").mkdir()
    (tmp_path / "he" / "bfv.py").write_text("raise RuntimeError('too old')")
    with pytest.raises(ConfigError, match="instead of its package he"):
        Elsewhere(tmp_path)
    (tmp_path / "he" / "__init__.py").touch()
    with Elsewhere(tmp_path) as old, pytest.raises(SecAggError, match="its error is above"):
        old.ask("BFV, seeded", None, 0)
    assert "RuntimeError: too old" in capfd.readouterr().err

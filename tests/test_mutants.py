"""Tests that the output of ``make mutants`` is right. It is not run here, because it takes long."""

import sys
from pathlib import Path

import pytest
from scipy.stats import binomtest

from tests.mutants import CONCERNED, ROOT, Mutant, removable, run_tests, sample_mutants, wilson, without


def test_every_module_and_test_of_the_table_is_there():
    for module, tests in CONCERNED.items():
        assert all((ROOT / path).exists() for path in (module, *tests))


SOURCE = """\
def f(é, n):
    \"\"\"Documented.\"\"\"
    if n > 1:
        raise ValueError(
            "é"
        )
    if n == 1:
        check(é); g(é)
    elif n == 0:
        raise KeyError
    else:
        é = g(é)
    return é
"""


def test_a_statement_that_is_removed_leaves_a_program_without_it():
    left = [without(SOURCE, node) for node in removable(SOURCE)]
    assert left == [
        SOURCE.replace('if n > 1:\n        raise ValueError(\n            "é"\n        )', "pass"),
        SOURCE.replace("check(é)", "pass"),
        SOURCE.replace("; g(é)", "; pass"),
        SOURCE.replace("raise KeyError", "pass"),
    ]
    assert all(compile(text, "left", "exec") for text in left)


def test_the_same_seed_draws_the_same_changes_and_another_seed_others():
    pytest.importorskip("cosmic_ray", reason="make mutants installs it in an environment of its own")
    modules = ["secagg/packing.py", "mpc/graph.py"]
    first = [*sample_mutants(modules, 1, 12)]
    assert first == [*sample_mutants(modules, 1, 12)] == [*sample_mutants(modules, 1, 20)][:12]
    assert len(first) == 12
    assert first != [*sample_mutants(modules, 2, 12)]
    assert all(text != (ROOT / mutant.module).read_text(encoding="utf-8") for mutant, text in first)


def test_points_are_drawn_by_the_seed_alone(monkeypatch):
    """Without the tool: of removed statements only."""
    monkeypatch.setattr(
        "tests.mutants.points",
        lambda module, source: [[Mutant(module, "remove-statement", n)] for n in range(len(removable(source)))],
    )
    modules = ["secagg/packing.py", "secagg/wire.py"]
    first = [*sample_mutants(modules, 1, 5)]
    assert len(first) == 5
    assert first == [*sample_mutants(modules, 1, 5)] == [*sample_mutants(modules, 1, 9)][:5]
    assert {mutant for mutant, _ in first} != {mutant for mutant, _ in sample_mutants(modules, 2, 5)}


@pytest.mark.parametrize(("noticed", "of"), [(140, 151), (0, 10), (7, 7), (1, 2)])
def test_the_interval_is_wilsons(noticed, of):
    expected = binomtest(noticed, of).proportion_ci(0.95, "wilson")
    assert wilson(noticed, of) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("assert noticed.here() == 1", "survived"),
        ("assert noticed.here() == 2", "killed"),
        ("import time; time.sleep(60)", "timeout"),
    ],
)
def test_the_tests_that_run_are_those_of_the_copy(tmp_path, body, end):
    """``noticed`` is found in the copy alone; a pass, a failure and a test that never ends are told apart."""
    (tmp_path / "noticed.py").write_text("def here():\n    return 1\n")
    (tmp_path / "test_it.py").write_text(f"import noticed\ndef test_it():\n    {body}\n")
    assert run_tests(Path(sys.executable), tmp_path, ["test_it.py"], 10 if end != "timeout" else 3) == end


def test_where_no_test_runs_nothing_is_claimed(tmp_path):
    with pytest.raises(SystemExit, match="no test was run"):
        run_tests(Path(sys.executable), tmp_path, ["missing.py"], 30)


def test_what_the_tests_started_is_ended_with_them(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys\n\ndef test_it():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    open('pid', 'w').write(str(child.pid))\n    child.wait()\n"
    )
    assert run_tests(Path(sys.executable), tmp_path, ["test_it.py"], 10) == "timeout"
    status = Path("/proc", (tmp_path / "pid").read_text(), "status")
    assert not status.exists() or "State:\tZ" in status.read_text()

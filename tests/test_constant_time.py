"""Each kernel that touches secrets runs in Valgrind, and a run that cannot fail is noticed."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import config

from tests.constant_time import __main__ as report
from tests.constant_time.case import Case
from tests.constant_time.lists import LEAKY, NOT_RUN, PUBLIC, ROOT, kernels
from tests.constant_time.machine_code import NOT_SEARCHED, Code
from tests.constant_time.memory import CONTROL, cases
from tests.constant_time.timing import LEAK, welch

needs_compiler = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")
LISTED = PUBLIC.keys() | NOT_RUN.keys()
OPTIONAL = {"mpc._aes.add", "secagg._bits.pack_eights", "secagg._bits.unpack_add_eights"}  # not on every CPU


def every_case() -> list[Case]:
    return [case for case in cases() if not case.name.startswith(CONTROL)]


@needs_compiler
def test_each_kernel_has_a_case_or_a_reason_why_not() -> None:
    """A new kernel, and one that is gone, fail here. tests/constant_time/lists.py says how to list it."""
    run = {case.kernel for case in every_case()}
    assert not run & LISTED
    assert LEAKY.keys() <= run
    assert run | OPTIONAL | LISTED == kernels()
    assert len({case.name for case in every_case()}) == len(every_case())


@needs_compiler
def test_the_source_names_all_that_numba_compiles() -> None:
    """What decorates a kernel is read from the source: no compiled function may have come about otherwise."""
    from numba.core.dispatcher import Dispatcher

    modules = {name.rpartition(".")[0] for name in kernels()}
    found = {
        f"{value.__module__}.{value.__qualname__}"
        for module in modules
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, Dispatcher) and value.targetoptions.get("inline") != "always"
    }
    assert found <= kernels()
    assert len(found) > 30
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("mpc", "he", "dp", "secagg")
        for path in (ROOT / package).rglob("*.py")
        if "njit" in path.read_text()
    }
    assert users == {"mpc/_compiling.py", "he/_compiling.py", "dp/_compiling.py"}


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "words"), [("(", "isn't a regular expression"), ("nowhere", "no case matches")]
)
def test_a_pattern_that_chooses_no_kernel_is_refused(
    pattern: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.main(["--short", "--only", pattern])
    assert words in capsys.readouterr().err


def test_a_new_kernel_is_noticed(tmp_path: Path) -> None:
    for package in ("mpc", "he", "dp", "secagg"):
        (tmp_path / package).mkdir()
    (tmp_path / "he" / "new.py").write_text("def made():\n    @_compiling.kernel\n    def lurking(x): ...\n")
    assert kernels(tmp_path) == {"he.new.lurking"}


def result(case: str, **changed: Any) -> dict[str, Any]:
    kernel = case.split(" (")[0]
    base = {"kernel": kernel, "case": case, "errors": 0, "kinds": [], "tainted": 8, "equal": True, "t": 0.0}
    return base | changed


CONTROLS = [result("control: a branch", errors=1, t=99.0), result("control: a look-up", errors=64, t=-99.0)]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"errors": 2}, "2 errors"),
        ({"tainted": 0}, "shows nothing"),
        ({"equal": False}, "something else"),
        ({"kernel": "dp._kernels.invert"}, "depends on no secret any more"),
    ],
)
def test_a_run_fails_by_an_error_and_by_a_case_that_shows_nothing(changed: dict[str, Any], problem: str) -> None:
    good = result("mpc._aes.add")
    assert list(report.memory_problems([*CONTROLS, good])) == []
    (line,) = report.memory_problems([*CONTROLS, good | changed])
    assert problem in line


def test_a_run_fails_without_its_controls() -> None:
    branch, look_up = CONTROLS
    assert list(report.memory_problems([branch])) == ["a control is missing"]
    (line,) = report.memory_problems([branch | {"errors": 0}, look_up])
    assert "went unnoticed" in line
    (line,) = report.timing_problems([branch, look_up | {"t": 3.0}])
    assert "went unnoticed" in line
    (line,) = report.timing_problems([*CONTROLS, result("mpc._aes.add", t=-11.0)])
    assert "depends on the secrets" in line


def test_welch_sees_a_difference_that_interrupts_hide() -> None:
    """Every tenth measurement is a hundred times as long. Control: with equal means nothing is seen."""
    rng = np.random.default_rng(1)
    classes = rng.random(4000) < 0.5
    times = rng.normal(1000, 10, 4000)
    times[rng.random(4000) < 0.1] *= 100
    assert abs(welch(times, classes)) < LEAK
    assert welch(times + 5 * classes, classes) > LEAK


@pytest.mark.stacks
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="Valgrind is not installed")
def test_no_branch_and_no_address_depends_on_a_secret() -> None:
    """Controls: kernels with a branch and a look-up, which Valgrind must see in the same run."""
    command = [sys.executable, "-m", "tests.constant_time", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "control: a branch " in done.stdout


#: The compiler turns selections into branches where it has no vectors to select in: so with old CPUs, too.
CPUS = {"this CPU": {}, "any x86-64": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}}


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 machine code")
@pytest.mark.parametrize("cpu", CPUS)
def test_no_machine_code_has_a_branch_or_an_address_that_depends_on_data(cpu: str, tmp_path: Path) -> None:
    """Controls: the same search finds a branch, a table and a division in kernels that have them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.constant_time.machine_code"],
        env={**os.environ, **CPUS[cpu], "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    controls = {name: found.pop(name) for name in ("branching", "table", "division")}
    assert any(line.startswith("branch: ") for line in controls["branching"])
    assert any(line.startswith("address: ") for line in controls["table"])
    assert any(line.startswith("division: ") for line in controls["division"])
    assert found.keys() >= {case.kernel for case in every_case()} - {*NOT_SEARCHED, *OPTIONAL}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "depends"),
    [
        (["vmovups (%rdi), %zmm0", "vmovups %zmm0, 64(%rsp)", "movq 72(%rsp), %rax", "testq %rax, %rax"], True),
        (["movq (%rdi), %rax", "movq %rax, 64(%rsp,%rdx,8)", "movq 72(%rsp), %rcx", "testq %rcx, %rcx"], True),
        (["movq (%rdi), %rax", "cmpq %rax, %rsi", "shlxq %rdx, %rdx, %rcx"], True),
        (["movq (%rdi), %rax", "pushq %rax", "movq (%rsp), %rcx", "testq %rcx, %rcx"], True),
        (["movq (%rdi), %rax", "pushq %rax", "popq %rcx", "testq %rcx, %rcx"], True),
        (["vmovups (%rdi), %zmm0", "vmovups %zmm0, 64(%rsp)", "movq 128(%rsp), %rax", "testq %rax, %rax"], False),
        (["movq (%rdi), %rax", "testq %rsi, %rsi"], False),
    ],
)
def test_the_search_follows_data_through_the_stack_and_flags(code: list[str], depends: bool) -> None:
    body = "".join(f"\t{line}\n" for line in [*code, "jne .LBB0_1"])
    found = Code(f"\nkernel:\n{body}.LBB0_1:\n\tretq\n.Lfunc_end0:", "kernel").findings()
    assert found == ({"branch: jne .LBB0_1"} if depends else set())

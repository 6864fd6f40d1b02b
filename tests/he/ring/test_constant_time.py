"""No branch and no address in the machine code of the ring's kernels depends on what they compute with."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.he.ring.groups import needs_compiler
from tests.he.ring.machine_code import Code

pytestmark = [
    needs_compiler,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 machine code"),
]

ROOT = Path(__file__).parents[3]
#: The compiler turns selections into branches where it has no vectors to select in: so with old CPUs, too.
CPUS = {"this CPU": {}, "any x86-64": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}}


@pytest.mark.parametrize("cpu", CPUS)
def test_no_branch_and_no_address_depends_on_data(cpu: str, tmp_path: Path) -> None:
    """Controls: the same search finds a branch, a table and a division in kernels that have them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.he.ring.machine_code"],
        env={**os.environ, **CPUS[cpu], "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    controls = {name: found.pop(name) for name in ("branching", "table", "division")}
    assert any(line.startswith("branch: ") for line in controls["branching"])
    assert any(line.startswith("address: ") for line in controls["table"])
    assert any(line.startswith("division: ") for line in controls["division"])
    kernels = {name.rpartition(".")[2] for name in found}
    assert kernels >= {"binomial", "ternary", "encryption", "quotients", "lift", "add_small", "round_to", "centre"}
    assert kernels >= {"forward", "backward", "multiply", "scale", "pack"}
    assert kernels >= {"coins", "add_values", "add_product"}
    assert kernels >= {"gather", "scatter", "convert", "add", "subtract", "reduce", "add_upper"}
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

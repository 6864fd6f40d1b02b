"""The AES of the kernels: its key schedule, and which instructions it takes on which CPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]

from mpc import _aes

CPUS = {
    1: {"NUMBA_CPU_NAME": "westmere", "NUMBA_CPU_FEATURES": "+aes"},
    2: {"NUMBA_CPU_NAME": "alderlake", "NUMBA_CPU_FEATURES": "+aes,+avx2,+vaes"},
}


def test_published_key_schedule() -> None:
    """FIPS 197, appendix A.3."""
    if not _aes.available():
        pytest.skip("no compiler, or no AES instructions")
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    schedule = _aes.expand(np.frombuffer(key, np.uint32)).tobytes()
    assert schedule[:32] == key
    assert schedule[-16:].hex() == "fe4890d1e6188d0b046df344706c631e"


@pytest.mark.parametrize("blocks", CPUS)
def test_masks_pass_their_tests_on_narrower_vectors(blocks: int) -> None:
    if not _aes.available():
        pytest.skip("no compiler, or no AES instructions")
    if blocks == 2 and not get_host_cpu_features().get("vaes"):
        pytest.skip("this CPU encrypts one block at a time")
    code = (
        "import sys, pytest\n"
        "from mpc import _aes, masks\n"
        f"assert _aes.blocks_in_vector() == {blocks} and masks.compiled()\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:benchmark', '-p', 'no:xdist', '-k', 'kernel', sys.argv[1]]))\n"
    )
    tests = str(Path(__file__).with_name("test_masks.py"))
    environment = os.environ | CPUS[blocks]
    run = subprocess.run([sys.executable, "-c", code, tests], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("setting", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_DISABLE_JIT": "1"}])
def test_without_instructions_or_compiler_openssl_takes_over(setting: dict[str, str]) -> None:
    code = (
        "import numpy as np\n"
        "from mpc import masks\n"
        "out = np.zeros(4, np.uint32)\n"
        "masks.add_mask(out, bytes(32))\n"
        "assert not masks.compiled()\n"
        "print(out.tobytes().hex())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | setting
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize(
    ("triple", "features", "blocks"),
    [
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,+avx512f,+vaes", 4),
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,-avx512f,+vaes", 2),
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,+avx512f,-vaes", 1),
        ("x86_64-unknown-linux-gnu", "-aes,+avx2", 0),
        ("x86_64-unknown-linux-gnu", "", 0),
        ("aarch64-unknown-linux-gnu", "+aes,+neon", 0),
    ],
)
def test_the_widest_vector_is_chosen(triple: str, features: str, blocks: int) -> None:
    class Codegen:
        def magic_tuple(self) -> tuple[str, str, str]:
            return triple, "", features

    assert _aes.blocks_in_vector(Codegen()) == blocks


def test_numba_tells_cached_kernels_of_other_cpus_apart() -> None:
    """``mpc._aes`` relies on it."""
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled, so nothing is cached")
    dispatcher: Any = _aes.add

    class Codegen:
        def __init__(self, features: str) -> None:
            self.features = features

        def magic_tuple(self) -> tuple[str, str, str]:
            return "x86_64-unknown-linux-gnu", "", self.features

    keys = {dispatcher._cache._index_key((), Codegen(features)) for features in ("+aes", "+aes", "+aes,+vaes")}
    assert len(keys) == 2

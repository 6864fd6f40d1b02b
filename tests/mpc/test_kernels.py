"""The kernels' machine code is cached, and Numba is loaded only when it is wanted."""

import subprocess
import sys

import numba
import pytest

from mpc import _kernels, _packed


def test_kernels_of_this_package_are_cached() -> None:
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled, so nothing is cached")
    for kernel in (_kernels.evaluate, _packed.cut, _packed.transform, _packed.products, _packed.misses):
        assert type(kernel._cache.own).__name__ == "FunctionCache"


def test_cores_load_numba_only_when_it_is_wanted() -> None:
    code = "import sys, mpc, mpc.keys, mpc.masks, mpc.packed, mpc.shamir; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

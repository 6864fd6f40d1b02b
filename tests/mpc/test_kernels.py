"""The decorator: a kernel works whether or not its machine code can be cached."""

import os
import subprocess
import sys

import numba
import pytest

from mpc import _kernels


def test_kernels_of_this_package_are_cached() -> None:
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled, so nothing is cached")
    assert type(_kernels.evaluate._cache).__name__ == "FunctionCache"


def test_sharing_works_without_the_compiler() -> None:
    if numba.config.DISABLE_JIT:
        pytest.skip("this is the run without the compiler")
    code = (
        "import os, warnings; warnings.simplefilter('error')\n"
        "from mpc import _kernels, shamir\n"
        "assert isinstance(_kernels.evaluate, type(lambda: 0))\n"
        "secret = os.urandom(32)\n"
        "shares = shamir.split(secret, 3, 5)\n"
        "assert shamir.combine(shares) == secret\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)


def test_cores_load_numba_only_when_it_is_wanted() -> None:
    code = "import sys, mpc, mpc.keys, mpc.masks, mpc.shamir; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

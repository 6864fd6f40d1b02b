"""No loop reads or writes a byte outside of the memory that it was given."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="calls mmap as Linux has it")


def guarded(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.secagg.guarded", what]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("what", ["packing", "masks", "kernels"])
def test_loops_stay_within_their_buffers(what: str) -> None:
    done = guarded(what)
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr


@pytest.mark.parametrize("what", ["control", "kernel control"])
def test_control_one_byte_too_many_ends_the_process(what: str) -> None:
    done = guarded(what)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")

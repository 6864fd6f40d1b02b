"""Run each case with its secrets marked undefined, and count the errors that Valgrind's memcheck finds.

``python -m tests.constant_time.memory LOG`` runs inside Valgrind, whose log is the file ``LOG``. It prints one
line of JSON for each case. Without ``LOG`` it only runs the cases, so that all kernels are compiled outside of
Valgrind.

memcheck follows each undefined bit through registers and memory. It reports an error where a conditional
jump or an address depends on one; a computation alone is none. Each case runs twice: with everything
defined, and with its secrets undefined. Errors are counted in the second call only, so that what the
interpreter and its libraries do does not count. Its result must be the first one's, and must depend on what
was undefined: otherwise the case shows nothing.
"""

import gc
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.constant_time import memcheck
from tests.constant_time.case import Case

CONTROL = "control: "


def cases(pattern: str = "") -> list[Case]:
    """The controls, and all cases for this CPU whose name matches ``pattern``."""
    from tests.constant_time import cases_he, cases_small

    chosen = cases_small.mpc() + cases_small.secagg() + cases_small.dp() + cases_he.he()
    return cases_small.controls() + [case for case in chosen if re.search(pattern, case.name)]


def measured(case: Case, log: Path) -> dict[str, Any]:
    """Run ``case`` with undefined secrets: how many errors there were, and what Valgrind wrote of them."""
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    case.fill(first)
    case.run()
    expected = [array.tobytes() for array in case.written()]
    case.fill(second)
    size = log.stat().st_size
    for array in case.secrets():
        memcheck.hide(array)
    before = memcheck.errors()
    case.run()
    errors = memcheck.errors() - before
    tainted = sum(memcheck.undefined_bytes(array) for array in case.written())
    for array in [*case.secrets(), *case.written()]:
        memcheck.reveal(array)
    with log.open() as file:
        file.seek(size)
        kinds = set(re.findall(r"==\d+== ((?:Conditional|Use of|Syscall|Invalid)[^\n]*)", file.read()))
    return {
        "kernel": case.kernel,
        "case": case.name,
        "errors": errors,
        "kinds": sorted(kinds),
        "tainted": tainted,
        "equal": expected == [array.tobytes() for array in case.written()],
        "declassified": case.declassified,
    }


def results(log: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """What :func:`measured` finds, case by case."""
    gc.disable()  # what it reads of freed objects is an error to Valgrind
    for case in cases(pattern):
        yield measured(case, log)


def warm(pattern: str) -> None:
    """Compile everything that :func:`results` runs."""
    for case in cases(pattern):
        case.fill(np.random.default_rng(1))
        case.run()
    memcheck.runs()


if __name__ == "__main__":
    pattern = sys.argv[1]
    if sys.argv[2:]:
        if not memcheck.runs():
            sys.exit("this process does not run in Valgrind, or Valgrind does not see our requests")
        for result in results(Path(sys.argv[2]), pattern):
            print(json.dumps(result), flush=True)
    else:
        warm(pattern)

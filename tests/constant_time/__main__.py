"""``make constant-time``: does a branch, an address or the time of a kernel depend on a secret?

Each kernel that touches secrets is compiled for several CPUs and runs in Valgrind's memcheck with its secrets
marked undefined (:mod:`tests.constant_time.memory`). Then it is compiled for this CPU, and timed with fixed and
with random secrets (:mod:`tests.constant_time.timing`). The exit status is 1 if a kernel failed, or if a
control went unnoticed, and 2 if there is no Valgrind.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.constant_time.lists import LEAKY, ROOT
from tests.constant_time.memory import CONTROL, cases
from tests.constant_time.timing import LEAK, SUSPICIOUS

_OLD = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse3,+ssse3,+sse4.1,+aes"}
_NEW = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+aes"}

#: What kernels are compiled for. Valgrind knows no AVX-512, and AES on one block only. LLVM turns selections into
#: branches where it has no vectors to select in: in the loop for what remains after the last whole vector, and in
#: all loops if none is vectorised, which is the hardest test.
CPUS = {"SSE4.1": _OLD, "AVX2": _NEW, "scalar": {**_NEW, "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}}
SHORT = ("scalar",)

Result = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Run what the command line asks for, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.constant_time", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one run in Valgrind, and no timing")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="cases whose name matches a regular expression"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to a file")
    chosen = parser.parse_args(arguments)
    try:
        known = [case for case in cases(chosen.only) if not case.name.startswith(CONTROL)]
    except re.error as error:
        parser.error(f"got --only {chosen.only}, which isn't a regular expression: {error}")
    if not known:
        parser.error(f"got --only {chosen.only}, which no case matches; expected a part of a kernel's dotted name")
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; on Debian, apt-get install valgrind installs it", file=sys.stderr)
        return 2
    memory = {cpu: in_valgrind(cpu, chosen.only) for cpu in (SHORT if chosen.short else CPUS)}
    times = [] if chosen.short else timed(chosen.only)
    if chosen.json:
        chosen.json.write_text(json.dumps({"memory": memory, "timing": times}, indent=1))
    print(table(memory, times))
    problems = [f"{cpu}: {line}" for cpu, results in memory.items() for line in memory_problems(results)]
    problems += [f"timing: {line}" for line in timing_problems(times)] if times else []
    for line in problems:
        print(f"FAILED {line}")
    count = len({result["kernel"] for results in memory.values() for result in results}) - 2  # controls
    print(f"{count} kernels in Valgrind, {len(problems)} problems; both controls belong to every run")
    return int(bool(problems))


def in_valgrind(cpu: str, pattern: str) -> list[Result]:
    """What memcheck finds in each case, compiled for one of :data:`CPUS`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(folder) | CPUS[cpu]
        environment["PYTHONMALLOC"] = "malloc"  # the interpreter's own allocator reads what it has freed
        command = [sys.executable, "-m", "tests.constant_time.memory", pattern]
        print(f"{cpu}: compiling", flush=True)
        subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=600)
        log = Path(folder) / "valgrind.log"
        print(f"{cpu}: running in Valgrind", flush=True)
        valgrind = ["valgrind", "-q", "--error-limit=no", f"--log-file={log}"]
        return list(_lines([*valgrind, *command, str(log)], environment, cpu))


def timed(pattern: str) -> list[Result]:
    """How the time of each case, compiled for this CPU, depends on its secrets."""
    with tempfile.TemporaryDirectory() as folder:
        print("timing: fixed against random secrets, compiled for this CPU", flush=True)
        command = [sys.executable, "-m", "tests.constant_time.timing", pattern]
        return list(_lines(command, _environment(folder), "timing"))


def _environment(folder: str) -> dict[str, str]:
    """The environment of a process that compiles everything anew."""
    return {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _lines(command: list[str], environment: dict[str, str], name: str) -> Iterator[Result]:
    """The results that a command prints, line by line, with a line of progress for each tenth."""
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            result = json.loads(line)
            if number % 10 == 0:
                print(f"{name}: {number} cases, the last one {result['case']}", flush=True)
            yield result
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def memory_problems(results: list[Result]) -> Iterator[str]:
    """What is wrong with the results of one run in Valgrind."""
    for result in results:
        case, errors = result["case"], result["errors"]
        if case.startswith(CONTROL):
            if not errors:
                yield f"{case} went unnoticed: the run proves nothing"
        elif result["kernel"] in LEAKY:
            if not errors:
                yield f"{case} depends on no secret any more; take it off the list and SECURITY.md"
        elif errors:
            yield f"{case}: {errors} errors: {'; '.join(result['kinds']) or 'see the log of Valgrind'}"
        if not result["equal"]:
            yield f"{case} computes something else when its secrets are undefined"
        if not result["tainted"]:
            yield f"{case} returned nothing that depends on its secrets: the case shows nothing"
    if len([result for result in results if result["case"].startswith(CONTROL)]) != 2:
        yield "a control is missing"


def timing_problems(results: list[Result]) -> Iterator[str]:
    """What is wrong with the results of the statistical test."""
    for result in results:
        case, t = result["case"], result["t"]
        if case.startswith(CONTROL):
            if abs(t) <= LEAK:
                yield f"{case} went unnoticed (t = {t}): the test proves nothing on this machine"
        elif abs(t) > LEAK and result["kernel"] not in LEAKY:
            yield f"{case}: t = {t}: the time depends on the secrets"


def table(memory: dict[str, list[Result]], times: list[Result]) -> str:
    """One line for each case: the errors for each CPU, and t."""
    errors = {cpu: {result["case"]: result["errors"] for result in results} for cpu, results in memory.items()}
    t = {result["case"]: result["t"] for result in times}
    names = list(dict.fromkeys([*(name for found in errors.values() for name in found), *t]))
    kernels = {result["case"]: result["kernel"] for results in [*memory.values(), times] for result in results}
    lines = [f"{'':56}" + "".join(f"{cpu:>8}" for cpu in errors) + ("       t" if times else "")]
    for name in names:
        cells = "".join(f"{found.get(name, '-'):>8}" for found in errors.values())
        cells += f"{t[name]:8.1f}" if name in t else "       -" if times else ""
        note = f"  named in SECURITY.md: {LEAKY[kernels[name]]}" if kernels[name] in LEAKY else ""
        if not note and not name.startswith(CONTROL) and SUSPICIOUS < abs(t.get(name, 0)) <= LEAK:
            note = "  suspicious"
        lines.append(f"{name:56}{cells}{note}")
    declassified = {r["case"].split(" (")[0]: r["declassified"] for found in memory.values() for r in found}
    lines += ["", "What leaves these kernels as a number, and may be known:"]
    lines += [f"  {name}: {reason}" for name, reason in declassified.items() if reason]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

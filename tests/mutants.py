"""Do the tests notice? Changes single points of named modules, one at a time, and runs the tests concerned.

    make mutants NUMBER=40 SEED=1 ARGS="mpc/shamir.py secagg/wire.py"

The changes are cosmic-ray's own operators, and one more: ``remove-statement`` takes out a ``raise``, an ``if`` that
does nothing but raise, or a bare call. A point is a place in a module that one kind of operator can change;
``SEED`` draws the points, each as likely as any other, and one change of each. A change that leaves the program the
same, such as one of an annotation, is drawn anew. Only a temporary copy of the source tree is changed. Printed are
the diff of each change that no test noticed, and how many were noticed, with Wilson's 95 % interval.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

ROOT = Path(__file__).parent.parent

_ROLES = ("tests/secagg/test_check_protocol.py", "tests/secagg/test_schedules.py", "tests/secagg/test_commit.py")
_ADVERSARY = "tests/secagg/adversary"
_ENCRYPTED = (
    "tests/secagg/test_encrypted.py",
    f"{_ADVERSARY}/test_encrypted.py",
    f"{_ADVERSARY}/test_dependent_ciphertexts.py",
)
_PAIRWISE = (
    "tests/secagg/test_sums.py",
    "tests/secagg/test_secagg_plus.py",
    *(f"{_ADVERSARY}/test_{name}.py" for name in ("refusals", "two_stories", "lying_clients", "beacon", "graph")),
)

#: Which tests are to notice a change of which module.
CONCERNED: dict[str, tuple[str, ...]] = {
    "mpc/shamir.py": ("tests/mpc/test_shamir.py",),
    **{
        f"mpc/{name}.py": tuple(f"tests/mpc/test_{test}.py" for test in ("packed", "packed_recovery", "kernels"))
        for name in ("packed", "_packed", "_committee", "_mersenne", "_reed_solomon")
    },
    "mpc/graph.py": ("tests/mpc/test_graph.py",),
    "he/paillier.py": ("tests/he/test_paillier.py", "tests/he/test_paillier_keys.py", "tests/he/test_scheme.py"),
    "he/_rlwe.py": ("tests/he/test_malformed_rlwe.py", "tests/he/test_ckks_and_bfv.py", "tests/he/test_scheme.py"),
    "he/_seal_generator.py": ("tests/he/test_seal_generator.py",),
    **{
        f"he/ring/{name}.py": tuple(f"tests/he/ring/test_{test}.py" for test in tests)
        for name, tests in (
            ("fields", ("transforms", "choice_of_arithmetic", "callers")),
            ("residues", ("residues_and_slots", "callers")),
            ("sampling", ("sampling", "second_polynomials")),
            ("slots", ("residues_and_slots",)),
            ("streams", ("keystreams",)),
            ("packing", ("packing",)),
            ("_lanes", ("lanes", "sampling")),
        )
    },
    "he/kahe.py": ("tests/he/test_kahe.py",),
    "he/kahe_params.py": ("tests/he/test_kahe_params.py", "tests/he/test_kahe_twin.py"),
    "he/_kahe_format.py": ("tests/he/test_kahe.py", "tests/he/test_kahe_twin.py"),
    "he/_kahe_encryption.py": ("tests/he/test_kahe.py", "tests/he/test_kahe_twin.py"),
    "he/_kahe_sums.py": ("tests/he/test_kahe.py", "tests/he/test_kahe_twin.py"),
    "mpc/masks.py": ("tests/mpc/test_masks.py", "tests/mpc/test_aes.py"),
    **{f"secagg/{name}.py": ("tests/secagg/test_packing.py",) for name in ("packing", "_bits")},
    "secagg/wire.py": ("tests/secagg/test_wire.py", "tests/secagg/test_check_protocol.py"),
    "secagg/fixed_point.py": ("tests/secagg/test_encoding.py",),
    "secagg/layout.py": ("tests/secagg/test_layout.py",),
    "secagg/store.py": ("tests/secagg/test_store.py",),
    "secagg/identity.py": ("tests/secagg/test_identity.py", "tests/secagg/test_cli.py"),
    "secagg/enrolment.py": ("tests/secagg/test_enrolment.py", f"{_ADVERSARY}/test_enrolment.py"),
    "secagg/registrar.py": ("tests/secagg/test_enrolment.py", f"{_ADVERSARY}/test_enrolment.py"),
    "secagg/kit.py": ("tests/secagg/test_kit.py", f"{_ADVERSARY}/test_enrolment.py"),
    "secagg/certificates.py": ("tests/secagg/test_cli_enrolment.py",),
    "secagg/service/spool.py": ("tests/service/test_spool.py", "tests/service/test_folder_machine.py"),
    "secagg/service/relays.py": ("tests/service/test_relays.py", "tests/service/test_folder_machine.py"),
    **{
        f"secagg/service/{name}.py": ("tests/service/test_database.py", "tests/service/test_upkeep.py")
        for name in ("database", "engine", "folder", "outcomes", "sightings", "states", "upkeep")
    },
    "dp/_curves.py": ("tests/dp/test_accounting.py",),
    "dp/ledger.py": ("tests/dp/test_ledger.py",),
    "dp/_distributed.py": ("tests/dp/test_distributed.py", "tests/secagg/test_noise.py"),
    "dp/distributed.py": ("tests/dp/test_distributed.py", "tests/secagg/test_noise.py"),
    "dp/accounting.py": ("tests/dp/test_accounting.py", "tests/dp/test_accounting_state.py"),
    "secagg/roles/member.py": (*_ROLES, "tests/secagg/test_budget.py", "tests/secagg/test_restore.py"),
    "secagg/roles/server.py": (*_ROLES, "tests/secagg/test_faults.py"),
    "secagg/roles/receiving.py": ("tests/secagg/test_faults.py", "tests/secagg/test_parts.py", *_ROLES),
    "secagg/roles/handing_on.py": ("tests/secagg/test_parts.py", "tests/secagg/test_hostile_parts.py"),
    "secagg/roles/hearing.py": ("tests/secagg/test_parts.py", "tests/secagg/test_hostile_parts.py"),
    "secagg/protocols/shares/collector.py": (
        "tests/secagg/test_shares.py",
        "tests/secagg/test_fuzz.py",
        "tests/secagg/adversary/test_aggregators.py",
    ),
    **{
        f"secagg/protocols/encrypted/{name}.py": _ENCRYPTED
        for name in ("client", "decryptor", "messages", "parameters", "server")
    },
    **{
        f"secagg/protocols/pairwise/{name}.py": _PAIRWISE
        for name in (
            *("client", "messages", "neighbours", "parameters", "server"),
            *("sparse_client", "sparse_parameters", "sparse_server"),
        )
    },
}


@dataclass(frozen=True)
class Mutant:
    """One change: the ``occurrence``-th place in ``module`` that the ``operator`` can change."""

    module: str
    operator: str
    occurrence: int


_REMOVES = "remove-statement"


def removable(source: str) -> list[ast.stmt]:
    """Statements that a program may lose and still run: raises, an ``if`` around nothing else, and bare calls.

    An ``elif`` is not one by itself; the ``raise`` under it is.
    """
    lines, statements, inside = source.splitlines(), [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and [type(part) for part in node.body] == [ast.Raise] and not node.orelse:
            if not _text(lines, node).startswith("elif"):
                statements.append(node)
                inside.add(node.body[0])
            continue
        bare = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if bare or (isinstance(node, ast.Raise) and node not in inside):
            statements.append(node)
    return sorted(statements, key=lambda node: (node.lineno, node.col_offset))


def _text(lines: list[str], node: ast.stmt) -> str:
    return lines[node.lineno - 1].encode()[node.col_offset :].decode()


def without(source: str, node: ast.stmt) -> str:
    """``source`` with ``pass`` in the place of a statement."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]  # the columns are those of UTF-8
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    lines[first : last + 1] = [
        lines[first][: node.col_offset] + b"pass" + lines[last][node.end_col_offset :],
    ]
    return b"".join(lines).decode()


def points(module: str, source: str) -> list[list[Mutant]]:
    """Every point of a module, as the changes that can be made there."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = [*ast_nodes(get_ast(source))]
    changed: dict[tuple[str, object], list[Mutant]] = defaultdict(list)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue  # needs to be told the names of variables
        kind = name.partition("_")[0]
        places = (place for node in nodes for place in operator().mutation_positions(node))
        for occurrence, place in enumerate(places):
            changed[kind, place[:2]].append(Mutant(module, name, occurrence))
    removed = [[Mutant(module, _REMOVES, occurrence)] for occurrence in range(len(removable(source)))]
    return [*changed.values(), *removed]


def mutate(source: str, mutant: Mutant) -> str | None:
    """The changed source; None where the program stays the same, or is none."""
    if mutant.operator == _REMOVES:
        return without(source, removable(source)[mutant.occurrence])
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        return None if changed is None or _bare(changed) == _bare(source) else changed
    except (AttributeError, SyntaxError):
        return None  # an operator met a form of exception list that it doesn't know, or made no program


def _bare(source: str) -> str:
    """The program without its annotations, which nothing reads where they are strings, and without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)


def sample_mutants(modules: Sequence[str], seed: int, number: int) -> Iterator[tuple[Mutant, str]]:
    """``number`` mutants with their source, the same for the same seed, modules and version of the tool."""
    rng = random.Random(seed)
    sources = {module: (ROOT / module).read_text(encoding="utf-8") for module in modules}
    everywhere = [changes for module in modules for changes in points(module, sources[module])]
    rng.shuffle(everywhere)
    for changes in everywhere:
        mutant = rng.choice(changes)
        changed = mutate(sources[mutant.module], mutant)
        if changed is not None and number > 0:
            number -= 1
            yield mutant, changed


def wilson(noticed: int, all_of_them: int) -> tuple[float, float]:
    """The 95 % interval of a proportion. Wilson, J. Am. Stat. Assoc. 22 (1927)."""
    z = NormalDist().inv_cdf(0.975)
    share, z2n = noticed / all_of_them, z * z / all_of_them
    middle, width = share + z2n / 2, z * math.sqrt(share * (1 - share) / all_of_them + z2n / all_of_them / 4)
    return (middle - width) / (1 + z2n), (middle + width) / (1 + z2n)


def run_tests(python: Path, tree: Path, tests: Sequence[str], seconds: float) -> str:
    """``killed``, ``survived`` or ``timeout``; all that the tests started is ended with them."""
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:benchmark", "-m", "not stacks", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as child:  # fmt: skip
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code not in (0, 1, 2):  # 2: not even collected
        raise SystemExit(f"pytest ended with {code} for {' '.join(tests)}; no test was run")
    return "killed" if code else "survived"


def main() -> None:
    """Prints a line a mutant as it goes; ends with 0 whatever survives, for a person to judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", default=[*CONCERNED], help="default: all of the table"
    )
    parser.add_argument("--python", type=Path, required=True, help="the interpreter that has the tests' packages")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=300.0, help="the most for one mutant's tests")
    options = parser.parse_args()
    if unknown := [module for module in options.modules if module not in CONCERNED]:
        parser.error(f"got {', '.join(unknown)}; expected any of {', '.join(CONCERNED)}")
    python = options.python.absolute()  # of an environment: a resolved link would leave it
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", ".mypy_cache", ".hypothesis"))
        limits: dict[tuple[str, ...], float] = {}
        for mutant, changed in sample_mutants(options.modules, options.seed, options.number):
            tests = CONCERNED[mutant.module]
            if tests not in limits:
                began = time.monotonic()
                if run_tests(python, tree, tests, options.seconds) != "survived":
                    raise SystemExit(f"the tests of {mutant.module} fail, or take too long, without any change")
                limits[tests] = min(options.seconds, 20 + 4 * (time.monotonic() - began))
            path = tree / mutant.module
            original = path.read_text(encoding="utf-8")
            for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                stale.unlink()  # a change of the same length in the same second would not be seen
            path.write_text(changed, encoding="utf-8")
            try:
                end = run_tests(python, tree, tests, limits[tests])
            finally:
                path.write_text(original, encoding="utf-8")
            counts[end] += 1
            print(f"{counts.total():4} {end:8} {mutant.module} {mutant.operator.rpartition('/')[2]}", flush=True)
            if end == "survived":
                lines = original.splitlines(), changed.splitlines()
                print("\n".join(difflib.unified_diff(*lines, mutant.module, mutant.module, lineterm="", n=2)))
    if not counts:
        raise SystemExit("no mutant was made")
    noticed = counts["killed"] + counts["timeout"]
    low, high = wilson(noticed, counts.total())
    print(
        f"{counts.total()} mutants: {counts['killed']} killed, {counts['timeout']} timed out, {counts['survived']} "
        f"survived: {noticed / counts.total():.1%} noticed, 95 % interval {low:.1%} to {high:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""Check the source for long modules and functions, wide signatures, private imports, circles and rooms on no floor.

``python -m tests.house`` prints each finding that is not in the list of exceptions below, and then exits with 1;
``make lint`` runs it. Every import counts, also inside functions and for types alone.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("secagg", "he", "mpc", "dp", "bench")
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 7

#: Functions that may be larger, and why.
EXCEPTIONS = {
    "he._strips._write_strip": "writes out the instructions of a kernel",
    "dp._kernels.place": "a kernel takes arrays, not objects",
    "dp.distributed.distributed_gaussian_epsilon": "each keyword is a field of the encoding that a user asks about",
    "dp.distributed.distributed_skellam_epsilon": "each keyword is a field of the encoding that a user asks about",
    "dp.ledger.PrivacyLedger.open": "the ledger's own keywords, its path, and whether to create it",
    "secagg.task.Task.client": "each keyword is one thing that a user lends a client",
    "secagg.simulation.simulate": "each keyword is one thing that a user says of a simulation",
    "secagg.simulation.Session.__init__": "takes what simulate takes",
    "secagg.integrations._flower_server.SecureGrid.__init__": "each keyword is one thing that a user sets",
    "secagg._commands.demo": "each parameter is an option of a command",
    "bench.commands.run": "each parameter is an option of a command",
    "bench.sweep_commands.sweep": "each parameter is an option of a command",
    "bench.plan_command.plan": "each parameter is an option of a command",
    "bench.bounded_commands.resnet18": "each parameter is an option of a command",
}

#: The one circle, by types alone: a task makes roles, roles read their task, and protocols' base class names both.
CIRCLE = {
    *("secagg.task", "secagg.corruption", "secagg.relay", "secagg.protocols.base"),
    *(f"secagg.roles.{name}" for name in ("client", "context", "handing_on", "hearing", "hooks", "listener")),
    *(f"secagg.roles.{name}" for name in ("member", "outcome", "receiving", "server")),
    *(f"secagg.roles.{name}" for name in ("shards", "sharing", "state")),
}


def modules() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("test_")
    }


def imported(tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """The modules of the product that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of modules in which each imports every other, directly or through others."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for after in graph[todo.pop()] - seen:
                seen.add(after)
                todo.append(after)
        return seen

    reached = {name: reach(name) for name in graph}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
        if name in reached[name]
    }
    return [set(group) for group in sorted(groups, key=sorted)]


def functions(tree: ast.Module, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods with their dotted names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from (
                (f"{name}.{node.name}.{method.name}", method)
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
            )


def findings() -> Iterator[tuple[str, str]]:
    """Yield the name and the problem of everything that is too large, private or in a circle."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        graph[name] = set(imported(tree, known)) - {name}
        for other in sorted(graph[name]):
            package, *inside = other.split(".")
            if package != name.split(".")[0] and any(room.startswith("_") for room in inside):
                yield name, f"imports {other}, a private module of another package: use its public names"
        if (lines := len(text.splitlines())) > MOST_LINES:
            yield name, f"{lines} lines; at most {MOST_LINES}: split it"
        for full, function in functions(tree, name):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                yield full, f"{lines} lines; at most {MOST_FUNCTION_LINES}: split it"
            arguments = function.args
            names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in names)
            if count > MOST_PARAMETERS:
                yield full, f"{count} parameters; at most {MOST_PARAMETERS}: group what belongs together"
    for circle in circles(graph):
        if circle != CIRCLE:
            yield sorted(circle)[0], f"a circle of imports: {', '.join(sorted(circle))}"
    rooms = {".".join(name.split(".")[: 3 if name.startswith("secagg.protocols.") else 2]) for name in known}
    for room in sorted(room for room in rooms - floors() if room.startswith("secagg.")):
        if room != "secagg.protocols":
            yield room, "on no floor: add it to the contract on secagg's floors in pyproject.toml"


def floors() -> set[str]:
    """The modules and packages that the contract on secagg's floors lists."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [one["layers"] for one in contracts if one["name"].startswith("secagg's floors")]
    return set(re.split(r" [|:] ", " | ".join(layers)))


def main() -> int:
    """Print the findings that are not exceptions; returns 1 if there are any."""
    problems = [(name, problem) for name, problem in findings() if name not in EXCEPTIONS]
    for name, problem in problems:
        print(f"{name}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Which kernels there are, and why some of them have no case of their own."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mpc", "he", "dp", "secagg")

#: Kernels that touch no secret, and why.
PUBLIC = {
    "he.ring._lanes.cut": "draws the public polynomial of a key; which words are refused is public with it",
    "he._kahe_kernels.read": "reads a sum that is opened; whoever runs it learns the sum",
}

#: Kernels of which SECURITY.md says that they touch secrets and were not run, and why.
NOT_RUN = {
    "he._montgomery._follow": "Paillier: no claim is made, and Valgrind does not know AVX-512 IFMA",
}

#: Kernels of which SECURITY.md says that a branch or an address depends on a secret. A run must find one.
LEAKY = {
    "dp._kernels.invert": "wide noise is drawn by look-ups",
    "dp._kernels.place": "wide noise is drawn by rejection",
}


def kernels(root: Path = ROOT) -> set[str]:
    """The dotted names of all functions of the four packages that are compiled by themselves.

    They are read from the source. What kernels inline is a part of them, and is not among these.
    """
    found = set()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            found |= {f"{module}.{name}" for name in _compiled(ast.parse(path.read_text()))}
    return found


def _compiled(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(map(_compiles, node.decorator_list)):
            yield node.name  # also one that is defined inside of a function


def _compiles(decorator: ast.expr) -> bool:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")
    return name in ("kernel", "njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil")

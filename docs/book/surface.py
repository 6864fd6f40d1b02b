"""The public names of the packages, and the one page of the reference on which each is documented.

A module is public if it has ``__all__``, or if it is in ``MODULES``: each module of which a page, README or an
example names something has to be there. Without ``__all__`` a module offers the classes, functions and constants
that it defines, but for private ones.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("secagg", "he", "mpc", "dp")
#: Public modules without ``__all__``.
MODULES = (
    *("dp.accounting", "dp.clipping", "dp.errors", "dp.events", "dp.ledger", "dp.mechanisms", "dp.pld"),
    *("dp.sampling", "he.errors", "he.kahe_params", "he.packing", "he.params", "he.scheme", "he.security"),
    *("mpc.additive", "mpc.errors", "mpc.graph", "mpc.hpke", "mpc.keys", "mpc.masks", "mpc.shamir"),
    *("secagg.api", "secagg.api.models", "secagg.api.problems", "secagg.api.tokens", "secagg.beacon"),
    *(
        "secagg.bitmap",
        "secagg.certificates",
        "secagg.corruption",
        "secagg.encoding",
        "secagg.enrolment",
        "secagg.errors",
    ),
    *("secagg.fixed_point", "secagg.folder", "secagg.identity", "secagg.keygen", "secagg.kit", "secagg.lanes"),
    *("secagg.layout", "secagg.merkle", "secagg.protocols.base", "secagg.registrar", "secagg.relay"),
    *("secagg.federated.robust", "secagg.remote.core", "secagg.remote.member"),
    *("secagg.remote.requests", "secagg.roles.environment", "secagg.service.limits"),
    *("secagg.service.logs", "secagg.service.status", "secagg.session", "secagg.simulation", "secagg.store"),
    *("secagg.table", "secagg.task", "secagg.transport", "secagg.wire"),
)
#: Of which pages name something: commands and programs, which nothing imports.
PROGRAMS = ("secagg.cli", "secagg.demo")
_NAMED = re.compile(r"\b(?:secagg|he|mpc|dp)(?:\.\w+)+|\bfrom (?:secagg|he|mpc|dp)[\w.]* import [\w, ]+")


@dataclass(frozen=True)
class Public:
    """A public module: the names that its page documents, and those that another page documents."""

    module: ModuleType
    own: tuple[str, ...]
    elsewhere: Mapping[str, str]  # name: the documented name


@functools.cache
def modules() -> tuple[str, ...]:
    """The dotted names of all modules of the packages, each package before what is in it."""
    files = [path.relative_to(ROOT).with_suffix("") for one in PACKAGES for path in (ROOT / one).rglob("*.py")]
    return tuple(sorted(".".join(path.parts).removesuffix(".__init__") for path in files))


@functools.cache
def public_modules() -> tuple[str, ...]:
    """Those of :func:`modules` that are public."""

    def has_all(name: str) -> bool:
        base = ROOT / Path(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        return "\n__all__ = " in path.read_text(encoding="utf-8")

    open_to_all = [name for name in modules() if not any(part.startswith("_") for part in name.split("."))]
    return tuple(name for name in open_to_all if name in MODULES or has_all(name))


def documents() -> list[Path]:
    """What may name something of a public module: README, the pages and the examples."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "api" not in path.parts]
    return sorted([*ROOT.glob("*.md"), *pages, *(ROOT / "examples").rglob("*.py")])


def named() -> dict[str, Path]:
    """The modules that documents name, or of which they name something; each with one such document."""
    known = set(modules())
    words: dict[str, Path] = {}
    for path in documents():
        for match in _NAMED.findall(path.read_text(encoding="utf-8")):
            module, _, names = match.removeprefix("from ").partition(" import ")
            for word in [f"{module}.{name.strip()}" for name in names.split(",")] if names else [module]:
                parts = word.split(".")
                starts = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
                words.setdefault(next(start for start in starts if start in known), path)
    return words


def offered(module: ModuleType) -> list[str]:
    """The public names of a module: those of ``__all__``, or else those of the public things that it defines."""
    if (listed := getattr(module, "__all__", None)) is not None:
        return list(listed)
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def surface() -> Iterator[Public]:
    """The public modules in the order of their names.

    What several modules offer is documented with the one that has the fewest dots: users import it from there.
    """
    loaded = [importlib.import_module(name) for name in public_modules()]
    homes: dict[int, str] = {}
    for module in sorted(loaded, key=lambda one: (one.__name__.count("."), one.__name__)):
        for name in offered(module):
            thing = getattr(module, name)
            if isinstance(thing, type) or inspect.isroutine(thing):
                homes.setdefault(id(thing), f"{module.__name__}.{name}")
    for module in loaded:
        own, elsewhere = [], {}
        for name in offered(module):
            here = f"{module.__name__}.{name}"
            home = homes.get(id(getattr(module, name)), here)
            if home == here:
                own.append(name)
            else:
                elsewhere[name] = home
        yield Public(module, tuple(own), elsewhere)


def stands_for(dotted: str) -> object | None:
    """What a dotted name stands for, without the call of a property."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError, ValueError):
            thing: object = importlib.import_module(".".join(parts[:size]))
            for name in parts[size:]:
                look = inspect.getattr_static if isinstance(thing, type) else getattr
                thing = look(thing, name, None)
            return None if hasattr(type(thing), "__sphinx_mock__") or hasattr(thing, "__sphinx_mock__") else thing
    return None

"""Which public names lack a text: a docstring, or a comment with ``#:`` at a constant."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from docs.book.surface import PACKAGES, Public


def lacking(public: Public) -> Iterator[str]:
    """The public names of a module, and the public methods of its classes, that nothing describes."""
    module = public.module
    if not module.__doc__:
        yield module.__name__
    for name in public.own:
        thing = getattr(module, name)
        if isinstance(thing, type):
            yield from (f"{module.__name__}.{one}" for one in _undescribed(thing, name))
        elif inspect.isroutine(thing) or hasattr(thing, "py_func"):
            if not thing.__doc__:
                yield f"{module.__name__}.{name}"
        elif not isinstance(thing, ModuleType) and name not in _commented(home(module, name)):
            yield f"{module.__name__}.{name}"


def _undescribed(kind: type, name: str) -> Iterator[str]:
    if not kind.__doc__ or kind.__doc__.startswith(f"{kind.__name__}("):  # what @dataclass writes
        yield name
    members = {
        name: one
        for base in kind.__mro__
        if base is kind or _ours(base.__module__)
        for name, one in vars(base).items()
    }
    for member, thing in members.items():
        plain = thing.fget if isinstance(thing, property) else getattr(thing, "func", thing)
        plain = getattr(plain, "__func__", plain)
        if not member.startswith("_") and inspect.isfunction(plain) and not inspect.getdoc(getattr(kind, member)):
            yield f"{name}.{member}"


def home(module: ModuleType, name: str) -> ModuleType:
    """The module that defines a constant that ``module`` may only import."""
    for node in ast.parse(inspect.getsource(module)).body:
        named = {alias.asname or alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        if isinstance(node, ast.ImportFrom) and node.module is not None and name in named and _ours(node.module):
            return home(importlib.import_module(node.module), name)
    return module


def _ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


@functools.cache
def _commented(module: ModuleType) -> set[str]:
    """The names of a module's constants that a comment with ``#:`` above them describes, or a string below them."""
    source = inspect.getsource(module)
    lines, names = source.splitlines(), set()
    body = ast.parse(source).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if below or lines[node.lineno - 2].startswith("#: "):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names

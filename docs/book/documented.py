"""Which public names lack a text: a docstring, or a comment with ``#:`` at a constant."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

from docs.book.surface import Public


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
    for member, thing in vars(kind).items():
        plain = thing.fget if isinstance(thing, property) else getattr(thing, "func", thing)
        plain = getattr(plain, "__func__", plain)
        if not member.startswith("_") and inspect.isfunction(plain) and not inspect.getdoc(getattr(kind, member)):
            yield f"{name}.{member}"


def home(module: ModuleType, name: str) -> ModuleType:
    """The module that defines a constant that ``module`` may only import."""
    for node in ast.parse(inspect.getsource(module)).body:
        named = {alias.asname or alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        if isinstance(node, ast.ImportFrom) and node.module is not None and name in named:
            return importlib.import_module(node.module)
    return module


@functools.cache
def _commented(module: ModuleType) -> set[str]:
    """The names of a module's constants that a comment with ``#:`` describes, above them or on their line."""
    lines = inspect.getsource(module).splitlines()
    found = set()
    for number, line in enumerate(lines):
        constant = re.match(r"(\w+)(: [^=]+)? = ", line)
        if constant is not None and ("  #: " in line or lines[number - 1].startswith("#: ")):
            found.add(constant[1])
    return found

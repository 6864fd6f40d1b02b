"""Which parameters of public functions, classes and methods no docstring describes.

A parameter is described if its name stands between double backticks in the docstring of its function or class. For
a method, the docstring of the same method in a base class counts too. So does the docstring to which one of these
links, such as ``:meth:`Task.client```, if it describes its own parameter of that name. A field of a class may have
a comment with ``#:`` above it instead. A parameter such as ``task: Task``, which has the type and the name of a
public class, is described by that class.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

from docs.book.surface import PACKAGES, Public, stands_for

_SPAN = re.compile(r"``([^`]+)``")
_LINK = re.compile(r":(?:func|meth|class):`(?:[^<`]*<)?[~!]?([\w.]+)>?`")
#: Modules of which a page describes the fields, in a table below a heading with the name of the class.
PAGES = {"secagg.service.status": Path(__file__).parent.parent / "service_status.md"}


def undescribed(publics: Iterable[Public]) -> Iterator[str]:
    """Parameters that nothing describes, each with the function, class or method that has it."""
    publics = list(publics)
    kinds = {
        name: kind for one in publics for name in one.own if isinstance(kind := getattr(one.module, name), type)
    }
    for public in publics:
        for name in public.own:
            thing, full = getattr(public.module, name), f"{public.module.__name__}.{name}"
            thing = getattr(thing, "py_func", thing)
            if isinstance(thing, type) and not issubclass(thing, Enum):
                yield from _of_class(thing, full, kinds)
            elif inspect.isfunction(thing):
                yield from _missing(_parameters(thing), [thing], full, kinds)


def _of_class(kind: type, full: str, kinds: Mapping[str, type]) -> Iterator[str]:
    """The constructor's parameters, or the fields, and then those of the methods."""
    line = [base for base in kind.__mro__ if _is_ours(base)]
    given = {name: text for name, text in _constructor(kind).items() if name not in _commented(kind)}
    yield from _missing(given, [*line, *(vars(base).get("__init__") for base in line)], full, kinds)
    for base in line:
        if base is not kind and base in kinds.values():
            continue  # it has a page of its own
        for member, thing in vars(base).items():
            function = _function(thing)
            if function is None or _is_elsewhere(function, kind) or (member[0] == "_" and member != "__call__"):
                continue
            same = [_function(vars(one)[member]) for one in line if member in vars(one)]
            yield from _missing(_parameters(function), [*same, *line], f"{full}.{member}", kinds)


def _is_elsewhere(function: Any, kind: type) -> bool:
    """Whether a method belongs to the interface of another package's class, to which its docstring refers."""
    foreign = any(not _is_ours(one) and one.__module__ not in ("builtins", "abc", "typing") for one in kind.__mro__)
    return foreign and re.match(r"See (?:\w+'s )?``\w+``", function.__doc__ or "") is not None


def _missing(given: Mapping[str, str], texts: list[Any], full: str, kinds: Mapping[str, type]) -> Iterator[str]:
    """Those of ``given``, names with their annotations, that none of ``texts`` describes."""
    for name, annotation in given.items():
        plain = annotation.split("[")[0].split(".")[-1]
        is_class = plain in kinds and plain.lower() == name.replace("_", "")
        if not (name.startswith("_") or is_class or any(_describes(one, name) for one in texts)):
            yield f"{full}({name})"


def _describes(thing: Any, name: str, links: bool = True) -> bool:
    """Whether a docstring, or one to which it links, has the name of a parameter between double backticks."""
    text = "" if thing is None else thing.__doc__ or ""
    if any(re.search(rf"(?<![\w.]){name}\b", span) for span in _SPAN.findall(text)):
        return True
    if isinstance(thing, type) and (page := PAGES.get(thing.__module__)) is not None:
        _, _, section = page.read_text(encoding="utf-8").partition(f"\n### {thing.__name__}\n")
        return re.search(rf"^\|[^|]*`{name}`", section.partition("\n#")[0], re.MULTILINE) is not None
    others = _linked(thing, text) if links and text else ()
    return any(
        (isinstance(other, type) or name in _parameters(other)) and _describes(other, name, links=False)
        for other in others
    )


def _linked(thing: Any, text: str) -> Iterator[Any]:
    """The functions and classes to which a docstring links."""
    parts = thing.__qualname__.split(".")
    places = [".".join([thing.__module__, *parts[:size]]) + "." for size in range(len(parts), -1, -1)]
    for target in _LINK.findall(text):
        known = (stands_for(place + target) for place in [*places, ""])
        first = next((one for one in known if one is not None), None)
        if (other := first if isinstance(first, type) else _function(first)) is not None:
            yield other


def _is_ours(thing: Any) -> bool:
    return str(thing.__module__).split(".")[0] in PACKAGES


def _constructor(kind: type) -> dict[str, str]:
    """The fields of a class, or else the parameters of its constructor, with their annotations."""
    if is_dataclass(kind):
        return {field.name: _text(field.type) for field in fields(kind)}
    names = getattr(kind, "__struct_fields__", getattr(kind, "_fields", None))
    if isinstance(names, tuple):
        line = [inspect.get_annotations(base) for base in reversed(kind.__mro__)]
        types = {name: _text(annotation) for one in line for name, annotation in one.items()}
        return {name: types.get(name, "") for name in names}
    made = inspect.getattr_static(kind, "__init__")
    return _parameters(made) if isinstance(made, FunctionType) and _is_ours(made) else {}


def _parameters(function: Any) -> dict[str, str]:
    listed = inspect.signature(function).parameters.values()
    return {one.name: _text(one.annotation) for one in listed if one.name not in ("self", "cls")}


def _text(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _function(thing: Any) -> Any:
    """What a class, or a module, holds as a function or method; None for anything else."""
    plain = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
    plain = getattr(plain, "py_func", plain)
    return inspect.unwrap(plain) if isinstance(plain, FunctionType) else None


@functools.cache
def _commented(kind: type) -> set[str]:
    """The fields of a class that a comment with ``#:`` describes, in the class or in one of its bases."""
    names: set[str] = set()
    for base in kind.__mro__:
        if _is_ours(base):
            with contextlib.suppress(OSError):  # a class that no file defines
                source = textwrap.dedent(inspect.getsource(base))
                names |= set(re.findall(r"#: [^\n]*\n(?: *#[^\n]*\n)* +(\w+): ", source))
    return names

"""The reference: a page for each public module, written from docstrings, and what names in docstrings refer to."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from pathlib import Path
from types import ModuleType

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc.mock import mock

from docs.book.files import SHOWN, line_of
from docs.book.surface import PACKAGES, Public, surface

API = Path(__file__).parent.parent / "reference" / "api"


def page(public: Public) -> str:
    """The page of a public module."""
    name = public.module.__name__
    lines = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}"]
    if public.own:
        lines += [f"   :members: {', '.join(public.own)}", "   :undoc-members:", "   :show-inheritance:"]
    lines.append("```")
    if public.elsewhere:
        linked = [f"{{py:obj}}`{shown} <{home}>`" for shown, home in sorted(public.elsewhere.items())]
        lines += ["", f"Also here, and documented where it is imported from: {', '.join(linked)}."]
    return "\n".join([*lines, ""])


def write(app: Sphinx) -> None:
    """Write the pages that have changed, remove those of modules that are gone, and refuse names without a text."""
    with mock(app.config.autodoc_mock_imports):
        found = list(surface())
        pages = {f"{public.module.__name__}.md": page(public) for public in found}
    API.mkdir(exist_ok=True)
    for path in API.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = API / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The page of a file, and the line, at which a thing is defined; seen from a page of the reference."""
    if domain != "py" or (thing := _thing(f"{info['module']}.{info['fullname']}")) is None:
        return None
    where = line_of(thing)
    if where is not None:
        SHOWN.add(where[0])
    return None if where is None else f"../../source/{where[0]}.html#L-{where[1]}"


def _thing(dotted: str) -> object | None:
    """What a dotted name stands for, without the call of a property."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError, ValueError):
            thing: object = importlib.import_module(".".join(parts[:size]))
            for name in parts[size:]:
                look = inspect.getattr_static if isinstance(thing, type) else getattr
                thing = look(thing, name, None)
            return thing
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.reference | nodes.TextElement | None:
    """What a name refers to that the Python domain does not know: the documented name of the same thing, if any.

    Names of other packages, and of private modules, are shown without a link. None, and so a warning, is left for
    names of public modules that nothing documents.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    for dotted in _readings(node, target):
        thing = _thing(dotted)
        if thing is None:
            continue
        name = dotted
        while name:
            known = _documented(app).get(id(_thing(name)))
            if known is not None:
                return _link(app, env, node, shown, known + dotted.removeprefix(name))
            name = name.rpartition(".")[0]
        return shown if _hidden(dotted, thing) else None
    foreign = target.split(".")[0] not in PACKAGES
    return shown if foreign and "." in target else None


def _readings(node: addnodes.pending_xref, target: str) -> list[str]:
    """The dotted names that ``target`` may stand for, seen from the thing whose docstring has it."""
    module, inside = node.get("py:module"), node.get("py:class")
    places = []
    if module and inside:
        places.append(f"{module}.{inside}")
        if (home := getattr(_thing(f"{module}.{inside}"), "__module__", None)) is not None:
            places.append(home)
    if module:
        places.append(module)
    return [*(f"{place}.{target}" for place in places), target, f"builtins.{target}"]


def _hidden(dotted: str, thing: object) -> bool:
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or dotted
    private = any(part.startswith("_") for part in f"{module}.{dotted}".split("."))
    return private or module.split(".")[0] not in PACKAGES


def _documented(app: Sphinx) -> dict[int, str]:
    """The names in the reference of classes and functions, by identity."""
    if not hasattr(app, "book_documented"):
        objects = app.env.domains.python_domain.objects
        found = {name: _thing(name) for name, entry in objects.items() if not entry.aliased}
        app.book_documented = {
            id(thing): name
            for name, thing in found.items()
            if isinstance(thing, type | ModuleType) or inspect.isroutine(thing)
        }
    known: dict[int, str] = app.book_documented
    return known


def _link(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.TextElement, name: str
) -> nodes.reference | None:
    entry = env.domains.python_domain.objects.get(name)
    if entry is None:
        return None
    here = env.docname if node.get("refdoc") is None else node["refdoc"]
    uri = app.builder.get_relative_uri(here, entry.docname)
    return nodes.reference("", "", shown, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of these functions."""
    app.connect("builder-inited", write)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": False, "parallel_write_safe": False}

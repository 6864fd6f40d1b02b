"""The reference: a page for each public module, written from docstrings, and what names in docstrings refer to."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging

from docs.book.documented import home, lacking
from docs.book.files import ROOT, SHOWN, defined_at, line_of
from docs.book.parameters import PAGES, undescribed
from docs.book.surface import PACKAGES, Public, stands_for, surface

log = logging.getLogger(__name__)
_LONGEST = 120  # characters of a value that is shown
API = Path(__file__).parent.parent / "reference" / "api"


def page(public: Public, documented: frozenset[type]) -> str:
    """The page of a public module; ``documented`` are the classes that some page documents."""
    name = public.module.__name__
    things = {own: getattr(public.module, own) for own in public.own}
    ends = {own: inherits(thing, documented) for own, thing in things.items()}
    alone = [own for own, thing in things.items() if any(ends.values()) and _directive(thing) is not None]
    options = ["   :undoc-members:", "   :show-inheritance:"]
    lines = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}"]
    if together := [own for own in public.own if own not in alone]:
        lines += [f"   :members: {', '.join(together)}", *options]
    for own in alone:
        lines += ["", f".. {_directive(things[own])}:: {name}.{own}"]
        if isinstance(things[own], type):
            lines += ["   :members:", *options]
        if ends[own]:
            lines.append(f"   :inherited-members: {', '.join(ends[own])}")
    lines.append("```")
    if (about := PAGES.get(name)) is not None:
        lines += ["", f"What the fields mean is in [{about.stem}](../../{about.name})."]
    if public.elsewhere:
        linked = [f"{{py:obj}}`{shown} <{home}>`" for shown, home in sorted(public.elsewhere.items())]
        lines += ["", f"Also here, and documented where it is imported from: {', '.join(linked)}."]
    return "\n".join([*lines, ""])


def inherits(thing: object, documented: frozenset[type]) -> list[str]:
    """If a class has public methods from bases without a page: the bases whose methods it does not show."""
    if not isinstance(thing, type):
        return []
    bare = [
        base for base in thing.__mro__[1:] if base.__module__.split(".")[0] in PACKAGES and base not in documented
    ]
    if not any(not name.startswith("_") for base in bare for name in vars(base)):
        return []
    return sorted({base.__name__ for base in thing.__mro__[1:] if base not in bare})


def _directive(thing: object) -> str | None:
    """What documents a class or a function by itself; None for other things."""
    if isinstance(thing, type):
        return "autoexception" if issubclass(thing, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(thing) else None


def write(app: Sphinx) -> None:
    """Write the pages that have changed, remove those of modules that are gone; refuse what nothing describes."""
    with mock(app.config.autodoc_mock_imports):
        publics = list(surface())
        if missing := [line for public in publics for line in lacking(public)]:
            raise ExtensionError("public names without a docstring, or a #: comment above:\n" + "\n".join(missing))
        if missing := list(undescribed(publics)):
            raise ExtensionError("parameters that no docstring describes:\n" + "\n".join(missing))
        named = (getattr(public.module, name) for public in publics for name in public.own)
        documented = frozenset(thing for thing in named if isinstance(thing, type))
        pages = {f"{public.module.__name__}.md": page(public, documented) for public in publics}
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
    if domain != "py":
        return None
    module, name = importlib.import_module(info["module"]), info["fullname"]
    where = line_of(stands_for(f"{module.__name__}.{name}"))
    if where is None:  # it is of a class of a framework that is not installed here, or has a decorator of it
        path = str(Path(str(home(module, name.partition(".")[0]).__file__)).relative_to(ROOT))
        where = (path, line) if (line := defined_at(path, name)) else None
    if where is not None:
        SHOWN.add(where[0])
    return None if where is None else f"../../source/{where[0]}.html#L-{where[1]}"


def escape(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let a bar in a docstring be a bar: |x| is a size there, and substitutions are not used."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = (part.replace("|", r"\|") for part in parts[::2])
        lines[number] = "``".join(parts)


def shorten(
    app: Sphinx, what: str, name: str, thing: object, options: object, *parts: str | None
) -> tuple[str | None, ...]:
    """Write NumPy's arrays in signatures as ``NDArray[int64]``, which is what the source says.

    A default without an expression, such as ``<factory>``, becomes ``...``: Sphinx could not read the signature.
    """
    array = re.compile(
        r"~?(?:numpy\.)?ndarray\[~?tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?(?:numpy\.)?dtype\[~?([\w.]+)\]\]"
    )
    return tuple(
        None
        if part is None
        else re.sub(r"= ?<[^<>]+>", "= ...", array.sub(lambda one: f"NDArray[{one[1].rpartition('.')[2]}]", part))
        for part in parts
    )


def tidy(app: Sphinx, tree: nodes.document) -> None:
    """Leave out that a class has the base ``object``, values that fill many lines, and links of built-in types.

    Sphinx takes an attribute of any class for a type of the same name: ``bytes`` for ``RoundStatus.bytes``.
    """
    for paragraph in list(tree.findall(nodes.paragraph)):
        if paragraph.astext() == "Bases: object":
            paragraph.parent.remove(paragraph)
    for signature in tree.findall(addnodes.desc_signature):
        if "~" in signature.astext():
            log.warning("a signature that could not be read: %s", signature.astext(), location=signature)
    for value in tree.findall(addnodes.desc_annotation):
        if value.astext().lstrip().startswith("=") and len(value.astext()) > _LONGEST:
            value.children = [nodes.Text(" = …")]
    for name in list(tree.findall(addnodes.pending_xref)):
        role = name.get("refdomain"), name.get("reftype")
        if role == ("py", "class") and hasattr(builtins, name["reftarget"]):
            name.parent.replace(name, nodes.Text(name["reftarget"]))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.reference | nodes.TextElement | None:
    """What a name refers to that the Python domain does not know.

    It is the documented name of the same thing, or else the source of a thing that nothing documents. Names of
    other packages have no link. None, and so a warning, is left for a docstring's names that stand for nothing.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    known = _documented(app)
    for dotted in _readings(node, target):
        if (thing := stands_for(dotted)) is None:
            continue
        name = dotted
        while name:
            if (full := known.get(id(stands_for(name)), "") + dotted.removeprefix(name)) in known.objects:
                return _link(app, node, shown, *known.objects[full])
            name = name.rpartition(".")[0]
        module, _, last = dotted.rpartition(".")
        if isinstance(place := stands_for(module), ModuleType) and place.__name__.split(".")[0] in PACKAGES:
            full = f"{home(place, last).__name__}.{last}"
            if full in known.objects:
                return _link(app, node, shown, *known.objects[full])
        return _source(app, node, shown, thing)
    same = {place for full, place in known.objects.items() if full.endswith(f".{target}")}
    if len(same) == 1:
        return _link(app, node, shown, *same.pop())
    foreign = not re.fullmatch(r"\w+", target) and target.split(".")[0] not in PACKAGES
    return shown if foreign or _in_signature(node) else None


def _in_signature(node: nodes.Node | None) -> bool:
    """Whether a name is part of a signature: annotations are checked by mypy, and may name what has no page."""
    while node is not None and not isinstance(node, addnodes.desc_signature):
        node = node.parent
    return node is not None


def _readings(node: addnodes.pending_xref, target: str) -> list[str]:
    """The dotted names that ``target`` may stand for, seen from the thing whose docstring has it."""
    module, inside = node.get("py:module"), node.get("py:class")
    places = []
    if module and inside:
        places.append(f"{module}.{inside}")
        if (defined := getattr(stands_for(f"{module}.{inside}"), "__module__", None)) is not None:
            places.append(defined)
    if module:
        places.append(module)
    return [*(f"{place}.{target}" for place in places), target, f"builtins.{target}"]


class Documented(dict[int, str]):
    """The names in the reference of modules, classes and functions, by identity."""

    def __init__(self, app: Sphinx) -> None:
        objects = app.env.domains.python_domain.objects
        self.objects = {name: (entry.docname, entry.node_id) for name, entry in objects.items()}
        for name, entry in objects.items():
            thing = None if entry.aliased else stands_for(name)
            if isinstance(thing, type | ModuleType) or inspect.isroutine(thing):
                self[id(thing)] = name


def _documented(app: Sphinx) -> Documented:
    if not hasattr(app, "book_documented"):
        app.book_documented = Documented(app)
    known: Documented = app.book_documented
    return known


def _link(
    app: Sphinx, node: addnodes.pending_xref, shown: nodes.TextElement, page: str, anchor: str
) -> nodes.reference:
    uri = app.builder.get_relative_uri(node["refdoc"], page)
    return nodes.reference("", "", shown, internal=True, refuri=f"{uri}#{anchor}", reftitle=node["reftarget"])


def _source(
    app: Sphinx, node: addnodes.pending_xref, shown: nodes.TextElement, thing: object
) -> nodes.reference | nodes.TextElement:
    if (where := line_of(thing)) is None:
        return shown
    SHOWN.add(where[0])
    uri = app.builder.get_relative_uri(node["refdoc"], f"source/{where[0]}")
    return nodes.reference("", "", shown, internal=True, refuri=f"{uri}#L-{where[1]}", reftitle=node["reftarget"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of these functions."""
    app.connect("builder-inited", write)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", escape)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", tidy)
    return {"parallel_read_safe": False, "parallel_write_safe": False}

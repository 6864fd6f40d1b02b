"""Links from a page of the site to any file of the repository, and the pages that show those files.

On GitHub a page links to ``../secagg/task.py`` or ``../SECURITY.md``. In the site the first is a page of its own,
``source/secagg/task.py.html``, with an anchor for each line; the second is the page in ``PAGES`` that shows that
file. A link to ``../tests/test_docs.py#test_a_name`` leads to the line of that function or class.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import FunctionType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
#: Pages whose text is a file outside docs/.
PAGES = {
    "project/changelog": "CHANGELOG.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/security": "SECURITY.md",
}
SCHEME = "file-of:"
PLAIN = "docs/pages/"  # pages in HTML, which docs.book.pages copies
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?![a-z][\w+.-]*:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_LARGEST = 400_000  # characters of a file that is shown; images and vectors are larger
#: A page of a file: the colours of the site, and none of its menus, which are slow to write for so many pages.
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{up}_static/pygments.css">
<link rel="stylesheet" href="{up}_static/styles/furo.css">
<link rel="stylesheet" href="{up}_static/book.css">
</head>
<body class="book-file">
<script>document.body.dataset.theme = localStorage.getItem("theme") || "auto";</script>
<header><a href="{up}index.html">secagg</a> / <code>{title}</code></header>
<main>{body}</main>
</body>
</html>
"""

#: The files that the pages of this build link to.
SHOWN: set[str] = set()

log = logging.getLogger(__name__)


def relinked(text: str, written: Path, shown: Path) -> str:
    """The text of the file ``written``, with its relative links changed so that they hold on the page ``shown``."""
    homes = {ROOT / file: DOCS / f"{page}.md" for page, file in PAGES.items()}

    def change(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(written.parent / link[2]))
        anchor = link[3] or ""
        if target in homes:
            target = homes[target]
        elif link[1][0] != "!" and (
            target.suffix in (".py", ".html") or not target.is_relative_to(DOCS) or target.is_dir()
        ):
            return f"{link[1]}{SCHEME}{target.relative_to(ROOT)}{anchor}"
        return link[1] + os.path.relpath(target, shown.parent) + anchor

    parts = re.split(r"(^ *```.*?^ *```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(named(part) if index % 2 else _LINK.sub(change, part) for index, part in enumerate(parts))


def named(block: str) -> str:
    """A block of code with its language: one without is for a shell, and Sphinx would take it for Python."""
    return re.sub(r"^( *```)\n", r"\1bash\n", block, count=1)


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the text of a page in ``PAGES`` by that of its file, and change every page's links."""
    shown = DOCS / f"{page}.md"
    if not shown.exists():
        return
    written = ROOT / PAGES[page] if page in PAGES else shown
    if page in PAGES:
        app.env.note_dependency(str(written))
        source[0] = written.read_text(encoding="utf-8")
    source[0] = relinked(source[0], written, shown)


def note(app: Sphinx, tree: nodes.document) -> None:
    """Note which files a page links to."""
    for _, path, _ in _links(tree):
        if not (ROOT / path).exists():
            log.warning("the link to %s leads to no file", path, location=tree)
        if not path.startswith(PLAIN):
            SHOWN.add(path)


def resolve(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Point links to files of the repository at the pages that show these files."""
    for link, path, anchor in _links(tree):
        if path.startswith(PLAIN):
            link["refuri"] = (
                app.builder.get_relative_uri(page, path.removeprefix("docs/").removesuffix(".html")) + anchor
            )
            continue
        line = anchored(path, anchor)
        if line is None:
            log.warning("the link to %s%s leads to nothing in that file", path, anchor, location=tree)
        link["refuri"] = app.builder.get_relative_uri(page, f"source/{path}") + (line or "")


def anchored(path: str, anchor: str) -> str | None:
    """The anchor of the line that ``#L12`` or ``#name`` in a link to a file means; None if there is none."""
    if not anchor or re.fullmatch(r"#L\d+", anchor):
        return anchor.replace("#L", "#L-")
    line = defined_at(path, anchor[1:]) if path.endswith(".py") else None
    return f"#L-{line}" if line else None


def defined_at(path: str, name: str) -> int | None:
    """The line at which a file defines a class or function, such as ``Task.client``, with its decorators."""
    tree: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for part in name.split("."):
        named = (node for node in ast.walk(tree) if isinstance(node, defined) and node.name == part)
        if (inner := next(named, None)) is None:
            return None
        tree = inner
        line = min(one.lineno for one in (inner, *inner.decorator_list))
    return line


def _links(tree: nodes.document) -> Iterator[tuple[nodes.reference, str, str]]:
    """The links to files of the repository, each with the file's path and the anchor."""
    for link in tree.findall(nodes.reference):
        if (target := link.get("refuri", "")).startswith(SCHEME):
            path, sharp, anchor = target.removeprefix(SCHEME).partition("#")
            yield link, path.strip("/"), sharp + anchor


def write(app: Sphinx, failure: Exception | None) -> None:
    """Write the pages of files: those that a page of the site or of the reference links to, if they changed."""
    if failure is not None or app.builder.name != "html":
        return
    before = Path(app.outdir) / "source"  # pages that this build did not have to read link to what is there
    shown = SHOWN | {str(page.relative_to(before))[: -len(".html")] for page in before.rglob("*.html")}
    todo = {name for name in shown if (ROOT / name).exists()}
    for name in sorted(todo):
        path, target = ROOT / name, Path(app.outdir) / f"source/{name}.html"
        if target.exists() and target.stat().st_mtime > path.stat().st_mtime and path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        body = _folder(name, path, todo) if path.is_dir() else _file(app, path)
        up = "../" * (name.count("/") + 1)
        target.write_text(_PAGE.format(title=escape(name), up=up, body=body), encoding="utf-8")


def _folder(name: str, folder: Path, shown: set[str]) -> str:
    """What a folder holds, with links to what is shown."""
    rows = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        entry = f"<code>{escape(path.name)}{'/' * path.is_dir()}</code>"
        if str(path.relative_to(ROOT)) in shown:
            entry = f'<a href="{escape(folder.name)}/{escape(path.name)}.html">{entry}</a>'
        rows.append(f"<li>{entry}</li>")
    return f"<ul>{''.join(rows)}</ul>"


def _file(app: Sphinx, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"<p>{path.stat().st_size:,} bytes that are not text.</p>"
    if len(text) > _LARGEST:
        return f"<p>{len(text):,} characters, too many for a page.</p>"
    languages = {".py": "python", ".md": "md", ".toml": "toml", ".sh": "bash", ".json": "json", ".js": "js"}
    highlighter = app.builder.highlighter
    shown = highlighter.highlight_block(text, languages.get(path.suffix, "text"), linespans="L")
    return f'<div class="book-source">{shown}</div>'


def line_of(thing: object) -> tuple[str, int] | None:
    """The file, from the repository's root, and the line at which a class or function of the library is defined."""
    thing = getattr(thing, "py_func", thing)  # Numba's compiled functions
    thing = thing.fget if isinstance(thing, property) else thing
    thing = getattr(thing, "func", thing)  # cached_property
    thing = getattr(thing, "__func__", thing)  # class methods, static methods
    cached = isinstance(thing, FunctionType | functools._lru_cache_wrapper)
    thing = inspect.unwrap(thing) if cached else thing  # type: ignore[arg-type]
    try:
        return _place(thing)
    except TypeError:  # neither a class nor a function
        return None


@functools.cache  # Python parses a class's module anew each time
def _place(thing: Any) -> tuple[str, int] | None:
    try:
        path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, ValueError):  # the last is what unwrapping a module that stands in for another raises
        return None
    if path is None or not Path(path).is_relative_to(ROOT):
        return None
    return str(Path(path).relative_to(ROOT)), max(line, 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of these functions."""
    app.connect("source-read", read)
    app.connect("doctree-read", note)
    app.connect("doctree-resolved", resolve)
    app.connect("build-finished", write)
    return {"parallel_read_safe": False, "parallel_write_safe": False}

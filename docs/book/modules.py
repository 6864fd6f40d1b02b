"""The table of public modules on the page ``reference/api``, each with the first line of its docstring."""

from __future__ import annotations

import importlib
import re

from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock

from docs.book.surface import PACKAGES, public_modules

PAGE, PLACE = "reference/api", "<!-- modules -->"


def table() -> str:
    """A table for each package, in Markdown. Its links lead to the pages in the folder ``api``."""
    lines = []
    for package in PACKAGES:
        names = [name for name in public_modules() if name.split(".")[0] == package]
        lines += [f"| {package} | what it has |", "|---|---|"]
        lines += [f"| [{name}](api/{name}.md) | {summary(name)} |" for name in names]
        lines.append("")
    return "\n".join(lines)


def summary(module: str) -> str:
    """The first line of a module's docstring, in Markdown."""
    line = (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
    plain = re.sub(r":[\w:]+:`~?([^`<]+?)(?: <[^`]*>)?`", r"`\1`", line)
    return plain.replace("``", "`").replace("|", r"\|")


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the tables into the page."""
    if page == PAGE:
        with mock(app.config.autodoc_mock_imports):
            source[0] = source[0].replace(PLACE, table())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Checks a built site: ``python -m docs.book.links site``.

Each link of each page leads to a page of the site, and to an anchor that this page has. No page and no style takes
anything from another host: a reader may follow a link to one, but the browser asks for nothing there by itself.
No built-in type in a signature leads to something of this library that only has the same name. And all that a page
says in Markdown is on the site: a line that begins with ``%`` is a comment there, and plain text on GitHub.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

_FOREIGN = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//|^(?!data:|mailto:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_IN_SIGNATURE = re.compile(r'<a class="reference internal" href="([^"]*)"[^>]*><span class="pre">(\w+)</span>')
_UNSAID = re.compile(  # of a page in Markdown: what its reader does not see as text
    r"\A---\n.*?^---$|<!--.*?-->|^ *```(?:mermaid|\{toctree\}).*?^ *```$|^ *(?:```|:::)[^\n]*$"
    r"|\]\([^)\s]*\)|</?[a-z]+(?: [^>]*)?>|^ *\d+\. ",
    re.DOTALL | re.MULTILINE,
)
_LOADED = {"src", "srcset", "poster", "data", "background"}  # attributes whose target is loaded with the page


class Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.mistaken = [(name, to) for to, name in _IN_SIGNATURE.findall(text) if hasattr(builtins, name)]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "alt":
                self.words.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in _LOADED or (name == "href" and tag not in ("a", "area")):
                self.loaded.append(value)
            elif name == "href":
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.words.append(data)


@cache
def page_of(path: Path) -> Page:
    """The page in a file."""
    return Page(path.read_text(encoding="utf-8"))


def broken(site: Path) -> Iterator[str]:
    """What is wrong with the pages of a site and with its styles."""
    page_of.cache_clear()
    for path in sorted(site.rglob("*.html")):
        page = page_of(path)
        yield from (f"{path}: the built-in {name} leads to {target}" for name, target in page.mistaken)
        for target in page.loaded:
            if _FOREIGN.match(target):
                yield f"{path}: loads {target} from another host"
        for target in [*page.links, *page.loaded]:
            if not _FOREIGN.match(target) and not target.startswith(("data:", "mailto:")):
                yield from (f"{path}: {target} {problem}" for problem in _problems(path, target))
    for path in sorted(site.rglob("*.css")):
        for target in re.findall(r"""(?:url\(|@import\s+)['"]?([^'")\s]+)""", path.read_text(encoding="utf-8")):
            if _FOREIGN.match(target):
                yield f"{path}: loads {target} from another host"


def _problems(path: Path, target: str) -> Iterator[str]:
    file, _, anchor = unquote(target).partition("#")
    other = path if not file else path.parent / file.partition("?")[0]
    if other.is_dir():
        other = other / "index.html"
    if not other.exists():
        yield "leads to no file"
    elif "=" in anchor:
        return  # what a page with a form shall show; tests/test_chooser.py opens these
    elif anchor and other.suffix == ".html" and anchor not in page_of(other.resolve()).anchors:
        yield "leads to no anchor"


def lost(markdown: str, page: str) -> Iterator[str]:
    """The lines of a page in Markdown of which the page of the site lacks a part, marks and spaces apart."""
    said = _letters("".join(Page(page).words))
    for line in _UNSAID.sub("", markdown).splitlines():
        if not all(_letters(part) in said for part in (line.split("|") if line.startswith("|") else [line])):
            yield line


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def unsaid(site: Path, docs: Path) -> Iterator[str]:
    """What pages in Markdown say and the site does not."""
    for path in sorted(site.rglob("*.html")):
        source = docs / path.relative_to(site).with_suffix(".md")
        generated = {"project", "api"} & set(source.parts)  # they show files of the root, and docstrings
        if source.exists() and not generated:
            lines = lost(source.read_text(encoding="utf-8"), path.read_text(encoding="utf-8"))
            yield from (f"{path}: lacks what {source.name} says: {line}" for line in lines)


def main(site: Path) -> int:
    """Print what is wrong; returns 1 if anything is."""
    docs = Path(__file__).resolve().parent.parent
    problems = [*broken(site.resolve()), *unsaid(site.resolve(), docs)]
    for problem in problems:
        print(problem)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The site that ``make docs-site`` has built: links, the reference, and how it is in Chromium, from the disk."""

import importlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from docs.book import surface
from docs.book.documented import lacking
from docs.book.links import broken, lost
from docs.book.parameters import undescribed
from docs.book.pictures import joined
from tests.service.browser import look, requested, shows, visit

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"
PAGES = ("index", "learn/tutorial", "protocols", "attacks", "reference/api/secagg", "benchmarks", "choose/index")
WIDTHS = 1280, 390


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the site; in continuous integration it has to be there."""
    if not (SITE / "index.html").exists() and not os.environ.get("CI"):
        pytest.skip("make docs-site builds the site")
    return SITE


def test_control_what_a_page_must_not_have_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there">b</a><a href="https://example.org">e</a></p>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    assert list(broken(tmp_path)) == []
    (tmp_path / "b.html").write_text('<a href="c.html">c</a><script src="https://example.org/x.js"></script>')
    (tmp_path / "c.css").write_text("@font-face { src: url(//example.org/font.woff2) }")
    (tmp_path / "d.html").write_text('<a href="a.html#nowhere">a</a>')
    type_of = '<a class="reference internal" href="a.html" title="{0}"><span class="pre">{0}</span></a>'
    (tmp_path / "e.html").write_text(type_of.format("bytes") + type_of.format("Task"))
    problems = "\n".join(broken(tmp_path.resolve()))
    assert len(problems.splitlines()) == 6
    assert "c.html leads to no file" in problems
    assert "the built-in bytes leads to a.html" in problems
    assert "b.html#there leads to no anchor" in problems
    assert "a.html#nowhere leads to no anchor" in problems
    assert problems.count("from another host") == 2


def test_control_what_a_page_says_and_its_site_does_not_is_noticed() -> None:
    said = "---\nkey: x\n---\n1. From 85\n% (four runs). [A *page*](x.md), <br>\n\n| a | `b` |\n```\nx = 1\n```\n"
    page = "<li>From 85 % (four runs). <a href='x'>A <i>page</i></a></li><td>a</td><td>b</td><pre>x = 1</pre>"
    assert list(lost(said, page)) == []
    assert list(lost(said, page.replace("four runs", ""))) == ["% (four runs). [A *page*, "]
    assert list(lost(said, page.replace("<td>b</td>", "").replace("x = 1", ""))) == ["| a | `b` |", "x = 1"]


def test_links_of_claims_and_attacks_lead_to_the_lines_of_their_tests(site: Path) -> None:
    for name, least in (("claims", 40), ("attacks", 150), ("gallery/attacks", 120)):
        page = (site / f"{name}.html").read_text(encoding="utf-8")
        links = re.findall(r'href="[./]*/?source/(tests/[^"#]*)\.html#L-(\d+)">(?:<\w+[^>]*>)*([^<]+)', page)
        assert len(links) > least
        for path, line, shown in links:
            below = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1 :]
            word = re.search(r"^ *(?:class|def) (\w+)", "\n".join(below), re.MULTILINE)[1]  # type: ignore[index]
            assert word.endswith(shown.replace(" ", "_")), (name, path, line)


#: Fields whose default is a function of Python's own.
FIELDS = {"secagg.roles.Environment.clock", "secagg.roles.Environment.rng"}


def without_source(page: str) -> list[str]:
    """What a page of the reference shows without a link to its source; attributes and type variables have none."""
    kinds = "function|method|property|class|exception"
    entry = rf'<dl class="py (?:{kinds})">\s*<dt class="sig [^>]*?id="([^"]+)">(.*?)</dt>'
    lacking = [one for one in re.finditer(entry, page, re.DOTALL) if "[source]" not in one[2]]
    return [
        one[1]
        for one in lacking
        if one[1] not in FIELDS
        and "alias of TypeVar(" not in re.sub(r"<[^>]*>", "", page[one.end() :].partition("<dl ")[0])
    ]


def test_each_function_and_class_of_the_reference_links_its_source(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in (site / "reference" / "api").glob("*.html")]
    assert [name for page in pages for name in without_source(page)] == []
    assert sum(page.count("[source]") for page in pages) > 900
    # Control: a page that lacks one of its links.
    (page,) = (page for page in pages if 'id="dp.PrivacyLedger.open"' in page)
    start = page.index('id="dp.PrivacyLedger.open"')
    assert without_source(page[:start] + page[start:].replace("[source]", "", 1)) == ["dp.PrivacyLedger.open"]


def test_modules_that_pages_name_are_in_the_reference() -> None:
    public = {*surface.public_modules(), *surface.PACKAGES}
    named = {
        module: str(path.relative_to(ROOT))
        for module, path in surface.named().items()
        if module not in public and "._" not in module and not module.startswith(surface.PROGRAMS)
    }
    assert not named, "add them to docs/book/surface.py"
    assert all(name in surface.modules() for name in surface.MODULES)


UNDESCRIBED = """
'''A module.'''
#: What it is.
TOLD = 1
UNTOLD = 1
def function(): pass
def described(): '''It does.'''
class Kind:
    '''A kind.'''
    def method(self): pass
    @property
    def size(self): pass
    def _own(self): pass
    def told(self): '''It does.'''
class Bare: pass
"""


def test_control_a_public_name_without_a_text_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "undescribed.py").write_text(UNDESCRIBED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("undescribed")
    public = surface.Public(module, ("TOLD", "UNTOLD", "function", "described", "Kind", "Bare"), {})
    names = {name.removeprefix("undescribed.") for name in lacking(public)}
    assert names == {"UNTOLD", "function", "Kind.method", "Kind.size", "Bare"}


PARAMETERS = """
'''A module.'''
from __future__ import annotations
from dataclasses import dataclass
from typing import NamedTuple
def function(told, untold, *, kind: Kind, other: Kind): '''It does something with ``told[0]``.'''
def linked(told, untold): '''As :func:`function`.'''
@dataclass
class Kind:
    '''A kind, with ``told``.'''
    told: int
    #: What it is.
    said: int
    untold: int
    def method(self, told, value): '''It does something with ``self.value``.'''
    @classmethod
    def of(cls, data): '''One made of data.'''
    def _own(self, untold): pass
    def __eq__(self, untold): return True
class Deeper(Kind):
    '''A deeper kind.'''
    def method(self, told, value): '''See ``Kind``.'''
class Row(NamedTuple):
    '''A row.'''
    cell: int
class Made:
    '''It is made.'''
    def __init__(self, size): '''Make it with ``size`` rooms.'''
    def __call__(self, size, most): '''Call it.'''
"""


def test_control_a_parameter_without_a_description_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parameters.py").write_text(PARAMETERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("docs.book.parameters.PACKAGES", ("parameters",))
    public = surface.Public(
        importlib.import_module("parameters"), ("function", "linked", "Kind", "Deeper", "Row", "Made"), {}
    )
    assert [name.removeprefix("parameters.") for name in undescribed([public])] == [
        *("function(untold)", "function(other)", "linked(untold)"),
        *("Kind(untold)", "Kind.method(value)", "Kind.of(data)"),
        *("Deeper(untold)", "Deeper.method(value)", "Row(cell)"),
        *("Made.__call__(size)", "Made.__call__(most)"),
    ]


def test_descriptions_of_pictures_keep_the_spaces_between_their_words(site: Path) -> None:
    assert joined("![one\ntwo](a.svg) and\n[a\nlink](b.md)") == "![one two](a.svg) and\n[a\nlink](b.md)"
    for page in ("how_it_works", "gallery/pictures"):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        described = re.findall(r"!\[([^\]]*)\]\(", text)
        assert any("\n" in one for one in described)
        shown = (site / f"{page}.html").read_text(encoding="utf-8")
        assert [one for one in described if f'alt="{one.replace(chr(10), " ")}"' not in shown] == []


def fits(browser: Any) -> bool:
    """Whether nothing of the page is wider than the window. The theme's column scrolls in the place of the page."""
    return bool(
        browser.execute_script(
            "return [...document.querySelectorAll('html, body, main, .content')]"
            ".every((one) => one.scrollWidth <= one.clientWidth)"
        )
    )


@pytest.mark.stacks
def test_control_what_is_wider_than_the_window_is_noticed(browser: Any, site: Path) -> None:
    look(browser, min(WIDTHS), "light")
    visit(browser, (site / "index.html").as_uri())
    assert fits(browser)
    browser.execute_script("document.querySelector('article').innerHTML += '<div style=\"width:500px\">wide</div>'")
    assert not fits(browser)


@pytest.mark.stacks
def test_no_written_page_is_wider_than_a_phone_or_reports_an_error(browser: Any, site: Path) -> None:
    """All pages but those of the reference and of the source; pictures are there, and have a text."""
    look(browser, min(WIDTHS), "light")
    apart = {"api", "source", "_static"}
    pages = [page for page in site.rglob("*.html") if not apart & set(page.relative_to(site).parts)]
    assert len(pages) > 40
    for page in pages:
        visit(browser, page.as_uri())
        assert fits(browser), page
        assert browser.execute_script(
            "return [...document.images].every((one) => one.alt && !(one.complete && one.naturalWidth === 0))"
        ), page
    assert browser.get_log("browser") == []


@pytest.mark.stacks
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_ask_nobody_and_report_no_error(browser: Any, site: Path, width: int, scheme: str) -> None:
    look(browser, width, scheme)
    for page in PAGES:
        visit(browser, f"file://{site}/{page}.html")
        shows(browser, " ", "article")
        assert fits(browser), page
        red, *_ = browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (red < 64) == (scheme == "dark"), page
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if not url.startswith((f"file://{site}/", "data:"))] == []


@pytest.mark.stacks
def test_the_controls_of_claims_are_in_sight_on_a_wide_screen(browser: Any, site: Path) -> None:
    """Control: on a phone the tables are wider than what holds them, and scroll."""

    def hidden(width: int) -> int:
        look(browser, width, "light")
        visit(browser, (site / "claims.html").as_uri())
        tables = "[...document.querySelectorAll('article .table-wrapper')]"
        return int(
            browser.execute_script(f"return {tables}.filter(one => one.scrollWidth > one.clientWidth).length")
        )

    assert hidden(max(WIDTHS)) == 0
    assert hidden(min(WIDTHS)) > 0


@pytest.mark.stacks
def test_the_reference_has_inherited_methods_and_reads_every_signature(site: Path) -> None:
    """Methods of a base without a page are with the class, and defaults without an expression are dots."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference" / "api").glob("*.html")}
    for page, method in (
        ("secagg", "Server.receive"),
        ("dp", "GaussianMechanism.release"),
        ("he.bfv", "Scheme.adder"),
    ):
        assert f'id="{page}.{method}"' in pages[page]
    assert 'id="secagg.Client.to_bytes"' not in pages["secagg"], "its base has a page"
    assert [page for page, text in pages.items() if "&lt;factory&gt;" in text] == []


@pytest.mark.stacks
def test_search_finds_a_class_from_the_disk(browser: Any, site: Path) -> None:
    visit(browser, f"file://{site}/search.html?q=FixedPoint")
    shows(browser, "FixedPoint", "#search-results ul.search")
    targets = browser.execute_script(
        "return [...document.querySelectorAll('#search-results ul.search a')].map(a => a.href)"
    )
    assert any("reference/api/secagg" in target for target in targets)
    assert browser.get_log("browser") == []
    assert all(url.startswith(("file://", "data:")) for url in requested(browser))
    visit(browser, f"file://{site}/search.html?q=qqqqxyzzy")
    shows(browser, "did not match any documents", "#search-results")


#: What strangers search for, and the page that should be first.
QUESTIONS = {
    "which protocol": "choosing.html#which-protocol",
    "dropouts": "learn/your_training_loop.html",
    "epsilon": "privacy.html",
    "install": "install.html",
    "key": "operations.html",
    "threat model": "threat-model.html",
    "simulate": "reference/api/secagg.html#secagg.simulate",
    "FixedPoint": "reference/api/secagg.html#secagg.FixedPoint",
}
_FIRST = """
const results = Search._performSearch(...Search._parseQuery(arguments[0]));
const [page, , anchor] = results.at(-1);
return `${page}.html${anchor}`;
"""


@pytest.mark.stacks
def test_search_puts_the_page_about_the_question_first(browser: Any, site: Path) -> None:
    for question, page in QUESTIONS.items():
        visit(browser, f"file://{site}/search.html?q={question}")
        shows(browser, "Search finished", "#search-results")
        assert browser.execute_script(_FIRST, question) == page


@pytest.mark.stacks
def test_control_without_the_scorer_pages_come_by_their_names(browser: Any, site: Path) -> None:
    question = "which protocol"
    visit(browser, f"file://{site}/search.html?q={question}")
    shows(browser, "Search finished", "#search-results")
    browser.execute_script("delete Scorer.score")
    assert browser.execute_script(_FIRST, question) == "benchmarks.html"

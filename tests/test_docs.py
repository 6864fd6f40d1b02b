"""The documents agree with the code: generated tables, names that exist, and links to files that exist."""

import ast
import importlib
import importlib.util
import re
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import secagg
from docs import benchmark_tables, claims, diagrams, drawings

ROOT = Path(__file__).parent.parent
WRITTEN = ROOT / "docs" / "reference" / "api"  # by make docs-site
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if WRITTEN not in path.parents)]
)


def test_protocol_tables_are_drawn_from_the_code() -> None:
    text = diagrams.DOCUMENT.read_text(encoding="utf-8")
    assert diagrams.redraw(text) == text, "run make docs"
    assert "SignedSurvivors" in text


def test_control_a_stale_table_is_noticed() -> None:
    text = diagrams.DOCUMENT.read_text(encoding="utf-8").replace("SignedSurvivors", "Sworn", 1)
    assert diagrams.redraw(text) != text


def test_drawings_are_of_the_code() -> None:
    for path, text in drawings.files().items():
        assert path.read_text(encoding="utf-8") == text, "run make docs"
    names = {path.name for path in drawings.files()}
    assert names == {path.name for path in drawings.FOLDER.iterdir()}
    story = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    assert names == set(re.findall(r"\(drawings/([\w-]+\.svg)\)", story))


def unexplained(story: str) -> dict[str, set[str]]:
    """By drawing, its messages that the section around it does not name."""
    sections = story.split("\n## ")
    lacking = {}
    for name, protocol in drawings.DRAWN.items():
        (section,) = [one for one in sections if f"(drawings/{name}.svg)" in one]
        shown = {arrow.message for _, inside in drawings.arrows(protocol) for arrow in inside}
        lacking[name] = {message for message in shown - {"Proposal"} if f"`{message}`" not in section}
    return {name: messages for name, messages in lacking.items() if messages}


def test_every_message_in_a_drawing_is_explained_below_it() -> None:
    story = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    assert "`Proposal` names" in story
    assert unexplained(story) == {}
    assert unexplained(story.replace("`OpenedSum`", "the sum")) == {"encrypted": {"OpenedSum"}}, "control"


def test_a_drawing_shows_every_message_once() -> None:
    one_shot = drawings.draw(diagrams.PROTOCOLS["one-shot"])
    for phase in diagrams.PROTOCOLS["one-shot"].phases:
        assert one_shot.count(f">{phase.reply.__name__}<") >= 1
    assert one_shot.count('class="heavy"') == 1
    assert ">KeyShare<" in one_shot, "what the server hands on"


def test_the_map_of_claims_leads_to_files_and_tests_that_exist() -> None:
    assert claims.DOCUMENT.read_text(encoding="utf-8") == claims.page(), "run make docs"
    assert [name for name in claims.named() if not claims.exists(name)] == []
    assert all(one.source and one.tests and one.controls for group in claims.GROUPS.values() for one in group)


def test_control_a_test_that_was_renamed_is_noticed() -> None:
    assert claims.exists("tests/test_docs.py::test_control_a_test_that_was_renamed_is_noticed")
    assert not claims.exists("tests/test_docs.py::test_of_old")
    assert not claims.exists("tests/test_old.py")


def test_what_is_cited_is_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version = {{{version}}}" in (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")


def test_tables_of_the_benchmarks_are_those_of_the_results() -> None:
    text = benchmark_tables.DOCUMENT.read_text(encoding="utf-8")
    assert benchmark_tables.redraw(text, benchmark_tables.tables(benchmark_tables.RESULTS)) == text, "run make docs"


def test_control_a_stale_figure_of_the_benchmarks_is_noticed(tmp_path: Path) -> None:
    written = benchmark_tables.tables(benchmark_tables.RESULTS)
    text = benchmark_tables.DOCUMENT.read_text(encoding="utf-8")
    row = next(line for line in written["run"].splitlines() if line.startswith("| `SecAgg` |"))
    stale = text.replace(row, row.replace("SecAgg", "SecAgg2"))
    assert stale != text == benchmark_tables.redraw(stale, written)
    assert benchmark_tables.tables(tmp_path) == {}
    with pytest.raises(SystemExit, match="0 places for run; expected 1"):
        benchmark_tables.redraw(text.replace("<!-- run -->", ""), written)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    files = [(document.parent / target).resolve() for target in targets]
    written = [path for path in files if path.parent != WRITTEN]  # a check of the site follows the others
    missing = [path for path in written if not path.exists()]
    assert not missing


def anchors(text: str) -> set[str]:
    """What links to headings of a document may have after their #, as GitHub makes it of the heading."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_headings_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*\.md)?#([^)]+)\)", text):
        other = (document.parent / name) if name else document
        assert anchor in anchors(other.read_text(encoding="utf-8")), (name, anchor)


def test_each_protocol_is_told_once_with_a_drawing_and_leads_to_its_reference() -> None:
    _, *sections = re.split(
        r"^## ", (ROOT / "docs/how_it_works.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    told = [section for section in sections if "](drawings/" in section]
    protocols = {name for name in secagg.__all__ if hasattr(getattr(secagg, name), "phases")}
    assert protocols - set(re.findall(r"\w+", " ".join(told))) == set()
    assert len(protocols) > 5
    assert all("](protocols.md#" in section for section in told)


def test_control_a_heading_that_was_renamed_is_noticed() -> None:
    assert anchors("# A [link](x.md), `code`\n```\n# no heading\n```\n") == {"a-link-code"}


def named_by_file(text: str) -> list[str]:
    """Links whose text is the name of a page's file, which a reader of the site never sees."""
    return re.findall(r"\[(?:[\w-]+/)*[a-z][\w-]*\.md\]\([^)]*\)", text)


def test_links_between_pages_are_named_in_words() -> None:
    pages = [path for path in DOCUMENTS if path.parent != ROOT]
    assert {
        str(path.relative_to(ROOT)): named for path in pages if (named := named_by_file(path.read_text("utf-8")))
    } == {}
    assert named_by_file("see [privacy.md](../privacy.md) or [privacy](../privacy.md)") == [
        "[privacy.md](../privacy.md)"
    ]


def too_wide(text: str) -> list[str]:
    """Lines of prose of more than 100 characters; tables, code, and a line with a link alone may be wider."""
    prose = re.sub(r"^ *```.*?^ *```|^ *\[\S*\]\(\S*\)$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in prose.splitlines() if len(line) > 100 and not line.startswith(("|", "#"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_wraps_at_100_columns(document: Path) -> None:
    assert not too_wide(document.read_text(encoding="utf-8"))


def test_control_a_wide_line_is_noticed() -> None:
    assert too_wide("word " * 30)
    assert not too_wide("| " + "cell " * 30 + "|")


FENCE = r" *```(\w*|\{[\w:-]+\}.*)"  # a language, or a directive of the site


def broken_code(text: str) -> list[str]:
    """Fences that are not alone on their lines or not in pairs, and blocks of Python that can't be parsed."""
    broken = [line for line in text.splitlines() if "```" in line and not re.fullmatch(FENCE, line)]
    fences = re.findall(f"^{FENCE}$", text, re.MULTILINE)
    broken += [f"{len(fences)} fences"] * (len(fences) % 2) + [kind for kind in fences[1::2] if kind]
    for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        try:
            ast.parse(textwrap.dedent(block))
        except SyntaxError as error:
            broken.append(f"{error}: {block}")
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_of_code_are_whole(document: Path) -> None:
    assert not broken_code(document.read_text(encoding="utf-8"))


def test_control_a_block_that_was_wrapped_as_prose_is_noticed() -> None:
    whole = "```python\nf(a,\n  b)  # c\n```\n"
    assert not broken_code(whole)
    for broken in ("```python\nf(a, b) # c ```\n", "```python\nf(a, b)\n", whole.replace("# c", "#\nis c")):
        assert broken_code(broken)


def resolves(dotted: str) -> bool:
    """Whether ``dotted`` names a module, or something in one. Flower's module needs Flower to be imported."""
    if dotted.startswith("secagg.integrations."):
        return importlib.util.find_spec("secagg.integrations.flower") is not None
    module, *names = dotted.split(".")
    thing: object = importlib.import_module(module)
    for name in names:
        if not hasattr(thing, name):
            module = f"{module}.{name}"
            if not isinstance(thing, ModuleType) or importlib.util.find_spec(module) is None:
                return False
            thing = importlib.import_module(module)
        else:
            thing, module = getattr(thing, name), f"{module}.{name}"
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_the_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:secagg|he|mpc|dp)(?:\.\w+)+)", text))
    assert not [name for name in names if not resolves(name)]


def test_control_a_name_that_was_moved_is_noticed() -> None:
    assert resolves("secagg.roles.Client.contribute")
    assert not resolves("secagg._machine.Client")


def packages(extra: list[str]) -> list[str]:
    """The distributions that an extra names, without versions and without this one."""
    names = [re.split(r"[<>=;]", one)[0].strip() for one in extra]
    return [name for name in names if not name.startswith("secagg")]


def test_the_page_of_extras_names_what_each_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = {row[1].strip("` "): row[3] for line in page.splitlines() if len(row := line.split("|")) == 5}
    assert set(rows) - {"Extra", "---"} == set(extras)
    for name in set(extras) - {"dev"}:
        assert re.findall(r"`([^`]+)`", rows[name]) == packages(extras[name]), name


def unknown_extras(text: str, extras: set[str]) -> set[str]:
    """The extras of secagg that a text installs and that do not exist."""
    lists = re.findall(r"(?:secagg|whl|['\" ]\.)\[([a-z]+(?:,[a-z]+)*)\]", text)
    return {name for one in lists for name in one.split(",")} - extras


def test_extras_that_texts_name_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    sources = [path for folder in ("secagg", "he", "dp", "examples") for path in (ROOT / folder).rglob("*.py")]
    for path in [*DOCUMENTS, *(ROOT / "examples").rglob("*.md"), *sources]:
        assert not unknown_extras(path.read_text(encoding="utf-8"), extras), path
    assert unknown_extras("pip install '.[he,tls]' \"secagg[none]\"", extras) == {"tls", "none"}, "the control"

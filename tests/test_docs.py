"""The documents say what the code does: drawn tables, and links that lead somewhere."""

import re
from pathlib import Path

import pytest

from docs import diagrams

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_protocol_tables_are_drawn_from_the_code() -> None:
    text = diagrams.DOCUMENT.read_text(encoding="utf-8")
    assert diagrams.drawn(text) == text, "run make docs"
    assert "SignedSurvivors" in text


def test_control_a_stale_table_is_noticed() -> None:
    text = diagrams.DOCUMENT.read_text(encoding="utf-8").replace("SignedSurvivors", "Sworn", 1)
    assert diagrams.drawn(text) != text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def too_wide(text: str) -> list[str]:
    """Lines of prose of more than 100 characters; tables and code may be wider."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in prose.splitlines() if len(line) > 100 and not line.startswith(("|", "#"))]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "privacy.md"], ids=lambda path: path.name)
def test_prose_wraps_at_100_columns(document: Path) -> None:
    assert not too_wide(document.read_text(encoding="utf-8"))


def test_control_a_wide_line_is_noticed() -> None:
    assert too_wide("word " * 30)
    assert not too_wide("| " + "cell " * 30 + "|")

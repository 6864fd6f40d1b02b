"""docs/operations_limits.md has the tables of the code, and its configurations are accepted."""

import re
import tomllib

from docs.limits import DOCUMENT, redraw
from secagg.service.limits import Limits


def block(language: str) -> str:
    """The one code block of ``language`` in the document."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return text


def test_the_tables_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert redraw(text) == text, "run make docs"
    assert "| `round-closed` | 410 |" in text
    assert redraw(text.replace("| 10 seconds", "| 11 seconds")) == text


def test_the_settings_in_the_document_are_accepted() -> None:
    written = tomllib.loads(block("toml"))["service"]["limits"]
    assert Limits(**written) != Limits()

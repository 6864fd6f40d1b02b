"""The service's documents have the tables of the code, and their configurations are accepted."""

import re
import tomllib
from pathlib import Path

import pytest

from docs.service_tables import LIMITS, SERVICE, TABLES, redraw
from secagg.service import Schedule
from secagg.service.limits import Limits


def block(document: Path, language: str) -> str:
    """The one code block of ``language`` in the document."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return text


@pytest.mark.parametrize("document", TABLES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_code(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert redraw(document, text) == text, "run make docs"


def test_control_a_stale_table_is_noticed() -> None:
    limits = LIMITS.read_text(encoding="utf-8")
    assert "| `round-closed` | 410 |" in limits
    assert redraw(LIMITS, limits.replace("| 10 seconds", "| 11 seconds")) == limits
    service = SERVICE.read_text(encoding="utf-8")
    assert redraw(SERVICE, service.replace("| `gather` | 60.0", "| `gather` | 61.0")) == service


def test_the_settings_in_the_documents_are_accepted() -> None:
    written = tomllib.loads(block(LIMITS, "toml"))["service"]["limits"]
    assert Limits(**written) != Limits()
    (task,) = tomllib.loads(block(SERVICE, "toml"))["task"]
    assert Schedule(**task["schedule"]) == Schedule()

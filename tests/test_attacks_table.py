"""docs/attacks.md agrees with the tests of attacks, and every attack has its control."""

import importlib
import inspect

import pytest

from tests.secagg.adversary import registry, table

WORDS = {"title": "t", "attacker": "a", "defence": "d", "control": "c", "source": "s"}


def test_the_document_is_up_to_date() -> None:
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.document(), "run make docs"


def test_the_gallery_is_up_to_date_and_has_every_attack() -> None:
    cards = table.gallery()
    assert table.CARDS.read_text(encoding="utf-8") == cards, "run make docs"
    assert cards.count('<div class="attack">') == cards.count("- *Control:*") == len(registry.ATTACKS)
    words = " ".join(cards.split())
    assert all(" ".join(row.title.split()) in words for row in registry.ATTACKS.values())


def test_every_test_of_an_adversary_is_in_the_document() -> None:
    """Each test class is a row; single tests are refusals or belong to a row."""
    written = table.document()
    rows = 0
    for module in table.modules():
        loaded = importlib.import_module(module)
        for name, cls in inspect.getmembers(loaded, inspect.isclass):
            if name.startswith("Test") and cls.__module__ == loaded.__name__:
                path = f"{loaded.__name__.replace('.', '/')}.py::{name}"
                assert path in registry.ATTACKS
                assert f"[{name}](../{path.replace('::', '#')})" in written
                rows += 1
    assert rows == len(registry.ATTACKS) > 20


def test_every_group_is_written() -> None:
    """A row in a file that the table has no heading for would be lost."""
    written = table.document()
    for row in registry.ATTACKS.values():
        assert written.count(row.title) == 1
    for refused in registry.REFUSALS.values():
        assert written.count(f"| {refused.title} |") == 1


@pytest.mark.parametrize("half", registry.HALVES)
def test_a_row_without_a_half_does_not_build(half: str) -> None:
    halves = {name: lambda self: None for name in registry.HALVES if name != half}
    with pytest.raises(TypeError, match=f"not a row of the attacks' table: it lacks {half}"):
        registry.attack(**WORDS)(type("TestHalf", (), halves))


@pytest.mark.parametrize("word", WORDS)
def test_a_row_without_a_word_does_not_build(word: str) -> None:
    halves = {name: lambda self: None for name in registry.HALVES}
    with pytest.raises(TypeError, match=f"it lacks {word}"):
        registry.attack(**{**WORDS, word: " "})(type("TestWordless", (), halves))


def test_no_row_holds_a_bar() -> None:
    """A bar would cut a cell of the table in two."""
    table.load()
    for row in [*registry.ATTACKS.values(), *registry.REFUSALS.values()]:
        assert not any("|" in text or "\n" in text for text in vars(row).values())

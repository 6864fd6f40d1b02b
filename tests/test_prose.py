"""The list of bad habits notices each of them, and lets plain sentences pass."""

import pytest

from tests.prose import findings, prose


@pytest.mark.parametrize(
    "text",
    [
        "A reply that is no reply of ours.",
        "It waits, for it has no clock.",
        "So too for a mask.",
        "Nor does the server.",
        "Two workers will do.",
        "The found are sorted.",
        "in order to send",
        "It sends the the mask.",
        "It is\n    no error.",
    ],
)
def test_a_habit_is_noticed(text: str) -> None:
    assert list(findings(text))


@pytest.mark.parametrize(
    "text", ["There is no clock.", "It is no longer open.", "The given key is used.", "Each drawn member signs."]
)
def test_plain_sentences_pass(text: str) -> None:
    assert not list(findings(text))


def test_code_in_a_page_is_not_read() -> None:
    page = "A line.\n```python\nx is no y\n```\n`x is no y` <!-- it is no word -->\n[t](Nor_does.md)\n"
    assert not list(findings(prose(page)))
    assert [line for line, *_ in findings(prose(page + "It will do."))] == [6]

"""The texts of pictures that go over several lines: MyST joins their lines without a space between the words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tests read this module where the site's generator is not installed
    from sphinx.application import Sphinx


def joined(text: str) -> str:
    """``text`` with the description of each picture in one line."""
    return re.sub(r"!\[[^\]]*\]\(", lambda found: found[0].replace("\n", " "), text)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the description of each picture of a page in one line."""
    source[0] = joined(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of this function."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

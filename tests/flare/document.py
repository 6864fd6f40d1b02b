"""The blocks of docs/nvflare.md, for the tests that run them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_DOCUMENT = Path(__file__).parents[2] / "docs" / "nvflare.md"


def block(kind: str, part: str) -> str:
    """The one block of this kind that contains ``part``."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", _DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (result,) = (text for text in found if part in text)
    return str(result)


def policy(task: str) -> dict[str, Any]:
    """The ``privacy.json`` for a task in its text."""
    result: dict[str, Any] = json.loads(block("json", "default_scope").replace('"..."', json.dumps(task)))
    return result

"""Check the prose of README, the pages, docstrings and error texts for habits that make it hard to read.

``python -m tests.prose`` prints each finding with a better form, and then exits with 1; ``make lint`` runs it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("secagg", "he", "mpc", "dp", "bench", "docs", "examples")

_FINE = "longer|more|less|one|matter|other|better|worse|different|older|newer|larger|smaller|shorter|later|second"
#: What is found, and what to write.
HABITS = {
    rf"(?<!\b[Tt]here )(?<!\bhere )\b(?:is|are|was|were) no (?!(?:{_FINE})\b)\w+": "is not a …",
    r", for (?:it|they|he|she|there|nobody|everyone|everybody) (?!to\b)\w": ", because …",
    r"\b(?:So too|Nor do|Nor does|Nor is|Nor are|Nor can|Nor has)\b": "also …, or: not … either",
    r"\bwill do\b": "is enough, or: works",
    r"\b[Ww]hosoever\b|\b[Ww]hatsoever\b": "who, which or any",
    r"\b[Tt]he (?:found|told|made|drawn|given|odd) (?:is|are|was|were|has|have)\b": "a noun: the drawn members …",
    r"\b(?:every|each|no) (?:found|told|made|drawn|given)\b(?! \w)": "a noun: each drawn member …",
    r"\b(?:utilize|utilise|leverage|seamless|robustly|in order to)\b": "a plain word: use, without, to",
    r"\b(?!that\b|had\b|x\b)([A-Za-z]{2,}) \1\b": "the word once",
}


def prose(document: str) -> str:
    """A page without its blocks of code, spans of code, links' targets and tables' rules; lines stay lines."""

    def blank(block: re.Match[str]) -> str:
        return "\n" * block[0].count("\n")

    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", blank, document, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`x`", re.sub(r"\]\([^)\s]*\)", "]", text))


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and the texts of errors of a module, each with its first line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, re.sub(r"``[^`]*``", "x", text)
            case ast.Raise(exc=ast.Call(args=arguments)):
                for argument in arguments:
                    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
                    yield argument.lineno, "".join(map(_text, parts))


def _text(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "x"


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """The line, counted from 0, the words and the better form of each habit in a text."""
    text = re.sub(r"\n +", "\n", text)
    for pattern, better in HABITS.items():
        for one in re.finditer(pattern.replace(" ", r"\s"), text):
            yield text.count("\n", 0, one.start()), " ".join(one[0].split()), better


def texts() -> Iterator[tuple[Path, int, str]]:
    """What is read: a file, a line of it, and the text that begins there."""
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        if path.name != "CHANGELOG.md" and "api" not in path.parts:
            yield path, 1, prose(path.read_text(encoding="utf-8"))
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from ((path, line, text) for line, text in strings(path))


def main() -> int:
    """Print what is found; returns 1 if anything is."""
    count = 0
    for path, start, text in texts():
        for line, words, better in findings(text):
            print(f"{path.relative_to(ROOT)}:{start + line}: {words!r}; write {better}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())

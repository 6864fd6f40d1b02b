"""What ``docs/attacks.md`` is made of: each attack registers itself here, with its control."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attack:
    """One row: a test class with the attack refused, and the same attack without the one defence."""

    title: str
    attacker: str
    defence: str
    control: str  # what is removed, and what the attacker then has
    source: str
    test: str


@dataclass(frozen=True)
class Refusal:
    """Something that is refused although nothing is known to follow from it: no control, so no row."""

    title: str
    why: str
    test: str


ATTACKS: dict[str, Attack] = {}
REFUSALS: dict[str, Refusal] = {}
HALVES = ("test_refused", "test_control_succeeds")


def attack(*, title: str, attacker: str, defence: str, control: str, source: str) -> Callable[[type], type]:
    """Register a test class as a row. ``TypeError`` for one that lacks either half or any of the words."""

    def register(cls: type) -> type:
        missing = [half for half in HALVES if not callable(vars(cls).get(half))]
        missing += [name for name, words in row.items() if not words.strip()]
        if missing:
            raise TypeError(f"{cls.__name__} is not a row of the attacks' table: it lacks {', '.join(missing)}")
        ATTACKS[_path(cls)] = Attack(**row, test=_path(cls))
        return cls

    row = {"title": title, "attacker": attacker, "defence": defence, "control": control, "source": source}
    return register


def refusal(*, title: str, why: str) -> Callable[[Any], Any]:
    """Register a test function that shows a refusal from which no attack is known to follow."""

    def register(test: Any) -> Any:
        REFUSALS[_path(test)] = Refusal(title, why, _path(test))
        return test

    return register


def _path(test: Any) -> str:
    return f"{test.__module__.replace('.', '/')}.py::{test.__qualname__}"

"""What two running sums are checked for before one is added to the other."""

import hashlib
from collections.abc import Iterable

from he.errors import CiphertextError


def united(ours: Iterable[bytes], theirs: Iterable[bytes], most: int) -> list[bytes]:
    """The names of the vectors in both sums; ``CiphertextError`` for more than ``most``.

    A vector that is in both counts twice, and its second name is a hash of the first.
    """
    names = dict.fromkeys(ours)
    for name in theirs:
        while name in names:
            name = hashlib.sha256(name).digest()
        names[name] = None
    check_room(len(names), most)
    return list(names)


def check_room(count: int, most: int) -> None:
    """``CiphertextError`` for a sum of more than ``most`` vectors."""
    if count > most:
        raise CiphertextError(f"the two sums hold {count} vectors together; the scheme allows {most}")

"""A lock that survives a fork: a child process can take it if no thread of the child holds it."""

import os
import threading
import weakref

_ALL: "weakref.WeakSet[Turn]" = weakref.WeakSet()


class Turn:
    """A lock for a ``with`` block. In a forked child it is free, even if a thread of the parent held it.

    That thread does not exist in the child, so a plain lock would never be released there. The fork can happen at
    any line of the block. Therefore the state that the lock guards must be valid at every moment: it is replaced
    by one assignment, or read anew from a file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ALL.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _free_all() -> None:
    for turn in _ALL:
        turn._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)

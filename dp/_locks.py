"""A lock that outlives a fork: what no thread of this process holds, a thread of this process can take."""

import os
import threading
import weakref

_ALL: "weakref.WeakSet[Turn]" = weakref.WeakSet()


class Turn:
    """A lock for a ``with`` block, which is free in a forked child whatever thread of the parent held it.

    That thread is not in the child, so that a plain lock would stay taken for ever. What the lock guards must be
    right at any moment, since the thread may have been anywhere: one assignment, or read anew.
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

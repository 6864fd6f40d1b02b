"""One role, several threads: every public call of a role has the role to itself.

A role has one lock, a :class:`Turn`, and each public call takes it. What a role calls meanwhile (``save`` and its
ledger, ``executor``, ``budget``, ``beacon``, ``clock``, a log handler) may take locks of its own, so the order is
always the role's lock first. None of these may call the role: from the same thread that is an error, and from
another thread that the first one waits for, both would wait for ever. The library's own work for an executor
never needs a role.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from secagg.errors import LocalProtocolError


class Turn:
    """A lock that refuses a call from inside a callback, which would see a state half made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def __enter__(self) -> None:
        """Wait for the other threads' calls to end; ``LocalProtocolError`` inside a call of this very thread."""
        if self._holder == threading.get_ident():
            raise LocalProtocolError(
                "got a call of a role from inside another call of it, so from its save, executor, budget, beacon, "
                "clock or a log handler; return from there first, then call the role"
            )
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()


class _HasTurn(Protocol):
    _turn: Turn


Role = TypeVar("Role", bound=_HasTurn)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def atomic(
    call: Callable[Concatenate[Role, Parameters], Result],
) -> Callable[Concatenate[Role, Parameters], Result]:
    """A public call of a role that waits for its turn."""

    @wraps(call)
    def waits(role: Role, /, *arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with role._turn:
            return call(role, *arguments, **named)

    return waits

"""One role and several threads: every public call of a role has the role to itself.

A role has one lock, a :class:`Turn`, and each public call takes it. During a call the role calls objects of its
caller: ``save`` and its ledger, ``executor``, ``budget``, ``beacon``, ``clock``, log handlers. These may take locks
of their own, so the role's lock always comes first. None of them may call the role. From the same thread, such a
call is an error. From another thread on which the first one waits, both would wait forever. The work that the
library gives to an executor never needs a role.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from secagg.errors import LocalProtocolError


class Turn:
    """A lock that refuses a call from inside a callback, which would see a half-changed state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def __enter__(self) -> None:
        """Wait until the calls of other threads end; ``LocalProtocolError`` inside a call of this same thread."""
        if self._holder == threading.get_ident():
            raise LocalProtocolError(
                "got a call of a role from inside another call of it, that is from its save, executor, budget, "
                "beacon, clock or a log handler; return from there first, then call the role"
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
    """Make a public call of a role wait for the calls before it."""

    @wraps(call)
    def waits(role: Role, /, *arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with role._turn:
            return call(role, *arguments, **named)

    return waits

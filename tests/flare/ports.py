"""Ports that a process reserves for others which it starts."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def reserve(number: int) -> list[int]:
    """So many ports of this machine, which nobody else gets until this process ends.

    Each port is bound and never listens. The process for which it is meant can bind it too, because both set
    SO_REUSEADDR, as every server does; until then a connection to the port is refused.
    """
    for _ in range(number):
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        _held.append(held)
    return [held.getsockname()[1] for held in _held[len(_held) - number :]]

"""The limits of a listener, in one place: what a slow, large or greedy peer can hold, and for how long."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, fields
from typing import Final

from secagg._numbers import real, whole
from secagg.errors import ConfigError, shown


@dataclass(frozen=True)
class Limits:
    """Every limit of one listener.

    ``per_address`` may be None: then connections are not counted by address. ``ConfigError`` for a value that is
    not positive.
    """

    header_seconds: float = 10.0
    handshake_seconds: float = 10.0
    header_bytes: int = 16_384
    header_count: int = 64
    grace_seconds: float = 5.0
    least_rate: float = 16_000.0
    idle_seconds: float = 75.0
    drain_bytes: int = 16 << 20
    drain_seconds: float = 30.0
    connections: int = 20_000
    per_address: int | None = 64
    ingest_bytes: int = 256 << 20
    ingest_seconds: float = 10.0
    party_rate: float = 10.0
    party_burst: int = 20

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.name == "per_address":
                continue
            number = whole(value) if isinstance(one.default, int) else real(value)
            if number is None or not 0 < number < math.inf:
                unit = _ABOUT[one.name][0]
                raise ConfigError(f"got {one.name}={shown(value)}; expected {unit}, more than 0")


_ABOUT: Final = {
    "header_seconds": ("seconds", "From the first byte of a request to the end of its headers."),
    "handshake_seconds": ("seconds", "For a TLS handshake."),
    "header_bytes": ("bytes", "Of a request's first line and headers."),
    "header_count": ("headers", "Of a request."),
    "grace_seconds": ("seconds", "Before the least rate counts, for bodies and for answers."),
    "least_rate": ("bytes a second", "At which a body must arrive and an answer must be read, on average."),
    "idle_seconds": ("seconds", "That a connection may wait between two requests."),
    "drain_bytes": ("bytes", "Of an unwanted body that are read, so that the client sees the answer."),
    "drain_seconds": ("seconds", "For which they are read."),
    "connections": ("connections", "At once; fewer if the process may open fewer files."),
    "per_address": ("connections", "At once from one IPv4 address, or one IPv6 network of 64 bits."),
    "ingest_bytes": ("bytes", "Of bodies in memory at once."),
    "ingest_seconds": ("seconds", "That an upload waits for memory before it gets 503."),
    "party_rate": ("requests a second", "Of one party, on average."),
    "party_burst": ("requests", "Of one party at once."),
}
_FIELDS = "\n".join(f"- ``{name}`` ({unit}): {text}" for name, (unit, text) in _ABOUT.items())
Limits.__doc__ = f"{inspect.cleandoc(Limits.__doc__ or '')}\n\n{_FIELDS}"


def table() -> str:
    """The limits for the documentation, in Markdown."""
    rows = [f"| `{one.name}` | {one.default:,.0f} {' | '.join(_ABOUT[one.name])} |" for one in fields(Limits)]
    return "\n".join(["| Limit | Default | What it bounds |", "|---|---|---|", *rows]) + "\n"

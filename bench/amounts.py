"""Seconds and bytes as text."""

from __future__ import annotations


def duration(value: float) -> str:
    """Seconds as text: ``1.2 ms``, ``5.9 h``."""
    if value == 0:
        return "0 s"
    for unit, least, long in (("days", 86_400.0, 2.0), ("h", 3600.0, 2.0)):
        if value >= long * least:
            return f"{value / least:,.0f} {unit}" if value >= 100 * least else f"{value / least:.3g} {unit}"
    for unit, least in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= least * 0.9995:
            scaled = value / least
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def size(value: float) -> str:
    """Bytes as text: ``1.2 MB``. A kB is 1000 bytes."""
    for unit, least in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= least * 0.9995:
            scaled = value / least
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{value:.0f} B"

"""Refuse parameters that are out of range."""

from dp._numbers import real, whole
from dp.errors import DPError


def number(name: str, value: object, least: float, most: float) -> float:
    """``value`` as a float; :class:`DPError` unless it is a number from ``least`` to ``most``."""
    checked = real(value)
    if not least <= checked <= most:
        raise DPError(f"got {name}={value!r}; expected a number from {least:g} to {most:g}")
    return checked


def integer(name: str, value: object, least: int, most: int, meaning: str) -> int:
    """``value`` as an int; :class:`DPError` unless it is an integer from ``least`` to ``most``."""
    checked = whole(value)
    if checked is None or not least <= checked <= most:
        raise DPError(f"got {name}={value!r}; expected an int from {least} to {most}, {meaning}")
    return checked


def check_delta(delta: object) -> float:
    """``delta`` as a float; :class:`DPError` unless it is a number above 0 and below 1."""
    checked = real(delta)
    if not 0 < checked < 1:
        raise DPError(f"got delta={delta!r}; expected a number above 0 and below 1, such as 1e-5")
    return checked

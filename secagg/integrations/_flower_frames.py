"""Finds mods outside of secagg's. Flower does not tell a mod its place, so this module reads the call stack."""

from __future__ import annotations

import sys
from types import FrameType

from flwr.clientapp import ClientApp

from secagg.errors import ConfigError


def check_outermost() -> None:
    """``ConfigError`` if there is a mod outside of secagg's, which could not clip or add noise to ciphertexts."""
    frame: FrameType | None = sys._getframe(2)
    # Flower's wrapper calls each mod, so any other module between here and the app belongs to another mod.
    wrapper = "" if frame is None else str(frame.f_globals.get("__name__"))
    while frame is not None and frame.f_code is not ClientApp.__call__.__code__:
        name = str(frame.f_globals.get("__name__"))
        if not name.startswith("flwr.") or name not in (wrapper, ClientApp.__module__):
            raise ConfigError(
                f"got a mod of {name} outside of secagg's, which would see ciphertexts only; put client_mod(task) "
                "first in mods=[...]"
            )
        frame = frame.f_back
    if frame is None:
        raise ConfigError(
            "got a call from outside of a ClientApp; pass the mod to ClientApp(mods=[client_mod(task)])"
        )

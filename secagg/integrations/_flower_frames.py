"""Who calls the mod: other mods, or a simulation. Flower does not tell, so this module reads the call stack."""

from __future__ import annotations

import sys
from types import FrameType

from flwr.clientapp import ClientApp

from secagg.errors import ConfigError

_SIMULATION = "flwr.simulation."  # Flower's modules that call the ClientApp of a simulated node


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


def is_simulated() -> bool:
    """Whether this node is one of Flower's simulation, and therefore runs where the server runs.

    No message can make a SuperNode look like one: what calls its ClientApp is Flower's code on that machine.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not ClientApp.__call__.__code__:
        frame = frame.f_back
    caller = None if frame is None else frame.f_back
    return caller is not None and str(caller.f_globals.get("__name__")).startswith(_SIMULATION)

"""Which mods stand around secagg's. Flower tells a mod neither its place nor its neighbours; the stack does."""

from __future__ import annotations

import sys
from types import FrameType

from flwr.clientapp import ClientApp

from secagg.errors import ConfigError


def check_outermost() -> None:
    """``ConfigError`` if a mod outside of this one gets the ciphertext: it can't noise or clip what is in it."""
    frame: FrameType | None = sys._getframe(2)
    # A mod's caller is always Flower's wrapper, so any other module up to the app is another mod's.
    wrapper = "" if frame is None else str(frame.f_globals.get("__name__"))
    while frame is not None and frame.f_code is not ClientApp.__call__.__code__:
        name = str(frame.f_globals.get("__name__"))
        if not name.startswith("flwr.") or name not in (wrapper, ClientApp.__module__):
            raise ConfigError(
                f"got a mod of {name} outside of secagg's, which would meet ciphertext only; put client_mod(task) "
                "first in mods=[...]"
            )
        frame = frame.f_back
    if frame is None:
        raise ConfigError(
            "got a call from outside of a ClientApp; pass the mod to ClientApp(mods=[client_mod(task)])"
        )

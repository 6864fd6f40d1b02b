"""OneShot: one message a client, opened by a committee that never holds a key of more than one session."""

from secagg.protocols.oneshot.drawn import DrawnOneShot
from secagg.protocols.oneshot.protocol import OneShot

__all__ = ["DrawnOneShot", "OneShot"]

"""What the server has read of a message before it takes it."""

from __future__ import annotations

from typing import NoReturn

from secagg.errors import FaultKind, LocalProtocolError
from secagg.wire import Envelope


class Incoming:
    """A message that :meth:`Server.read` made for :meth:`Server.take`. Nothing else makes one, and it is frozen.

    Its frame, sender, task and signature were checked, or it is refused.
    """

    __slots__ = ("_read", "_reader", "_sender")
    _sender: str
    _read: Envelope | tuple[FaultKind, str]
    _reader: object

    def __init__(self) -> None:
        raise LocalProtocolError("got Incoming(); server.read(sender, data) alone makes one")

    @property
    def sender(self) -> str:
        """The party that the transport named as the sender."""
        return self._sender

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of the message without its trailer (32 bytes), by which it is known again; None if refused."""
        return self._read.digest if isinstance(self._read, Envelope) else None

    @property
    def refused(self) -> tuple[FaultKind, str] | None:
        """Why the message is refused: the fault's kind and its detail. None if nothing was wrong so far."""
        return None if isinstance(self._read, Envelope) else self._read

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"got {name} to set; what was read does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"got {name} to delete; what was read does not change")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled: bytes from elsewhere could claim checks that nobody made here."""
        raise LocalProtocolError(
            "a message that was read can't be copied or pickled; send its bytes, and read them"
        )


def incoming(sender: str, read: Envelope | tuple[FaultKind, str], reader: object) -> Incoming:
    """What ``reader`` has read of ``sender``: an envelope, or why it is refused."""
    made = object.__new__(Incoming)
    for name, value in (("_sender", sender), ("_read", read), ("_reader", reader)):
        object.__setattr__(made, name, value)
    return made

"""What can go wrong, and whose fault it is.

::

    SecAggError
    ├── ConfigError(ValueError)      the task, roster or arguments can't work: change them
    ├── EncodingError(ValueError)    an update doesn't fit the task: wrong shape, not finite
    ├── ProtocolError
    │   ├── LocalProtocolError       the caller misused a role: a bug on this side
    │   └── RemoteProtocolError      the peer's bytes are wrong; carries a Fault
    ├── Aborted                      the session is given up; there is no outcome
    └── Refused                      a service refused this party, or this party what the service sent

A client raises; a server, decryptor or aggregator never raises on bytes but records a
:class:`Fault`. Peers learn that a session was aborted, but never why.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

import numpy as np


class SecAggError(Exception):
    """The root of every error that this library raises on purpose."""


class ConfigError(SecAggError, ValueError):
    """A task, roster or argument that can't work; the message names what would."""


class EncodingError(SecAggError, ValueError):
    """An update that doesn't fit the task: wrong structure, wrong shape, or not finite."""


class ProtocolError(SecAggError):
    """A message or a call that the protocol doesn't allow at this point."""


class LocalProtocolError(ProtocolError):
    """The caller used a role out of order; nothing changed."""


class FaultKind(StrEnum):
    """What a party did wrong. The words are stable: operators alert on them."""

    MALFORMED = "malformed"  # not an envelope, or a body that doesn't parse to its last byte
    VERSION = "version"  # an envelope of another wire version
    OVERSIZED = "oversized"  # longer than any honest message
    FOREIGN_TASK = "foreign task"  # the digest of another task or another protocol
    FOREIGN_SESSION = "foreign session"
    UNKNOWN_SENDER = "unknown sender"  # not asked in this session, or not enrolled
    UNAUTHENTIC = "unauthentic"  # the signature or the checksum is wrong
    OUT_OF_TURN = "out of turn"  # a message of another round, or one that nobody asked for
    DUPLICATE = "duplicate"  # a second message after one was accepted
    INVALID = "invalid"  # parses, but its content is impossible
    WRONG_SHARE = "wrong share"  # a holder revealed a share that the dealer didn't deal
    WRONG_DEALING = "wrong dealing"  # a dealer's shares are right and rebuild a wrong secret
    UNOPENED_SHARE = "unopened share"  # a holder says that the dealer's share didn't open
    SILENT = "silent"  # asked, but did not answer in time


@dataclass(frozen=True)
class Fault:
    """What a party did wrong, and in which round.

    ``sender`` is the party to blame as far as this party can know. ``round`` is the name of the round, and ``kind``
    the kind of the fault. ``detail`` is for the local log and holds no secret.
    """

    sender: str
    round: str
    kind: FaultKind
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.sender} in {self.round}: {self.kind}{detail}"


class RemoteProtocolError(ProtocolError):
    """The peer's bytes break the protocol. The role is unchanged and waits for correct ones.

    ``fault`` says what is wrong with them.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault

    def __reduce__(self) -> tuple[type[Self], tuple[Fault]]:
        return type(self), (self.fault,)


@dataclass(eq=False)
class Aborted(SecAggError):  # noqa: N818 - a state of the session rather than a defect
    """The session has ended without an outcome.

    Before Unmasking the server has nothing that it could open. From Unmasking on, it may hold the sum over the
    survivors, even if it says that it aborted; it never holds more.

    ``outbox`` (on a server) holds the message that tells every peer of the abort, without the reason.
    """

    #: Why the session was given up, in words. It stays on this machine.
    reason: str
    outbox: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, bytes]]]:
        return type(self), (self.reason, dict(self.outbox))


class Refused(SecAggError):  # noqa: N818 - what happened, rather than a defect
    """A service and this party can't go on together, and trying again would not help.

    The service refused a request for good, or it sent what this party doesn't accept: another task, roster or model
    than the pinned ones, an answer that is too large, a message of another session. ``__cause__`` has the
    :class:`secagg.api.problems.Problem` in the first case.
    """


_SHOWN = 80  # characters of a value in a message
_PLAIN = {bool, int, float, complex, str, bytes, type(None), *np.sctypeDict.values()} - {np.void, np.object_}
_NAME = type.__dict__["__name__"]  # read directly, since a metaclass may override it


def kind_of(value: object) -> str:
    """The name of the class of ``value``, cut to a length that an error can show. It never fails."""
    return str(_NAME.__get__(type(value)))[:_SHOWN]


def shown(value: object) -> str:
    """``value`` as text for a message: a short literal, or its class. Runs no method of a caller's object."""
    if issubclass(type(value), type):
        return f"the class {_NAME.__get__(value)!s:.{_SHOWN}}"
    if type(value) not in _PLAIN:
        return f"a {kind_of(value)}"
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    except ValueError:  # an int of thousands of digits
        return f"a huge {kind_of(value)}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def chosen(value: object, known: Iterable[str]) -> str | None:
    """``value`` as plain text if it is one of ``known``, else None. Runs no method of a caller's object."""
    if not issubclass(type(value), str):
        return None
    plain = str.__str__(value)  # NumPy's text is a subclass
    return plain if plain in known else None


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """``value`` as plain text; ``ConfigError`` unless it is one of ``known``.

    ``name`` is that of the parameter, for the error.
    """
    plain = chosen(value, known := tuple(known))
    if plain is None:
        raise ConfigError(f"got {name}={shown(value)}; expected {' or '.join(map(repr, known))}")
    return plain


def words(error: BaseException) -> str:
    """The text of ``error``, or its class if the text is empty or raises in turn."""
    try:
        return str(error)[:1000] or kind_of(error)
    except Exception:
        return kind_of(error)


@contextmanager
def blaming(error: type[SecAggError], what: str) -> Iterator[None]:
    """Replace any exception of a caller's object by an ``error`` whose text begins with ``what``."""
    try:
        yield
    except SecAggError:
        raise
    except Exception as cause:
        try:
            text = f": {cause}"[:200]
        except Exception:  # its own text fails too
            text = ""
        if isinstance(cause, ImportError) and text.startswith(": got no "):
            raise error(text[2:]) from cause  # raised by us, and says what to install
        raise error(f"{what} ({kind_of(cause)}{text})") from cause

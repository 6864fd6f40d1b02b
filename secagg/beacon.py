"""A public beacon: a value that everyone can check and nobody, the server included, knows before its time.

A server that can predict the neighbour graph can try keys and cohorts until all neighbours of a victim collude
with it. So the graph depends on a value that is published only after the keys were frozen. A :class:`Beacon` is
public data and a part of the task, so every client pins the same one. It has no clock and fetches nothing: the
caller passes the time, and the server's caller passes the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Protocol, runtime_checkable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mpc.keys import encode_parts
from secagg._numbers import is_a, whole
from secagg.errors import ConfigError, shown
from secagg.identity import check_signing_key

#: Bytes of the public key of a beacon.
KEY_BYTES = 32
#: Bytes of a value.
VALUE_BYTES = 64
#: The largest number of a round.
LATEST_ROUND = (1 << 63) - 1

SLACK_BITS = 6
"""The graph's value may lie up to 2^6 - 1 rounds beyond the first that a client could not know."""

CLOCK_ROUNDS = 2
"""Rounds by which the clocks of honest clients may differ without one of them being left out."""

Fetch = Callable[[int], bytes | None]
"""The beacon's value of a round; None if it is not published yet. The server's caller supplies the function."""


@runtime_checkable
class Beacon(Protocol):
    """What :class:`secagg.SecAggPlus` needs from a beacon, which is a frozen dataclass of public data."""

    def next_round(self, now: float) -> int:
        """The first round whose value is published after ``now`` (seconds since 1970)."""
        ...

    def verify(self, number: int, value: bytes) -> bool:
        """Whether ``value`` is what the beacon publishes in round ``number``; never raises on bytes."""
        ...


@dataclass(frozen=True)
class SignedBeacon:
    """A beacon whose operator does not collude with the server: a signature every ``period`` seconds.

    ``public_key`` (32 bytes, Ed25519) is the operator's; the first round is published at ``genesis``
    (seconds since 1970). The operator, or a thief of its key, can give a server future values. For a
    beacon that a threshold of independent parties signs (such as drand), write a class with the same two methods
    that verifies its signatures, and pass the class to ``Task.from_bytes`` in ``known``.
    """

    public_key: bytes
    genesis: int
    period: int

    def __post_init__(self) -> None:
        if not is_a(self.public_key, bytes) or bytes.__len__(self.public_key) != KEY_BYTES:
            raise ConfigError(
                f"got public_key={shown(self.public_key)}; expected the {KEY_BYTES} bytes of an Ed25519 key"
            )
        object.__setattr__(self, "public_key", bytes(memoryview(self.public_key)))  # NumPy's bytes are a subclass
        check_signing_key(self.public_key, "public_key")
        for name, value, least in (("genesis", self.genesis, 0), ("period", self.period, 1)):
            number = whole(value)
            if number is None or not least <= number < 1 << 40:
                raise ConfigError(f"got {name}={shown(value)}; expected whole seconds, at least {least}")
            object.__setattr__(self, name, number)

    def next_round(self, now: float) -> int:
        """The first round that is published after ``now``; rounds count from 1."""
        return max(1, floor((now - self.genesis) / self.period) + 2)

    def verify(self, number: int, value: bytes) -> bool:
        """Whether ``value`` is the operator's signature of round ``number``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(value, _signed(self, number))
        except (InvalidSignature, ValueError, OverflowError):
            return False
        return True

    def publish(self, private_key: Ed25519PrivateKey, number: int) -> bytes:
        """The value of round ``number``, made with the operator's ``private_key``.

        Run by the operator, which gives the value to nobody before its time.
        """
        return private_key.sign(_signed(self, number))


def _signed(beacon: SignedBeacon, number: int) -> bytes:
    place = (beacon.genesis.to_bytes(8, "big"), beacon.period.to_bytes(8, "big"), number.to_bytes(8, "big"))
    return encode_parts("secagg/v1/beacon", *place)

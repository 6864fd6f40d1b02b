"""A client's view of one session, and how it reads the offer of one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from secagg.api.documents import Acceptance, Framed, Offer, session_key
from secagg.api.routes import SESSION_HEADER
from secagg.errors import ConfigError, Refused, SecAggError
from secagg.identity import PartyRole
from secagg.kit import Kit
from secagg.remote.line import read
from secagg.remote.requests import Response
from secagg.roles.client import Client


@dataclass(eq=False)
class Session:
    """One session that this client was offered, from the offer to its end.

    ``role`` is there once it was accepted. ``over`` says why it ended for this client, and ``error`` is set where
    that was the service's or the caller's fault.
    """

    offer: Offer
    name: bytes
    key: str
    since: float
    config: dict[str, Any]
    role: Client[Any] | None = None
    answer: Acceptance | None = None
    answered: bool = False
    resumed: bool = False
    left: str = ""  # why the caller went on, or can go on only, without an update
    heard: bool = False  # a message came
    over: str | None = None
    closed: bool = False  # over, and the result was asked for
    error: SecAggError | None = None
    in_sum: bool | None = None
    deadline: float | None = None
    look_at: float = 0.0
    looks: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    frames: deque[Framed] = field(default_factory=deque)
    contributed: bool = False

    def is_over(self) -> bool:
        """Whether it ended for this client; the driver's thread may end it at any moment."""
        return self.over is not None


def session_of(offer: Offer, task: bytes, now: float) -> Session:
    """The session that an offer under the task of this digest describes: its name and address are computed.

    ``ConfigError`` for an offer that no service makes.
    """
    config, name = offer.settings(), offer.name()
    return Session(offer, name, session_key(task, name), now, config)


def read_offer(response: Response, kit: Kit, now: float) -> Session:
    """The session of an offer from the service; ``Refused`` for one that can't be honest."""
    if kit.role is not PartyRole.CLIENT:
        raise Refused(f"got an offer to train as a {kit.role}; only clients train")
    offer = read(response.body, Offer)
    try:
        session = session_of(offer, bytes.fromhex(kit.task), now)
    except ConfigError as error:
        raise Refused(str(error)) from error
    if response.headers.get(SESSION_HEADER.lower(), session.key) != session.key:
        raise Refused("got an offer for another session than the one that it describes; nothing was accepted")
    return session

"""What a training loop sees of an offer: its model, its config, and how to contribute. Both drivers share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from secagg.api.models import read_model
from secagg.errors import Aborted

if TYPE_CHECKING:
    from secagg.remote.core import ClientCore
    from secagg.remote.session import Session


class Contribution(NamedTuple):
    """What became of an update.

    ``in_sum`` is what the service says: True or False, or None while it doesn't know. ``reason`` says why our part
    ended early; it is empty otherwise. ``seconds`` counts from the offer to the end of our part, ``bytes_up`` and
    ``bytes_down`` are the session's messages, and ``session`` is its address, 64 hexadecimal digits.
    """

    in_sum: bool | None
    seconds: float
    bytes_up: int
    bytes_down: int
    session: str
    reason: str = ""


class Transfer(NamedTuple):
    """The bytes that a round costs a client, known before it trains: ``up`` to the service, ``down`` from it."""

    up: int
    down: int


class BaseOffer:
    """An offer to train: one session, and the model to start from."""

    def __init__(self, core: ClientCore, session: Session) -> None:
        self._core, self._session = core, session
        self._like: Any = None
        self._start: Any = None

    @property
    def number(self) -> int:
        """The number of the round, from 1."""
        return self._session.offer.number

    @property
    def attempt(self) -> int:
        """The number of the session over this model, from 1; the second costs another upload."""
        return self._session.offer.attempt

    @property
    def config(self) -> dict[str, Any]:
        """What the service asks of the training, the same for all clients. Check what it may steer."""
        return self._session.config

    @property
    def session(self) -> str:
        """The session's address: 64 hexadecimal digits, which this client computed."""
        return self._session.key

    @property
    def resumed(self) -> bool:
        """Whether an update was contributed before a restart: then contribute() without one waits for the end."""
        return self._session.resumed

    @property
    def input_seconds(self) -> float:
        """How long the service waits for updates, once the session has begun."""
        return self._session.offer.input_seconds

    @property
    def cost(self) -> Transfer:
        """The bytes up and down of this round, with as many clients as the task allows."""
        assert self._core.task is not None
        cost = self._core.task.protocol.cost(self._core.task)
        return Transfer(sum(cost.up.values()), sum(cost.down.values()) + self._session.offer.model_bytes)

    def _read_model(self, like: Any) -> Any:
        """A fresh copy of the model, whose arrays may be changed."""
        try:
            data = self._core.state.read_model(self._session.offer.model)
        except FileNotFoundError as error:
            over = self._session.over or "another took its place"
            raise Aborted(f"the model of round {self.number} is no longer here: {over}") from error
        return read_model(data, like=like)

    def _contribution(self, now: float) -> Contribution:
        session = self._session
        return Contribution(
            session.in_sum,
            now - session.since,
            session.bytes_up,
            session.bytes_down,
            session.key,
            session.over or "",
        )

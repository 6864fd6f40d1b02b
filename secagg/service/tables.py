"""The tables of the service's database, as this version of the package reads and writes them.

``migrations/`` makes them and brings older ones up to this. What is large is in files: states, spools, models and
the arrays of outcomes. Times are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

METADATA: Final = MetaData()

CLOSED: Final = ("done", "failed")  # how a round or a session ends

TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("digest", LargeBinary, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("roster", String),
    Column("signature", String),
    Column("auth", String, nullable=False),
    Column("added", Float, nullable=False),
)

ROUNDS: Final = Table(
    "rounds",
    METADATA,
    Column("task", LargeBinary, ForeignKey("tasks.digest"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("model", LargeBinary, nullable=False),
    Column("config", String, nullable=False),
    Column("state", String, nullable=False),
    Column("opened", Float, nullable=False),
    Column("ended", Float),
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("key", String, primary_key=True),
    Column("task", LargeBinary, nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("cohort", String, nullable=False),
    Column("state", String, nullable=False),
    Column("number", Integer, nullable=False),  # of the saved state; 0 if there is none
    Column("file", String),  # of the saved state
    Column("position", Integer),
    Column("relays", Integer, nullable=False),
    Column("remaining", Float),
    Column("reason", String, nullable=False),
    Column("taken", LargeBinary, nullable=False),
    Column("begun", Float, nullable=False),
    Column("changed", Float, nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.number"], name="session_of_round"),
    UniqueConstraint("task", "round", "attempt", name="one_session_an_attempt"),
    Index("sessions_by_state", "state"),
    Index("sessions_by_time", "begun"),
)

OUTCOMES: Final = Table(
    "outcomes",
    METADATA,
    Column("session", String, ForeignKey("sessions.key"), primary_key=True),
    Column("document", String, nullable=False),
    Column("file", String, nullable=False),
)

TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("task", LargeBinary, ForeignKey("tasks.digest"), primary_key=True),
    Column("party", String, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    UniqueConstraint("task", "hash", name="one_party_a_token"),
)

SEEN: Final = Table(
    "seen",
    METADATA,
    Column("task", LargeBinary, primary_key=True),
    Column("party", String, primary_key=True),
    Column("at", Float, nullable=False),
)


@dataclass(frozen=True)
class RoundRow:
    """A round of training: ``model`` is its model's SHA-256; ``state`` is open, done or failed."""

    task: bytes
    number: int
    model: bytes
    config: str
    state: str
    opened: float
    ended: float | None


@dataclass(frozen=True)
class SessionRow:
    """A session: one attempt at a round. ``state`` is running, done, or failed for a ``reason``.

    ``number`` counts the states that its role saved. ``position``, ``remaining`` (seconds) and ``relays`` are what
    was saved with the newest: the open round's number, how long it may still last, and where the relays end.
    ``taken`` is what the caller left of the messages of a finished session.
    """

    key: str
    task: bytes
    round: int
    attempt: int
    name: bytes
    cohort: tuple[str, ...]
    state: str
    number: int
    file: str | None
    position: int | None
    relays: int
    remaining: float | None
    reason: str
    taken: bytes
    begun: float
    changed: float

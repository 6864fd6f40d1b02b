"""The first tables."""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
)

revision: Final = "1"
down_revision: Final = None


def upgrade() -> None:
    """Make the tables of an empty database."""
    op.create_table(
        "tasks",
        Column("digest", LargeBinary, primary_key=True),
        Column("data", LargeBinary, nullable=False),
        Column("roster", String),
        Column("signature", String),
        Column("auth", String, nullable=False),
        Column("added", Float, nullable=False),
    )
    op.create_table(
        "rounds",
        Column("task", LargeBinary, ForeignKey("tasks.digest"), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("model", LargeBinary, nullable=False),
        Column("config", String, nullable=False),
        Column("state", String, nullable=False),
        Column("opened", Float, nullable=False),
        Column("ended", Float),
    )
    _sessions()
    op.create_table(
        "tokens",
        Column("task", LargeBinary, ForeignKey("tasks.digest"), primary_key=True),
        Column("party", String, primary_key=True),
        Column("hash", LargeBinary, nullable=False),
        UniqueConstraint("task", "hash", name="one_party_a_token"),
    )
    op.create_table(
        "seen",
        Column("task", LargeBinary, primary_key=True),
        Column("party", String, primary_key=True),
        Column("at", Float, nullable=False),
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        Column("key", String, primary_key=True),
        Column("task", LargeBinary, nullable=False),
        Column("round", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("name", LargeBinary, nullable=False),
        Column("cohort", String, nullable=False),
        Column("state", String, nullable=False),
        Column("number", Integer, nullable=False),
        Column("file", String),
        Column("position", Integer),
        Column("relays", Integer, nullable=False),
        Column("remaining", Float),
        Column("reason", String, nullable=False),
        Column("taken", LargeBinary, nullable=False),
        Column("begun", Float, nullable=False),
        Column("changed", Float, nullable=False),
        ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.number"], name="session_of_round"),
        UniqueConstraint("task", "round", "attempt", name="one_session_an_attempt"),
    )
    op.create_index("sessions_by_state", "sessions", ["state"])
    op.create_index("sessions_by_time", "sessions", ["begun"])
    op.create_table(
        "outcomes",
        Column("session", String, ForeignKey("sessions.key"), primary_key=True),
        Column("document", String, nullable=False),
        Column("file", String, nullable=False),
    )

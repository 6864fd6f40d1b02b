"""What a user of a role sees, and what a role does with arguments that are nothing of the kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import secagg
from secagg import wire
from secagg.errors import ConfigError
from secagg.testing import Session, parties_for


def public_names(role: Any) -> list[str]:
    return [name for name in dir(role) if not name.startswith("_")]


@pytest.fixture
def session() -> Session:
    session = Session(parties_for(secagg.SecAgg(), 4))
    session.until("ShareKeys")
    return session


def test_a_client_shows_its_user_ten_names(session: Session) -> None:
    user = ["aborted", "answer", "contribute", "contributed", "finished", "from_bytes", "id", "ledger", "receive"]
    assert public_names(session.members["c1"]) == [*user, "session", "to_bytes"]


def test_a_server_shows_its_user_nineteen_names(session: Session) -> None:
    user = ["aborted", "absorb", "close_round", "faults", "from_bytes", "outcome", "pending", "position", "read"]
    user += ["read_all", "receive", "receive_all", "round", "session", "start", "take", "taken", "to_bytes", "took"]
    assert public_names(session.server) == user


def test_the_names_of_an_author_are_there_though_not_listed(session: Session) -> None:
    assert session.members["c1"].context.task is session.task
    assert session.server.context.task is session.task


@pytest.mark.parametrize("lent", [3, "environment", object()])
def test_an_environment_that_is_none_is_refused(session: Session, lent: Any) -> None:
    client, server, task = session.members["c1"], session.server, session.task
    for make in (
        lambda: type(client)(task, "c1", lent),
        lambda: type(server)(task, session.parties.cohort, lent, session=b""),
        lambda: type(client).from_bytes(client.to_bytes(), task, lent),
        lambda: type(server).from_bytes(server.to_bytes(), task, lent),
    ):
        with pytest.raises(ConfigError, match=r"expected a secagg\.roles\.Environment"):
            make()


class Endless(Mapping[str, Any]):
    """A mapping that says it has five items, and never ends."""

    def __getitem__(self, key: str) -> Any:
        return {"w": [0.0] * 5}

    def __iter__(self) -> Iterator[str]:
        return (f"c{number}" for number in itertools.count(1))

    def __len__(self) -> int:
        return 5


def test_clients_that_never_end_are_refused(session: Session) -> None:
    task, roster = session.task, session.parties.roster
    for cohort in (Endless(), itertools.repeat("c1")):
        with pytest.raises(ConfigError, match="got a cohort of 5 or more"):
            task.server(cohort, roster=roster, session=b"")
    with pytest.raises(ConfigError, match="got a cohort of 5 or more"):
        secagg.simulate(task, Endless(), weights=Endless())
    with pytest.raises(ConfigError, match="differ"):
        secagg.simulate(task, {"c1": {"w": [0.0] * 5}}, weights=Endless())
    known = itertools.repeat(secagg.SecAgg)
    assert secagg.Task.from_bytes(task.to_bytes(), known=known) == task


def test_a_restored_server_builds_the_open_rounds_requests_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, built = type(session.server), []
    build = kind._requests
    monkeypatch.setattr(kind, "_requests", lambda server: built.append(1) or build(server))  # type: ignore[func-returns-value]
    session.restore_server(session.stores[wire.SERVER].state)
    assert session.server.start() == session.outbox
    assert len(built) == 1
    assert session.server.start() == session.outbox  # asked once more, it builds them again
    assert len(built) == 2

"""Clients and members that talk to a :class:`Double`: by function calls, without sockets and without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.api.models import read_model
from secagg.identity import PartyRole
from secagg.kit import Kit
from secagg.remote.core import ClientCore
from secagg.remote.line import Exchange
from secagg.remote.member import MemberCore
from secagg.remote.requests import Request, Response, Sleep
from secagg.remote.session import Session
from secagg.remote.settings import Options, Settings
from secagg.remote.state import State
from secagg.remote.transport import LostError
from secagg.testing._parties import Parties
from tests.remote.double import Double

URL = "http://127.0.0.1:9"
MODEL = {"w": np.arange(5, dtype=np.float32)}


OPEN: list[Party] = []  # of the running test


@pytest.fixture
def closed_folders() -> Iterator[None]:
    """Close the folders that a test leaves open."""
    yield
    while OPEN:
        OPEN.pop().close()


Train = Callable[[Any, Any], Any]


def kit_for(parties: Parties, party: str, url: str = URL, **changes: Any) -> Kit:
    """The kit of a party, which pins the digest of the roster."""
    assert parties.roster is not None
    fields: dict[str, Any] = {"roster": parties.roster.digest.hex(), "task": parties.task.digest.hex()}
    return Kit(party=party, role=parties.roles[party], url=url, **{**fields, **changes})


def options_for(parties: Parties, party: str, **options: Any) -> Options:
    """The keys of a party, and further options."""
    given: Any = {"identity": parties.identities.get(party), "key": parties.long_lived.get(party), **options}
    return given


def update_of(parties: Parties, party: str) -> dict[str, Any]:
    """Whole steps of the grid, so that the mean is known to the last bit."""
    number = sorted(parties.cohort).index(party) + 1
    return {"w": np.full(5, number / 2047 * 8, np.float32)}


class Party:
    """A core with a folder, which talks to a double by function calls."""

    core: Any

    def __init__(
        self, parties: Parties, party: str, folder: Path, double: Double, kit: Kit | None = None, **options: Any
    ) -> None:
        self.parties, self.party, self.double = parties, party, double
        self.kit = kit or kit_for(parties, party)
        self.train: Train = lambda model, config: update_of(parties, party)
        self.settings = Settings.of(**options_for(parties, party, **options))
        self.state = State(folder, self.kit, self.settings)
        kind = ClientCore if parties.roles[party] is PartyRole.CLIENT else MemberCore
        self.core = kind(self.kit, self.state, self.settings, lambda: 0.5)
        self.now = 1e9
        OPEN.append(self)

    def send(self, request: Request) -> Response:
        """Carry a request to the service, as a driver does."""
        response = self.double.answer(request.method, request.target, request.headers, bytes(request.body))
        request.check_head(response.status, response.headers)
        if request.sink is not None and response.status < 300:
            request.sink(response.body)
            return Response(response.status, response.headers)
        return response

    def step(self, exchange: Exchange | None = None) -> bool:
        """One step of the core; False at its end. Sleeping only moves the time on."""
        exchange = exchange or self.core
        what = exchange.next(self.now)
        if what is None:
            return False
        if isinstance(what, Sleep):
            self.now += what.seconds
            return True
        try:
            response = self.send(what)
        except LostError as lost:
            exchange.lost(str(lost), self.now)
        else:
            exchange.got(response, self.now)
        return True

    def go_on(self) -> bool:
        """One step, and training if there is an offer."""
        return self.step()

    @property
    def busy(self) -> bool:
        """Whether a session is open here."""
        return bool(self.core.sessions)

    def close(self) -> None:
        """Release the folder."""
        self.state.close()


class Client(Party):
    """A client that trains at once."""

    core: ClientCore

    def go_on(self) -> bool:
        """See :meth:`Party.go_on`."""
        session = self.core.session
        if session is not None and session.over is None and not session.contributed:
            if session.answer is None:
                self.take_up(session)
            elif self.core.task is not None:
                model = read_model(self.state.model_path(session.offer.model).read_bytes())
                weight = None if self.core.task.max_weight is None else 9
                self.core.contribute(session, self.train(model, session.config), weight)
        return self.step()

    def take_up(self, session: Session) -> None:
        """Download the model and accept the offer."""
        download = self.core.download(session)
        try:
            while self.step(download):
                pass
        finally:
            download.close()
        self.core.accept(session)

    @property
    def busy(self) -> bool:
        """See :meth:`Party.busy`."""
        return self.core.session is not None and not self.core.session.closed


def everyone(parties: Parties, folder: Path, double: Double) -> list[Party]:
    """All parties, each with a folder of its own."""
    return [
        (Client if role is PartyRole.CLIENT else Party)(parties, party, folder / party, double)
        for party, role in parties.roles.items()
    ]


def play(
    everyone: Sequence[Party], double: Double, most: int = 600, until: Callable[[], bool] | None = None
) -> None:
    """Let every party do one step after the other until the newest session is over for all, or ``until`` holds."""
    for _ in range(most):
        for party in everyone:
            party.go_on()
        session = double.sessions[-1]
        if until is not None:
            if until():
                return
            continue
        if (session.outcome is not None or session.failed) and not any(party.busy for party in everyone):
            return
    raise AssertionError(f"the session does not end: {double.requests[-10:]}")


def expected_mean(parties: Parties) -> Any:
    """The mean of all updates."""
    return np.mean([update_of(parties, party)["w"] for party in parties.cohort], axis=0)

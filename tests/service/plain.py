"""A client of the HTTP interface in a few lines, which shares nothing with ``secagg.remote``; and services to play.

It is for tests that need a party which falls silent at a certain point, repeats itself, or is one of thousands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

import secagg
from secagg.api import documents, models, routes, tokens
from secagg.identity import PartyRole
from secagg.roles import Environment, Member
from secagg.service import Schedule, Service
from secagg.simulation import enrol_for
from secagg.store import MemoryLedger
from secagg.table import Proposal
from secagg.task import Task
from secagg.wire import Envelope

PATIENT = Schedule(deadline=60, training=60, gather=60)
SECONDS = 60.0


class Enrolled:
    """Everyone who takes part in a task, with private keys."""

    def __init__(self, task: Task, clients: int, beacon: Any = None) -> None:
        self.task, self.beacon = task, beacon
        self.clients = [f"c{number}" for number in range(1, clients + 1)]
        self.identities, self.roster, self.keys = enrol_for(task, self.clients)
        if self.roster is None:
            from secagg.identity import enrol

            self.identities, self.roster = enrol(self.clients)
        self.roles = {party.id: party.role for party in self.roster.values()}


class Party:
    """One party. ``silent`` is the round in which it falls silent, just before it would send its message."""

    def __init__(
        self,
        enrolled: Enrolled,
        party: str,
        url: str,
        update: Callable[[documents.Offer, Any], Any] | None = None,
        *,
        silent: str | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        self.enrolled, self.party, self.task = enrolled, party, enrolled.task
        self.url, self.update, self.silent = url, update, silent
        self.http = http or httpx2.Client(base_url=url, timeout=40.0, trust_env=False)
        self.roles: dict[str, Member[Any]] = {}
        self.uploads: list[tuple[str, int, str, int]] = []  # session, round, digest, status
        self.ledger = MemoryLedger()
        self.after, self.gone, self.finished, self.left, self.polls = "", False, 0, 0, 0
        self._token, self._until = "", 0.0

    def headers(self) -> dict[str, str]:
        if time.time() > self._until:
            identity = self.enrolled.identities[self.party]
            self._token = tokens.sign_token(self.party, identity, self.url, self.task.digest, time.time())
            self._until = time.time() + 200
        return {"authorization": f"Bearer {self._token}"}

    def route(self, name: str, **values: str) -> str:
        return routes.BY_NAME[name].url(task=self.task.digest.hex(), party=self.party, **values)

    def send(self, method: str, url: str, **options: Any) -> httpx2.Response:
        """Send a request until there is an answer that is not about the service's own state."""
        extra = options.pop("headers", {})
        until = time.monotonic() + SECONDS
        while True:
            try:
                answer = self.http.request(method, url, headers=self.headers() | extra, **options)
            except httpx2.TransportError:
                if time.monotonic() > until:
                    raise
            else:
                if answer.status_code not in (429, 503):
                    return answer
                time.sleep(0.2)
            time.sleep(0.05)

    def get(self, name: str, params: Mapping[str, str] | None = None, **values: str) -> httpx2.Response:
        return self.send("GET", self.route(name, **values), params=dict(params or {}))

    def step(self, wait: int = 20) -> bool:
        """One poll and what follows from it; False when the run is over, or this party has fallen silent."""
        self.polls += 1
        answer = self.get("next", {"after": self.after, "wait": str(wait)})
        if answer.status_code == 410:
            return False
        if answer.status_code == 204:
            return True
        answer.raise_for_status()
        if answer.headers["content-type"] == routes.OFFER_TYPE:
            self._accept(documents.read_document(answer.content, documents.Offer))
            return True
        session = answer.headers[routes.SESSION_HEADER]
        for frame in documents.from_frames(answer.content):
            self._hand(session, frame)
            if self.gone:
                return False
        self.after = answer.headers[routes.CURSOR_HEADER]
        return True

    def run(self, rounds: int = 1) -> None:
        """Take part until so many sessions have ended for this party, or the run is over."""
        with self.http:
            while self.step() and self.finished < rounds:
                pass

    def _accept(self, offer: documents.Offer) -> None:
        key = documents.session_key(self.task.digest, offer.name())
        downloaded = self.get("model", sha256=offer.model).content
        assert models.model_digest(downloaded).hex() == offer.model
        kind = self.task.protocol.role_classes[PartyRole.CLIENT]
        client: Any = kind(self.task, self.party, Environment(**self._lent()), session=offer.name())
        assert self.update is not None
        value = self.update(offer, models.read_model(downloaded))
        client.contribute(*value if isinstance(value, tuple) else (value,))
        self.roles[key] = client
        url = self.route("accept", session=key)
        answer = self.send("PUT", url, json={"accept": True})
        assert answer.status_code in (202, 409, 410), answer.text  # the offer may have closed in the meantime

    def _lent(self) -> dict[str, Any]:
        identity, key = self.enrolled.identities[self.party], self.enrolled.keys.get(self.party)
        lent = {"identity": identity, "roster": self.enrolled.roster, "key": key, "ledger": self.ledger}
        return lent | {"beacon": self.enrolled.beacon}

    def _role(self, session: str, data: bytes) -> Member[Any]:
        if session not in self.roles:
            proposal, _ = Envelope.parse(data, len(data)).open(self._proposal())
            kind = self.task.protocol.role_classes[self.enrolled.roles[self.party]]
            self.roles[session] = kind(self.task, self.party, Environment(**self._lent()), session=proposal.session)
        return self.roles[session]

    def _proposal(self) -> type[Proposal]:
        phases = self.task.protocol.phases
        role = self.enrolled.roles[self.party]
        return next(phase.request for phase in phases if phase.role is role)  # type: ignore[return-value]

    def _hand(self, session: str, frame: documents.Framed) -> None:
        role = self._role(session, frame.data)
        names = [*(str(phase.round) for phase in self.task.protocol.phases), "the end"]
        name = names[frame.round]
        if self.silent == name and self.enrolled.roles[self.party] is PartyRole.CLIENT:
            self.gone = True
            return
        try:
            reply = role.receive(frame.data)
        except secagg.Aborted:
            self.left += 1
            return
        if reply is not None:
            self.upload(session, frame.round, reply)
        self.finished += role.finished

    def upload(self, session: str, number: int, data: bytes) -> httpx2.Response:
        digest = Envelope.parse(data, len(data)).digest.hex()
        url = self.route("upload", session=session, digest=digest)
        answer = self.send("PUT", url, content=data, headers={routes.ROUND_HEADER: str(number)})
        self.uploads.append((session, number, digest, answer.status_code))
        return answer


@contextmanager
def serving(folder: Path, enrolled: Enrolled, **options: Any) -> Iterator[Service]:
    """A service of one task on loopback."""
    schedule = options.pop("schedule", PATIENT)
    service = Service(folder, **options)
    service.add(enrolled.task, roster=enrolled.roster, schedule=schedule, beacon=enrolled.beacon)
    with service:
        yield service


@contextmanager
def playing(service: Service, *parties: Party, rounds: int = 1) -> Iterator[None]:
    """The parties in threads until they have ended; an error in one ends the round, and is raised here."""
    errors: list[BaseException] = []

    def play(party: Party) -> None:
        try:
            party.run(rounds)
        except BaseException as error:
            errors.append(error)
            if service._loop is not None:
                for one in list(service._plays):
                    service._loop.call_soon_threadsafe(one.cancel)

    threads = [threading.Thread(target=play, args=(party,), daemon=True) for party in parties]
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException as error:
        raise (errors[0] if errors else error) from None
    for thread in threads:
        thread.join(SECONDS)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def hurry(service: Service, silent: str, name: str | None) -> None:
    """End the round ``name`` once only ``silent`` is awaited, as its deadline would; in a thread of its own."""
    run = service._run(None)

    def look() -> None:
        running = run.running
        view = None if running is None else running.view
        if running is not None and view is not None and view.name == name and view.pending == {silent}:
            view.deadline = 0.0
            running._changed.set()

    def keep() -> None:
        while service._loop is not None and not run.done and not run.failed:
            try:
                service._loop.call_soon_threadsafe(look)
            except RuntimeError:  # the loop is closed
                return
            time.sleep(0.02)

    threading.Thread(target=keep, daemon=True).start()


def make_task(protocol: Any, clients: int = 6, floor: int = 4, size: int = 40, **options: Any) -> Task:
    layout = secagg.Layout.of({"w": np.zeros(size, np.float32), "b": np.zeros(3, np.float32)})
    encoding = options.pop("encoding", secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"))
    return secagg.Task(
        protocol=protocol,
        layout=layout,
        encoding=encoding,
        max_clients=clients,
        min_survivors=floor,
        context=b"service",
        **options,
    )


def update_of(number: int, size: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {"w": rng.uniform(-1, 1, size).astype(np.float32), "b": rng.uniform(-1, 1, 3).astype(np.float32)}

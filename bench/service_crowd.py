"""The parties of a load test: real roles, each with a connection of its own, in the process of the load generator.

Roles work in one thread beside the event loop, so connections are served while a client masks its vector.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.service_line import Answer, Line
from secagg import identity
from secagg.api import documents, routes, tokens
from secagg.errors import SecAggError
from secagg.identity import PartyRole, Roster
from secagg.roles.environment import Environment
from secagg.roles.member import Member
from secagg.simulation import enrol_for
from secagg.store import MemoryLedger
from secagg.table import Proposal, input_round
from secagg.task import Task
from secagg.wire import Envelope

_WAIT = int(routes.LONGEST_WAIT)
_OPENING = 100  # connections that are opened at a time
_TOKEN_SECONDS = 200.0
_AGAIN = frozenset({429, 503})


@dataclass(frozen=True)
class Enrolled:
    """Everyone who takes part in ``task``, with private keys."""

    task: Task
    identities: Mapping[str, Ed25519PrivateKey]
    roster: Roster
    keys: Mapping[str, bytes]

    @classmethod
    def of(cls, task: Task, clients: list[str]) -> Enrolled:
        """Enrol ``clients`` and all others whom the protocol needs."""
        identities, roster, keys = enrol_for(task, clients)
        if roster is None:
            identities, roster = identity.enrol(clients)
        return cls(task, identities, roster, keys)


@dataclass(frozen=True)
class Upload:
    """A message that a party is about to send: its path, the number of its round, and its bytes."""

    party: str
    path: str
    round: int
    data: bytes


@dataclass
class Crowd:
    """All parties of a session on the service at ``url``, and what became of their requests.

    Inputs are held back until :attr:`released`. Then they are sent, ``at_once`` of them at a time. A caller that
    sends them itself clears :attr:`sent` before, and sets it afterwards.
    """

    enrolled: Enrolled
    url: str
    tls: ssl.SSLContext
    update: Callable[[str], Any]
    at_once: int
    statuses: Counter[int] = field(default_factory=Counter)
    offered: dict[str, float] = field(default_factory=dict)  # when each client got its offer
    asked: dict[str, float] = field(default_factory=dict)  # when each party got its first message
    held: dict[str, Upload] = field(default_factory=dict)
    session: str = ""
    taken: int = 0  # inputs

    def __post_init__(self) -> None:
        self.released, self.sent = asyncio.Event(), asyncio.Event()
        self.sent.set()
        self.under_way = asyncio.Semaphore(self.at_once)
        self.opening = asyncio.Semaphore(_OPENING)
        self.clients = self.enrolled.roster.ids(PartyRole.CLIENT)
        self.input_round = input_round(self.enrolled.task.protocol)
        self.thread = ThreadPoolExecutor(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._headers: dict[str, tuple[dict[str, str], float]] = {}

    @contextmanager
    def living(self) -> Iterator[None]:
        """The parties take part until the block ends."""
        self._tasks = [asyncio.create_task(_Party(self, party).live()) for party in self.enrolled.roster]
        try:
            yield
        finally:
            for one in self._tasks:
                one.cancel()
            self.thread.shutdown(cancel_futures=True)

    async def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until ``reached``. ``SecAggError`` if a party failed, or after ``seconds``."""
        end = time.monotonic() + seconds
        while not reached():
            for one in self._tasks:
                if one.done() and (error := one.exception()) is not None:
                    raise error
            if time.monotonic() > end:
                raise SecAggError(f"the parties were not ready within {seconds:.0f} s; measure fewer")
            await asyncio.sleep(0.02)

    async def ended(self, seconds: float) -> None:
        """Wait until the session is over for every party."""
        await self.until(lambda: all(one.done() for one in self._tasks), seconds)

    def line(self) -> Line:
        """A new connection to the service."""
        return Line(self.url, self.tls)

    def headers(self, party: str) -> dict[str, str]:
        """The authorization of a party, by a token of its own, which it uses for some minutes."""
        headers, until = self._headers.get(party, ({}, 0.0))
        if time.monotonic() > until:
            task, key = self.enrolled.task, self.enrolled.identities[party]
            token = tokens.sign_token(party, key, self.url, task.digest, time.time())
            headers = {"authorization": f"Bearer {token}"}
            self._headers[party] = headers, time.monotonic() + _TOKEN_SECONDS
        return headers

    def connections(self) -> int:
        """How many connections the parties have open at most."""
        return len(self.enrolled.roster)


async def send(upload: Upload, line: Line, headers: Mapping[str, str], statuses: Counter[int]) -> None:
    """Send an upload until it is taken. ``SecAggError`` if the service refuses it for good."""
    while True:
        answer = await line.request(
            "PUT", upload.path, {**headers, routes.ROUND_HEADER: str(upload.round)}, upload.data
        )
        statuses[answer.status] += 1
        if answer.status in (200, 202):
            return
        if answer.status not in _AGAIN:
            raise SecAggError(f"the service answered an upload with {answer.status}: {answer.body[:300]!r}")
        await asyncio.sleep(float(answer.headers.get("retry-after", "1")))


class _Party:
    """One party: it polls, answers each message by its role, and sends the answer."""

    def __init__(self, crowd: Crowd, party: str) -> None:
        self.crowd, self.party = crowd, party
        self.role_of = crowd.enrolled.roster[party].role
        self.line = crowd.line()
        self.role: Member[Any] | None = None
        self.session = ""

    async def live(self) -> None:
        """Take part in one session."""
        after = ""
        try:
            async with self.crowd.opening:  # the handshake, and the first signature
                await self._get("next", wait=0, after="")
            while self.role is None or not self.role.finished:
                after = await self._step(after)
        finally:
            await self.line.close()

    async def _step(self, after: str) -> str:
        answer = await self._get("next", wait=_WAIT, after=after)
        if answer.status == 204:
            await asyncio.sleep(float(answer.headers.get("retry-after", "0")))
            return after
        if answer.status != 200:
            raise SecAggError(f"the service answered a poll with {answer.status}: {answer.body[:300]!r}")
        if answer.headers["content-type"] == routes.OFFER_TYPE:
            await self._accept(documents.read_document(answer.body, documents.Offer))
            return after
        session = answer.headers[routes.SESSION_HEADER.lower()]
        self.crowd.asked.setdefault(self.party, time.monotonic())
        for frame in documents.from_frames(answer.body):
            await self._hand(session, frame)
        return answer.headers[routes.CURSOR_HEADER.lower()]

    async def _accept(self, offer: documents.Offer) -> None:
        crowd, task = self.crowd, self.crowd.enrolled.task
        crowd.offered.setdefault(self.party, time.monotonic())
        crowd.session = documents.session_key(task.digest, offer.name())
        self.role = self._make(offer.name())
        path = self._path("accept", session=crowd.session)
        headers = {**crowd.headers(self.party), "content-type": routes.JSON_TYPE}
        answer = await self.line.request("PUT", path, headers, b'{"accept": true}')
        crowd.statuses[answer.status] += 1
        if answer.status != 202:
            raise SecAggError(f"the service answered an acceptance with {answer.status}")

    async def _hand(self, session: str, frame: documents.Framed) -> None:
        crowd, loop = self.crowd, asyncio.get_running_loop()
        name = str(crowd.enrolled.task.protocol.phases[frame.round].round)
        is_input = name == crowd.input_round and self.role_of is PartyRole.CLIENT
        reply = await loop.run_in_executor(crowd.thread, self._answer_of, frame.data, is_input)
        if reply is None:
            return
        digest = Envelope.parse(reply, len(reply)).digest.hex()
        upload = Upload(self.party, self._path("upload", session=session, digest=digest), frame.round, reply)
        if not is_input:
            await send(upload, self.line, crowd.headers(self.party), crowd.statuses)
            return
        crowd.held[self.party] = upload
        await crowd.released.wait()
        if crowd.sent.is_set():
            async with crowd.under_way:
                await send(upload, self.line, crowd.headers(self.party), crowd.statuses)
            crowd.taken += 1
        await crowd.sent.wait()

    def _answer_of(self, data: bytes, is_input: bool) -> bytes | None:
        if self.role is None:
            self.role = self._make(self._named_in(data))
        if is_input:
            self.role.contribute(self.crowd.update(self.party))  # type: ignore[attr-defined]
        return self.role.receive(data)

    def _named_in(self, data: bytes) -> bytes:
        """The session that a proposal names: parties other than clients have it from there."""
        phases = self.crowd.enrolled.task.protocol.phases
        kind = next(phase.request for phase in phases if phase.role is self.role_of)
        proposal, _ = Envelope.parse(data, len(data)).open(kind)
        assert isinstance(proposal, Proposal)
        return proposal.session

    def _make(self, session: bytes) -> Member[Any]:
        enrolled = self.crowd.enrolled
        kind = enrolled.task.protocol.role_classes[self.role_of]
        environment = Environment(
            identity=enrolled.identities[self.party],
            roster=enrolled.roster,
            key=enrolled.keys.get(self.party),
            ledger=MemoryLedger(),
        )
        return kind(enrolled.task, self.party, environment, session=session)

    async def _get(self, name: str, *, wait: int, after: str) -> Answer:
        path = f"{self._path(name)}?wait={wait}&after={after}"
        answer = await self.line.request("GET", path, self.crowd.headers(self.party))
        self.crowd.statuses[answer.status] += 1
        return answer

    def _path(self, name: str, **values: str) -> str:
        return routes.BY_NAME[name].url(task=self.crowd.enrolled.task.digest.hex(), party=self.party, **values)

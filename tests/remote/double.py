"""An honest service in memory, with real roles behind it; tests make it lie by replacing one of its methods.

It answers requests as (method, target, headers, body) and knows no sockets. ``tests.remote.http`` puts it behind
real HTTP.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

import secagg
from secagg.api import routes
from secagg.api.documents import Acceptance, Accepted, Offer, Result, Rosters, session_key, to_frames
from secagg.api.models import write_model
from secagg.api.problems import Kind, Problem
from secagg.errors import Aborted
from secagg.identity import Roster
from secagg.remote.requests import Response

Answer = tuple[int, dict[str, str], bytes]
NAMES = {one.name: one for one in routes.ROUTES}


@dataclass
class Open:
    """A session: its offer, who accepted, and what each party is to get."""

    offer: Offer
    model: bytes
    key: str
    accepted: set[str] = field(default_factory=set)
    declined: dict[str, str] = field(default_factory=dict)
    server: Any = None
    inboxes: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    outcome: Any = None
    failed: str = ""


class Double:
    """Runs one session after the other: it begins when ``cohort`` has accepted, and a round ends when all answered.

    ``requests`` has (party, route, body) of everything that came, in order; ``uploads`` the digests by party and
    session and round.
    """

    def __init__(self, task: secagg.Task, roster: Roster | None, cohort: Sequence[str]) -> None:
        self.task, self.roster, self.cohort = task, roster, list(cohort)
        self.signature: str | None = None
        self.roster_text = "" if roster is None else roster.to_json()
        self.address = task.digest  # the task that clients pinned, by which sessions are addressed
        self.lock = threading.RLock()
        self.sessions: list[Open] = []
        self.requests: list[tuple[str, str, bytes]] = []
        self.authorizations: list[str] = []
        self.uploads: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        self.parts: dict[str, bytearray] = {}
        self.deadline = 600.0
        self.over = False
        self.after_upload: Callable[[], None] = lambda: None
        self.before: Callable[[str, str], Answer | None] = lambda party, route: None

    # What the operator does

    def offer(self, model: Any, number: int = 1, attempt: int = 1, config: Mapping[str, Any] | None = None) -> Open:
        """Open a session over ``model``."""
        data = write_model(model)
        offer = Offer(
            number=number,
            attempt=attempt,
            model=hashlib.sha256(data).hexdigest(),
            model_bytes=len(data),
            config=json.dumps(dict(config or {})),
            seconds=60.0,
            input_seconds=60.0,
        )
        opened = Open(offer, data, session_key(self.address, offer.name()))
        self.sessions.append(opened)
        return opened

    def end(self) -> None:
        """The run is over."""
        self.over = True

    # What the service does

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, noted: bool = False
    ) -> Response:
        """The answer to one request, which is ``noted`` already if it waits."""
        with self.lock:
            parts = urlsplit(target)
            route, values = self._match(method, parts.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            party = values.get("party", "")
            if not noted:
                self.requests.append((party, route, body))
                self.authorizations.append(headers.get("authorization", ""))
            lie = self.before(party, route)
            try:
                status, answered, data = lie or getattr(self, f"on_{route}")(values, query, headers, body)
            except Problem as problem:
                status, answered, data = problem.kind.status, problem.headers(), problem.body()
            return Response(status, {"content-length": str(len(data)), **answered}, data)

    def _match(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        words = path.removeprefix(routes.PREFIX).split("/")
        for one in routes.ROUTES:
            pattern = one.path.split("/")
            if one.method == method and len(pattern) == len(words):
                pairs = list(zip(pattern, words, strict=True))
                if all(a == b or a.startswith("{") for a, b in pairs):
                    return one.name, {a.strip("{}"): b for a, b in pairs if a.startswith("{")}
        raise AssertionError(f"no route for {method} {path}")

    def on_task(self, *_: Any) -> Answer:
        return 200, {"content-type": routes.TASK_TYPE}, self.task.to_bytes()

    def on_roster(self, values: Any, query: Any, headers: Mapping[str, str], body: bytes) -> Answer:
        assert self.roster is not None
        tag = f'"{self.roster.digest.hex()}"'
        if headers.get("if-none-match") == tag:
            return 304, {"etag": tag}, b""
        return 200, {}, msgspec.json.encode(Rosters(self.roster_text, self.signature))

    def on_join(self, *_: Any) -> Answer:
        return 200, {}, b'{"party": "c1", "token": "secret"}'

    def on_next(self, values: Any, query: Any, headers: Any, body: bytes) -> Answer:
        party = values["party"]
        session = self.sessions[-1] if self.sessions else None
        if (
            session is not None
            and party in self.cohort
            and session.server is None
            and self.undecided(session, party)
        ):
            return self.give_offer(session)
        if session is not None:
            key, _, at = query.get("after", "").partition(".")
            start = int(at) if key == session.key and at else 0
            inbox = session.inboxes[party]
            if inbox[start:]:
                return self.give_messages(session, inbox[start : start + routes.LARGEST_BATCH], start)
        if self.over and (session is None or session.outcome is not None or session.failed):
            raise Problem(Kind.TASK_OVER)
        return 204, {"retry-after": "0"}, b""

    def undecided(self, session: Open, party: str) -> bool:
        return party in self.cohort and party not in session.accepted and party not in session.declined

    def give_offer(self, session: Open) -> Answer:
        headers = {"content-type": routes.OFFER_TYPE, routes.SESSION_HEADER.lower(): session.key}
        return 200, headers, msgspec.json.encode(session.offer)

    def give_messages(self, session: Open, messages: list[tuple[int, bytes]], start: int) -> Answer:
        headers = {
            "content-type": routes.MESSAGES_TYPE,
            routes.SESSION_HEADER.lower(): session.key,
            routes.CURSOR_HEADER.lower(): f"{session.key}.{start + len(messages)}",
            routes.DEADLINE_HEADER.lower(): f"{self.deadline:g}",
        }
        return 200, headers, to_frames(messages)

    def on_accept(self, values: Any, query: Any, headers: Any, body: bytes) -> Answer:
        session = self._session(values)
        answer = msgspec.json.decode(body, type=Acceptance)
        if answer.accept:
            session.accepted.add(values["party"])
        else:
            session.declined[values["party"]] = answer.reason
        if session.server is None and set(self.cohort) <= session.accepted | set(session.declined):
            if session.accepted:
                self.begin(session)
            else:
                session.failed = "nobody accepted"
        return 202, {}, b"{}"

    def begin(self, session: Open) -> None:
        session.server = self.task.server(
            sorted(session.accepted), roster=self.roster, session=session.offer.name()
        )
        self.publish(session, session.server.start())

    def publish(self, session: Open, outbox: Mapping[str, bytes]) -> None:
        for party, data in outbox.items():
            session.inboxes[party].append((session.server.position, data))

    def on_upload(self, values: Any, query: Any, headers: Mapping[str, str], body: bytes) -> Answer:
        return self.take(values, int(headers[routes.ROUND_HEADER.lower()]), body)

    def take(self, values: Mapping[str, str], number: int, body: bytes) -> Answer:
        session, party = self._session(values), values["party"]
        self.uploads[party, session.key, number].append(values["digest"])
        server = session.server
        accepted = msgspec.json.encode(Accepted(values["digest"]))
        if server is None:
            raise Problem(Kind.NOT_ASKED)
        read = server.read(party, body)
        if read.digest is None or read.digest.hex() != values["digest"]:
            raise Problem(Kind.DIGEST_MISMATCH)
        if server.took(party, read.digest):
            return 200, {}, accepted
        if session.outcome is not None or session.failed:
            raise Problem(Kind.SESSION_OVER)
        faults = len(server.faults)
        self.publish(session, server.take(read))
        if len(server.faults) > faults:
            raise Problem(Kind.MALFORMED_MESSAGE, fault=server.faults[-1].kind)
        status = 200 if server.took(party, read.digest) else 202
        self.go_on(session)
        self.after_upload()
        return status, {}, accepted

    def go_on(self, session: Open) -> None:
        """Close the round if nobody is pending."""
        while session.outcome is None and not session.failed and not session.server.pending:
            self.close(session)

    def close(self, session: Open) -> None:
        """Close the round, with whoever is missing."""
        try:
            self.publish(session, session.server.close_round())
        except Aborted as aborted:
            session.failed = aborted.reason
            self.publish(session, aborted.outbox)
        session.outcome = session.server.outcome

    def on_accepted(self, values: Any, *_: Any) -> Answer:
        session = self._session(values)
        if not session.server.took(values["party"], bytes.fromhex(values["digest"])):
            raise Problem(Kind.NOT_FOUND)
        return 200, {}, msgspec.json.encode(Accepted(values["digest"]))

    def on_offset(self, values: Any, *_: Any) -> Answer:
        session = self._session(values)
        if session.server.took(values["party"], bytes.fromhex(values["digest"])):
            return 204, {routes.COMPLETE_HEADER.lower(): "?1"}, b""
        have = len(self.parts.get(values["digest"], b""))
        return 204, {routes.OFFSET_HEADER.lower(): str(have), routes.COMPLETE_HEADER.lower(): "?0"}, b""

    def on_part(self, values: Any, query: Any, headers: Mapping[str, str], body: bytes) -> Answer:
        part = self.parts.setdefault(values["digest"], bytearray())
        if int(headers[routes.OFFSET_HEADER.lower()]) != len(part):
            raise Problem(Kind.UPLOAD_OFFSET)
        part += body
        if headers[routes.COMPLETE_HEADER.lower()] == "?0":
            return 204, {}, b""
        return self.take(values, int(headers[routes.ROUND_HEADER.lower()]), bytes(part))

    def on_result(self, values: Any, *_: Any) -> Answer:
        session, party = self._session(values), values["party"]
        state = "gathering" if session.server is None else "running"
        if session.outcome is not None or session.failed:
            state = "failed" if session.failed else "done"
        in_sum = session.outcome is not None and party in session.outcome.survivors
        return 200, {}, msgspec.json.encode(Result(state, party in session.accepted, in_sum))

    def on_model(self, values: Any, query: Any, headers: Mapping[str, str], body: bytes) -> Answer:
        session = next((one for one in self.sessions if one.offer.model == values["sha256"]), None)
        if session is None:
            raise Problem(Kind.UNKNOWN_MODEL)
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        return 206 if start else 200, {"content-type": routes.MODEL_TYPE}, session.model[start:]

    def _session(self, values: Mapping[str, str]) -> Open:
        for session in self.sessions:
            if session.key == values["session"]:
                return session
        raise Problem(Kind.UNKNOWN_SESSION)

"""The handlers of the public routes: they check, look at the run, and never touch a role."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from secagg.api import routes
from secagg.api.documents import Acceptance, Accepted, Joined, Rosters, frames, read_document
from secagg.api.problems import Kind, Problem
from secagg.errors import ConfigError
from secagg.service.callers import Caller
from secagg.service.gathering import Gathering
from secagg.service.guard import Guard
from secagg.service.listener import network
from secagg.service.metrics import MessageResult
from secagg.service.models import send_model
from secagg.service.run import Run
from secagg.service.running import Running
from secagg.service.serving import Serving
from secagg.service.uploads import Uploads
from secagg.service.worker import Taken

_HEX: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,6}\Z", re.ASCII)
_LONGEST_CURSOR: Final = 64
_PIECE: Final = 1 << 16  # bytes of an answer at a time, so that a slow reader holds no more
_SMALL: Final = 1 << 20  # bytes of an answer that is sent in records
_RECORD: Final = 1 << 14  # bytes at a time: a connection keeps a TLS buffer as large as its largest piece
_BUSY_SECONDS: Final = 5.0  # after which a poll that found too many others comes again


def public_routes(serving: Serving) -> list[Route]:
    """The handlers of all routes in :data:`secagg.api.routes.ROUTES`."""
    handlers = Handlers(serving)
    made = []
    for one in routes.ROUTES:
        route = Route(routes.PREFIX + one.path, handlers.endpoint(one.name), methods=[one.method], name=one.name)
        route.methods = {one.method}  # starlette adds HEAD to each GET, and that is a route of its own here
        made.append(route)
    return made


class Handlers:
    """One method a route; each answers with a response or raises a :class:`Problem`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._guard: Guard = serving.guard
        self._uploads: Uploads = serving.uploads

    def endpoint(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """The handler of the route ``name``."""
        handler: Callable[[Request], Awaitable[Response]] = getattr(self, name)
        return handler

    def _caller(self, request: Request) -> Caller:
        """Who calls, for which task; ``Problem`` unless the token is valid and the path names the same party."""
        run = self._run(request)
        party = self._serving.open_doors().party(run, request.headers.get("authorization"))
        named = request.path_params.get("party")
        if named is not None and named != party:
            raise Problem(Kind.FORBIDDEN)
        self._guard.count(f"{run.key} {party}")
        self._serving.saw(run, party)
        return Caller(run, party)

    def _run(self, request: Request) -> Run:
        run = self._serving.runs.get(_digest(request, "task", Kind.UNKNOWN_TASK))
        if run is None:
            raise Problem(Kind.UNKNOWN_TASK)
        return run

    async def tasks(self, request: Request) -> Response:
        """See the table of routes."""
        return _json(sorted(self._serving.runs))

    async def task(self, request: Request) -> Response:
        """See the table of routes."""
        return Response(self._caller(request).run.task.to_bytes(), media_type=routes.TASK_TYPE)

    async def roster(self, request: Request) -> Response:
        """See the table of routes."""
        hosted = self._caller(request).run.hosted
        if hosted.roster is None or hosted.roster_text is None:
            raise Problem(Kind.NOT_FOUND)
        tag = f'"{hosted.roster.digest.hex()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return _json(Rosters(hosted.roster_text, hosted.signature), {"etag": tag})

    async def join(self, request: Request) -> Response:
        """See the table of routes."""
        run = self._run(request)
        if run.hosted.auth != "open":
            raise Problem(Kind.FORBIDDEN)
        address = request.client.host if request.client else ""
        self._guard.count(f"address {network(address)}")
        return _json(Joined(*await self._serving.open_doors().join(run)))

    async def next(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        after = request.query_params.get("after", "")[:_LONGEST_CURSOR]
        step = caller.run.step(caller.party, after)
        if step is None:
            wait = _seconds(request.query_params.get("wait"))
            if self._serving.stopping or len(caller.run.polls) >= self._serving.most_waiting:
                return _nothing(random.uniform(1.0, _BUSY_SECONDS))  # noqa: S311 - spreads the load, no secret
            if wait and await caller.run.polls.wait(caller.party, wait):
                step = caller.run.step(caller.party, after)
        if step is None:
            return _nothing(0.0)
        if isinstance(step, Gathering):
            return _json(step.offer, {routes.SESSION_HEADER: step.key}, routes.OFFER_TYPE)
        batch = await caller.run.read(step, caller.party, after)
        headers = {routes.SESSION_HEADER: step.key, routes.CURSOR_HEADER: batch.cursor}
        if (left := step.remaining) is not None:
            headers[routes.DEADLINE_HEADER] = f"{left:.3f}"
        parts = list(frames(batch.messages))
        self._serving.bytes_out += sum(map(len, parts))
        return _InPieces(parts, headers)

    async def accept(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        key = _digest(request, "session", Kind.UNKNOWN_SESSION)
        body = await self._guard.body(request, routes.LARGEST_DOCUMENT)
        try:
            answer = read_document(bytes(body), Acceptance)
        except ConfigError as error:
            raise Problem(Kind.BAD_REQUEST, "the body is not an acceptance") from error
        caller.run.answer(caller.party, key, answer)
        return _json({}, status=202)

    async def upload(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        running, digest, number = await self._expected(request, caller)
        if running is None:
            return _taken(digest)
        limit = caller.run.largest_upload
        whole = min(limit, routes.LARGEST_WHOLE)
        async with self._guard.body_within(request, whole, f"{caller.run.key} {caller.party}") as body:
            return await self._submit(caller, running, digest, number, body)

    async def _submit(
        self, caller: Caller, running: Running, digest: bytes, number: int, body: bytes | memoryview
    ) -> Response:
        """Hand a whole message to the session, and answer once it is on the disk and in the session."""
        name = "" if running.view is None else running.view.name
        began, size = time.monotonic(), len(body)
        try:
            taken = await running.submit(caller.party, number, digest, body)
        except OSError as error:
            self._serving.metrics.message(name, "failed")
            raise Problem(Kind.STORAGE_FULL, retry_after=5.0) from error
        self._serving.bytes_in += size
        result: MessageResult = "accepted" if taken.kept else "refused"
        self._serving.metrics.message(name, result, size, time.monotonic() - began)
        return _answer(taken, digest)

    async def _expected(self, request: Request, caller: Caller) -> tuple[Running | None, bytes, int]:
        """The session that may take this message; None if it has taken it. ``Problem`` if it never will.

        All of this is known before a byte of the body is read.
        """
        key = _digest(request, "session", Kind.UNKNOWN_SESSION)
        digest = bytes.fromhex(_digest(request, "digest", Kind.BAD_REQUEST))
        running = caller.run.session(key)
        if running is None or running.state != "running":
            if await caller.run.took(key, caller.party, digest):
                return None, digest, 0
            raise Problem(Kind.SESSION_OVER)
        if running.took(caller.party, digest):
            return None, digest, 0
        view, written = running.view, request.headers.get(routes.ROUND_HEADER, "")
        if view is None:
            raise Problem(Kind.NOT_READY, retry_after=1.0)
        if not _NUMBER.match(written):
            raise Problem(Kind.BAD_REQUEST, f"the header {routes.ROUND_HEADER} is missing or not a number")
        if int(written) != view.number:
            raise Problem(Kind.ROUND_CLOSED)
        if not running.may_send(caller.party):
            answered = caller.party in running.cohort and running.answered(caller.party)
            raise Problem(Kind.CONFLICTING_MESSAGE if answered else Kind.NOT_ASKED)
        if running.refused_too_often(caller.party):
            raise Problem(Kind.TOO_MANY_REQUESTS, retry_after=max(1.0, running.remaining or 1.0))
        return running, digest, view.number

    async def accepted(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        key = _digest(request, "session", Kind.UNKNOWN_SESSION)
        digest = bytes.fromhex(_digest(request, "digest", Kind.NOT_FOUND))
        running = caller.run.session(key)
        if running is not None and running.state == "running" and running.view is None:
            raise Problem(Kind.NOT_READY, retry_after=1.0)
        if not await caller.run.took(key, caller.party, digest):
            raise Problem(Kind.NOT_FOUND)
        return _taken(digest)

    async def offset(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        running, digest, _ = await self._expected(request, caller)
        if running is None:
            return Response(headers={routes.COMPLETE_HEADER: "?1"}, status_code=204)
        at = await self._uploads.offset(running.key, caller.party, digest)
        return Response(headers={routes.OFFSET_HEADER: str(at), routes.COMPLETE_HEADER: "?0"}, status_code=204)

    async def part(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        running, digest, number = await self._expected(request, caller)
        if running is None:
            return _taken(digest)
        at, last = _part(request.headers)
        limit = caller.run.largest_upload
        async with (
            self._guard.body_within(request, routes.LARGEST_WHOLE, f"{caller.run.key} {caller.party}") as body,
            self._uploads.append(running.key, caller.party, digest, at, body, last, limit) as whole,
        ):
            if whole is not None:
                return await self._submit(caller, running, digest, number, whole)
            here = {routes.OFFSET_HEADER: str(at + len(body)), routes.COMPLETE_HEADER: "?0"}
            return Response(status_code=204, headers=here)

    async def result(self, request: Request) -> Response:
        """See the table of routes."""
        caller = self._caller(request)
        key = _digest(request, "session", Kind.UNKNOWN_SESSION)
        return _json(await caller.run.result(caller.party, key))

    async def model(self, request: Request) -> Response:
        """See the table of routes."""
        self._caller(request)
        name = _digest(request, "sha256", Kind.UNKNOWN_MODEL)
        return await send_model(self._serving.database.model_path(bytes.fromhex(name)), name, request)


class _InPieces(Response):
    """The frames of messages, sent in pieces, each when the peer has read most of the one before.

    Starlette's streaming response also waits for the client to leave, in a task that it cancels. What the cancelled
    task leaves behind keeps the connection and its buffers until the garbage is next collected.
    """

    def __init__(self, parts: list[bytes | memoryview], headers: Mapping[str, str]) -> None:
        size = sum(map(len, parts))
        self._piece = _RECORD if size <= _SMALL else _PIECE
        self._parts = parts if size > _PIECE else [b"".join(parts)]  # what many get is not copied for each
        super().__init__(headers={**headers, "content-length": str(size)}, media_type=routes.MESSAGES_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts[:-1]:
            await self._send(part, send, more=True)
        await self._send(self._parts[-1], send, more=False)

    async def _send(self, part: bytes | memoryview, send: Send, *, more: bool) -> None:
        view, piece = memoryview(part), self._piece
        for at in range(0, max(1, len(view)), piece):
            last = at + piece >= len(view)
            body = view[at : at + piece]
            await send({"type": "http.response.body", "body": body, "more_body": more or not last})


def _digest(request: Request, name: str, kind: Kind) -> str:
    value = str(request.path_params[name])
    if not _HEX.match(value):
        raise Problem(kind)
    return value


def _part(headers: Mapping[str, str]) -> tuple[int, bool]:
    """Where a part begins, and whether it is the last one."""
    at, complete = headers.get(routes.OFFSET_HEADER, ""), headers.get(routes.COMPLETE_HEADER, "?0")
    if not re.match(r"[0-9]{1,12}\Z", at, re.ASCII) or complete not in ("?0", "?1"):
        detail = f"{routes.OFFSET_HEADER} or {routes.COMPLETE_HEADER} is missing or malformed"
        raise Problem(Kind.BAD_REQUEST, detail)
    return int(at), complete == "?1"


def _seconds(text: str | None) -> float:
    """The seconds that a poll may wait."""
    return float(min(int(text), routes.LONGEST_WAIT)) if text and _NUMBER.match(text) else 0.0


def _nothing(seconds: float) -> Response:
    return Response(status_code=204, headers={"retry-after": str(round(seconds))})


def _answer(taken: Taken, digest: bytes) -> Response:
    if taken.kept:
        return _taken(digest)
    if taken.late:
        raise Problem(Kind.ROUND_CLOSED)
    if taken.damaged:
        raise Problem(Kind.DIGEST_MISMATCH)
    if taken.refused is not None:
        raise Problem(Kind.MALFORMED_MESSAGE, fault=taken.refused)
    return _taken(digest, 202)


def _taken(digest: bytes, status: int = 200) -> Response:
    return _json(Accepted(digest.hex()), status=status)


def _json(
    document: Any, headers: Mapping[str, str] | None = None, media_type: str = routes.JSON_TYPE, status: int = 200
) -> Response:
    return Response(msgspec.json.encode(document), status, dict(headers or {}), media_type)

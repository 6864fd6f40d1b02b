"""Requests before their handlers: what is refused, in how many bytes read, and how it is answered."""

import asyncio
import json
import logging

import pytest
from hypothesis import given, settings, strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from secagg.api.problems import MEDIA_TYPE, Kind, Problem
from secagg.service.budget import ByteBudget, PartyRate
from secagg.service.guard import Guard, protect, read_body
from secagg.service.limits import Limits

LIMITS = Limits(ingest_bytes=100, ingest_seconds=0.01, drain_bytes=40, drain_seconds=0.05)
HOST = (b"host", b"agg.example.org:8443")


class Exchange:
    """One request in memory, as a server would hand it over, and what came back."""

    def __init__(self, *headers, method="PUT", path="/upload", parts=(), stall=False) -> None:
        self.parts, self.stall = list(parts), stall
        self.reads = 0
        self.sent: list[dict] = []
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [HOST, *headers],
        }

    async def receive(self):
        self.reads += 1
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts) or self.stall}
        if self.stall:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    def run(self, app):
        asyncio.run(app(self.scope, self.receive, self.send))
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def kind(self):
        return Problem.of(self.status, self.headers, self.body).kind


def service(hold=None):
    """An application with one route for uploads of at most 50 bytes, and one that fails."""
    guard = Guard(LIMITS)

    async def upload(request: Request):
        async with guard.body_within(request, 50) as body:
            if hold is not None:
                await hold.wait()
            return PlainTextResponse(f"{len(body)} {bytes(body).decode()}")

    async def fail(request: Request):
        raise RuntimeError("the secret state")

    async def small(request: Request):
        return PlainTextResponse(await guard.body(request, 5))

    async def late(request: Request):
        guard.count("c1")
        return PlainTextResponse("counted")

    routes = [
        Route("/upload", upload, methods=["PUT"]),
        Route("/fail", fail, methods=["PUT"]),
        Route("/small", small, methods=["PUT"]),
        Route("/late", late, methods=["GET"]),
    ]
    return protect(Starlette(routes=routes), ["agg.example.org"], LIMITS), guard


def length(count):
    return (b"content-length", str(count).encode())


def test_a_body_is_read_into_one_buffer_and_is_read_only() -> None:
    app, guard = service()
    exchange = Exchange(length(6), parts=[b"abc", b"", b"def"]).run(app)
    assert (exchange.status, exchange.body) == (200, b"6 abcdef")
    assert guard.budget.free == guard.budget.total
    view = asyncio.run(read_body({}, Exchange(parts=[b"abc"]).receive, 3))
    assert view.readonly
    assert asyncio.run(read_body({}, Exchange(parts=[b""]).receive, 0)) == b""


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ([], Kind.LENGTH_REQUIRED),
        ([length(5), length(5)], Kind.LENGTH_REQUIRED),
        ([(b"transfer-encoding", b"chunked")], Kind.LENGTH_REQUIRED),
        ([length(5), (b"content-encoding", b"gzip")], Kind.UNSUPPORTED_ENCODING),
        ([length(51)], Kind.TOO_LARGE),
        ([(b"content-length", b"1" * 400)], Kind.TOO_LARGE),
        ([(b"content-length", b"+5")], Kind.BAD_REQUEST),
        ([(b"content-length", b"")], Kind.BAD_REQUEST),
        ([(b"content-length", "٣".encode())], Kind.BAD_REQUEST),
        ([length(5), HOST], Kind.BAD_REQUEST),
    ],
)
def test_what_is_refused_is_refused_before_the_body_is_read(headers, kind) -> None:
    app, guard = service()
    exchange = Exchange(*headers).run(app)
    assert exchange.kind is kind
    assert exchange.headers["content-type"] == MEDIA_TYPE
    assert exchange.reads <= 1  # the one that drains, and finds no body
    assert guard.budget.free == guard.budget.total


@pytest.mark.parametrize("parts", [[b"abc"], [b"abc", b"defg"], [b""]])
def test_a_body_of_another_length_is_refused(parts) -> None:
    app, guard = service()
    exchange = Exchange(length(6), parts=parts).run(app)
    assert exchange.kind is Kind.BAD_REQUEST
    assert guard.budget.free == guard.budget.total


def test_a_client_that_leaves_gets_no_answer_and_its_bytes_are_free_again() -> None:
    app, guard = service()
    assert Exchange(length(6), parts=[]).run(app).sent == []
    assert guard.budget.free == guard.budget.total


def test_an_unread_body_is_drained_within_bounds_and_the_connection_closes() -> None:
    app, _ = service()
    for parts, stall, reads in (([b"x" * 10] * 9, False, 4), ([b"x"] * 3, False, 3), ([], True, 1)):
        exchange = Exchange(length(90), parts=parts, stall=stall).run(app)
        assert exchange.kind is Kind.TOO_LARGE
        assert exchange.headers["connection"] == "close"
        assert exchange.reads == reads
        # The answer is complete on the wire before the first byte is drained.
        assert [message.get("more_body") for message in exchange.sent] == [None, True, False]


@pytest.mark.parametrize(
    ("method", "path", "kind", "kept"),
    [
        ("PUT", "/nothing", Kind.NOT_FOUND, {}),
        ("GET", "/upload", Kind.NOT_ALLOWED, {"allow": "PUT"}),
        ("PUT", "/fail", Kind.INTERNAL_ERROR, {}),
    ],
)
def test_every_error_is_a_problem_and_holds_no_state(method, path, kind, kept, caplog) -> None:
    app, _ = service()
    with caplog.at_level(logging.CRITICAL):
        exchange = Exchange(method=method, path=path).run(app)
    assert exchange.kind is kind
    assert json.loads(exchange.body)["status"] == exchange.status == kind.status
    assert b"secret" not in exchange.body
    assert kept.items() <= exchange.headers.items()


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        (b"agg.example.org", Kind.NOT_FOUND),
        (b"AGG.example.org:1", Kind.NOT_FOUND),
        (b"evil.example", Kind.WRONG_HOST),
        (b"agg.example.org.evil.example", Kind.WRONG_HOST),
        (b"", Kind.WRONG_HOST),
    ],
)
def test_only_the_names_of_the_service_are_answered(host, kind) -> None:
    app, _ = service()
    exchange = Exchange(path="/nothing")
    exchange.scope["headers"] = [(b"host", host)]
    assert exchange.run(app).kind is kind


def test_a_small_document_has_a_limit_of_its_own() -> None:
    app, _ = service()
    assert Exchange(length(5), path="/small", parts=[b"12345"]).run(app).body == b"12345"
    assert Exchange(length(6), path="/small", parts=[b"123456"]).run(app).kind is Kind.TOO_LARGE


def test_a_party_that_sends_too_often_waits_as_long_as_it_is_told() -> None:
    now = 0.0
    rate = PartyRate(10.0, 3, most=2, clock=lambda: now)
    for _ in range(3):
        rate.count("c1")
    for _ in range(2):  # a refusal costs nothing
        with pytest.raises(Problem) as refused:
            rate.count("c1")
        assert refused.value.kind is Kind.TOO_MANY_REQUESTS
        assert refused.value.retry_after == pytest.approx(0.1)
    rate.count("c2")
    now = 0.1
    rate.count("c1")
    rate.count("c3")
    assert list(rate._due) == ["c1", "c3"]
    app, _ = service()
    statuses = [Exchange(method="GET", path="/late").run(app).status for _ in range(25)]
    assert statuses[:20] == [200] * 20
    assert 429 in statuses


def test_an_upload_without_room_is_told_when_there_will_be_some() -> None:
    async def play() -> Problem:
        now = 0.0
        budget = ByteBudget(100, 0.01, clock=lambda: now)
        async with budget.hold(50):
            pass  # 50 bytes in 10 seconds on average: 5 a second
        async with budget.hold(90):
            with pytest.raises(Problem) as refused:
                async with budget.hold(20):
                    pass
        return refused.value

    refused = asyncio.run(play())
    assert refused.kind is Kind.OVERLOADED
    assert refused.retry_after == pytest.approx(4.0)


def test_a_small_upload_does_not_overtake_a_large_one() -> None:
    async def play() -> list[str]:
        budget, order = ByteBudget(100, 5.0), []

        async def upload(name: str, size: int) -> None:
            async with budget.hold(size):
                order.append(name)
                await asyncio.sleep(0)

        async with budget.hold(60):
            tasks = [asyncio.create_task(upload("large", 80)), asyncio.create_task(upload("small", 1))]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(play()) == ["large", "small"]


def test_an_upload_that_gives_up_lets_those_behind_it_go_on() -> None:
    async def play() -> None:
        budget = ByteBudget(100, 5.0)

        async def upload(size: int) -> None:
            async with budget.hold(size):
                pass

        async with budget.hold(60):
            large, small = asyncio.create_task(upload(80)), asyncio.create_task(upload(10))
            await asyncio.sleep(0)
            large.cancel()
            async with asyncio.timeout(1.0):
                await small
        assert large.cancelled()

    asyncio.run(play())


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), st.integers(0, 4)), max_size=25), st.booleans())
@settings(max_examples=40)
def test_the_budget_never_leaks_and_is_never_exceeded(uploads, impatient) -> None:
    """Uploads begin, wait, are cancelled while they wait or hold, and end in any order."""

    async def play() -> None:
        budget = ByteBudget(100, 0.0 if impatient else 5.0)
        held, refused = 0, set()

        async def upload(size: int, turns: int) -> None:
            nonlocal held
            try:
                async with budget.hold(size):
                    held += size
                    assert held <= 100
                    try:
                        for _ in range(turns):
                            await asyncio.sleep(0)
                    finally:
                        held -= size
            except Problem as problem:
                refused.add((problem.kind, size > 100))

        tasks = []
        for size, turns, cancelled in uploads:
            tasks.append(asyncio.create_task(upload(size, turns)))
            await asyncio.sleep(0)
            if cancelled and len(tasks) >= cancelled:
                tasks[-cancelled].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task for task in tasks if not task.cancelled() and task.exception()] == []
        assert refused <= {(Kind.TOO_LARGE, True), (Kind.OVERLOADED, False)}
        assert (budget.free, held, len(budget._waiting)) == (100, 0, 0)

    asyncio.run(play())

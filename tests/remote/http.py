"""A :class:`Double` behind real HTTP on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.remote.double import Double
from tests.service.serving import served

_SHORT = 0.05  # seconds that a poll waits here


def app(double: Double) -> Any:
    """An ASGI application that answers as ``double`` does; a poll without work waits a moment."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = scope["raw_path"].decode() + (
            f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        )
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        response = await asyncio.to_thread(double.answer, scope["method"], target, headers, body)
        if response.status == 204 and scope["method"] == "GET":
            await asyncio.sleep(_SHORT)
        raw = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": response.body})

    return answer


@contextmanager
def running(double: Double) -> Iterator[str]:
    """Serve ``double`` until the block ends; yields the URL."""
    with served(app(double)) as url:
        yield url

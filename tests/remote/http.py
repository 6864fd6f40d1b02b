"""A :class:`Double` behind real HTTP on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.remote.double import Double
from tests.service.serving import served

_SHORT, _TRIES = 0.02, 100  # seconds between two looks of a poll that waits, and how many it makes


def app(double: Double) -> Any:
    """An ASGI application that answers as ``double`` does; a poll without work waits for some."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        response = await asyncio.to_thread(double.answer, scope["method"], target, headers, body)
        for _ in range(_TRIES):
            if response.status != 204 or not scope["path"].endswith("/next") or "wait=0" in query:
                break
            await asyncio.sleep(_SHORT)
            response = await asyncio.to_thread(double.answer, scope["method"], target, headers, body, noted=True)
        raw = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": response.body})

    return answer


@contextmanager
def running(double: Double, **options: Any) -> Iterator[str]:
    """Serve ``double`` until the block ends; yields the URL. ``options`` are uvicorn's."""
    with served(app(double), **options) as url:
        yield url

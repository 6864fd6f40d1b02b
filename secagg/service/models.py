"""The models that clients download: files named by the SHA-256 of their bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from anyio import open_file
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from secagg.api import routes
from secagg.api.problems import Kind, Problem

_RANGE: Final = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?\Z", re.ASCII)
_CHUNK: Final = 1 << 18


async def send_model(path: Path, name: str, request: Request) -> Response:
    """The model ``name`` in the file ``path``, whole or from where ``Range`` says; ``Problem`` if there is none."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise Problem(Kind.UNKNOWN_MODEL) from error
    tag = f'"{name}"'
    headers = {"etag": tag, "accept-ranges": "bytes", "cache-control": "private, max-age=31536000, immutable"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    start, end, status = 0, size, 200
    asked = _RANGE.match(request.headers.get("range", ""))
    if asked is not None and request.headers.get("if-range", tag) == tag:
        start = int(asked[1])
        end = min(size, int(asked[2]) + 1) if asked[2] else size
        if not start < end:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
        status, headers["content-range"] = 206, f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    return StreamingResponse(_pieces(path, start, end), status, headers, routes.MODEL_TYPE)


async def _pieces(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    async with await open_file(path, "rb") as file:
        await file.seek(start)
        left = end - start
        while left and (piece := await file.read(min(_CHUNK, left))):
            left -= len(piece)
            yield piece

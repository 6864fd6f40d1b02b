"""HTTP/1.1 over one kept connection, as a load generator needs it: little work for each request."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from secagg.errors import SecAggError


@dataclass(frozen=True)
class Answer:
    """A response. The names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Line:
    """One connection to the service at ``url``, opened by the first request and kept until :meth:`close`."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._tls = parts.hostname or "", parts.port or 443, tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request and its answer. ``SecAggError`` for what is not an answer, ``OSError`` for no connection.

        The service closes connections that were idle for long; then the request is sent again, over a new one.
        """
        kept = self._streams is not None
        try:
            return await self._exchange(method, path, headers, body)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            await self.close()
            if kept:
                return await self.request(method, path, headers, body)
            raise SecAggError(f"the service closed the connection during {method} {path[:24]}…") from error

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        reader, writer = await self._open()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        if body:
            writer.write(body)
        answer = await self._read(reader)
        if answer.headers.get("connection", "").lower() == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        """Close the connection; the next request opens another one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with contextlib.suppress(OSError):  # the other side was faster
                await streams[1].wait_closed()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        return self._streams

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        parts = head[0].split(" ", 2)
        if len(parts) < 2 or not parts[1].isdecimal():
            raise SecAggError("the service answered with something other than HTTP")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        length = int(headers.get("content-length", "0"))
        return Answer(int(parts[1]), headers, await reader.readexactly(length) if length else b"")


def trusting(ca: Path) -> ssl.SSLContext:
    """TLS that trusts the certificates in ``ca`` alone."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["http/1.1"])
    return context

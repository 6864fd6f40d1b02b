"""One message on its way to the service: whole, or in parts that go on where a connection broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secagg.api.problems import Kind, Problem
from secagg.api.routes import (
    COMPLETE_HEADER,
    LARGEST_WHOLE,
    MESSAGE_TYPE,
    OFFSET_HEADER,
    PART_TYPE,
    ROUND_HEADER,
)
from secagg.errors import Refused
from secagg.remote.requests import Call, Response
from secagg.wire import Envelope

_MOST_REFUSALS = 64


class Upload:
    """A message that is sent until the service has it, always as the same bytes at the same address.

    ``taken(again)`` is called when the service has the message; ``again`` is True if it will ask for the message
    once more. ``over(problem)`` is called when the service no longer wants it.
    """

    def __init__(
        self,
        session: str,
        number: int,
        data: bytes,
        taken: Callable[[bool], None],
        over: Callable[[Problem], None],
    ) -> None:
        self.session, self.number, self.data = session, number, data
        self.digest = Envelope.parse(data, len(data)).digest.hex()
        self._taken, self._over = taken, over
        self._offset: int | None = None  # bytes of a large message that the service has; None: ask it
        self._refusals = 0  # of parts, for their offset
        self.done = False

    def call(self, path: Mapping[str, str]) -> Call:
        """The next request for this message."""
        at = {**path, "session": self.session, "digest": self.digest}
        headers = {ROUND_HEADER.lower(): str(self.number)}
        if len(self.data) <= LARGEST_WHOLE:
            headers["content-type"] = MESSAGE_TYPE
            return Call("upload", at, self._answered, self._refused, headers=headers, body=self.data)
        if self._offset is None:
            return Call("offset", at, self._resume, self._restart, headers=headers, explained=False)
        part = memoryview(self.data)[self._offset : self._offset + LARGEST_WHOLE]
        last = self._offset + len(part) == len(self.data)
        headers |= {
            "content-type": PART_TYPE,
            OFFSET_HEADER.lower(): str(self._offset),
            COMPLETE_HEADER.lower(): "?1" if last else "?0",
        }
        after = self._answered if last else self._next_part
        return Call("part", at, after, self._refused, headers=headers, body=part, lost=self._forget_offset)

    def _answered(self, response: Response, now: float) -> None:
        self.done = True
        self._taken(response.status == 202)

    def _refused(self, problem: Problem) -> None:
        if problem.kind is Kind.UPLOAD_OFFSET:
            self._refusals += 1
            if self._refusals > _MOST_REFUSALS:
                raise Refused(
                    f"the service asked {self._refusals} times for another part of a message than was sent"
                )
            self._offset = None
            return
        self.done = True
        self._over(problem)

    def _next_part(self, response: Response, now: float) -> None:
        assert self._offset is not None
        self._offset += LARGEST_WHOLE

    def _resume(self, response: Response, now: float) -> None:
        if response.headers.get(COMPLETE_HEADER.lower()) == "?1":
            self._answered(response, now)
            return
        text = response.headers.get(OFFSET_HEADER.lower(), "0")
        if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > len(self.data):
            raise Refused(f"got offset {text!r:.30} of a message of {len(self.data)} bytes")
        self._offset = int(text)

    def _restart(self, problem: Problem) -> None:
        self._offset = 0  # the service has nothing of it, or the answer to the first part says what is wrong

    def _forget_offset(self) -> None:
        self._offset = None

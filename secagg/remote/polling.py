"""The one poll by which a party learns what to do now."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from secagg.api.documents import Framed, from_frames
from secagg.api.routes import (
    CURSOR_HEADER,
    DEADLINE_HEADER,
    LARGEST_BATCH,
    LARGEST_BATCH_BYTES,
    MESSAGES_TYPE,
    OFFER_TYPE,
    SESSION_HEADER,
)
from secagg.errors import ConfigError, LocalProtocolError, Refused
from secagg.remote.line import Line
from secagg.remote.requests import Call, Response, Sleep, check_cursor, cursor_query, seconds_of
from secagg.roles.member import Member

log = logging.getLogger("secagg")
AnyRole = TypeVar("AnyRole", bound=Member[Any])

_QUIET = 1.0  # seconds between two polls that the service answers at once, with nothing to do
_RARELY = 60.0  # seconds between two polls with wait=0
_LONGEST_PAUSE = 3600.0
_BURST, _RATE = 50.0, 2.0  # polls at once, and a second after that, whatever comes back


class Polling(Line):
    """Polls, reads the answers, and keeps the cursor: it is sent back when all messages at hand were answered.

    The cursor is not kept on the disk. A party that restarts begins without one and gets messages again, to which
    its roles repeat their answers.
    """

    idle = False  # nothing was to do at the last poll
    deadline: float | None = None  # of the open round in the last answer with messages, in seconds from then
    _cursor = ""
    _after = ""
    _asked_at = 0.0
    _polls = _BURST  # that may be sent now

    @abstractmethod
    def offered(self, response: Response, now: float) -> None:
        """Take an offer."""

    @abstractmethod
    def take_messages(self, key: str, frames: list[Framed], now: float) -> bool:
        """Take ``frames``, messages of the session at the address ``key``; False if that session is over."""

    def poll(self, now: float, *, live: bool) -> Call | Sleep | None:
        """The next poll; None with ``once`` if nothing was to do and no session is ``live``."""
        if self.idle and self.settings.once and not live:
            return None
        self._polls = min(_BURST, self._polls + _RATE * max(0.0, now - self._asked_at))
        if self._polls < 1:
            self._asked_at = now
            return Sleep((1 - self._polls) / _RATE)
        self._polls -= 1
        self._cursor, self._asked_at = self._after or self._cursor, now
        most = LARGEST_BATCH_BYTES + 16 * LARGEST_BATCH
        if self.task is not None:
            most += self.task.largest_message(self.kit.role)
        wait = 0.0 if self.settings.once and not live else self.settings.wait
        query = cursor_query(self._cursor, wait)
        return Call("next", self.path(), self._polled, query=query, most=most, seconds=60.0 + wait)

    def restored(
        self, key: str, make: Callable[[], AnyRole], anew: Callable[..., object], name: bytes
    ) -> AnyRole | None:
        """The role that ``make`` returns; None if its saved state can't be used, and the session is left out.

        ``key`` is the service's name for the session, and ``name`` the session's own. A state that is damaged, or
        of a roster that was replaced since, must not keep this party from all later sessions. If a role made
        ``anew`` is refused too, the settings are wrong, and the error is raised.
        """
        try:
            return make()
        except (ConfigError, LocalProtocolError) as error:
            anew(self.party, session=name, **self.lent())
            log.warning("session %s is left out, because its state can't be used: %s", key[:12], error)
            self.state.note_over(key)
            return None

    def rewind(self, now: float) -> None:
        """Ask for the messages at hand once more: they were not answered."""
        self._after = ""
        self.wait_a_little(None, now)

    def _polled(self, response: Response, now: float) -> None:
        self.idle = response.status == 204
        if self.idle:
            self.wait_a_little(seconds_of(response.headers, "retry-after"), now)
            return
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == OFFER_TYPE:
            self.offered(response, now)
            return
        if kind != MESSAGES_TYPE:
            raise Refused(f"got an answer of type {kind!r:.60} to a poll; expected an offer or messages")
        after = check_cursor(response.headers.get(CURSOR_HEADER.lower(), ""))
        try:
            frames = list(from_frames(response.body, LARGEST_BATCH))
        except ConfigError as error:
            raise Refused(str(error)) from error
        if not frames:
            raise Refused(f"got 0 messages at once; expected 1 to {LARGEST_BATCH}")
        self.deadline = seconds_of(response.headers, DEADLINE_HEADER)
        known = self.take_messages(response.headers.get(SESSION_HEADER.lower(), ""), frames, now)
        if not known or not after or after == self._cursor:  # the service has nothing new, and answers at once
            self.wait_a_little(None, now)
        self._after = after

    def wait_a_little(self, asked: float | None, now: float) -> None:
        """After an answer without work, don't ask again at once, whatever the service says.

        ``asked`` are the seconds to wait that the service asked for, if it did.
        """
        rarely = _RARELY if self.settings.wait == 0 and not self.settings.once else 0.0
        least = _QUIET if now - self._asked_at < _QUIET else 0.0
        seconds = max(least, rarely if asked is None else min(asked, _LONGEST_PAUSE))
        if seconds:
            self.pause(seconds, now)

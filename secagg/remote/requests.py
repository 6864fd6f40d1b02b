"""What the core hands to a driver and gets back, what each answer means, and when to try again.

This table and :mod:`secagg.api.routes` are all that a client in another language needs besides the roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

from secagg.api.problems import MOST_BYTES, Kind, Problem
from secagg.api.routes import BY_NAME, LARGEST_DOCUMENT
from secagg.errors import Refused

#: Seconds in which a small answer must have come.
LONGEST_REQUEST: Final = 120.0
#: Bytes a second of a large answer or upload, on average.
SLOWEST: Final = 16_384
#: Seconds before the second attempt, doubled with each failure in a row.
FIRST_DELAY: Final = 0.5
#: The most seconds between two attempts.
LONGEST_DELAY: Final = 30.0
_MOST_SKEW: Final = 86_400.0  # seconds by which a server's clock may correct this one
_MOST_DAMAGED: Final = 5  # times that a message is sent again because the service says that it came damaged
_LONGEST_CURSOR: Final = 256


class Meaning(Enum):
    """What an answer other than success means for the request."""

    AGAIN = "send the same request again, later"
    RESUME = "ask how much of the message is there, and go on from that point"
    OVER = "the session is over for this party"
    ENDED = "the run is over"
    REFUSED = "nothing helps; give up"


#: All other kinds are ``AGAIN`` if the table of problems says so, else ``REFUSED``.
MEANINGS: Final = {
    Kind.DIGEST_MISMATCH: Meaning.AGAIN,
    Kind.UPLOAD_OFFSET: Meaning.RESUME,
    Kind.ROUND_CLOSED: Meaning.OVER,
    Kind.SESSION_OVER: Meaning.OVER,
    Kind.OFFER_CLOSED: Meaning.OVER,
    Kind.UNKNOWN_SESSION: Meaning.OVER,
    Kind.UNKNOWN_MODEL: Meaning.OVER,
    Kind.TASK_OVER: Meaning.ENDED,
}


def meaning(problem: Problem) -> Meaning:
    """What ``problem`` means for the request that got it."""
    return MEANINGS.get(problem.kind, Meaning.AGAIN if problem.kind.again else Meaning.REFUSED)


@dataclass(frozen=True)
class Request:
    """What a driver sends: ``target`` is a path with its query, or a whole URL where another server has a model.

    ``method`` is that of HTTP, with these ``headers`` and this ``body``. A driver follows no redirect, decompresses
    nothing, reads at most ``most`` bytes of the answer, and takes at most ``seconds`` for all of it. It calls
    :meth:`check_head` before it reads the body. With ``sink`` it passes each piece of the body of a 2xx there, and
    returns an empty body; ``begin`` is called with the status before the first piece.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    most: int = LARGEST_DOCUMENT
    seconds: float = LONGEST_REQUEST
    sink: Callable[[bytes], None] | None = None
    begin: Callable[[int], None] | None = None  # gets the status before the first piece

    def check_head(self, status: int, headers: Mapping[str, str]) -> int:
        """The most bytes of the body that may be read, after the head of the answer has come.

        ``status`` and ``headers`` are those of the answer. ``Refused`` for a body that may not be read at all.
        """
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Refused("got a compressed answer, which was not asked for; nothing of it was read")
        if status >= 300:
            return MOST_BYTES
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > self.most:
            raise Refused(f"got an answer of {length:.20} bytes; expected at most {self.most}")
        if self.begin is not None:
            self.begin(status)
        return self.most


@dataclass(frozen=True)
class Response:
    """What came back: the ``status``, the ``headers`` with lower-case names, and the ``body``."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Sleep:
    """Nothing to send for ``seconds``, or until the caller has answered an offer or contributed."""

    seconds: float


@dataclass
class Call:
    """A request of one route and what becomes of its answer.

    ``route`` is the name of the route; ``path`` has the values of its path, and ``query`` follows the path.
    ``taken`` is called with a response of 200 to 299, and ``over`` with the problem that says that the session is
    over. ``headers``, ``body``, ``most`` and ``seconds`` are those of the :class:`Request`.
    """

    route: str
    path: Mapping[str, str]
    taken: Callable[[Response, float], None]
    over: Callable[[Problem], None] | None = None
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    most: int = LARGEST_DOCUMENT
    seconds: float = LONGEST_REQUEST
    #: The most attempts; 0 for any number.
    most_tries: int = 0
    #: Whether 304 is an answer.
    unchanged: bool = False
    #: Whether a problem comes with its kind; an answer to HEAD has no body.
    explained: bool = True
    #: Called if the connection failed, or the service wants the request later.
    lost: Callable[[], None] | None = None

    def request(self, authorization: Mapping[str, str]) -> Request:
        """The request; it is the same each time, apart from the token in the header ``authorization``."""
        row = BY_NAME[self.route]
        slow = max(len(self.body), self.most) / SLOWEST
        return Request(
            row.method,
            row.url(**self.path) + self.query,
            {"accept-encoding": "identity", **authorization, **self.headers},
            self.body,
            self.most,
            self.seconds + slow,
        )


class Backoff:
    """When to try again: full jitter, up to :data:`LONGEST_DELAY`, or what the server asks for.

    ``random`` returns a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random, self.failures, self._damaged = random, 0, 0

    def clear(self) -> None:
        """A request went through."""
        self.failures = self._damaged = 0

    def delay(self, asked: float | None = None) -> float:
        """Seconds until the next attempt, after one more failure. ``asked`` is the server's Retry-After."""
        self.failures += 1
        ceiling = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self.failures, 16))
        delay = FIRST_DELAY + (ceiling - FIRST_DELAY) * self._random()
        return delay if asked is None else asked + FIRST_DELAY * self._random()

    def damaged(self) -> bool:
        """Whether a message that came damaged may be sent once more."""
        self._damaged += 1
        return self._damaged < _MOST_DAMAGED


class SkewedClock:
    """This machine's clock, corrected by the server's: a token is valid for minutes only.

    It is corrected once, and again only after the service took a token: a machine that slept is late each time.
    """

    def __init__(self) -> None:
        self.offset, self._corrected = 0.0, False

    def now(self, now: float) -> float:
        """Seconds since 1970, as the server counts them, when it is ``now`` on this machine."""
        return now + self.offset

    def correct(self, date: str | None, now: float) -> bool:
        """Take the time from ``date``, a ``Date`` header; False if that was just done, or the date is wild.

        ``now`` is this machine's time, in seconds since 1970.
        """
        if self._corrected or not date:
            return False
        try:
            offset = parsedate_to_datetime(date[:64]).timestamp() - now
        except (ValueError, TypeError, OverflowError, OSError):
            return False
        if abs(offset) > _MOST_SKEW:
            return False
        self.offset, self._corrected = offset, True
        return True

    def worked(self) -> None:
        """The service took a token by this clock."""
        self._corrected = False


def cursor_query(cursor: str, wait: float) -> str:
    """The query of a poll: for messages after ``cursor``, with up to ``wait`` seconds for the server to wait."""
    after = f"after={cursor}&" if cursor else ""
    return f"?{after}wait={wait:g}"


def check_cursor(cursor: str) -> str:
    """``cursor`` if it can be sent back as it is; ``Refused`` otherwise."""
    if len(cursor) > _LONGEST_CURSOR or not all(
        one.isascii() and (one.isalnum() or one in "-_.~") for one in cursor
    ):
        raise Refused("got a cursor that can't stand in a URL; expected letters, digits and - _ . ~")
    return cursor


def seconds_of(headers: Mapping[str, str], name: str) -> float | None:
    """The number of seconds in the header ``name`` of ``headers``.

    It is None if the header is absent or not a number from 0 to a month.
    """
    text = headers.get(name.lower(), "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 31 * 86_400 else None

"""Everything that the service can refuse, in one table.

Each :class:`Kind` is one row. The server raises a :class:`Problem`, sends it as ``application/problem+json``
(RFC 9457), and the client parses the response into a :class:`Problem` again. The documentation prints the same
table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from secagg.errors import FaultKind, SecAggError

#: The media type of a problem.
MEDIA_TYPE = "application/problem+json"
#: The start of every type of problem.
LABEL = "urn:secagg:problem:"
#: The most bytes of a body that a client parses.
MOST_BYTES = 4096
#: The most seconds that a client waits because a server asks it to.
MOST_SECONDS = 24 * 3600
_MOST_DETAIL = 200  # characters
_SECONDS = re.compile(r"[0-9]{1,9}\Z", re.ASCII)


@dataclass(frozen=True)
class Row:
    """What is fixed about one kind of problem.

    ``status`` is the HTTP status of the response, and ``title`` the kind in a few words. ``again`` says whether the
    same request may be sent again, after ``Retry-After`` where the response has one. ``about`` is the sentence for
    the documentation.
    """

    status: int
    title: str
    about: str
    again: bool = False


class Kind(Enum):
    """The kinds of problems. Their names are stable: clients decide by them, operators alert on them."""

    BAD_REQUEST = Row(400, "The request is not valid HTTP for this service", "Correct the request.")
    DIGEST_MISMATCH = Row(
        400, "The body does not have the digest that the request names", "Send the body again.", again=True
    )
    UNAUTHORIZED = Row(
        401, "The token is missing, expired or not valid", "Sign a fresh token. Check the clock and the key."
    )
    FORBIDDEN = Row(403, "The token does not allow this", "A party may only act under its own id and role.")
    NOT_ASKED = Row(
        403, "No message of this party is expected", "Only the parties that a round asks may answer it."
    )
    NOT_FOUND = Row(404, "There is nothing at this address", "Check the URL.")
    UNKNOWN_TASK = Row(404, "The service has no such task", "Check the kit: its task is of another service.")
    UNKNOWN_SESSION = Row(404, "The service has no such session", "Poll for what to do next.")
    UNKNOWN_MODEL = Row(404, "The service has no such model", "Poll for what to do next.")
    NOT_ALLOWED = Row(405, "The address does not support this method", "See the table of routes.")
    TOO_SLOW = Row(
        408, "The request arrived too slowly", "Send at least the rate that the limits name.", again=True
    )
    CONFLICTING_MESSAGE = Row(
        409,
        "Another message of this party was accepted in this round",
        "The first message counts. Two processes may share one identity.",
    )
    UPLOAD_OFFSET = Row(
        409, "The upload continues at another offset", "Ask for the offset, and continue from there."
    )
    OFFER_CLOSED = Row(409, "The offer can no longer be answered", "Poll for the next offer.")
    ROUND_CLOSED = Row(410, "The round is over", "Poll for what to do next.")
    SESSION_OVER = Row(410, "The session is over", "Poll for what to do next.")
    TASK_OVER = Row(410, "The task is over", "Nothing is left to do.")
    LENGTH_REQUIRED = Row(411, "The body needs a Content-Length", "Send no Transfer-Encoding.")
    TOO_LARGE = Row(413, "The body is longer than any honest one", "Check that both sides have the same task.")
    UNSUPPORTED_ENCODING = Row(415, "The body must not be compressed", "Send no Content-Encoding.")
    WRONG_HOST = Row(421, "The service does not answer to this host name", "Use the URL of the kit.")
    MALFORMED_MESSAGE = Row(
        422, "The protocol refused the message", "The field fault says why, in one word of FaultKind."
    )
    TOO_MANY_REQUESTS = Row(429, "The party sends requests too often", "Wait for Retry-After.", again=True)
    HEADERS_TOO_LARGE = Row(431, "The request's headers are too large", "Send fewer or shorter headers.")
    INTERNAL_ERROR = Row(
        500, "The service failed", "Try again; the operator finds the cause in the log.", again=True
    )
    NOT_IMPLEMENTED = Row(501, "The service does not know this method", "See the table of routes.")
    OVERLOADED = Row(503, "The service has too much to do", "Wait for Retry-After.", again=True)
    STORAGE_FULL = Row(503, "The service can't store the message", "Wait for Retry-After.", again=True)
    NOT_READY = Row(503, "The service is starting or stopping", "Wait for Retry-After.", again=True)

    @property
    def word(self) -> str:
        """The name in URIs and documents, such as ``round-closed``."""
        return self.name.lower().replace("_", "-")

    @property
    def type(self) -> str:
        """The URI that RFC 9457 calls the problem's type. It is a name, not an address."""
        return LABEL + self.word

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value.status

    @property
    def title(self) -> str:
        """What happened, without anything of this occurrence."""
        return self.value.title

    @property
    def again(self) -> bool:
        """Whether the same request may be sent again."""
        return self.value.again


_BY_TYPE = {kind.type: kind for kind in Kind}
#: What a status means whose body is not ours, such as the page of a proxy.
_BY_STATUS = {
    401: Kind.UNAUTHORIZED,
    403: Kind.FORBIDDEN,
    404: Kind.NOT_FOUND,
    405: Kind.NOT_ALLOWED,
    408: Kind.TOO_SLOW,
    411: Kind.LENGTH_REQUIRED,
    413: Kind.TOO_LARGE,
    415: Kind.UNSUPPORTED_ENCODING,
    421: Kind.WRONG_HOST,
    429: Kind.TOO_MANY_REQUESTS,
    431: Kind.HEADERS_TOO_LARGE,
    501: Kind.NOT_IMPLEMENTED,
    502: Kind.OVERLOADED,
    503: Kind.OVERLOADED,
    504: Kind.OVERLOADED,
}


class _Document(msgspec.Struct, omit_defaults=True):
    """The JSON of RFC 9457, with ``fault`` as our one extension."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    fault: str = ""


class Problem(SecAggError):  # noqa: N818 - RFC 9457's word
    """A request that was refused: raised by the server's handlers, and again by the client that reads the response.

    ``detail`` is about the request alone. It never holds state of the server. ``fault`` is only in a
    :attr:`Kind.MALFORMED_MESSAGE`. ``retry_after`` is in seconds. ``status`` is that of the response; it differs
    from the kind's only if a proxy answered.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        fault: FaultKind | None = None,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail[:_MOST_DETAIL]
        self.fault = fault
        self.retry_after = retry_after
        self.status = kind.status if status is None else status

    def __str__(self) -> str:
        reasons = [text for text in (self.fault and self.fault.value, self.detail) if text]
        return f"{self.kind.title} ({self.status} {self.kind.word})" + "".join(f": {text}" for text in reasons)

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.kind, self.detail, self.fault, self.retry_after, self.status)

    @property
    def again(self) -> bool:
        """Whether the same request may be sent again."""
        return self.kind.again

    def body(self) -> bytes:
        """The response's body."""
        return msgspec.json.encode(
            _Document(
                type=self.kind.type,
                title=self.kind.title,
                status=self.status,
                detail=self.detail,
                fault=self.fault.value if self.fault else "",
            )
        )

    def headers(self) -> dict[str, str]:
        """The response's headers, all but the length: lower-case names."""
        headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(min(self.retry_after, MOST_SECONDS))))
        if self.kind is Kind.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"  # RFC 9110, section 11.6.1, requires one
        return headers

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """The problem that a response of ``status`` >= 400 tells a client. Never raises, whatever the bytes are.

        A ``body`` that is too long, not ours, or of a kind with another status counts for nothing: then the status
        alone decides. ``headers`` have lower-case names or ignore the case.
        """
        document = _parse(body) if len(body) <= MOST_BYTES else _Document()
        kind = _BY_TYPE.get(document.type)
        ours = kind is not None and kind.status == status == document.status
        if kind is None or not ours:
            kind = _BY_STATUS.get(status, Kind.INTERNAL_ERROR if status >= 500 else Kind.BAD_REQUEST)
        known = ours and kind is Kind.MALFORMED_MESSAGE and document.fault in set(FaultKind)
        seconds = headers.get("retry-after", "").strip()
        return cls(
            kind,
            _printable(document.detail) if ours else "",
            fault=FaultKind(document.fault) if known else None,
            retry_after=min(int(seconds), MOST_SECONDS) if _SECONDS.match(seconds) else None,
            status=status,
        )


def _again(
    kind: Kind, detail: str, fault: FaultKind | None, retry_after: float | None, status: int
) -> Problem:  # for pickle, which calls without keywords
    return Problem(kind, detail, fault=fault, retry_after=retry_after, status=status)


def _parse(body: bytes) -> _Document:
    try:
        return msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _Document()


def _printable(text: str) -> str:
    """``text`` for a log or a terminal: a server may be hostile."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_DETAIL])


def table() -> str:
    """The table of problems for the documentation, in Markdown."""
    rows = [
        f"| `{kind.word}` | {kind.status} | {kind.title}. | {'yes' if kind.again else 'no'} | {kind.value.about} |"
        for kind in Kind
    ]
    heads = ["| Problem | Status | What happened | Same request again | What to do |", "|---|---|---|---|---|"]
    return "\n".join([*heads, *rows]) + "\n"

"""The routes of the service: one table from which handlers, client and documentation are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFIX: Final = "/v1"

TASK_TYPE: Final = "application/vnd.secagg.task"
OFFER_TYPE: Final = "application/vnd.secagg.offer+json"
MESSAGE_TYPE: Final = "application/vnd.secagg.message"
MESSAGES_TYPE: Final = "application/vnd.secagg.messages"
MODEL_TYPE: Final = "application/vnd.secagg.model"
JSON_TYPE: Final = "application/json"
PART_TYPE: Final = "application/partial-upload"

SESSION_HEADER: Final = "Secagg-Session"  # hex: the session of the messages in an answer
CURSOR_HEADER: Final = "Secagg-Cursor"  # opaque: what to send as ``after`` when all of an answer has been handled
DEADLINE_HEADER: Final = "Secagg-Deadline"  # seconds until the open round ends
ROUND_HEADER: Final = "Secagg-Round"  # of an upload: the number that came with the message that it answers
OFFSET_HEADER: Final = "Upload-Offset"  # draft-ietf-httpbis-resumable-upload
COMPLETE_HEADER: Final = "Upload-Complete"

LONGEST_WAIT: Final = 25.0  # seconds of a long poll; proxies close a connection that is silent for a minute
LARGEST_BATCH: Final = 64  # messages in one answer to a poll
LARGEST_BATCH_BYTES: Final = 16 << 20  # above which no further message is added to an answer
LARGEST_WHOLE: Final = 8 << 20  # bytes above which an upload goes in parts, each of at most as many
LARGEST_DOCUMENT: Final = 1 << 16  # bytes of a JSON document
LARGEST_ROSTER: Final = 1 << 26


@dataclass(frozen=True)
class Route:
    """One row: ``name``, ``method``, ``path`` below :data:`PREFIX`, who may call it, and what it does.

    ``{task}``, ``{session}``, ``{digest}`` and ``{sha256}`` are 64 lower-case hexadecimal digits; ``{party}`` is a
    party id.
    """

    name: str
    method: str
    path: str
    who: str
    does: str

    def url(self, **values: str) -> str:
        """The path with its parameters filled in: hexadecimal digits and party ids, which need no quoting."""
        return PREFIX + self.path.format(**values)


_PARTY = "/tasks/{task}/parties/{party}"
_MESSAGE = _PARTY + "/sessions/{session}/messages/{digest}"

ROUTES: Final = (
    Route("tasks", "GET", "/tasks", "anyone", "The digests of the tasks that run here, as JSON."),
    Route(
        "task",
        "GET",
        "/tasks/{task}",
        "an enrolled party",
        "The bytes of a task. A party compares their digest with the one that it pinned.",
    ),
    Route(
        "roster",
        "GET",
        "/tasks/{task}/roster",
        "an enrolled party",
        "The roster and the registrar's signature, as JSON. The registrar's key is not on the server.",
    ),
    Route(
        "join",
        "POST",
        "/tasks/{task}/join",
        "anyone, if the task's auth is open",
        "An id and a token for a new client, as JSON.",
    ),
    Route(
        "next",
        "GET",
        _PARTY + "/next",
        "the party",
        "What the party has to do now: an offer, or the next messages of a session. `wait` is how many seconds the "
        "answer may take. `after` is the cursor of what was handled. 204 if there is nothing.",
    ),
    Route(
        "accept",
        "PUT",
        _PARTY + "/offers/{session}",
        "the client",
        "Whether the client takes part, as JSON. The same answer again changes nothing.",
    ),
    Route(
        "upload",
        "PUT",
        _MESSAGE,
        "the party",
        "The party's message, by the digest that it signs. 200 means that it is on the disk and in the session. "
        "The same message again gets 200 again.",
    ),
    Route(
        "accepted",
        "GET",
        _MESSAGE,
        "the party",
        "Whether a message was taken, as JSON; 404 if it was not.",
    ),
    Route(
        "offset",
        "HEAD",
        _MESSAGE,
        "the party",
        "How many bytes of a large message are here, in `Upload-Offset`.",
    ),
    Route(
        "part",
        "PATCH",
        _MESSAGE,
        "the party",
        "The next part of a large message, at `Upload-Offset`. `Upload-Complete: ?1` marks the last one.",
    ),
    Route(
        "result",
        "GET",
        _PARTY + "/sessions/{session}",
        "the party",
        "What became of a session, as JSON. A client believes none of it.",
    ),
    Route(
        "model",
        "GET",
        "/tasks/{task}/models/{sha256}",
        "an enrolled party",
        "The bytes of a model, whole or by `Range`. The client checks the digest, so a mirror needs no trust.",
    ),
)

BY_NAME: Final = {route.name: route for route in ROUTES}


def reference() -> str:
    """The table of the routes in Markdown, for the documentation."""
    lines = ["| route | who | what it does |", "|---|---|---|"]
    lines += [f"| `{one.method} {PREFIX}{one.path}` | {one.who} | {one.does} |" for one in ROUTES]
    return "\n".join(lines) + "\n"

"""The operators' listener over a played session: as it is, with hostile texts, and with a defence removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secagg.service.operator import operator_app
from secagg.service.status import PrivacyStatus, Status
from tests.service.played import Played
from tests.service.serving import served

ATTACK = "<img src=x onerror=alert(1)>"
PERIOD = 0.1
#: Fields with a fixed set of values, and times: a document with other values there is not a document.
TYPED = {"at", "started", "ended", "seen", "expires", "state", "result", "auth", "purpose"}


@contextmanager
def listening(source: Played, **defences: bool) -> Iterator[str]:
    """The operators' listener over ``source``, weakened by ``defences``; at the end its event streams end too."""
    app = operator_app(source, period=PERIOD)
    with served(Weakened(app, **defences) if defences else app) as url:
        try:
            yield url
        finally:
            source.is_stopping = True


def poisoned(status: Status, text: str = ATTACK) -> Status:
    """Every text of the document that has no fixed set of values is ``text``, by default the attack."""

    def poison(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(key, part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [poison(name, part) for part in value]
        return text if isinstance(value, str) and name not in TYPED | {"digest", "task"} else value

    privacy = PrivacyStatus(delta=1e-6, guaranteed=0.9, realised=0.8, spent=3.2, releases=12)
    about = msgspec.structs.replace(status.tasks[0], privacy=privacy, warnings=("",))
    plain = msgspec.to_builtins(msgspec.structs.replace(status, tasks=(about,)))
    return msgspec.convert(poison("", plain), Status)


def hostile(text: str = ATTACK) -> Played:
    """A session with faults and a past, in which all texts are ``text``; the task's own context is the attack."""
    source = Played(context=ATTACK.encode())
    while source.server.outcome is None:
        source.step()
    source.step()
    source.misbehave("c2", b"no envelope")
    source.change = partial(poisoned, text=text)
    return source


class Weakened:
    """The page without one of its two defences, or without both: a control."""

    def __init__(self, app: ASGIApp, *, text: bool, policy: bool) -> None:
        self._app, self._text, self._policy = app, text, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                del headers["content-length"]
                if not self._policy:
                    del headers["content-security-policy"]
            elif not self._text and scope["path"] == "/status.js":
                body = message["body"]
                for line, markup in (
                    (b"node.textContent = value", b"node.innerHTML = value"),
                    (
                        b"node.append(child)",
                        b"typeof child === 'string' ? node.innerHTML += child : node.append(child)",
                    ),
                ):
                    assert not body or line in body
                    body = body.replace(line, markup)
                message = {**message, "body": body}
            await send(message)

        await self._app(scope, receive, weakened)

"""The download of a model: in pieces if need be, by its hash, from the service or from where it points."""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

from secagg import _canonical
from secagg.api.documents import Offer
from secagg.api.problems import Kind, Problem
from secagg.api.routes import MODEL_TYPE
from secagg.errors import Refused
from secagg.remote.line import Exchange, Line
from secagg.remote.requests import Call, Request, Response, Sleep
from secagg.remote.settings import Progress
from secagg.remote.state import hash_file
from secagg.task import Task

_HEAD = 1 << 16  # bytes of a model besides its values, at least
_MOST_REDIRECTS = 3
_LONGEST_URL = 2048


def most_model_bytes(task: Task) -> int:
    """The most bytes that a model of the task's layout can have, at 8 bytes for each coordinate."""
    return _HEAD + 2 * len(_canonical.encode(task.layout)) + 8 * task.layout.size


class Download(Exchange):
    """Fetches the model of one offer into the party's folder. What came before a connection broke is kept.

    The digest is checked, so it doesn't matter who serves the bytes: a redirect to ``https`` is followed, without
    the token. After ``until``, no failure is tried again. ``Refused`` if the bytes are not the model, or more than
    the offer says.
    """

    def __init__(self, line: Line, offer: Offer, most: int, until: float) -> None:
        super().__init__(line.caller, line.settings)
        if not 0 < offer.model_bytes <= most:
            raise Refused(
                f"got an offer of a model of {offer.model_bytes:,} bytes; expected at most {most:,}: if it is "
                "right, connect with most_model_bytes="
            )
        self._path, self._offer, self._state, self._until = line.path(), offer, line.state, until
        self._progress = line.settings.progress
        self._file = self._state.open_part(offer.model)
        self._elsewhere, self._redirects = "", 0
        self.over: Problem | None = None
        if self._size() > offer.model_bytes:
            self._file.truncate(0)
        self._resumed = self._size() > 0  # some bytes are from before, when the machine may have lost power

    def close(self) -> None:
        """Close the file; the part stays for the next attempt."""
        self._file.close()

    def choose(self, now: float) -> Call | Sleep | None:
        """See :meth:`Exchange.choose`."""
        if self.over is not None or self._state.model_path(self._offer.model).exists():
            return None
        have, size = self._size(), self._offer.model_bytes
        if have == size:
            if self._check():
                return None
            have = 0
        headers = {"accept": MODEL_TYPE} | ({"range": f"bytes={have}-"} if have else {})
        path = {"task": self._path["task"], "sha256": self._offer.model}
        return Call("model", path, self._piece, self._gone, headers=headers, most=size, lost=_nothing)

    def next(self, now: float) -> Request | Sleep | None:
        """See :meth:`Exchange.next`."""
        request = super().next(now)
        if not isinstance(request, Request):
            return request
        headers, target = dict(request.headers), request.target
        if self._elsewhere:
            target = self._elsewhere
            headers.pop("authorization", None)  # the token is for the service alone
        return replace(request, target=target, headers=headers, sink=self._sink, begin=self._begin)

    def got(self, response: Response, now: float) -> None:
        """See :meth:`Exchange.got`. If another server refuses, the service is asked again."""
        if self._elsewhere and response.status >= 400:
            self.lost(f"the address that the service named answered {response.status}", now)
            return
        super().got(response, now)

    def lost(self, reason: str, now: float) -> None:
        """See :meth:`Exchange.lost`."""
        self._elsewhere, self._redirects = "", 0
        super().lost(reason, now)

    def failed(self, now: float, reason: str) -> bool:
        """See :meth:`Exchange.failed`: give up long after the offer's time, when the model is of no use."""
        if now <= self._until:
            return super().failed(now, reason)
        self.over = Problem(Kind.OFFER_CLOSED, reason)
        return True

    def moved(self, response: Response, now: float) -> None:
        """Follow a redirect, to https only."""
        target = response.headers.get("location", "")
        self._redirects += 1
        if not _is_secure(target) or self._redirects > _MOST_REDIRECTS:
            raise Refused(f"got a redirect of the model to {target!r:.80}; expected an address with https")
        self._elsewhere = target

    def run_over(self, problem: Problem) -> None:
        """See :meth:`Exchange.run_over`."""
        self.over = problem

    def _begin(self, status: int) -> None:
        if status == 200:  # the whole model, from its first byte
            self._file.truncate(0)

    def _sink(self, piece: bytes) -> None:
        if self._size() + len(piece) > self._offer.model_bytes:
            raise Refused(f"got more bytes of a model than the offer says, which are {self._offer.model_bytes:,}")
        self._file.write(piece)
        if callable(self._progress):
            self._progress(Progress("model", self._size(), self._offer.model_bytes))

    def _piece(self, response: Response, now: float) -> None:
        if response.body:  # of a driver that keeps no stream
            self._begin(response.status)
            self._sink(response.body)

    def _gone(self, problem: Problem) -> None:
        self.over = problem

    def _size(self) -> int:
        return self._file.seek(0, 2)

    def _check(self) -> bool:
        """Keep the complete model; False if it has to be downloaded again, because a part of it lay here before."""
        self._file.flush()
        if hash_file(self._file).hex() == self._offer.model:
            os.fsync(self._file.fileno())
            self._state.keep_part(self._offer.model)
            return True
        if not self._resumed:
            self._state.drop_part(self._offer.model)
            raise Refused("got a model whose SHA-256 is not the one in the offer; nothing was trained on it")
        self._resumed = False
        self._file.truncate(0)
        return False


def _is_secure(url: str) -> bool:
    """Whether ``url`` is an address with https."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return url.startswith("https://") and bool(host) and len(url) <= _LONGEST_URL


def _nothing() -> None:
    """The next request asks for what is still missing."""

"""The blocking driver: sessions run in a thread of their own, while the caller's loop trains."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from secagg.errors import Aborted, LocalProtocolError
from secagg.kit import Kit
from secagg.remote.bar import bar
from secagg.remote.core import ClientCore
from secagg.remote.offers import BaseOffer, Contribution
from secagg.remote.session import Session
from secagg.remote.settings import Options, Settings
from secagg.remote.state import State
from secagg.remote.transport import Driver


def connect(kit: Kit | str | os.PathLike[str], state: str | os.PathLike[str], **options: Unpack[Options]) -> Remote:
    """A client of a service: ``for offer in secagg.connect("c1.kit", state="~/.secagg/c1").offers(): ...``.

    ``kit`` is what the client pins: the service's address, the task's digest, and who vouches for the roster.
    ``state`` is the folder of its ledger, its keys and its open sessions (mode 0700). A second process that opens
    it is refused. ``options`` are the fields of :class:`secagg.remote.settings.Settings`. No request is sent
    before ``offers`` is called.

    Raises ``ConfigError`` for a kit, folder or key that can't be used.
    """
    settings = bar(Settings.of(**options))
    loaded = kit if isinstance(kit, Kit) else Kit.load(kit)
    return Remote(loaded, state, settings)


class Remote:
    """A connected client. :meth:`offers` yields what to train; the rest happens in a thread.

    :func:`connect` makes it. ``folder`` is where the client keeps its keys and its state.
    """

    def __init__(self, kit: Kit, folder: str | os.PathLike[str], settings: Settings) -> None:
        self._driver = Driver(kit, settings)
        self._state = State(folder, kit, settings)
        self.core = ClientCore(kit, self._state, settings)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._over = self._sending = False

    def offers(self, *, resumed: bool = False) -> Iterator[Offer]:
        """Wait for offers, one after the other; ends with the run, or with ``once=True`` when there is none.

        An offer that the loop leaves without an update is declined, or its session is left out. A session with an
        update from before a restart goes on by itself; with ``resumed=True`` it is yielded too. Raises ``Refused``
        if the service refuses this client, or sends what it doesn't accept, and ``OSError`` if the disk is full.

        A loop that is left by ``break`` or by an exception leaves the client connected, and its folder open: call
        ``offers`` again, or :meth:`close`. A ``with`` block closes it.
        """
        self._start()
        seen: Session | None = None
        while True:
            session = self._wait(partial(self.core.new_session, seen, resumed))
            if session is None:
                self.close()
                return
            seen = session
            yield Offer(self, session)
            self.core.leave(session)
            self._driver.wake.set()

    def _wait(self, look: Callable[[], Session | None]) -> Session | None:
        """Wait for what ``look`` returns; None at the end of the run."""
        with self._changed:
            while True:
                found = look()
                if found is not None:
                    return found
                if self._error is not None:
                    raise self._error
                if self._over:
                    return None
                self._changed.wait(60.0)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="secagg remote", daemon=True)
            self._sending = True
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over:
                if not self._driver.step(self.core, self._driver.wake):
                    break
                with self._changed:
                    self._changed.notify_all()
        except BaseException as error:
            if not self._over:
                self._error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._sending = False  # before the look at closed: either this thread or close() hangs up
        if self._driver.closed:
            self._driver.hang_up()

    def _accept(self, session: Session) -> None:
        """Download the session's model, check it, and take part."""
        if session.answer is not None and session.role is not None and self.core.has_model(session):
            return
        download = self.core.download(session)
        try:
            while self._driver.step(download):
                if self._over:
                    raise self._error or LocalProtocolError("got a model to download after close()")
        finally:
            download.close()
        if download.over is not None:
            raise Aborted(f"the model that was offered is no longer there: {download.over}")
        self.core.accept(session)
        self._driver.wake.set()

    def _contribute(self, session: Session, update: Any, weight: int | None) -> None:
        """Give an update, and wait until this client's part of the session is over."""
        if not session.resumed and session.over is None:
            self._accept(session)
            self.core.contribute(session, update, weight)
        self._driver.wake.set()
        ended = self._wait(lambda: session if session.closed or session.error is not None else None)
        if ended is None:
            raise LocalProtocolError(
                "got close() before this client's part was over; connect again, and it goes on"
            )
        if session.error is not None:
            raise session.error

    def _decline(self, session: Session, reason: str) -> None:
        """Don't take part."""
        self.core.decline(session, reason)
        self._driver.wake.set()

    def close(self) -> None:
        """Stop, and release the folder. An open session goes on when the client connects again."""
        self._over = True
        self._driver.close()
        if not self._sending:
            self._driver.hang_up()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class Offer(BaseOffer):
    """An offer to train: one session, and the model to start from. See :class:`BaseOffer` for its facts."""

    def __init__(self, remote: Remote, session: Session) -> None:
        super().__init__(remote.core, session)
        self._remote = remote

    def model(self, like: Any = None) -> Any:
        """The model, in the containers, dtypes and kinds of array of ``like`` if given, else as NumPy arrays.

        The first call downloads it, checks its digest, and accepts the offer: keys are exchanged while the caller
        trains. Raises ``Refused`` for another model than the offered one, ``Aborted`` if the service went on and
        no longer has it, and ``EncodingError`` if ``like`` has another structure.
        """
        self._remote._accept(self._session)
        self._like, self._start = like, None
        return self._read_model(like)

    @property
    def start(self) -> Any:
        """The model as it was offered, in the form that :meth:`model` returned, to subtract it."""
        if self._start is None:
            self._remote._accept(self._session)
            self._start = self._read_model(self._like)
        return self._start

    def contribute(self, update: Any = None, weight: int | None = None) -> Contribution:
        """Give this client's update, and wait until its part of the session is over.

        ``weight`` is the number of examples, if the task has weights. A session that ends early, such as one that
        others left, is not an error: then ``in_sum`` is not True and ``reason`` says why. Raises what
        :meth:`secagg.Client.contribute` raises for an update that doesn't fit, ``LocalProtocolError`` if the budget
        has no room, ``ConfigError`` for one upload too many over this model, and ``Refused``.
        """
        self._remote._contribute(self._session, update, weight)
        return self._contribution(self._remote._driver.now())

    def decline(self, reason: str = "") -> None:
        """Don't take part; the service is told the ``reason``, at most 200 characters."""
        self._remote._decline(self._session, reason)

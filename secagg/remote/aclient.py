"""The driver for asyncio: sessions run in a task of their own, and whatever computes runs in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from secagg.errors import Aborted, LocalProtocolError
from secagg.kit import Kit
from secagg.remote.bar import bar
from secagg.remote.core import ClientCore
from secagg.remote.line import Exchange
from secagg.remote.offers import BaseOffer, Contribution
from secagg.remote.requests import Sleep
from secagg.remote.session import Session
from secagg.remote.settings import Options, Settings
from secagg.remote.state import State
from secagg.remote.transport import AsyncHttp, Clock, Gate, LostError


def aconnect(
    kit: Kit | str | os.PathLike[str], state: str | os.PathLike[str], **options: Unpack[Options]
) -> AsyncRemote:
    """A client of a service for asyncio; see :func:`secagg.connect`, which has the same arguments.

    ``async for offer in remote.offers()`` yields what to train. ``model``, ``start``, ``contribute`` and
    ``decline`` are awaited.
    """
    settings = bar(Settings.of(**options))
    loaded = kit if isinstance(kit, Kit) else Kit.load(kit)
    return AsyncRemote(loaded, state, settings)


class AsyncRemote:
    """A connected client. :meth:`offers` yields what to train; the rest happens in a task.

    :func:`aconnect` makes it. ``folder`` is where the client keeps its keys and its state.
    """

    def __init__(self, kit: Kit, folder: str | os.PathLike[str], settings: Settings) -> None:
        self._now, self._http, self._gate = Clock(), AsyncHttp(kit, settings), Gate()
        self._state = State(folder, kit, settings)
        self.core = ClientCore(kit, self._state, settings)
        self._changed, self._wake = asyncio.Condition(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._over = False

    async def offers(self, *, resumed: bool = False) -> AsyncIterator[AsyncOffer]:
        """Wait for offers, one after the other; see :meth:`secagg.remote.Remote.offers`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="secagg remote")
        seen: Session | None = None
        while True:
            session = await self._wait(partial(self.core.new_session, seen, resumed))
            if session is None:
                await self.close()
                return
            seen = session
            yield AsyncOffer(self, session)
            self.core.leave(session)
            self._wake.set()

    async def _wait(self, look: Callable[[], Session | None]) -> Session | None:
        """Wait for what ``look`` returns; None at the end of the run."""
        async with self._changed:
            while True:
                session = look()
                if session is not None:
                    return session
                if self._error is not None:
                    raise self._error
                if self._over:
                    return None
                await self._changed.wait()

    async def _run(self) -> None:
        try:
            while not self._over and await self._step(self.core, self._wake):
                async with self._changed:
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            self._over = True
            async with self._changed:
                self._changed.notify_all()

    async def _step(self, exchange: Exchange, wake: asyncio.Event | None = None) -> bool:
        """Do what the exchange asks for; False at its end. ``wake`` ends its sleep early."""
        if wake is not None:
            wake.clear()
        step = await asyncio.to_thread(self._gate.next, exchange, self._now())
        if step is None:
            return False
        if isinstance(step, Sleep):
            with suppress(TimeoutError):
                await asyncio.wait_for((wake or asyncio.Event()).wait(), step.seconds)
            return True
        try:
            response = await self._http.send(step)
        except LostError as lost:
            await asyncio.to_thread(self._gate.lost, exchange, lost, self._now())
        else:
            await asyncio.to_thread(self._gate.got, exchange, response, self._now())
        return True

    async def _accept(self, session: Session) -> None:
        """Download the session's model, check it, and take part."""
        if session.answer is not None and session.role is not None and self.core.has_model(session):
            return
        download = self.core.download(session)
        try:
            while await self._step(download):
                if self._over:
                    raise self._error or LocalProtocolError("got a model to download after close()")
        finally:
            download.close()
        if download.over is not None:
            raise Aborted(f"the model that was offered is no longer there: {download.over}")
        await asyncio.to_thread(self.core.accept, session)
        self._wake.set()

    async def _contribute(self, session: Session, update: Any, weight: int | None) -> None:
        """Give an update, and wait until this client's part of the session is over."""
        if not session.resumed and session.over is None:
            await self._accept(session)
            await asyncio.to_thread(self.core.contribute, session, update, weight)
        self._wake.set()
        ended = await self._wait(lambda: session if session.closed or session.error is not None else None)
        if ended is None:
            raise LocalProtocolError(
                "got close() before this client's part was over; connect again, and it goes on"
            )
        if session.error is not None:
            raise session.error

    async def _decline(self, session: Session, reason: str) -> None:
        """Don't take part."""
        self.core.decline(session, reason)
        self._wake.set()

    async def close(self) -> None:
        """Stop, and release the folder. An open session goes on when the client connects again."""
        self._over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._gate.close)
        await self._http.close()
        self._state.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()


class AsyncOffer(BaseOffer):
    """An offer to train: one session, and the model to start from. See :class:`BaseOffer` for its facts.

    ``remote`` is the connected client that got the offer.
    """

    def __init__(self, remote: AsyncRemote, session: Session) -> None:
        super().__init__(remote.core, session)
        self._remote = remote

    async def model(self, like: Any = None) -> Any:
        """The model; see :meth:`secagg.remote.Offer.model`."""
        await self._remote._accept(self._session)
        self._like, self._start = like, None
        return await asyncio.to_thread(self._read_model, like)

    async def start(self) -> Any:
        """The model as it was offered; see :attr:`secagg.remote.Offer.start`."""
        if self._start is None:
            await self._remote._accept(self._session)
            self._start = await asyncio.to_thread(self._read_model, self._like)
        return self._start

    async def contribute(self, update: Any = None, weight: int | None = None) -> Contribution:
        """Give ``update``, and wait for the end; see :meth:`secagg.remote.Offer.contribute`."""
        await self._remote._contribute(self._session, update, weight)
        return self._contribution(self._remote._now())

    async def decline(self, reason: str = "") -> None:
        """Don't take part; the service is told the ``reason``, at most 200 characters."""
        await self._remote._decline(self._session, reason)

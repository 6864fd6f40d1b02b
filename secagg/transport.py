"""Run a role over a transport of your own: an object of two methods, with asyncio or without.

A role has no sockets and no clock. Here is the loop around it; a transport carries bytes and says who sent them.
Messages are bytes that are not empty, and ``b""`` says that the session is over for the party that gets it.

A transport may lose messages, and may deliver one twice: a role answers the same bytes by the same bytes, and takes
them once. It must not hand one party's messages to another, so it authenticates its parties, for example by TLS.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import queue
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from secagg._numbers import is_a, real
from secagg.errors import Aborted, ConfigError, LocalProtocolError, RemoteProtocolError, shown
from secagg.roles.client import Client
from secagg.roles.member import Member
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server

#: The empty message, which says that a session is over.
OVER = b""

_LONGEST = 3600.0  # seconds in one call of a transport: systems have limits of their own
_WAIT = 1.0  # seconds between two looks for what a server waits for besides its parties, such as a beacon

#: What a loop returns.
Result = TypeVar("Result")
#: What a loop asks its driver to do next; it is sent the result, or thrown the exception.
Steps = Generator[tuple[Any, ...], Any, Result]


class MemberTransport(Protocol):
    """What a client, a decryptor or an aggregator has of its connection to the server, for one session."""

    def send(self, message: bytes, /) -> None:
        """Send ``message`` to the server.

        If it may have been lost, the transport sends the same bytes again, or lets the server ask again.
        """
        ...

    def receive(self) -> bytes:
        """Wait for the next message of the server. ``b""`` only if the server said that the session is over.

        A lost connection is not the end: connect again, and wait for what the server sends then. A transport that
        gives up raises its own exception.
        """
        ...


class ServerTransport(Protocol):
    """What a server has of its connections to all parties, for one session."""

    def send(self, party: str, message: bytes, /) -> None:
        """Send ``message`` to ``party``, without waiting for the party to answer.

        A party that is away is not an error. When a party connects again, the transport sends the session's
        messages to it again, in order; it can't know which were handled. For a client the newest one is enough.
        """
        ...

    def receive(self, timeout: float, /) -> tuple[str, bytes] | None:
        """Wait for the next message of any party: the party's id, as the transport authenticated it, and the bytes.

        After ``timeout`` seconds without a message it returns None, or raises ``TimeoutError`` or ``queue.Empty``.
        """
        ...


class AsyncMemberTransport(Protocol):
    """A :class:`MemberTransport` for asyncio."""

    async def send(self, message: bytes, /) -> None:
        """See :meth:`MemberTransport.send`."""
        ...

    async def receive(self) -> bytes:
        """See :meth:`MemberTransport.receive`."""
        ...


class AsyncServerTransport(Protocol):
    """A :class:`ServerTransport` for asyncio."""

    async def send(self, party: str, message: bytes, /) -> None:
        """See :meth:`ServerTransport.send`."""
        ...

    async def receive(self, timeout: float, /) -> tuple[str, bytes] | None:
        """See :meth:`ServerTransport.receive`."""
        ...


def run_client(
    client: Member[Any], transport: MemberTransport, *, contribute: Callable[[], object] | None = None
) -> None:
    """Run a client, decryptor or aggregator until the server says that the session is over.

    ``transport`` is its connection to the server. The call returns when the session is over, and not when the role
    is ``finished``: as long as the session is open, the server may ask for the last answer again. ``contribute`` is
    called once the input is asked for, if the client has no update by then; it calls ``client.contribute``, so that
    the keys are exchanged before or while the model trains. A message that the role refuses is in the log, and the
    role waits for a correct one.

    Raises ``Aborted`` if the server gives the session up or goes on without this party, and ``LocalProtocolError``
    if the input is asked for without an update, or may not leave. Exceptions of the transport and of ``contribute``
    are raised as they are. The same call then goes on, with the same role or with one that was restored, over a
    connection that gets again what was not answered.
    """
    return _run(_member_steps(client, contribute), transport)


async def arun_client(
    client: Member[Any], transport: AsyncMemberTransport, *, contribute: Callable[[], object] | None = None
) -> None:
    """:func:`run_client` for asyncio, over ``transport``.

    The role works in threads; ``contribute`` does too, or is a coroutine.
    """
    return await _arun(_member_steps(client, contribute), transport)


def run_server(
    server: Server[Any], transport: ServerTransport, *, deadlines: float | Mapping[str, float]
) -> Outcome:
    """Run a server from its start, or from where it stands, to its outcome.

    ``transport`` connects it to all parties. ``deadlines`` are seconds for each round, or seconds by round with an
    entry for every round of the protocol's ``phases``. A round ends when nobody is pending, or when its deadline
    has passed; the round that takes the inputs may need the time of a training. A server that was restored gives
    its round the whole deadline again.

    At the end each party gets one message that it need not wait any longer: when it is dropped, or when the session
    is over. Raises ``Aborted`` after the parties were told, ``ConfigError`` for deadlines that don't fit, and
    ``LocalProtocolError`` if a beacon publishes no value within the deadline of the round that needs it. Exceptions
    of the transport, the store and the executor are raised as they are; the same call then goes on.
    """
    return _run(_server_steps(server, _deadlines(server, deadlines)), transport)


async def arun_server(
    server: Server[Any], transport: AsyncServerTransport, *, deadlines: float | Mapping[str, float]
) -> Outcome:
    """:func:`run_server` for asyncio, over ``transport``. The server works in threads."""
    return await _arun(_server_steps(server, _deadlines(server, deadlines)), transport)


def _run(steps: Steps[Result], transport: object) -> Result:
    """Do what ``steps`` ask for: a call of the transport, which is named, or of a function."""
    resume, result = steps.send, None
    while True:
        try:
            what, *arguments = resume(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            call = what if callable(what) else getattr(transport, what)
            resume, result = steps.send, call(*arguments)
        except Exception as error:
            resume, result = steps.throw, error


async def _arun(steps: Steps[Result], transport: object) -> Result:
    """:func:`_run`, with the functions in threads."""
    resume, result = steps.send, None
    while True:
        try:
            what, *arguments = resume(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            if callable(what):
                outcome = await asyncio.to_thread(what, *arguments)
            else:
                outcome = getattr(transport, what)(*arguments)
            resume, result = steps.send, await outcome if inspect.isawaitable(outcome) else outcome
        except Exception as error:
            resume, result = steps.throw, error


def _member_steps(role: Member[Any], contribute: Callable[[], object] | None) -> Steps[None]:
    if not is_a(role, (Member,)):
        raise ConfigError(f"got {shown(role)}; expected a client, a decryptor or an aggregator")
    refused: RemoteProtocolError | None = None
    while not role.aborted and (message := (yield ("receive",))) != OVER:
        try:
            answer = yield role.receive, message
        except RemoteProtocolError as error:
            refused = error  # the role is unchanged, and has logged it
            continue
        except LocalProtocolError:
            if contribute is None or not isinstance(role, Client) or role.contributed:
                raise
            yield (contribute,)
            answer = yield role.receive, message
        if answer is not None:
            yield "send", answer
    if role.aborted:
        raise Aborted(role.aborted)
    if not role.finished:
        raise Aborted(
            "the server says that the session is over, and this party has not given its last answer"
            + (f"; it refused a message: {refused}" if refused else "")
        ) from refused


def _server_steps(server: Server[Any], deadlines: Mapping[str, float]) -> Steps[Outcome]:
    everyone = [*server.context.state.cohort, *server.others()]
    informed: set[str] = set()

    def send(outbox: Mapping[str, bytes]) -> Steps[None]:
        for party, message in outbox.items():
            yield "send", party, message

    def over() -> Steps[None]:
        yield from send(dict.fromkeys((party for party in everyone if party not in informed), OVER))

    if server.aborted:
        yield from over()
        raise Aborted(server.aborted)
    try:
        outbox = yield (server.start,)
        while True:
            informed |= outbox.keys() - server.pending
            yield from send(outbox)
            if (outcome := server.outcome) is not None:
                break
            outbox = yield from _round(server, deadlines[server.round or ""], send)
    except Aborted as aborted:
        informed |= aborted.outbox.keys()
        yield from send(aborted.outbox)
        yield from over()
        raise
    yield from over()
    return outcome


def _round(server: Server[Any], seconds: float, send: Callable[[Outbox], Steps[None]]) -> Steps[Outbox]:
    """Take answers until nobody is pending or the deadline has passed, then close the round."""
    ends = time.monotonic() + seconds
    closing: LocalProtocolError | None = None
    while True:
        left = ends - time.monotonic()
        if closing is None and server.pending and left > 0:
            yield from _take(server, min(left, _LONGEST), send)
            continue
        # What arrived in time may still lie in the transport, if answers came faster than they were taken.
        for _ in range(len(server.pending)):
            if not (yield from _take(server, 0, send)):
                break
        try:
            outbox: Outbox = yield (server.close_round,)
            return outbox
        except LocalProtocolError as error:  # a beacon has not published the value that the protocol needs
            if left < -seconds:
                raise
            closing = error
            yield from _take(server, _WAIT, send)


def _take(server: Server[Any], timeout: float, send: Callable[[Outbox], Steps[None]]) -> Steps[bool]:
    """Take one message, and hand on what the server gives out for it; returns whether there was one."""
    try:
        arrived = yield "receive", timeout
    except (TimeoutError, queue.Empty):
        arrived = None
    if arrived is None:
        return False
    handed: Outbox = yield server.receive, *arrived
    yield from send(handed)
    return True


def _deadlines(server: Server[Any], deadlines: object) -> Mapping[str, float]:
    """Seconds by round; ``ConfigError`` unless they are positive, finite, and of all rounds."""
    if not is_a(server, (Server,)):
        raise ConfigError(f"got {shown(server)}; expected a server")
    rounds = [str(phase.round) for phase in server.context.task.protocol.phases]
    if not is_a(deadlines, (Mapping,)):
        deadlines = dict.fromkeys(rounds, deadlines)
    by_round: dict[str, Any] = {str(name): seconds for name, seconds in deadlines.items()}  # type: ignore[attr-defined]
    if by_round.keys() != set(rounds):
        raise ConfigError(f"got deadlines for {_listed(by_round)}; expected seconds for {_listed(rounds)}")
    for name, seconds in by_round.items():
        number = real(seconds)
        if not 0 < number < math.inf:
            raise ConfigError(f"got a deadline of {shown(seconds)} for {name}; expected seconds, more than 0")
        by_round[name] = number
    return by_round


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no round"

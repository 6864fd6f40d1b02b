"""Runs a protocol's table on the side that asks: the server.

Each row of the table is a step of three parts: what to ask whom, how to take one answer, and
how to settle the round when the caller closes it. Asking changes nothing, so a restored server
asks again in the same bytes. Taking validates an answer whole before it folds anything in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from secagg import wire
from secagg.errors import Aborted, ConfigError, Fault, LocalProtocolError
from secagg.identity import check_party_ids
from secagg.roles.context import ServerContext
from secagg.roles.environment import Environment
from secagg.roles.hooks import AnyServerState, Reply, Step
from secagg.roles.outcome import Outcome, open_outcome
from secagg.roles.receiving import Outbox
from secagg.roles.sharing import Sharing
from secagg.roles.state import ServerState, check_server, pack_state, unpack_segments, unpack_state
from secagg.roles.turn import Turn, atomic
from secagg.session import NONCE_BYTES, check_session, draw, roster_digest, session_id
from secagg.table import Phase
from secagg.wire import Reject

if TYPE_CHECKING:
    from secagg.task import Task

log = logging.getLogger("secagg")

KEY_BYTES = 32

__all__ = ["Outbox", "Server", "Step"]


class Server(Sharing[AnyServerState]):
    """The server of one session. It adds up inputs that it can't read. ``task.server`` makes it.

    ``cohort`` are the ids of the clients, ``session`` is the session's name, and ``environment`` is what the caller
    lends (None: an empty one).

    ``start()`` opens the first round. ``receive`` takes a message, and never raises on bytes. ``close_round`` ends
    a round; call it when nobody is ``pending`` or your deadline has passed, until there is an ``outcome``. Any
    thread may call any method or property at any time. Each call has the server to itself, and waits until the one
    before has ended. :class:`secagg.roles.ServerHooks` describes what a protocol fills in.
    """

    def __init__(
        self, task: Task, cohort: Iterable[str], environment: Environment | None = None, *, session: bytes
    ) -> None:
        lent = Environment.of(environment)
        members = sorted(check_party_ids(cohort, task.max_clients + 1))  # one too many is refused
        session = check_session(session)
        task.check_cohort(members, lent.roster)
        nonce = draw(lent.rng, NONCE_BYTES)
        opening = session_id(
            task=task.digest, roster=roster_digest(lent.roster), session=session, nonce=nonce, cohort=members
        )
        state = self.state_type(
            cohort=members,
            session=session,
            nonce=nonce,
            session_id=opening,
            asked_under=opening,
            noise_key=draw(lent.rng, KEY_BYTES) if task.encoder.server_noise else b"",
        )
        self._take_up(task, state, lent)

    def _take_up(self, task: Task, state: ServerState, environment: Environment) -> None:
        """Start from ``state``, new or restored."""
        self._turn = Turn()
        self.context = ServerContext(task, environment, state)  # type: ignore[arg-type]
        self._phases = task.protocol.phases
        self._check_table()
        self._worded = any(phase.word is not None for phase in self._phases)
        written = unpack_segments(state.sums, task) if state.sums else []
        self.context.sums = [total.copy() for total in written]
        state.sums, state.faults = [], []
        self._asked = frozenset(state.asked)
        self._pending = set(state.asked) - set(state.answered)
        self._waiting = self._nothing_waits()
        self._asks: Mapping[str, Reply] | None = None  # the open round's requests, where they were built already
        self._received, self._opened = 0, time.monotonic()  # of the open round, for the log
        self._at_opening = None
        self.prepare()
        self._outcome = self._decode() if state.finished else None

    def _check_table(self) -> None:
        """``ConfigError`` for a class whose steps don't fit what the protocol's table asks of it."""
        for phase in self._phases:
            step = self.steps.get(phase.round)
            for lacks, what in (
                (step is None, f"no steps[{phase.round!s}]"),
                (step and phase.relayed and not step.hand_on, f"no hand_on in steps[{phase.round!s}]"),
                (step and step.hand_on and not phase.relay, f"a hand_on in steps[{phase.round!s}] without relay="),
                (step and step.hear and not phase.word, f"a hear in steps[{phase.round!s}] without word="),
            ):
                if lacks:
                    raise ConfigError(
                        f"{type(self).__name__} has {what}, against its protocol's table; correct one of them"
                    )

    @property
    def session(self) -> bytes:
        """The caller's name for this aggregation."""
        return self.context.state.session

    @property
    @atomic
    def position(self) -> int:
        """The place of the open round in the protocol's table of ``phases``, from 0.

        It is -1 before start. It is the number of phases after the end, whether there is an outcome or the session
        was aborted. So it only rises, and a round is closed if its place is below it.
        """
        state = self.context.state
        return len(self._phases) if state.finished or state.aborted else state.position

    @property
    @atomic
    def outcome(self) -> Outcome | None:
        """The result, after the last round was closed; None before."""
        return self._outcome

    @property
    @atomic
    def aborted(self) -> str:
        """Why the session was given up; empty if it was not."""
        return self.context.state.aborted

    @property
    @atomic
    def pending(self) -> frozenset[str]:
        """The ids of the parties whose answer is still awaited in the open round; none after the end."""
        return frozenset(self._pending) if self.context.open else frozenset()

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """The faults recorded so far, oldest first."""
        return tuple(self.context.faults.kept)

    @property
    @atomic
    def round(self) -> str | None:
        """The open round's name; None before start and after the end."""
        return self.context.round

    @atomic
    def start(self) -> Outbox:
        """Open the session; returns the message for each party. On a restored server: what to send again."""
        state = self.context.state
        if state.aborted:
            raise LocalProtocolError("got start() after the session was aborted; make a new server")
        if state.position < 0:
            self._next_round()
            self._store()
        outbox = self._dismissal(state.parted)
        if not state.finished:
            asks, self._asks = self._asks or self._requests(), None
            outbox |= self.context.seal_all({party: asks[party] for party in sorted(self._pending)})
        return outbox

    @atomic
    def close_round(self, name: str | None = None) -> Outbox:
        """End the open round, and drop the parties that are still pending. Returns the messages to send next.

        These are the requests of the next round, and one message to each party that was dropped: it says that the
        session goes on without it, so that it need not wait. A timer passes the ``name`` of the round that it was
        set for. If another round is open by then, nothing changes and nothing is returned.

        After the last round there is an ``outcome``. Raises ``Aborted`` if too few parties remain; then there is no
        outcome, and ``outbox`` of the exception has the messages that tell the others. An exception of the
        ``executor`` is raised with nothing changed: call again. An exception of ``save`` is raised with the round
        closed: ``start()`` returns the requests.
        """
        if name is not None and name not in (known := [phase.round for phase in self._phases]):
            raise ConfigError(f"got round {name!r}; {self.context.task.protocol.name} has {', '.join(known)}")
        if name is not None and self.context.round != name:
            return {}
        if not self.context.open:
            raise LocalProtocolError("got close_round() while no round is open; start() opens the first")
        state = self.context.state
        phase = self._phases[state.position]
        self.before_close(phase)
        silent = sorted(self._pending)
        try:
            self._drop_and_settle(phase, silent)
            self._log_round(phase)
            if state.position + 1 < len(self._phases):
                requests = self._next_round()
                state.parted = [party for party in silent if party not in requests]
                self._store()
                return {**self._dismissal(state.parted), **self.context.seal_all(requests)}
            self._outcome = self._decode()
        except Aborted as aborted:
            raise self._abort(aborted.reason, silent) from aborted
        state.finished, state.parted = True, silent
        self._end_waiting()
        self._store()
        return self._dismissal(silent)

    def _drop_and_settle(self, phase: Phase, silent: Sequence[str]) -> None:
        """Drop the silent parties, then settle the round."""
        state, faults = self.context.state, len(self.context.faults.kept)
        fresh = [party for party in silent if party not in state.dropped]
        state.dropped.update(dict.fromkeys(fresh, phase.round))
        self._blame_silent(phase, silent)
        asked_under, state.asked_under = state.asked_under, state.session_id
        if phase.takes_input:
            state.survivors = sorted(state.answered)
        try:
            self.steps[phase.round].settle(self)
        except Aborted:
            raise
        except Exception:  # from the caller's executor: the round stays open
            for party in fresh:
                del state.dropped[party]
            self.context.faults.forget(faults)
            state.asked_under = asked_under
            if phase.takes_input:
                state.survivors = []
            raise

    def _log_round(self, phase: Phase) -> None:
        state = self.context.state
        line = {
            "session": state.session_id.hex()[:12],
            "round": str(phase.round),
            "answered": len(state.answered),
            "asked": len(state.asked),
            "bytes": self._received,
            "seconds": time.monotonic() - self._opened,
        }
        text = (
            "session %(session)s %(round)s: %(answered)d of %(asked)d answered, %(bytes)d bytes in %(seconds).3f s"
        )
        log.info(text, line, extra=line)

    def _next_round(self) -> Mapping[str, Reply]:
        state = self.context.state
        self._received, self._opened, self._at_opening = 0, time.monotonic(), None
        state.position += 1
        state.answered = []
        self._end_waiting()
        requests = self._requests()
        state.asked = sorted(requests)
        self._asked, self._pending = frozenset(requests), set(requests)
        return requests

    def _dismissal(self, parties: Iterable[str]) -> Outbox:
        """The messages that tell ``parties`` to stop waiting, under the id that everyone knows since the proposal.

        They say neither why nor who else was dropped. They carry no more weight than silence: a party that believes
        one erases its secrets and answers nothing more, and a lying server gets the same by sending nothing.
        """
        state = self.context.state
        opening = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
        )
        return dict.fromkeys(parties, self.context.seal(wire.Abort(), session=opening))

    def _abort(self, reason: str, silent: Sequence[str]) -> Aborted:
        """Give up, and tell everyone who was not told already when it was dropped."""
        state = self.context.state
        everyone = [*state.cohort, *self.others()]
        dismissed = state.dropped.keys() - set(silent)
        outbox = self._dismissal(party for party in everyone if party not in dismissed)
        session = state.session_id.hex()[:12]
        log.warning("session %s aborted: %s", session, reason, extra={"session": session, "reason": reason})
        state.aborted = reason
        self._end_waiting()
        self.context.sums = []
        self._store()
        return Aborted(reason, outbox)

    def _decode(self) -> Outcome:
        """The outcome of the sums; ``Aborted`` if no honest inputs have such sums."""
        return open_outcome(self.context)

    def _store(self) -> None:
        self.context.state.number += 1
        if self.context.environment.save is not None:
            self.context.environment.save(self.context.state.number, self._pack())

    @atomic
    def to_bytes(self) -> bytes:
        """The state, with the sum of the inputs accepted so far: store it on the server only."""
        return self._pack()

    def _pack(self) -> bytes:
        return pack_state(self.written(), self.context.task, "server", self.context.roster)

    @classmethod
    def from_bytes(cls, data: bytes, task: Task, environment: Environment | None = None) -> Self:
        """The server that was saved as ``data``, with what the caller lends it in ``environment``.

        See :meth:`secagg.Task.restore_server`.
        """
        server = cls._shard_from_bytes(data, task, environment)
        if not server.context.open:
            return server
        with _contradicting():
            server._asks = server._requests()
        if sorted(server._asks) != server.context.state.asked:
            raise ConfigError("got a state that asks other parties than its round does; leave this session out")
        return server

    @classmethod
    def _shard_from_bytes(cls, data: bytes, task: Task, environment: Environment | None = None) -> Self:
        """As :meth:`from_bytes`, for a server that asks nobody: its requests are not computed, and not compared."""
        lent = Environment.of(environment)
        if not hasattr(cls, "state_type"):
            raise ConfigError(f"got {cls.__name__}.from_bytes(); call task.restore_server(data)")
        state = unpack_state(data, cls.state_type, task, "server", lent.roster)
        check_server(state, len(task.protocol.phases), task, lent.roster)
        server = cls.__new__(cls)
        with _contradicting():
            server._take_up(task, state, lent)
        return server


@contextmanager
def _contradicting() -> Iterator[None]:
    """Replace what a state raises whose parts were never saved together by ``ConfigError``."""
    try:
        yield
    except ConfigError:
        raise
    except (Aborted, Reject, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"got a state whose parts contradict each other: {error!s:.200}; leave this session out"
        ) from error

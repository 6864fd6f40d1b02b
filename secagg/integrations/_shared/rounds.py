"""A server's rounds: each plays a session of the task's protocol, and is a line in the log.

A stack derives from :class:`Rounds`, and says in a :class:`Channel` how it carries messages.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError
from secagg.identity import PartyRole, Roster, check_party_id
from secagg.integrations._shared.sessions import (
    Exhausted,
    Sessions,
    checked_deadlines,
    clipping,
    note_faults,
    without,
)
from secagg.integrations._shared.statements import Statement, as_refusal
from secagg.protocols.oneshot.drawn import DrawnOneShot
from secagg.roles.environment import Environment
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.session import roster_digest
from secagg.table import contribution_round
from secagg.task import Task

SECONDS = 60.0  # of a round, unless deadlines= says more
SILENT = "no answer to the introduction"

_LOOK = 0.1  # seconds between two looks for a beacon's value


class Channel(ABC):
    """The messages of one session, as a stack carries them between a server and the parties."""

    @abstractmethod
    def open(self, outbox: Mapping[str, bytes], name: str, *, takes_inputs: bool) -> None:
        """Send the messages that open the round ``name``; ``takes_inputs`` if clients send their inputs in it."""

    @abstractmethod
    def send(self, outbox: Mapping[str, bytes]) -> None:
        """Send messages within the open round, or queue them for :meth:`answers`."""

    @abstractmethod
    def answers(self, server: Server[Any]) -> Iterator[tuple[str, bytes | Exception]]:
        """Yield each party's answer in the open round, or the exception that took its place.

        Ends when ``server`` waits for nobody, when no party can answer any more, or when the time is up.
        """

    @abstractmethod
    def dismiss(self, outbox: Mapping[str, bytes]) -> None:
        """Send the last messages of a session that was aborted. Answers, and errors of parties, don't matter."""


class Rounds:
    """The rounds of a training, and what came of them; a stack's server derives from it.

    - ``stack``: names the sessions, and the log unless a subclass has another.
    - ``task``: the task with its metrics; ``roster``: the server's.
    - ``parties``: the ids of the task's aggregators or decryptors that the server can reach.
    - ``deadlines``: the seconds that a round of the protocol may take, one number or by name, ``"Introduction"``
      among them; ``usual``: those of the rounds that it does not name.
    - ``lent``: the ``beacon`` and the ``executor`` of :meth:`secagg.Task.server`.

    ``outcomes`` has the outcomes of the rounds that succeeded, of which the newest alone keeps its mean and sum;
    ``failures`` has the lines of the others. ``ConfigError`` for arguments that don't fit the task.
    """

    def __init__(
        self,
        stack: str,
        task: Task,
        *,
        roster: Roster | None,
        parties: Iterable[str],
        deadlines: float | Mapping[str, float],
        usual: float = SECONDS,
        **lent: Any,
    ) -> None:
        _check_beacon(task, Environment(**lent))  # an environment refuses what is of another kind
        task.protocol.validate_roster(task, roster)
        _check_parties(task, roster, parties)
        seconds = checked_deadlines(deadlines, task)
        self.task, self.roster = task, roster
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []
        self._log = logging.getLogger(f"secagg.{stack}")
        self._deadlines = seconds if isinstance(seconds, dict) else {}
        self._usual = usual if isinstance(seconds, dict) else seconds
        self._lent = lent
        self._sessions = Sessions(stack)
        self._left_out: dict[str, str] = {}  # party or node → why the running round goes on without it

    def seconds(self, name: str, usual: float | None = None) -> float:
        """The seconds of a round by its name, else ``usual``, else those of every round."""
        return self._deadlines.get(name, self._usual if usual is None else usual)

    def noted(self, number: int, left_out: Mapping[str, str], play: Callable[[], Outcome]) -> Outcome | None:
        """What ``play()`` returns, the outcome of round ``number``; None if the round fails, after an ERROR line.

        ``left_out`` says who is not in the round and why, for the log. :class:`Exhausted` is raised after its line.
        """
        self._left_out = dict(left_out)
        try:
            outcome = play()
        except (Aborted, ConfigError, EncodingError) as error:
            self.failures.append(f"round {number} aborted: {error}{without(self._left_out)}")
            self._log.error("secagg: %s", self.failures[-1])
            if isinstance(error, Exhausted):
                raise
            return None
        if self._left_out:
            self._log.warning("secagg: round %d went on%s", number, without(self._left_out))
        level, clipped = clipping(outcome, self.task)
        self._log.log(level, "secagg: round %d: %d updates in the sum%s", number, len(outcome.survivors), clipped)
        if self.outcomes:  # otherwise a long job fills the server's memory with models
            self.outcomes[-1] = replace(self.outcomes[-1], mean=None, sum=None)
        self.outcomes.append(outcome)
        return outcome

    def _check_introduction(self, statement: Statement, client: str | None) -> None:
        """``ConfigError`` unless its sender has the server's roster, and is a client in it if it trains as one."""
        if statement.roster != roster_digest(self.roster):
            raise ConfigError("got another roster; give the server and all parties the same")
        if client is None:
            return
        check_party_id(client)
        if self.roster is not None and client not in self.roster.ids(PartyRole.CLIENT):
            raise ConfigError(f"got id {client}, which the roster doesn't list as a client")

    def _play(self, cohort: Iterable[str], session: bytes, model: bytes, channel: Channel) -> Outcome:
        """Play a session to its outcome; ``Aborted`` after the parties were told, if there is none.

        A round ends as soon as no party can answer any more, and :func:`secagg.transport.run_server` would wait for
        each silent party until the deadline.
        """
        server = self.task.server(sorted(cohort), roster=self.roster, session=session, **self._lent)
        try:
            outbox = server.start()
            while server.outcome is None:
                self._play_round(server, outbox, model, channel)
                outbox = self._close(server)
        except Aborted as aborted:
            channel.dismiss(aborted.outbox)
            raise
        finally:
            note_faults(server.faults, self._left_out)
        return server.outcome

    def _play_round(self, server: Server[Any], outbox: Outbox, model: bytes, channel: Channel) -> None:
        """Send the messages of one round of the protocol, and take the answers."""
        takes_inputs = server.round == contribution_round(self.task.protocol)
        if takes_inputs:
            self._sessions.asks_for_inputs(model)
        pending = server.pending  # a party that was dropped does not wait, so it gets no message
        waiting = {party: data for party, data in outbox.items() if party in pending}
        channel.open(waiting, str(server.round), takes_inputs=takes_inputs)
        for party, answer in channel.answers(server):
            if isinstance(answer, Exception):
                self._left_out[party] = as_refusal(answer)
            else:
                channel.send(server.receive(party, answer))

    def _close(self, server: Server[Any]) -> Outbox:
        """Close the round. If it needs a value of the beacon, wait until that is published."""
        end = time.monotonic() + self.seconds(str(server.round))
        while True:
            try:
                return server.close_round()
            except LocalProtocolError as error:
                if not self._lent.get("beacon") or time.monotonic() > end:
                    raise Aborted(str(error)) from error
                time.sleep(_LOOK)


def _check_parties(task: Task, roster: Roster | None, parties: Iterable[str]) -> None:
    """``ConfigError`` unless ``parties`` are the aggregators and decryptors that the roster lists for ``task``."""
    name = task.protocol.name
    others = () if roster is None else (roster.ids(role) for role in task.protocol.party_counts)
    needed = {party for ids in others for party in ids}
    if missing := sorted(needed - set(parties)):
        raise ConfigError(f"got no parties= for {', '.join(missing)}, which {name} needs")
    if extra := sorted(set(parties) - needed):
        raise ConfigError(f"got parties= for {', '.join(extra):.200}, which {name} does not have")


def _check_beacon(task: Task, lent: Environment) -> None:
    """``ConfigError`` for a protocol with a beacon whose values not all who need them would get."""
    protocol = task.protocol
    if isinstance(protocol, DrawnOneShot):
        raise ConfigError(f"got {protocol.name} with a beacon, whose values a client needs too; expected OneShot")
    if getattr(protocol, "beacon", None) is not None and lent.beacon is None:
        raise ConfigError(
            f"got {protocol.name} with a beacon, and no function that fetches its values; pass beacon= to the "
            'server, or, where it takes none, use threat_model="semi-malicious" in the task'
        )

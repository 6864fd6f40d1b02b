"""How several servers share a round: what others took is taken up, and work is given to others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

from secagg._numbers import whole
from secagg.errors import ConfigError, LocalProtocolError, blaming, shown
from secagg.roles.hooks import AnyServerState
from secagg.roles.receiving import Receiving
from secagg.roles.shards import SUMS, Messages, add_sums, check_shard, check_sums, divided, take_part, unite_states
from secagg.roles.state import pack_state
from secagg.roles.turn import atomic
from secagg.workers import run_all


class Sharing(Receiving[AnyServerState]):
    """The part of a server that shares a round; :class:`secagg.roles.Server` opens and closes the rounds."""

    _at_opening: bytes | None  # the open round's state before its first answer, once it was shared

    @atomic
    def absorb(self, *parts: bytes) -> None:
        """Take up what other servers took in the open round: ``parts`` are the ``to_bytes()`` of each.

        Several servers so share a round. Each is restored from the state that this server saved when the round
        opened, and takes the answers of its own senders. Before the round is closed, this server absorbs them all,
        in one call or in several. The outcome is then the same as if it had taken every answer itself. Faults are
        united.

        ``ConfigError``, with nothing changed, unless all parts are of the same task, roster, session and round, and
        of different senders. ``ConfigError`` too if only one server can take this round. What was absorbed is saved
        when the round is closed. A part is believed as a saved state is: take it from servers of yours only.
        """
        self._absorb(parts)

    def _absorb(self, parts: Sequence[bytes]) -> None:
        if not self.context.open:
            raise LocalProtocolError("got absorb() while no round is open; close_round() comes after it")
        if not self._shared:
            phase, name = self._phases[self.context.state.position], self.context.task.protocol.name
            raise ConfigError(f"got a part of {phase.round} of {name}, which one server alone takes: give it all")
        self.check_shared()
        lent, task = replace(self.context.environment, save=None, ledger=None), self.context.task
        shards: list[Any] = [task.protocol.server._shard_from_bytes(part, task, lent) for part in parts]
        for other in shards[1:]:  # the first is given up if one of them does not fit
            shards[0]._unite(other)
        if shards:
            self._unite(shards[0])

    @property
    def _shared(self) -> bool:
        """Whether several servers may take the open round, by its row of the table."""
        phase = self._phases[self.context.state.position]
        return self.steps[phase.round].merge is not None and phase.word is None

    def _unite(self, shard: Self) -> None:
        state, phase = self.context.state, self._phases[self.context.state.position]
        merge = self.steps[phase.round].merge or ()
        check_shard(state, shard.context.state, merge)
        check_sums(self.context.sums, shard.context.sums, added=SUMS in merge)
        self.unite(shard)
        unite_states(state, shard.context.state, merge)
        if SUMS in merge:
            self.context.sums = add_sums(self.context.sums, shard.context.sums)
        self._pending.difference_update(shard.context.state.answered)
        for fault in shard.context.faults.kept:
            if fault.round == phase.round:  # those of earlier rounds are here
                self.context.faults.add(fault)

    def receive_all(
        self, messages: Iterable[tuple[str, bytes | memoryview]], parts: int | None = None
    ) -> list[tuple[str, bytes]]:
        """Take many messages at once, each with its sender; returns the messages to hand on, each with its party.

        The outcome and the faults are the same as if :meth:`receive` had taken one message after the other; the
        faults may come in another order. The senders are divided into ``parts`` (by default one for each processor
        of this machine; pass the number of workers of a cluster). For each part, the ``executor`` restores a server
        from the state with which the round opened, and that server checks and adds up what its senders sent. When
        all parts are there, this server absorbs them. An exception of the executor is raised with nothing changed:
        call again.

        Without an executor, in a round that only one server can take, and in a round in which ``receive`` took an
        answer before, this thread takes the messages one after the other; threads read them (:meth:`read_all`).
        """
        count = os.cpu_count() or 1 if parts is None else whole(parts)
        if count is None or count < 1:
            raise LocalProtocolError(f"got parts={shown(parts)}; expected a positive integer")
        with blaming(
            LocalProtocolError, "got messages that can't be read; expected pairs of a sender and its bytes"
        ):
            listed: Messages = [(sender, data) for sender, data in messages]
        with self._turn:
            onward, rest = self._receive_parts(listed, count)
        for message in self.read_all(rest):
            onward += self.take(message).items()
        return onward

    def _receive_parts(self, messages: Messages, count: int) -> tuple[list[tuple[str, bytes]], Messages]:
        """Take what the executor can take; returns what to hand on, and the messages that are left."""
        executor, opened = self.context.executor, self._share_round()
        if executor is None or opened is None:
            return [], messages
        parts, rest = divided(messages, self._pending, count)
        lent = self.context.task, self.context.roster, self.context.environment.beacon, opened
        taken = run_all(executor, take_part, [(*lent, part) for part in parts])
        with blaming(ConfigError, "got other results of the executor than its tasks have; nothing was taken"):
            states = [bytes(memoryview(state)) for state, _ in taken]
            onward = [(party, data) for _, handed in taken for party, data in handed]
        self._absorb(states)
        self._received += sum(len(data) for part in parts for _, data in part)
        return onward, rest

    def _share_round(self) -> bytes | None:
        """The state with which the open round was opened; None if it can't be shared, or is not known any more."""
        if not self.context.open or not self._shared:
            return None
        try:
            self.check_shared()
        except ConfigError:
            return None
        if self._at_opening is None and not self.context.state.answered:
            name, written = self.context.round, self.written()
            written.faults = [fault for fault in written.faults if fault.round != name]
            self._at_opening = pack_state(written, self.context.task, "server", self.context.roster)
        return self._at_opening

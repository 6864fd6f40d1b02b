"""A session with all its parties in one process, message by message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from secagg import wire
from secagg.errors import Aborted, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.roles.environment import Environment
from secagg.roles.member import Member
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.table import input_round
from secagg.task import Task
from secagg.testing._expected import expected_outcome, updates_for, weight_for
from secagg.testing._material import MemoryStore, RequirementError, clock_for_tests, require, rng_for_tests
from secagg.testing._parties import SESSION, Parties

Tamper = Callable[[str, bytes], None]


class Session:
    """One session with all its parties, message by message.

    ``silent`` maps a party to the round before whose message it falls silent. ``contribute=False`` leaves the
    clients without their updates: call :meth:`contribute` for each. ``seed`` determines all randomness.

    Each hook is called with a party and the message that it gets (a request, a message handed on) or gives (an
    answer): ``before_request``, ``after_request``, ``before_answer``, ``after_answer`` and ``before_relay``. A hook
    does what it needs to ``members`` and ``server`` itself. ``order`` sorts the senders of the answers of a round.

    Afterwards ``requests`` and ``answers`` have every message by party and round, ``gone`` the parties that fell
    silent, and ``stores`` the states that each role saved.
    """

    def __init__(
        self,
        parties: Parties,
        *,
        task: Task | None = None,
        session: bytes = SESSION,
        seed: bytes = b"",
        silent: Mapping[str, str] | None = None,
        contribute: bool = True,
    ) -> None:
        self.parties, self.task, self.silent = parties, task or parties.task, silent or {}
        self.stores = defaultdict[str, MemoryStore](MemoryStore)
        self._server_rng = rng_for_tests(seed)  # a restored server goes on with it
        self.server: Server[Any] = self.task.server(
            parties.cohort,
            roster=parties.roster,
            session=session,
            save=self.stores[wire.SERVER],
            rng=self._server_rng,
            beacon=parties.beacon,
        )
        makers: dict[PartyRole, Callable[..., Member[Any]]] = {
            PartyRole.CLIENT: self.task.client,
            PartyRole.DECRYPTOR: self.task.decryptor,
            PartyRole.AGGREGATOR: self.task.aggregator,
        }
        self.members: dict[str, Member[Any]] = {
            party: makers[role](
                party,
                identity=parties.identities.get(party),
                roster=parties.roster,
                session=session,
                save=self.stores[party],
                rng=rng_for_tests(seed + party.encode()),
                clock=clock_for_tests,
                **parties.key(party),
            )
            for party, role in parties.roles.items()
        }
        self.updates = updates_for(self.task, parties.cohort)
        if contribute:
            for party in parties.cohort:
                self.contribute(party)
        self.requests: dict[tuple[str, str], bytes] = {}  # by party and round
        self.answers: dict[tuple[str, str], bytes] = {}
        self.gone: dict[str, str] = {}  # the parties that fell silent, with the round
        self._passed_on: set[tuple[str, bytes]] = set()
        self.before_request: Tamper = _nothing
        self.after_request: Tamper = _nothing
        self.before_answer: Tamper = _nothing
        self.after_answer: Tamper = _nothing
        self.before_relay: Tamper = _nothing
        self.order: Callable[[list[str]], list[str]] = list

    @property
    def round(self) -> str:
        """The open round."""
        return self.server.round or ""

    def contribute(self, party: str) -> None:
        """Give a client its update, and its weight if the task has weights."""
        weight = None if self.task.max_weight is None else weight_for(self.task, party)
        self.members[party].contribute(self.updates[party], weight)  # type: ignore[attr-defined]

    def run(self) -> Outcome:
        """Run the session to its end. Raises ``Aborted`` as the server does."""
        outbox = self.server.start()
        while self.server.outcome is None:
            self.exchange(outbox)
            outbox = self.server.close_round()
        return self.server.outcome

    def exchange(self, outbox: Outbox) -> None:
        """Deliver the requests of one round, then the answers to them."""
        name, answers = self.round, dict[str, bytes]()
        for party, request in outbox.items():
            if self.silent.get(party) == name and party not in self.gone:
                self.gone[party] = name
            if party in self.gone:
                continue
            self.before_request(party, request)
            answer = self.members[party].receive(request)
            self.requests[party, name] = request
            if answer is not None:
                self.answers[party, name] = answers[party] = answer
            self.after_request(party, request)
        for party in self.order(list(answers)):
            self.before_answer(party, answers[party])
            self.pass_on(self.server.receive(party, answers[party]))
            self.after_answer(party, answers[party])

    def pass_on(self, outbox: Outbox) -> None:
        """Deliver the messages that the server hands on, each one once."""
        for party, data in outbox.items():
            if party not in self.gone and (party, data) not in self._passed_on:
                self._passed_on.add((party, data))
                self.before_relay(party, data)
                self.members[party].receive(data)

    def restore(self, party: str, state: bytes) -> None:
        """Replace the role of ``party`` by one restored from ``state``."""
        self.members[party] = type(self.members[party]).from_bytes(
            state,
            self.task,
            Environment(
                identity=self.parties.identities.get(party),
                roster=self.parties.roster,
                save=self.stores[party],
                clock=clock_for_tests,
                **self.parties.key(party),
            ),
        )

    def _take_up_again(self, party: str, state: bytes) -> None:
        """Restore a role to ``state`` although it gave the session up later and saved that."""
        self.stores[party].number = -1
        self.restore(party, state)

    def restore_server(self, state: bytes) -> None:
        """Replace the server by one restored from ``state``."""
        self.server = self.task.restore_server(
            state,
            roster=self.parties.roster,
            save=self.stores[wire.SERVER],
            beacon=self.parties.beacon,
            rng=self._server_rng,
        )

    def refused_by(self, party: str, data: bytes, what: str) -> None:
        """Require that ``party`` refuses ``data`` and does not change.

        A party that gives the session up because of ``data`` is restored.
        """
        member = self.members[party]
        before, faults = member.to_bytes(), len(getattr(member, "faults", ()))
        try:
            answer = member.receive(data)
        except RemoteProtocolError:
            pass
        except Aborted:
            require(member.finished, f"{party} finished after Aborted", "one that still waits")
            self._take_up_again(party, before)
            return
        else:
            refused = answer is None and len(getattr(member, "faults", ())) > faults
            require(refused, f"{party} to refuse {what} in {self.round}", "a client that took it")
            if member.finished:
                self._take_up_again(party, before)
                return
        require(member.to_bytes() == before, f"{party} unchanged by {what} in {self.round}", "another state")

    def refused_by_server(self, sender: str, data: bytes, what: str) -> None:
        """Require that the server marks ``sender`` for ``data``, hands nothing on and still awaits the same."""
        server, where = self.server, f"{what} of {sender} in {self.round or 'no round'}"
        pending, faults = server.pending, server.faults
        outbox = server.receive(sender, data)
        marked = len(server.faults) > len(faults) and server.faults[-1].sender == sender
        require(marked, f"a fault for {where}", server.faults[len(faults) :])
        require(not outbox, f"nothing to hand on for {where}", sorted(outbox))
        require(server.pending == pending, f"pending as it was after {where}", sorted(server.pending))

    def ignored_by_server(self, sender: str, data: bytes, what: str) -> None:
        """Require that the server ignores ``data``, which it took before: no fault, no change."""
        server, where = self.server, f"{what} of {sender} in {self.round or 'no round'}"
        before, faults = server.to_bytes(), server.faults
        outbox = server.receive(sender, data)
        require(not outbox, f"nothing to hand on for {where}", sorted(outbox))
        require(server.faults == faults, f"no fault for {where}", server.faults[len(faults) :])
        require(server.to_bytes() == before, f"a server unchanged by {where}", "another state")

    def expected_survivors(self) -> tuple[str, ...]:
        """The clients that sent their input, by the rounds in which others fell silent."""
        named = [phase.round for phase in self.parties.protocol.phases]
        early = set(named[: named.index(input_round(self.parties.protocol)) + 1])
        return tuple(sorted(party for party in self.parties.cohort if self.gone.get(party) not in early))

    def require_exact(self, outcome: Outcome, when: str) -> None:
        """Require the exact sum over exactly the survivors."""
        survivors = self.expected_survivors()
        require(outcome.survivors == survivors, f"the survivors {survivors} {when}", outcome.survivors)
        dropped = {party: outcome.dropped.get(party) for party in self.gone if party in self.parties.cohort}
        gone = {party: name for party, name in self.gone.items() if party in self.parties.cohort}
        require(dropped == gone, f"{gone} as dropped {when}", dict(outcome.dropped))
        self.require_sum(outcome, when)

    def require_sum(self, outcome: Outcome, when: str) -> None:
        """Require the exact sum over the survivors that ``outcome`` names, whichever they are."""
        summed, mean, weight = expected_outcome(self.task, self.server.session, self.updates, outcome.survivors)
        for name, expected, got in (
            *(("sum", summed[leaf], outcome.sum[leaf]) for leaf in summed),
            *(("mean", mean[leaf], outcome.mean[leaf]) for leaf in mean),
        ):
            require(np.array_equal(expected, got), f"the exact {name} {when}: {expected!r}", repr(got))
        require(outcome.total_weight == weight, f"total weight {weight} {when}", outcome.total_weight)

    def require_completes(self, when: str) -> None:
        """Run the session to its end and require the exact sum."""
        try:
            outcome = self.run()
        except Aborted as aborted:
            raise RequirementError(f"the session to complete {when}", f"Aborted: {aborted}") from aborted
        except RemoteProtocolError as error:
            raise RequirementError(f"the true bytes to be taken {when}", str(error)) from error
        self.require_exact(outcome, when)


def _nothing(party: str, data: bytes) -> None:
    """The hook that does nothing."""

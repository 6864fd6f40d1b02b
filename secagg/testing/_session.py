"""A session with all its parties in one process, message by message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import wire
from secagg.errors import Aborted, FaultKind, RemoteProtocolError
from secagg.roles.environment import Environment, Lent
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.store import Ledger
from secagg.table import Refusal, input_round
from secagg.task import Task
from secagg.testing._expected import expected_outcome, updates_for, weight_for
from secagg.testing._material import MemoryStore, RequirementError, clock_for_tests, require, rng_for_tests
from secagg.testing._parties import SESSION, Parties

Hook = Callable[[str, bytes], bytes | Sequence[bytes] | None]
Change = Callable[[Any, bytes], tuple[wire.Message, bytes]]


class Session:
    """One session with all its parties, message by message.

    ``task`` is by default that of ``parties``, and ``session`` is the session's name. ``silent`` maps a party to
    the round before whose message it falls silent. ``contribute=False`` leaves the clients without their updates:
    call :meth:`contribute` for each, after a change of ``updates`` if others are wanted. ``seed`` determines all
    randomness. ``ledgers`` are those of an earlier session, by party.

    Each hook is called with a party and the message that it gets (a request, a message handed on) or gives (an
    answer, a word on a message handed on): ``before_request``, ``before_answer``, ``before_relay`` and
    ``before_word`` before the message is delivered, ``after_request`` and ``after_answer`` when it was taken. A
    hook does what it needs to ``members`` and ``server`` itself. What a ``before_`` hook returns is delivered in
    the message's place: None for the message as it is, one message, several, or an empty list. ``order`` sorts the
    senders of the answers of a round.

    What a member raises is raised to the caller, unless ``refusals`` is a dict: then it is kept there by party, and
    the session goes on without an answer.

    ``outbox`` has the requests of the open round. Afterwards ``requests`` and ``answers`` have every message by
    party and round, ``handed`` what was handed on to a party in a round, each with its word or None, ``gone`` the
    parties that fell silent, and ``stores`` the states that each role saved.

    In the methods, ``party`` and ``sender`` are ids, and ``when`` and ``what`` are words for the text of a
    :class:`RequirementError`: when in the session the requirement holds, and which bytes are meant.
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
        ledgers: Mapping[str, Ledger] | None = None,
    ) -> None:
        self.parties, self.task, self.silent = parties, task or parties.task, silent or {}
        self.name, self.seed = session, seed
        self.stores = defaultdict[str, MemoryStore](MemoryStore)
        for party, ledger in (ledgers or {}).items():
            self.stores[party].ledger = ledger
        self._server_rng = rng_for_tests(seed)  # a restored server goes on with it
        self.server: Server[Any] = self.task.server(
            parties.cohort,
            roster=parties.roster,
            session=session,
            save=self.stores[wire.SERVER],
            rng=self._server_rng,
            beacon=parties.beacon,
        )
        self.members: dict[str, Any] = {party: self.make(party) for party in parties.roles}
        self.updates = updates_for(self.task, parties.cohort)
        if contribute:
            for party in parties.cohort:
                self.contribute(party)
        self.outbox: Outbox | None = None
        self.requests: dict[tuple[str, str], bytes] = {}  # by party and round
        self.answers: dict[tuple[str, str], bytes] = {}
        self.handed = defaultdict[tuple[str, str], list[tuple[bytes, bytes | None]]](list)
        self.gone: dict[str, str] = {}  # the parties that fell silent, with the round
        self.refusals: dict[str, RemoteProtocolError | Aborted] | None = None
        self.before_request: Hook = _nothing
        self.after_request: Hook = _nothing
        self.before_answer: Hook = _nothing
        self.after_answer: Hook = _nothing
        self.before_relay: Hook = _nothing
        self.before_word: Hook = _nothing
        self.order: Callable[[list[str]], list[str]] = list

    @property
    def round(self) -> str:
        """The open round."""
        return self.server.round or ""

    @property
    def ledgers(self) -> dict[str, Ledger]:
        """The ledgers of all members, for a later session of the same parties."""
        return {party: ledger for party in self.members if (ledger := self.stores[party].ledger) is not None}

    @property
    def faults(self) -> list[tuple[str, str, FaultKind]]:
        """Sender, round and kind of each fault that the server recorded, silence apart."""
        kept = self.server.faults
        return [(fault.sender, fault.round, fault.kind) for fault in kept if fault.kind is not FaultKind.SILENT]

    def lent(self, party: str) -> Lent:
        """What the caller of ``party`` lends its role; the source of randomness is lent to a new role only."""
        return {
            "identity": self.parties.identities.get(party),
            "roster": self.parties.roster,
            "save": self.stores[party],
            "clock": clock_for_tests,
            "beacon": self.parties.beacon,
            "key": self.parties.long_lived.get(party),
        }

    def make(self, party: str, *, session: bytes | None = None, **changes: Unpack[Lent]) -> Any:
        """Return a new role of ``party``; ``members`` stays as it is.

        ``session`` is the name of the session that it takes part in, by default this one. ``changes`` replace some
        of the things that its caller lends it.
        """
        lent: Lent = {**self.lent(party), "rng": rng_for_tests(self.seed + party.encode()), **changes}
        role = self.parties.roles[party]
        return self.task.protocol.role_classes[role](
            self.task, party, Environment(**lent), session=self.name if session is None else session
        )

    def contribute(self, party: str) -> None:
        """Give a client its update, and its weight if the task has weights."""
        self.members[party].contribute(self.updates[party], self.weight(party))

    def weight(self, party: str) -> int | None:
        """The weight of a client's update; None where the task has no weights."""
        return None if self.task.max_weight is None else weight_for(self.task, party)

    def run(self) -> Outcome:
        """Run the session to its end, from where it stands. Raises ``Aborted`` as the server does."""
        self.until(None)
        assert self.server.outcome is not None
        return self.server.outcome

    def until(self, name: str | None) -> Outbox:
        """Run the session until the round ``name`` opens, and return its requests."""
        if self.outbox is None:
            self.outbox = self.server.start()
        while self.server.outcome is None and self.server.round != name:
            self.exchange(self.outbox)
            self.close()
        return self.outbox

    def close(self) -> Outbox:
        """Close the open round, and return the requests of the next one."""
        self.outbox = self.server.close_round()
        return self.outbox

    def exchange(self, outbox: Outbox) -> None:
        """Deliver the requests of one round, then the answers to them.

        A party that the server no longer waits for is told so, and its answer does not count.
        """
        name, answers = self.round, dict[str, bytes]()
        for party, request in outbox.items():
            if self.silent.get(party) == name and party not in self.gone:
                self.gone[party] = name
            if party in self.gone:
                continue
            if party not in self.server.pending:
                with suppress(Aborted, RemoteProtocolError):
                    self.members[party].receive(request)
                continue
            for data in _instead(self.before_request, party, request):
                self.requests[party, name] = data
                if (answer := self._received(party, data)) is not None:
                    self.answers[party, name] = answers[party] = answer
            self.after_request(party, request)
        for party in self.order(list(answers)):
            self.deliver(party, answers[party])

    def _received(self, party: str, data: bytes) -> bytes | None:
        try:
            answer: bytes | None = self.members[party].receive(data)
        except (Aborted, RemoteProtocolError) as refusal:
            if self.refusals is None:
                raise
            self.refusals.setdefault(party, refusal)
            return None
        return answer

    def ask(self, party: str) -> bytes:
        """Return the answer of ``party`` to its request in the open round, without delivering it."""
        assert self.outbox is not None
        answer: bytes | None = self.members[party].receive(self.outbox[party])
        assert answer is not None, f"{party} said nothing in {self.round}"
        return answer

    def deliver(self, party: str, answer: bytes) -> None:
        """Give the server an ``answer`` of ``party``, and others what the server hands on."""
        for data in _instead(self.before_answer, party, answer):
            self.pass_on(self.server.receive(party, data))
        self.after_answer(party, answer)

    def pass_on(self, outbox: Outbox) -> None:
        """Deliver the messages that the server hands on, and to the server what their receivers answer."""
        for party, message in outbox.items():
            if self.silent.get(party) == self.round and party not in self.gone:
                self.gone[party] = self.round
            if party in self.gone:
                continue
            for data in _instead(self.before_relay, party, message):
                word = self._received(party, data)
                self.handed[party, self.round].append((data, word))
                if word is not None:
                    for word_data in _instead(self.before_word, party, word):
                        self.pass_on(self.server.receive(party, word_data))

    def seal(
        self,
        message: wire.Message,
        payload: bytes = b"",
        sender: str = wire.SERVER,
        *,
        session: bytes | None = None,
        identity: Ed25519PrivateKey | None = None,
    ) -> bytes:
        """Seal a ``message`` in the name of ``sender``, by its own key or by ``identity``.

        ``payload`` are the vectors that follow. ``session`` is the id of the session, by default of this one.
        """
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=self.server.context.state.session_id if session is None else session,
            sender=sender,
            payload=payload,
            identity=identity or self.parties.identities.get(sender),
        )

    def changed(self, answer: bytes, change: Change) -> bytes:
        """Return ``answer`` with its content changed, sealed by its own sender.

        ``change`` maps the message and the bytes behind it to others.
        """
        envelope = wire.Envelope.parse(answer, len(answer))
        kind = next(phase.reply for phase in self.task.protocol.phases if envelope.kind == phase.reply.TYPE)
        message, payload = envelope.open(kind)
        return self.seal(*change(message, bytes(payload)), envelope.sender, session=envelope.session)

    def restore(self, party: str, state: bytes, **changes: Unpack[Lent]) -> Any:
        """Replace the role of ``party`` by one restored from ``state``, and return it.

        ``changes`` replace some of the things that its caller lends it.
        """
        lent: Lent = {**self.lent(party), **changes}
        kind = self.task.protocol.role_classes[self.parties.roles[party]]
        self.members[party] = kind.from_bytes(state, self.task, Environment(**lent))
        return self.members[party]

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
            silent = answer is None or wire.Envelope.parse(answer, len(answer)).kind == Refusal.TYPE
            refused = silent and len(getattr(member, "faults", ())) > faults
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
        self.require_sum_of(outcome, self.expected_survivors(), when)
        dropped = {party: outcome.dropped.get(party) for party in self.gone if party in self.parties.cohort}
        gone = {party: name for party, name in self.gone.items() if party in self.parties.cohort}
        require(dropped == gone, f"{gone} as dropped {when}", dict(outcome.dropped))

    def require_sum_of(self, outcome: Outcome, survivors: Iterable[str], when: str = "at the end") -> None:
        """Require the exact sum over ``survivors``."""
        expected = tuple(sorted(survivors))
        require(outcome.survivors == expected, f"the survivors {expected} {when}", outcome.survivors)
        self.require_sum(outcome, when)

    def require_sum(self, outcome: Outcome, when: str = "at the end") -> None:
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


def _instead(hook: Hook, party: str, data: bytes) -> Sequence[bytes]:
    """What is delivered in the place of ``data``."""
    instead = hook(party, data)
    if instead is None:
        return [data]
    return [instead] if isinstance(instead, bytes) else instead

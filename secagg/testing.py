"""For the tests of protocols, ours and anyone's: :func:`check_protocol`, in the manner of check_estimator.

It plays whole sessions with every party of the roster in this process and knows nothing of a
protocol but its table and the bytes between the parties. Needs neither pytest nor hypothesis. What is
drawn here is drawn from a seed: nothing in this module belongs into a deployment.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from mpc.keys import seeded_rng
from secagg import wire
from secagg._machine import Member
from secagg._server import Outbox, Outcome, Server
from secagg.encoding import AnyFloat, Decoded, FixedPoint, Lanes, Rng, Segment
from secagg.errors import Aborted, ConfigError, LocalProtocolError, RemoteProtocolError
from secagg.identity import Party, PartyRole, Roster
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol, input_round, rounds
from secagg.store import MemoryLedger
from secagg.task import Task

SESSION = b"check"
COST_TOLERANCE = 0.01  # of the stated bytes; and 16 bytes, for lengths that are written shorter
PARTIES = {PartyRole.DECRYPTOR: 1, PartyRole.AGGREGATOR: 2}

Numbers = dict[str, NDArray[Any]]
Tamper = Callable[[str, bytes], None]


class ProtocolCheckError(AssertionError):
    """A protocol that breaks its contract: which ``check`` saw it, what was ``expected``, what was ``got``."""

    def __init__(self, check: str, expected: str, got: str) -> None:
        super().__init__(f"{check}: expected {expected}; got {got}")
        self.check, self.expected, self.got = check, expected, got


def rng_for_tests(seed: bytes) -> Callable[[int], bytes]:
    """A generator in the place of ``os.urandom`` that repeats itself, so that sessions can be replayed.

    For tests and published transcripts: whoever knows ``seed`` (any bytes) knows all that a role
    draws. The stream is AES-256-CTR under HKDF-SHA256 of SHA-256(``seed``); see ``mpc.keys.seeded_rng``.
    """
    return seeded_rng(hashlib.sha256(seed).digest(), salt=b"", info=b"secagg/v1/rng-for-tests")


def check_protocol(
    protocol: AggregationProtocol,
    *,
    clients: int = 5,
    parties: Mapping[PartyRole, int] | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> list[str]:
    """Hold ``protocol`` to what every protocol promises; returns the names of the checks that ran.

    ``clients`` take part, under the least ``min_survivors`` that the protocol accepts for them;
    ``parties`` says how many are enrolled in each other role of its table (by default one
    decryptor, two aggregators). A check named in ``expected_failed_checks`` (name to reason) must fail.
    Everyone gets the least identities that the protocol accepts: none, if a server can be made
    without a roster. Raises :class:`ProtocolCheckError` for the first check that fails, and
    ``ConfigError`` if no ``min_survivors`` up to ``clients`` is accepted.
    """
    expected = dict(expected_failed_checks or {})
    if unknown := sorted(set(expected) - set(CHECKS)):
        raise ConfigError(f"got unknown checks {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    casting = cast(protocol, clients, parties or PARTIES)
    for name, check in CHECKS.items():
        try:
            check(casting)
        except _Broken as broken:
            failure = ProtocolCheckError(name, *broken.args)
        except Exception as error:
            failure = ProtocolCheckError(name, "no exception to escape", f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        else:
            if name in expected:
                raise ProtocolCheckError(name, f"a failure ({expected[name]})", "none: take it off the list")
            continue
        if name not in expected:
            raise failure
    return list(CHECKS)


class _Broken(Exception):  # noqa: N818 - becomes a ProtocolCheckError with the check's name
    """What was expected, and what happened."""


def _require(holds: object, expected: str, got: object) -> None:
    if not holds:
        raise _Broken(expected, f"{got!s:.500}")


@dataclass(frozen=True)
class Integers:
    """An encoding whose sums can be read to the last bit, over segments of any kind.

    ``shapes`` has (length, bound, modulus) of each segment. An update is one float64 vector: the upper
    parts of all integers, then their lower 31 bits; so is the sum.
    """

    shapes: tuple[tuple[int, int, int | None], ...]

    @property
    def layout(self) -> Layout:
        """The layout that goes with it."""
        return Layout.of({"halves": np.zeros(2 * sum(length for length, *_ in self.shapes))})

    def segments(self, layout: Layout, max_weight: int | None) -> tuple[Segment, ...]:
        """See :class:`secagg.encoding.Encoding`."""
        return tuple(Segment(*shape) for shape in self.shapes)

    def encode(
        self, vector: AnyFloat, *, layout: Layout, weight: int | None, max_weight: int | None, rng: Rng
    ) -> list[Lanes]:
        """The integers themselves."""
        high, low = vector.astype(np.uint64).reshape(2, -1)
        cuts = np.cumsum([length for length, *_ in self.shapes])[:-1]
        parts = np.split(high << np.uint64(31) | low, cuts)
        return [
            part.astype(np.uint32 if bound < 1 << 32 else np.uint64)
            for part, (_, bound, _) in zip(parts, self.shapes, strict=True)
        ]

    def decode(
        self, sums: Sequence[Lanes], *, layout: Layout, survivors: int, max_weight: int | None
    ) -> Decoded:
        """The sums themselves, modulo what only matters modulo that."""
        reduced = [
            [int(total) % (modulus or 1 << 64) for total in part]
            for part, (_, _, modulus) in zip(sums, self.shapes, strict=True)
        ]
        total = self.halves([number for part in reduced for number in part])
        return Decoded(total, total / survivors, survivors, None)

    def halves(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """``numbers`` as an update."""
        return np.array([n >> 31 for n in numbers] + [n & (1 << 31) - 1 for n in numbers], np.float64)


class _MemoryStore:
    """Keeps the newest state, and holds the role to rising numbers."""

    def __init__(self) -> None:
        self.ledger, self.number, self.state = MemoryLedger(), -1, b""

    def __call__(self, number: int, state: bytes) -> None:
        _require(number > self.number, "rising numbers of saved states", f"{number} after {self.number}")
        self.number, self.state = number, state


@dataclass(frozen=True)
class Casting:
    """A protocol with enough parties to play it: a cohort and everyone enrolled beside it."""

    protocol: AggregationProtocol
    cohort: tuple[str, ...]
    roles: Mapping[str, PartyRole]
    identities: Mapping[str, Ed25519PrivateKey]
    roster: Roster | None
    min_survivors: int

    @cached_property
    def task(self) -> Task:
        """The least task of all: a few weighted coordinates."""
        return self.make_task()

    def make_task(self, **changes: Any) -> Task:
        """The least task with some fields changed."""
        plain: dict[str, Any] = {
            "protocol": self.protocol,
            "layout": Layout.of({"w": np.zeros(5, np.float32)}),
            "encoding": FixedPoint(clip=1.0, bits=12, rounding="nearest"),
            "max_clients": len(self.cohort),
            "min_survivors": self.min_survivors,
            "max_weight": 9,
            "context": b"check_protocol",
        }
        return Task(**(plain | changes))

    @property
    def silences(self) -> Iterator[tuple[str, PartyRole]]:
        """The rounds of the table, each with the role that it asks."""
        return ((phase.round, phase.role) for phase in self.protocol.phases)


def cast(protocol: AggregationProtocol, clients: int, parties: Mapping[PartyRole, int]) -> Casting:
    """Identities where they are needed, and the least ``min_survivors`` that is accepted."""
    cohort = tuple(wire.stand_in_ids(clients))
    others = {phase.role for phase in protocol.phases} - {PartyRole.CLIENT}
    roles = dict.fromkeys(cohort, PartyRole.CLIENT)
    roles |= {f"{role}-{number}": role for role in sorted(others) for number in range(1, parties[role] + 1)}
    keys = {party: Ed25519PrivateKey.from_private_bytes(rng_for_tests(party.encode())(32)) for party in roles}
    roster = Roster(Party(party, roles[party], key.public_key().public_bytes_raw()) for party, key in keys.items())
    refusal: ConfigError | None = None
    for given in ((roster,) if others else (None, roster)):
        for least in range(1, clients + 1):
            casting = Casting(protocol, cohort, roles, keys if given else {}, given, least)
            try:
                casting.task.server(cohort, roster=given, session=SESSION)
            except ConfigError as error:
                refusal = error
                continue
            return casting
    raise ConfigError(f"got no task for {clients} clients that {protocol.name} accepts: {refusal}")


class Play:
    """One session with all its parties, message by message.

    The four hooks see each message on its way, before it is delivered and after it was taken; what
    they need they do to ``members`` and ``server`` themselves. ``silent`` maps a party to the round
    before whose message it falls silent.
    """

    def __init__(
        self,
        casting: Casting,
        *,
        task: Task | None = None,
        session: bytes = SESSION,
        seed: bytes = b"",
        silent: Mapping[str, str] | None = None,
        contribute: bool = True,
    ) -> None:
        self.casting, self.task, self.silent = casting, task or casting.task, silent or {}
        self.stores = defaultdict[str, _MemoryStore](_MemoryStore)
        self.server: Server[Any] = self.task.server(
            casting.cohort,
            roster=casting.roster,
            session=session,
            save=self.stores[wire.SERVER],
            rng=rng_for_tests(seed),
        )
        makers: dict[PartyRole, Callable[..., Member[Any]]] = {
            PartyRole.CLIENT: self.task.client,
            PartyRole.DECRYPTOR: self.task.decryptor,
            PartyRole.AGGREGATOR: self.task.aggregator,
        }
        self.members: dict[str, Member[Any]] = {
            party: makers[role](
                party,
                identity=casting.identities.get(party),
                roster=casting.roster,
                session=session,
                save=self.stores[party],
                rng=rng_for_tests(seed + party.encode()),
            )
            for party, role in casting.roles.items()
        }
        self.updates = _updates(self.task, casting.cohort)
        if contribute:
            for party in casting.cohort:
                self.contribute(party)
        self.requests: dict[tuple[str, str], bytes] = {}  # by party and round
        self.answers: dict[tuple[str, str], bytes] = {}
        self.gone: dict[str, str] = {}  # who did fall silent, and when
        self._passed_on: set[tuple[str, bytes]] = set()
        self.before_request: Tamper = _nothing
        self.after_request: Tamper = _nothing
        self.before_answer: Tamper = _nothing
        self.after_answer: Tamper = _nothing
        self.order: Callable[[list[str]], list[str]] = list

    @property
    def round(self) -> str:
        """The open round."""
        return self.server.round or ""

    def contribute(self, party: str) -> None:
        """Give a client its update, and its weight where there are weights."""
        weight = None if self.task.max_weight is None else _weight(self.task, party)
        self.members[party].contribute(self.updates[party], weight)  # type: ignore[attr-defined]

    def run(self) -> Outcome:
        """Play to the end; ``Aborted`` as the server raises it."""
        outbox = self.server.start()
        while self.server.outcome is None:
            self.exchange(outbox)
            outbox = self.server.close_round()
        return self.server.outcome

    def exchange(self, outbox: Outbox) -> None:
        """Deliver requests, then the answers to them."""
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
            self._pass_on(self.server.receive(party, answers[party]))
            self.after_answer(party, answers[party])

    def _pass_on(self, outbox: Outbox) -> None:
        for party, data in outbox.items():
            if party not in self.gone and (party, data) not in self._passed_on:
                self._passed_on.add((party, data))
                self.members[party].receive(data)

    def restore(self, party: str, state: bytes) -> None:
        """Put a role that was saved as ``state`` in the place of ``party``'s."""
        self.members[party] = type(self.members[party]).from_bytes(
            state,
            self.task,
            identity=self.casting.identities.get(party),
            roster=self.casting.roster,
            save=self.stores[party],
        )

    def restore_server(self, state: bytes) -> None:
        """The same for the server."""
        self.server = type(self.server).from_bytes(
            state, self.task, roster=self.casting.roster, save=self.stores[wire.SERVER]
        )

    def refused_by(self, party: str, data: bytes, what: str) -> None:
        """Require that ``party`` refuses ``data`` and is as it was; a session given up is taken up again."""
        member = self.members[party]
        before, faults = member.to_bytes(), len(getattr(member, "faults", ()))
        try:
            answer = member.receive(data)
        except RemoteProtocolError:
            pass
        except Aborted:
            _require(member.finished, f"{party} finished after Aborted", "one that still waits")
            self.restore(party, before)
            return
        else:
            told = answer is None and len(getattr(member, "faults", ())) > faults
            _require(told, f"{party} to refuse {what} in {self.round}", "a client that took it")
            if member.finished:
                self.restore(party, before)
                return
        _require(member.to_bytes() == before, f"{party} unchanged by {what} in {self.round}", "another state")

    def refused_by_server(self, sender: str, data: bytes, what: str) -> None:
        """Require that the server marks ``sender`` for ``data``, hands nothing on and still awaits the same."""
        server, where = self.server, f"{what} of {sender} in {self.round or 'no round'}"
        pending, faults = server.pending, server.faults
        outbox = server.receive(sender, data)
        marked = len(server.faults) > len(faults) and server.faults[-1].sender == sender
        _require(marked, f"a fault for {where}", server.faults[len(faults) :])
        _require(not outbox, f"nothing to hand on for {where}", sorted(outbox))
        _require(server.pending == pending, f"pending as it was after {where}", sorted(server.pending))

    def expected_survivors(self) -> tuple[str, ...]:
        """Who had sent its input when it fell silent, if it did."""
        named = [phase.round for phase in self.casting.protocol.phases]
        early = set(named[: named.index(input_round(self.casting.protocol)) + 1])
        return tuple(sorted(party for party in self.casting.cohort if self.gone.get(party) not in early))

    def require_exact(self, outcome: Outcome, when: str) -> None:
        """Require the exact sum over exactly the survivors."""
        survivors = self.expected_survivors()
        _require(outcome.survivors == survivors, f"the survivors {survivors} {when}", outcome.survivors)
        told = {party: outcome.dropped.get(party) for party in self.gone if party in self.casting.cohort}
        gone = {party: name for party, name in self.gone.items() if party in self.casting.cohort}
        _require(told == gone, f"{gone} as dropped {when}", dict(outcome.dropped))
        summed, mean, weight = _expected(self.task, self.updates, survivors)
        for name, expected, got in (
            *(("sum", summed[leaf], outcome.sum[leaf]) for leaf in summed),
            *(("mean", mean[leaf], outcome.mean[leaf]) for leaf in mean),
        ):
            _require(np.array_equal(expected, got), f"the exact {name} {when}: {expected!r}", repr(got))
        _require(outcome.total_weight == weight, f"total weight {weight} {when}", outcome.total_weight)

    def require_completes(self, when: str) -> None:
        """Play to the end and require the exact sum."""
        try:
            outcome = self.run()
        except Aborted as aborted:
            raise _Broken(f"the session to complete {when}", f"Aborted: {aborted}") from aborted
        except RemoteProtocolError as error:
            raise _Broken(f"the true bytes to be taken {when}", str(error)) from error
        self.require_exact(outcome, when)


def _nothing(party: str, data: bytes) -> None:
    """The hook that does nothing."""


def _updates(task: Task, cohort: Iterable[str]) -> dict[str, Numbers]:
    """An update for each client, extremes and clipped coordinates among them."""
    updates: dict[str, Numbers] = {}
    for place, party in enumerate(cohort):
        draw = np.random.default_rng(place)
        if isinstance(task.encoding, Integers):
            numbers: list[int] = []
            for length, bound, _ in task.encoding.shapes:
                numbers += [bound, 0, bound // 2 + place][:length]
                numbers += (int(n) for n in draw.integers(0, bound, max(0, length - 3), endpoint=True))
            updates[party] = {"halves": task.encoding.halves(numbers)}
            continue
        updates[party] = {
            leaf.name: np.asarray(draw.uniform(-1.3, 1.3, leaf.shape)).astype(leaf.dtype)
            for leaf in task.layout.leaves
        }
    return updates


def _weight(task: Task, party: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(party.encode()).digest()[:4], "big") % (task.max_weight or 1)


def _expected(task: Task, updates: Mapping[str, Numbers], survivors: Iterable[str]) -> tuple[Numbers, Numbers, int]:
    """Sum, mean and total weight by Python's integers, from what each survivor's encoding is."""
    totals = [[0] * segment.length for segment in task.segments]
    number = 0
    for number, party in enumerate(survivors, 1):
        encoded = task.encoding.encode(
            task.layout.flatten(updates[party]),
            layout=task.layout,
            weight=None if task.max_weight is None else _weight(task, party),
            max_weight=task.max_weight,
            rng=rng_for_tests(b"not drawn from: rounding is to nearest"),
        )
        totals = [
            [total + int(term) for total, term in zip(sums, part, strict=True)]
            for sums, part in zip(totals, encoded, strict=True)
        ]
    reduced = [
        np.array([total % (segment.modulus or 1 << 64) for total in sums], np.uint64)
        for sums, segment in zip(totals, task.segments, strict=True)
    ]
    decoded = task.encoding.decode(reduced, layout=task.layout, survivors=number, max_weight=task.max_weight)
    layout = task.layout
    return layout.restore(decoded.sum, dtype="float64"), layout.restore(decoded.mean), decoded.total_weight


# The checks


def _exact_sums(casting: Casting) -> None:
    """Weighted and unweighted, over leaves of several dtypes and shapes."""
    layouts = (
        {"w": np.zeros(1, np.float64)},
        {"a": np.zeros((), np.float16), "b": np.zeros((2, 3), np.float32), "c": np.zeros(4, np.float64)},
        {"i": np.zeros(3, np.int32), "w": np.zeros(130, np.float32)},
    )
    for layout in map(Layout.of, layouts):
        for bits, max_weight in ((2, None), (16, None), (16, 5000)):
            encoding = FixedPoint(clip=1.0, bits=bits, rounding="nearest")
            task = casting.make_task(layout=layout, encoding=encoding, max_weight=max_weight)
            Play(casting, task=task).require_completes(f"with {bits} bits and max_weight={max_weight}")


def _exact_segments(casting: Casting) -> None:
    """Short, long, wide and modular segments, each of which a protocol may refuse by ConfigError."""
    accepted = 0
    for shapes in (
        ((1, 1, None),),
        ((7, 255, None), (64, (1 << 16) - 1, None), (3, 1, None)),
        ((65, (1 << 20) - 1, 1 << 20),),
        ((5, (1 << 24) - 1, None), (9, (1 << 12) - 1, 1 << 12)),
        ((4, 1 << 40, None), (2, (1 << 57) - 1, None)),
    ):
        encoding = Integers(shapes)
        try:
            task = casting.make_task(layout=encoding.layout, encoding=encoding, max_weight=None)
        except ConfigError:
            continue
        accepted += 1
        Play(casting, task=task).require_completes(f"with segments {shapes}")
    _require(accepted, "one of the kinds of segments to be accepted", "ConfigError for each")


def _silence_of_one(casting: Casting) -> None:
    """One client at a time, before its message of each round; of other roles at least no wrong sum."""
    spare = len(casting.cohort) > casting.min_survivors
    for name, asked in casting.silences:
        for party, role in casting.roles.items():
            if role is not asked:
                continue
            play = Play(casting, silent={party: name})
            if role is PartyRole.CLIENT and spare:
                play.require_completes(f"with {party} silent in {name}")
            else:
                _exact_or_aborted(play, f"with {party} silent in {name}")


def _silence_of_many(casting: Casting) -> None:
    """As many clients as min_survivors allows: all in one round, or spread over the rounds."""
    most, names = len(casting.cohort) - casting.min_survivors, rounds(casting.protocol)
    for name in names:
        for gone in (casting.cohort[:most], casting.cohort[len(casting.cohort) - most :]):
            play = Play(casting, silent=dict.fromkeys(gone, name))
            play.require_completes(f"with {most} silent in {name}")
    spread = {party: names[place % len(names)] for place, party in enumerate(casting.cohort[:most])}
    Play(casting, silent=spread).require_completes(f"with {spread} silent")


def _abort_below_floor(casting: Casting) -> None:
    """Too few inputs are never opened; everyone is told, and nothing goes on afterwards."""
    too_many = len(casting.cohort) - casting.min_survivors + 1
    late = False
    for name in rounds(casting.protocol):
        for count in {too_many, len(casting.cohort)}:
            play = Play(casting, silent=dict.fromkeys(casting.cohort[:count], name))
            when = f"with {count} silent in {name}"
            if late and count < len(casting.cohort):
                _exact_or_aborted(play, when)
                continue
            try:
                play.run()
            except Aborted as aborted:
                _stays_aborted(play, aborted, when)
            else:
                raise _Broken(f"Aborted {when}", "an outcome")
        late |= name == input_round(casting.protocol)


def _stays_aborted(play: Play, aborted: Aborted, when: str) -> None:
    server = play.server
    _require(server.outcome is None and server.round is None, f"no outcome and no open round {when}", server.round)
    for party, data in aborted.outbox.items():
        member = play.members[party]
        if party in play.gone or play.casting.roles[party] is not PartyRole.CLIENT:
            continue
        if not member.finished:
            try:
                member.receive(data)
            except Aborted:
                pass
            else:
                raise _Broken(f"{party} to leave when it is told {when}", "a client that goes on")
        _require(member.finished, f"{party} finished {when}", "one that still waits")
    for (party, _), data in play.answers.items():
        play.refused_by_server(party, data, "a message after the abort")
    try:
        server.close_round()
    except LocalProtocolError:
        return
    raise _Broken(f"LocalProtocolError for close_round() after the abort {when}", "none")


def _exact_or_aborted(play: Play, when: str) -> None:
    try:
        outcome = play.run()
    except Aborted:
        _require(play.server.outcome is None, f"no outcome of an aborted session {when}", play.server.outcome)
    else:
        play.require_exact(outcome, when)


def _missing_contribution(casting: Casting) -> None:
    """Asked for its input without one, a client raises LocalProtocolError and is as it was."""
    play, wanted = Play(casting, contribute=False), input_round(casting.protocol)

    def before_request(party: str, request: bytes) -> None:
        if play.round != wanted or casting.roles[party] is not PartyRole.CLIENT:
            return
        before = play.members[party].to_bytes()
        try:
            play.members[party].receive(request)
        except LocalProtocolError:
            same = play.members[party].to_bytes() == before
            _require(same, f"{party} unchanged when asked without a contribution", "another state")
        else:
            raise _Broken(f"LocalProtocolError from {party} without a contribution", "none")
        play.contribute(party)

    play.before_request = before_request
    play.require_completes("once the updates are there")


def _reordered_answers(casting: Casting) -> None:
    """Answers in another order, to the same sum."""
    for order in (lambda ids: ids[::-1], lambda ids: ids[1::2] + ids[::2]):
        play = Play(casting)
        play.order = order
        play.require_completes("with answers in another order")


def _replayed_messages(casting: Casting) -> None:
    """Each message again: at once, in every later round, after the end."""
    play = Play(casting)

    def after_request(party: str, request: bytes) -> None:
        answer, again = play.answers.get((party, play.round)), None
        before = play.members[party].to_bytes()
        try:
            again = play.members[party].receive(request)
        except RemoteProtocolError:
            again = answer
        _require(again == answer, f"{party} to answer a repeated request as before, or not", "another answer")
        _require(play.members[party].to_bytes() == before, f"{party} unchanged by a repeated request", "another state")
        for (receiver, name), data in play.requests.items():
            if receiver == party and name != play.round:
                play.refused_by(party, data, f"the request of {name}")

    def after_answer(party: str, answer: bytes) -> None:
        for (sender, name), data in play.answers.items():
            if sender == party:
                play.refused_by_server(party, data, f"a replay of {name}")

    play.after_request, play.after_answer = after_request, after_answer
    play.require_completes("with every message replayed")
    for (party, name), data in play.answers.items():
        play.refused_by_server(party, data, f"a replay of {name} after the end")


def _early_messages(casting: Casting) -> None:
    """The messages of later rounds, as an equal session recorded them, before their turn."""
    recorded, play = Play(casting), Play(casting)
    recorded.run()
    names = [phase.round for phase in casting.protocol.phases]

    def later(messages: Mapping[tuple[str, str], bytes], party: str) -> Iterator[tuple[str, bytes]]:
        for name in names[names.index(play.round) + 1 :]:
            if (party, name) in messages:
                yield name, messages[party, name]

    def before_request(party: str, request: bytes) -> None:
        for name, data in later(recorded.requests, party):
            play.refused_by(party, data, f"the request of {name}")

    def before_answer(party: str, answer: bytes) -> None:
        for name, data in later(recorded.answers, party):
            play.refused_by_server(party, data, f"the message of {name}")

    play.before_request, play.before_answer = before_request, before_answer
    play.require_completes("with messages before their turn")


def _tampered(casting: Casting, damage: Callable[[bytes, str], Iterable[bytes]], what: str) -> None:
    """Damaged copies before each true message, both ways; one party's to a session, so that none is
    lost among the faults that a server keeps."""
    for victim in casting.roles:
        play = Play(casting)

        def before_request(party: str, request: bytes, play: Play = play, victim: str = victim) -> None:
            if party == victim:
                for data in damage(request, wire.SERVER):
                    play.refused_by(party, data, what)

        def before_answer(party: str, answer: bytes, play: Play = play, victim: str = victim) -> None:
            if party == victim:
                for data in damage(answer, party):
                    play.refused_by_server(party, data, what)

        play.before_request, play.before_answer = before_request, before_answer
        play.require_completes(f"after {what}")


def _truncated_messages(casting: Casting) -> None:
    """Every message cut short at every class of length, and made longer."""

    def cut(message: bytes, sender: str) -> Iterator[bytes]:
        ends = {0, *(1 << power for power in range(7)), 42, 74, 75, len(message) // 2}
        ends |= {len(message) - gone for gone in (1, 2, 16, 17, 64, 65)}
        yield from (message[:end] for end in sorted(ends) if 0 <= end < len(message))
        yield from (message + b"\0", message + message, bytes(len(message)))

    _tampered(casting, cut, "a truncated or extended message")


def _flipped_bits(casting: Casting) -> None:
    """One bit of each message, in its frame, its body and its trailer."""

    def flip(message: bytes, sender: str) -> Iterator[bytes]:
        step = max(1, len(message) // 16)
        for turn, place in enumerate(sorted({*range(turn := step // 2, len(message), step), 8, len(message) - 1})):
            damaged = bytearray(message)
            damaged[place] ^= 1 << (turn + place) % 8
            yield bytes(damaged)

    _tampered(casting, flip, "a flipped bit")


def _resealed_bodies(casting: Casting) -> None:
    """Bodies with bytes missing or left over under a trailer that holds: the liar is the sender itself."""

    def reseal(message: bytes, sender: str) -> Iterator[bytes]:
        frame = wire.Envelope.parse(message, len(message))
        head = len(message) - len(frame.trailer) - len(frame.body)
        body = bytes(frame.body)
        for changed in (b"", body[:3], body[: len(body) // 2], body[:-1], body + b"\0", bytes(len(body))):
            signed = message[: head - 4] + len(changed).to_bytes(4, "big") + changed
            digest = hashlib.sha256(signed).digest()
            identity = casting.identities.get(sender)
            trailer = digest[: wire.CHECKSUM_BYTES]
            yield signed + (identity.sign(wire.SIGNATURE_LABEL + digest) if identity else trailer)

    _tampered(casting, reseal, "a body of the wrong length under a valid trailer")


def _misattributed_messages(casting: Casting) -> None:
    """One party's message in another's name, or in a stranger's."""
    play = Play(casting)

    def before_answer(party: str, answer: bytes) -> None:
        for other in sorted({"nobody", *casting.cohort} - {party}):
            play.refused_by_server(other, answer, f"a message of {party}")

    play.before_answer = before_answer
    play.require_completes("with messages in others' names")


def _foreign_task(casting: Casting) -> None:
    """Every message of the same session under another task."""
    _foreign(casting, Play(casting, task=replace(casting.task, context=b"another run")), "another task", opening=True)


def _foreign_session(casting: Casting) -> None:
    """Every message of another session, and of a second one under the same name."""
    _foreign(casting, Play(casting, session=b"another", seed=b"another"), "another session", opening=True)
    _foreign(casting, Play(casting, seed=b"again"), "a second session of the same name", opening=False)


def _foreign(casting: Casting, other: Play, what: str, *, opening: bool) -> None:
    """``opening``: whether the very first request is foreign already."""
    other.run()
    play, opened = Play(casting), set[str]()

    def before_request(party: str, request: bytes) -> None:
        if opening or party in opened:
            play.refused_by(party, other.requests[party, play.round], f"the request of {what}")
        opened.add(party)

    def before_answer(party: str, answer: bytes) -> None:
        play.refused_by_server(party, other.answers[party, play.round], f"the message of {what}")

    play.before_request, play.before_answer = before_request, before_answer
    play.require_completes(f"with messages of {what}")


def _restored_bit_for_bit(casting: Casting) -> None:
    """Every role restored before every message that it gets says the same bytes as one that never was."""
    steady, play = Play(casting), Play(casting)
    steady.require_completes("undisturbed")

    def before_request(party: str, request: bytes) -> None:
        play.restore(party, play.members[party].to_bytes())

    def before_answer(party: str, answer: bytes) -> None:
        play.restore_server(play.server.to_bytes())

    play.before_request, play.before_answer = before_request, before_answer
    play.require_completes("with every role restored before every message")
    for what, first, second in (
        ("request", steady.requests, play.requests),
        ("answer", steady.answers, play.answers),
    ):
        differing = [where for where in first if first[where] != second.get(where)]
        _require(not differing, f"the same bytes in every {what} after restoring", f"others at {differing}")


def _restored_after_crash(casting: Casting) -> None:
    """From what ``save`` was given: a member repeats its answer, a server asks again, a round goes on."""
    play = Play(casting)

    def after_request(party: str, request: bytes) -> None:
        answer = play.answers.get((party, play.round))
        play.restore(party, play.stores[party].state)
        again = play.members[party].receive(request)
        _require(again == answer, f"{party}, restored, to repeat its answer in {play.round}", "another answer")

    play.after_request = after_request
    outbox = play.server.start()
    while play.server.outcome is None:
        before_crash = dict(list(outbox.items())[: len(outbox) // 2])
        play.exchange(before_crash)
        play.restore_server(play.stores[wire.SERVER].state)
        again = play.server.start()
        _require(again == outbox, f"a restored server to ask again in {play.round}", f"requests to {sorted(again)}")
        play.exchange(again)
        outbox = play.server.close_round()
    play.require_exact(play.server.outcome, "after a crash of every role in every round")
    play.restore_server(play.stores[wire.SERVER].state)
    _require(play.server.outcome is not None, "a server restored after the end to have its outcome", "none")


def _bytes_as_stated(casting: Casting) -> None:
    """What a client sends and receives is what ``cost`` says, with identities or without.

    Equal within ``COST_TOLERANCE`` and 16 bytes, in at least one of the two ways in which a protocol
    can be run.
    """
    names = rounds(casting.protocol)
    enrolled = cast_enrolled(casting)
    ways = [casting] if enrolled is None else [casting, enrolled]
    differing: dict[str, str] = {}
    for way in ways:
        play = Play(way)
        play.run()
        cost = way.protocol.cost(way.task, list(way.cohort))
        stated = {"up": cost.up, "down": cost.down}
        found = {"up": play.answers, "down": play.requests}
        differing = {}
        for direction, messages in found.items():
            odd = set(stated[direction]) ^ set(names)
            _require(not odd, f"bytes {direction} stated for {', '.join(names)}", sorted(stated[direction]))
            for name in names:
                most = max(len(messages[p, r]) for p, r in messages if r == name and p in way.cohort)
                said = stated[direction][name]
                if abs(most - said) > 16 + COST_TOLERANCE * said:
                    differing[f"{direction} in {name}"] = f"{most} bytes, stated were {said}"
        if not differing:
            return
    raise _Broken("the bytes that cost() states", str(differing))


def cast_enrolled(casting: Casting) -> Casting | None:
    """The same with identities for everyone; None if they have them, or the protocol refuses."""
    if casting.roster is not None:
        return None
    keys = {p: Ed25519PrivateKey.from_private_bytes(rng_for_tests(p.encode())(32)) for p in casting.roles}
    parties = (Party(p, casting.roles[p], key.public_key().public_bytes_raw()) for p, key in keys.items())
    return replace(casting, identities=keys, roster=Roster(parties))


CHECKS: dict[str, Callable[[Casting], None]] = {
    "exact_sums": _exact_sums,
    "exact_segments": _exact_segments,
    "silence_of_one": _silence_of_one,
    "silence_of_many": _silence_of_many,
    "abort_below_floor": _abort_below_floor,
    "missing_contribution": _missing_contribution,
    "reordered_answers": _reordered_answers,
    "replayed_messages": _replayed_messages,
    "early_messages": _early_messages,
    "truncated_messages": _truncated_messages,
    "flipped_bits": _flipped_bits,
    "resealed_bodies": _resealed_bodies,
    "misattributed_messages": _misattributed_messages,
    "foreign_task": _foreign_task,
    "foreign_session": _foreign_session,
    "restored_bit_for_bit": _restored_bit_for_bit,
    "restored_after_crash": _restored_after_crash,
    "bytes_as_stated": _bytes_as_stated,
}

"""What ``bench oneshot`` plays and calls: whole sessions, and openings of sums of up to a thousand clients."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import WrongSum, check
from bench.workers import Here
from bench.workloads import Expected, Workload
from mpc import packed
from secagg import OneShot, simulation, wire
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.oneshot.messages import KeyShareSum, public_seed
from secagg.protocols.oneshot.opening import open_sum
from secagg.table import Round

if TYPE_CHECKING:
    from he.kahe import Scheme

MEMBERS, CORRUPT = 16, 3
BITS = 16
COUNTS = (7, 10, 70, 100, 700, 1000)
"""Clients in an opened sum: 10, 100 and 1,000, and the same with 30 % of them silent."""
ENCRYPT, FOLD = "encrypt", "fold"

_FEW = 4  # clients of a session that only shows the size of an answer


def protocol() -> OneShot:
    """The committee that is measured."""
    return OneShot(members=MEMBERS, corrupt_members=CORRUPT)


@dataclass(frozen=True)
class Large(Workload):
    """A workload whose updates are generated when they are asked for."""

    def updates(self) -> Mapping[str, NDArray[np.float32]]:
        """Updates by client, uniform from -1 to 1."""
        return _Updates(self)


class _Updates(Mapping[str, NDArray[np.float32]]):
    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def __getitem__(self, client: str) -> NDArray[np.float32]:
        number = self._workload.ids.index(client)
        rng = np.random.default_rng((self._workload.seed, number))
        return 2 * rng.random(self._workload.coordinates, np.float32) - 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._workload.ids)

    def __len__(self) -> int:
        return self._workload.clients


class Session(simulation.Session):
    """A simulated session that keeps the seconds of the thread of each call.

    In a round each party does all its work in a row, as on a machine of its own: the clients answer, one after the
    other, then the server takes their answers, and then each other party takes what the server handed on.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.calls: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """See :meth:`secagg.simulation.Session.timed`."""
        began = time.thread_time()
        try:
            return call(*arguments)
        finally:
            self.calls[party, name, call.__name__].append(time.thread_time() - began)

    def _deliver(self, outbox: Mapping[str, bytes], name: str) -> None:
        asked = {party: self._ask(party, request, name) for party, request in outbox.items()}
        relays: dict[str, list[bytes]] = defaultdict(list)
        for party, reply in asked.items():
            if reply is not None:
                self._count(party, "server", name, len(reply))
                handed_on = self.timed("server", name, self.server.receive, party, reply)
                for listener, message in handed_on.items():
                    relays[listener].append(message)
        for listener, messages in relays.items():
            for message in messages:
                self._deliver({listener: message}, name)

    def _ask(self, party: str, request: bytes, name: str) -> bytes | None:
        if party in self.gone:
            return None
        self._count("server", party, name, len(request))
        if self.silent.get(party) == name:
            del self.members[party]
            self.gone.add(party)
            return None
        reply: bytes | None = self.timed(party, name, self.members[party].receive, request)
        return reply

    def spent(self, parties: Iterable[str], *, leaving_out: str = "") -> list[float]:
        """The seconds of each of ``parties`` in the whole session, but for one round."""
        by_party: dict[str, float] = defaultdict(float)
        for (party, name, _), seconds in self.calls.items():
            if name != leaving_out:
                by_party[party] += sum(seconds)
        return [by_party[party] for party in parties]

    def of_server(self, name: str) -> float:
        """The server's seconds in a round."""
        return sum(
            sum(seconds) for (party, at, _), seconds in self.calls.items() if (party, at) == ("server", name)
        )


@dataclass(frozen=True)
class Cpu:
    """A call whose seconds of this thread are measured; ``setup``, if there is one, makes its argument untimed."""

    run: Callable[..., Any]
    setup: Callable[[], Any] | None = None

    def seconds(self, times: int = 1) -> float:
        """Seconds of one run, the average over ``times`` runs."""
        took = 0.0
        for _ in range(times):
            prepared = () if self.setup is None else (self.setup(),)
            began = time.thread_time()
            self.run(*prepared)
            took += time.thread_time() - began
        return took / times


def play(one: AggregationProtocol, workload: Workload, updates: Mapping[str, Any], expected: Expected) -> Session:
    """Play one session and check it. Raises :class:`WrongSum`."""
    session = Session(workload.task(one), workload.ids, workload.dropouts(one), b"bench", executor=Here())
    check(one, workload, expected, session.run(updates, None))
    return session


@dataclass(frozen=True)
class Upload:
    """Bytes of messages under a task for up to ``clients``: a client's answer, a member's vector, and its columns.

    ``sent`` is the size of real answers, and ``stated`` what :meth:`secagg.OneShot.cost` says.
    """

    clients: int
    sent: int
    stated: int
    answer: int
    columns: int


def upload(coordinates: int, most: int) -> Upload:
    """Play a session of a few clients under a task for ``most``, check its sum, and weigh the answers in it."""
    workload, one = Large(_FEW, coordinates, 0.0, BITS), protocol()
    task, updates = replace(workload.task(one), max_clients=most, min_survivors=_FEW), workload.updates()
    session = Session(task, workload.ids, {}, b"bench", executor=Here())
    check(one, workload, Expected.of(workload, updates), session.run(updates, None))
    members = [party for party in session.members if party not in workload.ids]
    sent = {session.up[client][Round.INPUT] for client in workload.ids}
    frames = {wire.overhead(member, signed=True) + wire.structure_size(KeyShareSum()) for member in members}
    answers = {session.up[member][Round.SUM_OF_KEYS] for member in members}
    return Upload(
        clients=most,
        sent=max(sent),
        stated=sum(one.cost(task, workload.ids).up.values()),
        answer=max(answers) - max(frames),
        columns=one.committee.columns(one.scheme(task).degree),
    )


def opening_calls(coordinates: int) -> dict[str, Cpu]:
    """Encryption, folding, and the opening of sums of as many clients as :data:`COUNTS` and fewer say."""
    one = protocol()
    task = replace(Large(_FEW, coordinates, 0.0, BITS).task(one), max_clients=max(COUNTS), min_survivors=_FEW)
    scheme, committee, public = one.scheme(task), one.committee, public_seed(bytes(32))
    rng, bound = np.random.default_rng(0), task.segments[0].bound
    adder, keys, sums = scheme.adder(), np.zeros(scheme.degree, np.int64), np.zeros(coordinates, np.int64)
    calls: dict[str, Cpu] = {}
    for number in range(1, max(COUNTS) + 1):
        values = rng.integers(0, bound, coordinates, dtype=np.uint16, endpoint=True)
        rest = [np.zeros(length, np.uint16) for length, _ in scheme.segments[1:]]
        secret = number.to_bytes(32, "big")
        data = scheme.encrypt([values, *rest], secret, public)
        adder.fold(data)
        keys += scheme.key(secret, public)
        sums += values
        if number in COUNTS:
            calls[opening_of(number)] = _opening(scheme, committee, adder.total(), keys, number, public, sums)
    empty = scheme.adder().to_bytes()
    return {
        ENCRYPT: Cpu(lambda: scheme.encrypt([values, *rest], secret, public)),
        FOLD: Cpu(lambda into: into.fold(data), lambda: scheme.load_adder(empty)),
        **calls,
    }


def opening_of(count: int) -> str:
    """The name of the opening of a sum of ``count`` clients."""
    return f"open {count:,}"


def _opening(
    scheme: Scheme,
    committee: packed.Committee,
    total: bytes,
    keys: NDArray[np.int64],
    count: int,
    public: bytes,
    sums: NDArray[np.int64],
) -> Cpu:
    """The opening of ``total`` by all members' answers, once it is checked.

    A dealing of the sum of the keys stands for the sum of their dealings: it has the same distribution.
    """
    dealt = packed.deal(committee, keys, [bytes([place + 1]) * 32 for place in range(committee.corrupt)], bytes(32))
    answers = {
        place: packed.read_share(committee, scheme.degree, place, share).kept()
        for place, share in enumerate(dealt.shares)
    }

    def run() -> Any:
        return open_sum(
            scheme, committee, total=total, answers=answers, count=count, public=public, executor=Here()
        )

    if not (run().sums[0] == sums).all():
        raise WrongSum(f"the opened sum of {count} clients is wrong")
    return Cpu(run)

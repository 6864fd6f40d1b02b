"""OneShot's sums are those of Clear, bit for bit, whatever is added up and whoever is silent."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import dp
import secagg
from secagg.identity import PartyRole
from secagg.protocols.oneshot import OneShot
from secagg.table import Round, rounds
from secagg.testing import Integers, MemoryStore, Parties, Session, parties_for
from tests.secagg.transcript import ONE_SHOT

# One client may always be corrupt and a sum holds two honest ones, so three clients are the fewest.
FOUR = OneShot(members=4, corrupt_members=1, kem="X25519")
EIGHT = OneShot(members=8, corrupt_members=2, kem="X25519")  # two secrets in a polynomial
ROUNDS = (Round.SESSION_KEY, Round.INPUT, Round.AGREEMENT, Round.SUM_OF_KEYS)
MIXED = Integers(((4, 0, None), (3, 255, 256), (7, 65534, None), (2, (1 << 18) - 1, 1 << 18), (1, 1 << 40, None)))


@cache
def parties(protocol: Any, clients: int) -> Parties:
    return parties_for(protocol, clients)


def make_task(protocol: Any, clients: int, **changes: Any) -> secagg.Task:
    task = secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of({"w": np.zeros(70), "b": np.zeros((3, 4), np.float32)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=clients,
        min_survivors=parties(protocol, clients).min_survivors,
    )
    return replace(task, **changes)


def require_equal_to_clear(session: Session) -> None:
    """Run it to its end; Clear adds up the same contributions of the same survivors to the same integers."""
    states = {party: session.members[party]._state for party in session.parties.cohort}
    contributions = {party: (list(state.contribution), state.contributed) for party, state in states.items()}
    outcome = session.run()
    assert outcome.survivors == session.expected_survivors()
    clear = parties(secagg.Clear(), len(session.parties.cohort))
    silent = dict.fromkeys(set(clear.cohort) - set(outcome.survivors), rounds(clear.protocol)[0])
    plain = Session(clear, task=replace(session.task, protocol=clear.protocol), silent=silent)
    for party, (contribution, contributed) in contributions.items():
        state = plain.members[party]._state
        state.contribution, state.contributed = contribution, contributed
    assert plain.run().survivors == outcome.survivors
    ours, theirs = session.server.context.sums, plain.server.context.sums
    assert any(total.any() for total in ours)
    for segment, our, their in zip(session.task.segments, ours, theirs, strict=True):
        assert our.dtype == their.dtype
        if segment.modulus is not None:  # Clear leaves it to the encoding to reduce
            assert our.max() < segment.modulus
            their = their % segment.modulus
        assert np.array_equal(our, their)


NOISE = {"l2_clip": 1.0, "noise_multiplier": 1.0, "bits": 20, "k_stddevs": 8.0}
ENCODINGS: dict[str, dict[str, Any]] = {
    "8 bits": {"encoding": secagg.FixedPoint(clip=1.0, bits=8)},
    "16 bits": {"encoding": secagg.FixedPoint(clip=1.0, bits=16)},
    "20 bits": {"encoding": secagg.FixedPoint(clip=1.0, bits=20)},
    "16 bits, weights": {"encoding": secagg.FixedPoint(clip=1.0, bits=16), "max_weight": 5000},
    "segments": {"encoding": MIXED, "layout": MIXED.layout},
    "discrete Gaussian": {"encoding": dp.DistributedGaussian(**NOISE)},
    "Skellam": {"encoding": dp.DistributedSkellam(**NOISE)},
}


@pytest.mark.parametrize("clients", [3, 60])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_sums_are_those_of_clear(clients: int, encoding: dict[str, Any]) -> None:
    require_equal_to_clear(Session(parties(FOUR, clients), task=make_task(FOUR, clients, **encoding)))


class CountsOnly(MemoryStore):
    """Keeps no state: those of a member with the shares of a thousand clients fill gigabytes."""

    def __call__(self, number: int, state: bytes) -> None:
        self.number = number

    def append(self, number: int, row: bytes) -> bool:
        self.number = number
        return True


def test_sums_of_a_thousand_clients_are_those_of_clear_though_300_are_silent() -> None:
    everyone = parties(FOUR, 1000)
    silent = dict.fromkeys(everyone.cohort[::10] + everyone.cohort[1::5], Round.INPUT)
    silent["decryptor-2"] = Round.SUM_OF_KEYS
    session = Session(everyone, task=make_task(FOUR, 1000), silent=silent)
    for member in everyone.ids(PartyRole.DECRYPTOR):
        session.members[member] = session.make(member, save=CountsOnly())
    require_equal_to_clear(session)


@pytest.mark.parametrize(("protocol", "step"), [(FOUR, 1), (EIGHT, 9)], ids=["plain", "packed"])
@pytest.mark.parametrize("at", ROUNDS)
def test_any_members_that_may_be_silent_are_missed_in_no_sum(protocol: OneShot, step: int, at: str) -> None:
    """In each round, sets of as many members as may be; a client is silent too."""
    needed = protocol.committee.threshold if at == Round.SUM_OF_KEYS else protocol.needed
    everyone = parties(protocol, 4)
    silences = combinations(everyone.ids(PartyRole.DECRYPTOR), protocol.members - needed)
    for members in list(silences)[::step]:
        silent = {"c2": Round.INPUT} | dict.fromkeys(members, at)
        require_equal_to_clear(Session(everyone, task=make_task(protocol, 4), silent=silent))


@settings(max_examples=20)
@given(data=st.data())
def test_sums_are_those_of_clear_whoever_is_silent_when(data: st.DataObject) -> None:
    protocol = data.draw(st.sampled_from([FOUR, EIGHT]))
    everyone = parties(protocol, data.draw(st.sampled_from([3, 5, 9])))
    task = make_task(protocol, len(everyone.cohort), **data.draw(st.sampled_from(list(ENCODINGS.values()))))
    clients = data.draw(st.sets(st.sampled_from(everyone.cohort), max_size=len(everyone.cohort) - 3))
    members = everyone.ids(PartyRole.DECRYPTOR)
    gone = data.draw(st.sets(st.sampled_from(members), max_size=protocol.members - protocol.needed))
    silent = dict.fromkeys(clients, Round.INPUT) | {party: data.draw(st.sampled_from(ROUNDS)) for party in gone}
    require_equal_to_clear(Session(everyone, task=task, silent=silent))


@pytest.mark.parametrize("protocol", [FOUR, EIGHT], ids=["plain", "packed"])
def test_exactly_one_message_goes_from_each_client_and_one_to_it(protocol: OneShot) -> None:
    """On the wire: all that the server and the clients are given, whatever it is."""
    session = Session(parties(protocol, 5), task=make_task(protocol, 5), silent={"c3": Round.INPUT})
    sent, got, receive = Counter[str](), Counter[str](), session.server.receive

    def watched(sender: str, data: bytes) -> Any:
        sent[sender] += 1
        return receive(sender, data)

    session.server.receive = watched  # type: ignore[method-assign]
    session.after_request = lambda party, data: got.update([party])
    require_equal_to_clear(session)
    cohort, members = session.parties.cohort, session.parties.ids(PartyRole.DECRYPTOR)
    assert sent == dict.fromkeys(set(cohort) - {"c3"}, 1) | dict.fromkeys(members, 3)
    assert got == sent
    assert not {party for party, _ in session.handed} & set(cohort)
    assert all(session.members[party].finished for party in cohort if party != "c3")


def test_exactly_one_message_goes_from_each_client_in_the_published_session() -> None:
    wire = Counter((message["from"], message["to"]) for message in ONE_SHOT.published["messages"])
    clients = ONE_SHOT.published["survivors"]
    assert [wire[client, "server"] for client in clients] == [1, 1, 1]
    assert [wire["server", client] for client in clients] == [1, 1, 1]
    assert {sender for sender, to in wire if to in ("c1", "c2", "c3", "c4")} == {"server"}
    assert not [to for sender, to in wire if sender == "c3"]

"""The work for a message does not grow with the messages before it: no dict or list is copied for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

import secagg
from mpc import keys
from secagg.protocols.pairwise import server as pairwise_server
from secagg.simulation import Session as Simulated
from secagg.table import rounds
from secagg.testing import Session, parties_for
from tests.secagg.parts import Splits, Vetting
from tests.secagg.stress import PROTOCOLS

CLIENTS = 30
KINDS: dict[str, Any] = {
    **{name: PROTOCOLS[name]() for name in ("Clear", "SecAgg malicious", "SecAggPlus", "Paillier")},
    "AdditiveShares": secagg.AdditiveShares(kem="X25519"),
    "OneShot": secagg.OneShot(members=4, corrupt_members=1, kem="X25519"),
    "splits": Splits(),
    "vetting": Vetting(),
}


class Looked:
    at = 0  # entries, by whoever goes through a container


class CountedDict(dict):  # type: ignore[type-arg]
    """A dict that counts the entries that are looked at when it is copied or gone through, not single look-ups."""

    def __iter__(self) -> Iterator[Any]:
        Looked.at += len(self)
        return super().__iter__()

    def keys(self) -> Any:
        Looked.at += len(self)
        return super().keys()

    def values(self) -> Any:
        Looked.at += len(self)
        return super().values()

    def items(self) -> Any:
        Looked.at += len(self)
        return super().items()

    def __or__(self, other: Any) -> Any:
        Looked.at += len(self)
        return dict(dict.items(self)) | other

    def copy(self) -> Any:
        Looked.at += len(self)
        return dict(dict.items(self))


class CountedList(list):  # type: ignore[type-arg]
    """A list that counts the entries that are looked at when it is copied, gone through or searched."""

    def __iter__(self) -> Iterator[Any]:
        Looked.at += len(self)
        return super().__iter__()

    def __contains__(self, item: Any) -> bool:
        Looked.at += len(self)
        return super().__contains__(item)

    def __add__(self, other: Any) -> Any:
        Looked.at += len(self)
        return list.__add__(self, other)

    def copy(self) -> Any:
        Looked.at += len(self)
        return list.copy(self)


def watch(role: Any) -> None:
    """Put counting containers into the place of those of a role's state."""
    state = role.context.state if isinstance(role, secagg.Server) else role._state
    for field in msgspec.structs.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, dict | list):
            counted = (CountedDict if isinstance(value, dict) else CountedList)(value)
            setattr(state, field.name, counted)


class Watched:
    """A session in which the entries that each call of ``receive`` looks at are counted, by round and role."""

    def __init__(self, protocol: Any) -> None:
        session = Session(parties_for(protocol, CLIENTS))
        self.counts: dict[tuple[str, str], list[int]] = {}
        for party, member in session.members.items():
            session.stores.pop(party)  # what is saved is another matter
            object.__setattr__(member.context.environment, "save", None)
            if session.parties.roles[party] != "client":
                self._watch(session, member, f"{session.parties.roles[party]} {party}")
        self._watch(session, session.server, "server")
        session.run()

    def _watch(self, session: Session, role: Any, name: str) -> None:
        true: Callable[..., Any] = role.receive

        def receive(*arguments: Any) -> Any:
            watch(role)
            Looked.at = 0
            result = true(*arguments)
            self.counts.setdefault((session.round, name), []).append(Looked.at)
            return result

        role.receive = receive

    def growth(self) -> dict[tuple[str, str], int]:
        """How many entries more the last messages of a round look at than its first ones."""
        return {
            where: max(counts[-5:]) - max(counts[:5])
            for where, counts in self.counts.items()
            if len(counts) >= CLIENTS
        }


@pytest.mark.parametrize("name", KINDS)
def test_a_late_message_looks_at_no_more_than_an_early_one(name: str) -> None:
    growth = Watched(KINDS[name]).growth()
    assert growth
    assert max(growth.values()) <= 0, growth


@pytest.mark.parametrize("name", ["AdditiveShares", "OneShot", "splits", "vetting"])
def test_control_a_dict_that_is_copied_for_each_message_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = secagg.roles.Member.add

    def copies(self: Any, field: dict[Any, Any], key: Any, value: Any) -> None:
        true(self, field, key, value)
        _ = {**field}

    monkeypatch.setattr(secagg.roles.Member, "add", copies)
    growth = Watched(KINDS[name]).growth()
    assert all(more >= CLIENTS - 10 for (_, role), more in growth.items() if role != "server"), growth
    assert len(growth) > 1


@pytest.mark.parametrize("name", ["SecAgg malicious", "SecAggPlus"])
def test_a_client_agrees_once_with_each_neighbours_sealing_key_and_once_with_its_masking_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed: Counter[tuple[bytes, bytes]] = Counter()
    true = keys.PrivateKey.exchange

    def exchange(self: keys.PrivateKey, peer: bytes) -> bytes:
        agreed[self.public, peer] += 1
        return true(self, peer)

    monkeypatch.setattr(keys.PrivateKey, "exchange", exchange)
    Session(parties_for(KINDS[name], 8)).run()
    assert set(agreed.values()) == {1}
    assert all((peer, own) in agreed for own, peer in agreed)


CROWD = 150  # clients, of which each has 16 neighbours


class Crowd(Simulated):
    """A session on a sparse graph that counts the entries that the server looks at to take messages, by round."""

    def __init__(self) -> None:
        task = secagg.Task(
            protocol=secagg.SecAggPlus(threat_model="semi-malicious"),
            layout=secagg.Layout.of(np.zeros(1)),
            encoding=secagg.FixedPoint(clip=1.0, bits=8),
            max_clients=CROWD,
            min_survivors=CROWD - 1,
        )
        cohort = [f"c{number:03}" for number in range(CROWD)]
        super().__init__(task, cohort, {cohort[7]: secagg.Round.MASKED_INPUT}, b"s")
        self.looked_at: dict[str, int] = {}
        self.run({party: np.zeros(1) for party in cohort}, None)

    def timed(self, party: str, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        if (party, call.__name__) != ("server", "receive"):
            return super().timed(party, name, call, *arguments)
        watch(self.server)
        Looked.at = 0
        try:
            return super().timed(party, name, call, *arguments)
        finally:
            self.looked_at[name] = self.looked_at.get(name, 0) + Looked.at


def test_a_server_looks_through_the_cohort_a_few_times_in_a_round_and_not_for_each_message() -> None:
    """On a sparse graph the work for a message grows with its sender's neighbours, and not with the cohort."""
    looked_at = Crowd().looked_at
    assert tuple(looked_at) == rounds(secagg.SecAggPlus(threat_model="semi-malicious"))
    assert max(looked_at.values()) <= 5 * CROWD, looked_at


def test_control_a_set_that_is_made_for_each_message_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = property(lambda self: frozenset(self.context.state.survivors))
    monkeypatch.setattr(pairwise_server.PairwiseServer, "_u3", made)
    assert Crowd().looked_at[secagg.Round.UNMASKING] >= (CROWD - 1) ** 2

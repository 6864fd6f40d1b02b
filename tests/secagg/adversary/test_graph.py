"""A lying server uses the sparse graph: it cuts the ring, or lies to one neighbourhood only."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest

from mpc import shamir
from secagg import FixedPoint, Layout, SecAggPlus, Task, session as naming
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import FaultKind
from secagg.lanes import fold_lanes, reduce_lanes, zero_lanes
from secagg.merkle import merkle_levels, merkle_path
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    KEY,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    VOUCHER_BYTES,
    DealtShares,
    HeldShares,
    NearAdverts,
    Revealed,
    VouchedInput,
    VouchedSurvivors,
    pieces,
    voucher_info,
)
from secagg.protocols.pairwise.neighbours import Graph, Shape
from secagg.protocols.pairwise.sparse_client import SparseClient
from secagg.session import NONCE_BYTES
from secagg.wire import stand_in_ids
from tests.secagg.adversary.driver import LyingServer, Vector, World, has, make_updates, remove
from tests.secagg.adversary.registry import attack, refusal

SIZE = 4


def make_task(threat_model: str, clients: int, gone: int, corruption: float) -> Task:
    return Task(
        protocol=SecAggPlus(corruption=corruption, threat_model=threat_model),
        layout=Layout.of(np.zeros(SIZE)),
        encoding=FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=clients,
        min_survivors=clients - gone,
        context=b"adversary",
    )


class RingServer(LyingServer):
    """A lying server on a sparse graph; it is honest until the graph stands, and knows the graph."""

    graph: Graph

    @classmethod
    def over(
        cls, threat_model: str, clients: int, gone: int, corruption: float = 0.005, colluders: int = 0
    ) -> Self:
        """A session among ``clients``, ``gone`` of whom may drop out, up to where the graph stands."""
        ids = stand_in_ids(clients)
        task = make_task(threat_model, clients, gone, corruption)
        world = World(task, ids, colluders=ids[clients - colluders :])
        server = cls(world, world.join(updates=make_updates_of(ids)))
        server.propose()
        server.deal()
        return server

    @property
    def ring(self) -> list[str]:
        """U1 in the order of the ring."""
        return [self.u1[node] for node in self.graph._ring.order]

    @property
    def victim(self) -> str:
        return self.ring[0]

    def deal(self, parties: Iterable[str] | None = None, adverts: Any = None) -> None:
        raw = [self.adverts[party] for party in self.cohort]
        self.u1 = self.cohort
        present = to_bitmap(self.u1, self.cohort)
        levels = merkle_levels(raw)
        self.graph_nonce = os.urandom(NONCE_BYTES)
        session = self.story(graph_nonce=self.graph_nonce)
        self.graph = self.graph_of(session)
        for party in self.u1:
            shown = sorted([party, *self.graph.neighbours(party)])
            paths = [merkle_path(levels, self.u1.index(other)) for other in shown]
            dealt = self.ask(party, self.near(party, present, [self.adverts[other] for other in shown], paths))
            self.ids[party] = session
            if dealt is not None:
                self.dealt[party], _ = dealt.open(DealtShares)

    def story(self, **graph_source: Any) -> bytes:
        """The session id once all of the cohort advertised keys."""
        advertised = naming.Advertised.of([self.adverts[party] for party in self.cohort])
        return naming.session_id(
            task=self.task.digest,
            roster=self.world.roster.digest,
            session=self.session,
            nonce=self.nonce,
            cohort=self.cohort,
            advertised=replace(advertised, present=to_bitmap(self.cohort, self.cohort), **graph_source),
        )

    def graph_of(self, session: bytes) -> Graph:
        """The graph among the whole cohort that a session id gives."""
        protocol: Any = self.task.protocol
        corrupt = protocol.corrupt(len(self.cohort), self.world.roster)
        return Graph(self.cohort, protocol.shape(self.task, len(self.cohort), corrupt), session)

    def near(self, party: str, present: bytes, adverts: list[bytes], paths: list[bytes]) -> NearAdverts:
        return NearAdverts(present, adverts, paths, self.graph_nonce)

    def read(self, victim: str) -> Vector | None:
        """A client's update, where the server need know no more than what the colluders hold of it."""
        self.collect()
        for party in self.world.colluders:
            held: Any = self.clients[party]._state
            for kind, share in zip((SELF, KEY), held.held.get(victim, ()), strict=False):
                self.shares[victim, kind][self.graph.point(victim, party)] = share
        return self.recover(victim)

    def box(self, dealer: str, holder: str) -> tuple[bytes, bytes]:
        at = self.graph.point(dealer, holder) - 1
        sealed = pieces(self.dealt[dealer].sealed, SEALED_BYTES, self.graph.shape.degree)[at]
        return sealed, pieces(self.dealt[dealer].commitments, COMMITMENT_BYTES, self.graph.shape.degree)[at]

    def collect(
        self, parties: Iterable[str] | None = None, dealers: Collection[str] | None = None, box: Any = None
    ) -> None:
        u2 = set(self.dealt if dealers is None else dealers)
        self.vouchers: dict[tuple[str, str], bytes] = getattr(self, "vouchers", {})
        for party in parties or self.u1:
            near = [dealer for dealer in self.graph.neighbours(party) if dealer in u2]
            boxes = [self.box(dealer, party) for dealer in near]
            sealed, commitments = (b"".join(box[i] for box in boxes) for i in (0, 1))
            answer = self.ask(party, HeldShares(to_bitmap(u2, self.u1), commitments, sealed))
            if answer is None:
                continue
            self.told_dealers[party] = near
            phase = next(phase for phase in self.task.protocol.phases if phase.takes_input)
            message, payload = answer.open(phase.reply)
            self.inputs[party] = zero_lanes(self.task)
            fold_lanes(self.task, payload, self.inputs[party])
            if isinstance(message, VouchedInput):
                shown = pieces(message.vouchers, VOUCHER_BYTES, len(near))
                self.vouchers |= {(party, other): voucher for other, voucher in zip(near, shown, strict=True)}

    def sign(self, parties: Iterable[str], survivors: Collection[str]) -> list[bytes]:
        present, signed = to_bitmap(survivors, self.u1), []
        for party in parties:
            near = [other for other in self.told_dealers[party] if other in set(survivors)]
            vouchers = b"".join(self.voucher(other, party) for other in near)
            answer = self.ask(party, VouchedSurvivors(present, vouchers))
            if answer is not None:
                signed.append(answer.raw)
        return signed

    def voucher(self, client: str, neighbour: str) -> bytes:
        return self.vouchers.get((client, neighbour), bytes(VOUCHER_BYTES))

    def unmask(
        self, parties: Iterable[str], survivors: Collection[str], signed: Iterable[bytes] = ()
    ) -> dict[str, Revealed]:
        replies, inside = {}, set(survivors)
        request = self.unmask_request(survivors, signed)
        for party in parties:
            answer = self.ask(party, request)
            if answer is None:
                continue
            replies[party], _ = answer.open(Revealed)
            unopened = set(from_bitmap(replies[party].unopened, self.u1))
            dealers = [dealer for dealer in self.told_dealers[party] if dealer not in unopened]
            shares = pieces(replies[party].shares, SHARE_BYTES, len(dealers))
            for dealer, share in zip(dealers, shares, strict=True):
                point = self.graph.point(dealer, party)
                self.shares[dealer, SELF if dealer in inside else KEY][point] = share
        return replies

    def rebuild(self, dealer: str, kind: str) -> bytes | None:
        shares = dict(sorted(self.shares[dealer, kind].items())[: self.graph.shape.threshold])
        enough = len(shares) == self.graph.shape.threshold
        return shamir.reconstruct(list(shares), list(shares.values())) if enough else None

    def play_out(self, survivors: Collection[str], ask: Iterable[str] | None = None) -> None:
        """Tell everyone the same list; with signatures where the model has them; ask ``ask`` for shares."""
        holders = sorted(survivors)
        signed = self.sign(holders, survivors) if self.task.protocol.checked else []  # type: ignore[attr-defined]
        self.unmask(holders if ask is None else ask, survivors, signed[: self.graph.shape.quorum])


class ReflectingServer(RingServer):
    """Hands the victim's neighbours back what they said to the victim."""

    def voucher(self, client: str, neighbour: str) -> bytes:
        pair = (neighbour, client) if client == self.victim else (client, neighbour)
        return super().voucher(*pair)


def make_updates_of(ids: Iterable[str]) -> dict[str, Vector]:
    return {party: update[:SIZE] for party, update in make_updates(ids).items()}


def wanted(server: RingServer, parties: Collection[str]) -> Vector:
    updates = make_updates_of(server.cohort)
    return np.sum([np.rint(updates[party] * 32767) / 32767 for party in parties], axis=0)


def sum_between_runs(server: RingServer, arc: list[str]) -> Vector | None:
    """The sum of the arc: without the masks that it shares with those called dropped."""
    for party in server.u1:
        server.learn_key(party)
    inside, lanes = set(arc), zero_lanes(server.task)
    for party in arc:
        peeled = server.peel(party, server.rebuild(party, SELF), but=inside)
        if peeled is None:
            return None
        for mine, theirs in zip(lanes, peeled, strict=True):
            mine += theirs
    reduce_lanes(server.task, lanes)
    layout = server.task.layout
    decoded = server.task.encoding.decode(lanes, layout=layout, survivors=len(arc), max_weight=None)
    summed: Vector = decoded.sum
    return summed


def around(server: RingServer, parties: Iterable[str]) -> set[str]:
    """Who holds shares of any of ``parties``."""
    return {holder for party in parties for holder in server.graph.neighbours(party)}


def weaken(monkeypatch: pytest.MonkeyPatch, change: Callable[[Shape], Mapping[str, int]]) -> None:
    """All parties take other numbers for the graph than the protocol's."""
    strong = SecAggPlus.shape

    def weak(*arguments: Any) -> Shape:
        shape = strong(*arguments)
        return replace(shape, **change(shape))

    monkeypatch.setattr(SecAggPlus, "shape", weak)


@attack(
    title=(
        "The two-run cut: the server calls two runs of k/2 ring neighbours dropped, and opens the sum of "
        "the few clients between them"
    ),
    attacker="lying server alone",
    defence=(
        "two defences, either of which is enough here: every k/2 consecutive places must hold more "
        "survivors than there can be corrupt clients (`Graph.is_cut`), and a threshold above half of a "
        "neighbourhood (`SecAggPlus.shape`)"
    ),
    control=(
        'with `"semi-honest"`, which has neither, and no quorum or vouchers: the sum of t + 1 clients, '
        "where min_survivors is 294"
    ),
    source="Bell et al. 2020 assume that dropouts do not depend on the graph",
)
class TestTwoRunCut:
    def attack(self, threat_model: str) -> tuple[RingServer, list[str]]:
        server = RingServer.over(threat_model, 320, 26)
        half = server.graph.shape.degree // 2
        arc = server.ring[half : half + server.graph.shape.threshold + 1]
        gone = set(server.ring[:half]) | set(server.ring[half + len(arc) : 2 * half + len(arc)])
        server.collect()
        survivors = [party for party in server.u1 if party not in gone]
        server.play_out(survivors, ask=around(server, [*arc, *gone]).intersection(survivors))
        return server, arc

    def test_refused(self) -> None:
        server, arc = self.attack("semi-malicious")
        assert len(server.refusals) == 320 - server.graph.shape.degree >= server.task.min_survivors
        assert all("dropped out in one place" in str(reason) for reason in server.refusals.values())
        assert sum_between_runs(server, arc) is None

    def test_the_threshold_alone_suffices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the clients at either end of the arc, half a neighbourhood is called dropped."""
        monkeypatch.setattr(Graph, "is_cut", lambda *_: False)
        server, arc = self.attack("semi-malicious")
        assert not server.refusals
        assert sum_between_runs(server, arc) is None
        assert sum(server.rebuild(party, SELF) is None for party in arc) == 2

    def test_control_succeeds(self) -> None:
        server, arc = self.attack("semi-honest")
        assert not server.refusals
        assert len(arc) == 3
        assert has(sum_between_runs(server, arc), wanted(server, arc), server.task)


@attack(
    title=(
        "The two-run cut with four survivor lists: each calls all but w + 1 clients of either run "
        "dropped, so every window passes; three lists call a client in a run dropped, and each list goes "
        "to a quarter of all others"
    ),
    attacker="lying server alone",
    defence="signatures of more than (n + c)/2 of U1 under one list (`PairwiseClient._check_quorum`)",
    control=("with a quorum of t signatures and no other change: the sum of the k/2 + 1 clients between the runs"),
    source="this library; windows are checked in each list by itself",
)
class TestCutInStories:
    stories = 4

    def attack(self) -> tuple[RingServer, list[str]]:
        server = RingServer.over("semi-malicious", 300, 26)
        shape, ring = server.graph.shape, server.ring
        half, stay = shape.degree // 2, shape.window_floor + 1
        arc = ring[half : 2 * half + 1]
        runs = ring[:half], ring[2 * half + 1 : 3 * half + 1]
        outside = [party for party in ring if party not in (*runs[0], *runs[1])]
        lists: list[tuple[list[str], list[str]]] = []  # who gets it, and who survived
        for story in range(self.stories):
            kept = [party for run in runs for party in run[story * stay : (story + 1) * stay]]
            lists.append(([*kept, *outside[story :: self.stories]], sorted([*kept, *outside])))
        assert all(len(survivors) >= server.task.min_survivors for _, survivors in lists)
        server.collect()
        near = around(server, [*arc, *runs[0], *runs[1]])
        for parties, survivors in lists:
            server.unmask(near.intersection(parties), survivors, server.sign(parties, survivors))
        return server, arc

    def test_refused(self) -> None:
        server, arc = self.attack()
        assert all("signatures under the survivor list; 151 are needed" in str(r) for r in server.refusals.values())
        assert set(arc) <= set(server.refusals)
        assert sum_between_runs(server, arc) is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weaken(monkeypatch, lambda shape: {"quorum": shape.threshold})
        server, arc = self.attack()
        assert not server.refusals
        assert has(sum_between_runs(server, arc), wanted(server, arc), server.task)


@attack(
    title=(
        "A client without neighbours: it alone gets a U2 that leaves out many of its neighbours, and "
        "everyone else gets a U3 that leaves out the rest, so only its self mask hides its input"
    ),
    attacker="lying server alone",
    defence=(
        "a client reveals no share of the self mask of a survivor that vouches for another U2 "
        "(`SparseClient._check_vouchers`)"
    ),
    control=("without vouchers: the victim's update, though every list is signed and every window passes"),
    source=("this library; signers sign their own U2 and U3, and the victim's signature is not needed"),
)
class TestNeighboursGone:
    def attack(self, server_class: type[RingServer] = RingServer) -> RingServer:
        server = server_class.over("semi-malicious", 160, 10)
        victim, near = server.victim, server.graph.neighbours(server.victim)
        # Ten of its 18 neighbours it never masks with; the other eight are called dropped.
        by_place = [party for party in server.ring if party in set(near)]
        gone = by_place[0::9] + by_place[1::9] + by_place[2::9] + by_place[3::9]
        left_out = [party for party in near if party not in gone]
        server.collect([victim], dealers=[party for party in server.u1 if party not in left_out])
        server.collect([party for party in server.u1 if party != victim])
        survivors = [party for party in server.u1 if party not in gone]
        signed = server.sign([party for party in survivors if party != victim], survivors)
        lists = signed[: server.graph.shape.quorum]
        holders = {other for party in gone for other in server.graph.neighbours(party)} | set(left_out)
        server.unmask(sorted(holders - set(gone) - {victim}), survivors, lists)
        for party in gone:
            server.learn_key(party)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert not server.refusals
        assert server.recover(server.victim) is None
        assert not server.shares[server.victim, SELF]

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SparseClient, "_check_vouchers", lambda *_: None)
        server = self.attack()
        assert has(server.recover(server.victim), wanted(server, [server.victim]), server.task)


@attack(
    title=(
        "Reflected vouchers: the same, and the server returns each holder's own voucher for the victim as "
        "if it were the victim's"
    ),
    attacker="lying server alone",
    defence="a voucher is bound to its sender and its receiver, in this order (`voucher_info`)",
    control="with vouchers that are equal in both directions: the victim's update",
    source="this library; reflection, as in authentication by a shared key",
)
class TestReflectedVouchers:
    def attack(self) -> RingServer:
        return TestNeighboursGone.attack(TestNeighboursGone(), ReflectingServer)

    def test_refused(self) -> None:
        server = self.attack()
        assert not server.refusals
        assert server.recover(server.victim) is None
        assert not server.shares[server.victim, SELF]

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def alike(client: str, neighbour: str, dealers: bytes) -> bytes:
            return directed(min(client, neighbour), max(client, neighbour), dealers)

        directed = voucher_info
        remove(monkeypatch, voucher_info, alike)
        server = self.attack()
        assert has(server.recover(server.victim), wanted(server, [server.victim]), server.task)


@attack(
    title=(
        "Two survivor lists: one half of a neighbourhood learns that the client between the halves "
        "survived, the other half that it dropped out"
    ),
    attacker="lying server alone",
    defence=(
        "two defences, either of which is enough here: signatures of more than (n + c)/2 of U1, not of "
        "half a neighbourhood, under one list (`PairwiseClient._check_quorum`), and a threshold above "
        "half of a neighbourhood (`SecAggPlus.shape`)"
    ),
    control="with k/2 for both and no other change: the victim's update",
    source="Bell et al. 2020, section 4: the malicious variant",
)
class TestDisjointStories:
    def attack(self) -> RingServer:
        server = RingServer.over("semi-malicious", 60, 6, corruption=0.05)
        near = server.graph.neighbours(server.victim)
        server.collect()
        everyone = set(server.u1)
        for parties, story in ((near[0::2], everyone), (near[1::2], everyone - {server.victim})):
            server.unmask(parties, story, server.sign(parties, story))
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert server.recover(server.victim) is None
        assert set(server.refusals) == set(server.graph.neighbours(server.victim))
        assert all("are needed" in str(reason) for reason in server.refusals.values())

    def test_the_threshold_alone_suffices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weaken(monkeypatch, lambda shape: {"quorum": shape.degree // 2})
        server = self.attack()
        assert not server.refusals
        assert server.recover(server.victim) is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weaken(monkeypatch, lambda shape: {"quorum": shape.degree // 2, "threshold": shape.degree // 2})
        server = self.attack()
        victim = server.victim
        assert has(server.recover(victim), wanted(server, [victim]), server.task)


@refusal(
    title=(
        "Wrong adverts on a sparse graph: a path of another length, two swapped paths, a neighbour's "
        "advert missing, a stranger's added, a U1 without a stranger or without a neighbour whose advert "
        "is shown, no second nonce, or the first nonce again"
    ),
    why="the session id is then another one, so no message of others matches it",
)
@pytest.mark.parametrize(
    "lie", ["short", "swapped", "missing", "stranger", "fewer", "outside", "none", "the first"]
)
def test_bad_proofs(lie: str) -> None:
    class Liar(RingServer):
        def near(self, party: str, present: bytes, adverts: list[bytes], paths: list[bytes]) -> NearAdverts:
            if party != "c1":
                return NearAdverts(present, adverts, paths, self.graph_nonce)
            other = next(p for p in self.u1 if p not in (party, *self.graph.neighbours(party)))
            levels = merkle_levels([self.adverts[p] for p in self.u1])
            if lie == "short":
                paths = [paths[0][:-1], *paths[1:]]
            elif lie == "swapped":
                paths = [paths[1], paths[0], *paths[2:]]
            elif lie == "missing":
                adverts, paths = adverts[1:], paths[1:]
            elif lie == "stranger":
                shown = sorted([party, *self.graph.neighbours(party), other])
                adverts = [self.adverts[p] for p in shown]
                paths = [merkle_path(levels, self.u1.index(p)) for p in shown]
            elif lie in ("fewer", "outside"):
                gone = other if lie == "fewer" else self.graph.neighbours(party)[0]
                present = to_bitmap([p for p in self.u1 if p != gone], self.u1)
            nonce = {"none": b"", "the first": self.nonce}.get(lie, self.graph_nonce)
            return NearAdverts(present, adverts, paths, nonce)

    server = Liar.over("semi-malicious", 32, 3, corruption=0.05)
    assert server.refusals == {"c1": FaultKind.INVALID}

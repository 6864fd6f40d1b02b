"""SecAggPlus: exact sums on sparse graphs, parameters that every client computes, and refusals with reasons."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc import graph
from secagg.beacon import SignedBeacon
from secagg.errors import Aborted, ConfigError, FaultKind
from secagg.merkle import merkle_levels, merkle_path, merkle_root, root_of_path
from secagg.protocols.pairwise.messages import NearAdverts
from secagg.protocols.pairwise.neighbours import Graph
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.pairwise.sparse_client import SparseClient
from secagg.session import Advertised, session_id
from secagg.testing import CHECKS, Session, check_protocol, parties_for
from secagg.wire import Envelope
from tests.reference import graph as reference

MODELS = ("malicious", "semi-malicious", "semi-honest")
OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)


def fetch(number: int) -> bytes:
    return BEACON.publish(OPERATOR, number)


def plus(threat_model: str, kind: Any = secagg.SecAggPlus, **fields: Any) -> secagg.SecAggPlus:
    beacon = {"beacon": BEACON} if threat_model == "malicious" else {}
    protocol: secagg.SecAggPlus = kind(threat_model=threat_model, **beacon, **fields)
    return protocol


def make_task(
    clients: int, min_survivors: int, threat_model: str = "semi-malicious", **changes: Any
) -> secagg.Task:
    fields: dict[str, Any] = {
        "protocol": plus(threat_model),
        "layout": secagg.Layout.of({"w": np.zeros(5)}),
        "encoding": secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        "max_clients": clients,
        "min_survivors": min_survivors,
    }
    return secagg.Task(**(fields | changes))


def shape_of(task: secagg.Task) -> Any:
    protocol: Any = task.protocol
    return protocol.shape(task, task.max_clients, protocol.corrupt(task.max_clients, None))


@pytest.mark.parametrize(
    ("sparse", "plain"),
    [("malicious", "malicious"), ("semi-malicious", "malicious"), ("semi-honest", "semi-honest")],
)
def test_without_a_sparse_graph_it_is_secagg(sparse: str, plain: str) -> None:
    """The same thresholds, quorum and sums."""
    task = make_task(5, 4, sparse)
    complete = replace(task, protocol=secagg.SecAgg(corruption=0.05, threat_model=plain))
    shape = shape_of(task)
    assert shape.complete
    assert shape == shape_of(complete)
    for each in (task, complete):
        session = Session(parties_for(each.protocol, 5, beacon=fetch), task=each, silent={"c1": "MaskedInput"})
        session.require_completes("on a complete graph")


@dataclass(frozen=True)
class Sparse(secagg.SecAggPlus):
    """Refuses a complete graph, so that the checks are played on a sparse one."""

    def validate_cohort(self, task: Any, cohort: Any, roster: Any) -> None:
        super().validate_cohort(task, cohort, roster)
        if self.shape(task, len(cohort), self.corrupt(len(cohort), roster)).complete:
            raise ConfigError("got a complete graph")


@pytest.mark.parametrize("threat_model", MODELS)
def test_check_protocol(threat_model: str) -> None:
    assert check_protocol(plus(threat_model), beacon=fetch) == list(CHECKS)
    assert check_protocol(plus(threat_model, Sparse), clients=8, beacon=fetch) == list(CHECKS)


def near_adverts(session: Session, party: str) -> NearAdverts:
    return Envelope.parse(session.outbox[party], 1 << 20).open(NearAdverts)[0]


def shared_keys(task: secagg.Task, silent: Collection[str] = (), *, floors: bool = True) -> Session:
    """A session up to the requests of ShareKeys; ``silent`` have advertised no keys.

    Without ``floors`` the server goes on however few there are.
    """
    known = parties_for(task.protocol, task.max_clients, beacon=fetch)
    session = Session(known, task=task, silent=dict.fromkeys(silent, secagg.Round.ADVERTISE_KEYS))
    if not floors:
        session.server.context.need = lambda *_: None
    session.until(secagg.Round.SHARE_KEYS)
    return session


@pytest.mark.parametrize("threat_model", MODELS)
def test_the_graph_hangs_on_bytes_drawn_once_u1_stands(threat_model: str) -> None:
    """Not before; a server restored since then shows the same ones. Under a beacon nothing is drawn."""
    task, draws = make_task(8, 7, threat_model), []

    def rng(count: int) -> bytes:
        draws.append(os.urandom(count))
        return draws[-1]

    session = Session(parties_for(task.protocol, 8, beacon=fetch), task=task)
    roster = session.parties.roster
    session.server = task.server(session.parties.cohort, roster=roster, session=session.name, beacon=fetch, rng=rng)
    (first,) = draws
    outbox = session.until(secagg.Round.SHARE_KEYS)
    if threat_model == "malicious":
        assert draws == [first]
        return
    assert len(draws) == 2
    shown = {near_adverts(session, party).graph_nonce for party in session.parties.cohort}
    assert shown == {draws[1]} != {first}
    assert task.restore_server(session.server.to_bytes(), roster=roster).start() == outbox


def test_a_client_sees_only_its_neighbours_keys() -> None:
    task = make_task(40, 36)
    session, shape = shared_keys(task), shape_of(task)
    for party in session.parties.cohort:
        shown, client = near_adverts(session, party), session.members[party]
        assert len(shown.adverts) == len(shown.paths) == shape.degree + 1 < 40
        session.ask(party)
        assert set(client._state.adverts) == {party, *session.server._graph.neighbours(party)}
        assert client._state.session_id == session.server.context.state.session_id


@pytest.mark.parametrize("threat_model", MODELS)
def test_a_shrunk_u1_gains_nothing(threat_model: str) -> None:
    """c stays what it was for the cohort, and the graph is made anew for those who are left."""
    task = make_task(100, 80, threat_model)
    protocol: Any = task.protocol
    ids = parties_for(protocol, 100, beacon=fetch).cohort
    session = shared_keys(task, ids[:20])
    session.ask(ids[50])
    client = session.members[ids[50]]
    shape = client._shape(client._state)
    assert (shape.nodes, client._state.corrupt) == (80, 5)
    wanted = graph.sparse_parameters(
        80,
        corrupt=5,
        dropping=0,
        server="semi-malicious" if protocol.checked else "curious",
        windows=protocol.checked,
        security=46 if protocol.uses_beacon else 40,
    )
    assert (shape.degree, shape.threshold) == wanted
    assert shape.threshold > graph.most_neighbours(80, 5, shape.degree, graph.SECURITY + 1)
    assert shape.quorum == ((80 + 5) // 2 + 1 if protocol.checked else 0)
    with pytest.raises(Aborted, match="79 clients that advertised keys; 80 are needed"):
        shared_keys(task, ids[:21])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (secagg.Round.ADVERTISE_KEYS, "20 clients that advertised keys"),
        (secagg.Round.SHARE_KEYS, "20 clients that dealt shares"),
    ],
)
def test_the_client_itself_holds_u1_and_u2_to_the_floor(name: str, says: str) -> None:
    task, early = make_task(24, 21), name == secagg.Round.ADVERTISE_KEYS
    gone = parties_for(task.protocol, 24).cohort[:4]
    session = shared_keys(task, gone if early else (), floors=False)
    if not early:
        session.silent = dict.fromkeys(gone, secagg.Round.SHARE_KEYS)
        session.until(secagg.Round.MASKED_INPUT)
    for party in session.server.pending:
        with pytest.raises(Aborted, match=f"{says}; 21 are needed, so this client reveals nothing more"):
            session.ask(party)


@pytest.mark.parametrize(("clients", "gone"), [(100, 20), (100, 10), (160, 10), (300, 26)])
@pytest.mark.parametrize("threat_model", MODELS)
def test_windows_must_hold_more_than_the_twin_allows_to_be_corrupt(
    clients: int, gone: int, threat_model: str
) -> None:
    task = make_task(clients, clients - gone, threat_model)
    protocol: Any = task.protocol
    shape = protocol.shape(task, clients, clients // 20)
    assert not shape.complete
    if threat_model == "semi-honest":
        assert (shape.window, shape.window_floor) == (0, 0)
        return
    bits = 46 if threat_model == "malicious" else 40
    assert shape.window == shape.degree // 2
    assert shape.window_floor == reference.most_corrupt(clients, clients // 20, shape.window, bits) > 0
    ids = [f"c{i:03}" for i in range(clients)]
    sparse = Graph(ids, shape, bytes(32))
    ring = [ids[node] for node in sparse._ring.order]
    for start in (0, clients // 2, clients - 3):  # the last of these goes round the end
        around = ring[start:] + ring[:start]
        for left in range(shape.window + 1):
            survivors = around[:left] + around[shape.window :]
            assert sparse.is_cut(survivors) == (left <= shape.window_floor)


def test_names_of_u1_are_in_the_session_id() -> None:
    """Leaves that a client isn't shown name nobody; the id does."""
    common: Any = {"task": b"t", "roster": b"r", "session": b"s", "nonce": b"n"}
    ids = {
        session_id(**common, cohort=cohort, advertised=Advertised(2, b"root", present))
        for cohort in (["a", "b", "c"], ["a", "b", "d"], ["a", "bc"])
        for present in (b"\x03", b"\x05")
    }
    assert len(ids) == 6
    assert Advertised.of([b"x", b"y"]) == Advertised(2, merkle_root([b"x", b"y"]))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 64, 100])
def test_paths_lead_to_the_root(size: int) -> None:
    leaves = [bytes([i]) for i in range(size)]
    levels = merkle_levels(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle_path(levels, index)
        assert root_of_path(leaf, index, size, path) == merkle_root(leaves)
        assert root_of_path(b"another", index, size, path) != merkle_root(leaves)
        assert root_of_path(leaf, index, size, path + bytes(32)) is None
        assert root_of_path(leaf, size, size, path) is None
        if path:
            assert root_of_path(leaf, index, size, path[:-1]) is None
            assert root_of_path(leaf, index ^ 1, size, path) != merkle_root(leaves)


@pytest.mark.parametrize("size", [3, 7, 20])
def test_being_a_neighbour_is_mutual(size: int) -> None:
    ids = [f"c{i:02}" for i in range(size)]
    task = make_task(20, 18)
    shape = replace(shape_of(task), nodes=size, degree=min(size - 1, shape_of(task).degree))
    sparse = Graph(ids, shape, bytes(32))
    for party in ids:
        near = sparse.neighbours(party)
        assert len(near) == shape.degree
        assert party not in near
        assert all(party in sparse.neighbours(other) for other in near)
        assert [sparse.point(party, other) for other in sparse.holders(party)] == list(
            range(1, len(sparse.holders(party)) + 1)
        )
        assert sparse.points(party) == [sparse.point(dealer, party) for dealer in sparse.holders(party)]


def test_all_neighbours_of_a_client_gone_is_an_abort_not_a_crash() -> None:
    """Nobody holds its seed any more."""
    task = make_task(100, 80, "semi-honest", protocol=secagg.SecAggPlus(0.01, threat_model="semi-honest"))
    session = shared_keys(task)
    gone = session.server._graph.neighbours("c7")
    assert len(gone) <= 20
    session.silent = dict.fromkeys(gone, secagg.Round.MASKED_INPUT)
    with pytest.raises(Aborted, match="secret; 2 are needed, so nothing is opened"):
        session.run()


def test_who_vouches_for_nothing_that_holds_ends_the_session_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    voucher = SparseClient._voucher

    def lie(client: Any, draft: Any, secret: bytes, by: str, to: str) -> bytes:
        true = voucher(client, draft, secret, by, to)
        return bytes(len(true)) if client.id == by == "c5" else true

    monkeypatch.setattr(SparseClient, "_voucher", lie)
    session = shared_keys(make_task(24, 21))
    with pytest.raises(Aborted, match="got 0 good shares of c5's secret"):
        session.run()
    assert {(sender, kind) for sender, _, kind in session.faults} == {("c5", FaultKind.UNOPENED_SHARE)}
    assert all("didn't open, or it vouched for another U2" in fault.detail for fault in session.server.faults)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: secagg.SecAggPlus(threat_model="malicious"), 'malicious" without beacon='),
        (lambda: secagg.SecAggPlus(beacon=BEACON), 'only "malicious" draws from one'),
        (
            lambda: secagg.SecAggPlus(threat_model="malicious", beacon=b"drand"),
            "expected one such as secagg.beacon",
        ),
        (lambda: secagg.SecAggPlus(threat_model="honest"), "expected 'malicious' or 'semi-malicious' or 'semi-hon"),
        (lambda: SignedBeacon(b"short", 0, 30), "expected the 32 bytes of an Ed25519 key"),
        (lambda: SignedBeacon(bytes(32), 0, 30), "got a key of small order as public_key"),
        (lambda: SignedBeacon(BEACON.public_key, 0, 0), "got period=0; expected whole seconds, at least 1"),
        (lambda: secagg.SecAggPlus(corruption=1.0), "below 1"),
        (
            lambda: make_task(100, 50),
            "got min_survivors=50 with a cohort of 100, 5 of .* expected at least 53",
        ),
        (lambda: make_task(100, 2, "semi-honest"), "expected at least"),
    ],
)
def test_refused_with_the_reason(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_needs_identities_unless_semi_honest() -> None:
    with pytest.raises(ConfigError, match=r"SecAggPlus\(threat_model=\"semi-honest\"\) by name"):
        make_task(20, 18).server([f"c{i:02}" for i in range(20)], session=b"s")


def test_describe_says_who_must_collude_and_what_a_lying_server_may_do() -> None:
    plain = make_task(1000, 670, "semi-honest").describe()
    assert "the server and 34 of 670 clients in the smallest session allowed; a server that lies about who" in plain
    assert "lies about who dropped out can do it alone" in plain
    narrow = make_task(100, 99, "semi-honest").describe()
    assert "nothing is promised against a server that lies" in narrow
    assert "to 24 of 72 shares (1000 clients) rebuild a secret" in plain
    checked = make_task(1000, 670).describe()
    assert "to 223 of 398 shares (1000 clients) rebuild a secret" in checked
    assert "lies" not in checked


def test_is_named() -> None:
    assert secagg.protocols.named()["SecAggPlus"] == secagg.SecAggPlus()
    assert isinstance(secagg.SecAggPlus(), Pairwise)


def test_a_client_takes_no_adverts_as_on_the_complete_graph() -> None:
    session = shared_keys(make_task(8, 7))
    changed = bytearray(session.outbox["c1"])
    changed[9] = 3  # the message's type: Adverts
    session.refused_by("c1", bytes(changed), "adverts as on the complete graph")
    session.ask("c1")

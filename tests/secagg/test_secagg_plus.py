"""SecAggPlus: exact sums on sparse graphs, parameters that every client computes, and refusals with reasons."""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from mpc import graph
from secagg.beacon import SignedBeacon
from secagg.errors import Aborted, ConfigError, FaultKind, RemoteProtocolError
from secagg.merkle import merkle_levels, merkle_path, merkle_root, root_of_path
from secagg.protocols.pairwise.messages import NearAdverts
from secagg.protocols.pairwise.neighbours import Graph
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.pairwise.sparse_client import SparseClient
from secagg.session import Advertised, session_id
from secagg.table import input_round, rounds
from secagg.testing import CHECKS, check_protocol
from secagg.wire import Envelope
from tests.reference import graph as reference

MODELS = ("malicious", "semi-malicious", "semi-honest")
OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)


def fetch(number: int) -> bytes:
    return BEACON.publish(OPERATOR, number)


def simulate(task: secagg.Task, updates: Any, **given: Any) -> secagg.Simulation:
    return secagg.simulate(task, updates, beacon=fetch, **given)


def plus(threat_model: str, made: Any = secagg.SecAggPlus, **given: Any) -> secagg.SecAggPlus:
    beacon = {"beacon": BEACON} if threat_model == "malicious" else {}
    protocol: secagg.SecAggPlus = made(threat_model=threat_model, **beacon, **given)
    return protocol


def make_task(
    clients: int, min_survivors: int, threat_model: str = "semi-malicious", **changes: Any
) -> secagg.Task:
    fields: dict[str, Any] = {
        "protocol": plus(threat_model),
        "layout": secagg.Layout.of(np.zeros(5)),
        "encoding": secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        "max_clients": clients,
        "min_survivors": min_survivors,
    }
    return secagg.Task(**(fields | changes))


def updates_of(task: secagg.Task, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"c{i:02}": rng.uniform(-1.2, 1.2, task.layout.size) for i in range(task.max_clients)}


def grid_sum(updates: dict[str, np.ndarray], who: tuple[str, ...]) -> np.ndarray:
    units = sum(np.rint(np.clip(updates[c], -1, 1) / (1.0 / 32767)).astype(np.int64) for c in who)
    return units * (1.0 / 32767)


def shape_of(task: secagg.Task) -> Any:
    protocol: Any = task.protocol
    return protocol.shape(task, task.max_clients, protocol.corrupt(task.max_clients, None))


@pytest.mark.parametrize("threat_model", MODELS)
@pytest.mark.parametrize(("clients", "gone"), [(8, 1), (24, 3), (40, 4)])
def test_sums_are_exact_whenever_clients_drop_out(threat_model: str, clients: int, gone: int) -> None:
    task = make_task(clients, clients - gone, threat_model)
    assert not shape_of(task).complete
    updates = updates_of(task)
    names = rounds(task.protocol)
    for number, name in enumerate(names):
        silent = dict.fromkeys(list(updates)[number : number + gone], name)
        result = simulate(task, updates, dropouts=silent)
        early = names.index(name) <= names.index(input_round(task.protocol))
        assert set(result.survivors) == set(updates) - (set(silent) if early else set())
        np.testing.assert_array_equal(result.sum, grid_sum(updates, result.survivors))


@settings(max_examples=25)
@given(data=st.data())
def test_sums_are_exact_for_any_dropouts(data: st.DataObject) -> None:
    clients = data.draw(st.integers(6, 20), label="clients")
    gone = data.draw(st.integers(0, 3 if clients > 9 else 1), label="gone")
    threat_model = data.draw(st.sampled_from(MODELS), label="threat_model")
    task = make_task(clients, clients - gone, threat_model)
    updates = updates_of(task)
    names = st.sampled_from(rounds(task.protocol))
    silent = data.draw(st.dictionaries(st.sampled_from(list(updates)), names, max_size=gone), label="silent")
    result = simulate(task, updates, dropouts=silent)
    np.testing.assert_array_equal(result.sum, grid_sum(updates, result.survivors))
    assert dict(result.dropped) == silent


@pytest.mark.parametrize("threat_model", MODELS)
def test_below_the_floor_nothing_is_opened(threat_model: str) -> None:
    task = make_task(24, 21, threat_model)
    for name in rounds(task.protocol):
        updates = updates_of(task)
        late = name == secagg.Round.UNMASKING
        silent = dict.fromkeys(list(updates)[: 24 if late else 4], name)
        if name == secagg.Round.CONSISTENCY_CHECK:
            silent = dict.fromkeys(list(updates)[:12], name)
        with pytest.raises(Aborted, match="nothing is opened"):
            simulate(task, updates, dropouts=silent)


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
    updates = updates_of(task)
    silent = {"c01": secagg.Round.MASKED_INPUT}
    sums = [simulate(t, updates, dropouts=silent).sum for t in (task, complete)]
    np.testing.assert_array_equal(*sums)


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


def near_adverts(server: Any, outbox: dict[str, bytes], party: str) -> NearAdverts:
    return Envelope.parse(outbox[party], 1 << 20).open(NearAdverts)[0]


def shared_keys(
    task: secagg.Task, silent: set[str], floors: bool = True
) -> tuple[Any, dict[str, Any], dict[str, bytes]]:
    """A session up to the requests of ShareKeys; ``silent`` have advertised no keys.

    Without ``floors`` the server goes on however few there are.
    """
    ids = [f"c{i:02}" for i in range(task.max_clients)]
    keys, roster = secagg.identity.enrol(ids)
    server: Any = task.server(ids, roster=roster, session=b"s", beacon=fetch)
    if not floors:
        server.context.need = lambda *_: None
    clients = {c: task.client(c, identity=keys[c], roster=roster, session=b"s") for c in ids}
    outbox = server.start()
    while server.round != secagg.Round.SHARE_KEYS:
        for party, request in outbox.items():
            if party not in silent:
                server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    return server, clients, outbox


@pytest.mark.parametrize("threat_model", MODELS)
def test_the_graph_hangs_on_bytes_drawn_once_u1_stands(threat_model: str) -> None:
    """Not before; a server restored since then shows the same ones. Under a beacon nothing is drawn."""
    task, drawn = make_task(8, 7, threat_model), []

    def rng(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    ids = [f"c{i}" for i in range(8)]
    keys, roster = secagg.identity.enrol(ids)
    server: Any = task.server(ids, roster=roster, session=b"s", beacon=fetch, rng=rng)
    clients = {c: task.client(c, identity=keys[c], roster=roster, session=b"s") for c in ids}
    for party, request in server.start().items():
        server.receive(party, clients[party].receive(request))
    (first,) = drawn
    outbox = server.close_round()
    if threat_model == "malicious":
        assert drawn == [first]
        return
    assert len(drawn) == 2
    shown = {near_adverts(server, outbox, party).graph_nonce for party in ids}
    assert shown == {drawn[1]} != {first}
    again = task.restore_server(server.to_bytes(), roster=roster)
    assert again.start() == outbox


def test_a_client_sees_only_its_neighbours_keys() -> None:
    task = make_task(40, 36)
    server, clients, outbox = shared_keys(task, set())
    shape = shape_of(task)
    for party, client in clients.items():
        shown = near_adverts(server, outbox, party)
        assert len(shown.adverts) == len(shown.paths) == shape.degree + 1 < 40
        client.receive(outbox[party])
        assert set(client._state.adverts) == {party, *server._graph.neighbours(party)}
        assert client._state.session_id == server.context.state.session_id


@pytest.mark.parametrize("threat_model", MODELS)
def test_a_shrunk_u1_gains_nothing(threat_model: str) -> None:
    """c stays what it was for the cohort, and the graph is made anew for those who are left."""
    task = make_task(100, 80, threat_model)
    protocol: Any = task.protocol
    silent = {f"c{i:02}" for i in range(20)}
    _, clients, outbox = shared_keys(task, silent)
    client = clients["c50"]
    client.receive(outbox["c50"])
    shape = client._shape(client._state)
    assert (shape.nodes, client._state.corrupt) == (80, 5)
    wanted = graph.sparse_parameters(
        80,
        corrupt=5,
        dropping=0,
        server="semi-malicious" if protocol.checked else "curious",
        windows=protocol.checked,
        security=46 if protocol.drawn else 40,
    )
    assert (shape.degree, shape.threshold) == wanted
    assert shape.threshold > graph.most_neighbours(80, 5, shape.degree, graph.SECURITY + 1)
    assert shape.quorum == ((80 + 5) // 2 + 1 if protocol.checked else 0)
    too_few = {f"c{i:02}" for i in range(21)}
    with pytest.raises(Aborted, match="79 clients that advertised keys; 80 are needed"):
        shared_keys(task, too_few)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (secagg.Round.ADVERTISE_KEYS, "20 clients that advertised keys"),
        (secagg.Round.SHARE_KEYS, "20 clients that dealt shares"),
    ],
)
def test_the_client_itself_holds_u1_and_u2_to_the_floor(name: str, says: str) -> None:
    task, silent = make_task(24, 21), {f"c{i:02}" for i in range(4)}
    early = name == secagg.Round.ADVERTISE_KEYS
    server, clients, outbox = shared_keys(task, silent if early else set(), floors=False)
    for client in clients.values():
        client.contribute(np.zeros(task.layout.size))
    if not early:
        for party in outbox.keys() - silent:
            server.receive(party, clients[party].receive(outbox[party]))
        outbox = server.close_round()
    for party in server.pending:
        with pytest.raises(Aborted, match=f"{says}; 21 are needed, so this client reveals nothing more"):
            clients[party].receive(outbox[party])


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
    drawn = Graph(ids, shape, bytes(32))
    ring = [ids[node] for node in drawn._ring.order]
    for start in (0, clients // 2, clients - 3):  # the last of these goes round the end
        around = ring[start:] + ring[:start]
        for left in range(shape.window + 1):
            survivors = around[:left] + around[shape.window :]
            assert drawn.is_cut(survivors) == (left <= shape.window_floor)


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
    drawn = Graph(ids, shape, bytes(32))
    for party in ids:
        near = drawn.neighbours(party)
        assert len(near) == shape.degree
        assert party not in near
        assert all(party in drawn.neighbours(other) for other in near)
        assert [drawn.point(party, other) for other in drawn.holders(party)] == list(
            range(1, len(drawn.holders(party)) + 1)
        )


def test_all_neighbours_of_a_client_gone_is_an_abort_not_a_crash() -> None:
    """Nobody holds its seed any more."""
    task = make_task(100, 80, "semi-honest", protocol=secagg.SecAggPlus(0.01, threat_model="semi-honest"))
    server, clients, outbox = semi_honest(task)
    gone = server._graph.neighbours("c07")
    assert len(gone) <= 20
    while server.round != secagg.Round.UNMASKING:
        for party, request in outbox.items():
            if party in server.pending and (server.round == secagg.Round.SHARE_KEYS or party not in gone):
                server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    for party in server.pending:
        server.receive(party, clients[party].receive(outbox[party]))
    with pytest.raises(Aborted, match="secret; 2 are needed, so nothing is opened"):
        server.close_round()


def test_who_vouches_for_nothing_that_holds_ends_the_session_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    voucher = SparseClient._voucher

    def lie(client: Any, draft: Any, secret: bytes, by: str, to: str) -> bytes:
        true = voucher(client, draft, secret, by, to)
        return bytes(len(true)) if client.id == by == "c05" else true

    monkeypatch.setattr(SparseClient, "_voucher", lie)
    task = make_task(24, 21)
    server, clients, outbox = shared_keys(task, set())
    for client in clients.values():
        client.contribute(np.zeros(task.layout.size))
    while server.round != secagg.Round.UNMASKING:
        for party, request in outbox.items():
            server.receive(party, clients[party].receive(request))
        outbox = server.close_round()
    for party, request in outbox.items():
        server.receive(party, clients[party].receive(request))
    with pytest.raises(Aborted, match="got 0 good shares of c05's secret"):
        server.close_round()
    assert {(fault.sender, fault.kind) for fault in server.faults} == {("c05", FaultKind.UNOPENED_SHARE)}
    assert all("didn't open, or it vouched for another U2" in fault.detail for fault in server.faults)


def semi_honest(task: secagg.Task) -> tuple[Any, dict[str, Any], dict[str, bytes]]:
    ids = [f"c{i:02}" for i in range(task.max_clients)]
    server = task.server(ids, session=b"s")
    clients = {c: task.client(c, session=b"s") for c in ids}
    for client in clients.values():
        client.contribute(np.zeros(task.layout.size))
    for party, request in server.start().items():
        server.receive(party, clients[party].receive(request))
    return server, clients, server.close_round()


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


def test_written_and_read() -> None:
    task = make_task(40, 36)
    assert secagg.Task.from_bytes(task.to_bytes()) == task
    assert secagg.protocols.named()["SecAggPlus"] == secagg.SecAggPlus()
    assert isinstance(task.protocol, Pairwise)


def test_a_client_takes_no_adverts_as_on_the_complete_graph() -> None:
    task = make_task(8, 7)
    _, clients, outbox = shared_keys(task, set())
    changed = bytearray(outbox["c00"])
    changed[9] = 3  # the message's type: Adverts
    with pytest.raises(RemoteProtocolError):
        clients["c00"].receive(bytes(changed))
    clients["c00"].receive(outbox["c00"])

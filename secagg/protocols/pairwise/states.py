"""The states of clients and servers of SecAgg and SecAggPlus between rounds.

Both protocols write the same fields. Those that only the sparse graph needs stay empty in SecAgg.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from secagg.bitmap import bitmap_bytes, from_bitmap
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    VOUCHER_BYTES,
)
from secagg.protocols.pairwise.neighbours import Graph
from secagg.roles.state import ClientState, ServerState, among, hold
from secagg.wire import SIGNATURE_BYTES, Reject


class PairwiseClientState(ClientState):
    """The state of a client."""

    corrupt: int = 0
    frozen: tuple[bytes, bytes] = (b"", b"")  # sparse: U1 as a bitmap, and the root over its adverts
    advert: bytes = b""  # sparse: this client's advert, once it has sent another answer
    next_round: int = 0  # sparse: the beacon's first unknown round when U1 was frozen
    u1: list[str] = []
    adverts: dict[str, tuple[bytes, bytes]] = {}  # its own and its neighbours': sealing key, masking key
    dealers: bytes = b""  # U2
    held: dict[str, tuple[bytes, bytes]] = {}  # the shares dealt to this client: of the seed, of the key
    vouchers: dict[str, bytes] = {}  # sparse: by neighbour, its voucher if it masked under the same U2
    survivors: bytes = b""  # U3

    @property
    def own_advert(self) -> bytes:
        """This client's signed advert, once it was sent."""
        return self.advert or self.last_reply


class PairwiseServerState(ServerState):
    """The state of a server, except the sum."""

    adverts: dict[str, bytes] = {}  # U1: the signed envelopes, as received
    public_keys: dict[str, tuple[bytes, bytes]] = {}  # sealing key, masking key
    u1: list[str] = []
    next_rounds: dict[str, int] = {}  # sparse: the beacon's first unknown round by each client's clock
    #: sparse: the beacon's round that the graph is drawn from, and its value
    beacon_output: tuple[int, bytes] | None = msgspec.field(default=None, name="drawn")
    graph_nonce: bytes = b""  # sparse: without a beacon, the server's 32 bytes that the graph is drawn from
    u2: list[str] = []
    seed_commitments: dict[str, bytes] = {}
    commitments: dict[str, bytes] = {}  # by dealer, for its holders in order
    sealed: dict[str, bytes] = {}  # by dealer, for its holders without itself, in order
    vouchers: dict[str, bytes] = {}  # sparse: by client, for its neighbours in U2, in order
    #: the signatures under U2 and U3, which the messages that carried them differ in
    signatures: dict[str, bytes] = msgspec.field(default_factory=dict, name="signed")
    shares: dict[str, dict[int, bytes]] = {}  # by dealer: evaluation point to revealed share


def check_client_state(state: PairwiseClientState) -> None:
    """``ConfigError`` for a restored state with sizes or parties that no client saves."""
    hold(_sorted_among(state.u1, state.cohort), "U1")
    hold(not state.u1 or state.id in state.u1, "U1")
    hold(_sized(state.adverts, state.u1, KEY_BYTES), "adverts")
    hold(_sized(state.held, state.u1, SHARE_BYTES), "shares")
    hold(_sized(state.vouchers, state.u1, VOUCHER_BYTES), "vouchers")
    for marks, name in ((state.dealers, "U2"), (state.survivors, "U3")):
        try:
            hold(not marks or state.id in from_bitmap(marks, state.u1), name)
        except Reject:
            hold(False, name)
    root = len(state.frozen[1]) == HASH_BYTES and len(state.frozen[0]) == bitmap_bytes(len(state.cohort))
    hold(state.frozen == (b"", b"") or root, "frozen adverts")


def check_client_graph(state: PairwiseClientState, graph: Graph) -> None:
    """The same, for what follows from the graph once U1 stands."""
    near = set(graph.neighbours(state.id))
    hold(state.adverts.keys() == near | {state.id} and state.held.keys() <= near | {state.id}, "neighbours")
    hold(not state.vouchers or (bool(state.dealers) and state.vouchers.keys() <= near), "vouchers")


def check_server_state(state: PairwiseServerState) -> None:
    """``ConfigError`` for a restored state with sizes or parties that no server saves."""
    hold(_sorted_among(state.u1, state.cohort), "U1")
    hold(_sorted_among(state.u2, state.u1) and _sorted_among(state.survivors, state.u2), "U2 or U3")
    hold(among(state.adverts, state.u1 or state.answered) and state.adverts.keys() >= set(state.u1), "adverts")
    hold(state.public_keys.keys() == state.adverts.keys(), "adverts")
    hold(_sized(state.public_keys, state.cohort, KEY_BYTES), "adverts")
    hold(among(state.next_rounds, state.u1), "rounds of the beacon")
    hold(all(0 < number < 1 << 63 for number in state.next_rounds.values()), "rounds of the beacon")
    hold(len(state.graph_nonce) in (0, 32), "graph nonce")
    dealers = state.u2 or state.seed_commitments
    for dealt in (state.seed_commitments, state.commitments):
        hold(among(dealers, state.u1) and dealt.keys() == set(dealers), "dealt shares")
    hold(not state.sealed or state.sealed.keys() == set(dealers), "dealt shares")
    hold(_sized(state.signatures, state.survivors, SIGNATURE_BYTES), "signatures")
    hold(not state.shares or state.shares.keys() == set(state.u2), "revealed shares")
    points = [(point, share) for by_point in state.shares.values() for point, share in by_point.items()]
    hold(all(0 < point < 1 << 16 and len(share) == SHARE_BYTES for point, share in points), "revealed shares")


def check_server_graph(state: PairwiseServerState, graph: Graph) -> None:
    """The same, for what follows from the graph once U1 stands."""
    degree = graph.shape.degree
    for dealer in state.seed_commitments:
        hold(len(state.seed_commitments[dealer]) == HASH_BYTES, "commitments")
        hold(len(state.commitments[dealer]) == COMMITMENT_BYTES * len(graph.holders(dealer)), "commitments")
        hold(not state.sealed or len(state.sealed[dealer]) == SEALED_BYTES * degree, "sealed shares")
    for client, vouchers in state.vouchers.items():
        hold(client in state.seed_commitments, "vouchers")
        near = sum(party in state.seed_commitments for party in graph.neighbours(client))
        hold(len(vouchers) == VOUCHER_BYTES * near, "vouchers")


def _sorted_among(parties: list[str], known: Collection[str]) -> bool:
    return among(parties, known) and parties == sorted(parties)


def _sized(
    values: Mapping[str, bytes] | Mapping[str, tuple[bytes, bytes]], known: Collection[str], size: int
) -> bool:
    """Whether each of ``values`` is of a known party, and ``size`` bytes or a pair of so many."""
    parts = [part for value in values.values() for part in ((value,) if isinstance(value, bytes) else value)]
    return among(values.keys(), known) and all(len(part) == size for part in parts)

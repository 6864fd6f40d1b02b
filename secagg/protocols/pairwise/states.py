"""What clients and servers of SecAgg and SecAggPlus keep between rounds.

Both protocols write the same fields. Those that only the sparse graph needs stay empty in SecAgg.
"""

from __future__ import annotations

from secagg.roles.state import ClientState, ServerState


class PairwiseClientState(ClientState):
    """What a client keeps."""

    corrupt: int = 0
    frozen: tuple[bytes, bytes] = (b"", b"")  # sparse: who is in U1, and the root over their adverts
    advert: bytes = b""  # sparse: this client's advert, once other answers followed it
    next_round: int = 0  # sparse: the beacon's first unknown round when U1 was frozen
    u1: list[str] = []
    adverts: dict[str, tuple[bytes, bytes]] = {}  # its own and its neighbours': sealing key, masking key
    dealers: bytes = b""  # U2
    held: dict[str, tuple[bytes, bytes]] = {}  # the shares dealt to this client: of the seed, of the key
    vouchers: dict[str, bytes] = {}  # sparse: what each neighbour has to show if it masked under the same U2
    survivors: bytes = b""  # U3


class PairwiseServerState(ServerState):
    """What a server keeps, the sum apart."""

    adverts: dict[str, bytes] = {}  # U1: the signed envelopes, as received
    public_keys: dict[str, tuple[bytes, bytes]] = {}  # sealing key, masking key
    u1: list[str] = []
    next_rounds: dict[str, int] = {}  # sparse: the beacon's first unknown round by each client's clock
    drawn: tuple[int, bytes] | None = None  # sparse: the beacon's round that the graph is drawn from, and its value
    graph_nonce: bytes = b""  # sparse: the server's 32 bytes that the graph is drawn from, where no beacon is
    u2: list[str] = []
    seed_commitments: dict[str, bytes] = {}
    commitments: dict[str, bytes] = {}  # by dealer, for its holders in order
    sealed: dict[str, bytes] = {}  # by dealer, for its holders without itself, in order
    vouchers: dict[str, bytes] = {}  # sparse: by client, for its neighbours in U2, in order
    signed: dict[str, bytes] = {}  # the signed survivor lists, as received
    shares: dict[str, dict[int, bytes]] = {}  # by dealer: evaluation point to revealed share

"""A client's upload among a hundred clients: Flower's stage of masked vectors, compared with ours.

Both sides open the shares that 99 neighbours dealt, quantize 10^6 floats, agree on a key with each neighbour, add
one mask for each of them and one of their own, and pack the result. Both work in one thread.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Executor
from typing import Any

import numpy as np

from bench.measure import Call
from bench.peer_mpc import is_hidden
from bench.peers import Pair, require
from bench.workers import Here
from secagg.identity import PartyRole
from secagg.roles.environment import Environment
from secagg.store import MemoryLedger

CLIENTS, VALUES, THRESHOLD = 100, 10**6, 67
STEPS, MODULUS, CLIP = 1 << 22, 1 << 32, 8.0  # the defaults of Flower's workflow
WEIGHT = 1000  # of this client, which is Flower's greatest


def update(size: int) -> Any:
    """An update with values from -1 to 1."""
    values = 2 * np.random.default_rng(0).random(size, np.float32) - 1
    return values.astype(np.float32)


def masked_input(clients: int = CLIENTS, size: int = VALUES) -> Pair:
    """One client's part of the round that carries inputs."""
    theirs, ours = _flowers(clients, size), _ours(clients, size)
    return Pair(theirs, ours)


def _flowers(clients: int, size: int) -> Call:
    from flwr.client.mod.secure_aggregation import secaggplus_mod  # noqa: F401 - the module, not its function
    from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
    from flwr.common.secure_aggregation.quantization import quantize
    from flwr.common.secure_aggregation.secaggplus_constants import Key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
    from flwr.supercore.primitives import asymmetric

    module = _module()
    pairs = [asymmetric.generate_key_pairs() for _ in range(clients)]
    private = [asymmetric.private_key_to_bytes(key) for key, _ in pairs]
    public = [asymmetric.public_key_to_bytes(key) for _, key in pairs]
    others = list(range(1, clients))
    agreed = {node: generate_shared_key(pairs[0][0], pairs[node][1]) for node in others}
    values, seed = update(size), os.urandom(32)
    boxes = [
        encrypt(agreed[node], share_keys_plaintext_concat(node, 0, os.urandom(36), os.urandom(36)))
        for node in others
    ]  # a share of 32 bytes has 36 in Flower

    def state() -> Any:
        fresh = module.SecAggPlusState()
        fresh.nid, fresh.sample_num, fresh.threshold = 0, clients, THRESHOLD * clients // CLIENTS
        fresh.clipping_range, fresh.target_range, fresh.mod_range, fresh.max_weight = CLIP, STEPS, MODULUS, WEIGHT
        fresh.rd_seed, fresh.sk1 = seed, private[0]
        fresh.ss2_dict, fresh.rd_seed_share_dict, fresh.sk1_share_dict = dict(agreed), {}, {}
        fresh.public_keys_dict = {node: (public[node], public[node]) for node in range(clients)}
        return fresh

    configs: Any = {Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: others}
    parameters = ndarrays_to_parameters([values])

    def uploaded(fresh: Any) -> Any:
        return module._collect_masked_vectors(fresh, configs, WEIGHT, parameters)

    sent = [bytes_to_ndarray(data) for data in uploaded(state())[Key.MASKED_PARAMETERS]]
    shapes = [one.shape for one in sent]  # the weight, and the vector
    lifted = arithmetic.parameters_subtraction(sent, pseudo_rand_gen(seed, MODULUS, shapes))
    for node in others:  # this client has the least number, so it subtracted the masks that it shares
        lifted = arithmetic.parameters_addition(lifted, pseudo_rand_gen(agreed[node], MODULUS, shapes))
    weight, vector = arithmetic.parameters_mod(lifted, MODULUS)
    expected = quantize([values], CLIP, STEPS)[0]
    require(weight == STEPS and np.abs(vector - expected).max() <= 1, "flwr's masked vector")  # rounding is random
    require(is_hidden(sent[1], expected), "flwr's masks")
    return Call(uploaded, state)


def _module() -> Any:
    """Flower's module of the client's stages, whose name the package gives to a function too."""
    return sys.modules["flwr.client.mod.secure_aggregation.secaggplus_mod"]


def _ours(clients: int, size: int) -> Call:
    import secagg

    ids, values = [f"c{number:03}" for number in range(clients)], update(size)
    task = secagg.Task(
        secagg.SecAgg(), secagg.Layout.of(values), secagg.FixedPoint(clip=CLIP, bits=22), clients, clients
    )
    identities, roster = secagg.identity.enrol(ids)
    make = task.protocol.role_classes[PartyRole.CLIENT]

    def lent(client: str, executor: Executor | None) -> Environment:
        return Environment(identity=identities[client], roster=roster, executor=executor, ledger=MemoryLedger())

    server = task.server(ids, roster=roster, session=b"bench")
    members: dict[str, Any] = {client: make(task, client, lent(client, None), session=b"bench") for client in ids}
    state, request, reply = b"", b"", b""
    outbox = server.start()
    while server.outcome is None:
        asks_input = server.round == secagg.Round.MASKED_INPUT
        if asks_input:
            state, request = members[ids[0]].to_bytes(), outbox[ids[0]]
        for party, message in outbox.items():
            if asks_input:
                members[party].contribute(values)
            answer = members[party].receive(message)
            server.receive(party, answer)
            if asks_input and party == ids[0]:
                reply = answer
        outbox = server.close_round()
    require(np.abs(server.outcome.mean - values).max() < 1e-5, "a session of SecAgg")

    def restored() -> Any:
        return make.from_bytes(state, task, lent(ids[0], Here()))

    def uploaded(client: Any) -> Any:
        client.contribute(values)
        return client.receive(request)

    # A restored client uses the same keys and draws, so it sends what the session's client sent, to the last bit.
    require(uploaded(restored()) == reply, "SecAgg's masked input")
    return Call(uploaded, restored)

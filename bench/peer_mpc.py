"""Masks, shares and whole rounds: Flower's SecAgg+ and FATE's RandomMix, compared with ours.

No peer has to be installed, so each function imports its own. It checks both answers before it returns the calls
that are timed.
"""

from __future__ import annotations

import logging
import os
from functools import cache, partial
from typing import Any

import numpy as np

from bench.measure import Call
from bench.peers import Pair, require

CLIENTS, THRESHOLD = 100, 67
VALUES = 10**6
SECRET = bytes(range(32))
MIXED, MIXERS, BITS = 10**5, 20, 16


@cache
def update() -> Any:
    """An update with values from -1 to 1."""
    return (2 * np.random.default_rng(0).random(VALUES, np.float32) - 1).astype(np.float32)


def quantize() -> Pair:
    """Quantization. Flower's client calls ``quantize`` with the defaults of its workflow: clip 8.0, 2^22 steps."""
    from flwr.common.secure_aggregation.quantization import quantize

    import secagg

    values = update()
    layout, encoding = secagg.Layout.of(values), secagg.FixedPoint(clip=8.0, bits=22)
    encode = partial(encoding.encode, values, layout=layout, weight=None, max_weight=None, rng=os.urandom)
    theirs = quantize([values], 8.0, 1 << 22)[0]
    require(np.abs(theirs * (16.0 / (1 << 22)) - 8.0 - values).max() < 1e-5, "flwr's quantize")
    require(np.abs(encode()[0] * (8.0 / ((1 << 21) - 1)) - 8.0 - values).max() < 1e-5, "FixedPoint.encode")
    return Pair(Call(lambda: quantize([values], 8.0, 1 << 22)), Call(encode))


def split() -> Pair:
    """Sharing one secret. A client of Flower shares two, each by a call of ``create_shares``."""
    from flwr.common.secure_aggregation.crypto import shamir as theirs

    from mpc import shamir

    require(theirs.combine_shares(theirs.create_shares(SECRET, THRESHOLD, CLIENTS)) == SECRET, "flwr's Shamir")
    require(shamir.combine(shamir.split(SECRET, THRESHOLD, CLIENTS)[:THRESHOLD]) == SECRET, "mpc.shamir")
    return Pair(
        Call(lambda: theirs.create_shares(SECRET, THRESHOLD, CLIENTS)),
        Call(lambda: shamir.split(SECRET, THRESHOLD, CLIENTS)),
    )


def combine() -> Pair:
    """Combining t shares at new points: our caches, which serve several secrets, are cleared before each call."""
    from flwr.common.secure_aggregation.crypto import shamir as theirs

    from mpc import shamir

    their_shares = theirs.create_shares(SECRET, THRESHOLD, CLIENTS)[:THRESHOLD]
    our_shares = shamir.split(SECRET, THRESHOLD, CLIENTS)[:THRESHOLD]
    require(theirs.combine_shares(their_shares) == SECRET == shamir.combine(our_shares), "combining shares")

    def forget() -> Any:
        shamir._weights.cache_clear()
        shamir._spreads.cache_clear()
        return our_shares

    return Pair(Call(lambda: theirs.combine_shares(their_shares)), Call(shamir.combine, forget))


def mask() -> Pair:
    """Generating and adding one pairwise mask: ``pseudo_rand_gen``, then ``parameters_addition``."""
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    from mpc.masks import add_mask

    values = np.arange(VALUES, dtype=np.int64)
    theirs, ours = [values], values.astype(np.uint32)

    def masked() -> Any:
        return arithmetic.parameters_addition(theirs, pseudo_rand_gen(SECRET, 1 << 32, [(VALUES,)]))

    hidden, own = masked(), ours.copy()
    again = arithmetic.parameters_subtraction(hidden, pseudo_rand_gen(SECRET, 1 << 32, [(VALUES,)]))
    require(is_hidden(hidden[0], values) and (again[0] == values).all(), "flwr's pseudo_rand_gen")
    add_mask(own, SECRET)
    masked_once = own.copy()
    add_mask(own, SECRET, sign=-1)
    require(is_hidden(masked_once, ours) and (own == ours).all(), "mpc.masks.add_mask")
    return Pair(Call(masked), Call(lambda: add_mask(ours, SECRET)))


def is_hidden(masked: Any, values: Any) -> bool:
    """Whether almost no value shows through, and the masks use all 32 bits."""
    return bool(np.count_nonzero(masked == values) < 10 and np.ptp(masked.astype(np.int64) - values) > 1 << 31)


def unmask(clients: int = 40, gone: int = 4, threshold: int = 27, size: int = 10**5) -> Pair:
    """The last round of a server. Flower's runs from the collected shares to the integers, as in its workflow.

    Ours runs from the first answer that arrives to the decoded sum, with signatures and commitments.
    """
    unmasked = _flowers_unmasking(clients, gone, threshold, size)

    def theirs() -> None:
        # Each call is checked, because at the larger sizes one call takes a minute. The check takes a millisecond.
        require((unmasked()[0] == clients - gone).all(), "flwr's unmasking")

    task, roster, state, answers = _recorded(clients, gone, size)

    def ours(server: Any) -> Any:
        for party, answer in answers.items():
            server.receive(party, answer)
        server.close_round()
        return server.outcome

    restored = partial(task.restore_server, state, roster=roster)
    require(np.abs(ours(restored()).mean - 0.5).max() < 1e-4, "SecAgg's unmasking")
    return Pair(Call(theirs), Call(ours, restored))


def _flowers_unmasking(clients: int, gone: int, threshold: int, size: int) -> Any:
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.supercore.primitives import asymmetric

    modulus, everyone = 1 << 32, range(clients)
    pairs = [asymmetric.generate_key_pairs() for _ in everyone]
    public = [asymmetric.public_key_to_bytes(key) for _, key in pairs]
    private = [asymmetric.private_key_to_bytes(key) for key, _ in pairs]
    seeds = [os.urandom(32) for _ in everyone]
    dealt = [private[node] if node < gone else seeds[node] for node in everyone]
    shares = [shamir.create_shares(secret, threshold, clients)[gone:] for secret in dealt]

    def remove(vector: Any, secret: bytes, sign: int) -> Any:
        lifted = pseudo_rand_gen(secret, modulus, arithmetic.get_parameters_shape(vector))
        change = arithmetic.parameters_addition if sign > 0 else arithmetic.parameters_subtraction
        return change(vector, lifted)

    def shared(secret: bytes, other: int) -> bytes:
        key: bytes = generate_shared_key(
            asymmetric.bytes_to_private_key(secret), asymmetric.bytes_to_public_key(public[other])
        )
        return key

    # The masked sum: a one from every survivor, under its masks. Masks between two survivors cancel.
    masked = [np.full(size, clients - gone, dtype=np.int64)]
    for node in range(gone, clients):
        masked = remove(masked, seeds[node], 1)
        for other in range(gone):
            masked = remove(masked, shared(private[other], node), 1 if node > other else -1)
    masked = arithmetic.parameters_mod(masked, modulus)

    def unmasked() -> Any:
        vector = masked
        for node in everyone:
            secret = shamir.combine_shares(shares[node])
            if node >= gone:
                vector = remove(vector, secret, -1)
                continue
            for other in range(gone, clients):
                vector = remove(vector, shared(secret, other), 1 if node > other else -1)
        return arithmetic.parameters_mod(vector, modulus)

    return unmasked


def _recorded(clients: int, gone: int, size: int) -> tuple[Any, Any, bytes, dict[str, bytes]]:
    """A server saved as Unmasking opens: task, roster, state, and the answers of the survivors."""
    import secagg

    ids = [f"c{number:02}" for number in range(clients)]
    values = np.full(size, 0.5, np.float32)
    task = secagg.Task(
        secagg.SecAgg(), secagg.Layout.of(values), secagg.FixedPoint(clip=1.0), clients, clients - gone
    )
    identities, roster = secagg.identity.enrol(ids)
    server = task.server(ids, roster=roster, session=b"bench")
    members = {c: task.client(c, identity=identities[c], roster=roster, session=b"bench") for c in ids}
    outbox = server.start()
    while server.round != secagg.Round.UNMASKING:
        for party, request in outbox.items():
            if party not in members:
                continue  # the server dismisses the clients that fell silent
            if server.round == secagg.Round.MASKED_INPUT:
                members[party].contribute(values)
            reply = members[party].receive(request)
            assert reply is not None
            server.receive(party, reply)
        outbox = server.close_round()
        if server.round == secagg.Round.MASKED_INPUT:
            members = {party: members[party] for party in ids[gone:]}
    answers = {party: members[party].receive(request) for party, request in outbox.items() if party in members}
    return task, roster, server.to_bytes(), {party: answer for party, answer in answers.items() if answer}


def whole_round() -> Pair:
    """A SecAgg+ round of sixteen clients in Flower, by its workflow and mod and by ours; see ``flower_round``."""
    from bench import flower_round

    logging.getLogger("flwr").setLevel(logging.ERROR)
    counted = {}
    for name, side in (("flwr", flower_round.flowers), ("secagg", flower_round.ours)):
        run, grid = side(true_bytes=True)
        require(flower_round.is_right(run()), f"{name}'s SecAgg+ round")
        least = flower_round.CLIENTS * flower_round.SIZE * flower_round.BITS // 8
        require(grid.up > least, f"the count of {name}'s bytes")
        counted[name] = grid.up
        require(flower_round.is_right(side(true_bytes=False)[0]()), f"{name}'s SecAgg+ round, as it is timed")
    return Pair(
        Call(lambda run: run(), lambda: flower_round.flowers(true_bytes=False)[0]),
        Call(lambda run: run(), lambda: flower_round.ours(true_bytes=False)[0]),
        their_bytes=counted["flwr"],
        our_bytes=counted["secagg"],
    )


def fate_mix() -> Pair:
    """The masked update of one of twenty clients. ``RandomMix.mix`` masks floats and sends each as two float64.

    Ours quantizes, adds as many pairwise masks and one mask of its own, and packs.
    """
    from fate_utils.secure_aggregation_helper import DiffieHellman, MixAggregate, RandomMix

    import secagg
    from secagg import lanes

    values = update()[:MIXED]
    floats = values.astype(np.float64)
    keys = {(a, b): (DiffieHellman(), DiffieHellman()) for a in range(MIXERS) for b in range(a)}
    seeds: list[dict[int, bytes]] = [{} for _ in range(MIXERS)]
    for (a, b), (one, other) in keys.items():
        public = one.get_public_key()
        seeds[a][b] = seeds[b][a] = bytes(one.diffie_hellman(bytes(other.get_public_key())))
        require(bytes(other.diffie_hellman(bytes(public))) == seeds[a][b], "fate_utils' key agreement")
    together = MixAggregate()
    for rank in range(MIXERS):
        together.aggregate(RandomMix(seeds[rank], rank).mix([floats], None))
    require(np.abs(together.finalize(None)[0] / MIXERS - floats).max() < 1e-5, "fate_utils' RandomMix")
    mixer = RandomMix(seeds[0], 0)
    high, low = mixer.mix([floats], None)[0]
    require(np.count_nonzero(np.isclose(high + low, floats, rtol=0, atol=1e-3)) < 10, "fate_utils' mask")
    task = secagg.Task(
        secagg.SecAgg(), secagg.Layout.of(values), secagg.FixedPoint(clip=1.0, bits=BITS), MIXERS, MIXERS
    )

    def masked(rank: int, own: tuple[tuple[bytes, int], ...] = ()) -> bytes:
        encoded = task.encoding.encode(values, layout=task.layout, weight=None, max_weight=None, rng=os.urandom)
        vector = lanes.to_lanes(task, encoded)
        lanes.mask_all(vector, [*((s, 1 if rank < b else -1) for b, s in seeds[rank].items()), *own], None)
        return lanes.pack_lanes(task, vector)

    def mean(sent: list[bytes], keyed: list[tuple[bytes, int]]) -> Any:
        """The mean of updates from their bytes, after the masks of ``keyed`` are added."""
        total = lanes.zero_lanes(task)
        for data in sent:
            lanes.fold_lanes(task, memoryview(data), total)
        lanes.mask_all(total, keyed, None)
        lanes.reduce_lanes(task, total)
        return total[0] / len(sent) / ((1 << (BITS - 1)) - 1) - 1

    own = ((SECRET, 1),)
    sent, lifted = masked(0, own), [(SECRET, -1), *((seed, 1 if b == 0 else -1) for b, seed in seeds[0].items())]
    require(np.abs(mean([masked(rank) for rank in range(MIXERS)], []) - values).max() < 1e-4, "masked updates")
    require(np.abs(mean([sent], lifted) - values).max() < 1e-4, "lifting masks")
    require(np.count_nonzero(np.abs(mean([sent], []) - values) < 1e-3) < 100, "adding masks")
    return Pair(
        Call(lambda: mixer.mix([floats], None)),
        Call(lambda: masked(0, own)),
        their_units=MIXED,
        our_units=MIXED,
        their_bytes=sum(array.nbytes for array in mixer.mix([floats], None)[0]) / MIXED,
        our_bytes=len(sent) / MIXED,
    )

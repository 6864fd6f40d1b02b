"""How each peer is called, and what of ours stands beside it. Both answers are checked before either is timed.

Every function here imports its peer itself, for none of them need be installed.
"""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from bench.measure import Call
from bench.peers import Absent, Comparison, Pair, Peer, require

CLIENTS, THRESHOLD = 100, 67
VALUES = 10**6
UNMASKING, UNMASKING_THRESHOLD, GONE, UNMASKED = 40, 27, 4, 10**5
SECRET = bytes(range(32))
PAILLIER_BITS = 3072
TENSORS, TENSOR = 10, 10_000
MIXED, MIXERS = 10**5, 20

FLOWER = Peer("flwr", "flwr", "pip install 'secagg[peers]'")
PHE = Peer("phe", "phe", "pip install 'secagg[he]'")
PYPAILLIER = Peer("pypaillier", "paillier", "pip install 'secagg[peers]'")
TENSEAL = Peer("tenseal", "tenseal", "pip install 'secagg[he]'")
FATE = Peer("fate_utils", "fate_utils", "pip install fate_utils")
OPENDP = Peer("opendp", "opendp", "pip install opendp")
ACCOUNTING = Peer("dp-accounting", "dp_accounting", "pip install dp-accounting")


@cache
def _update() -> Any:
    return (2 * np.random.default_rng(0).random(VALUES, np.float32) - 1).astype(np.float32)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


def flower_quantize() -> Pair:
    """Flower's client quantizes with ``quantize`` at its workflow's defaults: clip 8.0, 2^22 steps."""
    from flwr.common.secure_aggregation.quantization import quantize

    import secagg

    update = _update()
    layout, encoding = secagg.Layout.of(update), secagg.FixedPoint(clip=8.0, bits=22)
    encode = partial(encoding.encode, update, layout=layout, weight=None, max_weight=None, rng=os.urandom)
    theirs = quantize([update], 8.0, 1 << 22)[0]
    require(np.abs(theirs * (16.0 / (1 << 22)) - 8.0 - update).max() < 1e-5, "flwr's quantize")
    require(np.abs(encode()[0] * (8.0 / ((1 << 21) - 1)) - 8.0 - update).max() < 1e-5, "FixedPoint.encode")
    return Pair(Call(lambda: quantize([update], 8.0, 1 << 22)), Call(encode))


def flower_split() -> Pair:
    """Flower's client deals two such secrets; ``create_shares`` is one of them."""
    from flwr.common.secure_aggregation.crypto import shamir as theirs

    from mpc import shamir

    require(theirs.combine_shares(theirs.create_shares(SECRET, THRESHOLD, CLIENTS)) == SECRET, "flwr's Shamir")
    require(shamir.combine(shamir.split(SECRET, THRESHOLD, CLIENTS)[:THRESHOLD]) == SECRET, "mpc.shamir")
    return Pair(
        Call(lambda: theirs.create_shares(SECRET, THRESHOLD, CLIENTS)),
        Call(lambda: shamir.split(SECRET, THRESHOLD, CLIENTS)),
    )


def flower_combine() -> Pair:
    """From t shares, at points not seen before: what we keep between secrets is forgotten before each call."""
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


def flower_mask() -> Pair:
    """One pairwise mask, made and added: ``pseudo_rand_gen``, then ``parameters_addition``."""
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    from mpc.masks import add_mask

    theirs, ours = [np.zeros(VALUES, np.int64)], np.zeros(VALUES, np.uint32)

    def mask() -> Any:
        return parameters_addition(theirs, pseudo_rand_gen(SECRET, 1 << 32, [(VALUES,)]))

    require(np.ptp(mask()[0]) > 1 << 31, "flwr's pseudo_rand_gen")
    add_mask(ours, SECRET)
    require(ours.max() > 1 << 31, "mpc.masks.add_mask")
    return Pair(Call(mask), Call(lambda: add_mask(ours, SECRET)))


def flower_unmask() -> Pair:
    """A server's last round: Flower's from the collected shares to the integers, as its workflow calls it.

    Ours from the first reveal that arrives to the decoded sum, signatures and commitments included.
    """
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.supercore.primitives import asymmetric

    from secagg._server import Server

    modulus, everyone = 1 << 32, range(UNMASKING)
    pairs = [asymmetric.generate_key_pairs() for _ in everyone]
    public = [asymmetric.public_key_to_bytes(key) for _, key in pairs]
    private = [asymmetric.private_key_to_bytes(key) for key, _ in pairs]
    seeds = [os.urandom(32) for _ in everyone]
    dealt = [private[node] if node < GONE else seeds[node] for node in everyone]
    shares = [shamir.create_shares(secret, UNMASKING_THRESHOLD, UNMASKING)[GONE:] for secret in dealt]

    def remove(vector: Any, secret: bytes, sign: int) -> Any:
        mask = pseudo_rand_gen(secret, modulus, arithmetic.get_parameters_shape(vector))
        change = arithmetic.parameters_addition if sign > 0 else arithmetic.parameters_subtraction
        return change(vector, mask)

    def shared(secret: bytes, other: int) -> bytes:
        key: bytes = generate_shared_key(
            asymmetric.bytes_to_private_key(secret), asymmetric.bytes_to_public_key(public[other])
        )
        return key

    # What the server has added up: a one from every survivor under its masks, pairs of survivors cancelling.
    masked = [np.full(UNMASKED, UNMASKING - GONE, dtype=np.int64)]
    for node in range(GONE, UNMASKING):
        masked = remove(masked, seeds[node], 1)
        for other in range(GONE):
            masked = remove(masked, shared(private[other], node), 1 if node > other else -1)
    masked = arithmetic.parameters_mod(masked, modulus)

    def unmask() -> Any:
        vector = masked
        for node in everyone:
            secret = shamir.combine_shares(shares[node])
            if node >= GONE:
                vector = remove(vector, secret, -1)
                continue
            for other in range(GONE, UNMASKING):
                vector = remove(vector, shared(secret, other), 1 if node > other else -1)
        return arithmetic.parameters_mod(vector, modulus)

    require((unmask()[0] == UNMASKING - GONE).all(), "flwr's unmasking")
    task, roster, state, answers = _recorded()

    def ours(server: Any) -> Any:
        for party, answer in answers.items():
            server.receive(party, answer)
        server.close_round()
        return server.outcome

    restored = partial(Server.from_bytes, state, task, roster=roster)
    require(np.abs(ours(restored()).mean - 0.5).max() < 1e-4, "SecAgg's unmasking")
    return Pair(Call(unmask), Call(ours, restored))


def _recorded() -> tuple[Any, Any, bytes, dict[str, bytes]]:
    """A server's state as Unmasking opens, and what the survivors then answer."""
    import secagg

    ids = [f"c{number:02}" for number in range(UNMASKING)]
    update = np.full(UNMASKED, 0.5, np.float32)
    task = secagg.Task(
        secagg.SecAgg(), secagg.Layout.of(update), secagg.FixedPoint(clip=1.0), UNMASKING, UNMASKING - GONE
    )
    identities, roster = secagg.identity.enrol(ids)
    server = task.server(ids, roster=roster, session=b"bench")
    clients = {c: task.client(c, identity=identities[c], roster=roster, session=b"bench") for c in ids}
    outbox = server.start()
    while server.round != secagg.Round.UNMASKING:
        for party, request in outbox.items():
            if server.round == secagg.Round.MASKED_INPUT:
                if party in ids[:GONE]:
                    continue
                clients[party].contribute(update)
            reply = clients[party].receive(request)
            assert reply is not None
            server.receive(party, reply)
        outbox = server.close_round()
    answers = {party: clients[party].receive(request) for party, request in outbox.items()}
    return task, roster, server.to_bytes(), {party: answer for party, answer in answers.items() if answer}


@cache
def _paillier() -> tuple[Any, Any]:
    """Our scheme for 16 bits and 256 clients, and a key, to which phe is given the same primes."""
    from he import paillier

    return paillier.Scheme(bound=65534, max_clients=256, bits=PAILLIER_BITS), paillier.generate(PAILLIER_BITS)


def phe_encrypt() -> Pair:
    """``public_key.encrypt`` a value; ours a packed vector, from a bare modulus."""
    from he import paillier

    scheme, key = _paillier()
    theirs, few = key.to_phe(), [0.25 * number for number in range(4)]
    count = 400 * scheme.slots.count
    values = np.arange(count) % 65535
    require([theirs.decrypt(theirs.public_key.encrypt(value)) for value in few] == few, "phe")

    def fresh() -> Any:
        return paillier.VectorPublicKey(scheme, paillier.PublicKey(key.n))

    data = fresh().encrypt(values, _threads())
    require((paillier.VectorPrivateKey(scheme, key).open(data, count, 1) == values).all(), "he.paillier")
    return Pair(
        Call(lambda: [theirs.public_key.encrypt(value) for value in few]),
        Call(lambda public: public.encrypt(values, _threads()), fresh),
        their_units=len(few),
        our_units=count,
        their_bytes=2 * PAILLIER_BITS / 8,
        our_bytes=len(data) / count,
    )


def phe_decrypt() -> Pair:
    """``private_key.decrypt`` a value; ours opens a packed sum."""
    from he import paillier

    scheme, key = _paillier()
    theirs, few = key.to_phe(), [0.25 * number for number in range(8)]
    encrypted = [theirs.public_key.encrypt(value) for value in few]
    count = 100 * scheme.slots.count
    values = np.arange(count) % 65535
    ours = paillier.VectorPrivateKey(scheme, key)
    total = ours.encrypt(values, _threads())
    return Pair(
        Call(lambda: require([theirs.decrypt(one) for one in encrypted] == few, "phe")),
        Call(lambda: require((ours.open(total, count, 1, _threads()) == values).all(), "he.paillier")),
        their_units=len(few),
        our_units=count,
    )


def pypaillier_encrypt() -> Pair:
    """One call for the batch, which uses all cores, on integers as long as our full slots less 128 bits."""
    import paillier as module

    from he import paillier

    scheme, key = _paillier()
    public, secret = module.generate_keypair(PAILLIER_BITS)
    plain = [secrets.randbits(scheme.slots.count * scheme.width) for _ in range(400)]
    short = [integer >> 128 for integer in plain]
    opened = module.decrypt_exact_many(secret, [bytes(c) for c in module.encrypt_integers(public, short[:9])])
    require([number for number, _ in opened] == short[:9], "pypaillier")
    require(key.decrypt_integers(key.public.encrypt_integers(plain[:9])) == plain[:9], "he.paillier")
    return Pair(
        Call(lambda: module.encrypt_integers(public, short)),
        Call(lambda bare: bare.encrypt_integers(plain, _threads()), lambda: paillier.PublicKey(key.n)),
        their_units=len(short),
        our_units=len(plain),
    )


@cache
def _nvflare() -> tuple[Any, list[Any]]:
    """The context of NVFlare's ``HEBuilder`` (CKKS, 8192, 60 + 40 + 40 bits, scale 2^40, symmetric); a model."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.generate_relin_keys()
    context.global_scale = 2**40
    return context, np.split(_update()[: TENSORS * TENSOR].astype(np.float64), TENSORS)


def _nvflare_upload() -> list[tuple[bytes, bytes]]:
    """What its decomposer sends of each tensor: the vector, and the vector's context."""
    import tenseal

    context, model = _nvflare()
    with _quiet():
        vectors = [tenseal.ckks_vector(context, tensor) for tensor in model]
    return [(vector.serialize(), vector.context().serialize()) for vector in vectors]


@cache
def _shared() -> tuple[Any, Any, Any]:
    """Our CKKS in the same model of trust, clients sharing the key: scheme, key, and the model as integers."""
    from he import ckks

    scheme = ckks.Scheme(65534, 256, seeded=True)
    return scheme, scheme.generate(), np.rint(32767 * np.concatenate(_nvflare()[1])).astype(np.int64) + 32767


def nvflare_encrypt() -> Pair:
    """A client's upload of ten tensors of 10,000 values: encrypted, and serialised with a context each."""
    scheme, key, values = _shared()
    upload, ours, count = _nvflare_upload(), key.encrypt(values), TENSORS * TENSOR
    require((key.open(_sum_of(scheme, ours, count), count, 1) == values).all(), "he.ckks")
    return Pair(
        Call(_nvflare_upload),
        Call(lambda: key.encrypt(values)),
        their_units=count,
        our_units=count,
        their_bytes=sum(len(vector) + len(context) for vector, context in upload) / count,
        our_bytes=len(ours) / count,
    )


def nvflare_add() -> Pair:
    """The server's part for one more client: from bytes to the running sum."""
    import tenseal

    scheme, key, values = _shared()
    count, upload, ours = TENSORS * TENSOR, _nvflare_upload(), key.encrypt(values)
    context, model = _nvflare()
    with _quiet():
        sums = [tenseal.ckks_vector(context, np.zeros(TENSOR)) for _ in model]
    adder = scheme.adder(count)

    def theirs() -> None:
        for at, (vector, its_context) in enumerate(upload):
            sums[at] += tenseal.ckks_vector_from(tenseal.context_from(its_context), vector)

    theirs()
    require(np.abs(np.array(sums[0].decrypt(context.secret_key())) - model[0]).max() < 1e-4, "tenseal")

    def running() -> Any:
        adder._seen.clear()  # or it would refuse the same vector a second time
        return adder

    return Pair(Call(theirs), Call(lambda into: into.fold(ours), running), their_units=count, our_units=count)


def nvflare_decrypt() -> Pair:
    """Opening a sum."""
    import tenseal

    scheme, key, values = _shared()
    count = TENSORS * TENSOR
    context, model = _nvflare()
    with _quiet():
        vectors = [tenseal.ckks_vector(context, tensor) for tensor in model]
    total = _sum_of(scheme, key.encrypt(values), count)
    secret = context.secret_key()
    return Pair(
        Call(lambda: [vector.decrypt(secret) for vector in vectors]),
        Call(lambda: require((key.open(total, count, 1) == values).all(), "he.ckks")),
        their_units=count,
        our_units=count,
    )


def _sum_of(scheme: Any, data: bytes, count: int) -> bytes:
    adder = scheme.adder(count)
    adder.fold(data)
    total: bytes = adder.total()
    return total


@contextmanager
def _quiet() -> Iterator[None]:
    """TenSEAL's library writes a warning to stdout for each vector of more than one ciphertext."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def fate_encrypt() -> Pair:
    """FATE's arch: ``encode_f64_vec``, then ``encrypt_encoded`` with obfuscation, a ciphertext a value.

    At 3072 bits, for the same security; FATE's own default of 1024 is within an attacker's reach.
    """
    from fate_utils.paillier import keygen

    from he import paillier

    scheme, key = _paillier()
    secret, public, coder = keygen(PAILLIER_BITS)
    few = np.linspace(-1, 1, 16)

    def theirs() -> Any:
        return public.encrypt_encoded(coder.encode_f64_vec(few), True)

    require(np.allclose(coder.decode_f64_vec(secret.decrypt_to_encoded(theirs())), few), "fate_utils")
    count = 400 * scheme.slots.count
    values = np.arange(count) % 65535

    def fresh() -> Any:
        return paillier.VectorPublicKey(scheme, paillier.PublicKey(key.n))

    data = fresh().encrypt(values, _threads())
    return Pair(
        Call(theirs),
        Call(lambda bare: bare.encrypt(values, _threads()), fresh),
        their_units=len(few),
        our_units=count,
        their_bytes=len(pickle.dumps(theirs())) / len(few),
        our_bytes=len(data) / count,
    )


def fate_mix() -> Pair:
    """A client's masked update among twenty: ``RandomMix.mix``, which masks floats and sends them as two float64.

    Ours quantizes, adds as many pairwise masks and one of its own, and packs.
    """
    from fate_utils.secure_aggregation_helper import DiffieHellman, MixAggregate, RandomMix

    import secagg
    from secagg.protocols import lanes

    update = _update()[:MIXED]
    floats = update.astype(np.float64)
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
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(update), secagg.FixedPoint(clip=1.0), MIXERS, MIXERS)
    keyed = [(secret, 1) for secret in seeds[0].values()] + [(SECRET, 1)]

    def ours() -> bytes:
        encoded = task.encoding.encode(update, layout=task.layout, weight=None, max_weight=None, rng=os.urandom)
        vector = lanes.to_lanes(task, encoded)
        lanes.mask_all(vector, keyed, None)
        return lanes.pack_lanes(task, vector)

    return Pair(
        Call(lambda: mixer.mix([floats], None)),
        Call(ours),
        their_units=MIXED,
        our_units=MIXED,
        their_bytes=sum(array.nbytes for array in mixer.mix([floats], None)[0]) / MIXED,
        our_bytes=len(ours()) / MIXED,
    )


def opendp_samplers() -> Pair:
    """OpenDP's discrete Gaussian beside ours."""
    raise Absent("this comparison is in bench/test_dp_sampling.py")


def accounting() -> Pair:
    """dp-accounting's accountants beside ours: their figures are compared, not their speed."""
    raise Absent("its figures are compared in tests/dp/test_accounting.py, not its speed")


COMPARISONS = (
    Comparison("quantize 10^6 float32, stochastic", "call", FLOWER, flower_quantize, claim=20),
    Comparison("split 32 bytes, t = 67 of 100", "secret", FLOWER, flower_split, claim=500),
    Comparison("combine 67 shares at new points", "secret", FLOWER, flower_combine, claim=200),
    Comparison("add a mask to 10^6 lanes", "mask", FLOWER, flower_mask, claim=20),
    Comparison("unmask 40 clients, 4 gone, 10^5 coordinates", "session", FLOWER, flower_unmask, claim=50),
    Comparison("encrypt at 3072 bits", "value", PHE, phe_encrypt, claim=1000),
    Comparison("open at 3072 bits", "value", PHE, phe_decrypt, claim=100),
    Comparison("encrypt integers at 3072 bits", "ciphertext", PYPAILLIER, pypaillier_encrypt, claim=1),
    Comparison("encrypt 10 tensors as NVFlare does", "value", TENSEAL, nvflare_encrypt, claim=1),
    Comparison("add one client's 10 tensors", "value", TENSEAL, nvflare_add, claim=1),
    Comparison("open a sum of 10 tensors", "value", TENSEAL, nvflare_decrypt, claim=1),
    Comparison("encrypt at 3072 bits", "value", FATE, fate_encrypt, claim=1000),
    Comparison("mask 10^5 values among 20", "value", FATE, fate_mix, claim=5),
    Comparison("draw integer noise", "value", OPENDP, opendp_samplers),
    Comparison("account for a run", "call", ACCOUNTING, accounting),
)

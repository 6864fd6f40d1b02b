"""Encryption: phe, pypaillier, TenSEAL as NVFlare calls it, and FATE's Paillier, compared with ours.

No peer has to be installed, so each function imports its own. It checks both answers before it returns the calls
that are timed.
"""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from bench.measure import Call
from bench.peers import Pair, require

PAILLIER_BITS = 3072
TENSORS, TENSOR = 10, 10_000


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


@cache
def _paillier() -> tuple[Any, Any]:
    """Our scheme for 16 bits and 256 clients, and a key. phe gets a key with the same primes."""
    from he import paillier

    return paillier.Scheme(bound=65534, max_clients=256, bits=PAILLIER_BITS), paillier.generate(PAILLIER_BITS)


def phe_encrypt() -> Pair:
    """phe encrypts single values by ``public_key.encrypt``; ours a packed vector, starting from a bare modulus."""
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
    """phe decrypts single values by ``private_key.decrypt``; ours opens a packed sum."""
    from he import paillier

    scheme, key = _paillier()
    theirs, few = key.to_phe(), [0.25 * number for number in range(8)]
    encrypted = [theirs.public_key.encrypt(value) for value in few]
    count = 100 * scheme.slots.count
    values = np.arange(count) % 65535
    ours = paillier.VectorPrivateKey(scheme, key)
    total = ours.encrypt(values, _threads())
    require([theirs.decrypt(one) for one in encrypted] == few, "phe")
    require((ours.open(total, count, 1, _threads()) == values).all(), "he.paillier")
    return Pair(
        Call(lambda: [theirs.decrypt(one) for one in encrypted]),
        Call(lambda: ours.open(total, count, 1, _threads())),
        their_units=len(few),
        our_units=count,
    )


def pypaillier_encrypt() -> Pair:
    """One call of pypaillier for a batch, on all cores. Its integers are 128 bits shorter than our full slots."""
    import paillier as module

    from he import paillier

    scheme, key = _paillier()
    public, secret = module.generate_keypair(PAILLIER_BITS)
    plain = [secrets.randbits(scheme.slots.count * scheme.width) for _ in range(400)]
    short = [integer >> 128 for integer in plain]
    opened = module.decrypt_exact_many(secret, [bytes(c) for c in module.encrypt_integers(public, short)])
    require([number for number, _ in opened] == short, "pypaillier")
    encrypted = paillier.PublicKey(key.n).encrypt_integers(plain, _threads())
    require(key.decrypt_integers(encrypted) == plain, "he.paillier")
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
    return context, np.split(np.random.default_rng(0).uniform(-1, 1, TENSORS * TENSOR), TENSORS)


def _nvflare_upload() -> list[tuple[bytes, bytes]]:
    """What NVFlare's decomposer sends for each tensor: the vector, and the context of the vector."""
    import tenseal

    context, model = _nvflare()
    with quiet():
        vectors = [tenseal.ckks_vector(context, tensor) for tensor in model]
    return [(vector.serialize(), vector.context().serialize()) for vector in vectors]


@cache
def _shared() -> tuple[Any, Any, Any]:
    """Our CKKS with a key that clients share, as in NVFlare: the scheme, the key, and the model as integers."""
    from he import ckks

    scheme = ckks.Scheme(65534, 256, seeded=True)
    return scheme, scheme.generate(), np.rint(32767 * np.concatenate(_nvflare()[1])).astype(np.int64) + 32767


def nvflare_encrypt() -> Pair:
    """The upload of a client: ten tensors of 10,000 values, encrypted, each serialised with a context."""
    scheme, key, values = _shared()
    upload, ours, count = _nvflare_upload(), key.encrypt(values), TENSORS * TENSOR
    require(_is_model(_read(upload)), "tenseal's upload")
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
    """The work of a server for one more client: from bytes to the running sum."""
    import tenseal

    scheme, key, values = _shared()
    count, upload, ours = TENSORS * TENSOR, _nvflare_upload(), key.encrypt(values)
    context, model = _nvflare()
    with quiet():
        sums = [tenseal.ckks_vector(context, np.zeros(TENSOR)) for _ in model]
    adder = scheme.adder(count)

    def theirs() -> None:
        for at, vector in enumerate(_read(upload)):
            sums[at] += vector

    def running() -> Any:
        adder._seen.clear()  # otherwise it refuses the same vector the second time
        return adder

    theirs()
    require(_is_model(sums), "tenseal's sum")
    for _ in range(2):
        running().fold(ours)
    require((key.open(adder.total(), count, 2) == 2 * values).all(), "he.ckks's sum")
    return Pair(Call(theirs), Call(lambda into: into.fold(ours), running), their_units=count, our_units=count)


def nvflare_decrypt() -> Pair:
    """Decrypting a sum."""
    import tenseal

    scheme, key, values = _shared()
    count = TENSORS * TENSOR
    context, model = _nvflare()
    with quiet():
        vectors = [tenseal.ckks_vector(context, tensor) for tensor in model]
    total = _sum_of(scheme, key.encrypt(values), count)
    secret = context.secret_key()
    require(_is_model(vectors), "tenseal's decryption")
    require((key.open(total, count, 1) == values).all(), "he.ckks")
    return Pair(
        Call(lambda: [vector.decrypt(secret) for vector in vectors]),
        Call(lambda: key.open(total, count, 1)),
        their_units=count,
        our_units=count,
    )


def _read(upload: list[tuple[bytes, bytes]]) -> Iterator[Any]:
    """The vectors of an upload, each read in the context that came with it."""
    import tenseal

    return (tenseal.ckks_vector_from(tenseal.context_from(context), vector) for vector, context in upload)


def _is_model(vectors: Iterable[Any]) -> bool:
    """Whether ``vectors`` decrypt to the tensors of the model, within the precision of CKKS."""
    context, model = _nvflare()
    tensors = [np.array(vector.decrypt(context.secret_key())) for vector in vectors]
    return len(tensors) == len(model) and np.allclose(tensors, model, rtol=0, atol=1e-4)


def _sum_of(scheme: Any, data: bytes, count: int) -> bytes:
    adder = scheme.adder(count)
    adder.fold(data)
    total: bytes = adder.total()
    return total


@contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout: TenSEAL writes a warning there for each vector of more than one ciphertext."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def fate_encrypt() -> Pair:
    """FATE encodes by ``encode_f64_vec`` and encrypts by ``encrypt_encoded``, with obfuscation, a value at a time.

    Both use 3072 bits, for the same security. FATE's default of 1024 bits can be broken.
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
    require((paillier.VectorPrivateKey(scheme, key).open(data, count, 1) == values).all(), "he.paillier")
    return Pair(
        Call(theirs),
        Call(lambda bare: bare.encrypt(values, _threads()), fresh),
        their_units=len(few),
        our_units=count,
        their_bytes=len(pickle.dumps(theirs())) / len(few),
        our_bytes=len(data) / count,
    )

"""CKKS and BFV beside TenSEAL: each end of a sum with either library, and what is refused from TenSEAL's side."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from he import _protobuf, _seal, _seal_bytes, _tenseal, _tenseal_vectors, bfv, ckks, params
from he.ckks import SecretKey
from he.errors import CiphertextError, HEError, OpenError
from he.ring import Field, field
from he.ring.slots import modular_places
from he.ring.streams import aes_ctr, derive
from tests.he.polynomials import coefficients, phases, read, values, written

tenseal = pytest.importorskip("tenseal", reason="needs TenSEAL: pip install 'secagg[he]'")

SCHEMES = {
    "bfv": bfv.Scheme(65534, 256),
    "bfv-two-primes": bfv.Scheme(2**24 - 2, 4096),
    "bfv-seeded": bfv.Scheme(65534, 256, True),
    "bfv-seeded-two-primes": bfv.Scheme(2**32 - 2, 4096, True),
    "ckks": ckks.Scheme(30, 4),
    "ckks-two-primes": ckks.Scheme(2**24 - 2, 256),
    "ckks-seeded": ckks.Scheme(65534, 256, True),
    "ckks-seeded-two-primes": ckks.Scheme(2**24 - 2, 4096, True),
    "bfv-seeded-seal": bfv.Scheme(65534, 256, True, engine="seal"),
}
every = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
one_of_each = pytest.mark.parametrize("scheme", [SCHEMES["bfv"], SCHEMES["ckks-two-primes"]], ids=["bfv", "ckks"])
Scheme = ckks.Scheme | bfv.Scheme
DOCUMENT = Path(__file__).parents[2] / "docs" / "tenseal.md"


@lru_cache
def key_of(scheme: Scheme) -> SecretKey:
    return scheme.generate()


def context_from(data: bytes) -> Any:
    return tenseal.context_from(data, n_threads=1)


@lru_cache
def contexts(scheme: Scheme) -> tuple[Any, bytes]:
    """TenSEAL's context with the secret key, and the bytes of the one for clients."""
    private = context_from(key_of(scheme).to_tenseal())
    return private, private.serialize(save_secret_key=scheme.seeded)


def encrypt(context: Any, scheme: Scheme, vector: np.ndarray) -> bytes:
    """What a client with TenSEAL sends: ``vector``, padded, encrypted, serialized."""
    padded = np.zeros(-(-len(vector) // scheme.slots) * scheme.slots, dtype=vector.dtype)
    padded[: len(vector)] = vector
    make = tenseal.bfv_vector if scheme.name == "bfv" else tenseal.ckks_vector
    with redirect_stdout(io.StringIO()):  # TenSEAL prints a warning about long vectors
        data: bytes = make(context, padded.tolist()).serialize()
    return data


def load(context: Any, scheme: Scheme, data: bytes) -> Any:
    return (tenseal.bfv_vector_from if scheme.name == "bfv" else tenseal.ckks_vector_from)(context, data)


def some(scheme: Scheme, count: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, scheme.bound, (count, length), endpoint=True)


@every
def test_clients_move_last_they_use_tenseal_and_server_and_decryptor_this_package(scheme: Scheme) -> None:
    key, length = key_of(scheme), scheme.slots + 5
    vectors = some(scheme, 2, length)
    _, public = contexts(scheme)
    uploads = [encrypt(context_from(public), scheme, vector) for vector in vectors]
    adder = scheme.adder(length)
    for data in uploads:
        adder.fold_tenseal(data)
    adder.fold(key.encrypt(vectors[0]))  # a client that has moved already
    adder = scheme.load_adder(adder.to_bytes(), length)
    assert (key.open(adder.total(), length, 3) == vectors.sum(axis=0) + vectors[0]).all()
    with pytest.raises(CiphertextError, match="in the sum already"):
        adder.fold_tenseal(uploads[1])


@every
def test_decryptor_moves_last_it_uses_tenseal_and_clients_and_server_this_package(scheme: Scheme) -> None:
    key, length = key_of(scheme), scheme.slots + scheme.slots // 2 + 5
    vectors = some(scheme, 3, length)
    adder = scheme.adder(length)
    for vector in vectors:
        adder.fold(key.encrypt(vector))
    decryptor, _ = contexts(scheme)
    opened = np.array(load(decryptor, scheme, scheme.to_tenseal(adder.total(), length)).decrypt())
    assert len(opened) == 2 * scheme.slots
    assert (np.round(opened[:length]) == vectors.sum(axis=0)).all()
    assert not np.round(opened[length:]).any()
    assert np.abs(opened - np.round(opened)).max() < (2.0**-9 if scheme.name == "ckks" else 1e-300)


@every
def test_server_moves_last_it_uses_tenseal(scheme: Scheme) -> None:
    """Uploads of this package, added up by TenSEAL, opened by this package."""
    key, length = key_of(scheme), 7
    vectors = some(scheme, 2, length)
    server = context_from(contexts(scheme)[0].serialize(save_secret_key=False))
    first, second = (load(server, scheme, scheme.to_tenseal(key.encrypt(v), length)) for v in vectors)
    total = scheme.from_tenseal((first + second).serialize(), length)
    assert (key.open(total, length, 2) == vectors.sum(axis=0)).all()


@every
def test_what_tenseal_encrypts_and_adds_up_opens(scheme: Scheme) -> None:
    key, length = key_of(scheme), 7
    vectors = some(scheme, 2, length)
    _, public = contexts(scheme)
    context = context_from(public)
    first, second = (load(context, scheme, encrypt(context, scheme, vector)) for vector in vectors)
    data = (first + second).serialize()
    assert (key.open(scheme.from_tenseal(data, length), length, 2) == vectors.sum(axis=0)).all()


@every
def test_what_went_to_tenseal_comes_back_as_it_was(scheme: Scheme) -> None:
    key, length = key_of(scheme), scheme.slots + 1
    data = key.encrypt(some(scheme, 1, length)[0])
    adder = scheme.adder(length)
    adder.fold(data)
    there = load(contexts(scheme)[0], scheme, scheme.to_tenseal(adder.total(), length)).serialize()
    assert scheme.from_tenseal(there, length) == adder.total()
    with pytest.raises(CiphertextError, match="in the sum already"):
        adder.fold_tenseal(scheme.to_tenseal(data, length))


def test_seal_refuses_to_add_ckks_vectors_of_either_library() -> None:
    """They hold imaginary parts that mean different things: scales that differ by 2^-50 keep them apart."""
    scheme = SCHEMES["ckks-seeded"]
    context, _ = contexts(scheme)
    vector = some(scheme, 1, 7)[0]
    ours = load(context, scheme, scheme.to_tenseal(key_of(scheme).encrypt(vector), 7))
    theirs = load(context, scheme, encrypt(context, scheme, vector))
    with pytest.raises(ValueError, match="scale mismatch"):
        _ = ours + theirs


def test_control_without_the_mark_a_sum_of_both_libraries_counts_ours_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheme = SCHEMES["ckks-seeded"]
    context, _ = contexts(scheme)
    vector = some(scheme, 1, 7)[0] // 2
    monkeypatch.setattr(_tenseal_vectors, "_MARK", 1.0)
    ours = load(context, scheme, scheme.to_tenseal(key_of(scheme).encrypt(vector), 7))
    theirs = load(context, scheme, encrypt(context, scheme, vector))
    total = scheme.from_tenseal((ours + theirs).serialize(), 7)
    assert (key_of(scheme).open(total, 7, 2) == 3 * vector).all()


# Contexts and keys.


@every
def test_keys_survive_a_stay_with_tenseal(scheme: Scheme) -> None:
    key, (context, public) = key_of(scheme), contexts(scheme)
    stored = context.serialize(save_secret_key=True)
    for data in (key.to_tenseal(), stored):
        again = scheme.secret_from_tenseal(data)
        assert (again._secret == key._secret).all()
        assert again.to_tenseal() == key.to_tenseal()
    if scheme.seeded:
        with pytest.raises(HEError, match="seeded"):
            scheme.public_from_tenseal(public)
        return
    assert key.public is not None
    taken = scheme.public_from_tenseal(public)
    assert (taken.to_bytes() == key.public.to_bytes()) == (len(scheme.parameters.primes) == 1)
    adder = scheme.adder(9)
    adder.fold(taken.encrypt(np.arange(9)))
    assert key.open(adder.total(), 9, 1).tolist() == list(range(9))
    with pytest.raises(HEError, match="save_secret_key=True"):
        scheme.secret_from_tenseal(public)


def test_public_key_of_one_prime_makes_a_context_by_itself() -> None:
    for name in ("bfv", "ckks"):
        scheme, key = SCHEMES[name], key_of(SCHEMES[name])
        context = context_from(key.public.to_tenseal())
        assert context.is_public()
        vector = some(scheme, 1, 9)[0]
        total = scheme.from_tenseal(encrypt(context, scheme, vector), 9)
        assert (key.open(total, 9, 1) == vector).all()


def test_public_key_of_several_primes_needs_the_holder_of_the_secret() -> None:
    key = key_of(SCHEMES["bfv-two-primes"])
    with pytest.raises(HEError, match=r"take SecretKey\.to_tenseal"):
        key.public.to_tenseal()


def public_rows(scheme: Scheme, context: bytes) -> np.ndarray:
    """The public key in a context, modulo all its primes (2 * primes, N)."""
    chain, degree = _tenseal.chain_of(scheme), scheme.parameters.degree
    shared = _protobuf.fields(
        _protobuf.fields(context, "", {1: 2, 2: 2, 3: 2, 4: 0})[2], "", {1: 2, 2: 0, 3: 1, 4: 2}
    )
    layout = chain.layout(degree, 0, key=True)
    return _tenseal.read_rows(shared[1], layout, True, 1.0, chain.primes, "key", HEError)


def error_of(modulo: Field, secret: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """b + a s, as signed coefficients."""
    product = second.astype(object) * values(modulo, secret.astype(np.int64) % modulo.prime)
    phase = coefficients(modulo, ((first + product) % modulo.prime).astype(np.uint64)).astype(np.int64)
    return np.where(phase > modulo.prime // 2, phase - modulo.prime, phase)


@pytest.mark.parametrize("name", ["bfv-two-primes", "ckks-two-primes"])
def test_public_key_for_tenseal_is_fresh_and_one_key_modulo_all_primes(name: str) -> None:
    scheme, key = SCHEMES[name], key_of(SCHEMES[name])
    rows, fields = (
        public_rows(scheme, contexts(scheme)[1]),
        [field(4096, q) for q in _tenseal.chain_of(scheme).primes],
    )
    errors = [error_of(f, key._secret, b, a) for f, b, a in zip(fields, rows[:3], rows[3:], strict=True)]
    assert np.abs(errors[0]).max() <= 21
    assert abs(errors[0].std() / 3.24 - 1) < 0.06
    assert (errors[0] == errors[1]).all()
    assert (errors[0] == errors[2]).all()
    own = key.public._key.rows
    assert (errors[0] != error_of(scheme._fields[0], key._secret, own[0], own[2])).mean() > 0.8
    for row, modulo in zip(rows[3:], fields, strict=True):
        assert abs(row.mean() / modulo.prime - 0.5) < 0.03
        assert len(set(row.tolist())) > 0.9 * min(len(row), modulo.prime)


def test_public_keys_of_two_secrets_have_no_randomness_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if it doesn't follow from the secret, who holds one secret s has the other, s + (b - b') / a."""
    scheme = SCHEMES["bfv-two-primes"]
    keys, modulo = (
        [scheme.generate(lambda n, o=o: bytes([o]) * n) for o in (1, 2)],
        field(4096, _tenseal.chain_of(scheme).primes[0]),
    )

    def recovered() -> np.ndarray | None:
        one, other = (public_rows(scheme, key.to_tenseal())[[0, 3]].astype(object) for key in keys)
        if (one[1] != other[1]).any():
            return None
        inverses = np.array([pow(a, -1, modulo.prime) for a in one[1].tolist()])
        quotients = (one[0] - other[0]) * inverses % modulo.prime
        small = coefficients(modulo, quotients.astype(np.uint64)).astype(np.int64)
        return small - modulo.prime * (small > modulo.prime // 2) + keys[0]._secret

    assert recovered() is None
    monkeypatch.setattr(_tenseal, "_seed_of", lambda secret, chain: bytes(32))
    assert (recovered() == keys[1]._secret).all()


@pytest.mark.parametrize("separate", [True, False], ids=["as it is", "control: one key for all purposes"])
def test_a_public_key_for_tenseal_draws_each_polynomial_from_a_stream_of_its_own(
    separate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's words in a public polynomial would show the error, and so the secret."""
    streams: list[bytes] = []
    monkeypatch.setattr(_tenseal, "aes_ctr", lambda key: streams.append(key) or aes_ctr(key))
    if not separate:
        monkeypatch.setattr(_tenseal, "derive", lambda seed, *_: derive(seed))
    key_of(SCHEMES["bfv-two-primes"]).to_tenseal()
    assert len(streams) == 4  # of the error, and of three primes
    assert (len(set(streams)) == 4) == separate


def made_by_tenseal(scheme: Scheme) -> Any:
    p = scheme.parameters
    kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if scheme.seeded else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
    return tenseal.context(
        tenseal.SCHEME_TYPE.BFV if scheme.name == "bfv" else tenseal.SCHEME_TYPE.CKKS,
        p.degree,
        getattr(p, "plain_modulus", None),
        [p.bits] * len(p.primes) + [_tenseal.SPECIAL_BITS],
        encryption_type=kind,
        n_threads=1,
    )


@pytest.mark.parametrize("name", ["bfv-two-primes", "ckks-two-primes", "ckks-seeded-two-primes"])
def test_key_that_tenseal_made_is_taken(name: str) -> None:
    """Where there are several primes. With one, TenSEAL makes no context, since it always makes switching keys."""
    scheme = SCHEMES[name]
    context = made_by_tenseal(scheme)
    if scheme.name == "ckks":
        with pytest.raises(HEError, match="global_scale"):
            scheme.secret_from_tenseal(context.serialize(save_secret_key=True))
        context.global_scale = scheme.parameters.step
    key = scheme.secret_from_tenseal(context.serialize(save_secret_key=True))
    vectors = some(scheme, 2, 9)
    adder = scheme.adder(9)
    adder.fold(key.encrypt(vectors[0]))
    adder.fold_tenseal(encrypt(context, scheme, vectors[1]))
    assert (key.open(adder.total(), 9, 2) == vectors.sum(axis=0)).all()


def test_tenseal_makes_no_context_of_one_prime() -> None:
    p = SCHEMES["bfv"].parameters
    with pytest.raises(RuntimeError, match="keyswitching"):
        tenseal.context(tenseal.SCHEME_TYPE.BFV, p.degree, p.plain_modulus, [p.bits], n_threads=1)


@every
def test_identifiers_and_parameters_are_seals(scheme: Scheme) -> None:
    p, chain = scheme.parameters, _tenseal.chain_of(scheme)
    at = _seal.context(replace(p, primes=chain.primes))
    assert _seal.Context(at.api, at.seal, p, list(at.seal.key_parms_id()), 0).layout.identifier == chain.key
    assert _seal.Context(at.api, at.seal, p, list(at.seal.first_parms_id()), 0).layout.identifier == chain.data
    outer = _protobuf.fields(contexts(scheme)[1], "context", {1: 2, 2: 2, 3: 2, 4: 0})
    expected = _seal_bytes.parameters(p, chain.primes, at.minor)
    assert _seal_bytes.members(outer[1], len(expected), "parameters", HEError) == (expected, at.minor)


def test_a_modulus_without_room_for_tenseals_prime_is_refused() -> None:
    scheme = bfv.Scheme(2**20 - 2, 2**28)
    p = scheme.parameters
    assert p.modulus_bits > params.RING_BITS[p.degree] - _tenseal.SPECIAL_BITS
    with pytest.raises(HEError, match="take fewer"):
        scheme.generate().to_tenseal()


@pytest.mark.parametrize("name", ["ckks", "ckks-seeded"])
def test_pair_of_ckks_ciphertexts_of_tenseal_has_twice_the_variance(name: str) -> None:
    scheme, key = SCHEMES[name], key_of(SCHEMES[name])
    zeros, deviations = np.zeros(4 * scheme.slots, dtype=int), []
    adder = scheme.adder(len(zeros))
    adder.fold(key.encrypt(zeros))
    theirs = scheme.from_tenseal(encrypt(contexts(scheme)[0], scheme, zeros), len(zeros))
    for total in (adder.total(), theirs):
        (phase,) = phases(scheme, key, total)
        prime = scheme.parameters.primes[0]
        deviations.append(
            np.where(phase > prime // 2, phase.astype(np.int64) - prime, phase.astype(np.int64)).std()
        )
    assert abs((deviations[1] / deviations[0]) ** 2 - 2) < 0.2


# What comes from others.


@lru_cache
def blobs(scheme: Scheme, data: bytes) -> list[bytes]:
    """The serialized ciphertexts of a vector of TenSEAL's."""
    count = data.count(_protobuf.varint(scheme.slots // _tenseal_vectors._parts(scheme)), 0, 6) or 1
    pieces, _ = _tenseal_vectors._ciphertexts(scheme, data, count)
    return [bytes(piece) for piece in pieces]


def members(scheme: Scheme, blob: bytes) -> bytearray:
    size = _seal_bytes.FRONT + 16 * len(scheme.parameters.primes) * scheme.parameters.degree
    return bytearray(_seal_bytes.members(blob, size, "ciphertext", HEError)[0])


def plainly(members: bytes) -> bytes:
    return _seal_bytes.Layout(b"", 0, 0, 3).framed(bytes(members))


def vector(
    scheme: Scheme, ciphertexts: list[bytes], sizes: list[int] | None = None, scale: float | None = None
) -> bytes:
    per = _tenseal_vectors._parts(scheme)
    sizes = [scheme.slots // per] * len(ciphertexts) if sizes is None else sizes
    out = _protobuf.octets(1, b"".join(map(_protobuf.varint, sizes)))
    out += b"".join(_protobuf.octets(2, blob) for blob in ciphertexts)
    return out + (_protobuf.double(3, scale or _tenseal.scale_of(scheme)) if per == 2 else b"")


def zstd(data: bytes, **how: Any) -> bytes:
    import zstandard

    packed = zstandard.ZstdCompressor(**how).compress(data)
    return _seal_bytes.HEADER.pack(_seal_bytes.MAGIC, 16, 4, 3, _seal_bytes.ZSTD, 0, 16 + len(packed)) + packed


def hostile_ciphertexts(scheme: Scheme, blob: bytes) -> dict[str, bytes]:
    """One serialized ciphertext with one thing wrong."""
    honest, p = members(scheme, blob), scheme.parameters
    half = 8 * len(p.primes) * p.degree
    chain = _tenseal.chain_of(scheme)

    def changed(at: int, data: bytes) -> bytes:
        out = honest.copy()
        out[at : at + len(data)] = data
        return plainly(out)

    body = zstd(bytes(honest))[16:]
    return {
        "empty": b"",
        "header only": plainly(b""),
        "other identifier": changed(0, bytes(32)),
        "identifier of the keys' level": changed(0, chain.key) if len(p.primes) > 1 else changed(0, b"\1" * 32),
        "the other form": changed(32, bytes([1 - honest[32]])),
        "form 2": changed(32, b"\2"),
        "one polynomial": changed(33, (1).to_bytes(8, "little")),
        "three polynomials": changed(33, (3).to_bytes(8, "little")),
        "2^63 polynomials": changed(33, (1 << 63).to_bytes(8, "little")),
        "another degree": changed(41, (2 * p.degree).to_bytes(8, "little")),
        "another number of primes": changed(49, (9).to_bytes(8, "little")),
        "another scale": changed(57, np.float64(2.0**20).tobytes()),
        "scale NaN": changed(57, np.float64("nan").tobytes()),
        "another correction": changed(65, (2).to_bytes(8, "little")),
        "another length": changed(89, (7).to_bytes(8, "little")),
        "residue at its prime": changed(_seal_bytes.FRONT, chain.primes[0].to_bytes(8, "little")),
        "largest residue": changed(_seal_bytes.FRONT + half + 8, b"\xff" * 8),
        "transparent": changed(_seal_bytes.FRONT + half, bytes(half)),
        "one word more": plainly(bytes(honest) + bytes(8)),
        "one word less": plainly(bytes(honest[:-8])),
        "wrong magic": b"\0" + plainly(bytes(honest))[1:],
        "another version": plainly(bytes(honest))[:3] + b"\5" + plainly(bytes(honest))[4:],
        "zlib": plainly(bytes(honest))[:5] + b"\1" + plainly(bytes(honest))[6:],
        "unknown compression": plainly(bytes(honest))[:5] + b"\7" + plainly(bytes(honest))[6:],
        "header with another size": plainly(bytes(honest))[:8] + (1 << 40).to_bytes(8, "little") + bytes(honest),
        "compressed to too much": zstd(bytes(1 << 24)),
        "compressed to too little": zstd(bytes(honest[:-8])),
        "compressed, size unstated": zstd(bytes(honest), write_content_size=False),
        "compressed, cut": _seal_bytes.HEADER.pack(0xA15E, 16, 4, 3, 2, 0, 16 + len(body) - 9) + body[:-9],
        "compressed, twice": _seal_bytes.HEADER.pack(0xA15E, 16, 4, 3, 2, 0, 16 + 2 * len(body)) + 2 * body,
        "compressed, noise": _seal_bytes.HEADER.pack(0xA15E, 16, 4, 3, 2, 0, 216) + bytes(range(200)),
    }


@every
def test_hostile_vectors_are_refused_and_touch_nothing(scheme: Scheme) -> None:
    key, length = key_of(scheme), 5
    data = encrypt(contexts(scheme)[0], scheme, some(scheme, 1, length)[0])
    own = blobs(scheme, data)
    each = scheme.slots // len(own)
    adder = scheme.adder(length)
    adder.fold_tenseal(data)
    assert (key.open(adder.total(), length, 1) == some(scheme, 1, length)[0]).all()
    before = adder.to_bytes()
    cases: dict[str, Any] = {
        **{n: vector(scheme, [*own[:-1], blob]) for n, blob in hostile_ciphertexts(scheme, own[-1]).items()},
        "empty": b"",
        "nothing": None,
        "text": "a" * len(data),
        "an object": load(contexts(scheme)[0], scheme, data),
        "counts without ciphertexts": vector(scheme, [], [each] * len(own)),
        "ciphertexts without counts": vector(scheme, own, []),
        "over-long counts": vector(scheme, own, [5000] * len(own)),
        "short counts": vector(scheme, own, [length] * len(own)),
        "one count more": vector(scheme, own, [each] * (len(own) + 1)),
        "one ciphertext more": vector(scheme, [*own, own[0]], [each] * len(own)),
        "one of each more": vector(scheme, [*own, own[0]]),
        "cut": data[:-1],
        "one byte more": data + b"\0",
        "an unknown field": data[:-9] + b"\x20\1" + data[-9:],
        "a length beyond the end": vector(scheme, own).replace(b"\x12", b"\x12\xff\xff\xff\xff\x7f", 1),
        "an endless number": vector(scheme, own).replace(b"\x12", b"\x12" + 9 * b"\xff", 1),
        "our own upload": key.encrypt(some(scheme, 1, length)[0]),
    }
    if scheme.name == "ckks":
        cases["scale zero"] = vector(scheme, own, scale=5e-324)
        cases["another scale"] = vector(scheme, own, scale=2.0**20)
        marked = blobs(scheme, scheme.to_tenseal(key.encrypt(some(scheme, 1, length)[0]), length))
        scale = _tenseal.scale_of(scheme) * _tenseal_vectors._MARK
        assert scheme.from_tenseal(vector(scheme, marked, scale=scale), length)
        cases["marked, exchanged"] = vector(scheme, marked[::-1], scale=scale)
        cases["marked ciphertexts, unmarked vector"] = vector(scheme, marked)
        cases["unmarked ciphertexts, marked vector"] = vector(scheme, own, scale=scale)
    for name, wrong in cases.items():
        assert refused(adder.fold_tenseal, wrong, CiphertextError), name
        assert refused(lambda data: scheme.from_tenseal(data, length), wrong, CiphertextError), name
        assert adder.to_bytes() == before, name


def refused(decode: Callable[[Any], object], data: Any, error: type[HEError]) -> bool:
    try:
        decode(data)
    except error:
        return True
    return False


@pytest.mark.parametrize("seeded", [False, True], ids=["public", "seeded"])
def test_control_tenseals_decryptor_opens_what_gives_the_key_away(seeded: bool) -> None:
    """(0, K) in the sum: SecretKey.open refuses, TenSEAL hands the slots out. The document's check notices."""
    scheme = SCHEMES["bfv-seeded" if seeded else "bfv"]
    key, t = key_of(scheme), scheme.parameters.plain_modulus
    adder = scheme.adder(scheme.slots)
    adder.fold(key.encrypt(np.ones(scheme.slots, dtype=int)))
    rows = read(scheme, adder.total())
    rows[:, 1] = (rows[:, 1] + np.uint64(scheme.parameters.primes[0] // t)) % np.uint64(scheme.parameters.primes[0])
    total = written(scheme, adder.total(), rows)
    with pytest.raises(OpenError):
        key.open(total, scheme.slots, 1)
    opened = np.array(load(contexts(scheme)[0], scheme, scheme.to_tenseal(total, scheme.slots)).decrypt())
    plain = field(scheme.slots, t)
    revealed = np.zeros(scheme.slots, dtype=np.uint64)
    revealed[:] = ((opened - 1) % t)[modular_places(scheme.slots)]
    small = coefficients(plain, revealed).astype(np.int64)
    small -= t * (small > t // 2)
    assert (small == key._secret).all()  # the whole key
    assert np.mean((opened >= 0) & (opened <= scheme.bound)) < 0.02  # but the document's check refuses it


OBJECTS = """
import sys, tenseal
from he import bfv, ckks
from he.errors import CiphertextError
scheme = (bfv if sys.argv[1] == "bfv" else ckks).Scheme(*map(int, sys.argv[2].split(",")))
load = tenseal.bfv_vector_from if sys.argv[1] == "bfv" else tenseal.ckks_vector_from
context = tenseal.context_from(sys.stdin.buffer.read(int(sys.argv[3])), n_threads=1)
for size in sys.argv[4].split(","):
    data = sys.stdin.buffer.read(int(size))
    try:
        given = load(context, data)  # TenSEAL takes some of them
    except Exception:
        print("TenSEAL", end=" ")
        continue
    try:
        scheme.from_tenseal(given.serialize(), 5)
        print("TAKEN", end=" ")
    except CiphertextError:
        print("refused", end=" ")
"""


@one_of_each
def test_objects_of_tenseal_that_lie_are_refused_and_crash_nothing(scheme: Scheme) -> None:
    """Objects that live in TenSEAL, in a process of their own: what TenSEAL loads, from_tenseal gets serialized."""
    context, _ = contexts(scheme)
    honest = encrypt(context, scheme, some(scheme, 1, 5)[0])
    own = blobs(scheme, honest)
    each = scheme.slots // len(own)
    other = replace(scheme, bound=scheme.bound // 2)
    cases = {
        "honest": honest,
        "counts without ciphertexts": vector(scheme, [], [each] * len(own)),
        "ciphertexts without counts": vector(scheme, own, []),
        "over-long counts": vector(scheme, own, [5000] * len(own)),
        "counts of nothing": vector(scheme, own, [0] * len(own)),
        "more ciphertexts": vector(scheme, own[:1] * 3),
        **{n: vector(scheme, [*own[:-1], blob]) for n, blob in hostile_ciphertexts(scheme, own[-1]).items()},
        "of another scheme": encrypt(context_from(key_of(other).to_tenseal()), other, some(other, 1, 5)[0]),
    }
    if scheme.name == "bfv":
        plain = context_from(key_of(scheme).to_tenseal())
        plain.auto_relin = False
        factor = load(plain, scheme, honest)
        cases["a product"] = (factor * factor).serialize()  # three polynomials
    stored = context.serialize(save_secret_key=False)
    lengths = ",".join(str(len(case)) for case in cases.values())
    arguments = [scheme.name, f"{scheme.bound},{scheme.max_clients}", str(len(stored)), lengths]
    run = subprocess.run(
        [sys.executable, "-c", OBJECTS, *arguments],
        input=stored + b"".join(cases.values()),
        capture_output=True,
        check=True,
    )
    outcomes = dict(zip(cases, run.stdout.decode().split(), strict=True))
    taken = {name for name, outcome in outcomes.items() if outcome == "TAKEN"}
    # Of the latter, TenSEAL makes the honest vector, whose serialization is in order again.
    assert taken - {"honest"} <= {"compressed, size unstated", "compressed, twice", "form 2"}
    loaded = {name for name, outcome in outcomes.items() if outcome == "refused"}
    assert loaded >= {"over-long counts", "ciphertexts without counts", "transparent", "the other form"}
    assert "honest" in taken
    assert scheme.name == "ckks" or "a product" in loaded


@every
def test_copies_that_tenseal_puts_behind_a_short_vector_are_refused_with_the_remedy(scheme: Scheme) -> None:
    make = tenseal.bfv_vector if scheme.name == "bfv" else tenseal.ckks_vector
    short = make(contexts(scheme)[0], [1, 2, 3]).serialize()
    with pytest.raises(CiphertextError, match="pad the vector with zeros"):
        scheme.from_tenseal(short, 3)


@one_of_each
def test_values_that_no_client_may_have_stay_closed(scheme: Scheme) -> None:
    """What TenSEAL encrypts is not checked by a client: the sum is, when it is opened."""
    context, _ = contexts(scheme)
    bad = encrypt(context, scheme, np.array([3, scheme.bound + 1, 5]))
    with pytest.raises(OpenError):
        key_of(scheme).open(scheme.from_tenseal(bad, 3), 3, 1)


@every
def test_hostile_contexts_are_refused(scheme: Scheme) -> None:
    context, public = contexts(scheme)
    stored = context.serialize(save_secret_key=True)
    parts = _protobuf.fields(stored, "context", {1: 2, 2: 2, 3: 2, 4: 0})
    outer = {1: bytes(parts[1]), 2: bytes(parts[2]), 3: bytes(parts[3])}
    tail = _protobuf.number(4, 1) if scheme.seeded else b""

    def joined(parts: dict[int, bytes], tail: bytes = tail) -> bytes:
        return b"".join(_protobuf.octets(number, part) for number, part in parts.items()) + tail

    kept = scheme.secret_from_tenseal(stored).to_bytes()
    assert scheme.secret_from_tenseal(joined(outer)).to_bytes() == kept
    chain, p = _tenseal.chain_of(scheme), scheme.parameters
    layout = chain.layout(p.degree, 3, key=True)
    rows = np.stack([values(field(p.degree, q), key_of(scheme)._secret.astype(np.int64) % q) for q in chain.primes])
    doubled = np.stack([2 * row.astype(object) % q for row, q in zip(rows, chain.primes, strict=True)]).astype(
        np.uint64
    )
    large = rows.copy()
    large[-1, 0] = chain.primes[-1]

    def secret(rows: np.ndarray, front: bytes | None = None) -> bytes:
        words = rows.size
        blob = layout.framed((layout.plain(words) if front is None else front) + rows.tobytes())
        return joined({**outer, 3: _protobuf.octets(1, blob)})

    assert scheme.secret_from_tenseal(secret(rows)).to_bytes() == kept
    other = replace(scheme, max_clients=scheme.max_clients // 2)
    cases: dict[str, Any] = {
        "empty": b"",
        "nothing": None,
        "cut": stored[:-1],
        "noise": bytes(range(256)) * 9,
        "of the other kind": joined(outer, _protobuf.number(4, 0 if scheme.seeded else 1)),
        "of another scheme": key_of(other).to_tenseal(),
        "no parameters": joined({2: outer[2], 3: outer[3]}),
        "a field twice": joined(outer) + _protobuf.octets(1, outer[1]),
        "no secret": joined({1: outer[1], 2: outer[2]}),
        "a secret that is not ternary": secret(doubled),
        "a secret with an unreduced residue": secret(large),
        "a secret of other parameters": secret(
            rows, _seal_bytes.Layout(bytes(32), p.degree, 1, 3).plain(rows.size)
        ),
        "a secret cut": secret(rows[:, :-1]),
        "a vector": encrypt(context, scheme, some(scheme, 1, 5)[0]),
        "public part alone": public if not scheme.seeded else joined({1: outer[1], 2: outer[2]}),
    }
    if len(chain.primes) > 1:
        mixed = rows.copy()
        mixed[-1] = 0
        cases["a secret that differs between primes"] = secret(mixed)
    if not scheme.seeded:
        stranger = _protobuf.fields(scheme.generate().to_tenseal(), "context", {1: 2, 2: 2, 3: 2, 4: 0})
        cases["another's public key"] = joined({**outer, 2: bytes(stranger[2])})
        cases["no public key"] = joined(
            {1: outer[1], 2: _protobuf.double(3, _tenseal.scale_of(scheme)), 3: outer[3]}
        )
    for name, wrong in cases.items():
        assert refused(scheme.secret_from_tenseal, wrong, HEError), name


@pytest.mark.parametrize("name", ["bfv", "ckks-two-primes"])
def test_hostile_public_keys_are_refused(name: str) -> None:
    scheme, chain = SCHEMES[name], _tenseal.chain_of(SCHEMES[name])
    p, key = scheme.parameters, key_of(SCHEMES[name])
    layout = chain.layout(p.degree, 3, key=True)
    rows = public_rows(scheme, key.to_tenseal())
    parameters = _protobuf.octets(1, layout.framed(_seal_bytes.parameters(p, chain.primes, 3)))

    def context(front: bytes, rows: np.ndarray) -> bytes:
        blob = layout.framed(front + rows.tobytes())
        shared = _protobuf.octets(1, blob) + _protobuf.double(3, _tenseal.scale_of(scheme))
        return parameters + _protobuf.octets(2, shared)

    front = layout.ciphertext(True, rows.size)
    taken = scheme.public_from_tenseal(key.to_tenseal()).to_bytes()
    assert scheme.public_from_tenseal(context(front, rows)).to_bytes() == taken
    large = rows.copy()
    large[-1, -1] = chain.primes[-1]
    for wrong in (
        context(front, large),
        context(front, rows[:-1]),
        context(layout.ciphertext(False, rows.size), rows),
        context(layout.ciphertext(True, rows.size, 2.0), rows),
        context(replace(layout, identifier=bytes(32)).ciphertext(True, rows.size), rows),
    ):
        with pytest.raises(HEError):
            scheme.public_from_tenseal(wrong)


def test_what_compressed_bytes_state_is_compared_before_memory_is_taken() -> None:
    """A frame of 30 bytes may state 2^40 bytes; a frame may also ask for a window of 2^40."""
    scheme = SCHEMES["bfv"]
    size = _seal_bytes.FRONT + 16 * scheme.parameters.degree
    stated = (1 << 40).to_bytes(8, "little"), b"\xf8" + size.to_bytes(8, "little")
    for descriptor, fields in zip((0xE0, 0xC0), stated, strict=True):
        frame = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + fields + b"\x03\0\0\0"
        blob = _seal_bytes.HEADER.pack(0xA15E, 16, 4, 3, _seal_bytes.ZSTD, 0, 16 + len(frame)) + frame
        with pytest.raises(CiphertextError, match=r"window|memory"):
            scheme.from_tenseal(vector(scheme, [blob]), 5)


WITHOUT = """
import sys
for package in ("tenseal", "zstandard"):
    sys.modules[package] = None
import numpy as np
from he import bfv, ckks
for module in (bfv, ckks):
    for seeded in (False, True):
        scheme = module.Scheme(254, 8, seeded)
        key = scheme.load_secret(scheme.generate().to_bytes())
        adder = scheme.adder(9)
        adder.fold(key.encrypt(np.arange(9)))
        assert key.open(adder.total(), 9, 1).tolist() == list(range(9))
        there = scheme.to_tenseal(adder.total(), 9)  # as far as nothing is compressed, this too
        assert scheme.from_tenseal(there, 9) == adder.total()
        assert scheme.secret_from_tenseal(key.to_tenseal()).to_bytes() == key.to_bytes()
import secagg
for protocol in (secagg.BFV(), secagg.CKKS(), secagg.BFV(holder="clients")):
    task = secagg.Task(
        protocol=protocol, layout=secagg.Layout.of({"w": np.zeros(5)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=8), max_clients=4, min_survivors=3, context=b"run",
    )
    updates = {f"c{i}": {"w": np.full(5, 0.5)} for i in range(4)}
    assert abs(secagg.simulate(task, updates).mean["w"] - 0.5).max() < 0.01
for use in (bfv.Scheme(254, 8, engine="seal").generate, lambda: bfv.Scheme(65534, 256).from_tenseal(data, 9)):
    data = sys.stdin.buffer.read() or data
    try:
        use()
    except ValueError as error:
        print("is missing" in str(error) and "pip install" in str(error))
"""


def test_without_tenseal_and_zstandard_all_but_seals_engine_works() -> None:
    compressed = encrypt(contexts(SCHEMES["bfv"])[0], SCHEMES["bfv"], np.arange(9))
    run = subprocess.run([sys.executable, "-c", WITHOUT], input=compressed, capture_output=True, check=False)
    assert (run.stdout, run.stderr) == (b"True\nTrue\n", b"")


def test_document_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["total"].tolist() == [111, 222, 333]
    assert names["opened"][:4] == [11, 22, 33, 0]

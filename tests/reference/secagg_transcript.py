"""Replays a recorded SecAgg session from its seeds, with none of this project's code.

Written from docs/protocols.md and the papers: hashlib, Python's integers, and the primitives of
``cryptography``. It reads the envelopes, rebuilds every key, share, commitment and mask, and takes the masks off
the sum in the slow and obvious way.
"""

import hashlib
import struct
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PRIME = 2**256 + 297
ADVERT, ADVERTS, DEALT, HELD, MASKED, SURVIVORS, SIGNED, UNMASK, REVEALED = range(2, 11)


def parts(*items: bytes | str | int) -> bytes:
    out = b""
    for item in items:
        data = (
            item.to_bytes(8, "big") if isinstance(item, int) else item.encode() if isinstance(item, str) else item
        )
        out += struct.pack(">I", len(data)) + data
    return out


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(secret: bytes, salt: bytes, *info: bytes | str | int) -> bytes:
    return HKDF(SHA256(), 32, salt, parts(*info)).derive(secret)


def stream(key: bytes, length: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def agree(private: bytes, public: bytes, salt: bytes, *info: bytes | str | int) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return hkdf(shared, salt, *info)


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def read(data: bytes, signing_key: bytes | None) -> dict[str, Any]:
    """The fields of an envelope, its trailer checked."""
    magic, version, protocol, kind, task = struct.unpack_from(">6sBHB32s", data)
    assert (magic, version, protocol) == (b"SECAGG", 1, 2)
    at = 42
    session = data[at + 1 : at + 1 + data[at]]
    at += 1 + data[at]
    sender = data[at + 1 : at + 1 + data[at]].decode()
    at += 1 + data[at]
    (length,) = struct.unpack_from(">I", data, at)
    end = at + 4 + length
    body, trailer, digest = data[at + 4 : end], data[end:], sha(data[:end])
    if signing_key is None:
        assert trailer == digest[:16]
    else:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(trailer, b"secagg/v1/envelope" + digest)
    (inner,) = struct.unpack_from(">I", body)
    fields = msgspec.msgpack.decode(body[4 : 4 + inner])
    return {
        "kind": kind, "task": task, "session": session, "sender": sender, "fields": fields,
        "payload": body[4 + inner :],
    }  # fmt: skip


def roster_digest(signing_keys: dict[str, bytes]) -> bytes:
    def value(tag: bytes, body: bytes) -> bytes:
        return tag + struct.pack(">I", len(body)) + body

    rows = b""
    for party in sorted(signing_keys):
        fields = value(b"s", b"Party") + value(b"s", party.encode()) + value(b"s", b"client")
        rows += value(b"d", fields + value(b"y", signing_keys[party]) + value(b"N", b""))
    return sha(b"secagg/v1/roster" + value(b"t", rows))


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return sha(b"\0" + leaves[0])
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1" + merkle(leaves[:k]) + merkle(leaves[k:]))


def polynomial(secret: bytes, threshold: int, key: bytes) -> list[int]:
    drawn = stream(key, 48 * (threshold - 1))
    higher = [int.from_bytes(drawn[i : i + 48], "big") % PRIME for i in range(0, len(drawn), 48)]
    return [int.from_bytes(secret, "big"), *higher]


def value_at(coefficients: list[int], x: int) -> bytes:
    return (sum(c * x**i for i, c in enumerate(coefficients)) % PRIME).to_bytes(33, "big")


def rebuild(shares: dict[int, bytes]) -> bytes:
    secret = 0
    for i, share in shares.items():
        weight = 1
        for j in shares:
            if j != i:
                weight = weight * j * pow(j - i, -1, PRIME) % PRIME
        secret = (secret + weight * int.from_bytes(share, "big")) % PRIME
    return secret.to_bytes(32, "big")


def mask(key: bytes, segments: list[tuple[int, int]]) -> list[list[int]]:
    """The mask of each segment (length, bits), lanes of 4 bytes up to 32 bits a coordinate, else 8."""
    out, start = [], 0
    for length, bits in segments:
        width = 4 if bits <= 32 else 8
        lanes = stream(key, start + length * width)[start:]
        out.append([int.from_bytes(lanes[i : i + width], "little") for i in range(0, len(lanes), width)])
        start += -(-length * width // 16) * 16
    return out


def unpack(payload: bytes, segments: list[tuple[int, int]]) -> list[list[int]]:
    out, at = [], 0
    for length, bits in segments:
        size = (length * bits + 7) // 8
        number = int.from_bytes(payload[at : at + size], "little")
        out.append([number >> i * bits & (1 << bits) - 1 for i in range(length)])
        at += size
    assert at == len(payload)
    return out


def combine(totals: list[list[int]], more: list[list[int]], sign: int, segments: list[tuple[int, int]]) -> None:
    for total, extra, (_, bits) in zip(totals, more, segments, strict=True):
        for i, number in enumerate(extra):
            total[i] = (total[i] + sign * number) % (1 << bits)


def members(bitmap: bytes, u1: list[str]) -> list[str]:
    return [party for i, party in enumerate(u1) if bitmap[i // 8] >> i % 8 & 1]


def verify(record: dict[str, Any]) -> list[list[int]]:
    """Replay a recorded session; returns the sums of its segments. Raises where anything differs."""
    segments = [tuple(pair) for pair in record["segments"]]
    seeds = {c: bytes.fromhex(v) for c, v in record["seeds"].items()}
    private = {c: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v)) for c, v in record["identities"].items()}
    signing = {c: key.public_key().public_bytes_raw() for c, key in private.items()}
    task, session = sha(bytes.fromhex(record["task"])), bytes.fromhex(record["session"])
    messages = [(m["from"], m["to"], bytes.fromhex(m["data"])) for m in record["messages"]]
    opened = [(to, read(data, signing.get(sender)), data) for sender, to, data in messages]
    assert all(m["task"] == task for _, m, _ in opened)

    cohort, _, nonce = opened[0][1]["fields"]
    opening = sha(parts(b"secagg/v1/session", task, roster_digest(signing), session, nonce, parts(*cohort)))
    adverts = {m["sender"]: (m, data) for _, m, data in opened if m["kind"] == ADVERT}
    u1 = sorted(adverts)
    root = merkle([adverts[c][1] for c in u1])
    final = sha(
        parts(b"secagg/v1/session", task, roster_digest(signing), session, nonce, parts(*cohort), len(u1), root)
    )
    corrupt = record["corrupt"]
    threshold = (len(u1) + corrupt) // 2 + 1

    sealing = {c: hkdf(seeds[c], opening, "secagg/v1/role", "sealing-key") for c in u1}
    masking = {c: hkdf(seeds[c], opening, "secagg/v1/role", "masking-key") for c in u1}
    for c in u1:
        assert adverts[c][0]["session"] == opening
        assert adverts[c][0]["fields"] == [public(sealing[c]), public(masking[c])]

    own_seed = {c: hkdf(seeds[c], final, "secagg/v1/role", "self-mask-seed") for c in u1}
    commitments = {}
    for _, m, _ in opened:
        if m["kind"] != DEALT:
            continue
        dealer, (seed_hash, hashes, sealed) = m["sender"], m["fields"]
        assert m["session"] == final
        assert seed_hash == sha(parts("secagg/v1/self-mask-commitment", final, dealer, own_seed[dealer]))
        secrets = {"self-mask": own_seed[dealer], "masking-key": masking[dealer]}
        curves = {
            kind: polynomial(secret, threshold, hkdf(seeds[dealer], final, "secagg/v1/role", f"{kind}-polynomial"))
            for kind, secret in secrets.items()
        }
        boxes = [sealed[i : i + 82] for i in range(0, len(sealed), 82)]
        for point, holder in enumerate(u1, 1):
            shares = [value_at(curve, point) for curve in curves.values()]
            for which, (kind, share) in enumerate(zip(curves, shares, strict=True)):
                expected = sha(parts("secagg/v1/share-commitment", final, dealer, holder, kind, share))
                at = 64 * (point - 1) + 32 * which
                assert hashes[at : at + 32] == expected
            if holder != dealer:
                key = agree(sealing[holder], public(sealing[dealer]), final, "secagg/v1/seal", dealer, holder)
                context = parts("secagg/v1/share", final, DEALT, dealer, holder, point)
                assert AESGCM(key).decrypt(bytes(12), boxes.pop(0), context) == b"".join(shares)
        commitments[dealer] = hashes
    u2 = sorted(commitments)

    def pair_key(one: str, other: str) -> bytes:
        names = min(one, other), max(one, other)
        return agree(masking[one], public(masking[other]), final, "secagg/v1/pairwise-mask", *names)

    total = [[0] * length for length, _ in segments]
    u3 = []
    for _, m, _ in opened:
        if m["kind"] == MASKED:
            client = m["sender"]
            u3.append(client)
            uploaded = unpack(m["payload"], segments)
            combine(total, uploaded, 1, segments)
            expected = [list(numbers) for numbers in record["encoded"][client]]
            combine(
                expected, mask(hkdf(own_seed[client], final, "secagg/v1/self-mask", client), segments), 1, segments
            )
            for other in u2:
                if other != client:
                    sign = 1 if client < other else -1
                    combine(expected, mask(pair_key(client, other), segments), sign, segments)
            assert uploaded == expected
    u3.sort()

    stories = {tuple(m["fields"]) for _, m, _ in opened if m["kind"] == SIGNED}
    assert len(stories) == 1
    dealers, survivors = stories.pop()
    assert (members(dealers, u1), members(survivors, u1)) == (u2, u3)

    revealed: dict[str, dict[int, bytes]] = {c: {} for c in u2}
    for _, m, _ in opened:
        if m["kind"] == REVEALED:
            unopened, shares = m["fields"]
            assert not any(unopened)
            for place, dealer in enumerate(u2):
                revealed[dealer][u1.index(m["sender"]) + 1] = shares[33 * place : 33 * place + 33]
    for dealer, shares in revealed.items():
        secret = rebuild(dict(sorted(shares.items())[:threshold]))
        if dealer in u3:
            assert secret == own_seed[dealer]
            combine(total, mask(hkdf(secret, final, "secagg/v1/self-mask", dealer), segments), -1, segments)
        else:
            assert secret == masking[dealer]
            for client in u3:
                sign = -1 if client < dealer else 1
                combine(total, mask(pair_key(dealer, client), segments), sign, segments)
    return total

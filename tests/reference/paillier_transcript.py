"""Replays a recorded session of Paillier, with none of this project's code.

The ciphertexts of every client are made again from its published seed and encoding. What the decryptor opened is
held to the sum of those encodings: their product is what it was given.
"""

from typing import Any

from tests.reference.paillier import encrypt, pack
from tests.reference.transcript import (
    hkdf,
    members,
    parts,
    pieces,
    read,
    roster_digest,
    sha,
    signing_keys,
    stream,
    unpack,
)

PROTOCOL = 5
PROPOSAL, SESSION_KEY, KEYED, CIPHERTEXTS, SUM, OPENED, COMMITMENT, COMMITTED = range(1, 9)


def slots(encoded: list[list[int]], bounds: list[int], longest: int) -> list[int]:
    """A segment with a larger bound than the longest one has its lowest digits first, then the next ones."""
    out: list[int] = []
    for numbers, bound in zip(encoded, bounds, strict=True):
        reach = longest
        while reach < bound:
            out += [number % (longest + 1) for number in numbers]
            numbers = [number // (longest + 1) for number in numbers]
            reach = reach * (longest + 1) + longest
        out += numbers
    return out


def verify(record: dict[str, Any]) -> list[list[int]]:
    """Replay a recorded session; returns the sums of its segments. Raises where anything differs."""
    segments = [(length, bits) for length, bits in record["segments"]]
    signing, bits, max_clients = signing_keys(record), record["modulus_bits"], record["max_clients"]
    task, name = sha(bytes.fromhex(record["task"])), bytes.fromhex(record["session"])
    messages = [(m["from"], m["to"], bytes.fromhex(m["data"])) for m in record["messages"]]
    opened = [(to, read(data, PROTOCOL, signing.get(sender))) for sender, to, data in messages]
    assert all(m["task"] == task for _, m in opened)
    assert [m["sender"] for _, m in opened] == [who.replace("server", "") for who, *_ in messages]

    def answers(kind: int) -> dict[str, dict[str, Any]]:
        return {m["sender"]: m for to, m in opened if m["kind"] == kind and m["sender"] and to == "server"}

    def requests(kind: int) -> dict[str, dict[str, Any]]:
        return {to: m for to, m in opened if m["kind"] == kind and not m["sender"]}

    cohort, _, nonce = opened[0][1]["fields"]
    (decryptor,) = set(signing) - set(cohort)
    assert cohort == sorted(record["seeds"])
    roster = roster_digest(signing, {}, [decryptor])
    session = sha(parts("secagg/v1/session", task, roster, name, nonce, parts(*cohort)))
    assert {to: m["fields"] for to, m in requests(PROPOSAL).items()} == {decryptor: [cohort, name, nonce]}
    assert all(m["session"] == session for _, m in opened if m["kind"] not in (PROPOSAL, KEYED))
    keyed = [cohort, name, nonce, answers(SESSION_KEY)[decryptor]["raw"]]
    assert all((m["fields"], m["session"]) == (keyed, b"") for m in requests(KEYED).values())
    (key,) = answers(SESSION_KEY)[decryptor]["fields"]
    n = int.from_bytes(key, "big")
    assert n.bit_length() == bits

    bounds = record["bounds"]
    longest = max(zip(segments, bounds, strict=True), key=lambda pair: (pair[0][0], pair[1]))[1]
    width = (max_clients * longest).bit_length()
    scheme = b"".join(number.to_bytes(8, "big") for number in (longest, max_clients, bits, 0))
    front = sha(b"secagg/v1/paillier-scheme" + scheme)[:16] + sha(b"secagg/v1/paillier-key" + key)[:16]

    def uploaded(client: str) -> list[int]:
        encoded = record["encoded"][client]
        hashed = sha(b"".join(number.to_bytes(4, "little") for numbers in encoded for number in numbers))
        pinned = sha(parts("secagg/v1/he-key", key))
        seed = bytes.fromhex(record["seeds"][client])
        rng_key = hkdf(seed, session, "secagg/v1/role", "encryption", pinned, hashed)
        values, count = slots(encoded, bounds, longest), (bits - 1) // width
        rows = [values[at : at + count] for at in range(0, len(values), count)]
        exponents = pieces(stream(rng_key, len(rows) * bits // 16), bits // 16)
        return [
            encrypt(n, pack(row, width), int.from_bytes(exponent, "little"))
            for row, exponent in zip(rows, exponents, strict=True)
        ]

    def written(numbers: list[int]) -> bytes:
        return front + b"".join(number.to_bytes(bits // 4, "big") for number in numbers)

    assert sorted(requests(KEYED)) == sorted(answers(COMMITMENT)) == cohort
    for client, m in answers(COMMITMENT).items():
        ciphertexts = written(uploaded(client))
        assert m["fields"] == [sha(parts("secagg/v1/he-commitment", session, client, ciphertexts))]
        if client in answers(CIPHERTEXTS):
            assert answers(CIPHERTEXTS)[client]["payload"] == ciphertexts
    survivors = sorted(answers(CIPHERTEXTS))
    assert survivors == sorted(requests(COMMITTED)) == record["survivors"]
    product = [1] * len(uploaded(cohort[0]))
    for client in survivors:
        product = [a * b % n**2 for a, b in zip(product, uploaded(client), strict=True)]
    (bitmap,) = requests(SUM)[decryptor]["fields"]
    assert members(bitmap, cohort) == survivors
    assert requests(SUM)[decryptor]["payload"] == written(product)
    total = unpack(answers(OPENED)[decryptor]["payload"], segments)
    columns = zip(*(record["encoded"][client] for client in survivors), strict=True)
    assert total == [[sum(numbers) for numbers in zip(*segment, strict=True)] for segment in columns]
    return total

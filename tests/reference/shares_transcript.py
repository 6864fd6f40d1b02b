"""Replays a recorded session of AdditiveShares, with none of this project's code.

What HPKE sealed can't be sealed again: it is opened, with the aggregators' private keys, and held to the shares
that follow from the clients' seeds and encodings. Everything else is rebuilt.
"""

import hashlib
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from tests.reference.hpke import open_sealed
from tests.reference.transcript import (
    combine,
    hkdf,
    mask,
    members,
    parts,
    pieces,
    public,
    read,
    roster_digest,
    sha,
    signing_keys,
    stream,
    unpack,
)

PROTOCOL = 4
PROPOSAL, READY, REPORT, RECOUNT, HELD, COLLECT, AGREED, RELEASE, SHARE = range(1, 10)


def public_sealing_key(kem: str, private: bytes) -> bytes:
    if kem == "X25519":
        return public(private)
    expanded = hashlib.shake_256(private).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw() + public(expanded[64:])


def verify(record: dict[str, Any]) -> list[list[int]]:
    """Replay a recorded session; returns the sums of its segments. Raises where anything differs."""
    segments = [(length, bits) for length, bits in record["segments"]]
    signing, kem = signing_keys(record), record["kem"]
    private = {party: bytes.fromhex(key) for party, key in record["sealing_keys"].items()}
    sealing = {party: public_sealing_key(kem, key) for party, key in private.items()}
    aggregators = sorted(private)
    leader, *helpers = aggregators
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
    assert cohort == sorted(record["seeds"])
    session = sha(parts("secagg/v1/session", task, roster_digest(signing, sealing), name, nonce, parts(*cohort)))
    assert all(m["fields"] == [cohort, name, nonce] for m in requests(PROPOSAL).values())
    assert all(m["session"] == session for _, m in opened if m["kind"] != PROPOSAL)
    assert set(requests(PROPOSAL)) == {*answers(REPORT), *aggregators}
    assert sorted(answers(READY)) == aggregators

    def open_share(client: str, aggregator: str, sealed: bytes) -> bytes | None:
        info = parts("secagg/v1/input-share", task, session, client, aggregator)
        try:
            return open_sealed(kem, private[aggregator], sealed, info)
        except InvalidTag:
            return None

    reports = answers(REPORT)
    held: dict[str, list[str]] = {aggregator: [] for aggregator in aggregators}
    written: dict[str, list[list[int]]] = {}
    seeds: dict[str, list[bytes]] = {}
    for client, m in reports.items():
        handed_on = sorted(to for to, other in opened if other["raw"] == m["raw"] and to != "server")
        assert handed_on == aggregators
        rng_key = hkdf(bytes.fromhex(record["seeds"][client]), session, "secagg/v1/role", "input-shares")
        seeds[client] = pieces(stream(rng_key, 32 * len(helpers)), 32)
        written[client] = [list(numbers) for numbers in record["encoded"][client]]
        for seed in seeds[client]:
            combine(written[client], mask(seed, segments), -1, segments)
        for helper, sealed, seed in zip(helpers, *m["fields"], seeds[client], strict=True):
            share = open_share(client, helper, sealed)
            assert share in (seed, None)
            held[helper] += [client] if share else []
        share = open_share(client, leader, m["payload"])
        if share is not None:
            assert unpack(share, segments) == written[client]
            held[leader].append(client)

    unopened = {aggregator: set(reports) - set(held[aggregator]) for aggregator in helpers}
    for aggregator, m in answers(HELD).items():
        bitmap, handed_back = m["fields"]
        assert members(bitmap, cohort) == sorted(held[aggregator])
        assert sorted(handed_back) == sorted(reports[c]["raw"] for c in unopened.get(aggregator, ()))
    chosen = sorted(set.intersection(*map(set, held.values())))
    assert chosen == record["survivors"]
    taken_off = [reports[c]["raw"] for c in sorted(set().union(*unopened.values())) if c in held[leader]]
    listed = [part for client in chosen for part in (client, reports[client]["digest"])]
    digest = sha(parts("secagg/v1/reports", session, *listed))
    agreed = answers(AGREED)
    assert sorted(agreed) == sorted(answers(SHARE)) == aggregators
    assert sorted(requests(COLLECT)) == sorted(requests(RELEASE)) == aggregators
    for aggregator in aggregators:
        bitmap, returned = requests(COLLECT)[aggregator]["fields"]
        assert members(bitmap, cohort) == chosen
        assert returned == (taken_off if aggregator == leader else [])
        assert agreed[aggregator]["fields"] == [bitmap, digest]
        assert requests(RELEASE)[aggregator]["fields"] == [[agreed[party]["raw"] for party in aggregators]]

    total = [[0] * length for length, _ in segments]
    for place, aggregator in enumerate(aggregators):
        expected = [[0] * length for length, _ in segments]
        for client in chosen:
            share = written[client] if aggregator == leader else mask(seeds[client][place - 1], segments)
            combine(expected, share, 1, segments)
        released = unpack(answers(SHARE)[aggregator]["payload"], segments)
        assert released == expected
        combine(total, released, 1, segments)
    return total

"""Replays a recorded session of OneShot, with none of this project's code, and opens its sum.

What HPKE sealed can't be sealed again: it is opened, with the members' session keys, which follow from their seeds,
and held to the shares that follow from the clients' seeds. Everything else is rebuilt, the ciphertexts too.
"""

from typing import Any

from tests.reference import kahe, packed
from tests.reference.hpke import open_sealed
from tests.reference.shares_transcript import public_sealing_key
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
)

PROTOCOL = 9
PROPOSAL, KEY, KEYED, INPUT, DEALING, SHARE, COLLECT, AGREED, RELEASE, SUM = range(1, 11)
LABEL = "secagg/v1/one-shot/"


def tree(leaves: list[bytes]) -> list[list[bytes]]:
    """RFC 9162, section 2.1: all levels."""
    levels = [[sha(b"\0" + leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        level = levels[-1]
        paired = [sha(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        levels.append(paired + level[2 * len(paired) :])
    return levels


def path(levels: list[list[bytes]], place: int) -> bytes:
    beside = []
    for level in levels[:-1]:
        beside += level[place ^ 1 : (place ^ 1) + 1]
        place //= 2
    return b"".join(beside)


def numbers(data: bytes) -> list[int]:
    return [int.from_bytes(word, "little") for word in pieces(data, 4)]


def written(row: list[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in row)


def ring_of(record: dict[str, Any]) -> kahe.Ring:
    ring = record["ring"]
    segments = tuple(kahe.Segment(*segment) for segment in ring["segments"])
    digest = bytes.fromhex(ring["digest"])
    return kahe.Ring(ring["degree"], tuple(ring["primes"]), ring["shift"], segments, ring["places"], digest)


class Replay:
    """The messages of a session, read, and what everyone computes from them."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record, self.ring = record, ring_of(record)
        self.signing = signing_keys(record)
        self.committee = sorted(record["member_seeds"])
        self.m, self.c = len(self.committee), record["corrupt_members"]
        self.task, self.name = sha(bytes.fromhex(record["task"])), bytes.fromhex(record["session"])
        sent = [(m["from"], m["to"], bytes.fromhex(m["data"])) for m in record["messages"]]
        # What a member is handed of a client's input is the server's own message.
        self.messages = [
            (to, read(data, PROTOCOL, None if data[9] == SHARE else self.signing.get(who)))
            for who, to, data in sent
        ]
        self.cohort, _, nonce = self.messages[0][1]["fields"]
        roster = roster_digest(self.signing, {}, self.committee)
        self.session = sha(parts("secagg/v1/session", self.task, roster, self.name, nonce, parts(*self.cohort)))
        for _, m in self.messages:
            assert m["task"] == self.task
            assert m["session"] == (b"" if m["kind"] in (PROPOSAL, KEYED) else self.session)
            assert m["kind"] not in (PROPOSAL, KEYED) or m["fields"][:3] == [self.cohort, self.name, nonce]
        self.a = sha(parts(LABEL + "a", self.session))

    def answers(self, kind: int) -> dict[str, dict[str, Any]]:
        return {m["sender"]: m for _, m in self.messages if m["kind"] == kind and m["sender"]}

    def requests(self, kind: int) -> dict[str, dict[str, Any]]:
        return {to: m for to, m in self.messages if m["kind"] == kind and not m["sender"]}

    def drawn(self, seed: str, size: int, *purpose: bytes | str) -> bytes:
        return stream(hkdf(bytes.fromhex(seed), self.session, "secagg/v1/role", *purpose), size)

    def session_keys(self) -> dict[str, bytes]:
        """The private session keys, each held to the public one that its member signed."""
        private = {p: self.drawn(seed, 32, "session-key") for p, seed in self.record["member_seeds"].items()}
        shown = self.answers(KEY)
        for member, key in private.items():
            assert shown[member]["fields"] == [public_sealing_key(self.record["kem"], key)]
        for m in self.requests(KEYED).values():
            assert m["fields"][3] == [shown[member]["raw"] for member in self.committee]
        return private

    def secret(self, client: str) -> bytes:
        """The seed of a client's key and errors."""
        segments = zip(self.record["encoded"][client], self.record["lane_bytes"], strict=True)
        lanes = b"".join(number.to_bytes(width, "little") for part, width in segments for number in part)
        return self.drawn(self.record["seeds"][client], 32, "one-time-key", sha(lanes))

    def check_input(self, client: str, private: dict[str, bytes]) -> tuple[bytes, list[list[int]]]:
        """Rebuild a client's input; returns the digest of its dealing, and its shares without masks, by place."""
        m = self.answers(INPUT)[client]
        signed, joined, sealed = m["fields"]
        secret = self.secret(client)
        assert m["payload"] == self.ring.encrypt(self.record["encoded"][client], secret, self.a)
        fresh = bytes.fromhex(self.record["fresh"][client])
        rng = self.drawn(self.record["seeds"][client], 32 * (self.c + 1) + 16 * self.m, "dealing", fresh)
        keys, salts = pieces(rng[: 32 * (self.c + 1)], 32), pieces(rng[32 * (self.c + 1) :], 16)
        rows = packed.rows_of(self.m, self.c, self.ring.key(secret, self.a), keys[:-1], keys[-1])
        shares = [packed.share(self.m, self.c, rows, place) for place in range(self.m)]
        texts = [keys[place] if place < self.c else written(shares[place]) for place in range(self.m)]
        leaves = []
        for place, member in enumerate(self.committee):
            info = parts(LABEL + "key-share", self.task, self.session, client, member)
            text = salts[place] + texts[place]
            assert open_sealed(self.record["kem"], private[member], sealed[place], info) == text
            context = parts(LABEL + "commitment", self.session, client)
            commitment = sha(parts(context, place, salts[place], texts[place]))
            leaves.append(commitment + sha(sealed[place]))
        levels = tree(leaves)
        assert joined == b"".join(leaf[:32] for leaf in leaves)
        challenge = sha(parts(parts(LABEL + "challenge", self.session, client), levels[-1][0]))
        proof = b"".join(written(row) for row in packed.prove(rows, challenge))
        dealing = read(signed, PROTOCOL, self.signing[client])
        assert (dealing["kind"], dealing["session"], dealing["sender"]) == (DEALING, self.session, client)
        assert dealing["fields"] == [levels[-1][0], proof]
        handed = {to: p["fields"] for to, p in self.messages if p["kind"] == SHARE and p["fields"][0] == signed}
        assert handed == {
            member: [signed, leaves[place][:32], sealed[place], path(levels, place)]
            for place, member in enumerate(self.committee)
        }
        return levels[-1][0] + sha(proof), [share[: -packed.MASKS] for share in shares]

    def check_agreement(self, dealings: dict[str, bytes]) -> None:
        listed = [part for client in sorted(dealings) for part in (client, dealings[client])]
        digest = sha(parts(LABEL + "agreed", self.session, *listed))
        agreed = self.answers(AGREED)
        assert sorted(agreed) == self.committee
        for member in self.committee:
            assert members(self.requests(COLLECT)[member]["fields"][0], self.cohort) == sorted(dealings)
            assert agreed[member]["fields"] == [digest, b""]
        for m in self.requests(RELEASE).values():
            assert m["fields"] == [[agreed[member]["raw"] for member in self.committee]]


def verify(record: dict[str, Any]) -> list[list[int]]:
    """Replay a recorded session; returns the sums of its segments. Raises where anything differs."""
    replay = Replay(record)
    private, survivors = replay.session_keys(), sorted(replay.answers(INPUT))
    assert survivors == record["survivors"]
    checked = {client: replay.check_input(client, private) for client in survivors}
    replay.check_agreement({client: dealing for client, (dealing, _) in checked.items()})
    answers = {}
    for member, m in replay.answers(SUM).items():
        place = replay.committee.index(member)
        columns = zip(*(shares[place] for _, shares in checked.values()), strict=True)
        answers[place] = numbers(m["payload"])
        assert answers[place] == [sum(column) % packed.PRIME for column in columns]
    (keys,) = packed.candidates(replay.m, replay.c, answers).values()
    degree = replay.ring.degree
    assert not any(keys[degree:])
    total = [0] * replay.ring.places
    for client in survivors:
        terms = replay.ring.unpacked(replay.answers(INPUT)[client]["payload"])
        total = [(a + b) % replay.ring.q for a, b in zip(total, terms, strict=True)]
    sums, errors = replay.ring.opened(replay.ring.packed(total), keys[:degree], replay.a)
    assert max(map(abs, errors)) <= 64 * len(survivors)
    return sums

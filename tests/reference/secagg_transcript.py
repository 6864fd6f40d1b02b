"""Replays a recorded session of SecAgg or SecAggPlus from its seeds, with none of this project's code.

It reads the envelopes, rebuilds the graph and every key, share, commitment, voucher and mask, and takes the masks
off the sum in the slow and obvious way.
"""

from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.reference import graph
from tests.reference.transcript import (
    combine,
    exchange,
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

PRIME = 2**256 + 297
SECAGG, SECAGG_PLUS = 2, 3
PROPOSAL, ADVERT, ADVERTS, DEALT, HELD, MASKED, SURVIVORS, SIGNED = range(1, 9)
REVEALED, NEAR_ADVERTS, VOUCHED_INPUT, VOUCHED_SURVIVORS = range(10, 14)
UNMASK = 17
KINDS = ("self-mask", "masking-key")


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return sha(b"\0" + leaves[0])
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1" + merkle(leaves[:k]) + merkle(leaves[k:]))


def inclusion(leaves: list[bytes], m: int) -> bytes:
    """RFC 9162, section 2.1.3.1, as it is written there."""
    if len(leaves) == 1:
        return b""
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m < k:
        return inclusion(leaves[:k], m) + merkle(leaves[k:])
    return inclusion(leaves[k:], m - k) + merkle(leaves[:k])


def polynomial(secret: bytes, threshold: int, key: bytes) -> list[int]:
    blocks = pieces(stream(key, 48 * (threshold - 1)), 48)
    return [int.from_bytes(secret, "big"), *(int.from_bytes(part, "big") % PRIME for part in blocks)]


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


def draw_order(n: int, seed: bytes) -> list[int]:
    """Nodes by their 16 bytes, read as two little-endian numbers."""
    nodes = pieces(stream(hkdf(seed, b"", "mpc/v1/ring"), 16 * n), 16)
    numbers = [tuple(int.from_bytes(half, "little") for half in pieces(node, 8)) for node in nodes]
    return sorted(range(n), key=lambda node: numbers[node])


class Replay:
    """A recorded session, checked round by round; ``total`` is the sum so far."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.segments = [(length, bits) for length, bits in record["segments"]]
        self.seeds = {c: bytes.fromhex(v) for c, v in record["seeds"].items()}
        self.signing = signing_keys(record)
        messages = [(m["from"], m["to"], bytes.fromhex(m["data"])) for m in record["messages"]]
        self.protocol = int.from_bytes(messages[0][2][7:9], "big")
        assert self.protocol in (SECAGG, SECAGG_PLUS)
        self.sparse = self.protocol == SECAGG_PLUS
        self.opened = [(to, read(data, self.protocol, self.signing.get(who))) for who, to, data in messages]
        senders = [who.replace("server", "") for who, *_ in messages]
        assert [m["sender"] for _, m in self.opened] == senders
        self.total = [[0] * length for length, _ in self.segments]

    def answers(self, *kinds: int) -> list[dict[str, Any]]:
        """The clients' messages of some kinds."""
        return [m for _, m in self.opened if m["kind"] in kinds and m["sender"]]

    def requests(self, *kinds: int) -> list[tuple[str, dict[str, Any]]]:
        """The server's messages of some kinds, and to whom."""
        return [(to, m) for to, m in self.opened if m["kind"] in kinds and not m["sender"]]

    def role(self, client: str, session: bytes, what: str) -> bytes:
        return hkdf(self.seeds[client], session, "secagg/v1/role", what)

    def run(self) -> list[list[int]]:
        self.check_adverts()
        self.draw_graph()
        self.check_dealing()
        self.check_held()
        self.check_inputs()
        self.check_survivors()
        self.unmask()
        return self.total

    def check_adverts(self) -> None:
        task, session = sha(bytes.fromhex(self.record["task"])), bytes.fromhex(self.record["session"])
        assert all(m["task"] == task for _, m in self.opened)
        cohort, name, nonce = self.opened[0][1]["fields"]
        assert (cohort, name) == (sorted(self.seeds), session)
        assert all(m["fields"] == [cohort, name, nonce] for _, m in self.requests(PROPOSAL))
        named = [b"secagg/v1/session", task, roster_digest(self.signing, {}), session, nonce, parts(*cohort)]
        opening = sha(parts(*named))
        adverts = {m["sender"]: m for m in self.answers(ADVERT)}
        self.u1 = sorted(adverts)
        self.leaves = [adverts[c]["raw"] for c in self.u1]
        named += [len(self.u1).to_bytes(8, "big"), merkle(self.leaves)]
        present = bytearray((len(cohort) + 7) // 8)
        for client in self.u1:
            present[cohort.index(client) // 8] |= 1 << cohort.index(client) % 8
        self.present = bytes(present)
        if self.sparse:
            nonces = {m["fields"][3] for _, m in self.requests(NEAR_ADVERTS)}
            (self.graph_nonce,) = nonces
            assert len(self.graph_nonce) == 32
            assert self.graph_nonce != nonce
            named += [self.present, self.graph_nonce]
        self.session = sha(parts(*named))
        self.sealing = {c: self.role(c, opening, "sealing-key") for c in self.u1}
        self.masking = {c: self.role(c, opening, "masking-key") for c in self.u1}
        for client, advert in adverts.items():
            assert advert["session"] == opening
            assert advert["fields"] == [public(self.sealing[client]), public(self.masking[client])]

    def draw_graph(self) -> None:
        """Who holds whose shares, and the two thresholds."""
        n, corrupt = len(self.u1), self.record["corrupt"]
        self.quorum = self.threshold = (n + corrupt) // 2 + 1
        self.holders = dict.fromkeys(self.u1, self.u1)
        if self.sparse:
            dropping = n - self.record["min_survivors"]
            numbers = graph.harary_parameters(
                n, Fraction(corrupt, n), Fraction(dropping, n), "semi-malicious", 40, 20, windows=True
            )
            assert numbers is not None
            self.degree, self.threshold = numbers
            assert self.degree < n - 1
            self.order = draw_order(n, self.session)
            self.holders = {
                client: [self.u1[node] for node in graph.neighbours(self.order, place, self.degree)]
                for place, client in enumerate(self.u1)
            }
        self.near = {c: [other for other in holders if other != c] for c, holders in self.holders.items()}
        for client, m in self.requests(ADVERTS, NEAR_ADVERTS):
            if not self.sparse:
                assert m["fields"] == [self.leaves]
                continue
            places = [self.u1.index(c) for c in sorted([client, *self.near[client]])]
            paths = [inclusion(self.leaves, place) for place in places]
            assert m["fields"] == [self.present, [self.leaves[place] for place in places], paths, self.graph_nonce]

    def agree(self, one: str, other: str) -> bytes:
        """The secret behind two clients' sealing keys."""
        return exchange(self.sealing[one], public(self.sealing[other]))

    def check_dealing(self) -> None:
        self.own_seed = {c: self.role(c, self.session, "self-mask-seed") for c in self.u1}
        self.commitments: dict[str, dict[str, bytes]] = {}
        self.boxes: dict[str, dict[str, bytes]] = {}
        for m in self.answers(DEALT):
            dealer, (seed_hash, joined, sealed) = m["sender"], m["fields"]
            own, holders = self.own_seed[dealer], self.holders[dealer]
            assert m["session"] == self.session
            assert seed_hash == sha(parts("secagg/v1/self-mask-commitment", self.session, dealer, own))
            keys = [self.role(dealer, self.session, f"{kind}-polynomial") for kind in KINDS]
            secrets = (own, self.masking[dealer])
            curves = [polynomial(secret, self.threshold, key) for secret, key in zip(secrets, keys, strict=True)]
            self.commitments[dealer] = dict(zip(holders, pieces(joined, 64), strict=True))
            self.boxes[dealer] = dict(zip(self.near[dealer], pieces(sealed, 82), strict=True))
            for point, holder in enumerate(holders, 1):
                shares = [value_at(curve, point) for curve in curves]
                hashes = [
                    sha(parts("secagg/v1/share-commitment", self.session, dealer, holder, kind, share))
                    for kind, share in zip(KINDS, shares, strict=True)
                ]
                assert self.commitments[dealer][holder] == b"".join(hashes)
                if holder != dealer:
                    key = hkdf(self.agree(holder, dealer), self.session, "secagg/v1/seal", dealer, holder)
                    context = parts("secagg/v1/share", self.session, DEALT, dealer, holder, point)
                    box = self.boxes[dealer][holder]
                    assert AESGCM(key).decrypt(bytes(12), box, context) == b"".join(shares)
        self.u2 = sorted(self.commitments)

    def check_held(self) -> None:
        for holder, m in self.requests(HELD):
            dealers = [dealer for dealer in self.near[holder] if dealer in self.u2]
            bitmap, joined, sealed = m["fields"]
            assert members(bitmap, self.u1) == self.u2
            self.dealers = bitmap
            assert pieces(joined, 64) == [self.commitments[dealer][holder] for dealer in dealers]
            assert pieces(sealed, 82) == [self.boxes[dealer][holder] for dealer in dealers]

    def pair_mask(self, one: str, other: str) -> list[list[int]]:
        secret = exchange(self.masking[one], public(self.masking[other]))
        names = min(one, other), max(one, other)
        return mask(hkdf(secret, self.session, "secagg/v1/pairwise-mask", *names), self.segments)

    def self_mask(self, client: str, seed: bytes) -> list[list[int]]:
        return mask(hkdf(seed, self.session, "secagg/v1/self-mask", client), self.segments)

    def voucher(self, client: str, neighbour: str) -> bytes:
        info = ("secagg/v1/voucher", client, neighbour, self.dealers)
        return hkdf(self.agree(client, neighbour), self.session, *info, length=16)

    def check_inputs(self) -> None:
        inputs = self.answers(MASKED, VOUCHED_INPUT)
        for m in inputs:
            client = m["sender"]
            others = [other for other in self.near[client] if other in self.u2]
            vouchers = [b"".join(self.voucher(client, other) for other in others)] if self.sparse else []
            assert (m["kind"], m["fields"]) == (VOUCHED_INPUT if self.sparse else MASKED, vouchers)
            uploaded = unpack(m["payload"], self.segments)
            combine(self.total, uploaded, 1, self.segments)
            expected = [list(numbers) for numbers in self.record["encoded"][client]]
            combine(expected, self.self_mask(client, self.own_seed[client]), 1, self.segments)
            for other in others:
                combine(expected, self.pair_mask(client, other), 1 if client < other else -1, self.segments)
            assert uploaded == expected
        self.u3 = sorted(m["sender"] for m in inputs)

    def check_survivors(self) -> None:
        """One story, told to all and signed by enough, and no ring cut by it."""
        stories = {tuple(m["fields"]) for m in self.answers(SIGNED)}
        assert len(stories) == 1
        dealers, survivors = stories.pop()
        assert (members(dealers, self.u1), members(survivors, self.u1)) == (self.u2, self.u3)
        for client, m in self.requests(SURVIVORS, VOUCHED_SURVIVORS):
            others = [other for other in self.near[client] if other in self.u3]
            vouchers = [b"".join(self.voucher(other, client) for other in others)] if self.sparse else []
            assert m["fields"] == [survivors, *vouchers]
        signed = {m["sender"]: m["raw"] for m in self.answers(SIGNED)}
        for _, m in self.requests(UNMASK):
            told, signers, signatures = m["fields"]
            assert told == survivors
            assert members(signers, self.u1) == sorted(signed)[: self.quorum]
            assert pieces(signatures, 64) == [signed[c][-64:] for c in members(signers, self.u1)]
            assert len(members(signers, self.u1)) == self.quorum
        if self.sparse:
            window, n = self.degree // 2, len(self.u1)
            left = graph.least_in_window(self.order, [c in self.u3 for c in self.u1], window)
            assert left > graph.most_corrupt(n, self.record["corrupt"], window, 40)

    def unmask(self) -> None:
        revealed: dict[str, dict[int, bytes]] = {c: {} for c in self.u2}
        for m in self.answers(REVEALED):
            (unopened, joined), holder = m["fields"], m["sender"]
            assert members(unopened, self.u1) == []
            dealers = [dealer for dealer in self.holders[holder] if dealer in self.u2]
            for dealer, share in zip(dealers, pieces(joined, 33), strict=True):
                which = dealer not in self.u3
                content = parts("secagg/v1/share-commitment", self.session, dealer, holder, KINDS[which], share)
                assert pieces(self.commitments[dealer][holder], 32)[which] == sha(content)
                revealed[dealer][self.holders[dealer].index(holder) + 1] = share
        for dealer, shares in revealed.items():
            assert len(shares) >= self.threshold
            secret = rebuild(dict(sorted(shares.items())[: self.threshold]))
            if dealer in self.u3:
                assert secret == self.own_seed[dealer]
                combine(self.total, self.self_mask(dealer, secret), -1, self.segments)
            else:
                assert secret == self.masking[dealer]
                for client in self.near[dealer]:
                    if client in self.u3:
                        sign = -1 if client < dealer else 1
                        combine(self.total, self.pair_mask(dealer, client), sign, self.segments)


def verify(record: dict[str, Any]) -> list[list[int]]:
    """Replay a recorded session; returns the sums of its segments. Raises where anything differs."""
    return Replay(record).run()

"""What is refused although no attack is known to follow. Without a control, none of these is called an attack."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from mpc import keys
from secagg import wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import FaultKind, RemoteProtocolError
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    SEALED_BYTES,
    Advert,
    DealtShares,
    SignedSurvivors,
    Unmask,
    commit_seed,
    open_advert,
    pieces,
)
from secagg.table import Round
from secagg.wire import SIGNATURE_BYTES, Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    LIMIT,
    VICTIM,
    LyingServer,
    World,
    is_right,
    make_task,
    play,
    resign,
    signed_by_colluders,
)
from tests.secagg.adversary.registry import refusal

LIAR = COLLUDERS[0]
OTHERS = tuple(party for party in CLIENTS if party != LIAR)
TASK = make_task()
SMALL_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little")]


def flipped(key: bytes) -> bytes:
    """Another encoding of the same X25519 key."""
    return key[:31] + bytes([key[31] | 0x80])


def bad_adverts() -> dict[str, Callable[[Advert, Advert], Advert]]:
    """What a colluder may advertise, given its own advert and the victim's."""
    fresh = keys.public_key(os.urandom(32))
    points = {f"order{number}": point for number, point in enumerate(SMALL_ORDER)}
    return {
        **{
            f"masking-{name}": lambda mine, _, p=point: Advert(mine.sealing_key, p)
            for name, point in points.items()
        },
        **{
            f"sealing-{name}": lambda mine, _, p=point: Advert(p, mine.masking_key)
            for name, point in points.items()
        },
        "victim's masking key": lambda mine, victim: Advert(mine.sealing_key, victim.masking_key),
        "victim's sealing key": lambda mine, victim: Advert(victim.sealing_key, mine.masking_key),
        "victim's keys, swapped": lambda _, victim: Advert(victim.masking_key, victim.sealing_key),
        "one key twice": lambda mine, _: Advert(fresh, fresh),
        "victim's masking key, top bit set": lambda mine, victim: Advert(
            mine.sealing_key, flipped(victim.masking_key)
        ),
        "one key twice, top bit set": lambda *_: Advert(fresh, flipped(fresh)),
        "short": lambda mine, _: Advert(mine.sealing_key[:31], mine.masking_key),
    }


@refusal(
    title="Keys of small order, keys that another client advertised, one key for both uses, as they are or in "
    "another encoding of the same point",
    why=(
        "a client that advertises such a key gives up its own masks; every derived key depends on both "
        "ids, and the shares are of the colluder's own secret"
    ),
)
@pytest.mark.parametrize("name", bad_adverts())
def test_bad_keys(name: str) -> None:
    world = World()
    server = LyingServer(world)
    server.propose()
    mine, victims = (open_advert(Envelope.parse(server.adverts[party], LIMIT)) for party in (LIAR, VICTIM))
    server.adverts[LIAR] = server.forge(LIAR, bad_adverts()[name](mine, victims))
    server.deal(OTHERS, server.adverts)
    server.collect(OTHERS, dealers=CLIENTS, box=lambda *_: (bytes(SEALED_BYTES), bytes(COMMITMENT_BYTES)))
    assert set(server.refusals.values()) == {FaultKind.INVALID}
    assert set(server.refusals) == set(OTHERS)
    assert not server.inputs

    adverts: dict[str, Advert] = {}

    def take_note(reply: bytes) -> list[bytes]:
        adverts[VICTIM] = open_advert(Envelope.parse(reply, LIMIT))
        return [reply]

    def advertise(reply: bytes) -> list[bytes]:
        return [resign(world, reply, lambda advert, rest: (bad_adverts()[name](advert, adverts[VICTIM]), rest))]

    tamper = {(VICTIM, Round.ADVERTISE_KEYS): take_note, (LIAR, Round.ADVERTISE_KEYS): advertise}
    played = play(world, world.join(), tamper=tamper)
    assert played.faults == {(LIAR, FaultKind.INVALID)}
    assert played.outcome.survivors == OTHERS
    assert is_right(played.outcome, TASK)


@refusal(
    title=("A survivor list without the client that has to sign it, though that client sent its input"),
    why=(
        "under one list its self mask is never removed, and the quorum excludes two lists. The client "
        "leaves, signs nothing and reveals nothing"
    ),
)
def test_a_client_left_out_leaves() -> None:
    server = LyingServer(World())
    server.propose()
    server.deal()
    server.collect()
    rest = CLIENTS[1:]
    signed = server.sign([VICTIM, *rest], rest)
    server.unmask([VICTIM], rest, signed)
    assert server.refusals == {VICTIM: "the server says that this client's input is not in the sum"}
    assert server.sent[VICTIM] == ["Advert", "DealtShares", "MaskedInput"]
    assert len(signed) == len(rest)
    assert server.clients[VICTIM].finished


@refusal(
    title="A survivor list with additional clients that dealt no shares",
    why="they can't sign a U2 without themselves, so the quorum is not reached",
)
def test_survivors_outside_the_dealers() -> None:
    server = LyingServer(World())
    dealers, padded = CLIENTS[:5], (VICTIM, *CLIENTS[3:])
    server.propose()
    server.deal()
    server.collect([VICTIM], dealers=dealers)
    assert server.sign([VICTIM], padded) == []
    assert server.refusals == {VICTIM: FaultKind.INVALID}


@refusal(
    title="A message shown as another type: the signature of an advert under a survivor list, and the reverse",
    why="the type is under the signature, and the two carry different session ids as well",
)
def test_messages_of_another_type() -> None:
    server = LyingServer(World())
    server.propose()
    server.deal([VICTIM], server.adverts | {LIAR: server.forge(LIAR, SignedSurvivors(bytes(32), bytes(range(32))))})
    assert server.refusals == {VICTIM: FaultKind.INVALID}
    assert server.sent[VICTIM] == ["Advert"]

    server = LyingServer(World())
    server.propose()
    server.deal()
    server.collect()
    signed = server.sign(CLIENTS, CLIENTS)
    everyone = to_bitmap(CLIENTS, server.u1)
    server.unmask([VICTIM], CLIENTS, [server.forge(LIAR, Advert(everyone, everyone)), *signed[:4]])
    assert server.refusals == {VICTIM: FaultKind.UNAUTHENTIC}
    assert "Revealed" not in server.sent[VICTIM]


@refusal(
    title="An advert of another session among the adverts of U1",
    why="its masks are with its sender alone; the session id is under the signature",
)
def test_an_advert_of_another_session() -> None:
    server = LyingServer(World())
    server.propose()
    server.ids[LIAR] = bytes(32)
    advert = server.forge(LIAR, Advert(keys.public_key(bytes(32)), keys.public_key(bytes(range(32)))))
    server.deal([VICTIM], server.adverts | {LIAR: advert})
    assert server.refusals == {VICTIM: FaultKind.FOREIGN_SESSION}
    assert server.sent[VICTIM] == ["Advert"]


@refusal(
    title="Signatures under the survivor list: one too many, one too few, one of a client that did not survive",
    why="signers come as a bitmap over U1, and no honest client signs a list without itself",
)
def test_signatures_that_do_not_fit_their_signers() -> None:
    server = LyingServer(World())
    server.propose()
    server.deal()
    server.collect()
    survivors = OTHERS
    signed = [*server.sign(OTHERS, survivors), *signed_by_colluders(server, CLIENTS, survivors)]
    stranger = server.unmask_request(survivors, signed)  # one colluder signs a list without itself
    assert LIAR in from_bitmap(stranger.signers, server.u1)
    good = server.unmask_request(survivors, signed[: len(OTHERS)])
    first = good.signatures[:SIGNATURE_BYTES]
    for request in (
        stranger,
        Unmask(good.survivors, good.signers, good.signatures + first),
        Unmask(good.survivors, good.signers, good.signatures[SIGNATURE_BYTES:]),
        Unmask(good.survivors, good.signers, good.signatures[:-1]),
        Unmask(good.survivors, good.signers + b"\0", good.signatures),
        Unmask(good.survivors, bytes([good.signers[0] | 0x80]), good.signatures + first),
        Unmask(good.survivors, b"", good.signatures),
    ):
        assert server.ask(VICTIM, request) is None
        assert server.refusals.pop(VICTIM) is FaultKind.INVALID
    assert server.ask(VICTIM, good) is not None


@refusal(
    title="One signature under the survivor list that is not its signer's: another client's, or under another list",
    why="each signature is checked against the list that the client signed itself",
)
def test_one_wrong_signature_among_good_ones() -> None:
    server = LyingServer(World())
    server.propose()
    server.deal()
    server.collect()
    signed = server.sign(CLIENTS, CLIENTS)
    good = server.unmask_request(CLIENTS, signed)
    another = signed_by_colluders(server, CLIENTS, CLIENTS[1:])[0][-SIGNATURE_BYTES:]
    by_signer = pieces(good.signatures, SIGNATURE_BYTES, len(CLIENTS))
    for place, signer in enumerate(CLIENTS):
        for wrong in (by_signer[place - 1], another, bytes(SIGNATURE_BYTES)):
            joined = b"".join([*by_signer[:place], wrong, *by_signer[place + 1 :]])
            with pytest.raises(RemoteProtocolError, match=f"not {signer}'s"):
                server.clients[VICTIM].receive(server.seal(VICTIM, Unmask(good.survivors, good.signers, joined)))
    assert server.ask(VICTIM, good) is not None


@refusal(
    title="Shares of another self-mask seed than the committed one",
    why=("the effect is that of another input, which a client may send anyway; the dealer is blamed"),
)
def test_a_wrong_seed_is_blamed_on_its_dealer() -> None:
    world = World()

    def commit_to_another(dealt: Any, rest: bytes) -> Any:
        other = commit_seed(bytes(32), LIAR, bytes(32))
        return DealtShares(other, dealt.commitments, dealt.sealed), rest

    tamper = {(LIAR, Round.SHARE_KEYS): lambda reply: [resign(world, reply, commit_to_another)]}
    played = play(world, world.join(), tamper=tamper)
    assert played.faults == {(LIAR, FaultKind.WRONG_DEALING)}
    assert played.outcome is None


Mangle = Callable[[World, bytes], bytes]


def rewrapped(world: World, reply: bytes, **changes: Any) -> bytes:
    """The same message in an envelope with other fields."""
    envelope = Envelope.parse(reply, LIMIT)
    phases = world.task.protocol.phases
    message, payload = envelope.open(next(p.reply for p in phases if envelope.kind == p.reply.TYPE))
    fields: dict[str, Any] = {name: getattr(envelope, name) for name in ("protocol", "task", "session", "sender")}
    fields |= {"identity": world.keys[LIAR], "payload": bytes(payload)} | changes
    return wire.seal_envelope(message, **fields)


def spare_bits_set(world: World, reply: bytes) -> bytes:
    """The last byte of the first segment (12 values of 19 bits: 228 bits) has four bits to spare."""

    def change(message: Any, payload: bytes) -> Any:
        marked = bytearray(payload)
        marked[28] |= 0xF0
        return message, bytes(marked)

    return resign(world, reply, change)


BAD_UPLOADS: dict[str, tuple[Mangle, FaultKind]] = {
    "unsigned": (lambda world, reply: rewrapped(world, reply, identity=None), FaultKind.UNAUTHENTIC),
    "in another's name": (lambda world, reply: rewrapped(world, reply, sender=VICTIM), FaultKind.UNAUTHENTIC),
    "signed by another": (
        lambda world, reply: rewrapped(world, reply, identity=world.keys[VICTIM]),
        FaultKind.UNAUTHENTIC,
    ),
    "another task": (lambda world, reply: rewrapped(world, reply, task=bytes(32)), FaultKind.FOREIGN_TASK),
    "another protocol": (lambda world, reply: rewrapped(world, reply, protocol=1), FaultKind.FOREIGN_TASK),
    "another session": (lambda world, reply: rewrapped(world, reply, session=bytes(32)), FaultKind.FOREIGN_SESSION),
    "a byte short": (
        lambda world, reply: resign(world, reply, lambda m, rest: (m, rest[:-1])),
        FaultKind.MALFORMED,
    ),
    "a byte long": (
        lambda world, reply: resign(world, reply, lambda m, rest: (m, rest + b"\0")),
        FaultKind.MALFORMED,
    ),
    "spare bits set": (spare_bits_set, FaultKind.MALFORMED),
    "another round's": (
        lambda world, reply: resign(world, reply, lambda *_: (Advert(b"", b""), b"")),
        FaultKind.OUT_OF_TURN,
    ),
}


@refusal(
    title="Uploads that are unsigned, in another's name, of another task, protocol, session or round, of the wrong "
    "length, or with spare bits set",
    why="each would only be a wrong input, which a client may send anyway; the sum is that of the others",
)
@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_bad_uploads(name: str) -> None:
    mangle, kind = BAD_UPLOADS[name]
    world = World()
    tamper = {(LIAR, Round.MASKED_INPUT): lambda reply: [mangle(world, reply)]}
    played = play(world, world.join(), tamper=tamper)
    assert played.faults == {(LIAR, kind)}
    assert played.outcome.survivors == OTHERS
    assert is_right(played.outcome, TASK)


@refusal(
    title="An upload of an earlier session, sent again by a client or by the network",
    why="its masks belong to another session, so the sum would be noise",
)
def test_an_old_upload() -> None:
    world, old = World(), []

    def keep(reply: bytes) -> list[bytes]:
        old.append(reply)
        return [reply]

    play(world, world.join(), tamper={(LIAR, Round.MASKED_INPUT): keep})
    again = play(
        world,
        world.join(session=b"round 2"),
        session=b"round 2",
        tamper={(LIAR, Round.MASKED_INPUT): lambda _: old},
    )
    assert again.faults == {(LIAR, FaultKind.FOREIGN_SESSION)}
    assert again.outcome.survivors == OTHERS
    assert is_right(again.outcome, TASK)

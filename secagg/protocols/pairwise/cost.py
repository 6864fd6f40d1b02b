"""What a session of SecAgg or SecAggPlus costs a client, in bytes by round, and the most that it may cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secagg import wire
from secagg.beacon import LATEST_ROUND, VALUE_BYTES
from secagg.bitmap import bitmap_bytes
from secagg.lanes import vectors_size
from secagg.merkle import path_length
from secagg.protocols.base import Cost, largest_proposal
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    VOUCHER_BYTES,
    Advert,
    Adverts,
    DealtShares,
    DrawnAdverts,
    Frozen,
    HeldShares,
    MaskedInput,
    NearAdverts,
    NextRound,
    Revealed,
    SignedSurvivors,
    Survivors,
    Unmask,
    VouchedInput,
    VouchedSurvivors,
)
from secagg.protocols.pairwise.protocol import Pairwise
from secagg.session import NONCE_BYTES
from secagg.table import Proposal, Round

if TYPE_CHECKING:
    from secagg.identity import PartyRole
    from secagg.task import Task

_NUMBER_BYTES = 9  # of MessagePack's longest integer


def cost(protocol: Pairwise, task: Task, cohort: Sequence[str] | None, signed: bool | None) -> Cost:
    """Bytes by round with nobody dropping out, for clients with the longest ids and the longest proofs."""
    signed = protocol.checked if signed is None else signed
    ids = list(cohort or wire.stand_in_ids(task.max_clients))
    n, bits = len(ids), bitmap_bytes(len(ids))
    c = protocol.corrupt(n, None)
    shape = protocol.shape(task, n, c)
    holders = n if shape.complete else shape.degree
    frame = wire.overhead(ids[0], signed=signed)
    asked = wire.overhead(wire.SERVER, signed=False)
    size = wire.structure_size
    advert = Advert(bytes(KEY_BYTES), bytes(KEY_BYTES))
    longest = sorted(ids, key=len, reverse=True)
    adverts = [bytes(wire.overhead(party, signed=signed) + size(advert)) for party in longest[: shape.degree + 1]]
    told = SignedSurvivors(bytes(bits), bytes(bits))
    lists = [bytes(wire.overhead(party, signed=signed) + size(told)) for party in longest[: shape.quorum]]
    vouchers = bytes(VOUCHER_BYTES * shape.degree)
    paths = sorted((bytes(HASH_BYTES * path_length(place, n)) for place in range(n)), key=len, reverse=True)
    messages: dict[type[wire.Message], wire.Message] = {
        type(message): message
        for message in (
            advert,
            Proposal(ids, bytes(32), bytes(32)),
            Adverts(adverts),
            Frozen(bytes(bits), bytes(HASH_BYTES)),
            NextRound(LATEST_ROUND),
            NearAdverts(bytes(bits), adverts, paths[: len(adverts)], bytes(NONCE_BYTES)),
            DrawnAdverts(bytes(bits), adverts, paths[: len(adverts)], LATEST_ROUND, bytes(VALUE_BYTES)),
            DealtShares(bytes(HASH_BYTES), bytes(COMMITMENT_BYTES * holders), bytes(SEALED_BYTES * shape.degree)),
            HeldShares(bytes(bits), bytes(COMMITMENT_BYTES * shape.degree), bytes(SEALED_BYTES * shape.degree)),
            MaskedInput(),
            VouchedInput(vouchers),
            Survivors(bytes(bits)),
            VouchedSurvivors(bytes(bits), vouchers),
            told,
            Unmask(bytes(bits), lists),
            Revealed(bytes(bits), bytes(SHARE_BYTES * holders)),
        )
    }
    up, down = {}, {}
    for phase in protocol.phases:
        up[phase.round] = size(messages[phase.reply]) + frame + phase.takes_input * vectors_size(task)
        down[phase.round] = size(messages[phase.request]) + asked
    down[Round.ADVERTISE_KEYS] -= wire.DIGEST_BYTES  # a proposal carries no session id
    collusion = protocol.collusion(task, None if cohort is None else n)
    return Cost(up=up, down=down, collusion=collusion, post_quantum=False)


def largest(protocol: Pairwise, task: Task, receiver: PartyRole | None) -> int:
    """Bytes of the largest message to ``receiver`` (None: the server), whatever cohort the task allows.

    How many neighbours and signatures a session has follows from who comes, and from how many are enrolled. It is
    at most everyone, which a small cohort needs on a sparse graph too.
    """
    n, bits = task.max_clients, bitmap_bytes(task.max_clients)
    vectors = vectors_size(task)
    advert = wire.largest(KEY_BYTES, KEY_BYTES, signed=True)
    signed = wire.largest(bits, bits, signed=True)
    shown = bits, (n, advert), (n, HASH_BYTES * (n - 1).bit_length())
    to_client: dict[type[wire.Message], int] = {
        Proposal: largest_proposal(task),
        Adverts: wire.largest((n, advert), signed=False),
        Frozen: wire.largest(bits, HASH_BYTES, signed=False),
        NearAdverts: wire.largest(*shown, NONCE_BYTES, signed=False),
        DrawnAdverts: wire.largest(*shown, _NUMBER_BYTES, VALUE_BYTES, signed=False),
        HeldShares: wire.largest(bits, COMMITMENT_BYTES * n, SEALED_BYTES * n, signed=False),
        Survivors: wire.largest(bits, signed=False),
        VouchedSurvivors: wire.largest(bits, VOUCHER_BYTES * n, signed=False),
        Unmask: wire.largest(bits, (n if protocol.checked else 0, signed), signed=False),
    }
    to_server: dict[type[wire.Message], int] = {
        Advert: advert,
        NextRound: wire.largest(_NUMBER_BYTES, signed=True),
        DealtShares: wire.largest(HASH_BYTES, COMMITMENT_BYTES * n, SEALED_BYTES * n, signed=True),
        MaskedInput: wire.largest(signed=True) + vectors,
        VouchedInput: wire.largest(VOUCHER_BYTES * n, signed=True) + vectors,
        SignedSurvivors: signed,
        Revealed: wire.largest(bits, SHARE_BYTES * n, signed=True),
    }
    sizes = to_server if receiver is None else to_client
    used = [phase.reply if receiver is None else phase.request for phase in protocol.phases]
    return max(size for kind, size in sizes.items() if any(issubclass(other, kind) for other in used))

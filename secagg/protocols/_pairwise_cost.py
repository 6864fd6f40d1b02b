"""What a session of SecAgg or SecAggPlus costs a client, in bytes by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secagg import wire
from secagg.beacon import LATEST_ROUND, VALUE_BYTES
from secagg.protocols._pairwise_messages import (
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
from secagg.protocols.base import Cost, Proposal, Round
from secagg.protocols.lanes import vectors_size
from secagg.protocols.pairwise import Pairwise
from secagg.session import NONCE_BYTES, path_length

if TYPE_CHECKING:
    from secagg.task import Task


def cost(protocol: Pairwise, task: Task, cohort: Sequence[str] | None, signed: bool | None) -> Cost:
    """Bytes by round with nobody dropping out, for clients with the longest ids and the longest proofs."""
    signed = protocol.checked if signed is None else signed
    ids = list(cohort or wire.stand_in_ids(task.max_clients))
    n, bits = len(ids), (len(ids) + 7) // 8
    c = protocol.corrupt(n, None)
    shape = protocol.shape(task, n, c)
    holders = n if shape.complete else shape.degree
    frame = wire.overhead(ids[0], signed=signed)
    asked = wire.overhead(wire.SERVER, signed=False)
    size = wire.structure_size
    advert = Advert(bytes(KEY_BYTES), bytes(KEY_BYTES))
    longest = sorted(ids, key=len, reverse=True) if protocol.sparse else ids
    adverts = [bytes(wire.overhead(party, signed=signed) + size(advert)) for party in longest[: shape.degree + 1]]
    told = SignedSurvivors(bytes(bits), bytes(bits))
    signers = longest[: shape.quorum] if protocol.sparse else longest
    lists = [bytes(wire.overhead(party, signed=signed) + size(told)) for party in signers if protocol.checked]
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

"""The bytes that a session of SecAgg or SecAggPlus costs a client, by round, and the largest messages allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secagg import wire
from secagg.beacon import LATEST_ROUND, VALUE_BYTES
from secagg.bitmap import bitmap_bytes
from secagg.lanes import vectors_size
from secagg.merkle import path_lengths
from secagg.protocols.base import Cost, largest_proposal
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    VOUCHER_BYTES,
)
from secagg.protocols.pairwise.neighbours import Shape
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.session import NONCE_BYTES
from secagg.table import Proposal, Round
from secagg.wire import SIGNATURE_BYTES

if TYPE_CHECKING:
    from secagg.identity import PartyRole
    from secagg.task import Task

_NUMBER_BYTES = 9  # of MessagePack's longest integer


def cost(protocol: Pairwise, task: Task, cohort: Sequence[str] | None, signed: bool | None) -> Cost:
    """Bytes by round if nobody drops out, for the clients with the longest ids and the longest proofs.

    Lists are counted, not built: the adverts of a million clients do not fit into memory.
    """
    signed = protocol.checked if signed is None else signed
    ids = Counter(map(len, cohort)) if cohort else wire.stand_in_lengths(task.max_clients)
    n = sum(ids.values())
    shape = protocol.shape(task, n, protocol.corrupt(n, None))
    sizes = _sizes(n, shape, ids, signed)
    frame = wire.overhead(cohort[0] if cohort else "c1", signed=signed)
    asked = wire.overhead(wire.SERVER, signed=False)
    up, down = {}, {}
    for phase in protocol.phases:
        up[phase.round] = sizes[phase.reply] + frame + phase.takes_input * vectors_size(task)
        down[phase.round] = sizes[phase.request] + asked
    down[Round.ADVERTISE_KEYS] -= wire.DIGEST_BYTES  # a proposal carries no session id
    collusion = protocol.collusion(task, None if cohort is None else n)
    return Cost(up=up, down=down, collusion=collusion, post_quantum=False)


def _sizes(n: int, shape: Shape, ids: Mapping[int, int], signed: bool) -> dict[type[wire.Message], int]:
    """Bytes of the structured part of each message, for ``n`` clients; ``ids`` counts their ids by length."""
    bits, degree, size = bitmap_bytes(n), shape.degree, wire.structure_size
    holders = n if shape.complete else degree
    advert = messages.Advert(bytes(KEY_BYTES), bytes(KEY_BYTES))

    adverts: dict[bytes | str, int] = {
        bytes(wire.overhead("x" * length, signed=signed) + size(advert)): times
        for length, times in _longest(ids, degree + 1).items()
    }
    unmask = size(messages.Unmask(bytes(bits), bytes(bits if shape.quorum else 0), b"")) - wire.string_size(0)
    paths: dict[bytes | str, int] = {
        bytes(HASH_BYTES * length): times for length, times in _longest(path_lengths(n), degree + 1).items()
    }
    vouchers = bytes(VOUCHER_BYTES * degree)
    return {
        Proposal: size(Proposal([], bytes(32), bytes(32)), {"x" * length: times for length, times in ids.items()}),
        messages.Advert: size(advert),
        messages.Adverts: size(messages.Adverts([]), adverts),
        messages.Frozen: size(messages.Frozen(bytes(bits), bytes(HASH_BYTES))),
        messages.NextRound: size(messages.NextRound(LATEST_ROUND)),
        messages.NearAdverts: size(messages.NearAdverts(bytes(bits), [], [], bytes(NONCE_BYTES)), adverts, paths),
        messages.DrawnAdverts: size(
            messages.DrawnAdverts(bytes(bits), [], [], LATEST_ROUND, bytes(VALUE_BYTES)), adverts, paths
        ),
        messages.DealtShares: size(
            messages.DealtShares(bytes(HASH_BYTES), bytes(COMMITMENT_BYTES * holders), bytes(SEALED_BYTES * degree))
        ),
        messages.HeldShares: size(
            messages.HeldShares(bytes(bits), bytes(COMMITMENT_BYTES * degree), bytes(SEALED_BYTES * degree))
        ),
        messages.MaskedInput: size(messages.MaskedInput()),
        messages.VouchedInput: size(messages.VouchedInput(vouchers)),
        messages.Survivors: size(messages.Survivors(bytes(bits))),
        messages.VouchedSurvivors: size(messages.VouchedSurvivors(bytes(bits), vouchers)),
        messages.SignedSurvivors: size(messages.SignedSurvivors(bytes(bits), bytes(bits))),
        messages.Unmask: unmask + wire.string_size(SIGNATURE_BYTES * shape.quorum),
        messages.Revealed: size(messages.Revealed(bytes(bits), bytes(SHARE_BYTES * holders))),
    }


def _longest(lengths: Mapping[int, int], count: int) -> dict[int, int]:
    """The ``count`` greatest of ``lengths``, which maps each length to how many there are."""
    longest: dict[int, int] = {}
    for length in sorted(lengths, reverse=True):
        longest[length] = min(lengths[length], count)
        count -= longest[length]
    return {length: times for length, times in longest.items() if times}


def largest(protocol: Pairwise, task: Task, receiver: PartyRole | None) -> int:
    """Bytes of the largest message to ``receiver`` (None: the server), over all cohorts that the task allows.

    The numbers of neighbours and signatures in a session depend on which clients advertise keys, and on how many
    are enrolled. Both are at most the whole cohort, which a small cohort needs even on a sparse graph.
    """
    n, bits = task.max_clients, bitmap_bytes(task.max_clients)
    # Against a malicious server c, and with it the quorum, grows with the number of enrolled clients.
    signers = n if protocol.threat_model == "malicious" else protocol.quorum(n, protocol.corrupt(n, None))
    vectors = vectors_size(task)
    advert = wire.largest(KEY_BYTES, KEY_BYTES, signed=True)
    shown = bits, (n, advert), (n, HASH_BYTES * (n - 1).bit_length())
    to_client: dict[type[wire.Message], int] = {
        Proposal: largest_proposal(task),
        messages.Adverts: wire.largest((n, advert), signed=False),
        messages.Frozen: wire.largest(bits, HASH_BYTES, signed=False),
        messages.NearAdverts: wire.largest(*shown, NONCE_BYTES, signed=False),
        messages.DrawnAdverts: wire.largest(*shown, _NUMBER_BYTES, VALUE_BYTES, signed=False),
        messages.HeldShares: wire.largest(bits, COMMITMENT_BYTES * n, SEALED_BYTES * n, signed=False),
        messages.Survivors: wire.largest(bits, signed=False),
        messages.VouchedSurvivors: wire.largest(bits, VOUCHER_BYTES * n, signed=False),
        messages.Unmask: wire.largest(bits, bits, SIGNATURE_BYTES * signers, signed=False),
    }
    to_server: dict[type[wire.Message], int] = {
        messages.Advert: advert,
        messages.NextRound: wire.largest(_NUMBER_BYTES, signed=True),
        messages.DealtShares: wire.largest(HASH_BYTES, COMMITMENT_BYTES * n, SEALED_BYTES * n, signed=True),
        messages.MaskedInput: wire.largest(signed=True) + vectors,
        messages.VouchedInput: wire.largest(VOUCHER_BYTES * n, signed=True) + vectors,
        messages.SignedSurvivors: wire.largest(bits, bits, signed=True),
        messages.Revealed: wire.largest(bits, SHARE_BYTES * n, signed=True),
    }
    sizes = to_server if receiver is None else to_client
    used = [phase.reply if receiver is None else phase.request for phase in protocol.phases]
    return max(size for kind, size in sizes.items() if any(issubclass(other, kind) for other in used))

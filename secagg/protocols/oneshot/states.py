"""The states of the committee members and the server of OneShot, and what a restored one may hold.

``ConfigError`` for a state that no role would have saved.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from mpc import packed
from mpc.errors import MPCError
from mpc.hpke import PRIVATE_BYTES
from secagg.identity import PartyRole
from secagg.protocols.oneshot.messages import HASH_BYTES, Agreed, Lack, SessionKey, agreed_digest
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.roles.state import MemberState, ServerState, among, hold
from secagg.table import Round

if TYPE_CHECKING:
    from he.kahe import Adder
    from secagg.roles.context import ServerContext
    from secagg.task import Task

DEALING_BYTES = 2 * HASH_BYTES
TAKES_SHARES = 1
"""Answers that a committee member has given between SessionKey and the next round that asks it."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What a member keeps of one client: the digest of the message, of the dealing, and the share in it."""

    message: bytes
    dealing: bytes = b""
    share: bytes = b""  # without its mask columns; empty if there is none that could be added up
    lack: int = Lack.NOTHING


class CommitteeState(MemberState):
    """What a committee member keeps of a session."""

    key: bytes = b""  # the private half of its session key; erased when no more shares are taken
    parts: dict[str, Part] = {}  # by client
    agreed: bytes = b""


class OneShotServerState(ServerState):
    """What a server keeps between rounds: no share, and of each client 64 bytes."""

    keys: dict[str, bytes] = {}  # by member: its SessionKey, as received
    dealings: dict[str, bytes] = {}  # by client: the digest of its dealing
    total: bytes = b""  # the encrypted sum so far; filled when written
    spool: str = ""  # the path of the file in which inputs wait until Recount
    spooled: list[str] = []  # whose inputs are in it, in order
    agreed: dict[str, bytes] = {}  # by member: its agreement, as received
    lacking: dict[str, bytes] = {}  # by member: what it lacks, a byte for each client in the set
    answers: dict[str, bytes] = {}  # by member: its sum of shares


def check_member_state(state: CommitteeState, protocol: OneShotParameters, task: Task) -> None:
    """Check the state of a committee member that has not left and has not finished."""
    hold(len(state.key) == (PRIVATE_BYTES if state.step == TAKES_SHARES else 0), "session key")
    hold(not state.parts or (state.step >= TAKES_SHARES and among(state.parts, state.cohort)), "key shares")
    degree = protocol.scheme(task).degree if state.parts else 0
    signed = state.step == TAKES_SHARES + 1 + protocol.recount
    for part in state.parts.values():
        hold(len(part.message) == HASH_BYTES, "key shares")
        unused = signed and not part.share  # of a client outside the set
        hold(unused or _is_kept(part, protocol, degree), "key shares")
    hold(bool(state.agreed) == signed, "agreement")
    if state.agreed:
        chosen = {client: part.dealing for client, part in state.parts.items() if part.share}
        hold(len(chosen) >= task.min_survivors, "agreement")
        hold(state.agreed == agreed_digest(state.session_id, chosen), "agreement")


def _is_kept(part: Part, protocol: OneShotParameters, degree: int) -> bool:
    """Whether a member keeps such a part of a client before Agreement."""
    if part.lack not in set(Lack) - {Lack.ABSENT} or len(part.dealing) != DEALING_BYTES:
        return False
    return part.share == b"" if part.lack else _is_sum(part.share, protocol, degree)


def check_server_state(
    context: ServerContext[OneShotServerState], members: Collection[str], adder: Adder | None
) -> None:
    """Check the state of a server whose session is open, with the sum that it was restored with.

    ``Reject`` for a saved message that is not what its sender signed.
    """
    state, protocol = context.state, context.task.protocol
    assert isinstance(protocol, OneShotParameters)
    rounds = [phase.round for phase in protocol.phases]
    began, needed = state.position >= 1, protocol.needed
    hold(among(state.keys, members) and len(state.keys) >= needed * began, "session keys")
    hold(began or state.keys.keys() == set(state.answered), "session keys")
    for member, raw in state.keys.items():
        hold(
            context.relayed(raw, SessionKey, state.session_id, PartyRole.DECRYPTOR).sender == member, "session keys"
        )
    folded = state.survivors if state.position > 1 else state.answered if began else []
    hold(state.dealings.keys() == set(folded), "inputs")
    waiting = protocol.recount and rounds[state.position] in (Round.INPUT, Round.RECOUNT)
    hold(bool(state.spool) == waiting and sorted(state.spooled) == sorted(folded if waiting else []), "inputs")
    hold(all(len(dealing) == DEALING_BYTES for dealing in state.dealings.values()), "inputs")
    hold((None if adder is None else adder.count) == (len(folded) if began and not waiting else None), "sum")
    _check_agreements(context, rounds[state.position], needed)
    answering = state.answered if rounds[state.position] == Round.SUM_OF_KEYS else []
    hold(state.answers.keys() == set(answering), "sums of key shares")
    degree = protocol.scheme(context.task).degree if state.answers else 0
    hold(all(_is_sum(answer, protocol, degree) for answer in state.answers.values()), "sums of key shares")


def _check_agreements(context: ServerContext[OneShotServerState], name: str, needed: int) -> None:
    state = context.state
    words = [*state.agreed, *state.lacking]
    hold(among(words, state.keys) and (not words or state.position > 1), "agreements")
    hold(name not in (Round.RECOUNT, Round.AGREEMENT) or set(words) == set(state.answered), "agreements")
    hold(name != Round.RECOUNT or not state.agreed, "agreements")
    hold(name != Round.SUM_OF_KEYS or len(state.agreed) >= needed, "agreements")
    digest = agreed_digest(state.session_id, state.dealings)
    for member, raw in state.agreed.items():
        envelope = context.relayed(raw, Agreed, state.session_id, PartyRole.DECRYPTOR)
        hold(envelope.sender == member and envelope.open(Agreed)[0] == Agreed(digest, b""), "agreements")
    for lacking in state.lacking.values():
        hold(len(lacking) == len(state.survivors) and {*lacking} <= set(Lack), "agreements")


def _is_sum(data: bytes, protocol: OneShotParameters, degree: int) -> bool:
    """Whether these bytes are a kept share, or a sum of them."""
    try:
        packed.check_answer(protocol.committee, degree, data)
    except MPCError:
        return False
    return True

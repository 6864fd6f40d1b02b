"""A protocol's table: its rounds, the phases in which a role is asked, and the first message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from secagg import wire
from secagg.identity import PartyRole


class Round(StrEnum):
    """The rounds of this library's protocols, by the papers' names."""

    INPUT = "Input"
    COMMIT = "Commit"
    ADVERTISE_KEYS = "AdvertiseKeys"
    SESSION_KEY = "SessionKey"
    OPENING = "Opening"
    FREEZE_KEYS = "FreezeKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT = "MaskedInput"
    CONSISTENCY_CHECK = "ConsistencyCheck"
    UNMASKING = "Unmasking"
    PREPARATION = "Preparation"
    REPORT = "Report"
    RECOUNT = "Recount"
    AGREEMENT = "Agreement"
    AGGREGATE_SHARE = "AggregateShare"


class Proposal(wire.Message, frozen=True):
    """The server opens a session: who takes part, what it is called, 32 fresh random bytes.

    It is what each party is sent first; a protocol that has more to say then extends it.
    """

    TYPE: ClassVar[int] = 1
    cohort: list[str]
    session: bytes
    nonce: bytes


@dataclass(frozen=True)
class Phase:
    """A row of a protocol's table: the server asks parties of one role, and each answers once."""

    round: str
    role: PartyRole
    request: type[wire.Message]
    reply: type[wire.Message]
    takes_input: bool = False  # the answer carries the client's contribution
    commits_input: bool = False  # the answer fixes the contribution, which a later one carries
    request_vectors: bool = False  # vectors follow the request; elsewhere bytes behind a message are refused
    reply_vectors: bool = False
    relay: PartyRole | None = None  # answers are handed on, as they are and at once, to all of this role


class Tabled(Protocol):
    """What has a table of phases: every protocol."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The table: who is asked what, in which order."""
        ...


def rounds(protocol: Tabled) -> tuple[str, ...]:
    """The rounds of ``protocol`` in which a client is asked for something, in order."""
    return tuple(phase.round for phase in protocol.phases if phase.role is PartyRole.CLIENT)


def input_round(protocol: Tabled) -> str:
    """The round whose message carries a client's contribution: who sends it is in the sum."""
    return next(phase.round for phase in protocol.phases if phase.takes_input)


def contribution_round(protocol: Tabled) -> str:
    """The first round whose message depends on a client's contribution: by then it must have been given one.

    It is the input round, or an earlier one in which clients commit to their inputs.
    """
    return next(phase.round for phase in protocol.phases if phase.commits_input or phase.takes_input)

"""A protocol's table: its rounds, the phases in which a role is asked, and the first message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from secagg import wire
from secagg._numbers import is_a, whole
from secagg.errors import ConfigError, shown
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
    SUM_OF_KEYS = "SumOfKeys"


class Proposal(wire.Message, frozen=True):
    """The first message to each party: the server opens a session.

    ``cohort`` are the ids of the clients, sorted, ``session`` is the session's name, and ``nonce`` is 32 fresh
    random bytes. A protocol whose first message carries more than that extends this class.
    """

    TYPE: ClassVar[int] = 1
    cohort: list[str]
    session: bytes
    nonce: bytes


class Word(wire.Message, frozen=True):
    """What a listener answers to a message that the server handed on to it: its word about one client's answer.

    ``client`` is the client's id, and ``about`` is the digest of that message (``envelope.digest``). So the word
    holds for the answer from which the message came, and for no other answer of the same client.
    """

    client: str
    about: bytes


class Refusal(wire.Message, frozen=True):
    """What a listener says instead of a word if it refuses the message; the server then refuses the answer.

    ``about`` is as in :class:`Word`. The library sends it. Without it, an answer with a refused part would wait
    until the round ends.
    """

    TYPE: ClassVar[int] = 0
    about: bytes


@dataclass(frozen=True)
class Phase:
    """A row of a protocol's table: the server asks parties of one role, and each answers once.

    ``round`` is the name of the round, in which all parties of ``role`` get a message of type ``request`` and
    answer with one of type ``reply``.

    While the round is open, the server hands answers on to the role ``relay``, whose parties are the *listeners*.
    By default each gets the whole answer. With ``relayed`` they get a message of that type in its place:
    :attr:`secagg.roles.Step.hand_on` says which message goes to which party.

    With ``word`` a listener answers what it gets, and the server takes no answer of a client before every listener
    has given its word about it. Until then the answer is kept in memory: at most ``awaiting`` of them at a time. A
    listener gives one word about a client in a session.
    """

    round: str
    role: PartyRole
    request: type[wire.Message]
    reply: type[wire.Message]
    #: The answer carries the client's contribution.
    takes_input: bool = False
    #: The answer fixes the contribution, which a later one carries.
    commits_input: bool = False
    #: Vectors follow the request; without this, bytes behind a message are refused.
    request_vectors: bool = False
    #: Vectors follow the answer.
    reply_vectors: bool = False
    relay: PartyRole | None = None
    relayed: type[wire.Message] | None = None
    #: Vectors follow a message of type ``relayed``.
    relayed_vectors: bool = False
    word: type[Word] | None = None
    awaiting: int = 0

    def __post_init__(self) -> None:
        for kind, base in (
            *((kind, wire.Message) for kind in (self.request, self.reply, self.relayed) if kind is not None),
            *((kind, Word) for kind in (self.word,) if kind is not None),
        ):
            if not is_a(kind, type) or not issubclass(kind, base) or not hasattr(kind, "TYPE"):
                name = getattr(kind, "__name__", kind)
                raise ConfigError(
                    f"{self.round} has {name!s:.64} in the place of a message; expected a subclass of "
                    f"{base.__module__}.{base.__name__} that states its TYPE"
                )
            if kind.TYPE in (wire.Abort.TYPE, Refusal.TYPE):
                raise ConfigError(f"{self.round} has {kind.__name__} with TYPE {kind.TYPE}, which the library uses")
        for role in (self.role, self.relay):
            if role is not None and not is_a(role, PartyRole):
                raise ConfigError(f"{self.round} has the role {shown(role)}; expected a secagg.identity.PartyRole")
        if whole(self.awaiting) is None or self.awaiting < 0:
            raise ConfigError(f"{self.round} has awaiting={shown(self.awaiting)}; expected a number of answers")
        if self.relay is None and (self.relayed is not None or self.word is not None):
            raise ConfigError(f"{self.round} has messages for listeners but no listeners; state relay=")
        if self.relayed_vectors and self.relayed is None:
            raise ConfigError(f"{self.round} has relayed_vectors=True but no message before them; state relayed=")
        if self.word is not None and self.word.TYPE == self.handed_on.TYPE:
            raise ConfigError(f"{self.round} has words of the TYPE of what they answer; give the word another")
        if (self.word is not None) != (self.awaiting > 0):
            raise ConfigError(
                f"{self.round} has word={self.word} and awaiting={self.awaiting}; a listener's word is about an "
                "answer that awaits it, so state both or neither"
            )
        if self.word is not None and (self.role is not PartyRole.CLIENT or self.role is self.relay):
            raise ConfigError(
                f"{self.round} has a word about answers that are not clients'; only these can await it"
            )

    @property
    def handed_on(self) -> type[wire.Message]:
        """The type of message that a listener gets for an answer."""
        return self.relayed or self.reply

    @property
    def handed_on_vectors(self) -> bool:
        """Whether vectors follow that message."""
        return self.reply_vectors if self.relayed is None else self.relayed_vectors


class Tabled(Protocol):
    """Anything with a table of phases: every protocol."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The table: the rounds in order, each with the role that is asked."""
        ...


def rounds(protocol: Tabled) -> tuple[str, ...]:
    """The rounds of ``protocol`` in which a client is asked for something, in order."""
    return tuple(phase.round for phase in protocol.phases if phase.role is PartyRole.CLIENT)


def input_round(protocol: Tabled) -> str:
    """The round of ``protocol`` in which a client's message carries its contribution.

    A client that sends it is in the sum.
    """
    return next(phase.round for phase in protocol.phases if phase.takes_input)


def contribution_round(protocol: Tabled) -> str:
    """The first round whose message depends on a client's contribution, so ``contribute`` comes before it.

    It is the input round of ``protocol``, or an earlier round in which clients commit to their inputs.
    """
    return next(phase.round for phase in protocol.phases if phase.commits_input or phase.takes_input)

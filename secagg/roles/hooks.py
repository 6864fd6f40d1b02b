"""What the author of a protocol fills in and replaces in a role; the user of a role needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NoReturn, Self, TypeVar

import msgspec

from secagg import wire
from secagg.errors import ConfigError, LocalProtocolError, shown
from secagg.identity import PartyRole
from secagg.roles.context import MemberContext, ServerContext
from secagg.roles.handing_on import ForListener, Waiting
from secagg.roles.state import MemberState, ServerState, hold, pack_segments
from secagg.table import Phase, Word
from secagg.wire import Envelope

#: Any state of a role.
AnyState = TypeVar("AnyState", bound=MemberState)
Key = TypeVar("Key")
Value = TypeVar("Value")
AnyServerState = TypeVar("AnyServerState", bound=ServerState)
_NO_COPY = "a role can't be copied or pickled; save role.to_bytes(), and restore one role from it"
#: A message, with the vectors that follow it.
Reply = tuple[wire.Message, bytes]
#: Answers a request: called with context, state, request and vectors.
Handler = Callable[[Any, Any, Any, memoryview], Reply]
#: Takes a message that was handed on: called with context, state, envelope, message and vectors.
Listener = Callable[[Any, Any, Envelope, Any, memoryview], Word | None]


def method(name: str) -> Callable[..., Any]:
    """The method ``name`` of the role that runs it, so that a table can stand above the methods it lists.

    A subclass that replaces the method needs no table of its own.
    """

    def call(role: Any, *arguments: Any) -> Any:
        return getattr(role, name)(*arguments)

    return call


@dataclass(frozen=True)
class Step:
    """How the server goes through one row of the table; each part is a method of the server.

    ``ask(self)`` returns the request for each party, and changes nothing.
    ``take(self, envelope, message, payload)`` checks one answer, then adds it to the state or to the sum.
    ``settle(self)`` closes the round, with ``Aborted`` if too few answered.

    ``merge`` says that several servers may share the round (:meth:`secagg.roles.Server.absorb`), and names what
    ``take`` fills: dicts of the state with an entry for each sender, which are united, and ``"sums"`` if it adds to
    ``context.sums``, which are zero when the round opens. What the server keeps elsewhere is united by
    :meth:`ServerHooks.unite`. It is sound if ``take`` compares no answer with another. None, the default, says that
    only one server can take the round.

    ``hand_on(self, envelope, message, payload)`` returns which message goes to which party at once; without it the
    whole answer goes to all parties of ``Phase.relay``. ``hear(self, envelope, word, waiting)`` checks a listener's
    word about the answer ``waiting``, and returns what goes to whom next. Bytes are handed on as the client or, in
    ``hear``, a listener signed them. A message with its vectors, as ``ask`` returns it, is sealed as the server's
    own. Both methods change nothing and return the same each time, because an answer or a word may come again.
    ``Reject`` refuses what came; in ``hear``, ``Reject(..., blame=word.client)`` accepts the word, and refuses the
    answer that it is about for good.
    """

    ask: Callable[[Any], Mapping[str, Reply]]
    take: Callable[[Any, Envelope, Any, memoryview], None]
    settle: Callable[[Any], None]
    hand_on: Callable[[Any, Envelope, Any, memoryview], Mapping[str, ForListener]] | None = None
    hear: Callable[[Any, Envelope, Any, Waiting], Mapping[str, ForListener]] | None = None
    merge: tuple[str, ...] | None = None


class MemberHooks(Generic[AnyState]):
    """What the author of a client, a decryptor or an aggregator fills in, replaces and works with.

    ``answers`` maps each round that addresses the role to the method that answers it. ``overhears`` maps each round
    in which the server hands messages on to this role to the method that takes them. Both kinds of method get a
    draft of the state, whose fields they replace and never change in place. A field that grows with each message is
    a dict, which :meth:`add` extends. What else the methods need is in ``context``.
    """

    role: ClassVar[PartyRole]
    state_type: ClassVar[type[MemberState]]
    answers: ClassVar[Mapping[str, Handler]]
    overhears: ClassVar[Mapping[str, Listener]] = {}
    context: MemberContext
    _state: AnyState
    _added: list[tuple[dict[Any, Any], Any]]  # what may have to be taken back: the dict, and the key in it

    def add(self, field: dict[Key, Value], key: Key, value: Value) -> None:
        """Add ``value`` under ``key`` to ``field``, a dict in a draft, without copying the dict.

        A copy for each message would make a round quadratic in the cohort. The entry is taken back if the message
        is refused after this call, or if the state can't be saved. ``ConfigError`` for a key that is there already.
        """
        if key in field:
            raise ConfigError(f"{type(self).__name__} adds {shown(key)} twice; refuse the second message first")
        field[key] = value
        self._added.append((field, key))

    def prepare(self) -> None:
        """Check what the caller lent, and make what no saved state holds; ``ConfigError`` where it doesn't fit."""

    def heard(self, envelope: Envelope) -> bool:
        """Whether this very message of another party was taken before; it then changes nothing.

        A message that the role gave its word on is known without this.
        """
        return False

    def new_row(self, draft: AnyState) -> bytes | None:
        """What the message that was just taken added to ``draft``, if that is all that it changed; None otherwise.

        A store that can append keeps these bytes. Without them the whole state is saved for each message, which is
        quadratic in the cohort.
        """
        return None

    def take_rows(self, draft: AnyState, rows: Sequence[bytes]) -> None:
        """Put ``rows``, which :meth:`new_row` returned, back into the restored state ``draft``.

        ``ConfigError`` where they don't fit.
        """
        hold(not rows, "rows")

    def erase(self, draft: AnyState) -> None:
        """Forget every secret in ``draft``. A role that has finished keeps only what it signed."""
        draft.seed = b""

    def check_restored(self) -> None:
        """Refuse a state that can't be resumed safely."""

    def __dir__(self) -> Iterable[str]:
        """The names that a user of the role needs, without those of this class, which are for the author."""
        return _without(super().__dir__(), MemberHooks)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled: two roles of one state could say two things."""
        raise LocalProtocolError(_NO_COPY)


class ServerHooks(Generic[AnyServerState]):
    """What the author of a server fills in, replaces and works with.

    ``steps`` maps each round to its :class:`Step`. A step changes ``context.state`` in place, since a copy for each
    answer would make a round quadratic in the cohort. So ``take`` checks everything before it changes anything, and
    ``settle`` changes nothing before the last thing that the caller's executor may fail.
    """

    state_type: ClassVar[type[ServerState]]
    steps: ClassVar[Mapping[str, Step]]
    context: ServerContext[AnyServerState]

    def prepare(self) -> None:
        """Make what no saved state holds; ``ConfigError`` for a state from which it can't be made."""

    def propose(self) -> Mapping[str, Reply]:
        """Ask the whole cohort by the proposal: what a step asks in the first round that addresses clients."""
        return dict.fromkeys(self.context.state.cohort, (self.context.proposal(), b""))

    def others(self) -> Iterable[str]:
        """The parties besides the cohort that a session asks: everyone enrolled in the protocol's other roles."""
        roster, roles = self.context.roster, self.context.task.protocol.party_counts
        return () if roster is None else [party for role in roles for party in roster.ids(role)]

    def before_close(self, phase: Phase) -> None:
        """Raise ``LocalProtocolError`` while the caller has something to wait for first; changes nothing."""

    def check_shared(self) -> None:
        """``ConfigError`` where one server alone takes the open round, although its step has a ``merge``."""

    def unite(self, shard: Self) -> None:
        """Take up what ``shard`` keeps outside of its state, in a round that several servers share.

        It has taken answers of other senders in the same round. ``ConfigError`` where the two can't be united; then
        nothing has changed.
        """

    def written(self) -> AnyServerState:
        """The state as it is saved: a copy, with what the server keeps elsewhere filled in."""
        return msgspec.structs.replace(
            self.context.state, sums=pack_segments(self.context.sums), faults=self.context.faults.kept
        )

    def __dir__(self) -> Iterable[str]:
        """The names that a user of the server needs, without those of this class, which are for the author."""
        return _without(super().__dir__(), ServerHooks)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be copied or pickled: two roles of one state could say two things."""
        raise LocalProtocolError(_NO_COPY)


def _without(names: Iterable[str], hooks: type) -> list[str]:
    theirs = {name for name in (*vars(hooks), *hooks.__annotations__) if not name.startswith("_")}
    return sorted(set(names) - theirs)

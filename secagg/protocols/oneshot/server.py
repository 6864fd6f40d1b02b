"""The server of OneShot: adds up what it can't read, and has the sum of the keys told to it once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from he.errors import HEError
from mpc import hpke, packed
from mpc.errors import MPCError
from secagg import wire
from secagg.bitmap import to_bitmap
from secagg.errors import Aborted, ConfigError, FaultKind
from secagg.identity import PartyRole
from secagg.merkle import merkle_path
from secagg.protocols.oneshot.messages import (
    HASH_BYTES,
    Agreed,
    Collect,
    Dealing,
    Held,
    KeyedInput,
    KeyedProposal,
    KeyShare,
    KeyShareSum,
    Lack,
    Recount,
    Release,
    SessionKey,
    agreed_digest,
    dealing_digest,
    dealing_tree,
    public_seed,
)
from secagg.protocols.oneshot.opening import open_sum
from secagg.protocols.oneshot.parameters import OneShotParameters, check_dealing, committee_of, place_of
from secagg.protocols.oneshot.spool import Spool, left_out
from secagg.protocols.oneshot.states import OneShotServerState, check_server_state
from secagg.roles.member import Reply, method
from secagg.roles.server import Server, Step
from secagg.table import Round
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from he.kahe import Adder

_MOST_NAMED = 8


class OneShotServer(Server[OneShotServerState]):
    """The server of :class:`secagg.OneShot`.

    1. SessionKey: it proposes the session to the committee, and takes each member's signed session key. A key that
       can't be used is a fault. ``Aborted`` if too few members answer.
    2. Input: it proposes the session to the cohort with these keys. It checks that the key shares in an answer are
       those under the client's signature, adds the encrypted vector to one running sum, and hands each member its
       share at once. The clients whose vectors were added are the survivors. ``Aborted`` if they are fewer than
       ``min_survivors``.
    3. Recount (with ``recount=True``, under which inputs are kept in a file until here): it asks the members whose
       good shares they hold, chooses clients and members so that as few clients as possible are left out, and adds
       the inputs of the chosen. ``Aborted`` if too few members answer, or too few clients survive.
    4. Agreement: it names the survivors to the members, which sign the set and its dealings. A member that lacks a
       good share of a client says so; the client or the member is at fault. ``Aborted`` if too few members sign.
    5. SumOfKeys: it shows the agreements to those that signed, and gets their sums of shares. From enough right
       ones, however many are wrong, it finds the sum of the keys that opens the encrypted sum. ``Aborted`` if none
       does. Otherwise the session ends with an ``Outcome``.
    """

    state_type = OneShotServerState
    steps: ClassVar[Mapping[str, Step]] = {
        Round.SESSION_KEY: Step(method("_ask_keys"), method("_take_key"), method("_settle_keys")),
        Round.INPUT: Step(
            method("_ask_inputs"),
            method("_take_input"),
            method("_settle_inputs"),
            hand_on=method("_parts"),
            merge=("dealings",),
        ),
        Round.RECOUNT: Step(method("_recount"), method("_take_held"), method("_settle_held")),
        Round.AGREEMENT: Step(method("_ask_agreement"), method("_take_agreed"), method("_settle_agreed")),
        Round.SUM_OF_KEYS: Step(method("_ask_sums"), method("_take_sum"), method("_settle_sums")),
    }

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Server.prepare`."""
        state = self.context.state
        self._members = committee_of(self.context)
        self._adder: Adder | None = None
        self._spool = Spool.reopen(state.spool, self._protocol.scheme(self.context.task).size)
        if state.total:
            try:
                self._adder = self._protocol.scheme(self.context.task).load_adder(state.total)
            except HEError as damaged:
                raise ConfigError(f"got a state with a damaged sum: {damaged}; leave this session out") from damaged
            state.total = b""
        if self.context.open:
            check_server_state(self.context, self._members, self._adder)

    @property
    def _protocol(self) -> OneShotParameters:
        protocol = self.context.task.protocol
        assert isinstance(protocol, OneShotParameters)
        return protocol

    @cached_property
    def _sealed_bytes(self) -> list[int]:
        """Bytes of a sealed share, by the place of its member."""
        return [self._protocol.sealed_bytes(self.context.task, place) for place in range(self._protocol.members)]

    def _place(self, member: str) -> int:
        return place_of(self._members, member)

    def others(self) -> Iterable[str]:
        """See :meth:`secagg.roles.ServerHooks.others`."""
        return self._members

    # SessionKey

    def _ask_keys(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self._members, (self.context.proposal(), b""))

    def _take_key(self, envelope: Envelope, message: SessionKey, payload: memoryview) -> None:
        """Take a session key to which a text can be sealed; a client can't know otherwise before it deals.

        A key that two members show is taken from both. Nothing says which of them copied it, and the copier can't
        open what is sealed to it.
        """
        try:
            hpke.seal(hpke.Kem(self._protocol.kem), message.key, b"", info=b"secagg/v1/one-shot/test")
        except MPCError as error:
            raise Reject(FaultKind.INVALID, f"got a session key that can't be used: {error}") from error
        self.context.state.keys[envelope.sender] = envelope.raw

    def _settle_keys(self) -> None:
        self.context.need(len(self.context.state.keys), self._protocol.needed, "session keys of committee members")
        scheme = self._protocol.scheme(self.context.task)
        if self._protocol.recount:
            self._spool = Spool.create(scheme.size)
            self.context.state.spool = self._spool.path
        else:
            self._adder = scheme.adder()

    # Input

    def _ask_inputs(self) -> Mapping[str, Reply]:
        proposal, keys = self.context.proposal(), self.context.state.keys
        keyed = KeyedProposal(
            proposal.cohort, proposal.session, proposal.nonce, [keys[member] for member in sorted(keys)]
        )
        return dict.fromkeys(self.context.state.cohort, (keyed, b""))

    def _parts(
        self, envelope: Envelope, message: KeyedInput, payload: memoryview
    ) -> Mapping[str, tuple[KeyShare, bytes]]:
        """Each member's key share, once all of them are proven to be under the client's signature."""
        members, protocol = sorted(self.context.state.keys), self._protocol
        places = [self._place(member) for member in members]
        lengths = [len(message.commitments), *map(len, message.sealed)]
        expected = [HASH_BYTES * protocol.members, *(self._sealed_bytes[place] for place in places)]
        if lengths != expected:
            raise Reject(
                FaultKind.MALFORMED, f"got commitments and key shares of {lengths} bytes; expected {expected}"
            )
        commitments = [
            message.commitments[start : start + HASH_BYTES] for start in range(0, expected[0], HASH_BYTES)
        ]
        tree = dealing_tree(commitments, dict(zip(places, message.sealed, strict=True)))
        if tree[-1][0] != self._dealing(envelope, message).root:
            raise Reject(FaultKind.INVALID, "got key shares that are not those under their client's signature")
        return {
            member: (KeyShare(message.dealing, commitments[place], text, merkle_path(tree, place)), b"")
            for member, place, text in zip(members, places, message.sealed, strict=True)
        }

    def _dealing(self, envelope: Envelope, message: KeyedInput) -> Dealing:
        """The dealing in an answer, checked; ``Reject`` for one that the sender of the answer did not sign."""
        signed = self.context.relayed(message.dealing, Dealing, self.context.state.session_id, PartyRole.CLIENT)
        if signed.sender != envelope.sender:
            raise Reject(FaultKind.INVALID, f"got a dealing of {signed.sender} in the answer of {envelope.sender}")
        dealing, rest = signed.open(Dealing)
        wire.no_vectors(rest)
        check_dealing(self._protocol, dealing)
        return dealing

    def _take_input(self, envelope: Envelope, message: KeyedInput, payload: memoryview) -> None:
        """Add one client's encrypted vector; nothing of it is touched before all of it was checked."""
        dealing, _ = Envelope.parse(message.dealing, self.context.limit).open(Dealing)
        ciphertext, state = bytes(payload), self.context.state
        try:
            if self._spool is not None:
                self._protocol.scheme(self.context.task).check(ciphertext)
            else:
                assert self._adder is not None
                self._adder.fold(ciphertext)
        except HEError as error:
            raise Reject(FaultKind.MALFORMED, f"got a ciphertext that can't be added up: {error}") from error
        if self._spool is not None:
            self._spool.write(len(state.spooled), ciphertext)
            state.spooled.append(envelope.sender)
        state.dealings[envelope.sender] = dealing_digest(dealing)

    def check_shared(self) -> None:
        """``ConfigError`` while inputs wait in a file, which one server writes."""
        if self._spool is not None:
            raise ConfigError(
                "got a part of Input of OneShot with recount=True, under which inputs wait in one file, which one "
                "server writes; give all inputs to one server, or take recount=False"
            )

    def unite(self, shard: Self) -> None:
        """Add up the encrypted sums of two servers, each of other clients."""
        assert self._adder is not None
        assert shard._adder is not None
        try:
            self._adder.merge(shard._adder)
        except HEError as error:
            raise ConfigError(f"got a part whose encrypted sum doesn't fit: {error}") from error

    def _settle_inputs(self) -> None:
        self._need_survivors(self.context.state.survivors, "encrypted inputs")
        if self._spool is not None:
            self._spool.sync()

    def _need_survivors(self, survivors: Sequence[str], what: str) -> None:
        self._need(len(survivors), self.context.task.min_survivors, what)

    def _need(self, present: int, floor: int, what: str) -> None:
        try:
            self.context.need(present, floor, what)
        except Aborted:
            self._remove_spool()
            raise

    def _remove_spool(self) -> None:
        if self._spool is not None:
            self._spool.remove()
        self._spool, self.context.state.spool, self.context.state.spooled = None, "", []

    # Recount

    def _recount(self) -> Mapping[str, Reply]:
        return dict.fromkeys(sorted(self.context.state.keys), (Recount(), b""))

    def _take_held(self, envelope: Envelope, message: Held, payload: memoryview) -> None:
        state = self.context.state
        if len(message.lacking) != len(state.cohort) or {*message.lacking} - set(Lack):
            raise Reject(FaultKind.INVALID, "got something else than one of the kinds of shares for each client")
        here = dict(zip(state.cohort, message.lacking, strict=True))
        state.lacking[envelope.sender] = bytes(here[client] for client in state.survivors)

    def _settle_held(self) -> None:
        """Add up the inputs of the clients of whom enough members hold good shares."""
        state, needed = self.context.state, self._protocol.needed
        self._need(len(state.lacking), needed, "members that say whose key shares they hold")
        self._blame_for_lacking()
        out = left_out(list(state.lacking.values()), needed)
        chosen = [client for number, client in enumerate(state.survivors) if number not in out]
        self._need_survivors(chosen, "clients of whom enough members hold good key shares")
        self._adder = self._added(set(chosen))
        state.survivors, state.lacking = chosen, {}
        state.dealings = {client: state.dealings[client] for client in chosen}
        self._remove_spool()

    def _added(self, chosen: Collection[str]) -> Adder:
        adder = self._protocol.scheme(self.context.task).adder()
        assert self._spool is not None
        for number, client in enumerate(self.context.state.spooled):
            if client in chosen:
                try:
                    adder.fold(self._spool.read(number))
                except HEError as damaged:
                    self._remove_spool()
                    raise Aborted(f"the file of inputs was damaged while they waited in it: {damaged}") from damaged
        return adder

    # Agreement

    def _ask_agreement(self) -> Mapping[str, Reply]:
        state = self.context.state
        return dict.fromkeys(sorted(state.keys), (Collect(to_bitmap(state.survivors, state.cohort)), b""))

    def _take_agreed(self, envelope: Envelope, message: Agreed, payload: memoryview) -> None:
        state = self.context.state
        if message.digest:
            if message.lacking or message.digest != agreed_digest(state.session_id, state.dealings):
                raise Reject(FaultKind.INVALID, "got an agreement to another set of clients, or to other dealings")
            state.agreed[envelope.sender] = envelope.raw
            return
        known = set(Lack)
        if len(message.lacking) != len(state.survivors) or not any(message.lacking) or {*message.lacking} - known:
            raise Reject(FaultKind.INVALID, "got neither an agreement nor what a member lacks")
        state.lacking[envelope.sender] = message.lacking

    def _settle_agreed(self) -> None:
        if not self._protocol.recount:  # else they were named for it before
            self._blame_for_lacking()
        self.context.need(
            len(self.context.state.agreed), self._protocol.needed, "members with good key shares of all clients"
        )

    def _blame_for_lacking(self) -> None:
        """Name who may be at fault where members hold no good share of a client.

        If more members refused a client's share than may be corrupt, an honest one is among them, and the client is
        at fault. Otherwise the client is, or the members are. What did not reach a member was lost on the way, or
        the member says so.
        """
        state, blame = self.context.state, self.context.blame
        for member, lacking in sorted(state.lacking.items()):
            if absent := lacking.count(Lack.ABSENT):
                blame(
                    member,
                    FaultKind.UNOPENED_SHARE,
                    f"says that the key shares of {absent} clients did not reach it",
                )
        for number, client in enumerate(state.survivors):
            refusing = [m for m, lacking in sorted(state.lacking.items()) if lacking[number] > Lack.ABSENT]
            named = ", ".join(refusing[:_MOST_NAMED])
            if len(refusing) > self._protocol.corrupt_members:
                blame(
                    client, FaultKind.WRONG_DEALING, f"{named} refused their shares of its key, so it dealt badly"
                )
            elif refusing:
                detail = f"{named} refused the key share of {client}: the client is at fault, or the members are"
                for party in (client, *refusing):
                    blame(party, FaultKind.UNOPENED_SHARE, detail)

    # SumOfKeys

    def _ask_sums(self) -> Mapping[str, Reply]:
        agreed = self.context.state.agreed
        signed = [agreed[member] for member in sorted(agreed)]
        return dict.fromkeys(sorted(agreed), (Release(signed), b""))

    def _take_sum(self, envelope: Envelope, message: KeyShareSum, payload: memoryview) -> None:
        protocol, answer = self._protocol, bytes(payload)
        packed.check_answer(protocol.committee, protocol.scheme(self.context.task).degree, answer)
        self.context.state.answers[envelope.sender] = answer

    def _settle_sums(self) -> None:
        state, protocol = self.context.state, self._protocol
        needed = protocol.committee.threshold
        self.context.need(len(state.answers), needed, "sums of key shares")
        assert self._adder is not None
        opened = open_sum(
            protocol.scheme(self.context.task),
            protocol.committee,
            total=self._adder.total(),
            answers={self._place(member): answer for member, answer in state.answers.items()},
            count=len(state.survivors),
            public=public_seed(state.session_id),
            executor=self.context.executor,
        )
        self.context.sums = protocol.segments(self.context.task, opened.sums)
        self._blame_differing(opened.liars, opened.differing)
        self._adder, state.answers = None, {}

    def _blame_differing(self, liars: Sequence[int], differing: Sequence[int]) -> None:
        """Name members whose sums differ from those that opened, if so many agree that the others must lie."""
        members = self._members
        for place in liars:
            self.context.blame(members[place], FaultKind.WRONG_SHARE, "gave a wrong sum of key shares")
        if differing and not liars:
            named = ", ".join(members[place] for place in differing)
            detail = f"the sums of {named} differ from those that open; too few agree to say who is wrong"
            self.context.blame("committee", FaultKind.WRONG_SHARE, detail)

    def written(self) -> OneShotServerState:
        """See :meth:`Server.written`."""
        written = super().written()
        written.total = b"" if self._adder is None else self._adder.to_bytes()
        return written

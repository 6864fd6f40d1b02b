"""Parts of an answer that are handed on at once, and listeners that answer: by stand-ins, see ``parts``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

import secagg
from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind
from secagg.identity import PartyRole
from secagg.lanes import pack_lanes
from secagg.roles import Handler, MemberState, Reply, Waiting, method, receiving
from secagg.roles.handing_on import WaitingAnswers
from secagg.table import Phase, Proposal
from secagg.testing import MemoryStore, Parties, Session, check_protocol, parties_for
from secagg.wire import Envelope, Reject
from tests.secagg.parts import (
    Collect,
    HeadedClient,
    Part,
    PartProtocol,
    Recount,
    ShareKeeper,
    Split,
    Splits,
    SplitServer,
    Splitter,
    Verdict,
    Vetter,
    VetterState,
    Vetting,
    VettingServer,
)

LEADER, HELPER = "aggregator-1", "aggregator-2"
PROTOCOLS: tuple[PartProtocol, ...] = (Splits(), Vetting())
INPUT = {"splits": "Report", "vetting": "Input"}

both = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)


def with_classes(protocol: Any, server: type | None = None, **roles: type) -> Any:
    """``protocol`` with other classes for its server, its clients or its aggregators."""
    members = {role: roles.get(role.value, kind) for role, kind in protocol.role_classes.items()}
    kind = type(protocol.name, (type(protocol),), {"role_classes": members, "server": server or protocol.server})
    return kind()


def parties_of(protocol: Any) -> Parties:
    return parties_for(protocol, 4)


def session_of(protocol: Any, **arguments: Any) -> Session:
    return Session(parties_of(protocol), **arguments)


def with_client(party: str, protocol: Any, kind: type) -> Session:
    """A session in which one client is of a class of its own."""
    session = session_of(protocol)
    session.members[party].__class__ = kind
    return session


@both
def test_a_stand_in_holds_to_what_every_protocol_promises(protocol: PartProtocol) -> None:
    assert check_protocol(protocol)


@both
def test_simulate_hands_parts_on_and_brings_words_back(protocol: PartProtocol) -> None:
    updates = {f"c{n}": {"w": np.full(6, n / 16, np.float32)} for n in range(1, 6)}
    layout, encoding = secagg.Layout.of(updates["c1"]), secagg.FixedPoint(clip=1.0, bits=12, rounding="nearest")
    task = secagg.Task(protocol, layout, encoding, max_clients=5, min_survivors=3)
    result = secagg.simulate(task, updates, dropouts={"c2": INPUT[protocol.name]})
    assert result.survivors == ("c1", "c3", "c4", "c5")
    assert not [fault for fault in result.faults if fault.kind is not FaultKind.SILENT]
    np.testing.assert_allclose(result.sum["w"], 13 / 16, atol=4 / 2048)


def test_each_aggregator_gets_its_own_part_while_the_round_is_open() -> None:
    session = session_of(Splits())
    got: list[tuple[str, str, str]] = []

    def before_relay(party: str, data: bytes) -> None:
        envelope = Envelope.parse(data, len(data))
        got.append((session.round, envelope.sender, party))
        assert party == envelope.open(Splits.phases[1].handed_on)[0].receiver  # type: ignore[attr-defined]

    session.before_relay = before_relay
    session.run()
    assert got == [("Report", client, party) for client in session.parties.cohort for party in (LEADER, HELPER)]


def test_an_input_is_taken_once_every_listener_gave_its_word() -> None:
    session = session_of(Vetting())
    steps: list[tuple[str, str, bool]] = []

    def look(what: str) -> Callable[[str, bytes], None]:
        return lambda party, data: steps.append((what, party, "c1" in session.server.pending))

    session.before_relay, session.before_word = look("shown"), look("word")
    session.until("Input")
    session.deliver("c1", session.ask("c1"))
    # The leader's word is the last; then the helper is told of it.
    words = [("shown", HELPER), ("word", HELPER), ("shown", LEADER), ("word", LEADER), ("shown", HELPER)]
    assert [(what, party) for what, party, _ in steps] == words
    assert [waits for *_, waits in steps] == [True] * 4 + [False]


@both
def test_every_party_restored_at_each_message_gives_the_same_sum(protocol: PartProtocol) -> None:
    """The server too, while an answer waits: it asks again, and everyone repeats its bytes."""
    steady, session = session_of(protocol), session_of(protocol)
    relayed: list[tuple[str, bytes]] = []
    steady.before_relay = lambda party, data: relayed.append((party, data))
    steady.run()

    def restore(party: str, data: bytes) -> None:
        assert not relayed or (party, data) in relayed
        session.restore(party, session.members[party].to_bytes())

    crashed: set[tuple[str, str]] = set()

    def crash(party: str, data: bytes) -> None:
        session.restore(party, session.members[party].to_bytes())
        if (session.round, party) not in crashed:
            crashed.add((session.round, party))
            session.restore_server(session.server.to_bytes())

    session.before_relay, session.before_word = restore, crash
    session.before_request = session.before_answer = crash
    outbox = session.server.start()
    while session.server.outcome is None:
        session.exchange(outbox)
        if session.server.pending:  # what the server lost in a crash, it asks for again
            session.exchange(session.server.start())
        assert not session.server.pending
        outbox = session.server.close_round()
    session.require_exact(session.server.outcome, "after every role was restored at each message")
    assert session.faults == []
    assert not any(getattr(member, "faults", ()) for member in session.members.values())
    assert protocol.name == "splits" or ("Input", LEADER) in crashed


@both
def test_messages_that_are_handed_on_twice_change_nothing(protocol: PartProtocol) -> None:
    session = session_of(protocol)
    heard: list[tuple[str, bytes]] = []
    sent: list[tuple[str, bytes, bytes]] = []
    session.before_relay = lambda party, data: heard.append((party, data))
    session.before_word = lambda party, word: sent.append((*heard[-1], word))
    session.until(protocol.phases[2].round)

    def again() -> None:
        before = {party: session.members[party].to_bytes() for party in (LEADER, HELPER)}
        words = {(party, data): word for party, data, word in sent}
        for party, data in heard:
            assert session.members[party].receive(data) == words.get((party, data))
        assert all(session.members[party].to_bytes() == state for party, state in before.items())
        for party, _, word in sent:
            session.ignored_by_server(party, word, "a word said again")

    again()
    session.require_completes("with everything handed on twice")
    again()
    assert not session.members[LEADER].faults
    assert not session.members[HELPER].faults


class OnceOnly(Vetter):
    """Refuses a header that it saw before, so that only its saved words answer the same message again."""

    def _check_helpers(self, draft: VetterState, words: list[bytes], client: str, digest: bytes) -> None:
        if client in draft.seen:
            raise Reject(FaultKind.DUPLICATE, "got a header twice")
        super()._check_helpers(draft, words, client, digest)


class TestSavedWords:
    """A server that crashed asks again, and needs the same words again."""

    def crashed(self) -> Session:
        session = session_of(with_classes(Vetting(), aggregator=OnceOnly))
        outbox = session.until("Input")
        session.exchange(outbox)
        session.restore_server(session.stores[wire.SERVER].state)
        session.exchange(session.server.start())
        return session

    def test_refused(self) -> None:
        session = self.crashed()
        assert not session.server.pending
        session.close()
        session.require_completes("after a crash of the server")

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: with words that are not kept, no input of before the crash is ever taken."""
        kept = Vetter._commit

        def without_words(vetter: Any, draft: VetterState, row: bytes | None = None) -> None:
            draft.words, vetter._spoken = {}, {}
            kept(vetter, draft)

        monkeypatch.setattr(Vetter, "_commit", without_words)
        session = self.crashed()
        assert session.server.pending == set(session.parties.cohort)
        with pytest.raises(Aborted):
            session.close()


class TestSilentListener:
    """The listener that says nothing is named, not the clients whose answers waited for it."""

    def faults(self) -> list[tuple[str, FaultKind]]:
        session = session_of(Vetting(), silent={HELPER: "Input"})
        with pytest.raises(Aborted):
            session.run()
        return [(fault.sender, fault.kind) for fault in session.server.faults]

    def test_it_is_named(self) -> None:
        assert self.faults() == [(HELPER, FaultKind.SILENT)]

    def test_control_names_the_clients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WaitingAnswers, "awaited_by", lambda self, client, listeners: None)
        assert self.faults() == [(client, FaultKind.SILENT) for client in ("c1", "c2", "c3", "c4")]


def test_answers_beyond_those_that_may_wait_are_asked_for_again() -> None:
    session = session_of(Vetting())
    held: list[tuple[str, bytes]] = []
    session.before_word = lambda party, word: held.append((party, word)) or []  # type: ignore[func-returns-value]
    session.exchange(session.until("Input"))
    assert len(held) == Vetting.phases[1].awaiting == 2
    assert session.server.pending == set(session.parties.cohort)
    session.before_word = lambda party, word: None
    for party, word in held:
        session.pass_on(session.server.receive(party, word))
    assert not session.server.pending
    session.close()
    session.require_completes("after two answers found no room")
    assert session.faults == []


class StealsPart(Splitter):
    """Sends another client's part in the place of its own."""

    stolen: ClassVar[bytes] = b""

    def _report(self, draft: Any, message: Proposal, payload: memoryview) -> Reply:
        (split, rest) = super()._report(draft, message, payload)
        assert isinstance(split, Split)
        return Split([self.stolen, *split.parts[1:]]), rest


class TestPartOfAnotherClient:
    """A client sends another's part as its own, which the aggregator would count for the other."""

    def play(self, thief: str, victim: str) -> Session:
        session = with_client(thief, Splits(), StealsPart)
        session.until("Report")
        answer = session.ask(victim)
        StealsPart.stolen = Envelope.parse(answer, len(answer)).open(Split)[0].parts[0]
        session.exchange(session.outbox or {})
        session.close()
        return session

    @pytest.mark.parametrize(("thief", "victim"), [("c1", "c2"), ("c2", "c1")])
    def test_the_client_is_named_and_nothing_is_handed_on(self, thief: str, victim: str) -> None:
        session = self.play(thief, victim)
        assert session.faults == [(thief, "Report", FaultKind.INVALID)]
        session.gone[thief] = "Report"
        session.require_completes("without the client that sent another's part")
        assert not session.members[LEADER].faults

    def test_control_counts_the_client_as_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: unchecked, its input counts as received, and nobody is named."""
        monkeypatch.setattr(receiving, "check_part", lambda context, phase, sender, part: None)
        session = self.play("c2", "c1")
        assert session.faults == []
        assert "c2" not in session.server.context.state.dropped


class UnsignedPart(Splitter):
    """Seals a part with no signature, only the checksum."""

    def part(self, draft: Any, receiver: str, share: list[Any]) -> bytes:
        return wire.seal_envelope(
            Part(receiver),
            protocol=Splits.ID,
            task=self.context.task.digest,
            session=draft.session_id,
            sender=draft.id,
            payload=pack_lanes(self.context.task, share),
        )


class TestUnsignedPart:
    """A client sends a part that its aggregator would refuse, and would be counted until the recount."""

    def play(self) -> Session:
        session = with_client("c3", Splits(), UnsignedPart)
        session.exchange(session.until("Report"))
        return session

    def test_refused_by_the_server_in_its_own_round(self) -> None:
        session = self.play()
        assert session.faults == [("c3", "Report", FaultKind.UNAUTHENTIC)]
        assert session.server.pending == {"c3"}
        assert not session.members[LEADER].faults

    def test_control_has_the_aggregator_refuse_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receiving, "check_part", lambda context, phase, sender, part: None)
        session = self.play()
        assert session.faults == []
        assert [fault.kind for fault in session.members[LEADER].faults] == [FaultKind.UNAUTHENTIC]


class OversizedPart(Splitter):
    """Sends a part that is longer than an aggregator reads."""

    def part(self, draft: Any, receiver: str, share: list[Any]) -> bytes:
        vectors = pack_lanes(self.context.task, share)
        return self.context.seal(draft, Part(receiver), vectors + bytes(400))


def test_a_part_that_its_receiver_would_not_read_is_refused_by_the_server() -> None:
    session = with_client("c3", Splits(), OversizedPart)
    session.before_relay = lambda party, data: None
    session.exchange(session.until("Report"))
    assert session.faults == [("c3", "Report", FaultKind.OVERSIZED)]
    session.gone["c3"] = "Report"
    session.close()
    session.require_completes("without the client whose part is too long")
    assert not session.members[LEADER].faults


class Misdirects(SplitServer):
    """Hands one aggregator's part to both."""

    def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Mapping[str, bytes]:
        return dict.fromkeys(self.aggregators, message.parts[0])


class TestPartForAnother:
    """A server gives an aggregator the part of another one, which it would add up as its own."""

    def play(self) -> Session:
        session = session_of(with_classes(Splits(), server=Misdirects))
        session.exchange(session.until("Report"))
        return session

    def test_refused(self) -> None:
        session = self.play()
        assert session.members[LEADER].faults == ()
        assert {fault.kind for fault in session.members[HELPER].faults} == {FaultKind.INVALID}
        session.close()
        with pytest.raises(Aborted):
            session.run()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: an aggregator that doesn't look for its name holds the other's shares as its own."""
        monkeypatch.setattr(ShareKeeper, "check_receiver", lambda self, draft, message: None)
        session = self.play()
        leader, helper = (session.members[party]._state.shares for party in (LEADER, HELPER))
        assert leader == helper
        assert set(helper) == set(session.parties.cohort)


class Overstates(HeadedClient):
    """Its header says more than any input can have."""

    def stated(self, total: int) -> int:
        return 1 << 40


def forge(session: Session, signer: str, party: str, client: str, *, accepted: bool = True) -> bytes:
    """A word in the name of ``party`` about the waiting answer of ``client``, signed by ``signer``."""
    waiting = session.server._waiting.get(client)
    header = b"" if waiting is None else waiting.message.header
    digest = Envelope.parse(header, len(header)).digest if header else bytes(32)
    about = bytes(32) if waiting is None else next(iter(waiting.shown.get(party, [bytes(32)])))
    return session.seal(
        Verdict(client, about, digest, accepted),
        sender=party,
        session=session.server.context.state.session_id,
        identity=session.parties.identities[signer],
    )


class TestForgedWord:
    """A client whose input the aggregators refuse gives the words itself."""

    def play(self) -> Session:
        session = with_client("c1", Vetting(), Overstates)
        session.until("Input")
        session.before_relay = lambda party, data: []  # it is first
        session.deliver("c1", session.ask("c1"))
        session.before_relay = lambda party, data: None
        for party in (HELPER, LEADER):
            session.server.receive(party, forge(session, "c1", party, "c1"))
        return session

    def test_refused(self) -> None:
        session = self.play()
        unsigned = [(party, "Input", FaultKind.UNAUTHENTIC) for party in (HELPER, LEADER)]
        assert session.faults == unsigned
        session.exchange(session.server.start())
        assert session.faults == [*unsigned, ("c1", "Input", FaultKind.INVALID)]
        assert session.server.pending == {"c1"}
        session.gone["c1"] = "Input"
        session.close()
        session.require_completes("without the client that the aggregators refused")

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: without signatures its input is in the server's sum."""
        monkeypatch.setattr(Envelope, "verify", lambda self, key: None)
        session = self.play()
        assert session.faults == []
        assert "c1" in session.server.context.state.answered


def waiting_session(client: str = "c1", protocol: Any = None) -> Session:
    """A session in which the answer of ``client`` awaits both words."""
    session = session_of(protocol or Vetting())
    session.until("Input")
    session.before_relay = lambda party, data: []
    session.deliver(client, session.ask(client))
    return session


def test_only_a_listener_has_a_word() -> None:
    session = waiting_session()
    session.refused_by_server("c2", forge(session, "c2", "c2", "c1"), "a word")
    assert session.faults == [("c2", "Input", FaultKind.OUT_OF_TURN)]


def test_a_word_about_an_answer_that_never_came_is_refused() -> None:
    session = waiting_session()
    session.refused_by_server(HELPER, forge(session, HELPER, HELPER, "c9"), "a word")
    # An answer that is asked for may be lost; a word about it comes again with it, so it is nobody's fault.
    before = session.server.to_bytes()
    assert session.server.receive(HELPER, forge(session, HELPER, HELPER, "c2")) == {}
    assert session.server.to_bytes() == before
    assert session.faults == [(HELPER, "Input", FaultKind.OUT_OF_TURN)]


@pytest.mark.parametrize("client", ["c1", "c2", "c3", "c4"])
def test_a_second_word_about_one_answer_is_refused(client: str) -> None:
    session = waiting_session(client)
    first = forge(session, HELPER, HELPER, client)
    shown = session.server.receive(HELPER, first)
    assert set(shown) == {LEADER}
    assert session.server.receive(HELPER, first) == shown  # what was handed on may be lost
    session.refused_by_server(HELPER, forge(session, HELPER, HELPER, client, accepted=False), "a second word")
    assert session.faults == [(HELPER, "Input", FaultKind.DUPLICATE)]


def test_a_word_that_refused_an_answer_may_come_again_after_its_round() -> None:
    session = with_client("c1", Vetting(), Overstates)
    sent: list[tuple[str, bytes]] = []
    session.before_word = lambda party, word: sent.append((party, word))
    session.until("Agreement")
    assert session.faults == [("c1", "Input", FaultKind.INVALID)]
    for party, word in sent:
        session.ignored_by_server(party, word, "a word said again")


def test_a_listener_refuses_its_own_word() -> None:
    session = session_of(Vetting())
    words: list[bytes] = []
    session.before_word = lambda party, word: words.append(word)
    session.until("Agreement")
    leaders = [word for word in words if Envelope.parse(word, len(word)).sender == LEADER]
    session.refused_by(LEADER, leaders[0], "its own word")


def test_another_answer_is_refused_while_the_first_one_waits() -> None:
    session = waiting_session()
    other = session.make("c1", save=MemoryStore())
    other.contribute({"w": np.ones(5, np.float32)}, 1)
    assert session.outbox is not None
    session.refused_by_server("c1", other.receive(session.outbox["c1"]), "another answer")
    assert session.faults == [("c1", "Input", FaultKind.DUPLICATE)]


def test_a_part_can_go_to_the_roster_alone() -> None:
    class Strays(SplitServer):
        def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Mapping[str, bytes]:
            return {"nobody": message.parts[0]}

    session = session_of(with_classes(Splits(), server=Strays))
    session.exchange(session.until("Report"))
    assert {kind for _, _, kind in session.faults} == {FaultKind.INVALID}


def test_a_part_of_another_type_or_session_is_refused_by_the_server() -> None:
    class OtherPart(Splitter):
        session: ClassVar[bytes] = b""

        def part(self, draft: Any, receiver: str, share: list[Any]) -> bytes:
            if not self.session:
                return self.context.seal(draft, Recount())
            elsewhere = msgspec.structs.replace(draft, session_id=self.session)
            return self.context.seal(elsewhere, Part(receiver), pack_lanes(self.context.task, share))

    for OtherPart.session, kind in ((b"", FaultKind.INVALID), (bytes(32), FaultKind.FOREIGN_SESSION)):
        session = with_client("c1", Splits(), OtherPart)
        session.exchange(session.until("Report"))
        assert session.faults == [("c1", "Report", kind)]
        assert not session.members[LEADER].faults


@pytest.mark.parametrize(("party", "length"), [("nobody", 10), (LEADER, 1 << 20)])
def test_what_follows_a_word_goes_to_those_that_can_read_it(party: str, length: int) -> None:
    class Strays(VettingServer):
        def _hear(self, envelope: Envelope, word: Verdict, waiting: Waiting) -> Mapping[str, bytes]:
            return {party: bytes(length)}

    session = waiting_session("c1", with_classes(Vetting(), server=Strays))
    assert session.server.receive(HELPER, forge(session, HELPER, HELPER, "c1")) == {}
    # The word is always followed by the same, so the answer could never be taken.
    assert [sender for sender, *_ in session.faults] == ["c1"]
    assert session.server._waiting.get("c1") is None


def phases_with(**changes: Any) -> Phase:
    return replace(Vetting.phases[1], **changes)


@pytest.mark.parametrize(
    "changes",
    [{"relay": None}, {"word": None}, {"awaiting": 0}, {"role": PartyRole.AGGREGATOR}],
    ids=["nobody listens", "nothing to wait for", "no room", "not of clients"],
)
def test_a_row_of_the_table_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        phases_with(**changes)


@pytest.mark.parametrize(
    ("lacking", "attributes"),
    [
        ("answers", {"answers": {}}),
        ("overhears", {"overhears": {}}),
        ("ListenerState", {"state_type": MemberState}),
    ],
)
def test_a_role_that_lacks_what_the_table_needs_is_refused_when_it_is_made(
    lacking: str, attributes: dict[str, Any]
) -> None:
    protocol = with_classes(Vetting(), aggregator=type("Lacking", (Vetter,), attributes))
    with pytest.raises(ConfigError, match=lacking):
        session_of(protocol)


def test_a_message_that_is_handed_on_can_be_no_request_of_the_same_role() -> None:
    protocol: Any = with_classes(Vetting())
    type(protocol).phases = (Vetting.phases[0], phases_with(relayed=Collect), Vetting.phases[2])
    with pytest.raises(ConfigError, match="hands on in Input what it also sends as a request"):
        session_of(protocol)


def test_an_answer_of_another_type_than_the_table_has_is_refused() -> None:
    class Confused(HeadedClient):
        answers: ClassVar[Mapping[str, Handler]] = {"Input": method("_confused")}

        def _confused(self, draft: Any, message: Proposal, payload: memoryview) -> Reply:
            return Split([]), b""

    session = session_of(with_classes(Vetting(), client=Confused))
    session.until("Input")
    before = session.members["c1"].to_bytes()
    with pytest.raises(ConfigError, match="answered Split in Input"):
        session.ask("c1")
    assert session.members["c1"].to_bytes() == before


def test_a_word_in_a_round_without_words_is_refused() -> None:
    class Talks(ShareKeeper):
        def _take_part(self, *arguments: Any) -> Any:
            return Verdict("c1", b"", b"", True)

    session = session_of(with_classes(Splits(), aggregator=Talks))
    with pytest.raises(ConfigError, match="no answer"):
        session.run()

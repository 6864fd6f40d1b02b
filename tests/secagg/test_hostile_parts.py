"""Attacks on parts that are handed on and on listeners that answer, and mistakes of a protocol's author."""

from __future__ import annotations

import copy
import hashlib
import pickle
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.lanes import pack_lanes
from secagg.roles import FaultRecorder, Member, MemberContext, Reply, Step, method, receiving
from secagg.roles.handing_on import Waiting, WaitingAnswers
from secagg.table import Proposal, Refusal, Word
from secagg.testing import MemoryStore, Session
from secagg.wire import Envelope
from tests.secagg.parts import (
    Headed,
    HeadedClient,
    Header,
    Part,
    Ready,
    Recount,
    Show,
    Split,
    Splits,
    SplitServer,
    Splitter,
    Verdict,
    Vetter,
    Vetting,
    VettingServer,
)
from tests.secagg.test_parts import HELPER, LEADER, Overstates, session_of, with_classes, with_client

PARTIES = (LEADER, HELPER)


def from_server(session: Session, message: wire.Message, payload: bytes = b"") -> bytes:
    """What the server, or anyone who says that he is the server, sends in this session."""
    return session.seal(message, payload)


class Impostor(Splitter):
    """Puts messages of the server, which are not signed, in the place of its parts."""

    forged: ClassVar[wire.Message]

    def part(self, draft: Any, receiver: str, share: list[Any]) -> bytes:
        return wire.seal_envelope(
            self.forged,
            protocol=Splits.ID,
            task=self.context.task.digest,
            session=draft.session_id,
            sender=wire.SERVER,
            payload=pack_lanes(self.context.task, share) if isinstance(self.forged, Part) else b"",
        )


class TestServersMessageInAnAnswer:
    """A client gives the aggregators orders in the server's name, through the server."""

    def play(self, forged: wire.Message) -> Session:
        Impostor.forged = forged
        session = with_client("c2", Splits(), Impostor)
        session.exchange(session.until("Report"))
        return session

    @pytest.mark.parametrize("forged", [wire.Abort(), Recount(), Part(LEADER)], ids=repr)
    def test_refused(self, forged: wire.Message) -> None:
        session = self.play(forged)
        assert session.faults == [("c2", "Report", FaultKind.INVALID)]
        assert not any(session.members[party].faults for party in PARTIES)
        session.gone["c2"] = "Report"
        session.close()
        session.require_completes("without the client that spoke as the server")

    def control(self, forged: wire.Message, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Control: where anything without a sender passes as the server's own, the aggregators obey the client."""
        check = receiving.check_part

        def believes(context: Any, phase: Any, sender: str, part: Envelope) -> None:
            if part.sender != wire.SERVER:
                check(context, phase, sender, part)

        monkeypatch.setattr(receiving, "check_part", believes)
        session = self.play(forged)
        assert "c2" not in [sender for sender, *_ in session.faults]
        return [session.members[party]._state for party in PARTIES]

    def test_control_makes_the_aggregators_leave(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert all(state.aborted for state in self.control(wire.Abort(), monkeypatch))

    def test_control_has_the_aggregators_answer_the_next_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert [state.step for state in self.control(Recount(), monkeypatch)] == [2, 2]


class Unreadable(HeadedClient):
    """Its header has bytes at its end, which only a listener sees."""

    def _input(self, draft: Any, message: Proposal, payload: memoryview) -> Reply:
        headed, vectors = super()._input(draft, message, payload)
        assert isinstance(headed, Headed)
        header = Envelope.parse(headed.header, len(headed.header)).open(Header)[0]
        return Headed(self.context.seal(draft, header, b"more")), vectors


def with_clients(kind: type, *clients: str) -> Session:
    session = session_of(Vetting())
    for client in clients:
        session.members[client].__class__ = kind
    session.until("Input")
    return session


class TestAnswersThatNoListenerReads:
    """Two clients send what the listeners refuse to read, and would keep all places of answers that wait."""

    def play(self) -> Session:
        session = with_clients(Unreadable, "c1", "c2")
        session.exchange(session.outbox or {})
        return session

    def test_refused(self) -> None:
        session = self.play()
        assert session.faults == [("c1", "Input", FaultKind.INVALID), ("c2", "Input", FaultKind.INVALID)]
        assert {fault.kind for fault in session.members[HELPER].faults} == {FaultKind.MALFORMED}
        session.gone |= {"c1": "Input", "c2": "Input"}
        session.close()
        session.require_completes("without the clients whose headers can't be read")

    def test_control_keeps_everyone_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: with listeners that say nothing, no input is taken, and a listener is named for it."""
        monkeypatch.delattr(FaultRecorder, "_listen")
        session = self.play()
        assert session.server.pending == set(session.parties.cohort)
        with pytest.raises(Aborted):
            session.close()
        assert [fault.sender for fault in session.server.faults] == [HELPER]


class TestAnswersWithoutEnd:
    """A client whose answer was refused sends it, or another, again and again: each would cost everyone work."""

    def play(self) -> tuple[Session, int]:
        session = with_clients(Overstates, "c1")
        answer = session.ask("c1")
        session.deliver("c1", answer)
        shown: list[str] = []
        session.before_relay = lambda party, data: shown.append(party)
        for _ in range(20):
            session.deliver("c1", answer)
        return session, len(shown)

    def test_a_refused_answer_is_final(self) -> None:
        session, shown = self.play()
        assert shown == 0
        assert session.faults == [("c1", "Input", FaultKind.INVALID)]
        assert len(session.server.context.state.taken[HELPER]) == 2 * 16
        other = session.make("c1", save=MemoryStore())
        other.contribute({"w": np.ones(5, np.float32)}, 1)
        session.refused_by_server("c1", other.receive((session.outbox or {})["c1"]), "another answer")
        assert session.faults[-1] == ("c1", "Input", FaultKind.DUPLICATE)

    def test_control_fills_the_servers_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WaitingAnswers, "admits", lambda self, answer: True)
        session, shown = self.play()
        assert shown == 20
        assert len(session.server.context.state.taken[HELPER]) == 22 * 16


class TrustingVetter(Vetter):
    """Approves a header without the others' words."""

    def _hear(self, draft: Any, *arguments: Any) -> Word | None:
        word = super()._hear(draft, *arguments)
        if isinstance(word, Verdict) and word.accepted:
            draft.approved = {**draft.approved, word.client: True}
        return word

    def _check_helpers(self, *arguments: Any) -> None:
        pass


class TrustingServer(VettingServer):
    """Shows headers to all, and leaves it to the library which answer a word is about."""

    steps: ClassVar[Mapping[str, Step]] = {
        **VettingServer.steps,
        "Input": Step(
            method("_ask_clients"), method("_take_input"), method("_settle_inputs"), hand_on=method("_show_all")
        ),
    }

    def _show_all(self, envelope: Envelope, message: Headed, payload: memoryview) -> Mapping[str, Any]:
        return dict.fromkeys(self.aggregators, (Show(message.header, []), b""))


class TestWordsAboutAnEarlierAnswer:
    """Words about a client's good answer are on their way when the server crashes; the client sends a bad one."""

    def play(self) -> Session:
        session = session_of(with_classes(Vetting(), server=TrustingServer, aggregator=TrustingVetter))
        session.until("Input")
        words: list[tuple[str, bytes]] = []
        session.before_word = lambda party, word: words.append((party, word)) or []  # type: ignore[func-returns-value]
        session.deliver("c1", session.ask("c1"))
        assert [party for party, _ in words] == [LEADER, HELPER]
        session.restore_server(session.stores[wire.SERVER].state)
        cheat = session.members["c1"] = session.make("c1", save=MemoryStore())
        cheat.__class__ = Overstates
        session.contribute("c1")
        session.before_relay = lambda party, data: []
        session.deliver("c1", session.ask("c1"))
        for party, word in words:
            session.pass_on(session.server.receive(party, word))
        session.before_relay = lambda party, data: None
        session.before_word = lambda party, word: None
        return session

    def test_refused(self) -> None:
        session = self.play()
        assert session.faults == []
        assert "c1" in session.server.pending
        session.exchange(session.server.start())
        session.gone["c1"] = "Input"
        session.close()
        session.require_completes("without the client that answered twice")
        assert session.faults == [("c1", "Input", FaultKind.INVALID)]

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: where a word names a client alone, the bad answer is taken by the words about the good one."""
        monkeypatch.setattr(Waiting, "was_shown", lambda self, party, digest: True)
        session = self.play()
        assert "c1" in session.server.context.state.answered


class TestManyMessagesAboutOneClient:
    """A server shows a listener one header in ever new messages, each of which would get a word of its own."""

    def play(self) -> tuple[Session, list[bytes]]:
        session = session_of(Vetting())
        session.until("Input")
        session.before_relay = lambda party, data: []
        session.deliver("c1", session.ask("c1"))
        waiting = session.server._waiting.get("c1")
        assert waiting is not None
        shows = [from_server(session, Show(waiting.message.header, [bytes([n])])) for n in range(20)]
        return session, [session.members[HELPER].receive(data) for data in shows + shows[:1]]

    def test_one_word_is_kept_and_the_others_are_refused(self) -> None:
        session, words = self.play()
        kinds = [Envelope.parse(word, len(word)).kind for word in words]
        assert kinds == [Verdict.TYPE, *[Refusal.TYPE] * 19, Verdict.TYPE]
        assert words[-1] == words[0]
        assert len(session.members[HELPER]._state.words) == 1
        assert {fault.kind for fault in session.members[HELPER].faults} == {FaultKind.DUPLICATE}

    def test_control_says_a_word_on_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Member, "_check_word", lambda _, draft, __, word: draft.words.pop(word.client, None))
        _, words = self.play()
        assert len(set(words)) == 20


def test_a_word_about_a_stranger_is_not_said() -> None:
    class Gossip(Vetter):
        def _hear(self, *arguments: Any) -> Word | None:
            super()._hear(*arguments)
            return Verdict("c99", arguments[1].digest, bytes(32), True)

    session = session_of(with_classes(Vetting(), aggregator=Gossip))
    session.exchange(session.until("Input"))
    assert session.members[HELPER]._state.words == {}
    assert not session.server.context.state.answered


def test_a_word_says_which_message_it_is_about() -> None:
    class Forgetful(Vetter):
        def _hear(self, *arguments: Any) -> Word | None:
            return Verdict("c1", bytes(32), bytes(32), True)

    session = session_of(with_classes(Vetting(), aggregator=Forgetful))
    session.until("Input")
    with pytest.raises(ConfigError, match="about another message than it got"):
        session.deliver("c1", session.ask("c1"))


def test_refusals_that_nothing_waits_for_change_nothing() -> None:
    session = session_of(Vetting())
    for name in ("Input", "Agreement", None):
        session.until(name)
        for party in PARTIES:
            session.ignored_by_server(party, session.seal(Refusal(bytes(32)), sender=party), "a refusal")
    assert session.server.outcome is not None


def test_a_refusal_is_a_listeners_of_this_session_about_what_it_got() -> None:
    session = session_of(Vetting())
    session.until("Input")
    session.before_relay = lambda party, data: []
    session.deliver("c1", session.ask("c1"))
    waiting = session.server._waiting.get("c1")
    assert waiting is not None
    (digest,) = waiting.shown[HELPER]
    session.refused_by_server("c2", session.seal(Refusal(digest), sender="c2"), "a client's refusal")
    elsewhere = session.seal(Refusal(digest), sender=HELPER, session=bytes(32))
    session.refused_by_server(HELPER, elsewhere, "a refusal of another session")
    unsigned = session.seal(Refusal(digest), sender=HELPER, identity=session.parties.identities["c2"])
    session.refused_by_server(HELPER, unsigned, "a refusal that a client signed")
    session.ignored_by_server(
        LEADER, session.seal(Refusal(digest), sender=LEADER), "a refusal of what it never got"
    )
    assert session.server._waiting.get("c1") is waiting
    session.server.receive(HELPER, session.seal(Refusal(digest), sender=HELPER))
    assert session.faults[-1] == ("c1", "Input", FaultKind.INVALID)
    assert session.server._waiting.get("c1") is None


def test_a_part_whose_body_its_receiver_could_not_read_is_refused_by_the_server() -> None:
    class Wrong(Splitter):
        def part(self, draft: Any, receiver: str, share: list[Any]) -> bytes:
            good = Envelope.parse(super().part(draft, receiver, share), 1 << 20)
            cut = super().part(draft, receiver, share)[: -len(good.trailer) - len(good.body)]
            body = bytes(good.body[:4]) + bytes(len(good.body) - 4)
            signed = cut + body
            return signed + self.context.environment.identity.sign(  # type: ignore[union-attr]
                wire.SIGNATURE_LABEL + hashlib.sha256(signed).digest()
            )

    session = with_client("c3", Splits(), Wrong)
    session.exchange(session.until("Report"))
    assert session.faults == [("c3", "Report", FaultKind.MALFORMED)]
    assert not any(session.members[party].faults for party in PARTIES)


def test_a_word_that_others_could_not_read_is_refused() -> None:
    session = session_of(Vetting())
    session.until("Input")
    session.before_relay = lambda party, data: []
    session.deliver("c1", session.ask("c1"))
    long = session.seal(Verdict("c1", bytes(32), bytes(1700), True), sender=HELPER)
    session.refused_by_server(HELPER, long, "a long word")
    assert session.faults == [(HELPER, "Input", FaultKind.OVERSIZED)]


class Endless(Mapping[str, bytes]):
    """A mapping whose keys never end."""

    def __init__(self, part: bytes) -> None:
        self.part = part

    def __getitem__(self, key: str) -> bytes:
        return self.part

    def __iter__(self) -> Iterator[str]:
        while True:
            yield LEADER

    def __len__(self) -> int:
        return 1


class Fresh(Mapping[str, Any]):
    """Makes each value when it is asked for, so that two may have one address."""

    def __init__(self, parts: Mapping[str, bytes]) -> None:
        self.parts = parts

    def __getitem__(self, key: str) -> bytes:
        return bytes(bytearray(self.parts[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


MISTAKES = [
    None,
    [b""],
    {LEADER: None},
    {LEADER: 5},
    {LEADER: "text"},
    {1: b""},
    {LEADER: (Ready(), b"")},
    {LEADER: (Part(LEADER),)},
    {LEADER: (Part(LEADER), None)},
    {LEADER: (Part(LEADER), b"", b"")},
]


@pytest.mark.parametrize("returned", MISTAKES, ids=repr)
def test_what_no_step_may_hand_on_is_an_error_that_says_what_it_may(returned: Any) -> None:
    class Mistaken(SplitServer):
        def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Any:
            return returned

    session = session_of(with_classes(Splits(), server=Mistaken))
    session.until("Report")
    answer, before = session.ask("c1"), session.server.to_bytes()
    with pytest.raises(ConfigError, match=r"step for Report hands on .*; expected a mapping from the ids"):
        session.server.receive("c1", answer)
    assert session.server.to_bytes() == before
    assert session.server.pending == set(session.parties.cohort)


def test_a_mapping_that_never_ends_is_an_error() -> None:
    class Mistaken(SplitServer):
        def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Any:
            return Endless(message.parts[0])

    session = session_of(with_classes(Splits(), server=Mistaken))
    session.until("Report")
    answer = session.ask("c1")
    with pytest.raises(ConfigError, match="each once"):
        session.server.receive("c1", answer)


def test_a_mapping_that_makes_its_values_hands_each_to_its_receiver() -> None:
    class Lazy(SplitServer):
        def _each_part(self, *arguments: Any) -> Any:
            return Fresh(super()._each_part(*arguments))

    session_of(with_classes(Splits(), server=Lazy)).require_completes("with parts that are made when asked for")


@pytest.mark.parametrize("receiver", ["c2", "nobody", "x" * 5000])
def test_a_part_for_one_that_does_not_listen_is_refused(receiver: str) -> None:
    class Strays(SplitServer):
        def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Mapping[str, bytes]:
            return {receiver: message.parts[0]}

    session = session_of(with_classes(Splits(), server=Strays))
    session.until("Report")
    assert session.server.receive("c1", session.ask("c1")) == {}
    assert session.faults == [("c1", "Report", FaultKind.INVALID)]
    assert len(session.server.faults[-1].detail) < 200


def test_a_hear_that_raises_changes_nothing_and_may_be_called_again() -> None:
    class Failing(VettingServer):
        fails: ClassVar[bool] = True

        def _hear(self, *arguments: Any) -> Mapping[str, Any]:
            if self.fails:
                raise KeyError("a mistake")
            return super()._hear(*arguments)

    session = session_of(with_classes(Vetting(), server=Failing))
    session.until("Input")
    words: list[tuple[str, bytes]] = []
    session.before_word = lambda party, word: words.append((party, word)) or []  # type: ignore[func-returns-value]
    session.deliver("c1", session.ask("c1"))
    before = session.server.to_bytes()
    ((party, word),) = words
    with pytest.raises(KeyError):
        session.server.receive(party, word)
    assert session.server.to_bytes() == before
    assert session.server._waiting.get("c1").words == {}  # type: ignore[union-attr]
    Failing.fails = False
    session.before_word = lambda party, word: None
    session.pass_on(session.server.receive(party, word))
    assert "c1" not in session.server.pending
    session.require_completes("after a step that failed once")


@pytest.mark.parametrize(
    ("name", "step", "error"),
    [
        ("Report", None, r"no steps\[Report\]"),
        ("Report", {"hand_on": None}, r"no hand_on in steps\[Report\]"),
        ("Recount", {"hand_on": method("_each_part")}, r"a hand_on in steps\[Recount\] without relay="),
        ("Report", {"hear": method("_hear")}, r"a hear in steps\[Report\] without word="),
    ],
)
def test_a_server_whose_steps_do_not_fit_the_table_is_refused(name: str, step: Any, error: str) -> None:
    steps = dict(SplitServer.steps)
    if step is None:
        del steps[name]
    else:
        steps[name] = replace(steps[name], **step)
    protocol = with_classes(Splits(), server=type("Lacking", (SplitServer,), {"steps": steps}))
    with pytest.raises(ConfigError, match=error):
        session_of(protocol)


class Untyped(Word, frozen=True):
    pass


class Ending(Word, frozen=True):
    TYPE: ClassVar[int] = wire.Abort.TYPE


class SameType(Word, frozen=True):
    TYPE: ClassVar[int] = Show.TYPE


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"word": Untyped}, "expected a subclass of secagg.table.Word that states its TYPE"),
        ({"word": Ready}, "expected a subclass of secagg.table.Word"),
        ({"reply": 5}, "has 5 in the place of a message"),
        ({"relayed": int}, "has int in the place of a message"),
        ({"word": Ending}, "which the library uses"),
        ({"word": SameType}, "words of the TYPE of what they answer"),
        ({"awaiting": 1.5}, "awaiting=1.5"),
        ({"awaiting": -1}, "awaiting=-1"),
        ({"relay": "aggregator"}, "expected a secagg.identity.PartyRole"),
        ({"relayed": None, "relayed_vectors": True}, "no message before them"),
    ],
)
def test_a_row_of_the_table_says_what_is_wrong_with_it(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        replace(Vetting.phases[1], **changes)


class TestListenerThatWasRolledBack:
    """A listener gives its word about an input; rolled back, it is shown another input of the same client."""

    def play(self) -> list[bytes]:
        session = session_of(Vetting())
        session.until("Input")
        state = session.members[HELPER].to_bytes()
        shows: list[bytes] = []
        session.before_relay = lambda party, data: shows.append(data) or []  # type: ignore[func-returns-value]
        session.deliver("c1", session.ask("c1"))
        again = session.members["c1"] = session.make("c1", save=MemoryStore())
        again.__class__ = Restated
        session.contribute("c1")
        header = Envelope.parse(other := session.ask("c1"), len(other)).open(Headed)[0].header
        shows.append(from_server(session, Show(header, [])))
        words = []
        for data in shows:
            session._take_up_again(HELPER, state)
            words.append(session.members[HELPER].receive(data))
        assert Envelope.parse(words[0], len(words[0])).kind == Verdict.TYPE
        session._take_up_again(HELPER, state)
        assert session.members[HELPER].receive(shows[0]) == words[0]
        return words

    def test_it_gives_no_other_word(self) -> None:
        _, second = self.play()
        assert Envelope.parse(second, len(second)).kind == Refusal.TYPE

    def test_control_vouches_for_two_inputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = MemberContext.claim

        def forgets(context: MemberContext, value: bytes, *entry: bytes | str) -> None:
            if entry[0] != "word":
                claim(context, value, *entry)

        monkeypatch.setattr(MemberContext, "claim", forgets)
        verdicts = [Envelope.parse(word, len(word)).open(Verdict)[0] for word in self.play()]
        assert [verdict.accepted for verdict in verdicts] == [True, True]
        assert verdicts[0].digest != verdicts[1].digest


def test_a_listener_without_a_ledger_is_not_restored_after_its_first_answer() -> None:
    session = session_of(Vetting())
    before = session.members[HELPER].to_bytes()
    session.until("Input")
    state = session.members[HELPER].to_bytes()
    session.restore(HELPER, before, save=None)
    with pytest.raises(LocalProtocolError, match="without a ledger"):
        session.restore(HELPER, state, save=None)
    session.stores[HELPER].number = -1
    session.restore(HELPER, state)
    session.require_completes("with a listener that was restored with its ledger")


class Restated(HeadedClient):
    """States another total than its input has."""

    def stated(self, total: int) -> int:
        return total - 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("party", [wire.SERVER, "c1", HELPER])
def test_a_role_can_not_be_copied(party: str, copied: Any) -> None:
    session = session_of(Vetting())
    role = session.members.get(party, session.server)
    with pytest.raises(LocalProtocolError, match=r"can't be copied or pickled; save role.to_bytes\(\)"):
        copied(role)


class Disorder:
    """Messages in any order, twice, after crashes, among words and refusals that a hostile helper makes up."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.session = session_of(Vetting(), seed=bytes([seed]))
        self.session.members["c1"].__class__ = self.random.choice([HeadedClient, Overstates, Unreadable])
        self.waiting: list[tuple[str, str, bytes]] = []  # sender, receiver, message
        self.sent: list[tuple[str, str, bytes]] = []
        self.verdicts: dict[tuple[str, str], set[Any]] = defaultdict(set)  # of honest listeners, by client

    def post(self, messages: Mapping[str, bytes], sender: str = wire.SERVER) -> None:
        self.waiting += [(sender, party, data) for party, data in messages.items()]
        self.sent += self.waiting[-len(messages) :] if messages else []

    def deliver(self, sender: str, receiver: str, data: bytes) -> None:
        if receiver == wire.SERVER:
            self.post(self.session.server.receive(sender, data))
            return
        with suppress(RemoteProtocolError, Aborted):
            if (answer := self.session.members[receiver].receive(data)) is not None:
                self.post({wire.SERVER: answer}, receiver)
                envelope = Envelope.parse(answer, len(answer))
                if envelope.kind == Verdict.TYPE:
                    verdict, _ = envelope.open(Verdict)
                    self.verdicts[receiver, verdict.client].add((verdict.digest, verdict.accepted))

    def attack(self) -> None:
        session, about = self.session, Envelope.parse(self.random.choice(self.sent)[2], 1 << 20).digest
        client = self.random.choice([*session.parties.cohort, "c99", HELPER])
        match self.random.randrange(4):
            case 0:
                word = Verdict(client, about, about, self.random.random() < 0.7)
                self.deliver(HELPER, wire.SERVER, session.seal(word, sender=HELPER))
            case 1:
                self.deliver(HELPER, wire.SERVER, session.seal(Refusal(about), sender=HELPER))
            case 2:
                self.deliver(*self.random.choice(self.sent))
            case 3:
                session.restore_server(session.stores[wire.SERVER].state)
                self.post(session.server.start())

    def play(self) -> None:
        session, server = self.session, lambda: self.session.server
        self.post(server().start())
        for step in range(2000):
            assert len(server()._waiting._answers) <= 2
            if server().outcome is not None:
                break
            if self.waiting:
                self.deliver(*self.waiting.pop(self.random.randrange(len(self.waiting))))
                if step < 300 and self.random.random() < 0.3:
                    self.attack()
            elif server().pending and self.random.random() < 0.5:
                self.post(server().start())
            else:
                self.post(server().close_round())
        session.require_sum(session.server.outcome)  # type: ignore[arg-type]


def test_in_any_disorder_the_sum_is_exact_or_there_is_none() -> None:
    exact = 0
    for seed in range(12):
        disorder = Disorder(seed)
        try:
            disorder.play()
        except Aborted:
            continue
        finally:
            assert all(len(verdicts) == 1 for verdicts in disorder.verdicts.values())
            assert all(len(disorder.session.members[party]._state.words) <= 4 for party in PARTIES)
        exact += 1
    assert exact >= 6

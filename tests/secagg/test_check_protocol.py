"""check_protocol passes what keeps the contract, and each of its checks sees what breaks it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import secagg
from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.protocols.clear import ClearClient, ClearServer
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.roles import Step
from secagg.testing import CHECKS, ProtocolCheckError, check_protocol, rng_for_tests
from tests.secagg.committee import Committee
from tests.secagg.parts import ShareKeeper, Splits, Verdict, Vetting, VettingServer
from tests.secagg.test_parts import with_classes


@pytest.mark.parametrize(
    "protocol",
    [secagg.Clear(), secagg.SecAgg(threat_model="semi-honest"), secagg.SecAgg()],
    ids=["Clear", "semi-honest", "malicious"],
)
def test_ours_pass(protocol: Any) -> None:
    assert check_protocol(protocol) == list(CHECKS)


def test_other_roles_take_part() -> None:
    unstated = {"bytes_as_stated": "the committee states no cost"}
    assert check_protocol(Committee(), clients=4, expected_failed_checks=unstated) == list(CHECKS)


class OffByOne(ClearServer):
    def _decode(self) -> Any:
        self.context.sums[0][0] += 1
        return super()._decode()


class Narrow(ClearServer):
    """Loses what does not fit 32 bits."""

    def _decode(self) -> Any:
        self.context.sums = [total & total.dtype.type(0xFFFFFFFF) for total in self.context.sums]
        return super()._decode()


class Fragile(ClearServer):
    """Gives up for a number of silent clients."""

    most: ClassVar[int]

    def close_round(self) -> Any:
        if len(self.pending) > self.most:
            raise Aborted("got too much silence")
        return super().close_round()


class FragileForOne(Fragile):
    most = 0


class FragileForTwo(Fragile):
    most = 1


class NoFloor(ClearServer):
    def prepare(self) -> None:
        need = self.context.need
        self.context.need = lambda present, floor, what: need(present, 1, what)  # type: ignore[method-assign]


class FirstCountsLast(ClearServer):
    """Takes nothing from the first client by name unless it is the first to answer."""

    def receive(self, sender: str, data: bytes) -> Any:
        if sender == "c1" and len(self.pending) < 5:
            return {}
        return super().receive(sender, data)


class CountsTwice(ClearServer):
    def receive(self, sender: str, data: bytes) -> Any:
        if self.round and sender in self.context.state.answered:
            self.context.state.answered = [party for party in self.context.state.answered if party != sender]
            self._pending.add(sender)
        return super().receive(sender, data)


class Reads(ClearServer):
    """Reads a byte that may not be there."""

    def receive(self, sender: str, data: bytes) -> Any:
        assert data[60] >= 0
        return super().receive(sender, data)


class Believes(ClearServer):
    """Takes the sender's word for who it is."""

    def receive(self, sender: str, data: bytes) -> Any:
        try:
            return super().receive(wire.Envelope.parse(data, len(data)).sender, data)
        except wire.Reject:
            return super().receive(sender, data)


class AnyTask(ClearServer):
    """Reads messages of other tasks and sessions as if they were of this one."""

    task: ClassVar[bool] = True

    def receive(self, sender: str, data: bytes) -> Any:
        try:
            envelope = wire.Envelope.parse(data, len(data))
            envelope.verify(None)
            message, payload = envelope.open(self._phases[0].reply)
        except wire.Reject:
            return super().receive(sender, data)
        task = self.context.task.digest if self.task else envelope.task
        frame = {"protocol": envelope.protocol, "task": task, "sender": envelope.sender}
        data = wire.seal_envelope(message, session=self.context.state.session_id, payload=bytes(payload), **frame)
        return super().receive(sender, data)


class AnySession(AnyTask):
    task = False


class ChangesOnFault(ClearClient):
    def receive(self, data: bytes) -> Any:
        try:
            return super().receive(data)
        except RemoteProtocolError as error:
            if error.fault.kind == FaultKind.UNAUTHENTIC:
                self._state.number += 1
            raise


class SendsNothingAsZero(ClearClient):
    def prepare(self) -> None:
        super().prepare()
        contribution = self.context.contribution

        def zero_for_nothing(draft: Any) -> Any:
            try:
                return contribution(draft)
            except LocalProtocolError:
                return [np.zeros(segment.length, np.uint64) for segment in self.context.task.segments]

        self.context.contribution = zero_for_nothing  # type: ignore[method-assign]


class LooksNoFurther(ClearClient):
    """Takes a request with bytes behind it, as if its table said that vectors ride there."""

    def prepare(self) -> None:
        super().prepare()
        self._phases = tuple(replace(phase, request_vectors=True) for phase in self._phases)


class NeverSaves(ClearClient):
    def _commit(self, draft: Any, row: bytes | None = None) -> None:
        draft.number += 1
        self._state = draft


class Forgets(PairwiseClient):
    def check_restored(self) -> None:
        self._state.seed = os.urandom(32)


class Chokes(PairwiseClient):
    """Has never heard of messages that come too early."""

    def receive(self, data: bytes) -> Any:
        try:
            return super().receive(data)
        except RemoteProtocolError as error:
            kind = wire.Envelope.parse(data, len(data)).kind
            if not self.finished and kind > self._phases[self._state.step].request.TYPE:
                raise KeyError(kind) from error
            raise


class BlamesRetries(PairwiseServer):
    """Does not know again what it took."""

    def _took(self, sender: str, digest: bytes) -> bool:
        return not self.context.open and super()._took(sender, digest)


class ForgetsToMerge(ClearServer):
    """Says that servers may share its round, but not that it adds to the sums there."""

    steps: ClassVar[Mapping[str, Step]] = {"Input": replace(ClearServer.steps["Input"], merge=())}


@dataclass(frozen=True)
class BrokenClear(secagg.Clear):
    client_class: ClassVar[type] = ClearClient

    @property
    def role_classes(self) -> Mapping[PartyRole, type]:
        return {PartyRole.CLIENT: self.client_class}


@dataclass(frozen=True)
class LyingCost(secagg.Clear):
    def cost(self, task: Any, cohort: Any = None, **kwargs: Any) -> Any:
        honest = super().cost(task, cohort, **kwargs)
        return replace(honest, up={name: size * 9 // 10 for name, size in honest.up.items()})


@dataclass(frozen=True)
class MissingRound(secagg.Clear):
    def cost(self, task: Any, cohort: Any = None, **kwargs: Any) -> Any:
        return replace(super().cost(task, cohort, **kwargs), down={})


@dataclass(frozen=True)
class BrokenSecAgg(secagg.SecAgg):
    client_class: ClassVar[type] = PairwiseClient
    server_class: ClassVar[type] = PairwiseServer

    @property
    def role_classes(self) -> Mapping[PartyRole, type]:
        return {PartyRole.CLIENT: self.client_class}

    @property
    def server(self) -> type:
        return self.server_class


def broken(role: type) -> Any:
    """A protocol in which ``role`` stands in for the honest class."""
    if issubclass(role, ClearServer):
        return type(role.__name__, (secagg.Clear,), {"server": role})()
    base: type = BrokenClear if issubclass(role, ClearClient) else BrokenSecAgg
    attribute = "server_class" if issubclass(role, PairwiseServer) else "client_class"
    kind = type(role.__name__, (base,), {attribute: role})
    return kind() if base is BrokenClear else kind(threat_model="semi-honest")


class NamesClients(VettingServer):
    """Names the clients whose answers waited for a listener that says nothing."""

    def _blame_silent(self, phase: Any, silent: Any) -> None:
        for party in silent:
            self.context.blame(party, FaultKind.SILENT, "")


class BelievesWords(VettingServer):
    """Takes a word as of its signer, although another party sent it."""

    def receive(self, sender: str, data: bytes) -> Any:
        with suppress(wire.Reject):
            envelope = wire.Envelope.parse(data, len(data))
            if envelope.kind == Verdict.TYPE and self.context.knows(envelope.sender):
                sender = envelope.sender
        return super().receive(sender, data)


class UnsignedParts(ShareKeeper):
    """Does not check who signed a part."""

    def prepare(self) -> None:
        super().prepare()
        self.context.check_signature = lambda *arguments: None  # type: ignore[method-assign]


class PartsOfAnySession(ShareKeeper):
    def _overhear(self, envelope: wire.Envelope, phase: Any) -> Any:
        return super()._overhear(replace(envelope, session=self._state.session_id), phase)


class WordsOfAnySession(VettingServer):
    def _take_word(self, read: wire.Envelope) -> Any:
        return super()._take_word(replace(read, session=self.context.state.session_id))


class NeverHeard(ShareKeeper):
    """Does not know again the parts that it took."""

    def heard(self, envelope: wire.Envelope) -> bool:
        return False


class AnyonesPart(ShareKeeper):
    """Does not look for its own id in a part."""

    def check_receiver(self, draft: Any, message: Any) -> None:
        pass


class WordsAboutAnything(VettingServer):
    """Takes a word that names a waiting client, whatever message it is about."""

    def _take_word(self, read: wire.Envelope) -> Any:
        word, _ = read.open(Verdict)
        if (waiting := self._waiting.get(word.client)) is not None:
            waiting.show({read.sender: replace(read, digest=word.about)})
        return super()._take_word(read)


class CountsLateWords(VettingServer):
    """Adds the client of a late word to the survivors."""

    def receive(self, sender: str, data: bytes) -> Any:
        with suppress(wire.Reject):
            if self.round == "Agreement":
                word, _ = wire.Envelope.parse(data, len(data)).open(Verdict)
                self.context.state.survivors = sorted({*self.context.state.survivors, word.client})
                return {}
        return super().receive(sender, data)


SEEN = {
    OffByOne: "exact_sums",
    Narrow: "exact_segments",
    FragileForOne: "silence_of_one",
    FragileForTwo: "silence_of_many",
    NoFloor: "abort_below_floor",
    SendsNothingAsZero: "missing_contribution",
    FirstCountsLast: "reordered_answers",
    CountsTwice: "replayed_messages",
    BlamesRetries: "replayed_messages",
    Chokes: "early_messages",
    Reads: "truncated_messages",
    ChangesOnFault: "flipped_bits",
    LooksNoFurther: "resealed_bodies",
    Believes: "misattributed_messages",
    AnyTask: "foreign_task",
    AnySession: "foreign_session",
    Forgets: "restored_bit_for_bit",
    NeverSaves: "restored_after_crash",
    ForgetsToMerge: "shared_rounds",
}


@pytest.mark.parametrize(("role", "check"), SEEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_broken_roles_are_seen(role: type, check: str) -> None:
    with pytest.raises(ProtocolCheckError) as seen:
        check_protocol(broken(role))
    assert seen.value.check == check, seen.value
    assert str(seen.value).startswith(f"{check}: expected ")


SEEN_OF_LISTENERS = {
    NamesClients: "silence_of_one",
    UnsignedParts: "flipped_bits",
    BelievesWords: "misattributed_messages",
    PartsOfAnySession: "foreign_session",
    WordsOfAnySession: "foreign_session",
    NeverHeard: "repeated_parts",
    AnyonesPart: "misdirected_parts",
    WordsAboutAnything: "misplaced_words",
    CountsLateWords: "late_words",
}


@pytest.mark.parametrize(
    ("role", "check"), SEEN_OF_LISTENERS.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_broken_roles_with_parts_or_words_are_seen(role: type, check: str) -> None:
    protocol = with_classes(Vetting(), server=role) if issubclass(role, VettingServer) else None
    with pytest.raises(ProtocolCheckError) as seen:
        check_protocol(protocol or with_classes(Splits(), aggregator=role))
    assert seen.value.check == check, seen.value


@pytest.mark.parametrize("protocol", [LyingCost(), MissingRound()], ids=lambda p: type(p).__name__)
def test_lying_costs_are_seen(protocol: Any) -> None:
    with pytest.raises(ProtocolCheckError) as seen:
        check_protocol(protocol)
    assert seen.value.check == "bytes_as_stated"


def test_every_check_is_seen_to_fail() -> None:
    assert {*SEEN.values(), *SEEN_OF_LISTENERS.values(), "bytes_as_stated"} == set(CHECKS)


def test_expected_failures() -> None:
    names = check_protocol(LyingCost(), expected_failed_checks={"bytes_as_stated": "it lies"})
    assert names == list(CHECKS)
    with pytest.raises(ProtocolCheckError, match=r"bytes_as_stated: expected a failure \(it lies\)"):
        check_protocol(secagg.Clear(), expected_failed_checks={"bytes_as_stated": "it lies"})
    with pytest.raises(ConfigError, match="got unknown checks no_such"):
        check_protocol(secagg.Clear(), expected_failed_checks={"no_such": ""})


def test_too_few_clients_to_play() -> None:
    with pytest.raises(ConfigError, match=r"got no task for 2 clients that SecAgg accepts"):
        check_protocol(secagg.SecAgg(), clients=2)


def test_rng_for_tests_repeats_itself() -> None:
    one, other = rng_for_tests(b"seed"), rng_for_tests(b"seed")
    assert one(5) + one(40) == other(45)
    assert rng_for_tests(b"seed")(16).hex() == "b5ed649dcb2c37a6614a339116b7a359"
    assert rng_for_tests(b"another")(16) != rng_for_tests(b"seed")(16)

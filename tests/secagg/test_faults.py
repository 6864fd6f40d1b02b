"""Who is told of an abort, which faults are kept, and bytes behind messages that carry none."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import wire
from secagg.encoding import Segment
from secagg.errors import Aborted, ConfigError, FaultKind, RemoteProtocolError
from secagg.roles.faults import FAULTS_KEPT
from secagg.table import rounds
from secagg.testing import Session, parties_for
from secagg.wire import Envelope
from tests.secagg.fuzz.mutate import take_apart
from tests.secagg.fuzz.vectors import cases_by_name

IDS = ("c1", "c2", "c3", "c4", "c5", "c6")
PROTOCOLS = {
    "Clear": secagg.Clear(),
    "SecAgg": secagg.SecAgg(),
    "AdditiveShares": secagg.AdditiveShares(kem="X25519"),
    "OneShot": secagg.OneShot(kem="X25519"),
    "BFV": secagg.BFV(),
}


def make_task(protocol: Any, **changes: Any) -> secagg.Task:
    task = secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0, bits=8, rounding="nearest"),
        max_clients=len(IDS),
        min_survivors=5,
    )
    return replace(task, **changes)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_but_the_silent_are_told_of_an_abort(name: str) -> None:
    """Clients, and the decryptor or the aggregators too, though they are not of the cohort."""
    session = Session(parties_for(PROTOCOLS[name], 6))
    session.silent = dict.fromkeys(
        session.parties.cohort[: 7 - session.task.min_survivors], rounds(PROTOCOLS[name])[0]
    )
    silent, members = set(session.silent), session.members
    with pytest.raises(Aborted) as aborted:
        session.run()
    assert set(aborted.value.outbox) == set(members)
    for party, message in aborted.value.outbox.items():
        assert Envelope.parse(message, 4096).open(wire.Abort)[0] == wire.Abort()
        if party not in silent and not members[party].finished:  # it waits for something, which will not come
            with suppress(Aborted):  # a client says so to its caller, the others to their log
                members[party].receive(message)
            assert members[party].finished


def test_the_first_fault_of_a_kind_is_kept_behind_a_flood_of_another() -> None:
    task = make_task(secagg.Clear())
    server = task.server(IDS, session=b"s")
    server.start()
    for _ in range(2 * FAULTS_KEPT):
        server.receive("c1", b"no message")
    assert [fault.kind for fault in server.faults] == [FaultKind.MALFORMED] * FAULTS_KEPT
    another = wire.seal_envelope(
        wire.Abort(), protocol=task.protocol.ID, task=bytes(32), session=bytes(32), sender="c1"
    )
    for _ in range(2):
        server.receive("c1", another)
    server.receive("c2", b"no message")
    behind = [(fault.sender, fault.kind) for fault in server.faults[FAULTS_KEPT:]]
    assert behind == [("c1", FaultKind.FOREIGN_TASK), ("c2", FaultKind.MALFORMED)]


@pytest.mark.parametrize("name", sorted(cases_by_name()))
def test_no_bytes_stand_behind_a_message_without_vectors(name: str) -> None:
    """One byte is added to each message of a session that carries none, under its sender's own seal."""
    session, tried = Session(cases_by_name()[name].parties), set[tuple[str, str]]()

    def longer(data: bytes, party: str) -> bytes | None:
        frame = take_apart(data)
        identity = cases_by_name()[name].parties.identities.get(party)
        return None if frame.payload else replace(frame, payload=b"\0").seal(identity)

    def before_request(party: str, request: bytes) -> None:
        if (changed := longer(request, wire.SERVER)) is None:
            return
        member: Any = session.members[party]
        step = member._state.step
        try:
            assert member.receive(changed) is None
            fault = member.faults[-1]
        except RemoteProtocolError as refused:
            fault = refused.fault
        assert fault.kind is FaultKind.MALFORMED
        assert "after the end of a message" in fault.detail
        assert member._state.step == step
        tried.add((session.round, "request"))

    def before_answer(party: str, answer: bytes) -> None:
        if (changed := longer(answer, party)) is None:
            return
        session.refused_by_server(party, changed, "a byte behind a message")
        assert session.server.faults[-1].kind is FaultKind.MALFORMED
        tried.add((session.round, "answer"))

    session.before_request, session.before_answer = before_request, before_answer
    session.require_completes("with a byte behind each message")
    for phase in session.task.protocol.phases:
        if not phase.takes_input and phase.request.__name__ != "EncryptedSum":
            assert (phase.round, "request") in tried


@dataclass(frozen=True)
class Modular(secagg.FixedPoint):
    """An encoding whose sum is wanted modulo a number of its own."""

    modulus: int = 1000

    def segments(self, layout: Any, max_weight: int | None) -> tuple[Segment, ...]:
        return tuple(Segment(s.length, s.bound, self.modulus) for s in super().segments(layout, max_weight))


@pytest.mark.parametrize("modulus", [1000, (1 << 20) - 1, (1 << 20) + 2, 3])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_segment_modulo_no_power_of_two_is_refused(name: str, modulus: int) -> None:
    with pytest.raises(ConfigError, match=f"got a segment modulo {modulus}; masks and shares carry powers of two"):
        make_task(PROTOCOLS[name], encoding=Modular(1.0, 8, modulus=modulus))
    task = make_task(PROTOCOLS["SecAgg"], encoding=Modular(1.0, 8, modulus=1 << 20))
    assert [segment.modulus for segment in task.segments][:1] == [1 << 20]

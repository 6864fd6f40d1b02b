"""Several servers share a round: the outcome is that of one server, and what does not fit is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import secagg
from secagg import wire
from secagg.errors import ConfigError, FaultKind, LocalProtocolError
from secagg.protocols.encrypted.messages import Ciphertexts, Commitment, commitment
from secagg.roles import Outcome, sharing
from secagg.roles.state import pack_state
from secagg.table import Round
from secagg.testing import Session, parties_for
from tests.secagg.parts import Vetting
from tests.secagg.stress import PROTOCOLS

SMALL = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
KINDS: dict[str, Any] = {
    **{name: kind() for name, kind in PROTOCOLS.items() if name not in ("OneShot", "SecAggPlus")},
    "SecAggPlus semi-malicious": secagg.SecAggPlus(),
    "OneShot": SMALL,
}
CLIENTS = 8


def clients(name: str) -> int:
    return 14 if "Plus" in name else CLIENTS


def shard_of(session: Session, opened: bytes) -> Any:
    """A server restored from the state with which the round opened, which saves nothing."""
    return session.task.restore_server(opened, roster=session.parties.roster, beacon=session.parties.beacon)


def play(session: Session, shards: int, seed: int) -> Outcome:
    """Run a session with a bad message in each round; the rounds that can be shared are, by so many servers."""
    drawn = random.Random(seed)
    outbox = session.server.start()
    while session.server.outcome is None:
        step = session.server.steps[session.round]
        servers = [session.server]
        if step.merge is not None:
            opened = session.stores[wire.SERVER].state
            servers += [shard_of(session, opened) for _ in range(shards - 1)]
        for party, request in outbox.items():
            if session.silent.get(party) == session.round:
                session.gone[party] = session.round
            if party in session.gone or party not in session.server.pending:
                continue
            answer = session.members[party].receive(request)
            server = drawn.choice(servers)
            if party == min(outbox):
                server.receive(party, answer[:-1] + bytes([answer[-1] ^ 1]))
            session.pass_on(server.receive(party, answer))
        for shard in servers[1:]:
            before = shard.to_bytes()
            session.server.absorb(before)
            assert shard.to_bytes() == before
        outbox = session.close()
    return session.server.outcome


def silent_in(name: str) -> dict[str, str]:
    """One client falls silent before its input, and another one in the round before."""
    rounds = [phase.round for phase in KINDS[name].phases if phase.role == "client"]
    place = next(at for at, known in enumerate(rounds) if known in (Round.INPUT, Round.MASKED_INPUT, Round.REPORT))
    return {"c2": rounds[place], "c5": rounds[max(0, place - 1)]}


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_any_split_of_the_senders_has_the_outcome_of_one_server(name: str, shards: int) -> None:
    known, silent = parties_for(KINDS[name], clients(name)), silent_in(name)
    alone = play(Session(known, silent=silent, seed=b"shards"), 1, 0)
    for seed in range(1 if name in ("BFV", "CKKS", "Paillier") else 4):
        session = Session(known, silent=silent, seed=b"shards")
        shared = play(session, shards, seed)
        session.require_exact(shared, f"with {shards} servers")
        assert replace(shared, faults=()) == replace(alone, faults=())
        key: Callable[[Any], Any] = lambda fault: (fault.round, fault.sender, fault.kind, fault.detail)  # noqa: E731
        assert sorted(shared.faults, key=key) == sorted(alone.faults, key=key)


def test_every_input_round_can_be_shared_and_what_can_not_is_known() -> None:
    alone = {
        (name, phase.round)
        for name, kind in KINDS.items()
        for phase in kind.phases
        if phase.role == "client" and kind.server.steps[phase.round].merge is None
    }
    assert {known for _, known in alone} == {Round.ADVERTISE_KEYS, Round.UNMASKING}


# --- what is refused


def opened(protocol: Any, name: str, count: int = CLIENTS) -> tuple[Session, bytes]:
    session = Session(parties_for(protocol, count))
    session.until(name)
    return session, session.stores[wire.SERVER].state


def part_with(session: Session, state: bytes, *senders: str) -> Any:
    """A shard that took the answers of ``senders``."""
    shard = shard_of(session, state)
    for sender in senders:
        session.pass_on(shard.receive(sender, session.ask(sender)))
    return shard


def refuses(session: Session, part: bytes, match: str | None = None) -> None:
    """Require that a part is refused and that nothing changes."""
    server = session.server
    before, faults, pending = server.to_bytes(), server.faults, server.pending
    with pytest.raises(ConfigError, match=match):
        server.absorb(part)
    assert (server.to_bytes(), server.faults, server.pending) == (before, faults, pending)


def test_parts_that_do_not_belong_are_refused() -> None:
    session, state = opened(secagg.SecAgg(), Round.MASKED_INPUT)
    session.deliver("c1", session.ask("c1"))
    refuses(session, part_with(session, state, "c1", "c2").to_bytes(), "the answer of c1, which is here already")
    refuses(session, part_with(session, session.stores[wire.SERVER].states[1], "c2").to_bytes(), "another ")
    other = Session(parties_for(secagg.SecAgg(), CLIENTS), session=b"another")
    other.until(Round.MASKED_INPUT)
    refuses(session, part_with(other, other.stores[wire.SERVER].state, "c2").to_bytes(), "another ")
    twin = Session(parties_for(secagg.SecAgg(), CLIENTS), seed=b"other randomness")
    twin.until(Round.MASKED_INPUT)
    refuses(session, part_with(twin, twin.stores[wire.SERVER].state, "c2").to_bytes(), "another ")
    foreign, foreign_state = opened(secagg.SecAgg(threat_model="semi-honest"), Round.MASKED_INPUT)
    refuses(session, part_with(foreign, foreign_state, "c2").to_bytes(), "another task, role")
    good = part_with(session, state, "c2", "c3").to_bytes()
    refuses(session, session.members["c2"].to_bytes(), "another task, role")
    refuses(session, good[:-1], "damaged")
    refuses(session, b"")
    refuses(session, 3)  # type: ignore[arg-type]
    session.server.absorb(good)
    refuses(session, good, "which is here already")
    for party in ("c4", "c5", "c6", "c7", "c8"):
        session.deliver(party, session.ask(party))
    session.close()
    refuses(session, good, "another ")
    session.require_completes("after all that")


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (secagg.SecAgg(), Round.ADVERTISE_KEYS),
        (secagg.SecAgg(), Round.UNMASKING),
        (secagg.AdditiveShares(), Round.PREPARATION),
        (Vetting(), "Input"),
        (replace(SMALL, recount=True), Round.INPUT),
        (secagg.BFV(commit=False), Round.INPUT),
    ],
)
def test_rounds_that_one_server_alone_takes_are_refused(protocol: Any, name: str) -> None:
    session, state = opened(protocol, name)
    refuses(session, shard_of(session, state).to_bytes(), "give it all|to one server")


def test_a_part_before_start_and_after_the_end_is_a_mistake_of_the_caller() -> None:
    session = Session(parties_for(secagg.Clear(), 4))
    part = session.server.to_bytes()
    with pytest.raises(LocalProtocolError, match="while no round is open"):
        session.server.absorb(part)
    session.run()
    with pytest.raises(LocalProtocolError, match="while no round is open"):
        session.server.absorb(part)


FORGED: dict[str, Callable[[Any], Any]] = {
    "answered by a stranger": lambda s: replace_state(s, answered=[*s.answered, "stranger"]),
    "answered by who was not asked": lambda s: replace_state(s, asked=s.asked[1:]),
    "answered without a message": lambda s: replace_state(s, answered=[*s.answered, "c4"]),
    "a message without an answer": lambda s: replace_state(s, taken={**s.taken, "c4": s.taken["c4"] + bytes(16)}),
    "other messages before": lambda s: replace_state(s, taken={k: v[::-1] for k, v in s.taken.items()}),
    "no messages": lambda s: replace_state(s, taken={}),
    "sums of another length": lambda s: replace_state(s, sums=[s.sums[0][:-4], *s.sums[1:]]),
    "sums of another width": lambda s: replace_state(s, sums=[bytes(2 * len(s.sums[0])), *s.sums[1:]]),
    "too few sums": lambda s: replace_state(s, sums=s.sums[1:]),
    "vouchers of who did not answer": lambda s: replace_state(s, vouchers={**s.vouchers, "c4": s.vouchers["c2"]}),
    "no vouchers": lambda s: replace_state(s, vouchers={}),
    "another U2": lambda s: replace_state(s, u2=s.u2[1:]),
    "other dropped": lambda s: replace_state(s, dropped={"c8": "ShareKeys"}),
    "ended": lambda s: replace_state(s, finished=True),
    "aborted": lambda s: replace_state(s, aborted="enough"),
    "another round": lambda s: replace_state(s, position=s.position - 1),
    "other commitments": lambda s: replace_state(
        s, seed_commitments={k: bytes(32) for k, v in s.seed_commitments.items()}
    ),
}


def replace_state(state: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(state, **changes)


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_part_is_refused(what: str) -> None:
    session, state = opened(secagg.SecAggPlus(), Round.MASKED_INPUT, 14)
    session.deliver("c1", session.ask("c1"))
    shard = part_with(session, state, "c2", "c3")
    forged = pack_state(FORGED[what](shard.written()), session.task, "server", session.parties.roster)
    refuses(session, forged)
    session.server.absorb(shard.to_bytes())
    for party in sorted(session.server.pending):
        session.deliver(party, session.ask(party))
    session.close()
    session.require_completes("after a forged part")


def test_a_part_of_the_signed_lists_can_not_change_the_sum() -> None:
    """The sums are there when ConsistencyCheck opens, so a part of that round adds nothing to them."""
    session, state = opened(secagg.SecAgg(), Round.CONSISTENCY_CHECK)
    shard = part_with(session, state, "c2", "c3")
    written = shard.written()
    sums = [np.frombuffer(one, np.uint8) for one in written.sums]
    forged = replace_state(written, sums=[(one ^ 1).tobytes() for one in sums])
    refuses(session, pack_state(forged, session.task, "server", session.parties.roster), "sums that don't belong")
    session.server.absorb(shard.to_bytes())
    for party in sorted(session.server.pending):
        session.deliver(party, session.ask(party))
    session.close()
    session.require_completes("with a part of the lists")


class TestOneInputInTwoParts:
    """A client sends its input to two servers, or one part is absorbed twice."""

    def play(self) -> Session:
        session, state = opened(secagg.Clear(), Round.INPUT, 4)
        part = part_with(session, state, "c1", "c2").to_bytes()
        session.server.absorb(part)
        for again in (part, part_with(session, state, "c2", "c3").to_bytes()):
            try:
                session.server.absorb(again)
            except ConfigError as error:
                assert "which is here already" in str(error)  # noqa: PT017
        for party in ("c3", "c4"):
            session.deliver(party, session.ask(party))
        session.close()
        return session

    def test_refused(self) -> None:
        session = self.play()
        assert session.server.outcome is not None
        session.require_exact(session.server.outcome, "without what came twice")

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Control: where senders may be in two parts, their inputs are in the sum twice and it passes for right."""
        monkeypatch.setattr(sharing, "check_shard", lambda *_: None)
        session = self.play()
        outcome = session.server.outcome
        assert outcome is not None
        with pytest.raises(secagg.testing.RequirementError):
            session.require_exact(outcome, "with inputs twice")


def test_two_clients_with_the_same_ciphertexts_keep_no_part_out() -> None:
    """They may agree on them before both commit. They have a vote each, as with different ciphertexts."""
    session = Session(parties_for(secagg.BFV(), 4))
    session.until(Round.COMMIT)
    for party in ("c1", "c3", "c4"):
        session.deliver(party, session.ask(party))
    copied, sid = session.members["c1"]._state.ciphertexts, session.server.context.state.session_id
    session.deliver("c2", session.seal(Commitment(commitment(sid, "c2", copied)), sender="c2"))
    session.close()
    state = session.stores[wire.SERVER].state
    for party in ("c1", "c3", "c4"):
        session.deliver(party, session.ask(party))
    shard = shard_of(session, state)
    shard.receive("c2", session.seal(Ciphertexts(), copied, "c2"))
    session.server.absorb(shard.to_bytes())
    session.close()
    outcome = session.run()
    assert outcome.survivors == ("c1", "c2", "c3", "c4")


def test_faults_of_a_part_are_kept_under_the_same_bound() -> None:
    session, state = opened(secagg.Clear(), Round.INPUT, 4)
    shard = part_with(session, state, "c1")
    for server in (session.server, shard):
        for _ in range(400):
            server.receive("c2", b"")
    session.server.absorb(shard.to_bytes())
    assert {fault.kind for fault in session.server.faults} == {FaultKind.MALFORMED}
    assert len(session.server.faults) < 300


def test_a_server_that_absorbed_parts_is_saved_with_them() -> None:
    session, state = opened(secagg.SecAgg(), Round.MASKED_INPUT)
    session.server.absorb(part_with(session, state, "c1", "c2", "c3").to_bytes())
    session.restore_server(session.server.to_bytes())
    for party in sorted(session.server.pending):
        session.deliver(party, session.ask(party))
    assert session.server.took("c2", session.server.read("c2", session.ask("c2")).digest)
    session.close()
    session.require_completes("with a restored server that absorbed parts")

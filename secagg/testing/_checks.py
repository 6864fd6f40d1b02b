"""What every protocol promises: one function a promise, each over whole sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from secagg import wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.fixed_point import FixedPoint
from secagg.identity import PartyRole
from secagg.layout import Layout
from secagg.table import contribution_round, input_round, rounds
from secagg.testing._listening import _late_words, _misdirected_parts, _misplaced_words, _repeated_parts
from secagg.testing._material import Integers, RequirementError, require
from secagg.testing._parties import Parties
from secagg.testing._restoring import _restored_after_crash, _restored_bit_for_bit, _shared_rounds
from secagg.testing._session import Session

COST_TOLERANCE = 0.01  # of the stated bytes; and 16 bytes, for lengths that are written shorter


def _exact_sums(parties: Parties) -> None:
    """Weighted and unweighted, over leaves of several dtypes and shapes."""
    layouts = (
        {"w": np.zeros(1, np.float64)},
        {"a": np.zeros((), np.float16), "b": np.zeros((2, 3), np.float32), "c": np.zeros(4, np.float64)},
        {"i": np.zeros(3, np.int32), "w": np.zeros(130, np.float32)},
    )
    for layout in map(Layout.of, layouts):
        for bits, max_weight in ((2, None), (16, None), (16, 5000)):
            encoding = FixedPoint(clip=1.0, bits=bits, rounding="nearest")
            task = parties.make_task(layout=layout, encoding=encoding, max_weight=max_weight)
            Session(parties, task=task).require_completes(f"with {bits} bits and max_weight={max_weight}")


def _exact_segments(parties: Parties) -> None:
    """Short, long, wide and modular segments, each of which a protocol may refuse by ConfigError."""
    accepted = 0
    for shapes in (
        ((1, 1, None),),
        ((7, 255, None), (64, (1 << 16) - 1, None), (3, 1, None)),
        ((65, (1 << 20) - 1, 1 << 20),),
        ((5, (1 << 24) - 1, None), (9, (1 << 12) - 1, 1 << 12)),
        ((4, 1 << 40, None), (2, (1 << 57) - 1, None)),
    ):
        encoding = Integers(shapes)
        try:
            task = parties.make_task(layout=encoding.layout, encoding=encoding, max_weight=None)
        except ConfigError:
            continue
        accepted += 1
        Session(parties, task=task).require_completes(f"with segments {shapes}")
    require(accepted, "one of the kinds of segments to be accepted", "ConfigError for each")


def _silence_of_one(parties: Parties) -> None:
    """One client at a time, before its message of each round; of other roles at least no wrong sum."""
    spare = len(parties.cohort) > parties.min_survivors
    for name, asked in parties.silences:
        for party, role in parties.roles.items():
            if role is not asked:
                continue
            session = Session(parties, silent={party: name})
            if role is PartyRole.CLIENT and spare:
                session.require_completes(f"with {party} silent in {name}")
            else:
                _exact_or_aborted(session, f"with {party} silent in {name}")
            named = {fault.sender for fault in session.server.faults if fault.kind is FaultKind.SILENT}
            missed = party in named or party not in session.gone  # whom a beacon didn't draw is not asked
            require(missed, f"the silence of {party} in {name} as a fault", sorted(named))


def _silence_of_many(parties: Parties) -> None:
    """As many clients as min_survivors allows: all in one round, or spread over the rounds."""
    most, names = len(parties.cohort) - parties.min_survivors, rounds(parties.protocol)
    for name in names:
        for gone in (parties.cohort[:most], parties.cohort[len(parties.cohort) - most :]):
            session = Session(parties, silent=dict.fromkeys(gone, name))
            session.require_completes(f"with {most} silent in {name}")
    spread = {party: names[place % len(names)] for place, party in enumerate(parties.cohort[:most])}
    Session(parties, silent=spread).require_completes(f"with {spread} silent")


def _abort_below_floor(parties: Parties) -> None:
    """Too few inputs are never opened; everyone is told, and nothing goes on afterwards."""
    too_many = len(parties.cohort) - parties.min_survivors + 1
    late = False
    for name in rounds(parties.protocol):
        for count in {too_many, len(parties.cohort)}:
            session = Session(parties, silent=dict.fromkeys(parties.cohort[:count], name))
            when = f"with {count} silent in {name}"
            if late and count < len(parties.cohort):
                _exact_or_aborted(session, when)
                continue
            try:
                session.run()
            except Aborted as aborted:
                _stays_aborted(session, aborted, when)
            else:
                raise RequirementError(f"Aborted {when}", "an outcome")
        late |= name == input_round(parties.protocol)


def _stays_aborted(session: Session, aborted: Aborted, when: str) -> None:
    server = session.server
    require(server.outcome is None and server.round is None, f"no outcome and no open round {when}", server.round)
    for party, data in aborted.outbox.items():
        member = session.members[party]
        if party in session.gone or session.parties.roles[party] is not PartyRole.CLIENT:
            continue
        if not member.finished:
            try:
                member.receive(data)
            except Aborted:
                pass
            else:
                raise RequirementError(f"{party} to leave when it is told {when}", "a client that goes on")
        require(member.finished, f"{party} finished {when}", "one that still waits")
    for (party, _), data in session.answers.items():
        session.ignored_by_server(party, data, "a repeated message after the abort")
    try:
        server.close_round()
    except LocalProtocolError:
        return
    raise RequirementError(f"LocalProtocolError for close_round() after the abort {when}", "none")


def _exact_or_aborted(session: Session, when: str) -> None:
    try:
        outcome = session.run()
    except Aborted:
        require(session.server.outcome is None, f"no outcome of an aborted session {when}", session.server.outcome)
    else:
        session.require_exact(outcome, when)


def _missing_contribution(parties: Parties) -> None:
    """Asked for its input without one, a client raises LocalProtocolError and is as it was."""
    session, wanted = Session(parties, contribute=False), contribution_round(parties.protocol)

    def before_request(party: str, request: bytes) -> None:
        if session.round != wanted or parties.roles[party] is not PartyRole.CLIENT:
            return
        before = session.members[party].to_bytes()
        try:
            session.members[party].receive(request)
        except LocalProtocolError:
            same = session.members[party].to_bytes() == before
            require(same, f"{party} unchanged when asked without a contribution", "another state")
        else:
            raise RequirementError(f"LocalProtocolError from {party} without a contribution", "none")
        session.contribute(party)

    session.before_request = before_request
    session.require_completes("once the updates are there")


def _reordered_answers(parties: Parties) -> None:
    """Answers in another order, to the same sum."""
    for order in (lambda ids: ids[::-1], lambda ids: ids[1::2] + ids[::2]):
        session = Session(parties)
        session.order = order
        session.require_completes("with answers in another order")


def _replayed_messages(parties: Parties) -> None:
    """Each message again: at once, in every later round, after the end."""
    session = Session(parties)

    def after_request(party: str, request: bytes) -> None:
        member, answer = session.members[party], session.answers.get((party, session.round))
        before, faults = member.to_bytes(), getattr(member, "faults", ())
        for (receiver, name), data in session.requests.items():
            if receiver != party:
                continue
            try:
                again = member.receive(data)
            except RemoteProtocolError as error:
                raise RequirementError(f"{party} not to mind a repeated request of {name}", str(error)) from error
            expected = answer if name == session.round else None
            require(
                again == expected, f"{party} to answer the last request as before, others not", "another answer"
            )
        require(member.to_bytes() == before, f"{party} unchanged by a repeated request", "another state")
        require(getattr(member, "faults", ()) == faults, f"no fault of {party} for a repeated request", "a fault")

    def after_answer(party: str, answer: bytes) -> None:
        for (sender, name), data in session.answers.items():
            if sender == party:
                session.ignored_by_server(party, data, f"a replay of {name}")

    session.after_request, session.after_answer = after_request, after_answer
    session.require_completes("with every message replayed")
    for (party, name), data in session.answers.items():
        session.ignored_by_server(party, data, f"a replay of {name} after the end")


def _early_messages(parties: Parties) -> None:
    """The messages of later rounds, as an equal session recorded them, before their turn."""
    recorded, session = Session(parties), Session(parties)
    recorded.run()
    names = [phase.round for phase in parties.protocol.phases]

    def later(messages: Mapping[tuple[str, str], bytes], party: str) -> Iterator[tuple[str, bytes]]:
        for name in names[names.index(session.round) + 1 :]:
            if (party, name) in messages:
                yield name, messages[party, name]

    def before_request(party: str, request: bytes) -> None:
        for name, data in later(recorded.requests, party):
            session.refused_by(party, data, f"the request of {name}")

    def before_answer(party: str, answer: bytes) -> None:
        for name, data in later(recorded.answers, party):
            session.refused_by_server(party, data, f"the message of {name}")

    session.before_request, session.before_answer = before_request, before_answer
    session.require_completes("with messages before their turn")


def _tampered(parties: Parties, damage: Callable[[bytes], Iterable[bytes]], what: str) -> None:
    """Damaged copies before each true message, both ways.

    One party's to a session, so that none is lost beyond the faults that a server keeps.
    """
    for victim in parties.roles:
        session = Session(parties)

        def before_request(party: str, request: bytes, session: Session = session, victim: str = victim) -> None:
            if party == victim:
                for data in damage(request):
                    session.refused_by(party, data, what)

        def before_answer(party: str, answer: bytes, session: Session = session, victim: str = victim) -> None:
            if party == victim:
                for data in damage(answer):
                    session.refused_by_server(party, data, what)

        session.before_request = session.before_relay = before_request
        session.before_answer = session.before_word = before_answer
        session.require_completes(f"after {what}")


def _truncated_messages(parties: Parties) -> None:
    """Every message cut short at every class of length, and made longer."""

    def cut(message: bytes) -> Iterator[bytes]:
        ends = {0, *(1 << power for power in range(7)), 42, 74, 75, len(message) // 2}
        ends |= {len(message) - gone for gone in (1, 2, 16, 17, 64, 65)}
        yield from (message[:end] for end in sorted(ends) if 0 <= end < len(message))
        yield from (message + b"\0", message + message, bytes(len(message)))

    _tampered(parties, cut, "a truncated or extended message")


def _flipped_bits(parties: Parties) -> None:
    """One bit of each message, in its frame, its body and its trailer."""

    def flip(message: bytes) -> Iterator[bytes]:
        step = max(1, len(message) // 16)
        for place in sorted({*range(step // 2, len(message), step), 8, len(message) - 1}):
            damaged = bytearray(message)
            damaged[place] ^= 1 << (place // step + place) % 8
            yield bytes(damaged)

    _tampered(parties, flip, "a flipped bit")


def _resealed_bodies(parties: Parties) -> None:
    """Bodies with bytes missing or left over under a trailer that holds: the liar is the sender itself."""

    def reseal(message: bytes) -> Iterator[bytes]:
        frame = wire.Envelope.parse(message, len(message))
        identity, body = parties.identities.get(frame.sender), bytes(frame.body)
        head = message[: len(message) - len(frame.trailer) - len(body) - 4]
        for changed in (b"", body[:3], body[: len(body) // 2], body[:-1], body + b"\0", bytes(len(body))):
            digest = hashlib.sha256(content := head + len(changed).to_bytes(4, "big") + changed).digest()
            trailer = identity.sign(wire.SIGNATURE_LABEL + digest) if identity else digest[: wire.CHECKSUM_BYTES]
            yield content + trailer

    _tampered(parties, reseal, "a body of the wrong length under a valid trailer")


def _misattributed_messages(parties: Parties) -> None:
    """One party's message in another's name, or in a stranger's."""
    session = Session(parties)

    def before_answer(party: str, answer: bytes) -> None:
        for other in sorted({"nobody", *parties.cohort} - {party}):
            session.refused_by_server(other, answer, f"a message of {party}")

    def before_word(party: str, word: bytes) -> None:
        for other in sorted({"nobody", *parties.roles} - {party}):
            session.refused_by_server(other, word, f"a word of {party}")

    session.before_answer, session.before_word = before_answer, before_word
    session.require_completes("with messages in others' names")


def _foreign_task(parties: Parties) -> None:
    """Every message of the same session under another task."""
    other = replace(parties.task, context=b"another run")
    _foreign(parties, Session(parties, task=other), "another task", opening=True)


def _foreign_session(parties: Parties) -> None:
    """Every message of another session, and of a second one under the same name."""
    _foreign(parties, Session(parties, session=b"another", seed=b"another"), "another session", opening=True)
    _foreign(parties, Session(parties, seed=b"again"), "a second session of the same name", opening=False)


def _foreign(parties: Parties, other: Session, what: str, *, opening: bool) -> None:
    """``opening``: whether the very first request is foreign already."""
    other.run()
    session, opened = Session(parties), set[str]()

    def before_request(party: str, request: bytes) -> None:
        if opening or party in opened:
            session.refused_by(party, other.requests[party, session.round], f"the request of {what}")
        opened.add(party)

    def before_answer(party: str, answer: bytes) -> None:
        session.refused_by_server(party, other.answers[party, session.round], f"the message of {what}")

    def before_relay(party: str, data: bytes) -> None:
        place = len(session.handed[party, session.round])
        for foreign, _ in other.handed[party, session.round][place : place + 1]:
            session.refused_by(party, foreign, f"a message of {what} that is handed on")

    def before_word(party: str, data: bytes) -> None:
        place = len(session.handed[party, session.round])
        for _, foreign in other.handed[party, session.round][place - 1 : place]:
            if foreign is not None:
                session.refused_by_server(party, foreign, f"a word of {what}")

    session.before_request, session.before_answer = before_request, before_answer
    session.before_relay, session.before_word = before_relay, before_word
    session.require_completes(f"with messages of {what}")


def _bytes_as_stated(parties: Parties) -> None:
    """What a client sends and receives is what ``cost`` says, with identities or without.

    Equal within ``COST_TOLERANCE`` and 16 bytes, in at least one of the two ways in which a protocol
    can be run.
    """
    names = rounds(parties.protocol)
    ways = [parties] if parties.roster is not None else [parties, parties.enrolled()]
    differing: dict[str, str] = {}
    for way in ways:
        task = way.make_task(layout=Layout.of({"w": np.zeros(1000, np.float32)}))
        session = Session(way, task=task)
        session.run()
        cost = way.protocol.cost(task, list(way.cohort))
        stated = {"up": cost.up, "down": cost.down}
        sent = {"up": session.answers, "down": session.requests}
        differing = {}
        for direction, messages in sent.items():
            unmatched = set(stated[direction]) ^ set(names)
            require(not unmatched, f"bytes {direction} stated for {', '.join(names)}", sorted(stated[direction]))
            for name in names:
                most = max(len(messages[p, r]) for p, r in messages if r == name and p in way.cohort)
                expected = stated[direction][name]
                if abs(most - expected) > 16 + COST_TOLERANCE * expected:
                    differing[f"{direction} in {name}"] = f"{most} bytes, stated were {expected}"
        if not differing:
            return
    raise RequirementError("the bytes that cost() states", str(differing))


#: The checks of ``check_protocol`` by name.
CHECKS: dict[str, Callable[[Parties], None]] = {
    "exact_sums": _exact_sums,
    "exact_segments": _exact_segments,
    "silence_of_one": _silence_of_one,
    "silence_of_many": _silence_of_many,
    "abort_below_floor": _abort_below_floor,
    "missing_contribution": _missing_contribution,
    "reordered_answers": _reordered_answers,
    "replayed_messages": _replayed_messages,
    "early_messages": _early_messages,
    "truncated_messages": _truncated_messages,
    "flipped_bits": _flipped_bits,
    "resealed_bodies": _resealed_bodies,
    "misattributed_messages": _misattributed_messages,
    "foreign_task": _foreign_task,
    "foreign_session": _foreign_session,
    "repeated_parts": _repeated_parts,
    "misdirected_parts": _misdirected_parts,
    "misplaced_words": _misplaced_words,
    "late_words": _late_words,
    "restored_bit_for_bit": _restored_bit_for_bit,
    "restored_after_crash": _restored_after_crash,
    "shared_rounds": _shared_rounds,
    "bytes_as_stated": _bytes_as_stated,
}

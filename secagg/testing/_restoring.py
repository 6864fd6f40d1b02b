"""Checks that restore roles from saved states."""

from __future__ import annotations

from secagg import wire
from secagg.testing._material import require
from secagg.testing._session import Casting, Play


def _restored_bit_for_bit(casting: Casting) -> None:
    """Every role restored before every message that it gets says the same bytes as one that never was.

    Left out are the rounds that a protocol names in ``unseeded``, whose messages depend on randomness that a
    primitive draws for itself; a role restored after its answer repeats that one too (the next check).
    """
    unseeded = casting.protocol.unseeded
    steady, play = Play(casting), Play(casting)
    steady.require_completes("undisturbed")

    def before_request(party: str, request: bytes) -> None:
        play.restore(party, play.members[party].to_bytes())

    def before_answer(party: str, answer: bytes) -> None:
        play.restore_server(play.server.to_bytes())

    play.before_request, play.before_answer = before_request, before_answer
    play.require_completes("with every role restored before every message")
    for what, first, second in (
        ("request", steady.requests, play.requests),
        ("answer", steady.answers, play.answers),
    ):
        differing = [w for w in first if w[1] not in unseeded and first[w] != second.get(w)]
        require(not differing, f"the same bytes in every {what} after restoring", f"others at {differing}")


def _restored_after_crash(casting: Casting) -> None:
    """From what ``save`` was given: a member repeats its answer, a server asks again, a round goes on."""
    play = Play(casting)

    def after_request(party: str, request: bytes) -> None:
        answer = play.answers.get((party, play.round))
        play.restore(party, play.stores[party].state)
        again = play.members[party].receive(request)
        require(again == answer, f"{party}, restored, to repeat its answer in {play.round}", "another answer")

    play.after_request = after_request
    outbox = play.server.start()
    while play.server.outcome is None:
        before_crash = dict(list(outbox.items())[: len(outbox) // 2])
        play.exchange(before_crash)
        play.restore_server(play.stores[wire.SERVER].state)
        again = play.server.start()
        require(again == outbox, f"a restored server to ask again in {play.round}", f"requests to {sorted(again)}")
        play.exchange(again)
        outbox = play.server.close_round()
    play.require_exact(play.server.outcome, "after a crash of every role in every round")
    play.restore_server(play.stores[wire.SERVER].state)
    require(play.server.outcome is not None, "a server restored after the end to have its outcome", "none")

"""A session whose round is open, with the answers of everybody, for tests of what shares the round."""

from __future__ import annotations

from typing import Any

import secagg
from secagg import wire
from secagg.testing import Session, parties_for

CLIENTS = 8
SMALL = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")


class Opened:
    """A session whose round is open and whose answers are there; a damaged one, a strange one, one twice too.

    ``alone`` is the server that took them one after the other.
    """

    def __init__(self, protocol: Any, name: str) -> None:
        self.session = Session(parties_for(protocol, CLIENTS))
        outbox = self.session.until(name)
        self.state = self.session.stores[wire.SERVER].state
        self.answers = [(party, self.session.members[party].receive(request)) for party, request in outbox.items()]
        first, answer = self.answers[0]
        self.bad = [(first, answer[:-1] + bytes([answer[-1] ^ 1])), self.answers[-1], ("stranger", answer)]
        self.alone = self.restored(None)
        self.onward = [one for sent in self.messages for one in self.alone.receive(*sent).items()]

    @property
    def messages(self) -> list[tuple[str, bytes]]:
        return self.bad + self.answers

    def restored(self, executor: Any) -> Any:
        parties = self.session.parties
        return self.session.task.restore_server(
            self.state, roster=parties.roster, beacon=parties.beacon, executor=executor
        )

    def require_like_alone(self, server: Any, onward: list[tuple[str, bytes]]) -> None:
        assert sorted(onward) == sorted(self.onward)
        assert server.pending == frozenset()
        key: Any = lambda fault: (fault.sender, fault.kind, fault.detail)  # noqa: E731
        assert sorted(server.faults, key=key) == sorted(self.alone.faults, key=key)
        assert {fault.sender for fault in server.faults} == {self.bad[0][0], "stranger"}
        alone = self.session.task.restore_server(
            self.alone.to_bytes(), roster=self.session.parties.roster, beacon=self.session.parties.beacon
        )
        assert server.close_round() == alone.close_round()
        assert unordered(server) == unordered(alone)


def unordered(server: Any) -> Any:
    """The state without what lists the answers in the order in which they came."""
    state = server.written()
    state.faults, state.answered = [], sorted(state.answered)
    if hasattr(state, "total"):
        state.total = b""  # the requests that followed have the sum
    return state

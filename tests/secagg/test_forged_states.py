"""Saved states with a right checksum and impossible content: restoring refuses them, or what follows says so."""

import logging
import random
from typing import Any

import msgspec
import pytest

import secagg
from secagg.errors import ConfigError, SecAggError
from secagg.roles.state import _state_checksum, _state_header
from secagg.testing import MemoryStore, Session, parties_for

PROTOCOLS = (
    secagg.Clear(),
    secagg.SecAgg(threat_model="semi-honest"),
    secagg.SecAgg(corruption=0.1),
    secagg.SecAggPlus(threat_model="semi-honest"),
    secagg.SecAggPlus(),
    secagg.BFV(),
    secagg.CKKS(holder="clients"),
    secagg.Paillier(bits=2048),
    secagg.OneShot(kem="X25519"),
    secagg.OneShot(members=4, corrupt_members=1, kem="X25519", recount=True),
)
Saved = tuple[str, str, bytes, bytes]  # role, party, state, the message that comes next


class SavedStates:
    """A session, and every state that one of its parties saved with the message that came next."""

    def __init__(self, protocol: Any) -> None:
        self.session = session = Session(parties_for(protocol, 5))
        self.saved: list[Saved] = []

        def before_request(party: str, request: bytes) -> None:
            role = str(session.parties.roles[party])
            self.saved.append((role, party, session.members[party].to_bytes(), request))

        def before_answer(party: str, answer: bytes) -> None:
            self.saved.append(("server", party, session.server.to_bytes(), answer))

        session.before_request, session.before_answer = before_request, before_answer
        session.after_answer = lambda party, answer: before_answer("c1", b"")
        session.run()

    def forge(self, saved: Saved, rng: random.Random) -> tuple[str, bytes]:
        """Another value in one field, under a checksum that holds; also the field's name."""
        role, _, state, _ = saved
        header = _state_header(self.session.task, role, self.session.parties.roster)
        fields = msgspec.msgpack.decode(state[len(header) + 16 :])
        name = rng.choice(sorted(fields))
        fields[name] = hostile(fields[name], rng)
        written = msgspec.msgpack.encode(fields)
        return name, header + _state_checksum(header, written) + written

    def use(self, saved: Saved, state: bytes) -> None:
        """Restore the role and go on with it."""
        role, party, _, message = saved
        if role != "server":
            member = self.session.restore(party, state, save=MemoryStore())
            member.receive(message)
            member.to_bytes()
            return
        server = self.session.task.restore_server(state, roster=self.session.parties.roster)
        server.start()
        server.receive(party, message)
        server.close_round()


def hostile(value: Any, rng: random.Random) -> Any:
    """Something else of the same type."""
    if isinstance(value, dict | list) and value and rng.random() < 0.6:
        places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        changed, place = value.copy(), rng.choice(places)
        if rng.random() < 0.4:
            del changed[place]
        else:
            changed[place] = hostile(value[place], rng)
        return changed
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([-1, 0, 1, 2, 5, 99, 2**40, 2**63 - 1, value + 1])
    if isinstance(value, bytes):
        return rng.choice([b"", value[:-1], value + b"\0", bytes(len(value)), rng.randbytes(len(value))])
    if isinstance(value, str):
        return rng.choice(["", "c1", "c9", "x" * 70, "a b"])
    if isinstance(value, list):
        return rng.choice([[], ["c1"], [b""], [b"x" * 12], [b"x" * 12] * 3])
    if isinstance(value, dict):
        return rng.choice([{}, {"c1": b"x"}, {"c9": b""}])
    return rng.choice([b"x", {}, [], 5])


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: f"{protocol.name}-{protocol.threat_model}")
def test_a_forged_state_never_ends_in_an_error_that_is_not_ours(
    protocol: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    states, rng, refused = SavedStates(protocol), random.Random(protocol.name), 0
    for _ in range(400):
        saved = rng.choice(states.saved)
        name, state = states.forge(saved, rng)
        try:
            states.use(saved, state)
        except ConfigError:
            refused += 1
        except SecAggError:
            pass
        except Exception as error:
            raise AssertionError(f"a {saved[0]} with another {name} ends in {error!r}") from error
    assert refused > 50

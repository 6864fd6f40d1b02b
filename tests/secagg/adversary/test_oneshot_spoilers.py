"""OneShot: clients and committee members who want others named for what they did, or a wrong sum accepted.

None of them learns anything; what they can spoil, and when they are named, is in docs/oneshot.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from he import _kahe_sums
from mpc import packed
from secagg.bitmap import to_bitmap
from secagg.errors import Aborted, FaultKind, RemoteProtocolError
from secagg.merkle import merkle_path
from secagg.protocols.oneshot import OneShot
from secagg.protocols.oneshot.member import CommitteeMember
from secagg.protocols.oneshot.messages import Agreed, Collect, KeyShare, Lack, SessionKey, dealing_tree
from secagg.protocols.oneshot.server import OneShotServer
from secagg.roles import Outcome
from secagg.table import Round
from secagg.testing import Integers, RequirementError, Session, parties_for
from secagg.wire import Envelope, Reject
from tests.secagg.adversary.driver import VICTIM, World
from tests.secagg.adversary.oneshot import MEMBERS, PROTOCOL, TASK, LyingServer
from tests.secagg.adversary.registry import attack
from tests.secagg.test_oneshot import add_to_answer, begin, make_task, spoil_shares

FIVE = OneShot(members=5, corrupt_members=2, kem="X25519")


def named(outcome: Outcome, kind: FaultKind) -> set[str]:
    return {fault.sender for fault in outcome.faults if fault.kind is kind}


@attack(
    title="Framed by a dealer: a client deals shares off its polynomials to two members, so their sums look false",
    attacker="one client that departs from the protocol; it wants honest members to be named",
    defence="each member checks its share against the client's low-degree proof (`mpc.packed.Share.check`), and "
    "refuses it before anything is added up",
    control="without the check: two honest members are named for wrong sums",
    source="own; the batch check of verifiable secret sharing",
)
class TestFramedByADealer:
    honest = ("decryptor-6", "decryptor-7")

    def attack(self) -> Outcome:
        session = begin()
        spoil_shares(session.members["c5"], {5, 6}, lambda share: bytes([share[0] ^ 1]) + share[1:])
        outcome = session.run()
        session.require_exact(outcome, "all the same")
        return outcome

    def test_refused(self) -> None:
        outcome = self.attack()
        assert not named(outcome, FaultKind.WRONG_SHARE)
        assert named(outcome, FaultKind.UNOPENED_SHARE) == {"c5", *self.honest}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packed.Share, "check", lambda *_: None)
        outcome = self.attack()
        assert named(outcome, FaultKind.WRONG_SHARE) == set(self.honest)
        assert not named(outcome, FaultKind.UNOPENED_SHARE)


@attack(
    title=(
        "Framed by liars: two of 5 members lie so that their sums, with those of two honest members, lie on a "
        "wrong polynomial, and a client deals another key than it uses, so that this polynomial opens the sum"
    ),
    attacker="two members and one client; they want the fifth member to be named",
    defence="a member is named only if r + c_m answers agree without it (`mpc.packed.Candidate.liars`)",
    control="where all are named that differ from what opens the sum: the honest member",
    source="own; the radius of Reed-Solomon decoding counts errors, not honesty",
)
class TestFramedByLiars:
    def attack(self, monkeypatch: pytest.MonkeyPatch) -> Outcome:
        session = Session(parties_for(FIVE, 8), task=make_task(protocol=FIVE), session=b"round 1")
        # (x - 3)(x - 4) is 6 and 2 at the liars' points, 0 at 3 and 4, and 20 where the secrets are, at -1.
        add_to_answer(session, decryptor_1=6, decryptor_2=2)
        deal, client = packed.deal, session.members["c5"]
        dealt = client._deal

        def other_key(committee: Any, key: Any, *rest: Any) -> packed.Dealing:
            return deal(committee, key.astype(np.int16) - 20, *rest)

        def deals(*arguments: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(packed, "deal", other_key)
                return dealt(*arguments)

        client._deal = deals
        outcome = session.run()
        session.require_exact(outcome, "all the same")
        return outcome

    def test_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert named(self.attack(monkeypatch), FaultKind.WRONG_SHARE) == {"committee"}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packed.Candidate, "liars", property(lambda candidate: candidate.differing))
        assert named(self.attack(monkeypatch), FaultKind.WRONG_SHARE) == {"decryptor-5"}


@attack(
    title="Another key: a client encrypts under another key than it deals, so that the sum of the keys opens noise",
    attacker="one client that departs from the protocol; it wants a wrong sum accepted, and is not named",
    defence="the opening checks every error, field and guard of the encrypted sum (`he.kahe.Scheme.open`)",
    control="without the check: the server takes random numbers for the sum",
    source="own",
)
class TestAnotherKey:
    def attack(self) -> Session:
        encoding = Integers(((40, 255, 256),))
        session = begin(task=make_task(encoding=encoding, layout=encoding.layout))
        deal = session.members["c5"]._deal
        session.members["c5"]._deal = lambda draft, secret, public: deal(draft, bytes(32), public)
        return session

    def test_refused(self) -> None:
        session = self.attack()
        with pytest.raises(Aborted, match="a client encrypted under another key than it dealt"):
            session.run()
        assert session.server.outcome is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = _kahe_sums.Opening.open

        def unchecked(work: Any, *arguments: Any) -> tuple[Any, bool]:
            return opened(work, *arguments)[0], True

        monkeypatch.setattr(_kahe_sums.Opening, "open", unchecked)
        session = self.attack()
        outcome = session.run()
        with pytest.raises(RequirementError, match="the exact sum"):
            session.require_exact(outcome, "here")


@attack(
    title=(
        "Framed by a server: it hides two members' session keys from a client, then hands these members what the "
        "client signed in their places, an empty text; with one corrupt member, three refuse the client's shares"
    ),
    attacker="lying server, one corrupt member; they want proof that an honest client dealt badly",
    defence="a member refuses a part without a text before it looks at it (`CommitteeMember._check_sealed`), and "
    "says that the client's share did not reach it",
    control="without this check: three members signed that they refuse the client's shares, which proves it at "
    "fault",
    source="own",
)
class TestFramedByAServer:
    hidden = MEMBERS[:2]

    def attack(self) -> list[Lack]:
        """What the members sign that they lack of the victim's, with the corrupt member's own word."""
        server = LyingServer(World(TASK))
        server.gather([VICTIM], keys=[key for member, key in server.keys.items() if member not in self.hidden])
        message, _ = server.opened(VICTIM)
        commitments = [message.commitments[at : at + 32] for at in range(0, 32 * len(MEMBERS), 32)]
        tree = dealing_tree(commitments, dict(enumerate(message.sealed, start=len(self.hidden))))
        words = [Lack.UNOPENED]
        for place, member in enumerate(self.hidden):
            part = KeyShare(message.dealing, commitments[place], b"", merkle_path(tree, place))
            assert server.members[member].receive(server.seal(part)) is None
            answer = server.ask(member, Collect(to_bitmap(server.cohort, server.cohort)))
            assert answer is not None
            words.append(Lack(answer.open(Agreed)[0].lacking[server.cohort.index(VICTIM)]))
        return words

    def test_refused(self) -> None:
        assert self.attack() == [Lack.UNOPENED, Lack.ABSENT, Lack.ABSENT]

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CommitteeMember, "_check_sealed", lambda *_: None)
        refusing = [word for word in self.attack() if word > Lack.ABSENT]
        assert len(refusing) > PROTOCOL.corrupt_members


@attack(
    title="A session key of small order: nobody can seal to the key that a member shows, so no client answers",
    attacker="one member; it wants the session to end",
    defence="the server seals a text to each session key before it shows it (`OneShotServer._take_key`)",
    control="with a server that takes any key: no client answers",
    source="own; low-order points of X25519 (RFC 7748, section 6.1)",
)
class TestUnusableKey:
    def attack(self) -> Session:
        session = begin()

        def before_answer(party: str, answer: bytes) -> bytes | None:
            spoils = (party, session.round) == ("decryptor-7", Round.SESSION_KEY)
            return session.changed(answer, lambda *_: (SessionKey(bytes(32)), b"")) if spoils else None

        session.before_answer = before_answer
        return session

    def test_refused(self) -> None:
        session = self.attack()
        session.require_exact(session.run(), "by the other members")
        assert session.faults[0] == ("decryptor-7", Round.SESSION_KEY, FaultKind.INVALID)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def take_any(server: Any, envelope: Any, *_: Any) -> None:
            server.context.state.keys[envelope.sender] = envelope.raw

        monkeypatch.setattr(OneShotServer, "_take_key", take_any)
        session = self.attack()
        session.until(Round.INPUT)
        proposal = (session.outbox or {})["c1"]
        with pytest.raises(RemoteProtocolError, match="decryptor-7 that can't be used"):
            session.members["c1"].receive(proposal)


@attack(
    title="Two members lie in their sums of key shares, so that the sum does not open",
    attacker="c_m members; they want the session to end without a sum, and nobody to be named",
    defence="all answers are tried for those that agree and open the sum (`mpc.packed.recover`)",
    control="where the first r answers are taken: the session ends, and no member is named",
    source="own; error correction in Shamir's scheme (McEliece and Sarwate 1981)",
)
class TestLyingSums:
    def attack(self) -> Session:
        session = begin()
        add_to_answer(session, decryptor_1=1, decryptor_2=5)
        return session

    def test_refused(self) -> None:
        session = self.attack()
        outcome = session.run()
        session.require_exact(outcome, "by the other members")
        assert named(outcome, FaultKind.WRONG_SHARE) == {"decryptor-1", "decryptor-2"}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recover = packed.recover

        def first(committee: packed.Committee, length: int, answers: Any) -> Any:
            return recover(committee, length, dict(list(answers.items())[: committee.threshold]))

        monkeypatch.setattr(packed, "recover", first)
        session = self.attack()
        with pytest.raises(Aborted, match="open the sum of the inputs"):
            session.run()
        assert not session.faults


@attack(
    title="A copied session key: a member that reads another's key on its way shows it first, as its own",
    attacker="one member that sees the traffic to the server; it wants an honest member left out, and named",
    defence="a key may be shown twice (`OneShotServer._take_key`): a text names its member, so the copier loses",
    control="with a server that takes each key once: the honest member is refused and named",
    source="own; a key of a KEM can't sign for itself",
)
class TestCopiedSessionKey:
    victim, copier = "decryptor-7", "decryptor-1"

    def attack(self) -> Session:
        session = begin()
        session.until(Round.SESSION_KEY)
        key, _ = Envelope.parse(session.ask(self.victim), 1 << 20).open(SessionKey)
        session.before_answer = lambda party, answer: (
            session.seal(key, sender=party) if (party, session.round) == (self.copier, Round.SESSION_KEY) else None
        )
        session.require_exact(session.run(), "all the same")
        return session

    def test_refused(self) -> None:
        session = self.attack()
        assert self.victim not in {party for party, _, _ in session.faults}
        assert self.victim in session.server.context.state.agreed  # type: ignore[attr-defined]
        assert set(session.server.context.state.lacking) == {self.copier}  # type: ignore[attr-defined]

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take, taken = OneShotServer._take_key, set[bytes]()

        def take_once(server: Any, envelope: Any, message: SessionKey, payload: Any) -> None:
            if message.key in taken:
                raise Reject(FaultKind.INVALID, "got a session key that another member showed")
            taken.add(message.key)
            take(server, envelope, message, payload)

        monkeypatch.setattr(OneShotServer, "_take_key", take_once)
        session = self.attack()
        assert session.faults[0] == (self.victim, Round.SESSION_KEY, FaultKind.INVALID)
        assert self.victim not in session.server.context.state.agreed  # type: ignore[attr-defined]

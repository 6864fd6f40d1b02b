"""OneShot whose committee is drawn from many enrolled members, by a beacon's value that nobody could foresee.

The task names one round of a beacon, and is handed out with the roster before that round is published. The
committee is a function of the roster and of the value alone: every party computes it, and no message carries it or
the value. There is one draw for a roster and a round. A session's name does not enter it: otherwise a server, which
names sessions, could try names until the committee suits it. A session that fails is opened again with the same
committee.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb, log2
from typing import TYPE_CHECKING, ClassVar

from mpc.keys import encode_parts
from secagg._numbers import is_a, whole
from secagg.beacon import LATEST_ROUND, Beacon, Fetch
from secagg.corruption import check_corruption, corrupt_count
from secagg.errors import ConfigError, LocalProtocolError, blaming, shown
from secagg.identity import PartyRole, Roster
from secagg.protocols.base import Cost
from secagg.protocols.oneshot.parameters import MAX_MEMBERS, bears_silence
from secagg.protocols.oneshot.protocol import OneShot

if TYPE_CHECKING:
    from secagg.task import Task

SECURITY = 40
"""A draw with too many corrupt members has a probability below 2^-SECURITY."""

MAX_ENROLLED = 1 << 20


@dataclass(frozen=True)
class DrawnOneShot(OneShot):
    """:class:`secagg.OneShot` with a committee of ``members`` that a beacon draws from ``enrolled`` decryptors.

    At most the fraction ``member_corruption`` of the enrolled decryptors may be corrupt, and which ones is fixed
    before the draw. If more than ``corrupt_members`` of them are drawn with a probability of 2^-40 or more, the
    parameters are refused. ``draw_round`` is the round of ``beacon`` whose value draws. All parties need
    ``beacon=`` when they are made or restored: a function that returns the value of a round, or None before it is
    published. Until then no server can be made, and members and clients raise ``LocalProtocolError``.

    Hand out task and roster while ``beacon.next_round(time.time()) <= draw_round``. Whoever gets them later can't
    know that the roster was not made to suit the value. The beacon's operator must not collude with the server.

    The committee is the same in all sessions of the task. Everyone can compute it, so this does not protect against
    someone who corrupts members once they are drawn. Members that were not drawn answer nothing. A client pays for
    the larger committee in bytes: see :meth:`describe`.
    """

    members: int = 100
    corrupt_members: int = 26
    enrolled: int = field(kw_only=True)
    beacon: Beacon = field(kw_only=True)
    draw_round: int = field(kw_only=True)
    member_corruption: float = field(default=0.05, kw_only=True)

    ID: ClassVar[int] = 10
    name: ClassVar[str] = "DrawnOneShot"
    enrolled_by: ClassVar[str] = "enrolled"

    def __post_init__(self) -> None:
        super().__post_init__()
        enrolled, number = whole(self.enrolled), whole(self.draw_round)
        if enrolled is None or not self.members < enrolled <= MAX_ENROLLED:
            raise ConfigError(
                f"got enrolled={shown(self.enrolled)} with members={self.members}; expected more members enrolled "
                f"than drawn, at most {MAX_ENROLLED}"
            )
        if number is None or not 0 < number <= LATEST_ROUND:
            raise ConfigError(f"got draw_round={shown(self.draw_round)}; expected a round, from 1 to 2^63 - 1")
        with blaming(ConfigError, "got beacon= that can't be read; expected a secagg.beacon.SignedBeacon(...)"):
            if not isinstance(self.beacon, Beacon):
                raise ConfigError(
                    f"got beacon={shown(self.beacon)}; expected one such as secagg.beacon.SignedBeacon(...)"
                )
        with blaming(ConfigError, f"got member_corruption={shown(self.member_corruption)}"):
            fraction = check_corruption(self.member_corruption)
        object.__setattr__(self, "enrolled", enrolled)
        object.__setattr__(self, "draw_round", number)
        object.__setattr__(self, "member_corruption", fraction)
        self._check_draw()

    def _check_draw(self) -> None:
        bad, draws = bad_draws(self.enrolled, self.corrupt_enrolled, self.members, self.corrupt_members)
        if not too_likely(bad, draws):
            return
        raise ConfigError(
            f"got members={self.members} with corrupt_members={self.corrupt_members}: of {self.enrolled} enrolled "
            f"members, {self.corrupt_enrolled} may be corrupt, and more than {self.corrupt_members} of those are "
            f"drawn with probability {_power(bad, draws)}; expected below 2^-{SECURITY}: {self._remedy()}"
        )

    def _remedy(self) -> str:
        """The least committee that would do, and that its corrupt members can't stop by their silence."""
        largest = min(MAX_MEMBERS, self.enrolled - 1)
        for members in range(self.members, largest + 1):
            allowed = [corrupt for corrupt in range(1, members) if bears_silence(members, corrupt)]
            for corrupt in allowed if self._suits(members, allowed[-1:]) else ():
                if self._suits(members, [corrupt]):
                    return f"use members={members}, corrupt_members={corrupt}, or lower member_corruption"
        return (
            f"no committee of up to {largest} members does, and goes on when its corrupt members are silent; lower "
            "member_corruption"
        )

    def _suits(self, members: int, corrupt: Sequence[int]) -> bool:
        """Whether the draw of ``members`` is safe with so many corrupt ones; it isn't with none to choose from."""
        return any(
            not too_likely(*bad_draws(self.enrolled, self.corrupt_enrolled, members, most)) for most in corrupt
        )

    @property
    def corrupt_enrolled(self) -> int:
        """The number of enrolled members that may be corrupt."""
        return corrupt_count(self.member_corruption, self.enrolled)

    @property
    def party_counts(self) -> Mapping[PartyRole, int]:
        """The enrolled decryptors, from whom the committee is drawn."""
        return {PartyRole.DECRYPTOR: self.enrolled}

    def committee_ids(self, roster: Roster, beacon: Fetch | None) -> tuple[str, ...]:
        """The ids of the members that the beacon's value draws from the roster, sorted.

        Raises ``LocalProtocolError`` without a ``beacon``, before the value is published, or for a value that the
        beacon did not publish in this round.
        """
        number = self.draw_round
        if beacon is None:
            raise LocalProtocolError("got no beacon=; pass a function that returns the value of a beacon's round")
        value = beacon(number)
        if value is None:
            raise LocalProtocolError(
                f"round {number} of the beacon, which draws the committee, is not published; wait, then try again"
            )
        if not is_a(value, bytes) or not self.beacon.verify(number, value):
            raise LocalProtocolError(f"got a value for round {number} that is not the beacon's; look at beacon=")
        seed = encode_parts("secagg/v1/one-shot/committee", roster.digest, number.to_bytes(8, "big"), value)
        return draw(roster.ids(PartyRole.DECRYPTOR), self.members, hashlib.sha256(seed).digest())

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """As with a named committee of as many; ``collusion`` says how likely the draw helps the server."""
        cost = super().cost(task, cohort)
        return Cost(cost.up, cost.down, f"{cost.collusion}; {self._odds()}", cost.post_quantum)

    def _odds(self) -> str:
        """What is drawn from whom, and how likely too many corrupt members are drawn."""
        bad, draws = bad_draws(self.enrolled, self.corrupt_enrolled, self.members, self.corrupt_members)
        return (
            f"{self.members} of {self.enrolled} enrolled members are drawn, and more than {self.corrupt_members} "
            f"of up to {self.corrupt_enrolled} corrupt ones with probability {_power(bad, draws)}"
        )

    def describe(self, task: Task) -> list[str]:
        """As with a named committee, and what the draw costs in bytes and achieves."""
        shares = sum(self.sealed_bytes(task, place) for place in range(self.members))
        return [
            *super().describe(task),
            f"round {self.draw_round} of the beacon draws the committee, once for all sessions: {self._odds()}",
            f"a client's key shares for it have {shares:,} bytes",
        ]


@lru_cache(maxsize=8)
def draw(ids: Sequence[str], members: int, seed: bytes) -> tuple[str, ...]:
    """``members`` of ``ids``, sorted: those whose SHA-256 under ``seed`` comes first."""
    return tuple(sorted(sorted(ids, key=lambda one: hashlib.sha256(seed + one.encode()).digest())[:members]))


def bad_draws(enrolled: int, corrupt: int, members: int, most: int) -> tuple[int, int]:
    """The number of sets of ``members`` with more than ``most`` of the ``corrupt`` enrolled, and of all sets.

    The quotient is the tail of the hypergeometric distribution, exactly.
    """
    worst = range(most + 1, min(members, corrupt) + 1)
    bad = sum(comb(corrupt, count) * comb(enrolled - corrupt, members - count) for count in worst)
    return bad, comb(enrolled, members)


def too_likely(bad: int, draws: int) -> bool:
    """Whether ``bad`` of ``draws`` are 2^-SECURITY of them, or more."""
    return bad << SECURITY >= draws


def _power(bad: int, draws: int) -> str:
    return f"2^{log2(bad) - log2(draws):.1f}" if bad else "0"

"""The number of clients that may collude, and the floors that follow from it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol

from secagg._numbers import real
from secagg.errors import ConfigError, shown
from secagg.identity import PartyRole, Roster

if TYPE_CHECKING:
    from secagg.task import Task


class Collusive(Protocol):
    """What the number of corrupt clients depends on: every protocol has it."""

    @property
    def corruption(self) -> float | None:
        """The fraction of clients that may collude with the server."""
        ...

    @property
    def threat_model(self) -> str:
        """``"malicious"``, ``"semi-malicious"`` or ``"semi-honest"``."""
        ...


def corrupt_count(corruption: float, among: int) -> int:
    """c, the number of clients that may collude with the server, ``among`` so many; at least 1.

    ``corruption`` is the fraction of clients that may collude, from 0 to below 1.
    """
    return max(1, int(Fraction(str(corruption)) * among))


def corrupt_among(protocol: Collusive, cohort: int, roster: Roster | None) -> int:
    """c of a session: counted over all enrolled clients against a malicious server, else over the cohort.

    ``protocol`` states the ``corruption`` (a fraction) and the threat model. ``cohort`` is the number of clients in
    the session, and ``roster`` lists the enrolled ones. c is 0 under a protocol that states no corruption.
    """
    if protocol.corruption is None:
        return 0
    enrolled = cohort if roster is None else len(roster.ids(PartyRole.CLIENT))
    return corrupt_count(protocol.corruption, enrolled if protocol.threat_model == "malicious" else cohort)


def check_floor(task: Task, corrupt: int) -> None:
    """``ConfigError`` unless every opened sum holds at least two honest updates if ``corrupt`` clients collude."""
    if task.min_survivors < corrupt + 2:
        raise ConfigError(
            f"got min_survivors={task.min_survivors} with {corrupt} clients possibly corrupt; expected "
            f"at least {corrupt + 2}, so that no sum opens for one honest client: raise min_survivors, or "
            "lower corruption if fewer can collude"
        )


def check_corruption(corruption: object) -> float:
    """``corruption`` as a float; ``ConfigError`` unless it is a number from 0 to below 1."""
    fraction = real(corruption)
    if not 0 <= fraction < 1:
        raise ConfigError(f"got corruption={shown(corruption)}; expected a number of at least 0, below 1")
    return fraction


#: What the server may do: anything, anything once the graph is fixed, or nothing but read.
ThreatModel = Literal["malicious", "semi-malicious", "semi-honest"]

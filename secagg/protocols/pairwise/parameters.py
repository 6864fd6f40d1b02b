"""The parameters of SecAgg and SecAggPlus, and the rules that follow from them: thresholds, floors, collusion.

The roles read these. The classes that a user makes are in ``protocol``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secagg.corruption import ThreatModel, check_corruption, corrupt_among, corrupt_count
from secagg.errors import ConfigError, choice
from secagg.identity import Roster
from secagg.lanes import check_mask_bits
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.pairwise.neighbours import Shape

if TYPE_CHECKING:
    from secagg.task import Task


@dataclass(frozen=True)
class Pairwise(AggregationProtocol):
    """The parameters and rules that SecAgg and SecAggPlus share; here every client is every other's neighbour."""

    corruption: float
    threat_model: ThreatModel

    name: ClassVar[str]
    threat_models: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "threat_model", choice("threat_model", self.threat_model, self.threat_models))
        object.__setattr__(self, "corruption", check_corruption(self.corruption))

    @property
    def checked(self) -> bool:
        """Whether clients sign survivor lists, and refuse a list with too few signatures."""
        return self.threat_model != "semi-honest"

    def corrupt(self, cohort: int, roster: Roster | None) -> int:
        """c: the number of clients that may collude, as :func:`secagg.corruption.corrupt_among` counts it."""
        return corrupt_among(self, cohort, roster)

    def threshold(self, present: int, corrupt: int) -> int:
        """t on the complete graph: how many shares rebuild a secret when ``present`` clients deal.

        Where survivor lists are signed, t is above (n + c)/2. Two sets of t clients then have an honest client in
        common, so the server can't get t shares of both secrets of one client (section 6.2 of the paper). Under
        ``"semi-honest"``, t is one more than ``corrupt``, the number of clients that may collude.
        """
        return self.quorum(present, corrupt) or max(2, corrupt + 1)

    def quorum(self, present: int, corrupt: int) -> int:
        """The number of signatures that a survivor list needs: more than (n + c)/2, so at most one list has them.

        ``present`` is n, the number of clients in the session, and ``corrupt`` is c, how many of them may collude.
        The quorum is 0 where clients sign nothing.
        """
        return (present + corrupt) // 2 + 1 if self.checked else 0

    def shape(self, task: Task, present: int, corrupt: int) -> Shape:
        """The numbers of the complete graph over ``present`` clients, of whom ``corrupt`` may collude."""
        return Shape(present, present - 1, self.threshold(present, corrupt), self.quorum(present, corrupt))

    def floor(self, task: Task, shape: Shape) -> int:
        """The number of clients that must remain in every round; with fewer, nothing is opened.

        ``shape`` has the numbers of the session's graph.
        """
        return max(task.min_survivors, shape.threshold, shape.quorum)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if no cohort could be safe."""
        check_mask_bits(task)
        # A task that fails here, with the smallest cohort, fails with every roster and every larger cohort.
        self._check_floor(task, task.min_survivors, corrupt_count(self.corruption, task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for a missing roster, or one with so many clients that no cohort could be safe."""
        if self.checked and roster is None:
            raise ConfigError(
                f'got no roster; threat_model="{self.threat_model}" needs identities that the server can\'t '
                f'invent: pass roster= and identity=, or ask for {self.name}(threat_model="semi-honest") by name'
            )
        if self.threat_model != "malicious":
            return
        self._check_cohort_size(task, task.max_clients, self.corrupt(task.max_clients, roster))
        least = max(task.min_survivors, self.corrupt(task.max_clients, roster) + 2)
        self._check_floor(task, least, self.corrupt(least, roster))

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` where threshold, floor and cohort contradict each other."""
        c = self.corrupt(len(cohort), roster)
        self._check_cohort_size(task, len(cohort), c)
        self._check_floor(task, len(cohort), c)

    def _check_cohort_size(self, task: Task, present: int, corrupt: int) -> None:
        if self.threat_model == "malicious" and present < corrupt + 2:
            raise ConfigError(
                f"got a cohort of {present}, where {corrupt} of all enrolled clients may be corrupt; expected "
                f"at least {max(corrupt + 2, task.min_survivors)}: ask more clients, or enrol fewer"
            )

    def _check_floor(self, task: Task, present: int, corrupt: int) -> None:
        shape = self.shape(task, present, corrupt)
        least = max(shape.threshold, shape.quorum, corrupt + 2)
        if task.min_survivors < least:
            raise ConfigError(
                f"got min_survivors={task.min_survivors} with a cohort of {present}, {corrupt} of them possibly "
                f"corrupt; expected at least {least}, so that the server can't open two sums of one session, or a "
                "sum with one honest client: raise min_survivors, or lower corruption if fewer can collude"
            )

    def collusion(self, task: Task, present: int | None) -> str:
        """Who must collude to learn one client's update: the server and c + 1 clients, or all others in the sum.

        ``present`` is the number of clients in the session; None means the smallest session that the task allows.
        """
        smallest = task.min_survivors if present is None else present
        breaks = min(self.corrupt(smallest, None) + 1, task.min_survivors - 1)
        least = "" if present is not None else " in the smallest session allowed"
        return f"the server and {breaks} of {smallest} clients{least}"

    def describe(self, task: Task) -> list[str]:
        """Threat model, thresholds and floor: the lines for :meth:`secagg.Task.describe`."""
        among = "enrolled" if self.threat_model == "malicious" else "in the cohort"
        return [
            f"{self.threat_model} server, which up to {self.corruption:.0%} of the clients {among} may help",
            f"{self._thresholds(task)} rebuild a secret; no sum of fewer than {task.min_survivors} is opened",
        ]

    def _thresholds(self, task: Task) -> str:
        shapes = self._shapes(task)
        return " to ".join(f"{shape.threshold} of {shape.nodes}" for shape in shapes) + " shares"

    def _shapes(self, task: Task) -> list[Shape]:
        """The graph's numbers for the smallest and the largest cohort."""
        sizes = sorted({task.min_survivors, task.max_clients})
        return [self.shape(task, size, self.corrupt(size, None)) for size in sizes]

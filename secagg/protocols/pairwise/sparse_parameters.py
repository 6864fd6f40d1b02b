"""The parameters of SecAggPlus, and the rules of its sparse graph.

The roles read these. The class that a user makes is in ``protocol``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpc import graph
from secagg.beacon import SLACK_BITS, Beacon
from secagg.corruption import corrupt_count
from secagg.errors import ConfigError, blaming, shown
from secagg.protocols.pairwise.neighbours import Shape
from secagg.protocols.pairwise.parameters import Pairwise

if TYPE_CHECKING:
    from secagg.task import Task

MAX_POINT = (1 << 16) - 1


@dataclass(frozen=True)
class Sparse(Pairwise):
    """A sparse random graph (Bell et al. 2020), or the complete one where no sparse graph is safe.

    ``beacon`` is what the graph is drawn from under ``threat_model="malicious"``, else None.
    """

    beacon: Beacon | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat_model == "malicious" and self.beacon is None:
            raise ConfigError(
                'got threat_model="malicious" without beacon=; a server that knows how the graph will be drawn can '
                'choose a client\'s neighbours: pass a secagg.beacon.SignedBeacon(...), or use "semi-malicious", '
                "or SecAgg()"
            )
        if self.beacon is not None and self.threat_model != "malicious":
            raise ConfigError(
                f'got beacon= with threat_model="{self.threat_model}"; only "malicious" draws from one'
            )
        with blaming(ConfigError, "got beacon= that can't be read; expected a secagg.beacon.SignedBeacon(...)"):
            if self.beacon is not None and not isinstance(self.beacon, Beacon):
                raise ConfigError(
                    f"got beacon={shown(self.beacon)}; expected one such as secagg.beacon.SignedBeacon(...)"
                )

    @property
    def uses_beacon(self) -> bool:
        """Whether the graph is drawn from a beacon's value, published after the keys were frozen."""
        return self.threat_model == "malicious"

    def shape(self, task: Task, present: int, corrupt: int) -> Shape:
        """The numbers of the graph over ``present`` clients, of whom ``min_survivors`` are sure to stay.

        ``corrupt`` of them may collude with the server.
        """
        # The server may choose the value that suits it best among the 2^SLACK_BITS that a client accepts.
        security = graph.SECURITY + (SLACK_BITS if self.uses_beacon else 0)
        sparse = None
        if present >= task.min_survivors and present > corrupt:
            sparse = graph.sparse_parameters(
                present,
                corrupt=corrupt,
                dropping=present - task.min_survivors,
                server="semi-malicious" if self.checked else "curious",
                security=security,
                windows=self.checked,
            )
        if sparse is None:
            return super().shape(task, present, corrupt)
        degree, threshold = sparse
        window = degree // 2 if self.checked else 0
        least = graph.window_floor(present, corrupt=corrupt, window=window, security=security) if window else 0
        return Shape(present, degree, threshold, self.quorum(present, corrupt), window, least)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if the largest cohort could not be served."""
        super().validate(task)
        corrupt = corrupt_count(self.corruption, task.max_clients)
        self._check_floor(task, task.max_clients, corrupt)
        if self.shape(task, task.max_clients, corrupt).degree >= MAX_POINT:
            raise ConfigError(
                f"got max_clients={task.max_clients} with min_survivors={task.min_survivors}, for which a client "
                f"would need {MAX_POINT} neighbours or more: raise min_survivors or lower max_clients"
            )

    def _thresholds(self, task: Task) -> str:
        return " to ".join(
            f"{shape.threshold} of {shape.nodes if shape.complete else shape.degree} shares ({shape.nodes} clients)"
            for shape in self._shapes(task)
        )

    def collusion(self, task: Task, present: int | None) -> str:
        """Who must collude; under ``"semi-honest"`` also what a lying server could do alone."""
        plain, nodes = super().collusion(task, present), present or task.max_clients
        if self.checked:
            return plain
        shape = self.shape(task, nodes, self.corrupt(nodes, None))
        # It asks one half of a client's holders for shares of its self mask, and the other half for its key.
        alone = 2 * shape.threshold <= shape.degree
        return (
            f"{plain}; a server that lies about who dropped out can do it alone"
            if alone
            else f"{plain}; nothing is promised against a server that lies about who dropped out"
        )

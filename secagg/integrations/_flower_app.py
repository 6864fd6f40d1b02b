"""A ClientApp that has the mod, and the grid that goes with it: what both sides share is written once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from flwr.app import Context
from flwr.clientapp import ClientApp

from secagg._numbers import is_a, whole
from secagg.corruption import ThreatModel
from secagg.errors import ConfigError, shown
from secagg.fixed_point import FixedPoint
from secagg.integrations._flower_client import client_mod
from secagg.integrations._flower_records import layout_of
from secagg.integrations._flower_server import SecureGrid
from secagg.protocols.pairwise import SecAgg
from secagg.task import Task


class SecureClientApp(ClientApp):  # type: ignore[misc]
    """A ``ClientApp`` whose first mod is :func:`client_mod`; ``mods`` are the app's own, and come after it.

    The ServerApp imports it from the ClientApp's module, because :meth:`secure_grid` knows its task and metrics:
    ``strategy.start(grid=client_app.secure_grid(grid, context), ...)``. The other arguments are those of
    :func:`client_mod`.
    """

    def __init__(
        self,
        task: Task,
        *,
        metrics: Mapping[str, float] | None = None,
        weighted_by: str = "num-examples",
        simulated: Task | None = None,
        mods: Iterable[Any] = (),
    ) -> None:
        if not isinstance(task, Task):
            raise ConfigError(
                f"got an object of class {type(task).__name__} as the task; expected a secagg.Task; for a model, "
                "use SecureClientApp.of"
            )
        mod = client_mod(task, metrics=metrics, weighted_by=weighted_by, simulated=simulated)
        super().__init__(mods=[mod, *mods])
        self.task, self.metrics = task, metrics

    @classmethod
    def of(
        cls,
        model: Any,
        *,
        max_clients: int,
        min_survivors: int | None = None,
        max_weight: int | None = None,
        clip: float | Mapping[str, float] = 1.0,
        threat_model: ThreatModel = "malicious",
        **arguments: Any,
    ) -> Self:
        """The app of a ``SecAgg`` task for ``model``: an ``ArrayRecord``, or what Flower makes one of.

        ``min_survivors`` is by default four fifths of ``max_clients``, rounded up; ``clip`` bounds each coordinate
        of an update, in 16 bits. Without ``max_weight`` every client counts once. ``threat_model="semi-honest"``
        needs no keys and no roster. ``arguments`` are those of the class. ``ConfigError`` if they don't fit.
        """
        count = whole(max_clients)
        if count is None:
            raise ConfigError(f"got max_clients={shown(max_clients)}; expected a whole number of clients")
        task = Task(
            protocol=SecAgg(threat_model=threat_model),
            layout=layout_of(model),
            encoding=FixedPoint(clip=clip),
            max_clients=count,
            min_survivors=-(-4 * count // 5) if min_survivors is None else min_survivors,
            max_weight=max_weight,
        )
        return cls(task, **arguments)

    def secure_grid(self, grid: Any, context: Any, **arguments: Any) -> SecureGrid:
        """The :class:`SecureGrid` over ``grid`` for this app's task and metrics, in the run of ``context``.

        ``arguments`` are those of :class:`SecureGrid`, such as ``roster``, ``deadlines`` and ``strategies``.
        """
        if not is_a(context, Context):
            raise ConfigError(f"got {shown(context)} as the context; expected secure_grid(grid, context)")
        return SecureGrid(grid, self.task, metrics=self.metrics, run_config=context.run_config, **arguments)

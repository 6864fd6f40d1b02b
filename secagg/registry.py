"""Where each public name lives: one list for ``import secagg``, one for the classes that a written task may name.

A module is imported when one of its names is first used, so that ``import secagg`` stays light.
"""

import dataclasses
import importlib

#: Public names that ``import secagg`` offers, besides the errors.
PUBLIC = {
    "AdditiveShares": "secagg.protocols.shares",
    "Aggregator": "secagg.roles",
    "BFV": "secagg.protocols.encrypted",
    "CKKS": "secagg.protocols.encrypted",
    "Clear": "secagg.protocols.clear",
    "Client": "secagg.roles",
    "Decryptor": "secagg.roles",
    "DrawnOneShot": "secagg.protocols.oneshot",
    "FixedPoint": "secagg.fixed_point",
    "Layout": "secagg.layout",
    "OneShot": "secagg.protocols.oneshot",
    "Outcome": "secagg.roles",
    "Paillier": "secagg.protocols.encrypted",
    "PartyFolder": "secagg.folder",
    "Round": "secagg.table",
    "SecAgg": "secagg.protocols.pairwise",
    "SecAggPlus": "secagg.protocols.pairwise",
    "Server": "secagg.roles",
    "Simulation": "secagg.simulation",
    "Task": "secagg.task",
    "aconnect": "secagg.remote",
    "arun_client": "secagg.transport",
    "arun_server": "secagg.transport",
    "connect": "secagg.remote",
    "load_roster": "secagg.identity",
    "run_client": "secagg.transport",
    "run_server": "secagg.transport",
    "simulate": "secagg.simulation",
}

_IN_TASKS = (
    *("AdditiveShares", "BFV", "CKKS", "Clear", "FixedPoint", "Layout", "OneShot", "Paillier", "SecAgg"),
    *("DrawnOneShot", "SecAggPlus"),
)

#: Classes that a written task may name. Reading a task imports nothing else.
TASK_CLASSES = {name: PUBLIC[name] for name in _IN_TASKS} | {
    "Branch": "secagg.layout",
    "CentralGaussian": "dp.central",
    "DistributedGaussian": "dp.distributed",
    "DistributedSkellam": "dp.distributed",
    "Leaf": "secagg.layout",
    "SignedBeacon": "secagg.beacon",
}


class TaskClasses(dict[str, type]):
    """Classes by the names that a written task uses for them; the library's own are imported when named."""

    def get(self, name: str, default: type | None = None) -> type | None:  # type: ignore[override]
        """The class of this name; ``default`` for an unknown name, None for a class that is not a dataclass."""
        if name not in self and name in TASK_CLASSES:
            self[name] = getattr(importlib.import_module(TASK_CLASSES[name]), name)
        kind = super().get(name, default)
        return kind if kind is None or dataclasses.is_dataclass(kind) else None

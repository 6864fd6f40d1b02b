"""Where each public name lives: one list for ``import secagg``, and one for what a written task may name.

Modules are imported when a name is first used, so that ``import secagg`` stays light.
"""

#: Public names that ``import secagg`` offers, beside the errors.
PUBLIC = {
    "AdditiveShares": "secagg.protocols.shares",
    "Aggregator": "secagg.roles",
    "BFV": "secagg.protocols.encrypted",
    "CKKS": "secagg.protocols.encrypted",
    "Clear": "secagg.protocols.clear",
    "Client": "secagg.roles",
    "Decryptor": "secagg.roles",
    "FixedPoint": "secagg.fixed_point",
    "Layout": "secagg.layout",
    "Outcome": "secagg.roles",
    "Paillier": "secagg.protocols.encrypted",
    "Round": "secagg.table",
    "SecAgg": "secagg.protocols.pairwise",
    "SecAggPlus": "secagg.protocols.pairwise",
    "Server": "secagg.roles",
    "Simulation": "secagg.simulation",
    "Task": "secagg.task",
    "load_roster": "secagg.identity",
    "simulate": "secagg.simulation",
}

_IN_TASKS = ("AdditiveShares", "BFV", "CKKS", "Clear", "FixedPoint", "Layout", "Paillier", "SecAgg", "SecAggPlus")

#: Classes that a written task may name. Nothing else is ever imported for one.
TASK_CLASSES = {name: PUBLIC[name] for name in _IN_TASKS} | {
    "Branch": "secagg.layout",
    "CentralGaussian": "dp.central",
    "DistributedGaussian": "dp.distributed",
    "DistributedSkellam": "dp.distributed",
    "Leaf": "secagg.layout",
    "SignedBeacon": "secagg.beacon",
}

"""Secure aggregation for federated learning: the server sums what it cannot read.

Make a :class:`Task` once per run; give its bytes to every party; drive ``task.server(...)`` and
``task.client(...)`` with the transport you have. ``simulate`` plays all parties in one process.
"""

import importlib
import logging
from typing import TYPE_CHECKING

from secagg import _cores
from secagg.errors import (
    Aborted,
    ConfigError,
    EncodingError,
    Fault,
    FaultKind,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    SecAggError,
)

if TYPE_CHECKING:
    from secagg.fixed_point import FixedPoint
    from secagg.identity import load_roster
    from secagg.layout import Layout
    from secagg.protocols.clear import Clear
    from secagg.protocols.encrypted import BFV, CKKS, Paillier
    from secagg.protocols.pairwise import SecAgg, SecAggPlus
    from secagg.protocols.shares import AdditiveShares
    from secagg.roles.client import Client
    from secagg.roles.listener import Aggregator, Decryptor
    from secagg.roles.outcome import Outcome
    from secagg.roles.server import Server
    from secagg.simulation import Simulation, simulate
    from secagg.table import Round
    from secagg.task import Task

_HOMES = {
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

__all__ = [
    "BFV",
    "CKKS",
    "Aborted",
    "AdditiveShares",
    "Aggregator",
    "Clear",
    "Client",
    "ConfigError",
    "Decryptor",
    "EncodingError",
    "Fault",
    "FaultKind",
    "FixedPoint",
    "Layout",
    "LocalProtocolError",
    "Outcome",
    "Paillier",
    "ProtocolError",
    "RemoteProtocolError",
    "Round",
    "SecAgg",
    "SecAggError",
    "SecAggPlus",
    "Server",
    "Simulation",
    "Task",
    "load_roster",
    "simulate",
]

logging.getLogger("secagg").addHandler(logging.NullHandler())
_cores.check(__file__)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'secagg' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

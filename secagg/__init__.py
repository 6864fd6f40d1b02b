"""Secure aggregation for federated learning: the server sums what it cannot read.

Make a :class:`Task` once per run; give its bytes to every party; drive ``task.server(...)`` and
``task.client(...)`` with the transport you have. ``simulate`` plays all parties in one process.
"""

import importlib
import logging
from typing import TYPE_CHECKING

from secagg import _cores
from secagg.errors import (
    Aborted as Aborted,
    ConfigError as ConfigError,
    EncodingError as EncodingError,
    Fault as Fault,
    FaultKind as FaultKind,
    LocalProtocolError as LocalProtocolError,
    ProtocolError as ProtocolError,
    Refused as Refused,
    RemoteProtocolError as RemoteProtocolError,
    SecAggError as SecAggError,
)
from secagg.registry import PUBLIC

if TYPE_CHECKING:
    from secagg.fixed_point import FixedPoint as FixedPoint
    from secagg.folder import PartyFolder as PartyFolder
    from secagg.identity import load_roster as load_roster
    from secagg.layout import Layout as Layout
    from secagg.protocols.clear import Clear as Clear
    from secagg.protocols.encrypted import BFV as BFV, CKKS as CKKS, Paillier as Paillier
    from secagg.protocols.oneshot import DrawnOneShot as DrawnOneShot, OneShot as OneShot
    from secagg.protocols.pairwise import SecAgg as SecAgg, SecAggPlus as SecAggPlus
    from secagg.protocols.shares import AdditiveShares as AdditiveShares
    from secagg.remote import aconnect as aconnect, connect as connect
    from secagg.roles.client import Client as Client
    from secagg.roles.listener import Aggregator as Aggregator, Decryptor as Decryptor
    from secagg.roles.outcome import Outcome as Outcome
    from secagg.roles.server import Server as Server
    from secagg.simulation import Simulation as Simulation, simulate as simulate
    from secagg.table import Round as Round
    from secagg.task import Task as Task
    from secagg.transport import (
        arun_client as arun_client,
        arun_server as arun_server,
        run_client as run_client,
        run_server as run_server,
    )

_ERRORS = (
    *("Aborted", "ConfigError", "EncodingError", "Fault", "FaultKind", "LocalProtocolError"),
    *("ProtocolError", "Refused", "RemoteProtocolError", "SecAggError"),
)

__all__ = sorted([*_ERRORS, *PUBLIC])

logging.getLogger("secagg").addHandler(logging.NullHandler())
_cores.check(__file__)


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'secagg' has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Differential privacy on integers: exact noise, mechanisms, clipping, distributed noise and accounting.

This package knows nothing of federated learning or of cryptographic protocols. Each public name is loaded when
it is first used, so ``import dp`` loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING

from dp.errors import DPError

if TYPE_CHECKING:
    from dp.accounting import RDPAccountant
    from dp.central import CentralGaussian
    from dp.clipping import AdaptiveClip, clip_l2, clip_layers, clip_linf
    from dp.distributed import (
        DistributedGaussian,
        DistributedSkellam,
        distributed_gaussian_epsilon,
        distributed_skellam_epsilon,
    )
    from dp.ledger import PrivacyLedger
    from dp.mechanisms import GaussianMechanism, LaplaceMechanism
    from dp.pld import pld_epsilon
    from dp.sampling import sample_discrete_gaussian, sample_discrete_laplace, sample_skellam

_HOMES = {
    "AdaptiveClip": "dp.clipping",
    "CentralGaussian": "dp.central",
    "DistributedGaussian": "dp.distributed",
    "DistributedSkellam": "dp.distributed",
    "GaussianMechanism": "dp.mechanisms",
    "LaplaceMechanism": "dp.mechanisms",
    "PrivacyLedger": "dp.ledger",
    "RDPAccountant": "dp.accounting",
    "clip_l2": "dp.clipping",
    "clip_layers": "dp.clipping",
    "clip_linf": "dp.clipping",
    "distributed_gaussian_epsilon": "dp.distributed",
    "distributed_skellam_epsilon": "dp.distributed",
    "pld_epsilon": "dp.pld",
    "sample_discrete_gaussian": "dp.sampling",
    "sample_discrete_laplace": "dp.sampling",
    "sample_skellam": "dp.sampling",
}

__distribution__ = "secagg/dp"  # secagg checks this name, because other distributions install a package 'dp' too

__all__ = [
    "AdaptiveClip",
    "CentralGaussian",
    "DPError",
    "DistributedGaussian",
    "DistributedSkellam",
    "GaussianMechanism",
    "LaplaceMechanism",
    "PrivacyLedger",
    "RDPAccountant",
    "clip_l2",
    "clip_layers",
    "clip_linf",
    "distributed_gaussian_epsilon",
    "distributed_skellam_epsilon",
    "pld_epsilon",
    "sample_discrete_gaussian",
    "sample_discrete_laplace",
    "sample_skellam",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

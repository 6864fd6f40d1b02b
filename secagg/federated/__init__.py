"""Federated learning around the secure sum: what a server and its clients do before and after it.

This package stands above the protocols: nothing below imports it, and ``import secagg`` does not load it. It needs
NumPy and no framework. A *model* or an *update* is anything that :meth:`secagg.Layout.of` takes.
"""

from secagg.federated.noise import mean_noise_std
from secagg.federated.optimizers import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedSGD,
    FedYogi,
    OptimizerState,
    ServerOptimizer,
)

__all__ = [
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedSGD",
    "FedYogi",
    "OptimizerState",
    "ServerOptimizer",
    "mean_noise_std",
]

"""Federated learning around the secure sum: what a server and its clients do before and after it.

This package stands above the protocols: nothing below imports it, and ``import secagg`` does not load it. It needs
NumPy and no framework. A *model* or an *update* is anything that :meth:`secagg.Layout.of` takes.
"""

from secagg.federated.compression import Compression, CountSketch, RandomK
from secagg.federated.masks import Pruned, PublicMask, union_density
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
from secagg.federated.residual import Residual

__all__ = [
    "Compression",
    "CountSketch",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedSGD",
    "FedYogi",
    "OptimizerState",
    "Pruned",
    "PublicMask",
    "RandomK",
    "Residual",
    "ServerOptimizer",
    "mean_noise_std",
    "union_density",
]

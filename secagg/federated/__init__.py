"""Federated learning around the secure sum: what a server and its clients do before and after it.

This package stands above the protocols: nothing below imports it, and ``import secagg`` does not load it. It needs
NumPy and no framework. A *model* or an *update* is anything that :meth:`secagg.Layout.of` takes.
"""

from secagg.federated.clients import DPSGD, PoissonBatch, PoissonBatches, clip_per_example, fedprox_gradient
from secagg.federated.compression import Compression, CountSketch, RandomK
from secagg.federated.groups import (
    draw_groups,
    from_beacon,
    from_session,
    group_task,
    likelihood,
    simulate_groups,
)
from secagg.federated.guarantee import Guarantee
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
from secagg.federated.robust import CoordinateMedian, GeometricMedian, GroupRule, NormClippedMean, TrimmedMean

__all__ = [
    "DPSGD",
    "Compression",
    "CoordinateMedian",
    "CountSketch",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedSGD",
    "FedYogi",
    "GeometricMedian",
    "GroupRule",
    "Guarantee",
    "NormClippedMean",
    "OptimizerState",
    "PoissonBatch",
    "PoissonBatches",
    "Pruned",
    "PublicMask",
    "RandomK",
    "Residual",
    "ServerOptimizer",
    "TrimmedMean",
    "clip_per_example",
    "draw_groups",
    "fedprox_gradient",
    "from_beacon",
    "from_session",
    "group_task",
    "likelihood",
    "mean_noise_std",
    "simulate_groups",
    "union_density",
]

"""How much noise the mean of a secure sum has: what a server optimizer may correct for."""

import math
from typing import Any

import dp
from secagg._numbers import is_a, whole
from secagg.errors import ConfigError, shown
from secagg.fixed_point import FixedPoint
from secagg.task import Task


def mean_noise_std(task: Task, survivors: int) -> float:
    """The standard deviation of the noise in one coordinate of the mean over ``survivors``, rounding included.

    ``survivors`` is a number of clients that ``task`` allows. It is 0 for ``FixedPoint``, whose rounding is counted
    as none; under an encoding of ``dp`` it supposes that all survivors added their noise. Of a mean that a
    compression expanded, it says nothing. Raises ``ConfigError`` for an encoding that is not the library's own, and
    for a number of survivors that the task doesn't allow.
    """
    if not is_a(task, Task):
        raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task")
    count = whole(survivors)
    if count is None or not task.min_survivors <= count <= task.max_clients:
        raise ConfigError(
            f"got {shown(survivors)} survivors; expected {task.min_survivors} to {task.max_clients}, as the task "
            "allows"
        )
    encoder: Any = task.encoder
    if is_a(encoder, (FixedPoint,)):
        return 0.0
    if is_a(encoder, (dp.DistributedGaussian, dp.DistributedSkellam)):
        grid = encoder.grid(task.layout.size)
        return float(grid.step * math.sqrt((grid.sigma**2 + 0.25) / count))
    if is_a(encoder, (dp.CentralGaussian,)):
        step = encoder.l2_clip / ((1 << (encoder.bits - 1)) - 1)
        return math.hypot(encoder.noise_multiplier * encoder.l2_clip, step * math.sqrt(count) / 2) / count
    raise ConfigError(
        f"got the encoding {shown(encoder)}, whose noise is not known here; pass noise_std yourself, the standard "
        "deviation of one coordinate of the mean"
    )

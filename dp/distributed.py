"""Distributed differential privacy: each client adds a share of the noise, and only the sum is private.

A client rotates its update at random, clips it, rounds it to integers at random and adds integer
noise; the server sees the sum modulo 2^bits, and turns it back. Both classes here are encodings for
``secagg.Task(encoding=...)``, with any protocol, without knowing that package: all protocols
return exact sums.

Two counts of clients matter. ``clients``, the most that may be in a sum, sets the grid, so that the sum
wraps as seldom as ``k_stddevs`` says. ``honest``, the fewest that are in it and collude with nobody, sets
the noise, and every ε that is guaranteed.

Sources: Kairouz, Liu and Steinke 2021 (the distributed discrete Gaussian, rotation, conditional
rounding); Agarwal, Kairouz and Liu 2021 (Skellam). Privacy rests on integers alone: the norm is
checked on them before noise is added, and a rounding error of the rotation costs accuracy only.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp import sampling
from dp._curves import NARROWEST_TERM
from dp._distributed import MAX_CLIENTS, Distributed
from dp._encoding import Rng
from dp._grid import Grid, norms
from dp.events import DistributedGaussianEvent, Event, SkellamEvent

__all__ = [
    "MAX_CLIENTS",
    "DistributedGaussian",
    "DistributedSkellam",
    "distributed_gaussian_epsilon",
    "distributed_skellam_epsilon",
]

_LEAST_WIDTH = 2.0**-30  # of noise, in steps of the grid


@dataclass(frozen=True, slots=True)
class DistributedGaussian(Distributed):
    """Discrete Gaussian noise from each client, for sums that are private (DDG).

    - ``l2_clip`` c (1e-100 to 1e100): longer updates are shortened to it. ``noise_multiplier`` z (1e-6 to
      1e6): the guaranteed noise of the sum, in clips; each client's has σ = z·c/√``honest``.
    - ``bits`` (2 to 32): the width of the modulus, in which the sum of all clients is to fit.
    - ``clients``: the task's max_clients. ``honest``: the survivors that it guarantees to be honest.
      ``corrupt``: how many of those who survive may collude with the server. Leave all three out and the
      task gives them (:meth:`for_task`); those that are given are held to the task (:meth:`check`).
    - ``k_stddevs``: standard deviations of the sum that fit into half the modulus. ``beta`` (0 to 0.9): the
      probability at most that a rounding is redrawn; 0 allows for any rounding, and costs more privacy.
    - ``delta``: the δ at which ε is stated. ``seed``: of the rotation, public, at most 64 bytes; a task
      has each session rotate in its own way (:meth:`for_session`). ``trust``: ``"distributed"``, or ``"local"``
      where each term is seen by itself and so ``honest`` is 1; a task states it.

    Neighbours are one update and zero in its place; who took part is public. No weights. Raises
    :class:`DPError` if a field is out of range.
    """

    def _noise(self, grid: Grid, rng: Rng) -> NDArray[np.int64]:
        return sampling.sample_discrete_gaussian(grid.sigma, grid.dimension, rng=rng)

    def _event(self, grid: Grid, honest: int) -> Event:
        l2, l1 = norms(grid)
        return DistributedGaussianEvent(honest, grid.sigma, l2, l1, grid.dimension, grid.clamped)

    def widest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`."""
        return float(sampling.MAX_WIDTH)

    def narrowest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`; what is by itself is no sum."""
        return NARROWEST_TERM if self.honest > 1 else _LEAST_WIDTH

    def log_tail(self, sigma: float, reach: float) -> float:
        """See :class:`dp._grid.NoiseParameters`."""
        return -(reach / sigma * reach / sigma) / 2  # Canonne, Kamath and Steinke: it is subgaussian with σ


@dataclass(frozen=True, slots=True)
class DistributedSkellam(Distributed):
    """Skellam noise from each client, of which sums are Skellam again: no error term for the sum.

    Fields, neighbours and errors are those of :class:`DistributedGaussian`.
    """

    def _noise(self, grid: Grid, rng: Rng) -> NDArray[np.int64]:
        return sampling.sample_skellam(grid.sigma**2, grid.dimension, rng=rng)

    def _event(self, grid: Grid, honest: int) -> Event:
        return SkellamEvent(honest * grid.sigma**2, *norms(grid), grid.clamped)

    def widest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`."""
        return math.sqrt(sampling.MAX_SKELLAM_VARIANCE)

    def narrowest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`; sums of Skellam noise are Skellam noise, whatever its variance."""
        return _LEAST_WIDTH

    def log_tail(self, sigma: float, reach: float) -> float:
        """See :class:`dp._grid.NoiseParameters`."""
        variance = sigma**2  # Chernoff: E exp(tX) = exp(variance·(cosh t - 1))
        return reach**2 / (math.hypot(reach, variance) + variance) - reach * math.asinh(reach / variance)


def distributed_gaussian_epsilon(
    *,
    bits: int,
    clients: int,
    dimension: int,
    noise_multiplier: float,
    k_stddevs: float = 4.0,
    delta: float = 1e-5,
    beta: float = math.exp(-0.5),
    honest: int | None = None,
    rounds: int = 1,
) -> float:
    """ε at ``delta`` of ``rounds`` of :class:`DistributedGaussian`, before anything runs.

    All ``clients`` are honest and survive, unless ``honest`` says how many are sure to. ε doesn't depend
    on the clip. Raises :class:`DPError` for what the encoding would refuse.
    """
    sure = clients if honest is None else honest
    encoding = DistributedGaussian(
        1.0, noise_multiplier, bits, clients=clients, honest=sure, k_stddevs=k_stddevs, beta=beta, delta=delta
    )
    return encoding.epsilon(dimension, rounds=rounds)


def distributed_skellam_epsilon(
    *,
    bits: int,
    clients: int,
    dimension: int,
    noise_multiplier: float,
    k_stddevs: float = 4.0,
    delta: float = 1e-5,
    beta: float = math.exp(-0.5),
    honest: int | None = None,
    rounds: int = 1,
) -> float:
    """:func:`distributed_gaussian_epsilon` for :class:`DistributedSkellam`."""
    sure = clients if honest is None else honest
    encoding = DistributedSkellam(
        1.0, noise_multiplier, bits, clients=clients, honest=sure, k_stddevs=k_stddevs, beta=beta, delta=delta
    )
    return encoding.epsilon(dimension, rounds=rounds)

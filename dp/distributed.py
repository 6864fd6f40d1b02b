"""Distributed differential privacy: each client adds a share of the noise, and only the sum is private.

A client rotates its update at random, clips it, rounds it to integers at random and adds integer noise. The
server sees the sum modulo 2^bits and undoes the rotation. Both classes here are encodings for
``secagg.Task(encoding=...)`` with any protocol, because all protocols return exact sums.

Two numbers of clients matter. ``clients`` is the most that a sum may hold. It decides the grid, so that the sum
wraps as rarely as ``k_stddevs`` says. ``honest`` is the fewest clients in a sum that collude with nobody. It
decides the noise, and every guaranteed ε.

Sources: Kairouz, Liu and Steinke 2021 (the distributed discrete Gaussian, rotation, conditional rounding);
Agarwal, Kairouz and Liu 2021 (Skellam). Privacy depends on integers alone: the norm is checked on the integers
before noise is added, so a floating-point error in the rotation costs accuracy only.
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

_LEAST_WIDTH = 2.0**-30  # least standard deviation of noise, in steps of the grid


@dataclass(frozen=True, slots=True)
class DistributedGaussian(Distributed):
    """The distributed discrete Gaussian: each client adds a share of discrete Gaussian noise.

    - ``l2_clip`` c (1e-100 to 1e100): a client shortens a longer update to this norm. ``noise_multiplier`` z (1e-6
      to 1e6): the guaranteed noise of the sum, in clips; the noise of each client has σ = z·c/√``honest``.
    - ``bits`` (2 to 32): the width of the modulus, which has room for the sum of all clients.
    - ``clients``: the task's max_clients. ``honest``: the number of honest survivors that the task guarantees.
      ``corrupt``: how many survivors may collude with the server. If all three are left out, the task fills them
      in (:meth:`for_task`); otherwise they are checked against the task (:meth:`check`).
    - ``k_stddevs`` (0.1 to 1000): standard deviations of the sum that fit into half the modulus. ``beta`` (0 to
      0.9): a bound on the probability that a rounding is rejected and repeated; 0 rejects none, and raises ε.
    - ``delta``: the δ at which ε is stated. ``seed``: the public seed of the rotation, at most 64 bytes; a task
      derives another one for each session (:meth:`for_session`). ``trust``: ``"distributed"``, or ``"local"`` if
      others can see each term by itself, so that ``honest`` is 1; a task sets it.

    Neighbours are one update and zero in its place; who took part is public. There are no weights. Raises
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
        """See :class:`dp._grid.NoiseParameters`. The bound on sums doesn't matter for the noise of one client."""
        return NARROWEST_TERM if self.honest > 1 else _LEAST_WIDTH

    def log_tail(self, sigma: float, reach: float) -> float:
        """See :meth:`dp._distributed.Distributed.log_tail`."""
        return -(reach / sigma * reach / sigma) / 2  # it is subgaussian with σ (Canonne, Kamath and Steinke)


@dataclass(frozen=True, slots=True)
class DistributedSkellam(Distributed):
    """Skellam noise from each client. A sum of Skellam noises is Skellam noise, so the sum needs no error term.

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
        """See :meth:`dp._distributed.Distributed.log_tail`."""
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
    """ε at ``delta`` of ``rounds`` with :class:`DistributedGaussian`, for planning.

    ``dimension`` is the number of coordinates of an update, and ``clients`` the largest number of clients in a
    session. ``honest`` is the guaranteed number of honest survivors; by default all ``clients`` are. ``bits``,
    ``noise_multiplier``, ``k_stddevs`` and ``beta`` are the encoding's. ε does not depend on the clip. Raises
    :class:`DPError` for what the encoding refuses.
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
    """ε at ``delta`` of ``rounds`` with :class:`DistributedSkellam`, for planning.

    The arguments are those of :func:`distributed_gaussian_epsilon`.
    """
    sure = clients if honest is None else honest
    encoding = DistributedSkellam(
        1.0, noise_multiplier, bits, clients=clients, honest=sure, k_stddevs=k_stddevs, beta=beta, delta=delta
    )
    return encoding.epsilon(dimension, rounds=rounds)

"""Choose the grid on which updates are rounded, from the clip, the noise, the bits and the number of clients.

Let γ be the step, D the dimension, n the largest number of clients, c the clip and σ the noise of one client. The
sum of n aligned updates, spread evenly by the rotation, has a variance of n²c²/D + n(σ² + γ²/4) in each
coordinate. γ is chosen so that k standard deviations are half the modulus.

The term of one client must fit too, because it is never reduced. Part of the modulus is kept for its noise: so
much that the probability that any of the n·D noises exceeds it is small, and is charged to δ. That probability
depends on no update. A coordinate of the rounded update is cut to the rest of the modulus, which is no less than k
standard deviations of the coordinate. A cut can only lower a norm.
"""

import bisect
import math
from functools import lru_cache
from typing import NamedTuple, Protocol

from dp._encoding import most_squares
from dp.errors import DPError

MAX_STDDEVS = 1e3

_MAX_SQUARES = 1 << 62
_RARE, _LESS_RARE = 2.0**-60, 2.0**-20  # parts of δ that clamping may take: if there is room, and at most
_WIDER = 1.05


class NoiseParameters(Protocol):
    """The members of an encoding that determine its grid."""

    @property
    def l2_clip(self) -> float: ...
    @property
    def noise_multiplier(self) -> float: ...
    @property
    def bits(self) -> int: ...
    @property
    def clients(self) -> int: ...
    @property
    def honest(self) -> int: ...
    @property
    def k_stddevs(self) -> float: ...
    @property
    def beta(self) -> float: ...
    @property
    def delta(self) -> float: ...

    def widest(self) -> float:
        """The largest standard deviation that the sampler can draw."""

    def narrowest(self) -> float:
        """The least standard deviation of one client's noise for which a bound on the sum is known."""

    def log_tail(self, sigma: float, reach: float) -> float:
        """A bound on log P(noise >= ``reach``), for one client's noise of standard deviation ``sigma``."""


class TooNarrow(DPError):  # noqa: N818 - a condition, as in BudgetExceeded
    """The noise of one client is so narrow on the integers that no bound on the sum is proved."""


class Grid(NamedTuple):
    """The numbers that follow from an encoding and one padded dimension. Lengths are in steps of the grid."""

    dimension: int  # D, a power of two
    step: float  # γ, in units of the update
    sigma: float  # standard deviation of one client's noise
    squares: int  # the largest ‖q‖² of a rounded update
    limit: int  # the largest |q| of one coordinate
    clamped: float  # a bound on the probability that any term of a round is clamped


@lru_cache(maxsize=256)
def find_grid(encoding: NoiseParameters, dimension: int) -> Grid:
    """The grid of ``encoding`` for ``dimension``, a power of two; :class:`DPError` if there is none."""
    grid = _fitting(encoding, dimension, encoding.k_stddevs)
    if grid is not None:
        return grid
    k_stddevs = encoding.k_stddevs
    while k_stddevs * _WIDER <= MAX_STDDEVS:
        k_stddevs = math.ceil(k_stddevs * _WIDER * 100) / 100
        if 4**encoding.bits <= encoding.clients * k_stddevs**2:
            break
        try:
            fits = _fitting(encoding, dimension, k_stddevs) is not None
        except TooNarrow:
            break
        if fits:
            raise DPError(
                f"got noise too wide for the modulus: that of one client, if {encoding.honest} honest of "
                f"{encoding.clients} must be enough, doesn't fit into {encoding.k_stddevs:g} standard deviations "
                f"of the sum; expected k_stddevs of at least {k_stddevs:g} (about "
                f"{math.log2(k_stddevs / encoding.k_stddevs):.1f} bits more for the same grid)"
            )
    raise DPError(
        f"got noise too wide for {encoding.bits} bits with {encoding.honest} honest of {encoding.clients} clients; "
        "expected more bits, or a larger guaranteed number of honest clients"
    )


def _fitting(encoding: NoiseParameters, dimension: int, k: float) -> Grid | None:
    """The grid; None if the modulus has no room for the term of one client."""
    n = encoding.clients
    sigma = encoding.noise_multiplier / math.sqrt(encoding.honest)  # in clips
    spread = math.sqrt(n * (n / dimension + sigma**2))
    reach = math.sqrt(4**encoding.bits - n * k**2) / (2 * k * spread)  # the clip, in steps
    bound = most_squares(reach, dimension, encoding.beta)
    if sigma * reach < (narrowest := encoding.narrowest()):
        missing = narrowest / (sigma * reach)
        raise TooNarrow(
            f"got {encoding.bits} bits, with which the noise of one client has a standard deviation of "
            f"{sigma * reach:.3g} on the integers; no bound on sums is proved below {narrowest:g}: expected about "
            f"{math.ceil(math.log2(missing))} more bits, or a noise multiplier about {missing:.3g} times as large"
        )
    if bound >= _MAX_SQUARES or sigma * reach > encoding.widest():
        raise DPError(
            f"got {encoding.bits} bits for {dimension} coordinates and the noise multiplier "
            f"{encoding.noise_multiplier:g}: the integers become too large to be exact; expected fewer bits"
        )
    squares = max(1, math.floor(bound))
    limit = math.isqrt(squares)
    half = 1 << (encoding.bits - 1)
    room = half - min(limit, math.ceil(k * reach / math.sqrt(dimension)) + 1)
    if room < 1:
        return None

    def clamped(far: int) -> float:
        """A bound on the probability that any of the noises reaches as far as ``far``."""
        return min(1.0, 2.0 * dimension * n * math.exp(encoding.log_tail(sigma * reach, far)))

    if clamped(room) > encoding.delta * _LESS_RARE:
        return None
    lowest = bisect.bisect_left(range(room), True, key=lambda at: clamped(at) <= encoding.delta * _RARE)
    headroom = max(min(lowest, room), half - limit)
    return Grid(
        dimension=dimension,
        step=encoding.l2_clip / reach,
        sigma=sigma * reach,
        squares=squares,
        limit=half - headroom,
        clamped=clamped(headroom),
    )


def norms(grid: Grid) -> tuple[float, float]:
    """The sensitivities: the largest L2 and L1 norm of an update's integers. No integer is above its square."""
    l2 = math.sqrt(grid.squares)
    return l2, l2 * min(math.sqrt(grid.dimension), l2)

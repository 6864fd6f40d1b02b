"""The Laplace and the Gaussian mechanism, on a grid of fixed step, with exact integer noise.

The party that holds the true value runs these: the server under central trust, a client under local trust. A
mechanism rounds the value to a multiple of a power of two, widens the sensitivity by what the rounding may add,
and adds integer noise of :mod:`dp.sampling`. The result is on the grid for every value, so its last bits reveal
nothing. No mechanism adds floating-point noise, whose last bits do reveal the value (Mironov 2012). The rounding
widens the noise by less than a part in 30 000.
"""

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp._checks import number
from dp._gaussian import SPARE, hockey_stick
from dp._numbers import whole
from dp.errors import DPError
from dp.events import DiscreteGaussianEvent, PureEvent, Release, Trust, Unit
from dp.sampling import MAX_SIZE, MAX_WIDTH, Integers, Rng, sample_discrete_gaussian, sample_discrete_laplace

_FINENESS = 16  # the grid is 2^16 times finer than the sensitivity and the noise
_EXACT = 2**53
_LOSS_BITS = 20
_LEAST_EPSILON = 2.0**-20
_MOST_EPSILON = 1e6
_LEAST_DELTA = 1e-200
_LEAST_SENSITIVITY, _MOST_SENSITIVITY = 1e-100, 1e100


def gaussian_delta(epsilon: float, sigma: float, sensitivity: float = 1.0) -> float:
    """The least delta for which Gaussian noise of standard deviation ``sigma`` is (``epsilon``, delta)-private.

    Theorem 8 of Balle and Wang (2018): Φ(Δ/2σ - εσ/Δ) - e^ε Φ(-Δ/2σ - εσ/Δ) for the L2 sensitivity Δ. It is
    computed as the integral of φ(t - Δ/2σ + εσ/Δ) (1 - e^(-tΔ/σ)) over t > 0, in which no digits cancel.
    ``epsilon`` is 0 to 10^6. Raises :class:`DPError` for any other, and unless ``sigma`` and ``sensitivity`` are
    finite and above zero.
    """
    epsilon = number("epsilon", epsilon, 0.0, _MOST_EPSILON)
    ratio = number("sigma", sigma, _LEAST_SENSITIVITY, _MOST_SENSITIVITY) / _sensitivity(sensitivity)
    return hockey_stick(epsilon, ratio)


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """The least standard deviation of (``epsilon``, ``delta``)-private Gaussian noise, rounded up.

    This is the analytic calibration of Balle and Wang (2018), which is right for every ``epsilon`` (2^-20 to 10^6).
    The classic formula sqrt(2 ln(1.25 / delta)) / epsilon is wrong for an ``epsilon`` above 1. ``delta`` is 10^-200
    to below 1; ``sensitivity`` is in L2. Raises :class:`DPError` for any other argument.
    """
    epsilon, delta = _epsilon(epsilon), _delta_parameter(delta)
    sensitivity = _sensitivity(sensitivity)
    return _ratio(epsilon, delta) * sensitivity


class _OnGrid(ABC):
    """A mechanism that releases a value with integer noise on a grid."""

    size: int

    @property
    @abstractmethod
    def grid(self) -> float:
        """The step of the grid, a power of two. Every released number is a multiple of it."""

    @abstractmethod
    def _noise(self, rng: Rng) -> NDArray[np.int64]:
        """Noise for each coordinate, in grid steps."""

    @property
    def limit(self) -> float:
        """The largest absolute value on the grid; a value beyond it is clipped to it before the noise is added.

        Integers are limited to 2^53, above which floats do not hold every integer.
        """
        return _EXACT * self.grid

    @overload
    def release(self, value: float, *, rng: Rng = ...) -> float: ...
    @overload
    def release(self, value: NDArray[Any], *, rng: Rng = ...) -> NDArray[np.float64]: ...
    def release(self, value: ArrayLike, *, rng: Rng = os.urandom) -> float | NDArray[np.float64]:
        """``value`` with noise: a float for a number, a float64 array of the same shape for an array.

        ``value`` has ``size`` coordinates: integers or floats of up to 64 bits, all finite. ``rng`` returns as many
        random bytes as it is asked for, from a cryptographic generator. Raises :class:`DPError` for any other
        value. The caller must ensure that the values of neighbours lie within ``sensitivity`` (see
        :mod:`dp.clipping`), and must charge what ``cost`` returns for each release.
        """
        rounded = _on_grid(value, self.size, self.grid)
        return _off_grid(rounded, self._noise(rng), self.grid, value)


@dataclass(frozen=True)
class LaplaceMechanism(_OnGrid):
    """(``epsilon``, 0)-differential privacy by Laplace noise of scale ``sensitivity`` / ``epsilon``.

    ``epsilon`` is 2^-20 to 10^6. ``sensitivity`` is the largest L1 distance between the values of two neighbours;
    ``size`` is the number of coordinates. The guarantee holds exactly for the integer noise; the grid costs only
    the extra width that :attr:`scale` shows. Raises :class:`DPError` for a parameter out of range.
    """

    epsilon: float
    sensitivity: float
    size: int = 1

    def __post_init__(self) -> None:
        _epsilon(self.epsilon)
        _sensitivity(self.sensitivity)
        _plain(self, "epsilon", "sensitivity")
        object.__setattr__(self, "size", _checked_size(self.size))
        _check_width(self.noise_scale, self.size)

    @cached_property
    def grid(self) -> float:
        """The step of the grid, a power of two. Every released number is a multiple of it."""
        return _grid(min(self.sensitivity / self.size, self.sensitivity / self.epsilon))

    @cached_property
    def noise_scale(self) -> Fraction:
        """The scale of the integer noise, in grid steps."""
        # Two coordinates that differ by x differ by at most x / grid + 1 steps once both are rounded.
        widened = math.floor(Fraction(self.sensitivity) / Fraction(self.grid)) + self.size
        return widened / Fraction(self.epsilon)

    @property
    def scale(self) -> float:
        """The scale of the noise in units of the value: its standard deviation divided by sqrt(2)."""
        return float(self.noise_scale) * self.grid

    def _noise(self, rng: Rng) -> NDArray[np.int64]:
        return sample_discrete_laplace(self.noise_scale, self.size, rng=rng)

    def cost(self, *, unit: Unit, trust: Trust) -> Release:
        """What a :class:`dp.PrivacyLedger` charges for one :meth:`release`, before the result is published."""
        return Release(PureEvent(self.epsilon), unit, trust)


@dataclass(frozen=True)
class GaussianMechanism(_OnGrid):
    """(``epsilon``, ``delta``)-differential privacy by Gaussian noise, calibrated by :func:`gaussian_sigma`.

    ``sensitivity`` is the largest L2 distance between the values of two neighbours; ``size`` is the number of
    coordinates. The ranges are those of :func:`gaussian_sigma`. Raises :class:`DPError` for a parameter out of
    range.

    The calibration is for continuous noise. On integers, the discrete Gaussian p of standard deviation s is close
    to the rounded continuous one r: in d coordinates p <= r e^(d / 8s²) everywhere and, within B s of the centre,
    r <= p e^(B² / 8s²). The cost of this difference (less than 10^-7 if epsilon is 1, and a part in 2^18 of delta)
    is subtracted first.
    """

    epsilon: float
    delta: float
    sensitivity: float
    size: int = 1

    def __post_init__(self) -> None:
        _epsilon(self.epsilon)
        _delta_parameter(self.delta)
        _sensitivity(self.sensitivity)
        _plain(self, "epsilon", "delta", "sensitivity")
        object.__setattr__(self, "size", _checked_size(self.size))
        _check_width(self.noise_sigma, self.size)

    @cached_property
    def grid(self) -> float:
        """The step of the grid, a power of two. Every released number is a multiple of it."""
        narrower = min(self.sensitivity, gaussian_sigma(self.epsilon, self.delta, self.sensitivity))
        return _grid(narrower / math.sqrt(self.size))

    @cached_property
    def noise_sigma(self) -> Fraction:
        """The standard deviation of the integer noise, in grid steps."""
        root = math.sqrt(self.size)
        s = gaussian_sigma(self.epsilon, self.delta, self.sensitivity) / self.grid  # all below decreases in s
        # By concentration of the norm, a ball of radius B s holds all of r except the probability beta.
        log_beta = math.log(self.delta) - _LOSS_BITS * math.log(2) - self.epsilon
        radius = root + math.sqrt(-2 * log_beta) + root / (2 * s)
        epsilon = self.epsilon - (self.size + radius**2) / (8 * s**2)
        delta = self.delta * (1 - 2.0 ** (2 - _LOSS_BITS))
        return self._widened * Fraction(_ratio(epsilon, delta))

    @property
    def _widened(self) -> Fraction:
        """The sensitivity in grid steps."""
        # Rounding moves two vectors of d coordinates apart by at most sqrt(d) grid steps.
        return Fraction(self.sensitivity) / Fraction(self.grid) + math.isqrt(self.size - 1) + 1

    @property
    def sigma(self) -> float:
        """The standard deviation of the noise in units of the value."""
        return float(self.noise_sigma) * self.grid

    def _noise(self, rng: Rng) -> NDArray[np.int64]:
        return sample_discrete_gaussian(self.noise_sigma, self.size, rng=rng)

    def cost(self, *, unit: Unit, trust: Trust) -> Release:
        """What a :class:`dp.PrivacyLedger` charges for one :meth:`release`, before the result is published.

        This is the cost of the noise, not of the pair (``epsilon``, ``delta``), because many releases then add up
        to less. For one release at ``delta``, a ledger charges at most ``epsilon``.
        """
        # Conversion to floats is rounded in the direction that costs more.
        sigma = math.nextafter(float(self.noise_sigma), 0.0)
        return Release(DiscreteGaussianEvent(sigma, math.nextafter(float(self._widened), math.inf)), unit, trust)


def _ratio(epsilon: float, delta: float) -> float:
    """:func:`gaussian_sigma` for a sensitivity of 1, by bisection, since delta decreases as sigma grows."""
    delta *= 1 - SPARE
    low = high = 1.0
    while hockey_stick(epsilon, high) > delta:
        high *= 2
    while hockey_stick(epsilon, low) <= delta:
        low /= 2
    while high - low > low * 2.0**-45:
        middle = (low + high) / 2
        low, high = (middle, high) if hockey_stick(epsilon, middle) > delta else (low, middle)
    return high


def _grid(width: float) -> float:
    """The power of two that is 2^16 to 2^17 times finer than ``width``."""
    return math.ldexp(1.0, math.frexp(width)[1] - 1 - _FINENESS)


def _on_grid(value: ArrayLike, size: int, grid: float) -> Integers:
    """``value`` in steps of ``grid``, rounded to the nearest integers and flattened."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DPError(f"got a value of dtype {array.dtype}; expected integers or floats of at most 64 bits")
    if array.size != size:
        raise DPError(f"got a value of {array.size} coordinates; expected {size}, the size of the mechanism")
    if array.dtype == np.int64 or array.dtype == np.uint64:
        # Beyond 2^53 the conversion to float64 would round.
        array = np.minimum(array, _EXACT) if array.dtype.kind == "u" else np.clip(array, -_EXACT, _EXACT)
    flat = array.reshape(-1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise DPError("the value has coordinates that are not finite; expected finite ones: clip before releasing")
    # The grid is a power of two, so the division is exact, and only rint rounds.
    limit = _EXACT * grid
    return np.rint(np.clip(flat, -limit, limit) / grid).astype(np.int64)


def _off_grid(rounded: Integers, noise: Integers, grid: float, value: ArrayLike) -> float | NDArray[np.float64]:
    released = (rounded + noise).astype(np.float64) * grid
    return released.reshape(np.shape(value)) if isinstance(value, np.ndarray | list | tuple) else float(released[0])


def _plain(owner: object, *names: str) -> None:
    """Convert NumPy's numbers to Python's, which convert to fractions exactly."""
    for name in names:
        value = getattr(owner, name)
        number = whole(value)
        if not isinstance(value, Fraction):
            object.__setattr__(owner, name, float(value) if number is None else number)


def _epsilon(epsilon: Any) -> float:
    return number("epsilon", epsilon, _LEAST_EPSILON, _MOST_EPSILON)


def _delta_parameter(delta: Any) -> float:
    checked = number("delta", delta, _LEAST_DELTA, 1.0)
    if checked == 1.0:
        raise DPError("got delta 1, which guarantees nothing; expected less, such as 1e-5")
    return checked


def _sensitivity(sensitivity: Any) -> float:
    return number("sensitivity", sensitivity, _LEAST_SENSITIVITY, _MOST_SENSITIVITY)


def _checked_size(size: Any) -> int:
    number = whole(size)
    if number is None:
        raise DPError(f"got {size!r} for size; expected an int, how many coordinates the value has")
    if not 1 <= number <= MAX_SIZE:
        got = number if abs(number) < 2**63 else "of more than 63 bits"
        raise DPError(f"got size {got}; expected 1 to {MAX_SIZE}")
    return number


def _check_width(width: Fraction, size: int) -> None:
    if width > MAX_WIDTH:
        raise DPError(
            f"got an epsilon that needs noise {float(width / MAX_WIDTH):.3g} times wider than the grid of {size} "
            "coordinates allows; expected a larger epsilon, or fewer coordinates"
        )

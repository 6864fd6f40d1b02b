"""Bound what one party contributes: by norm, by coordinate, by layer, or by a bound that adapts.

A client runs these functions before anything leaves it. The bounds hold exactly, not only up to the rounding of
floats, because norms are computed from above.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dp._checks import number
from dp._numbers import whole
from dp.errors import DPError

#: A vector of float64.
Vector = NDArray[np.float64]

MAX_COORDINATES = 2**40
"""The most coordinates for which the rounding error of a norm is surely below the margin kept for it."""

_UP = 1 + 2.0**-40  # numpy sums pairwise: its error stays below 2^-46
_LEAST_BOUND, _MOST_BOUND = 1e-100, 1e100


def clip_l2(vector: NDArray[Any], bound: float) -> Vector:
    """A float64 copy of ``vector``, scaled down to an L2 norm of at most ``bound`` if it is longer.

    ``vector`` is one-dimensional and finite; ``bound`` is 10^-100 to 10^100. A vector that is shorter than
    ``bound`` by a part in 2^39 or more is returned unscaled. Raises :class:`DPError` for any other argument.
    """
    return _scaled(_vector(vector), _bound(bound))


def clip_linf(vector: NDArray[Any], bound: float) -> Vector:
    """A float64 copy of ``vector`` with each coordinate clipped to [-``bound``, ``bound``].

    The arguments are those of :func:`clip_l2`.
    """
    bound = _bound(bound)
    return np.clip(_vector(vector), -bound, bound)


def clip_layers(
    vector: NDArray[Any], slices: Iterable[slice], bounds: float | Sequence[float], *, norm: str = "l2"
) -> Vector:
    """A float64 copy of ``vector`` with each of its ``slices`` clipped by itself.

    ``slices`` follow one another from the first coordinate to the last, like those of a layout
    (``layout.slices.values()``). ``bounds`` is one bound for all slices, or a sequence with one for each. ``norm``
    is ``"l2"`` or ``"linf"``. Under ``"l2"``, the L2 norm of the result is at most that of the vector of bounds.
    Raises :class:`DPError` for slices with a gap, an overlap or a step, and for what :func:`clip_l2` refuses.
    """
    if norm not in ("l2", "linf"):
        raise DPError(f"got norm {norm!r}; expected 'l2' or 'linf'")
    flat = _vector(vector)
    parts = list(slices)
    limits = _bounds(bounds, len(parts))
    end = 0
    for part in parts:
        if part.step not in (None, 1) or part.start != end or whole(part.stop) is None or part.stop < end:
            raise DPError(f"got {part} after coordinate {end}; expected slices from 0 on without a gap or overlap")
        end = part.stop
    if end != flat.size:
        raise DPError(f"got slices of {end} coordinates in all; expected {flat.size}, the size of the vector")
    for part, limit in zip(parts, limits, strict=True):
        flat[part] = _scaled(flat[part], limit) if norm == "l2" else np.clip(flat[part], -limit, limit)
    return flat


@dataclass(frozen=True)
class AdaptiveClip:
    """A clip norm that follows a quantile of the clients' norms, privately (Andrew et al. 2021).

    Each client clips its update to ``clip`` and adds one coordinate that says whether the update was within it:
    the bit b = 1[norm <= clip], sent as b - 1/2. The bit is part of the same vector and the same sum. It gets
    noise wherever the other coordinates get it, so no server sees a count without noise. :meth:`encode` returns
    this vector with an L2 norm of at most 1, whatever ``clip`` is. Therefore one task, with an ``l2_clip`` of 1
    and this ``noise_multiplier``, serves all rounds. :meth:`decode` splits the sum and returns the clip of the
    next round, C exp(-``learning_rate`` (b̃ - ``quantile``)), where b̃ is the noised fraction of bits that were 1.

    - ``noise_multiplier`` z (2^-20 to 2^20): that of the whole vector, which the accountant charges.
    - ``bit_noise`` (2^-20 to 2^40, more than z/2): the standard deviation of the noise on the sum of bits, in
      clients; the paper takes a twentieth of their number. The bit uses up part of the budget, so the update has
      the larger multiplier :attr:`update_noise_multiplier`, (z^-2 - (2 bit_noise)^-2)^(-1/2).
    - ``clip`` (1e-100 to 1e100): the clip of this round.
    - ``quantile`` (0 to 1, exclusive): the fraction of clients that the clip should leave unchanged.
    - ``learning_rate`` (above 0, at most 10).

    Raises :class:`DPError` if a field is out of range.
    """

    noise_multiplier: float
    bit_noise: float
    clip: float = 0.1
    quantile: float = 0.5
    learning_rate: float = 0.2

    def __post_init__(self) -> None:
        _bound(self.clip)
        number("noise_multiplier", self.noise_multiplier, 2.0**-20, 2.0**20)
        number("bit_noise", self.bit_noise, 2.0**-20, 2.0**40)
        number("quantile", self.quantile, 2.0**-20, 1 - 2.0**-20)
        number("learning_rate", self.learning_rate, 2.0**-20, 10)
        if not 2 * self.bit_noise > self.noise_multiplier * _UP:
            raise DPError(
                f"got bit_noise {self.bit_noise:g} with noise_multiplier {self.noise_multiplier:g}; expected more "
                f"than half the multiplier, {self.noise_multiplier / 2:g}: otherwise the bit alone costs more than "
                "the whole vector may"
            )

    @property
    def update_noise_multiplier(self) -> float:
        """The noise multiplier of the update alone: the noise on each coordinate, in units of ``clip``."""
        return self.noise_multiplier / math.sqrt(1 - (self.noise_multiplier / (2 * self.bit_noise)) ** 2)

    def encode(self, update: NDArray[Any]) -> Vector:
        """The vector of one client: the update, clipped and scaled, then the bit. Its L2 norm is at most 1.

        A client runs this. Raises :class:`DPError` unless ``update`` is one-dimensional and finite.
        """
        flat = _vector(update)
        bit = float(math.prod(_norm(flat)) <= self.clip) - 0.5
        vector = np.append(_scaled(flat, self.clip) * self._shrink, bit * self._bit_scale)
        return _scaled(vector, 1.0)

    def decode(self, total: NDArray[Any], clients: int) -> tuple[Vector, Self]:
        """The sum of the clipped updates, still with noise, and the :class:`AdaptiveClip` of the next round.

        The server runs this on ``total``, the noised sum of the vectors of ``clients`` clients. Raises
        :class:`DPError` for a sum that is not finite, for fewer than one client, and if the next clip would be
        out of range.
        """
        flat = _vector(total)
        if not 1 <= (whole(clients) or 0) <= MAX_COORDINATES:
            raise DPError(
                f"got {clients!r:.40} clients; expected the number of vectors in the sum, an int from 1 to 2^40"
            )
        if flat.size < 1:
            raise DPError("got an empty sum; expected at least the coordinate of the bits")
        fraction = float(flat[-1]) / self._bit_scale / clients + 0.5
        exponent = -self.learning_rate * (fraction - self.quantile)
        if not abs(exponent) < 230 or not _LEAST_BOUND <= self.clip * math.exp(exponent) <= _MOST_BOUND:
            raise DPError(
                f"got a sum by which a fraction of {fraction:.3g} of {clients} clients were within the clip of "
                f"{self.clip:g}; expected about 0 to 1: check the number of clients, or lower bit_noise and "
                "learning_rate"
            )
        return flat[:-1] / self._shrink, replace(self, clip=self.clip * math.exp(exponent))

    @property
    def _bit_scale(self) -> float:
        """The scale of the bit's coordinate: noise z on it is noise ``bit_noise`` on the sum of bits."""
        return self.noise_multiplier / self.bit_noise

    @property
    def _shrink(self) -> float:
        """The scale of the update: noise z on it is noise ``update_noise_multiplier`` times the clip."""
        return self.noise_multiplier / self.update_noise_multiplier / self.clip


def _norm(flat: Vector) -> tuple[float, float]:
    """Two numbers whose product is at least the L2 norm: the largest coordinate, and the norm divided by it."""
    largest = float(np.max(np.abs(flat), initial=0.0))
    if largest == 0.0:
        return 0.0, 1.0
    # Squares below 2^-1074 become zero; the margin is far wider than all of them together.
    return largest, math.sqrt(float(np.square(flat / largest).sum())) * _UP


def _scaled(flat: Vector, bound: float) -> Vector:
    largest, ratio = _norm(flat)
    return flat if largest * ratio <= bound else flat / largest / ratio * bound


def _vector(vector: Any) -> Vector:
    array = np.asarray(vector)
    if array.dtype.kind not in "biuf" or array.ndim != 1:
        raise DPError(f"got {array.ndim} dimensions and dtype {array.dtype}; expected a flat vector of numbers")
    if array.size > MAX_COORDINATES:
        raise DPError(f"got {array.size} coordinates; expected at most {MAX_COORDINATES}")
    flat = array.astype(np.float64)
    if not np.isfinite(flat).all():
        raise DPError("the vector has coordinates that are not finite; expected finite ones: leave out this update")
    return flat


def _bound(bound: Any) -> float:
    return number("clip", bound, _LEAST_BOUND, _MOST_BOUND)


def _bounds(bounds: float | Sequence[float], count: int) -> list[float]:
    if isinstance(bounds, Sequence | np.ndarray):
        limits = [_bound(bound) for bound in bounds]
    else:
        limits = [_bound(bounds)] * count
    if len(limits) != count:
        raise DPError(f"got {len(limits)} bounds for {count} slices; expected one for each, or one number for all")
    return limits

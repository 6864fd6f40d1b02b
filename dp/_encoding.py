"""What the encodings with noise share: the form of inputs and results, checks of them, and the rounding.

Source of conditional rounding: Kairouz, Liu and Steinke 2021.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from dp._numbers import real, whole
from dp.errors import DPError

Rng = Callable[[int], bytes]
Floats = NDArray[np.float64]
Lanes = NDArray[np.uint32] | NDArray[np.uint64]

KEY_BYTES = 32
MIN_CLIP, MAX_CLIP = 1e-100, 1e100
MAX_BETA = 0.9
MAX_DIMENSION = 1 << 30

_PATIENCE = 90.0  # a rounding is repeated until the probability that all failed would be e^-90
_LEAST_LOG = -13
_CLOSE = 1e-9


class LayoutLike(Protocol):
    """The part of a layout that these encodings read."""

    @property
    def size(self) -> int:
        """The number of coordinates of an update."""


class Segment(NamedTuple):
    """``length`` integers from 0 to ``bound``, whose sum is needed modulo ``modulus`` only.

    If ``modulus`` is None, the sum itself is needed.
    """

    length: int
    bound: int
    modulus: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The decoded sum and mean, as flat vectors, and the privacy that they cost.

    ``epsilon_guaranteed`` holds for every set of survivors and colluders that the task allows.
    ``epsilon_realised`` follows from the number of survivors, which only the server states. Under local and central
    trust, where the noise of other clients hides nothing, the two are equal. Both are for this one round, at the
    encoding's δ.
    """

    sum: Floats
    mean: Floats
    total_weight: int
    clipped: None
    epsilon_guaranteed: float
    epsilon_realised: float


def refuse_weights(weight: object, max_weight: object) -> None:
    """:class:`DPError` if there are weights: a weight raises the sensitivity, and the exact total shows weights."""
    if max_weight is not None:
        raise DPError(
            f"got max_weight={max_weight!r}; an encoding with noise needs updates that all count the same: "
            "expected max_weight=None"
        )
    if weight is not None:
        raise DPError("got a weight; an encoding with noise needs updates that all count the same: pass none")


def check_vector(vector: NDArray[Any], size: int) -> None:
    """:class:`DPError` unless ``vector`` is float32 or float64 of shape (``size``,), and finite."""
    if vector.shape != (size,) or vector.dtype not in (np.float32, np.float64):
        raise DPError(
            f"got a vector of shape {vector.shape} and dtype {vector.dtype}; "
            f"expected float32 or float64, shape ({size},)"
        )
    bad = int(vector.size - np.count_nonzero(np.isfinite(vector)))
    if bad:
        raise DPError(f"got {bad} coordinates that are not finite; leave this update out")


def check_sums(sums: Sequence[NDArray[Any]], segment: Segment, survivors: object, most: int) -> None:
    """:class:`DPError` unless ``sums`` is one array of possible sums of 1 to ``most`` ``survivors``."""
    count = whole(survivors)
    if count is None or not 1 <= count <= most:
        raise DPError(f"got {survivors!r} survivors; expected 1 to {most}")
    if len(sums) != 1 or sums[0].shape != (segment.length,) or sums[0].dtype not in (np.uint32, np.uint64):
        raise DPError(f"the sums are not one array of uint32 or uint64 of shape ({segment.length},)")
    if int(sums[0].max()) > count * segment.bound:
        raise DPError(f"got sums beyond {survivors}·{segment.bound}, which {survivors} clients can't reach")


def most_squares(reach: float, dimension: int, beta: float) -> float:
    """Δ₂²: the largest squared norm of an accepted rounding of a vector whose norm is ``reach``.

    Lengths are in steps of the grid. A rounding exceeds the bound with probability at most ``beta``; if ``beta`` is
    0, no rounding exceeds it.
    """
    bound = (reach + math.sqrt(dimension)) ** 2
    if beta:
        slack = math.sqrt(-2 * math.log(beta))
        bound = min(bound, reach**2 + dimension / 4 + slack * (reach + math.sqrt(dimension) / 2))
    return bound


def round_within(
    vector: Floats, scale: float, *, limit: int, squares: int, beta: float, rng: Rng
) -> NDArray[np.int64]:
    """``vector``·``scale`` rounded at random, repeatedly until the squares sum to ``squares`` at most.

    A coordinate beyond ±``limit`` is cut to it. ``rng`` returns one key of 32 bytes. The repetition shifts the
    expected rounding by at most √D·β/(1 - β) steps in norm; with a ``beta`` of 0 it shifts nothing.
    """
    from dp import _rotation

    key = rng(KEY_BYTES)
    if not isinstance(key, bytes | bytearray) or len(key) != KEY_BYTES:
        raise DPError(f"rng({KEY_BYTES}) did not return {KEY_BYTES} bytes; pass os.urandom or its like")
    stream = Cipher(algorithms.AES(bytes(key)), modes.CTR(bytes(16))).encryptor()
    rounded = np.empty(vector.size, np.int64)
    zeros = bytes(4 * vector.size)
    for _ in range(_attempts(beta)):
        random = np.frombuffer(stream.update(zeros), "<u4")
        if _rotation.round_stochastic(vector, scale, random, limit, rounded) <= squares:
            return rounded
    raise DPError("no rounding was within the norm, which has a probability below e^-80; report this")


def tame(vector: Floats) -> bool:
    """Divide ``vector`` in place by its largest coordinate if its squares would overflow; return whether it did."""
    largest = float(np.abs(vector).max())
    if largest > MAX_CLIP:
        vector /= largest
    return largest > MAX_CLIP


def shorten(vector: Floats, l2_clip: float, tamed: bool) -> float:
    """The factor that shortens ``vector`` to the norm ``l2_clip``, or 1. A tamed vector counts as longer."""
    norm = math.sqrt(float(vector @ vector))
    return l2_clip / norm if tamed or norm > l2_clip else 1.0


def least_multiplier(cost: Callable[[float], float], epsilon: object, hopeless: str) -> float:
    """The least noise multiplier from 2^-13 to 2^13, to a billionth, whose ``cost`` is at most ``epsilon``.

    ``cost`` decreases as the multiplier grows. Raises :class:`DPError`, ending in ``hopeless``, if there is none.
    """
    target = real(epsilon)
    if not 0 < target < math.inf:
        raise DPError(f"got epsilon={epsilon!r}; expected a finite number above 0")
    enough = 2.0**_LEAST_LOG
    while (least := cost(enough)) > target:
        if enough >= 2.0**-_LEAST_LOG:
            raise DPError(f"got epsilon={target:g}, but with any noise it is at least {least:.4g}: {hopeless}")
        enough *= 2
    less = enough / 2
    while enough > less * (1 + _CLOSE):
        middle = math.sqrt(less * enough)
        less, enough = (less, middle) if cost(middle) <= target else (middle, enough)
    return enough


def _attempts(beta: float) -> int:
    """The most attempts at a rounding. If ``beta`` is 0 the first one fits, apart from errors of floats."""
    return math.ceil(_PATIENCE / -math.log(beta)) if beta else 8

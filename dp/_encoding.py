"""What the encodings with noise have in common: what they send, what they return, and how they round.

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

_PATIENCE = 90.0  # roundings are redrawn until that e^-90 of all updates would still be outside
_LEAST_LOG = -13
_CLOSE = 1e-9


class LayoutLike(Protocol):
    """What an encoding here reads of a layout."""

    @property
    def size(self) -> int:
        """How many coordinates an update has."""


class Segment(NamedTuple):
    """A run of ``length`` integers from 0 to ``bound``, of whose sum only the remainder by ``modulus`` counts.

    A ``modulus`` of None wants the sum itself.
    """

    length: int
    bound: int
    modulus: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What the sums say: two flat vectors, and what they cost.

    ``epsilon_guaranteed`` holds whoever survived and colluded, within what the task allows;
    ``epsilon_realised`` follows from how many did survive, on the server's word; where others' noise hides
    nothing (local and central trust) it is the same. Both are for this one round, at the encoding's δ.
    """

    sum: Floats
    mean: Floats
    total_weight: int
    clipped: None
    epsilon_guaranteed: float
    epsilon_realised: float


def refuse_weights(weight: object, max_weight: object) -> None:
    """:class:`DPError` if there are weights: one would raise the sensitivity, and its exact sum tell of it."""
    if max_weight is not None:
        raise DPError(
            f"got max_weight={max_weight!r}; this noise is made for updates that all count the same: "
            "expected max_weight=None"
        )
    if weight is not None:
        raise DPError("got a weight, but this noise is made for updates that all count the same; give none")


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
    """:class:`DPError` unless ``sums`` is one array of what 1 to ``most`` ``survivors`` can sum to."""
    count = whole(survivors)
    if count is None or not 1 <= count <= most:
        raise DPError(f"got {survivors!r} survivors; expected 1 to {most}")
    if len(sums) != 1 or sums[0].shape != (segment.length,) or sums[0].dtype not in (np.uint32, np.uint64):
        raise DPError(f"got other sums than one array of uint32 or uint64, shape ({segment.length},)")
    if int(sums[0].max()) > count * segment.bound:
        raise DPError(f"got sums beyond {survivors}·{segment.bound}, which {survivors} clients can't reach")


def most_squares(reach: float, dimension: int, beta: float) -> float:
    """Δ₂²: the largest square of the norm of an accepted rounding, of a vector whose norm is ``reach``.

    Lengths are in steps of the grid. With ``beta`` above 0 the bound is one that a rounding exceeds with at most
    that probability; with 0 it is one that none exceeds.
    """
    bound = (reach + math.sqrt(dimension)) ** 2
    if beta:
        slack = math.sqrt(-2 * math.log(beta))
        bound = min(bound, reach**2 + dimension / 4 + slack * (reach + math.sqrt(dimension) / 2))
    return bound


def round_within(
    vector: Floats, scale: float, *, limit: int, squares: int, beta: float, rng: Rng
) -> NDArray[np.int64]:
    """``vector``·``scale`` rounded at random, again until its squares sum to ``squares`` at most.

    A coordinate beyond ±``limit`` is cut to it. ``rng`` gives one key of 32 bytes. The conditioning shifts what
    is expected of a rounding by at most √D·β/(1 - β) steps in norm; with ``beta`` 0 there is none.
    """
    from dp import _rotation

    key = rng(KEY_BYTES)
    if not isinstance(key, bytes | bytearray) or len(key) != KEY_BYTES:
        raise DPError(f"got something else than {KEY_BYTES} bytes from rng({KEY_BYTES})")
    stream = Cipher(algorithms.AES(bytes(key)), modes.CTR(bytes(16))).encryptor()
    rounded = np.empty(vector.size, np.int64)
    zeros = bytes(4 * vector.size)
    for _ in range(_attempts(beta)):
        random = np.frombuffer(stream.update(zeros), "<u4")
        if _rotation.round_stochastic(vector, scale, random, limit, rounded) <= squares:
            return rounded
    raise DPError("got no rounding within the norm, which has a chance below e^-80; report this")


def tame(vector: Floats) -> bool:
    """Divide ``vector`` in place by its largest coordinate if squares would be beyond floats; whether it was."""
    largest = float(np.abs(vector).max())
    if largest > MAX_CLIP:
        vector /= largest
    return largest > MAX_CLIP


def shorten(vector: Floats, l2_clip: float, tamed: bool) -> float:
    """What brings ``vector`` to the length ``l2_clip``, or 1 where it is no longer; one that was tamed is."""
    norm = math.sqrt(float(vector @ vector))
    return l2_clip / norm if tamed or norm > l2_clip else 1.0


def least_multiplier(cost: Callable[[float], float], epsilon: object, hopeless: str) -> float:
    """The least noise multiplier from 2^-13 to 2^13, to a billionth, of which ``cost`` is within ``epsilon``.

    :class:`DPError`, ending in ``hopeless``, if there is none; ``cost`` falls as the multiplier grows.
    """
    target = real(epsilon)
    if not 0 < target < math.inf:
        raise DPError(f"got epsilon={epsilon!r}; expected a finite number above 0")
    enough = 2.0**_LEAST_LOG
    while (least := cost(enough)) > target:
        if enough >= 2.0**-_LEAST_LOG:
            raise DPError(f"got epsilon={target:g}, but however much noise is added, it is {least:.4g}: {hopeless}")
        enough *= 2
    less = enough / 2
    while enough > less * (1 + _CLOSE):
        middle = math.sqrt(less * enough)
        less, enough = (less, middle) if cost(middle) <= target else (middle, enough)
    return enough


def _attempts(beta: float) -> int:
    """How often a rounding is drawn at most; without ``beta`` the first one fits but for float's error."""
    return math.ceil(_PATIENCE / -math.log(beta)) if beta else 8

"""Fixed-point encoding: clip, quantize, and count the clipped coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from mpc import masks
from secagg import _clips, _warnings
from secagg._numbers import is_a, whole
from secagg.encoding import MAX_WEIGHT, Decoded, PlainEncoding, Rng, Segment
from secagg.errors import ConfigError, EncodingError, blaming, shown
from secagg.layout import AnyFloat, Layout
from secagg.packing import Lanes, lane_dtype

#: The ways to round.
ROUNDINGS = ("stochastic", "nearest")
_KEY_BYTES = 32
_PIECE = 1 << 16  # coordinates at a time, so that their random bits stay in the cache
_MAX_SUM = 1 << 62
_LEAST_BITS = 8
_UP = 1 + 2.0**-40  # a margin far above the error of float64


@dataclass(frozen=True, slots=True)
class FixedPoint(PlainEncoding):
    """An encoding on a grid of 2^``bits`` − 1 points from −``clip`` to ``clip``, zero among them.

    With L = 2^(bits−1) − 1 and the step Δ = clip/L, a client of weight w sends clip(x)·w/max_weight
    divided by Δ, rounded, plus L: an integer from 0 to 2L. The server subtracts survivors·L.

    - ``clip``: a positive number from 1e-100 to 1e100, or a mapping from leaf names
      (:attr:`secagg.layout.Leaf.name`) and patterns to one; kept as a tuple of sorted pairs. In a pattern ``*``
      stands for any characters, dots too: ``{"*": 0.2, "*.num_batches_tracked": 1e4}``. A leaf's own name takes
      precedence, then the pattern with the most characters other than ``*``; two of one length are refused.
      At most 256 patterns, with at most 16 ``*`` each.
    - ``bits``: 2 to 32.
    - ``rounding``: ``"stochastic"`` rounds up with the probability of the fraction, to 2^-32, from 32
      bits of AES-256-CTR a coordinate, so that errors average out over clients. ``"nearest"`` rounds
      ties to even; |sum − Σ wᵢ·clip(xᵢ)| is then at most max_weight·survivors·Δ/2, plus the rounding of
      float64. With stochastic rounding the error is less than twice that.

    Weights are integers from 1 to ``max_weight`` (at most 2^53) and travel exactly, in a segment of
    their own; so does the number of clipped coordinates. ``ConfigError`` if a field is out of range.
    """

    clip: float | Mapping[str, float] | tuple[tuple[str, float], ...]
    bits: int = 16
    rounding: str = "stochastic"

    def __post_init__(self) -> None:
        clip: Any = self.clip
        if is_a(clip, (Mapping, tuple)):
            with blaming(ConfigError, "got clips that can't be read; expected a dict of leaf names and numbers"):
                pairs = clip if is_a(clip, tuple) else clip.items()
            clip = _clips.check_pairs(pairs)
        else:
            clip = _clips.check_clip(clip)
        object.__setattr__(self, "clip", clip)
        bits = whole(self.bits)
        if bits is None or not 2 <= bits <= 32:
            raise ConfigError(f"got bits={shown(self.bits)}; expected an integer from 2 to 32")
        object.__setattr__(self, "bits", bits)
        if not is_a(self.rounding, str) or self.rounding not in ROUNDINGS:
            raise ConfigError(f"got rounding={shown(self.rounding)}; expected one of {', '.join(ROUNDINGS)}")
        object.__setattr__(self, "rounding", str.__str__(self.rounding))

    @classmethod
    def suggest(
        cls,
        updates: Mapping[str, object] | Iterable[object],
        *,
        quantile: float = 0.999,
        headroom: float = 2.0,
        bits: int = 16,
    ) -> Self:
        """An encoding for updates like these, with one clip for each leaf.

        The clip is ``headroom`` (1 to 1e6) times the ``quantile`` (above 0, at most 1) of |x| over all coordinates
        of the leaf in ``updates`` (by client, or a list; at most 4096, all of one layout). A leaf of zeros gets the
        largest of the other clips, or 1, with a WARNING. This method reads updates in the clear: use it for
        experiments and public data. A clip that was chosen from clients' updates reveals something about them,
        and no epsilon covers that.

        ``EncodingError`` for updates that don't fit one layout or are not finite, ``ConfigError`` for the rest.
        """
        return cls(_clips.suggest(updates, quantile, headroom), bits)

    def segments(self, layout: Layout, max_weight: int | None) -> tuple[Segment, ...]:
        """The values (bound 2L), the weight if there are weights, the number of clipped coordinates.

        ``ConfigError`` if ``clip`` doesn't name every leaf once or ``max_weight`` is out of range.
        """
        self.steps(layout)
        _check_max_weight(max_weight)
        weight = () if max_weight is None else (Segment(1, max_weight),)
        return Segment(layout.size, 2 * self._top), *weight, Segment(1, layout.size)

    def steps(self, layout: Layout) -> dict[str, float]:
        """Leaf name → Δ, the step of its grid for the weight ``max_weight``.

        The values of an update of weight w lie Δ·max_weight/w apart. The error of a mean is that of the
        sum (see the class) divided by the total weight. ``ConfigError`` as :meth:`segments`.
        """
        clips = self._clips(layout)
        return {leaf.name: clip / self._top for leaf, clip in zip(layout.leaves, clips, strict=True)}

    def l2_sensitivity(self, layout: Layout, l2_clip: float, max_weight: int | None = None) -> float:
        """The most that ``Outcome.sum`` moves, in L2 norm, if one update becomes zero; rounding included.

        The norm of the update is at most ``l2_clip`` (above 0), which its client ensures (:func:`dp.clip_l2`). If
        it becomes another such update, the sum moves by at most twice this value. Noise on the sum must be
        calibrated to this value, because rounding lengthens an update: it can turn half a step into a whole one,
        or, if it is stochastic, any part of a step. The value holds for ``Outcome.sum`` alone. ``total_weight``
        and ``clipped`` are exact, and move by up to ``max_weight`` and the size of the layout.

        How it is computed: a coordinate has k steps after rounding if it had more than k - 1 before, or k - 1/2
        under ``"nearest"``. The norm grows fastest if all coordinates of all leaves go from one such k to the
        next, so that is what is added up. ``ConfigError`` as :meth:`segments`.
        """
        _check_max_weight(max_weight)
        norm = _clips.check_clip(l2_clip)
        steps = self.steps(layout)
        unit = math.fsum(leaf.size * steps[leaf.name] ** 2 for leaf in layout.leaves)  # one step in each coordinate
        cost = (norm * _UP) ** 2 / unit
        lost = 0.5 if self.rounding == "nearest" else 1.0
        # With k whole steps everywhere the square is k², of (k - lost)² before; in between it is linear.
        root = math.sqrt(cost) + lost
        k = min(math.floor(root), self._top)
        below, above = max(k - lost, 0.0) ** 2, (k + 1 - lost) ** 2
        part = 0.0 if k == self._top else (cost - below) / (above - below)
        squares = k * k + min(max(part, 0.0), 1.0) * (2 * k + 1)
        return (max_weight or 1) * math.sqrt(squares * unit) * _UP

    def encode(
        self, vector: AnyFloat, *, layout: Layout, weight: int | None, max_weight: int | None, rng: Rng
    ) -> list[Lanes]:
        """The integers of one client, one array per segment: uint32 lanes for the values.

        ``vector`` comes from :meth:`Layout.flatten`, float32 or float64. ``weight`` is the client's; None in a task
        without weights. Stochastic rounding takes one key from ``rng(32)``: the same key and vector give the same
        integers.

        Raises ``EncodingError`` for a vector of another size or type, for one that is not finite (with the first
        leaf that isn't, and how many coordinates), and for a weight that is not an integer from 1 to
        ``max_weight``, or that comes with a task without weights. The log has a WARNING if the weight leaves the
        update fewer than 8 bits, and if every coordinate of a leaf was clipped.
        """
        _check_max_weight(max_weight)
        share, own = 1.0, []
        if max_weight is not None:
            own = [_check_weight(weight, max_weight)]
            share = own[0] / max_weight
        elif weight is not None:
            raise EncodingError("got a weight, but the task is unweighted; pass none, or set max_weight")
        if vector.shape != (layout.size,) or vector.dtype not in (np.float32, np.float64):
            raise EncodingError(
                f"got a vector of shape {vector.shape} and dtype {vector.dtype}; "
                f"expected float32 or float64, shape ({layout.size},)"
            )
        if own and share * 2**self.bits < 2**_LEAST_BITS:
            _warnings.warn(
                f"a weight leaves this update fewer than {_LEAST_BITS} of its {self.bits} bits; raise bits or "
                "lower max_weight"
            )
        values, clipped = self._quantize(vector, layout, share, rng)
        counts = zip([*own, clipped], self.segments(layout, max_weight)[1:], strict=True)
        return [values, *(_single(number, segment.bound) for number, segment in counts)]

    def decode(self, sums: Sequence[Lanes], *, layout: Layout, survivors: int, max_weight: int | None) -> Decoded:
        """Sum and mean of ``survivors`` clients, from one array of sums per segment.

        sum = max_weight·Δ·(S − survivors·L), the difference exact; mean = sum / total weight. Besides
        these two vectors nothing of their size is allocated. ``sums`` are uint32 or uint64, not
        reduced. ``EncodingError`` if their number, shapes or values are impossible for ``survivors``
        honest clients; ``ConfigError`` if survivors·2L exceeds 2^62.
        """
        from secagg import _kernels

        segments = self.segments(layout, max_weight)
        if survivors < 1 or survivors * 2 * self._top > _MAX_SUM:
            raise ConfigError(f"got {survivors} survivors; expected 1 to {_MAX_SUM // (2 * self._top)}")
        if len(sums) != len(segments):
            raise EncodingError(f"got sums of {len(sums)} segments; expected {len(segments)}")
        for array, segment in zip(sums, segments, strict=True):
            if array.shape != (segment.length,) or array.dtype not in (np.uint32, np.uint64):
                raise EncodingError(
                    f"got sums of shape {array.shape} and dtype {array.dtype}; "
                    f"expected uint32 or uint64, shape ({segment.length},)"
                )
        clipped = _within(int(sums[-1][0]), 0, survivors * layout.size, "clipped coordinates")
        total_weight = survivors
        if max_weight is not None:
            total_weight = _within(int(sums[1][0]), survivors, survivors * max_weight, "total weight")
        values = sums[0] if sums[0].flags.c_contiguous else sums[0].copy()
        total, mean = np.empty(layout.size), np.empty(layout.size)
        impossible = 0
        for part, clip in self._runs(layout):
            step = (max_weight or 1) * (clip / self._top)
            impossible += _kernels.dequantize(
                values[part], survivors * self._top, step, float(total_weight), total[part], mean[part]
            )
        if impossible:
            raise EncodingError(
                f"got {impossible} sums beyond {survivors}·{2 * self._top}, which {survivors} honest clients "
                "can't reach: a client sent values out of range"
            )
        return Decoded(total, mean, total_weight, clipped)

    def describe(self, layout: Layout, max_weight: int | None) -> list[str]:
        """The grid and the error of the mean, in lines for :meth:`secagg.Task.describe`."""
        steps = sorted(set(self.steps(layout).values()))
        spread = f"{steps[0]:.3g}" if len(steps) == 1 else f"{steps[0]:.3g} to {steps[-1]:.3g}"
        most = 0.5 if self.rounding == "nearest" else 1.0
        error = f"{most * steps[-1]:.3g}"
        share = "" if max_weight is None else f" x {max_weight} / (mean weight of the survivors)"
        norm = self._top * steps[0]  # with the least clip, since rounding adds more to shorter updates
        longer = self.l2_sensitivity(layout, norm) / norm
        least = "" if len(steps) == 1 else " (the least clip)"
        weight = "" if max_weight is None else f"with the weight {max_weight} "
        other = ", or take dp.CentralGaussian" if max_weight is None else ""
        return [
            f"{self.bits} bits a value, grid step {spread}, {self.rounding} rounding",
            f"a coordinate of the mean is off by at most {error}{share}, not counting clipping",
            f"rounding makes an update of L2 norm {norm:.6g}{least} up to {longer:.6g} times as long: {weight}it "
            f"moves the sum by up to {longer * norm * (max_weight or 1):.6g}. Noise that the server adds must be "
            f"calibrated to that (l2_sensitivity){other}",
        ]

    @property
    def _top(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def _clips(self, layout: Layout) -> tuple[float, ...]:
        """The clip of every leaf, in the layout's order."""
        return _clips.resolve(cast(float | _clips.Clips, self.clip), layout)

    def _runs(self, layout: Layout) -> Iterator[tuple[slice, float]]:
        """The parts of the vector that have one clip each, as few as possible, with their clips."""
        start = stop = 0
        current = 0.0
        for leaf, clip in zip(layout.leaves, self._clips(layout), strict=True):
            if clip != current and stop > start:
                yield slice(start, stop), current
                start = stop
            current = clip
            stop += leaf.size
        yield slice(start, stop), current

    def _quantize(self, vector: AnyFloat, layout: Layout, share: float, rng: Rng) -> tuple[NDArray[np.uint32], int]:
        """The integers of ``vector``, and how many coordinates were clipped."""
        from secagg import _kernels

        vector = vector if vector.flags.c_contiguous else vector.copy()
        top = float(self._top)
        values = np.empty(vector.size, np.uint32)
        key = _key(rng) if self.rounding == "stochastic" else None
        clipped = bad = 0
        for run, clip in self._runs(layout):
            grid = clip, top / clip, share, top
            if key is None:
                counts = _kernels.quantize_nearest(vector[run], *grid, values[run])
            else:
                counts = _round(vector[run], key, run.start, grid, values[run])
            clipped += counts[0]
            bad += counts[1]
        if clipped and not bad:
            _clips.warn_of_lost_leaves(vector, layout, self._clips(layout))
        if bad:
            raise EncodingError(
                f"got {bad} coordinates that are not finite, the first in leaf "
                f"{_not_finite(vector, layout)!r}; leave this update out"
            )
        return values, clipped


def _round(
    vector: AnyFloat, key: bytes, first: int, grid: tuple[float, float, float, float], out: NDArray[np.uint32]
) -> tuple[int, int]:
    """Round stochastically, with the mask stream of ``key`` from lane ``first`` on."""
    from secagg import _kernels

    clipped = bad = 0
    random = np.empty(min(_PIECE, vector.size), np.uint32)
    for start in range(0, vector.size, _PIECE):
        part = slice(start, start + _PIECE)
        bits = random[: vector.size - start]
        masks.keystream(key, bits, offset=first + start)
        counts = _kernels.quantize_stochastic(vector[part], bits, *grid, out[part])
        clipped += counts[0]
        bad += counts[1]
    return clipped, bad


def _not_finite(vector: AnyFloat, layout: Layout) -> str:
    """The first leaf that holds a coordinate that is not finite."""
    return next(name for name, part in layout.slices.items() if not np.isfinite(vector[part]).all())


def _single(number: int, bound: int) -> Lanes:
    return cast(Lanes, np.array([number], lane_dtype(bound.bit_length())))


def _key(rng: Rng) -> bytes:
    key = rng(_KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"got {len(key)} bytes from rng; expected {_KEY_BYTES}")
    return key


def _check_max_weight(max_weight: int | None) -> None:
    if max_weight is not None and not 1 <= (whole(max_weight) or 0) <= MAX_WEIGHT:
        raise ConfigError(f"got max_weight={shown(max_weight)}; expected None or an int from 1 to {MAX_WEIGHT}")


def _check_weight(weight: object, max_weight: int) -> int:
    number = whole(weight)
    if number is None or not 1 <= number <= max_weight:
        raise EncodingError(f"got the weight {shown(weight)}; expected an integer from 1 to {max_weight}")
    return number


def _within(value: int, least: int, most: int, what: str) -> int:
    if not least <= value <= most:
        raise EncodingError(f"got {value} {what}; expected {least} to {most}, as from honest clients")
    return value

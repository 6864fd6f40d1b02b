"""What a client does before it contributes: FedProx's gradient, and DP-SGD over its own records.

Functions on arrays and callables: the model, its loss and its gradients are the caller's, in any framework. DP-SGD
protects a *record* within a client's data, with noise of the client's own, so its account is a ledger of records.
The noise of a task's encoding protects a *client*, and has a ledger of its own. Figures of the two don't add up,
and each ledger refuses the other's.

Sources: Li et al. 2020 (FedProx); Abadi et al. 2016 (DP-SGD); Mironov, Talwar and Zhang 2019 (its Poisson samples);
Canonne, Kamath and Steinke 2020 (its noise on integers).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

import dp
from dp.events import DiscreteGaussianEvent, Event, PoissonSampled, Release
from dp.sampling import MAX_SIZE, sample_discrete_gaussian
from secagg._numbers import is_a, real, whole
from secagg.errors import ConfigError, EncodingError, shown
from secagg.layout import Layout, Leaf
from secagg.session import draw

Rng = Callable[[int], bytes]
Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Model = TypeVar("Model")
PerExample = Callable[[Indices], Any]

MAX_RECORDS = 1 << 40

_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
_FINENESS = 10  # rounding takes at most 2^-10 of the clip
_UP = 1 + 2.0**-40  # far more than floats are off by
_WORD = 1 << 64
_PIECE = 1 << 20  # records drawn at a time
_LEAST, _MOST = 2.0**-13, 2.0**13  # of a noise multiplier that is looked for
_CLOSE = 1e-9
_KEY_BYTES = 32


def fedprox_gradient(gradient: Model, weights: object, anchor: object, mu: float) -> Model:
    """``gradient`` + ``mu`` (``weights`` - ``anchor``): that of the loss plus μ/2 ‖w - wᵗ‖² (Li et al. 2020).

    A client adds this in each local step. ``anchor`` wᵗ is the model that the round began with, and all three have
    one structure; the answer is of the kind and the dtypes of ``gradient``, and not finite where they are not.
    ``mu`` is 0 to 1e100. Raises ``ConfigError`` for another ``mu``, ``EncodingError`` for structures that differ.
    """
    factor = real(mu)
    if not 0 <= factor <= 1e100:
        raise ConfigError(f"got mu={shown(mu)}; expected a number from 0 to 1e100, such as 0.1")
    usual: Model | None = _pulled(gradient, weights, anchor, factor)
    if usual is not None:
        return usual
    layout = Layout.of(gradient)
    vectors = [layout.flatten(part, dtype="float64") for part in (gradient, weights, anchor)]
    with np.errstate(all="ignore"):
        pulled = vectors[0] + factor * (vectors[1] - vectors[2])
    restored: Model = layout.restore(pulled, like=gradient, dtype="like")
    return restored


def _pulled(gradient: Any, weights: Any, anchor: Any, factor: float) -> Any:
    """The same for an array of NumPy, or a dict of them; None for all else, and for structures that differ.

    It is called for every batch. On small models a layout takes longer than the gradient itself.
    """
    parts = (gradient, weights, anchor)
    if all(type(part) is dict for part in parts):
        if not gradient.keys() == weights.keys() == anchor.keys() or {*map(type, gradient)} != {str}:
            return None
        if any(type(part) is dict for part in gradient.values()):  # one level: a dict may hold itself
            return None
        leaves = {name: _pulled(gradient[name], weights[name], anchor[name], factor) for name in gradient}
        return leaves if all(type(leaf) is np.ndarray for leaf in leaves.values()) else None
    if not all(type(part) is np.ndarray and part.dtype in _FLOATS and part.size for part in parts):
        return None
    if not gradient.shape == weights.shape == anchor.shape:
        return None
    with np.errstate(all="ignore"):
        own: NDArray[Any] = gradient + factor * (weights.astype(np.float64, copy=False) - anchor)
        return own.astype(gradient.dtype, copy=False)


def clip_per_example(gradients: Model, l2_clip: float) -> Model:
    """``gradients`` with that of each example scaled down to an L2 norm of at most ``l2_clip`` over all leaves.

    Every leaf has the examples as its first axis. The norm holds for the numbers in float64, before they are
    brought back to the leaf's dtype; :class:`DPSGD` relies on integers instead. Raises ``ConfigError`` for a clip
    that is not from 1e-100 to 1e100, ``EncodingError`` for leaves without that axis or of different lengths, and
    for an example that is not finite.
    """
    bound = _clip(l2_clip)
    layout = Layout.of(gradients)
    lengths = {leaf.shape[:1] for leaf in layout.leaves}
    if len(lengths) != 1 or lengths == {()}:
        raise EncodingError(
            f"got leaves whose first axes are {sorted(lengths)}; expected the examples there, as many in each"
        )
    vector = layout.flatten(gradients, dtype="float64")
    ((count,),) = lengths
    parts = [vector[part].reshape(count, -1) for part in layout.slices.values()]
    for number in range(count):
        row = _row(parts, number)
        scale = _scale(row, bound, 1.0, number)
        with np.errstate(under="ignore"):
            for part in parts:
                part[number] *= scale
    restored: Model = layout.restore(vector, like=gradients, dtype="like")
    return restored


class PoissonBatch:
    """The records of one step, each of which was drawn with probability ``rate`` by itself.

    Made by :class:`PoissonBatches` alone, and good for one noised gradient: two from the same records cost more
    than two samples do. It can't be changed or copied. ``indices`` ascend; there may be none. ``records`` is how
    many there are to draw from. Which were drawn is a secret that the amplification rests on: it stays at the
    client.
    """

    __slots__ = ("_use", "indices", "rate", "records")

    indices: Indices
    rate: float
    records: int
    _use: threading.Lock  # taken once and never released

    def __init__(self) -> None:
        raise ConfigError("got no PoissonBatches that drew this batch; expected PoissonBatches(...).draw()")

    @classmethod
    def _drawn(cls, indices: Indices, rate: float, records: int) -> Self:
        batch = cls.__new__(cls)
        indices.flags.writeable = False
        for name, value in zip(cls.__slots__, (threading.Lock(), indices, rate, records), strict=True):
            object.__setattr__(batch, name, value)
        return batch

    def __setattr__(self, name: str, value: object) -> None:
        raise ConfigError(
            f"got another {name} for a batch, which stays as it was drawn: the account is of that draw"
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ConfigError("got a batch, which can't be copied: it is good for one gradient; draw another")

    def _claim(self) -> None:
        """``ConfigError`` if a gradient of this batch was released before."""
        if not self._use.acquire(blocking=False):
            raise ConfigError(
                "got a batch whose gradient was released before; expected a fresh one: two releases from the same "
                "records cost more than two samples, and two samples are what the ledger charges"
            )

    def __len__(self) -> int:
        return int(self.indices.size)

    def __repr__(self) -> str:  # neither which records nor how many: both are secret
        return f"<PoissonBatch at rate {self.rate:g} of {self.records} records>"


class PoissonBatches:
    """Draws the batches of DP-SGD: every record is in each with probability q = ``size``/``records``, by itself.

    ``size`` is the expected size of a batch (above 0, at most ``records``), which the sum is divided by; a batch's
    own size varies. ``rng`` gives the key of each draw, as ``os.urandom`` does: who can predict it undoes the
    amplification, so another source is for tests alone. Iterating draws without end. Raises ``ConfigError`` if a
    parameter is out of range, and in a draw if ``rng`` does not return 32 bytes.
    """

    def __init__(self, records: int, size: float, *, rng: Rng = os.urandom) -> None:
        count, expected = whole(records), real(size)
        if count is None or not 1 <= count <= MAX_RECORDS:
            raise ConfigError(f"got records={shown(records)}; expected an int from 1 to {MAX_RECORDS}")
        if not 0 < expected <= count or expected / count < 2.0**-50:
            raise ConfigError(f"got size={shown(size)}; expected above 0 and at most the {count} records")
        self.records = count
        self.rate = expected / count
        self._below = math.floor(Fraction(self.rate) * _WORD)  # so many of 2^64 words: never above the rate
        self._rng = rng

    def draw(self) -> PoissonBatch:
        """A fresh batch."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        stream = Cipher(algorithms.AES(draw(self._rng, _KEY_BYTES)), modes.CTR(bytes(16))).encryptor()
        pieces = []
        for begin in range(0, self.records, _PIECE):
            words = np.frombuffer(stream.update(bytes(8 * min(_PIECE, self.records - begin))), "<u8")
            inside = words <= np.uint64(self._below - 1) if self._below < _WORD else np.ones(words.size, bool)
            pieces.append(np.flatnonzero(inside) + begin)
        return PoissonBatch._drawn(np.concatenate(pieces).astype(np.int64), self.rate, self.records)

    def __iter__(self) -> Iterator[PoissonBatch]:
        while True:
            yield self.draw()

    def __repr__(self) -> str:
        return f"<PoissonBatches of {self.records} records at rate {self.rate:g}>"


@dataclass(frozen=True, slots=True)
class DPSGD:
    """The noised gradient of DP-SGD on integers: the noise is exact, and the account holds for the very numbers.

    Each example's gradient is clipped to ``l2_clip`` C and rounded to a grid of steps C/K. K is a power of two, so
    large that leaving room for the rounding lowers the clip by less than a thousandth. The integers are summed,
    discrete Gaussian noise of σ = zK is added, and the result is divided by the expected size of a batch. One
    record more or less moves the sum by at most K, which is checked on the integers.

    ``l2_clip`` is 1e-100 to 1e100, ``noise_multiplier`` z 1e-6 to 1e6; ``ConfigError`` otherwise.
    """

    l2_clip: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "l2_clip", _clip(self.l2_clip))
        multiplier = real(self.noise_multiplier)
        if not 1e-6 <= multiplier <= 1e6:
            raise ConfigError(
                f"got noise_multiplier={shown(self.noise_multiplier)}; expected a number from 1e-6 to 1e6"
            )
        object.__setattr__(self, "noise_multiplier", multiplier)

    def gradient(
        self,
        model: Model,
        per_example: PerExample,
        batch: PoissonBatch,
        ledger: dp.PrivacyLedger,
        *,
        chunk: int = 256,
        rng: Rng = os.urandom,
    ) -> Model:
        """The noised mean gradient over ``batch``, of the kind and the dtypes of ``model``; run by a client.

        ``per_example`` gets up to ``chunk`` of the batch's indices at a time and returns the gradients of these
        records at ``model``: its structure, each leaf with the records as a first axis. It is not called for an
        empty batch, whose answer is noise alone. ``ledger`` is charged before the noise is drawn, and must have
        unit ``"record"`` and trust ``"central"``: the client draws the sample and adds the noise, and shows
        neither. ``rng`` gives the key of the noise.

        Raises ``ConfigError`` for a batch that is not a :class:`PoissonBatch` or was used before and for another
        ledger, ``EncodingError`` for gradients that don't fit or are not finite, and ``dp.DPError`` where the
        ledger refuses, such as :class:`dp.ledger.BudgetExceeded`. Nothing is charged or released then. For an
        ``rng`` that does not return as many bytes as it is asked for it raises ``ConfigError`` after the charge.
        """
        _check_batch(batch)
        _check_ledger(ledger)
        most = whole(chunk)
        if most is None or most < 1:
            raise ConfigError(f"got chunk={shown(chunk)}; expected an int of at least 1")
        layout = Layout.of(model)
        total = np.zeros(layout.size, np.int64)
        for begin in range(0, len(batch), most):
            rows = batch.indices[begin : begin + most].copy()  # PyTorch warns of arrays that are read-only
            self._add(total, layout, per_example(rows), rows.size)
        batch._claim()
        ledger.charge(self.release(layout.size, batch.rate))
        steps = self._steps(layout.size)
        total += sample_discrete_gaussian(self.noise_multiplier * steps, layout.size, rng=partial(draw, rng))
        mean = total * (self.l2_clip / steps / (batch.rate * batch.records))
        restored: Model = layout.restore(mean, like=model, dtype="like")
        return restored

    def event(self, dimension: int) -> Event:
        """One step over a whole data set as an event, for a model of ``dimension`` coordinates."""
        steps = self._steps(dimension)
        return DiscreteGaussianEvent(self.noise_multiplier * steps, float(steps))

    def release(self, dimension: int, rate: float) -> Release:
        """What a step on a batch of this ``rate`` costs, for a model of ``dimension`` coordinates.

        The unit is a record, the trust central.
        """
        return Release(PoissonSampled(rate, self.event(dimension)), "record", "central")

    def epsilon(self, delta: float, *, rate: float, steps: int) -> float:
        """ε of a record at ``delta`` after ``steps`` batches at ``rate``; the model's size doesn't matter."""
        return dp.RDPAccountant(delta).epsilon_after(self.release(1, rate).event, steps)

    def with_epsilon(self, epsilon: float, delta: float, *, rate: float, steps: int) -> Self:
        """The same with the least noise multiplier, to a billionth, that keeps ``steps`` within ``epsilon``.

        ``delta`` and ``rate`` (the fraction of records in a batch) are those of :meth:`epsilon`. The multiplier is
        between 2^-13 and 2^13; ``ConfigError`` if none there is large enough.
        """
        target = real(epsilon)

        def fits(multiplier: float) -> bool:
            return replace(self, noise_multiplier=multiplier).epsilon(delta, rate=rate, steps=steps) <= target

        if not 0 < target < math.inf or not fits(_MOST):
            raise ConfigError(
                f"got epsilon={shown(epsilon)} for {shown(steps)} steps at rate {shown(rate)}; expected a "
                "larger epsilon, or fewer steps"
            )
        less, enough = _LEAST, _MOST
        while enough > less * (1 + _CLOSE):
            middle = math.sqrt(less * enough)
            less, enough = (less, middle) if fits(middle) else (middle, enough)
        return replace(self, noise_multiplier=enough)

    def _steps(self, dimension: int) -> int:
        """K: the clip in steps of the grid."""
        count = whole(dimension)
        if count is None or not 1 <= count <= MAX_SIZE:
            raise ConfigError(f"got a model of {shown(dimension)} coordinates; expected 1 to {MAX_SIZE}")
        # Rounding to the nearest lengthens by at most half the diagonal of a cell, √d/2.
        return 1 << math.ceil(_FINENESS + math.log2(count) / 2 - 1)

    def _add(self, total: NDArray[np.int64], layout: Layout, gradients: object, count: int) -> None:
        """Add each example's clipped and rounded gradient to ``total``."""
        batched = Layout(
            tuple(Leaf(leaf.path, (count, *leaf.shape), "float64") for leaf in layout.leaves), layout.branches
        )
        vector: Vector = batched.flatten(gradients, dtype="float64").astype(np.float64, copy=False)
        parts = [vector[part].reshape(count, -1) for part in batched.slices.values()]
        steps = self._steps(layout.size)
        room = (steps - math.sqrt(layout.size) / 2) / _UP
        for number in range(count):
            row = _row(parts, number)
            scale = _scale(row, room, steps / self.l2_clip, number)
            with np.errstate(under="ignore"):
                rounded = np.rint(row * scale).astype(np.int64)
            if int(rounded @ rounded) > steps**2:
                raise EncodingError("got a rounded gradient longer than the clip, which can't be; report this")
            total += rounded


def _check_batch(batch: object) -> None:
    """``ConfigError`` unless the batch was drawn as the account supposes."""
    if not is_a(batch, PoissonBatch):
        raise ConfigError(
            f"got {shown(batch)} as batch; expected one of PoissonBatches: the account is amplified by Poisson "
            "sampling, which batches of a shuffled loader or of a fixed size are not"
        )


def _check_ledger(ledger: object) -> None:
    """``ConfigError`` unless the ledger is one of records."""
    if not is_a(ledger, (dp.PrivacyLedger,)):
        raise ConfigError(f"got {shown(ledger)} as ledger; expected a dp.PrivacyLedger with unit='record'")
    for name, expected in (("unit", "record"), ("trust", "central"), ("neighbours", "zero-out")):
        if getattr(ledger, name) != expected:
            raise ConfigError(
                f"got a ledger with {name}={getattr(ledger, name)!r} for records within a client; expected "
                f"{name}={expected!r}: a record's epsilon and a client's don't add up, so keep a ledger for each"
            )


def _row(parts: list[NDArray[Any]], number: int) -> Vector:
    """The gradient of one example, flat."""
    return np.concatenate([part[number] for part in parts])


def _scale(row: Vector, bound: float, unit: float, number: int) -> float:
    """What ``row`` is multiplied with: ``unit``, or less where its norm would be above ``bound``."""
    largest = float(np.max(np.abs(row), initial=0.0))
    if not math.isfinite(largest):
        raise EncodingError(
            f"got a gradient of example {number} that is not finite; leave this record out of the data for good"
        )
    if largest == 0.0:
        return unit
    with np.errstate(under="ignore"):
        ratio = math.sqrt(float(np.square(row / largest).sum())) * _UP
    return unit if largest * unit * ratio <= bound else bound / ratio / largest


def _clip(l2_clip: object) -> float:
    bound = real(l2_clip)
    if not 1e-100 <= bound <= 1e100:
        raise ConfigError(f"got l2_clip={shown(l2_clip)}; expected a number from 1e-100 to 1e100")
    return bound

"""Server optimizers: what a server makes of the mean that a secure sum opened.

A rule is a frozen object of hyperparameters, and what it remembers from round to round is a state of its own. A
session that is aborted therefore changes nothing: go on with the model and the state from before it.

Sources: McMahan et al. 2017 (FedSGD, FedAvg); Hsu et al. 2019 (FedAvgM); Reddi et al. 2021, Algorithm 2
(FedAdagrad, FedAdam, FedYogi: v starts at τ², and no bias is corrected); Tang, Shpilevskiy and Lécuyer 2024 (noise
in v).
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg import _canonical
from secagg._numbers import is_a, real
from secagg.errors import ConfigError, EncodingError, blaming, shown
from secagg.layout import Layout

Vector = NDArray[np.float64]
Model = TypeVar("Model")

_LABEL = b"secagg/v1/optimizer"
_LAYOUT_LABEL = b"secagg/v1/optimizer-layout"
_DIGEST = 32
_RULE_BYTES = 512
_COUNTS = struct.Struct(">Qd")  # rounds, and the noise variance in v
_MOST = 1e100  # of a hyperparameter or of noise: its square is a float
_MOST_ROUNDS = 1 << 63  # of a state that is read: those after it can be written


class Moments(NamedTuple):
    """What a rule remembers: the first moment m and the second moment v, where it has them, and the noise in v."""

    m: Vector | None = None
    v: Vector | None = None
    noise: float = 0.0  # the variance that noise has put into each coordinate of v, as expected


@dataclass(frozen=True, eq=False, repr=False)
class OptimizerState:
    """What ``optimizer`` remembers after ``rounds`` rounds, for models of one ``layout``; never changed in place.

    Made by :meth:`ServerOptimizer.start`, :meth:`ServerOptimizer.step` and :meth:`ServerOptimizer.restore`. The
    vectors of ``moments`` are read-only.
    """

    optimizer: ServerOptimizer
    layout: Layout
    rounds: int
    moments: Moments

    def to_bytes(self) -> bytes:
        """The state in its one form, with a SHA-256 against accident; :meth:`ServerOptimizer.restore` reads it."""
        rule = self.optimizer.rule.encode()
        body = len(rule).to_bytes(2, "big") + rule + _layout_digest(self.layout)
        body += _COUNTS.pack(self.rounds, self.moments.noise)
        for vector in (self.moments.m, self.moments.v):
            body += b"" if vector is None else vector.astype(">f8").tobytes()
        return _LABEL + hashlib.sha256(body).digest() + body

    def __repr__(self) -> str:
        return f"<OptimizerState of {self.optimizer.rule} after {self.rounds} rounds>"


@dataclass(frozen=True, slots=True)
class ServerOptimizer(ABC):
    """The root of all rules; a server runs them.

    ``learning_rate`` η is a number above 0 and at most 1e100; ``ConfigError`` if a field is out of range.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(self, field.name)

    @property
    def rule(self) -> str:
        """The rule and its hyperparameters but the learning rate, which no state depends on."""
        kept = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self)[1:])
        return f"{type(self).__name__}({', '.join(kept)})"

    def start(self, model: object) -> OptimizerState:
        """The state before the first round of a run that trains ``model``, anything that ``Layout.of`` takes."""
        layout = Layout.of(model)
        return self._state(layout, 0, self._first(layout.size))

    def step(
        self, model: Model, mean: object, state: OptimizerState, *, noise_std: float = 0.0
    ) -> tuple[Model, OptimizerState]:
        """The next model, of the kind that ``model`` is, and the next state; the arguments stay as they are.

        ``mean`` is ``Outcome.mean``: of the clients' changes (local weights less the weights that they began with),
        or for :class:`FedSGD` of their gradients. ``state`` is what :meth:`start` or the last step returned.
        ``noise_std`` is the standard deviation of the noise in one coordinate of ``mean``, which only
        :class:`FedAdam` has a use for (:func:`secagg.federated.mean_noise_std`). It computes in float64, and gives
        each leaf back in its dtype.

        The learning rate may be another one in each round (``dataclasses.replace``).

        Raises ``ConfigError`` for a state of another rule, of other hyperparameters or of a model of another
        layout, and for noise that the rule can't correct; ``EncodingError`` for a mean of another structure, and
        where anything is not finite, before or after.
        """
        if not is_a(state, OptimizerState):
            raise ConfigError(f"got {shown(state)} as state; expected what start(model) or the last step gave")
        if state.optimizer.rule != self.rule:
            raise ConfigError(
                f"got the state of {state.optimizer.rule} for {self.rule}; expected the same rule and "
                "hyperparameters, except for the learning rate: begin anew with start(model)"
            )
        layout = Layout.of(model)
        if state.layout != layout:
            raise ConfigError(
                f"got the state of a model of another layout, {state.layout!r}, for {layout!r}; expected the state "
                "of this model"
            )
        noise = real(noise_std)
        if not 0 <= noise <= _MOST:
            raise ConfigError(f"got noise_std={shown(noise_std)}; expected a number from 0 to {_MOST:g}")
        if noise:
            self._check_noise()
        weights: Vector = layout.flatten(model, dtype="float64").astype(np.float64, copy=False)
        change: Vector = layout.flatten(mean, dtype="float64").astype(np.float64, copy=False)
        _check_finite(weights, "a model")
        _check_finite(change, "a mean")
        with np.errstate(all="ignore"):
            moments = self._remember(state.moments, change, noise**2)
            weights += self.learning_rate * self._direction(moments, change)
        for vector in (moments.m, moments.v):
            if vector is not None:
                _check_finite(vector, "a mean so large that it leads to a state")
        restored: Model = layout.restore(weights, like=model, dtype="like")
        _check_finite(layout.flatten(restored, dtype="float64"), "a mean so large that it leads to a model")
        return restored, self._state(layout, state.rounds + 1, moments)

    def restore(self, data: bytes, model: object) -> OptimizerState:
        """The state that :meth:`OptimizerState.to_bytes` wrote as ``data``.

        It is for the same rule and the same kind of ``model``. Raises ``ConfigError`` for the state of another
        rule, of other hyperparameters or of a model of another layout, and for bytes that are damaged, cut short or
        too long. The checksum is against accident: a party that can write the bytes can write any state.
        """
        layout = Layout.of(model)
        first = self._first(layout.size)
        count = sum(vector is not None for vector in (first.m, first.v))
        body = _checked_body(data, layout.size * count)
        length = int.from_bytes(body[:2], "big")
        rule, at = body[2 : 2 + length], 2 + length
        if rule != self.rule.encode():
            raise ConfigError(
                f"got the state of {shown(rule.decode(errors='replace'))}; expected one of {self.rule}"
            )
        if body[at : at + _DIGEST] != _layout_digest(layout):
            raise ConfigError(f"got the state of a model of another layout; expected one of {layout!r}")
        at += _DIGEST
        if len(body) != at + _COUNTS.size + 8 * layout.size * count:
            raise ConfigError(
                f"got {len(body)} bytes of state; expected {at + _COUNTS.size + 8 * layout.size * count}"
            )
        rounds, noise = _COUNTS.unpack_from(body, at)
        numbers = np.frombuffer(body, ">f8", offset=at + _COUNTS.size).astype(np.float64)
        m = None if first.m is None else numbers[: layout.size].copy()
        v = None if first.v is None else numbers[-layout.size :].copy()
        moments = Moments(m, v, noise)
        least = 0.0 if v is None else float(v.min())
        if not (np.isfinite(numbers).all() and least >= 0 and 0 <= noise <= _MOST**2 and rounds <= _MOST_ROUNDS):
            raise ConfigError(
                "got a state whose numbers no run reaches: not finite, a v below 0, or more than 2^63 rounds"
            )
        return self._state(layout, rounds, moments)

    def _state(self, layout: Layout, rounds: int, moments: Moments) -> OptimizerState:
        for vector in (moments.m, moments.v):
            if vector is not None:
                vector.flags.writeable = False
        return OptimizerState(self, layout, rounds, moments)

    def _check_noise(self) -> None:
        """``ConfigError`` unless the rule can correct for noise."""
        raise ConfigError(
            f"got noise_std for a {type(self).__name__}, which can't correct for noise; expected noise_std=0, or a "
            "FedAdam"
        )

    def _first(self, size: int) -> Moments:
        """The moments before the first round, of ``size`` coordinates; none here."""
        return Moments()

    @abstractmethod
    def _remember(self, moments: Moments, change: Vector, variance: float) -> Moments:
        """The moments after a round whose mean is ``change``, with noise of ``variance``; new arrays."""

    @abstractmethod
    def _direction(self, moments: Moments, change: Vector) -> Vector:
        """What is added to the weights, over the learning rate; ``moments`` are those after this round."""


@dataclass(frozen=True, slots=True)
class FedAvg(ServerOptimizer):
    """x + ηΔ; with η = 1 the average of the clients' models (McMahan et al. 2017). It remembers nothing."""

    learning_rate: float = 1.0

    def _remember(self, moments: Moments, change: Vector, variance: float) -> Moments:
        return moments

    def _direction(self, moments: Moments, change: Vector) -> Vector:
        return change


@dataclass(frozen=True, slots=True)
class FedSGD(ServerOptimizer):
    """x - ηg, where each client sends the gradient of one step over all of its examples, and g is their mean.

    It is FedAvg with one local step of rate η over the full batch (McMahan et al. 2017). It remembers nothing.
    """

    def _remember(self, moments: Moments, change: Vector, variance: float) -> Moments:
        return moments

    def _direction(self, moments: Moments, change: Vector) -> Vector:
        return -change


@dataclass(frozen=True, slots=True)
class FedAvgM(ServerOptimizer):
    """m ← βm + Δ; x + ηm (Hsu et al. 2019). ``momentum`` β is 0 to below 1.

    In the long run it moves by η/(1 - β) times the change: lower η as β rises.
    """

    learning_rate: float = 1.0
    momentum: float = 0.9

    def _first(self, size: int) -> Moments:
        return Moments(np.zeros(size))

    def _remember(self, moments: Moments, change: Vector, variance: float) -> Moments:
        return Moments(self.momentum * _held(moments.m) + change)

    def _direction(self, moments: Moments, change: Vector) -> Vector:
        return _held(moments.m)


@dataclass(frozen=True, slots=True)
class _Adaptive(ServerOptimizer):
    """m ← β₁m + (1 - β₁)Δ; v by the rule, from τ² on; x + ηm/(√v + τ)."""

    _: KW_ONLY
    beta1: float = 0.9
    tau: float = 1e-3

    def _first(self, size: int) -> Moments:
        return Moments(np.zeros(size), np.full(size, self.tau**2))

    def _remember(self, moments: Moments, change: Vector, variance: float) -> Moments:
        m = self.beta1 * _held(moments.m) + (1 - self.beta1) * change
        return Moments(m, self._second(_held(moments.v), change**2), self._noise(moments.noise, variance))

    def _direction(self, moments: Moments, change: Vector) -> Vector:
        return _held(moments.m) / (np.sqrt(self._corrected(moments)) + self.tau)

    def _noise(self, before: float, variance: float) -> float:
        return 0.0

    def _corrected(self, moments: Moments) -> Vector:
        return _held(moments.v)

    @abstractmethod
    def _second(self, v: Vector, squares: Vector) -> Vector:
        """v after a round whose squared changes are ``squares``."""


@dataclass(frozen=True, slots=True)
class FedAdagrad(_Adaptive):
    """v ← v + Δ²; x + ηm/(√v + τ) (Reddi et al. 2021).

    ``beta1`` is 0 to below 1, and 0 in the paper's experiments; ``tau`` is 1e-50 to 1e50.
    """

    _: KW_ONLY
    beta1: float = 0.0

    def _second(self, v: Vector, squares: Vector) -> Vector:
        return v + squares


@dataclass(frozen=True, slots=True)
class FedAdam(_Adaptive):
    """v ← β₂v + (1 - β₂)Δ²; x + ηm/(√v + τ) (Reddi et al. 2021).

    ``beta1`` and ``beta2`` are 0 to below 1, ``tau`` is 1e-50 to 1e50. Under differential privacy v collects the
    variance of the noise on top of that of the changes, which makes all steps alike. A ``noise_std`` that is
    passed to :meth:`step` is taken out of v again: x + ηm/(√max(v - b, γ) + τ), where
    b ← β₂b + (1 - β₂)·noise_std² is what the noise has put in (Tang et al. 2024, without their bias corrections as
    v has none). ``noise_floor`` γ is a number above 0 to be tuned, as theirs is. None stands for b, which makes no
    step longer by more than a factor of √2.
    """

    _: KW_ONLY
    beta2: float = 0.99
    noise_floor: float | None = None

    def _second(self, v: Vector, squares: Vector) -> Vector:
        return self.beta2 * v + (1 - self.beta2) * squares

    def _noise(self, before: float, variance: float) -> float:
        return self.beta2 * before + (1 - self.beta2) * variance

    def _corrected(self, moments: Moments) -> Vector:
        v, noise = _held(moments.v), moments.noise
        return np.maximum(v - noise, noise if self.noise_floor is None else self.noise_floor) if noise else v

    def _check_noise(self) -> None:
        """Any noise can be corrected."""


@dataclass(frozen=True, slots=True)
class FedYogi(_Adaptive):
    """v ← v - (1 - β₂)Δ²·sign(v - Δ²); x + ηm/(√v + τ) (Reddi et al. 2021). Fields as in :class:`FedAdam`.

    There is no correction for noise: what noise puts into this v is not its variance, since v moves by the sign.
    """

    _: KW_ONLY
    beta2: float = 0.99

    def _second(self, v: Vector, squares: Vector) -> Vector:
        return v - (1 - self.beta2) * squares * np.sign(v - squares)


_SHARES = ("beta1", "beta2", "momentum")


def _check(owner: ServerOptimizer, name: str) -> None:
    """Bring a hyperparameter to float; ``ConfigError`` if it is out of range."""
    value = getattr(owner, name)
    if name == "noise_floor" and value is None:
        return
    number = real(value)
    if name in _SHARES:
        held, expected = 0 <= number < 1, "from 0 to below 1"
    elif name == "tau":
        held, expected = 1e-50 <= number <= 1e50, "from 1e-50 to 1e50"
    else:
        held, expected = 0 < number <= _MOST, f"above 0, at most {_MOST:g}"
    if not held:
        raise ConfigError(f"got {name}={shown(value)}; expected a number {expected}")
    object.__setattr__(owner, name, number + 0.0)  # of two equal zeros one, since a state names its rule


def _held(vector: Vector | None) -> Vector:
    assert vector is not None
    return vector


def _check_finite(vector: NDArray[Any], what: str) -> None:
    bad = int(vector.size - np.count_nonzero(np.isfinite(vector)))
    if bad:
        raise EncodingError(f"got {what} with {bad} coordinates that are not finite; leave this round out")


def _layout_digest(layout: Layout) -> bytes:
    return hashlib.sha256(_LAYOUT_LABEL + _canonical.encode(layout)).digest()


def _checked_body(data: object, coordinates: int) -> bytes:
    """What stands after the checksum; ``ConfigError`` if the bytes are too long or damaged."""
    if not is_a(data, bytes | bytearray | memoryview):
        raise ConfigError(f"got {shown(data)} as the state of an optimizer; expected the bytes of to_bytes()")
    with blaming(ConfigError, "got a state whose bytes can't be read"):
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
    head = len(_LABEL) + _DIGEST
    most = head + 2 + _RULE_BYTES + _DIGEST + _COUNTS.size + 8 * coordinates
    if len(view) > most:
        raise ConfigError(f"got a state of {len(view)} bytes; expected at most {most} for this model and rule")
    if len(view) < head or view[: len(_LABEL)] != _LABEL:
        raise ConfigError(f"got a state that doesn't begin with {_LABEL.decode()!r}; expected that of an optimizer")
    body = bytes(view[head:])
    if hashlib.sha256(body).digest() != view[len(_LABEL) : head]:
        raise ConfigError("got a state whose SHA-256 doesn't match: it was cut short or changed")
    return body

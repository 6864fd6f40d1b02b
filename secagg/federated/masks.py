"""Masks that follow from public data: the coordinates that changed most, and those of a pruned model.

A mask has to be one for all clients. It may follow from what everybody knows already, such as the aggregate of the
round before, or the global model. Then it reveals nothing new. Under DP the aggregate is noised, and a mask that
follows from it costs no further privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar, TypeVar

import numpy as np

from secagg._numbers import real, whole
from secagg._reading import INTEGERS
from secagg.errors import ConfigError, chosen, shown
from secagg.federated.compression import (
    Chosen,
    Compression,
    Coordinates,
    CountSketch,
    RandomK,
    Vector,
    check_count,
    finite,
    smallest,
    words,
)
from secagg.layout import Layout
from secagg.task import MAX_CLIENTS

_LARGEST_THRESHOLD = 1e100

Array = TypeVar("Array", bound=np.ndarray[Any, Any])


@dataclass(frozen=True, eq=False)
class PublicMask(Chosen):
    """``k`` coordinates: those that changed by more than ``threshold`` in the last aggregate, and some at random.

    :meth:`after` makes the mask of the next round from this round's expanded mean: of its coordinates above
    ``threshold`` in absolute value the largest, at most (1 - ``explore``)·``k`` of them; the others are drawn
    at random from the rest, anew in each session. In the first round all are. The mean is not scaled, so a
    coordinate moves only in rounds that send it: each client keeps what it did not send in a
    :class:`~secagg.federated.Residual`, and adds it the next time.

    ``explore`` (above 0, at most 1) is needed: the aggregate is zero wherever nothing was sent, so without an
    exploring share no new coordinate would ever be sent.

    Every client sends the same ``k`` coordinates. The mask reveals nothing but the last aggregate, which is public.
    The session holds its digest (:meth:`session`): a client to which the server told another aggregate, or that
    chose its own coordinates, takes part in no session with the others. A client takes one aggregate a round: with
    a second one the same round has another session, for which its ledger has no entry.
    """

    k: int
    explore: float = 0.5
    threshold: float = 0.0
    _changes: Vector | None = field(default=None, init=False, repr=False)

    label: ClassVar[str] = "public-mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "k", check_count("k", self.k, self.layout.size))
        explore, threshold = real(self.explore), real(self.threshold)
        if not 0 < explore <= 1:
            raise ConfigError(
                f"got explore={shown(self.explore)}; expected a share above 0, at most 1: the aggregate is zero "
                "where nothing was sent, so a mask without an exploring share never sends a coordinate that it "
                "left out once"
            )
        if not 0 <= threshold <= _LARGEST_THRESHOLD:
            raise ConfigError(
                f"got threshold={shown(self.threshold)}; expected a number from 0 to {_LARGEST_THRESHOLD}"
            )
        object.__setattr__(self, "explore", explore)
        object.__setattr__(self, "threshold", threshold + 0.0)  # one of two equal zeros: the digest holds it

    @property
    def size(self) -> int:
        """``k``."""
        return self.k

    @property
    def exploring(self) -> int:
        """How many coordinates are drawn at random at least."""
        return math.ceil(Fraction(str(self.explore)) * self.k)

    def after(self, aggregate: object) -> PublicMask:
        """The mask of the next round; ``aggregate`` is the expanded mean of this one, the same for everyone.

        The same to the last bit: the digest holds it. So send clients ``outcome.mean``, which each expands, rather
        than have them subtract two models.

        ``EncodingError`` for another layout, or values that are not finite; ``ConfigError`` for positions or flags:
        a client's own choice of coordinates.
        """
        if all(leaf.dtype in _POSITIONS for leaf in Layout.of(aggregate).leaves):
            raise ConfigError(
                f"got integers or flags as the aggregate; expected the expanded mean. {OWN_COORDINATES}"
            )
        following = replace(self)
        object.__setattr__(following, "_changes", _frozen(np.abs(finite(self.layout, aggregate))))
        return following

    def coordinates(self, session: bytes) -> Coordinates:
        """The largest changes above ``threshold``, then the coordinates with the smallest words of the stream.

        ``session`` determines the stream.
        """
        stream = words(self.layout.size, self.label, self._checked(session))
        top = self._top()
        rest = np.ones(self.layout.size, np.bool_)
        rest[top] = False
        others = np.flatnonzero(rest)
        return np.sort(np.concatenate([top, others[smallest(stream[others], self.k - top.size)]]))

    def _top(self) -> Coordinates:
        if self._changes is None:
            return np.empty(0, np.intp)
        large = np.flatnonzero(self._changes > self.threshold)
        most = min(self.k - self.exploring, large.size)
        return large[smallest(-self._changes[large], most)]

    def _parts(self) -> tuple[bytes | int | str, ...]:
        changes = b"" if self._changes is None else self._changes.astype("<f8").tobytes()
        return self.k, self.explore.hex(), self.threshold.hex(), changes

    def _says(self) -> list[str]:
        return [
            f"at least {self.exploring:,} coordinates are drawn at random in each session; the others are those "
            f"of the last aggregate that changed most, by more than {self.threshold:g}",
            "a coordinate that is not sent waits in each client's residual, in the clear, on that client",
            "the mask follows from the last aggregate: it reveals nothing beyond that aggregate",
        ]


@dataclass(frozen=True, eq=False, init=False)
class Pruned(Chosen):
    """The ``keep`` coordinates in which the global ``model`` is largest in absolute value; the others stay zero.

    Magnitude pruning, over all leaves together; of equal magnitudes the first coordinates are kept. The mask stays
    the same until the operator makes another one. The pruned model is :meth:`prune` of the model: begin
    the run with it, since coordinates that are never sent keep their value.

    The mask reveals nothing but the global model. The session holds its digest (:meth:`session`), so a server that
    gives two clients different models has them in no session together.
    """

    keep: int
    _kept: Coordinates = field(repr=False)

    label: ClassVar[str] = "pruned"

    def __init__(self, layout: Layout, model: object, keep: int) -> None:
        object.__setattr__(self, "layout", layout)
        super().__post_init__()
        object.__setattr__(self, "keep", check_count("keep", keep, layout.size))
        object.__setattr__(self, "_kept", _frozen(smallest(-np.abs(finite(layout, model)), self.keep)))

    @property
    def size(self) -> int:
        """``keep``."""
        return self.keep

    def coordinates(self, session: bytes) -> Coordinates:
        """The kept coordinates, the same in every ``session``; read-only."""
        self._checked(session)
        return self._kept

    def prune(self, model: object) -> Any:
        """``model`` with zeros wherever nothing is sent. ``EncodingError`` for another layout."""
        vector = finite(self.layout, model)
        pruned = np.zeros_like(vector)
        pruned[self._kept] = vector[self._kept]
        return self.layout.restore(pruned, like=model, dtype="like")

    def _parts(self) -> tuple[bytes | int | str, ...]:
        return (self._kept.astype("<i8").tobytes(),)

    def _says(self) -> list[str]:
        return [
            "the coordinates are those in which the global model is largest; the others stay zero",
            "the mask follows from the global model: it reveals nothing beyond that model",
        ]


def _frozen(array: Array) -> Array:
    """``array``, made read-only: the digest holds what it was."""
    array.flags.writeable = False
    return array


_POSITIONS = INTEGERS | {"int"}

OWN_COORDINATES = (
    "A client's own choice of coordinates is refused: which ones it sends reveals something of its update, in "
    "the clear, and the server can add only what stands at the same place. A sum over the union of all choices "
    f"would be dense anyway: of 1 % each, 100 clients fill {100 * (1 - 0.99**100):.0f} %"
)

_REFUSED = ("top-k", "threshold", "gradient-dropping", "deep-gradient-compression")


def union_density(share: float, clients: int) -> float:
    """The share of coordinates that at least one of ``clients`` sends if each picks ``share`` of them by itself.

    1 - (1 - ``share``)^``clients``, for choices that are independent: what a sum over per-client masks would hold.
    ``ConfigError`` for a share that is not from 0 to 1, and for clients that are not 0 to 2^24.
    """
    share, count = real(share), whole(clients)
    if not 0 <= share <= 1 or count is None or not 0 <= count <= MAX_CLIENTS:
        raise ConfigError(
            f"got a share of {shown(share)} and {shown(clients)} clients; expected 0 to 1, and 0 to {MAX_CLIENTS}"
        )
    if count == 0:
        return 0.0
    return -math.expm1(count * math.log1p(-share)) if share < 1 else 1.0


def named(name: str, model: object, k: int) -> Compression:
    """The compression that a command line names, for updates like ``model``, with ``k`` coordinates sent.

    ``random-k``, ``count-sketch``, ``public-mask`` or ``pruned``. ``ConfigError`` for any other name; for maps
    that each client chooses by itself (``top-k``, ``threshold``), with the reason.
    """
    layout = Layout.of(model)
    maps: dict[str, Callable[[], Compression]] = {
        RandomK.label: lambda: RandomK(layout, k),
        CountSketch.label: lambda: CountSketch(layout, k),
        PublicMask.label: lambda: PublicMask(layout, k),
        Pruned.label: lambda: Pruned(layout, model, k),
    }
    plain = chosen(name, maps)
    if plain is not None:
        return maps[plain]()
    if chosen(name, _REFUSED) is not None:
        raise ConfigError(
            f"got compression {shown(name)}; expected {PublicMask.label}, which chooses alike for everyone, or "
            f"{RandomK.label}. {OWN_COORDINATES}"
        )
    raise ConfigError(f"got compression {shown(name)}; expected one of {', '.join(maps)}")

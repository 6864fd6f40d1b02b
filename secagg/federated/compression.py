"""Compression that commutes with the sum: public linear maps of an update to fewer coordinates.

A secure sum adds what clients send coordinate by coordinate. So every client of a session has to apply one and the
same linear map, and everybody has to know which: then the sum of what was sent is the map of the sum. Maps that
differ from client to client, such as each client's own largest coordinates, don't commute with the sum, and the
choice of coordinates would reveal something of the update. They are refused.

::

    compression = RandomK(Layout.of(model), k=10_000)
    task = secagg.Task(layout=compression.compressed, ...)       # one array of k coordinates
    session = compression.session(b"round 3")                     # server and clients: names the round and the map
    vector = compression.compress(update, session)                # a client, then client.contribute(vector)
    mean = compression.expand(outcome.mean, session)              # the server

Clips and noise come after the map, in the task's encoding. So what the encoding says of one update's length, and
with it every ε, holds for what is really sent.

**Randomness.** What a session chooses at random follows from its name by one rule, which never changes. The key is
SHA-256 of the label, the session and, for a sketch, the row, each after its length
(:func:`mpc.keys.encode_parts`). Its stream is AES-256 in counter mode from a zero block, read as
little-endian words of 64 bits; word j belongs to coordinate j. It is public, so it hides nothing; it is the same
for every client, and no coordinate is likelier than another.

Sources: Konečný et al. 2016, "Federated Learning: Strategies for Improving Communication Efficiency" (random
masks); Charikar, Chen and Farach-Colton 2002 (the sketch).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpc.keys import encode_parts
from mpc.masks import keystream
from secagg import _canonical
from secagg._numbers import is_a, whole
from secagg.errors import ConfigError, EncodingError, shown
from secagg.layout import Layout, Leaf
from secagg.session import check_session

Vector = NDArray[np.float64]
Coordinates = NDArray[np.intp]

_LARGEST_WIDTH = (1 << 31) - 1
_PIECE = 1 << 20  # coordinates of a sketch at a time


@dataclass(frozen=True, eq=False)
class Compression(ABC):
    """A linear map of updates of ``layout`` to ``size`` coordinates, which follows from public data alone."""

    layout: Layout

    label: ClassVar[str]

    def __post_init__(self) -> None:
        if not is_a(self.layout, Layout):
            raise ConfigError(f"got {shown(self.layout)} as layout; expected secagg.Layout.of(model)")

    @property
    @abstractmethod
    def size(self) -> int:
        """How many coordinates a client sends."""

    @property
    def compressed(self) -> Layout:
        """The layout of the task: one array of :attr:`size` coordinates."""
        return Layout((Leaf((), (self.size,), "float64"),), ())

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that the map depends on beside the session's name."""
        return hashlib.sha256(encode_parts(self.label, _canonical.encode(self.layout), *self._parts())).digest()

    def session(self, name: bytes) -> bytes:
        """``name`` followed by :attr:`digest`: the session in which this map is used; the same for everyone.

        It goes to :meth:`compress` and :meth:`expand`, and as ``session=`` to the roles. The session id holds it,
        so a client with another map computes another id, and takes part in no session with the others. Otherwise
        a server could have the others send coordinates that it knows, and read the victim's out of the sum.
        ``ConfigError`` if ``name`` is not bytes, or has more than 992.
        """
        return check_session(check_session(name) + self.digest)

    def compress(self, update: object, session: bytes) -> Vector:
        """What a client contributes for ``update``: :attr:`size` coordinates, neither clipped nor rounded yet.

        ``session`` is the name that :meth:`session` of this map made. ``EncodingError`` for an update of another
        layout, or one that is not finite in every coordinate, sent or not; ``ConfigError`` for another session's
        name.
        """
        plain = self._checked(session)
        with np.errstate(all="ignore"):
            return finite(self.compressed, self._compress(finite(self.layout, update), plain))

    def expand(self, mean: object, session: bytes) -> Any:
        """The update that ``mean``, of compressed updates, stands for, restored like the layout; run by the server.

        ``session`` is the name that :meth:`session` of this map made. ``EncodingError`` for anything but
        :attr:`size` finite coordinates, and where the layout's dtypes can't hold the expanded ones; ``ConfigError``
        as :meth:`compress`.
        """
        plain = self._checked(session)
        with np.errstate(all="ignore"):
            restored = self.layout.restore(self._expand(finite(self.compressed, mean), plain))
        finite(self.layout, restored)
        return restored

    def after(self, aggregate: object) -> Compression:
        """The map of the next round, after this round's expanded mean ``aggregate``.

        It is this map itself, unless the mask follows aggregates.
        """
        finite(self.layout, aggregate)
        return self

    def describe(self) -> list[str]:
        """What the map does, what it hides and what it reveals, in lines."""
        factor = self.layout.size / self.size
        return [
            f"{self.label}: {self.size:,} of {self.layout.size:,} coordinates are sent ({factor:.3g} times fewer)",
            *self._says(),
        ]

    def _checked(self, session: bytes) -> bytes:
        plain = check_session(session)
        if not plain.endswith(self.digest):
            raise ConfigError(
                f"got a session that does not name this {self.label}; expected compression.session(name): "
                "without it, a server could give different clients different maps and read one client out of "
                "the sum"
            )
        return plain

    @abstractmethod
    def _parts(self) -> tuple[bytes | int | str, ...]:
        """What :attr:`digest` holds beside the layout."""

    @abstractmethod
    def _compress(self, vector: Vector, session: bytes) -> Vector:
        """The map."""

    @abstractmethod
    def _expand(self, vector: Vector, session: bytes) -> Vector:
        """Its transpose, scaled."""

    @abstractmethod
    def _says(self) -> list[str]:
        """What it hides and reveals."""


@dataclass(frozen=True, eq=False)
class Chosen(Compression):
    """A map that sends some coordinates as they are."""

    @abstractmethod
    def coordinates(self, session: bytes) -> Coordinates:
        """The positions in the flat vector that are sent, ascending. ``ConfigError`` as :meth:`compress`."""

    @property
    def scale(self) -> float:
        """By what :meth:`expand` multiplies."""
        return 1.0

    def _compress(self, vector: Vector, session: bytes) -> Vector:
        return vector[self.coordinates(session)]

    def _expand(self, vector: Vector, session: bytes) -> Vector:
        expanded = np.zeros(self.layout.size)
        expanded[self.coordinates(session)] = vector * self.scale
        return expanded


@dataclass(frozen=True, eq=False)
class RandomK(Chosen):
    """``k`` coordinates, drawn anew in each session, alike for all clients; the server scales by d/k.

    The expanded mean is unbiased: over the choice it is the mean. It adds (d/k - 1)·‖mean‖² to the squared error.
    The map never makes an update longer.

    It hides nothing: who watches the server sees the sum's k coordinates, as without compression. The mask reveals
    nothing of any update, since it follows from the session's name. A server that picks this name picks the
    coordinates too; it sees no more of the sum than without compression.
    """

    k: int

    label: ClassVar[str] = "random-k"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "k", check_count("k", self.k, self.layout.size))

    @property
    def size(self) -> int:
        """``k``."""
        return self.k

    @property
    def scale(self) -> float:
        """d/k."""
        return self.layout.size / self.k

    def coordinates(self, session: bytes) -> Coordinates:
        """The ``k`` coordinates with the smallest words of the stream of ``session``; of equal words, the first."""
        return smallest(words(self.layout.size, self.label, self._checked(session)), self.k)

    def _parts(self) -> tuple[bytes | int | str, ...]:
        return (self.k,)

    def _says(self) -> list[str]:
        return [
            f"the server multiplies by {self.scale:.4g}, which makes the mean unbiased; its squared error grows by "
            f"{self.scale - 1:.4g} times the mean's squared norm",
            "the mask follows from the session's name: it reveals nothing, and hides nothing of the sum",
        ]


@dataclass(frozen=True, eq=False)
class CountSketch(Compression):
    """``rows`` sums of all coordinates, each with a random sign, in ``width`` buckets; anew in each session.

    A row estimates coordinate x_j by its bucket times its sign: unbiased, with a variance of (‖x‖² -
    x_j²)/``width``. With several rows the estimate is their median, whose distribution around x_j is symmetric
    too.

    A sketch may be longer than the update: by √``rows`` on average, by more if large coordinates share a bucket.
    Each bucket holds d/``width`` coordinates, so its values are about √(d/``width``) times as large as the
    update's. Make the encoding's clip for the sketch. The clip comes after the map, so noise is right in any
    case.

    It hides no large coordinate: sums of a sketch are for everyone to expand. Signs and buckets follow from the
    session's name and reveal nothing.
    """

    width: int
    rows: int = 1

    label: ClassVar[str] = "count-sketch"

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = check_count("rows", self.rows, self.layout.size)
        width = check_count(
            "width", self.width, min(self.layout.size // rows, _LARGEST_WIDTH), f" with rows={rows}"
        )
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "width", width)

    @property
    def size(self) -> int:
        """``width`` times ``rows``."""
        return self.width * self.rows

    def _compress(self, vector: Vector, session: bytes) -> Vector:
        sketch = np.zeros((self.rows, self.width))
        for part in self._pieces():
            for row in range(self.rows):
                buckets, signs = self._hashes(part, row, session)
                sketch[row] += np.bincount(buckets, vector[part] * signs, self.width)
        return sketch.ravel()

    def _expand(self, vector: Vector, session: bytes) -> Vector:
        sketch, expanded = vector.reshape(self.rows, self.width), np.empty(self.layout.size)
        for part in self._pieces():
            estimates = np.empty((self.rows, part.stop - part.start))
            for row in range(self.rows):
                buckets, signs = self._hashes(part, row, session)
                estimates[row] = sketch[row, buckets] * signs
            expanded[part] = estimates[0] if self.rows == 1 else np.median(estimates, axis=0)
        return expanded

    def _pieces(self) -> list[slice]:
        size = self.layout.size
        return [slice(start, min(start + _PIECE, size)) for start in range(0, size, _PIECE)]

    def _hashes(self, part: slice, row: int, session: bytes) -> tuple[Coordinates, Vector]:
        """Bucket and sign of each coordinate: ⌊word·width/2^64⌋, and the word's lowest bit."""
        stream = words(part.stop - part.start, self.label, session, row, offset=part.start)
        high, low, width = stream >> np.uint64(32), stream & np.uint64(0xFFFFFFFF), np.uint64(self.width)
        buckets = (high * width + ((low * width) >> np.uint64(32))) >> np.uint64(32)
        signs = 1.0 - 2.0 * (stream & np.uint64(1)).astype(np.float64)
        return buckets.astype(np.intp), signs

    def _parts(self) -> tuple[bytes | int | str, ...]:
        return self.width, self.rows

    def _says(self) -> list[str]:
        return [
            f"an estimate of a coordinate is unbiased, with a variance of about the squared norm / {self.width:,}"
            + ("" if self.rows == 1 else f" in each of {self.rows} rows, of which the median is taken"),
            "a sketch can be longer than its update: the encoding clips the sketch, so make its clip for that",
            "signs and buckets follow from the session's name: they reveal nothing, and hide nothing of the sum",
        ]


def finite(layout: Layout, update: object) -> Vector:
    """``update`` as a flat float64 vector; ``EncodingError`` for another layout, or values that are not finite."""
    vector = layout.flatten(update, dtype="float64")
    bad = vector.size - int(np.count_nonzero(np.isfinite(vector)))
    if bad:
        raise EncodingError(
            f"got {bad} coordinates that are not finite, or too large for their dtype; leave this update out"
        )
    return vector.astype(np.float64, copy=False)


def check_count(name: str, value: object, most: int, beside: str = "") -> int:
    """``value`` as an int from 1 to ``most``, the coordinates there are; ``ConfigError`` if it isn't.

    ``beside`` names another field on which ``most`` depends.
    """
    count = whole(value)
    if count is None or not 1 <= count <= most:
        raise ConfigError(
            f"got {name}={shown(value)}{beside}; expected an integer from 1 to {most}: a compressed update is no "
            "longer than the update"
        )
    return count


def words(count: int, label: str, session: bytes, *more: int, offset: int = 0) -> NDArray[np.uint64]:
    """``count`` words of the public stream of ``label`` in ``session``, from word ``offset`` on."""
    key = hashlib.sha256(encode_parts(f"secagg/v1/{label}", session, *more)).digest()
    stream = np.empty(count, "<u8")
    keystream(key, stream, offset=offset)
    return stream


def smallest(values: NDArray[Any], count: int) -> Coordinates:
    """The positions of the ``count`` smallest values, ascending; of equal values, the first are taken."""
    if count < 1:
        return np.empty(0, np.intp)
    bound = np.partition(values, count - 1)[count - 1]
    below = np.flatnonzero(values < bound)
    equal = np.flatnonzero(values == bound)[: count - below.size]
    return np.sort(np.concatenate([below, equal]))

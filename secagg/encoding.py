"""Encodings: from a vector of floats to bounded integers that can be summed in secret, and back.

:class:`Encoding` is a structural type: an object that has all its members is one, and need not import this package.
An encoding without noise subclasses :class:`PlainEncoding` and writes three methods. The client encodes its vector;
the server decodes the sums.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from secagg._numbers import whole
from secagg.errors import ConfigError, shown
from secagg.layout import MAX_SIZE, AnyFloat, Layout
from secagg.packing import Lanes

Rng = Callable[[int], bytes]
"""Returns the number of bytes that it is asked for. A restored role's returns the same bytes again."""

#: The largest weight: weights are exact in float64.
MAX_WEIGHT = 1 << 53
_MOST_SEGMENTS = 256  # of an encoding; ours have two or three


class SegmentLike(Protocol):
    """What a protocol reads of a segment: a run of non-negative integers with one bound and one modulus."""

    @property
    def length(self) -> int:
        """The number of integers."""

    @property
    def bound(self) -> int:
        """The largest integer that one client contributes."""

    @property
    def modulus(self) -> int | None:
        """M if the sum is taken mod M; None if the sum itself is needed, which then never wraps.

        Masks hide all of a sum but its rest mod M. Under ``OneShot``, ``BFV``, ``CKKS`` and ``Paillier`` the sum is
        over the integers, and whoever opens it sees it before it is reduced. So an encoding must not reduce the
        terms of clients if how many of them were reduced tells something.
        """


class Segment(NamedTuple):
    """A :class:`SegmentLike`.

    ``length`` is its number of integers, ``bound`` the largest of one client, and ``modulus`` is None if the sum
    itself is needed.
    """

    length: int
    bound: int
    modulus: int | None = None


def read_segments(segments: Iterable[SegmentLike]) -> tuple[Segment, ...]:
    """The ``segments`` that an encoding states, as plain integers; ``ConfigError`` for none or too many."""
    plain = tuple(_read_segment(segment) for _, segment in zip(range(_MOST_SEGMENTS + 1), segments, strict=False))
    if not 1 <= len(plain) <= _MOST_SEGMENTS:
        raise ConfigError(f"got an encoding of no segments or too many; expected 1 to {_MOST_SEGMENTS}")
    return plain


def _read_segment(segment: SegmentLike) -> Segment:
    length, bound = whole(segment.length), whole(segment.bound)
    modulus = None if segment.modulus is None else whole(segment.modulus) or 0
    if (
        length is None
        or bound is None
        or not 0 <= length <= MAX_SIZE
        or bound < 0
        or (modulus is not None and modulus < 1)
    ):
        raise ConfigError(
            f"got a segment of length={shown(segment.length)}, bound={shown(segment.bound)} and "
            f"modulus={shown(segment.modulus)}; expected integers of 0 or more, and a modulus above 0 or None"
        )
    return Segment(length, bound, modulus)


class DecodedLike(Protocol):
    """What a server reads of decoded sums."""

    @property
    def sum(self) -> NDArray[np.float64]:
        """Σ wᵢ·xᵢ over the survivors, flat."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """``sum`` / ``total_weight``, flat."""

    @property
    def total_weight(self) -> int:
        """Σ wᵢ; the number of survivors without weights."""

    @property
    def clipped(self) -> int | None:
        """The number of clipped coordinates over all survivors; None if they are not counted."""

    @property
    def epsilon_guaranteed(self) -> float | None:
        """The ε that holds even if as many clients as the task allows collude; None without DP."""

    @property
    def epsilon_realised(self) -> float | None:
        """The ε that holds with the clients that did survive; None without DP."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A :class:`DecodedLike`.

    Its fields have the meaning of the properties there: ``sum`` and ``mean`` are flat float64 vectors,
    ``total_weight`` and ``clipped`` are counts, and ``epsilon_guaranteed`` and ``epsilon_realised`` are None
    without DP.
    """

    sum: NDArray[np.float64]
    mean: NDArray[np.float64]
    total_weight: int
    clipped: int | None
    epsilon_guaranteed: float | None = None
    epsilon_realised: float | None = None


class Encoding(Protocol):
    """How a flat vector becomes segments of bounded integers, and how their sums become floats.

    All methods get the same things under the same names. ``layout`` is the structure of the update; ``max_weight``
    is the largest weight of a client, and ``weight`` the weight of this client, both None in a task without
    weights. ``max_clients`` is the largest number of clients in a session, of which ``corrupt`` may collude with
    the server, and ``honest`` is the least number of honest updates in an opened sum.
    """

    def segments(self, layout: Layout, max_weight: int | None) -> tuple[SegmentLike, ...]:
        """The segments that :meth:`encode` returns for this layout; ``max_weight`` is None without weights.

        ``ConfigError`` if the encoding does not fit the layout or the weights.
        """

    def encode(
        self, vector: AnyFloat, *, layout: Layout, weight: int | None, max_weight: int | None, rng: Rng
    ) -> list[Lanes]:
        """One array of integers per segment, each within its bound, which nobody changes any more. Run by a client.

        ``vector`` is flat, float32 or float64. ``rng`` gives the random bytes for rounding and noise.
        ``EncodingError`` for a vector or a weight that doesn't fit.
        """

    def decode(
        self, sums: Sequence[Lanes], *, layout: Layout, survivors: int, max_weight: int | None
    ) -> DecodedLike:
        """The floats of the ``sums`` over ``survivors`` clients, one array per segment. Run by the server.

        ``EncodingError`` for sums that honest clients can't have.
        """

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> "Encoding":
        """The encoding that a task uses, with noise for at least ``honest`` updates in every opened sum.

        ``corrupt`` of ``max_clients`` clients may collude. Under a protocol that ``shows_terms``, the noise of each
        client must be enough by itself.
        """

    def check(self, max_clients: int, honest: int, corrupt: int) -> None:
        """Raise ``ValueError`` if the noise was calibrated for more than ``honest`` updates in a sum."""

    def for_session(self, session: bytes) -> "Encoding":
        """The encoding of the session named ``session``.

        It may have public values that are new in each session, such as a rotation.
        """

    @property
    def server_noise(self) -> bool:
        """Whether the server adds noise when it decodes, and needs :meth:`for_server`."""

    def for_server(self, key: bytes) -> "Encoding":
        """The encoding that the server decodes with; ``key`` is 32 secret bytes in its state.

        A sum gets the same noise each time it is decoded with the same key.
        """

    def release(self, dimension: int) -> Any:
        """What a client's budget is charged for an update of ``dimension`` coordinates; None without noise."""

    def describe(self, layout: Layout, max_weight: int | None) -> list[str]:
        """Lines about precision and privacy, for :meth:`secagg.Task.describe`."""


class PlainEncoding:
    """The members of an :class:`Encoding` that only noise needs, for encodings without noise.

    Its methods have the arguments of :class:`Encoding`.
    """

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> Self:
        """Return the encoding itself: it has no noise to calibrate, so ``shows_terms`` does not matter."""
        return self

    def check(self, max_clients: int, honest: int, corrupt: int) -> None:
        """Refuse nothing: the encoding has no noise."""

    def for_session(self, session: bytes) -> Self:
        """Return the encoding itself: it is the same in every ``session``."""
        return self

    @property
    def server_noise(self) -> bool:
        """The server adds no noise."""
        return False

    def for_server(self, key: bytes) -> Self:
        """Return the encoding itself: the server adds no noise, and does not use ``key``."""
        return self

    def release(self, dimension: int) -> Any:
        """None: no budget can pay for an update without noise, whatever its ``dimension``."""
        return None

    def describe(self, layout: Layout, max_weight: int | None) -> list[str]:
        """Return no lines."""
        return []


#: What the library reads of an encoding; see :class:`secagg.encoding.Encoding`.
ENCODING_MEMBERS = (
    *("segments", "encode", "decode", "for_task", "check", "for_session"),
    *("server_noise", "for_server", "release", "describe"),
)


def lacking_members(encoding: object) -> tuple[str, ...]:
    """The members that ``encoding`` lacks."""
    return tuple(name for name in ENCODING_MEMBERS if not hasattr(type(encoding), name))

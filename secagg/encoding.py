"""From a vector of floats to bounded integers that can be summed in secret, and back.

An :class:`Encoding` is structural: whatever has its three methods will do, so that a package that
knows nothing of this one can supply one. A client encodes; the server decodes the sums.

One with noise may have more. ``for_task(max_clients=, honest=, corrupt=, shows_terms=)`` gives the encoding that a
task runs with, and ``check(max_clients, honest, corrupt)`` refuses a roster that it is not made for;
``for_session(name)`` gives that of one session; ``release(dimension)`` what a client's budget is charged.
``for_server(key)``, of an encoding whose noise the server adds, gives what decodes: ``key`` is 32 secret bytes that
the server keeps in its state, so that one sum has one noise however often it is decoded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.layout import AnyFloat, Layout
from secagg.packing import Lanes

Rng = Callable[[int], bytes]
"""Gives so many bytes of key material. A role's own repeats itself when the role is restored."""

MAX_WEIGHT = 1 << 53  # weights are exact in float64


class SegmentLike(Protocol):
    """What a protocol reads of a segment: a run of non-negative integers that are summed alike."""

    @property
    def length(self) -> int:
        """How many integers."""

    @property
    def bound(self) -> int:
        """The largest value of one client's term."""

    @property
    def modulus(self) -> int | None:
        """M if only the sum mod M is wanted; None if it is the sum itself, which then never wraps."""


class Segment(NamedTuple):
    """A :class:`SegmentLike`."""

    length: int
    bound: int
    modulus: int | None = None


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
        """How many coordinates were clipped, over all survivors; None if nobody counts them."""

    @property
    def epsilon_guaranteed(self) -> float | None:
        """The ε that holds even if as many clients as the task allows collude; None without DP."""

    @property
    def epsilon_realised(self) -> float | None:
        """The ε of those who did survive; None without DP."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A :class:`DecodedLike`."""

    sum: NDArray[np.float64]
    mean: NDArray[np.float64]
    total_weight: int
    clipped: int | None
    epsilon_guaranteed: float | None = None
    epsilon_realised: float | None = None


class Encoding(Protocol):
    """How a flat vector becomes segments of bounded integers, and how their sums become floats."""

    def segments(self, layout: Layout, max_weight: int | None) -> tuple[SegmentLike, ...]:
        """What :meth:`encode` yields under this layout; ``max_weight`` None means unweighted.

        ``ConfigError`` where encoding and layout, or encoding and weights, don't go together.
        """

    def encode(
        self, vector: AnyFloat, *, layout: Layout, weight: int | None, max_weight: int | None, rng: Rng
    ) -> list[Lanes]:
        """One array of integers per segment, each within its bound; run by a client.

        ``EncodingError`` for a vector or weight that doesn't fit.
        """

    def decode(
        self, sums: Sequence[Lanes], *, layout: Layout, survivors: int, max_weight: int | None
    ) -> DecodedLike:
        """What the sums over ``survivors`` clients say, one array per segment; run by the server.

        ``EncodingError`` for sums that no honest clients can have.
        """

"""From a vector of floats to bounded integers that can be summed in secret, and back.

An :class:`Encoding` is structural: a package that knows nothing of this one can supply one with all its
members. One that adds no noise subclasses :class:`PlainEncoding` and writes three methods. A client encodes; the
server decodes the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

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

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> "Encoding":
        """The encoding that a task runs with; noise is calibrated to ``honest`` updates in every opened sum.

        ``corrupt`` of ``max_clients`` clients may collude; under a protocol that ``shows_terms``, each client's own
        noise has to be enough.
        """

    def check(self, max_clients: int, honest: int, corrupt: int) -> None:
        """Raise a ``ValueError`` where fewer than the ``honest`` updates that noise was calibrated to remain."""

    def for_session(self, session: bytes) -> "Encoding":
        """The encoding of one session, for what is public and new in each, such as a rotation."""

    @property
    def server_noise(self) -> bool:
        """Whether the server adds noise when it decodes, and needs :meth:`for_server`."""

    def for_server(self, key: bytes) -> "Encoding":
        """What the server decodes with; ``key`` is 32 secret bytes that it keeps in its state.

        One sum then has one noise, however often it is decoded.
        """

    def release(self, dimension: int) -> Any:
        """What a client's budget is charged for one update of ``dimension`` coordinates; None without noise."""

    def describe(self, layout: Layout, max_weight: int | None) -> list[str]:
        """Precision and privacy, in lines for :meth:`secagg.Task.describe`."""


class PlainEncoding:
    """The members of an :class:`Encoding` that only noise needs, for encodings without noise."""

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> Self:
        """Itself: there is no noise to calibrate."""
        return self

    def check(self, max_clients: int, honest: int, corrupt: int) -> None:
        """Nothing to refuse: there is no noise."""

    def for_session(self, session: bytes) -> Self:
        """Itself: all sessions are alike."""
        return self

    @property
    def server_noise(self) -> bool:
        """The server adds no noise."""
        return False

    def for_server(self, key: bytes) -> Self:
        """Itself: the server adds no noise."""
        return self

    def release(self, dimension: int) -> Any:
        """None: no budget can pay for an update without noise."""
        return None

    def describe(self, layout: Layout, max_weight: int | None) -> list[str]:
        """Nothing to say."""
        return []


#: What the library reads of an encoding; see :class:`secagg.encoding.Encoding`.
ENCODING_MEMBERS = (
    *("segments", "encode", "decode", "for_task", "check", "for_session"),
    *("server_noise", "for_server", "release", "describe"),
)


def lacking_members(encoding: object) -> tuple[str, ...]:
    """The members that ``encoding`` lacks."""
    return tuple(name for name in ENCODING_MEMBERS if not hasattr(type(encoding), name))

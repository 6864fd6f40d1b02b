"""Central differential privacy: clients clip and round, and the server adds noise once to the sum that it opens.

The server is trusted: it sees the exact sum before it adds the noise. So does each decryptor, in a protocol that
has decryptors. Clients are protected from everyone who sees only what the server publishes. Of the three kinds
of trust this one needs the least noise for the same ε. With :mod:`dp.distributed` no server sees an exact sum.

Sources: Canonne, Kamath and Steinke 2020 (the discrete Gaussian); Kairouz, Liu and Steinke 2021 (conditional
rounding). The noise consists of integers. The norm that it is calibrated for is checked on integers, after
rounding.
"""

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from dp import sampling
from dp._checks import check_delta, integer, number
from dp._encoding import (
    KEY_BYTES,
    MAX_BETA,
    MAX_CLIP,
    MAX_DIMENSION,
    MIN_CLIP,
    Decoded,
    Lanes,
    LayoutLike,
    Rng,
    Segment,
    check_sums,
    check_vector,
    least_multiplier,
    most_squares,
    refuse_weights,
    round_within,
    shorten,
    tame,
)
from dp.accounting import RDPAccountant
from dp.errors import DPError
from dp.events import DiscreteGaussianEvent, Event, Release, Trust

_NOISE_LABEL = b"secagg/v1/dp-central"
_MOST_SUM = 1 << 62


class _Grid(NamedTuple):
    """The numbers that follow from an encoding and one dimension. Lengths are in steps of the grid."""

    step: float  # in units of the update
    sigma: float  # parameter of the noise on the sum
    squares: int  # the largest ‖q‖² of a rounded update


@dataclass(frozen=True, slots=True)
class CentralGaussian:
    """Discrete Gaussian noise that a trusted server adds once to the sum.

    - ``l2_clip`` c (1e-100 to 1e100): a client shortens a longer update to this norm. ``noise_multiplier`` z (1e-6
      to 1e6): the standard deviation of the noise on the sum, in clips.
    - ``bits`` (2 to 31): the width of one coordinate, on a grid from -c to c. Rounding can lengthen an update. ε
      allows for the longest rounded update (:meth:`l2_sensitivity`), so more bits lower ε.
    - ``beta`` (0 to 0.9): a bound on the probability that a rounding is rejected and repeated. Rejection keeps
      rounded updates shorter, and so lowers ε. It biases a rounding by at most √D·β/(1 - β) steps in norm; with 0
      there is no bias.
    - ``delta``: the δ at which ε is stated.

    Neighbours are one update and zero in its place; who took part is public. Dropouts and colluding clients do not
    change the noise. There are no weights: ``weight`` and ``max_weight`` are None. The server decodes with
    :meth:`for_server`; a ``secagg`` server draws the key and keeps it. ``layout`` is the structure of an update, of
    which only ``layout.size``, the number of coordinates, is read. Raises :class:`DPError` if a field is out of
    range.
    """

    l2_clip: float
    noise_multiplier: float
    bits: int = 16
    _: KW_ONLY
    beta: float = math.exp(-0.5)
    delta: float = 1e-5

    def __post_init__(self) -> None:
        for name, least, most in (
            ("l2_clip", MIN_CLIP, MAX_CLIP),
            ("noise_multiplier", 1e-6, 1e6),
            ("beta", 0.0, MAX_BETA),
        ):
            object.__setattr__(self, name, number(name, getattr(self, name), least, most))
        object.__setattr__(self, "bits", integer("bits", self.bits, 2, 31, "of one coordinate"))
        object.__setattr__(self, "delta", check_delta(self.delta))

    @property
    def trust(self) -> Trust:
        """``"central"``: the server sees the exact sum."""
        return "central"

    def l2_sensitivity(self, dimension: int) -> float:
        """The largest L2 distance by which one update of ``dimension`` coordinates moves the sum, once rounded."""
        grid = self._grid(dimension)
        return math.sqrt(grid.squares) * grid.step

    def event(self, dimension: int) -> Event:
        """The event of one round over updates of ``dimension`` coordinates."""
        grid = self._grid(dimension)
        return DiscreteGaussianEvent(grid.sigma, math.sqrt(grid.squares))

    def release(self, dimension: int) -> Release:
        """What a :class:`dp.PrivacyLedger` charges: the server's before it publishes, or that of each client."""
        return Release(self.event(dimension), "client", self.trust)

    def epsilon(self, dimension: int, *, rounds: int = 1) -> float:
        """ε at ``delta`` after ``rounds`` over updates of ``dimension`` coordinates."""
        return _epsilon(self, dimension, rounds)

    def with_epsilon(self, epsilon: float, dimension: int, *, rounds: int = 1) -> Self:
        """A copy with the least noise multiplier, to a billionth, that keeps ``rounds`` within ``epsilon``.

        Raises :class:`DPError` if no multiplier from 2^-13 to 2^13 is enough.
        """
        hopeless = f"expected fewer than {rounds} rounds, or a larger epsilon"

        def cost(multiplier: float) -> float:
            return replace(self, noise_multiplier=multiplier).epsilon(dimension, rounds=rounds)

        return replace(self, noise_multiplier=least_multiplier(cost, epsilon, hopeless))

    def segments(self, layout: LayoutLike, max_weight: int | None) -> tuple[Segment, ...]:
        """One segment: each coordinate is from 0 to 2^bits - 2, and the protocol opens the sum itself.

        Raises :class:`DPError` for a task with weights, because a weight raises the sensitivity.
        """
        refuse_weights(None, max_weight)
        self._grid(layout.size)
        return (Segment(layout.size, 2 * self._top, None),)

    def encode(
        self,
        vector: NDArray[Any],
        *,
        layout: LayoutLike,
        weight: int | None,
        max_weight: int | None,
        rng: Rng,
    ) -> list[Lanes]:
        """The integers of one client: its update, shortened and rounded, without noise. A client runs this.

        ``vector`` is float32 or float64 of ``layout.size``. ``rng`` returns the key of the rounding: the same key
        and vector produce the same integers. Raises :class:`DPError` for a weight, and for a vector of another
        shape or type or with coordinates that are not finite.
        """
        refuse_weights(weight, max_weight)
        check_vector(vector, layout.size)
        grid = self._grid(layout.size)
        flat = vector.astype(np.float64)
        tamed = tame(flat)
        scale = shorten(flat, self.l2_clip, tamed) / grid.step
        terms = round_within(flat, scale, limit=self._top, squares=grid.squares, beta=self.beta, rng=rng)
        terms += self._top
        return [cast(Lanes, terms.astype(np.uint32))]

    def decode(
        self, sums: Sequence[NDArray[Any]], *, layout: LayoutLike, survivors: int, max_weight: int | None
    ) -> Decoded:
        """Raises :class:`DPError`. Without a key, two decodings of one sum would differ; see :meth:`for_server`.

        ``sums`` (one array) and ``survivors`` (the number of clients in them) are those of that encoding's
        ``decode``.
        """
        raise DPError(
            "got an exact sum to decode and no key for its noise; expected for_server(key).decode(...), where the "
            "key is 32 secret bytes that the server keeps"
        )

    def for_task(
        self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool = False
    ) -> "CentralGaussian":
        """The encoding itself: the server's noise does not depend on how many clients are honest.

        A session has at most ``max_clients`` clients, of whom ``corrupt`` may collude, and an opened sum has at
        least ``honest`` honest updates. ``shows_terms`` says whether the server sees each term.
        """
        return self

    def check(self, max_clients: int, honest: int, corrupt: int | None = None) -> None:
        """Accepts every task: colluding clients cannot reduce the server's noise.

        ``max_clients``, ``honest`` and ``corrupt`` are numbers of clients in the largest session, as in
        :meth:`for_task`.
        """

    def for_session(self, session: bytes) -> "CentralGaussian":
        """The encoding itself: it encodes alike in all sessions, whatever the name ``session``."""
        return self

    @property
    def server_noise(self) -> bool:
        """True: the server adds the noise, in the ``decode`` of :meth:`for_server`."""
        return True

    def for_server(self, key: bytes) -> "_Opening":
        """The object that decodes with noise derived from ``key``: 32 secret bytes that a server draws and keeps.

        The noise follows from the key and the sums. If a restored server decodes the same sums again, it adds the
        same noise, so an average over several decodings shows no more than one of them. Other sums under the same
        key get other noise, so the difference of two results is not exact; the second result is a second release.
        Anyone who knows the key can subtract the noise.
        """
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise DPError(
                f"got a key that is not {KEY_BYTES} bytes; expected {KEY_BYTES} secret bytes of os.urandom"
            )
        return _Opening(self, key)

    def describe(self, layout: LayoutLike, max_weight: int | None) -> list[str]:
        """Privacy and accuracy of one round, as lines of text."""
        grid = self._grid(layout.size)
        return [
            f"each update is shortened to length {self.l2_clip:g}; {self.bits} bits a coordinate, grid step "
            f"{grid.step:.3g}; rounded, it has a length of at most {self.l2_sensitivity(layout.size):.6g}",
            f"epsilon {self.epsilon(layout.size):.4g} at delta {self.delta:g} a round, client-level, central "
            "trust: the server sees the exact sum, one update against zero in its place",
            f"a coordinate of the sum has noise of standard deviation {grid.sigma * grid.step:.3g}",
        ]

    @property
    def _top(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def _grid(self, dimension: int) -> _Grid:
        dimension = integer("dimension", dimension, 1, MAX_DIMENSION, "the coordinates of an update")
        sigma = self.noise_multiplier * self._top
        if sigma > float(sampling.MAX_WIDTH):
            raise DPError(
                f"got {self.bits} bits and the noise multiplier {self.noise_multiplier:g}: the sampler cannot draw "
                "noise so wide; expected fewer bits"
            )
        squares = max(1, math.floor(most_squares(self._top, dimension, self.beta)))
        return _Grid(self.l2_clip / self._top, sigma, squares)


class _Opening(NamedTuple):
    """A :class:`CentralGaussian` with the key that its server decodes with."""

    encoding: CentralGaussian
    key: bytes

    def __repr__(self) -> str:  # the key stays out of logs
        return f"{self.encoding!r} at its server"

    def decode(
        self, sums: Sequence[NDArray[Any]], *, layout: LayoutLike, survivors: int, max_weight: int | None
    ) -> Decoded:
        """The sum and mean over ``survivors`` clients, with noise. The server runs this.

        ``sums`` is one array of exact sums, uint32 or uint64, not reduced. Raises :class:`DPError` if its shape,
        its values or the number of arrays cannot come from ``survivors`` clients.
        """
        code = self.encoding
        (segment,) = code.segments(layout, max_weight)
        check_sums(sums, segment, survivors, _MOST_SUM // segment.bound)
        grid = code._grid(layout.size)
        exact = sums[0].astype(np.uint64)
        seed = hmac.new(self.key, _NOISE_LABEL + survivors.to_bytes(8, "big"), hashlib.sha256)
        seed.update(exact.astype("<u8").tobytes())
        noised = sampling.sample_discrete_gaussian(grid.sigma, layout.size, rng=lambda _: seed.digest())
        noised += exact.astype(np.int64) - survivors * code._top
        total = noised * np.float64(grid.step)
        epsilon = code.epsilon(layout.size)
        return Decoded(total, total / survivors, survivors, None, epsilon, epsilon)


@lru_cache(maxsize=64)
def _epsilon(encoding: CentralGaussian, dimension: int, rounds: int) -> float:
    return RDPAccountant(encoding.delta).epsilon_after(encoding.event(dimension), rounds)

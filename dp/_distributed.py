"""What the two encodings with distributed noise share: their fields, their contract and their cost.

An encoding rotates and clips an update, rounds it to integers, and adds the noise of one client. The sum of these
integers modulo 2^bits is converted back into an update. :mod:`dp.distributed` has the two kinds of noise.

**The contract.** ``secagg.Task(encoding=...)`` takes any object that has the members below. :class:`Distributed`
and :class:`dp.CentralGaussian` define all of them, and inherit from no class of another package.

- ``segments(layout: LayoutLike, max_weight: int | None) -> tuple[Segment, ...]``
- ``encode(vector, *, layout, weight, max_weight, rng) -> list[Lanes]``, run by a client
- ``decode(sums, *, layout, survivors, max_weight) -> Decoded``, run by the server
- ``for_task(*, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> Self``
- ``check(max_clients: int, honest: int, corrupt: int) -> None``
- ``for_session(session: bytes) -> Self``
- ``server_noise: bool``, and ``for_server(key: bytes)``, which returns the object that the server decodes with
- ``release(dimension: int) -> Release``
- ``describe(layout: LayoutLike, max_weight: int | None) -> list[str]``
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from dp._checks import check_delta, integer, number
from dp._encoding import (
    MAX_BETA,
    MAX_CLIP,
    MAX_DIMENSION,
    MIN_CLIP,
    Decoded,
    Floats,
    Lanes,
    LayoutLike,
    Rng,
    Segment,
    check_sums,
    check_vector,
    least_multiplier,
    refuse_weights,
    round_within,
    shorten,
    tame,
)
from dp._grid import MAX_STDDEVS, Grid, TooNarrow, find_grid
from dp.accounting import RDPAccountant
from dp.errors import DPError
from dp.events import Event, Release, Trust, check_name
from dp.rotation import rotate, unrotate

#: The most clients that share the noise of a sum.
MAX_CLIENTS = 1 << 20

_SESSION_LABEL = b"secagg/v1/dp-session"
_MAX_BITS = 32
_TRUSTS = ("distributed", "local")


@dataclass(frozen=True, slots=True)
class Distributed(ABC):
    """Fields and methods of both encodings; see :class:`dp.DistributedGaussian`.

    In all methods, ``layout`` is the structure of an update, of which only ``layout.size``, its number of
    coordinates, is read. ``dimension`` is that number. There are no weights: ``weight`` and ``max_weight`` are
    None.
    """

    l2_clip: float
    noise_multiplier: float
    bits: int
    _: KW_ONLY
    clients: int = 0
    honest: int = 0
    corrupt: int = 0
    k_stddevs: float = 4.0
    beta: float = math.exp(-0.5)
    delta: float = 1e-5
    seed: bytes = b""
    trust: Trust = "distributed"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("l2_clip", MIN_CLIP, MAX_CLIP),
            ("noise_multiplier", 1e-6, 1e6),
            ("k_stddevs", 0.1, MAX_STDDEVS),
            ("beta", 0.0, MAX_BETA),
        ):
            object.__setattr__(self, name, number(name, getattr(self, name), least, most))
        object.__setattr__(self, "delta", check_delta(self.delta))
        self._whole("bits", 2, _MAX_BITS, "the width of the modulus")
        if (self.clients, self.honest, self.corrupt) != (0, 0, 0):
            self._whole("clients", 1, MAX_CLIENTS, "the most that a sum may have: the task's max_clients")
            self._whole("corrupt", 0, self.clients - 1, "how many of them may collude with the server")
            most = self.clients - self.corrupt
            self._whole("honest", 1, most, "the survivors that are guaranteed and collude with nobody")
        if type(self.seed) is not bytes or len(self.seed) > 64:
            raise DPError("the seed is not bytes, or is too long; expected at most 64 public bytes, one for all")
        check_name("trust", self.trust, _TRUSTS)
        if self.trust == "local" and self.honest > 1:
            raise DPError(
                f"got honest={self.honest} under local trust, where others see each term alone; expected honest=1"
            )
        if self.clients and 4**self.bits <= self.clients * self.k_stddevs**2:
            raise DPError(
                f"got {self.bits} bits for {self.clients} clients at {self.k_stddevs:g} standard deviations, which "
                "rounding alone exceeds; expected at least "
                f"{math.floor(math.log2(self.clients * self.k_stddevs**2) / 2) + 1} bits"
            )

    def _whole(self, name: str, least: int, most: int, meaning: str) -> None:
        object.__setattr__(self, name, integer(name, getattr(self, name), least, most, meaning))

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool = False) -> Self:
        """The encoding for a task of ``max_clients``, whose sums hold at least ``honest`` honest updates.

        ``corrupt`` is how many clients may collude. With ``shows_terms`` the server may read each term by itself,
        and ``honest`` is 1. If this encoding states its ``clients``, it is checked against the task; in any case it
        gets the task's ``trust``. Raises :class:`DPError` if it does not fit the task, or if the task guarantees
        no honest update.
        """
        trust: Trust = "local" if shows_terms else "distributed"
        if self.clients:
            self.check(max_clients, honest, corrupt)
            return self if self.trust == trust else replace(self, trust=trust)
        if honest < 1:
            raise DPError(
                f"the task guarantees {honest} honest survivors, since {corrupt} clients may collude; expected at "
                "least 1: raise min_survivors, or lower corruption if fewer clients can collude"
            )
        return replace(self, clients=max_clients, honest=honest, corrupt=corrupt, trust=trust)

    def for_session(self, session: bytes) -> Self:
        """The encoding with the rotation of one session, which has the public name ``session``.

        A rotation may spread some vector badly, so that it wraps or is cut. The next session spreads it anew.
        """
        hashed = hashlib.sha256(_SESSION_LABEL + len(self.seed).to_bytes(1, "big") + self.seed + session)
        return replace(self, seed=hashed.digest())

    def check(self, max_clients: int, honest: int, corrupt: int | None = None) -> None:
        """Refuse a task that this encoding does not fit; a task calls this when it is constructed.

        ``max_clients``, ``honest`` (the fewest survivors, less the colluders) and ``corrupt``, unless it is None,
        are the task's. Raises :class:`DPError` if ``clients`` differs from ``max_clients``, if this encoding's
        ``honest`` is more than the task guarantees, or if its ``corrupt`` is less than the task's.
        """
        if self.clients != max_clients:
            raise DPError(f"got clients={self.clients} for a task of {max_clients}; expected clients={max_clients}")
        if self.honest > honest:
            raise DPError(
                f"got honest={self.honest}, but the task guarantees {max(honest, 0)} honest survivors; "
                + (
                    f"expected honest={honest} or fewer"
                    if honest > 0
                    else "raise min_survivors above the number of colluders"
                )
            )
        if corrupt is not None and self.corrupt < corrupt:
            raise DPError(
                f"got corrupt={self.corrupt} for a task with {corrupt} colluders; expected corrupt={corrupt}"
            )

    def grid(self, dimension: int) -> Grid:
        """Step, noise and bounds for updates of ``dimension`` coordinates (1 to 2^30), before padding.

        Raises :class:`DPError` if the noise is too wide for the modulus, if the numbers are too large for int64, or
        if the noise of one client is too narrow on the grid for a bound on the sum (discrete Gaussians below 1/2).
        """
        if not self.clients:
            raise DPError(
                "the encoding has no clients yet; expected clients=, honest= and corrupt=, or use in a task"
            )
        return find_grid(self._unrotated, _padded(dimension))

    def event(self, dimension: int, honest: int | None = None) -> Event:
        """The event of one round over updates of ``dimension`` coordinates, with ``honest`` honest survivors."""
        grid = self.grid(dimension)
        return self._event(grid, self.honest if honest is None else honest)

    @property
    def server_noise(self) -> bool:
        """False: the clients add the noise."""
        return False

    def for_server(self, key: bytes) -> Self:
        """The encoding itself: the server adds no noise, and does not use ``key``."""
        return self

    def release(self, dimension: int) -> Release:
        """What a :class:`dp.PrivacyLedger` charges before the input of a client leaves."""
        return Release(self.event(dimension), "client", self.trust)

    def epsilon(self, dimension: int, *, honest: int | None = None, rounds: int = 1) -> float:
        """ε at ``delta`` after ``rounds``, if ``honest`` clients (by default, the guaranteed number) add noise.

        More noise never costs privacy, but a bound may state a larger ε for it. Therefore ε is the smaller of the
        figures for ``honest`` and for the guaranteed number. It is infinite if ``honest`` is below 1.
        """
        if honest is not None and honest < 1:
            return math.inf
        counts = {self.honest} if honest is None else {honest, min(honest, self.honest)}
        return min(_epsilon(self._unrotated, _padded(dimension), count, rounds) for count in counts)

    def with_epsilon(self, epsilon: float, dimension: int, *, rounds: int = 1) -> Self:
        """A copy with the least noise multiplier, to a billionth, that keeps ``rounds`` within ``epsilon``.

        Found by bisection between 2^-13 and 2^13. Raises :class:`DPError` if no multiplier there is enough:
        rounding to few ``bits`` has a cost of its own, which no noise multiplier lowers.
        """

        def at(multiplier: float) -> float:
            try:
                return replace(self, noise_multiplier=multiplier).epsilon(dimension, rounds=rounds)
            except TooNarrow:
                return math.inf

        hopeless = f"expected more than {self.bits} bits, fewer than {rounds} rounds, or a larger epsilon"
        return replace(self, noise_multiplier=least_multiplier(at, epsilon, hopeless))

    def segments(self, layout: LayoutLike, max_weight: int | None) -> tuple[Segment, ...]:
        """One segment: the padded coordinates, each from 0 to 2^bits - 1, modulo 2^bits.

        Raises :class:`DPError` for a task with weights, because a weight raises the sensitivity, and for what
        :meth:`grid` refuses.
        """
        refuse_weights(None, max_weight)
        modulus = 1 << self.bits
        return (Segment(self.grid(layout.size).dimension, modulus - 1, modulus),)

    def encode(
        self,
        vector: NDArray[Any],
        *,
        layout: LayoutLike,
        weight: int | None,
        max_weight: int | None,
        rng: Rng,
    ) -> list[Lanes]:
        """The noised integers of one client, as one array of 2^m lanes. A client runs this.

        ``vector`` is float32 or float64 of ``layout.size``. ``rng`` returns the key of the rounding, then the key
        of the noise: the same keys and vector produce the same integers. An integer v is sent as v + 2^(bits-1),
        with \\|v\\| clamped below 2^(bits-1). It is never reduced, because a protocol that adds over the integers
        would show how often terms wrapped.

        The number of rounding attempts depends slightly on the update. Apart from that, only the noise affects the
        running time (:mod:`dp.sampling`). Raises :class:`DPError` for a weight, and for a vector of another shape
        or type or with coordinates that are not finite.
        """
        refuse_weights(weight, max_weight)
        check_vector(vector, layout.size)
        grid = self.grid(layout.size)
        rotated = np.zeros(grid.dimension)
        rotated[: layout.size] = vector
        terms = self._round(rotated, grid, rng)
        terms += self._noise(grid, rng)
        half = 1 << (self.bits - 1)
        np.clip(terms, 1 - half, half - 1, out=terms)
        terms += half
        return [cast(Lanes, terms.astype(np.uint32))]

    def decode(
        self, sums: Sequence[NDArray[Any]], *, layout: LayoutLike, survivors: int, max_weight: int | None
    ) -> Decoded:
        """The sum and mean over ``survivors`` clients. The server runs this.

        ``sums`` is one array of sums, uint32 or uint64, reduced mod 2^bits or not. Raises :class:`DPError` if its
        shape, its values or the number of arrays cannot come from ``survivors`` clients.
        """
        (segment,) = self.segments(layout, max_weight)
        check_sums(sums, segment, survivors, self.clients)
        grid, half = self.grid(layout.size), 1 << (self.bits - 1)
        lifted = sums[0].astype(np.int64)
        # Every survivor's term was raised by half. The sum is raised once more, to bring it to [-half, half).
        lifted += half * ((survivors + 1) % 2)
        lifted &= (1 << self.bits) - 1
        lifted -= half
        total: Floats = lifted * np.float64(grid.step)
        unrotate(total, self.seed)
        total = total[: layout.size].copy()
        alone = self.trust == "local"  # others see a term by itself, and no other noise hides it
        return Decoded(
            sum=total,
            mean=total / survivors,
            total_weight=survivors,
            clipped=None,
            epsilon_guaranteed=self.epsilon(layout.size),
            epsilon_realised=self.epsilon(layout.size, honest=None if alone else survivors - self.corrupt),
        )

    def describe(self, layout: LayoutLike, max_weight: int | None) -> list[str]:
        """Privacy and accuracy of one round, as lines of text."""
        grid = self.grid(layout.size)
        deviation = grid.step * math.sqrt(self.clients * (grid.sigma**2 + 0.25)) / self.clients
        enough = "each client's own noise" if self.trust == "local" else f"{self.honest} honest survivors' noise"
        return [
            f"each update is shortened to length {self.l2_clip:g}; {self.bits} bits a coordinate, "
            f"{grid.dimension} coordinates, grid step {grid.step:.3g}",
            f"epsilon {self.epsilon(layout.size):.4g} at delta {self.delta:g} a round, client-level, {self.trust} "
            f"trust: {enough} is enough, one update against zero in its place",
            f"a coordinate of the mean over {self.clients} has noise of standard deviation {deviation:.3g}",
        ]

    def _round(self, vector: Floats, grid: Grid, rng: Rng) -> NDArray[np.int64]:
        """``vector`` as integers whose norm is within the grid's bound. Rotates ``vector`` in place."""
        tamed = tame(vector)
        rotate(vector, self.seed)
        scale = shorten(vector, self.l2_clip, tamed) / grid.step
        return round_within(vector, scale, limit=grid.limit, squares=grid.squares, beta=self.beta, rng=rng)

    @property
    def _unrotated(self) -> Self:
        """The encoding without its seed. Grid and ε don't depend on the seed, so one result serves all sessions."""
        return replace(self, seed=b"") if self.seed else self

    @abstractmethod
    def _noise(self, grid: Grid, rng: Rng) -> NDArray[np.int64]:
        """The noise of one client."""

    @abstractmethod
    def _event(self, grid: Grid, honest: int) -> Event:
        """See :meth:`event`."""

    @abstractmethod
    def widest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`."""

    @abstractmethod
    def narrowest(self) -> float:
        """See :class:`dp._grid.NoiseParameters`."""

    @abstractmethod
    def log_tail(self, sigma: float, reach: float) -> float:
        """A bound on log P(noise >= ``reach``), for one client's noise of standard deviation ``sigma``.

        Both are in steps of the grid.
        """


@lru_cache(maxsize=256)
def _epsilon(encoding: Distributed, dimension: int, honest: int, rounds: int) -> float:
    accountant = RDPAccountant(encoding.delta)
    return accountant.epsilon_after(encoding.event(dimension, honest), rounds)


def _padded(dimension: int) -> int:
    dimension = integer("dimension", dimension, 1, MAX_DIMENSION, "the coordinates of an update")
    return 1 << (dimension - 1).bit_length()

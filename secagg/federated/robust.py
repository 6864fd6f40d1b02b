"""Rules that combine the means of groups so that a few bad groups can't steer the result.

Secure aggregation hides single updates, so a rule sees one mean for each group (:mod:`secagg.federated.groups`). A
group is *bad* if one client in it lies: that client decides the group's mean, within what the encoding can hold.
Two assumptions are needed, about two kinds of clients.

- **Colluders** read: they tell the server what they know. At most c may be; the floor of every group counts all c
  in this one group. Privacy hangs on that, and on nothing below.
- **Liars** poison: they send any update they like. At most f groups may hold one; every rule needs
  at least 2f + 1 groups. A bound that a client checks by itself, such as a clip, binds honest clients only.

Every rule treats groups alike, whatever their weights. Rules that need single updates are refused by
:func:`named`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from secagg._numbers import is_a, real, whole
from secagg.errors import Aborted, ConfigError, EncodingError, blaming, chosen, shown
from secagg.federated.compression import Vector, finite
from secagg.federated.guarantee import Guarantee, guarantee_of
from secagg.identity import Roster
from secagg.layout import Layout
from secagg.task import Task

_MOST_GROUPS = 4096
_LARGEST = 1e150  # of a coordinate; its square is finite
_SMOOTHING = 1e-9  # of the geometric median, in typical distances
_CONVERGED = 1e-13
_STEPS = 10_000


@dataclass(frozen=True)
class GroupRule(ABC):
    """A rule for groups of which at most ``bad`` hold a liar; it needs at least 2·``bad`` + 1 groups."""

    bad: int = field(default=1, kw_only=True)

    label: ClassVar[str]

    def __post_init__(self) -> None:
        bad = whole(self.bad)
        if bad is None or not 0 <= bad < _MOST_GROUPS // 2:
            raise ConfigError(f"got bad={shown(self.bad)}; expected how many groups may hold a liar, 0 or more")
        object.__setattr__(self, "bad", bad)

    @property
    def needed(self) -> int:
        """The least number of groups."""
        return 2 * self.bad + 1

    def combine(self, means: Iterable[object]) -> Any:
        """One mean from the ``means`` of the groups whose session ended well, structured like the first.

        Run by the server. ``Aborted`` for fewer than :attr:`needed`: then keep the old model. ``EncodingError`` for
        means of different layouts, and for coordinates that are not finite or beyond 1e150.
        """
        with blaming(EncodingError, "got means that can't be read; expected one for each group"):
            listed = [mean for _, mean in zip(range(_MOST_GROUPS + 1), means, strict=False)]
        if len(listed) > _MOST_GROUPS:
            raise ConfigError(f"got more than {_MOST_GROUPS} means; expected one for each group")
        if len(listed) < self.needed:
            raise Aborted(
                f"{len(listed)} groups have a sum, and the {self.label} needs {self.needed} if {self.bad} of "
                "them may be bad: keep the model of the last round, and draw new groups"
            )
        layout = Layout.of(listed[0])
        stacked = np.stack([finite(layout, mean) for mean in listed])
        if np.abs(stacked).max() > _LARGEST:
            raise EncodingError(f"got a mean with coordinates beyond {_LARGEST:g}; no encoding yields one")
        with np.errstate(under="ignore"):
            return layout.restore(self._combined(stacked))

    def guarantee(
        self, task: Task, count: int, *, liars: int | None = None, roster: Roster | None = None
    ) -> Guarantee:
        """What this rule promises for ``task``, over all clients, split into ``count`` groups.

        With ``liars``, how many clients lie, the probability that the draw leaves at most ``bad`` groups with one.
        ``roster`` is everyone enrolled, for a ``"malicious"`` threat model.
        ``ConfigError`` for fewer groups than :attr:`needed`, and as :func:`~secagg.federated.group_task` says.
        """
        groups = whole(count)
        if groups is None or groups < self.needed:
            raise ConfigError(
                f"got {shown(count)} groups for the {self.label}; expected at least {self.needed} if {self.bad} "
                "may be bad: with fewer, the bad ones are as many as the good"
            )
        return guarantee_of(
            task, groups, rule=self.label, bad=self.bad, promise=self.promise, liars=liars, roster=roster
        )

    @property
    @abstractmethod
    def promise(self) -> str:
        """What holds as long as at most ``bad`` groups are bad."""

    @abstractmethod
    def _combined(self, stacked: Vector) -> Vector:
        """One row from a row for each group."""


@dataclass(frozen=True)
class CoordinateMedian(GroupRule):
    """The median of each coordinate (Yin et al. 2018).

    Each coordinate lies between the least and the greatest of the good groups' means.
    """

    label: ClassVar[str] = "coordinate median"

    @property
    def promise(self) -> str:
        """Bounds by the good groups."""
        return "each coordinate lies between the least and the greatest of the good groups' means"

    def _combined(self, stacked: Vector) -> Vector:
        return _median(stacked)


@dataclass(frozen=True)
class TrimmedMean(GroupRule):
    """The mean of each coordinate without its ``trim`` least and ``trim`` greatest values (Yin et al. 2018).

    ``trim`` must not be below ``bad``; more than 2·``trim`` groups are needed. Each coordinate lies between
    the least and the greatest of the good groups' means. With 2·``trim`` + 1 groups it is the median.
    """

    trim: int

    label: ClassVar[str] = "trimmed mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        trim = whole(self.trim)
        if trim is None or not self.bad <= trim < _MOST_GROUPS // 2:
            raise ConfigError(
                f"got trim={shown(self.trim)} with bad={self.bad}; expected an integer of at least {self.bad}: "
                "all bad groups may be on one side, and one that is not cut off moves the mean as far as it "
                "likes"
            )
        object.__setattr__(self, "trim", trim)

    @property
    def needed(self) -> int:
        """The least number of groups: one has to be left."""
        return 2 * self.trim + 1

    @property
    def promise(self) -> str:
        """Bounds by the good groups."""
        return "each coordinate lies between the least and the greatest of the good groups' means"

    def _combined(self, stacked: Vector) -> Vector:
        stacked.sort(axis=0)
        return np.asarray(stacked[self.trim : len(stacked) - self.trim].mean(axis=0), np.float64)


@dataclass(frozen=True)
class GeometricMedian(GroupRule):
    """The point with the least sum of distances to the groups' means (Pillutla et al. 2022), by Weiszfeld's steps.

    With f of G groups bad, it is at most 2(G - f)/(G - 2f) times as far from any point as the farthest good group
    is. Distances below 1e-9 of a typical one count as that much, so that a step never divides by zero. Pillutla
    et al. compute it over single clients by several secure sums, in which clients state their own distances; a
    liar states what it likes. Here the server computes it from means that it has.
    """

    label: ClassVar[str] = "geometric median"

    @property
    def promise(self) -> str:
        """How far it can be moved."""
        return "it is at most 2(G - f)/(G - 2f) times as far from any point as the farthest good group's mean"

    def _combined(self, stacked: Vector) -> Vector:
        center = _median(stacked)
        stacked -= center
        # In a basis of what the groups span, steps cost G² instead of G·d. QR errs column by column, so
        # a far point doesn't blur the near ones.
        points = np.transpose(np.linalg.qr(stacked.T, mode="r"))
        return np.asarray(center + _weiszfeld(points) @ stacked, np.float64)


@dataclass(frozen=True)
class NormClippedMean(GroupRule):
    """The mean of the groups' means, each shortened to the L2 norm ``clip`` where it is longer.

    A bad group moves the result by at most 2·``clip``/G. So a small ``clip`` is needed, about the norm of an honest
    group's mean; that has to be known from elsewhere. Noise lengthens a mean: by √d times its standard deviation.
    """

    clip: float

    label: ClassVar[str] = "norm-clipped mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        clip = real(self.clip)
        if not 1e-100 <= clip <= 1e100:
            raise ConfigError(f"got clip={shown(self.clip)}; expected an L2 norm from 1e-100 to 1e100")
        object.__setattr__(self, "clip", clip)

    @property
    def promise(self) -> str:
        """How far it can be moved."""
        return f"a bad group moves the result by at most {2 * self.clip:g}/G in L2 norm"

    def _combined(self, stacked: Vector) -> Vector:
        lengths = np.linalg.norm(stacked, axis=1)
        shares = self.clip / np.maximum(lengths, self.clip)
        return np.asarray(shares @ stacked / len(stacked), np.float64)


def _median(rows: Vector) -> Vector:
    """The median of each column. To sort few long rows is quicker than :func:`numpy.median`."""
    ordered = np.sort(rows, axis=0)
    return np.asarray((ordered[(len(rows) - 1) // 2] + ordered[len(rows) // 2]) / 2, np.float64)


def _weiszfeld(points: NDArray[np.float64]) -> Vector:
    """The weights of ``points``, which are centered, in their geometric median; zeros where that is the center."""
    lengths = np.linalg.norm(points, axis=1)
    typical = float(np.median(lengths))
    if typical == 0.0:  # more than half of them are at zero, and so is the median
        return np.zeros(len(points))
    place, weights = np.zeros(points.shape[1]), np.empty(len(points))
    for _ in range(_STEPS):
        weights = 1.0 / np.maximum(np.linalg.norm(points - place, axis=1), _SMOOTHING * typical)
        weights /= weights.sum()
        before, place = place, weights @ points
        if np.linalg.norm(place - before) <= _CONVERGED * typical:
            break
    return weights


_REFUSED = {
    "krum": "it picks the one update that is nearest to the others, so it needs single updates",
    "multi-krum": "it averages the updates that are nearest to the others, so it needs single updates",
    "bulyan": "it picks updates by Krum, so it needs single updates",
    "fltrust": "it weighs each update by its angle to the server's own, so it needs single updates",
    "foolsgold": "it weighs each client by how much its updates are like others', so it needs single updates",
}


def named(name: str, *, bad: int = 1, clip: float = 1.0) -> GroupRule:
    """The rule that a command line names.

    ``name`` is ``median``, ``trimmed-mean``, ``geometric-median`` or ``norm-clipped-mean``. ``trimmed-mean`` trims
    ``bad`` at each end; ``clip`` is that of ``norm-clipped-mean``. ``ConfigError`` for any other name; for rules
    that secure aggregation does not allow (``krum``, ``multi-krum``, ``bulyan``, ``fltrust``), with the reason.
    """
    rules: dict[str, Callable[[], GroupRule]] = {
        "median": lambda: CoordinateMedian(bad=bad),
        "trimmed-mean": lambda: TrimmedMean(bad, bad=bad),
        "geometric-median": lambda: GeometricMedian(bad=bad),
        "norm-clipped-mean": lambda: NormClippedMean(clip, bad=bad),
    }
    plain = chosen(name, rules)
    if plain is not None:
        return rules[plain]()
    known = "median, trimmed-mean, geometric-median or norm-clipped-mean"
    reason = _REFUSED.get(str.__str__(name).lower()) if is_a(name, str) else None
    if reason is not None:
        raise ConfigError(
            f"got the rule {shown(name)}: {reason}, and secure aggregation is there so that the server has none. "
            f"Expected a rule over groups: {known}"
        )
    raise ConfigError(f"got the rule {shown(name)}; expected {known}")

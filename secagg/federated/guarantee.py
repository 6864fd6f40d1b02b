"""What a robust rule over groups promises: bad groups, anonymity, privacy and noise, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dp
from secagg._numbers import is_a
from secagg.corruption import corrupt_among
from secagg.federated.groups import group_task, likelihood
from secagg.federated.noise import mean_noise_std
from secagg.identity import Roster
from secagg.task import Task


@dataclass(frozen=True)
class Guarantee:
    """What ``rule`` promises over ``groups`` groups, of which at most ``bad`` hold a liar.

    ``promise`` says it in words. ``group_size`` is that of the smallest group if all clients take part;
    ``min_survivors`` its floor; ``colluders`` how many clients may collude with the server, in this group as in
    all. ``anonymity`` is the floor less the colluders: the fewest honest updates in any sum that is opened.

    ``epsilon`` (at ``delta``) is that of one group's sum. It is that of the round, too: a client is in one group,
    so ε doesn't add up over groups. ``noise_std`` is the standard deviation of the noise in a coordinate of one
    group's mean if nobody drops out, and ``noise_growth`` how many times that of the mean over all clients without
    groups it is. Each is None without DP.

    ``likelihood`` is the probability that ``liars`` clients are drawn into at most ``bad`` groups; None if nobody
    said how many lie.
    """

    rule: str
    promise: str
    groups: int
    bad: int
    group_size: int
    min_survivors: int
    colluders: int
    anonymity: int
    epsilon: float | None
    delta: float | None
    noise_std: float | None
    noise_growth: float | None
    liars: int | None
    likelihood: float | None

    def describe(self) -> str:
        """All of it in words."""
        lines = [
            f"{self.rule} of {self.groups} groups of {self.group_size} or more clients",
            f"  liars      at most {self.bad} of the groups may hold any: then {self.promise}",
        ]
        if self.likelihood is not None:
            lines.append(
                f"             clients that lie, {self.liars} in all, are in at most {self.bad} with probability "
                f"{self.likelihood:.4g}, if nobody could foresee the draw"
            )
        lines += [
            "             a clip binds honest clients only: a liar sends any value that the encoding can hold",
            f"  colluders  c = {self.colluders} may tell the server what they know, perhaps all in one group: any "
            f"sum that is opened holds at least {self.min_survivors} updates, at least {self.anonymity} of them "
            "honest",
            "             over many rounds, sums of ever new groups tell more of a client than sums of everyone",
        ]
        if self.epsilon is not None:
            lines.append(
                f"  privacy    epsilon {self.epsilon:.4g} at delta {self.delta:g} a round, for one group's sum; a "
                "client is in one group, so it doesn't add up over groups"
            )
        if self.noise_std is not None:
            lines.append(
                f"  noise      standard deviation {self.noise_std:.3g} in a coordinate of one group's mean, "
                f"{self.noise_growth:.3g} times that of one mean over all clients; the mean of all groups' means "
                f"has {1 / math.sqrt(self.groups):.3g} of it, their median about "
                f"{math.sqrt(math.pi / 2 / self.groups):.3g}"
            )
        return "\n".join(lines)


def guarantee_of(
    task: Task,
    groups: int,
    *,
    rule: str,
    bad: int,
    promise: str,
    liars: int | None = None,
    roster: Roster | None = None,
) -> Guarantee:
    """The guarantee of a rule over ``groups`` groups of ``task``, a task over all clients."""
    group = group_task(task, groups, roster=roster)
    colluders = corrupt_among(task.protocol, task.max_clients, roster)
    epsilon, delta = _epsilon(group)
    noise, growth = None, None
    if epsilon is not None:
        noise = mean_noise_std(group, group.max_clients)
        growth = noise / mean_noise_std(task, task.max_clients)
    return Guarantee(
        rule=rule,
        promise=promise,
        groups=groups,
        bad=bad,
        group_size=task.max_clients // groups,
        min_survivors=group.min_survivors,
        colluders=colluders,
        anonymity=1 if group.shows_terms else group.min_survivors - colluders,
        epsilon=epsilon,
        delta=delta,
        noise_std=noise,
        noise_growth=growth,
        liars=liars,
        likelihood=None if liars is None else likelihood(task.max_clients, groups, liars, bad),
    )


def _epsilon(task: Task) -> tuple[float | None, float | None]:
    """ε and δ of one sum; None without noise, or for an encoding of another package."""
    encoder: Any = task.encoder
    if is_a(encoder, (dp.CentralGaussian, dp.DistributedGaussian, dp.DistributedSkellam)):
        return encoder.epsilon(task.layout.size), encoder.delta
    return None, None

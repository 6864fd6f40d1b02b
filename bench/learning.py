"""One federated training on the digits, with one way to sum, to compress and to combine.

No protocol runs here. Every protocol returns the exact sum of what its clients encoded, so the encodings are summed
as integers, modulo the power of two that masks and shares use. A test compares that with a session of SecAggPlus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import Clear, Layout, SecAggPlus, Task, simulate
from secagg.demo import digits
from secagg.errors import Aborted, EncodingError
from secagg.federated import (
    Compression,
    FedAvg,
    GroupRule,
    PublicMask,
    Residual,
    ServerOptimizer,
    draw_groups,
    fedprox_gradient,
)
from secagg.fixed_point import FixedPoint
from secagg.lanes import widths

Floats = NDArray[np.float64]

CLIENTS, ROUNDS, SEEDS = 20, 40, 5
CLIP, BITS = 0.5, 16
ATTACKERS, GROUPS = 2, 5

#: One data set is dealt and read for all trainings of a seed.
dealt = cache(digits.load)


@dataclass(frozen=True)
class Training:
    """How one training differs from FedAvg, weighted by images, on integer sums.

    ``bits`` None sums in float64. ``attack`` is what the attackers multiply their update by after compressing it;
    their terms bypass the encoding. ``rule`` combines the means of five groups, which are drawn anew each round
    unless ``fixed_groups``. ``make`` makes the compression of a layout.
    """

    optimizer: ServerOptimizer = field(default_factory=FedAvg)
    proximal: float = 0.0
    weighted: bool = True
    bits: int | None = BITS
    rounding: str = "stochastic"
    make: Callable[[Layout], Compression] | None = None
    residuals: bool = False
    rule: GroupRule | None = None
    fixed_groups: bool = False
    attack: float | None = None
    rounds: int = ROUNDS

    def encoding(self) -> FixedPoint | None:
        """The grid of the integer sums."""
        return None if self.bits is None else FixedPoint(clip=CLIP, bits=self.bits, rounding=self.rounding)


@dataclass(frozen=True)
class Trained:
    """Test images that were right after each round; coordinates clipped, of those sent; sums that were refused."""

    correct: tuple[int, ...]
    clipped: int
    refused: int
    sent: int
    model: digits.Model = field(repr=False, compare=False)


@dataclass
class Sums:
    """What the server gets in one round: one mean for each cohort, or None where it refused the sum."""

    encoding: FixedPoint | None
    layout: Layout
    max_weight: int | None
    rng: np.random.Generator
    clipped: int = 0
    refused: int = 0

    def mean(
        self, terms: Mapping[str, Floats], weights: Mapping[str, int], liars: Mapping[str, float]
    ) -> Floats | None:
        """The mean of ``terms`` (by client), those of ``liars`` multiplied by their factor.

        A liar's integer is any element of the group that carries the sum. If the sum of all is one that honest
        clients cannot have, the decoder refuses it, and the session gives nothing.
        """
        shares = weights if self.max_weight is not None else dict.fromkeys(terms, 1)
        if self.encoding is None:
            scaled = [liars.get(client, 1.0) * term for client, term in terms.items()]
            mean: Floats = np.average(scaled, axis=0, weights=[shares[client] for client in terms])
            return mean
        task = Task(Clear(), self.layout, self.encoding, len(terms), len(terms), self.max_weight)
        totals = [np.zeros(segment.length, np.uint64) for segment in task.segments]
        for client, term in terms.items():
            weight = shares[client] if self.max_weight is not None else None
            encoded: Sequence[NDArray[Any]] = self.encoding.encode(
                term, layout=self.layout, weight=weight, max_weight=self.max_weight, rng=self.rng.bytes
            )
            if client in liars:
                share = 1.0 if weight is None or self.max_weight is None else weight / self.max_weight
                encoded = [self._forged(liars[client] * share * term), *encoded[1:]]
            for total, part in zip(totals, encoded, strict=True):
                total += part.astype(np.uint64)
        sums = [total & np.uint64((1 << bits) - 1) for total, bits in zip(totals, widths(task), strict=True)]
        try:
            decoded = self.encoding.decode(
                sums, layout=self.layout, survivors=len(terms), max_weight=self.max_weight
            )
        except EncodingError:
            self.refused += 1
            return None
        self.clipped += decoded.clipped or 0
        return decoded.mean

    def _forged(self, values: Floats) -> NDArray[np.uint64]:
        """The integers of a client that does not clip: negative ones wrap, as uint64 does."""
        assert self.encoding is not None
        top = (1 << (self.encoding.bits - 1)) - 1
        return (np.rint(values * (top / CLIP)).astype(np.int64) + top).astype(np.uint64)


def train(training: Training, seed: int) -> Trained:
    """Run one training."""
    data, model = dealt(CLIENTS, seed), digits.initial(seed)
    ids = [shard.id for shard in data.clients]
    weights = {shard.id: shard.images for shard in data.clients}
    bad = np.random.default_rng([seed, 3]).choice(CLIENTS, ATTACKERS, replace=False)
    liars = {} if training.attack is None else {ids[at]: training.attack for at in sorted(bad)}
    layout = Layout.of(model)
    compression = None if training.make is None else training.make(layout)
    residuals = dict.fromkeys(ids, Residual(layout)) if training.residuals else {}
    sent = layout if compression is None else compression.compressed
    max_weight = max(weights.values()) if training.weighted else None
    sums = Sums(training.encoding(), sent, max_weight, np.random.default_rng([seed, 4]))
    state = training.optimizer.start(model)
    correct = []
    for number in range(1, training.rounds + 1):
        name = b"seed %d round %d" % (seed, number)
        session = name if compression is None else compression.session(name)
        terms: dict[str, Floats] = {}
        kept: dict[str, Residual] = {}
        for at, shard in enumerate(data.clients):
            update = local(model, shard, np.random.default_rng([seed, 2, number, at]), training.proximal)
            if compression is None:
                terms[shard.id] = layout.flatten(update, dtype="float64").astype(np.float64, copy=False)
            elif training.residuals and isinstance(compression, PublicMask):
                terms[shard.id], kept[shard.id] = residuals[shard.id].compress(compression, update, session)
            else:
                terms[shard.id] = compression.compress(update, session)
        mean = combined(training, sums, terms, weights, liars, name)
        if mean is not None:
            whole = layout.restore(mean) if compression is None else compression.expand(mean, session)
            model, state = training.optimizer.step(model, whole, state)
            residuals = kept
            compression = None if compression is None else compression.after(whole)
        correct.append(digits.correct(model, data.test))
    sent_in_all = training.rounds * CLIENTS * sent.size
    return Trained(tuple(correct), sums.clipped, sums.refused, sent_in_all, model)


def local(model: digits.Model, shard: digits.Shard, rng: np.random.Generator, proximal: float) -> digits.Model:
    """A client's update, with FedProx's term if ``proximal`` is above 0."""
    if not proximal:
        return digits.train(model, shard, rng)
    return digits.train(
        model, shard, rng, adjusted=lambda slope, own: fedprox_gradient(slope, own, model, proximal)
    )


def combined(
    training: Training,
    sums: Sums,
    terms: Mapping[str, Floats],
    weights: Mapping[str, int],
    liars: Mapping[str, float],
    session: bytes,
) -> Floats | None:
    """The mean of the round, over all clients or by the rule over groups; None if no sum was opened, or too few."""
    if training.rule is None:
        return sums.mean(terms, weights, liars)
    seed, _, _ = session.partition(b" round")
    groups = draw_groups(terms, GROUPS, hashlib.sha256(seed if training.fixed_groups else session).digest())
    means = [sums.mean({client: terms[client] for client in group}, weights, liars) for group in groups]
    try:
        return np.asarray(training.rule.combine([mean for mean in means if mean is not None]))
    except Aborted:
        return None


def differing(seed: int, rounds: int) -> int:
    """How many weights differ after some rounds of FedAvg through SecAggPlus from those of the integer sums.

    Both round to the nearest point of the grid, so that nothing is random but masks, which vanish.
    """
    training = Training(rounding="nearest", rounds=rounds)
    expected = train(training, seed).model
    data, model = dealt(CLIENTS, seed), digits.initial(seed)
    weights = {shard.id: shard.images for shard in data.clients}
    encoding = training.encoding()
    assert encoding is not None
    layout = Layout.of(model)
    task = Task(SecAggPlus(), layout, encoding, CLIENTS, CLIENTS - 2, max(weights.values()), b"federated")
    state = training.optimizer.start(model)
    for number in range(1, rounds + 1):
        updates = {
            shard.id: local(model, shard, np.random.default_rng([seed, 2, number, at]), 0.0)
            for at, shard in enumerate(data.clients)
        }
        outcome = simulate(task, updates, weights=weights, session=b"round %d" % number)
        model, state = training.optimizer.step(model, outcome.mean, state)
    return sum(int(np.count_nonzero(model[name] != expected[name])) for name in model)

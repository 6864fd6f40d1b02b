"""The model of one training, and all that happens before and after each sum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from secagg.demo import model
from secagg.demo.problems import Problem
from secagg.demo.settings import ALGORITHMS, ATTACKS, Settings
from secagg.errors import Aborted
from secagg.federated import Pruned, PublicMask, Residual, draw_groups
from secagg.federated.masks import named as compression_named
from secagg.federated.robust import GroupRule, named as rule_named
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout

TENTH = 10  # a compression sends one of so many coordinates

_CLIP = 0.5

#: Nearest rounding draws no randomness, so all protocols give the same model to the last bit.
ENCODING = FixedPoint(clip=_CLIP, bits=16, rounding="nearest")


def attackers(problem: Problem, settings: Settings) -> frozenset[str]:
    """The clients that attack, drawn by the seed; none without an attack."""
    if settings.attack is None:
        return frozenset()
    rng = np.random.default_rng([settings.seed, 3])
    return frozenset(map(str, rng.choice(sorted(problem.weights), settings.liars, replace=False)))


def make_rule(problem: Problem, settings: Settings) -> GroupRule | None:
    """The rule over groups that the settings name. ``ConfigError`` for one that needs single updates."""
    if settings.robust is None:
        return None
    return rule_named(settings.robust, bad=settings.liars, clip=problem.l2_clip)


class Learner:
    """One training: before a sum, :meth:`offer` trains the clients; after it, :meth:`learn` moves the model.

    How the sum is taken in between is the caller's matter: in float64 or under a protocol.
    """

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem, self.settings = problem, settings
        self.model = problem.initial()
        self.lying = attackers(problem, settings)
        self.rule = make_rule(problem, settings)
        self.compression = None
        if settings.compression is not None:
            layout = Layout.of(self.model)
            self.compression = compression_named(settings.compression, self.model, math.ceil(layout.size / TENTH))
            if isinstance(self.compression, Pruned):
                self.model = self.compression.prune(self.model)
        self._algorithm = ALGORITHMS[settings.optimizer]
        self._optimizer = self._algorithm.make()
        self._state = self._optimizer.start(self.model)
        empty = Residual(Layout.of(self.model))
        self._residuals = dict.fromkeys(problem.weights, empty)
        self._kept: dict[str, Residual] = {}

    @property
    def layout(self) -> Layout:
        """The layout of what clients send."""
        return Layout.of(self.model) if self.compression is None else self.compression.compressed

    @property
    def corrects_noise(self) -> bool:
        """Whether the optimizer takes the noise of the mean out of what it remembers."""
        return self.settings.optimizer == "fedadam" and self.compression is None

    def session(self, number: int) -> bytes:
        """The name of the round's session: with the hash of the model that is trained, or of the compression."""
        if self.compression is None:
            return b"round %d " % number + model.fingerprint(self.model)
        return self.compression.session(b"seed %d round %d" % (self.settings.seed, number))

    def groups(self, number: int) -> tuple[tuple[str, ...], ...]:
        """The groups of the round, drawn by its number; all clients in one without a rule over groups."""
        ids = sorted(self.problem.weights)
        if self.rule is None:
            return (tuple(ids),)
        public = hashlib.sha256(b"demo groups, seed %d round %d" % (self.settings.seed, number)).digest()
        return draw_groups(ids, self.settings.groups, public)

    def offer(self, number: int) -> dict[str, Any]:
        """What each client contributes in the round: its update, compressed if there is a compression."""
        session = self.session(number)
        terms: dict[str, Any] = {}
        self._kept = {}
        for client in self.problem.weights:
            update = self.problem.update(self.model, client, number, self.settings.epochs, self._algorithm.proximal)
            if client in self.lying and self.settings.attack is not None:
                factor = ATTACKS[self.settings.attack]
                update = {name: factor * array for name, array in update.items()}
            if isinstance(self.compression, PublicMask):
                terms[client], self._kept[client] = self._residuals[client].compress(
                    self.compression, update, session
                )
            else:
                terms[client] = update if self.compression is None else self.compression.compress(update, session)
            if client in self.lying:
                terms[client] = _clip(terms[client])
        return terms

    def learn(self, number: int, means: Sequence[Any], survivors: Iterable[str], noise_std: float = 0.0) -> None:
        """Move the model by the round's mean, or by what the rule makes of those of groups.

        Without enough groups the model stays. A client that is not among the ``survivors`` keeps the residual that
        it had.
        """
        session = self.session(number)
        try:
            mean = means[0] if self.rule is None else self.rule.combine(means)
        except Aborted:
            return
        if self.compression is not None:
            mean = self.compression.expand(mean, session)
            self.compression = self.compression.after(mean)
        self._residuals |= {client: self._kept[client] for client in survivors if client in self._kept}
        self.model, self._state = self._optimizer.step(self.model, mean, self._state, noise_std=noise_std)


def _clip(term: Any) -> Any:
    """``term`` as the encoding clips it, so that an attack is the same in float64."""
    if isinstance(term, dict):
        return {name: _clip(array) for name, array in term.items()}
    return np.clip(term, -_CLIP, _CLIP)

"""The same training under one protocol after another, and without a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from secagg.demo import baseline, model
from secagg.demo.claim import Claim, watch
from secagg.demo.dropouts import Plan, absentees, plan, silent_rounds
from secagg.demo.learner import ENCODING, Learner
from secagg.demo.problems import Problem, client_ids, load
from secagg.demo.settings import MOST_CLIENTS, USUAL_DROPOUTS, Settings
from secagg.errors import Aborted, ConfigError
from secagg.federated import group_task, mean_noise_std, simulate_groups
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol
from secagg.simulation import Simulation, enrol_for
from secagg.task import Task

if TYPE_CHECKING:
    from dp.events import Trust
    from dp.ledger import PrivacyLedger

DELTA = 1e-5  # of a noised training
CORRUPTION = 0.05  # of all clients, under a rule over groups: all that may be corrupt fit into one group


@dataclass(frozen=True)
class Aggregation:
    """One round of training: the survivors, the dropouts by protocol round, and the number of correct labels."""

    survivors: tuple[str, ...]
    dropped: Mapping[str, str]
    correct: int
    clipped: int | None


@dataclass(frozen=True, eq=False)
class Run:
    """One whole training under a protocol.

    ``bytes_up`` and ``bytes_down`` are means over the rounds and the clients that stayed to the end of each.
    """

    protocol: str
    aggregations: tuple[Aggregation, ...]
    model: model.Model
    difference: float
    bytes_up: float
    bytes_down: float
    collusion: str
    epsilon: float | None = None
    """The most that a client was charged for the whole training, at :data:`DELTA`; None without noise."""

    @property
    def correct(self) -> int:
        """The number of test examples that the final model classifies correctly."""
        return self.aggregations[-1].correct


@dataclass(frozen=True, eq=False)
class Demo:
    """All results. ``left_out`` says why a protocol can't run here, by its name.

    ``float64_correct`` is after each round of the same training without a protocol; ``unattacked_correct`` of that
    without attackers, None if there are none.
    """

    settings: Settings
    problem: Problem
    float64_correct: tuple[int, ...]
    float64_model: model.Model
    unattacked_correct: tuple[int, ...] | None
    runs: tuple[Run, ...]
    left_out: Mapping[str, str]
    claim: Claim


def run(
    settings: Settings,
    protocols: Mapping[str, AggregationProtocol],
    progress: Callable[[str], None] = lambda name: None,
) -> Demo:
    """Train under each protocol; ``progress`` is called with its name as each round of training begins.

    Raises ``ConfigError`` before any training if a protocol needs more survivors, or if packages are missing for
    all of them.
    """
    missing: dict[str, str] = {}
    for protocol in protocols.values():
        with _record_missing(protocol, missing):
            _check(protocol, settings)
    problem = load(settings.task, settings.clients, settings.seed, private=settings.epsilon is not None)
    silences = np.random.default_rng([settings.seed, 1])
    silent = plan(list(problem.weights), settings.rounds, settings.dropouts, silences)
    models = _train_in_float64(problem, settings, silent)
    runs = []
    for protocol in protocols.values():
        if protocol.name not in missing:
            with _record_missing(protocol, missing):
                runs.append(_train(protocol, settings, problem, silent, models[-1], progress))
    if not runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise ConfigError(f"got no protocol that can run here; {reasons}")
    available = [protocol for protocol in protocols.values() if protocol.name not in missing]
    first = next((protocol for protocol in available if protocol.name == "SecAgg"), available[0])
    if settings.epsilon is not None:
        runs.append(_train(first, settings, problem, silent, models[-1], progress, settings.epsilon))
    unattacked = None
    if settings.attack is not None:
        honest = _train_in_float64(problem, replace(settings, attack=None), silent)
        unattacked = tuple(map(problem.correct, honest))
    return Demo(
        settings,
        problem,
        tuple(map(problem.correct, models)),
        models[-1],
        unattacked,
        tuple(runs),
        missing,
        _watch(first, settings, problem),
    )


@contextmanager
def _record_missing(protocol: AggregationProtocol, missing: dict[str, str]) -> Iterator[None]:
    """Record a missing package in ``missing``, shown by an ``ImportError`` or by a ``ConfigError`` from one."""
    try:
        yield
    except (ImportError, ConfigError) as error:
        if not isinstance(error, ImportError) and not isinstance(error.__cause__, ImportError):
            raise
        missing[protocol.name] = str(error)


def make_task(protocol: AggregationProtocol, layout: Layout, settings: Settings, max_weight: int | None) -> Task:
    """The task that a group runs for a whole training; all clients are one group without a rule over groups.

    ``min_survivors`` is the number of clients that remain after the dropouts. Under a rule over groups there are no
    weights, since a liar would claim a large one, and :data:`CORRUPTION` of the clients may be corrupt.
    """
    grouped = settings.robust is not None
    if grouped and protocol.corruption is not None:
        protocol = replace(protocol, corruption=CORRUPTION)  # type: ignore[type-var]
    task = Task(
        protocol=protocol,
        layout=layout,
        encoding=ENCODING,
        max_clients=settings.clients,
        min_survivors=settings.clients - settings.dropouts,
        max_weight=None if grouped else max_weight,
        context=b"secagg demo",
    )
    return group_task(task, settings.groups) if grouped else task


def make_private_task(task: Task, l2_clip: float, epsilon: float, rounds: int) -> Task:
    """``task`` without weights, with the least noise that keeps ``rounds`` sums within ``epsilon``."""
    from dp.distributed import DistributedGaussian

    noised = replace(task, max_weight=None, encoding=DistributedGaussian(l2_clip, 1.0, 20, delta=DELTA))
    try:
        encoding = cast(DistributedGaussian, noised.encoder).with_epsilon(epsilon, task.layout.size, rounds=rounds)
    except ValueError as error:
        raise ConfigError(f"got --epsilon {epsilon:g}: {error}") from error
    return replace(noised, encoding=encoding)


def _budget(epsilon: float, trust: Trust) -> PrivacyLedger:
    """The privacy budget of one client for the whole training."""
    from dp.ledger import PrivacyLedger

    return PrivacyLedger(epsilon, DELTA, unit="client", trust=trust)


def _train_in_float64(problem: Problem, settings: Settings, silent: Plan) -> list[model.Model]:
    """The model after each round, trained by the clients that the plan leaves in the sum."""
    learner, models = Learner(problem, settings), []
    for number, silences in enumerate(silent, 1):
        terms, absent = learner.offer(number), absentees(silences)
        means = []
        for group in learner.groups(number):
            present = [client for client in group if client not in absent]
            weights = [1 if settings.robust is not None else problem.weights[client] for client in present]
            means.append(baseline.mean([terms[client] for client in present], weights))
        learner.learn(number, means, problem.weights.keys() - absent)
        models.append(learner.model)
    return models


def _train(
    protocol: AggregationProtocol,
    settings: Settings,
    problem: Problem,
    silent: Plan,
    exact: model.Model,
    progress: Callable[[str], None],
    epsilon: float | None = None,
) -> Run:
    learner = Learner(problem, settings)
    task = make_task(protocol, learner.layout, settings, max(problem.weights.values()))
    name, budgets, noise = protocol.name, None, 0.0
    if epsilon is not None:
        task = make_private_task(task, problem.l2_clip, epsilon, settings.rounds)
        trust: Trust = "local" if task.shows_terms else "distributed"
        name, budgets = f"{name}, noised", {client: _budget(epsilon, trust) for client in problem.weights}
    aggregations, up, down = [], [], []
    for number, silences in enumerate(silent, 1):
        progress(name)
        outcomes = simulate_groups(
            task,
            learner.offer(number),
            learner.groups(number),
            weights=None if task.max_weight is None else problem.weights,
            dropouts=silent_rounds(protocol, silences),
            budgets=budgets,
            session=learner.session(number),
        )
        opened = [_opened(outcome) for outcome in outcomes]
        survivors = tuple(sorted(client for one in opened for client in one.survivors))
        if epsilon is not None and learner.corrects_noise:
            noise = mean_noise_std(task, len(survivors))
        learner.learn(number, [one.mean for one in opened], survivors, noise)
        silent_now = {silence.hospital for silence in silences}
        for one in opened:
            stayed = [client for client in one.bytes_up if client in problem.weights and client not in silent_now]
            up += [sum(one.bytes_up[client].values()) for client in stayed]
            down += [sum(one.bytes_down[client].values()) for client in stayed]
        aggregations.append(
            Aggregation(
                survivors,
                {client: at for one in opened for client, at in one.dropped.items()},
                problem.correct(learner.model),
                None if any(one.clipped is None for one in opened) else sum(one.clipped or 0 for one in opened),
            )
        )
    return Run(
        protocol=name,
        aggregations=tuple(aggregations),
        model=learner.model,
        difference=model.difference(learner.model, exact),
        bytes_up=float(np.mean(up)),
        bytes_down=float(np.mean(down)),
        collusion=task.protocol.cost(task, sorted(problem.weights)[: task.max_clients]).collusion,
        epsilon=None if budgets is None else max(budget.spent for budget in budgets.values()),
    )


def _opened(outcome: Simulation | Aborted) -> Simulation:
    """The outcome. Nothing in the demo aborts a session: its dropouts are within what the task allows."""
    if isinstance(outcome, Aborted):
        raise outcome
    return outcome


def _watch(protocol: AggregationProtocol, settings: Settings, problem: Problem) -> Claim:
    """The first round of the training again, as the server sees it; in the victim's group, with nobody silent."""
    learner = Learner(problem, replace(settings, attack=None))
    task = make_task(protocol, learner.layout, settings, max(problem.weights.values()))
    members = learner.groups(1)[0]
    terms = learner.offer(1)
    weights = None if task.max_weight is None else {client: problem.weights[client] for client in members}
    return watch(task, {client: terms[client] for client in members}, weights, learner.session(1))


def _check(protocol: AggregationProtocol, settings: Settings) -> None:
    """``ConfigError`` if the protocol can't work with these settings; it names numbers that work."""
    clients, dropouts = settings.clients, settings.dropouts
    refusal = _refusal(protocol, settings)
    if refusal is None:
        return
    if isinstance(refusal.__cause__, ImportError):
        raise refusal
    fewer = [few for few in range(dropouts) if _works(protocol, settings, dropouts=few)]
    more = [
        count
        for count in range(max(2, dropouts + 1), MOST_CLIENTS + 1)
        if _works(protocol, settings, clients=count)
    ]
    works = [f"--{name} {_span(numbers)}" for name, numbers in (("dropouts", fewer), ("clients", more)) if numbers]
    if not works:
        raise refusal
    options = f"--clients {clients} --dropouts {dropouts}" if dropouts else f"--clients {clients}"
    reason = f"opens no sum over {clients - dropouts} of {clients}"
    if settings.robust is not None:
        options, reason = (
            f"{options} --robust {settings.robust}",
            f"opens no sums of {settings.groups} groups of them",
        )
    raise ConfigError(f"got {options}, and {protocol.name} {reason}; expected {', or '.join(works)}")


def usual_dropouts(settings: Settings, protocols: Iterable[AggregationProtocol]) -> int:
    """Two of the clients, or fewer if one of ``protocols`` can't lose two; none under a rule over groups."""
    if settings.robust is not None:
        return 0
    return next(
        (
            dropouts
            for dropouts in range(min(USUAL_DROPOUTS, settings.clients - 1), 0, -1)
            if all(_can_run(protocol, settings, dropouts) for protocol in protocols)
        ),
        0,
    )


def _can_run(protocol: AggregationProtocol, settings: Settings, dropouts: int) -> bool:
    """Whether the protocol works with these numbers. True if a package is missing: that is reported later."""
    try:
        refusal = _refusal(protocol, replace(settings, dropouts=dropouts))
    except ImportError:
        return True
    return refusal is None or isinstance(refusal.__cause__, ImportError)


def _works(protocol: AggregationProtocol, settings: Settings, **changed: int) -> bool:
    try:
        other = replace(settings, **changed)  # type: ignore[arg-type]
    except ConfigError:
        return False
    return _refusal(protocol, other) is None


def _refusal(protocol: AggregationProtocol, settings: Settings) -> ConfigError | None:
    cohort = client_ids(settings.task, settings.clients)
    try:
        task = make_task(protocol, Layout.of(np.zeros(1)), settings, max_weight=1)
        group = cohort[: task.max_clients]
        task.protocol.validate_cohort(task, group, enrol_for(task, group)[1])
    except ConfigError as error:
        return error
    return None


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

"""The same training under one protocol after another, and without a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from secagg.demo import baseline, model
from secagg.demo.dropouts import Plan, absentees, plan, silent_rounds
from secagg.demo.hospitals import MOST_HOSPITALS, Study, hospital_ids, load
from secagg.errors import ConfigError
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol
from secagg.simulation import enrol_for, simulate
from secagg.task import Task

if TYPE_CHECKING:
    from dp.events import Trust
    from dp.ledger import PrivacyLedger

FEATURES = 30
MOST_ROUNDS = 1000
USUAL_DROPOUTS = 2

#: The δ of a noised training, and the largest L2 norm of its updates.
DELTA = 1e-5
L2_CLIP = 0.1

#: Nearest rounding draws no randomness, so all protocols give the same model to the last bit.
ENCODING = FixedPoint(clip=0.5, bits=16, rounding="nearest")


@dataclass(frozen=True)
class Settings:
    """How many hospitals train, for how many rounds, and how many fall silent in each round.

    ``seed`` decides the shards and which hospitals fall silent; keys, masks and noise come from the system's
    generator. With ``epsilon``, one more training adds noise for that ε. All trainings then scale features by
    public constants, because ε does not cover exact statistics of the patients. ``ConfigError`` for a number out of
    range.
    """

    clients: int = 10
    rounds: int = 20
    dropouts: int = USUAL_DROPOUTS
    seed: int = 0
    epsilon: float | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("clients", 2, MOST_HOSPITALS),
            ("rounds", 1, MOST_ROUNDS),
            ("dropouts", 0, self.clients - 1),
            ("seed", 0, None),
        ):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                expected = f"{least} or more" if most is None else f"{least} to {most}"
                raise ConfigError(f"got --{name} {value}; expected {expected}")
        if self.epsilon is not None and not 0 < self.epsilon < float("inf"):
            raise ConfigError(f"got --epsilon {self.epsilon}; expected a number above 0, such as 8")


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

    ``bytes_up`` and ``bytes_down`` are means over the rounds and the hospitals that stayed to the end of each.
    """

    protocol: str
    aggregations: tuple[Aggregation, ...]
    model: model.Model
    difference: float
    bytes_up: float
    bytes_down: float
    collusion: str
    epsilon: float | None = None
    """The most that a hospital was charged for the whole training, at :data:`DELTA`; None without noise."""

    @property
    def correct(self) -> int:
        """The number of test patients that the final model classifies correctly."""
        return self.aggregations[-1].correct


@dataclass(frozen=True, eq=False)
class Demo:
    """All results. ``left_out`` says why a protocol can't run here, by its name."""

    settings: Settings
    study: Study
    float64_correct: tuple[int, ...]
    float64_model: model.Model
    runs: tuple[Run, ...]
    left_out: Mapping[str, str]


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
    shards, silences = (np.random.default_rng([settings.seed, purpose]) for purpose in (0, 1))
    study = load(settings.clients, shards, plausible=settings.epsilon is not None)
    silent = plan([hospital.id for hospital in study.hospitals], settings.rounds, settings.dropouts, silences)
    models = _train_in_float64(study, silent)
    runs = []
    for protocol in protocols.values():
        if protocol.name not in missing:
            with _record_missing(protocol, missing):
                runs.append(_train(protocol, settings, study, silent, models[-1], progress))
    if settings.epsilon is not None and runs:
        available = [protocol for protocol in protocols.values() if protocol.name not in missing]
        first = next((protocol for protocol in available if protocol.name == "SecAgg"), available[0])
        runs.append(_train(first, settings, study, silent, models[-1], progress, settings.epsilon))
    if not runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise ConfigError(f"got no protocol that can run here; {reasons}")
    correct = tuple(model.correct(one, study.test) for one in models)
    return Demo(settings, study, correct, models[-1], tuple(runs), missing)


@contextmanager
def _record_missing(protocol: AggregationProtocol, missing: dict[str, str]) -> Iterator[None]:
    """Record a missing package in ``missing``, shown by an ``ImportError`` or by a ``ConfigError`` from one."""
    try:
        yield
    except (ImportError, ConfigError) as error:
        if not isinstance(error, ImportError) and not isinstance(error.__cause__, ImportError):
            raise
        missing[protocol.name] = str(error)


def make_task(protocol: AggregationProtocol, clients: int, dropouts: int, max_weight: int) -> Task:
    """The task of a whole training. ``min_survivors`` is the number of hospitals that remain after the dropouts."""
    return Task(
        protocol=protocol,
        layout=Layout.of(model.initial(FEATURES)),
        encoding=ENCODING,
        max_clients=clients,
        min_survivors=clients - dropouts,
        max_weight=max_weight,
        context=b"secagg demo",
    )


def make_private_task(
    protocol: AggregationProtocol, clients: int, dropouts: int, epsilon: float, rounds: int
) -> Task:
    """As :func:`make_task`, without weights; with the least noise that keeps ``rounds`` sums within ``epsilon``."""
    from dp.distributed import DistributedGaussian

    task = make_task(protocol, clients, dropouts, max_weight=1)
    noised = replace(task, max_weight=None, encoding=DistributedGaussian(L2_CLIP, 1.0, 20, delta=DELTA))
    try:
        encoding = cast(DistributedGaussian, noised.encoder).with_epsilon(epsilon, task.layout.size, rounds=rounds)
    except ValueError as error:
        raise ConfigError(f"got --epsilon {epsilon:g}: {error}") from error
    return replace(noised, encoding=encoding)


def _budget(epsilon: float, trust: Trust) -> PrivacyLedger:
    """The privacy budget of one hospital for the whole training."""
    from dp.ledger import PrivacyLedger

    return PrivacyLedger(epsilon, DELTA, unit="client", trust=trust)


def _train_in_float64(study: Study, silent: Plan) -> list[model.Model]:
    """The model after each round, trained by the hospitals that the plan leaves in the sum."""
    models = [model.initial(FEATURES)]
    for silences in silent:
        absent = absentees(silences)
        models.append(baseline.step(models[-1], [h for h in study.hospitals if h.id not in absent]))
    return models[1:]


def _train(
    protocol: AggregationProtocol,
    settings: Settings,
    study: Study,
    silent: Plan,
    exact: model.Model,
    progress: Callable[[str], None],
    epsilon: float | None = None,
) -> Run:
    patients = {hospital.id: hospital.patients for hospital in study.hospitals}
    clients, dropouts = settings.clients, settings.dropouts
    if epsilon is None:
        task = make_task(protocol, clients, dropouts, max(patients.values()))
    else:
        task = make_private_task(protocol, clients, dropouts, epsilon, settings.rounds)
    trust: Trust = "local" if task.shows_terms else "distributed"
    budgets = None if epsilon is None else {party: _budget(epsilon, trust) for party in patients}
    name = protocol.name if epsilon is None else f"{protocol.name}, noised"
    current = model.initial(FEATURES)
    aggregations, up, down = [], [], []
    for number, silences in enumerate(silent, 1):
        progress(name)
        result = simulate(
            task,
            {hospital.id: model.update(current, hospital) for hospital in study.hospitals},
            weights=patients if epsilon is None else None,
            dropouts=silent_rounds(protocol, silences),
            budgets=budgets,
            session=b"round %d " % number + model.fingerprint(current),
        )
        current = model.add(current, result.mean)
        for stayed in patients.keys() - {silence.hospital for silence in silences}:
            up.append(sum(result.bytes_up[stayed].values()))
            down.append(sum(result.bytes_down[stayed].values()))
        correct = model.correct(current, study.test)
        aggregations.append(Aggregation(result.survivors, dict(result.dropped), correct, result.clipped))
    return Run(
        protocol=name,
        aggregations=tuple(aggregations),
        model=current,
        difference=model.difference(current, exact),
        bytes_up=float(np.mean(up)),
        bytes_down=float(np.mean(down)),
        collusion=task.protocol.cost(task, sorted(patients)).collusion,
        epsilon=None if budgets is None else max(budget.spent for budget in budgets.values()),
    )


def _check(protocol: AggregationProtocol, settings: Settings) -> None:
    """``ConfigError`` if the protocol can't work with these clients and dropouts; it names numbers that work."""
    clients, dropouts = settings.clients, settings.dropouts
    refusal = _refusal(protocol, clients, dropouts)
    if refusal is None:
        return
    if isinstance(refusal.__cause__, ImportError):
        raise refusal
    fewer = [few for few in range(dropouts) if _refusal(protocol, clients, few) is None]
    more = [
        count
        for count in range(max(2, dropouts + 1), MOST_HOSPITALS + 1)
        if not _refusal(protocol, count, dropouts)
    ]
    works = [f"--{name} {_span(numbers)}" for name, numbers in (("dropouts", fewer), ("clients", more)) if numbers]
    if not works:
        raise refusal
    options = f"--clients {clients} --dropouts {dropouts}" if dropouts else f"--clients {clients}"
    raise ConfigError(
        f"got {options}, and {protocol.name} opens no sum over "
        f"{clients - dropouts} of {clients}; expected {', or '.join(works)}"
    )


def usual_dropouts(clients: int, protocols: Iterable[AggregationProtocol]) -> int:
    """Two of ``clients`` hospitals, or fewer if one of ``protocols`` can't lose two."""
    return next(
        (
            dropouts
            for dropouts in range(min(USUAL_DROPOUTS, clients - 1), 0, -1)
            if all(_can_run(protocol, clients, dropouts) for protocol in protocols)
        ),
        0,
    )


def _can_run(protocol: AggregationProtocol, clients: int, dropouts: int) -> bool:
    """Whether the protocol works with these numbers. True if a package is missing: that is reported later."""
    try:
        refusal = _refusal(protocol, clients, dropouts)
    except ImportError:
        return True
    return refusal is None or isinstance(refusal.__cause__, ImportError)


def _refusal(protocol: AggregationProtocol, clients: int, dropouts: int) -> ConfigError | None:
    cohort = hospital_ids(clients)
    try:
        task = make_task(protocol, clients, dropouts, max_weight=1)
        protocol.validate_cohort(task, cohort, enrol_for(task, cohort)[1])
    except ConfigError as error:
        return error
    return None


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

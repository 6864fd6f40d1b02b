"""What the command line of the demo asks for; combinations without meaning are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from secagg.demo import digits, hospitals
from secagg.demo.problems import Digits, Hospitals
from secagg.errors import ConfigError
from secagg.federated import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, ServerOptimizer
from secagg.federated.masks import Pruned, named as compression_named
from secagg.federated.robust import named as rule_named

MOST_CLIENTS = min(hospitals.MOST_HOSPITALS, digits.MOST_CLIENTS)
MOST_ROUNDS, MOST_EPOCHS = 1000, 100
USUAL_DROPOUTS = 2
LIARS = 10  # one client of so many attacks, and the rules over groups are made for as many


class Algorithm(NamedTuple):
    """The title of an algorithm, the rule of its server, and the μ of its clients."""

    title: str
    make: Callable[[], ServerOptimizer]
    proximal: float = 0.0


#: By the name on the command line. The numbers are those of docs/federated.md.
ALGORITHMS = {
    "fedavg": Algorithm("FedAvg", FedAvg),
    "fedprox": Algorithm("FedProx", FedAvg, proximal=0.1),
    "fedavgm": Algorithm("FedAvgM", partial(FedAvgM, learning_rate=0.1, momentum=0.9)),
    "fedadagrad": Algorithm("FedAdagrad", partial(FedAdagrad, learning_rate=0.1, tau=1e-3)),
    "fedadam": Algorithm("FedAdam", partial(FedAdam, learning_rate=0.03, beta1=0.9, beta2=0.99, tau=1e-3)),
    "fedyogi": Algorithm("FedYogi", partial(FedYogi, learning_rate=0.03, beta1=0.9, beta2=0.99, tau=1e-3)),
}

#: By what an attacker multiplies its update. It runs the library's own client, which clips as for everyone.
ATTACKS = {"sign-flip": -1.0, "scale": -10.0}


@dataclass(frozen=True)
class Settings:
    """How many clients train, for how many rounds, and how many fall silent in each round.

    ``seed`` decides the shards and which clients fall silent or attack; keys, masks and noise come from the
    system's generator. With ``epsilon``, one more training adds noise for that ε. All trainings of hospitals then
    scale features by public constants, because ε does not cover exact statistics of the patients. ``task`` is
    ``hospitals`` or ``digits``. ``optimizer``, ``compression`` and ``robust`` name what stands around the sum,
    ``attack`` what every tenth client does, and ``local_epochs`` how long a client trains in a round; by default
    the task says how long. ``ConfigError`` for a number out of range, an unknown name, and for settings that don't
    go together.
    """

    clients: int = 10
    rounds: int = 20
    dropouts: int = USUAL_DROPOUTS
    seed: int = 0
    epsilon: float | None = None
    task: str = Hospitals.name
    optimizer: str = "fedavg"
    compression: str | None = None
    robust: str | None = None
    local_epochs: int | None = None
    attack: str | None = None

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("clients", self.clients, 2, MOST_CLIENTS),
            ("rounds", self.rounds, 1, MOST_ROUNDS),
            ("dropouts", self.dropouts, 0, self.clients - 1),
            ("seed", self.seed, 0, None),
            ("local-epochs", self.epochs, 1, MOST_EPOCHS),
        ):
            if value < least or (most is not None and value > most):
                expected = f"{least} or more" if most is None else f"{least} to {most}"
                raise ConfigError(f"got --{name} {value}; expected {expected}")
        if self.epsilon is not None and not 0 < self.epsilon < float("inf"):
            raise ConfigError(f"got --epsilon {self.epsilon}; expected a number above 0, such as 8")
        for name, chosen, known in (
            ("task", self.task, (Hospitals.name, Digits.name)),
            ("optimizer", self.optimizer, ALGORITHMS),
            ("attack", self.attack or "scale", ATTACKS),
        ):
            if chosen not in known:
                raise ConfigError(f"got --{name} {chosen}; expected any of {', '.join(known)}")
        if self.compression is not None:
            compression_named(self.compression, 0.0, 1)  # refuses names, with the reason, before data are loaded
        if self.robust is not None:
            rule_named(self.robust)
        self._check_together()

    @property
    def epochs(self) -> int:
        """Local epochs of a client in a round."""
        usual = Digits.epochs if self.task == Digits.name else Hospitals.epochs
        return usual if self.local_epochs is None else self.local_epochs

    @property
    def liars(self) -> int:
        """How many clients an attack has, and how many groups a rule takes to hold one."""
        return max(1, self.clients // LIARS)

    @property
    def groups(self) -> int:
        """How many groups a rule over groups gets."""
        return 2 * self.liars + 1

    def _check_together(self) -> None:
        if self.robust is not None and self.epsilon is not None:
            raise ConfigError(
                f"got --robust {self.robust} and --epsilon {self.epsilon:g}: each group's sum needs the noise that "
                "would do for the sum of all clients, and groups of three or four drown in it; choose one of both"
            )
        if self.robust is not None and self.dropouts:
            raise ConfigError(
                f"got --robust {self.robust} and --dropouts {self.dropouts}: a group of three or four opens no sum "
                "without one of its clients, and the rule needs every group's; expected --dropouts 0"
            )
        if self.compression == Pruned.label and self.task == Hospitals.name:
            raise ConfigError(
                f"got --compression {self.compression} for --task {self.task}, whose first model is all zeros: no "
                f"weight is larger than another; expected --task {Digits.name}, or another compression"
            )

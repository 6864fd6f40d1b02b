"""When a round begins, over whom, and how long it may take."""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Final

from secagg._numbers import whole
from secagg.errors import ConfigError, choice, shown
from secagg.table import contribution_round
from secagg.task import Task

SLOWEST = 50_000  # bytes a second of the slowest link that a deadline allows for


@dataclass(frozen=True)
class Schedule:
    """How the service gathers the clients of a round, and how long it waits for them.

    ``ConfigError`` for a value that is out of range.
    """

    cohort: int | None = None
    goal: int | None = None
    min_ready: int | None = None
    gather: float = 60.0
    batches: str = "fixed"
    attempts: int = 2
    deadline: float = 60.0
    training: float = 600.0
    deadlines: Mapping[str, float] = field(default_factory=dict)
    grace: float = 10.0

    def __post_init__(self) -> None:
        choice("batches", self.batches, ("fixed", "random"))
        for name in ("cohort", "goal", "min_ready"):
            value = getattr(self, name)
            if value is not None and ((number := whole(value)) is None or number < 1):
                raise ConfigError(f"got {name}={shown(value)}; expected a positive integer or None")
        if whole(self.attempts) not in (1, 2):
            raise ConfigError(f"got attempts={shown(self.attempts)}; expected 1 or 2: clients send no third update")
        seconds = {"gather": self.gather, "deadline": self.deadline, "training": self.training, "grace": self.grace}
        for name, value in {**seconds, **self.deadlines}.items():
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"got {name}={shown(value)}; expected seconds above 0")

    def check(self, task: Task) -> None:
        """``ConfigError`` for what ``task`` doesn't allow."""
        known = [phase.round for phase in task.protocol.phases]
        if foreign := sorted(set(self.deadlines) - set(known)):
            raise ConfigError(
                f"got a deadline for {', '.join(map(shown, foreign))}; {task.protocol.name} has {', '.join(known)}"
            )
        size = self.size(task)
        if not task.min_survivors <= size <= task.max_clients:
            raise ConfigError(
                f"got cohort={size}; the task allows {task.min_survivors} (min_survivors) to {task.max_clients} "
                "(max_clients)"
            )
        for name, value in (("goal", self.goal), ("min_ready", self.min_ready)):
            if value is not None and not task.min_survivors <= value <= size:
                raise ConfigError(
                    f"got {name}={value}; expected {task.min_survivors} (the task's min_survivors) to {size} (the "
                    "cohort)"
                )

    def check_clients(self, task: Task, clients: int) -> None:
        """``ConfigError`` if a round could never begin with ``clients`` enrolled clients."""
        size, needed = self.size(task), max(self.min_ready or 0, task.min_survivors)
        if clients < needed:
            raise ConfigError(f"got a roster with {clients} clients; a session needs {needed}: enrol more")
        smallest = clients // -(-clients // size)
        if self.batches == "fixed" and smallest < needed:
            raise ConfigError(
                f"got {clients} enrolled clients for fixed batches of at most {size}, the smallest of which would "
                f"have {smallest}; a session needs {needed}: allow more in a session, or set batches to random"
            )

    def size(self, task: Task) -> int:
        """The most clients in a session."""
        return task.max_clients if self.cohort is None else self.cohort

    def seconds(self, task: Task, name: str) -> float:
        """How long the round ``name`` may take."""
        asked = self.training if name == contribution_round(task.protocol) else self.deadline
        cost = task.protocol.cost(task)
        traffic = cost.up.get(name, 0) + cost.down.get(name, 0)
        return float(self.deadlines.get(name, asked)) + traffic / SLOWEST

    def eligible(self, task: Task, clients: Sequence[str], number: int) -> Sequence[str]:
        """Those of the enrolled ``clients`` to which round ``number`` is offered."""
        size = self.size(task)
        if self.batches == "random" or len(clients) <= size:
            return clients
        # Sorted by a hash, so that a batch says nothing about the clients' names, and is the same after a restart.
        shuffled = sorted(clients, key=lambda one: hashlib.sha256(task.digest + one.encode()).digest())
        count = -(-len(shuffled) // size)
        return shuffled[(number - 1) % count :: count]

    def ready(self, task: Task, accepted: int, eligible: int, seconds: float) -> bool:
        """Whether a session can begin, ``seconds`` after the offer.

        ``accepted`` of the ``eligible`` clients (both numbers) have accepted the offer by then.
        """
        enough = min(self.size(task), eligible) if seconds < self.gather else self.min_ready or 0
        return accepted >= max(enough, task.min_survivors)

    def select(self, task: Task, accepted: Iterable[str]) -> list[str]:
        """The cohort: all clients in ``accepted``, or a uniform draw if they are too many."""
        ready, size = sorted(accepted), self.size(task)
        return ready if len(ready) <= size else sorted(secrets.SystemRandom().sample(ready, size))


_ABOUT: Final = {
    "cohort": "The most clients in a session; by default all that the task allows.",
    "goal": "Once so many inputs are in, the input round ends `grace` seconds later; by default it waits for "
    "everyone until its deadline. Slow clients are then left out more often, which biases the sum.",
    "min_ready": "So many clients are enough after `gather` seconds; by default the task's `min_survivors`, and "
    "never fewer.",
    "gather": "A session begins as soon as all have accepted or the cohort is full, and after so many seconds with "
    "those that have.",
    "batches": '`"fixed"` splits the enrolled clients into cohorts once, which take turns; `"random"` draws each '
    "cohort from everyone.",
    "attempts": "Sessions over one model: 1 or 2. Clients take part in no third one.",
    "deadline": "Seconds for a round of the protocol, besides the time that its bytes take at 50 kB/s.",
    "training": "The same for the round in which clients send their input, or commit to it.",
    "deadlines": "The same for single rounds, by name.",
    "grace": "Seconds that a round has at least after a restart of the service, and after its `goal`.",
}
_FIELDS = "\n".join(f"- `{name}`: {text}" for name, text in _ABOUT.items()).replace("`", "``")
Schedule.__doc__ = f"{inspect.cleandoc(Schedule.__doc__ or '')}\n\n{_FIELDS}"


def table() -> str:
    """The fields for the documentation, in Markdown."""
    rows = ["| Field | Default | What it says |", "|---|---|---|"]
    for one in fields(Schedule):
        default = one.default if one.default is not MISSING else {}
        shown_default = "" if default is None or default == {} else f"{default}"
        rows.append(f"| `{one.name}` | {shown_default} | {_ABOUT[one.name]} |")
    return "\n".join(rows) + "\n"

"""The sessions that a server opens in a run, and what it logs of their outcomes."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from secagg._numbers import real
from secagg._rounds import UPLOADS_OF_A_MODEL, session_name
from secagg.errors import Aborted, ConfigError, Fault, shown
from secagg.roles.outcome import Outcome
from secagg.task import Task

INTRODUCTION = "Introduction"  # the round in which clients say which task and roster they have

_MUCH_CLIPPED = 0.01  # the share of clipped coordinates that is a warning


class Exhausted(Aborted):
    """Clients would refuse every further session from this model."""


@dataclass
class Sessions:
    """Names the sessions of a run, each once, and counts those that requested updates from a model."""

    stack: str
    _asked: dict[bytes, int] = field(default_factory=dict)  # model's digest → sessions that requested its inputs
    _names: set[bytes] = field(default_factory=set)

    def open(self, *numbers: int, model: bytes, request: bytes) -> tuple[bytes, int]:
        """The name of a new session, and its attempt, from 1; ``numbers`` are the round, with the run before it.

        :class:`Exhausted` if clients would send no more updates from this model.
        """
        if self._asked.setdefault(model, 0) >= UPLOADS_OF_A_MODEL:
            raise Exhausted(
                f"{UPLOADS_OF_A_MODEL} sessions asked for updates from this model; clients send no more: "
                "begin a new run, or go on from another model"
            )
        attempt = 1
        while (name := session_name(self.stack, *numbers, attempt, model=model, request=request)) in self._names:
            attempt += 1
        self._names.add(name)
        return name, attempt

    def asks_for_inputs(self, model: bytes) -> None:
        """Count a session whose server now asks for inputs."""
        self._asked[model] += 1


def checked_deadlines(deadlines: object, task: Task) -> float | dict[str, float]:
    """The seconds of all rounds, or of some by name; ``ConfigError`` unless they are finite and not below 0."""
    known = [INTRODUCTION, *(str(phase.round) for phase in task.protocol.phases)]
    by_name = dict(deadlines) if isinstance(deadlines, Mapping) else {"": deadlines}
    for name, seconds in by_name.items():
        if not 0 <= real(seconds) < math.inf:
            of = f" for {name:.80}" if name else ""
            raise ConfigError(f"got deadlines={shown(seconds)}{of}; expected seconds, not below 0")
    if not isinstance(deadlines, Mapping):
        return real(deadlines)
    if foreign := [name for name in by_name if name not in known]:
        raise ConfigError(
            f"got deadlines= for {', '.join(map(shown, foreign))}; {task.protocol.name} has {', '.join(known)}"
        )
    return {str(name): real(seconds) for name, seconds in by_name.items()}


def clipping(outcome: Outcome, task: Task) -> tuple[int, str]:
    """The log level of a round's line, and a text with the share of clipped coordinates."""
    if not outcome.clipped:  # none, or not counted
        return logging.INFO, ""
    share = outcome.clipped / (len(outcome.survivors) * task.layout.size)
    text = f", {100 * share:.3g} % of their coordinates clipped"
    if share <= _MUCH_CLIPPED:
        return logging.INFO, text
    return logging.WARNING, f"{text}, so that the mean is too small: raise the encoding's clip in the task"


def agreeing(configs: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The config that most sites have, and why the other sites are left out; ``configs`` is by site.

    Of configs that are equally frequent it is the first in their order, so that a run can be repeated.
    """
    counts = Counter(configs.values())
    chosen = min(counts, key=lambda config: (-counts[config], config), default="")
    reason = (
        "another config of the job, such as a script's arguments, than most sites have; give all sites the same"
    )
    return chosen, {site: reason for site, config in configs.items() if config != chosen}


def note_faults(faults: Iterable[Fault], left_out: dict[str, str]) -> None:
    """Add to ``left_out`` whom a server's faults name, and why, unless there is a reason already."""
    for fault in faults:
        detail = f": {fault.detail}" if fault.detail else ""
        left_out.setdefault(fault.sender, f"{fault.kind} in {fault.round}{detail}")


def without(left_out: Mapping[str, str]) -> str:
    """Who is missing, party or node → why, grouped by reason, for the log.

    Parties write their refusals, so only characters that can be printed stay: no new lines, and nothing that a
    terminal obeys.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for who, why in left_out.items():
        reasons[why].append(who)
    ordered = {why: sorted(who, key=lambda name: (len(name), name)) for why, who in reasons.items()}
    text = "; ".join(f"{', '.join(who)}: {why}" for why, who in ordered.items())
    return f", without {''.join(filter(str.isprintable, text))}" if text else ""

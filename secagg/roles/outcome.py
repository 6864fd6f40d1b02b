"""What the server knows at the end of a session that was not aborted."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from secagg._reading import same
from secagg.errors import Aborted, Fault, SecAggError, blaming, words
from secagg.layout import Layout

if TYPE_CHECKING:
    from secagg.roles.context import ServerContext

log = logging.getLogger("secagg")

_NAMED = 5  # of parties in a repr
_CLIPPED = 0.01  # the share of coordinates above which the server warns


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """What the server can know at the end of a session that was not aborted.

    ``mean`` and ``sum`` have the structure of the task's layout (``sum`` is Σ wᵢxᵢ in float64). ``survivors`` are
    the clients whose input is in the sum, which ``min_survivors`` counts. ``total_weight`` is the sum of their
    weights, or their number if the task has no weights. ``dropped`` maps each party that fell silent to the round
    of its silence; a client that fell silent after its input was counted is in both. ``faults`` are what parties
    did wrong, in the order in which the server noticed it. ``clipped`` counts the clipped coordinates over all
    survivors (None under DP).

    Under DP, ``epsilon_guaranteed`` is the ε of this session if as many clients collude and fall silent as the task
    allows for, and ``epsilon_realised`` is the ε with the survivors that there were. Both are None without DP.

    Two outcomes are equal if all their fields are equal, arrays coordinate by coordinate.
    """

    mean: Any
    sum: Any
    total_weight: int
    survivors: tuple[str, ...]
    dropped: Mapping[str, str]
    faults: tuple[Fault, ...]
    clipped: int | None
    epsilon_guaranteed: float | None = None
    epsilon_realised: float | None = None

    def mean_like(self, update: Any) -> Any:
        """``mean`` in the form of ``update``: for example a model's state, for ``load_state_dict``.

        ``update`` is any update of the task's layout. The result has its containers, its kinds of array (Torch's on
        their devices) and its dtypes. Integers and bools are rounded to the nearest value of their dtype; Python's
        numbers keep their type. Raises ``ConfigError`` or ``EncodingError`` for another structure.
        """
        layout = Layout.of(update)
        return layout.restore(layout.flatten(self.mean, dtype="float64"), like=update, dtype="like")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = [field.name for field in fields(self) if field.compare]
        return all(same(getattr(self, name), getattr(other, name)) for name in compared)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'; '.join(f'{name} {text}' for name, text in self._summary())}>"

    def _repr_html_(self) -> str:
        """The text of :func:`repr` as a table, for notebooks."""
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in self._summary()
        )
        return f"<table>{rows}</table>"

    def _summary(self) -> list[tuple[str, str]]:
        """What a person wants to know first: pairs of a name and a short text."""
        lines = [
            ("sum of", f"{len(self.survivors)} clients ({_some(self.survivors)})"),
            ("total weight", f"{self.total_weight:,}"),
            ("dropped", _some([f"{party} in {name}" for party, name in self.dropped.items()]) or "nobody"),
            ("faults", str(len(self.faults))),
        ]
        if self.clipped is not None:
            with suppress(SecAggError):  # with another object in the place of the mean, this line is left out
                size = len(self.survivors) * Layout.of(self.mean).size
                lines.append(("clipped", f"{self.clipped:,} of {size:,} coordinates"))
        if self.epsilon_guaranteed is not None:
            lines.append(("epsilon", f"{self.epsilon_guaranteed:.4g}"))
        return lines


def _some(texts: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f", and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(text[:64] for text in texts[:_NAMED]) + more


def open_outcome(context: ServerContext[Any]) -> Outcome:
    """The outcome of the server's sums after the last round; ``Aborted`` if no honest inputs have such sums."""
    with blaming(Aborted, "the encoding failed on the sums; mend it, then open a new session"):
        return _open(context)


def _open(context: ServerContext[Any]) -> Outcome:
    task, state = context.task, context.state
    encoder = task.encoder_for(state.session)
    try:
        noisy = state.noise_key and encoder.server_noise
        decoded = (encoder.for_server(state.noise_key) if noisy else encoder).decode(
            context.sums, layout=task.layout, survivors=len(state.survivors), max_weight=task.max_weight
        )
    except ValueError as error:  # an EncodingError, or what another package's encoding raises
        raise Aborted(
            f"no honest inputs have this sum: {words(error)}. One client is enough for that, and nothing says "
            "which: open a new session for each half of the cohort, and go on with a half whose sum opens"
        ) from error
    coordinates = len(state.survivors) * task.layout.size
    if decoded.clipped is not None and decoded.clipped > _CLIPPED * coordinates:
        log.warning(
            "session %s: %.1f %% of all coordinates were clipped, so the mean is off by more than rounding: "
            "raise clip; FixedPoint.suggest(updates) finds one from updates in the clear",
            state.session_id.hex()[:12],
            100 * decoded.clipped / coordinates,
        )
    return Outcome(
        mean=task.layout.restore(decoded.mean),
        sum=task.layout.restore(decoded.sum, dtype="float64"),
        total_weight=decoded.total_weight,
        survivors=tuple(state.survivors),
        dropped=dict(state.dropped),
        faults=tuple(context.faults.kept),
        clipped=decoded.clipped,
        epsilon_guaranteed=decoded.epsilon_guaranteed,
        epsilon_realised=decoded.epsilon_realised,
    )

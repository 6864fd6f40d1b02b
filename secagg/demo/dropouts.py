"""Which hospitals stop answering, in which round of training and in which round of the protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secagg.protocols.base import AggregationProtocol
from secagg.table import input_round, rounds

#: Dropouts repeat this pattern. True: the hospital drops out after its input, as in two of SecAgg's five rounds.
_COUNTED = (False, False, False, True, True)


@dataclass(frozen=True)
class Silence:
    """One hospital stops answering in one round of training.

    ``counted`` says whether its input is in the sum by then. ``turn`` numbers the silences of each kind over the
    whole training, so that together they reach every round of a protocol.
    """

    hospital: str
    counted: bool
    turn: int


Plan = tuple[tuple[Silence, ...], ...]
"""The silences of each round of training. They are the same under every protocol."""


def plan(hospitals: Sequence[str], training_rounds: int, dropouts: int, rng: np.random.Generator) -> Plan:
    """Choose ``dropouts`` hospitals at random for each round of training."""
    turns, number, silences = [0, 0], 0, []
    for _ in range(training_rounds):
        chosen = []
        for position in rng.choice(len(hospitals), size=dropouts, replace=False):
            counted = _COUNTED[number % len(_COUNTED)]
            chosen.append(Silence(hospitals[position], counted, turns[counted]))
            turns[counted] += 1
            number += 1
        silences.append(tuple(chosen))
    return tuple(silences)


def absentees(silences: Sequence[Silence]) -> frozenset[str]:
    """The hospitals whose input is not in the sum."""
    return frozenset(silence.hospital for silence in silences if not silence.counted)


def silent_rounds(protocol: AggregationProtocol, silences: Sequence[Silence]) -> dict[str, str]:
    """Hospital → the round of ``protocol`` in which it falls silent.

    A hospital that is not counted falls silent in the input round or before. A counted one falls silent in a later
    round, or answers to the end if the protocol has no later round.
    """
    names = rounds(protocol)
    until = names.index(input_round(protocol)) + 1
    before, after = names[:until], names[until:]
    return {
        silence.hospital: choices[silence.turn % len(choices)]
        for silence in silences
        if (choices := after if silence.counted else before)
    }

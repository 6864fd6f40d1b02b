"""Which hospitals fall silent in which round of training, and in which round of the protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secagg.protocols.base import AggregationProtocol
from secagg.table import input_round, rounds

#: Whether each silence in turn comes after the input: the proportion of SecAgg's rounds.
_COUNTED = (False, False, False, True, True)


@dataclass(frozen=True)
class Silence:
    """One hospital stops answering: before it would send its input, or once it is ``counted``.

    ``turn`` numbers the silences of either kind over the whole training, so that they go through
    every round of a protocol.
    """

    hospital: str
    counted: bool
    turn: int


Plan = tuple[tuple[Silence, ...], ...]
"""Who falls silent, for each round of training: the same whatever protocol runs."""


def plan(hospitals: Sequence[str], training_rounds: int, dropouts: int, rng: np.random.Generator) -> Plan:
    """In every round of training ``dropouts`` hospitals, drawn at random, fall silent in turn."""
    turns, made, silences = [0, 0], 0, []
    for _ in range(training_rounds):
        chosen = []
        for position in rng.choice(len(hospitals), size=dropouts, replace=False):
            counted = _COUNTED[made % len(_COUNTED)]
            chosen.append(Silence(hospitals[position], counted, turns[counted]))
            turns[counted] += 1
            made += 1
        silences.append(tuple(chosen))
    return tuple(silences)


def left_out(silences: Sequence[Silence]) -> frozenset[str]:
    """The hospitals that are not in the sum."""
    return frozenset(silence.hospital for silence in silences if not silence.counted)


def silent_rounds(protocol: AggregationProtocol, silences: Sequence[Silence]) -> dict[str, str]:
    """Hospital → the round of ``protocol`` in which it falls silent.

    Who is not to be in the sum does so in a round up to the one that carries the input; who is in it,
    in a later one, or not at all if the protocol has none.
    """
    names = rounds(protocol)
    until = names.index(input_round(protocol)) + 1
    before, after = names[:until], names[until:]
    return {
        silence.hospital: choices[silence.turn % len(choices)]
        for silence in silences
        if (choices := after if silence.counted else before)
    }

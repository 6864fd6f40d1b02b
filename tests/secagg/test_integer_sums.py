"""What a homomorphic protocol's decryptor opens is a sum over the integers: is it as private as the encoding says?

The exact divergence, over real sums. Each coordinate of one session is a run of the mechanism of its own, with
one combination of the honest clients' noises, and counts for as much as that combination is likely. All
combinations are there, so that two sessions, with an update and with zero in its place, give the two distributions
of what is opened.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dp
import secagg
from secagg.encoding import PlainEncoding
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.testing import rng_for_tests
from tests.dp.test_audit import hockey_stick, noise
from tests.dp.test_distributed import Flat

HONEST, REACH = 3, 5
NOISES = np.array(list(product(range(-REACH, REACH + 1), repeat=HONEST)))
PROTOCOLS: list[Any] = [secagg.Paillier(bits=2048), secagg.BFV(), secagg.CKKS()]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scripted(dp.DistributedGaussian):
    """The encoding as it is, but for what the noise is drawn as."""

    noise: int = field(default=0, compare=False)

    def _noise(self, grid: Any, rng: Any) -> Integers:
        return np.array([self.noise])


CODE = Scripted(1.0, 0.9, 6, k_stddevs=5.0, delta=1e-3)
MODULUS = 1 << CODE.bits


@dataclass(frozen=True)
class Columns(PlainEncoding):
    """Each coordinate by itself: a vector is the updates of all runs, then their noises in whole steps.

    ``reduced`` is the control: terms are sent modulo 2^bits, as a sum modulo 2^bits would allow.
    """

    code: Scripted
    reduced: bool = False

    def for_task(self, **arguments: int) -> "Columns":
        return replace(self, code=self.code.for_task(**arguments))

    def check(self, *arguments: int) -> None:
        self.code.check(*arguments)

    def segments(self, layout: Any, max_weight: int | None) -> tuple[Any, ...]:
        (segment,) = self.code.segments(Flat(1), max_weight)
        return (segment._replace(length=layout.size // 2),)

    def encode(self, vector: Any, *, layout: Any, weight: Any, max_weight: Any, rng: Any) -> list[Any]:
        updates, noise = vector.reshape(2, -1)
        sent = np.concatenate(
            [
                replace(self.code, noise=int(e)).encode(
                    np.array([x]), layout=Flat(1), weight=weight, max_weight=max_weight, rng=rounding_up(self.code)
                )[0]
                for x, e in zip(updates, noise, strict=True)
            ]
        )
        return [(sent + MODULUS // 2) % MODULUS if self.reduced else sent]

    def decode(self, sums: Sequence[Any], *, layout: Any, survivors: int, max_weight: Any) -> Any:
        """The sums as the server has them."""
        padded = np.append(sums[0], np.zeros(layout.size // 2))
        return secagg.encoding.Decoded(padded, padded, survivors, None)


def largest(code: Any) -> int:
    grid = code.grid(1)
    return min(int(grid.squares**0.5), grid.limit)


@lru_cache
def rounding_up(code: Any) -> Callable[[int], bytes]:
    """Keys under which an update of the whole clip is rounded to the largest integer that the norm allows."""
    for seed in range(100):
        key = rng_for_tests(b"%d" % seed)(32)
        sent, none = (
            replace(code, noise=0).encode(
                np.array([x]), layout=Flat(1), weight=None, max_weight=None, rng=lambda _, key=key: key
            )
            for x in (1.0, 0.0)
        )
        moved = int(sent[0][0]) - int(none[0][0])
        if largest(code) in (moved % MODULUS, -moved % MODULUS):
            return lambda _: key
    raise AssertionError("no rounding of the whole clip reaches the largest integer")


def make_task(protocol: Any, reduced: bool) -> secagg.Task:
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(2 * len(NOISES))),
        encoding=Columns(CODE, reduced),  # type: ignore[arg-type]
        max_clients=HONEST + 1,
        min_survivors=HONEST + 1,
    )


def reducing_split(self: Digits, encoded: Sequence[Any]) -> Integers:
    """The control in a protocol: it writes terms around zero, and reduces them as the segment's modulus allows."""
    return (SPLIT(self, encoded) - MODULUS // 2) % MODULUS


SPLIT = Digits.split


def play(protocol: Any, by: str, update: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Integers, Integers]:
    """One session: what the decryptor opens, where there is one, and what the server gets.

    The victim has ``update``; ``by`` says who reduces the terms: the "encoding", the "protocol" or "nobody".
    """
    opened: list[Any] = []
    task = make_task(protocol, by == "encoding")
    if by == "protocol":
        monkeypatch.setattr(Digits, "split", reducing_split)
    vectors = {f"c{at}": np.append(np.zeros(len(NOISES)), NOISES[:, at].astype(float)) for at in range(HONEST)}
    vectors["c0"][: len(NOISES)] = update
    vectors["colluder"] = np.zeros(2 * len(NOISES))
    if isinstance(protocol, Encrypted):
        join = Digits.join

        def watched(digits: Digits, sums: Integers, count: int) -> Any:
            opened.append(sums)
            return join(digits, sums, count)

        monkeypatch.setattr(Digits, "join", watched)
    outcome = secagg.simulate(task, vectors)
    monkeypatch.undo()
    assert len(outcome.survivors) == HONEST + 1
    got = np.asarray(outcome.sum[: len(NOISES)]).astype(np.int64)
    return (np.array(opened[0], np.int64) if opened else got), got


def delta_of(with_it: Integers, without: Integers, epsilon: float) -> float:
    """The δ that ε needs for two lists of what was seen, run by run; what the runs leave out counts in full."""
    one = noise(dp.DistributedGaussian, CODE_SIGMA)
    likely = np.prod(one[NOISES + len(one) // 2], axis=1)
    seen: tuple[defaultdict[int, float], defaultdict[int, float]] = (defaultdict(float), defaultdict(float))
    for weights, values in zip(seen, (with_it, without), strict=True):
        for value, weight in zip(values.tolist(), likely.tolist(), strict=True):
            weights[value] += weight
    values = sorted(set(seen[0]) | set(seen[1]))
    p, q = (np.array([weights[value] for value in values]) for weights in seen)
    return hockey_stick(p, q, epsilon) + 1 - float(likely.sum())


BOUND: Any = make_task(secagg.BFV(), False).encoder.code  # type: ignore[attr-defined]
EPSILON, CODE_SIGMA = BOUND.epsilon(1), BOUND.grid(1).sigma


def test_the_runs_leave_next_to_nothing_out() -> None:
    assert (BOUND.clients, BOUND.honest, BOUND.corrupt) == (HONEST + 1, HONEST, 1)
    everything = np.arange(len(NOISES))
    assert 0 <= delta_of(everything, everything, EPSILON) < 1e-6 * CODE.delta


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_what_the_decryptor_opens_is_within_the_claim(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen, _), (other, _) = (play(protocol, "nobody", update, monkeypatch) for update in (1.0, 0.0))
    assert seen.max() > MODULUS, "it is a sum over the integers"
    assert 0.01 * CODE.delta < delta_of(seen, other, EPSILON) <= CODE.delta
    assert set(np.abs(seen - other)) == {largest(BOUND)}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("by", ["encoding", "protocol"])
def test_control_terms_reduced_before_a_sum_over_the_integers(
    protocol: Any, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decryptor also sees how many terms were negative; of the sum reduced again the server sees no more."""
    seen, other = (play(protocol, by, update, monkeypatch) for update in (1.0, 0.0))
    assert delta_of(seen[0], other[0], EPSILON) > 5 * CODE.delta
    assert delta_of(seen[1], other[1], EPSILON) <= CODE.delta


@pytest.mark.parametrize("by", ["nobody", "encoding"])
def test_where_sums_are_modular_it_is_all_the_same(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = secagg.SecAgg(threat_model="semi-honest", corruption=0.1)
    (_, seen), (_, other) = (play(protocol, by, update, monkeypatch) for update in (1.0, 0.0))
    assert 0.01 * CODE.delta < delta_of(seen, other, EPSILON) <= CODE.delta


def test_no_reduction_changes_a_term_that_is_sent() -> None:
    """So that a protocol that takes the modulus at its word can do no harm."""
    (segment,) = make_task(secagg.BFV(), False).segments
    assert segment.bound < (segment.modulus or 0) == MODULUS

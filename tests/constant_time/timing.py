"""A statistical test of the time that each case takes (O. Reparaz, J. Balasch, I. Verbauwhede, *Dude, is my code
constant time?*, 2017).

``python -m tests.constant_time.timing PATTERN`` prints one line of JSON for each case. A case is measured many
times, in random order with fixed secrets (zeros) and with random ones. Welch's t says how far the two means
are apart. Measurements above a percentile are cropped, for several percentiles, because interrupts hide a small
difference; the largest |t| counts. A case whose |t| is above :data:`SUSPICIOUS` is measured again, and its
smallest |t| counts: what one noisy moment shows is no property of the code.
"""

import gc
import json
import sys
from collections.abc import Iterator
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.constant_time.case import Case
from tests.constant_time.memory import cases

SUSPICIOUS, LEAK = 4.5, 10.0
_PERCENTILES = (50, 75, 90, 97, 100)
_POOL, _REPEATS = 8, 3
_SECONDS, _FEWEST, _MOST = 0.4, 400, 20_000

Times = NDArray[np.float64]


def welch(times: Times, classes: NDArray[np.bool_]) -> float:
    """Welch's t of the times of two classes, the one that is largest in size over all crops."""
    largest = 0.0
    for percentile in _PERCENTILES:
        kept = times <= np.percentile(times, percentile)
        a, b = times[kept & classes], times[kept & ~classes]
        if min(a.size, b.size) < 10:
            continue
        error = np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
        t = (a.mean() - b.mean()) / error if error else 0.0
        largest = t if abs(t) > abs(largest) else largest
    return float(largest)


def _octets(part: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array, in the same memory."""
    return part.reshape(-1).view(np.uint8)


def measure(case: Case, seed: int) -> tuple[float, int]:
    """The t of one series of measurements, and how many there were."""
    rng = np.random.default_rng(seed)
    live, drawn = [_octets(part) for part in case.secrets()], []
    for _ in range(_POOL):
        case.fill(rng)
        drawn.append([octets.copy() for octets in live])
    began = perf_counter()
    times, classes = [], []
    while len(times) < _MOST and (len(times) < _FEWEST or perf_counter() - began < _SECONDS):
        for random in rng.integers(0, 2, 100).astype(bool).tolist():
            case.clear()
            # Both classes read and write the same memory before the call: it is in the same caches.
            factor = np.uint8(random)
            for octets, content in zip(live, drawn[len(times) % _POOL], strict=True):
                np.multiply(content, factor, out=octets)
            start = perf_counter_ns()
            case.run()
            times.append(perf_counter_ns() - start)
            classes.append(random)
    warm = len(times) // 10
    return welch(np.array(times[warm:], np.float64), np.array(classes[warm:])), len(times)


def results(pattern: str) -> Iterator[dict[str, Any]]:
    """The t of each case, and the number of measurements in a series."""
    gc.disable()
    for case in cases(pattern):
        case.fill(np.random.default_rng(1))
        case.run()  # compiled
        t, count = measure(case, 0)
        for seed in range(1, _REPEATS):
            if abs(t) <= SUSPICIOUS:
                break
            again, _ = measure(case, seed)
            if again * t < 0:
                again = 0.0  # the other class was slower this time
            t = min(t, again, key=abs)
        yield {"kernel": case.kernel, "case": case.name, "t": round(t, 2), "measurements": count}


if __name__ == "__main__":
    for result in results(sys.argv[1]):
        print(json.dumps(result), flush=True)

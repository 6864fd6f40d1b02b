"""The first session of a process: ``python -m bench.first_session PROTOCOL`` prints its seconds as JSON.

It imports nothing but the library, so that all that is loaded and compiled is what the library needs.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

GAUSSIAN = "DistributedGaussian"  # SecAgg with this encoding
CLIENTS, COORDINATES = 10, 1000


def main(arguments: Sequence[str]) -> None:
    """Import the library and play one session: seconds of the processor of both, and the number of compilations."""
    (what,) = arguments
    began = time.process_time()
    import secagg

    imported = time.process_time() - began
    task, updates = _task(secagg, what)
    began = time.process_time()
    result = secagg.simulate(task, updates)
    took = time.process_time() - began
    if len(result.survivors) != CLIENTS:
        raise SystemExit(f"{what}: the sum is of {len(result.survivors)} clients; expected {CLIENTS}")
    figures = {"import_cpu_seconds": imported, "session_cpu_seconds": took, "compiled": compilations()}
    print(json.dumps(figures))


def compilations() -> int:
    """How often Numba has compiled a function for some types in this process, and not loaded it from a cache."""
    if "numba" not in sys.modules:
        return 0
    from numba.core.dispatcher import Dispatcher

    dispatchers = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
    return sum(sum(one.stats.cache_misses.values()) for one in dispatchers)


def _task(secagg: Any, what: str) -> tuple[Any, Any]:
    """The task of a session, and its updates, which are lists of floats."""
    protocol = getattr(secagg, "SecAgg" if what == GAUSSIAN else what)()
    encoding = secagg.FixedPoint(clip=1.0, bits=16)
    if what == GAUSSIAN:
        import dp

        encoding = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.0, bits=20)
    updates = [[((client + place) % 9 - 4) / 200 for place in range(COORDINATES)] for client in range(CLIENTS)]
    task = secagg.Task(protocol, secagg.Layout.of([0.0] * COORDINATES), encoding, CLIENTS, CLIENTS - 1)
    return task, updates


if __name__ == "__main__":
    main(sys.argv[1:])

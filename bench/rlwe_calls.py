"""What ``bench ring`` calls of ``he``: encryption, folding and opening, by CKKS and BFV.

The commands import this module. Another checkout runs this file as a script, with its own ``he``: it gets a line of
scheme, work and times, and answers with seconds. So it imports nothing of this package.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

BOUND, CLIENTS, VALUES = 65534, 256, 100_000
ENCRYPT, FOLD, OPEN = "encrypt", "fold", "open"
#: Name → the module of the scheme, and whether it is seeded.
SCHEMES = {
    "BFV, public key": ("he.bfv", False),
    "BFV, seeded": ("he.bfv", True),
    "CKKS, public key": ("he.ckks", False),
    "CKKS, seeded": ("he.ckks", True),
}

Work = tuple[Callable[..., Any], Callable[[], Any] | None]  # the timed call, and what makes its argument


def calls(name: str, keywords: Mapping[str, str]) -> tuple[dict[str, Work], int, float]:
    """The work of one scheme, the ciphertexts that it is done on, and the bytes of a value.

    ``keywords`` choose the engine. ``ArithmeticError`` if a vector does not come back.
    """
    module, seeded = SCHEMES[name]
    scheme = importlib.import_module(module).Scheme(BOUND, CLIENTS, seeded, **keywords)
    key = scheme.generate()
    values = np.random.default_rng(0).integers(0, BOUND, VALUES, endpoint=True)
    data = key.encrypt(values)
    adder = scheme.adder(VALUES, key.public)
    adder.fold(data)
    total = adder.total()
    if not (key.open(total, VALUES, 1) == values).all():
        raise ArithmeticError(f"{name} {' '.join(keywords.values())} opened other values than it encrypted")

    def running() -> Any:
        adder._seen.clear()  # otherwise it refuses the same vector the second time
        return adder

    works: dict[str, Work] = {
        ENCRYPT: (lambda: key.encrypt(values), None),
        FOLD: (lambda into: into.fold(data), running),
        OPEN: (lambda: key.open(total, VALUES, 1), None),
    }
    return works, -(-VALUES // scheme.slots), len(data) / VALUES


def seconds(work: Work, times: int) -> float:
    """Seconds of the processor that one call takes, the average over ``times``, after an untimed one.

    The untimed call finds the caches and the allocator as another side has left them, the others as their own side
    has. Seconds of the processor leave out what other processes do on the same core in between.
    """
    run, setup = work
    run(*(() if setup is None else (setup(),)))
    if setup is None:
        began = time.process_time()
        for _ in range(times):
            run()
        return (time.process_time() - began) / times
    took = 0.0
    for _ in range(times):
        prepared = setup()
        began = time.process_time()
        run(prepared)
        took += time.process_time() - began
    return took / times


def main() -> None:
    """Print where ``he`` is. Then answer each line of stdin: seconds of a work, or the sizes of a scheme."""
    print(json.dumps(importlib.import_module("he").__file__), flush=True)
    made: dict[str, dict[str, Work]] = {}
    for line in sys.stdin:
        name, work, times = json.loads(line)
        if work is None:
            made[name], ciphertexts, each = calls(name, {})
            answer: Any = [ciphertexts, each]
        else:
            answer = seconds(made[name][work], times)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

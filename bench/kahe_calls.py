"""What ``bench ring`` calls of :mod:`he.kahe`: encryption, folding and opening, and a copy of as many bytes."""

import numpy as np

from bench.bounds import Bound
from bench.rlwe_calls import ENCRYPT, FOLD, OPEN, Work

NAME, COPY = "one-time keys", "memory copy"
BOUND, CLIENTS, VALUES = 65534, 100, 1_000_000
KEY_BYTES = 28
"""What a coefficient of a key costs, in shares for seven parties."""

LEAST_RATE, LEAST_RATE_WITHOUT_IFMA = 40.0, 25.0
"""Millions of values that a core is held to encrypt in a second."""

MOST_OPENING = 3.0
"""How many times as long as an encryption an opening may take. The number of clients does not change it."""


def calls() -> tuple[dict[str, Work], float]:
    """The work, encryption first, and the bytes of a value. ``ArithmeticError`` if a sum is wrong."""
    from he import kahe

    scheme = kahe.Scheme(((VALUES, BOUND),), CLIENTS, KEY_BYTES)
    values = np.random.default_rng(0).integers(0, BOUND, VALUES, dtype=np.uint16, endpoint=True)
    secret, public = bytes(32), bytes(range(32))
    upload, adder = scheme.encrypt([values], secret, public), scheme.adder()
    for _ in range(2):
        adder.fold(upload)
    total, keys = adder.total(), 2 * scheme.key(secret, public).astype(np.int64)
    if not (scheme.open(total, keys, 2, public)[0] == 2 * values.astype(np.int64)).all():
        raise ArithmeticError("he.kahe opened another sum than it encrypted")
    running, empty = scheme.adder(), scheme.adder().to_bytes()
    octets, copy = np.frombuffer(upload, np.uint8), np.empty(len(upload), np.uint8)
    works: dict[str, Work] = {
        ENCRYPT: (lambda: scheme.encrypt([values], secret, public), None),
        FOLD: (lambda into: into.fold(upload), lambda: running if running.count < CLIENTS else restart(empty)),
        OPEN: (lambda: scheme.open(total, keys, 2, public), None),
        COPY: (lambda: np.copyto(copy, octets), None),
    }

    def restart(state: bytes) -> kahe.Adder:
        nonlocal running
        running = scheme.load_adder(state)
        return running

    return works, len(upload) / VALUES


def bounds(values_a_second: float, opening: float, ifma: bool) -> list[Bound]:
    """What encryption and opening are held to; ``opening`` is in encryptions."""
    least = LEAST_RATE if ifma else LEAST_RATE_WITHOUT_IFMA
    return [
        Bound(f"{NAME}: million values encrypted in a second", 1e-6 * values_a_second, least=least),
        Bound(f"{NAME}: {OPEN}, in encryptions", opening, most=MOST_OPENING),
    ]

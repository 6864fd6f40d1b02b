"""A process that plays first sessions, and says which kernels it compiled: ``python -m tests.first_session``.

Its argument is JSON. ``sessions`` are pairs of a protocol's name and an encoding's name. With ``user``, the
process gives up the superuser's rights before it imports this library; ``before`` are the modules that it
imports while it has them, because an interpreter may lie where other users can't read.
"""

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any

CLIENTS, COORDINATES = 10, 1000


def main(before: list[str], sessions: list[tuple[str, str]], user: int | None = None) -> None:
    """Play the sessions, and print what was compiled and which modules of others are there."""
    for name in before:
        with suppress(ImportError):
            importlib.import_module(name)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    from secagg import warming

    with warming.Recorder() as recorder:
        for protocol, encoding in sessions:
            play(protocol, encoding)
    others = [name for name in sys.modules if name.partition(".")[0] not in ("secagg", "he", "mpc", "dp", "tests")]
    compiled = [kernel.name for kernel in recorder.kernels]
    print(json.dumps({"compiled": compiled, "folders": warming.folders(), "modules": others}))


def play(protocol: str, encoding: str) -> None:
    """Play one session of other clients and coordinates than ``secagg warm`` plays, and check its mean."""
    import numpy as np

    import secagg
    from secagg.protocols import chosen

    weights = range(1, CLIENTS + 1) if encoding == "weights" else None
    update = np.full(COORDINATES, 0.25, np.float64 if encoding in ("weights", "nearest") else np.float32)
    task = secagg.Task(
        protocol=chosen([protocol])[protocol],
        layout=secagg.Layout.of(update),
        encoding=encodings()[encoding],
        max_clients=CLIENTS,
        min_survivors=CLIENTS - 2,
        max_weight=None if weights is None else CLIENTS,
        context=b"first session",
    )
    outcome = secagg.simulate(task, [update] * CLIENTS, weights=weights)
    noise = 0.0 if encoding in ("plain", "nearest", "weights") else 0.5
    assert abs(float(np.mean(outcome.mean)) - 0.25) < 1e-3 + noise


def encodings() -> dict[str, Any]:
    """The encodings of this library, by the names that ``sessions`` has for them."""
    import dp
    import secagg

    return {
        "plain": secagg.FixedPoint(clip=1.0, bits=16),
        "weights": secagg.FixedPoint(clip=1.0, bits=20),
        "nearest": secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        "gaussian": dp.DistributedGaussian(l2_clip=8.0, noise_multiplier=0.1, bits=18),
        "skellam": dp.DistributedSkellam(l2_clip=8.0, noise_multiplier=0.1, bits=18),
        "central": dp.CentralGaussian(l2_clip=8.0, noise_multiplier=0.1),
    }


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

"""What the noise of differential privacy adds to a session: core-seconds for each coordinate of a vector."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from dp import CentralGaussian, DistributedGaussian
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout

_COORDINATES = 1 << 19  # a power of two, which a rotation does not pad
_BITS = 20
_TIMES = 5
_ENCODINGS: Mapping[str, Any] = {
    "none": FixedPoint(1.0, _BITS),
    "central": CentralGaussian(1.0, 1.0, _BITS),
    "distributed": DistributedGaussian(1.0, 1.0, _BITS, clients=100, honest=70, corrupt=10),
}


def noise_seconds() -> dict[str, dict[str, float]]:
    """By kind of noise and role, seconds a coordinate that the noise adds: a client encodes, the server decodes.

    They are measured at 20 bits and a noise multiplier of 1, on which they depend little.
    """
    vector = np.random.default_rng(0).standard_normal(_COORDINATES, np.float32)
    measured = {kind: _seconds(encoding, vector) for kind, encoding in _ENCODINGS.items()}
    plain = measured.pop("none")
    return {
        kind: {role: max(0.0, each - plain[role]) for role, each in roles.items()}
        for kind, roles in measured.items()
    }


def _seconds(encoding: Any, vector: Any) -> dict[str, float]:
    """Seconds a coordinate of one encoding, and of decoding one client's vector as if it were the sum."""
    layout = Layout.of(vector)
    server = encoding.for_server(bytes(32)) if encoding.server_noise else encoding

    def encode() -> Any:
        return encoding.encode(vector, layout=layout, weight=None, max_weight=None, rng=os.urandom)

    sums = encode()
    return {
        "client": _each(encode),
        "server": _each(lambda: server.decode(sums, layout=layout, survivors=1, max_weight=None)),
    }


def _each(call: Callable[[], object]) -> float:
    """Core-seconds of a call for each coordinate. The first call compiles, and is not counted."""
    call()
    seconds = []
    for _ in range(_TIMES):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return median(seconds) / _COORDINATES

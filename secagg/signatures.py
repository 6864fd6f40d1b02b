"""Signatures of many parties under one message, which the server relays without the message.

Each receiver has signed the same message itself. So it knows all that the others signed but their signatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from secagg.wire import signature_holds
from secagg.workers import run_all, threads

Signed = tuple[bytes, bytes, bytes]  # an Ed25519 public key, its signature, and the digest of the envelope under it

_IN_TASK = 32  # some milliseconds; fewer are checked before a second thread has started


def first_invalid(signed: Sequence[Signed], executor: Executor | None) -> int | None:
    """The place of the first signature that does not hold; None if all do.

    Many are checked on ``executor``, by default threads of this process. The result is the same however they are
    split.
    """
    if len(signed) < 2 * _IN_TASK:
        return first_invalid_here(signed)
    parts = [(signed[at : at + _IN_TASK],) for at in range(0, len(signed), _IN_TASK)]
    for number, place in enumerate(run_all(executor or threads(), first_invalid_here, parts)):
        if place is not None:
            return number * _IN_TASK + place
    return None


def first_invalid_here(signed: Sequence[Signed]) -> int | None:
    """The same, in the calling thread."""
    return next((place for place, one in enumerate(signed) if not signature_holds(*one)), None)

"""What the server computes from revealed shares: secrets, and from them the keys of masks.

A worker of the server's executor can run these functions: their arguments and results are plain bytes and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import chain, islice, starmap
from typing import Any, TypeVar

from mpc import keys, shamir
from mpc.errors import MPCError
from secagg.protocols.pairwise.messages import mask_info
from secagg.workers import run_all

T = TypeVar("T")

_CALLS_IN_TASK = 8  # a call takes from 0.1 to a few milliseconds


def rebuild(points: Sequence[int], shares: Sequence[bytes]) -> bytes | None:
    """The secret (32 bytes) that as many shares as the threshold rebuild; None if they rebuild no such secret."""
    try:
        return shamir.reconstruct(points, shares)
    except MPCError:
        return None


def masks_of_gone(session: bytes, gone: str, private: bytes, near: Mapping[str, bytes]) -> list[tuple[bytes, int]]:
    """The keys of the masks that a client without an input shares with survivors, as :func:`mask_all` takes them.

    ``private`` is the masking key of the client ``gone``, rebuilt, and ``near`` are the public masking keys of its
    neighbours that survived. The signs take the masks off the sum of the survivors' inputs.
    """
    masks, own = [], keys.PrivateKey(private)
    for client, public in near.items():
        key = keys.derive(own.exchange(public), salt=session, info=mask_info(gone, client))
        masks.append((key, -1 if client < gone else 1))
    return masks


def spread(executor: Executor | None, function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterable[T]:
    """The results of ``function(*call)`` for each of ``calls``, in their order, computed on ``executor``.

    Without one, the results are computed as they are read, in the calling thread: these functions hold the
    interpreter's lock, so threads would not be faster.
    """
    if executor is None:
        return starmap(function, calls)
    remaining = iter(calls)
    batches: Iterator[list[tuple[Any, ...]]] = iter(lambda: list(islice(remaining, _CALLS_IN_TASK)), [])
    return chain.from_iterable(run_all(executor, _results, ((function, batch) for batch in batches)))


def _results(function: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
    return list(starmap(function, calls))

"""Threads for heavy work, where the caller passes no executor, and calls that an executor and its caller share."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of this process: one pool for all roles, as many threads as processors."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="secagg-masks")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but none of its threads: a task submitted there would wait forever.
    os.register_at_fork(after_in_child=threads.cache_clear)


def run_all(executor: Executor, function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> list[T]:
    """The results of ``function(*call)`` for each of ``calls``, in their order; see :func:`he._workers.run_all`.

    An exception of a call or of the executor is raised, and what no worker has begun is cancelled.
    """
    todo = [(call, executor.submit(function, *call)) for call in calls]
    try:
        own = {place: function(*call) for place, (call, task) in reversed(list(enumerate(todo))) if task.cancel()}
        return [own[place] if place in own else task.result() for place, (_, task) in enumerate(todo)]
    finally:
        for _, task in todo:
            task.cancel()

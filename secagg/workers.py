"""Threads for heavy work, where the caller passes no executor, and calls that an executor and its caller share."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class _Threads(ThreadPoolExecutor):
    """Threads that leave a task to its caller where there are none.

    Python starts no more threads for a pool when the main thread has ended, while other threads may still run a
    role. A system may be out of threads too. The tasks depend on their arguments alone, so one may run twice.
    """

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """The task, which is done already if no thread can be had for it."""
        try:
            return super().submit(function, *arguments, **named)
        except RuntimeError:
            done: Future[Any] = Future()
            try:
                done.set_result(function(*arguments, **named))
            except Exception as error:  # the caller asks for the result, and gets it there
                done.set_exception(error)
            return done


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of this process: one pool for all roles, as many threads as processors."""
    return _Threads(os.cpu_count(), thread_name_prefix="secagg-masks")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but none of its threads: a task submitted there would wait forever.
    os.register_at_fork(after_in_child=threads.cache_clear)


def run_all(executor: Executor, function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> list[T]:
    """The results of ``function(*call)`` for each of ``calls``, in their order; see :func:`he._workers.run_all`.

    An exception of a call or of the executor is raised, and what no worker has begun is cancelled.
    """
    todo: list[tuple[tuple[object, ...], Future[T]]] = []
    try:
        todo.extend((call, executor.submit(function, *call)) for call in calls)  # keeps those before an exception
        own = {place: function(*call) for place, (call, task) in reversed(list(enumerate(todo))) if task.cancel()}
        return [own[place] if place in own else task.result() for place, (_, task) in enumerate(todo)]
    finally:
        for _, task in todo:
            task.cancel()

"""Work for an executor. The caller does the calls that no worker has begun."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")


def run_all(executor: Executor, function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> list[T]:
    """The results of ``function(*call)`` for each of ``calls``, in their order.

    The caller may itself be a worker of ``executor``, and the only one that is free. So it never waits
    for a call that no worker has begun: it cancels such a call and runs it itself. It begins with the
    last call, because workers begin with the first.

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

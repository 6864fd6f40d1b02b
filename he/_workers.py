"""Work for an executor. The caller does the calls that no worker has begun."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


def run_all(executor: Executor, function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> list[T]:
    """The results of ``function(*call)`` for each of ``calls``, in their order.

    The caller may itself be a worker of ``executor``, and the only one that is free. So it never waits
    for a call that no worker has begun: it cancels such a call and runs it itself. It begins with the
    last call, because workers begin with the first.
    """
    todo = [(call, executor.submit(function, *call)) for call in calls]
    own = {place: function(*call) for place, (call, task) in reversed(list(enumerate(todo))) if task.cancel()}
    return [own[place] if place in own else task.result() for place, (_, task) in enumerate(todo)]

"""Work that is handed to an executor, and done here where no worker has begun it."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


def run_all(executor: Executor, function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> list[T]:
    """``function(*call)`` of each of ``calls``, in their order.

    The caller may itself be a worker of ``executor``, and the only one that is free. So it waits for nothing that
    has not been begun: it takes that back and does it. The last ones first, since workers begin with the first.
    """
    todo = [(call, executor.submit(function, *call)) for call in calls]
    own = {place: function(*call) for place, (call, task) in reversed(list(enumerate(todo))) if task.cancel()}
    return [own[place] if place in own else task.result() for place, (_, task) in enumerate(todo)]

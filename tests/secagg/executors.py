"""Executors that do their work at once in this thread, each with one peculiarity."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor, Future
from typing import Any


class Counting(Executor):
    """Runs a task as it comes, and counts."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.tasks += 1
        done: Future[Any] = Future()
        done.set_result(function(*arguments, **named))
        return done


class Elsewhere(Counting):
    """Runs a task on copies, as a process that shares no memory does."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.tasks += 1
        done: Future[Any] = Future()
        function, arguments, named = pickle.loads(pickle.dumps((function, arguments, named)))
        done.set_result(pickle.loads(pickle.dumps(function(*arguments, **named))))
        return done


class LosesAWorker(Counting):
    """Runs a task as it comes, but for one, which is lost with its worker."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        if self.tasks + 1 == self.lost:
            self.tasks += 1
            done: Future[Any] = Future()
            done.set_exception(RuntimeError("worker lost"))
            return done
        return super().submit(function, *arguments, **named)

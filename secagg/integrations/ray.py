"""Ray as an executor: ``RayExecutor()`` runs the heavy work of roles as tasks of a Ray cluster.

``docs/executors.md`` says what the workers learn, and what happens if one of them is lost.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from secagg.errors import ConfigError

try:
    import ray
    from ray import cloudpickle
except ImportError as error:
    raise ConfigError(
        f"the package {error.name}, which this module needs, is not installed: "
        "pip install 'secagg[ray]', or pip install ray"
    ) from error

__all__ = ["RayExecutor"]


class RayExecutor(Executor):
    """Runs calls as tasks of the Ray cluster that ``ray.init(address=...)`` has joined.

    ``options`` are those of Ray's tasks, such as ``num_cpus``, ``max_retries`` or ``runtime_env``. By default a
    task takes one processor, and Ray tries it again, up to three times, if its worker dies. Workers must be able to
    import this library. ``ConfigError`` before ``ray.init``.
    """

    def __init__(self, **options: Any) -> None:
        if not ray.is_initialized():
            raise ConfigError("got RayExecutor() before ray.init(address=...); join the cluster first")
        self._task = ray.remote(_call).options(**options) if options else ray.remote(_call)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """The future of ``function(*arguments, **named)``; cancelling it cancels Ray's task."""
        result = self._task.remote(cloudpickle.dumps((function, arguments, named)))
        future: Future[Any] = result.future()
        future.add_done_callback(lambda done: ray.cancel(result) if done.cancelled() else None)
        return future


def _call(packed: bytes) -> Any:
    # Ray shares the memory of arrays, so that they are read-only. Packed, they are the worker's own.
    function, arguments, named = cloudpickle.loads(packed)
    return function(*arguments, **named)

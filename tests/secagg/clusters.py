"""Real clusters for the tests: Dask's scheduler and workers over TLS, and Ray's processes, all on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from secagg.errors import ConfigError

WORKERS = 3
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/executors.md").read_text(encoding="utf-8")


def block(kind: str, begins: str) -> str:
    """The code in ``docs/executors.md`` that has such a line."""
    (found,) = [one for one in re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, re.DOTALL) if begins in one]
    return found


def write_certificate(folder: Path, *addresses: str) -> tuple[str, str]:
    """The paths of a cluster's certificate and its key, by the command in the document."""
    command = block("bash", "openssl").replace("IP:10.0.0.1,IP:10.0.0.2", ",".join(f"IP:{a}" for a in addresses))
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True, timeout=60)
    return str(folder / "cluster.crt"), str(folder / "cluster.key")


class Cluster(Protocol):
    """A cluster that this process has joined."""

    def executor(self) -> Executor:
        """One that gives calls to the workers."""

    def shards(self, names: dict[str, Any]) -> str:
        """The document's code that gives messages to shards; what it takes from its user is put into ``names``."""

    def call(self, shard: Any, method: str, seconds: float = 60) -> Any:
        """What a shard's method returns within so many ``seconds``."""


class Dask:
    def __init__(self, client: Any, executor: Executor) -> None:
        self.client, self._executor = client, executor

    def executor(self) -> Executor:
        return self._executor

    def shards(self, names: dict[str, Any]) -> str:
        self.client.wait_for_workers(WORKERS, timeout=60)  # killed ones are started again
        workers = list(self.client.scheduler_info(n_workers=-1)["workers"])
        names.update(client=self.client, workers=workers[:WORKERS])
        return block("python", "actor=True")

    def call(self, shard: Any, method: str, seconds: float = 60) -> Any:
        return getattr(shard, method)().result(timeout=seconds)


class Ray:
    def executor(self) -> Executor:
        joined = re.sub(r"ray\.init\(.*\)\n", "", block("python", "import RayExecutor"))
        names: dict[str, Any] = {}
        exec(joined, names)
        executor: Executor = names["executor"]
        return executor

    def shards(self, names: dict[str, Any]) -> str:
        return block("python", "ray.remote(Shard)")

    def call(self, shard: Any, method: str, seconds: float = 60) -> Any:
        import ray

        return ray.get(getattr(shard, method).remote(), timeout=seconds)


@contextmanager
def dask_over_tls(folder: Path) -> Iterator[Dask]:
    """A scheduler and three workers, each a process, which speak TLS alone and show certificates to each other."""
    from dask import config

    certificate, key = write_certificate(folder, "127.0.0.1")
    where, log = folder / "scheduler.json", folder / "log"
    common = [
        "--scheduler-file",
        str(where),
        "--tls-ca-file",
        certificate,
        "--tls-cert",
        certificate,
        "--tls-key",
        key,
    ]
    common += ["--host", "127.0.0.1", "--protocol", "tls", "--no-dashboard"]
    common += ["--dashboard-address", "127.0.0.1:0"]
    apart = ["--nworkers", str(WORKERS), "--nthreads", "1", "--local-directory", str(folder)]
    commands = [["dask_scheduler", "--port", "0"], ["dask_worker", *apart]]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",  # a task that ends two workers is given up
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    }
    with log.open("wb") as out, processes() as started:
        for module, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *options, *common]
            started.append(
                subprocess.Popen(
                    command, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
                )
            )
        wait_for(where.exists, 60)
        address = json.loads(where.read_text())["address"]
        assert address.startswith("tls://")
        joins = block("python", "from distributed import Client").replace("tls://10.0.0.1:8786", address)
        names: dict[str, Any] = {}
        exec(joins.replace('"cluster.', f'"{folder}/cluster.'), names)
        # A shard whose worker is dead is looked for so long.
        with names["client"] as client, config.set({"distributed.comm.timeouts.connect": "5s"}):
            client.wait_for_workers(WORKERS, timeout=60)
            yield Dask(client, names["executor"])


@contextmanager
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ends what was started, with all that it started."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@contextmanager
def ray_of_processes(folder: Path) -> Iterator[Ray]:
    """Ray's own processes, and three workers, which speak TLS alone, without dashboard and usage reports."""
    assert "ray" not in sys.modules, "Ray decides about TLS when it is imported"
    certificate, key = str(folder / "cluster.crt"), str(folder / "cluster.key")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_USE_TLS": "1",
            "RAY_TLS_CA_CERT": certificate,
            "RAY_TLS_SERVER_CERT": certificate,
            "RAY_TLS_SERVER_KEY": key,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns that this will be the default
        }.items():
            patch.setenv(name, value)
        import ray

        from secagg.integrations.ray import RayExecutor

        with pytest.raises(ConfigError, match="join the cluster first"):
            RayExecutor()
        write_certificate(folder, ray.util.get_node_ip_address(), "127.0.0.1")
        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200_000_000,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            _temp_dir=str(folder),
        )
        try:
            yield Ray()
        finally:
            ray.shutdown()


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    """Return when it holds; ``TimeoutError`` if that takes longer."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.02)


def die(mark: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """End the process of the worker that runs this: the first time if ``mark`` is a path, else every time."""
    try:
        if mark:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    return function(*arguments)


class OnWorkers(Executor):
    """Gives a call to a cluster and waits, so that the caller has none to do itself."""

    def __init__(self, cluster: Executor) -> None:
        self.cluster, self.tasks = cluster, 0

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.tasks += 1
        future = self.cluster.submit(function, *arguments, **named)
        future.exception(60)
        return future


class Deadly(Executor):
    """Gives calls to a cluster, of which the first ends its worker's process in the midst of it.

    With a path as ``mark`` the worker dies once, and whoever does the call next survives. Without one, every worker
    dies that is given it.
    """

    def __init__(self, cluster: Executor, mark: Path | None = None) -> None:
        self.cluster, self.mark, self.tasks = cluster, mark, 0

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        assert not named
        self.tasks += 1
        if self.tasks > 1:
            return self.cluster.submit(function, *arguments)
        future = self.cluster.submit(die, str(self.mark or ""), function, *arguments)
        # Nobody cancels the call before it has cost a worker.
        wait_for(future.done if self.mark is None else self.mark.exists, 60)
        return future

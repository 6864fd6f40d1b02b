"""docs/service.md from nothing to a round: its commands and blocks, with real processes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.service_tables import SERVICE
from tests.service.serving import free_port

pytestmark = pytest.mark.stacks
CLIENTS = ("c1", "c2", "c3", "c4")
SECONDS = 90.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SERVICE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@contextmanager
def ending(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
        for process in processes:
            assert process.wait(SECONDS) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def clients(folder: Path, code: str) -> list[subprocess.Popen[bytes]]:
    """The document's client.py, in a process for each client."""
    return [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=folder, start_new_session=True) for name in CLIENTS
    ]


def test_the_document_leads_from_nothing_to_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    port, status = str(free_port()), str(free_port())
    make_task, client, loop = (one.replace("8443", port) for one in blocks("python"))
    names: dict[str, Any] = {}
    exec(compile(make_task, SERVICE.name, "exec"), names)
    (settings,) = blocks("toml")
    addresses = settings.replace("8443", port).replace("[service]", f'[service]\nstatus = "127.0.0.1:{status}"')
    Path("service.toml").write_text(addresses)
    commands = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    assert commands[-1] == "secagg serve"
    for command in commands[:-1]:
        subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True, stdout=subprocess.DEVNULL)
    serve = subprocess.Popen([sys.executable, "-m", "secagg", "serve"], start_new_session=True)
    with ending(serve, *clients(tmp_path, client)):
        pass
    with np.load("model.trained.npz") as trained:
        expected = np.zeros(3)
        for _ in range(3):
            expected = expected + 0.01 * (expected + 1)
        assert np.allclose(trained["b"], expected, atol=1e-3)
        assert set(trained.files) == {"w", "b"}

    # The loop of one's own, over new state folders: the clients' ledgers remember the first run.
    loop = loop.replace('"state"', '"other"')
    failures: list[BaseException] = []

    def run() -> None:
        try:
            exec(compile(loop, SERVICE.name, "exec"), names)
        except BaseException as error:
            failures.append(error)

    for name in CLIENTS:
        (tmp_path / f"again-{name}").mkdir()
        (tmp_path / f"again-{name}" / f"{name}.pem").write_bytes((tmp_path / name / f"{name}.pem").read_bytes())
    server = threading.Thread(target=run)
    server.start()
    again = client.replace("state=name", 'state=f"again-{name}"')
    with ending(*clients(tmp_path, again)):
        pass
    server.join(SECONDS)
    assert not failures
    assert np.allclose(names["model"]["b"], expected, atol=1e-3)

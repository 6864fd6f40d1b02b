"""The ports of the simulator in these tests: a connection to one reaches the site's process, or nobody.

``startup/sitecustomize.py`` says what happens with those that NVFlare chooses.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.private.fed.app.simulator import simulator_runner

from tests.flare.ports import reserve
from tests.flare.processes import Processes


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sockets that are bound in a test, as a process that is forked just then inherits them."""
    descriptors: list[int] = []
    bind = socket.socket.bind

    def bind_and_fork(self: socket.socket, address: Any) -> None:
        bind(self, address)
        descriptors.append(os.dup(self.fileno()))

    monkeypatch.setattr(socket.socket, "bind", bind_and_fork)
    yield descriptors
    close(descriptors)


def close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def test_a_reserved_port_refuses_connections_until_its_process_listens(inherited: list[int]) -> None:
    (port,) = reserve(1)
    assert len(inherited) == 1
    with pytest.raises(ConnectionRefusedError):
        Client(("localhost", port))
    address = "localhost", port
    with Listener(address) as listener, Client(address) as runner, listener.accept() as site:
        runner.send("settings")
        assert site.recv() == "settings"


def test_control_a_port_of_nvflares_takes_a_connection_that_is_reset(inherited: list[int]) -> None:
    (port,) = simulator_runner.get_open_ports(1)
    with Client(("localhost", port)) as runner:
        runner.send("settings")
        close(inherited)  # the forked process starts its program
        with pytest.raises(ConnectionResetError):
            runner.recv()


def test_the_simulator_gets_its_ports_by_reserving_them(tmp_path: Path) -> None:
    modules = "app.simulator.simulator_runner", "app.deployer.simulator_deployer"
    lines = [f"from nvflare.private.fed.{name} import get_open_ports as f; print(f.__module__)" for name in modules]
    with Processes(tmp_path, {}) as processes:
        assert processes.start("ports", sys.executable, "-c", "\n".join(lines)).wait(60) == 0
        assert processes.log("ports").split() == ["tests.flare.ports"] * 2

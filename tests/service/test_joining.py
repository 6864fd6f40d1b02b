"""Tasks without identities: clients come with a token of the operator's, or anyone joins."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest

import secagg
from secagg.cli import main
from secagg.errors import ConfigError, Refused
from secagg.service import callers
from secagg.service.joining import give_tokens
from secagg.service.settings import make_service, read_settings
from tests.service.serving import free_port

CLIENTS = ("c1", "c2", "c3", "c4")
SETTINGS = """
[service]
url = "http://127.0.0.1:{port}"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:0"
[[task]]
file = "task.bin"
auth = "{auth}"
[task.schedule]
gather = 3
min_ready = 4
deadline = 30
training = 30
"""


def command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0, arguments


def prepare(folder: Path, auth: str) -> secagg.Task:
    encoding = secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest")
    layout = secagg.Layout.of({"w": np.zeros(6)})
    task = secagg.Task(secagg.SecAgg(threat_model="semi-honest"), layout, encoding, len(CLIENTS), 3)
    (folder / "task.bin").write_bytes(task.to_bytes())
    (folder / "service.toml").write_text(SETTINGS.format(port=free_port(), auth=auth))
    return task


def play(folder: Path, kits: dict[str, str]) -> secagg.Outcome:
    """One round with a client for each state folder in ``kits``."""
    failures: list[BaseException] = []

    def train(state: str, kit: str) -> None:
        try:
            with secagg.connect(kit, state=state) as remote:
                for offer in remote.offers():
                    offer.contribute({"w": np.full(6, 0.25)})
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=train, args=one, daemon=True) for one in kits.items()]
    service, _ = make_service(read_settings(folder / "service.toml"), folder)
    with service:
        for thread in threads:
            thread.start()
        outcome = service.round({"w": np.zeros(6)})
        service.finish()
    for thread in threads:
        thread.join(30)
    assert not failures
    return outcome


def test_clients_come_with_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "tokens")
    command("kit", *CLIENTS, "--out", ".")
    before = os.umask(0)
    try:
        command("token", *CLIENTS)
    finally:
        os.umask(before)
    for client in CLIENTS:
        assert os.stat(f"{client}.token").st_mode & 0o777 == 0o600
        Path(client).mkdir(mode=0o700)
        Path(f"{client}.token").rename(Path(client) / "token")
    outcome = play(tmp_path, {client: f"{client}.kit" for client in CLIENTS})
    assert outcome.survivors == CLIENTS
    assert np.allclose(outcome.mean["w"], 0.25, atol=1e-4)
    stored = (tmp_path / "state" / "service.db").read_bytes()
    assert not any((Path(client) / "token").read_bytes().strip() in stored for client in CLIENTS)


def test_anyone_joins_where_the_operator_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "open")
    command("kit")
    (kit,) = tmp_path.glob("*.kit")
    outcome = play(tmp_path, {f"state{number}": str(kit) for number in range(4)})
    assert len(outcome.survivors) == 4
    assert all(party.startswith("c") and len(party) == 17 for party in outcome.survivors)
    assert np.allclose(outcome.mean["w"], 0.25, atol=1e-4)


def test_strangers_cannot_join_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = prepare(tmp_path, "open")
    monkeypatch.setattr("secagg.service.callers._JOINED", 1)
    service, _ = make_service(read_settings(tmp_path / "service.toml"), tmp_path)
    with service:
        path = f"{service.url}/v1/tasks/{task.digest.hex()}/join"
        answers = [httpx2.post(path, trust_env=False).status_code for _ in range(len(CLIENTS) + 1)]
    assert answers == [200] * len(CLIENTS) + [503]


def test_a_replaced_token_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "tokens")
    command("kit", "c1", "--out", "c1.kit")
    command("token", "c1")
    Path("c1").mkdir(mode=0o700)
    Path("c1.token").rename(Path("c1") / "token")
    command("token", "c1")
    service, _ = make_service(read_settings(tmp_path / "service.toml"), tmp_path)
    with service, secagg.connect("c1.kit", state="c1") as remote, pytest.raises(Refused):
        next(remote.offers())


def test_a_token_that_is_replaced_beside_a_running_service_ends_within_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "tokens")
    command("kit", "c1", "--out", "c1.kit")
    command("token", "c1")
    Path("c1").mkdir(mode=0o700)
    Path("c1.token").rename(Path("c1") / "token")
    service, _ = make_service(read_settings(tmp_path / "service.toml"), tmp_path)

    def poll() -> None:
        with secagg.connect("c1.kit", state="c1", once=True) as remote:
            assert list(remote.offers()) == []

    with service:
        poll()
        command("token", "c1")
        poll()  # the service still believes what it read
        now = time.monotonic()
        monkeypatch.setattr(callers, "time", SimpleNamespace(monotonic=lambda: now + 61))
        with pytest.raises(Refused):
            poll()
        Path("c1.token").replace("c1/token")
        poll()


def test_a_token_is_not_overwritten_and_needs_a_task(tmp_path: Path) -> None:
    prepare(tmp_path, "tokens")
    (tmp_path / "c1.token").write_text("mine")
    with pytest.raises(ConfigError, match="never overwritten"):
        give_tokens(tmp_path / "service.toml", ["c1"], tmp_path)
    prepare(tmp_path, "open")
    with pytest.raises(ConfigError, match="expected one"):
        give_tokens(tmp_path / "service.toml", ["c2"], tmp_path)


def test_a_task_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    prepare(tmp_path, "tokens")
    (tmp_path / "task.bin").unlink()
    with pytest.raises(ConfigError, match=r"got no file at .*task\.bin"):
        give_tokens(tmp_path / "service.toml", ["c1"], tmp_path)

"""From ``secagg keygen`` to a sum: a real service and real clients over TLS use what the commands wrote."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

import secagg
from secagg.cli import main
from secagg.errors import ConfigError, Refused
from secagg.kit import Kit
from secagg.registrar import read_signature
from secagg.service.service import Service
from secagg.service.settings import make_service, read_settings
from tests.service.serving import free_port

CLIENTS = ("c1", "c2", "c3", "c4")
MODEL = {"w": np.zeros(6)}
SETTINGS = """
[service]
url = "https://LOCALHOST:{port}/"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:0"
certificate = "tls/server.crt"
key = "tls/server.key"
ca = "tls/ca.crt"
[[task]]
file = "task.bin"
roster = "roster.json"
signature = "roster.sig"
registrar = "registrar.pub"
[task.schedule]
gather = 30
deadline = 30
"""


def update(client: str) -> dict[str, Any]:
    return {"w": np.full(6, 0.125 * (CLIENTS.index(client) + 1))}


def secagg_command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0, arguments


@pytest.fixture
def enrolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder in which everything was made by commands."""
    monkeypatch.chdir(tmp_path)
    encoding = secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest")
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(MODEL), encoding, len(CLIENTS), 3)
    (tmp_path / "task.bin").write_bytes(task.to_bytes())
    (tmp_path / "service.toml").write_text(SETTINGS.format(port=free_port()))
    for client in CLIENTS:
        secagg_command("keygen", client, "--out", client)
    secagg_command("keygen", "--registrar", "registrar")
    secagg_command("roster", "build", *(f"{client}/{client}.enrol" for client in CLIENTS))
    secagg_command("roster", "sign", "roster.json", "--key", "registrar.pem")
    secagg_command("tls", "localhost")
    secagg_command("kit", *CLIENTS, "--out", ".")
    return tmp_path


def service(folder: Path) -> Service:
    return make_service(read_settings(folder / "service.toml"), folder)[0]


def train(client: str, failures: list[BaseException]) -> None:
    try:
        for offer in secagg.connect(f"{client}.kit", state=client).offers():
            offer.contribute(update(client))
    except BaseException as failure:
        failures.append(failure)


def play(served: Service, start: float) -> list[BaseException]:
    """Run a round over a model with all clients; what the clients raised."""
    failures: list[BaseException] = []
    threads = [threading.Thread(target=train, args=(client, failures)) for client in CLIENTS]
    with served:
        for thread in threads:
            thread.start()
        outcome = served.round({"w": np.full(6, start)})
        expected = np.mean([update(client)["w"] for client in CLIENTS], axis=0)
        assert outcome.survivors == CLIENTS
        assert np.allclose(outcome.mean["w"], expected, atol=1e-4)
        status = httpx2.get(f"{served.status_url}/v1/status").json()
        (about,) = status["tasks"]
        stated = read_signature(Path("roster.sig").read_bytes())
        assert (about["roster"]["version"], about["roster"]["digest"]) == (stated.version, stated.digest.hex())
        served.finish()
        for thread in threads:
            thread.join(60)
    return failures


def refusal(client: str) -> str:
    """Why a client refuses the service."""
    with (
        closing(secagg.connect(f"{client}.kit", state=client)) as remote,
        pytest.raises(Refused) as refused,
    ):
        next(remote.offers())
    return str(refused.value)


def test_a_round_and_a_rotated_key_and_a_server_that_goes_back(enrolled: Path) -> None:
    assert Kit.load("c1.kit").url.startswith("https://localhost:")
    assert play(service(enrolled), start=0.0) == []
    old = [shutil.copy(name, f"old-{name}") for name in ("roster.json", "roster.sig")]

    secagg_command("keygen", "c2", "--out", "new")
    secagg_command("roster", "build", "new/c2.enrol", "--extend", "roster.json", "--replace", "c2")
    secagg_command("roster", "sign", "roster.json", "--key", "registrar.pem")
    shutil.rmtree("c2")
    Path("new").rename("c2")
    shutil.rmtree("state")  # another run
    assert play(service(enrolled), start=1.0) == []

    for name, older in zip(("roster.json", "roster.sig"), old, strict=True):
        shutil.copy(older, name)
    shutil.rmtree("state")
    with service(enrolled):
        for client in CLIENTS:
            # The old roster doesn't list c2's new key, so the server does not even let it in.
            says = "unauthorized|401" if client == "c2" else "version 1 of the roster after version 2"
            assert re.search(says, refusal(client), re.IGNORECASE)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda: secagg_command("roster", "build", "--extend", "roster.json", "--remove", "c4"), "is of another"),
        (lambda: shutil.move("other/registrar.pub", "registrar.pub"), "did not sign"),
        (lambda: Path("roster.sig").write_text("{}"), "can't be read as the signature"),
        (lambda: resign(3e-7), "expired"),
    ],
)
def test_what_every_client_would_refuse_is_not_served(
    enrolled: Path, spoil: Callable[[], object], says: str
) -> None:
    secagg_command("keygen", "--registrar", "registrar", "--out", "other")
    spoil()
    with pytest.raises(ConfigError, match=says):
        service(enrolled)


def resign(days: float) -> None:
    secagg_command("roster", "sign", "roster.json", "--key", "registrar.pem", "--expires", str(days))


def test_a_signature_of_another_roster_is_refused_without_the_registrars_key_too(enrolled: Path) -> None:
    settings = enrolled / "service.toml"
    settings.write_text(settings.read_text().replace('registrar = "registrar.pub"\n', ""))
    service(enrolled)
    secagg_command("roster", "build", "--extend", "roster.json", "--remove", "c4")
    with pytest.raises(ConfigError, match="is of another"):
        service(enrolled)


def test_a_client_refuses_a_service_with_a_certificate_of_another_authority(enrolled: Path) -> None:
    shutil.rmtree("tls")
    secagg_command("tls", "localhost")
    with service(enrolled):
        assert "certificate" in refusal("c1")
    kit = json.loads(Path("c1.kit").read_text())
    assert kit["ca"] != Path("tls/ca.crt").read_text()

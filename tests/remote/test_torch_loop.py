"""The loop of docs/service_client.md, as it is printed there, with PyTorch models and a real service over TLS."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from secagg.kit import Kit
from secagg.service import Schedule, Service
from secagg.testing import parties_for
from tests.service.certificates import write_certificate

pytestmark = pytest.mark.stacks

CLIENT = Path(__file__).parents[2] / "docs" / "service_client.md"
PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
ROUNDS, STEPS = 2, 3
SECONDS = 60.0


def printed_loop() -> str:
    """The first block of the document."""
    loop = re.search(r"^```python\n(.*?)^```", CLIENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert loop is not None
    lines = [line for line in loop[1].splitlines() if line.strip()]
    assert len(lines) <= 10
    assert lines[1] == 'remote = secagg.connect("c1.kit", state="~/.secagg/c1")'
    return loop[1]


def test_the_printed_loop_trains_a_torch_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="make test-stacks installs torch")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def new_model() -> torch.nn.Module:
        torch.manual_seed(7)
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))

    def train(model: torch.nn.Module, loader: float) -> int:
        """Adds the client's constant to each parameter, in several steps; its examples are 9."""
        with torch.no_grad():
            for _ in range(STEPS):
                for parameter in model.parameters():
                    parameter += loader / STEPS
        return 9

    start = {name: value.clone() for name, value in new_model().state_dict().items()}
    encoding = secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest")
    task = secagg.Task(secagg.SecAgg(), secagg.Layout.of(start), encoding, 4, 3, max_weight=10)
    certificate, key = write_certificate(tmp_path)
    service = Service(tmp_path / "service", tls=(certificate, key))
    service.add(task, roster=PARTIES.roster, schedule=Schedule(gather=SECONDS, deadline=SECONDS, training=SECONDS))
    constants = {party: 0.125 * number for number, party in enumerate(PARTIES.cohort, 1)}
    loop = printed_loop()

    def client(party: str) -> None:
        kit = Kit(
            party=party,
            role=PARTIES.roles[party],
            url=service.url,
            task=task.digest.hex(),
            roster=PARTIES.roster.digest.hex(),
            ca=certificate.read_text(),
        )
        Path(f"{party}.kit").write_text(kit.to_json())
        folder = tmp_path / ".secagg" / party
        folder.mkdir(parents=True, mode=0o700)
        identity = PARTIES.identities[party]
        (folder / "identity.pem").write_bytes(
            identity.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        names: dict[str, Any] = {"secagg": secagg, "model": new_model(), "train": train, "loader": constants[party]}
        exec(compile(loop.replace("c1", party), CLIENT.name, "exec"), names)
        assert names["result"].in_sum is not False

    with service, ThreadPoolExecutor(len(constants)) as pool:
        clients = [pool.submit(client, party) for party in constants]
        model = start
        for _ in range(ROUNDS):
            outcome = service.round(model)
            assert len(outcome.survivors) == len(constants)
            mean = outcome.mean_like(model)
            model = {name: value + mean[name] for name, value in model.items()}
        service.finish()
        for one in clients:
            one.result(SECONDS)
    moved = ROUNDS * sum(constants.values()) / len(constants)
    for name, value in model.items():
        torch.testing.assert_close(value, start[name] + moved, atol=1e-3, rtol=0)

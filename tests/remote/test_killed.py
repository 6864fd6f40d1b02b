"""A client's process that gets SIGKILL, again and again in one session, and starts again from its folder.

``python -m tests.remote.test_killed KILLS`` kills random clients of the real service at random moments, and prints
what came of it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from secagg.remote.requests import Response
from secagg.service import Schedule, Service
from secagg.testing._parties import parties_for
from tests.remote.double import Double
from tests.remote.http import running
from tests.remote.playing import MODEL, kit_for, options_for, update_of

PARTIES = parties_for(secagg.SecAgg(), 3).enrolled()
TRAIN = """
def train(model, config):
    return {"w": model["w"] * 0 + config["update"]}, 9
"""


class Deaths:
    """Kills the program when the service gets some of its requests, before or after the request counts there."""

    def __init__(self, double: Double) -> None:
        self.honest, self.lock = double.answer, double.lock
        double.answer = self.answer  # type: ignore[method-assign]
        self.match = double._match
        self.program: subprocess.Popen[bytes] | None = None
        self.left = {("accept", 0): "before", ("accept", 1): "after"}
        self.left |= {("upload", number): ("before", "after")[number % 2] for number in range(6)}
        self.seen: Counter[str] = Counter()

    def answer(self, method: str, target: str, headers: Any, body: bytes, noted: bool = False) -> Response:
        with self.lock:
            route, values = self.match(method, target.partition("?")[0])
            when = None
            if values.get("party") == "c1" and not noted:
                when = self.left.pop((route, self.seen[route]), None)
                self.seen[route] += 1
            response = Response(503, {}) if when == "before" else self.honest(method, target, headers, body, noted)
            if when is not None and self.program is not None:
                self.program.kill()
                self.program.wait()
            return response


def test_a_program_that_is_killed_at_each_of_its_messages_is_in_the_sum(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    session = double.offer(MODEL, config={"update": 0.25})
    deaths = Deaths(double)
    (tmp_path / "training.py").write_text(TRAIN)
    folder = tmp_path / "c1"
    folder.mkdir(mode=0o700)
    pem = PARTIES.identities["c1"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "identity.pem").write_bytes(pem)

    def thread(url: str, party: str) -> None:
        with secagg.connect(
            kit_for(PARTIES, party, url), tmp_path / party, **options_for(PARTIES, party)
        ) as remote:
            for offer in remote.offers():
                offer.contribute(update_of(PARTIES, party), 9)

    with running(double) as url, ThreadPoolExecutor(2) as pool:
        (tmp_path / "c1.kit").write_text(kit_for(PARTIES, "c1", url).to_json())
        futures = [pool.submit(thread, url, party) for party in ("c2", "c3")]
        command = [sys.executable, "-m", "secagg", "client", "--kit", "c1.kit", "--state", "c1"]
        starts = 0
        while starts == 0 or deaths.program is None or deaths.program.returncode == -signal.SIGKILL:
            assert starts < 20
            starts += 1
            with deaths.lock:
                deaths.program = subprocess.Popen([*command, "--train", "training:train", "--once"], cwd=tmp_path)
            deaths.program.wait(60)
        double.end()
        for future in futures:
            future.result(60)
    assert deaths.program.returncode == 0
    assert not deaths.left
    assert starts == 9
    updates = [np.full(5, 0.25), *(update_of(PARTIES, party)["w"] for party in ("c2", "c3"))]
    np.testing.assert_allclose(session.outcome.mean["w"], np.mean(updates, axis=0), atol=1e-3)
    assert session.outcome.survivors == PARTIES.cohort
    assert not session.server.faults
    assert all(len(set(digests)) == 1 for digests in double.uploads.values())
    assert not list((folder / "sessions").iterdir())


def write_party(folder: Path, party: str, url: str) -> list[str]:
    """The folder and the kit of a client; returns the command that runs it."""
    (folder / party).mkdir(mode=0o700)
    pem = PARTIES.identities[party].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / party / "identity.pem").write_bytes(pem)
    (folder / f"{party}.kit").write_text(kit_for(PARTIES, party, url).to_json())
    command = [sys.executable, "-m", "secagg", "client", "--kit", f"{party}.kit", "--state", party]
    return [*command, "--train", "training:train"]


def main(kills: int) -> None:
    """Rounds of the real service, with all clients as programs, until so many were killed."""
    rng, deaths, rounds, faults = random.Random(1), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "training.py").write_text(TRAIN)
        service = Service(folder / "server")
        service.add(PARTIES.task, roster=PARTIES.roster, schedule=Schedule(deadline=120, gather=120))
        with service, ThreadPoolExecutor(1) as pool:
            commands = {party: write_party(folder, party, service.url) for party in PARTIES.cohort}
            environment = os.environ | {"PYTHONPATH": str(Path.cwd())}

            def start(party: str) -> subprocess.Popen[bytes]:
                log = (folder / f"{party}.log").open("ab")
                return subprocess.Popen(commands[party], cwd=folder, env=environment, stderr=log, stdout=log)

            programs = {party: start(party) for party in PARTIES.cohort}
            try:
                while deaths < kills:
                    model = {"w": MODEL["w"] + rounds}
                    future = pool.submit(service.round, model, config={"update": rounds % 32 / 64})
                    while not future.done():
                        sleep(rng.uniform(0.1, 1.5))
                        party = rng.choice(PARTIES.cohort)
                        if deaths < kills and not future.done():
                            programs[party].kill()
                            assert programs[party].wait() == -signal.SIGKILL
                            programs[party], deaths = start(party), deaths + 1
                    outcome, rounds = future.result(), rounds + 1
                    faults += len(outcome.faults)
                    np.testing.assert_allclose(outcome.mean["w"], (rounds - 1) % 32 / 64, atol=1e-3)
                    assert outcome.survivors == PARTIES.cohort
                service.finish()
                codes = [program.wait(60) for program in programs.values()]
            finally:
                for program in programs.values():
                    program.kill()
        left = [str(path) for path in folder.glob("c*/sessions/*")]
    print(f"{deaths} kills in {rounds} rounds: all exact, {faults} faults, exit codes {codes}, states left {left}")


if __name__ == "__main__":
    main(int(sys.argv[1]))

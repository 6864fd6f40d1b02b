"""Aggregators behind real HTTP, as a program and in this process, with clients that a command line trains."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import secagg
from mpc.hpke import Kem
from secagg.remote import RemoteMember
from secagg.testing._parties import parties_for
from tests.remote.double import Double
from tests.remote.http import running
from tests.remote.playing import MODEL, kit_for, options_for, update_of

PARTIES = parties_for(secagg.AdditiveShares(), 3).enrolled()
TRAIN = """
def train(model, config):
    return {"w": model["w"] * 0 + config["update"]}, 9
"""


def write_folder(party: str, folder: Path, url: str) -> list[str]:
    """What a party has on its disk; returns the options that name it."""
    folder.mkdir(mode=0o700)
    pem = PARTIES.identities[party].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{party}.pem").write_bytes(pem)
    if PARTIES.long_lived.get(party):
        key = base64.b64encode(PARTIES.long_lived[party]).decode()
        document = {"version": 1, "kem": str(Kem.MLKEM768_X25519), "key": key}
        (folder / f"{party}.sealing.json").write_text(json.dumps(document))
    kit = folder.parent / f"{party}.kit"
    kit.write_text(kit_for(PARTIES, party, url).to_json())
    return ["--kit", str(kit), "--state", str(folder)]


def test_programs_and_threads_play_a_session_with_two_aggregators(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    session = double.offer(MODEL, config={"update": 0.25})
    (tmp_path / "training.py").write_text(TRAIN)
    member, others = "aggregator-1", ["aggregator-2"]
    with running(double) as url, ThreadPoolExecutor(3) as pool:
        command = [sys.executable, "-m", "secagg", "member", *write_folder(member, tmp_path / member, url)]
        program = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        hosted = [RemoteMember(kit_for(PARTIES, p, url), tmp_path / p, **options_for(PARTIES, p)) for p in others]
        threads = [threading.Thread(target=one.run) for one in hosted]
        for thread in threads:
            thread.start()
        trained = subprocess.Popen(
            [
                *(sys.executable, "-m", "secagg", "client", *write_folder("c1", tmp_path / "c1", url)),
                *("--train", "training:train", "--once"),
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

        def client(party: str) -> None:
            kit = kit_for(PARTIES, party, url)
            with secagg.connect(kit, tmp_path / party, **options_for(PARTIES, party)) as remote:
                for offer in remote.offers():
                    offer.contribute(update_of(PARTIES, party), 9)

        futures = [pool.submit(client, party) for party in ("c2", "c3")]
        out, _ = trained.communicate(timeout=60)
        double.end()
        for future in futures:
            future.result(60)
        for thread in threads:
            thread.join(30)
        _, told = program.communicate(timeout=60)
        for one in hosted:
            one.close()
    assert trained.returncode == 0
    assert "round 1: " in out
    assert program.returncode == 0, told
    assert "ended" in told
    updates = [np.full(5, 0.25, np.float32), *(update_of(PARTIES, party)["w"] for party in ("c2", "c3"))]
    np.testing.assert_allclose(session.outcome.mean["w"], np.mean(updates, axis=0), atol=1e-3)
    assert not session.server.faults
    assert not list(tmp_path.glob("*/sessions/*"))

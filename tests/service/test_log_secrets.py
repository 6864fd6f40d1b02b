"""What a real service logs and answers holds no key, share, update or token: nothing that looks random but ids."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

import secagg
from secagg.api import routes, tokens
from secagg.service import Schedule, Service
from secagg.testing import parties_for
from tests.remote.playing import MODEL, kit_for, options_for
from tests.service.logged import logged

SECONDS = 60.0
PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
TASK = PARTIES.task
TOKEN = "c2VjcmV0" * 6


def random_looking(text: str) -> set[str]:
    """Runs of 24 or more hexadecimal digits or base64 characters, with a digit in them, and escaped bytes."""
    runs = re.findall(r"[A-Za-z0-9+/_=-]{24,}|(?:\\+x[0-9a-f]{2}){4,}", text)
    return {run for run in runs if re.search(r"\d", run) and not re.fullmatch(r"[a-z0-9]+(?:[_-][a-z0-9]+)+", run)}


def train(url: str, party: str, folder: Path, seed: int) -> None:
    with secagg.connect(kit_for(PARTIES, party, url), folder, **options_for(PARTIES, party)) as remote:
        for offer in remote.offers():
            offer.model(like=MODEL)
            update = np.random.default_rng(seed).uniform(-1, 1, 5).astype(np.float32)
            offer.contribute({"w": update}, weight=9)
            return


def attack(url: str) -> str:
    """Requests that are refused, each for another reason; returns the answers."""
    party, task = PARTIES.cohort[0], TASK.digest.hex()
    valid = tokens.sign_token(party, PARTIES.identities[party], url, TASK.digest, 4e9)
    poll = url + routes.BY_NAME["next"].url(task=task, party=party)
    upload = url + routes.BY_NAME["upload"].url(task=task, party=party, session="0" * 64, digest="1" * 64)
    with httpx2.Client(trust_env=False) as client:
        answers = [
            client.get(poll, params={"token": TOKEN}),
            client.get(poll, headers={"authorization": f"Bearer {TOKEN}"}),
            client.get(poll, headers={"authorization": f"Bearer {valid}"}),
            client.get(poll, headers={"authorization": f"Bearer {valid[:-4]}AAAA"}),
            client.put(upload, content=b"\x00" * 100, headers={"authorization": f"Bearer {valid}"}),
            client.get(url + f"/v1/{TOKEN}"),
        ]
    assert all(answer.status_code >= 400 for answer in answers)
    return "\n".join(answer.text for answer in answers)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a service logs at its most talkative over a round and attacks; and its answers to the attacks."""
    folder = tmp_path_factory.mktemp("logs")
    service = Service(folder / "service")
    schedule = Schedule(gather=SECONDS, deadline=SECONDS, training=SECONDS)
    service.add(TASK, roster=PARTIES.roster, schedule=schedule)
    with logged(logging.DEBUG) as stream, service, ThreadPoolExecutor(5) as pool:
        outcome = pool.submit(service.round, MODEL)
        answers = attack(service.url)
        clients = [
            pool.submit(train, service.url, party, folder / party, seed)
            for seed, party in enumerate(PARTIES.cohort)
        ]
        for client in clients:
            client.result(SECONDS)
        outcome.result(SECONDS)
    return stream.getvalue(), answers


def test_nothing_in_the_log_looks_random_but_public_ids(written: tuple[str, str]) -> None:
    log, _ = written
    assert '"round": "MaskedInput"' in log
    assert random_looking(log) <= {TASK.digest.hex(), PARTIES.roster.digest.hex() if PARTIES.roster else ""}


def test_answers_to_attacks_hold_nothing_that_was_sent(written: tuple[str, str]) -> None:
    _, answers = written
    assert TOKEN not in answers
    assert not random_looking(answers)


def test_control_a_key_a_token_and_bytes_are_noticed() -> None:
    key = PARTIES.identities[PARTIES.cohort[0]].private_bytes_raw()
    for secret in (key.hex(), TOKEN + "1", repr(b"\x01\x02\x80\x81" + key)):
        assert random_looking(f'{{"event": "made {secret}"}}')
    assert not random_looking('{"event": "session 0123456789ab ShareKeys: 4 of 4 answered"}')

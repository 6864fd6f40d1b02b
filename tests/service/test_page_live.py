"""The status page over a real service: a round of four clients is seen to move in Chromium."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

import secagg
from secagg.service import Schedule, Service
from secagg.service.terminal import fetch
from secagg.testing import parties_for
from tests.remote.playing import MODEL, kit_for, options_for, update_of
from tests.service.browser import alerts, opened, shows
from tests.service.pages import ATTACK

pytestmark = pytest.mark.stacks

SECONDS = 60.0
PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
TASK = PARTIES.make_task(context=ATTACK.encode())


def train(url: str, party: str, folder: Path, may_contribute: threading.Event) -> None:
    """One client, which sends its update when it may."""
    kit = replace(kit_for(PARTIES, party, url), task=TASK.digest.hex())
    with secagg.connect(kit, folder, **options_for(PARTIES, party)) as remote:
        for offer in remote.offers():
            offer.model(like=MODEL)
            assert may_contribute.wait(SECONDS)
            offer.contribute(update_of(PARTIES, party), weight=9)
            return


@contextmanager
def round_of_four(folder: Path) -> Iterator[tuple[Service, Future[secagg.Outcome], list[threading.Event]]]:
    """A service in a round: its clients have exchanged keys, and each waits for its event."""
    service = Service(folder / "service")
    schedule = Schedule(gather=SECONDS, deadline=SECONDS, training=SECONDS)
    service.add(TASK, roster=PARTIES.roster, schedule=schedule)
    gates = [threading.Event() for _ in PARTIES.cohort]
    with service, ThreadPoolExecutor(len(gates) + 1) as pool:
        outcome = pool.submit(service.round, MODEL)
        clients = [
            pool.submit(train, service.url, party, folder / party, gate)
            for party, gate in zip(PARTIES.cohort, gates, strict=True)
        ]
        yield service, outcome, gates
        for client in clients:
            client.result(SECONDS)


def test_a_real_round_is_seen_to_move(browser: Any, tmp_path: Path) -> None:
    with round_of_four(tmp_path) as (service, outcome, gates):
        assert service.status_url is not None
        opened(browser, service.status_url)
        shows(browser, "Session 1 is in MaskedInput: 0 of 4 have answered")
        for sent, gate in enumerate(gates, 1):
            if sent < len(gates):
                shows(browser, f"{sent - 1} of 4", "tr.open")
                gate.set()
                shows(browser, f"{sent} of 4", "tr.open")
        shows(browser, PARTIES.cohort[-1], ".ids")
        gates[-1].set()
        shows(browser, "No session is open. Session 1 is done.", ".headline")
        shows(browser, "4 of 4", ".past")
        shows(browser, ATTACK, "h2")
        assert not alerts(browser)
        assert browser.get_log("browser") == []
        assert len(outcome.result(SECONDS).survivors) == 4
        metrics = httpx2.get(service.status_url + "/metrics", trust_env=False).text.splitlines()
        assert 'secagg_messages_total{result="accepted",round="MaskedInput"} 4.0' in metrics
        assert 'secagg_sessions_total{result="done"} 1.0' in metrics
        assert b'"result":"done"' in fetch(service.status_url)

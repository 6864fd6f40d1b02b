"""What operators see must outlive the process: sessions, their counts, and the ε that was spent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx2
import numpy as np
import pytest

import dp
import secagg
from secagg.identity import Roster
from secagg.service import Schedule, Service
from secagg.service.spending import Spending
from secagg.service.status import Status, decode
from secagg.service.terminal import fetch
from secagg.testing import parties_for
from tests.remote.playing import MODEL, kit_for, options_for

SECONDS = 60.0
PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
NOISY = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.1, bits=18)
TASK = PARTIES.make_task(encoding=NOISY, max_weight=None)


def service_in(folder: Path, roster: Roster | None = PARTIES.roster) -> Service:
    service = Service(folder)
    service.add(TASK, roster=roster, schedule=Schedule(gather=SECONDS, deadline=SECONDS, training=SECONDS))
    return service


def train(url: str, party: str, folder: Path) -> None:
    kit = replace(kit_for(PARTIES, party, url), task=TASK.digest.hex())
    with secagg.connect(kit, folder, **options_for(PARTIES, party)) as remote:
        for offer in remote.offers():
            offer.model(like=MODEL)
            offer.contribute({"w": np.zeros(5, np.float32)})
            return


def document(service: Service) -> Status:
    assert service.status_url is not None
    return decode(fetch(service.status_url))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Status]:
    """The folder of a service that ran one round, and the last document of that process."""
    folder = tmp_path_factory.mktemp("past")
    service = service_in(folder / "service")
    with service, ThreadPoolExecutor(5) as pool:
        outcome = pool.submit(service.round, MODEL)
        clients = [pool.submit(train, service.url, party, folder / party) for party in PARTIES.cohort]
        for client in clients:
            client.result(SECONDS)
        assert len(outcome.result(SECONDS).survivors) == 4
        return folder / "service", document(service)


def test_a_service_that_is_started_again_shows_what_was_spent_and_who_was_there(
    played: tuple[Path, Status],
) -> None:
    folder, before = played
    with service_in(folder) as service:
        after = document(service)
    (about,), (was,) = after.tasks, before.tasks
    assert (about.number, about.done, about.failed) == (was.number, was.done, was.failed) == (1, 1, 0)
    assert about.privacy == was.privacy
    assert about.privacy is not None
    assert about.privacy.releases == 1
    assert about.privacy.spent == about.privacy.guaranteed == pytest.approx(TASK.encoder.epsilon(5), rel=1e-9)
    assert about.privacy.realised is not None
    assert {one.party for one in after.parties} == {one.party for one in before.parties} == set(PARTIES.cohort)
    (past,), (first,) = after.history, before.history
    assert (past.session, past.number, past.result, past.survivors) == (first.session, 1, "done", 4)
    assert abs((past.ended - first.ended).total_seconds()) < 5


def test_the_metrics_have_what_the_run_has_spent(played: tuple[Path, Status]) -> None:
    folder, before = played
    privacy = before.tasks[0].privacy
    assert privacy is not None
    with service_in(folder) as service:
        assert service.status_url is not None
        document(service)
        lines = httpx2.get(service.status_url + "/metrics", trust_env=False).text.splitlines()
    assert f'secagg_epsilon_spent{{task="{TASK.digest.hex()[:12]}"}} {privacy.spent!r}' in lines


def test_a_party_that_left_the_roster_is_not_shown(played: tuple[Path, Status]) -> None:
    folder, _ = played
    assert PARTIES.roster is not None
    fewer = Roster(party for party in PARTIES.roster.values() if party.id != PARTIES.cohort[0])
    with service_in(folder, roster=fewer) as service:
        after = document(service)
    assert {one.party for one in after.parties} == set(PARTIES.cohort[1:])
    assert len(after.history) == 1


def test_epsilon_grows_with_the_sessions_and_is_none_without_noise() -> None:
    spending = Spending(TASK)
    series = [spending.after(sessions) for sessions in (0, 1, 2, 10)]
    assert series[0] == 0.0
    assert all(left is not None and right is not None and left < right for left, right in pairwise(series))
    assert spending.status(10, None).spent == series[3]  # type: ignore[union-attr]
    assert Spending(PARTIES.task).status(10, None) is None

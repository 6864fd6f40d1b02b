"""The blocking client over real HTTP: the loop of the README, restarts, and what its options do."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.remote import Contribution
from secagg.testing._parties import parties_for
from tests.remote.double import Double
from tests.remote.http import running
from tests.remote.playing import MODEL, expected_mean, kit_for, options_for, update_of
from tests.service.certificates import write_certificate

PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()


def connected(url: str, party: str, folder: Path, **options: Any) -> secagg.remote.Remote:
    return secagg.connect(kit_for(PARTIES, party, url), folder, **options_for(PARTIES, party, **options))


def loop(url: str, party: str, folder: Path, double: Double, most: int) -> list[Contribution]:
    """A training loop: each update is a constant, whatever the model."""
    results = []
    with connected(url, party, folder) as remote:
        for offer in remote.offers():
            model = offer.model(like=MODEL)
            model["w"] += update_of(PARTIES, party)["w"]
            update = {name: value - offer.start[name] for name, value in model.items()}
            np.testing.assert_array_equal(offer.start["w"], MODEL["w"])
            results.append(offer.contribute(update, weight=9))
            if len(results) == most:
                break
    return results


def test_the_loop_of_the_readme_takes_part_in_two_rounds(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, list(PARTIES.cohort))
    first = double.offer(MODEL, config={"epochs": 2})

    def next_round() -> None:
        if double.sessions[-1] is first and first.outcome is not None:
            double.offer(MODEL, number=2)

    double.after_upload = next_round
    with running(double) as url, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(loop, url, p, tmp_path / p, double, 2) for p in PARTIES.cohort]
        results = [future.result(60) for future in futures]
    for session in double.sessions:
        np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)
        assert not session.server.faults
    assert all(result.in_sum is not False and not result.reason for row in results for result in row)
    assert all(result.bytes_up > 500 and result.seconds >= 0 for row in results for result in row)


def test_clients_of_asyncio_take_part_as_well(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    session = double.offer(MODEL)

    async def client(url: str, party: str) -> Contribution:
        kit, options = kit_for(PARTIES, party, url), options_for(PARTIES, party)
        async with secagg.aconnect(kit, tmp_path / party, **options) as remote:
            async for offer in remote.offers():
                model = await offer.model(like=MODEL)
                model["w"] += update_of(PARTIES, party)["w"]
                start = await offer.start()
                return await offer.contribute({"w": model["w"] - start["w"]}, weight=9)
        raise AssertionError("no offer came")

    async def everyone(url: str) -> list[Contribution]:
        return await asyncio.gather(*(client(url, party) for party in PARTIES.cohort))

    with running(double) as url:
        results = asyncio.run(everyone(url))
    np.testing.assert_allclose(session.outcome.mean["w"], expected_mean(PARTIES), atol=1e-6)
    assert all(result.in_sum is not False and not result.reason for result in results)


def test_the_kit_says_whom_to_trust_and_a_certificate_that_is_not_trusted_is_final(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = write_certificate(tmp_path / "other")
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    double.end()

    def names(ca: Path | None) -> list[str]:
        kit = kit_for(PARTIES, "c1", url, ca=None if ca is None else ca.read_text())
        with secagg.connect(kit, tmp_path / "c1", **options_for(PARTIES, "c1")) as remote:
            assert list(remote.offers()) == []
        return [route for _, route, _ in double.requests]

    with running(double, ssl_certfile=str(certificate), ssl_keyfile=str(key)) as url:
        for untrusted in (other, None):
            with pytest.raises(secagg.Refused, match="the service's certificate is not trusted"):
                names(untrusted)
        assert double.requests == []
        assert names(certificate) == ["task", "roster", "next"]


def test_connections_are_closed_when_the_thread_ends_as_the_client_closes(tmp_path: Path) -> None:
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    double.end()
    ended, may_exit, hung_up = threading.Event(), threading.Event(), threading.Event()
    with running(double) as url:
        remote = connected(url, "c1", tmp_path)
        run, hang_up = remote._run, remote._driver.hang_up

        def lingering() -> None:
            run()
            ended.set()
            may_exit.wait(30)

        def noted() -> None:
            hang_up()
            hung_up.set()

        remote._run, remote._driver.hang_up = lingering, noted  # type: ignore[method-assign]
        remote._start()
        assert ended.wait(30)
        remote.close()
        assert hung_up.is_set()
        may_exit.set()

"""Real clients and the real service, over a link that drops 30 % of the connections, and is cut in each round.

``python -m tests.remote.test_bad_link`` cuts it for a minute in each round, and prints what came of it.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg.kit import Kit
from secagg.remote import Event
from secagg.service import Schedule, Service
from secagg.testing._parties import parties_for
from tests.remote.link import Link
from tests.remote.playing import options_for

PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
SIZE = 5000
TASK = PARTIES.make_task(layout=secagg.Layout.of({"w": np.zeros(SIZE, np.float32)}))
MODEL = {"w": np.arange(SIZE, dtype=np.float32) / 7}


def update_of(party: str) -> Any:
    return {"w": np.full(SIZE, (PARTIES.cohort.index(party) + 1) / 8, np.float32)}


def played(folder: Path, cut: float, *, rate: float = 50_000.0) -> tuple[secagg.Outcome, Link, int]:
    """A session over a bad link that is cut for ``cut`` seconds when the first client has answered in a round.

    Returns the outcome, the link, and the number of requests that were sent again.
    """
    assert PARTIES.roster is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    link = Link(port, dropped=0.3, most=12_000, rate=rate)
    seen, again, lock = set[int](), list[str](), threading.Lock()

    def told(event: Event) -> None:
        with lock:
            if event.what == "retry":
                again.append(event.details["reason"])
            if event.what == "sent" and event.details["round"] not in seen:
                seen.add(event.details["round"])
                link.cut(cut)

    def client(party: str, url: str) -> None:
        kit = Kit(party=party, url=url, task=TASK.digest.hex(), roster=PARTIES.roster.digest.hex())
        options = options_for(PARTIES, party, on_event=told)
        with secagg.connect(kit, folder / party, **options) as remote:
            for offer in remote.offers():
                model = offer.model(like=MODEL)
                model["w"] += update_of(party)["w"]
                offer.contribute({"w": model["w"] - offer.start["w"]}, weight=9)

    with link.open() as near, ThreadPoolExecutor(len(PARTIES.cohort)) as pool:
        url = f"http://127.0.0.1:{near}"
        service = Service(folder / "server", url=url, listen=("127.0.0.1", port))
        schedule = Schedule(deadline=60 + 2 * cut, gather=60 + cut)
        service.add(TASK, roster=PARTIES.roster, schedule=schedule)
        with service:
            futures = [pool.submit(client, party, url) for party in PARTIES.cohort]
            outcome = service.round(MODEL)
            service.finish()
            for future in futures:
                future.result(120 + 2 * cut)
    assert len(seen) == 5  # the rounds of SecAgg
    return outcome, link, len(again)


def check(outcome: secagg.Outcome) -> None:
    expected = np.mean([update_of(party)["w"] for party in PARTIES.cohort], axis=0)
    np.testing.assert_allclose(outcome.mean["w"], expected, atol=2e-3)
    assert outcome.survivors == PARTIES.cohort
    assert not outcome.faults


def test_a_session_ends_over_a_link_that_drops_connections_and_is_cut_in_each_round(tmp_path: Path) -> None:
    outcome, link, again = played(tmp_path, cut=0.5)
    check(outcome)
    assert link.cuts == 5
    assert link.broken
    assert again >= 5


def main() -> None:
    """Print the figures for cuts of a minute."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        outcome, link, again = played(Path(folder), cut=60.0)
        check(outcome)
        print(
            f"{len(outcome.survivors)} of {len(PARTIES.cohort)} clients in the sum after {link.cuts} cuts of 60 s; "
            f"{link.connections} connections, {link.broken} of them dropped while they carried something; "
            f"{again} requests were sent again; {time.monotonic() - began:.0f} s in all"
        )


if __name__ == "__main__":
    main()

"""The server's process dies at each of its writes, and at any moment; every session ends with the exact sum."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import secagg
from tests.service.killed import POINTS, serve
from tests.service.plain import Enrolled, Party, make_task, update_of
from tests.service.serving import free_port

pytestmark = pytest.mark.stacks
SECONDS = 60.0
CLIENTS = 5
# Forked, a process begins with what takes a second to load: eighty of them are started.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.secagg.warm"])


class Host:
    """The server's process, again and again in one folder and at one port, until it has ended a round."""

    def __init__(self, folder: Path, enrolled: Enrolled) -> None:
        (folder / "task.bin").write_bytes(enrolled.task.to_bytes())
        assert enrolled.roster is not None
        (folder / "roster.json").write_text(enrolled.roster.to_json())
        self.port, self.folder, self.deaths = free_port(), folder, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def one(self, point: str, kill_after: float | None = None) -> dict[str, Any] | None:
        """Run one process until it dies, is killed or has ended the round; returns the outcome that it reported."""
        here, there = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=serve, args=(self.folder, self.port, point, there))
        process.start()
        there.close()  # so that the process's end is the end of what it says
        reports: list[Any] = []
        try:
            with here, contextlib.suppress(EOFError):
                while True:
                    assert here.poll(SECONDS), f"a process with the point {point} says nothing for {SECONDS} s"
                    reports.append(here.recv())
                    if reports == ["ready"] and kill_after is not None:
                        time.sleep(kill_after)
                        process.kill()
            process.join(SECONDS)
        finally:
            process.kill()
            process.join()
        died = process.exitcode == -signal.SIGKILL
        self.deaths += died
        if len(reports) == 2:
            outcome: dict[str, Any] = reports[1]
            return outcome
        assert died, (point, process.exitcode)
        return None

    def run(self, points: list[str]) -> dict[str, Any]:
        """Let processes die at one point after the other until the round has ended; what is left stays."""
        while points:
            outcome = self.one(points[0])
            if outcome is not None and self.deaths:
                return outcome
            assert outcome is None, f"a round never comes to the point {points[0]}"
            del points[0]
        outcome = self.one("none")
        assert outcome is not None
        return outcome

    def run_killed_at_random(self, kills: int, seconds: float, seed: int) -> dict[str, Any]:
        """Kill processes ``kills`` times, each up to ``seconds`` after it is ready; then let one end the round."""
        draw = random.Random(seed)
        for _ in range(kills):
            outcome = self.one("none", draw.uniform(0, seconds))
            if outcome is not None:
                return outcome
        outcome = self.one("none")
        assert outcome is not None
        return outcome


def play(host: Host, enrolled: Enrolled, run: Any) -> dict[str, Any]:
    """Play a round with all parties in threads, while ``run`` starts and kills the server; check what they sent."""
    updates = {party: update_of(number) for number, party in enumerate(enrolled.clients)}
    parties = [
        Party(enrolled, party, host.url, lambda offer, model, party=party: (updates[party],))
        for party in enrolled.roles
    ]
    errors: list[BaseException] = []

    def take_part(party: Party) -> None:
        try:
            party.run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take_part, args=(party,), daemon=True) for party in parties]
    for thread in threads:
        thread.start()
    try:
        outcome: dict[str, Any] = run()
    except BaseException as error:
        raise ExceptionGroup(
            "parties", [e for e in errors if isinstance(e, Exception)] or [RuntimeError("none")]
        ) from error
    for thread in threads:
        thread.join(20)
    assert not errors
    check(parties)
    expected = secagg.simulate(enrolled.task, updates)
    assert outcome["sum"] == enrolled.task.layout.flatten(expected.sum, dtype="float64").tolist()
    assert outcome["survivors"] == list(expected.survivors) == enrolled.clients
    assert outcome["faults"] == []
    return outcome


def check(parties: list[Party]) -> None:
    """No party said two things in a round, and none was asked again for what got a 200."""
    for party in parties:
        said = defaultdict(list)
        for session, number, digest, status in party.uploads:
            said[session, number].append((digest, status))
        for messages in said.values():
            assert len({digest for digest, _ in messages}) == 1
            assert [status for _, status in messages].count(200) == 1, messages
            assert messages[-1][1] == 200


def enrolled_for(name: str) -> Enrolled:
    protocol: Any = secagg.SecAgg() if name == "SecAgg" else secagg.AdditiveShares()
    return Enrolled(make_task(protocol, clients=CLIENTS, floor=CLIENTS - 1), CLIENTS)


#: In the order of a round. A process dies at the first such call after its start, so the round moves on.
ON_THE_WAY = (
    "model",
    "session begun",
    "save",
    "move",
    "handed on",
    "publish",
    "spool write",
    "fdatasync",
    "answers",
)
AT_THE_CLOSE = ("relays", "save", "move", "handed on", "spool delete", "publish")
AT_THE_END = ("session finished", "round finished")


def both(names: Iterable[str]) -> list[str]:
    return [f"{when} {name}" for name in names for when in ("before", "after")]


@pytest.mark.parametrize("name", ["SecAgg", "AdditiveShares"])
def test_a_death_at_each_write(name: str, tmp_path: Path) -> None:
    enrolled = enrolled_for(name)
    points = [*both((*ON_THE_WAY, *AT_THE_CLOSE, *AT_THE_END)), "before end", "after end"]
    assert set(points) == set(POINTS)
    deaths, wanted = 0, len(points)
    while points:  # in one round, or in more if it ends before the last of them
        folder = tmp_path / str(len(points))
        folder.mkdir()
        host = Host(folder, enrolled)
        play(host, enrolled, lambda host=host: host.run(points))
        deaths += host.deaths
        assert not list((folder / "state" / "spools").iterdir())
        assert not list((folder / "state" / "states").iterdir())
    assert deaths == wanted


@pytest.mark.parametrize("name", ["SecAgg", "AdditiveShares"])
def test_deaths_at_random_moments(name: str, tmp_path: Path) -> None:
    sessions = int(os.environ.get("SECAGG_KILLED_SESSIONS", "1"))
    deaths = 0
    for number in range(sessions):
        folder = tmp_path / str(number)
        folder.mkdir()
        host = Host(folder, enrolled := enrolled_for(name))
        play(host, enrolled, lambda host=host, number=number: host.run_killed_at_random(5, 0.4, number))
        deaths += host.deaths
    print(f"{name}: {sessions} sessions, {deaths} deaths, all sums exact")
    assert deaths
